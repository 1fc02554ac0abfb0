//! More jobs than a message takes are listed in parts, and none is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use swarm_protocol::message::FRAME_BYTES_MAX;
use swarm_protocol::{
    Answer, Event, Hash, JobOptions, JobSpec, JobSummary, NodeId, Notice, Query, SignedJob, StageSpec, codec,
};

use crate::few::{Few, id, key};

const SECOND: Duration = Duration::from_secs(1);
/// With labels of 8 KiB each these are some 800 KiB.
const JOBS: u64 = 100;

fn job(nonce: u64) -> SignedJob {
    let labels: BTreeMap<String, String> = (0..64).map(|it| (format!("label-{it}"), "x".repeat(120))).collect();
    let spec = JobSpec {
        version: 2,
        name: "job".into(),
        description: String::new(),
        options: JobOptions { labels, ..JobOptions::default() },
        submitter: id(0),
        // Several of one moment.
        submitted_unix_ms: nonce / 7,
        nonce,
        source: None,
        blobs: Hash::of(b"list"),
        failures_max: 0,
        stages: vec![StageSpec::plain("only", Hash::of(b"wasm"))],
    };
    SignedJob::sign(&spec, &key(0)).unwrap()
}

fn ask(few: &mut Few, node: NodeId, after: Option<(u64, swarm_protocol::JobId)>) -> (Vec<JobSummary>, bool) {
    few.tell(node, Event::Ask { token: 77, query: Query::Jobs { after } });
    few.pass(2 * SECOND);
    let notices = &mut few.cores.get_mut(&node).unwrap().notices;
    let answered = |notice: &Notice| matches!(notice, Notice::Answered { token: 77, .. });
    let at = notices.iter().position(answered).expect("it is answered");
    match notices.remove(at) {
        Notice::Answered { answer: Answer::Jobs { jobs, more }, .. } => (jobs, more),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_job_is_listed_once_and_in_order_however_many_there_are() {
    let mut few = Few::new(6);
    let jobs: Vec<SignedJob> = (0..JOBS).map(job).collect();
    let wanted: BTreeSet<_> = jobs.iter().map(SignedJob::id).collect();
    for (token, job) in (1..).zip(jobs) {
        few.tell(id(0), Event::Submit { token, job });
    }
    few.pass(5 * SECOND);

    for node in [id(0), id(5)] {
        let (mut listed, mut parts) = (Vec::<JobSummary>::new(), 0);
        loop {
            let after = listed.last().map(|job| (job.submitted_unix_ms, job.job));
            let (jobs, more) = ask(&mut few, node, after);
            assert!(codec::encode(&jobs).len() <= FRAME_BYTES_MAX, "a part is a message");
            listed.extend(jobs);
            parts += 1;
            if !more {
                break;
            }
        }
        assert!(parts > 1, "{parts}");
        assert!(listed.is_sorted_by_key(JobSummary::order), "the newest first");
        assert_eq!(listed.len() as u64, JOBS);
        assert_eq!(listed.iter().map(|job| job.job).collect::<BTreeSet<_>>(), wanted);
    }
}
