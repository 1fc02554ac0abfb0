//! Many runs, on every core, reported in the order of their seeds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use crate::invariants::Violation;
use crate::run::{Report, run};
use crate::scenario::Scenario;
use crate::trace::Trace;

/// One run in so many is run twice and must give the same trace.
const TWICE_EVERY: u64 = 50;

/// Runs all scenarios on `threads` threads and hands the reports over in their order, until `take` returns false.
pub fn sweep(scenarios: &[Scenario], threads: usize, mut take: impl FnMut(Report) -> bool) {
    let next = AtomicUsize::new(0);
    let (done, reports) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            let (done, next) = (done.clone(), &next);
            scope.spawn(move || {
                while let Some((place, scenario)) = claim(next, scenarios) {
                    if done.send((place, checked(scenario))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let mut early = BTreeMap::new();
        let mut expected = 0;
        for (place, report) in reports {
            early.insert(place, report);
            while let Some(report) = early.remove(&expected) {
                expected += 1;
                if !take(report) {
                    next.store(scenarios.len(), Ordering::Relaxed);
                    return;
                }
            }
        }
    });
}

fn claim<'a>(next: &AtomicUsize, scenarios: &'a [Scenario]) -> Option<(usize, &'a Scenario)> {
    let place = next.fetch_add(1, Ordering::Relaxed);
    scenarios.get(place).map(|scenario| (place, scenario))
}

/// Runs a scenario; one in fifty twice.
fn checked(scenario: &Scenario) -> Report {
    if !scenario.seed.is_multiple_of(TWICE_EVERY) {
        return run(scenario, Trace::Rough);
    }
    let mut first = run(scenario, Trace::Exact);
    let second = run(scenario, Trace::Exact);
    if first.violation.is_none() && first.hash != second.hash {
        let what = format!("two runs gave the traces {:016x} and {:016x}", first.hash, second.hash);
        first.violation = Some(Violation { invariant: "one_seed_one_trace", at: first.time, what });
    }
    first
}
