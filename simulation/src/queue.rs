//! The virtual clock and what is still to happen.
//!
//! Always true: things happen in the order of their time, and at one time in the order in which they were put.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use swarm_protocol::Time;

/// What is still to happen.
pub(crate) struct Queue<T> {
    now: Time,
    sequence: u64,
    /// When, in which order, and the place among `things`.
    order: BinaryHeap<Reverse<(Time, u64, usize)>>,
    things: Vec<Option<T>>,
    /// Places of `things` where nothing is.
    empty: Vec<usize>,
}

impl<T> Queue<T> {
    /// Nothing, at the beginning of time.
    pub(crate) const fn new() -> Self {
        Self { now: Time::ZERO, sequence: 0, order: BinaryHeap::new(), things: Vec::new(), empty: Vec::new() }
    }

    /// The moment of what happened last.
    pub(crate) const fn now(&self) -> Time {
        self.now
    }

    /// Puts something at a moment, which is not before now.
    pub(crate) fn put(&mut self, at: Time, what: T) {
        self.sequence += 1;
        let place = self.empty.pop().unwrap_or_else(|| {
            self.things.push(None);
            self.things.len() - 1
        });
        self.things[place] = Some(what);
        self.order.push(Reverse((at.max(self.now), self.sequence, place)));
    }

    /// Takes what happens next, unless it lies after `until`; then the clock stands at `until`.
    pub(crate) fn take(&mut self, until: Time) -> Option<T> {
        let Some(Reverse((at, _, place))) = self.order.peek().copied().filter(|Reverse((at, ..))| *at <= until) else {
            self.now = self.now.max(until);
            return None;
        };
        self.order.pop();
        self.now = at;
        self.empty.push(place);
        self.things[place].take()
    }
}
