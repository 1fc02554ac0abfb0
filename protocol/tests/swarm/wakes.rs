//! What the cores have to do for a task, wherever it runs: on two processors that is time taken from guests.

use std::time::Duration;

use crate::few::{Few, id, submit};
use swarm_protocol::{Ending, Event, Outcome};

/// One task a slot at a time, each of so long.
const TASK: Duration = Duration::from_millis(100);
const TASKS: usize = 60;
/// Of two cores, heartbeats included: wants, grants, reports, records and what follows from them.
const WAKES_MAX: usize = 6;

#[test]
fn a_task_wakes_the_cores_seldom() {
    let mut few = Few::new(2);
    submit(&mut few, 0);
    few.pass(Duration::from_secs(1));
    few.wakes = 0;
    let mut ended = 0;
    while ended < TASKS {
        few.pass(TASK / 2);
        for number in [0, 1] {
            ended += usize::from(end_first(&mut few, number));
            few.pass(TASK / 4);
        }
    }
    assert!(few.wakes <= TASKS * WAKES_MAX, "{} for a task", few.wakes as f64 / TASKS as f64);
}

/// Ends the batch that a node has run for longest.
fn end_first(few: &mut Few, number: u8) -> bool {
    let batches = &mut few.cores.get_mut(&id(number)).unwrap().batches;
    if batches.is_empty() {
        return false;
    }
    let batch = batches.remove(0);
    let outcomes = batch.tasks.iter().map(|(range, _)| (*range, Outcome::bare(Ending::Exited(0)))).collect();
    few.tell(id(number), Event::Ended { lease: batch.lease, outcomes, busy: TASK });
    true
}
