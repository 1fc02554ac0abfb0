//! Blobs between real processes: killed in the middle, damaged on the disk, collected while they are used, needed by thousands.
//!
//! The program must have been built: `cargo build --release -p swarm-node`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use swarm_simulation::cluster::{Cluster, DEADLINE, Node, Scrub, find_swarm, wait_until};
use swarm_simulation::damage::{Served, Shape, Work, served};
use tempfile::TempDir;

const BYTES: usize = 24 << 20;
/// So that a fetch lasts long enough for something to happen.
const SLOW: &str = "6MB";
/// What may be on its way, unchecked, when somebody dies.
const LOST_BYTES_MAX: u64 = 1 << 20;
/// A job's: minutes on a machine that builds something beside it.
const JOB_DEADLINE: Duration = Duration::from_secs(300);
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

#[test]
fn ten_thousand_tasks_share_an_input_that_crosses_the_wire_twice() {
    const NODES: usize = 3;
    const INPUT_BYTES: usize = 20 << 20;
    let _turn = my_turn();
    let mut cluster = Cluster::empty(&find_swarm(None).unwrap(), 2).unwrap();
    (0..NODES).for_each(|_| _ = cluster.add());
    cluster.start_all().unwrap();
    cluster.wait_members(NODES, DEADLINE).unwrap();
    let files = tempfile::tempdir().unwrap();
    let input = random_file(&files.path().join("shared.bin"), INPUT_BYTES);
    fs::write(files.path().join("head.wasm"), wat::parse_str(HEAD).unwrap()).unwrap();
    let task = "wasm = \"head.wasm\"\narray = \"0..10000\"\ninputs.shared = { file = \"shared.bin\" }\n";
    fs::write(files.path().join("job.toml"), format!("name = \"shared\"\n[task.head]\n{task}")).unwrap();

    let began = Instant::now();
    let job = cluster.node(0).submit(&files.path().join("job.toml")).unwrap();
    wait_until("the end of the job", JOB_DEADLINE, || Ok(cluster.node(0).show(&job)?.is_over().then_some(()))).unwrap();
    let took = began.elapsed();
    let done = cluster.node(0).show(&job).unwrap();
    assert_eq!((done.state.as_str(), done.done), ("done", 10_000));
    assert_eq!(cluster.node(2).logs(&job).unwrap(), input[..8].repeat(10_000));
    let received: Vec<u64> =
        cluster.nodes().iter().map(|node| node.status().unwrap().transfers.received_bytes).collect();
    let times: Vec<String> = received.iter().map(|got| format!("{:.3}", *got as f64 / INPUT_BYTES as f64)).collect();
    println!("10,000 tasks in {took:.1?}; each node received the input {} times", times.join(", "));
    let all: u64 = received.iter().sum();
    assert!(all >= 2 * INPUT_BYTES as u64 && all as f64 <= 2.0 * INPUT_BYTES as f64 * PROOFS, "{received:?}");
    assert_eq!(cluster.panics(), 0);
}

/// Prints the first 8 bytes of `/in/shared`.
const HEAD: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "shared")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 128))
    (i32.store (i32.const 4) (i32.const 8))
    (if (call $path_open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 6) (i32.const 0)
        (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16)) (then unreachable))
    (if (call $fd_read (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 20)) (then unreachable))
    (if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 20)) (then unreachable))))"#;

#[test]
fn a_blob_that_is_damaged_on_the_disk_is_found_and_fetched_anew_or_said_to_be_lost() {
    let _turn = my_turn();
    let mut cluster = Cluster::empty(&find_swarm(None).unwrap(), 1).unwrap();
    cluster.add();
    cluster.add().set_variable("SWARM_SCRUB_EVERY", "1s");
    cluster.start_all().unwrap();
    cluster.wait_members(2, DEADLINE).unwrap();
    let files = tempfile::tempdir().unwrap();
    let cli = |node: usize, args: &[&str]| cluster.node(node).cli(args).unwrap();
    let put = |node: usize, file: &str, len: usize| {
        let path = files.path().join(file);
        random_file(&path, len);
        String::from_utf8(cli(node, &["blob", "put", path.to_str().unwrap()]).good().unwrap().stdout).unwrap()
    };

    // The one who never looks is told when it is asked to.
    let shared = put(0, "shared", 3 << 20).trim().to_owned();
    let other = put(0, "other", 1000).trim().to_owned();
    flip_a_byte(&stored(cluster.node(0), &other));
    let verified = cli(0, &["blob", "verify", &other]);
    assert!(verified.code == Some(11) && verified.stderr.contains("was damaged on the disk"), "{verified:?}");

    // The one who looks finds it by itself.
    cli(1, &["blob", "pin", &shared]).good().unwrap();
    flip_a_byte(&stored(cluster.node(1), &shared));
    let scrub = |node: usize| Ok(cluster.node(node).status()?.scrub);
    wait_until("a repair", DEADLINE * 2, || scrub(1).map(|scrub: Scrub| (scrub.repaired == 1).then_some(()))).unwrap();
    cli(1, &["blob", "verify", &shared]).good().unwrap();
    assert_eq!(fs::read(stored(cluster.node(1), &shared)).unwrap(), fs::read(files.path().join("shared")).unwrap());

    // What nobody else has is lost, and nobody is given what is left of it.
    let only = put(1, "only", 1 << 20).trim().to_owned();
    cli(1, &["blob", "pin", &only]).good().unwrap();
    flip_a_byte(&stored(cluster.node(1), &only));
    let hex = only.strip_prefix("blake3:").unwrap().to_owned();
    wait_until("that it is lost", DEADLINE * 3, || scrub(1).map(|scrub| (scrub.lost == [hex.clone()]).then_some(())))
        .unwrap();
    assert!(String::from_utf8(cli(1, &["status"]).stdout).unwrap().contains("damaged here and on no node"));
    for node in [0, 1] {
        let got = cli(node, &["blob", "get", &only]);
        assert!(got.code == Some(5) && got.stdout.is_empty(), "{got:?}");
    }
    // Until somebody comes back with it.
    cli(0, &["blob", "put", files.path().join("only").to_str().unwrap()]).good().unwrap();
    wait_until("that it is found", DEADLINE * 3, || scrub(1).map(|scrub| scrub.lost.is_empty().then_some(()))).unwrap();
    cli(1, &["blob", "verify", &only]).good().unwrap();
    assert_eq!(cluster.panics(), 0);
}

#[test]
fn nothing_that_is_in_use_is_collected_while_jobs_run() {
    const JOBS: u64 = 12;
    /// Longer than a loaded machine takes from the last input of a job to its acknowledgement, shorter than all jobs take.
    const GRACE: &str = "8s";
    /// Twenty tasks of some 100 ms, with inputs and outputs that are blobs.
    const SHAPE: Shape = Shape { name: "kept", tasks: 20, rounds: 75_000_000, sign: '\n', blobs: true };
    let _turn = my_turn();
    let mut cluster = Cluster::empty(&find_swarm(None).unwrap(), 2).unwrap();
    (0..3).for_each(|_| cluster.add().set_variable("SWARM_GC_GRACE", GRACE));
    cluster.start_all().unwrap();
    cluster.wait_members(3, DEADLINE).unwrap();
    let files = tempfile::tempdir().unwrap();
    let (over, removed) = (AtomicBool::new(false), AtomicU64::new(0));
    let collect = |node: &Node| {
        while !over.load(Ordering::Relaxed) {
            let collected: Collected =
                node.cli(&["blob", "gc", "--grace", GRACE, "-o", "json"]).unwrap().json().unwrap();
            removed.fetch_add(collected.removed, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        let _ends = Ends(&over);
        cluster.nodes().iter().for_each(|node| _ = scope.spawn(move || collect(node)));
        let mut kept = Vec::new();
        for number in 0..JOBS {
            let dir = files.path().join(number.to_string());
            let work = Work::write(&dir, SHAPE, number).unwrap();
            let node = cluster.node(number as usize % 3);
            kept.push((node.submit(&work.job()).unwrap(), work));
            random_file(&dir.join("loose"), 5000);
            node.cli(&["blob".as_ref(), "put".as_ref(), dir.join("loose").as_os_str()]).unwrap().good().unwrap();
        }
        // What no job needs goes, when everything else has been here for as long.
        let is_collected = || removed.load(Ordering::Relaxed) >= JOBS;
        wait_until("collections", DEADLINE * 3, || Ok(is_collected().then_some(()))).unwrap();
        for (number, (job, work)) in kept.iter().enumerate() {
            let node = cluster.node((number + 1) % 3);
            wait_until("the end of a job", JOB_DEADLINE, || Ok(node.show(job)?.is_over().then_some(()))).unwrap();
            let result = served(node, job, work).unwrap();
            assert!(matches!(result, Served::Right), "{result:?}");
        }
    });
    println!("{} blobs were collected meanwhile", removed.into_inner());
    assert_eq!(cluster.panics(), 0);
}

/// `swarm blob gc -o json`.
#[derive(Deserialize)]
struct Collected {
    removed: u64,
}

/// Ends the threads of a scope, also after a failure.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The file of a blob in a node's data directory.
fn stored(node: &Node, name: &str) -> PathBuf {
    let hex = name.strip_prefix("blake3:").unwrap();
    node.dir().join("blobs").join(&hex[..2]).join(hex)
}

fn flip_a_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn random_file(path: &Path, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::fill(&mut bytes);
    fs::write(path, &bytes).unwrap();
    bytes
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
        random_file(&files.path().join("file"), BYTES);
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
