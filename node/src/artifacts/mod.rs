//! Artifacts: brings blobs onto this node.
//!
//! Always true:
//! - a hash is fetched once at a time, whoever asks for it how often;
//! - a fetch ends: with the blob here, verified and synced, or when nothing new came for [`FETCH_DEADLINE`];
//! - what waits is bounded by the queue, and what runs by [`FETCHES_MAX`].
//!
//! Sources are found in this order: those that the asker names, those that a source names, Kademlia's providers, linked
//! members.
//!
//! Elsewhere: one fetch is `fetch`; moving bytes is `network`; verifying and keeping them is `swarm_store::Blobs`.

mod candidates;
mod fetch;
mod plan;
mod provider;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use swarm_protocol::{Hash, NodeId, Wanted, codec};
use swarm_store::{BlobError, Blobs};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::handle::blocking;
use crate::network::Network;
use crate::supervisor::Failure;
use fetch::Means;
pub(crate) use provider::Provider;

/// How long nothing may come of a blob before whoever wants it is told that it cannot be had.
pub const FETCH_DEADLINE: Duration = Duration::from_secs(30);
/// Bytes of an encoded list of blobs: as many as a job file may name.
pub const BLOB_LIST_BYTES_MAX: usize = crate::jobfile::LIST_BYTES_MAX;
/// Fetches at once. More would only share the same links.
const FETCHES_MAX: usize = 16;
/// Blobs of one request that wait for the manager at once, so that a job of ten thousand files leaves room for others.
const WANTED_MAX: usize = 32;
/// Requests that wait for the manager.
const QUEUE_MAX: usize = 256;
/// Of a job's blobs, how many are announced in Kademlia: the list, and its first ones. Each announcement is a walk over
/// the network, and whoever has the list knows that its holder has the rest.
const PROVIDED_MAX: usize = 4;
/// Blobs that are looked for on the spot, by a question to the file system for each that its cache answers.
const LOOKED_FOR_MAX: usize = 16;
/// Lists of blobs that are remembered: those of jobs that are submitted again and again.
const LISTS_MAX: usize = 256;

/// Why a blob is not here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfetched {
    /// It is on no node that answers.
    #[error("no node that answers has {hash}")]
    Nowhere {
        /// The blob.
        hash: Hash,
    },
    /// This node's own disk.
    #[error("{hash} cannot be stored here: {reason}")]
    Disk {
        /// The blob.
        hash: Hash,
        /// Why, for people.
        reason: String,
    },
    /// The node is stopping, or the part of it that fetches failed.
    #[error("{hash} was not fetched: the node is stopping")]
    Stopping {
        /// The blob.
        hash: Hash,
    },
}

/// Why the blobs of a job are not here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobBlobsError {
    #[error(transparent)]
    Unfetched(#[from] Unfetched),
    #[error("read the job's list of blobs")]
    Read(#[from] BlobError),
    #[error("decode the job's list of blobs")]
    Decode(#[from] codec::DecodeError),
}

/// A way to bring blobs here. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Artifacts {
    blobs: Blobs,
    wants: mpsc::Sender<Want>,
    came: mpsc::Sender<Hash>,
    /// Short lists of jobs' blobs, and what they name; the latest first.
    lists: Arc<SyncMutex<VecDeque<List>>>,
}

/// A list of blobs by its own hash, and what it names.
type List = (Hash, Vec<Hash>);

/// One request for one blob.
#[derive(Debug)]
struct Want {
    hash: Hash,
    from: Vec<NodeId>,
    reply: oneshot::Sender<Result<(), Unfetched>>,
}

impl Artifacts {
    /// The way in, and what is to be run by the supervisor: the manager, and who tells others of larger blobs.
    pub(crate) fn new(
        blobs: Blobs,
        network: Network,
        linked: watch::Receiver<Vec<NodeId>>,
    ) -> (Self, Manager, Provider) {
        let (wants, queue) = mpsc::channel(QUEUE_MAX);
        let (came, provider) = Provider::new(blobs.clone(), network.clone());
        let means = Means { blobs: blobs.clone(), network, linked };
        let artifacts = Self { blobs, wants, came, lists: Arc::default() };
        (artifacts, Manager { queue: Arc::new(Mutex::new(queue)), means }, provider)
    }

    /// Whether all this is here, as far as that can be told without waiting for the disk.
    pub(crate) fn holds(&self, wanted: &Wanted) -> bool {
        match wanted {
            Wanted::Blobs(hashes) => self.hold_all(hashes),
            Wanted::JobBlobs(list) => {
                self.blobs.claim(*list) && self.named_by(list).is_some_and(|it| self.hold_all(&it))
            }
        }
    }

    fn hold_all(&self, hashes: &[Hash]) -> bool {
        hashes.len() <= LOOKED_FOR_MAX && hashes.iter().all(|hash| self.blobs.claim(*hash))
    }

    fn named_by(&self, list: &Hash) -> Option<Vec<Hash>> {
        let lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.iter().find(|(known, _)| known == list).map(|(_, named)| named.clone())
    }

    /// Remembers what a list names, which is what its hash says for ever.
    pub(crate) fn remember(&self, list: Hash, named: &[Hash]) {
        if named.len() <= LOOKED_FOR_MAX && self.named_by(&list).is_none() {
            let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
            lists.push_front((list, named.to_vec()));
            lists.truncate(LISTS_MAX);
        }
    }

    /// Returns once all these blobs are here: at once when they are already.
    pub async fn ensure(&self, hashes: Vec<Hash>, from: &[NodeId]) -> Result<(), Unfetched> {
        let missing = self.missing(hashes).await;
        let fetches = stream::iter(missing).map(|hash| self.fetch(hash, from.to_vec()));
        fetches.buffer_unordered(WANTED_MAX).try_collect().await
    }

    /// Returns once a job's list of blobs and all that it names are here, with the first of them.
    pub(crate) async fn ensure_job(&self, list: Hash, from: &[NodeId]) -> Result<Vec<Hash>, JobBlobsError> {
        self.ensure(vec![list], from).await?;
        let blobs = self.blobs.clone();
        let bytes = blocking(move || blobs.read(list, BLOB_LIST_BYTES_MAX as u64)).await?;
        let named: Vec<Hash> = codec::decode(&bytes, BLOB_LIST_BYTES_MAX)?;
        self.remember(list, &named);
        let provided = [list].into_iter().chain(named.iter().copied()).take(PROVIDED_MAX).collect();
        self.ensure(named, from).await?;
        Ok(provided)
    }

    async fn missing(&self, mut hashes: Vec<Hash>) -> Vec<Hash> {
        let blobs = self.blobs.clone();
        blocking(move || {
            hashes.sort_unstable();
            hashes.dedup();
            hashes.retain(|hash| !blobs.claim(*hash));
            hashes
        })
        .await
    }

    async fn fetch(&self, hash: Hash, from: Vec<NodeId>) -> Result<(), Unfetched> {
        let (reply, fetched) = oneshot::channel();
        let stopping = Unfetched::Stopping { hash };
        if self.wants.send(Want { hash, from, reply }).await.is_err() {
            return Err(stopping);
        }
        fetched.await.unwrap_or(Err(stopping))?;
        self.came(hash);
        Ok(())
    }

    /// A blob has just come here, of which others may be told.
    pub(crate) fn came(&self, hash: Hash) {
        // Full: it is found by the next look at the disk.
        let _dropped = self.came.try_send(hash);
    }
}

/// What the manager needs, and keeps when it is started again. Fetches in flight are then begun anew by whoever asks.
#[derive(Clone)]
pub(crate) struct Manager {
    queue: Arc<Mutex<mpsc::Receiver<Want>>>,
    means: Means,
}

/// The fetches that run or wait to run, and who waits for them.
#[derive(Default)]
struct Fetches {
    running: JoinSet<(Hash, Result<(), Unfetched>)>,
    queued: VecDeque<(Hash, Vec<NodeId>, mpsc::UnboundedReceiver<Vec<NodeId>>)>,
    waiting: HashMap<Hash, Waiting>,
}

/// Who waits for one fetch, and the way to tell it of more sources: as many as there are askers.
struct Waiting {
    replies: Vec<oneshot::Sender<Result<(), Unfetched>>>,
    more: mpsc::UnboundedSender<Vec<NodeId>>,
}

impl Manager {
    /// Runs until nobody can ask any more.
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let mut queue = self.queue.lock().await;
        let mut fetches = Fetches::default();
        loop {
            tokio::select! {
                want = queue.recv() => match want {
                    Some(want) => fetches.add(want),
                    None => return Ok(()),
                },
                Some(ended) = fetches.running.join_next() => {
                    let (hash, result) = ended?;
                    fetches.answer(hash, &result);
                }
            }
            fetches.begin(&self.means);
        }
    }
}

impl Fetches {
    fn add(&mut self, Want { hash, from, reply }: Want) {
        match self.waiting.get_mut(&hash) {
            Some(waiting) => {
                waiting.replies.push(reply);
                // It may have ended just now; then the answer is on its way.
                let _ended = waiting.more.send(from);
            }
            None => {
                let (more, named) = mpsc::unbounded_channel();
                self.waiting.insert(hash, Waiting { replies: vec![reply], more });
                self.queued.push_back((hash, from, named));
            }
        }
    }

    fn begin(&mut self, means: &Means) {
        while self.running.len() < FETCHES_MAX
            && let Some((hash, from, more)) = self.queued.pop_front()
        {
            let means = means.clone();
            self.running.spawn(async move { (hash, fetch::fetch(means, hash, from, more).await) });
        }
    }

    fn answer(&mut self, hash: Hash, result: &Result<(), Unfetched>) {
        for reply in self.waiting.remove(&hash).map(|waiting| waiting.replies).unwrap_or_default() {
            // Whoever asked may have gone away.
            let _unheard = reply.send(result.clone());
        }
    }
}
