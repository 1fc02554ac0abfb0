//! Jobs leave when their time is over: everywhere, for good, and with all that was remembered of them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::few::{Few, finish, id, is_over, run, stored, submit};
use swarm_protocol::placement::{Key, View};
use swarm_protocol::{Epoch, Event, Hash, Message, ShardId, Table};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_job_leaves_all_nodes_a_day_after_its_end_with_all_its_records() {
    let mut few = Few::new(3);
    let job = run(&mut few, 0);
    assert!((0..3).any(|number| stored(&few, number, Table::Segments) > 0));
    assert!((0..3).any(|number| stored(&few, number, Table::Uses) > 0));
    let used = few.cores[&id(0)].node.blobs_in_use();
    assert!(used.held_lists.contains(&Hash::of(b"list")) && used.blobs.contains(&Hash::of(b"printed")));

    // One is switched off meanwhile, and counts nothing.
    few.cut(2);
    let disk = few.cores.remove(&id(2)).unwrap().disk;
    few.pass(23 * HOUR);
    assert!(is_over(&mut few, 1, job), "it is kept for a day");
    few.pass(HOUR + Duration::from_secs(60));
    assert!(few.cores[&id(1)].node.has_expired(job));

    // When it comes back it is told, and does not bring the job back.
    few.add(2, disk);
    few.pass(Duration::from_secs(30));
    for number in 0..3 {
        assert!(few.cores[&id(number)].node.has_expired(job), "{number}");
        assert!(few.cores[&id(number)].node.blobs_in_use() == Default::default());
        for table in [Table::Jobs, Table::Segments, Table::Promises, Table::Uses] {
            assert_eq!(stored(&few, number, table), 0, "{}", table.name());
        }
        assert!(!is_over(&mut few, number, job));
    }
    assert!(few.cores.values().all(|core| core.batches.is_empty()), "nothing runs again");
}

/// A node that was cut off when a job expired, and was no custodian of it, kept it and its blobs for ever.
#[test]
fn who_only_heard_of_a_job_hears_of_its_end_too() {
    let mut few = Few::new(4);
    let job = run(&mut few, 0);
    let bystander = (0..4).find(|number| stored(&few, *number, Table::Promises) == 0).unwrap();
    few.cut(bystander);
    few.pass(24 * HOUR + Duration::from_secs(60));
    assert!(!few.cores[&id(bystander)].node.has_expired(job));
    (0..4).filter(|number| *number != bystander).for_each(|number| few.link(bystander, number));
    few.pass(24 * HOUR);
    assert!(few.cores[&id(bystander)].node.has_expired(job));
}

/// A node that was away brought back a job that had expired to custodians with new disks: its blobs were gone, so that it
/// never ended, and the one node that knew better was no custodian and was not asked.
#[test]
fn a_job_whose_blobs_are_gone_is_asked_about() {
    let mut few = Few::new(8);
    let job = submit(&mut few, 0);
    few.pass(Duration::from_secs(1));
    let shards = [0, 1].map(|number| Key::of_shard(ShardId { job, stage: 0, number }));
    let view = View::of((0..8).map(id));
    let keeps: Vec<_> = shards.into_iter().chain([Key::of_job(job)]).flat_map(|key| view.custodians(key)).collect();
    let bystanders: Vec<u8> = (0..8).filter(|number| !keeps.contains(&id(*number))).collect();
    let (away, bystander) = (bystanders[0], bystanders[1]);
    few.cut(away);
    let old = few.cores.remove(&id(away)).unwrap().disk;
    finish(&mut few, bystander, job);
    few.pass(48 * HOUR);
    assert!(few.cores[&id(bystander)].node.has_expired(job));
    for number in (0..8).filter(|number| ![away, bystander].contains(number)) {
        few.cut(number);
        few.cores.remove(&id(number));
        few.add(number, BTreeMap::new());
    }
    few.cores.values_mut().for_each(|core| core.fetches = false);
    few.add(away, old);
    few.pass(Duration::from_secs(60));
    assert!((0..8).all(|number| few.cores[&id(number)].node.has_expired(job)));
}

/// A node that had forgotten what it promised of a job that was no more promised an older epoch to whoever had not heard.
#[test]
fn of_a_job_that_expired_nothing_is_promised() {
    let mut few = Few::new(2);
    let job = run(&mut few, 0);
    few.pass(24 * HOUR + Duration::from_secs(60));
    let shard = ShardId { job, stage: 0, number: 0 };
    let message = Message::Prepare(vec![(shard, Epoch::NONE.next(id(1)))]);
    few.tell(id(0), Event::Received { from: id(1), message });
    assert_eq!(stored(&few, 0, Table::Promises), 0);
}

#[test]
fn restarts_cost_little_of_the_time_that_was_counted() {
    let mut few = Few::new(1);
    let job = run(&mut few, 0);
    for _ in 0..8 {
        few.pass(3 * HOUR - Duration::from_secs(60));
        let disk = few.cores.remove(&id(0)).unwrap().disk;
        few.add(0, disk);
    }
    assert!(!few.cores[&id(0)].node.has_expired(job));
    // Each of the eight restarts costs at most a sixteenth of a day.
    few.pass(13 * HOUR);
    assert!(few.cores[&id(0)].node.has_expired(job));
}
