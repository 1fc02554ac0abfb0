//! The state of this machine before anything is measured.

use std::fmt;
use std::fs;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::row::quantile;

/// How long spinners spin: longer than the slices of any scheduler.
const SPIN: Duration = Duration::from_millis(300);
/// Tries, of which the median counts.
const TRIES: usize = 3;
/// Two spinners that do less than this much of one's work do not have two cores to themselves.
const QUOTABLE_FROM: f64 = 1.8;
/// Steps between two looks at the clock.
const STEPS: u64 = 10_000;

/// This machine, and whether it has anything else to do.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub cores: usize,
    /// Its release.
    pub kernel: String,
    /// Of the last minute, before anything was measured.
    pub load: String,
    /// What two threads that only compute get done, over what one does.
    pub two_spinners: f64,
    /// Whether figures of now are worth quoting.
    pub is_quotable: bool,
}

impl Machine {
    /// Looks, and spins for two seconds.
    pub(super) fn look() -> Self {
        let load = first_word("/proc/loadavg");
        let tries: Vec<f64> = (0..TRIES).map(|_| spin(2) / spin(1)).collect();
        let two_spinners = quantile(&tries, 0.5);
        let kernel = first_word("/proc/sys/kernel/osrelease");
        Self { cores: cores(), kernel, load, two_spinners, is_quotable: two_spinners >= QUOTABLE_FROM }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, kernel, load, two_spinners, is_quotable } = self;
        writeln!(
            f,
            "{cores} cores, kernel {kernel}, load {load}; two spinners do {two_spinners:.2} × the work of one"
        )?;
        if !is_quotable {
            let least = QUOTABLE_FROM;
            writeln!(
                f,
                "WARNING: below {least} × this sitting is not worth quoting: something else uses the processors"
            )?;
        }
        Ok(())
    }
}

/// Processors that this process may use.
pub(super) fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Uses so much memory and gives it back. What a virtual machine has not used of late its host may have taken; to get it
/// again costs more than to write to it, and would be counted as part of whatever writes a file next.
pub(super) fn warm_memory(bytes: usize) {
    black_box(vec![1u8; bytes]);
}

/// What so many threads get done together, in steps.
fn spin(threads: usize) -> f64 {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let spinners: Vec<_> = (0..threads).map(|_| scope.spawn(|| steps_until(&over))).collect();
        thread::sleep(SPIN);
        over.store(true, Ordering::Relaxed);
        spinners.into_iter().map(|spinner| spinner.join().unwrap_or_default() as f64).sum()
    })
}

fn steps_until(over: &AtomicBool) -> u64 {
    let (mut state, mut steps) = (1u64, 0);
    while !over.load(Ordering::Relaxed) {
        for _ in 0..STEPS {
            state = black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
        steps += STEPS;
    }
    black_box(state);
    steps
}

fn first_word(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}
