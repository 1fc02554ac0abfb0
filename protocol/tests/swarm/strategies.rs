//! `strategy`: which of several nodes that may run a task is given it.

use std::time::Duration;

use swarm_protocol::{Event, SignedJob, Strategy};

use crate::few::{Few, id, key, spec};

/// How many of a job's tasks each of four nodes with four slots runs after two seconds.
fn tasks_by_node(count: u32, strategy: Strategy) -> Vec<u32> {
    let mut few = Few::with_slots(4, 4);
    let mut spec = spec(0);
    spec.stages[0].count = count;
    spec.stages[0].options.place.strategy = strategy;
    few.tell(id(0), Event::Submit { token: 1, job: SignedJob::sign(&spec, &key(0)).unwrap() });
    few.pass(Duration::from_secs(2));
    let running =
        |core: &crate::few::Core| core.batches.iter().flat_map(|batch| &batch.tasks).map(|(it, _)| it.count).sum();
    let mut tasks: Vec<u32> = few.cores.values().map(running).collect();
    tasks.sort_unstable();
    tasks
}

#[test]
fn spread_gives_each_node_as_many() {
    assert_eq!(tasks_by_node(4, Strategy::Spread), [1, 1, 1, 1]);
    assert_eq!(tasks_by_node(6, Strategy::Spread), [1, 1, 2, 2]);
    assert_eq!(tasks_by_node(16, Strategy::Spread), [4, 4, 4, 4]);
}

#[test]
fn pack_fills_one_node_before_the_next() {
    assert_eq!(tasks_by_node(3, Strategy::Pack), [0, 0, 0, 3]);
    assert_eq!(tasks_by_node(6, Strategy::Pack), [0, 0, 2, 4]);
}

#[test]
fn whatever_the_strategy_every_slot_is_used() {
    for strategy in [Strategy::Any, Strategy::Spread, Strategy::Pack] {
        assert_eq!(tasks_by_node(40, strategy).iter().sum::<u32>(), 16, "{strategy:?}");
    }
}
