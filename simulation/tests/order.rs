//! Who goes first, on real nodes: stages that need one another element by element, submitters who share a swarm, and what runs
//! again after a failure. Judged by what guests read and left, and by the events of the nodes.
//!
//! The program must have been built: `cargo build --release -p swarm-node`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use swarm_simulation::cluster::{Cluster, DEADLINE, Node, find_swarm, wait_until};
use tempfile::TempDir;

/// A job's: minutes on a machine that builds something beside it.
const JOB_DEADLINE: Duration = Duration::from_secs(600);
const NODES: usize = 3;
const STAGES: usize = 5;
const ELEMENTS: u32 = 1_000;
/// A node joins events of neighbouring tasks that came within its pause between two writes, under the time of the first.
const JOINED: Duration = Duration::from_millis(200);

/// Each task reads what the one before it left of the same element, and leaves it with its own mark added.
#[test]
fn elements_pass_through_five_stages_each_after_what_it_needs_and_without_waiting_for_others() {
    let _turn = my_turn();
    let swarm = Swarm::start();
    swarm.write("begin.wasm", &wat::parse_str(BEGIN).unwrap());
    swarm.write("pass.wasm", &wat::parse_str(PASS).unwrap());
    let mut text = "name = \"flow\"\n".to_owned();
    let array = format!("matrix = {{ element = \"0..{ELEMENTS}\" }}\noutputs = [\"made\"]");
    writeln!(text, "[task.s0]\nwasm = \"begin.wasm\"\n{array}").unwrap();
    for stage in 1..STAGES {
        let before = stage - 1;
        writeln!(text, "[task.s{stage}]\nwasm = \"pass.wasm\"\n{array}").unwrap();
        writeln!(text, "needs = [{{ task = \"s{before}\", same = [\"element\"] }}]").unwrap();
        writeln!(text, "inputs.made = {{ from = \"s{before}\", path = \"made\", as = \"it\" }}").unwrap();
    }
    let job = swarm.submit(0, "flow", &text);
    swarm.wait_over(0, &job);

    let shown = swarm.cluster.node(1).show_tasks(&job).unwrap();
    assert_eq!((shown.state.as_str(), shown.done), ("done", STAGES as u64 * u64::from(ELEMENTS)));
    assert_eq!((shown.missing(), shown.doubled()), (0, 0));
    let last = String::from_utf8(swarm.cluster.node(2).cli(&["logs", &format!("{job}/s4")]).unwrap().stdout).unwrap();
    assert_eq!(last, ".++++\n".repeat(ELEMENTS as usize));

    let events = swarm.events(&job);
    for stage in 1..STAGES as u16 {
        let (ended, began) = (Times::done(&events, stage - 1).all(), Times::granted(&events, stage).all());
        let early = ended.iter().zip(&began).position(|(ended, began)| *began + JOINED < *ended);
        assert_eq!(early, None, "an element of stage {stage} was granted before what it needs had ended");
    }
    let second = Times::granted(&events, 1).all().into_iter().min().unwrap();
    let behind = Times::done(&events, 0).all().iter().filter(|at| **at > second + JOINED).count();
    println!("{behind} of {ELEMENTS} elements were still in their first stage when another began its second");
    assert!(behind > 0, "every element waited for all others");
    assert_eq!(swarm.cluster.panics(), 0);
}

/// Counted in tasks, not in seconds, since the machine may be busy with other things.
#[test]
fn ten_tasks_of_one_submitter_pass_a_hundred_thousand_of_another() {
    let _turn = my_turn();
    let swarm = Swarm::start();
    let big = swarm.submit_burning(0, "big", 100_000);
    wait_until("that the big job is under way", DEADLINE, || Ok((swarm.done(&big)? > 0).then_some(()))).unwrap();
    let small = swarm.submit_burning(1, "small", 10);
    swarm.wait_over(1, &small);
    let done = swarm.done(&big).unwrap();
    println!("the 10 were over when {done} of the 100,000 were");
    assert!(done < 50_000, "the ten waited for {done} tasks of somebody else");
    swarm.cluster.node(0).cli(&["cancel", &big]).unwrap().good().unwrap();
}

/// The same in seconds, for a machine that does nothing else.
#[test]
#[ignore = "measures time: see docs/performance.md"]
fn ten_tasks_take_two_seconds_beside_a_hundred_thousand() {
    const MORE_THAN_ALONE: Duration = Duration::from_secs(2);
    let _turn = my_turn();
    let swarm = Swarm::start();
    let time = || {
        let began = Instant::now();
        let job = swarm.submit_burning(1, "small", 10);
        swarm.cluster.node(1).cli(&["wait", &job]).unwrap().good().unwrap();
        began.elapsed()
    };
    let alone: Vec<_> = (0..5).map(|_| time()).collect();
    let big = swarm.submit_burning(0, "big", 100_000);
    wait_until("that the big job is under way", DEADLINE, || Ok((swarm.done(&big)? > 0).then_some(()))).unwrap();
    let beside: Vec<_> = (0..10).map(|_| time()).collect();
    println!("alone: {alone:.2?}; beside 100,000: {beside:.2?}");
    assert!(swarm.done(&big).unwrap() < 100_000);
    assert!(beside.iter().max().unwrap() < &(*alone.iter().min().unwrap() + MORE_THAN_ALONE));
}

#[test]
fn after_three_inputs_of_a_thousand_were_mended_three_tasks_run() {
    const BAD: [u32; 3] = [3, 500, 999];
    let _turn = my_turn();
    let swarm = Swarm::start();
    swarm.write("strict.wasm", &wat::parse_str(STRICT).unwrap());
    fs::create_dir(swarm.files.path().join("in")).unwrap();
    let input = |index: u32| format!("in/{index:04}.txt");
    for index in 0..ELEMENTS {
        swarm.write(&input(index), if BAD.contains(&index) { b"" } else { b"fine\n" });
    }
    let task = "wasm = \"strict.wasm\"\neach = { files = \"in/*.txt\" }\nstdin = { item = true }\n";
    let failed = swarm.submit(0, "mended", &format!("name = \"mended\"\nmax_failures = 5\n[task.copy]\n{task}"));
    swarm.wait_over(0, &failed);
    let shown = swarm.cluster.node(0).show(&failed).unwrap();
    assert_eq!((shown.done, shown.failed), (997, 3));

    BAD.iter().for_each(|index| swarm.write(&input(*index), b"mended\n"));
    let file = swarm.files.path().join("mended.toml");
    let again = ["retry", &failed, "--failed", file.to_str().unwrap(), "-o", "id"];
    let again = String::from_utf8(swarm.cluster.node(2).cli(&again).unwrap().good().unwrap().stdout).unwrap();
    let again = again.trim();
    swarm.wait_over(1, again);
    let shown = swarm.cluster.node(1).show(again).unwrap();
    assert_eq!((shown.state.as_str(), shown.done), ("done", 1_000));
    let granted = Times::granted(&swarm.events(again), 0);
    let ran: Vec<u32> = (0..ELEMENTS).filter(|index| granted.first[*index as usize].is_some()).collect();
    assert_eq!((ran.as_slice(), granted.count), (&BAD[..], 3));
}

/// Tests take turns: several swarms at once would only wait for each other's processors.
fn my_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nodes with one slot each, and files to submit.
struct Swarm {
    cluster: Cluster,
    files: TempDir,
}

impl Swarm {
    fn start() -> Self {
        let mut cluster = Cluster::start(&find_swarm(None).expect("the program is built"), NODES, 1).unwrap();
        cluster.wait_members(NODES, DEADLINE).unwrap();
        let swarm = Self { cluster, files: tempfile::tempdir().unwrap() };
        swarm.write("burn.wasm", &wat::parse_str(BURN).unwrap());
        swarm
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.files.path().join(name), bytes).unwrap();
    }

    fn submit(&self, node: usize, name: &str, text: &str) -> String {
        let file = format!("{name}.toml");
        self.write(&file, text.as_bytes());
        self.cluster.node(node).submit(&self.files.path().join(file)).unwrap()
    }

    /// Tasks of about a millisecond.
    fn submit_burning(&self, node: usize, name: &str, tasks: u32) -> String {
        let text = format!("name = \"{name}\"\n[task.burn]\nwasm = \"burn.wasm\"\narray = \"0..{tasks}\"\n");
        self.submit(node, name, &text)
    }

    fn done(&self, job: &str) -> Result<u64, swarm_simulation::cluster::ClusterError> {
        Ok(self.cluster.node(2).show(job)?.done)
    }

    fn wait_over(&self, node: usize, job: &str) {
        let look = || Ok(self.cluster.node(node).show(job)?.is_over().then_some(()));
        wait_until(&format!("the end of {job} as node {node} sees it"), JOB_DEADLINE, look).unwrap();
    }

    /// What all nodes heard of a job that is over, once all have told its end: they write what they hear with pauses.
    fn events(&self, job: &str) -> Vec<Event> {
        let look = || {
            let events = self.told(job);
            let over = events.iter().filter(|event| event.kind == "job_over").count();
            Ok((over >= NODES).then_some(events))
        };
        wait_until("that the end of the job is told", DEADLINE, look).unwrap()
    }

    fn told(&self, job: &str) -> Vec<Event> {
        let of = |node: &Node| {
            let told = node.cli(&["events", "--job", job, "-o", "jsonl"]).unwrap().good().unwrap().stdout;
            let lines = String::from_utf8(told).unwrap();
            lines.lines().map(|line| serde_json::from_str::<Event>(line).unwrap()).collect::<Vec<_>>()
        };
        let events: Vec<_> = self.cluster.nodes().iter().flat_map(of).collect();
        assert!(events.iter().all(|event| event.kind != "gap"), "the nodes keep fewer events than this job has");
        events
    }
}

/// A line of `swarm events -o jsonl`.
#[derive(Deserialize)]
struct Event {
    at: String,
    kind: String,
    #[serde(default)]
    stage: Option<u16>,
    #[serde(default)]
    tasks: Vec<Span>,
}

#[derive(Deserialize)]
struct Span {
    first: u32,
    count: u32,
    /// What became of them, unless they were granted.
    #[serde(default)]
    change: Option<String>,
}

/// When something happened to the tasks of a stage.
struct Times {
    /// To each task, first; `None`: never.
    first: Vec<Option<jiff::Timestamp>>,
    /// How often in all.
    count: u32,
}

impl Times {
    /// When they were granted.
    fn granted(events: &[Event], stage: u16) -> Self {
        Self::of(events, stage, |event, _| event.kind == "tasks_granted")
    }

    /// When some node first knew that they had succeeded.
    fn done(events: &[Event], stage: u16) -> Self {
        Self::of(events, stage, |_, span| span.change.as_deref() == Some("tasks_done"))
    }

    fn of(events: &[Event], stage: u16, is_wanted: impl Fn(&Event, &Span) -> bool) -> Self {
        let (mut first, mut count) = (vec![None; ELEMENTS as usize], 0);
        for event in events.iter().filter(|event| event.stage == Some(stage)) {
            let when: jiff::Timestamp = event.at.parse().unwrap();
            for span in event.tasks.iter().filter(|span| is_wanted(event, span)) {
                count += span.count;
                let times = &mut first[span.first as usize..(span.first + span.count) as usize];
                times.iter_mut().for_each(|at| *at = Some(at.map_or(when, |before| when.min(before))));
            }
        }
        Self { first, count }
    }

    /// The same of all tasks, each of which it happened to.
    fn all(&self) -> Vec<jiff::Timestamp> {
        self.first.iter().map(|at| at.expect("the job is done")).collect()
    }
}

/// Leaves a point, after about ten milliseconds: the first stage lasts some seconds.
const BEGIN: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\40\00\00\00\01\00\00\00")
  (data (i32.const 64) ".made")
  (func $try (param $error i32) (if (local.get $error) (then (unreachable))))
  (func (export "_start") (local $left i32) (local $state i64)
    (local.set $left (i32.const 7500000))
    (loop $step
      (local.set $state
        (i64.add (i64.mul (local.get $state) (i64.const 6364136223846793005)) (i64.const 1442695040888963407)))
      (br_if $step (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (i64.store (i32.const 24) (local.get $state))
    (call $try (call $open (i32.const 3) (i32.const 0) (i32.const 65) (i32.const 4)
      (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16)))
    (call $try (call $write (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

/// Reads what the one before left, and leaves it with a cross; prints it too. Traps when it is not there.
const PASS: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\00\04\00\00\40\00\00\00")
  (data (i32.const 64) "made/it")
  (func $try (param $error i32) (if (local.get $error) (then (unreachable))))
  (func (export "_start") (local $len i32)
    (call $try (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 7)
      (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16)))
    (call $try (call $open (i32.const 4) (i32.const 0) (i32.const 64) (i32.const 4)
      (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 20)))
    (call $try (call $read (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8)))
    (local.set $len (i32.load (i32.const 8)))
    (i32.store8 (i32.add (i32.const 1024) (local.get $len)) (i32.const 43))
    (i32.store8 (i32.add (i32.const 1025) (local.get $len)) (i32.const 10))
    (i32.store (i32.const 4) (i32.add (local.get $len) (i32.const 1)))
    (call $try (call $write (i32.load (i32.const 20)) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 4) (i32.add (local.get $len) (i32.const 2)))
    (call $try (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

/// Copies its input to its output, and fails when there is none.
const STRICT: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\40\00\00\00\00\04\00\00")
  (func (export "_start")
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (if (i32.eqz (i32.load (i32.const 8))) (then (call $exit (i32.const 65))))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

/// About a millisecond on one core of 2026.
const BURN: &str = r#"(module
  (memory (export "memory") 1)
  (func (export "_start") (local $left i32) (local $state i64)
    (local.set $left (i32.const 750000))
    (loop $step
      (local.set $state
        (i64.add (i64.mul (local.get $state) (i64.const 6364136223846793005)) (i64.const 1442695040888963407)))
      (br_if $step (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (i64.store (i32.const 24) (local.get $state))))"#;
