//! Short histories made by hand, for the tests of the invariants: who would notice a judge that never judges?

use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use swarm_protocol::lattice::{AttemptId, Counts, End, Failure, Results, Run, TaskState};
use swarm_protocol::message::Grant;
use swarm_protocol::{
    Answer, Content, Ending, Epoch, Hash, JobId, JobOptions, JobSpec, JobStatus, LeaseId, Message, NodeId, Outcome,
    Query, Range, Retry, RetryOn, ShardId, SignedJob, StageOptions, StopCause, Time,
};

use super::Invariant;
use crate::clients::{StagePlan, patient, spec_of};
use crate::guests::{Leaves, Script};
use crate::history::{Fact, History};

/// A history as it grows, and what a judge says of it.
pub(super) struct Tale<J> {
    judge: J,
    history: History,
    now: Time,
    verdict: Result<(), String>,
}

impl<J: Invariant> Tale<J> {
    pub(super) fn of(judge: J) -> Self {
        Self { judge, history: History::default(), now: Time::ZERO, verdict: Ok(()) }
    }

    /// The same with this job, submitted and acknowledged.
    pub(super) fn with(self, job: &Job) -> Self {
        self.submitted(job).fact(&Fact::Acknowledged { node: id(1), job: job.id })
    }

    /// The same with this job, submitted.
    pub(super) fn submitted(self, job: &Job) -> Self {
        self.fact(&Fact::Submitted { job: job.id, spec: Arc::clone(&job.spec), scripts: job.scripts.clone() })
    }

    /// The next thing that happens.
    pub(super) fn fact(mut self, fact: &Fact<'_>) -> Self {
        self.history.take(self.now, fact);
        if self.verdict.is_ok() {
            self.verdict = self.judge.judge(&self.history, fact);
        }
        self
    }

    pub(super) fn after(mut self, seconds: u64) -> Self {
        self.now = self.now + Duration::from_secs(seconds);
        self
    }

    pub(super) fn says(self, node: u8, to: u8, message: &Message) -> Self {
        self.fact(&Fact::Said { node: id(node), to: id(to), message })
    }

    pub(super) fn hears(self, node: u8, from: u8, message: &Message) -> Self {
        self.fact(&Fact::Heard { node: id(node), from: id(from), message })
    }

    /// Said by one node and taken in by the other.
    pub(super) fn tells(self, node: u8, to: u8, message: &Message) -> Self {
        self.says(node, to, message).hears(to, node, message)
    }

    pub(super) fn starts(self, node: u8, lease: LeaseId, task: u32) -> Self {
        self.fact(&Fact::Started { node: id(node), lease, task, again: false })
    }

    pub(super) fn runs(self, node: u8, lease: LeaseId, task: u32, outcome: &Outcome) -> Self {
        self.fact(&Fact::Ran { node: id(node), lease, task, outcome })
    }

    /// A user is answered at once.
    pub(super) fn told(self, node: u8, query: &Query, answer: &Answer) -> Self {
        let asked = self.now;
        self.fact(&Fact::Told { node: id(node), asked, query, answer })
    }

    /// A user is told what a node knows of a shard.
    pub(super) fn shows(self, node: u8, shard: ShardId, runs: &[Run]) -> Self {
        let answer = Answer::Shard { segment: runs.to_vec(), next: None, leased: Vec::new() };
        self.told(node, &Query::Shard { shard, first: 0 }, &answer)
    }

    /// A user is told how far a job of one stage is.
    pub(super) fn reports(self, node: u8, job: &Job, counts: Counts, stop: Option<StopCause>) -> Self {
        let status = JobStatus { stages: vec![(job.spec.stages[0].count, counts)], stop };
        let answer = Answer::Job { job: job.signed.clone(), status };
        self.told(node, &Query::Job(job.id), &answer)
    }

    /// Nothing was found.
    #[track_caller]
    pub(super) fn passes(self) {
        assert_eq!(self.verdict, Ok(()));
    }

    /// Something was found, and it is this.
    #[track_caller]
    pub(super) fn breaks(self, what: &str) {
        let verdict = self.verdict.expect_err("nobody noticed");
        assert!(verdict.contains(what), "{verdict}");
    }
}

/// A job of one stage and shard.
pub(super) struct Job {
    pub(super) id: JobId,
    pub(super) spec: Arc<JobSpec>,
    pub(super) scripts: Vec<Script>,
    signed: SignedJob,
}

impl Job {
    /// So many tasks, which all succeed and leave the same.
    pub(super) fn of(tasks: u32) -> Self {
        Self::like(tasks, Script { leaves: Leaves::Same, ..Script::running_for(Duration::ZERO) })
    }

    /// So many tasks, which all trap.
    pub(super) fn of_traps(tasks: u32) -> Self {
        Self::like(tasks, Script { traps: 1000, ..Script::running_for(Duration::ZERO) })
    }

    /// The same, and no attempt that is lost counts.
    pub(super) fn patient(tasks: u32) -> Self {
        Self::with_retry(tasks, Script { leaves: Leaves::Same, ..Script::running_for(Duration::ZERO) }, patient())
    }

    /// May fail once and be lost once, and is then tried again.
    fn like(tasks: u32, script: Script) -> Self {
        let retry = Retry { max: 1, lost_max: 1, on: vec![RetryOn::Trap], ..patient() };
        Self::with_retry(tasks, script, retry)
    }

    /// Two stages of so many tasks, the second of which needs the first.
    pub(super) fn of_two_stages(tasks: u32) -> Self {
        let script = Script { leaves: Leaves::Same, ..Script::running_for(Duration::ZERO) };
        let stage = |needs| StagePlan { needs, ..StagePlan::plain(tasks, script.clone()) };
        Self::planned(&[stage(Vec::new()), stage(vec![0])])
    }

    /// The same, where the second needs the first element by element, or only over.
    pub(super) fn of_two_stages_with(tasks: u32, options: StageOptions) -> Self {
        let script = Script { leaves: Leaves::Same, ..Script::running_for(Duration::ZERO) };
        let first = StagePlan::plain(tasks, script.clone());
        Self::planned(&[first, StagePlan { needs: vec![0], options, ..StagePlan::plain(tasks, script) }])
    }

    fn with_retry(tasks: u32, script: Script, retry: Retry) -> Self {
        Self::planned(&[StagePlan { retry, ..StagePlan::plain(tasks, script) }])
    }

    /// So many tasks, of a job that is kept so long.
    pub(super) fn kept_for(tasks: u32, keep: Duration) -> Self {
        let keep_ms = keep.as_millis() as u64;
        Self::whole(&[plain(tasks)], JobOptions { keep_ms, ..JobOptions::default() })
    }

    /// So many tasks, of which so many may run at once.
    pub(super) fn of_parallel(tasks: u32, most: u32) -> Self {
        Self::whole(&[plain(tasks)], JobOptions { parallel_max: Some(most), ..JobOptions::default() })
    }

    fn planned(plans: &[StagePlan]) -> Self {
        Self::whole(plans, JobOptions::default())
    }

    fn whole(plans: &[StagePlan], options: JobOptions) -> Self {
        let key = SigningKey::from_bytes(&[9; 32]);
        let submitter = NodeId::from_bytes(key.verifying_key().to_bytes());
        let blob = Hash::of(b"list");
        let spec = JobSpec { options, ..spec_of(submitter, 7, blob, blob, 0, plans, 3) };
        let signed = SignedJob::sign(&spec, &key).expect("it keeps every limit");
        Self {
            id: signed.id(),
            spec: Arc::new(spec),
            scripts: plans.iter().map(|plan| plan.script.clone()).collect(),
            signed,
        }
    }

    pub(super) const fn shard(&self) -> ShardId {
        ShardId { job: self.id, stage: 0, number: 0 }
    }

    /// What a task leaves behind.
    pub(super) fn left(&self, task: u32) -> Outcome {
        self.scripts[0].outcome(self.spec.nonce, 0, task)
    }

    /// A lease of this arbiter.
    pub(super) fn lease(&self, arbiter: u8, number: u64) -> LeaseId {
        LeaseId { shard: self.shard(), epoch: epoch(1, arbiter), number }
    }

    /// What a task leaves behind on a machine that lies.
    pub(super) fn another(&self) -> Outcome {
        Outcome { stdout: Content::Inline(b"a lie".into()), ..Outcome::bare(Ending::Exited(0)) }
    }

    pub(super) fn done(&self, task: u32) -> Run {
        self.done_with(task, self.left(task))
    }

    pub(super) fn done_with(&self, task: u32, outcome: Outcome) -> Run {
        run(task, TaskState::ended(End::Done(Results::one(outcome, []))))
    }

    /// Done, with two results.
    pub(super) fn disputed(&self, task: u32) -> Run {
        let mut run = self.done(task);
        run.state.join(&self.done_with(task, self.another()).state);
        run
    }
}

fn plain(tasks: u32) -> StagePlan {
    StagePlan::plain(tasks, Script { leaves: Leaves::Same, ..Script::running_for(Duration::ZERO) })
}

pub(super) const fn id(node: u8) -> NodeId {
    NodeId::from_bytes([node; 32])
}

/// An epoch of this arbiter.
pub(super) const fn epoch(counter: u64, arbiter: u8) -> Epoch {
    Epoch { counter, tie: u64::from_be_bytes([arbiter; 8]) }
}

pub(super) const fn one(task: u32) -> Range {
    Range { first: task, count: 1 }
}

pub(super) const fn run(task: u32, state: TaskState) -> Run {
    Run { range: one(task), state }
}

/// An attempt that did not succeed.
pub(super) fn failure(task: u32, lease: LeaseId, node: u8, ending: Ending) -> Run {
    run(task, TaskState::failed(AttemptId::from(lease), Failure { node: id(node), ending }))
}

/// The same, and the task is given up.
pub(super) fn given_up(task: u32, lease: LeaseId, node: u8, ending: Ending) -> Run {
    let mut run = failure(task, lease, node, ending.clone());
    run.state.end = Some(End::Exhausted(Results::one(Outcome::bare(ending), [])));
    run
}

pub(super) fn grant(lease: LeaseId, task: u32) -> Message {
    Message::Grant(Grant { lease, continues: None, tasks: vec![(one(task), 0)], ttl_ms: 1 })
}

pub(super) fn report(lease: LeaseId, task: u32, outcome: Outcome) -> Message {
    Message::Report { lease, outcomes: vec![(one(task), outcome)] }
}

/// A record of this arbiter's.
pub(super) fn record(shard: ShardId, arbiter: u8, run: Run) -> Message {
    Message::Record { shard, epoch: epoch(1, arbiter), number: 1, segment: vec![run] }
}
