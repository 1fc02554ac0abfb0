//! Collector: removes blobs that nothing on this node needs, and looks after those that stay.
//!
//! Always true: a blob stays that the core names as in use, that a list in use names, that a user pinned, or that was
//! written or claimed within the time of grace. What is in use is asked for after the moment from which the grace counts,
//! so what came to be in use in between was claimed in between. When it cannot be told what is in use, nothing goes.
//!
//! Elsewhere: what is in use is decided by the core (`swarm_protocol`); claims and removals are ordered by
//! `swarm_store::Blobs`.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex as SyncMutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use swarm_protocol::codec::{self, DecodeError};
use swarm_protocol::{Hash, InUse, Table, Write};
use swarm_store::{BlobError, Blobs, StoredBlob};
use tokio::sync::Mutex;

use crate::artifacts::{Artifacts, BLOB_LIST_BYTES_MAX, Unfetched};
use crate::commands::{CommandError, Commands};
use crate::handle::blocking;
use crate::storage::{CommitError, ReadError, Storage};
use crate::supervisor::Failure;

/// How long a blob stays that nothing names: far longer than a user takes from handing over inputs to submitting the
/// job, and a fetched blob to be recorded.
pub const GRACE: Duration = Duration::from_secs(3600);
/// The shortest grace that a user may ask for.
pub const GRACE_MIN: Duration = Duration::from_secs(1);
/// Between two collections. One is a walk over the names of all blobs.
const COLLECT_EVERY: Duration = Duration::from_secs(600);
/// Between two looks at the bytes of all blobs, and before the first, unless a user says otherwise.
pub const SCRUB_EVERY: Duration = Duration::from_secs(24 * 3600);
/// The shortest time that a user may ask for.
pub const SCRUB_EVERY_MIN: Duration = Duration::from_secs(1);
/// Bytes looked at a second: a terabyte in six days, for half a percent of a core.
const SCRUB_BYTES_A_SECOND: u64 = 2 << 20;
/// The shortest rest between two blobs.
const SCRUB_REST: Duration = Duration::from_millis(10);

/// Why nothing, or not everything, was collected.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The core.
    #[error("ask what is in use")]
    Core(#[from] CommandError),
    /// A list of a job's blobs that this node is to keep.
    #[error("a list of blobs in use is not here")]
    List(#[from] Unfetched),
    /// A blob that was to be pinned.
    #[error(transparent)]
    Unbrought(Unfetched),
    /// A list that cannot be decoded.
    #[error("the list {hash} of blobs in use does not decode")]
    Decode {
        /// The list.
        hash: Hash,
        /// Why.
        source: DecodeError,
    },
    /// The blobs' disk.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The pins.
    #[error("read the pins")]
    Pins(#[source] Failure),
    /// A pin was not remembered.
    #[error("remember the pin")]
    Pin(#[source] Failure),
}

impl From<ReadError> for CollectError {
    fn from(error: ReadError) -> Self {
        Self::Pins(error.into())
    }
}

impl From<CommitError> for CollectError {
    fn from(error: CommitError) -> Self {
        Self::Pin(error.into())
    }
}

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs removed.
    pub removed: u64,
    /// Bytes that these had.
    pub removed_bytes: u64,
    /// Blobs that stay.
    pub kept: u64,
}

/// A blob on this node, and why it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptBlob {
    /// The blob.
    pub blob: StoredBlob,
    /// A user wants it to stay.
    pub pinned: bool,
    /// Something known here names it.
    pub used: bool,
}

/// What looking at the bytes of all blobs has brought to light since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Looks at all blobs.
    pub rounds: u64,
    /// Blobs found damaged.
    pub damaged: u64,
    /// Of these, fetched anew.
    pub repaired: u64,
    /// Of these, those that are in use or pinned here and on no node that answers. They are looked for again with each round.
    pub lost: BTreeSet<Hash>,
}

/// Looks after the blobs of this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Collector {
    blobs: Blobs,
    storage: Storage,
    commands: Commands,
    artifacts: Artifacts,
    grace: Duration,
    scrub_every: Duration,
    scrubbed: Arc<SyncMutex<Scrubbed>>,
    // Held while blobs are collected: two at once would only do the same work.
    one: Arc<Mutex<()>>,
}

/// When blobs are looked after.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// How long a blob stays that nothing names.
    pub(crate) grace: Duration,
    /// Between two looks at the bytes of all blobs.
    pub(crate) scrub_every: Duration,
}

impl Collector {
    pub(crate) fn new(
        blobs: Blobs,
        storage: Storage,
        commands: Commands,
        artifacts: Artifacts,
        Times { grace, scrub_every }: Times,
    ) -> Self {
        let (scrubbed, one) = Default::default();
        Self { blobs, storage, commands, artifacts, grace, scrub_every, scrubbed, one }
    }

    /// What looking at all blobs has brought to light.
    pub(crate) fn scrubbed(&self) -> Scrubbed {
        self.scrub_state().clone()
    }

    fn scrub_state(&self) -> MutexGuard<'_, Scrubbed> {
        // Every step on it leaves it whole.
        self.scrubbed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Collects now and then, for ever.
    pub(crate) async fn run(self) -> Result<(), Failure> {
        loop {
            tokio::time::sleep(COLLECT_EVERY).await;
            match self.collect(None).await {
                Ok(Collected { removed: 0, .. }) => {}
                Ok(collected) => tracing::info!(?collected, "collected blobs"),
                Err(error) => tracing::warn!(error = crate::api::causes(&error), "blobs were not collected"),
            }
        }
    }

    /// Looks at every blob now and then, for ever.
    pub(crate) async fn scrub(self) -> Result<(), Failure> {
        loop {
            tokio::time::sleep(self.scrub_every).await;
            if let Err(error) = self.scrub_once(SCRUB_BYTES_A_SECOND).await {
                tracing::warn!(error = crate::api::causes(&error), "blobs were not looked after");
            }
        }
    }

    /// Removes what is not in use and older than the grace, the node's own unless another is given.
    pub(crate) async fn collect(&self, grace: Option<Duration>) -> Result<Collected, CollectError> {
        let _one = self.one.lock().await;
        let before = SystemTime::now().checked_sub(grace.unwrap_or(self.grace)).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut stays = self.used().await?;
        stays.extend(self.pins().await?);
        let blobs = self.blobs.clone();
        Ok(blocking(move || sweep(&blobs, &stays, before)).await?)
    }

    /// Every blob on this node.
    pub(crate) async fn list(&self) -> Result<Vec<KeptBlob>, CollectError> {
        let (used, pins) = (self.used().await?, self.pins().await?);
        let blobs = self.blobs.clone();
        let stored = blocking(move || blobs.stored()).await?;
        let kept = |blob: StoredBlob| {
            let (pinned, used) = (pins.contains(&blob.hash), used.contains(&blob.hash));
            KeptBlob { blob, pinned, used }
        };
        Ok(stored.into_iter().map(kept).collect())
    }

    /// Brings a blob here, to stay whatever happens to the jobs that name it.
    pub(crate) async fn pin(&self, hash: Hash) -> Result<(), CollectError> {
        let was = self.pins().await?.contains(&hash);
        // Remembered first: it must not be collected between its arrival and that.
        self.storage.commit(vec![Write::put(Table::Pins, *hash.as_bytes(), Vec::new())]).await?;
        let brought = self.artifacts.ensure(vec![hash], &[]).await;
        if brought.is_err() && !was {
            self.unpin(hash).await?;
        }
        brought.map_err(CollectError::Unbrought)
    }

    /// Lets a blob go that was pinned; whether it was.
    pub(crate) async fn unpin(&self, hash: Hash) -> Result<bool, CollectError> {
        let was = self.pins().await?.contains(&hash);
        self.storage.commit(vec![Write::remove(Table::Pins, *hash.as_bytes())]).await?;
        Ok(was)
    }

    async fn pins(&self) -> Result<BTreeSet<Hash>, CollectError> {
        let records = self.storage.table(Table::Pins).await?;
        let pin = |(_, key, _): (Table, Vec<u8>, Vec<u8>)| Some(Hash::from_bytes(key.as_slice().try_into().ok()?));
        Ok(records.into_iter().filter_map(pin).collect())
    }

    /// What is in use, lists read.
    async fn used(&self) -> Result<HashSet<Hash>, CollectError> {
        let InUse { held_lists, lists, blobs } = self.commands.mark_blobs().await?;
        let mut used: HashSet<Hash> = blobs.into_iter().collect();
        for list in held_lists.union(&lists) {
            used.insert(*list);
            if let Some(names) = self.names(*list, held_lists.contains(list)).await? {
                used.extend(names);
            }
        }
        Ok(used)
    }

    /// The blobs in a list; `None` when the list is not here and need not be.
    async fn names(&self, list: Hash, needed: bool) -> Result<Option<Vec<Hash>>, CollectError> {
        match self.read_list(list).await {
            Err(CollectError::Blobs(BlobError::Missing { .. } | BlobError::Damaged { .. })) if !needed => Ok(None),
            Err(CollectError::Blobs(BlobError::Missing { .. } | BlobError::Damaged { .. })) => {
                self.artifacts.ensure(vec![list], &[]).await?;
                self.read_list(list).await.map(Some)
            }
            read => read.map(Some),
        }
    }

    async fn read_list(&self, hash: Hash) -> Result<Vec<Hash>, CollectError> {
        let blobs = self.blobs.clone();
        let bytes = blocking(move || blobs.read(hash, BLOB_LIST_BYTES_MAX as u64)).await?;
        codec::decode(&bytes, BLOB_LIST_BYTES_MAX).map_err(|source| CollectError::Decode { hash, source })
    }

    /// Reads every blob; one that is damaged is moved aside by that, and fetched anew when it is in use.
    async fn scrub_once(&self, bytes_a_second: u64) -> Result<(), CollectError> {
        let lost = self.scrub_state().lost.clone();
        for hash in lost {
            self.repair(hash).await?;
        }
        let blobs = self.blobs.clone();
        for StoredBlob { hash, len, .. } in blocking(move || blobs.stored()).await? {
            let blobs = self.blobs.clone();
            if let Err(BlobError::Damaged { .. }) = blocking(move || blobs.verify(hash)).await {
                self.scrub_state().damaged += 1;
                self.repair(hash).await?;
            }
            let rest = Duration::from_secs_f64(len as f64 / bytes_a_second as f64);
            tokio::time::sleep(rest.max(SCRUB_REST)).await;
        }
        self.scrub_state().rounds += 1;
        Ok(())
    }

    async fn repair(&self, hash: Hash) -> Result<(), CollectError> {
        if !self.used().await?.contains(&hash) && !self.pins().await?.contains(&hash) {
            self.scrub_state().lost.remove(&hash);
            return Ok(());
        }
        let repaired = self.artifacts.ensure(vec![hash], &[]).await;
        let mut state = self.scrub_state();
        match repaired {
            Ok(()) => {
                tracing::warn!(%hash, "a blob was damaged on the disk and is fetched anew");
                state.repaired += 1;
                state.lost.remove(&hash);
            }
            Err(error) => {
                tracing::error!(%hash, %error, "a blob was damaged on the disk and is lost, unless a node returns with it");
                state.lost.insert(hash);
            }
        }
        Ok(())
    }
}

fn sweep(blobs: &Blobs, stays: &HashSet<Hash>, before: SystemTime) -> Result<Collected, BlobError> {
    let mut collected = Collected::default();
    for StoredBlob { hash, .. } in blobs.stored()? {
        let removed = if stays.contains(&hash) { None } else { blobs.remove_unclaimed(hash, before)? };
        match removed {
            Some(len) => {
                collected.removed += 1;
                collected.removed_bytes += len;
            }
            None => collected.kept += 1,
        }
    }
    Ok(collected)
}
