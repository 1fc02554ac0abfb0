//! Group commit: one thread owns the store and makes all batches that wait durable with one sync; with none, when none of
//! them has to be.
//!
//! Always true: batches are committed in the order in which they were handed in; each is answered once, after it is
//! durable, or written if it need not be; after the first error none is written any more. A full disk is none: the batch is
//! tried again until there is room, and those behind it wait. Elsewhere: what a failed commit means for the process is up to
//! who answers for it ([`Store`]).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use swarm_protocol::Write;

use crate::{Store, StoreError};

/// Batches that may wait. A sync takes under a millisecond to some ten: this many callers ahead of it are a jam.
pub const WRITER_QUEUE: usize = 256;
/// One group stops growing here, so that the log record and its copy in memory stay small.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// How often a full disk is tried again.
const ROOM_EVERY: Duration = Duration::from_millis(200);

/// Told when a full disk makes the writer wait, and why, and with `None` when it goes on. As [`Done`], it must not block.
pub type OnRoom = Box<dyn Fn(Option<&StoreError>) + Send>;

/// Told the result of one batch. It runs on the writer's thread: it must not block and must not panic.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// A handle to the thread that owns the store. Dropping it waits until all that was handed in is answered and the
/// store is closed.
#[derive(Debug)]
pub struct Writer {
    queue: Option<SyncSender<Waiting>>,
    /// Set when nothing is worth waiting for any more.
    closing: Arc<AtomicBool>,
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
    pub fn start(store: impl Store + 'static, on_room: OnRoom) -> io::Result<Self> {
        let (queue, waiting) = mpsc::sync_channel(WRITER_QUEUE);
        let closing = Arc::new(AtomicBool::new(false));
        let mut run = Run { store, on_room, closing: Arc::clone(&closing), stopped: false };
        let thread = thread::Builder::new().name("store".into()).spawn(move || run.serve(&waiting))?;
        Ok(Self { queue: Some(queue), closing, thread: Some(thread) })
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

    /// Waits until all that was handed in is answered and the store is closed; on a full disk it is not waited for room. Blocks: not for a tokio task.
    pub fn close(self) {}
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        self.queue = None; // the thread ends when it has answered what waits
        let Some(thread) = self.thread.take() else { return };
        if thread.join().is_err() {
            tracing::error!("the writer of the store panicked");
        }
    }
}

/// What the thread has.
struct Run<S> {
    store: S,
    on_room: OnRoom,
    closing: Arc<AtomicBool>,
    /// An earlier batch failed.
    stopped: bool,
}

impl<S: Store> Run<S> {
    fn serve(&mut self, waiting: &Receiver<Waiting>) {
        while let Ok(first) = waiting.recv() {
            let group = gather(first, waiting);
            let result = if self.stopped { Err(StoreError::Stopped) } else { self.commit(&group) };
            self.stopped |= result.is_err();
            for done in group.done {
                done(result.clone());
            }
        }
    }

    /// Commits, as soon as there is room.
    fn commit(&mut self, group: &Group) -> Result<(), StoreError> {
        let mut waits = false;
        loop {
            let result = self.try_commit(group);
            match &result {
                Err(error @ StoreError::NoRoom { .. }) if !self.closing.load(Ordering::Relaxed) => {
                    if !waits {
                        (self.on_room)(Some(error));
                    }
                    waits = true;
                    thread::sleep(ROOM_EVERY);
                }
                _ => {
                    if waits {
                        (self.on_room)(None);
                    }
                    return result;
                }
            }
        }
    }

    fn try_commit(&mut self, group: &Group) -> Result<(), StoreError> {
        match group.synced {
            true => self.store.commit(&group.batch),
            false => self.store.commit_unsynced(&group.batch),
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
