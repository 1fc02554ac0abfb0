//! What a reason consists of, as documents say it.
//!
//! Always true: what is told apart by programs is a field, and a cause names the nodes that it is about.

use serde::{Serialize, Serializer};

use crate::situation::Order;
use crate::{Content, Ending, MemberState, Unmet};

/// Characters of a line that a task wrote: some lines of a terminal.
const LINE_CHARS_MAX: usize = 300;

/// Why some tasks are not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The stage; absent when it is about the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// How many tasks of those that were looked at; 0 when it is about the job.
    pub tasks: u64,
    /// The first of them, as `tile[3]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
    /// Why.
    #[serde(flatten)]
    pub cause: Cause,
    /// They fail in so many milliseconds, unless a node takes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_left_ms: Option<u64>,
}

/// A node, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Named {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name, or the first digits of its id.
    pub name: String,
}

/// A cause. The order of the variants is the order in which reasons are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Cause {
    /// It failed for good.
    Failed {
        /// Attempts that were made.
        attempts: usize,
        /// Where the last one ran.
        #[serde(skip_serializing_if = "Option::is_none")]
        node: Option<Named>,
        /// How it ended.
        #[serde(serialize_with = "in_words")]
        ending: Ending,
        /// The last line that it wrote to standard error; empty when it wrote none, or when it is in `stderr` alone.
        said: String,
        /// All that it wrote there.
        #[serde(skip)]
        stderr: Content,
    },
    /// More tasks failed than the job allows.
    TooManyFailed {
        /// Tasks that failed.
        failed: u32,
        /// As many may.
        failures_max: u32,
    },
    /// It needs tasks that failed.
    NeedFailed {
        /// The stage that it needs.
        needs: String,
    },
    /// A user cancelled the job.
    Cancelled,
    /// The job was stopped, and what runs is being ended.
    Stopping {
        /// Whether by a user; else because too many tasks failed.
        cancelled: bool,
    },
    /// The submit waits for copies of the job on other nodes.
    NotAcknowledged {
        /// Copies there are.
        have: u32,
        /// Copies needed.
        need: u32,
    },
    /// No node can ever run it.
    NoNode {
        /// Why not.
        #[serde(flatten)]
        unmet: Unmet,
    },
    /// The nodes that could run it are not there.
    NodesGone {
        /// Those nodes, with their state.
        nodes: Vec<NodeGone>,
    },
    /// No node that answers has the job's modules and inputs.
    BlobsMissing,
    /// The nodes that keep the tasks do not answer.
    Unreachable {
        /// Those nodes.
        custodians: Vec<Named>,
    },
    /// Nobody grants them: the nodes that keep them have not agreed who does.
    NoArbiter {
        /// Those that do not answer.
        silent: Vec<Named>,
    },
    /// Who is to grant them waits for the promise of others.
    Preparing {
        /// Who grants.
        arbiter: Named,
        /// The others.
        waits_for: Vec<Named>,
    },
    /// Who is to grant them has just taken over, and lets running tasks report.
    TakenOver {
        /// Who grants.
        arbiter: Named,
        /// For so long.
        wait_ms: u64,
    },
    /// They run on a node that others have lost sight of.
    LeasedToLost {
        /// The node.
        node: Named,
        /// Its state.
        state: MemberState,
        /// For so long.
        since_ms: u64,
    },
    /// They failed, and wait before they are tried again.
    BackingOff {
        /// For so long.
        wait_ms: u64,
        /// The attempt that failed, from 1.
        attempt: usize,
        /// Attempts that are allowed.
        of: usize,
        /// Where it ran.
        #[serde(skip_serializing_if = "Option::is_none")]
        node: Option<Named>,
        /// How it ended.
        #[serde(serialize_with = "in_words")]
        ending: Ending,
        /// The last line that it wrote to standard error; empty when it wrote none, or when it is in `stderr` alone.
        said: String,
        /// All that it wrote there.
        #[serde(skip)]
        stderr: Content,
    },
    /// As many tasks of the job run as it allows.
    ParallelReached {
        /// So many.
        parallel_max: u32,
    },
    /// The nodes are busy, and tasks of another job come first.
    Behind {
        /// 64 hexadecimal digits.
        job: String,
        /// Its name.
        name: String,
        /// Its tasks that wait, too.
        ahead: u32,
        /// Its priority.
        priority: i8,
        /// Why it comes first.
        order: Order,
    },
    /// All nodes that could run it are busy.
    Busy {
        /// So many.
        nodes: usize,
        /// The next of them is likely to be free then.
        #[serde(skip_serializing_if = "Option::is_none")]
        free_in_ms: Option<u64>,
    },
    /// They failed on the only nodes that are free, and are kept from these for a moment.
    Avoids {
        /// Those nodes.
        nodes: Vec<Named>,
        /// For so long.
        wait_ms: u64,
    },
    /// They are kept for a moment for nodes that the job prefers.
    ForPreferred,
    /// A node is free: they are about to be granted.
    Starting {
        /// Nodes that are free.
        nodes: usize,
    },
    /// They run.
    Running {
        /// Where, how many, and for how long.
        nodes: Vec<RunningOn>,
    },
    /// They ended; their outputs are being copied to a second node.
    Copying,
    /// They ended; their results are being written down on a second node.
    Recording,
    /// They wait for all tasks of another stage.
    WaitsForStage {
        /// That stage.
        needs: String,
        /// Tasks of it that are not done.
        left: u32,
        /// Its tasks.
        of: u32,
    },
    /// They wait for tasks of another stage, one by one.
    WaitsForTask {
        /// The first one.
        needs: String,
    },
    /// They succeeded.
    Done,
}

/// A node that could run tasks if it were there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeGone {
    /// The node.
    pub node: Named,
    /// Its state.
    pub state: MemberState,
}

/// Tasks that run on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunningOn {
    /// The node.
    pub node: Named,
    /// So many.
    pub tasks: u32,
    /// Since their grant, or since the last of the batch ended.
    pub since_ms: u64,
}

fn in_words<S: Serializer>(ending: &Ending, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(ending)
}

/// The last line of a text that is not blank, without what could move a cursor.
pub fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.trim().chars().filter(|letter| !letter.is_control()).take(LINE_CHARS_MAX).collect()
}

pub(super) fn said(stderr: &Content) -> String {
    match stderr {
        Content::Inline(bytes) => last_line(bytes),
        Content::Blob { .. } => String::new(),
    }
}
