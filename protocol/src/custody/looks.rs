//! Which shards are to be looked at: those that this event touched, those of which time alone may change something, and those
//! whose arbiter may have to be another.
//!
//! Always true: of thousands of shards that only wait each is looked at now and then, a few at a time.

use core::ops::Bound;
use std::collections::BTreeSet;

use super::Custody;
use crate::ShardId;
use crate::arbiter::Arbiter;

/// Of the shards that only wait so many are looked at each heartbeat: all of a thousand every second, at little cost.
const LOOKS_AT_ONCE: usize = 256;

impl Custody {
    pub(crate) fn touch_all(&mut self, ids: &[ShardId]) {
        self.touched.extend(ids);
    }

    pub(crate) fn take_touched(&mut self) -> BTreeSet<ShardId> {
        core::mem::take(&mut self.touched)
    }

    /// The shard is looked at with every tick as long as it is active; when it has just changed, with the next at any rate.
    pub(crate) fn note_looks(&mut self, id: ShardId, changed: bool) {
        let arbiter = self.shards.get(&id).and_then(|shard| shard.arbiter.as_ref());
        if arbiter.is_some_and(Arbiter::is_active) {
            self.active.insert(id);
        } else {
            self.active.remove(&id);
        }
        if changed {
            self.looks.insert(id);
        }
    }

    /// Shards of which time alone may change something soon.
    pub(crate) fn active(&self) -> Vec<ShardId> {
        self.active.iter().copied().collect()
    }

    pub(crate) fn take_looks(&mut self) -> BTreeSet<ShardId> {
        let mut looks = core::mem::take(&mut self.looks);
        looks.extend(&self.active);
        looks
    }

    /// The arbiter of a shard may have to be another.
    pub(crate) fn review(&mut self, id: ShardId) {
        self.review.insert(id);
        self.arbitration_changed = true;
    }

    /// The same, from the next heartbeat on.
    pub(crate) fn review_later(&mut self, id: ShardId) {
        self.review.insert(id);
    }

    /// The same of all shards, now.
    pub(crate) fn review_all(&mut self) {
        self.review_all = true;
        self.arbitration_changed = true;
    }

    pub(crate) fn take_review(&mut self) -> Vec<ShardId> {
        let some = core::mem::take(&mut self.review);
        if core::mem::take(&mut self.review_all) {
            return self.open.iter().map(|(_, id)| *id).collect();
        }
        some.into_iter().collect()
    }

    /// Called every heartbeat: the next shards in turn are looked at. Of thousands that only wait each is seen now and then.
    pub(crate) fn look_around(&mut self) {
        let after = self.looked.map_or(Bound::Unbounded, Bound::Excluded);
        let next: Vec<_> = self.open.range((after, Bound::Unbounded)).take(LOOKS_AT_ONCE).copied().collect();
        self.looked = next.last().copied().filter(|_| next.len() == LOOKS_AT_ONCE);
        self.looks.extend(next.iter().map(|(_, id)| *id));
        self.review.extend(next.iter().map(|(_, id)| *id));
        self.arbitration_changed = true;
    }
}
