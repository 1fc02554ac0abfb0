//! What goes wrong in a run, and how often it did.
//!
//! Elsewhere: doing it to the swarm is `world`; the network's own faults are done by `network`.

use std::collections::BTreeMap;

use fastrand::Rng;

use crate::dice;

/// The faults that one seed switches on. Rates are per thousand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Messages that vanish.
    pub loss: u32,
    /// Messages that arrive twice.
    pub duplication: u32,
    /// Messages that overtake others, or arrive on a later link than that on which they were sent.
    pub reordering: u32,
    /// Messages that arrive late.
    pub delay: u32,
    /// The swarm falls into two halves for a while.
    pub partitions: bool,
    /// Links break and may be dialled again at once.
    pub cuts: bool,
    /// One node stops without a word, often in the middle of a sync, loses what it had not synced, and starts again on the same disk.
    pub crashes: bool,
    /// All nodes crash at once.
    pub power_cuts: bool,
    /// A node stands still, and finds its events waiting when it goes on.
    pub pauses: bool,
    /// Syncs take up to half a second.
    pub slow_sync: bool,
}

impl Faults {
    /// A random choice; one run in eight has none at all.
    pub(crate) fn choose(rng: &mut Rng) -> Self {
        if rng.u32(0..8) == 0 {
            return Self::default();
        }
        let mut rate = |max: u32| if rng.bool() { rng.u32(1..=max) } else { 0 };
        let (loss, duplication, reordering, delay) = (rate(100), rate(100), rate(100), rate(50));
        Self {
            loss,
            duplication,
            reordering,
            delay,
            partitions: rng.bool(),
            cuts: rng.bool(),
            crashes: rng.bool(),
            power_cuts: rng.u32(0..3) == 0,
            pauses: rng.bool(),
            slow_sync: rng.u32(0..3) == 0,
        }
    }
}

/// How often each thing happened, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census(BTreeMap<&'static str, u64>);

impl Census {
    /// One more.
    pub(crate) fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// Some more.
    pub(crate) fn add(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    /// Takes in another census.
    pub fn merge(&mut self, other: &Self) {
        for (what, times) in other.iter() {
            self.add(what, times);
        }
    }

    /// Names and numbers, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.0.iter().map(|(what, times)| (*what, *times))
    }

    /// How often `what` happened.
    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }
}

/// A fault that the world does to the swarm from time to time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Strike {
    Partition,
    Cut,
    Crash,
    PowerCut,
    Pause,
}

impl Faults {
    /// The strikes that are switched on, each with the seconds within which it comes again.
    pub(crate) fn strikes(&self) -> Vec<(Strike, u64)> {
        let all = [
            (self.partitions, Strike::Partition, 12),
            (self.cuts, Strike::Cut, 4),
            (self.crashes, Strike::Crash, 8),
            (self.power_cuts, Strike::PowerCut, 20),
            (self.pauses, Strike::Pause, 8),
        ];
        all.into_iter().filter(|(on, ..)| *on).map(|(_, strike, seconds)| (strike, seconds)).collect()
    }

    /// How long one sync takes.
    pub(crate) fn sync_time(&self, rng: &mut Rng) -> std::time::Duration {
        if self.slow_sync && dice::chance(rng, 50) { dice::millis(rng, 5..=500) } else { dice::micros(rng, 300..=5000) }
    }
}
