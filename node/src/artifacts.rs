//! Artifacts: brings blobs onto this node.
//!
//! Always true:
//! - a hash is fetched once at a time, whoever asks for it how often;
//! - a fetch ends: with the blob here, verified and synced, or when no source was found by [`FETCH_DEADLINE`];
//! - what waits is bounded by the queue, and what runs by [`FETCHES_MAX`].
//!
//! Sources are tried in this order: those that the asker names, Kademlia's providers, every linked member.
//!
//! Elsewhere: moving and verifying bytes is `network`; keeping them is `swarm_store::Blobs`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use swarm_protocol::{Hash, NodeId, Wanted, codec};
use swarm_store::{BlobError, Blobs};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::handle::blocking;
use crate::network::Network;
use crate::supervisor::Failure;

/// How long one blob is looked for before whoever wants it is told that it cannot be had.
pub const FETCH_DEADLINE: Duration = Duration::from_secs(30);
/// Bytes of an encoded list of blobs: as many as a job file may name.
pub const BLOB_LIST_BYTES_MAX: usize = crate::jobfile::LIST_BYTES_MAX;
/// Fetches at once. More would only share the same links.
const FETCHES_MAX: usize = 16;
/// Blobs of one request that wait for the manager at once, so that a job of ten thousand files leaves room for others.
const WANTED_MAX: usize = 32;
/// Requests that wait for the manager.
const QUEUE_MAX: usize = 256;
/// The first and the longest wait between two rounds over the sources; each is jittered by half.
const ROUND_WAIT: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];
/// Linked members tried in one round: whoever holds a blob is nearly always named or a provider.
const LINKED_TRIED_MAX: usize = 16;
/// Of a job's blobs, how many are announced in Kademlia: the list, and its first ones. Each announcement is a walk over
/// the network, and whoever has the list knows that its holder has the rest.
const PROVIDED_MAX: usize = 4;
/// Blobs that are looked for on the spot, by a question to the file system for each that its cache answers.
const LOOKED_FOR_MAX: usize = 16;
/// Lists of blobs that are remembered: those of jobs that are submitted again and again.
const LISTS_MAX: usize = 256;

/// A blob is on no node that answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no node that answers has {hash}")]
pub struct Unfetched {
    /// The blob.
    pub hash: Hash,
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
    reply: oneshot::Sender<bool>,
}

impl Artifacts {
    /// The way in, and the manager to be run by the supervisor.
    pub(crate) fn new(blobs: Blobs, network: Network, linked: watch::Receiver<Vec<NodeId>>) -> (Self, Manager) {
        let (wants, queue) = mpsc::channel(QUEUE_MAX);
        let sources = Arc::new(Sources { network, linked });
        (Self { blobs, wants, lists: Arc::default() }, Manager { queue: Arc::new(Mutex::new(queue)), sources })
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
        let asked = self.wants.send(Want { hash, from, reply }).await.is_ok();
        // No reply means that the manager failed or the process ends; then the blob was not fetched.
        if asked && fetched.await.unwrap_or(false) { Ok(()) } else { Err(Unfetched { hash }) }
    }
}

/// What the manager needs, and keeps when it is started again. Fetches in flight are then begun anew by whoever asks.
#[derive(Clone)]
pub(crate) struct Manager {
    queue: Arc<Mutex<mpsc::Receiver<Want>>>,
    sources: Arc<Sources>,
}

/// Where blobs come from.
struct Sources {
    network: Network,
    linked: watch::Receiver<Vec<NodeId>>,
}

/// The fetches that run or wait to run, and who waits for them.
#[derive(Default)]
struct Fetches {
    running: JoinSet<(Hash, bool)>,
    queued: VecDeque<(Hash, Vec<NodeId>)>,
    waiting: HashMap<Hash, Vec<oneshot::Sender<bool>>>,
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
                    let (hash, complete) = ended?;
                    fetches.answer(hash, complete);
                }
            }
            fetches.begin(&self.sources);
        }
    }
}

impl Fetches {
    fn add(&mut self, Want { hash, from, reply }: Want) {
        let waiting = self.waiting.entry(hash).or_default();
        if waiting.is_empty() {
            self.queued.push_back((hash, from));
        }
        waiting.push(reply);
    }

    fn begin(&mut self, sources: &Arc<Sources>) {
        while self.running.len() < FETCHES_MAX
            && let Some((hash, from)) = self.queued.pop_front()
        {
            let sources = Arc::clone(sources);
            self.running.spawn(async move { (hash, sources.fetch(hash, from).await) });
        }
    }

    fn answer(&mut self, hash: Hash, complete: bool) {
        for reply in self.waiting.remove(&hash).unwrap_or_default() {
            // Whoever asked may have gone away.
            let _unheard = reply.send(complete);
        }
    }
}

impl Sources {
    /// Tries all sources in rounds until one gives the blob or the deadline is over. A transfer that has begun may end
    /// later: it is given up by the network when it stands still.
    async fn fetch(&self, hash: Hash, mut from: Vec<NodeId>) -> bool {
        // A custodian is named as a source before it has fetched its own copy.
        from.retain(|node| *node != self.network.node());
        let deadline = Instant::now() + FETCH_DEADLINE;
        let [mut wait, wait_max] = ROUND_WAIT;
        while !(self.try_all(hash, &from).await || self.try_others(hash, &from).await) {
            if Instant::now() + wait > deadline {
                return false;
            }
            tokio::time::sleep(wait.mul_f32(0.5 + fastrand::f32())).await;
            wait = (wait * 2).min(wait_max);
            // Another order each round, so that many askers do not besiege the same node.
            fastrand::shuffle(&mut from);
        }
        true
    }

    async fn try_others(&self, hash: Hash, tried: &[NodeId]) -> bool {
        let mut providers = self.network.providers(hash).await;
        providers.retain(|node| !tried.contains(node));
        if self.try_all(hash, &providers).await {
            return true;
        }
        let mut linked = self.linked.borrow().clone();
        linked.retain(|node| !tried.contains(node) && !providers.contains(node));
        fastrand::shuffle(&mut linked);
        linked.truncate(LINKED_TRIED_MAX);
        self.try_all(hash, &linked).await
    }

    async fn try_all(&self, hash: Hash, nodes: &[NodeId]) -> bool {
        for &node in nodes {
            match self.network.fetch_blob(node, hash).await {
                Ok(_) => return true,
                Err(error) => tracing::debug!(%hash, ?node, %error, "the blob did not come"),
            }
        }
        false
    }
}
