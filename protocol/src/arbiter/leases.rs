//! Leases: how long they hold, and how they go back, are continued under another arbiter or are lost.
//!
//! Always true: a lease that is not renewed ends; its tasks are charged a lost attempt and may be granted again.
//!
//! Elsewhere: the executor's side is `worker`; a second lease of one task is `stragglers`.

use core::time::Duration;

use rangemap::RangeSet;

use super::{Arbiter, Phase};
use crate::custody::Shard;
use crate::message::Message;
use crate::node::Node;
use crate::planted::PlantedBug;
use crate::task_sets::{common, ranges_of};
use crate::{Ending, LeaseId, NodeId, Outcome, Range, ShardId, Time};

/// How long a lease holds without renewal: ten heartbeats. Only a frozen executor lasts that long; of one that died the
/// connection closes.
pub(super) const LEASE_TTL: Duration = Duration::from_millis(2500);
/// What is left of a lease when the executor's connection closes: time to reconnect, no more. A process that was killed is
/// not there to be dialled; a connection alone is back within some 10 ms.
const LEASE_TTL_UNLINKED: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) executor: NodeId,
    /// Granted and not reported.
    pub(crate) tasks: RangeSet<u32>,
    /// The grant, or the last report.
    pub(crate) since: Time,
    expires: Time,
}

impl Lease {
    /// The tasks of `ranges` that are leased by it.
    pub(crate) fn common(&self, ranges: &[Range]) -> RangeSet<u32> {
        common(&self.tasks, ranges)
    }
}

impl Arbiter {
    pub(super) fn lease(&mut self, executor: NodeId, tasks: RangeSet<u32>, now: Time) -> u64 {
        self.last_lease += 1;
        if tasks.is_empty() {
            return self.last_lease; // an answer to `Resume` that leaves nothing
        }
        self.leases.insert(self.last_lease, Lease { executor, tasks, since: now, expires: now + LEASE_TTL });
        self.last_lease
    }

    /// These are leased no more: they may be granted again, unless another node runs them too.
    pub(super) fn free(&mut self, tasks: &RangeSet<u32>) {
        for range in tasks.iter() {
            self.pending.insert(range.clone());
            self.copies.withdraw(range.clone());
        }
        if self.copies.were_granted() {
            for lease in self.leases.values() {
                lease.tasks.iter().for_each(|range| self.pending.remove(range.clone()));
            }
        }
    }
}

impl Node {
    /// The executor lives and runs these leases.
    pub(crate) fn renew(&mut self, from: NodeId, leases: Vec<LeaseId>) {
        let now = self.now;
        for id in leases {
            let lease = self.arbiter_of(id).and_then(|arbiter| arbiter.leases.get_mut(&id.number));
            match lease.filter(|lease| lease.executor == from) {
                Some(lease) => lease.expires = now + LEASE_TTL,
                None => self.send(from, Message::Fenced(id)),
            }
        }
    }

    /// The executor's connection closed.
    pub(crate) fn on_executor_unlinked(&mut self, executor: NodeId) {
        let expires = self.now + LEASE_TTL_UNLINKED;
        self.custody.wants.remove(&executor);
        let mut any = false;
        for id in self.custody.active() {
            let leases = self.arbiter_mut(id).into_iter().flat_map(|arbiter| arbiter.leases.values_mut());
            for lease in leases.filter(|lease| lease.executor == executor) {
                lease.expires = lease.expires.min(expires);
                any = true;
            }
        }
        if any {
            self.wake(expires, "lease");
        }
        self.on_arbiter_unlinked(executor);
    }

    pub(crate) fn on_release(&mut self, from: NodeId, id: LeaseId, tasks: Vec<Range>) {
        let Some(arbiter) = self.arbiter_of(id) else { return };
        let Some(lease) = arbiter.leases.get_mut(&id.number).filter(|lease| lease.executor == from) else { return };
        let released = lease.common(&tasks);
        released.iter().for_each(|range| lease.tasks.remove(range.clone()));
        if lease.tasks.is_empty() {
            arbiter.leases.remove(&id.number);
        }
        arbiter.free(&released);
        self.custody.grants_changed = true;
    }

    pub(crate) fn on_resume(&mut self, from: NodeId, old: LeaseId, tasks: Vec<Range>) {
        let Some(arbiter) = self.arbiter_mut(old.shard) else {
            if self.is_over_elsewhere(old.shard) {
                self.send(from, Message::Ack { lease: old, tasks });
            } else {
                self.custody.hurry(self.now); // the executor asks again
            }
            return;
        };
        if matches!(arbiter.phase, Phase::Preparing { .. }) {
            return; // the executor asks again
        }
        if old.epoch == arbiter.epoch
            && let Some(lease) = arbiter.leases.get(&old.number)
            && lease.executor == from
        {
            let lease = arbiter.leases.remove(&old.number).expect("just seen");
            arbiter.free(&lease.tasks);
        }
        // What already runs waits for nothing any more, though its end of waiting was not heard of here.
        for range in tasks.iter().filter(|range| range.count > 0) {
            let running: Vec<u32> = arbiter.blocked.range(range.indexes()).map(|(task, _)| *task).collect();
            for task in running {
                arbiter.blocked.remove(&task);
                arbiter.pending.insert(task..task + 1);
            }
        }
        let continued = common(&arbiter.pending, &tasks);
        for range in continued.iter() {
            arbiter.pending.remove(range.clone());
        }
        self.send_grant(old.shard, from, continued, Some(old));
        self.custody.grants_changed = true;
    }

    /// Whether every task of the shard has ended, and somebody besides me knows it where there is anybody.
    fn is_over_elsewhere(&self, id: ShardId) -> bool {
        let known = |shard: &Shard| !shard.confirmed.is_empty() || self.keepers(id, shard).is_empty();
        self.custody.shard(id).is_some_and(|shard| shard.is_over() && known(shard))
    }

    pub(super) fn end_leases(&mut self, id: ShardId) {
        let now = self.now;
        if self.plants(PlantedBug::KeepsDeadLeases) {
            return;
        }
        let Some(arbiter) = self.arbiter_mut(id) else { return };
        let over: Vec<_> =
            arbiter.leases.iter().filter(|(_, lease)| now >= lease.expires).map(|(number, _)| *number).collect();
        for number in over {
            self.lose_lease(id, number);
        }
    }

    /// The executor is gone: its tasks are charged a lost attempt and are pending again.
    fn lose_lease(&mut self, id: ShardId, number: u64) {
        let Some(arbiter) = self.arbiter_mut(id) else { return };
        let Some(lease) = arbiter.leases.remove(&number) else { return };
        let lease_id = LeaseId { shard: id, epoch: arbiter.epoch, number };
        let lost = Outcome::bare(Ending::Lost);
        let outcomes: Vec<_> = ranges_of(&lease.tasks).into_iter().map(|range| (range, lost.clone())).collect();
        if !outcomes.is_empty() {
            self.record_outcomes(lease.executor, lease_id, outcomes, false);
        }
    }
}
