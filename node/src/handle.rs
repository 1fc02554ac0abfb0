//! Handle: what the rest of the program may do with a running node. Cheap to clone.
//!
//! Always true: a job is signed only when every blob that it names is here, so that what is acknowledged can run; one
//! that its user did not hand over is looked for in the swarm.
//!
//! Elsewhere: questions about jobs that need more than one answer are `results`; the socket and the commands that users
//! type are `api` and `cli`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use swarm_protocol::modules::{MODULE_FACT_VERSION, ModuleFact, ModuleRecord, ModuleVersion, Registry, SignedModule};
use swarm_protocol::{
    Answer, Hash, JOB_SPEC_VERSION, JobId, JobSpec, MemberState, MemberView, NodeId, Query, Range, ShardId, SignedJob,
    StageSpec, Time, Wanted, codec,
};
use swarm_store::{BlobError, Blobs, Source};
use tokio::sync::watch;

use crate::artifacts::{Artifacts, BLOB_LIST_BYTES_MAX};
use crate::board::{Board, News, NewsQuestion};
use crate::clock::{Clock, unix_ms};
use crate::collector::Collector;
use crate::commands::{CommandError, Commands};
use crate::endings::Endings;
use crate::events::Events;
use crate::leaving::DrainAsks;
use crate::network::{Identity, Network, NetworkCounts};
use crate::watchers::Watchers;
use crate::work::Work;

/// A job that is over sooner is not put into the Kademlia map.
const PUBLISH_AFTER: Duration = Duration::from_secs(1);

/// A running node, as the rest of the program sees it.
#[derive(Clone)]
pub struct Handle(Arc<Parts>);

/// What a handle is made of.
pub(crate) struct Parts {
    pub(crate) identity: Identity,
    pub(crate) name: String,
    pub(crate) swarm: String,
    pub(crate) data_dir: std::path::PathBuf,
    pub(crate) slots: usize,
    pub(crate) clock: Clock,
    pub(crate) commands: Commands,
    pub(crate) members: watch::Receiver<Vec<MemberView>>,
    pub(crate) addresses: watch::Receiver<Vec<String>>,
    pub(crate) drained: watch::Receiver<bool>,
    pub(crate) drain_asks: DrainAsks,
    pub(crate) drain_timeout: Duration,
    pub(crate) endings: Endings,
    pub(crate) blobs: Blobs,
    pub(crate) artifacts: Artifacts,
    pub(crate) network: Network,
    pub(crate) board: Board,
    pub(crate) work: Work,
    pub(crate) watchers: Watchers,
    pub(crate) collector: Collector,
    pub(crate) events: Events,
}

impl Handle {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.0.identity.node()
    }

    /// Its name, for people.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The swarm it belongs to.
    pub fn swarm(&self) -> &str {
        &self.0.swarm
    }

    /// Where it keeps everything.
    pub fn data_dir(&self) -> &Path {
        &self.0.data_dir
    }

    /// Multiaddresses at which it can be dialled, ending in `/p2p/PEER`: ready to paste after `--bootstrap`.
    pub fn addresses(&self) -> Vec<String> {
        self.0.addresses.borrow().clone()
    }

    /// Waits until there is an address, and returns them all; none when the node stops first.
    pub async fn listening(&self) -> Vec<String> {
        let mut addresses = self.0.addresses.clone();
        addresses.wait_for(|known| !known.is_empty()).await.map(|known| known.clone()).unwrap_or_default()
    }

    /// Every node known here, itself included.
    pub fn members(&self) -> Vec<MemberView> {
        self.0.members.borrow().clone()
    }

    /// Changes whenever the member list does.
    pub fn watch_members(&self) -> watch::Receiver<Vec<MemberView>> {
        self.0.members.clone()
    }

    /// The core's time, to which [`MemberView::heard`] belongs.
    pub fn now(&self) -> Time {
        self.0.clock.now()
    }

    /// Tasks that it runs at once.
    pub fn slots(&self) -> usize {
        self.0.slots
    }

    /// Of these, running now.
    pub fn slots_busy(&self) -> usize {
        self.0.work.slots_busy()
    }

    /// The blobs on this node. Their calls block: use them on a thread that may wait.
    pub fn blobs(&self) -> &Blobs {
        &self.0.blobs
    }

    /// Stores bytes as a blob.
    pub async fn put_blob(&self, bytes: Vec<u8>) -> Result<Hash, CommandError> {
        let blobs = self.0.blobs.clone();
        Ok(blocking(move || blobs.put(&bytes)).await?)
    }

    /// Brings a blob onto this node, from the given nodes or whoever else has it, and verifies it. What turns out to be
    /// damaged on this disk is fetched once more.
    pub async fn ensure_blob(&self, hash: Hash, from: Vec<NodeId>) -> Result<(), CommandError> {
        let blobs = self.0.blobs.clone();
        let here = blocking(move || blobs.contains(hash)).await;
        if here && self.verify_blob(hash).await.is_ok() {
            return Ok(());
        }
        // What is fetched is verified as it comes.
        Ok(self.0.artifacts.ensure(vec![hash], &from).await?)
    }

    /// Opens a blob to be read, after it was brought here if it was not. Its groups are verified as they are read; one that
    /// is damaged on this disk is missing afterwards, so that this brings it anew.
    pub async fn open_blob(&self, hash: Hash, from: &[NodeId]) -> Result<Source, CommandError> {
        match self.try_open_blob(hash, from).await {
            // It was moved aside, and is fetched like any that is not here.
            Err(CommandError::Blob(BlobError::Damaged { .. })) => self.try_open_blob(hash, from).await,
            opened => opened,
        }
    }

    async fn try_open_blob(&self, hash: Hash, from: &[NodeId]) -> Result<Source, CommandError> {
        self.0.artifacts.ensure(vec![hash], from).await?;
        let blobs = self.0.blobs.clone();
        Ok(blocking(move || blobs.source(hash)).await?)
    }

    /// Reads a blob that is here and checks every byte; its length.
    pub async fn verify_blob(&self, hash: Hash) -> Result<u64, BlobError> {
        let blobs = self.0.blobs.clone();
        blocking(move || blobs.verify(hash)).await
    }

    /// Tells others, at leisure, of a blob that a user has just stored, if it is a large one.
    pub(crate) fn blob_came(&self, hash: Hash) {
        self.0.artifacts.came(hash);
    }

    /// What was refused, lost and moved by the network since the start.
    pub fn counts(&self) -> NetworkCounts {
        self.0.network.counts()
    }

    /// What this node heard of, in order.
    pub fn events(&self) -> &Events {
        &self.0.events
    }

    /// Asks about jobs and shards, kept here or elsewhere. [`Answer::Unknown`] when nobody who should know does.
    pub async fn ask(&self, query: Query) -> Result<Answer, CommandError> {
        self.0.commands.ask(query).await
    }

    /// Tasks of a shard that run now, and where, as far as those know who grant them.
    pub async fn leases(&self, shard: ShardId) -> Result<Vec<(Range, NodeId)>, CommandError> {
        match self.ask(Query::Leases(shard)).await? {
            Answer::Leases(leases) => Ok(leases),
            _ => Ok(Vec::new()),
        }
    }

    /// What a task of this shard has printed behind what was seen, from whichever node runs it; `None` when none does.
    pub async fn news(&self, shard: ShardId, question: &NewsQuestion) -> Result<Option<News>, CommandError> {
        if let Some(news) = self.0.board.news(question).await {
            return Ok(Some(news));
        }
        let runs = |(tasks, _): &(Range, NodeId)| tasks.indexes().contains(&question.task.2);
        for (_, node) in self.leases(shard).await?.iter().filter(|lease| runs(lease)) {
            // One that cannot be asked now is asked with the next question.
            if let Ok(Some(news)) = self.0.network.news(*node, question).await {
                return Ok(Some(news));
            }
        }
        Ok(None)
    }

    /// Publishes a module that is here, with this node's key; returns once it and its record are on enough nodes.
    pub async fn publish_module(&self, mut record: ModuleRecord) -> Result<ModuleVersion, CommandError> {
        record.format = MODULE_FACT_VERSION;
        record.id.publisher = self.node();
        record.published_unix_ms = unix_ms();
        let blobs = self.0.blobs.clone();
        let wasm = record.wasm;
        record.len = blocking(move || blobs.verify(wasm)).await?;
        let id = record.id.clone();
        self.say_of_module(&ModuleFact::Published(record)).await?;
        Ok(id)
    }

    /// Says that a version which this node published should not be used any more.
    pub async fn yank_module(&self, name: String, version: String) -> Result<(), CommandError> {
        self.say_of_module(&ModuleFact::Yanked(ModuleVersion { name, version, publisher: self.node() })).await
    }

    async fn say_of_module(&self, fact: &ModuleFact) -> Result<(), CommandError> {
        let signed = SignedModule::sign(fact, self.0.identity.signing_key())?;
        self.0.commands.publish_module(signed).await.map(drop)
    }

    /// What is known of the modules of a name, here and at those who answer; with an empty name, of all, here.
    pub async fn modules(&self, name: &str) -> Result<Registry, CommandError> {
        let mut registry = Registry::default();
        if let Answer::Modules(facts) = self.ask(Query::Modules(name.into())).await? {
            for fact in facts {
                registry.join(fact)?;
            }
        }
        Ok(registry)
    }

    /// Hands a job to the swarm; returns once it is acknowledged, and from then on it is never lost.
    ///
    /// Sets what only this node can know (submitter, time, nonce, version, tasks a shard) and signs. Every blob that the
    /// job names must be here.
    pub async fn submit(&self, spec: JobSpec) -> Result<JobId, CommandError> {
        let spec = self.complete(spec);
        if !self.0.artifacts.holds(&Wanted::JobBlobs(spec.blobs)) {
            self.bring_blobs(spec.blobs).await?;
        }
        let job = SignedJob::sign(&spec, self.0.identity.signing_key())?;
        let end = self.endings().expect(job.id());
        let id = self.0.commands.submit(job.clone()).await?;
        tokio::spawn(publish_if_it_lasts(self.0.network.clone(), id, job, end));
        Ok(id)
    }

    /// Cancels a job; returns once the stop is on enough nodes.
    pub async fn cancel(&self, job: JobId) -> Result<(), CommandError> {
        self.0.commands.cancel(job).await
    }

    /// How long what runs may take to finish when the node leaves, unless whoever wants it says otherwise.
    pub fn drain_timeout(&self) -> Duration {
        self.0.drain_timeout
    }

    /// Stops what is not below the supervisor: running tasks and the network.
    pub(crate) async fn stop(&self) {
        self.0.work.close();
        self.0.network.clone().shutdown().await;
    }

    pub(crate) fn work(&self) -> &Work {
        &self.0.work
    }

    pub(crate) fn drained(&self) -> watch::Receiver<bool> {
        self.0.drained.clone()
    }

    pub(crate) fn drain_asks(&self) -> DrainAsks {
        self.0.drain_asks.clone()
    }

    pub(crate) fn artifacts(&self) -> &Artifacts {
        &self.0.artifacts
    }

    pub(crate) fn commands(&self) -> &Commands {
        &self.0.commands
    }

    pub(crate) fn collector(&self) -> &Collector {
        &self.0.collector
    }

    pub(crate) fn endings(&self) -> &Endings {
        &self.0.endings
    }

    pub(crate) fn watchers(&self) -> &Watchers {
        &self.0.watchers
    }

    fn complete(&self, mut spec: JobSpec) -> JobSpec {
        let alive = self.0.members.borrow().iter().filter(|member| member.state == MemberState::Alive).count();
        spec.version = JOB_SPEC_VERSION;
        spec.submitter = self.node();
        spec.submitted_unix_ms = unix_ms();
        spec.nonce = fastrand::u64(..);
        for stage in &mut spec.stages {
            stage.shard_tasks = StageSpec::shard_tasks_for(stage.count, alive);
        }
        spec
    }

    /// What the job's user did not hand over, such as a module named by its hash, is elsewhere in the swarm.
    async fn bring_blobs(&self, list: Hash) -> Result<(), CommandError> {
        let blobs = self.0.blobs.clone();
        let named: Vec<Hash> = blocking(move || {
            let bytes = blobs.read(list, BLOB_LIST_BYTES_MAX as u64)?;
            codec::decode(&bytes, BLOB_LIST_BYTES_MAX).map_err(CommandError::BlobList)
        })
        .await?;
        self.0.artifacts.remember(list, &named);
        Ok(self.0.artifacts.ensure(named, &[]).await?)
    }
}

/// Puts a job into the Kademlia map, unless it is over by then: the map is for whoever asks while a job runs, and to put a
/// record there costs as much as all other messages of a small job.
async fn publish_if_it_lasts(network: Network, id: JobId, job: SignedJob, mut end: watch::Receiver<bool>) {
    if tokio::time::timeout(PUBLISH_AFTER, end.wait_for(|over| *over)).await.is_err() {
        network.publish_job(id, &job);
    }
}

/// Runs something that waits for the disk on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
