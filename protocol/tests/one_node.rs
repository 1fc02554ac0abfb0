//! A swarm of one, driven by hand: the same code path as a swarm of many.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use swarm_protocol::{
    Answer, Batch, Config, Effects, Elements, Ending, Event, Hash, JobId, JobSpec, JobState, Limits, Node, NodeId,
    NodeRecord, Notice, Outcome, Query, Retry, RetryOn, SignedJob, StageSpec, Stdin, Table, Time, Write,
};

/// One core with a disk that keeps what it is told.
struct Lone {
    key: SigningKey,
    node: Node,
    now: Time,
    disk: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
    batches: Vec<Batch>,
    notices: Vec<Notice>,
}

impl Lone {
    fn new() -> Self {
        Self::on_disk(BTreeMap::new())
    }

    fn on_disk(disk: BTreeMap<(Table, Vec<u8>), Vec<u8>>) -> Self {
        let key = SigningKey::from_bytes(&[7; 32]);
        let record = NodeRecord {
            node: NodeId::from_bytes(key.verifying_key().to_bytes()),
            incarnation: 0,
            sequence: 0,
            name: "lone".into(),
            addresses: vec![],
            slots: 2,
            slots_free: 2,
            memory_bytes: 0,
            labels: BTreeMap::new(),
            arch: "x86_64".into(),
            version: "0".into(),
            draining: false,
        };
        let records = disk.iter().map(|((table, key), value)| (*table, key.clone(), value.clone()));
        let (node, effects) = Node::start(Config { record, seed: 1, joins: false }, Time::ZERO, records).unwrap();
        let mut lone = Self { key, node, now: Time::ZERO, disk, batches: vec![], notices: vec![] };
        lone.execute(effects);
        lone
    }

    fn execute(&mut self, effects: Effects) {
        for Write { table, key, value } in effects.persist.into_iter().chain(effects.note) {
            match value {
                Some(value) => self.disk.insert((table, key), value),
                None => self.disk.remove(&(table, key)),
            };
        }
        self.batches.extend(effects.start);
        self.notices.extend(effects.notify);
        for fetch in effects.fetch {
            self.tell(Event::Fetched { fetch: fetch.number, complete: true });
        }
    }

    fn tell(&mut self, event: Event) {
        let effects = self.node.handle(self.now, event);
        self.execute(effects);
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some((at, _)) = self.node.next_deadline().filter(|(at, _)| *at <= until) {
            self.now = self.now.max(at);
            self.tell(Event::Tick);
        }
        self.now = until;
    }

    fn submit(&mut self, stages: Vec<StageSpec>) -> JobId {
        let spec = JobSpec {
            version: 1,
            name: "job".into(),
            description: String::new(),
            submitter: NodeId::from_bytes(self.key.verifying_key().to_bytes()),
            submitted_unix_ms: 0,
            nonce: 0,
            source: None,
            blobs: Hash::of(b"list"),
            failures_max: 0,
            stages,
        };
        let job = SignedJob::sign(&spec, &self.key).unwrap();
        self.tell(Event::Submit { token: 1, job: job.clone() });
        let acknowledged = self.notices.iter().any(|it| matches!(it, Notice::Submitted { token: 1, result: Ok(_) }));
        assert!(acknowledged, "{:?}", self.notices);
        job.id()
    }

    /// Ends every task started so far with what `ending` says; true when there was any.
    fn run_started(&mut self, ending: impl Fn(u32, u16) -> Ending) -> bool {
        let batches = std::mem::take(&mut self.batches);
        let any = !batches.is_empty();
        for batch in batches {
            for (range, attempts) in batch.tasks {
                for task in range.indexes() {
                    let range = swarm_protocol::Range { first: task, count: 1 };
                    let outcome = Outcome::bare(ending(task, attempts));
                    self.tell(Event::Ended { lease: batch.lease, outcomes: vec![(range, outcome)] });
                }
            }
        }
        any
    }

    fn state(&mut self, job: JobId) -> JobState {
        self.tell(Event::Ask { token: 9, query: Query::Job(job) });
        let answer = self.notices.iter().rev().find_map(|notice| match notice {
            Notice::Answered { token: 9, answer: Answer::Job { status, .. } } => Some(status.state()),
            _ => None,
        });
        answer.expect("a lone node answers at once")
    }

    fn run_until_over(&mut self, job: JobId, ending: impl Fn(u32, u16) -> Ending) -> JobState {
        for _ in 0..2000 {
            self.run_started(&ending);
            self.pass(Duration::from_millis(50));
            if self.state(job).is_over() {
                return self.state(job);
            }
        }
        panic!("the job did not end: {:?}", self.state(job));
    }
}

fn stage(name: &str, count: u32, needs: Vec<u16>) -> StageSpec {
    StageSpec {
        name: name.into(),
        wasm: Hash::of(b"wasm"),
        entry: "_start".into(),
        args: vec![],
        env: vec![],
        stdin: Stdin::Empty,
        count,
        shard_tasks: 64,
        elements: Elements::Numbers { start: 0 },
        inputs: vec![],
        outputs: vec![],
        needs,
        retry: Retry { max: 2, lost_max: 2, backoff_ms: 10, backoff_ms_max: 100, on: vec![RetryOn::Exit(75)] },
        run_ms_max: 1000,
        queue_ms_max: None,
        limits: Limits { memory_bytes_max: 1, fuel_max: 1, stdout_bytes_max: 1, outputs_bytes_max: 1 },
    }
}

#[test]
fn a_lone_node_runs_a_job_in_two_stages() {
    let mut lone = Lone::new();
    let job = lone.submit(vec![stage("first", 200, vec![]), stage("second", 3, vec![0])]);
    assert_eq!(lone.run_until_over(job, |_, _| Ending::Exited(0)), JobState::Done);
}

#[test]
fn a_failure_that_is_not_to_be_retried_stops_the_job() {
    let mut lone = Lone::new();
    let job = lone.submit(vec![stage("first", 10, vec![]), stage("second", 3, vec![0])]);
    let ending = |task, _| Ending::Exited(if task == 4 { 7 } else { 0 });
    assert_eq!(lone.run_until_over(job, ending), JobState::Failed);
}

#[test]
fn tasks_that_no_node_takes_in_time_fail() {
    let mut lone = Lone::new();
    let long = lone.submit(vec![stage("long", 2, vec![])]);
    let waiting = StageSpec { queue_ms_max: Some(5000), ..stage("waiting", 3, vec![]) };
    let job = lone.submit(vec![waiting]);
    lone.pass(Duration::from_secs(4));
    assert_eq!(lone.state(job), JobState::Running);
    lone.pass(Duration::from_secs(2));
    assert_eq!(lone.state(job), JobState::Failed);
    assert_eq!(lone.run_until_over(long, |_, _| Ending::Exited(0)), JobState::Done);
}

#[test]
fn a_failure_that_is_to_be_retried_is_tried_again() {
    let mut lone = Lone::new();
    let job = lone.submit(vec![stage("first", 10, vec![])]);
    let ending = |task, attempts| Ending::Exited(if task == 4 && attempts < 2 { 75 } else { 0 });
    assert_eq!(lone.run_until_over(job, ending), JobState::Done);
}

#[test]
fn the_retry_budget_ends() {
    let mut lone = Lone::new();
    let job = lone.submit(vec![stage("first", 10, vec![])]);
    let ending = |task, _| Ending::Exited(if task == 4 { 75 } else { 0 });
    assert_eq!(lone.run_until_over(job, ending), JobState::Failed);
}

#[test]
fn a_cancelled_job_is_over_and_its_tasks_are_stopped() {
    let mut lone = Lone::new();
    let job = lone.submit(vec![stage("first", 10, vec![])]);
    lone.pass(Duration::from_millis(100));
    lone.tell(Event::Cancel { token: 2, job });
    assert!(lone.notices.iter().any(|it| matches!(it, Notice::Cancelled { token: 2, result: Ok(()) })));
    assert_eq!(lone.run_until_over(job, |_, _| Ending::Exited(0)), JobState::Cancelled);
}

#[test]
fn a_restart_in_the_middle_loses_nothing() {
    let mut lone = Lone::new();
    let job = lone.submit(vec![stage("first", 200, vec![]), stage("second", 3, vec![0])]);
    for _ in 0..20 {
        lone.run_started(|_, _| Ending::Exited(0));
    }
    let mut again = Lone::on_disk(lone.disk);
    assert_eq!(again.run_until_over(job, |_, _| Ending::Exited(0)), JobState::Done);
    let third = Lone::on_disk(again.disk);
    let done = { third }.run_until_over(job, |_, _| panic!("all tasks were recorded"));
    assert_eq!(done, JobState::Done);
}
