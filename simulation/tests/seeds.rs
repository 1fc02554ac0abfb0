//! Swarms of several sizes through many storms, and proof that the simulator would notice if the promises broke.

use swarm_simulation::{Bug, FaultSet, Report, Scenario, Trace, run, shrink, sweep};

/// The seeds of one size: together 160.
const SEEDS_A_SIZE: u64 = 40;
/// The seeds in which every kind of fault must be met, and every promise be kept.
const CENSUS_SEEDS: u64 = 200;
/// So many seeds must be enough to notice a bug.
const SEEDS_A_BUG: u64 = 120;

#[test]
fn every_promise_holds_in_swarms_of_every_size() {
    for nodes in [1, 2, 3, 7] {
        let failed = failures(|seed| Scenario::new(seed, nodes), 0..SEEDS_A_SIZE);
        assert!(failed.is_empty(), "{}", explain(&failed));
    }
}

#[test]
fn larger_swarms_and_larger_jobs_hold_them_too() {
    let failed = failures(|seed| Scenario { tasks: 2000, ..Scenario::new(seed, 12) }, 0..5);
    assert!(failed.is_empty(), "{}", explain(&failed));
}

/// A question and its late answer met across a restart, because both processes numbered from one: a user was told of the
/// wrong shard.
#[test]
fn an_answer_to_the_process_before_is_not_believed() {
    assert_holds(100_274, 7);
}

/// A result came by repair to a custodian that had no blob of it; then the only holder lost its disk.
#[test]
fn a_result_counts_with_its_blobs_only() {
    assert_holds(101_103, 9);
}

/// A job whose blobs were lost before it was acknowledged took every slot, and others waited for ever.
#[test]
fn a_job_without_blobs_takes_no_slots() {
    assert_holds(100_941, 5);
    assert_holds(100_970, 9);
}

/// A task that takes its nodes down was given to a second node as a straggler: two were lost where one was allowed.
#[test]
fn a_straggler_is_copied_within_its_budget() {
    assert_holds(101_864, 9);
}

/// A node that had cancelled a task by itself learnt its result, not its blob; then the last holder left for good.
#[test]
fn a_result_that_comes_after_a_cancel_brings_its_blobs() {
    assert_holds(331, 4);
}

/// An arbiter that was deposed before anybody confirmed its last record told the executor that it may forget it.
#[test]
fn a_deposed_arbiter_acknowledges_nothing_that_it_alone_knows() {
    assert_holds(500_550, 4);
}

/// A node came back under its old name while others knew an incarnation that its twin had had: two never met again.
#[test]
fn a_node_learns_that_others_know_a_later_incarnation() {
    assert_holds(1_007_146, 4);
}

/// A node that had met another, which left for good while it stood still, took itself for the only one ever.
#[test]
fn who_has_met_somebody_hands_over_before_it_leaves() {
    assert_holds(8_000_783, 4);
}

/// A node that had met others forgot them with its last unsynced writes, and took itself for the only one ever.
#[test]
fn who_has_met_somebody_remembers_it() {
    assert_holds(9_002_194, 5);
}

/// A node left because another had had a copy, which did not answer any more and had lost its disk.
#[test]
fn who_leaves_does_not_go_by_what_silent_nodes_had() {
    assert_holds(9_002_008, 3);
}

/// Tasks were recorded as cancelled while the stop was on its way to the disk, and nobody knew of the stop after a crash.
#[test]
fn a_cancelled_task_is_not_told_before_its_stop_is_synced() {
    assert_holds(9_004_734, 3);
}

/// A node told its user that the cancel of a job unknown to it was safe, forgot it in a crash, and then ran the job.
#[test]
fn a_cancel_that_comes_before_its_job_survives_a_crash() {
    assert_holds(8_000_791, 6);
}

/// A node left because another had told it of its copy, which that one had lost since.
#[test]
fn who_leaves_asks_once_more_what_others_have() {
    assert_holds(2_000_373, 7);
}

/// A node alone gave a task up, since it had taken it down, and went on with the stage that waited for its end.
#[test]
fn who_is_alone_goes_by_what_it_recorded() {
    assert_holds(9_302_262, 5);
    assert_holds(7_701_996, 7);
}

/// A job that was not acknowledged took the last node down while everything was asked.
#[test]
fn what_goes_on_after_the_healing_is_waited_for() {
    assert_holds(10_006_972, 3);
    assert_holds(10_007_275, 4);
}

/// A node that was told of the end of a task, whose job it did not know, owes nothing for that.
#[test]
fn what_was_only_heard_is_not_owed() {
    assert_holds(10_016_205, 6);
}

fn assert_holds(seed: u64, nodes: usize) {
    let failed = failures(|seed| Scenario::new(seed, nodes), seed..seed + 1);
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
fn storms_of_every_kind_happen_and_break_nothing() {
    let mut census = swarm_simulation::Census::default();
    let mut failed = Vec::new();
    sweep(&(0..CENSUS_SEEDS).map(|seed| Scenario::new(seed, 5)).collect::<Vec<_>>(), threads(), |report| {
        census.merge(&report.census);
        failed.extend(report.violation.is_some().then_some(report));
        true
    });
    assert!(failed.is_empty(), "{}", explain(&failed));
    for fault in FaultSet::all().iter() {
        assert!(census.hits(fault) > 0, "no {fault:?} in {CENSUS_SEEDS} storms");
    }
    for what in ["job acknowledged", "job cancelled", "task run"] {
        assert!(census.of(what) > 0, "no {what} in {CENSUS_SEEDS} storms");
    }
}

/// What is found is made smaller, and still breaks the same.
#[test]
fn a_failing_run_is_shrunk() {
    let bug = Some(Bug::ForgetfulDisk);
    let failed = failures(|seed| Scenario { bug, ..Scenario::new(seed, 3) }, 0..SEEDS_A_BUG);
    let first = &failed[0];
    let smallest = shrink(&first.scenario, |_| {}).unwrap();
    assert_eq!(smallest.violation.unwrap().invariant, first.violation.as_ref().unwrap().invariant);
    let (before, after) = (&first.scenario, &smallest.scenario);
    assert!(after.tasks < before.tasks && after.storm_seconds() <= before.storm_seconds(), "{after:?}");
    assert!(after.faults.iter().count() * 4 <= before.faults.iter().count(), "{after:?}");
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

/// A node that had kept a shard, and was told nothing of it any more, answered from its copy: it did not know of the dispute
/// that others had found since.
#[test]
fn who_kept_a_shard_once_asks_those_who_do() {
    assert_holds(16_004_919, 6);
    assert_holds(13_000_781, 7);
}

/// The auditor expected a job to expire that was lost with the only node that had acknowledged it, and the blobs of one to be
/// gone that had only just ended.
#[test]
fn only_what_has_ended_expires() {
    assert_holds(17_002_378, 4);
    assert_holds(18_000_919, 5);
}

/// Of two nodes with one identity one held a blob, and said so, and went; the last other holder left, since it believed that of
/// the one that stayed. What one of two such nodes alone told is not promised.
#[test]
fn what_one_of_two_twins_held_is_not_promised() {
    assert_holds(18_008_716, 6);
}

/// A user cancelled a job at a node that did not know it yet, was told that it is cancelled, and then that it runs: so said
/// another node, and the record was still on its way.
#[test]
fn a_cancel_is_not_forgotten_while_the_job_is_on_its_way() {
    assert_holds(20_005_388, 8);
}

/// A node that left had heard of an end from one of two nodes with one identity. The auditor had forgotten that it was said when the
/// other one spoke, and took the node that left for the only one that knew.
#[test]
fn what_a_twin_told_before_the_other_spoke_is_known() {
    assert_holds(22_012_418, 3);
}

/// A node that was to leave lost its disk in its first life and came back in its first life: others went by its older record, in which
/// it leaves, for as long as it had run before.
#[test]
fn who_forgot_its_first_life_begins_a_second() {
    assert_holds(24_010_878, 4);
}

/// A job that had expired came back with a node that had stood still, to custodians with new disks: its blobs were nowhere, and
/// the only node that knew better was not asked.
#[test]
fn a_job_whose_blobs_are_nowhere_is_asked_about() {
    assert_holds(25_011_670, 8);
}

/// The arbiter of a cancelled job's shard stood still, and told after all that it was done; before it told the job's custodians,
/// who thought it over and asked no more, it crashed.
#[test]
fn what_becomes_known_after_the_end_is_told() {
    assert_holds(61_000_239, 19);
}

/// A node knew that a job was cancelled, the arbiter did not: what the one gave back the other granted it again, thousands of
/// times a second, until they compared what they knew.
#[test]
fn who_grants_tasks_of_a_cancelled_job_is_told() {
    assert_holds(60_013_126, 4);
}

/// A job that was handed over in the storm was acknowledged after the others were over: the auditor did not wait for its end.
#[test]
fn a_job_that_is_acknowledged_late_is_waited_for() {
    assert_holds(80_008_044, 4);
}

/// A node gave its tasks back and was drained; a power cut took its note of that, and it charged itself with them.
#[test]
fn what_a_drained_node_gave_back_stays_given_back() {
    assert_holds(90_007_922, 5);
}

/// Who divides a job's parallel tasks heard an old request after the answer to a later one, and gave the same share twice.
#[test]
fn a_share_is_given_once() {
    assert_holds(90_008_508, 6);
}

/// The runs in which something broke.
/// A wall parted a swarm for nine seconds; a job that limits how many of its tasks run at once came a second after it fell, when
/// nodes did not yet agree who divides the number.
#[test]
fn who_was_parted_is_not_acquainted_when_packets_pass_again() {
    assert_holds(104_003_150, 16);
}

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
