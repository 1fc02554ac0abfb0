//! A node that neither keeps nor runs a task is asked why it is not done.

use std::collections::BTreeMap;
use std::time::Duration;

use swarm_protocol::reasons::{Cause, Evidence, Reason, reasons, to_ask};
use swarm_protocol::{
    Answer, Attribute, Condition, Content, Elements, Ending, Event, Hash, JobId, JobOptions, JobSpec, MemberView,
    NodeId, Notice, Outcome, Query, RetryOn, SignedJob, StageSpec, Test,
};

use crate::few::{Few, id, key};

const SECOND: Duration = Duration::from_secs(1);

fn spec(stages: Vec<StageSpec>) -> JobSpec {
    JobSpec {
        version: 2,
        name: "job".into(),
        description: String::new(),
        options: JobOptions::default(),
        submitter: id(0),
        submitted_unix_ms: 0,
        nonce: 0,
        source: None,
        blobs: Hash::of(b"list"),
        failures_max: 0,
        stages,
    }
}

fn stage(name: &str) -> StageSpec {
    StageSpec::plain(name, Hash::of(b"wasm"))
}

fn array(name: &str, count: u32) -> StageSpec {
    StageSpec { count, elements: Elements::Numbers { start: 0 }, ..stage(name) }
}

/// Twelve nodes with one slot each; one submits.
struct Swarm {
    few: Few,
    job: JobId,
    spec: JobSpec,
}

impl Swarm {
    fn with(spec: JobSpec) -> Self {
        let mut few = Few::new(12);
        let signed = SignedJob::sign(&spec, &key(0)).unwrap();
        let job = signed.id();
        few.tell(id(0), Event::Submit { token: 1, job: signed });
        few.pass(5 * SECOND);
        Self { few, job, spec }
    }

    /// Who runs tasks now.
    fn executors(&self) -> Vec<NodeId> {
        let runs = |core: &&NodeId| self.few.cores[core].batches.iter().any(|batch| batch.lease.shard.job == self.job);
        self.few.cores.keys().filter(runs).copied().collect()
    }

    /// Ends what runs on a node.
    fn end(&mut self, node: NodeId, outcome: &Outcome) {
        for batch in std::mem::take(&mut self.few.cores.get_mut(&node).unwrap().batches) {
            let outcomes = batch.tasks.iter().map(|(range, _)| (*range, outcome.clone())).collect();
            self.few.tell(node, Event::Ended { lease: batch.lease, outcomes, busy: Duration::from_millis(1) });
        }
    }

    /// The reasons that a node gives which keeps nothing of the job and runs nothing of it.
    fn reasons(&mut self) -> Vec<Reason> {
        let shards: Vec<_> = self.spec.shards(self.job).collect();
        let executors = self.executors();
        let is_outside = |node: &&NodeId| {
            let core = &self.few.cores[node].node;
            !executors.contains(node) && !shards.iter().any(|shard| core.shard_custodians(*shard).contains(node))
        };
        let asked = *self.few.cores.keys().find(is_outside).expect("there are more nodes than those");
        let Answer::Job { status, .. } = self.ask(asked, Query::Job(self.job)) else { panic!("the job is known") };
        let Answer::WhyJob(jobs) = self.ask(asked, Query::WhyJob(self.job)) else { panic!("the job is known") };
        let to_ask = to_ask(self.job, &self.spec, &status, None, &jobs);
        let mut shards = Vec::new();
        for (shard, tasks) in &to_ask {
            if let Answer::WhyShard(said) = self.ask(asked, Query::WhyShard { shard: *shard, tasks: *tasks }) {
                assert!(said.iter().all(|it| it.by != asked));
                shards.extend(said);
            }
        }
        let members = self.members_of(asked);
        reasons(&Evidence {
            id: self.job,
            spec: &self.spec,
            status: &status,
            target: None,
            jobs: &jobs,
            asked: &to_ask,
            shards: &shards,
            members: &members,
        })
    }

    fn ask(&mut self, node: NodeId, query: Query) -> Answer {
        self.few.tell(node, Event::Ask { token: 77, query });
        self.few.pass(2 * SECOND);
        let notices = &mut self.few.cores.get_mut(&node).unwrap().notices;
        let answered = |notice: &Notice| matches!(notice, Notice::Answered { token: 77, .. });
        let at = notices.iter().position(answered).expect("it is answered");
        let Notice::Answered { answer, .. } = notices.remove(at) else { unreachable!("just seen") };
        answer
    }

    fn members_of(&self, node: NodeId) -> Vec<MemberView> {
        let mut members = BTreeMap::new();
        for notice in &self.few.cores[&node].notices {
            if let Notice::Members(changed) = notice {
                members.extend(changed.iter().map(|member| (member.record.node, member.clone())));
            }
        }
        members.into_values().collect()
    }
}

fn causes(reasons: &[Reason]) -> Vec<String> {
    let name = |reason: &Reason| format!("{:?}", reason.cause).split([' ', '{']).next().unwrap_or_default().to_owned();
    reasons.iter().map(name).collect()
}

#[test]
fn what_runs_and_what_waits_for_it_are_told_with_their_numbers() {
    let tile = array("tile", 3);
    let mut swarm = Swarm::with(spec(vec![tile, StageSpec { needs: vec![0], ..stage("stitch") }]));
    let reasons = swarm.reasons();
    assert_eq!(causes(&reasons), ["Running", "WaitsForStage"], "{reasons:#?}");
    assert_eq!(reasons[0].tasks, 3);
    assert_eq!(reasons[1].cause, Cause::WaitsForStage { needs: "tile".into(), left: 3, of: 3 });
    let executor = swarm.executors()[0];
    swarm.end(executor, &Outcome::bare(Ending::Exited(0)));
    swarm.few.pass(SECOND);
    let Some(Cause::WaitsForStage { left: 0..3, of: 3, .. }) = swarm.reasons().pop().map(|reason| reason.cause) else {
        panic!("less is left");
    };
}

#[test]
fn a_task_that_no_node_can_run_names_the_condition() {
    let mut picky = stage("picky");
    let zone = Condition { attribute: Attribute::Label("zone".into()), test: Test::In(vec!["a".into()]) };
    picky.options.place.require = vec![zone];
    let reasons = Swarm::with(spec(vec![picky])).reasons();
    assert_eq!(causes(&reasons), ["NoNode"], "{reasons:#?}");
}

#[test]
fn a_task_that_backs_off_tells_its_last_words() {
    let mut flaky = stage("flaky");
    (flaky.retry.max, flaky.retry.backoff_ms, flaky.retry.backoff_ms_max) = (2, 3_600_000, 3_600_000);
    flaky.retry.on = vec![RetryOn::AnyExit];
    let mut swarm = Swarm::with(spec(vec![flaky]));
    let executor = swarm.executors()[0];
    let stderr = Content::Inline(b"cannot reach the store\n".to_vec());
    swarm.end(executor, &Outcome { stderr, ..Outcome::bare(Ending::Exited(75)) });
    swarm.few.pass(SECOND);
    let reasons = swarm.reasons();
    let Cause::BackingOff { attempt: 1, of: 3, ending, node, said, .. } = &reasons[0].cause else {
        panic!("{reasons:#?}");
    };
    assert_eq!((ending, said.as_str()), (&Ending::Exited(75), "cannot reach the store"));
    assert_eq!(node.as_ref().map(|node| node.id.clone()), Some(executor.to_hex()));
}

#[test]
fn a_job_that_limits_itself_says_so() {
    let mut one = spec(vec![array("one", 4)]);
    one.options.parallel_max = Some(1);
    let reasons = Swarm::with(one).reasons();
    assert_eq!(causes(&reasons), ["ParallelReached", "Running"], "{reasons:#?}");
}

#[test]
fn what_failed_is_told_when_all_is_over() {
    let mut swarm = Swarm::with(spec(vec![stage("only"), StageSpec { needs: vec![0], ..stage("then") }]));
    let executor = swarm.executors()[0];
    swarm.end(executor, &Outcome::bare(Ending::Trapped("unreachable".into())));
    swarm.few.pass(5 * SECOND);
    let reasons = swarm.reasons();
    assert_eq!(causes(&reasons), ["Failed", "TooManyFailed", "NeedFailed"], "{reasons:#?}");
}

#[test]
fn more_tasks_than_slots_wait_for_busy_nodes() {
    let mut many = array("many", 20);
    many.options.place.require =
        vec![Condition { attribute: Attribute::Node, test: Test::In(vec!["n1".into(), "n2".into()]) }];
    let reasons = Swarm::with(spec(vec![many])).reasons();
    assert_eq!(causes(&reasons), ["Busy", "Running"], "{reasons:#?}");
    assert_eq!(reasons[0].tasks + reasons[1].tasks, 20);
}
