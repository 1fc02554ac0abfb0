//! Batches from grant to outcomes, with the real sandbox and real blobs. The guests are the sandbox's own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use swarm_executor::{CACHE_BYTES_MAX, Engine, EngineConfig, MODULE_BYTES_MAX};
use swarm_protocol::lattice::{End, Results, Run, TaskState};
use swarm_protocol::{
    Axis, Batch, Content, Elements, Ending, Epoch, Event, Hash, INLINE_BYTES_MAX, Input, InputSource, Item, JobId,
    JobOptions, JobSpec, LeaseId, Limits, NodeId, Outcome, OutputFile, OutputSpec, Range, Retry, ShardId, StageOptions,
    StageSpec, Stdin, TreeFile, codec,
};
use swarm_store::Blobs;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Sources, Work};

const SLOTS: usize = 2;
/// Far above what any of this takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
const HOLDER: NodeId = NodeId::from_bytes([7; 32]);

#[tokio::test]
async fn a_thousand_equal_tasks_have_one_outcome() {
    let mut node = TestNode::start();
    let stage = StageSpec { count: 1000, elements: Elements::Numbers { start: 0 }, ..node.stage("returns") };
    let outcomes = node.run(stage).await;
    assert_eq!(outcomes, [(tasks(0, 1000), Outcome::bare(Ending::Exited(0)))]);
}

#[tokio::test]
async fn a_failure_among_many_is_an_outcome_of_its_own() {
    let mut node = TestNode::start();
    let mut stage = StageSpec { count: 10, elements: Elements::Numbers { start: 0 }, ..node.stage("echo") };
    stage.stdin = Stdin::Text("{{ 'odd' if item == 3 else 'even' }}".into());
    let outcomes = node.run(stage).await;
    let ranges: Vec<_> = outcomes.iter().map(|(range, outcome)| (*range, text(outcome))).collect();
    assert_eq!(ranges, [(tasks(0, 3), "even"), (tasks(3, 1), "odd"), (tasks(4, 6), "even")]);
}

#[tokio::test]
async fn arguments_and_environment_say_which_task_it_is() {
    let mut node = TestNode::start();
    let mut stage = node.stage("prints_args");
    stage.args = vec!["--x={{ x }}".into(), "{{ index }}".into()];
    let axes = [("x", ["1", "2"]), ("y", ["a", "b"])];
    let axes = axes.map(|(name, values)| Axis { name: name.into(), values: values.map(String::from).to_vec() });
    stage.elements = Elements::Matrix(axes.to_vec());
    stage.count = 4;
    let outcomes = node.run(stage.clone()).await;
    assert_eq!(text(&outcomes[2].1), "only\0--x=2\x002\0");

    stage.wasm = node.module("prints_environ");
    stage.env = vec![("LEVEL".into(), "y is {{ y }}".into())];
    let batch = Batch { tasks: vec![(tasks(1, 1), 4)], ..node.batch(vec![stage]) };
    let outcomes = node.run_batch(batch.clone()).await;
    let environment = text(&outcomes[0].1).to_owned();
    let job = format!("SWARM_JOB={}", batch.lease.shard.job.to_hex());
    for wanted in [
        "LEVEL=y is b",
        "SWARM_INDEX=1",
        "SWARM_MATRIX_X=1",
        "SWARM_MATRIX_Y=b",
        "SWARM_TASK=only",
        "SWARM_ATTEMPT=5",
        &job,
    ] {
        assert!(environment.split('\0').any(|variable| variable == wanted), "{wanted} in {environment:?}");
    }
}

#[tokio::test]
async fn a_shared_input_is_read_by_every_task() {
    let mut node = TestNode::start();
    let hash = node.blobs.put(b"from a blob").unwrap();
    let tree = [TreeFile { path: "deep/er".into(), hash, len: 11 }];
    let tree = node.blobs.put(&codec::encode(&tree.to_vec())).unwrap();
    let mut stage = StageSpec { count: 5, elements: Elements::Numbers { start: 0 }, ..node.stage("reads_in") };
    stage.inputs =
        vec![input("data.txt", InputSource::File { hash, len: 11 }), input("some/tree", InputSource::Tree(tree))];
    let outcomes = node.run(stage).await;
    assert_eq!(outcomes.len(), 1);
    assert_eq!(text(&outcomes[0].1), "from a blob");
    assert_eq!(node.blobs.verify(hash).unwrap(), 11);
}

#[tokio::test]
async fn each_task_gets_its_own_item() {
    let mut node = TestNode::start();
    let file = node.blobs.put(b"in a file").unwrap();
    let items =
        vec![Item { text: "a line".into(), file: None }, Item { text: "name.txt".into(), file: Some((file, 9)) }];
    let list = node.blobs.put(&codec::encode(&items)).unwrap();
    let mut stage = StageSpec { count: 2, elements: Elements::List(list), ..node.stage("echo") };
    stage.stdin = Stdin::Item;
    let outcomes = node.run(stage.clone()).await;
    assert_eq!(texts(&outcomes), ["a line", "in a file"]);

    stage.wasm = node.module("reads_in");
    stage.inputs = vec![input("data.txt", InputSource::Item)];
    let outcomes = node.run(stage).await;
    assert_eq!(texts(&outcomes), ["a line", "in a file"]);
}

#[tokio::test]
async fn a_missing_item_concerns_its_own_task_alone() {
    let mut node = TestNode::start();
    let items = vec![
        Item { text: "here".into(), file: None },
        Item { text: "gone.txt".into(), file: Some((Hash::of(b"gone"), 4)) },
    ];
    let list = node.blobs.put(&codec::encode(&items)).unwrap();
    let mut stage = StageSpec { count: 3, elements: Elements::List(list), ..node.stage("echo") };
    stage.stdin = Stdin::Item;
    let outcomes = node.run(stage).await;
    assert_eq!(text(&outcomes[0].1), "here");
    assert!(rejection(&outcomes[1].1).starts_with("its standard input cannot be read"));
    assert_eq!(rejection(&outcomes[2].1), "the list of the stage has no item for this task");
}

#[tokio::test]
async fn a_declared_output_becomes_a_blob() {
    let mut node = TestNode::start();
    let stage = StageSpec { outputs: outputs(&["data.txt"]), ..node.stage("writes_out") };
    let outcomes = node.run(stage).await;
    let written = OutputFile { path: "data.txt".into(), hash: Hash::of(b"hello"), len: 5 };
    assert_eq!(outcomes[0].1.outputs, [written]);
    assert_eq!(node.blobs.read(Hash::of(b"hello"), 100).unwrap(), b"hello");
}

#[tokio::test]
async fn a_success_without_its_outputs_is_none() {
    let mut node = TestNode::start();
    let declared = outputs(&["data.txt", "more.txt"]);
    let outcomes = node.run(StageSpec { outputs: declared, ..node.stage("writes_out") }).await;
    let missing = "declared output `more.txt` was not written";
    assert_eq!(outcomes[0].1, Outcome::bare(Ending::Trapped(missing.into())));

    let mut stage = StageSpec { outputs: outputs(&["data.txt"]), ..node.stage("writes_out") };
    stage.limits.outputs_bytes_max = 4;
    let outcomes = node.run(stage.clone()).await;
    let together = "outputs: 5 B with `data.txt`, of at most 4 B";
    assert_eq!(outcomes[0].1.ending, Ending::OutputTooLarge(together.into()));

    stage.limits.outputs_bytes_max = 5;
    stage.outputs[0].bytes_max = Some(4);
    let outcomes = node.run(stage).await;
    assert_eq!(outcomes[0].1.ending, Ending::OutputTooLarge("`data.txt` has 5 B, of at most 4 B".into()));
}

#[tokio::test]
async fn an_output_that_is_not_required_may_be_missing() {
    let mut node = TestNode::start();
    let mut stage = StageSpec { outputs: outputs(&["more.txt", "data.txt"]), ..node.stage("writes_out") };
    stage.outputs[0].required = false;
    let outcomes = node.run(stage).await;
    assert_eq!(outcomes[0].1.outputs, [OutputFile { path: "data.txt".into(), hash: Hash::of(b"hello"), len: 5 }]);
}

#[tokio::test]
async fn what_is_no_plain_file_is_refused_by_name() {
    let mut node = TestNode::start();
    for (path, what) in [
        ("folder", "a directory"),
        ("link", "a link"),
        ("ways/up", "behind a link"),
        ("plain/below", "below something that is no directory"),
    ] {
        let stage = StageSpec { outputs: outputs(&["plain", path]), ..node.stage("leaves_odd_things") };
        // A name that makes a folder of another one is refused before it is run.
        let stage = StageSpec { outputs: stage.outputs[usize::from(path.starts_with("plain"))..].to_vec(), ..stage };
        let outcomes = node.run(stage).await;
        let reason = format!("declared output `{path}` is {what}, not a file");
        assert_eq!(outcomes[0].1, Outcome::bare(Ending::Trapped(reason)));
    }
    let stage = StageSpec { outputs: outputs(&["plain", "huge"]), ..node.stage("leaves_odd_things") };
    let outcomes = node.run(stage).await;
    let huge = "outputs: 1.0 TiB with `huge`, of at most 1.0 MiB";
    assert_eq!(outcomes[0].1.ending, Ending::OutputTooLarge(huge.into()));
}

#[tokio::test]
async fn long_standard_output_is_a_blob() {
    let mut node = TestNode::start();
    let long = "x".repeat(INLINE_BYTES_MAX + 1);
    let stage = StageSpec { stdin: Stdin::Text(long.clone()), ..node.stage("echo") };
    let outcomes = node.run(stage).await;
    let hash = Hash::of(long.as_bytes());
    assert_eq!(outcomes[0].1.stdout, Content::Blob { hash, len: long.len() as u64 });
    assert_eq!(node.blobs.read(hash, 1 << 20).unwrap(), long.as_bytes());
}

#[tokio::test]
async fn a_later_stage_reads_what_an_earlier_one_left() {
    let mut node = TestNode::start();
    let earlier = StageSpec {
        name: "parts".into(),
        count: 3,
        elements: Elements::Numbers { start: 10 },
        outputs: outputs(&["part"]),
        ..node.stage("returns")
    };
    node.leave(&[(0, b"ten"), (1, b"eleven"), (2, b"twelve")]);
    let source = InputSource::From { stage: 0, path: "part".into(), name: "{{ item }}.p".into() };
    let inputs = vec![input("all", source)];
    let later = StageSpec { wasm: node.module_reading("all/11.p"), needs: vec![0], inputs, ..node.stage("returns") };
    let batch = node.batch(vec![earlier.clone(), later.clone()]);
    let outcomes = node.run_batch(batch).await;
    assert_eq!(texts(&outcomes), ["eleven"]);

    let more = StageSpec { count: 4, ..earlier };
    let batch = node.batch(vec![more, later]);
    let outcomes = node.run_batch(batch).await;
    assert_eq!(rejection(&outcomes[0].1), "what `parts` left in `part` is known for 3 of its 4 tasks only");
}

#[tokio::test]
async fn what_cannot_be_started_is_rejected_with_the_reason() {
    let mut node = TestNode::start();
    let nothing = StageSpec { wasm: Hash::of(b"nothing"), ..node.stage("returns") };
    let text = StageSpec { wasm: node.blobs.put(b"#!/bin/sh\n").unwrap(), ..node.stage("returns") };
    let entry = StageSpec { entry: "main".into(), ..node.stage("returns") };
    let template = StageSpec { args: vec!["{{ nothing }}".into()], ..node.stage("returns") };
    let file = InputSource::File { hash: node.blobs.put(b"x").unwrap(), len: 1 };
    let escape = StageSpec { inputs: vec![input("../x", file.clone())], ..node.stage("returns") };
    let twice = StageSpec { inputs: vec![input("x", file.clone()), input("x", file)], ..node.stage("returns") };
    let output = StageSpec { outputs: outputs(&["/etc/passwd"]), ..node.stage("returns") };
    let clash = StageSpec { outputs: outputs(&["a", "A"]), ..node.stage("returns") };
    let many: Vec<String> = (0..1001).map(|number| format!("{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let many = StageSpec { outputs: outputs(&many), ..node.stage("returns") };
    for (stage, reason) in [
        (nothing, "not here"),
        (text, "this is not a WebAssembly module"),
        (entry, "the module does not export a function `main`"),
        (template, "an argument or variable cannot be rendered: "),
        (escape, "\"../x\" is not a plain path"),
        (twice, "two inputs are named \"x\""),
        (output, "the output `/etc/passwd` must be relative"),
        (clash, "the outputs `a` and `A` are one file where capitals do not count"),
        (many, "a task declares 1001 outputs, and at most 1000 are possible"),
    ] {
        let outcomes = node.run(stage).await;
        assert_eq!(outcomes.len(), 1);
        assert!(rejection(&outcomes[0].1).starts_with(reason), "{:?}", outcomes[0].1);
    }
}

#[tokio::test]
async fn a_blob_that_was_damaged_on_the_disk_is_not_used() {
    let mut node = TestNode::start();
    let hash = node.blobs.put(b"precious").unwrap();
    std::fs::write(node.blobs.path(hash), b"damaged!").unwrap();
    let inputs = vec![input("data.txt", InputSource::File { hash, len: 8 })];
    let outcomes = node.run(StageSpec { inputs, ..node.stage("reads_in") }).await;
    rejection(&outcomes[0].1);
}

#[tokio::test]
async fn stopped_tasks_end_without_an_outcome_and_others_go_on() {
    let mut node = TestNode::start();
    let endless = StageSpec { count: 100, elements: Elements::Numbers { start: 0 }, ..node.stage("loops") };
    let endless = node.batch(vec![endless]);
    node.work.run(endless.clone());
    node.wait_until(|work| work.slots_busy() == SLOTS).await;
    node.work.stop(endless.lease, vec![tasks(0, 60), tasks(60, 40)]);
    let outcomes = node.run(node.stage("exits_7")).await;
    assert_eq!(outcomes, [(tasks(0, 1), Outcome::bare(Ending::Exited(7)))]);
    node.wait_until(|work| work.slots_busy() == 0).await;
}

#[tokio::test]
async fn stopping_one_task_leaves_the_other_to_its_end() {
    let mut node = TestNode::start();
    let mut stage = StageSpec { count: 2, elements: Elements::Numbers { start: 0 }, ..node.stage("loops") };
    stage.run_ms_max = 300;
    let batch = node.batch(vec![stage]);
    node.work.run(batch.clone());
    node.work.stop(batch.lease, vec![tasks(0, 1)]);
    let outcomes = node.outcomes_of(batch.lease, 1).await;
    assert_eq!(outcomes, [(tasks(1, 1), Outcome::bare(Ending::TimedOut))]);
}

#[tokio::test]
async fn everything_can_be_stopped_at_once() {
    let node = TestNode::start();
    for _ in 0..3 {
        node.work.run(node.batch(vec![node.stage("loops")]));
    }
    node.wait_until(|work| work.slots_busy() == SLOTS).await;
    node.work.stop_all();
    node.wait_until(|work| work.slots_busy() == 0).await;
}

#[tokio::test]
async fn nothing_is_left_on_the_disk() {
    let mut node = TestNode::start();
    let list = node.blobs.put(&codec::encode(&vec![Item { text: "a line".into(), file: None }])).unwrap();
    let mut stage = StageSpec { elements: Elements::List(list), ..node.stage("reads_in") };
    stage.inputs = vec![input("data.txt", InputSource::Item)];
    stage.outputs = outputs(&["never"]);
    node.run(stage).await;
    assert_eq!(std::fs::read_dir(node.dir.path().join("scratch")).unwrap().count(), 0);
}

/// A node's part that runs tasks; the rest of the node is a closure or two.
struct TestNode {
    work: Work,
    blobs: Blobs,
    events: mpsc::UnboundedReceiver<Event>,
    left: Arc<std::sync::Mutex<Vec<Run>>>,
    leases: std::cell::Cell<u64>,
    dir: TempDir,
}

impl TestNode {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&dir.path().join("blobs")).unwrap();
        let (told, events) = mpsc::unbounded_channel();
        let left = Arc::<std::sync::Mutex<Vec<Run>>>::default();
        let sources = sources(blobs.clone(), Arc::clone(&left), told);
        let config = EngineConfig {
            cache_dir: None,
            cache_bytes_max: CACHE_BYTES_MAX,
            memory_bytes_max: 64 << 20,
            module_bytes_max: MODULE_BYTES_MAX,
            compile_time_max: DEADLINE,
        };
        let engine = Engine::new(config).unwrap();
        let offer = super::stage::Offer { slots: SLOTS, memory_bytes: 1 << 30 };
        let work = Work::start_with(engine, blobs.clone(), dir.path().join("scratch"), offer, sources).unwrap();
        Self { work, blobs, events, left, leases: std::cell::Cell::new(0), dir }
    }

    fn module(&self, guest: &str) -> Hash {
        let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../executor/tests/guests");
        self.blobs.put(&wat::parse_file(guests.join(format!("{guest}.wat"))).unwrap()).unwrap()
    }

    /// A guest that prints the file with this path of 8 bytes below `/in`.
    fn module_reading(&self, path: &str) -> Hash {
        let wat = include_str!("../../../executor/tests/guests/reads_in.wat").replace("data.txt", path);
        self.blobs.put(&wat::parse_str(wat).unwrap()).unwrap()
    }

    /// One task of this guest.
    fn stage(&self, guest: &str) -> StageSpec {
        StageSpec {
            name: "only".into(),
            wasm: self.module(guest),
            entry: "_start".into(),
            args: Vec::new(),
            env: Vec::new(),
            stdin: Stdin::Empty,
            count: 1,
            shard_tasks: 64,
            elements: Elements::One,
            inputs: Vec::new(),
            outputs: Vec::new(),
            needs: Vec::new(),
            retry: Retry { max: 0, lost_max: 0, backoff_ms: 0, backoff_ms_max: 0, on: Vec::new() },
            run_ms_max: 600_000,
            queue_ms_max: None,
            limits: Limits {
                memory_bytes_max: 16 << 20,
                fuel_max: u64::MAX / 2,
                stdout_bytes_max: 1 << 20,
                outputs_bytes_max: 1 << 20,
            },
            options: StageOptions::default(),
        }
    }

    /// What the swarm has recorded of every task of stage 0.
    fn leave(&self, parts: &[(u32, &[u8])]) {
        for (index, bytes) in parts {
            let file =
                OutputFile { path: "part".into(), hash: self.blobs.put(bytes).unwrap(), len: bytes.len() as u64 };
            let outcome = Outcome { outputs: vec![file], ..Outcome::bare(Ending::Exited(0)) };
            let state = TaskState::ended(End::Done(Results::one(outcome, [HOLDER])));
            self.left.lock().unwrap().push(Run { range: tasks(*index, 1), state });
        }
    }

    /// All tasks of the last stage.
    fn batch(&self, stages: Vec<StageSpec>) -> Batch {
        self.leases.set(self.leases.get() + 1);
        let number = self.leases.get();
        let job = JobId::from_bytes([number as u8; 32]);
        let stage = stages.len() as u16 - 1;
        let tasks = vec![(tasks(0, stages[usize::from(stage)].count), 0)];
        let spec = JobSpec {
            version: 1,
            name: "test".into(),
            description: String::new(),
            submitter: HOLDER,
            submitted_unix_ms: 0,
            nonce: 0,
            source: None,
            blobs: Hash::of(b""),
            failures_max: 0,
            stages,
            options: JobOptions::default(),
        };
        let lease = LeaseId { shard: ShardId { job, stage, number: 0 }, epoch: Epoch::NONE, number };
        Batch { lease, spec: Arc::new(spec), tasks, sources: vec![HOLDER] }
    }

    async fn run(&mut self, stage: StageSpec) -> Vec<(Range, Outcome)> {
        let batch = self.batch(vec![stage]);
        self.run_batch(batch).await
    }

    async fn run_batch(&mut self, batch: Batch) -> Vec<(Range, Outcome)> {
        let count = batch.tasks.iter().map(|(range, _)| range.count).sum();
        self.work.run(batch.clone());
        self.outcomes_of(batch.lease, count).await
    }

    /// The outcomes of so many tasks of a lease, however many events they come in.
    async fn outcomes_of(&mut self, wanted: LeaseId, count: u32) -> Vec<(Range, Outcome)> {
        let mut all = super::outcomes::Outcomes::default();
        let mut known = 0;
        while known < count {
            let event = timeout(DEADLINE, self.events.recv()).await.expect("outcomes come").unwrap();
            let Event::Ended { lease, outcomes, .. } = event else { panic!("{event:?}") };
            assert_eq!(lease, wanted);
            for (range, outcome) in outcomes {
                known += range.count;
                (range.indexes()).for_each(|index| all.push(index, outcome.clone()));
            }
        }
        assert_eq!(known, count);
        all.take()
    }

    async fn wait_until(&self, holds: impl Fn(&Work) -> bool) {
        let wait = async {
            while !holds(&self.work) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(DEADLINE, wait).await.expect("it comes true");
    }
}

fn sources(blobs: Blobs, left: Arc<std::sync::Mutex<Vec<Run>>>, told: mpsc::UnboundedSender<Event>) -> Sources {
    Sources {
        fetch: Arc::new(move |(hashes, from)| {
            assert!(from.contains(&HOLDER));
            let missing = hashes.into_iter().find(|hash| !blobs.contains(*hash));
            Box::pin(async move { missing.map_or(Ok(()), |hash| Err(format!("not here: {hash}"))) })
        }),
        shard: Arc::new(move |(shard, _)| {
            assert_eq!(shard.stage, 0);
            let left = left.lock().unwrap().clone();
            Box::pin(async move { Ok(left) })
        }),
        tell: Arc::new(move |event| {
            let told = told.clone();
            Box::pin(async move { told.send(event).unwrap_or_default() })
        }),
    }
}

fn tasks(first: u32, count: u32) -> Range {
    Range { first, count }
}

fn outputs(paths: &[&str]) -> Vec<OutputSpec> {
    paths.iter().copied().map(OutputSpec::required).collect()
}

fn input(path: &str, source: InputSource) -> Input {
    Input { path: path.into(), source }
}

fn text(outcome: &Outcome) -> &str {
    assert_eq!(outcome.ending, Ending::Exited(0));
    match &outcome.stdout {
        Content::Inline(bytes) => str::from_utf8(bytes).unwrap(),
        Content::Blob { .. } => panic!("too long"),
    }
}

fn texts(outcomes: &[(Range, Outcome)]) -> Vec<&str> {
    outcomes.iter().map(|(_, outcome)| text(outcome)).collect()
}

fn rejection(outcome: &Outcome) -> &str {
    match &outcome.ending {
        Ending::Rejected(reason) => reason,
        ending => panic!("{ending:?}"),
    }
}
