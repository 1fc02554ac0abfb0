//! Storage: the records on this node's disk, and what stops the process when that disk fails.
//!
//! Always true: a commit that returned is durable. After the first failure nothing is written any more and the process
//! stops rather than lies, because what is on the disk is then unknown. A full disk is no failure: commits wait for room.
//!
//! Elsewhere: group commit and its thread are `swarm_store::Writer`; what is written is decided by the core.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use swarm_protocol::{Table, Write};
use swarm_store::{Blobs, Done, OnRoom, OpenError, Rocks, Store, StoreError, Writer, WriterError};
use tokio::sync::{oneshot, watch};

use crate::api::causes;
use crate::handle::blocking;
use crate::supervisor::Failure;

/// A record: table, key, value.
pub(crate) type Record = (Table, Vec<u8>, Vec<u8>);

/// Why the records cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StorageError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("start the thread that writes records")]
    Thread(#[source] std::io::Error),
}

/// Why records were not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the store is closed")]
    Closed,
}

/// Why a batch was not made durable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Writer(#[from] WriterError),
    #[error("the writer ended without an answer")]
    Unanswered,
}

/// The records of this node, and whether writing them failed. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Storage {
    // Locked to hand in a batch, which never waits. `None` once closed.
    open: Arc<Mutex<Option<Opened>>>,
    failed: watch::Sender<Option<StoreError>>,
    waits: watch::Sender<Option<String>>,
}

struct Opened {
    writer: Writer,
    // Locked by the writer's thread for a commit, and by a reader only while the core is (re)built.
    store: Arc<Mutex<dyn Store>>,
}

impl StorageError {
    /// Whether what was stored is no longer what is there.
    pub(crate) const fn is_damage(&self) -> bool {
        matches!(self, Self::Open(error) if error.is_damage())
    }
}

impl ReadError {
    /// Whether what was stored is no longer what is there.
    pub(crate) const fn is_damage(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_damage())
    }
}

impl Storage {
    /// Opens the records in `dir`. Blocks.
    pub(crate) fn open(dir: &Path) -> Result<Self, StorageError> {
        Self::start(Rocks::open(dir)?)
    }

    /// Records that are gone with the process.
    #[cfg(test)]
    pub(crate) fn in_memory() -> Self {
        Self::start(swarm_store::Memory::new()).expect("a thread can be started")
    }

    fn start(store: impl Store + 'static) -> Result<Self, StorageError> {
        let store: Arc<Mutex<dyn Store>> = Arc::new(Mutex::new(store));
        let waits = watch::Sender::new(None);
        let writer = Writer::start(Shared(Arc::clone(&store)), on_room(waits.clone())).map_err(StorageError::Thread)?;
        let open = Arc::new(Mutex::new(Some(Opened { writer, store })));
        Ok(Self { open, failed: watch::Sender::new(None), waits })
    }

    /// Why nothing can be made durable now, for want of room; `None` as long as there is some.
    pub(crate) fn waits(&self) -> watch::Receiver<Option<String>> {
        self.waits.subscribe()
    }

    /// Makes a batch durable.
    pub(crate) async fn commit(&self, batch: Vec<Write>) -> Result<(), CommitError> {
        let (done, durable) = oneshot::channel();
        self.write(batch, Writer::write, move |result| {
            // Whoever waits may have been stopped.
            let _unheard = done.send(result);
        })?;
        Ok(durable.await.map_err(|_| CommitError::Unanswered)??)
    }

    /// Writes a batch, to be durable with the next commit: for what is only a help after a restart.
    pub(crate) fn commit_lazily(&self, batch: Vec<Write>) -> Result<(), WriterError> {
        self.write(batch, Writer::write_unsynced, |_| {})
    }

    /// Every record of the tables that are the core's.
    pub(crate) async fn records(&self) -> Result<Vec<Record>, ReadError> {
        self.scan(
            Table::ALL.into_iter().filter(|table| !matches!(table, Table::Kad | Table::Pins | Table::Events)).collect(),
        )
        .await
    }

    /// Every record of one table.
    pub(crate) async fn table(&self, table: Table) -> Result<Vec<Record>, ReadError> {
        self.scan(vec![table]).await
    }

    /// Answers what was handed in and closes the store, whoever else still has this. Blocks.
    pub(crate) fn close(&self) {
        let open = lock(&self.open).take();
        drop(open);
    }

    /// Returns when a commit has failed: the process must stop.
    pub(crate) async fn watch(self) -> Result<(), Failure> {
        let mut failed = self.failed.subscribe();
        let failure = failed.wait_for(Option::is_some).await?.clone();
        Err(failure.expect("waited for").into())
    }

    fn write(
        &self,
        batch: Vec<Write>,
        how: impl FnOnce(&Writer, Vec<Write>, Done) -> Result<(), WriterError>,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) -> Result<(), WriterError> {
        let failed = self.failed.clone();
        let done = Box::new(move |result: Result<(), StoreError>| {
            if let Err(error) = &result {
                failed.send_if_modified(|first| first.is_none() && first.replace(error.clone()).is_none());
            }
            done(result);
        });
        how(&lock(&self.open).as_ref().ok_or(WriterError::Gone)?.writer, batch, done)
    }

    async fn scan(&self, tables: Vec<Table>) -> Result<Vec<Record>, ReadError> {
        let store = lock(&self.open).as_ref().map(|open| Arc::clone(&open.store)).ok_or(ReadError::Closed)?;
        Ok(blocking(move || scan(&*lock(&store), &tables)).await?)
    }
}

/// Tells of a full disk, and that it is none any more.
fn on_room(waits: watch::Sender<Option<String>>) -> OnRoom {
    Box::new(move |why| {
        match why {
            Some(error) => tracing::error!(error = causes(error), "records wait for room on the disk"),
            None => tracing::info!("the disk has room for records again"),
        }
        waits.send_replace(why.map(ToString::to_string));
    })
}

/// Hears of the first failure of the disk under the blobs.
pub(crate) fn hear_of_failure(blobs: &Blobs) -> watch::Receiver<Option<String>> {
    let (failed, heard) = watch::channel(None);
    blobs.on_failure(move |sentence| {
        failed.send_replace(Some(sentence));
    });
    heard
}

/// Returns when the disk under the blobs has failed: the process must stop.
pub(crate) async fn watch_blobs(mut failed: watch::Receiver<Option<String>>) -> Result<(), Failure> {
    let sentence = failed.wait_for(Option::is_some).await?.clone();
    Err(sentence.expect("waited for").into())
}

/// The store as its writer and its readers share it.
struct Shared(Arc<Mutex<dyn Store>>);

impl Store for Shared {
    fn commit(&mut self, batch: &[Write]) -> Result<(), StoreError> {
        lock(&self.0).commit(batch)
    }

    fn commit_unsynced(&mut self, batch: &[Write]) -> Result<(), StoreError> {
        lock(&self.0).commit_unsynced(batch)
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        lock(&self.0).get(table, key)
    }

    fn scan(&self, table: Table, prefix: &[u8], show: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        lock(&self.0).scan(table, prefix, show)
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded keeps itself whole, so a panic beside it is no reason to refuse the rest.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn scan(store: &dyn Store, tables: &[Table]) -> Result<Vec<Record>, StoreError> {
    let mut records = Vec::new();
    for &table in tables {
        store.scan(table, &[], &mut |key, value| records.push((table, key.to_vec(), value.to_vec())))?;
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use swarm_store::Memory;

    use super::*;

    #[tokio::test]
    async fn what_was_committed_is_read_back_and_nothing_after_the_close() {
        let storage = Storage::start(Memory::new()).unwrap();
        storage.commit(vec![Write::put(Table::Jobs, b"a", b"1"), Write::put(Table::Kad, b"b", b"2")]).await.unwrap();
        assert_eq!(storage.records().await.unwrap(), [(Table::Jobs, b"a".to_vec(), b"1".to_vec())]);
        assert_eq!(storage.table(Table::Kad).await.unwrap(), [(Table::Kad, b"b".to_vec(), b"2".to_vec())]);
        let closing = storage.clone();
        blocking(move || closing.close()).await;
        assert!(matches!(storage.commit(Vec::new()).await, Err(CommitError::Writer(WriterError::Gone))));
        assert!(matches!(storage.records().await, Err(ReadError::Closed)));
    }

    #[tokio::test]
    async fn a_disk_that_fails_is_reported_once_and_for_all() {
        let storage = Storage::start(Memory::failing_after(1)).unwrap();
        storage.commit(vec![Write::put(Table::Jobs, b"a", b"1")]).await.unwrap();
        let watched = tokio::spawn(storage.clone().watch());
        assert!(matches!(storage.commit(Vec::new()).await, Err(CommitError::Store(StoreError::Commit { .. }))));
        assert!(matches!(storage.commit(Vec::new()).await, Err(CommitError::Store(StoreError::Stopped))));
        let failure = watched.await.unwrap().unwrap_err();
        assert_eq!(failure.to_string(), "the batch could not be made durable");
    }
}
