//! Permits: how slots keep tasks that take several of them from running beside too many others.
//!
//! Always true: no more permits are out than there are slots; whoever waits is served in order, so that a wide task is not
//! passed over for ever.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// One for each slot.
pub(super) struct Permits {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    free: usize,
    /// The next to come, and the next to be served.
    arriving: u64,
    serving: u64,
}

/// Some permits, given back when it is dropped.
pub(super) struct Permit<'a> {
    of: &'a Permits,
    count: usize,
}

impl Permits {
    pub(super) fn new(count: usize) -> Self {
        let state = State { free: count, arriving: 0, serving: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Waits for its turn, and until so many are free. `count` is at most what there is.
    pub(super) fn take(&self, count: usize) -> Permit<'_> {
        let mut state = self.state();
        let turn = state.arriving;
        state.arriving += 1;
        while state.serving != turn || state.free < count {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.free -= count;
        state.serving += 1;
        self.changed.notify_all();
        Permit { of: self, count }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.of.state().free += self.count;
        self.of.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn wide_and_narrow_tasks_never_take_more_than_there_is() {
        let (permits, taken) = (Permits::new(4), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (permits, taken) = (&permits, &taken);
                scope.spawn(move || {
                    for round in 0..200 {
                        let count = 1 + (thread + round) % 4;
                        let _permit = permits.take(count);
                        assert!(taken.fetch_add(count, Ordering::SeqCst) + count <= 4);
                        taken.fetch_sub(count, Ordering::SeqCst);
                    }
                });
            }
        });
    }
}
