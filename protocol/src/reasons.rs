//! Why a job, or some tasks of it, are not done: what follows from what its custodians and the members say.
//!
//! Always true: a plain function of its evidence. The root cause comes first, equal reasons are one, and what is only a
//! consequence of another reason comes last.
//!
//! Elsewhere: the evidence is gathered by `node::explain`, which also puts the reasons into words.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, Serializer};

use crate::lattice::{End, Failure, Run, TaskState};
use crate::placement::{Key, View};
use crate::situation::{Ahead, Amount, Arbitration, JobSituation, Order, ShardSituation, TermPhase};
use crate::{
    Content, Elements, Ending, JobId, JobSpec, JobState, JobStatus, MemberState, MemberView, NodeId, NodeRecord, Range,
    ShardId, StageSpec, StopCause, Unmet,
};

/// Shards that are asked about at most: a few milliseconds of a custodian's time each. The first of each stage stand for
/// the others.
pub const SHARDS_ASKED_MAX: usize = 32;
/// Nodes named in one reason.
const NODES_NAMED_MAX: usize = 8;
/// Characters of a line that a task wrote: some lines of a terminal.
const LINE_CHARS_MAX: usize = 300;

/// The tasks that a user means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Position of the stage.
    pub stage: u16,
    /// The tasks.
    pub tasks: Range,
}

/// What is known where the question was asked.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The job.
    pub id: JobId,
    /// As submitted.
    pub spec: &'a JobSpec,
    /// How far it is.
    pub status: &'a JobStatus,
    /// What is meant; the whole job when it is `None`.
    pub target: Option<Target>,
    /// What nodes say of the job.
    pub jobs: &'a [JobSituation],
    /// What was asked of custodians.
    pub asked: &'a [(ShardId, Range)],
    /// What they said.
    pub shards: &'a [ShardSituation],
    /// The swarm, as seen here.
    pub members: &'a [MemberView],
}

/// A node, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Named {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name, or the first digits of its id.
    pub name: String,
}

/// Why some tasks are not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The stage; absent when it is about the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// How many tasks of those that were looked at; 0 when it is about the job.
    pub tasks: u64,
    /// The first of them, as `tile[3]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
    /// Why.
    #[serde(flatten)]
    pub cause: Cause,
    /// They fail in so many milliseconds, unless a node takes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_left_ms: Option<u64>,
}

/// A cause. The order of the variants is the order in which reasons are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Cause {
    /// It failed for good.
    Failed {
        /// Attempts that were made.
        attempts: usize,
        /// Where the last one ran.
        #[serde(skip_serializing_if = "Option::is_none")]
        node: Option<Named>,
        /// How it ended.
        #[serde(serialize_with = "in_words")]
        ending: Ending,
        /// The last line that it wrote to standard error; empty when it wrote none, or when it is in `stderr` alone.
        said: String,
        /// All that it wrote there.
        #[serde(skip)]
        stderr: Content,
    },
    /// More tasks failed than the job allows.
    TooManyFailed {
        /// Tasks that failed.
        failed: u32,
        /// As many may.
        failures_max: u32,
    },
    /// It needs tasks that failed.
    NeedFailed {
        /// The stage that it needs.
        needs: String,
    },
    /// A user cancelled the job.
    Cancelled,
    /// The job was stopped, and what runs is being ended.
    Stopping {
        /// Whether by a user; else because too many tasks failed.
        cancelled: bool,
    },
    /// The submit waits for copies of the job on other nodes.
    NotAcknowledged {
        /// Copies there are.
        have: u32,
        /// Copies needed.
        need: u32,
    },
    /// No node can ever run it.
    NoNode {
        /// Why not.
        #[serde(flatten)]
        unmet: Unmet,
    },
    /// The nodes that could run it are not there.
    NodesGone {
        /// Those nodes, with their state.
        nodes: Vec<NodeGone>,
    },
    /// No node that answers has the job's modules and inputs.
    BlobsMissing,
    /// The nodes that keep the tasks do not answer.
    Unreachable {
        /// Those nodes.
        custodians: Vec<Named>,
    },
    /// Nobody grants them: the nodes that keep them have not agreed who does.
    NoArbiter {
        /// Those that do not answer.
        silent: Vec<Named>,
    },
    /// Who is to grant them waits for the promise of others.
    Preparing {
        /// Who grants.
        arbiter: Named,
        /// The others.
        waits_for: Vec<Named>,
    },
    /// Who is to grant them has just taken over, and lets running tasks report.
    TakenOver {
        /// Who grants.
        arbiter: Named,
        /// For so long.
        wait_ms: u64,
    },
    /// They run on a node that others have lost sight of.
    LeasedToLost {
        /// The node.
        node: Named,
        /// Its state.
        state: MemberState,
        /// For so long.
        since_ms: u64,
    },
    /// They failed, and wait before they are tried again.
    BackingOff {
        /// For so long.
        wait_ms: u64,
        /// The attempt that failed, from 1.
        attempt: usize,
        /// Attempts that are allowed.
        of: usize,
        /// Where it ran.
        #[serde(skip_serializing_if = "Option::is_none")]
        node: Option<Named>,
        /// How it ended.
        #[serde(serialize_with = "in_words")]
        ending: Ending,
        /// The last line that it wrote to standard error; empty when it wrote none, or when it is in `stderr` alone.
        said: String,
        /// All that it wrote there.
        #[serde(skip)]
        stderr: Content,
    },
    /// As many tasks of the job run as it allows.
    ParallelReached {
        /// So many.
        parallel_max: u32,
    },
    /// The nodes are busy, and tasks of another job come first.
    Behind {
        /// 64 hexadecimal digits.
        job: String,
        /// Its name.
        name: String,
        /// Its tasks that wait, too.
        ahead: u32,
        /// Its priority.
        priority: i8,
        /// Why it comes first.
        order: Order,
    },
    /// All nodes that could run it are busy.
    Busy {
        /// So many.
        nodes: usize,
        /// The next of them is likely to be free then.
        #[serde(skip_serializing_if = "Option::is_none")]
        free_in_ms: Option<u64>,
    },
    /// They failed on the only nodes that are free, and are kept from these for a moment.
    Avoids {
        /// Those nodes.
        nodes: Vec<Named>,
        /// For so long.
        wait_ms: u64,
    },
    /// They are kept for a moment for nodes that the job prefers.
    ForPreferred,
    /// A node is free: they are about to be granted.
    Starting {
        /// Nodes that are free.
        nodes: usize,
    },
    /// They run.
    Running {
        /// Where, how many, and for how long.
        nodes: Vec<RunningOn>,
    },
    /// They ended; their outputs are being copied to a second node.
    Copying,
    /// They ended; their results are being written down on a second node.
    Recording,
    /// They wait for all tasks of another stage.
    WaitsForStage {
        /// That stage.
        needs: String,
        /// Tasks of it that are not done.
        left: u32,
        /// Its tasks.
        of: u32,
    },
    /// They wait for tasks of another stage, one by one.
    WaitsForTask {
        /// The first one.
        needs: String,
    },
    /// They succeeded.
    Done,
}

/// A node that could run tasks if it were there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeGone {
    /// The node.
    pub node: Named,
    /// Its state.
    pub state: MemberState,
}

/// Tasks that run on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunningOn {
    /// The node.
    pub node: Named,
    /// So many.
    pub tasks: u32,
    /// Since their grant, or since the last of the batch ended.
    pub since_ms: u64,
}

fn in_words<S: Serializer>(ending: &Ending, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(ending)
}

/// The last line of a text that is not blank, without what could move a cursor.
pub fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.trim().chars().filter(|letter| !letter.is_control()).take(LINE_CHARS_MAX).collect()
}

fn said(stderr: &Content) -> String {
    match stderr {
        Content::Inline(bytes) => last_line(bytes),
        Content::Blob { .. } => String::new(),
    }
}

/// The tasks about which custodians should be asked.
pub fn to_ask(
    id: JobId,
    spec: &JobSpec,
    status: &JobStatus,
    target: Option<Target>,
    jobs: &[JobSituation],
) -> Vec<(ShardId, Range)> {
    let mut asked: Vec<(ShardId, Range)> = target.iter().flat_map(|target| shards_of(id, spec, *target)).collect();
    let needs_others =
        |target: &Target| spec.stages.get(usize::from(target.stage)).is_some_and(|it| !it.needs.is_empty());
    if target.is_none_or(|target| needs_others(&target) && !status.state().is_over()) {
        let over = status.state().is_over();
        let failed: BTreeSet<ShardId> = jobs.iter().flat_map(|job| job.failed.iter().copied()).collect();
        let open: BTreeSet<ShardId> = jobs.iter().flat_map(|job| job.open.iter().copied()).filter(|_| !over).collect();
        let concerned = target.map(|target| needed(spec, target.stage));
        let concerns = |shard: &ShardId| concerned.as_ref().is_none_or(|stages| stages.contains(&shard.stage));
        let known = failed.into_iter().chain(open).filter(|shard| shard.job == id && concerns(shard));
        let others: Vec<_> = known.filter_map(|shard| Some((shard, whole(spec, shard)?))).collect();
        asked.extend(if others.is_empty() && target.is_none() { first_open(id, spec, status) } else { others });
    }
    let mut seen = BTreeSet::new();
    asked.retain(|(shard, _)| seen.insert(*shard));
    asked.truncate(SHARDS_ASKED_MAX);
    asked
}

/// The stages that a stage needs, and those that these need.
fn needed(spec: &JobSpec, stage: u16) -> BTreeSet<u16> {
    let mut needed = BTreeSet::from([stage]);
    // Each stage needs earlier ones only.
    for at in (0..=stage).rev().filter(|at| usize::from(*at) < spec.stages.len()) {
        if needed.contains(&at) {
            needed.extend(spec.stages[usize::from(at)].needs.iter().filter(|need| **need < at));
        }
    }
    needed
}

fn whole(spec: &JobSpec, shard: ShardId) -> Option<Range> {
    let range = spec.stages.get(usize::from(shard.stage))?.shard_range(shard.number);
    (range.count > 0).then_some(range)
}

fn shards_of(id: JobId, spec: &JobSpec, target: Target) -> Vec<(ShardId, Range)> {
    let Some(stage) = spec.stages.get(usize::from(target.stage)) else { return Vec::new() };
    let size = stage.shard_tasks.max(1);
    let numbers = target.tasks.first / size..target.tasks.end().min(stage.count).div_ceil(size);
    let part = |number| {
        let shard = stage.shard_range(number);
        let first = shard.first.max(target.tasks.first);
        let count = shard.end().min(target.tasks.end()).saturating_sub(first);
        (ShardId { job: id, stage: target.stage, number }, Range { first, count })
    };
    numbers.take(SHARDS_ASKED_MAX).map(part).filter(|(_, range)| range.count > 0).collect()
}

/// When nobody said which: the first of each stage that is not over, or has failed.
fn first_open(id: JobId, spec: &JobSpec, status: &JobStatus) -> Vec<(ShardId, Range)> {
    let stages = (0..).zip(&spec.stages).zip(&status.stages);
    let open = stages.filter(|(_, (tasks, counts))| counts.done < *tasks);
    let first = open.map(|((stage, _), _)| ShardId { job: id, stage, number: 0 });
    first.filter_map(|shard| Some((shard, whole(spec, shard)?))).collect()
}

/// Why it is not done. Empty only when nothing is known.
pub fn reasons(evidence: &Evidence) -> Vec<Reason> {
    let mut reasons = if evidence.status.state().is_over() { evidence.past() } else { evidence.present() };
    reasons = merged(reasons);
    let own = |reason: &Reason| evidence.target_name().is_none_or(|name| reason.stage.as_deref() == Some(name));
    // What the user asked about comes first, then why that waits.
    reasons.sort_by_key(|reason| (!own(reason), rank(&reason.cause)));
    reasons
}

/// Lower comes first. What follows from something else comes last.
const fn rank(cause: &Cause) -> u8 {
    match cause {
        Cause::Stopping { .. } | Cause::NotAcknowledged { .. } => 0,
        Cause::Cancelled => 1,
        Cause::NoNode { .. } | Cause::NodesGone { .. } => 2,
        Cause::BlobsMissing | Cause::Unreachable { .. } => 3,
        Cause::NoArbiter { .. } | Cause::Preparing { .. } | Cause::TakenOver { .. } => 4,
        Cause::LeasedToLost { .. } => 5,
        Cause::BackingOff { .. } => 6,
        Cause::ParallelReached { .. } => 7,
        Cause::Behind { .. } | Cause::Busy { .. } => 8,
        Cause::Avoids { .. } | Cause::ForPreferred => 9,
        Cause::Starting { .. } => 10,
        Cause::Running { .. } => 11,
        Cause::Copying | Cause::Recording => 12,
        Cause::Failed { .. } => 13,
        Cause::TooManyFailed { .. } => 14,
        Cause::WaitsForStage { .. } | Cause::WaitsForTask { .. } => 15,
        Cause::NeedFailed { .. } => 16,
        Cause::Done => 17,
    }
}

/// Equal causes of one stage together.
fn merged(reasons: Vec<Reason>) -> Vec<Reason> {
    let mut merged: Vec<Reason> = Vec::new();
    for reason in reasons {
        let same = merged.iter_mut().find(|known| known.stage == reason.stage && is_same(&known.cause, &reason.cause));
        match same {
            Some(known) => {
                known.tasks += reason.tasks;
                known.queue_left_ms = known.queue_left_ms.into_iter().chain(reason.queue_left_ms).min();
                take_in(&mut known.cause, reason.cause);
            }
            None => merged.push(reason),
        }
    }
    merged
}

/// Whether two causes are told in one sentence.
fn is_same(one: &Cause, other: &Cause) -> bool {
    use Cause::{BackingOff, Behind, Busy, Failed, Running, TakenOver, WaitsForTask};
    match (one, other) {
        (Running { .. }, Running { .. }) | (Busy { .. }, Busy { .. }) | (WaitsForTask { .. }, WaitsForTask { .. }) => {
            true
        }
        (TakenOver { arbiter: a, .. }, TakenOver { arbiter: b, .. }) => a == b,
        (Behind { job: a, .. }, Behind { job: b, .. }) => a == b,
        (Failed { ending: a, .. }, Failed { ending: b, .. }) => a == b,
        (BackingOff { ending: a, node: x, .. }, BackingOff { ending: b, node: y, .. }) => a == b && x == y,
        (one, other) => one == other,
    }
}

/// Adds what one cause says more than an equal one.
fn take_in(known: &mut Cause, more: Cause) {
    match (known, more) {
        (Cause::Running { nodes }, Cause::Running { nodes: more }) => {
            for other in more {
                if let Some(it) = nodes.iter_mut().find(|it| it.node == other.node) {
                    it.tasks += other.tasks;
                    it.since_ms = it.since_ms.max(other.since_ms);
                } else if nodes.len() < NODES_NAMED_MAX {
                    nodes.push(other);
                }
            }
        }
        (Cause::Busy { free_in_ms, .. }, Cause::Busy { free_in_ms: other, .. }) => {
            *free_in_ms = free_in_ms.iter().copied().chain(other).min();
        }
        (Cause::Behind { ahead, .. }, Cause::Behind { ahead: other, .. }) => *ahead = (*ahead).max(other),
        (Cause::BackingOff { wait_ms, .. }, Cause::BackingOff { wait_ms: other, .. }) => {
            *wait_ms = (*wait_ms).min(other);
        }
        _ => {}
    }
}

impl Evidence<'_> {
    fn target_name(&self) -> Option<&str> {
        let stage = self.spec.stages.get(usize::from(self.target?.stage))?;
        Some(&stage.name)
    }

    // ---- what is over

    fn past(&self) -> Vec<Reason> {
        let mut reasons: Vec<Reason> =
            self.asked.iter().flat_map(|(shard, tasks)| self.failed_in(*shard, *tasks)).collect();
        let counts = self.status.counts();
        match (self.status.state(), self.target) {
            (JobState::Done, _) => reasons.push(self.about_job(Cause::Done)),
            (JobState::Cancelled, _) => reasons.push(self.about_job(Cause::Cancelled)),
            (_, None) => {
                if counts.failed > self.spec.failures_max {
                    let failures_max = self.spec.failures_max;
                    reasons.push(self.about_job(Cause::TooManyFailed { failed: counts.failed, failures_max }));
                }
                reasons.extend(self.never_ran());
            }
            (_, Some(target)) if reasons.is_empty() => reasons.extend(self.target_past(target)),
            _ => {}
        }
        reasons
    }

    /// Of a target in which nothing failed, in a job that failed.
    fn target_past(&self, target: Target) -> Option<Reason> {
        let (_, counts) = self.status.stages.get(usize::from(target.stage))?;
        let cause = match (counts.cancelled, self.failed_need(target.stage)) {
            (0, _) => Cause::Done,
            (_, Some(needs)) => Cause::NeedFailed { needs },
            _ => Cause::TooManyFailed { failed: self.status.counts().failed, failures_max: self.spec.failures_max },
        };
        Some(self.about(target.stage, Amount { tasks: target.tasks.count, first: target.tasks.first }, cause))
    }

    /// Stages whose tasks were not run because what they need failed.
    fn never_ran(&self) -> Vec<Reason> {
        let stages = (0..).zip(&self.status.stages).filter(|(_, (_, counts))| counts.cancelled > 0);
        let reason = |(stage, (_, counts)): (u16, &(u32, crate::lattice::Counts))| {
            let needs = self.failed_need(stage)?;
            Some(self.about(stage, Amount { tasks: counts.cancelled, first: 0 }, Cause::NeedFailed { needs }))
        };
        stages.filter_map(reason).collect()
    }

    /// A stage with failures that this one needs.
    fn failed_need(&self, stage: u16) -> Option<String> {
        let needs = &self.spec.stages.get(usize::from(stage))?.needs;
        let failed = |need: &&u16| {
            let counts = self.status.stages.get(usize::from(**need)).map(|(_, counts)| *counts).unwrap_or_default();
            counts.failed > 0 || counts.cancelled > 0
        };
        needs.iter().find(failed).map(|need| self.stage_name(*need))
    }

    fn failed_in(&self, shard: ShardId, tasks: Range) -> Vec<Reason> {
        // The one that knows of most failures.
        let known = self.shards.iter().filter(|it| it.shard == shard).max_by_key(|it| it.counts.ended());
        known.into_iter().flat_map(|it| &it.failures).filter_map(|run| self.failed(shard.stage, run, tasks)).collect()
    }

    fn failed(&self, stage: u16, run: &Run, tasks: Range) -> Option<Reason> {
        let Some(End::Exhausted(results)) = &run.state.end else { return None };
        let (first, end) = (run.range.first.max(tasks.first), run.range.end().min(tasks.end()));
        let (outcome, attempts) = (results.outcome(), run.state.failures.len());
        let node = last_failure(&run.state).map(|failure| self.named(failure.node));
        let (ending, stderr) = (outcome.ending.clone(), outcome.stderr.clone());
        let amount = Amount { tasks: end.checked_sub(first).filter(|tasks| *tasks > 0)?, first };
        Some(self.about(stage, amount, Cause::Failed { attempts, node, ending, said: said(&stderr), stderr }))
    }

    // ---- what is not over

    fn present(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        if let Some(stop) = self.status.stop {
            reasons.push(self.about_job(Cause::Stopping { cancelled: stop == StopCause::Cancelled }));
        }
        if let Some((have, need)) = self.jobs.iter().find_map(|job| job.submit).filter(|(have, need)| have < need) {
            reasons.push(self.about_job(Cause::NotAcknowledged { have, need }));
        }
        for (shard, tasks) in self.asked {
            reasons.extend(self.open_in(*shard, *tasks));
            reasons.extend(self.failed_in(*shard, *tasks));
        }
        reasons
    }

    fn open_in(&self, shard: ShardId, tasks: Range) -> Vec<Reason> {
        let said: Vec<&ShardSituation> = self.shards.iter().filter(|it| it.shard == shard).collect();
        let arbiter = said.iter().filter_map(|it| Some((it, it.arbiter.as_ref()?)));
        if let Some((by, arbiter)) = arbiter.max_by_key(|(_, arbiter)| arbiter.epoch) {
            return self.arbitrated(by, arbiter, tasks);
        }
        let Some(stage) = self.spec.stages.get(usize::from(shard.stage)) else { return Vec::new() };
        let ended = said.iter().map(|it| it.counts.ended()).max().unwrap_or(0);
        let open = stage.shard_range(shard.number).count.saturating_sub(ended).min(tasks.count);
        let amount = Amount { tasks: open, first: tasks.first };
        let cause = match said.first() {
            _ if open == 0 => return Vec::new(),
            None => Cause::Unreachable { custodians: self.custodians_of(shard) },
            Some(_) => {
                let silent: BTreeSet<NodeId> = said.iter().flat_map(|it| it.silent.iter().copied()).collect();
                Cause::NoArbiter { silent: silent.into_iter().map(|node| self.named(node)).collect() }
            }
        };
        vec![self.about(shard.stage, amount, cause)]
    }

    fn arbitrated(&self, by: &ShardSituation, arbiter: &Arbitration, tasks: Range) -> Vec<Reason> {
        let at = by.shard.stage;
        let Some(stage) = self.spec.stages.get(usize::from(at)) else { return Vec::new() };
        let mut reasons = Vec::new();
        let mut push = |amount: Amount, cause: Cause| {
            if amount.tasks > 0 {
                reasons.push(self.about(at, amount, cause));
            }
        };
        match &arbiter.phase {
            TermPhase::Preparing(waiting) => {
                let left = stage.shard_range(by.shard.number).count.saturating_sub(by.counts.ended());
                let open = Amount { tasks: left.min(tasks.count), first: tasks.first };
                let waits_for = waiting.iter().map(|node| self.named(*node)).collect();
                push(open, Cause::Preparing { arbiter: self.named(by.by), waits_for });
                return reasons;
            }
            TermPhase::Grace(wait_ms) => {
                push(arbiter.pending, Cause::TakenOver { arbiter: self.named(by.by), wait_ms: *wait_ms });
            }
            TermPhase::Granting => push(arbiter.pending, self.why_pending(stage, arbiter)),
        }
        if let Some(block) = arbiter.blocks.first() {
            push(arbiter.blocked, Cause::WaitsForTask { needs: self.task_name(block.stage, block.needs) });
        }
        for lease in &arbiter.leases {
            push(lease.tasks, self.why_leased(lease.executor, lease.tasks.tasks, lease.since_ms));
        }
        push(Amount { tasks: arbiter.copying, first: tasks.first }, Cause::Copying);
        push(Amount { tasks: arbiter.recording, first: tasks.first }, Cause::Recording);
        for delay in &arbiter.delays {
            let amount = Amount { tasks: 1, first: delay.task };
            push(amount, self.why_delayed(by, stage, delay));
        }
        let failed = by.failures.iter().any(|run| run.state.end.is_some());
        if reasons.is_empty() && !failed && self.target.is_some_and(|target| target.stage == at) {
            reasons.push(self.about(at, Amount { tasks: tasks.count, first: tasks.first }, Cause::Done));
        }
        if let (Some(queue), Some(waiting)) = (stage.queue_ms_max, arbiter.waiting_ms) {
            // Only what could be granted is waiting for a node.
            let waits = reasons.iter_mut().filter(|reason| waits_for_node(&reason.cause));
            waits.for_each(|reason| reason.queue_left_ms = Some(queue.saturating_sub(waiting)));
        }
        reasons
    }

    /// Why tasks are not granted that wait for nothing of their own.
    fn why_pending(&self, stage: &StageSpec, arbiter: &Arbitration) -> Cause {
        if let Some(need) = arbiter.needs.first() {
            return self.why_needed(stage, *need);
        }
        if self.status.stop.is_some() {
            return Cause::Stopping { cancelled: self.status.stop == Some(StopCause::Cancelled) };
        }
        if !self.jobs.is_empty() && !self.jobs.iter().any(|job| job.holds_blobs || job.can_be_fetched) {
            return Cause::BlobsMissing;
        }
        let suitable: Vec<&NodeRecord> = self.living().filter(|node| stage.fits(node)).collect();
        if suitable.is_empty() {
            return self.why_nobody(stage);
        }
        if let (true, Some(parallel_max)) = (arbiter.held_back, self.spec.options.parallel_max) {
            return Cause::ParallelReached { parallel_max };
        }
        let free: Vec<&NodeRecord> = suitable.iter().copied().filter(|node| self.is_free(stage, node)).collect();
        if free.is_empty() {
            return self.why_busy(&suitable, arbiter);
        }
        self.why_free(stage, &free, arbiter)
    }

    fn why_needed(&self, stage: &StageSpec, need: u16) -> Cause {
        let (of, counts) = self.status.stages.get(usize::from(need)).copied().unwrap_or_default();
        let finished = stage.options.needs_finished.contains(&need);
        let needs = self.stage_name(need);
        if counts.failed > 0 && !finished && counts.ended() >= of {
            return Cause::NeedFailed { needs };
        }
        let there = if finished { counts.ended() } else { counts.done };
        Cause::WaitsForStage { needs, left: of.saturating_sub(there), of }
    }

    fn why_nobody(&self, stage: &StageSpec) -> Cause {
        let gone =
            self.members.iter().filter(|member| member.state != MemberState::Alive && stage.fits(&member.record));
        let gone = gone.map(|member| NodeGone { node: self.named(member.record.node), state: member.state });
        let nodes: Vec<_> = gone.take(NODES_NAMED_MAX).collect();
        if nodes.is_empty() {
            let living: Vec<&NodeRecord> = self.living().collect();
            return Cause::NoNode { unmet: stage.unmet(&living) };
        }
        Cause::NodesGone { nodes }
    }

    fn why_busy(&self, suitable: &[&NodeRecord], arbiter: &Arbitration) -> Cause {
        if let Some(Ahead { job, name, priority, tasks, why }) = &arbiter.ahead {
            let (job, name) = (job.to_hex(), name.clone());
            return Cause::Behind { job, name, ahead: *tasks, priority: *priority, order: *why };
        }
        let is_suitable = |node: &NodeId| suitable.iter().any(|it| it.node == *node);
        let soonest = arbiter.executors.iter().filter(|it| is_suitable(&it.node)).filter_map(|it| it.free_in_ms).min();
        Cause::Busy { nodes: suitable.len(), free_in_ms: soonest }
    }

    fn why_free(&self, stage: &StageSpec, free: &[&NodeRecord], arbiter: &Arbitration) -> Cause {
        let avoids = |node: &NodeRecord| {
            let avoid = arbiter.avoids.iter().find(|(task, avoided, _)| {
                *avoided == node.node && *task == arbiter.pending.first && arbiter.pending.tasks == 1
            });
            avoid.map(|(.., ms)| *ms)
        };
        let waits: Vec<u64> = free.iter().filter_map(|node| avoids(node)).collect();
        if waits.len() == free.len() {
            let nodes = free.iter().map(|node| self.named(node.node)).collect();
            return Cause::Avoids { nodes, wait_ms: waits.into_iter().min().unwrap_or(0) };
        }
        if arbiter.for_liked && !free.iter().any(|node| stage.options.place.likes(node)) {
            return Cause::ForPreferred;
        }
        Cause::Starting { nodes: free.len() }
    }

    fn why_leased(&self, executor: NodeId, tasks: u32, since_ms: u64) -> Cause {
        let node = self.named(executor);
        let state = self.members.iter().find(|member| member.record.node == executor).map(|member| member.state);
        match state {
            Some(state @ (MemberState::Suspect | MemberState::Down)) => Cause::LeasedToLost { node, state, since_ms },
            _ => Cause::Running { nodes: vec![RunningOn { node, tasks, since_ms }] },
        }
    }

    fn why_delayed(&self, by: &ShardSituation, stage: &StageSpec, delay: &crate::situation::Delay) -> Cause {
        let run = by.failures.iter().find(|run| run.range.indexes().contains(&delay.task));
        let last = run.and_then(|run| last_failure(&run.state));
        let ending = last.map_or(Ending::Lost, |failure| failure.ending.clone());
        let lost = ending == Ending::Lost;
        let attempts = run.map_or((0, 0), |run| (run.state.lost(), run.state.failed_attempts()));
        Cause::BackingOff {
            wait_ms: delay.wait_ms,
            attempt: if lost { attempts.0 } else { attempts.1 }.max(1),
            of: 1 + usize::from(if lost { stage.retry.lost_max } else { stage.retry.max }),
            node: last.map(|failure| self.named(failure.node)),
            ending,
            said: said(&delay.stderr),
            stderr: delay.stderr.clone(),
        }
    }

    // ---- words for what is meant

    fn about_job(&self, cause: Cause) -> Reason {
        Reason { stage: None, tasks: 0, first: None, cause, queue_left_ms: None }
    }

    fn about(&self, stage: u16, amount: Amount, cause: Cause) -> Reason {
        let first = Some(self.task_name(stage, amount.first));
        Reason { stage: Some(self.stage_name(stage)), tasks: amount.tasks.into(), first, cause, queue_left_ms: None }
    }

    fn stage_name(&self, stage: u16) -> String {
        self.spec.stages.get(usize::from(stage)).map(|stage| stage.name.clone()).unwrap_or_default()
    }

    fn task_name(&self, stage: u16, task: u32) -> String {
        let array = self.spec.stages.get(usize::from(stage)).is_some_and(|stage| stage.elements != Elements::One);
        let name = self.stage_name(stage);
        if array { format!("{name}[{task}]") } else { name }
    }

    fn named(&self, node: NodeId) -> Named {
        let id = node.to_hex();
        let known = self.members.iter().find(|member| member.record.node == node);
        let name = known.map(|member| member.record.name.clone()).filter(|name| !name.is_empty());
        Named { name: name.unwrap_or_else(|| id.chars().take(12).collect()), id }
    }

    fn living(&self) -> impl Iterator<Item = &NodeRecord> {
        self.members.iter().filter(|member| member.state == MemberState::Alive).map(|member| &*member.record)
    }

    /// What a node says of its free slots is up to a second old; what arbiters leased to it is not.
    fn is_free(&self, stage: &StageSpec, node: &NodeRecord) -> bool {
        let mut leased: BTreeMap<NodeId, u32> = BTreeMap::new();
        for (by, arbiter) in self.shards.iter().filter_map(|shard| Some((shard.by, shard.arbiter.as_ref()?))) {
            // An arbiter of several shards says the same in each answer.
            let load = arbiter.executors.iter().find(|load| load.node == node.node).map_or(0, |load| load.tasks);
            leased.entry(by).and_modify(|known| *known = load.max(*known)).or_insert(load);
        }
        let leased = leased.values().copied().fold(0, u32::saturating_add);
        let slots = stage.resources_on(node).map_or(1, |resources| resources.slots.max(1));
        node.slots_free.min(node.slots.saturating_sub(leased.saturating_mul(slots))) >= slots
    }

    fn custodians_of(&self, shard: ShardId) -> Vec<Named> {
        let keeps = |member: &&MemberView| matches!(member.state, MemberState::Alive | MemberState::Suspect);
        let view = View::of(self.members.iter().filter(keeps).map(|member| member.record.node));
        view.custodians(Key::of_shard(shard)).into_iter().map(|node| self.named(node)).collect()
    }
}

const fn waits_for_node(cause: &Cause) -> bool {
    use Cause::{Avoids, Behind, Busy, ForPreferred, NoNode, NodesGone, Starting};
    matches!(
        cause,
        NoNode { .. } | NodesGone { .. } | Busy { .. } | Behind { .. } | Avoids { .. } | ForPreferred | Starting { .. }
    )
}

/// The attempt with the highest epoch and number: the last, as far as anybody can tell.
fn last_failure(state: &TaskState) -> Option<&Failure> {
    state.failures.values().next_back()
}

/// How many shards of the job were not asked about, of each stage.
pub fn not_asked(spec: &JobSpec, asked: &[(ShardId, Range)]) -> BTreeMap<String, u32> {
    let mut left = BTreeMap::new();
    for (at, stage) in (0..).zip(&spec.stages) {
        let seen = asked.iter().filter(|(shard, _)| shard.stage == at).count() as u32;
        if seen > 0 && stage.shards() > seen {
            left.insert(stage.name.clone(), stage.shards() - seen);
        }
    }
    left
}
