//! One story each: what a user was promised, and what happens to the nodes meanwhile.

use std::time::Duration;

use swarm_simulation::{Fault, Script, Swarm};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn losing_the_holder_does_not_lose_the_task() {
    let mut swarm = Swarm::from_seed(7).with_nodes(5).started();
    let job = swarm.submit(0, 1, Script::running_for(secs(10)));
    swarm.run_until(|it| !it.holders_of(job).is_empty());
    let holder = swarm.holders_of(job)[0];
    swarm.crash(holder);
    swarm.run_until(|it| it.holders_of(job).iter().any(|other| *other != holder));
    swarm.heal_and_settle().unwrap();
    assert!(swarm.is_over(job));
}

#[test]
fn the_submitter_may_leave_once_the_job_is_acknowledged() {
    let mut swarm = Swarm::from_seed(8).with_nodes(4).started();
    let job = swarm.submit(2, 100, Script::running_for(Duration::from_millis(100)));
    swarm.crash(2);
    swarm.pass(secs(30));
    swarm.ask(0, job);
    swarm.run_until(|it| it.is_over(job));
    swarm.heal_and_settle().unwrap();
}

#[test]
fn a_power_cut_everywhere_loses_nothing_acknowledged() {
    let mut swarm = Swarm::from_seed(9).with_nodes(3).started();
    let job = swarm.submit(1, 50, Script::running_for(Duration::from_millis(500)));
    swarm.pass(secs(2));
    (0..3).for_each(|node| swarm.crash(node));
    swarm.pass(secs(60));
    swarm.heal_and_settle().unwrap();
    assert!(swarm.is_over(job));
}

#[test]
fn both_halves_of_a_swarm_work_and_agree_afterwards() {
    let mut swarm = Swarm::from_seed(10).with_nodes(6).started();
    let job = swarm.submit(0, 120, Script::running_for(Duration::from_millis(200)));
    swarm.part(&[0, 1, 2]);
    let other = swarm.submit(4, 10, Script::running_for(Duration::from_millis(50)));
    swarm.pass(secs(20));
    swarm.heal_and_settle().unwrap();
    assert!(swarm.is_over(job) && swarm.is_over(other));
}

/// Nobody was reached when it was acknowledged, and the partition is too short for anybody to be taken for dead.
#[test]
fn a_job_acknowledged_in_isolation_runs_once_the_partition_heals() {
    let mut swarm = Swarm::from_seed(14).with_nodes(5).started();
    swarm.part(&[0]);
    let job = swarm.submit(0, 10, Script::running_for(Duration::from_millis(50)));
    swarm.heal_and_settle().unwrap();
    assert!(swarm.is_over(job));
}

#[test]
fn a_swarm_of_one_finishes_after_its_restart() {
    let mut swarm = Swarm::from_seed(11).with_nodes(1).started();
    let job = swarm.submit(0, 20, Script::running_for(Duration::from_millis(300)));
    swarm.pass(secs(1));
    swarm.crash(0);
    swarm.pass(secs(1));
    swarm.restart(0);
    swarm.ask(0, job);
    swarm.heal_and_settle().unwrap();
    assert!(swarm.is_over(job));
}

#[test]
fn a_calm_swarm_runs_every_task_once() {
    let mut swarm = Swarm::from_seed(12).with_nodes(5).started();
    let job = swarm.submit(3, 200, Script::running_for(Duration::from_millis(20)));
    swarm.pass(secs(20));
    swarm.ask(3, job);
    swarm.run_until(|it| it.is_over(job));
    assert_eq!(swarm.census().of("task run"), 200);
}

#[test]
fn a_cancelled_job_stops_running() {
    let mut swarm = Swarm::from_seed(13).with_nodes(4).started();
    let job = swarm.submit(0, 100, Script::running_for(secs(5)));
    swarm.run_until(|it| !it.holders_of(job).is_empty());
    swarm.cancel(2, job);
    swarm.run_until(|it| it.holders_of(job).is_empty());
    assert!(swarm.census().of("task run") < 100);
    swarm.heal_and_settle().unwrap();
    assert!(swarm.is_over(job));
}

#[test]
fn a_machine_that_lies_is_found_out_and_everybody_tells_the_same() {
    // On one of six nodes guests lie, and both halves run everything.
    let lies = [Fault::GuestLies].into_iter().collect();
    let mut swarm = Swarm::from_seed(10).with_nodes(6).with_faults(lies).started();
    let job = swarm.submit(0, 120, Script::running_for(Duration::from_millis(200)));
    swarm.part(&[3, 4, 5]);
    swarm.pass(secs(20));
    swarm.heal_and_settle().unwrap();
    assert!(swarm.is_over(job));
    assert!(swarm.census().hits(Fault::GuestLies) > 0 && swarm.disputed() > 0);
}

#[test]
fn a_task_that_hangs_is_ended() {
    let mut swarm = Swarm::from_seed(14).with_nodes(3).started();
    let job = swarm.submit(0, 3, Script { hangs: 1000, ..Script::running_for(secs(1)) });
    swarm.pass(secs(70));
    swarm.ask(1, job);
    swarm.run_until(|it| it.is_over(job));
    assert_eq!(swarm.census().hits(Fault::GuestHangs), 3);
}

#[test]
fn a_drained_node_may_leave_in_the_middle_of_a_job() {
    let mut swarm = Swarm::from_seed(15).with_nodes(5).started();
    let job = swarm.submit(2, 200, Script::running_for(Duration::from_millis(100)));
    swarm.run_until(|it| it.holders_of(job).contains(&2));
    swarm.drain(2);
    swarm.run_until(|it| !it.is_up(2));
    swarm.heal_and_settle().unwrap();
    assert!(swarm.is_over(job));
}

/// Short tasks teach a node how fast it is at them, and nothing about the long ones that follow.
#[test]
fn all_slots_are_busy_until_the_end() {
    const NEAR: u64 = 103;
    const FAR: u64 = 100;
    for (seed, nodes, slots, ms, least) in [
        (NEAR, 2, 1, 1, 0.95),
        (NEAR, 2, 1, 100, 0.98),
        (NEAR, 4, 2, 100, 0.97),
        (NEAR, 4, 2, 1000, 0.97),
        (FAR, 2, 1, 10, 0.9),
        (FAR, 4, 2, 1000, 0.88),
    ] {
        let mut swarm = Swarm::from_seed(seed).with_nodes(nodes).with_slots(slots).started();
        swarm.time(0, 200, Script::running_for(Duration::from_millis(1)));
        let tasks = nodes as u32 * slots * 10_000 / ms;
        let took = swarm.time(0, tasks, Script::running_for(Duration::from_millis(u64::from(ms))));
        let efficiency = 10.0 / took.as_secs_f64();
        assert!(efficiency >= least, "{nodes} nodes with {slots} slots, {ms} ms a task: {efficiency}");
    }
}
