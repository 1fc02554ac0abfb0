//! What tasks print is followed from other nodes while they run.
//!
//! The program must have been built: `cargo build --release -p swarm-node`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use swarm_simulation::cluster::{Cluster, DEADLINE, find_swarm, wait_until};
use tempfile::TempDir;

/// Lines of a task that ends, and of one that is cancelled long before.
const SHORT: u32 = 20;
const LONG: u32 = 100_000;
/// About 50 ms on one core of 2026.
const ROUNDS: u32 = 40_000_000;

#[test]
fn a_task_is_followed_from_every_other_node_while_it_runs() {
    let _turn = my_turn();
    // With five some neither run the task nor keep what is known of it.
    for nodes in [2, 5] {
        let stage = Stage::start(nodes);
        let job = stage.submit("long", LONG, 1);
        let mut followers: Vec<_> =
            (0..nodes).map(|node| stage.follow(node, &job, &["--stdout", "--stderr"])).collect();
        for follower in &followers {
            wait_until("lines of a running task", DEADLINE, || Ok((follower.lines().len() > 4).then_some(()))).unwrap();
            let lines = follower.lines();
            assert!(lines.contains(&"begun".to_owned()), "standard error is followed, too: {lines:?}");
            let printed: Vec<_> = lines.into_iter().filter(|line| line != "begun").collect();
            assert_eq!(printed, (0..printed.len()).map(|line| format!("{line:06}")).collect::<Vec<_>>());
        }
        let shown = stage.cluster.node(0).show(&job).unwrap();
        assert_eq!((shown.state.as_str(), shown.done), ("running", 0));
        stage.cluster.node(0).cli(&["cancel", &job]).unwrap().good().unwrap();
        followers.iter_mut().for_each(Follower::ends);
        assert_eq!(stage.cluster.panics(), 0);
    }
}

#[test]
fn what_was_followed_is_what_is_kept_to_the_byte() {
    let _turn = my_turn();
    let stage = Stage::start(3);
    let job = stage.submit("short", SHORT, 1);
    let mut followers: Vec<_> = (0..3).map(|node| stage.follow(node, &job, &[])).collect();
    let array = stage.submit("array", SHORT, 6);
    let mut prefixed = stage.follow(0, &array, &["--prefix"]);
    let kept = || (0..SHORT).map(|line| format!("{line:06}"));
    for follower in &mut followers {
        follower.ends();
        assert_eq!(follower.lines(), kept().collect::<Vec<_>>());
    }
    assert_eq!(
        stage.cluster.node(1).logs(&job).unwrap(),
        kept().map(|line| line + "\n").collect::<String>().into_bytes()
    );
    // Lines of several tasks are mixed, and each is whole and printed once.
    prefixed.ends();
    let mut lines = prefixed.lines();
    lines.sort();
    let mut all: Vec<_> = (0..6).flat_map(|task| kept().map(move |line| format!("lines[{task}] | {line}"))).collect();
    all.sort();
    assert_eq!(lines, all);
    assert_eq!(stage.cluster.panics(), 0);
}

#[test]
fn where_a_task_printed_too_much_it_is_said_that_it_was_cut() {
    let _turn = my_turn();
    let stage = Stage::start(1);
    let file = stage.write("flood", LONG, 1, "64B");
    let job = stage.cluster.node(0).submit(&file).unwrap();
    let mut follower = stage.follow(0, &job, &[]);
    follower.ends();
    assert_eq!(follower.text("out").len(), 64);
    assert!(follower.text("err").contains("cut here, output too large: standard output"), "{}", follower.text("err"));
}

/// Tests take turns: several swarms at once would only wait for each other's processors.
fn my_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A swarm, and files for and of its users.
struct Stage {
    cluster: Cluster,
    program: PathBuf,
    files: TempDir,
}

impl Stage {
    fn start(nodes: usize) -> Self {
        let program = find_swarm(None).unwrap();
        let mut cluster = Cluster::start(&program, nodes, 1).unwrap();
        cluster.wait_members(nodes, DEADLINE).unwrap();
        Self { cluster, program, files: tempfile::tempdir().unwrap() }
    }

    /// A job of tasks that print numbered lines and compute for a while before each.
    fn write(&self, name: &str, lines: u32, tasks: u32, stdout: &str) -> PathBuf {
        let path = |ending: &str| self.files.path().join(format!("{name}.{ending}"));
        fs::write(path("wasm"), wat::parse_str(guest(lines)).unwrap()).unwrap();
        let array = if tasks > 1 { format!("array = \"0..{tasks}\"\n") } else { String::new() };
        let limits = format!("limits = {{ fuel = 1_000_000_000_000_000, stdout = \"{stdout}\" }}\n");
        let task = format!("[task.lines]\nwasm = \"{name}.wasm\"\n{array}{limits}");
        fs::write(path("toml"), format!("name = \"{name}\"\n{task}")).unwrap();
        path("toml")
    }

    fn submit(&self, name: &str, lines: u32, tasks: u32) -> String {
        self.cluster.node(0).submit(&self.write(name, lines, tasks, "1MiB")).unwrap()
    }

    fn follow(&self, node: usize, job: &str, args: &[&str]) -> Follower {
        let files = self.files.path().join(format!("follower-{node}-{job}"));
        let create = |ending| File::create(files.with_extension(ending)).unwrap();
        let mut command = Command::new(&self.program);
        command.arg("--node").arg(self.cluster.node(node).dir()).args(["logs", "--follow", job]).args(args);
        let child = command.stdin(Stdio::null()).stdout(create("out")).stderr(create("err")).spawn().unwrap();
        Follower { child, files }
    }
}

/// A user who follows a job.
struct Follower {
    child: Child,
    files: PathBuf,
}

impl Follower {
    fn text(&self, ending: &str) -> String {
        fs::read_to_string(Path::with_extension(&self.files, ending)).unwrap()
    }

    /// Whole lines so far.
    fn lines(&self) -> Vec<String> {
        let text = self.text("out");
        text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect()
    }

    fn ends(&mut self) {
        wait_until("the end of following", DEADLINE * 3, || Ok(self.child.try_wait().unwrap())).unwrap();
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // Both fail only when it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says `begun` on standard error, and then so many numbers on standard output, after some steps of a generator each.
fn guest(lines: u32) -> String {
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  ;; 0: what to write (address, length), 8: written bytes, 16: the generator, 32: a word, 64: six digits and an end of line
  (data (i32.const 32) "begun\n")
  (data (i32.const 64) "000000\n")
  (func $print (param $output i32) (param $at i32) (param $len i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $len))
    (drop (call $fd_write (local.get $output) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $count (local $at i32)
    (local.set $at (i32.const 70))
    (loop $carry
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at) (i32.add (i32.load8_u (local.get $at)) (i32.const 1)))
      (if (i32.gt_u (i32.load8_u (local.get $at)) (i32.const 57))
        (then (i32.store8 (local.get $at) (i32.const 48)) (br $carry)))))
  (func (export "_start") (local $lines i32) (local $left i32) (local $state i64)
    (call $print (i32.const 2) (i32.const 32) (i32.const 6))
    (local.set $lines (i32.const {lines}))
    (loop $line
      (local.set $left (i32.const {ROUNDS}))
      (loop $step
        (local.set $state
          (i64.add (i64.mul (local.get $state) (i64.const 6364136223846793005)) (i64.const 1442695040888963407)))
        (br_if $step (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
      (i64.store (i32.const 16) (local.get $state))
      (call $print (i32.const 1) (i32.const 64) (i32.const 7))
      (call $count)
      (br_if $line (local.tee $lines (i32.sub (local.get $lines) (i32.const 1)))))))"#
    )
}
