//! Swarms of several sizes through many storms, and proof that the simulator would notice if the promises broke.

use swarm_simulation::{Bug, Report, Scenario, Trace, run, sweep};

/// The seeds of one size: together 200.
const SEEDS_A_SIZE: u64 = 40;
/// So many seeds must be enough to notice a bug.
const SEEDS_A_BUG: u64 = 60;

#[test]
fn every_promise_holds_in_swarms_of_every_size() {
    for nodes in [1, 2, 3, 5, 7] {
        let failed = failures(|seed| Scenario::new(seed, nodes), 0..SEEDS_A_SIZE);
        assert!(failed.is_empty(), "{}", explain(&failed));
    }
}

#[test]
fn larger_swarms_and_larger_jobs_hold_them_too() {
    let failed = failures(|seed| Scenario { tasks: 2000, ..Scenario::new(seed, 12) }, 0..5);
    assert!(failed.is_empty(), "{}", explain(&failed));
}

/// The submitter was cut off from every custodian when it acknowledged, and no change of members followed.
#[test]
fn a_job_acknowledged_in_isolation_runs_once_the_partition_heals() {
    let failed = failures(|seed| Scenario::new(seed, 5), 5028..5029);
    assert!(failed.is_empty(), "{}", explain(&failed));
}

#[test]
fn one_seed_is_one_trace() {
    for seed in 0..5 {
        let scenario = Scenario::new(seed, 4);
        let (first, second) = (run(&scenario, Trace::Exact), run(&scenario, Trace::Exact));
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_ne!(first.hash, run(&Scenario::new(seed + 100, 4), Trace::Exact).hash, "seed {seed}");
    }
}

#[test]
fn storms_do_happen() {
    let mut census = swarm_simulation::Census::default();
    sweep(&(0..40).map(|seed| Scenario::new(seed, 5)).collect::<Vec<_>>(), threads(), |report| {
        census.merge(&report.census);
        true
    });
    let faults = ["message lost", "message repeated", "message overtaken", "message delayed", "partition", "link cut"];
    let more = ["crash", "power cut", "pause", "job acknowledged", "job cancelled", "task run"];
    for what in faults.iter().chain(&more) {
        assert!(census.of(what) > 0, "no {what} in 40 storms");
    }
}

#[test]
fn a_disk_that_forgets_is_noticed() {
    assert_noticed(Bug::ForgetfulDisk);
}

#[test]
fn speaking_before_the_sync_is_noticed() {
    assert_noticed(Bug::SpeaksBeforeSync);
}

fn assert_noticed(bug: Bug) {
    // A swarm of one has no second copy that would hide it.
    let failed = failures(|seed| Scenario { bug: Some(bug), ..Scenario::new(seed, 1) }, 0..SEEDS_A_BUG);
    assert!(!failed.is_empty(), "{SEEDS_A_BUG} seeds did not notice {bug:?}");
}

/// The runs in which something broke.
fn failures(scenario: impl Fn(u64) -> Scenario, seeds: std::ops::Range<u64>) -> Vec<Report> {
    let scenarios: Vec<_> = seeds.map(scenario).collect();
    let mut failed = Vec::new();
    sweep(&scenarios, threads(), |report| {
        if report.violation.is_some() {
            failed.push(report);
        }
        true
    });
    failed
}

fn explain(failed: &[Report]) -> String {
    let line = |report: &Report| {
        let violation = report.violation.as_ref().expect("only failed runs are explained");
        format!("{violation}\n  repeat it: {}\n", report.scenario.command())
    };
    failed.iter().map(line).collect()
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |threads| threads.get())
}
