//! What goes into the core and what comes out of it.

use core::time::Duration;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::lattice::{End, Run};
use crate::message::{Answer, Gossip, Message, Query, SharedRecord, StopCause};
use crate::modules::SignedModule;
use crate::{Hash, InUse, JobId, JobSpec, LeaseId, NodeId, Outcome, Range, ShardId, SignedJob, Write};

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A deadline that [`Node::next_deadline`](crate::Node::next_deadline) named has come.
    Tick,
    /// A control stream to this peer is open.
    LinkUp(NodeId),
    /// The last control stream to this peer is gone.
    LinkDown(NodeId),
    /// Gossip; `from` is its author, authenticated by the gossip layer.
    Gossip {
        /// The author.
        from: NodeId,
        /// What it says.
        gossip: Gossip,
    },
    /// A message from a linked peer.
    Received {
        /// The peer, authenticated by the transport.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// A user hands over a job. Its blobs are on this node already. Answered by [`Notice::Submitted`].
    Submit {
        /// Returned in the notice.
        token: u64,
        /// The job.
        job: SignedJob,
    },
    /// A user cancels a job. Answered by [`Notice::Cancelled`].
    Cancel {
        /// Returned in the notice.
        token: u64,
        /// The job.
        job: JobId,
    },
    /// A user publishes or yanks a module, which is on this node already. Answered by [`Notice::ModulePublished`].
    PublishModule {
        /// Returned in the notice.
        token: u64,
        /// What is said of the module, signed with this node's key.
        fact: SignedModule,
    },
    /// A user asks. Answered by [`Notice::Answered`].
    Ask {
        /// Returned in the notice.
        token: u64,
        /// The question.
        query: Query,
    },
    /// A fetch that [`Effects::fetch`] began is over.
    Fetched {
        /// Which.
        fetch: u64,
        /// Whether every blob is on this node, synced.
        complete: bool,
    },
    /// Tasks of a batch that [`Effects::start`] began have ended; several events a batch are normal.
    Ended {
        /// The lease.
        lease: LeaseId,
        /// The outcomes. Neighbouring equal ones are best given as one range.
        outcomes: Vec<(Range, Outcome)>,
        /// The time that slots spent on them, all slots together; zero when they did not run.
        busy: Duration,
    },
    /// Somebody is about to collect blobs. Answered by [`Notice::BlobsMarked`].
    MarkBlobs {
        /// Returned in the notice.
        token: u64,
    },
    /// The multiaddresses at which this node can be dialled have changed.
    Addresses(Vec<String>),
    /// Finish or release work, hand over custody, then leave. Answered by [`Notice::Drained`].
    Drain,
    /// Tasks of a batch that [`Effects::start`] began are not run here after all: others may, no attempt charged.
    Released {
        /// The lease.
        lease: LeaseId,
        /// The tasks.
        tasks: Vec<Range>,
    },
    /// A user wants another node to drain. Not answered: its state tells.
    AskDrain {
        /// The node.
        node: NodeId,
        /// What runs there may take so long to finish, in milliseconds; `None` leaves that to the node.
        timeout_ms: Option<u32>,
    },
}

/// What the caller must now do, in this order: **ask, then persist, then send, then start, then notify**. Nothing is said
/// that is not yet remembered; what is asked claims nothing. Effects of several events may be merged in order
/// ([`Effects::append`]), so that one sync serves all.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// To linked peers, before anything else: requests that claim nothing of what is remembered here. The peer's disk then
    /// works while this one does (Ongaro, "Consensus", 2014 §10.2.1).
    pub ask: Vec<(NodeId, Message)>,
    /// To be durable before anything below happens.
    pub persist: Vec<Write>,
    /// To be written before anything is started, without waiting for the disk: only a help.
    pub note: Vec<Write>,
    /// To linked peers; dropped when the link is gone.
    pub send: Vec<(NodeId, Message)>,
    /// To everybody.
    pub gossip: Vec<Gossip>,
    /// Peers to connect to, at these multiaddresses.
    pub dial: Vec<(NodeId, Vec<String>)>,
    /// Peers whose link is not needed any more. The network may keep a connection that carries something else.
    pub hang_up: Vec<NodeId>,
    /// Blobs to bring onto this node.
    pub fetch: Vec<Fetch>,
    /// Tasks to run.
    pub start: Vec<Batch>,
    /// Tasks not to run any more: drop or interrupt them. No outcome is expected of them.
    pub stop: Vec<(LeaseId, Vec<Range>)>,
    /// Answers to this node's own users.
    pub notify: Vec<Notice>,
    /// What became known here, for whoever follows along. Nothing depends on it.
    pub happened: Vec<Happened>,
}

/// A change of state that this node took in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Happened {
    /// It knows a job.
    JobKnown {
        /// The job.
        job: JobId,
        /// Its name.
        name: String,
    },
    /// It knows that a job is stopped.
    JobStopped {
        /// The job.
        job: JobId,
        /// Why.
        cause: StopCause,
    },
    /// A job and all that belonged to it was removed here.
    JobExpired(JobId),
    /// It keeps new facts about tasks of a shard, of which it is a custodian.
    Tasks {
        /// The shard.
        shard: ShardId,
        /// The name of its stage.
        #[serde(default)]
        stage: String,
        /// The tasks, neighbours together.
        tasks: Vec<(Range, TaskChange)>,
    },
}

/// What became of tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskChange {
    /// They succeeded.
    Done,
    /// They failed for good.
    Failed,
    /// Their job was stopped first.
    Cancelled,
    /// An attempt failed, and there is another.
    AttemptFailed,
}

impl TaskChange {
    /// What a batch of facts says, neighbours together.
    pub(crate) fn of(segment: &[Run]) -> Vec<(Range, Self)> {
        let mut changes: Vec<(Range, Self)> = Vec::new();
        for run in segment.iter().filter(|run| run.range.count > 0) {
            let change = match run.state.end {
                Some(End::Done(_)) => Self::Done,
                Some(End::Exhausted(_)) => Self::Failed,
                Some(End::Cancelled) => Self::Cancelled,
                None => Self::AttemptFailed,
            };
            match changes.last_mut() {
                Some((range, same)) if *same == change && range.end() == run.range.first => {
                    range.count += run.range.count;
                }
                _ => changes.push((run.range, change)),
            }
        }
        changes
    }
}

impl Effects {
    /// Adds what is to be done after this.
    pub fn append(&mut self, mut later: Self) {
        self.ask.append(&mut later.ask);
        self.persist.append(&mut later.persist);
        self.note.append(&mut later.note);
        self.send.append(&mut later.send);
        self.gossip.append(&mut later.gossip);
        self.dial.append(&mut later.dial);
        self.hang_up.append(&mut later.hang_up);
        self.fetch.append(&mut later.fetch);
        self.start.append(&mut later.start);
        self.stop.append(&mut later.stop);
        self.notify.append(&mut later.notify);
        self.happened.append(&mut later.happened);
    }
}

/// Blobs to bring onto this node and sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Returned in [`Event::Fetched`].
    pub number: u64,
    /// What is wanted.
    pub wanted: Wanted,
    /// Nodes that may have it, the likeliest first.
    pub from: Vec<NodeId>,
}

/// What a fetch is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The list blob of a job ([`JobSpec::blobs`]) and every blob that it names.
    JobBlobs(Hash),
    /// These blobs.
    Blobs(Vec<Hash>),
}

/// Tasks to run under one lease. Inputs are found by the caller; a task that cannot be started ends as
/// [`Ending::Rejected`](crate::Ending::Rejected).
#[derive(Clone, Debug)]
pub struct Batch {
    /// The lease.
    pub lease: LeaseId,
    /// The job; its stage and tasks are in the lease and below.
    pub spec: Arc<JobSpec>,
    /// The tasks, with the number of attempts that each had before.
    pub tasks: Vec<(Range, u16)>,
    /// Nodes that hold the job's blobs, the likeliest first.
    pub sources: Vec<NodeId>,
}

/// An answer to this node's own user.
#[derive(Clone, Debug)]
pub enum Notice {
    /// The job is acknowledged: synced, with its blobs, on enough nodes. Or it never was, and why.
    Submitted {
        /// From the event.
        token: u64,
        /// The job, or why not.
        result: Result<JobId, Refusal>,
    },
    /// The stop is synced on enough nodes. Or not, and why.
    Cancelled {
        /// From the event.
        token: u64,
        /// Why not.
        result: Result<(), Refusal>,
    },
    /// What was said of a module is synced on enough nodes, with the module. Or not, and why.
    ModulePublished {
        /// From the event.
        token: u64,
        /// The fact, or why not.
        result: Result<Hash, Refusal>,
    },
    /// An answer; [`Answer::Unknown`] when nobody who should know does.
    Answered {
        /// From the event.
        token: u64,
        /// The answer.
        answer: Answer,
    },
    /// What is in use now.
    BlobsMarked {
        /// From the event.
        token: u64,
        /// What is in use.
        in_use: InUse,
    },
    /// Every task of this job has ended, as far as this node is told of it.
    Over(JobId),
    /// These members are new, or changed since they were last told of. The first notice of a core has its own node.
    Members(Vec<MemberView>),
    /// Everything owed is handed over.
    Drained,
    /// A member wants this node to drain.
    DrainAsked {
        /// Who.
        by: NodeId,
        /// What runs here may take so long to finish, in milliseconds; `None` leaves that to the node.
        timeout_ms: Option<u32>,
    },
}

/// Why a user's command was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The job itself is not acceptable.
    #[error("{0}")]
    Invalid(String),
    /// Not enough nodes confirmed in time. The job may still run: ask again before submitting it twice.
    #[error("only {have} of {need} nodes confirmed it in time")]
    TooFewCopies {
        /// Nodes that confirmed.
        have: usize,
        /// Nodes needed.
        need: usize,
    },
    /// No node that answers knows it.
    #[error("no node that answers knows it")]
    Unknown,
    /// This node is leaving.
    #[error("this node is draining")]
    Draining,
}

/// A node as this one sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Its last record.
    pub record: SharedRecord,
    /// Its state.
    pub state: MemberState,
    /// Microseconds of local time at which its last sign of life came.
    pub heard: crate::Time,
}

/// The state of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// It lives.
    Alive,
    /// Somebody lost it, and it has not refuted yet.
    Suspect,
    /// It is taken for dead.
    Down,
    /// It takes no new work.
    Draining,
}
