//! What a swarm of one does with jobs.

use std::time::Duration;

use swarm_protocol::{Ending, Event, JobState, Notice, StageSpec};

use crate::lone::{Lone, stage};

#[test]
fn a_lone_node_runs_a_job_in_two_stages() {
    let mut lone = Lone::new();
    let job = lone.submit(vec![stage("first", 200, vec![]), stage("second", 3, vec![0])]);
    assert_eq!(lone.run_until_over(job, |_, _| Ending::Exited(0)), JobState::Done);
}

#[test]
fn a_failure_that_is_not_to_be_retried_stops_the_job() {
    let mut lone = Lone::new();
    let job = lone.submit(vec![stage("first", 10, vec![]), stage("second", 3, vec![0])]);
    let ending = |task, _| Ending::Exited(if task == 4 { 7 } else { 0 });
    assert_eq!(lone.run_until_over(job, ending), JobState::Failed);
}

#[test]
fn tasks_that_no_node_takes_in_time_fail() {
    let mut lone = Lone::new();
    let long = lone.submit(vec![stage("long", 2, vec![])]);
    let waiting = StageSpec { queue_ms_max: Some(5000), ..stage("waiting", 3, vec![]) };
    let job = lone.submit(vec![waiting]);
    lone.pass(Duration::from_secs(4));
    assert_eq!(lone.state(job), JobState::Running);
    lone.pass(Duration::from_secs(2));
    assert_eq!(lone.state(job), JobState::Failed);
    let why = "no node took it within its queue timeout: the one node that could run it had no room";
    assert_eq!(lone.first_ending(job), Some(Ending::Rejected(why.into())));
    assert_eq!(lone.run_until_over(long, |_, _| Ending::Exited(0)), JobState::Done);
}

#[test]
fn a_failure_that_is_to_be_retried_is_tried_again() {
    let mut lone = Lone::new();
    let job = lone.submit(vec![stage("first", 10, vec![])]);
    let ending = |task, attempts| Ending::Exited(if task == 4 && attempts < 2 { 75 } else { 0 });
    assert_eq!(lone.run_until_over(job, ending), JobState::Done);
}

#[test]
fn the_retry_budget_ends() {
    let mut lone = Lone::new();
    let job = lone.submit(vec![stage("first", 10, vec![])]);
    let ending = |task, _| Ending::Exited(if task == 4 { 75 } else { 0 });
    assert_eq!(lone.run_until_over(job, ending), JobState::Failed);
}

#[test]
fn a_cancelled_job_is_over_and_its_tasks_are_stopped() {
    let mut lone = Lone::new();
    let job = lone.submit(vec![stage("first", 10, vec![])]);
    lone.pass(Duration::from_millis(100));
    lone.tell(Event::Cancel { token: 2, job });
    assert!(lone.notices.iter().any(|it| matches!(it, Notice::Cancelled { token: 2, result: Ok(()) })));
    assert_eq!(lone.run_until_over(job, |_, _| Ending::Exited(0)), JobState::Cancelled);
}

#[test]
fn a_restart_in_the_middle_loses_nothing() {
    let mut lone = Lone::new();
    let job = lone.submit(vec![stage("first", 200, vec![]), stage("second", 3, vec![0])]);
    for _ in 0..20 {
        lone.run_started(|_, _| Ending::Exited(0));
    }
    let mut again = Lone::on_disk(lone.disk);
    assert_eq!(again.run_until_over(job, |_, _| Ending::Exited(0)), JobState::Done);
    let third = Lone::on_disk(again.disk);
    let done = { third }.run_until_over(job, |_, _| panic!("all tasks were recorded"));
    assert_eq!(done, JobState::Done);
}
