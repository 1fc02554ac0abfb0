//! Whose tasks are granted first, and which executor may have them.
//!
//! Always true:
//! - at one arbiter, tasks of a greater priority are granted before others; among equals those of the submitter, and of the
//!   job, that has the fewest leased here; then those submitted first;
//! - nobody is granted a task that its record says it cannot run.
//!
//! Across arbiters this is a hint: executors ask any arbiter that has work.
//!
//! Elsewhere: granting itself is `arbiter`; the order is kept by `claim_queue`; how many tasks of a job run at once is `parallel`.

use core::cmp::{Ordering, Reverse};
use core::time::Duration;
use std::sync::Arc;

use crate::arbiter::Arbiter;
use crate::claim_queue::{ClaimQueue, Group};
use crate::demands::Needs;
use crate::message::NodeRecord;
use crate::node::Node;
use crate::situation::{Ahead, Order};
use crate::task_sets::count_of;
use crate::{JobId, MemberState, NodeId, Resources, ShardId, StageSpec, Standing, Strategy};

/// Tasks are kept for nodes that their stage likes as long as one of them took some so recently.
const LIKED_FIRST: Duration = Duration::from_secs(1);

/// What is remembered between grants.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    pub(crate) queue: ClaimQueue,
    /// The least memory and slots that a member offers.
    least: (u64, u32),
}

impl Node {
    // ---- counting

    /// At the end of every event: counts anew the shards that it touched.
    pub(crate) fn recount_claims(&mut self) {
        for id in self.custody.take_touched() {
            self.recount(id);
        }
        debug_assert!(self.is_counted(), "whatever changes a shard touches it");
    }

    /// Whether the queue is what counting everything anew would make it.
    fn is_counted(&self) -> bool {
        let queue = &self.custody.claims.queue;
        let kept = self.custody.kept().keys();
        let is_right = |id: &ShardId| queue.counts_of(*id) == (self.pending_of(*id), self.leased_of(*id));
        kept.clone().all(is_right) && queue.shards().all(|id| self.custody.shard(id).is_some())
    }

    fn recount(&mut self, id: ShardId) {
        let (pending, leased) = (self.pending_of(id), self.leased_of(id));
        let job = self.jobs.get(id.job);
        let submitter = job.map_or(self.me(), |job| job.spec.submitter);
        let queue = &mut self.custody.claims.queue;
        let mut changed = queue.set_leased(id, submitter, leased);
        changed |= queue.set_pending(id, pending, || {
            let job = job.expect("only tasks of a job that is known can be granted");
            let needs = job.spec.stages.get(usize::from(id.stage)).map(Needs::of).unwrap_or_default();
            let priority = Reverse(job.spec.options.priority);
            (Group { priority, submitter, needs: Arc::new(needs) }, job.arrival)
        });
        self.custody.note_looks(id, changed);
    }

    /// Tasks of a shard that could be granted, but for the number that its job allows at once.
    fn pending_of(&self, id: ShardId) -> u32 {
        let is_open = self.custody.shard(id).is_some_and(|shard| !shard.is_over());
        self.grantable(id).filter(|_| is_open).map_or(0, Arbiter::claimable)
    }

    /// Tasks of a shard leased now.
    pub(crate) fn leased_of(&self, id: ShardId) -> u32 {
        let arbiter = self.custody.shard(id).filter(|shard| !shard.is_over()).and_then(|shard| shard.arbiter.as_ref());
        arbiter.map_or(0, |arbiter| arbiter.leases.values().map(|lease| count_of(&lease.tasks)).sum())
    }

    /// Tasks that could be granted now.
    pub(crate) fn count_claimable(&self) -> u64 {
        let queue = &self.custody.claims.queue;
        queue.pending().saturating_sub(self.held_back(|_| true))
    }

    /// Tasks in the queue beyond what their jobs allow at once, of some kinds.
    fn held_back(&self, of: impl Fn(&Group) -> bool) -> u64 {
        let queue = &self.custody.claims.queue;
        let beyond = |job: JobId| {
            let pending: u64 = queue.stages_of(job).filter(|(group, _)| of(group)).map(|(_, pending)| pending).sum();
            pending.saturating_sub(if pending > 0 { u64::from(self.share_left(job)) } else { 0 })
        };
        self.jobs.limited().map(beyond).sum()
    }

    /// Tasks of another job that would be granted before those of this shard now.
    pub(crate) fn ahead_of(&self, id: ShardId) -> Option<Ahead> {
        let queue = &self.custody.claims.queue;
        let mine = queue.rank_of(id)?;
        // What no node can run is in nobody's way.
        let can_run = |group: &Group| self.living_records().any(|record| group.needs.fit(record));
        let groups: Vec<_> = queue.groups().map(|(group, _)| group).filter(|group| can_run(group)).collect();
        let (job, first) = queue.first_but(id.job, &groups)?;
        if first > mine {
            return None;
        }
        let why = match (first.0.cmp(&mine.0), first.1, mine.1) {
            (Ordering::Less, ..) => Order::Priority,
            (_, theirs, ours) if theirs < ours => Order::Share,
            _ => Order::Arrival,
        };
        let tasks: u64 = queue.stages_of(job).map(|(_, pending)| pending).sum();
        Some(Ahead {
            job,
            name: self.jobs.get(job).map(|job| job.spec.name.clone()).unwrap_or_default(),
            priority: first.0.0,
            tasks: u32::try_from(tasks).unwrap_or(u32::MAX),
            why,
        })
    }

    // ---- to whom

    /// Whether such tasks are not for everybody.
    fn is_choosy(&self, needs: &Needs) -> bool {
        let (memory, slots) = self.custody.claims.least;
        let asks_more = |it: &Resources| it.slots > 1.max(slots) || (memory > 0 && it.memory_bytes_max > memory);
        !needs.place.is_empty() || needs.resources.iter().any(asks_more)
    }

    pub(crate) fn stage_of(&self, id: ShardId) -> Option<&crate::StageSpec> {
        self.custody.shard(id)?.spec.stages.get(usize::from(id.stage))
    }

    /// Tasks that could be granted to this node now.
    pub(crate) fn claimable_for(&self, node: NodeId) -> u32 {
        if self.claimable() == 0 {
            return 0;
        }
        let queue = &self.custody.claims.queue;
        let groups = queue.groups().filter(|(group, _)| self.may_claim(node, group));
        let some = |(id, pending): &(ShardId, u32)| self.may_take(*id, node, u64::from(*pending)) > 0;
        let of_group = |(group, pending): (&Group, u64)| match group.needs.place.is_indifferent() {
            true => pending,
            false => queue.order(&[group]).filter(some).map(|(_, pending)| u64::from(pending)).sum(),
        };
        let all: u64 = groups.map(of_group).sum();
        let all = all.saturating_sub(self.held_back(|group| self.may_claim(node, group)));
        u32::try_from(all).unwrap_or(u32::MAX)
    }

    /// Where the tasks stand that this node would be granted first.
    pub(crate) fn first_for(&self, node: NodeId) -> Option<Standing> {
        let queue = &self.custody.claims.queue;
        let groups: Vec<_> = queue.groups().map(|(group, _)| group).filter(|it| self.may_claim(node, it)).collect();
        let (first, _) = queue.order(&groups).next()?;
        let (priority, (leased, _), _) = queue.rank_of(first)?;
        Some(Standing { priority: priority.0, leased: u32::try_from(leased).unwrap_or(u32::MAX) })
    }

    /// Whether an executor may have tasks of this kind at all. Of one that was not heard of yet nothing is known: it is
    /// granted what is for everybody.
    pub(crate) fn may_claim(&self, executor: NodeId, group: &Group) -> bool {
        let record = self.record_of(executor);
        record.map_or_else(|| !self.is_choosy(&group.needs), |record| group.needs.fit(record))
    }

    /// How many tasks of a shard an executor may have that asks for `count` slots' worth, of a kind that it may claim.
    pub(crate) fn may_take(&self, id: ShardId, executor: NodeId, count: u64) -> u64 {
        let (Some(stage), Some(record)) = (self.stage_of(id), self.record_of(executor)) else { return count };
        let Some(resources) = stage.resources_on(record) else { return 0 };
        if !self.is_liked(id, stage, record) && self.waits_for_liked(id) {
            return 0;
        }
        let count = (count / u64::from(resources.slots.max(1))).max(1);
        match stage.options.place.strategy {
            Strategy::Spread => count.min(self.even_part(id, stage, record).max(1).into()),
            Strategy::Any | Strategy::Pack => count,
        }
    }

    fn record_of(&self, node: NodeId) -> Option<&NodeRecord> {
        if node == self.me() {
            return Some(&self.membership.me);
        }
        self.membership.members.get(&node).map(|member| &*member.record)
    }

    /// Whether a node that the stage likes is about to take its tasks.
    pub(crate) fn waits_for_liked(&self, id: ShardId) -> bool {
        let arbiter = self.custody.shard(id).and_then(|shard| shard.arbiter.as_ref());
        let since = arbiter.and_then(|arbiter| arbiter.liked_at.or(arbiter.able_since));
        // Nothing is known yet of a shard that has just become able to run.
        let recent = since.is_none_or(|since| self.now.since(since) < LIKED_FIRST);
        recent
            && self
                .stage_of(id)
                .is_some_and(|stage| self.living_records().any(|it| stage.fits(it) && self.is_liked(id, stage, it)))
    }

    /// Whether there is no node that its tasks should rather go to.
    fn is_liked(&self, id: ShardId, stage: &StageSpec, record: &NodeRecord) -> bool {
        let place = &stage.options.place;
        place.likes(record)
            && match place.strategy {
                Strategy::Any => true,
                Strategy::Spread => self.even_part(id, stage, record) > 0,
                Strategy::Pack => {
                    let mine = (self.room_on(record), record.node);
                    !self.rivals(stage, record).any(|other| (self.room_on(other), other.node) < mine)
                }
            }
    }

    /// How many tasks of a shard bring the node to one more than those that have the fewest.
    fn even_part(&self, id: ShardId, stage: &StageSpec, record: &NodeRecord) -> u32 {
        let fewest = self.rivals(stage, record).map(|other| self.leased_to(id, other.node)).min();
        fewest.map_or(u32::MAX, |fewest| (fewest + 1).saturating_sub(self.leased_to(id, record.node)))
    }

    /// Other nodes that could take a task of the stage now, and are liked as much.
    fn rivals(&self, stage: &StageSpec, record: &NodeRecord) -> impl Iterator<Item = &NodeRecord> {
        let has_room = |it: &NodeRecord| stage.resources_on(it).is_some_and(|taken| taken.slots <= self.room_on(it));
        let place = &stage.options.place;
        let others = self.living_records().filter(move |it| it.node != record.node && !it.draining);
        others.filter(move |it| place.allows(it) && place.likes(it) && has_room(it))
    }

    /// Free slots: what the node said last, or less by what was leased to it here since.
    fn room_on(&self, record: &NodeRecord) -> u32 {
        let leased = |id: &ShardId| self.leased_to(*id, record.node);
        record.slots_free.min(record.slots.saturating_sub(self.custody.active().iter().map(leased).sum()))
    }

    fn leased_to(&self, id: ShardId, executor: NodeId) -> u32 {
        let arbiter = self.custody.shard(id).and_then(|shard| shard.arbiter.as_ref());
        let leases = arbiter.into_iter().flat_map(|arbiter| arbiter.leases.values());
        leases.filter(|lease| lease.executor == executor).map(|lease| count_of(&lease.tasks)).sum()
    }

    /// Nodes that may be granted something.
    pub(crate) fn living_records(&self) -> impl Iterator<Item = &NodeRecord> {
        let alive = self.membership.members.values().filter(|member| member.state == MemberState::Alive);
        alive.map(|member| &*member.record).chain([&self.membership.me])
    }

    pub(crate) fn note_liked(&mut self, id: ShardId, executor: NodeId) {
        let Some(stage) = self.stage_of(id).filter(|stage| !stage.options.place.is_empty()) else { return };
        let likes = self.record_of(executor).is_some_and(|record| self.is_liked(id, stage, record));
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
}
