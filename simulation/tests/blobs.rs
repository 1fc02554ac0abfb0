//! Blobs between real processes that are killed in the middle.
//!
//! The program must have been built: `cargo build --release -p swarm-node`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use swarm_simulation::cluster::{Cluster, DEADLINE, find_swarm, wait_until};
use tempfile::TempDir;

const BYTES: usize = 24 << 20;
/// So that a fetch lasts long enough for something to happen.
const SLOW: &str = "6MB";
/// What may be on its way, unchecked, when somebody dies.
const LOST_BYTES_MAX: u64 = 1 << 20;
/// A fetch with its proofs is longer than the blob by this much at most.
const PROOFS: f64 = 1.01;

#[test]
fn a_source_is_killed_in_the_middle_and_the_fetch_goes_on_from_the_other() {
    let _turn = my_turn();
    let mut stage = Stage::new(3);
    let name = stage.put(&[0, 1]);
    let get = stage.get(2, &name);
    stage.wait_received(2, 6 << 20);
    stage.cluster.node_mut(0).kill();
    stage.assert_got(get);
    assert!(stage.received(2) as f64 <= BYTES as f64 * PROOFS + LOST_BYTES_MAX as f64);
    assert_eq!(stage.cluster.panics(), 0);
}

#[test]
fn the_one_who_fetches_is_killed_in_the_middle_and_goes_on_from_its_disk() {
    let _turn = my_turn();
    let mut stage = Stage::new(2);
    let name = stage.put(&[0]);
    let mut get = stage.get(1, &name);
    stage.wait_received(1, 8 << 20);
    let before = stage.received(1);
    stage.cluster.node_mut(1).kill();
    get.wait().unwrap();
    stage.cluster.node_mut(1).start().unwrap();
    stage.cluster.wait_members(2, DEADLINE).unwrap();
    let get = stage.get(1, &name);
    stage.assert_got(get);
    let again = stage.received(1) as f64;
    // What came between the look and the death only makes it less.
    assert!(again <= (BYTES as u64 - before + LOST_BYTES_MAX) as f64 * PROOFS, "{before} before, {again} after");
    assert_eq!(stage.cluster.panics(), 0);
}

/// Tests take turns: several swarms at once would only wait for each other's processors.
fn my_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nodes that send slowly, and a file.
struct Stage {
    cluster: Cluster,
    program: PathBuf,
    files: TempDir,
}

impl Stage {
    fn new(nodes: usize) -> Self {
        let program = find_swarm(None).unwrap();
        let mut cluster = Cluster::empty(&program, 1).unwrap();
        for _ in 0..nodes {
            cluster.add().set_variable("SWARM_UPLOAD_RATE", SLOW);
        }
        cluster.start_all().unwrap();
        cluster.wait_members(nodes, DEADLINE).unwrap();
        let files = tempfile::tempdir().unwrap();
        let mut bytes = vec![0; BYTES];
        fastrand::fill(&mut bytes);
        fs::write(files.path().join("file"), bytes).unwrap();
        Self { cluster, program, files }
    }

    /// Stores the file on some nodes.
    fn put(&self, nodes: &[usize]) -> String {
        let file = self.files.path().join("file");
        let put = |node: &usize| self.cluster.node(*node).cli(&["blob".as_ref(), "put".as_ref(), file.as_os_str()]);
        let names: Vec<_> = nodes.iter().map(|node| put(node).unwrap().good().unwrap().stdout).collect();
        String::from_utf8(names[0].clone()).unwrap().trim().to_owned()
    }

    /// Begins to fetch it through a node.
    fn get(&self, node: usize, name: &str) -> Child {
        let mut command = Command::new(&self.program);
        command.arg("--node").arg(self.cluster.node(node).dir()).args(["blob", "get", name, "--force"]);
        command.arg(self.copy()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn copy(&self) -> PathBuf {
        self.files.path().join("copy")
    }

    fn received(&self, node: usize) -> u64 {
        self.cluster.node(node).status().unwrap().transfers.received_bytes
    }

    fn wait_received(&self, node: usize, bytes: u64) {
        wait_until("some of the blob", DEADLINE, || Ok((self.received(node) >= bytes).then_some(()))).unwrap();
    }

    fn assert_got(&self, mut get: Child) {
        let status = wait_until("the whole blob", DEADLINE, || Ok(get.try_wait().unwrap())).unwrap();
        assert!(status.success());
        assert!(same(&self.files.path().join("file"), &self.copy()));
    }
}

fn same(one: &Path, other: &Path) -> bool {
    fs::read(one).unwrap() == fs::read(other).unwrap()
}
