//! Commands: how the rest of the process tells the core something, and hears its answer.
//!
//! Always true: a command is answered, refused or given up after [`ANSWER_WAIT`]; when the core fails and is rebuilt, all
//! that were waiting hear of it at once. While the disk has no room for records nothing new is asked of the core, which waits
//! for it. The queue to the core is bounded, and whoever fills it waits.
//!
//! Elsewhere: taking events out of the queue is `driver`; commands that need more than the core are `handle`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use swarm_protocol::codec::DecodeError;
use swarm_protocol::modules::{ModuleError, SignedModule};
use swarm_protocol::{Answer, Event, Hash, InUse, JobId, Notice, Query, Refusal, SignedJob, VerifyError};
use swarm_store::BlobError;
use tokio::sync::{mpsc, oneshot, watch};

use crate::artifacts::Unfetched;
use crate::modules::ReferenceError;

/// Events waiting for the core. Enough that a burst of reports does not stall a link, few enough that what waits is fresh.
const EVENTS_QUEUED_MAX: usize = 1024;
/// The core bounds every command itself; this is the safety net above its longest, a submit that moves large blobs.
const ANSWER_WAIT: Duration = Duration::from_secs(120);
/// How long the disk may have no room for records before whoever waits for an answer hears of it.
const ROOM_WAIT: Duration = Duration::from_secs(2);

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The core refused it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The job itself is not acceptable.
    #[error(transparent)]
    Invalid(#[from] VerifyError),
    /// What is said of a module is not acceptable.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// A reference names no module.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The job's list of blobs cannot be read.
    #[error("the job's list of blobs cannot be read")]
    BlobList(#[source] DecodeError),
    /// A blob cannot be read or written.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A blob is on no node that answers.
    #[error(transparent)]
    Fetch(#[from] Unfetched),
    /// Results that nobody could complete before the deadline.
    #[error("no node that answers has all results of the job; ask again")]
    Incomplete,
    /// The core failed meanwhile. Whether the command was done is unknown: ask before repeating it.
    #[error("this node's core failed and was started again; ask again")]
    Restarted,
    /// The disk is full. Nothing was done.
    #[error("this node can remember nothing now: {0}")]
    NoRoom(String),
    /// The disk became full. Whether the command was done, or will be when there is room, is unknown.
    #[error("this node's disk became full meanwhile; what was asked for may still be done when there is room")]
    NoRoomMeanwhile,
    /// The safety net.
    #[error("this node gave no answer within {} s", ANSWER_WAIT.as_secs())]
    Unanswered,
    /// The other node does not do what it was asked for.
    #[error(
        "the node does not begin to drain: no message reaches it, or it is run by a program that decides otherwise"
    )]
    NotReached,
    /// The process is ending.
    #[error("this node is stopping")]
    Stopping,
}

/// The way in to the core. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Commands {
    events: mpsc::Sender<Event>,
    waiting: Arc<Waiting>,
    /// Why records wait for room on the disk.
    records_wait: watch::Receiver<Option<String>>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: AtomicU64,
    // Held for one insertion or removal, never across an await.
    answers: Mutex<HashMap<u64, oneshot::Sender<Notice>>>,
}

impl Commands {
    /// The way in, and the queue's other end.
    pub(crate) fn new(records_wait: watch::Receiver<Option<String>>) -> (Self, mpsc::Receiver<Event>) {
        let (events, queue) = mpsc::channel(EVENTS_QUEUED_MAX);
        (Self { events, waiting: Arc::default(), records_wait }, queue)
    }

    /// Why records wait for room on the disk, when they do.
    pub(crate) fn no_room(&self) -> Option<String> {
        self.records_wait.borrow().clone()
    }

    /// Tells the core that something happened; waits while the queue is full.
    pub async fn tell(&self, event: Event) -> Result<(), CommandError> {
        self.events.send(event).await.map_err(|_| CommandError::Stopping)
    }

    /// Asks about jobs and shards, kept here or elsewhere. [`Answer::Unknown`] when nobody who should know does.
    pub async fn ask(&self, query: Query) -> Result<Answer, CommandError> {
        match self.command(|token| Event::Ask { token, query }).await? {
            Notice::Answered { answer, .. } => Ok(answer),
            _ => Err(CommandError::Unanswered),
        }
    }

    /// Hands over a job whose blobs are on this node; returns once it is acknowledged.
    pub(crate) async fn submit(&self, job: SignedJob) -> Result<JobId, CommandError> {
        match self.command(|token| Event::Submit { token, job }).await? {
            Notice::Submitted { result, .. } => Ok(result?),
            _ => Err(CommandError::Unanswered),
        }
    }

    /// Cancels a job; returns once the stop is on enough nodes.
    pub(crate) async fn cancel(&self, job: JobId) -> Result<(), CommandError> {
        match self.command(|token| Event::Cancel { token, job }).await? {
            Notice::Cancelled { result, .. } => Ok(result?),
            _ => Err(CommandError::Unanswered),
        }
    }

    /// Publishes or yanks a module; returns once that is on enough nodes.
    pub(crate) async fn publish_module(&self, fact: SignedModule) -> Result<Hash, CommandError> {
        match self.command(|token| Event::PublishModule { token, fact }).await? {
            Notice::ModulePublished { result, .. } => Ok(result?),
            _ => Err(CommandError::Unanswered),
        }
    }

    /// What is in use on this node, as far as the core knows.
    pub(crate) async fn mark_blobs(&self) -> Result<InUse, CommandError> {
        match self.command(|token| Event::MarkBlobs { token }).await? {
            Notice::BlobsMarked { in_use, .. } => Ok(in_use),
            _ => Err(CommandError::Unanswered),
        }
    }

    /// Passes the core's answer on to whoever waits for it.
    pub(crate) fn answer(&self, token: u64, notice: Notice) {
        if let Some(waiting) = self.answers().remove(&token) {
            // Whoever asked may have gone away.
            let _unheard = waiting.send(notice);
        }
    }

    /// Gives up all that wait: the core that knew of them is no more.
    pub(crate) fn forget(&self) {
        self.answers().clear();
    }

    async fn command(&self, event: impl FnOnce(u64) -> Event) -> Result<Notice, CommandError> {
        if let Some(why) = self.no_room() {
            return Err(CommandError::NoRoom(why));
        }
        let token = self.waiting.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.answers().insert(token, answer);
        if let Err(stopping) = self.tell(event(token)).await {
            self.answers().remove(&token);
            return Err(stopping);
        }
        let given_up = tokio::select! {
            notice = answered => return notice.map_err(|_| CommandError::Restarted),
            () = tokio::time::sleep(ANSWER_WAIT) => CommandError::Unanswered,
            () = self.out_of_room() => CommandError::NoRoomMeanwhile,
        };
        self.answers().remove(&token);
        Err(given_up)
    }

    /// Returns when the disk has had no room for records for a while.
    async fn out_of_room(&self) {
        let mut waits = self.records_wait.clone();
        loop {
            if waits.wait_for(Option::is_some).await.is_err() {
                // The node is stopping, which is told otherwise.
                std::future::pending::<()>().await;
            }
            if tokio::time::timeout(ROOM_WAIT, waits.wait_for(Option::is_none)).await.is_err() {
                return;
            }
        }
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Notice>>> {
        // No code that can panic runs under the lock, so a poisoned map is still a whole one.
        self.waiting.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
