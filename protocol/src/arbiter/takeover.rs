//! Becoming the arbiter of a shard, and ceasing to be: promises of an epoch, the grace, and the quiet after an argument.
//!
//! Always true:
//! - nothing is granted before every custodian that answers has promised the epoch;
//! - after a term in which another may have granted, the executors are waited for: the grace;
//! - whoever hears of a higher epoch steps down, and does not argue at once.
//!
//! Elsewhere: giving a promise is `custody`.

use core::time::Duration;
use std::collections::BTreeMap;

use super::{Arbiter, Phase, REPEAT};
use crate::custody::SHARDS_PER_MESSAGE;
use crate::message::{Message, ShardPromise};
use crate::node::{NUMBERS_MAX, Node};
use crate::{Epoch, LeaseId, NodeId, ShardId};

/// After a takeover, executors have this long to re-announce their leases.
const GRACE: Duration = Duration::from_millis(400);
/// Custodians of a new shard promise unasked, as soon as they know of it: so long after the arbiter, or they are asked.
const UNASKED: Duration = Duration::from_millis(20);
/// The first wait after being deposed; a random one, so that two that argue do not meet again.
const QUIET_FIRST_MS: core::ops::Range<u64> = 50..400;
/// The longest such wait: whoever deposed me and then died is not waited for longer.
const QUIET_MAX: Duration = Duration::from_secs(2);
/// Deposed again within this time after the wait: the argument goes on.
const QUIET_MEMORY: Duration = Duration::from_secs(3);

impl Node {
    /// The first reachable custodian of each open shard arbitrates it. Of a new shard the others promise unasked what it
    /// would ask for, which saves a round trip; it asks those who did not within [`UNASKED`].
    pub(super) fn review_arbitration(&mut self) {
        let may = self.has_settled();
        let me = self.me();
        let mut prepares: BTreeMap<NodeId, Vec<(ShardId, Epoch)>> = BTreeMap::new();
        let mut promises: BTreeMap<NodeId, Vec<ShardPromise>> = BTreeMap::new();
        for id in self.custody.take_review() {
            let Some(shard) = self.custody.shard(id).filter(|shard| !shard.is_over()) else { continue };
            let first = shard.custodians.iter().copied().find(|node| self.reaches(*node));
            match (first == Some(me), shard.arbiter.is_some()) {
                (true, false) if may && self.now >= shard.quiet_until => {
                    let is_new = shard.is_new() && !self.custody.promises.contains_key(&id);
                    for (other, epoch) in self.take_up(id) {
                        if !is_new {
                            prepares.entry(other).or_default().push((id, epoch));
                        }
                    }
                }
                (true, false) => self.custody.review_later(id), // as soon as it may
                (false, true) => self.step_down(id),
                (false, false) if shard.is_new() && !may => self.custody.review_later(id),
                (false, false) if shard.is_new() && !self.custody.promises.contains_key(&id) => {
                    let Some(first) = first else { continue };
                    let promised = Epoch::NONE.next(first);
                    self.promise(id, promised);
                    promises.entry(first).or_default().push(ShardPromise { shard: id, promised, before: Epoch::NONE });
                }
                _ => {}
            }
        }
        for (other, shards) in prepares {
            self.send_prepares(other, &shards);
        }
        for (first, promised) in promises {
            for chunk in promised.chunks(SHARDS_PER_MESSAGE) {
                self.send(first, Message::Promise(chunk.to_vec()));
            }
        }
    }

    /// Begins to arbitrate; returns whom to ask for a promise.
    fn take_up(&mut self, id: ShardId) -> Vec<(NodeId, Epoch)> {
        let me = self.me();
        let before = self.custody.promises.get(&id).copied().unwrap_or_default();
        let epoch = before.next(me);
        self.promise(id, epoch);
        let Some(shard) = self.custody.shard(id) else { return Vec::new() };
        let waiting = self.other_custodians(shard);
        let asked = waiting.iter().map(|other| (*other, epoch)).collect();
        let numbers = self.rng.u64(..NUMBERS_MAX);
        let first_repeat = self.now + if before == Epoch::NONE { UNASKED } else { REPEAT };
        self.wake(first_repeat, "promise");
        let arbiter = Arbiter::new(epoch, waiting, first_repeat, before != Epoch::NONE, numbers);
        if let Some(shard) = self.custody.shard_mut(id) {
            shard.arbiter = Some(arbiter);
        }
        self.hurry_if_unsure(id);
        self.advance(id);
        asked
    }

    pub(super) fn keep_preparing(&mut self, id: ShardId) {
        let now = self.now;
        let Some(shard) = self.custody.shard(id) else { return };
        let reachable = self.other_custodians(shard);
        let Some(arbiter) = self.arbiter_mut(id) else { return };
        let epoch = arbiter.epoch;
        let Phase::Preparing { waiting, repeat, .. } = &mut arbiter.phase else { return };
        waiting.retain(|node| reachable.contains(node));
        if now >= *repeat {
            *repeat = now + REPEAT;
            for node in waiting.clone() {
                self.send_prepares(node, &[(id, epoch)]);
            }
        }
    }

    pub(crate) fn on_promise(&mut self, from: NodeId, promises: Vec<ShardPromise>) {
        for given in promises {
            let Some(arbiter) = self.arbiter_mut(given.shard) else { continue };
            if given.promised > arbiter.epoch {
                self.on_deposed(given.shard, given.promised);
            } else if given.promised == arbiter.epoch
                && let Phase::Preparing { waiting, seen_before, .. } = &mut arbiter.phase
            {
                waiting.remove(&from);
                *seen_before |= given.before != Epoch::NONE && given.before != given.promised;
                self.advance(given.shard);
            }
        }
    }

    /// Goes on when nobody is left to wait for.
    pub(super) fn advance(&mut self, id: ShardId) {
        let now = self.now;
        let is_stopped = self.is_stopped(id.job);
        let Some(shard) = self.custody.shard_mut(id) else { return };
        let open = shard.open_tasks();
        let Some(arbiter) = shard.arbiter.as_mut() else { return };
        match &arbiter.phase {
            Phase::Preparing { waiting, seen_before, .. } if waiting.is_empty() => {
                arbiter.pending = open;
                arbiter.phase = if *seen_before { Phase::Grace { until: now + GRACE } } else { Phase::Granting };
                if is_stopped {
                    self.cancel_rest(id);
                } else {
                    self.block_tasks(id);
                }
                self.wake(now + GRACE, "grace");
            }
            Phase::Grace { until } if now >= *until => arbiter.phase = Phase::Granting,
            _ => return,
        }
        self.exhaust_overrun(id);
        self.custody.grants_changed = true;
    }

    /// Somebody promised a higher epoch: step down, and do not argue at once.
    pub(crate) fn on_deposed(&mut self, id: ShardId, epoch: Epoch) {
        if self.arbiter_mut(id).is_some_and(|arbiter| arbiter.epoch < epoch) {
            self.promise(id, epoch);
            let (now, first) = (self.now, Duration::from_millis(self.rng.u64(QUIET_FIRST_MS)));
            if let Some(shard) = self.custody.shard_mut(id) {
                let goes_on = now.since(shard.quiet_until) < QUIET_MEMORY;
                shard.quiet = if goes_on { (shard.quiet * 2 + first / 2).clamp(first, QUIET_MAX) } else { first };
                shard.quiet_until = now + shard.quiet;
            }
        }
    }

    /// Gives up; executors are told to look for the next arbiter.
    pub(crate) fn step_down(&mut self, id: ShardId) {
        let Some(arbiter) = self.custody.shard_mut(id).and_then(|shard| shard.arbiter.take()) else { return };
        for (executor, lease) in arbiter.gathered.leases() {
            self.send(executor, Message::Fenced(lease));
        }
        for (number, lease) in arbiter.leases {
            self.send(lease.executor, Message::Fenced(LeaseId { shard: id, epoch: arbiter.epoch, number }));
        }
        self.custody.review(id);
        self.progress_is_due(id);
    }
}
