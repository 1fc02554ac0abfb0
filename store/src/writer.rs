//! Group commit: one thread owns the store and makes all batches that wait durable with one sync; with none, when none of
//! them has to be.
//!
//! Always true: batches are committed in the order in which they were handed in; each is answered once, after it is
//! durable, or written if it need not be; after the first error none is written any more. Elsewhere: what a failed commit means for the process is up
//! to who answers for it ([`Store`]).

use std::io;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread::{self, JoinHandle};

use swarm_protocol::Write;

use crate::{Store, StoreError};

/// Batches that may wait. A sync takes under a millisecond to some ten: this many callers ahead of it are a jam.
pub const WRITER_QUEUE: usize = 256;
/// One group stops growing here, so that the log record and its copy in memory stay small.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// Told the result of one batch. It runs on the writer's thread: it must not block and must not panic.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// A handle to the thread that owns the store. Dropping it waits until all that was handed in is answered and the
/// store is closed.
#[derive(Debug)]
pub struct Writer {
    queue: Option<SyncSender<Waiting>>,
    thread: Option<JoinHandle<()>>,
}

/// The batch was not taken, and its `done` will not be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriterError {
    /// [`WRITER_QUEUE`] batches wait already.
    #[error("{WRITER_QUEUE} batches wait to be written already")]
    Full,
    /// The thread is gone: a `done` panicked.
    #[error("the writer has stopped")]
    Gone,
}

struct Waiting {
    batch: Vec<Write>,
    synced: bool,
    done: Done,
}

impl Writer {
    /// Gives the store to a thread of its own.
    pub fn start(store: impl Store + 'static) -> io::Result<Self> {
        let (queue, waiting) = mpsc::sync_channel(WRITER_QUEUE);
        let thread = thread::Builder::new().name("store".into()).spawn(move || run(store, &waiting))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Hands in a batch to be made durable; never blocks, so it may be called from a tokio task.
    pub fn write(&self, batch: Vec<Write>, done: Done) -> Result<(), WriterError> {
        self.hand_in(batch, true, done)
    }

    /// Hands in a batch that a crash may lose; never blocks.
    pub fn write_unsynced(&self, batch: Vec<Write>, done: Done) -> Result<(), WriterError> {
        self.hand_in(batch, false, done)
    }

    fn hand_in(&self, batch: Vec<Write>, synced: bool, done: Done) -> Result<(), WriterError> {
        let queue = self.queue.as_ref().ok_or(WriterError::Gone)?;
        queue.try_send(Waiting { batch, synced, done }).map_err(|error| match error {
            TrySendError::Full(_) => WriterError::Full,
            TrySendError::Disconnected(_) => WriterError::Gone,
        })
    }

    /// Waits until all that was handed in is answered and the store is closed. Blocks: not for a tokio task.
    pub fn close(self) {}
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None; // the thread ends when it has answered what waits
        let Some(thread) = self.thread.take() else { return };
        if thread.join().is_err() {
            tracing::error!("the writer of the store panicked");
        }
    }
}

fn run(mut store: impl Store, waiting: &Receiver<Waiting>) {
    let mut stopped = false;
    while let Ok(first) = waiting.recv() {
        let group = gather(first, waiting);
        let result = match (stopped, group.synced) {
            (true, _) => Err(StoreError::Stopped),
            (false, true) => store.commit(&group.batch),
            (false, false) => store.commit_unsynced(&group.batch),
        };
        stopped |= result.is_err();
        for done in group.done {
            done(result.clone());
        }
    }
}

/// Batches written as one: durable when one of them has to be.
struct Group {
    batch: Vec<Write>,
    synced: bool,
    done: Vec<Done>,
}

/// Everything that waits.
fn gather(first: Waiting, waiting: &Receiver<Waiting>) -> Group {
    let mut group = Group { batch: first.batch, synced: first.synced, done: vec![first.done] };
    let mut bytes = size(&group.batch);
    while bytes < GROUP_BYTES_MAX {
        let Ok(next) = waiting.try_recv() else { break };
        bytes += size(&next.batch);
        group.batch.extend(next.batch);
        group.synced |= next.synced;
        group.done.push(next.done);
    }
    group
}

fn size(batch: &[Write]) -> usize {
    batch.iter().map(|write| write.key.len() + write.value.as_ref().map_or(0, Vec::len)).sum()
}
