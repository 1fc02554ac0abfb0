//! What nodes remember when everything happens to their disks: they die round every write, their files are damaged, the disk
//! is gone. Full disks are in `room.rs`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use swarm_simulation::cluster::{Cluster, DEADLINE, Node, find_swarm, wait_until};
use swarm_simulation::crash_points::{self, CrashOptions};
use swarm_simulation::damage::{self, DamageOptions, Served, Shape, Work, served};
use tempfile::TempDir;

const SMALL: Shape = Shape { name: "small", tasks: 6, rounds: 10_000, sign: '\n', blobs: true };

#[test]
fn nothing_acknowledged_is_lost_at_any_crash_point() {
    let _turn = my_turn();
    let options = CrashOptions { rounds: 2, seed: None, threads: 4, only: None, swarm_bin: None };
    let report = crash_points::run(&options).unwrap();
    println!("{report}");
    assert!(report.is_good(), "{report}");
}

#[test]
fn damaged_stores_are_whole_repaired_or_refused() {
    let _turn = my_turn();
    let options = DamageOptions { stores: 40, seed: None, threads: 6, only: None, swarm_bin: None };
    let report = damage::run(&options).unwrap();
    println!("{report}");
    assert!(report.is_good() && report.stores() == 40, "{report}");
}

#[test]
fn a_node_that_lost_its_disk_joins_again_with_its_old_identity_or_a_new_one() {
    let _turn = my_turn();
    let files = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(&find_swarm(None).unwrap(), 2, 1).unwrap();
    cluster.wait_members(2, DEADLINE).unwrap();
    let (job, work) = submit(cluster.node(1), &files, 1);
    wait_right(cluster.node(0), &job, &work);
    let address = cluster.node(0).address().to_owned();
    let id = cluster.node(1).id().to_owned();
    for keeps_its_key in [true, false] {
        let node = cluster.node_mut(1);
        node.kill();
        node.set_bootstrap(vec![address.clone()]);
        wipe(&node.dir(), keeps_its_key);
        node.start().unwrap();
        assert_eq!(node.id() == id, keeps_its_key);
        // It is heard under an incarnation that the others have not seen yet, although it forgot its own.
        wait_alive(&cluster, 0, cluster.node(1).id());
        wait_right(cluster.node(1), &job, &work);
        let (next, work) = submit(cluster.node(1), &files, 2);
        wait_right(cluster.node(0), &next, &work);
    }
}

/// Tests take turns: several swarms at once would only wait for each other's processors.
fn my_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn work(files: &TempDir, seed: u64) -> Work {
    Work::write(&files.path().join(seed.to_string()), SMALL, seed).unwrap()
}

fn submit(node: &Node, files: &TempDir, seed: u64) -> (String, Work) {
    let work = work(files, seed);
    let job = wait_until("a submit", DEADLINE, || node.submit(&work.job()).map(Some)).unwrap();
    (job, work)
}

/// Waits until the node has the job, finished, with every byte right.
fn wait_right(node: &Node, job: &str, work: &Work) {
    wait_until(&format!("{job} as it must be"), DEADLINE, || {
        let is_done = node.show(job)?.state == "done";
        Ok((is_done && matches!(served(node, job, work)?, Served::Right)).then_some(()))
    })
    .unwrap();
}

fn wait_alive(cluster: &Cluster, node: usize, id: &str) {
    wait_until(&format!("that {id} is alive"), DEADLINE, || {
        let members = cluster.node(node).members()?;
        Ok(members.iter().any(|member| member.id == id && member.state == "alive").then_some(()))
    })
    .unwrap();
}

fn wipe(dir: &Path, keeps_the_key: bool) {
    let key = fs::read(dir.join("identity.key")).unwrap();
    fs::remove_dir_all(dir).unwrap();
    if keeps_the_key {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("identity.key"), key).unwrap();
    }
}
