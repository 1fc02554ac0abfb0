//! Situations, and the first cause that a user is told in each of them.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeMap;

use swarm_protocol::lattice::{AttemptId, Counts, End, Failure, Results, Run, TaskState};
use swarm_protocol::reasons::{Cause, Evidence, Reason, Target, reasons, to_ask};
use swarm_protocol::situation::{
    Ahead, Amount, Arbitration, Block, Delay, ExecutorLoad, JobSituation, LeaseSituation, Order, ShardSituation,
    TermPhase,
};
use swarm_protocol::{
    Attribute, Comparison, Condition, Content, Elements, Ending, Epoch, Hash, JobId, JobOptions, JobSpec, JobStatus,
    MemberState, MemberView, NodeId, NodeRecord, Outcome, Range, Resources, ShardId, StageSpec, StopCause, Test, Time,
    Unmet,
};

const JOB: JobId = JobId::from_bytes([9; 32]);
const OTHER: JobId = JobId::from_bytes([8; 32]);
const TILE: ShardId = ShardId { job: JOB, stage: 0, number: 0 };
const STITCH: ShardId = ShardId { job: JOB, stage: 1, number: 0 };

const fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

/// What is known in a quiet swarm of three nodes with two slots each, of a job with 64 tiles that are stitched.
struct Story {
    spec: JobSpec,
    status: JobStatus,
    target: Option<Target>,
    jobs: Vec<JobSituation>,
    shards: Vec<ShardSituation>,
    members: Vec<MemberView>,
}

fn story() -> Story {
    let tile =
        StageSpec { count: 64, elements: Elements::Numbers { start: 0 }, ..StageSpec::plain("tile", Hash::of(b"")) };
    let stitch = StageSpec { needs: vec![0], ..StageSpec::plain("stitch", Hash::of(b"")) };
    let spec = JobSpec {
        version: 2,
        name: "poster".into(),
        description: String::new(),
        submitter: id(1),
        submitted_unix_ms: 0,
        nonce: 0,
        source: None,
        blobs: Hash::of(b""),
        failures_max: 0,
        stages: vec![tile, stitch],
        options: JobOptions::default(),
    };
    let job = JobSituation {
        by: id(1),
        holds_blobs: true,
        can_be_fetched: true,
        open: vec![TILE, STITCH],
        failed: vec![],
        submit: None,
    };
    let none = Counts::default();
    let waits = arbitrated(STITCH, |it| {
        it.needs = vec![0];
        it.pending = amount(1, 0);
    });
    Story {
        spec,
        status: JobStatus { stages: vec![(64, none), (1, none)], stop: None },
        target: None,
        jobs: vec![job],
        shards: vec![arbitrated(TILE, |it| it.pending = amount(64, 0)), waits],
        members: (1..=3).map(|number| member(number, 2)).collect(),
    }
}

const fn amount(tasks: u32, first: u32) -> Amount {
    Amount { tasks, first }
}

fn member(number: u8, slots_free: u32) -> MemberView {
    let record = NodeRecord {
        node: id(number),
        incarnation: 1,
        sequence: 1,
        name: format!("n{number}"),
        addresses: vec![],
        slots: 2,
        slots_free,
        memory_bytes: 8 << 30,
        labels: BTreeMap::new(),
        arch: "x86_64".into(),
        version: "1".into(),
        draining: false,
    };
    MemberView { record: record.into(), state: MemberState::Alive, heard: Time::ZERO }
}

fn arbitrated(shard: ShardId, change: impl FnOnce(&mut Arbitration)) -> ShardSituation {
    let mut arbiter = Arbitration {
        epoch: Epoch::NONE.next(id(2)),
        phase: TermPhase::Granting,
        needs: vec![],
        pending: Amount::default(),
        waiting_ms: None,
        delayed: Amount::default(),
        delays: vec![],
        blocked: Amount::default(),
        blocks: vec![],
        leased: Amount::default(),
        leases: vec![],
        copying: 0,
        recording: 0,
        avoids: vec![],
        for_liked: false,
        held_back: false,
        ahead: None,
        executors: vec![],
    };
    change(&mut arbiter);
    let counts = Counts::default();
    ShardSituation { by: id(2), shard, silent: vec![], counts, failures: vec![], arbiter: Some(arbiter) }
}

impl Story {
    fn tiles(mut self, change: impl FnOnce(&mut Arbitration)) -> Self {
        self.shards[0] = arbitrated(TILE, change);
        self
    }

    fn stage(mut self, change: impl FnOnce(&mut StageSpec)) -> Self {
        change(&mut self.spec.stages[0]);
        self
    }

    fn busy(mut self) -> Self {
        self.members = (1..=3).map(|number| member(number, 0)).collect();
        self
    }

    fn ended(mut self, tile: Counts, stitch: Counts, stop: Option<StopCause>) -> Self {
        self.status = JobStatus { stages: vec![(64, tile), (1, stitch)], stop };
        self
    }

    /// One tile failed for good, as its custodians know.
    fn failed(mut self, outcome: Outcome, attempts: u64) -> Self {
        let tile = Counts { done: 63, failed: 1, cancelled: 0 };
        self = self.ended(tile, Counts { cancelled: 1, ..Counts::default() }, Some(StopCause::Failures));
        self.jobs[0].failed = vec![TILE];
        let mut state = failures(attempts, &outcome.ending);
        state.end = Some(End::Exhausted(Results::one(outcome, [])));
        self.shards[0].failures = vec![Run { range: Range { first: 7, count: 1 }, state }];
        self.shards[0].arbiter = None;
        self.shards[0].counts = tile;
        self
    }

    fn asks(mut self, stage: u16, first: u32, count: u32) -> Self {
        self.target = Some(Target { stage, tasks: Range { first, count } });
        self
    }

    fn reasons(&self) -> Vec<Reason> {
        let asked = to_ask(JOB, &self.spec, &self.status, self.target, &self.jobs);
        reasons(&Evidence {
            id: JOB,
            spec: &self.spec,
            status: &self.status,
            target: self.target,
            jobs: &self.jobs,
            asked: &asked,
            shards: &self.shards,
            members: &self.members,
        })
    }

    fn first(&self) -> Reason {
        self.reasons().into_iter().next().unwrap()
    }
}

fn failures(attempts: u64, ending: &Ending) -> TaskState {
    let attempt = |lease| AttemptId { epoch: Epoch::NONE.next(id(2)), lease };
    let failure = || Failure { node: id(3), ending: ending.clone() };
    TaskState { failures: (0..attempts).map(|number| (attempt(number), failure())).collect(), end: None }
}

fn condition(attribute: Attribute, test: Test) -> Condition {
    Condition { attribute, test }
}

fn zone(values: &[&str]) -> Condition {
    condition(Attribute::Label("zone".into()), Test::In(values.iter().map(|&value| value.into()).collect()))
}

fn lease(node: u8, tasks: u32, since_ms: u64) -> LeaseSituation {
    LeaseSituation { executor: id(node), tasks: amount(tasks, 0), since_ms }
}

fn load(node: u8, free_in_ms: Option<u64>) -> ExecutorLoad {
    ExecutorLoad { node: id(node), tasks: 2, free_in_ms }
}

fn ahead(why: Order) -> Ahead {
    Ahead { job: OTHER, name: "other".into(), priority: 10, tasks: 5, why }
}

/// The name of the cause and what distinguishes it, as the JSON says it.
fn told(reason: &Reason) -> String {
    let json = |value: &Cause| {
        let text = format!("{value:?}");
        text.split([' ', '{']).next().unwrap().to_owned()
    };
    let place = reason.first.clone().unwrap_or_default();
    format!("{} {} {place}", json(&reason.cause), reason.tasks).trim_end().to_owned()
}

type Row = (&'static str, fn() -> Story, &'static str);

/// What is the matter, and the first thing that is said: the cause, how many tasks, and the first of them.
const SITUATIONS: [Row; 43] = [
    ("nothing is in the way", || story().tiles(|it| it.pending = amount(64, 0)), "Starting 64 tile[0]"),
    ("all nodes are busy with this job", || story().busy().tiles(|it| it.pending = amount(60, 4)), "Busy 60 tile[4]"),
    (
        "some tasks run and nothing else waits",
        || story().tiles(|it| it.leases = vec![lease(3, 2, 3000), lease(1, 1, 9)]),
        "Running 3 tile[0]",
    ),
    (
        "a lease is newer than what its node says of its slots",
        || {
            story().tiles(|it| {
                it.pending = amount(5, 6);
                it.executors = vec![load(1, None), load(2, None), load(3, None)];
            })
        },
        "Busy 5 tile[6]",
    ),
    (
        "no node has the label",
        || story().stage(|it| it.options.place.require = vec![zone(&["a", "b"])]),
        "NoNode 64 tile[0]",
    ),
    (
        "no node has the architecture",
        || {
            let test = Test::Compares(Comparison::Equal, "aarch64".into());
            story().stage(|it| it.options.place.require = vec![condition(Attribute::Arch, test)])
        },
        "NoNode 64 tile[0]",
    ),
    ("no node has the memory", || story().stage(|it| it.limits.memory_bytes_max = 16 << 30), "NoNode 64 tile[0]"),
    ("no node has the slots", || story().stage(|it| it.options.slots = 3), "NoNode 64 tile[0]"),
    (
        "no alternative fits either",
        || {
            story().stage(|it| {
                it.options.slots = 3;
                it.options.alternatives = vec![Resources { memory_bytes_max: 9 << 30, slots: 1 }];
            })
        },
        "NoNode 64 tile[0]",
    ),
    ("the only suitable node drains", || only_zone_a(MemberState::Draining), "NodesGone 64 tile[0]"),
    ("the only suitable node is down", || only_zone_a(MemberState::Down), "NodesGone 64 tile[0]"),
    ("the only suitable node is suspected", || only_zone_a(MemberState::Suspect), "NodesGone 64 tile[0]"),
    ("the only suitable node is busy", || only_zone_a(MemberState::Alive).busy_zone(), "Busy 64 tile[0]"),
    ("no node is alive", || Story { members: vec![], ..story() }, "NoNode 64 tile[0]"),
    ("a task waits for a whole stage", || tiles_left(12).asks(1, 0, 1), "WaitsForStage 1 stitch"),
    ("of a job whose last stage waits the first stage is told first", || tiles_left(12), "Running 12 tile[0]"),
    (
        "a task waits for one of another stage",
        || {
            story().asks(1, 0, 1).stitches(|it| {
                it.blocked = amount(1, 0);
                it.blocks = vec![Block { task: 0, stage: 0, needs: 17 }];
            })
        },
        "WaitsForTask 1 stitch",
    ),
    (
        "what it needs has failed",
        || {
            let tile = Counts { done: 63, failed: 1, cancelled: 0 };
            story().ended(tile, Counts::default(), None).asks(1, 0, 1)
        },
        "NeedFailed 1 stitch",
    ),
    ("it backs off after a failure of its own", || backing_off(&Ending::Exited(75), 2), "BackingOff 1 tile[7]"),
    ("it backs off after its node was lost", || backing_off(&Ending::Lost, 1), "BackingOff 1 tile[7]"),
    (
        "as many run as the job allows",
        || {
            let mut story = story().busy().tiles(|it| {
                it.pending = amount(60, 4);
                it.held_back = true;
            });
            story.spec.options.parallel_max = Some(4);
            story
        },
        "ParallelReached 60 tile[4]",
    ),
    ("a job of greater priority comes first", || behind(Order::Priority), "Behind 64 tile[0]"),
    ("another submitter has fewer tasks running", || behind(Order::Share), "Behind 64 tile[0]"),
    ("an earlier job comes first", || behind(Order::Arrival), "Behind 64 tile[0]"),
    (
        "a job comes first, but nodes are free for both",
        || {
            story().tiles(|it| {
                it.pending = amount(64, 0);
                it.ahead = Some(ahead(Order::Priority));
            })
        },
        "Starting 64 tile[0]",
    ),
    (
        "no node has the job's files",
        || {
            let mut story = story();
            story.jobs[0].holds_blobs = false;
            story.jobs[0].can_be_fetched = false;
            story
        },
        "BlobsMissing 64 tile[0]",
    ),
    (
        "the arbiter waits for a promise",
        || story().tiles(|it| it.phase = TermPhase::Preparing(vec![id(3)])),
        "Preparing 64 tile[0]",
    ),
    (
        "the arbiter has just taken over",
        || {
            story().tiles(|it| {
                it.phase = TermPhase::Grace(300);
                it.pending = amount(64, 0);
            })
        },
        "TakenOver 64 tile[0]",
    ),
    ("no custodian answers", || Story { shards: vec![], ..story() }, "Unreachable 64 tile[0]"),
    (
        "a custodian answers, but nobody arbitrates",
        || {
            let mut story = story();
            story.shards[0].arbiter = None;
            story.shards[0].silent = vec![id(1), id(3)];
            story
        },
        "NoArbiter 64 tile[0]",
    ),
    (
        "it is leased to a node that was lost",
        || {
            let mut story = story().tiles(|it| it.leases = vec![lease(3, 2, 3000)]);
            story.members[2].state = MemberState::Suspect;
            story
        },
        "LeasedToLost 2 tile[0]",
    ),
    ("its outputs are being copied", || story().tiles(|it| it.copying = 2), "Copying 2 tile[0]"),
    ("its result waits for a second disk", || story().tiles(|it| it.recording = 1), "Recording 1 tile[0]"),
    (
        "the only free node is the one on which it failed",
        || {
            let mut story = story().busy().tiles(|it| {
                it.pending = amount(1, 7);
                it.avoids = vec![(7, id(2), 1200)];
            });
            story.members[1] = member(2, 2);
            story
        },
        "Avoids 1 tile[7]",
    ),
    (
        "tasks are kept for nodes that the job prefers",
        || {
            let story = story().tiles(|it| {
                it.pending = amount(64, 0);
                it.for_liked = true;
            });
            story.stage(|it| it.options.place.prefer = vec![zone(&["a"])])
        },
        "ForPreferred 64 tile[0]",
    ),
    (
        "the submit waits for copies",
        || {
            let mut story = story();
            story.jobs[0].submit = Some((0, 2));
            story
        },
        "NotAcknowledged 0",
    ),
    (
        "it is being cancelled",
        || {
            let none = Counts::default();
            story().tiles(|it| it.leases = vec![lease(3, 2, 10)]).ended(none, none, Some(StopCause::Cancelled))
        },
        "Stopping 0",
    ),
    (
        "it was cancelled",
        || {
            let tile = Counts { done: 4, failed: 0, cancelled: 60 };
            story().ended(tile, Counts { cancelled: 1, ..Counts::default() }, Some(StopCause::Cancelled))
        },
        "Cancelled 0",
    ),
    ("a task failed", || story().failed(Outcome::bare(Ending::Exited(7)), 1), "Failed 1 tile[7]"),
    (
        "no node took a task in time",
        || story().failed(Outcome::bare(Ending::Rejected("no node took it within its queue timeout".into())), 0),
        "Failed 1 tile[7]",
    ),
    (
        "a stage never ran because another failed",
        || story().failed(Outcome::bare(Ending::Exited(7)), 1).asks(1, 0, 1),
        "NeedFailed 1 stitch",
    ),
    ("a task is done while others run", || story().tiles(|_| {}).asks(0, 3, 1), "Done 1 tile[3]"),
    (
        "all is done",
        || story().ended(Counts { done: 64, ..Counts::default() }, Counts { done: 1, ..Counts::default() }, None),
        "Done 0",
    ),
];

fn only_zone_a(state: MemberState) -> Story {
    let mut story = story().stage(|it| it.options.place.require = vec![zone(&["a"])]);
    let mut record = (*story.members[1].record).clone();
    record.labels.insert("zone".into(), "a".into());
    story.members[1].record = record.into();
    story.members[1].state = state;
    story
}

impl Story {
    fn busy_zone(mut self) -> Self {
        let mut record = (*self.members[1].record).clone();
        record.slots_free = 0;
        self.members[1].record = record.into();
        self
    }

    fn stitches(mut self, change: impl FnOnce(&mut Arbitration)) -> Self {
        self.shards[1] = arbitrated(STITCH, change);
        self
    }
}

fn tiles_left(left: u32) -> Story {
    let tile = Counts { done: 64 - left, ..Counts::default() };
    story().tiles(|it| it.leases = vec![lease(3, left, 3000)]).ended(tile, Counts::default(), None)
}

fn backing_off(ending: &Ending, attempts: u64) -> Story {
    let mut story = story().stage(|it| (it.retry.max, it.retry.lost_max) = (2, 5)).tiles(|it| {
        it.delayed = amount(1, 7);
        it.delays = vec![Delay { task: 7, wait_ms: 12_000, stderr: Content::Inline(b"try\nlater\n\n".to_vec()) }];
    });
    story.shards[0].failures = vec![Run { range: Range { first: 7, count: 1 }, state: failures(attempts, ending) }];
    story
}

fn behind(why: Order) -> Story {
    story().busy().tiles(|it| {
        it.pending = amount(64, 0);
        it.ahead = Some(ahead(why));
    })
}

#[test]
fn each_situation_has_its_first_cause() {
    for (situation, story, expected) in SITUATIONS {
        assert_eq!(told(&story().first()), expected, "{situation}: {:#?}", story().reasons());
    }
}

#[test]
fn a_condition_that_no_node_meets_is_named_with_what_there_is() {
    let mut story = story().stage(|it| it.options.place.require = vec![zone(&["a", "b"])]);
    for member in &mut story.members[..2] {
        let mut record = (*member.record).clone();
        record.labels.insert("zone".into(), "c".into());
        member.record = record.into();
    }
    let Cause::NoNode { unmet: Unmet::Condition { condition, found, .. } } = story.first().cause else {
        panic!("no node")
    };
    assert_eq!(condition, "label.zone in (a, b)");
    let found: Vec<_> = found.iter().map(|found| (found.value.as_deref(), found.nodes)).collect();
    assert_eq!(found, [(None, 1), (Some("c"), 2)]);
}

#[test]
fn a_stage_that_waits_says_how_much_is_left_and_then_why_that_is_not_done() {
    let reasons = tiles_left(12).asks(1, 0, 1).reasons();
    assert_eq!(reasons[0].cause, Cause::WaitsForStage { needs: "tile".into(), left: 12, of: 64 });
    assert_eq!(told(&reasons[1]), "Running 12 tile[0]");
}

#[test]
fn a_task_that_backs_off_says_where_it_failed_how_often_and_what_it_said() {
    let Cause::BackingOff { wait_ms, attempt, of, node, said, .. } = backing_off(&Ending::Exited(75), 2).first().cause
    else {
        panic!("backs off")
    };
    assert_eq!((wait_ms, attempt, of, said.as_str()), (12_000, 2, 3, "later"));
    assert_eq!(node.unwrap().name, "n3");
    let Cause::BackingOff { attempt, of, .. } = backing_off(&Ending::Lost, 1).first().cause else {
        panic!("backs off")
    };
    assert_eq!((attempt, of), (1, 6));
}

#[test]
fn busy_nodes_say_when_the_next_is_free_and_the_queue_when_it_ends() {
    let story = story().busy().stage(|it| it.queue_ms_max = Some(3_600_000)).tiles(|it| {
        it.pending = amount(64, 0);
        it.waiting_ms = Some(60_000);
        it.executors = vec![load(1, Some(25_000)), load(2, Some(20_000)), load(3, None)];
    });
    let first = story.first();
    assert_eq!(first.cause, Cause::Busy { nodes: 3, free_in_ms: Some(20_000) });
    assert_eq!(first.queue_left_ms, Some(3_540_000));
}

#[test]
fn equal_reasons_are_one_and_the_newer_term_is_believed() {
    let mut story = story().busy();
    story.spec.stages[0].count = 128;
    story.status.stages[0].0 = 128;
    let second = ShardId { number: 1, ..TILE };
    story.jobs[0].open = vec![TILE, second, STITCH];
    story.shards.push(arbitrated(second, |it| it.pending = amount(64, 64)));
    // An arbiter that was deposed and does not know it.
    story.shards.push(arbitrated(second, |it| {
        it.epoch = Epoch::NONE;
        it.leases = vec![lease(1, 64, 100_000)];
    }));
    let tiles: Vec<String> =
        story.reasons().iter().filter(|it| it.stage.as_deref() == Some("tile")).map(told).collect();
    assert_eq!(tiles, ["Busy 128 tile[0]"]);
}

#[test]
fn few_shards_are_asked_about_however_large_the_job_is() {
    let mut story = story();
    story.spec.stages[0].count = 1 << 24;
    story.jobs.clear();
    assert!(to_ask(JOB, &story.spec, &story.status, None, &[]).len() <= 2);
    let all = Target { stage: 0, tasks: Range { first: 100, count: 1 << 23 } };
    let asked = to_ask(JOB, &story.spec, &story.status, Some(all), &[]);
    assert_eq!((asked.len(), asked[0].0.number, asked[0].1.first), (32, 1, 100));
}
