//! Real swarms of `swarm` processes: killed, stopped, restarted, started in the wrong order. One at a time, as each is a machine room.
//!
//! The program must have been built: `cargo build --release -p swarm-node`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use swarm_simulation::cluster::{
    Cluster, ClusterOptions, DEADLINE, Interval, Kind, Node, find_swarm, run, steady, wait_until,
};
use tempfile::TempDir;

/// A job's: minutes on a machine that builds something beside it.
const JOB_DEADLINE: Duration = Duration::from_secs(300);
/// A node that is back must have work within this time.
const USED_AGAIN: Duration = Duration::from_secs(10);
/// About 100 ms on one core of 2026.
const ROUNDS_100_MS: u32 = 75_000_000;
const ROUNDS_FEW: u32 = 1_000;

#[test]
fn the_submitter_and_an_executing_node_die_and_every_task_has_one_outcome() {
    let _turn = my_turn();
    let work = Work::new(100, ROUNDS_100_MS);
    let mut cluster = start(5);
    let job = cluster.node(0).submit(&work.job()).unwrap();
    cluster.node_mut(0).kill();
    let victim = somebody_executing(&cluster);
    cluster.node_mut(victim).kill();

    let [third, fourth] = two_running(&cluster);
    wait_over(third, &job);
    assert_all_done(third, &job, &work);
    assert_eq!(third.logs(&job).unwrap(), fourth.logs(&job).unwrap());
    assert_eq!(cluster.panics(), 0);
}

#[test]
fn the_command_plays_the_same_story_and_reports_it() {
    let _turn = my_turn();
    let work = Work::new(40, ROUNDS_100_MS);
    let expect = work.dir.path().join("expected");
    fs::write(&expect, work.expected()).unwrap();
    let options = ClusterOptions {
        nodes: 4,
        job: Some(work.job()),
        kill: 2,
        kill_submitter: true,
        seed: Some(1),
        timeout: JOB_DEADLINE,
        expect: Some(expect),
        ..ClusterOptions::default()
    };
    let report = run(options).unwrap();
    println!("{report}");
    assert!(report.is_good(), "{report}");
    assert_eq!((report.state.as_str(), report.tasks, report.kills.len()), ("done", 40, 2));
    assert_eq!((report.same_output, report.expected_output), (Some(true), Some(true)));
}

/// Two minutes: as many as all the others together, because what goes wrong takes its time.
#[test]
fn under_a_steady_load_nodes_are_killed_stopped_and_restarted_and_nothing_is_lost() {
    let _turn = my_turn();
    let options = ClusterOptions {
        duration: Some(Duration::from_secs(70)),
        tasks_per_second: 40.0,
        chaos: vec![Kind::Kill, Kind::Stop, Kind::Restart],
        chaos_every: Interval(Duration::from_secs(2)..Duration::from_secs(6)),
        seed: Some(1),
        ..ClusterOptions::default()
    };
    let report = steady(&options).unwrap();
    println!("{report}");
    assert!(report.is_good(), "{report}");
    assert!(report.faults.contains_key("kill"), "{report}");
}

#[test]
fn swarms_of_one_two_and_three_nodes_work() {
    let _turn = my_turn();
    for nodes in 1..=3 {
        let work = Work::new(20, ROUNDS_FEW);
        let cluster = start(nodes);
        for submitter in cluster.nodes() {
            let job = submitter.submit(&work.job()).unwrap();
            for node in cluster.nodes() {
                wait_over(node, &job);
                assert_all_done(node, &job, &work);
            }
        }
    }
}

#[test]
fn a_rolling_restart_during_jobs_loses_nothing() {
    let _turn = my_turn();
    let work = Work::new(60, ROUNDS_100_MS);
    let mut cluster = start(3);
    let mut jobs = Vec::new();
    for number in 0..3 {
        let neighbour = (number + 1) % 3;
        jobs.push(cluster.node(neighbour).submit(&work.job()).unwrap());
        somebody_executing(&cluster);
        let before = cluster.node(number).id().to_owned();

        cluster.node_mut(number).restart().unwrap();

        assert_eq!(cluster.node(number).id(), before);
        jobs.push(cluster.node(neighbour).submit(&work.job()).unwrap()); // so that there is something to do
        let used_again = || Ok(cluster.executing().contains(&number).then_some(()));
        wait_until(&format!("that node {number} is used again"), USED_AGAIN, used_again).unwrap();
        cluster.wait_members(3, DEADLINE).unwrap();
    }
    for job in &jobs {
        for node in cluster.nodes() {
            wait_over(node, job);
            assert_all_done(node, job, &work);
        }
    }
    assert_eq!(cluster.panics(), 0);
}

#[test]
fn a_node_that_starts_before_its_bootstrap_peer_joins_once_that_is_up() {
    let _turn = my_turn();
    let mut cluster = Cluster::empty(&swarm(), 1).unwrap();
    let bootstrap = cluster.add();
    bootstrap.start().unwrap(); // only so that it has an address
    let address = bootstrap.address().to_owned();
    bootstrap.kill();
    let early = cluster.add();
    early.set_bootstrap(vec![address]);
    early.start().unwrap();
    cluster.wait_members(1, DEADLINE).unwrap();

    cluster.node_mut(0).start().unwrap();

    cluster.wait_members(2, DEADLINE).unwrap();
    let work = Work::new(5, ROUNDS_FEW);
    let job = cluster.node(1).submit(&work.job()).unwrap();
    wait_over(cluster.node(0), &job);
    assert_all_done(cluster.node(0), &job, &work);
}

/// Tests take turns: several swarms at once would only wait for each other's processors.
fn my_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn swarm() -> PathBuf {
    find_swarm(None).expect("the program is built")
}

fn start(nodes: usize) -> Cluster {
    let mut cluster = Cluster::start(&swarm(), nodes, 1).unwrap();
    cluster.wait_members(nodes, DEADLINE).unwrap();
    cluster
}

fn somebody_executing(cluster: &Cluster) -> usize {
    wait_until("that somebody executes", DEADLINE, || Ok(cluster.executing().first().copied())).unwrap()
}

fn two_running(cluster: &Cluster) -> [&Node; 2] {
    let mut running = cluster.running();
    [running.next().unwrap(), running.next().unwrap()]
}

fn wait_over(node: &Node, job: &str) {
    let look = || Ok(node.show(job)?.is_over().then_some(()));
    wait_until(&format!("the end of {job} as node {} sees it", node.number()), JOB_DEADLINE, look).unwrap();
}

/// Every task succeeded, has exactly one outcome, and wrote what it had to.
fn assert_all_done(node: &Node, job: &str, work: &Work) {
    let shown = wait_until("the list of outcomes", DEADLINE, || node.show_tasks(job).map(Some)).unwrap();
    assert_eq!((shown.state.as_str(), shown.tasks, shown.done), ("done", work.tasks.into(), work.tasks.into()));
    assert_eq!((shown.missing(), shown.doubled()), (0, 0));
    let named: BTreeSet<_> = shown.outcomes.iter().map(|outcome| outcome.task.as_str()).collect();
    assert_eq!(named.len() as u64, shown.tasks);
    let logs = wait_until("the output", DEADLINE, || node.logs(job).map(Some)).unwrap();
    assert_eq!(String::from_utf8(logs).unwrap(), work.expected());
}

/// A job of tasks that compute for a while and write their index.
struct Work {
    dir: TempDir,
    tasks: u32,
}

impl Work {
    fn new(tasks: u32, rounds: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("burn.wasm"), wat::parse_str(guest(rounds)).unwrap());
        let task = format!("[task.burn]\nwasm = \"burn.wasm\"\nargs = [\"{{{{ index }}}}\"]\narray = \"0..{tasks}\"\n");
        write(&dir.path().join("job.toml"), format!("name = \"burn\"\n{task}"));
        Self { dir, tasks }
    }

    fn job(&self) -> PathBuf {
        self.dir.path().join("job.toml")
    }

    fn expected(&self) -> String {
        (0..self.tasks).map(|index| format!("{index}\n")).collect()
    }
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::write(path, bytes).unwrap();
}

/// A WASI command that steps a generator `rounds` times, each step needing the one before, and writes its last argument.
fn guest(rounds: u32) -> String {
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  ;; 0: number of arguments, 4: their bytes, 8: what to write (address, length), 16: written bytes, 24: the generator,
  ;; 1024: addresses of the arguments, 2048: the arguments, each with a zero byte after it
  (func (export "_start")
    (local $left i32) (local $state i64) (local $text i32) (local $end i32)
    (local.set $left (i32.const {rounds}))
    (loop $step
      (local.set $state
        (i64.add (i64.mul (local.get $state) (i64.const 6364136223846793005)) (i64.const 1442695040888963407)))
      (br_if $step (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (i64.store (i32.const 24) (local.get $state))
    (drop (call $args_sizes_get (i32.const 0) (i32.const 4)))
    (drop (call $args_get (i32.const 1024) (i32.const 2048)))
    (local.set $text
      (i32.load (i32.add (i32.const 1020) (i32.mul (i32.load (i32.const 0)) (i32.const 4)))))
    (local.set $end (i32.add (i32.const 2048) (i32.load (i32.const 4))))
    (i32.store8 (i32.sub (local.get $end) (i32.const 1)) (i32.const 10))
    (i32.store (i32.const 8) (local.get $text))
    (i32.store (i32.const 12) (i32.sub (local.get $end) (local.get $text)))
    (drop (call $fd_write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))))"#
    )
}
