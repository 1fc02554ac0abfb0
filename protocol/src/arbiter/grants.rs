//! Granting: who waits for work, how much of it each gets, and of which shards.
//!
//! Always true: nothing is granted but in the phase for it, of a job that may run, to a node that may have it.
//!
//! Elsewhere: the order of the shards is `claim_queue`; which node may have which tasks is `claims`, and how many of a job
//! run at once `parallel`; what becomes of a lease is `leases`.

use core::time::Duration;
use std::collections::BTreeMap;

use rangemap::RangeSet;

use super::leases::LEASE_TTL;
use super::{Arbiter, Phase};
use crate::claim_queue::ClaimQueue;
use crate::custody::Shard;
use crate::message::{Grant, Message, RATES_MAX, StageRate};
use crate::node::Node;
use crate::planted::PlantedBug;
use crate::task_sets::count_of;
use crate::{JobId, LeaseId, NodeId, Range, ShardId, Time};

/// A want is forgotten after this; executors repeat it sooner.
pub(super) const WANT_TTL: Duration = Duration::from_millis(1500);
/// Work handed out at once: so much of what the executor manages, in milliseconds. Short batches end a job evenly; long ones
/// cost less, as long as much is left.
pub(crate) const BATCH_MS: core::ops::RangeInclusive<u64> = 20..=200;
/// Tasks in one grant.
const BATCH_TASKS_MAX: u64 = 4096;
/// What a batch that several stages fill is counted in.
const BATCH_PARTS: u64 = 1 << 20;
/// Executors that may wait here.
const WANTS_MAX: usize = 4096;
/// Not more often than this are executors told that there is work again.
const HINT_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct Want {
    slots: u32,
    rates: Vec<StageRate>,
    pub(super) at: Time,
}

impl Want {
    /// So many tasks of a stage, to the nearest, are a batch of this many milliseconds; none where its rate is not known.
    fn tasks_in(&self, shard: ShardId, ms: u64) -> u64 {
        let mut rates = self.rates.iter();
        let known = rates.find(|it| (it.job, it.stage) == (shard.job, shard.stage));
        known.map_or(0, |it| (u64::from(it.rate) * ms + 500) / 1000)
    }

    /// How much of one stage is granted at once: a batch of 20 to 200 ms, shorter towards the end, and one task for each
    /// free slot at least. `fair` of what is left are for each claimant.
    fn batch(&self, shard: ShardId, fair: u64) -> u64 {
        let slots = u64::from(self.slots.max(1));
        let [short, long] = [BATCH_MS.start(), BATCH_MS.end()].map(|ms| self.tasks_in(shard, *ms));
        (fair / 8).clamp(short, long).clamp(slots, (fair / 2).max(slots)).min(BATCH_TASKS_MAX)
    }
}

impl Arbiter {
    /// Takes up to `count` tasks that `executor` may run.
    fn take(&mut self, executor: NodeId, count: u64, now: Time) -> RangeSet<u32> {
        self.avoid.retain(|_, (_, until)| *until > now);
        let mut taken = RangeSet::new();
        let mut left = u32::try_from(count).unwrap_or(u32::MAX);
        'ranges: for range in self.pending.iter() {
            let mut first = range.start;
            // The avoided tasks of this range, in order, cut it into pieces.
            let avoided = self.avoid.range(range.clone()).filter(|(_, (node, _))| *node == executor);
            let avoided = avoided.map(|(task, _)| *task).chain([range.end]);
            for stop in avoided {
                let piece = (stop - first).min(left);
                if piece > 0 {
                    taken.insert(first..first + piece);
                    left -= piece;
                }
                if left == 0 {
                    break 'ranges;
                }
                first = stop.saturating_add(1);
            }
        }
        for range in taken.iter() {
            self.pending.remove(range.clone());
        }
        if left > 0 && self.copies.offered() > 0 {
            taken.extend(self.take_copies(executor, left));
        }
        taken
    }
}

impl Node {
    pub(crate) fn on_want(&mut self, from: NodeId, slots: u32, mut rates: Vec<StageRate>) {
        if self.custody.wants.len() < WANTS_MAX {
            rates.truncate(RATES_MAX);
            self.custody.wants.insert(from, Want { slots, rates, at: self.now });
            self.custody.grants_changed = true;
        }
    }

    /// Whether tasks of the job can be granted may have changed.
    pub(crate) fn on_job_able(&mut self, job: JobId) {
        let open = self.custody.open_of(job);
        self.custody.touch_all(&open);
        self.custody.grants_changed = true;
    }

    /// Tasks that could be granted when grants were made last.
    pub(crate) fn claimable(&self) -> u32 {
        self.custody.claimable
    }

    pub(crate) fn grantable(&self, id: ShardId) -> Option<&Arbiter> {
        let arbiter = self.custody.shard(id)?.arbiter.as_ref()?;
        let job = self.jobs.get(id.job)?;
        let stopped = job.stop.is_some() && !self.plants(PlantedBug::GrantsStopped);
        let waits = !job.is_ready(id.stage) && !self.plants(PlantedBug::IgnoresNeeds);
        let ready = arbiter.phase == Phase::Granting && !stopped && !waits && job.can_be_fetched();
        ready.then_some(arbiter)
    }

    pub(super) fn grant_wants(&mut self) {
        let claimants = self.membership.links.len() as u64 + 1;
        // Of those who wait whoever has the artifact and the inputs already goes first: that costs no waiting.
        let next = self.custody.claims.queue.first();
        let lacks = |node: &NodeId| next.is_some_and(|job| !self.has_blobs_of(job, *node));
        let wants = self.custody.wants.iter().map(|(node, want)| (lacks(node), want.at, *node));
        let mut wants: Vec<_> = wants.collect();
        wants.sort_unstable();
        let mut remaining = self.count_claimable();
        for (.., executor) in wants {
            if remaining == 0 {
                break;
            }
            let Some(want) = self.custody.wants.remove(&executor) else { continue };
            let queue = core::mem::take(&mut self.custody.claims.queue);
            let granted = self.grant_some(executor, &want, remaining / claimants, &queue);
            self.custody.claims.queue = queue;
            if granted == 0 {
                self.custody.wants.insert(executor, want);
                continue;
            }
            self.recount_claims();
            remaining = self.count_claimable();
        }
        self.custody.claimable = u32::try_from(remaining).unwrap_or(u32::MAX);
        self.custody.hint_due = remaining > 0 && (self.custody.hint_due || !self.uninformed().is_empty());
        self.worker.wants_changed |= remaining > 0;
    }

    /// Grants a batch of the first shards that have any tasks for this executor; returns how many tasks.
    fn grant_some(&mut self, executor: NodeId, want: &Want, fair: u64, queue: &ClaimQueue) -> u64 {
        let mut granted = 0;
        // Parts of a batch: tasks of several stages may fill it, each at its own rate.
        let mut left = BATCH_PARTS;
        let mut shares: BTreeMap<JobId, u32> = BTreeMap::new();
        let groups: Vec<_> = queue.groups().map(|(group, _)| group).filter(|it| self.may_claim(executor, it)).collect();
        for (id, pending) in queue.order(&groups) {
            // A shard ends: the rest of a batch is not worth a lease of its own, unless a slot waits for it.
            let fills_slots = granted >= u64::from(want.slots.max(1));
            if left * if fills_slots { 2 } else { BATCH_TASKS_MAX } < BATCH_PARTS {
                break;
            }
            let batch = match self.plants(PlantedBug::GrantsBeyondWants) {
                true => BATCH_TASKS_MAX,
                false => want.batch(id, fair),
            };
            let limited = self.jobs.is_limited(id.job);
            let share = limited.then(|| *shares.entry(id.job).or_insert_with(|| self.share_left(id.job)));
            let count = (batch * left / BATCH_PARTS).min(pending.min(share.unwrap_or(u32::MAX)).into());
            let most = if count > 0 { self.may_take(id, executor, count) } else { 0 };
            let now = self.now;
            let Some(arbiter) = self.arbiter_mut(id).filter(|_| most > 0) else { continue };
            let tasks = arbiter.take(executor, most, now);
            let taken = count_of(&tasks);
            if taken == 0 {
                continue;
            }
            shares.entry(id.job).and_modify(|share| *share = share.saturating_sub(taken));
            granted += u64::from(taken);
            left = left.saturating_sub(u64::from(taken) * BATCH_PARTS / batch);
            self.note_liked(id, executor);
            self.send_grant(id, executor, tasks, None);
        }
        granted
    }

    pub(super) fn send_grant(
        &mut self,
        id: ShardId,
        executor: NodeId,
        tasks: RangeSet<u32>,
        continues: Option<LeaseId>,
    ) {
        let now = self.now;
        let Some(shard) = self.custody.shard_mut(id) else { return };
        let with_attempts = attempts_of(shard, &tasks);
        let Some(arbiter) = shard.arbiter.as_mut() else { return };
        arbiter.waiting_since = None;
        let lease = LeaseId { shard: id, epoch: arbiter.epoch, number: arbiter.lease(executor, tasks, now) };
        let ttl_ms = LEASE_TTL.as_millis() as u32;
        self.send(executor, Message::Grant(Grant { lease, continues, tasks: with_attempts, ttl_ms }));
    }

    /// Peers that were told last that there is nothing for them, and now there is.
    fn uninformed(&self) -> Vec<NodeId> {
        let told_nothing = self.membership.links.told_nothing();
        told_nothing.filter(|peer| self.claimable_for(*peer) > 0).collect()
    }

    /// At the end of an event, when this node took what it wants itself: executors need not wait for the next heartbeat to
    /// learn that there is work.
    pub(crate) fn tell_of_work(&mut self) {
        if !self.custody.hint_due {
            return;
        }
        if self.now < self.custody.next_claimable_hint {
            return self.set_alarm("hint", Some(self.custody.next_claimable_hint));
        }
        self.custody.hint_due = false;
        self.custody.next_claimable_hint = self.now + HINT_EVERY;
        for peer in self.uninformed() {
            self.send_heartbeat(peer);
        }
    }
}

/// The tasks with how often each was tried before, neighbours with the same number together.
fn attempts_of(shard: &Shard, tasks: &RangeSet<u32>) -> Vec<(Range, u16)> {
    let mut all: Vec<(Range, u16)> = Vec::new();
    for task in tasks.iter().flat_map(Clone::clone) {
        let attempts = shard.state.get(task).map_or(0, |state| state.failures.len() as u16);
        match all.last_mut() {
            Some((range, same)) if *same == attempts && range.end() == task => range.count += 1,
            _ => all.push((Range { first: task, count: 1 }, attempts)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId { job: JobId::from_bytes([1; 32]), stage: 0, number: 0 };
    const MUCH: u64 = 1_000_000;

    /// Granted at once to an executor with a slot that manages so many tasks a second, of this fair share.
    fn batch(rate: u32, fair: u64) -> u64 {
        let rates = vec![StageRate { job: SHARD.job, stage: SHARD.stage, rate }];
        Want { slots: 1, rates, at: Time::ZERO }.batch(SHARD, fair)
    }

    #[test]
    fn a_batch_lasts_a_fifth_of_a_second_to_the_nearest_task() {
        assert_eq!(batch(1000, MUCH), 200);
        assert_eq!(batch(9, MUCH), 2, "1.8 tasks");
        assert_eq!(batch(7, MUCH), 1, "1.4 tasks");
    }

    #[test]
    fn batches_get_shorter_towards_the_end() {
        assert_eq!(batch(1000, 800), 100);
        assert_eq!(batch(1000, 80), 20, "but not shorter than a fiftieth of a second");
        assert_eq!(batch(1000, 10), 5, "nor longer than half of what is left");
        assert_eq!(batch(1000, 0), 1);
    }
}
