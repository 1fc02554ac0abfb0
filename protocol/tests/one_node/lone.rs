//! A swarm of one, driven by hand: the same code path as a swarm of many.

use std::collections::BTreeMap;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use swarm_protocol::lattice::End;
use swarm_protocol::{
    Answer, Batch, Config, Effects, Elements, Ending, Event, Hash, JobId, JobOptions, JobSpec, JobState, JobStatus,
    Limits, Node, NodeId, NodeRecord, Notice, Outcome, Query, Retry, RetryOn, ShardId, SignedJob, StageSpec, Table,
    Time, Write,
};

/// What every task takes.
const BUSY: Duration = Duration::from_millis(1);

/// One core with a disk that keeps what it is told.
pub(crate) struct Lone {
    key: SigningKey,
    pub(crate) node: Node,
    now: Time,
    pub(crate) disk: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
    pub(crate) batches: Vec<Batch>,
    pub(crate) notices: Vec<Notice>,
    submitted: u64,
}

impl Lone {
    pub(crate) fn new() -> Self {
        Self::on_disk(BTreeMap::new())
    }

    pub(crate) fn on_disk(disk: BTreeMap<(Table, Vec<u8>), Vec<u8>>) -> Self {
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
        let mut lone = Self { key, node, now: Time::ZERO, disk, batches: vec![], notices: vec![], submitted: 0 };
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

    pub(crate) fn tell(&mut self, event: Event) {
        let effects = self.node.handle(self.now, event);
        self.execute(effects);
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some((at, _)) = self.node.next_deadline().filter(|(at, _)| *at <= until) {
            self.now = self.now.max(at);
            self.tell(Event::Tick);
        }
        self.now = until;
    }

    pub(crate) fn submit(&mut self, stages: Vec<StageSpec>) -> JobId {
        self.submit_with(stages, |_| {})
    }

    /// Submits a job that `change` made different.
    pub(crate) fn submit_with(&mut self, stages: Vec<StageSpec>, change: impl FnOnce(&mut JobSpec)) -> JobId {
        let key = self.key.clone();
        self.submit_as(&key, stages, change)
    }

    /// The same for another submitter, who handed it to another node.
    pub(crate) fn submit_as(
        &mut self,
        key: &SigningKey,
        stages: Vec<StageSpec>,
        change: impl FnOnce(&mut JobSpec),
    ) -> JobId {
        self.submitted += 1;
        let mut spec = JobSpec {
            version: 1,
            name: "job".into(),
            description: String::new(),
            submitter: NodeId::from_bytes(key.verifying_key().to_bytes()),
            submitted_unix_ms: 0,
            nonce: self.submitted,
            source: None,
            blobs: Hash::of(b"list"),
            failures_max: 0,
            stages,
            options: JobOptions::default(),
        };
        change(&mut spec);
        let job = SignedJob::sign(&spec, key).unwrap();
        let token = self.submitted;
        self.tell(Event::Submit { token, job: job.clone() });
        let is_answer = |it: &Notice| matches!(it, Notice::Submitted { token: its, result: Ok(_) } if *its == token);
        assert!(self.notices.iter().any(is_answer), "{:?}", self.notices);
        job.id()
    }

    /// The tasks started and not ended yet: job, stage and index.
    pub(crate) fn started(&self) -> Vec<(JobId, u16, u32)> {
        let of = |batch: &Batch| {
            let (job, stage) = (batch.lease.shard.job, batch.lease.shard.stage);
            let tasks: Vec<_> = batch.tasks.iter().flat_map(|(range, _)| range.indexes()).collect();
            tasks.into_iter().map(move |task| (job, stage, task))
        };
        self.batches.iter().flat_map(of).collect()
    }

    /// Ends those started tasks for which `ending` says how, and leaves the others running.
    pub(crate) fn end_some(&mut self, ending: impl Fn(u16, u32) -> Option<Ending>) {
        for mut batch in std::mem::take(&mut self.batches) {
            let (lease, stage) = (batch.lease, batch.lease.shard.stage);
            let mut ended = Vec::new();
            let mut left = Vec::new();
            for (range, attempts) in &batch.tasks {
                for task in range.indexes() {
                    let range = swarm_protocol::Range { first: task, count: 1 };
                    match ending(stage, task) {
                        Some(ending) => ended.push((range, Outcome::bare(ending))),
                        None => left.push((range, *attempts)),
                    }
                }
            }
            batch.tasks = left;
            if !batch.tasks.is_empty() {
                self.batches.push(batch);
            }
            if !ended.is_empty() {
                self.tell(Event::Ended { lease, outcomes: ended, busy: BUSY });
            }
        }
    }

    /// Ends well so many of the started tasks, those started first.
    pub(crate) fn end_few(&mut self, count: usize) {
        let few: Vec<_> = self.started().into_iter().take(count).collect();
        for (job, stage, task) in few {
            let at = self.batches.iter().position(|batch| {
                let shard = batch.lease.shard;
                let has = |(range, _): &(swarm_protocol::Range, u16)| range.indexes().contains(&task);
                (shard.job, shard.stage) == (job, stage) && batch.tasks.iter().any(has)
            });
            let Some(batch) = at.map(|at| &mut self.batches[at]) else { continue };
            let ranges = std::mem::take(&mut batch.tasks);
            for (range, attempts) in ranges {
                let rest = range.indexes().filter(|other| *other != task);
                batch.tasks.extend(rest.map(|first| (swarm_protocol::Range { first, count: 1 }, attempts)));
            }
            let (lease, range) = (batch.lease, swarm_protocol::Range { first: task, count: 1 });
            self.batches.retain(|batch| !batch.tasks.is_empty());
            self.tell(Event::Ended { lease, outcomes: vec![(range, Outcome::bare(Ending::Exited(0)))], busy: BUSY });
        }
    }

    /// Ends every task started so far with what `ending` says; true when there was any.
    pub(crate) fn run_started(&mut self, ending: impl Fn(u32, u16) -> Ending) -> bool {
        let batches = std::mem::take(&mut self.batches);
        let any = !batches.is_empty();
        for batch in batches {
            for (range, attempts) in batch.tasks {
                for task in range.indexes() {
                    let range = swarm_protocol::Range { first: task, count: 1 };
                    let outcome = Outcome::bare(ending(task, attempts));
                    self.tell(Event::Ended { lease: batch.lease, outcomes: vec![(range, outcome)], busy: BUSY });
                }
            }
        }
        any
    }

    pub(crate) fn state(&mut self, job: JobId) -> JobState {
        self.status(job).state()
    }

    /// How many tasks of a job are done.
    pub(crate) fn done(&mut self, job: JobId) -> u32 {
        self.status(job).counts().done
    }

    fn status(&mut self, job: JobId) -> JobStatus {
        self.tell(Event::Ask { token: 9, query: Query::Job(job) });
        let answer = self.notices.iter().rev().find_map(|notice| match notice {
            Notice::Answered { token: 9, answer: Answer::Job { status, .. } } => Some(status.clone()),
            _ => None,
        });
        answer.expect("a lone node answers at once")
    }

    /// What is recorded of the first task of a job.
    pub(crate) fn first_ending(&mut self, job: JobId) -> Option<Ending> {
        self.tell(Event::Ask {
            token: 9,
            query: Query::Shard { shard: ShardId { job, stage: 0, number: 0 }, first: 0 },
        });
        let answer = self.notices.iter().rev().find_map(|notice| match notice {
            Notice::Answered { token: 9, answer: Answer::Shard { segment, .. } } => {
                Some(segment.first()?.state.end.clone())
            }
            _ => None,
        });
        match answer.flatten()? {
            End::Done(results) | End::Exhausted(results) => Some(results.outcome().ending.clone()),
            End::Cancelled => Some(Ending::Cancelled),
        }
    }

    pub(crate) fn run_until_over(&mut self, job: JobId, ending: impl Fn(u32, u16) -> Ending) -> JobState {
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

/// A stage as most tests want it.
pub(crate) fn stage(name: &str, count: u32, needs: Vec<u16>) -> StageSpec {
    StageSpec {
        count,
        elements: Elements::Numbers { start: 0 },
        needs,
        retry: Retry { max: 2, lost_max: 2, backoff_ms: 10, backoff_ms_max: 100, on: vec![RetryOn::Exit(75)] },
        run_ms_max: 1000,
        limits: Limits { memory_bytes_max: 1, fuel_max: 1, stdout_bytes_max: 1, outputs_bytes_max: 1 },
        ..StageSpec::plain(name, Hash::of(b"wasm"))
    }
}
