//! Jobs leave when their time is over: everywhere, for good, and with all that was remembered of them.

use std::time::Duration;

use crate::few::{Few, id, key};
use swarm_protocol::{
    Answer, Content, Elements, Ending, Event, Hash, JobId, JobOptions, JobSpec, Limits, Notice, Outcome, Query, Retry,
    SignedJob, StageOptions, StageSpec, Stdin, Table,
};

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn spec(number: u8) -> JobSpec {
    let stage = StageSpec {
        options: StageOptions::default(),
        name: "only".into(),
        wasm: Hash::of(b"wasm"),
        entry: "_start".into(),
        args: vec![],
        env: vec![],
        stdin: Stdin::Empty,
        count: 100,
        shard_tasks: 64,
        elements: Elements::Numbers { start: 0 },
        inputs: vec![],
        outputs: vec![],
        needs: vec![],
        retry: Retry { max: 0, lost_max: 3, backoff_ms: 0, backoff_ms_max: 0, on: vec![] },
        run_ms_max: 1000,
        queue_ms_max: None,
        limits: Limits { memory_bytes_max: 1, fuel_max: 1, stdout_bytes_max: 1, outputs_bytes_max: 1 },
    };
    JobSpec {
        version: 1,
        name: "job".into(),
        description: String::new(),
        options: JobOptions::default(),
        submitter: id(number),
        submitted_unix_ms: 0,
        nonce: 0,
        source: None,
        blobs: Hash::of(b"list"),
        failures_max: 0,
        stages: vec![stage],
    }
}

/// Submits a job at a node and ends its tasks as they are started, each with a blob.
fn run(few: &mut Few, number: u8) -> JobId {
    let job = SignedJob::sign(&spec(number), &key(number)).unwrap();
    let result = job.id();
    few.tell(id(number), Event::Submit { token: 1, job });
    for _ in 0..200 {
        few.pass(Duration::from_millis(50));
        let nodes: Vec<_> = few.cores.keys().copied().collect();
        for node in nodes {
            for batch in std::mem::take(&mut few.cores.get_mut(&node).unwrap().batches) {
                let stdout = Content::Blob { hash: Hash::of(b"printed"), len: 7 };
                let outcome = Outcome { stdout, ..Outcome::bare(Ending::Exited(0)) };
                let outcomes = batch.tasks.iter().map(|(range, _)| (*range, outcome.clone())).collect();
                few.tell(node, Event::Ended { lease: batch.lease, outcomes });
            }
        }
    }
    assert!(is_over(few, number, result));
    result
}

fn is_over(few: &mut Few, number: u8, job: JobId) -> bool {
    few.cores.get_mut(&id(number)).unwrap().notices.clear();
    few.tell(id(number), Event::Ask { token: 9, query: Query::Job(job) });
    few.pass(Duration::from_secs(3));
    few.cores[&id(number)].notices.iter().any(|notice| match notice {
        Notice::Answered { token: 9, answer: Answer::Job { status, .. } } => status.state().is_over(),
        _ => false,
    })
}

/// Records of a table on a node's disk.
fn stored(few: &Few, number: u8, table: Table) -> usize {
    few.cores[&id(number)].disk.keys().filter(|(of, _)| *of == table).count()
}

#[test]
fn a_job_leaves_all_nodes_a_day_after_its_end_with_all_its_records() {
    let mut few = Few::new(3);
    let job = run(&mut few, 0);
    assert!((0..3).any(|number| stored(&few, number, Table::Segments) > 0));
    assert!((0..3).any(|number| stored(&few, number, Table::Uses) > 0));
    let used = few.cores[&id(0)].node.blobs_in_use();
    assert!(used.held_lists.contains(&Hash::of(b"list")) && used.blobs.contains(&Hash::of(b"printed")));

    // One is switched off meanwhile, and counts nothing.
    few.cut(2);
    let disk = few.cores.remove(&id(2)).unwrap().disk;
    few.pass(23 * HOUR);
    assert!(is_over(&mut few, 1, job), "it is kept for a day");
    few.pass(HOUR + Duration::from_secs(60));
    assert!(few.cores[&id(1)].node.has_expired(job));

    // When it comes back it is told, and does not bring the job back.
    few.add(2, disk);
    few.pass(Duration::from_secs(30));
    for number in 0..3 {
        assert!(few.cores[&id(number)].node.has_expired(job), "{number}");
        assert!(few.cores[&id(number)].node.blobs_in_use() == Default::default());
        for table in [Table::Jobs, Table::Segments, Table::Promises, Table::Uses] {
            assert_eq!(stored(&few, number, table), 0, "{}", table.name());
        }
        assert!(!is_over(&mut few, number, job));
    }
    assert!(few.cores.values().all(|core| core.batches.is_empty()), "nothing runs again");
}

#[test]
fn restarts_cost_little_of_the_time_that_was_counted() {
    let mut few = Few::new(1);
    let job = run(&mut few, 0);
    for _ in 0..8 {
        few.pass(3 * HOUR - Duration::from_secs(60));
        let disk = few.cores.remove(&id(0)).unwrap().disk;
        few.add(0, disk);
    }
    assert!(!few.cores[&id(0)].node.has_expired(job));
    // Each of the eight restarts costs at most a sixteenth of a day.
    few.pass(13 * HOUR);
    assert!(few.cores[&id(0)].node.has_expired(job));
}
