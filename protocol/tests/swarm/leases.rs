//! Who runs what now is told on every node as those know who grant it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::few::{Core, Few, id, status, submit};
use swarm_protocol::message::{Grant, StopCause};
use swarm_protocol::{Answer, Epoch, Event, JobId, LeaseId, Message, NodeId, Notice, Query, Range, ShardId};

#[test]
fn every_node_tells_who_runs_a_task() {
    // More than there are custodians, so that some know nothing of a shard themselves.
    let mut few = Few::new(5);
    let shards = shards_of(submit(&mut few, 0));
    few.pass(Duration::from_secs(1));
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

#[test]
fn a_node_that_waits_for_the_job_itself_is_granted_no_more() {
    let mut few = Few::new(5);
    few.lost = |message| matches!(message, Message::JobPush { .. });
    let shards = shards_of(submit(&mut few, 0));
    few.pass(Duration::from_secs(2));
    for number in 0..5 {
        let leased = shards.map(|shard| told(&mut few, 0, shard));
        let of_node = leased.iter().flat_map(BTreeMap::values).filter(|nodes| nodes.contains(&id(number)));
        assert_eq!(of_node.count(), 1, "node {number}");
    }
    few.lost = |_| false;
    few.pass(Duration::from_secs(2));
    assert!(few.cores.values().all(|core| tasks_of(core) == 1));
}

#[test]
fn what_a_second_arbiter_grants_for_one_slot_is_given_back() {
    let mut few = Few::new(5);
    let shards = shards_of(submit(&mut few, 0));
    few.pass(Duration::from_secs(1));
    let (busy, lease) = few.cores.iter().find_map(|(node, core)| Some((*node, core.batches.first()?.lease))).unwrap();
    let shard = shards.into_iter().find(|shard| *shard != lease.shard).unwrap();
    let from = few.cores.keys().copied().find(|node| *node != busy).unwrap();
    let tasks = vec![(Range { first: 64, count: 1 }, 0)];
    let second = Grant { lease: LeaseId { shard, number: 99, ..lease }, continues: None, tasks, ttl_ms: 10_000 };
    few.tell(busy, Event::Received { from, message: Message::Grant(second) });
    assert_eq!(tasks_of(&few.cores[&busy]), 1);
}

#[test]
fn who_grants_tasks_of_a_stopped_job_is_told_that_it_is() {
    let mut few = Few::new(3);
    let job = submit(&mut few, 0);
    few.lost = |_| true;
    few.tell(id(1), Event::Cancel { token: 9, job });
    few.lost = |_| false;
    let shard = shards_of(job)[0];
    let lease = LeaseId { shard, epoch: Epoch { counter: 9, tie: 9 }, number: 99 };
    let grant = Grant { lease, continues: None, tasks: vec![(Range { first: 0, count: 1 }, 0)], ttl_ms: 10_000 };
    few.tell(id(1), Event::Received { from: id(2), message: Message::Grant(grant) });
    few.lost = |_| true;
    assert_eq!(status(&mut few, 2, job).and_then(|status| status.stop), Some(StopCause::Cancelled));
}

fn shards_of(job: JobId) -> [ShardId; 2] {
    [0, 1].map(|number| ShardId { job, stage: 0, number })
}

/// The tasks that a node was given to run, none of which has ended.
fn tasks_of(core: &Core) -> u32 {
    core.batches.iter().flat_map(|batch| &batch.tasks).map(|(range, _)| range.count).sum()
}
