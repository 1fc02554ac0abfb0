//! What nodes say to each other. Any message may be lost, repeated, reordered or late; none is the truth by itself.

use core::cmp::Reverse;
use core::ops::Deref;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::lattice::{Counts, Segment};
use crate::modules::SignedModule;
use crate::situation::{JobSituation, ShardSituation};
use crate::{Epoch, Hash, JobId, LeaseId, NodeId, Range, ShardId, SignedJob, Standing};

/// The longest encoded message: one frame of the control stream.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// The longest encoded gossip.
pub const GOSSIP_BYTES_MAX: usize = 4096;
/// Stages of which an executor tells its rate when it wants work.
pub const RATES_MAX: usize = 4;
/// Longer things are cut into messages of about this size, so that one never holds the stream for long.
pub const CHUNK_BYTES: usize = 256 * 1024;
/// About what a [`JobSummary`] takes without its name, labels and stages: two hashes, and the names of its fields.
const SUMMARY_BYTES: usize = 200;
/// About what the status of a stage takes: four numbers.
const STAGE_STATUS_BYTES: usize = 24;

/// What a node tells the swarm about itself, every heartbeat. Authenticated by the gossip layer's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The node.
    pub node: NodeId,
    /// Grows with every start of the node and with every refuted suspicion; persisted.
    pub incarnation: u64,
    /// Grows with every record of one incarnation.
    pub sequence: u64,
    /// For people.
    pub name: String,
    /// Multiaddresses at which it can be dialled.
    pub addresses: Vec<String>,
    /// Tasks it runs at once.
    pub slots: u32,
    /// Of these, free now.
    pub slots_free: u32,
    /// Memory it offers, in bytes.
    pub memory_bytes: u64,
    /// `--label K=V`.
    pub labels: BTreeMap<String, String>,
    /// Processor architecture, as `std::env::consts::ARCH`.
    pub arch: String,
    /// The program's version.
    pub version: String,
    /// Takes no new work and gives custody away.
    pub draining: bool,
}

/// A record that many hold: a copy costs nothing. On the wire it is the record itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedRecord(Arc<NodeRecord>);

impl From<NodeRecord> for SharedRecord {
    fn from(record: NodeRecord) -> Self {
        Self(Arc::new(record))
    }
}

impl Deref for SharedRecord {
    type Target = NodeRecord;

    fn deref(&self) -> &NodeRecord {
        &self.0
    }
}

impl Serialize for SharedRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SharedRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        NodeRecord::deserialize(deserializer).map(Self::from)
    }
}

/// What is said to everybody. A hint: what must not be lost is repaired by direct messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gossip {
    /// "This is me, and I live."
    Alive(SharedRecord),
    /// "I lost `node` and cannot reach it." Refuted by a higher incarnation.
    Suspect {
        /// The suspect.
        node: NodeId,
        /// The incarnation that is suspected.
        incarnation: u64,
    },
    /// "`node` did not refute: it is down." Refuted by a higher incarnation.
    Down {
        /// The node.
        node: NodeId,
        /// The incarnation that is over.
        incarnation: u64,
    },
    /// "I leave."
    Left {
        /// The sender's incarnation.
        incarnation: u64,
    },
    /// "There is a job", or there is work in it again.
    Job {
        /// The job.
        job: JobId,
        /// A node that has its record.
        holder: NodeId,
    },
    /// "This job is over: look for work elsewhere."
    JobOver(JobId),
}

/// Why a job was stopped before it was done. The greater stands: what was found out by running outranks a cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StopCause {
    /// A user cancelled it.
    Cancelled,
    /// More tasks failed than `max_failures` allows.
    Failures,
}

/// The state of one shard in a digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardDigest {
    /// The shard.
    pub shard: ShardId,
    /// Names what the sender knows of its tasks.
    pub digest: Hash,
    /// How many ended.
    pub counts: Counts,
}

/// What one node says to another on their control stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    // ---- links
    /// First on a new link, and whenever it changes: who I am. Saves waiting for gossip.
    Hello(SharedRecord),
    /// Members the sender knows, so that a newcomer can dial them. Hints, unauthenticated.
    Peers(Vec<SharedRecord>),
    /// Every 250 ms on a link over which work is shared, every second on others.
    Heartbeat {
        /// Tasks that the sender arbitrates and could grant now.
        claimable: u32,
        /// The leases that the sender runs for the receiver: renews them.
        leases: Vec<LeaseId>,
        /// The next one comes within this many milliseconds.
        every_ms: u16,
        /// Whether the sender wants to keep the link.
        wanted: bool,
        /// Those of the claimable tasks that the receiver would be granted first.
        #[serde(default)]
        first: Option<Standing>,
    },
    /// What the sender knows of the members that live, slice by slice, each named by a number. Answered by `RollDiffers`
    /// where the receiver knows something else.
    Roll(Vec<u64>),
    /// The members that live, as the sender knows, of the slices in which the two differ. Answered by `Peers` and
    /// `AreDown` where the receiver knows more.
    RollDiffers {
        /// Numbers of slices.
        slices: Vec<u8>,
        /// All members in them. Hearsay.
        records: Vec<SharedRecord>,
    },
    /// These nodes are down in these incarnations. Hearsay; each refutes with a higher one.
    AreDown(Vec<(NodeId, u64)>),
    /// "Somebody takes you for dead in this incarnation."
    Suspected(u64),

    // ---- jobs
    /// "Remember this job, hold its blobs, and tell me." To the custodians of the job.
    Publish(SignedJob),
    /// The job and its blobs are synced here.
    Published(JobId),
    /// "I know this job, stopped or not as said here; you may be concerned by it." Whoever lacks it asks for it; whoever
    /// knows of a stop that the sender does not know tells it.
    Announce {
        /// The job.
        job: JobId,
        /// The stop that the sender knows of.
        stop: Option<StopCause>,
        /// Whether the sender holds the job's blobs.
        held: bool,
    },
    /// The same of many jobs, which are not over as far as the sender heard: whoever keeps any of them tells how far it is.
    Nudge(Vec<(JobId, Option<StopCause>, bool)>),
    /// "Send me this job."
    JobPull(JobId),
    /// The job, and whether it was stopped.
    JobPush {
        /// The job.
        job: SignedJob,
        /// Set when it was stopped.
        stop: Option<StopCause>,
    },
    /// The job is stopped. A fact that only grows.
    Stop {
        /// The job.
        job: JobId,
        /// Why.
        cause: StopCause,
    },
    /// "The stop is synced here."
    Stopped(JobId),
    /// These jobs are no more. A fact that only grows.
    Expired(Vec<JobId>),
    /// From arbiters of shards to custodians of the job: how many tasks ended. Joined by maximum.
    Progress {
        /// The job.
        job: JobId,
        /// Stage, shard number and counts.
        shards: Vec<(u16, u32, Counts)>,
    },
    /// From custodians of the job to those of its shards: stages all of whose tasks are done.
    StagesDone {
        /// The job.
        job: JobId,
        /// Positions of the stages.
        stages: Vec<u16>,
    },
    /// "Which stages of this job are done?"
    StagesAsk(JobId),
    /// As `StagesDone`, of stages all of whose tasks have ended, in whatever way.
    StagesEnded {
        /// The job.
        job: JobId,
        /// Positions of the stages.
        stages: Vec<u16>,
    },
    /// From keepers of an earlier stage's tasks to arbiters of tasks that wait for them one by one: these are over, on
    /// enough disks.
    TasksOver {
        /// The job.
        job: JobId,
        /// Position of the earlier stage.
        stage: u16,
        /// Succeeded.
        done: Vec<Range>,
        /// Failed for good.
        failed: Vec<Range>,
    },
    /// "Which tasks of this shard are over?" Answered by `TasksOver`.
    TasksAsk(ShardId),
    /// From an arbiter to the first custodian of a job that runs so many tasks at once: "I hold to having no more than
    /// this leased; I could use so many." Answered by `Share`.
    ShareAsk {
        /// The job.
        job: JobId,
        /// The sender's number of the request.
        number: u64,
        /// No more is leased by the sender, nor will be before it hears an answer to this request.
        holds: u32,
        /// What it could lease.
        wants: u32,
    },
    /// "You may have so many leased."
    Share {
        /// The job.
        job: JobId,
        /// As in `ShareAsk`.
        number: u64,
        /// The tasks.
        holds: u32,
    },
    /// To a custodian of jobs of which I do not know that it knows them: what I have. Answered by `JobsKnown`, by `JobPull`,
    /// or by `JobPush` when the receiver knows more.
    JobDigests(Vec<(JobId, Option<StopCause>)>),
    /// These I know, and their blobs I hold or not.
    JobsKnown(Vec<(JobId, Option<StopCause>, bool)>),

    /// "I am idle: is there work left in this job?" To a custodian of it, which answers only when there is none.
    Seek(JobId),
    /// "No, nothing of it will be granted any more."
    Over(JobId),

    // ---- custody
    /// "I want to arbitrate these shards at these epochs."
    Prepare(Vec<(ShardId, Epoch)>),
    /// "I obey these epochs from now on", or a higher one already promised; preceded by `Merge` where the promiser knows
    /// something of the shard.
    Promise(Vec<ShardPromise>),
    /// "Remember these facts, and tell me."
    Record {
        /// The shard.
        shard: ShardId,
        /// The arbiter's epoch.
        epoch: Epoch,
        /// The arbiter's number of the record, for `Recorded`.
        number: u64,
        /// The facts.
        segment: Segment,
    },
    /// The arbiter itself has synced the facts of a `Record`, which it sends before that.
    RecordKept {
        /// The shard.
        shard: ShardId,
        /// The arbiter's epoch.
        epoch: Epoch,
        /// As in `Record`.
        number: u64,
    },
    /// The facts are synced here (and their blobs held, where fewer than two nodes had them).
    Recorded {
        /// The shard.
        shard: ShardId,
        /// The arbiter's epoch.
        epoch: Epoch,
        /// As in `Record`.
        number: u64,
    },
    /// "A higher epoch than yours was promised." Ends the receiver's arbitration.
    Deposed {
        /// The shard.
        shard: ShardId,
        /// The higher epoch.
        epoch: Epoch,
    },
    /// Facts about a shard, to be joined. Mostly not acknowledged: digests repair.
    Merge {
        /// The shard.
        shard: ShardId,
        /// The facts.
        segment: Segment,
        /// Set when the sender hands over, and has to know that they are synced.
        receipt: Option<u64>,
    },
    /// The facts are synced here.
    Merged {
        /// The shard.
        shard: ShardId,
        /// As in `Merge`.
        receipt: u64,
    },
    /// What the sender keeps, so that differences are found.
    Digests(Vec<ShardDigest>),
    /// Of the digests received: those equal here, and those whose facts are wanted.
    DigestsCompared {
        /// Equal here: the sender's copy is confirmed.
        same: Vec<(ShardId, Hash)>,
        /// "Send me what you know."
        pull: Vec<ShardId>,
    },

    // ---- claims
    /// "I could run this many tasks." Parked until there is work or it goes stale; a newer one replaces it.
    Want {
        /// Slots with nothing to do.
        slots: u32,
        /// How fast tasks ran here of late, the last first; at most [`RATES_MAX`].
        rates: Vec<StageRate>,
    },
    /// The right to run these tasks.
    Grant(Grant),
    /// What became of leased tasks.
    Report {
        /// The lease.
        lease: LeaseId,
        /// The outcomes; of failures, the attempt is the lease.
        outcomes: Vec<(Range, crate::Outcome)>,
    },
    /// The outcomes of these tasks are recorded on enough nodes: the executor may forget them.
    Ack {
        /// The lease.
        lease: LeaseId,
        /// The tasks.
        tasks: Vec<Range>,
    },
    /// The lease is not (or no longer) valid here. The executor asks the shard's arbiter of now with `Resume`.
    Fenced(LeaseId),
    /// "I will not run these": free them, no attempt charged.
    Release {
        /// The lease.
        lease: LeaseId,
        /// The tasks.
        tasks: Vec<Range>,
    },
    /// "I hold a lease of an arbiter that is gone." Answered by a `Grant` that continues it, or by `Fenced`.
    Resume {
        /// The lease.
        lease: LeaseId,
        /// Tasks running, waiting to run or waiting to be acknowledged.
        tasks: Vec<Range>,
    },
    /// Takes tasks back: those not started are dropped, those running are stopped.
    Recall {
        /// The lease.
        lease: LeaseId,
        /// The tasks.
        tasks: Vec<Range>,
    },

    /// "Finish or release what you run, hand over what you keep, and leave." From a user of the sender.
    DrainAsk {
        /// What runs may take so long to finish, in milliseconds; `None` leaves that to the receiver.
        timeout_ms: Option<u32>,
    },

    // ---- modules
    /// Facts about named modules, to be joined.
    Modules {
        /// The facts.
        facts: Vec<SignedModule>,
        /// "Hold their modules, too, and tell me."
        keep: bool,
    },
    /// The fact of this name is synced here, and its module is here.
    ModuleKept(Hash),
    /// Names the sender's facts about modules. Answered by `ModulesHave`.
    ModulesDigest(Hash),
    /// The sender's facts: their digest, and when it differs from the receiver's the names of all.
    ModulesHave {
        /// As in `ModulesDigest`.
        digest: Hash,
        /// The names.
        names: Vec<Hash>,
    },

    // ---- questions
    /// A question about what the receiver keeps.
    Query {
        /// The asker's number.
        number: u64,
        /// The question.
        query: Query,
    },
    /// The answer to a question.
    Answer {
        /// As in `Query`.
        number: u64,
        /// The answer.
        answer: Answer,
    },
}

impl Message {
    /// Whether it is about work, and not about who is there and lives.
    pub(crate) const fn is_about_work(&self) -> bool {
        use Message::{AreDown, Heartbeat, Hello, Peers, Roll, RollDiffers, Suspected};
        !matches!(
            self,
            Hello(_) | Peers(_) | Heartbeat { .. } | Roll(_) | RollDiffers { .. } | AreDown(_) | Suspected(_)
        )
    }
}

/// How fast a node ran tasks of one stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageRate {
    /// The job.
    pub job: JobId,
    /// The stage's number in it.
    pub stage: u16,
    /// Tasks a second over all slots, as far as those that ran vouch for it.
    pub rate: u32,
}

/// The right to run tasks of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The lease.
    pub lease: LeaseId,
    /// When this continues a lease of an earlier arbiter: that one.
    pub continues: Option<LeaseId>,
    /// The tasks, with the number of attempts that each had before.
    pub tasks: Vec<(Range, u16)>,
    /// How long it holds without renewal, in milliseconds.
    pub ttl_ms: u32,
}

/// One shard in a promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardPromise {
    /// The shard.
    pub shard: ShardId,
    /// The highest epoch promised, this promise included.
    pub promised: Epoch,
    /// The highest epoch promised before: whether anybody arbitrated already.
    pub before: Epoch,
}

/// A question about what a node keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// Jobs that the receiver knows, in the order of [`JobSummary::order`], cut at about [`CHUNK_BYTES`].
    Jobs {
        /// When the last one was submitted that is known already, and its name; nothing: from the newest on.
        after: Option<(u64, JobId)>,
    },
    /// One job: its spec and progress.
    Job(JobId),
    /// What is known of a shard's tasks, from index `first` on, cut at about [`CHUNK_BYTES`].
    Shard {
        /// The shard.
        shard: ShardId,
        /// The first task of interest.
        first: u32,
    },
    /// Who runs which tasks of a shard now.
    Leases(ShardId),
    /// Facts about the modules of a name; with an empty one, all that the asked node itself knows.
    Modules(String),
    /// What the receiver knows of a job as a whole, for whoever wonders why it waits.
    WhyJob(JobId),
    /// Why these tasks of a shard wait, as the receiver sees it.
    WhyShard {
        /// The shard.
        shard: ShardId,
        /// The tasks, by their index in the stage.
        tasks: Range,
    },
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Query::Jobs`].
    Jobs {
        /// In order; none is missing up to the last.
        jobs: Vec<JobSummary>,
        /// Whether there are others after the last.
        more: bool,
    },
    /// To [`Query::Job`].
    Job {
        /// The job as submitted.
        job: SignedJob,
        /// How far it is.
        status: JobStatus,
    },
    /// To [`Query::Shard`].
    Shard {
        /// The facts.
        segment: Segment,
        /// Where to go on asking; `None` when this was all.
        next: Option<u32>,
        /// Tasks leased now, with their executors, as far as the answerer arbitrates.
        leased: Vec<(Range, NodeId)>,
    },
    /// To [`Query::Leases`]: tasks and their executors, as far as the answerer arbitrates.
    Leases(Vec<(Range, NodeId)>),
    /// To [`Query::Modules`].
    Modules(Vec<SignedModule>),
    /// To [`Query::WhyJob`]: from each node that was asked and knows the job.
    WhyJob(Vec<JobSituation>),
    /// To [`Query::WhyShard`]: from each custodian that was asked.
    WhyShard(Vec<ShardSituation>),
    /// Nothing of the kind is kept here.
    Unknown,
}

/// One line of a list of jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSummary {
    /// The job.
    pub job: JobId,
    /// Its name.
    pub name: String,
    /// Submission time, milliseconds since 1970 by the submitter's clock.
    pub submitted_unix_ms: u64,
    /// Who submitted it.
    pub submitter: NodeId,
    /// For people and filters.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Greater ones are granted first.
    #[serde(default)]
    pub priority: i8,
    /// How far it is.
    pub status: JobStatus,
}

impl JobSummary {
    /// The newest first.
    pub const fn order(&self) -> (Reverse<u64>, JobId) {
        (Reverse(self.submitted_unix_ms), self.job)
    }

    /// About how many bytes it takes in a message.
    pub(crate) fn weight(&self) -> usize {
        let labels: usize = self.labels.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
        SUMMARY_BYTES + self.name.len() + labels + self.status.stages.len() * STAGE_STATUS_BYTES
    }
}

/// How far a job is, as its custodian knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Per stage: tasks, and how many ended in each way.
    pub stages: Vec<(u32, Counts)>,
    /// Set when it was stopped.
    pub stop: Option<StopCause>,
}

/// A job's state in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
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

impl JobStatus {
    /// All tasks.
    pub fn tasks(&self) -> u64 {
        self.stages.iter().map(|(tasks, _)| u64::from(*tasks)).sum()
    }

    /// Ended tasks of all stages.
    pub fn counts(&self) -> Counts {
        let mut all = Counts::default();
        for (_, counts) in &self.stages {
            all.add(*counts);
        }
        all
    }

    /// Takes in what another node knows of the same job: of each stage the count that is further, and the stronger stop.
    pub fn join(&mut self, other: &Self) {
        let further = |counts: &Counts| (counts.ended(), counts.done, counts.failed);
        for ((_, mine), (_, theirs)) in self.stages.iter_mut().zip(&other.stages) {
            if further(theirs) > further(mine) {
                *mine = *theirs;
            }
        }
        self.stop = self.stop.max(other.stop);
    }

    /// The state in one word. Only the terminal three are final.
    pub fn state(&self) -> JobState {
        let ended = self.stages.iter().all(|(tasks, counts)| counts.ended() >= *tasks);
        let done = self.stages.iter().all(|(tasks, counts)| counts.done >= *tasks);
        match (ended, done, self.stop) {
            (true, true, _) => JobState::Done,
            (true, false, Some(StopCause::Cancelled)) if self.counts().cancelled > 0 => JobState::Cancelled,
            // Somebody knows why; before I do, it could be told wrongly.
            (true, false, None) if self.counts().cancelled > 0 => JobState::Stopping,
            (true, false, _) => JobState::Failed,
            (false, _, Some(_)) => JobState::Stopping,
            (false, _, None) => JobState::Running,
        }
    }
}

impl JobState {
    /// Whether nothing more will happen.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}
