//! The virtual clock and what is still to happen.
//!
//! Always true: things happen in the order of their time, and at one time in the order in which they were put.

use std::collections::BTreeMap;

use swarm_protocol::Time;

/// What is still to happen.
pub(crate) struct Queue<T> {
    now: Time,
    sequence: u64,
    pending: BTreeMap<(Time, u64), T>,
}

impl<T> Queue<T> {
    /// Nothing, at the beginning of time.
    pub(crate) const fn new() -> Self {
        Self { now: Time::ZERO, sequence: 0, pending: BTreeMap::new() }
    }

    /// The moment of what happened last.
    pub(crate) const fn now(&self) -> Time {
        self.now
    }

    /// Puts something at a moment, which is not before now.
    pub(crate) fn put(&mut self, at: Time, what: T) {
        self.sequence += 1;
        self.pending.insert((at.max(self.now), self.sequence), what);
    }

    /// Takes what happens next, unless it lies after `until`; then the clock stands at `until`.
    pub(crate) fn take(&mut self, until: Time) -> Option<T> {
        match self.pending.first_entry() {
            Some(first) if first.key().0 <= until => {
                self.now = first.key().0;
                Some(first.remove())
            }
            _ => {
                self.now = self.now.max(until);
                None
            }
        }
    }
}
