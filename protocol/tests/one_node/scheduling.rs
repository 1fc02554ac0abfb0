//! Which tasks run when and where: finer needs, order among jobs, limits, conditions on nodes.

use std::collections::BTreeSet;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use swarm_protocol::{
    Attribute, Axis, Comparison, Condition, Elements, Ending, Grid, JobState, Range, SameNeed, StageOptions, StageSpec,
    Test, Where,
};

use crate::lone::{Lone, stage};

const OK: Ending = Ending::Exited(0);

fn same(name: &str, count: u32) -> StageSpec {
    let needs_same = vec![SameNeed { stage: 0, names: vec!["index".into()] }];
    StageSpec { options: StageOptions { needs_same, ..StageOptions::default() }, ..stage(name, count, vec![0]) }
}

fn finished(name: &str, count: u32) -> StageSpec {
    let options = StageOptions { needs_finished: vec![0], ..StageOptions::default() };
    StageSpec { options, ..stage(name, count, vec![0]) }
}

#[test]
fn an_element_goes_on_while_others_are_still_in_the_stage_before() {
    let mut lone = Lone::new();
    let job = lone.submit(vec![stage("first", 100, vec![]), same("second", 100)]);
    let (mut first_done, mut early) = (BTreeSet::new(), false);
    for _ in 0..500 {
        for (_, stage, task) in lone.started() {
            if stage == 1 {
                assert!(first_done.contains(&task), "{task} started before what it needs");
                early |= first_done.len() < 100;
            }
        }
        // One task of the first stage is slow.
        let slow = first_done.len() < 99;
        first_done.extend(
            lone.started().iter().filter(|(_, stage, task)| *stage == 0 && !(slow && *task == 0)).map(|it| it.2),
        );
        lone.end_some(|stage, task| (!(slow && stage == 0 && task == 0)).then_some(OK));
        lone.pass(Duration::from_millis(20));
        if lone.state(job).is_over() {
            break;
        }
    }
    assert_eq!(lone.state(job), JobState::Done);
    assert!(early, "the second stage ran while the first did");
}

#[test]
fn an_element_waits_for_all_with_its_value() {
    let axis =
        |name: &str, values: &[&str]| Axis { name: name.into(), values: values.iter().map(|&it| it.into()).collect() };
    let axes = vec![axis("x", &["a", "b"]), axis("y", &["1", "2", "3"])];
    let grid = Grid::new(axes.clone(), vec![vec![(0, 0), (1, 2)]], vec![], vec![]);
    let first = StageSpec { elements: Elements::Grid(grid), ..stage("first", 5, vec![]) };
    let needs_same = vec![SameNeed { stage: 0, names: vec!["x".into()] }];
    let options = StageOptions { needs_same, ..StageOptions::default() };
    let second = StageSpec { elements: Elements::Matrix(axes[..1].to_vec()), options, ..stage("second", 2, vec![0]) };
    let mut lone = Lone::new();
    let job = lone.submit(vec![first, second]);
    let mut done = BTreeSet::new();
    while !lone.state(job).is_over() {
        for (_, stage, task) in lone.started() {
            // a1 a2 | b1 b2 b3
            let needed = if task == 0 { 0..2 } else { 2..5 };
            assert!(stage == 0 || needed.clone().all(|it| done.contains(&it)), "{task} after {done:?}");
            done.extend((stage == 0).then_some(task));
        }
        lone.end_some(|_, _| Some(OK));
        lone.pass(Duration::from_millis(50));
    }
    assert_eq!(lone.state(job), JobState::Done);
}

#[test]
fn what_needs_a_failed_element_fails_and_the_others_go_on() {
    let mut lone = Lone::new();
    let stages = vec![stage("first", 10, vec![]), same("second", 10)];
    let job = lone.submit_with(stages, |spec| spec.failures_max = 5);
    let mut ran = BTreeSet::new();
    while !lone.state(job).is_over() {
        ran.extend(lone.started().into_iter().filter(|(_, stage, _)| *stage == 1).map(|(_, _, task)| task));
        lone.end_some(|stage, task| Some(if (stage, task) == (0, 3) { Ending::Exited(1) } else { OK }));
        lone.pass(Duration::from_millis(50));
    }
    assert_eq!(lone.state(job), JobState::Failed);
    assert_eq!(ran, (0..10).filter(|task| *task != 3).collect());
}

#[test]
fn a_stage_that_needs_another_only_finished_runs_after_failures() {
    let mut lone = Lone::new();
    let stages = vec![stage("first", 10, vec![]), finished("second", 1)];
    let job = lone.submit_with(stages, |spec| spec.failures_max = 10);
    let mut ran = false;
    while !lone.state(job).is_over() {
        ran |= lone.started().iter().any(|(_, stage, _)| *stage == 1);
        lone.end_some(|stage, task| Some(if stage == 0 && task > 5 { Ending::Exited(1) } else { OK }));
        lone.pass(Duration::from_millis(50));
    }
    assert!(ran);
}

#[test]
fn a_restart_knows_again_what_elements_wait_for() {
    let mut lone = Lone::new();
    let job = lone.submit(vec![stage("first", 200, vec![]), same("second", 200)]);
    for _ in 0..30 {
        lone.run_started(|_, _| OK);
    }
    let mut again = Lone::on_disk(lone.disk);
    assert_eq!(again.run_until_over(job, |_, _| OK), JobState::Done);
}

#[test]
fn one_failure_too_many_stops_the_job() {
    for (failures_max, runs_on) in [(2, false), (3, true)] {
        let mut lone = Lone::new();
        let job = lone.submit_with(vec![stage("first", 500, vec![])], |spec| spec.failures_max = failures_max);
        let mut ran = BTreeSet::new();
        while !lone.state(job).is_over() {
            ran.extend(lone.started().into_iter().map(|(_, _, task)| task));
            lone.end_some(|_, task| Some(if task < 3 { Ending::Exited(1) } else { OK }));
            lone.pass(Duration::from_millis(10));
        }
        assert_eq!(ran.len() == 500, runs_on, "{} of 500 ran", ran.len());
    }
}

#[test]
fn a_greater_priority_is_granted_first() {
    let mut lone = Lone::new();
    let low = lone.submit(vec![stage("low", 50, vec![])]);
    let high = lone.submit_with(vec![stage("high", 50, vec![])], |spec| spec.options.priority = 5);
    lone.run_started(|_, _| OK); // what was granted before the second job came
    while !lone.state(high).is_over() {
        lone.pass(Duration::from_millis(10));
        let late = |(job, ..): &(_, u16, u32)| *job == low;
        assert!(
            !lone.started().iter().any(late)
                || lone.started().iter().any(|(job, ..)| *job == high)
                || lone.state(high).is_over()
        );
        lone.run_started(|_, _| OK);
    }
    assert_eq!(lone.state(low), JobState::Running);
}

#[test]
fn a_short_job_is_not_stuck_behind_a_long_one_whoever_submitted_it() {
    for key in [[7; 32], [8; 32]] {
        let mut lone = Lone::new();
        let long = lone.submit(vec![stage("long", 100_000, vec![])]);
        for _ in 0..20 {
            lone.end_few(4);
        }
        let short = lone.submit_as(&SigningKey::from_bytes(&key), vec![stage("short", 10, vec![])], |_| {});
        for _ in 0..100 {
            lone.end_few(4);
            lone.pass(Duration::from_millis(10));
        }
        assert_eq!(lone.state(short), JobState::Done);
        assert_eq!(lone.state(long), JobState::Running);
    }
}

#[test]
fn submitters_get_equal_parts_however_many_jobs_they_have() {
    let mut lone = Lone::new();
    for _ in 0..5 {
        lone.submit(vec![stage("many", 5000, vec![])]);
    }
    let one = lone.submit_as(&SigningKey::from_bytes(&[8; 32]), vec![stage("one", 5000, vec![])], |_| {});
    let (mut of_one, mut all) = (0, 0);
    for _ in 0..500 {
        let before = lone.started();
        lone.end_few(4);
        let ended: Vec<_> = before.into_iter().filter(|task| !lone.started().contains(task)).collect();
        of_one += ended.iter().filter(|(job, ..)| *job == one).count();
        all += ended.len();
        lone.pass(Duration::from_millis(10));
    }
    assert!(of_one * 3 > all && of_one * 3 < 2 * all, "{of_one} of {all}");
}

#[test]
fn no_more_tasks_run_at_once_than_a_job_allows() {
    let mut lone = Lone::new();
    let job = lone.submit_with(vec![stage("first", 300, vec![])], |spec| spec.options.parallel_max = Some(1));
    let mut most = 0;
    while !lone.state(job).is_over() {
        most = most.max(lone.started().len());
        lone.run_started(|_, _| OK);
        lone.pass(Duration::from_millis(20));
    }
    assert_eq!((most, lone.state(job)), (1, JobState::Done));
}

fn requiring(conditions: &[(Attribute, Comparison, &str)]) -> StageSpec {
    let condition = |(attribute, comparison, value): &(Attribute, Comparison, &str)| Condition {
        attribute: attribute.clone(),
        test: Test::Compares(*comparison, (*value).into()),
    };
    let place = Where { require: conditions.iter().map(condition).collect(), ..Where::default() };
    StageSpec { options: StageOptions { place, ..StageOptions::default() }, ..stage("first", 3, vec![]) }
}

#[test]
fn tasks_run_only_where_their_conditions_hold() {
    let mut lone = Lone::new();
    let here = lone.submit(vec![requiring(&[(Attribute::Arch, Comparison::Equal, "x86_64")])]);
    assert_eq!(lone.run_until_over(here, |_, _| OK), JobState::Done);
    let nowhere = StageSpec { queue_ms_max: Some(5000), ..requiring(&[(Attribute::Slots, Comparison::Greater, "2")]) };
    let nowhere = lone.submit(vec![nowhere]);
    lone.pass(Duration::from_secs(4));
    assert!(lone.started().is_empty());
    lone.pass(Duration::from_secs(2));
    assert_eq!(lone.state(nowhere), JobState::Failed);
    let why = "no node took it within its queue timeout: no node satisfies `slots > 2` (1 node: slots = 2)";
    assert_eq!(lone.first_ending(nowhere), Some(Ending::Rejected(why.into())));
}

#[test]
fn a_node_that_is_not_preferred_runs_what_no_other_can() {
    let mut lone = Lone::new();
    let label = Condition { attribute: Attribute::Label("disk".into()), test: Test::Exists };
    let place = Where { prefer: vec![label], ..Where::default() };
    let options = StageOptions { place, ..StageOptions::default() };
    let job = lone.submit(vec![StageSpec { options, ..stage("first", 3, vec![]) }]);
    assert_eq!(lone.run_until_over(job, |_, _| OK), JobState::Done);
}

#[test]
fn a_task_takes_as_many_slots_as_it_says() {
    let wide = |slots| {
        let options = StageOptions { slots, ..StageOptions::default() };
        StageSpec { options, ..stage("wide", 5, vec![]) }
    };
    let mut lone = Lone::new();
    let job = lone.submit(vec![wide(2)]);
    assert_eq!(lone.started().len(), 1, "the node has two slots");
    assert_eq!(lone.run_until_over(job, |_, _| OK), JobState::Done);
    lone.submit(vec![wide(3)]);
    lone.pass(Duration::from_secs(5));
    assert!(lone.started().is_empty(), "no node has three slots");
}

#[test]
fn tasks_that_are_not_over_in_time_fail() {
    let mut lone = Lone::new();
    let options = StageOptions { total_ms_max: Some(5000), ..StageOptions::default() };
    let job = lone.submit(vec![StageSpec { options, ..stage("first", 3, vec![]) }]);
    lone.pass(Duration::from_secs(4));
    assert_eq!(lone.state(job), JobState::Running);
    lone.pass(Duration::from_secs(2));
    assert_eq!(lone.state(job), JobState::Failed);
}

#[test]
fn tasks_that_an_earlier_job_did_are_not_run() {
    let mut lone = Lone::new();
    let skip = vec![Range { first: 0, count: 70 }, Range { first: 75, count: 125 }];
    let options = StageOptions { skip, ..StageOptions::default() };
    let stages = vec![StageSpec { options, ..stage("first", 200, vec![]) }, stage("second", 1, vec![0])];
    let job = lone.submit(stages);
    let mut ran = BTreeSet::new();
    while !lone.state(job).is_over() {
        ran.extend(lone.started().into_iter().filter(|(_, stage, _)| *stage == 0).map(|(_, _, task)| task));
        lone.run_started(|_, _| OK);
        lone.pass(Duration::from_millis(50));
    }
    assert_eq!((ran, lone.state(job)), ((70..75).collect(), JobState::Done));
}

#[test]
fn of_many_shards_that_wait_each_has_its_turn() {
    let mut lone = Lone::new();
    let mut jobs = Vec::new();
    for _ in 0..600 {
        lone.notices.clear();
        let options = StageOptions { slots: 99, ..StageOptions::default() };
        jobs.push(lone.submit(vec![StageSpec { queue_ms_max: Some(1000), options, ..stage("waits", 1, vec![]) }]));
    }
    let runs = lone.submit(vec![stage("runs", 2, vec![])]);
    assert_eq!(lone.run_until_over(runs, |_, _| OK), JobState::Done);
    // 256 of them are looked at every quarter of a second.
    lone.pass(Duration::from_secs(4));
    assert!(jobs.into_iter().all(|job| lone.state(job) == JobState::Failed));
}
