//! Whose tasks are granted first, and which executor may have them.
//!
//! Always true:
//! - at one arbiter, tasks of a greater priority are granted before others; among equals those of the submitter, and of the
//!   job, that has the fewest leased here; then those submitted first;
//! - nobody is granted a task that its record says it cannot run.
//!
//! Across arbiters this is a hint: executors ask any arbiter that has work.
//!
//! Elsewhere: granting itself is `arbiter`; how many tasks of a job run at once is `parallel`.

use core::cmp::Reverse;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::arbiter::{count_of, ranges_of};
use crate::lattice::{End, Results, Run, TaskState};
use crate::message::{Message, NodeRecord};
use crate::node::Node;
use crate::situation::{Ahead, Order};
use crate::{Ending, JobId, LeaseId, MemberState, NodeId, Outcome, ShardId};

/// Tasks are kept for nodes that their stage likes as long as one of them took some so recently.
const LIKED_FIRST: Duration = Duration::from_secs(1);

/// What is remembered between grants.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// Whether any task that could be granted is not for everybody.
    choosy: bool,
    /// The least memory and slots that a member offers.
    least: (u64, u32),
}

/// A shard with tasks that could be granted.
struct Claimable {
    id: ShardId,
    pending: u32,
    priority: i8,
    submitter: NodeId,
    arrival: u64,
}

/// What decides who is granted first: the least is.
type Rank = (Reverse<i8>, (u64, u64), u64);

impl Claimable {
    fn rank(&self, by_submitter: &BTreeMap<NodeId, u64>, by_job: &BTreeMap<JobId, u64>) -> Rank {
        let of_submitter = by_submitter.get(&self.submitter).copied().unwrap_or(0);
        let of_job = by_job.get(&self.id.job).copied().unwrap_or(0);
        (Reverse(self.priority), (of_submitter, of_job), self.arrival)
    }
}

/// The shards of which tasks could be granted now.
pub(crate) struct ClaimQueue {
    shards: Vec<Claimable>,
    /// Tasks leased now, per submitter and per job; only where there are several jobs.
    leased: Option<(BTreeMap<NodeId, u64>, BTreeMap<JobId, u64>)>,
}

impl ClaimQueue {
    /// Tasks in it.
    pub(crate) fn pending(&self) -> u64 {
        self.shards.iter().map(|shard| u64::from(shard.pending)).sum()
    }

    /// Where to look for the next executor's tasks, in order. Thousands of jobs may wait, and the first few are enough.
    pub(crate) fn order(&self) -> Box<dyn Iterator<Item = usize>> {
        let shards = self.shards.iter().enumerate().filter(|(_, shard)| shard.pending > 0);
        let Some((by_submitter, by_job)) = &self.leased else {
            return Box::new(shards.map(|(at, _)| at).collect::<Vec<_>>().into_iter());
        };
        let rank = |(at, shard): (usize, &Claimable)| Reverse((shard.rank(by_submitter, by_job), at));
        let mut heap: BinaryHeap<_> = shards.map(rank).collect();
        Box::new(core::iter::from_fn(move || heap.pop().map(|Reverse((_, at))| at)))
    }

    /// A shard and its tasks.
    pub(crate) fn at(&self, at: usize) -> (ShardId, u64) {
        (self.shards[at].id, self.shards[at].pending.into())
    }

    /// So many of its tasks were granted.
    pub(crate) fn note(&mut self, at: usize, taken: u32) {
        let shard = &mut self.shards[at];
        shard.pending = shard.pending.saturating_sub(taken);
        if let Some((by_submitter, by_job)) = &mut self.leased {
            *by_submitter.entry(shard.submitter).or_default() += u64::from(taken);
            *by_job.entry(shard.id.job).or_default() += u64::from(taken);
        }
    }
}

impl Node {
    /// What could be granted now, by the order of arrival of the jobs.
    pub(crate) fn claim_queue(&mut self) -> ClaimQueue {
        let shards = self.claimable_shards();
        let mixed = shards.first().is_some_and(|first| shards.iter().any(|shard| shard.id.job != first.id.job));
        self.custody.claims.choosy = shards.iter().any(|shard| self.is_choosy(shard.id));
        ClaimQueue { leased: mixed.then(|| self.leased()), shards }
    }

    fn claimable_shards(&self) -> Vec<Claimable> {
        let mut shares: BTreeMap<JobId, u32> = BTreeMap::new();
        let mut shards = Vec::new();
        for (arrival, id) in &self.custody.open {
            let (Some(arbiter), Some(job)) = (self.grantable(*id), self.jobs.get(id.job)) else { continue };
            let mut pending = arbiter.claimable();
            if job.spec.options.parallel_max.is_some() {
                let share = shares.entry(id.job).or_insert_with(|| self.share_left(id.job));
                pending = pending.min(*share);
                *share -= pending;
            }
            if pending > 0 {
                let (priority, submitter) = (job.spec.options.priority, job.spec.submitter);
                shards.push(Claimable { id: *id, pending, priority, submitter, arrival: *arrival });
            }
        }
        shards
    }

    /// Tasks leased here now.
    fn leased(&self) -> (BTreeMap<NodeId, u64>, BTreeMap<JobId, u64>) {
        let (mut by_submitter, mut by_job) = (BTreeMap::new(), BTreeMap::new());
        for (_, id) in &self.custody.open {
            let leased = u64::from(self.leased_of(*id));
            if let Some(job) = self.jobs.get(id.job).filter(|_| leased > 0) {
                *by_submitter.entry(job.spec.submitter).or_default() += leased;
                *by_job.entry(id.job).or_default() += leased;
            }
        }
        (by_submitter, by_job)
    }

    /// Tasks of a shard leased now.
    pub(crate) fn leased_of(&self, id: ShardId) -> u32 {
        let arbiter = self.custody.shards.get(&id).and_then(|shard| shard.arbiter.as_ref());
        arbiter.map_or(0, |arbiter| arbiter.leases.values().map(|lease| count_of(&lease.tasks)).sum())
    }

    /// Tasks of another job that would be granted before those of this shard now.
    pub(crate) fn ahead_of(&self, id: ShardId) -> Option<Ahead> {
        let shards = self.claimable_shards();
        let leased = self.leased();
        let mine = shards.iter().find(|shard| shard.id == id)?;
        let rank = |shard: &Claimable| shard.rank(&leased.0, &leased.1);
        // What no node can run is in nobody's way.
        let others = shards.iter().filter(|it| it.id.job != id.job && self.fits_somebody(it.id));
        let first = others.min_by_key(|it| rank(it))?;
        if rank(first) > rank(mine) {
            return None;
        }
        let why = match (first.priority.cmp(&mine.priority), rank(first).1, rank(mine).1) {
            (core::cmp::Ordering::Greater, ..) => Order::Priority,
            (_, theirs, ours) if theirs < ours => Order::Share,
            _ => Order::Arrival,
        };
        let same = shards.iter().filter(|shard| shard.id.job == first.id.job);
        Some(Ahead {
            job: first.id.job,
            name: self.jobs.get(first.id.job).map(|job| job.spec.name.clone()).unwrap_or_default(),
            priority: first.priority,
            tasks: same.map(|shard| shard.pending).fold(0, u32::saturating_add),
            why,
        })
    }

    fn fits_somebody(&self, id: ShardId) -> bool {
        self.stage_of(id).is_some_and(|stage| self.living_records().any(|record| stage.fits(record)))
    }

    // ---- to whom

    fn is_choosy(&self, id: ShardId) -> bool {
        let Some(stage) = self.stage_of(id) else { return false };
        let (memory, slots) = self.custody.claims.least;
        !stage.options.place.is_empty()
            || stage.resources().any(|it| it.slots > 1.max(slots) || (memory > 0 && it.memory_bytes_max > memory))
    }

    fn stage_of(&self, id: ShardId) -> Option<&crate::StageSpec> {
        self.custody.shards.get(&id)?.spec.stages.get(usize::from(id.stage))
    }

    /// Tasks that could be granted to this node now.
    pub(crate) fn claimable_for(&self, node: NodeId) -> u32 {
        let all = self.claimable();
        if all == 0 || !self.custody.claims.choosy {
            return all;
        }
        let some = |shard: &Claimable| self.may_take(shard.id, node, u64::from(shard.pending)) > 0;
        let shards = self.claimable_shards();
        shards.iter().filter(|shard| some(shard)).map(|shard| shard.pending).fold(0, u32::saturating_add)
    }

    /// How many tasks of a shard an executor may have that asks for `count` slots' worth.
    pub(crate) fn may_take(&self, id: ShardId, executor: NodeId, count: u64) -> u64 {
        let Some(stage) = self.stage_of(id) else { return 0 };
        let Some(record) = self.record_of(executor) else {
            // Not heard of yet: it is granted what is for everybody.
            return if self.is_choosy(id) { 0 } else { count };
        };
        let Some(resources) = stage.resources_on(record).filter(|_| stage.options.place.allows(record)) else {
            return 0;
        };
        if !stage.options.place.likes(record) && self.waits_for_liked(id) {
            return 0;
        }
        (count / u64::from(resources.slots.max(1))).max(1)
    }

    fn record_of(&self, node: NodeId) -> Option<&NodeRecord> {
        if node == self.me() {
            return Some(&self.membership.me);
        }
        self.membership.members.get(&node).map(|member| &*member.record)
    }

    /// Whether a node that the stage likes is about to take its tasks.
    pub(crate) fn waits_for_liked(&self, id: ShardId) -> bool {
        let arbiter = self.custody.shards.get(&id).and_then(|shard| shard.arbiter.as_ref());
        let since = arbiter.and_then(|arbiter| arbiter.liked_at.or(arbiter.able_since));
        // Nothing is known yet of a shard that has just become able to run.
        let recent = since.is_none_or(|since| self.now.since(since) < LIKED_FIRST);
        recent
            && self
                .stage_of(id)
                .is_some_and(|stage| self.living_records().any(|it| stage.fits(it) && stage.options.place.likes(it)))
    }

    /// Nodes that may be granted something.
    fn living_records(&self) -> impl Iterator<Item = &NodeRecord> {
        let alive = self.membership.members.values().filter(|member| member.state == MemberState::Alive);
        alive.map(|member| &*member.record).chain([&self.membership.me])
    }

    pub(crate) fn note_liked(&mut self, id: ShardId, executor: NodeId) {
        let Some(place) = self.stage_of(id).map(|stage| &stage.options.place).filter(|place| !place.is_empty()) else {
            return;
        };
        let likes = self.record_of(executor).is_some_and(|record| place.likes(record));
        let now = self.now;
        if let Some(arbiter) = self.arbiter_mut(id).filter(|_| likes) {
            arbiter.liked_at = Some(now);
        }
    }

    /// Called every heartbeat.
    pub(crate) fn keep_claims(&mut self) {
        let memory = self.living_records().map(|it| it.memory_bytes).filter(|bytes| *bytes > 0).min();
        let slots = self.living_records().map(|it| it.slots).min();
        self.custody.claims.least = (memory.unwrap_or(0), slots.unwrap_or(1));
    }

    // ---- time

    /// Fails tasks that are not over so long after they could run, as their stage allows.
    pub(crate) fn end_total(&mut self, id: ShardId) {
        let now = self.now;
        let Some(options) = self.stage_of(id).map(|stage| &stage.options) else { return };
        if options.total_ms_max.is_none() && options.place.is_empty() {
            return;
        }
        let total = options.total_ms_max.map(Duration::from_millis);
        let able = self.grantable(id).is_some();
        let Some(shard) = self.custody.shards.get_mut(&id) else { return };
        let open = shard.open_tasks();
        let Some(arbiter) = shard.arbiter.as_mut().filter(|arbiter| able || arbiter.able_since.is_some()) else {
            return;
        };
        let since = *arbiter.able_since.get_or_insert(now);
        if total.is_none_or(|total| now.since(since) < total) {
            return;
        }
        let tasks: BTreeSet<u32> = arbiter.blocked.keys().copied().collect();
        let mut late = open;
        tasks.into_iter().for_each(|task| late.remove(task..task + 1));
        for range in arbiter.unconfirmed_tasks().iter() {
            late.remove(range.clone());
        }
        let epoch = arbiter.epoch;
        let mut recalls = Vec::new();
        for (number, lease) in core::mem::take(&mut arbiter.leases) {
            recalls.push((lease.executor, LeaseId { shard: id, epoch, number }, ranges_of(&lease.tasks)));
        }
        for (executor, lease, tasks) in recalls {
            self.send(executor, Message::Recall { lease, tasks });
        }
        let state = TaskState::ended(End::Exhausted(Results::one(Outcome::bare(Ending::TimedOut), [])));
        let segment: Vec<Run> = ranges_of(&late).into_iter().map(|range| Run { range, state: state.clone() }).collect();
        if !segment.is_empty() {
            self.record(id, segment, None);
        }
    }
}
