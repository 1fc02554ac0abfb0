//! A result is told when two nodes have it, or when there is no other.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::few::{Few, id, is_over, run};
use swarm_protocol::{Message, Table};

#[test]
fn what_may_be_on_one_disk_is_not_told_after_a_restart_either() {
    let mut few = Few::new(3);
    few.lost =
        |message| matches!(message, Message::RecordKept { .. } | Message::Digests(_) | Message::DigestsCompared { .. });
    let job = run(&mut few, 0);

    // One custodian is left; for all that it heard, the others lost the results before they were synced.
    let mut disk = few.cores[&id(1)].disk.clone();
    assert!(disk.keys().any(|(table, key)| *table == Table::Meta && key.starts_with(b"unsure:")));
    disk.insert((Table::Peers, id(2).as_bytes().to_vec()), Vec::new());
    for number in 0..3 {
        few.cut(number);
        few.cores.remove(&id(number));
    }
    few.lost = |message| matches!(message, Message::Prepare(_) | Message::Digests(_) | Message::DigestsCompared { .. });
    few.add(2, BTreeMap::new());
    few.add(1, disk);
    assert!(!is_over(&mut few, 1, job), "the results may be here alone");

    // The copies are compared, so made equal.
    few.lost = |_| false;
    few.pass(Duration::from_secs(15));
    assert!(is_over(&mut few, 1, job) && is_over(&mut few, 2, job));
    let unsure = |few: &Few| few.cores[&id(1)].disk.keys().any(|(_, key)| key.starts_with(b"unsure:"));
    assert!(!unsure(&few), "the note goes when it is of no more use");
}

#[test]
fn who_is_left_alone_tells_what_it_knows() {
    let mut few = Few::new(3);
    few.lost = |message| matches!(message, Message::RecordKept { .. } | Message::Digests(_));
    let job = run(&mut few, 0);
    let disk = few.cores[&id(1)].disk.clone();
    for number in 0..3 {
        few.cut(number);
        few.cores.remove(&id(number));
    }
    few.add(1, disk);
    assert!(is_over(&mut few, 1, job));
}
