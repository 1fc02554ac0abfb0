//! Why tasks wait: what a node that keeps them sees, for whoever asks.
//!
//! Always true: it only looks; a question changes nothing. Every list is cut at [`ITEMS_MAX`], and numbers beside it say how
//! much there is.
//!
//! Elsewhere: asking and gathering is `questions`; what follows from it is `reasons`.

use std::collections::BTreeMap;

use rangemap::RangeSet;
use serde::{Deserialize, Serialize};

use crate::arbiter::{Arbiter, Phase};
use crate::custody::Shard;
use crate::lattice::{Counts, End, Run, Segment};
use crate::node::Node;
use crate::task_sets::count_of;
use crate::{Content, Epoch, JobId, NodeId, Range, ShardId};

/// Items in one list: what a person reads, and some more for programs.
pub const ITEMS_MAX: usize = 32;
/// Executors in one answer: about 10 KiB.
const EXECUTORS_MAX: usize = 128;
/// Shards that are named for each stage: the first that are open, and the first in which tasks failed.
const SHARDS_NAMED_MAX: usize = 8;

/// What one node knows of a job as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSituation {
    /// Who says it.
    pub by: NodeId,
    /// Whether it holds the job's blobs.
    pub holds_blobs: bool,
    /// Whether it knows of anybody who does.
    pub can_be_fetched: bool,
    /// The first shards of each stage that are not over, as far as it heard.
    pub open: Vec<ShardId>,
    /// The first shards of each stage in which tasks failed for good.
    pub failed: Vec<ShardId>,
    /// When its own user waits for the acknowledgement: copies there are, and copies needed.
    pub submit: Option<(u32, u32)>,
}

/// What one custodian knows of some tasks of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardSituation {
    /// Who says it.
    pub by: NodeId,
    /// The shard.
    pub shard: ShardId,
    /// Custodians of the shard that it does not reach.
    pub silent: Vec<NodeId>,
    /// How many tasks of the whole shard ended.
    pub counts: Counts,
    /// The first of the tasks that failed, for good or not.
    pub failures: Segment,
    /// Set when it arbitrates the shard.
    pub arbiter: Option<Arbitration>,
}

/// What the arbiter of a shard knows of some of its tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arbitration {
    /// Its term.
    pub epoch: Epoch,
    /// How far its term is.
    pub phase: TermPhase,
    /// Stages that are needed whole and not known to be over.
    pub needs: Vec<u16>,
    /// Tasks that could be granted but for what is said here.
    pub pending: Amount,
    /// Milliseconds since tasks of the shard wait and none was granted; counted only for `timeout.queue`.
    pub waiting_ms: Option<u64>,
    /// Tasks backing off.
    pub delayed: Amount,
    /// The first of them.
    pub delays: Vec<Delay>,
    /// Tasks that wait for a task of another stage.
    pub blocked: Amount,
    /// The first of them.
    pub blocks: Vec<Block>,
    /// Leased tasks.
    pub leased: Amount,
    /// The leases.
    pub leases: Vec<LeaseSituation>,
    /// Reported tasks whose outputs are on their way to a second node.
    pub copying: u32,
    /// Ended tasks whose record is on its way to a second node.
    pub recording: u32,
    /// Who is not given a task that failed on it, and for how many milliseconds.
    pub avoids: Vec<(u32, NodeId, u64)>,
    /// Whether tasks are kept for nodes that the job prefers.
    pub for_liked: bool,
    /// With `max_parallel`: whether no more of the job's tasks may run.
    pub held_back: bool,
    /// Tasks of another job that are granted before.
    pub ahead: Option<Ahead>,
    /// Nodes that run tasks of this arbiter, of whatever job.
    pub executors: Vec<ExecutorLoad>,
}

/// Some tasks: how many, and the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// How many.
    pub tasks: u32,
    /// The first one's index in the stage.
    pub first: u32,
}

/// How far an arbiter's term is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TermPhase {
    /// It waits for promises of these.
    Preparing(Vec<NodeId>),
    /// Executors may re-announce leases of the arbiter before, for so many milliseconds.
    Grace(u64),
    /// It grants.
    Granting,
}

/// A task that is backing off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delay {
    /// The task.
    pub task: u32,
    /// For so many milliseconds.
    pub wait_ms: u64,
    /// What its last attempt wrote to standard error; empty when that is not remembered.
    pub stderr: Content,
}

/// A task that waits for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The task.
    pub task: u32,
    /// Position of the earlier stage.
    pub stage: u16,
    /// The task of it.
    pub needs: u32,
}

/// What a node runs for one arbiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutorLoad {
    /// The node.
    pub node: NodeId,
    /// Tasks leased to it.
    pub tasks: u32,
    /// In how many milliseconds one of them is likely to end, by how long such tasks took; `None` while that is not known.
    pub free_in_ms: Option<u64>,
}

/// Tasks that are leased together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseSituation {
    /// Who runs them.
    pub executor: NodeId,
    /// The tasks.
    pub tasks: Amount,
    /// Milliseconds since the grant, or since the last report.
    pub since_ms: u64,
}

/// Tasks of another job that are granted first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ahead {
    /// The job.
    pub job: JobId,
    /// Its name.
    pub name: String,
    /// Its priority.
    pub priority: i8,
    /// Its tasks that could be granted, as far as this arbiter has them.
    pub tasks: u32,
    /// Why it comes first.
    pub why: Order,
}

/// Why one job's tasks are granted before another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Its priority is greater.
    Priority,
    /// Its submitter, or it, has fewer tasks running.
    Share,
    /// It was submitted earlier.
    Arrival,
}

impl Amount {
    fn of(set: &RangeSet<u32>) -> Self {
        Self { tasks: count_of(set), first: set.first().map_or(0, |range| range.start) }
    }

    fn of_tasks(tasks: impl Iterator<Item = u32>) -> Self {
        tasks.fold(Self::default(), |sum, task| Self {
            tasks: sum.tasks + 1,
            first: if sum.tasks == 0 { task } else { sum.first.min(task) },
        })
    }
}

impl Node {
    pub(crate) fn job_situation(&self, id: JobId) -> Option<JobSituation> {
        let job = self.jobs.get(id)?;
        let named = |is: &dyn Fn(ShardId, Counts) -> bool| {
            let stages = job.spec.stages.iter().enumerate().flat_map(|(stage, spec)| {
                let shards = (0..spec.shards()).map(move |number| ShardId { job: id, stage: stage as u16, number });
                shards.filter(|shard| is(*shard, job.ended_of(*shard))).take(SHARDS_NAMED_MAX)
            });
            stages.collect::<Vec<_>>()
        };
        let tasks = |shard: ShardId| job.spec.stages[usize::from(shard.stage)].shard_range(shard.number).count;
        Some(JobSituation {
            by: self.me(),
            holds_blobs: job.holds_blobs(),
            can_be_fetched: job.can_be_fetched(),
            open: named(&|shard, ended| ended.ended() < tasks(shard)),
            failed: named(&|_, ended| ended.failed > 0),
            submit: self.submit_of(id),
        })
    }

    pub(crate) fn shard_situation(&self, id: ShardId, tasks: Range) -> Option<ShardSituation> {
        let shard = self.custody.shard(id)?;
        let silent = shard.custodians.iter().copied().filter(|node| !self.reaches(*node));
        Some(ShardSituation {
            by: self.me(),
            shard: id,
            silent: silent.collect(),
            counts: shard.state.counts(),
            failures: failures(shard, tasks),
            arbiter: shard.arbiter.as_ref().map(|arbiter| self.arbitration(id, arbiter, tasks)),
        })
    }

    fn arbitration(&self, id: ShardId, arbiter: &Arbiter, tasks: Range) -> Arbitration {
        let (now, within) = (self.now, |task: &u32| tasks.indexes().contains(task));
        let ms = |time: core::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let pending = common(&arbiter.pending, tasks);
        let delays = || arbiter.delays().filter(|(_, task)| within(task));
        let blocks = || arbiter.blocked.iter().filter(|(task, _)| within(task));
        let leases = || arbiter.leases.values().map(|lease| (lease, common(&lease.tasks, tasks)));
        let leased: RangeSet<u32> = leases().flat_map(|(_, tasks)| tasks.into_iter()).collect();
        let avoids = arbiter.avoided(now).filter(|(task, ..)| within(task));
        Arbitration {
            epoch: arbiter.epoch,
            phase: match arbiter.phase() {
                Phase::Preparing { waiting, .. } => TermPhase::Preparing(waiting.iter().copied().collect()),
                Phase::Grace { until } => TermPhase::Grace(ms(until.since(now))),
                Phase::Granting => TermPhase::Granting,
            },
            needs: self.jobs.get(id.job).map(|job| job.missing_needs(id.stage)).unwrap_or_default(),
            pending: Amount::of(&pending),
            waiting_ms: arbiter.waiting_since().map(|since| ms(now.since(since))),
            delayed: Amount::of_tasks(delays().map(|(_, task)| task)),
            delays: delays()
                .take(ITEMS_MAX)
                .map(|(until, task)| Delay { task, wait_ms: ms(until.since(now)), stderr: arbiter.words_of(task) })
                .collect(),
            blocked: Amount::of_tasks(blocks().map(|(task, _)| *task)),
            blocks: blocks()
                .take(ITEMS_MAX)
                .map(|(task, (stage, needs))| Block { task: *task, stage: *stage, needs: *needs })
                .collect(),
            leased: Amount::of(&leased),
            leases: leases()
                .filter(|(_, tasks)| !tasks.is_empty())
                .take(ITEMS_MAX)
                .map(|(lease, tasks)| LeaseSituation {
                    executor: lease.executor,
                    tasks: Amount::of(&tasks),
                    since_ms: ms(now.since(lease.since)),
                })
                .collect(),
            copying: self.copying_of(id, tasks),
            recording: count_of(&common(&arbiter.unconfirmed_tasks(), tasks)),
            avoids: avoids.take(ITEMS_MAX).map(|(task, node, left)| (task, node, ms(left))).collect(),
            for_liked: self.waits_for_liked(id),
            held_back: self.is_held_back(id.job),
            ahead: self.ahead_of(id),
            executors: self.executor_loads(),
        }
    }

    /// Reported tasks whose outputs are on their way here.
    fn copying_of(&self, id: ShardId, tasks: Range) -> u32 {
        let parked = self.custody.parked_reports.values().filter(|parked| parked.lease.shard == id);
        let ranges: RangeSet<u32> =
            parked.flat_map(|parked| parked.tasks()).filter(|range| range.count > 0).map(|it| it.indexes()).collect();
        count_of(&common(&ranges, tasks))
    }

    /// What runs under leases of this arbiter, and when some of it is likely to end.
    fn executor_loads(&self) -> Vec<ExecutorLoad> {
        let mut loads: BTreeMap<NodeId, ExecutorLoad> = BTreeMap::new();
        for arbiter in self.custody.open.iter().filter_map(|(_, id)| self.custody.shard(*id)?.arbiter.as_ref()) {
            let usual = arbiter.pace.usual();
            for lease in arbiter.leases.values() {
                let left = usual.map(|usual| usual.saturating_sub(self.now.since(lease.since)).as_millis());
                let left = left.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX));
                let none = ExecutorLoad { node: lease.executor, tasks: 0, free_in_ms: None };
                let load = loads.entry(lease.executor).or_insert(none);
                load.tasks = load.tasks.saturating_add(count_of(&lease.tasks));
                load.free_in_ms = load.free_in_ms.into_iter().chain(left).min();
            }
        }
        loads.into_values().take(EXECUTORS_MAX).collect()
    }
}

/// The part of a set that lies in a range.
fn common(set: &RangeSet<u32>, range: Range) -> RangeSet<u32> {
    let indexes = range.indexes();
    if indexes.is_empty() {
        return RangeSet::new();
    }
    let clip = |piece: &core::ops::Range<u32>| piece.start.max(indexes.start)..piece.end.min(indexes.end);
    set.overlapping(&indexes).map(clip).collect()
}

/// The first tasks that failed for good, and then those of which an attempt failed and that have not ended.
fn failures(shard: &Shard, tasks: Range) -> Segment {
    let is_within = |run: &Run| run.range.first < tasks.end() && run.range.end() > tasks.first;
    let runs = || shard.state.runs_from(tasks.first).take_while(|run| run.range.first < tasks.end()).filter(is_within);
    let ended = runs().filter(|run| matches!(run.state.end, Some(End::Exhausted(_))));
    let open = runs().filter(|run| run.state.end.is_none() && !run.state.failures.is_empty());
    ended.chain(open).take(ITEMS_MAX).collect()
}
