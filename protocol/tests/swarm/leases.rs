//! Who runs what now is told on every node as those know who grant it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::few::{Few, id, key, spec};
use swarm_protocol::{Answer, Event, JobId, NodeId, Notice, Query, ShardId, SignedJob};

#[test]
fn every_node_tells_who_runs_a_task() {
    // More than there are custodians, so that some know nothing of a shard themselves.
    let mut few = Few::new(5);
    let job = SignedJob::sign(&spec(0), &key(0)).unwrap();
    let job_id = job.id();
    few.tell(id(0), Event::Submit { token: 1, job });
    few.pass(Duration::from_secs(1));
    let shards = [0, 1].map(|number| ShardId { job: job_id, stage: 0, number });
    assert!(shards.iter().any(|shard| !started(&few, *shard).is_empty()));
    for shard in shards {
        let started = started(&few, shard);
        for number in 0..5 {
            assert_eq!(told(&mut few, number, shard), started, "node {number}");
        }
    }
    let unknown = ShardId { job: JobId::from_bytes([9; 32]), stage: 0, number: 0 };
    assert_eq!(told(&mut few, 0, unknown), BTreeMap::new());
}

type Runs = BTreeMap<u32, BTreeSet<NodeId>>;

/// The tasks of a shard that were given to executors, none of which has ended.
fn started(few: &Few, shard: ShardId) -> Runs {
    let mut runs = Runs::new();
    for (node, core) in &few.cores {
        let batches = core.batches.iter().filter(|batch| batch.lease.shard == shard);
        let tasks = batches.flat_map(|batch| batch.tasks.iter().flat_map(|(range, _)| range.indexes()));
        tasks.for_each(|task| _ = runs.entry(task).or_default().insert(*node));
    }
    runs
}

fn told(few: &mut Few, number: u8, shard: ShardId) -> Runs {
    few.cores.get_mut(&id(number)).unwrap().notices.clear();
    few.tell(id(number), Event::Ask { token: 9, query: Query::Leases(shard) });
    let answers = few.cores[&id(number)].notices.iter().filter_map(|notice| match notice {
        Notice::Answered { token: 9, answer: Answer::Leases(leases) } => Some(leases.clone()),
        _ => None,
    });
    let mut runs = Runs::new();
    for (range, node) in answers.flatten() {
        range.indexes().for_each(|task| _ = runs.entry(task).or_default().insert(node));
    }
    runs
}
