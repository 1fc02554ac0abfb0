//! Every bug that is planted on purpose is found, or the simulator would prove nothing.

use swarm_simulation::Bug;

/// So many seeds must be enough.
const SEEDS: u64 = 2000;

#[test]
fn every_planted_bug_is_found() {
    assert!(Bug::all().len() >= 16);
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    let missed: Vec<_> = Bug::all().iter().filter(|bug| bug.hunt(0..SEEDS, threads).is_none()).collect();
    assert!(missed.is_empty(), "not found in {SEEDS} seeds: {missed:?}");
}
