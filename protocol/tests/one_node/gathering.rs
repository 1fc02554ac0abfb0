//! Outcomes for which nobody waits share a sync.

use std::time::Duration;

use swarm_protocol::{Ending, Event, JobId, JobState, StageSpec, Table};

use crate::lone::{Lone, stage};

const OK: Ending = Ending::Exited(0);

/// Writes of results so far.
fn written(lone: &Lone) -> usize {
    lone.disk.keys().filter(|(table, _)| *table == Table::Segments).count()
}

/// A job of many tasks, of which some have ended and been written down.
fn many(lone: &mut Lone) -> JobId {
    let job = lone.submit(vec![StageSpec { shard_tasks: 4000, ..stage("many", 4000, vec![]) }]);
    lone.pass(Duration::from_secs(1));
    lone.end_few(1);
    job
}

#[test]
fn what_ends_while_others_wait_is_written_down_twice_a_second() {
    let mut lone = Lone::new();
    many(&mut lone);
    let before = written(&lone);
    assert!(before > 0, "the first after a pause waits for nothing");
    for _ in 0..10 {
        lone.pass(Duration::from_millis(20));
        lone.end_few(1);
    }
    assert_eq!(written(&lone), before);
    lone.pass(Duration::from_millis(500));
    assert!(written(&lone) > before);
}

#[test]
fn the_end_of_a_shard_is_written_down_at_once() {
    let mut lone = Lone::new();
    let job = many(&mut lone);
    while lone.run_started(|_, _| OK) {}
    assert_eq!(lone.state(job), JobState::Done);
}

#[test]
fn a_failure_is_written_down_at_once() {
    let mut lone = Lone::new();
    many(&mut lone);
    let before = written(&lone);
    lone.end_few(1);
    assert_eq!(written(&lone), before);
    let failing = lone.started()[0].2;
    lone.end_some(|_, task| (task == failing).then_some(Ending::Exited(7)));
    assert!(written(&lone) > before);
}

#[test]
fn what_was_done_before_a_cancel_stays_done() {
    let mut lone = Lone::new();
    let job = many(&mut lone);
    lone.end_few(2);
    lone.tell(Event::Cancel { token: 2, job });
    assert_eq!((lone.state(job), lone.done(job)), (JobState::Cancelled, 3));
}
