//! The tasks of one lease while they are run: who takes which, and which are not to be run any more.
//!
//! Always true: a task is taken once; a stopped task is not begun, and one that is running is told to stop.
//!
//! Stopping meets running without a lock: a slot first says which task it is about to run and then looks whether anything
//! was stopped; whoever stops first notes what, and then looks which tasks run. So one of the two sees the other.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use swarm_executor::StopFlag;
use swarm_protocol::Range;

/// Tasks that a slot takes at once, when there are many: neighbours with equal outcomes then become one range early.
const CLAIM_MAX: u32 = 64;
/// A slot takes at most this part of its share of what is left, so that all slots end at about the same time.
const CLAIM_PART: u32 = 4;

/// The tasks of one lease.
pub(super) struct Tasks {
    ranges: Vec<(Range, u16)>,
    total: u32,
    /// Position of the next task that nobody took; counts through all ranges.
    next: AtomicU32,
    /// One for each slot.
    running: Vec<Running>,
    /// Changes whenever `stopped` does.
    stops: AtomicU64,
    stopped: Mutex<Vec<Range>>,
}

/// What one slot does for this lease. In cache lines of its own, since the slot writes there for every task.
#[derive(Default)]
#[repr(align(128))]
struct Running {
    /// The task's index plus one; 0 for none.
    task: AtomicU64,
    stop: StopFlag,
}

/// One task that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// Its index in the stage.
    pub(super) index: u32,
    /// Attempts that it had before.
    pub(super) attempts: u16,
}

impl Tasks {
    pub(super) fn new(ranges: Vec<(Range, u16)>, slots: usize) -> Self {
        let total = ranges.iter().fold(0u32, |total, (range, _)| total.saturating_add(range.end() - range.first));
        let running = std::iter::repeat_with(Running::default).take(slots).collect();
        Self { ranges, total, next: AtomicU32::new(0), running, stops: AtomicU64::new(0), stopped: Mutex::default() }
    }

    /// All of them.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range> + '_ {
        self.ranges.iter().map(|(range, _)| *range)
    }

    /// Takes some tasks that nobody took yet; empty when there are none left.
    pub(super) fn take(&self) -> impl Iterator<Item = Taken> + '_ {
        let part = u32::try_from(self.running.len()).unwrap_or(u32::MAX).saturating_mul(CLAIM_PART).max(1);
        let share = |next: u32| ((self.total - next) / part).clamp(1, CLAIM_MAX).min(self.total - next);
        let taken = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
            let count = share(next);
            (count > 0).then_some(next + count)
        });
        let positions = taken.map_or(0..0, |first| first..first + share(first));
        positions.filter_map(|position| self.at(position))
    }

    /// Takes all that nobody took yet, not to be run.
    pub(super) fn take_rest(&self) -> Vec<Range> {
        let mut before = self.next.swap(self.total, Ordering::Relaxed);
        let mut rest = Vec::new();
        for range in self.ranges() {
            let count = range.end() - range.first;
            let skipped = before.min(count);
            before -= skipped;
            if skipped < count {
                rest.push(Range { first: range.first + skipped, count: count - skipped });
            }
        }
        rest
    }

    fn at(&self, mut position: u32) -> Option<Taken> {
        for (range, attempts) in &self.ranges {
            let count = range.end() - range.first;
            if position < count {
                return Some(Taken { index: range.first + position, attempts: *attempts });
            }
            position -= count;
        }
        None
    }

    /// Runs a task in a slot, unless it is stopped. `None` when it was stopped, before or while it ran.
    pub(super) fn run<T>(&self, slot: usize, task: Taken, run: impl FnOnce(&StopFlag) -> T) -> Option<T> {
        let running = &self.running[slot];
        running.task.store(u64::from(task.index) + 1, Ordering::SeqCst);
        running.stop.clear();
        let ended = (!self.is_stopped(task.index)).then(|| run(&running.stop));
        running.task.store(0, Ordering::SeqCst);
        ended.filter(|_| !self.is_stopped(task.index))
    }

    /// No outcome of these tasks is wanted any more.
    pub(super) fn stop(&self, tasks: &[Range]) {
        self.stopped().extend_from_slice(tasks);
        self.stops.fetch_add(1, Ordering::SeqCst);
        for running in &self.running {
            let index = running.task.load(Ordering::SeqCst).checked_sub(1).and_then(|index| u32::try_from(index).ok());
            // By the time the flag is set the slot may run another task, which then ends as cancelled and is begun again.
            if index.is_some_and(|index| contains(tasks, index)) {
                running.stop.stop();
            }
        }
    }

    /// Whether every task was stopped.
    pub(super) fn all_stopped(&self) -> bool {
        let stopped = self.stopped();
        let is_stopped = |range: Range| range.indexes().all(|index| contains(&stopped, index));
        self.ranges().all(is_stopped)
    }

    fn is_stopped(&self, index: u32) -> bool {
        self.stops.load(Ordering::SeqCst) > 0 && contains(&self.stopped(), index)
    }

    fn stopped(&self) -> MutexGuard<'_, Vec<Range>> {
        // Nothing that can panic runs under the lock.
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn contains(ranges: &[Range], index: u32) -> bool {
    ranges.iter().any(|range| range.indexes().contains(&index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(slots: usize) -> Tasks {
        Tasks::new(vec![(Range { first: 5, count: 300 }, 0), (Range { first: 900, count: 2 }, 3)], slots)
    }

    #[test]
    fn every_task_is_taken_once() {
        let tasks = tasks(3);
        let mut taken = Vec::new();
        loop {
            let some: Vec<_> = tasks.take().collect();
            if some.is_empty() {
                break;
            }
            taken.extend(some);
        }
        let first = (5..305).map(|index| Taken { index, attempts: 0 });
        let second = (900..902).map(|index| Taken { index, attempts: 3 });
        assert_eq!(taken, first.chain(second).collect::<Vec<_>>());
    }

    #[test]
    fn what_nobody_took_is_given_back_once() {
        let tasks = tasks(1);
        let taken = tasks.take().count() as u32;
        let rest = [Range { first: 5 + taken, count: 300 - taken }, Range { first: 900, count: 2 }];
        assert_eq!(tasks.take_rest(), rest);
        assert_eq!((tasks.take().count(), tasks.take_rest()), (0, vec![]));
    }

    #[test]
    fn a_stopped_task_is_not_begun() {
        let tasks = tasks(1);
        tasks.stop(&[Range { first: 7, count: 1 }]);
        assert_eq!(tasks.run(0, Taken { index: 7, attempts: 0 }, |_| ()), None);
        assert_eq!(tasks.run(0, Taken { index: 8, attempts: 0 }, |_| ()), Some(()));
    }

    #[test]
    fn a_running_task_is_told_to_stop_and_the_next_one_is_not() {
        let tasks = tasks(1);
        let ended = tasks.run(0, Taken { index: 7, attempts: 0 }, |stop| {
            tasks.stop(&[Range { first: 7, count: 1 }]);
            assert!(stop.is_stopped());
        });
        assert_eq!(ended, None);
        assert_eq!(tasks.run(0, Taken { index: 8, attempts: 0 }, StopFlag::is_stopped), Some(false));
    }
}
