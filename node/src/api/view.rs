//! What the API says: one type a document, the same for the server, the client and `-o json`.
//!
//! Always true: a document names its schema, and a schema only ever gains fields. Times are RFC 3339; `*_ms` and
//! `*_bytes` are integers.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swarm_protocol::lattice::{Counts, End, Run};
use swarm_protocol::modules::{ModuleRecord, ModuleVersion, Registry};
use swarm_protocol::reasons::{Cause, Reason};
use swarm_protocol::{
    Content, Elements, Ending, Happened, Hash, JobId, JobSpec, JobState, JobStatus, JobSummary, MemberState,
    MemberView, NodeId, OutputFile, Range, ShardId, StageSpec, TaskChange, Time,
};

use super::ids::short_id;
use crate::clock::unix_ms;
use crate::collector::Scrubbed;
use crate::events::{Numbered, What};
use crate::explain::Explained;
use crate::network::NetworkCounts;
use crate::words;

/// A list of things.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct List<T> {
    /// Names the form of the items, as `swarm.nodes/1`.
    pub schema: String,
    /// The things.
    pub items: Vec<T>,
}

impl<T> List<T> {
    /// A list of a schema.
    pub fn new(schema: &str, items: Vec<T>) -> Self {
        Self { schema: schema.into(), items }
    }
}

/// Schema of a list of [`NodeItem`].
pub const NODES: &str = "swarm.nodes/1";
/// Schema of one [`NodeItem`].
pub const NODE: &str = "swarm.node/1";
/// Schema of a list of [`JobItem`].
pub const JOBS: &str = "swarm.jobs/1";
/// Schema of [`JobDetail`].
pub const JOB: &str = "swarm.job/1";
/// Schema of a list of [`ModuleItem`].
pub const MODULES: &str = "swarm.modules/1";
/// Schema of [`NodeStatus`].
pub const STATUS: &str = "swarm.status/1";
/// Schema of [`BlobStat`].
pub const BLOB: &str = "swarm.blob/1";

/// One node, as another sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeItem {
    /// 64 hexadecimal digits.
    pub id: String,
    /// For people.
    pub name: String,
    /// `alive`, `suspect`, `down` or `draining`.
    pub state: String,
    /// Tasks it runs at once.
    pub slots: u32,
    /// Of these, free.
    pub slots_free: u32,
    /// The program's version.
    pub version: String,
    /// Where it can be dialled; empty when unknown.
    pub address: String,
    /// Milliseconds since its last sign of life.
    pub heard_ms: u64,
    /// Memory it offers.
    pub memory_bytes: u64,
    /// Processor architecture.
    pub arch: String,
    /// `K=V`.
    pub labels: Vec<String>,
}

impl NodeItem {
    /// The item of a member, at `now`.
    pub fn of(member: &MemberView, now: Time) -> Self {
        let record = &member.record;
        Self {
            id: record.node.to_hex(),
            name: record.name.clone(),
            state: member_state(member.state).into(),
            slots: record.slots,
            slots_free: record.slots_free,
            version: record.version.clone(),
            address: record.addresses.first().cloned().unwrap_or_default(),
            heard_ms: u64::try_from(now.since(member.heard).as_millis()).unwrap_or(u64::MAX),
            memory_bytes: record.memory_bytes,
            arch: record.arch.clone(),
            labels: record.labels.iter().map(|(key, value)| format!("{key}={value}")).collect(),
        }
    }
}

const fn member_state(state: MemberState) -> &'static str {
    match state {
        MemberState::Alive => "alive",
        MemberState::Suspect => "suspect",
        MemberState::Down => "down",
        MemberState::Draining => "draining",
    }
}

/// The asked node and what it sees of the swarm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatus {
    /// [`STATUS`].
    pub schema: String,
    /// 64 hexadecimal digits.
    pub node: String,
    /// For people.
    pub name: String,
    /// Its data directory.
    pub data: String,
    /// The program's version.
    pub version: String,
    /// Where it can be dialled.
    pub addresses: Vec<String>,
    /// Nodes known, this one included.
    pub members: usize,
    /// Of these, alive.
    pub alive: usize,
    /// Tasks it runs at once.
    pub slots: u32,
    /// Of these, busy.
    pub slots_busy: u32,
    /// Jobs known.
    pub jobs: usize,
    /// Of these, not over.
    pub jobs_running: usize,
    /// What it moved of blobs since its start.
    #[serde(default)]
    pub transfers: Transfers,
    /// Bytes of its blobs, if they have a budget.
    #[serde(default)]
    pub blob_bytes: u64,
    /// Why it can remember nothing new, when its disk has no room for that. Jobs are not counted then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for_room: Option<String>,
    /// What looking at the bytes of its blobs has brought to light since its start.
    #[serde(default)]
    pub scrub: Scrub,
    /// Why it takes no new blobs, when it takes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes_no_blobs: Option<String>,
}

/// Blobs that were found damaged on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Scrub {
    /// Looks at all blobs.
    pub rounds: u64,
    /// Blobs found damaged.
    pub damaged: u64,
    /// Of these, fetched anew.
    pub repaired: u64,
    /// Of these, those that are needed here and that no node has: 64 hexadecimal digits each.
    pub lost: Vec<String>,
}

impl Scrub {
    /// What was found.
    pub fn of(scrubbed: &Scrubbed) -> Self {
        let Scrubbed { rounds, damaged, repaired, lost } = scrubbed;
        let lost = lost.iter().map(|hash| hash.to_hex()).collect();
        Self { rounds: *rounds, damaged: *damaged, repaired: *repaired, lost }
    }
}

/// Blobs between this node and others, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Transfers {
    /// Bytes sent, with their proofs.
    pub sent_bytes: u64,
    /// Bytes received, with their proofs.
    pub received_bytes: u64,
    /// Sources dropped because what they sent was wrong.
    pub sources_wrong: u64,
    /// Sources dropped because they sent more than was asked for.
    pub sources_over: u64,
    /// Sources dropped because they lacked what they had claimed.
    pub sources_lacking: u64,
    /// Sources dropped because they stood still.
    pub sources_stalled: u64,
}

impl Transfers {
    /// What the network has counted.
    pub fn of(counts: &NetworkCounts) -> Self {
        Self {
            sent_bytes: counts.bytes_sent,
            received_bytes: counts.bytes_received,
            sources_wrong: counts.sources_wrong,
            sources_over: counts.sources_over,
            sources_lacking: counts.sources_lacking,
            sources_stalled: counts.sources_stalled,
        }
    }
}

/// A [`JobState`], for the schema.
#[derive(JsonSchema)]
#[schemars(rename = "JobState", rename_all = "lowercase")]
#[expect(dead_code, reason = "it is only looked at as a type")]
enum StateWord {
    /// Tasks are waiting or running.
    Running,
    /// Stopped; the running tasks are being ended.
    Stopping,
    /// Every task succeeded.
    Done,
    /// Over, and not every task succeeded.
    Failed,
    /// Over, because it was cancelled.
    Cancelled,
}

/// One job in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobItem {
    /// `NAME-xxxxxx`.
    pub id: String,
    /// 64 hexadecimal digits.
    pub job: String,
    /// Its name.
    pub name: String,
    /// How far it is, in one word.
    #[schemars(with = "StateWord")]
    pub state: JobState,
    /// All tasks.
    pub tasks: u64,
    /// Succeeded.
    pub done: u64,
    /// Failed for good.
    pub failed: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// When it was submitted, by the submitter's clock.
    pub submitted: String,
    /// The node it was handed to.
    pub submitter: String,
    /// For people and filters.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Greater ones are granted first.
    #[serde(default)]
    pub priority: i8,
}

impl JobItem {
    /// The item of a summary.
    pub fn of(summary: &JobSummary) -> Self {
        let (labels, priority) = (summary.labels.clone(), summary.priority);
        let item = Self::new(summary.job, &summary.name, summary.submitted_unix_ms, summary.submitter, &summary.status);
        Self { labels, priority, ..item }
    }

    fn new(job: JobId, name: &str, submitted_unix_ms: u64, submitter: NodeId, status: &JobStatus) -> Self {
        let counts = status.counts();
        Self {
            id: short_id(name, job),
            job: job.to_hex(),
            name: name.into(),
            state: status.state(),
            tasks: status.tasks(),
            done: counts.done.into(),
            failed: counts.failed.into(),
            cancelled: counts.cancelled.into(),
            submitted: rfc3339(submitted_unix_ms),
            submitter: submitter.to_hex(),
            labels: BTreeMap::new(),
            priority: 0,
        }
    }

    /// A state in one word.
    pub fn state_word(state: JobState) -> String {
        format!("{state:?}").to_lowercase()
    }

    /// Tasks that ended in any way.
    pub const fn ended(&self) -> u64 {
        self.done + self.failed + self.cancelled
    }
}

/// Milliseconds since 1970 as RFC 3339 in UTC; a time that no calendar has is shown as the epoch.
pub(super) fn rfc3339(unix_ms: u64) -> String {
    let timestamp = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    timestamp.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

/// A job with its stages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobDetail {
    /// [`JOB`].
    pub schema: String,
    /// What a list says of it.
    #[serde(flatten)]
    pub item: JobItem,
    /// For people.
    pub description: String,
    /// The stages, in the order of the spec.
    pub stages: Vec<StageItem>,
}

impl JobDetail {
    /// The detail of a job.
    pub fn of(job: JobId, spec: &JobSpec, status: &JobStatus) -> Self {
        let none = (0, Counts::default());
        let stage = |(number, stage)| StageItem::of(stage, status.stages.get::<usize>(number).unwrap_or(&none).1);
        Self {
            schema: JOB.into(),
            item: JobItem {
                labels: spec.options.labels.clone(),
                priority: spec.options.priority,
                ..JobItem::new(job, &spec.name, spec.submitted_unix_ms, spec.submitter, status)
            },
            description: spec.description.clone(),
            stages: spec.stages.iter().enumerate().map(stage).collect(),
        }
    }
}

/// One stage of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StageItem {
    /// Its name.
    pub name: String,
    /// Whether it is an array: its tasks are then `NAME[INDEX]`.
    pub array: bool,
    /// All tasks.
    pub tasks: u32,
    /// Succeeded.
    pub done: u32,
    /// Failed for good.
    pub failed: u32,
    /// Cancelled.
    pub cancelled: u32,
    /// Declared outputs.
    pub outputs: Vec<String>,
}

impl StageItem {
    fn of(stage: &StageSpec, counts: Counts) -> Self {
        Self {
            name: stage.name.clone(),
            array: stage.elements != Elements::One,
            tasks: stage.count,
            done: counts.done,
            failed: counts.failed,
            cancelled: counts.cancelled,
            outputs: stage.outputs.iter().map(|output| output.path.clone()).collect(),
        }
    }
}

/// Neighbouring tasks of one stage of which the same is known: one line of the `tasks` document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskRun {
    /// Position of the stage.
    pub stage: u16,
    /// The first task's index in the stage.
    pub first: u32,
    /// How many tasks.
    pub count: u32,
    /// How they ended; absent when they have not.
    pub ended: Option<Ended>,
    /// In words: the ending of the recorded outcome, or of the last failure when there is none.
    pub ending: String,
    /// Attempts known to be over.
    pub attempts: usize,
    /// Where the last failed attempt ran; absent when none failed.
    pub failed_on: Option<String>,
    /// Standard output.
    pub stdout: Bytes,
    /// Standard error.
    pub stderr: Bytes,
    /// Declared outputs that were left.
    pub outputs: Vec<Output>,
    /// Nodes that hold the blobs.
    pub holders: Vec<String>,
    /// Whether runs of it gave different results.
    pub disputed: bool,
}

/// Schema of a list of [`RunningTask`].
pub const RUNNING: &str = "swarm.running/1";
/// Schema of [`TaskNews`].
pub const NEWS: &str = "swarm.news/1";

/// A task that is granted to a node now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningTask {
    /// Its index in the stage.
    pub task: u32,
    /// The node: 64 hexadecimal digits.
    pub node: String,
}

/// What a running task printed behind what was seen of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskNews {
    /// [`NEWS`].
    pub schema: String,
    /// Whether it runs.
    pub runs: bool,
    /// More of standard output.
    pub stdout: Bytes,
    /// More of standard error.
    pub stderr: Bytes,
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// It succeeded.
    Done,
    /// It failed for good.
    Failed,
    /// Its job was stopped first.
    Cancelled,
}

impl TaskRun {
    /// The line of a run in a stage.
    pub fn of(stage: u16, run: &Run) -> Self {
        let last = run.state.failures.values().next_back();
        let mut line = Self {
            stage,
            first: run.range.first,
            count: run.range.count,
            ended: None,
            ending: last.map(|failure| failure.ending.to_string()).unwrap_or_default(),
            attempts: run.state.failures.len(),
            failed_on: last.map(|failure| failure.node.to_hex()),
            stdout: Bytes::default(),
            stderr: Bytes::default(),
            outputs: Vec::new(),
            holders: Vec::new(),
            disputed: false,
        };
        line.take_end(run.state.end.as_ref());
        line
    }

    fn take_end(&mut self, end: Option<&End>) {
        let (ended, results) = match end {
            None => return,
            Some(End::Cancelled) => {
                self.ended = Some(Ended::Cancelled);
                self.ending = Ending::Cancelled.to_string();
                return;
            }
            Some(End::Done(results)) => (Ended::Done, results),
            Some(End::Exhausted(results)) => (Ended::Failed, results),
        };
        let outcome = results.outcome();
        self.attempts = (self.attempts + usize::from(ended == Ended::Done)).max(1);
        self.ended = Some(ended);
        self.ending = outcome.ending.to_string();
        self.stdout = Bytes::of(&outcome.stdout);
        self.stderr = Bytes::of(&outcome.stderr);
        self.outputs = outcome.outputs.iter().map(Output::of).collect();
        self.holders = results.holders().map(|node| node.to_hex()).collect();
        self.disputed = results.is_disputed();
    }

    /// The indexes of the tasks.
    pub fn indexes(&self) -> std::ops::Range<u32> {
        self.first..self.first.saturating_add(self.count)
    }
}

/// Some bytes of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Bytes {
    /// Few, and UTF-8.
    Text(String),
    /// Few, in hexadecimal digits.
    Hex(String),
    /// Many: a blob.
    Blob {
        /// 64 hexadecimal digits of its BLAKE3.
        hash: String,
        /// Its length.
        len_bytes: u64,
    },
}

impl Default for Bytes {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl Bytes {
    pub(crate) fn of(content: &Content) -> Self {
        match content {
            Content::Blob { hash, len } => Self::Blob { hash: hash.to_hex(), len_bytes: *len },
            Content::Inline(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Self::Text(text.into()),
                Err(_) => Self::Hex(hex::encode(bytes)),
            },
        }
    }

    /// The bytes, or the blob that has them.
    pub fn content(&self) -> Result<Content, BadDocument> {
        Ok(match self {
            Self::Text(text) => Content::Inline(text.clone().into_bytes()),
            Self::Hex(digits) => Content::Inline(hex::decode(digits).map_err(|_| BadDocument("hexadecimal digits"))?),
            Self::Blob { hash, len_bytes } => Content::Blob { hash: parse_hash(hash)?, len: *len_bytes },
        })
    }
}

/// One declared output that a task left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Relative to `/out`.
    pub path: String,
    /// 64 hexadecimal digits of its BLAKE3.
    pub hash: String,
    /// Its length.
    pub len_bytes: u64,
}

impl Output {
    fn of(file: &OutputFile) -> Self {
        Self { path: file.path.clone(), hash: file.hash.to_hex(), len_bytes: file.len }
    }
}

/// The node sent a document that this program cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node's answer has no valid {0}")]
pub struct BadDocument(&'static str);

/// Reads the 64 digits of a hash in a document.
pub fn parse_hash(hex: &str) -> Result<Hash, BadDocument> {
    Hash::from_hex(hex).map_err(|_| BadDocument("hash"))
}

/// Schema of a list of [`Stored`] that a user stored.
pub const STORED: &str = "swarm.stored/1";
/// Schema of a list of [`Stored`] whose every byte was checked.
pub const VERIFIED: &str = "swarm.verified/1";

/// The answer to a stored blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stored {
    /// 64 hexadecimal digits of its BLAKE3.
    pub hash: String,
    /// Its length.
    pub len_bytes: u64,
}

/// Schema of a list of [`BlobItem`].
pub const BLOBS: &str = "swarm.blobs/1";
/// Schema of [`CollectedBlobs`].
pub const COLLECTED: &str = "swarm.collected/1";

/// A blob on a node, and why it stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlobItem {
    /// 64 hexadecimal digits of its BLAKE3.
    pub hash: String,
    /// Its length.
    pub len_bytes: u64,
    /// A user wants it to stay.
    pub pinned: bool,
    /// A job or a published module on this node names it.
    pub used: bool,
    /// When it was written or last relied on.
    pub claimed: String,
}

/// What a collection did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CollectedBlobs {
    /// [`COLLECTED`].
    pub schema: String,
    /// Blobs removed.
    pub removed: u64,
    /// Bytes that these had.
    pub removed_bytes: u64,
    /// Blobs that stay.
    pub kept: u64,
}

/// One published version of a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModuleItem {
    /// Namespace and name.
    pub name: String,
    /// The version.
    pub version: String,
    /// The publisher's key: 64 hexadecimal digits.
    pub publisher: String,
    /// The module: 64 hexadecimal digits of its BLAKE3.
    pub wasm: String,
    /// Its length.
    pub len_bytes: u64,
    /// For people.
    pub description: String,
    /// What a node must offer besides WASI preview 1.
    pub extensions: Vec<String>,
    /// What it asks for.
    pub permissions: Vec<String>,
    /// When, by the publisher's clock.
    pub published: String,
    /// Whether its publisher took it back.
    pub yanked: bool,
    /// Whether others published something of this name, too.
    pub disputed: bool,
}

impl ModuleItem {
    /// The item of a record in a registry.
    pub fn of(registry: &Registry, record: &ModuleRecord) -> Self {
        let id = &record.id;
        let same_name = |other: &ModuleVersion| other.name == id.name && other.publisher != id.publisher;
        Self {
            name: id.name.clone(),
            version: id.version.clone(),
            publisher: id.publisher.to_hex(),
            wasm: record.wasm.to_hex(),
            len_bytes: record.len,
            description: record.description.clone(),
            extensions: record.extensions.clone(),
            permissions: record.permissions.clone(),
            published: rfc3339(record.published_unix_ms),
            yanked: registry.version(id).is_some_and(|version| version.yanked),
            disputed: registry.versions().any(|(other, _)| same_name(other))
                || registry.version(id).is_some_and(|version| version.records.len() > 1),
        }
    }

    /// Every version in a registry.
    pub fn all(registry: &Registry) -> Vec<Self> {
        let records = registry.versions().flat_map(|(_, version)| version.records.values());
        records.map(|record| Self::of(registry, record)).collect()
    }
}

/// What is asked of a node that publishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishModule {
    /// Namespace and name.
    pub name: String,
    /// A semantic version.
    pub version: String,
    /// The module, which is on the node: 64 hexadecimal digits of its BLAKE3.
    pub wasm: String,
    /// For people.
    pub description: String,
    /// What a node must offer besides WASI preview 1.
    pub extensions: Vec<String>,
    /// What it asks for.
    pub permissions: Vec<String>,
}

/// Which version its publisher takes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct YankModule {
    /// Namespace and name.
    pub name: String,
    /// The version.
    pub version: String,
}

/// What a node has of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlobStat {
    /// [`BLOB`].
    pub schema: String,
    /// 64 hexadecimal digits of its BLAKE3.
    pub hash: String,
    /// `here`, `arriving` or `missing`.
    pub state: String,
    /// Its length, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub len_bytes: Option<u64>,
}

/// Schema of [`EventItem`], and of a list of them.
pub const EVENTS: &str = "swarm.events/1";

/// Something that a node heard of. Fields that do not belong to its `kind` are absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventItem {
    /// Grows with every event of this node; the same number never names two events of one data directory.
    pub seq: u64,
    /// When, by this node's clock.
    pub at: String,
    /// `node_started`, `job_known`, `job_stopped`, `job_over`, `job_expired`, `tasks_granted`, `tasks_done`, `tasks_failed`,
    /// `tasks_cancelled`, `attempts_failed`, `tasks_changed` (several of these), `node_alive`, `node_suspect`, `node_down`,
    /// `node_draining`, or `gap`: events before `seq` are gone.
    pub kind: String,
    /// The job: 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The name of the job or node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The node: 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Position of the stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<u16>,
    /// The tasks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskRange>,
    /// Why a job was stopped: `cancelled` or `failures`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// Neighbouring tasks of one stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskRange {
    /// The first one's index.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// What became of them; absent in `tasks_granted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
}

impl EventItem {
    /// The item of an event.
    pub fn of(event: &Numbered) -> Self {
        let item = Self { seq: event.seq, at: rfc3339(event.at_unix_ms), ..Self::default() };
        match &event.what {
            What::Started => Self { kind: "node_started".into(), ..item },
            What::JobOver(job) => Self { kind: "job_over".into(), job: Some(job.to_hex()), ..item },
            What::Granted { shard, tasks } => {
                let range = |range: &Range| TaskRange { first: range.first, count: range.count, change: None };
                item.about(*shard, "tasks_granted", tasks.iter().map(range).collect())
            }
            What::Node { node, name, state } => {
                let kind = format!("node_{}", format!("{state:?}").to_lowercase());
                Self { kind, node: Some(node.to_hex()), name: Some(name.clone()), ..item }
            }
            What::Core(happened) => item.happened(happened),
        }
    }

    /// That events before this number are gone.
    pub fn gap(first: u64) -> Self {
        Self { seq: first.saturating_sub(1), kind: "gap".into(), at: rfc3339(unix_ms()), ..Self::default() }
    }

    fn happened(self, happened: &Happened) -> Self {
        match happened {
            Happened::JobKnown { job, name } => {
                Self { kind: "job_known".into(), job: Some(job.to_hex()), name: Some(name.clone()), ..self }
            }
            Happened::JobStopped { job, cause } => {
                let cause = Some(format!("{cause:?}").to_lowercase());
                Self { kind: "job_stopped".into(), job: Some(job.to_hex()), cause, ..self }
            }
            Happened::JobExpired(job) => Self { kind: "job_expired".into(), job: Some(job.to_hex()), ..self },
            Happened::Tasks { shard, tasks } => {
                let mut kinds: Vec<TaskChange> = tasks.iter().map(|(_, change)| *change).collect();
                kinds.sort_unstable();
                kinds.dedup();
                let kind = if let [one] = kinds.as_slice() { change_kind(*one) } else { "tasks_changed" };
                let range = |(range, change): &(Range, TaskChange)| TaskRange {
                    first: range.first,
                    count: range.count,
                    change: Some(change_kind(*change).into()),
                };
                self.about(*shard, kind, tasks.iter().map(range).collect())
            }
        }
    }

    fn about(self, shard: ShardId, kind: &str, tasks: Vec<TaskRange>) -> Self {
        Self { kind: kind.into(), job: Some(shard.job.to_hex()), stage: Some(shard.stage), tasks, ..self }
    }
}

const fn change_kind(change: TaskChange) -> &'static str {
    match change {
        TaskChange::Done => "tasks_done",
        TaskChange::Failed => "tasks_failed",
        TaskChange::Cancelled => "tasks_cancelled",
        TaskChange::AttemptFailed => "attempts_failed",
    }
}

/// Schema of [`Drained`].
pub const DRAINED: &str = "swarm.drained/1";

/// A node that has left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Drained {
    /// [`DRAINED`].
    pub schema: String,
    /// 64 hexadecimal digits.
    pub node: String,
    /// For people.
    pub name: String,
    /// Whether all that it kept is with others; absent when another node left, which alone knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handed_over: Option<bool>,
}

/// Schema of [`Explanation`].
pub const EXPLANATION: &str = "swarm.explanation/1";

/// Why a job, or some of its tasks, are not done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// [`EXPLANATION`].
    pub schema: String,
    /// `NAME-xxxxxx`.
    pub id: String,
    /// 64 hexadecimal digits.
    pub job: String,
    /// How far it is, in one word.
    #[schemars(with = "StateWord")]
    pub state: JobState,
    /// Succeeded.
    pub done: u64,
    /// All tasks.
    pub tasks: u64,
    /// The root cause first.
    pub reasons: Vec<ReasonItem>,
    /// By stage: groups of tasks that were not asked about, as those asked stand for them.
    #[serde(default)]
    pub not_asked: BTreeMap<String, u32>,
    /// What to type next.
    pub next: String,
}

/// One reason: its words, and the evidence, whose fields depend on `cause`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReasonItem {
    /// In words.
    pub text: String,
    /// `cause`, `stage`, `tasks`, `first` and what belongs to the cause.
    #[serde(flatten)]
    pub evidence: serde_json::Map<String, serde_json::Value>,
}

impl Explanation {
    /// The explanation of a job, at a time in milliseconds since 1970.
    pub fn of(job: JobId, explained: &Explained, now_unix_ms: u64) -> Self {
        let Explained { spec, status, reasons, not_asked } = explained;
        let id = short_id(&spec.name, job);
        let item = |reason: &Reason| ReasonItem {
            text: words::reason(reason, now_unix_ms),
            evidence: match serde_json::to_value(reason) {
                Ok(serde_json::Value::Object(evidence)) => evidence,
                _ => serde_json::Map::new(),
            },
        };
        Self {
            schema: EXPLANATION.into(),
            next: next(reasons.first().map(|reason| &reason.cause), &id, status.state()),
            job: job.to_hex(),
            state: status.state(),
            done: status.counts().done.into(),
            tasks: status.tasks(),
            reasons: reasons.iter().map(item).collect(),
            not_asked: not_asked.clone(),
            id,
        }
    }
}

/// What to type next.
fn next(first: Option<&Cause>, id: &str, state: JobState) -> String {
    match first {
        Some(Cause::Failed { .. } | Cause::TooManyFailed { .. } | Cause::NeedFailed { .. }) if state.is_over() => {
            format!("swarm retry {id} --failed   # what it wrote: swarm logs {id} --failed")
        }
        Some(Cause::Cancelled) => format!("swarm retry {id}"),
        Some(Cause::Behind { name, job, .. }) => {
            format!("swarm show {name}-{}", job.chars().take(6).collect::<String>())
        }
        Some(Cause::Running { .. }) => format!("swarm logs {id} --follow"),
        Some(Cause::Done) => format!("swarm logs {id}"),
        Some(
            Cause::NoNode { .. }
            | Cause::NodesGone { .. }
            | Cause::Unreachable { .. }
            | Cause::NoArbiter { .. }
            | Cause::Preparing { .. }
            | Cause::LeasedToLost { .. }
            | Cause::BlobsMissing
            | Cause::Busy { .. }
            | Cause::NotAcknowledged { .. },
        ) => "swarm nodes".into(),
        _ if state.is_over() => format!("swarm show {id} --tasks"),
        _ => format!("swarm wait {id}"),
    }
}

/// The answer to a submitted job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Submitted {
    /// `NAME-xxxxxx`.
    pub id: String,
    /// 64 hexadecimal digits.
    pub job: String,
}

#[cfg(test)]
mod tests {
    use swarm_protocol::Outcome;
    use swarm_protocol::lattice::{Results, TaskState};

    use super::*;

    #[test]
    fn bytes_that_are_not_text_survive_a_document() {
        for content in [Content::Inline(b"plain\n".to_vec()), Content::Inline(vec![0xff, 0, 1]), Content::EMPTY] {
            let json = serde_json::to_string(&Bytes::of(&content)).unwrap();
            assert_eq!(serde_json::from_str::<Bytes>(&json).unwrap().content().unwrap(), content, "{json}");
        }
    }

    #[test]
    fn a_done_task_counts_its_failed_attempts_and_the_good_one() {
        let outcome = Outcome { stdout: Content::Inline(b"hi".to_vec()), ..Outcome::bare(Ending::Exited(0)) };
        let state = TaskState::ended(End::Done(Results::one(outcome, [])));
        let line = TaskRun::of(2, &Run { range: Range { first: 3, count: 4 }, state });
        assert_eq!((line.ended, line.attempts, line.indexes()), (Some(Ended::Done), 1, 3..7));
        assert_eq!(line.stdout, Bytes::Text("hi".into()));
    }
}
