//! Stages: everything that the tasks of one stage share, made ready once on this node; and running one of them.
//!
//! Always true: a stage is made ready once at a time, however many leases of it there are; what could not be made ready is
//! tried again by the next lease.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use serde::de::DeserializeOwned;
use swarm_executor::{
    Bytes, Engine, Finished, InvalidModule, MODULE_BYTES_MAX, Module, Printed, Room, StopFlag, Task, Ticking,
};
use swarm_protocol::codec::{self, DecodeError};
use swarm_protocol::lattice::{End, Run};
use swarm_protocol::{
    BadOutputs, Batch, Content, Edge, Elements, Ending, Hash, INLINE_BYTES_MAX, InputSource, Item, JobId, JobSpec,
    Limits, NodeId, Outcome, Range, Resources, ShardId, StageSpec, Stdin, TreeFile,
};
use swarm_store::{BlobError, Blobs, NoRoom, is_full};
use tokio::sync::{OnceCell, oneshot};

use super::inputs::{InputError, Inputs, Link, plain_path, temp_dir};
use super::outputs::{self, OutputError};
use super::tasks::Taken;
use super::{Sources, disk_room, reason};
use crate::earlier::{EARLIER_BYTES_MAX, Earlier, substitute};
use crate::handle::blocking;
use crate::jobfile::{Names, Params, RenderError, names, render};

/// Stages kept ready: those of a few jobs side by side. One that falls out is made ready again by its next lease.
const STAGES_MAX: usize = 16;
/// Bytes of an encoded list of items or of a tree's files: ten million short lines.
const LIST_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes of a standard input that comes from a file: it is held in memory.
const STDIN_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Files that an input may take from an earlier stage: each is a link on this node's disk.
const FROM_FILES_MAX: u32 = 1 << 17;
/// What a disk must still take after a task with outputs failed, or the disk may have been the cause.
const PROBE_BYTES: usize = 64 * 1024;
/// How long what has no room here waits for some before it is given back: another node may have room, but each time that a
/// task is given back counts against how often it may be lost.
const ROOM_WAIT: Duration = Duration::from_secs(10);
/// How often it is looked for.
const ROOM_EVERY: Duration = Duration::from_millis(100);
/// How often a task is run again after that, for there may have been less room than it needs.
const ROOM_TRIES: usize = 3;
/// Variables that most tasks find beside those of their job.
const ENVIRONMENT: usize = 6;
/// Questions for the shards of an earlier stage, and fetches from different holders, at once.
const AT_ONCE: usize = 8;

/// Why a stage cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unready {
    #[error("the job has no stage {0}")]
    NoStage(u16),
    #[error("{0}")]
    Unfetched(String),
    #[error(transparent)]
    Module(#[from] InvalidModule),
    #[error("there is no thread for compiling its module")]
    NoThread(#[source] io::Error),
    #[error("the compiler panicked")]
    CompilerPanicked,
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("a list of the job does not decode")]
    List(#[from] DecodeError),
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Outputs(#[from] BadOutputs),
    #[error("a name of its inputs cannot be rendered")]
    Render(#[from] RenderError),
    #[error("`{stage}` has {count} tasks, more than the {FROM_FILES_MAX} that an input may take files from")]
    TooManyFiles { stage: String, count: u32 },
    #[error("what `{stage}` left in `{path}` is known for {known} of its {count} tasks only")]
    Incomplete { stage: String, path: String, known: u32, count: u32 },
}

/// Compiles on a thread of its own. Nothing can interrupt the compiler, so whoever waits for it must be able to stop
/// waiting; and a process that ends would wait for a thread of its runtime.
async fn compile(engine: Engine, hash: Hash, bytes: Vec<u8>) -> Result<Module, Unready> {
    let (done, heard) = oneshot::channel();
    let work = move || {
        // Nobody waits for it any more; the code is kept all the same.
        let _unheard = done.send(engine.prepare(hash, &bytes));
    };
    thread::Builder::new().name("compiler".into()).spawn(work).map_err(Unready::NoThread)?;
    Ok(heard.await.map_err(|_| Unready::CompilerPanicked)??)
}

/// Why one task cannot be started, or its results not be kept.
#[derive(Debug, thiserror::Error)]
enum Unstarted {
    #[error("the list of the stage has no item for this task")]
    NoItem,
    #[error("an argument or variable cannot be rendered")]
    Render(#[from] RenderError),
    #[error("its standard input cannot be read")]
    Stdin(#[source] BlobError),
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error("keep what it printed")]
    Printed(#[source] BlobError),
}

/// The stages that are ready.
pub(super) struct Stages {
    engine: Engine,
    blobs: Blobs,
    scratch: PathBuf,
    offer: Offer,
    sources: Sources,
    /// The most recently used first.
    ready: Mutex<VecDeque<(StageKey, Ready)>>,
}

/// What this node offers.
#[derive(Clone, Copy)]
pub(super) struct Offer {
    pub(super) slots: usize,
    pub(super) memory_bytes: u64,
}

impl Offer {
    /// What an attempt takes: the first alternative that is offered here. Whoever granted it looked for one; what is not
    /// offered after all is tried within its own limits.
    fn resources(self, stage: &StageSpec) -> Resources {
        let has = |it: &Resources| it.slots as usize <= self.slots && it.memory_bytes_max <= self.memory_bytes;
        let first = Resources { memory_bytes_max: stage.limits.memory_bytes_max, slots: 1 };
        stage.resources().find(has).unwrap_or(first)
    }
}

type StageKey = (JobId, u16);

/// Empty while the stage is being made ready; leases wait for the one that does it.
type Ready = Arc<OnceCell<Arc<Stage>>>;

/// A stage that is ready: its module is compiled and its shared inputs are in place.
pub(super) struct Stage {
    job: JobId,
    /// As guests read it.
    job_name: String,
    position: u16,
    spec: Arc<JobSpec>,
    module: Module,
    items: Option<Arc<Vec<Item>>>,
    params: Params,
    /// What an attempt takes of this node.
    resources: Resources,
    /// As the stage has them, with the memory that this node gives.
    limits: Limits,
    /// Of a `Stdin::File`.
    stdin: Bytes,
    inputs: Inputs,
    /// What elements of an earlier stage left for tasks of a batch that is about to run.
    own: Mutex<BTreeMap<u32, Vec<Link>>>,
    blobs: Blobs,
    /// What the disk has for outputs that are being written.
    room: Room,
    scratch: PathBuf,
}

impl Stages {
    pub(super) fn new(engine: Engine, blobs: Blobs, scratch: PathBuf, offer: Offer, sources: Sources) -> Self {
        Self { engine, blobs, scratch, offer, sources, ready: Mutex::default() }
    }

    /// The stage of a batch, ready, and with the items of the batch's own tasks. The error is for people.
    pub(super) async fn prepare(&self, batch: &Batch) -> Result<Arc<Stage>, String> {
        let cell = self.cell((batch.lease.shard.job, batch.lease.shard.stage));
        let ready = cell.get_or_try_init(|| self.make_ready(batch)).await;
        let stage = ready.inspect_err(|error| note_disk(&self.blobs, error)).map_err(|error| reason(&error))?;
        self.fetch_items(stage, batch).await;
        self.fetch_own(stage, batch).await.map_err(|error| reason(&error))?;
        Ok(Arc::clone(stage))
    }

    /// Whether this node's disk has failed: then nothing that goes wrong here may be held against a task.
    pub(super) fn disk_failed(&self) -> bool {
        self.blobs.has_failed()
    }

    /// Whether this node has no room for blobs now: what cannot be made ready here may be elsewhere.
    pub(super) fn has_no_room(&self) -> bool {
        self.blobs.no_room().is_some()
    }

    /// Waits for room for a while; whether there is some.
    pub(super) async fn wait_for_room(&self) -> bool {
        let until = Instant::now() + ROOM_WAIT;
        while self.has_no_room() && Instant::now() < until {
            tokio::time::sleep(ROOM_EVERY).await;
        }
        !self.has_no_room()
    }

    fn cell(&self, key: StageKey) -> Ready {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let found = ready.iter().position(|(known, _)| *known == key).and_then(|at| ready.remove(at));
        let cell = found.map_or_else(Arc::default, |(_, cell)| cell);
        ready.push_front((key, Arc::clone(&cell)));
        ready.truncate(STAGES_MAX);
        cell
    }

    async fn make_ready(&self, batch: &Batch) -> Result<Arc<Stage>, Unready> {
        let (job, position) = (batch.lease.shard.job, batch.lease.shard.stage);
        let stage = batch.spec.stages.get(usize::from(position)).ok_or(Unready::NoStage(position))?;
        outputs::check(&stage.outputs)?;
        // Compiling takes a processor, fetching the network.
        let (module, items, stdin, inputs) = tokio::try_join!(
            self.module(stage, &batch.sources),
            self.items(stage, &batch.sources),
            self.stdin(stage, &batch.sources),
            self.inputs(batch, stage),
        )?;
        let resources = self.offer.resources(stage);
        Ok(Arc::new(Stage {
            params: Params::new(batch.spec.options.params.clone()),
            resources,
            limits: Limits { memory_bytes_max: resources.memory_bytes_max, ..stage.limits.clone() },
            own: Mutex::default(),
            job,
            job_name: job.to_hex(),
            position,
            spec: Arc::clone(&batch.spec),
            module,
            items,
            stdin: stdin.into(),
            inputs,
            blobs: self.blobs.clone(),
            room: disk_room(&self.blobs),
            scratch: self.scratch.clone(),
        }))
    }

    async fn module(&self, stage: &StageSpec, from: &[NodeId]) -> Result<Module, Unready> {
        let module = match self.engine.prepared(stage.wasm) {
            Some(known) => known?,
            None => {
                let bytes = self.read(stage.wasm, MODULE_BYTES_MAX, from).await?;
                compile(self.engine.clone(), stage.wasm, bytes).await?
            }
        };
        module.check_entry(&stage.entry)?;
        Ok(module)
    }

    async fn stdin(&self, stage: &StageSpec, from: &[NodeId]) -> Result<Vec<u8>, Unready> {
        match stage.stdin {
            Stdin::File { hash, .. } => self.read(hash, STDIN_BYTES_MAX, from).await,
            _ => Ok(Vec::new()),
        }
    }

    async fn items(&self, stage: &StageSpec, from: &[NodeId]) -> Result<Option<Arc<Vec<Item>>>, Unready> {
        match stage.elements {
            Elements::List(hash) | Elements::Json(hash) => Ok(Some(Arc::new(self.list(hash, from).await?))),
            _ => Ok(None),
        }
    }

    async fn inputs(&self, batch: &Batch, stage: &StageSpec) -> Result<Inputs, Unready> {
        let (mut links, mut items, mut has_own) = (Vec::new(), Vec::new(), false);
        let mut wanted = Wanted::default();
        for input in &stage.inputs {
            let path = plain_path(&input.path)?;
            match &input.source {
                InputSource::File { hash, .. } => links.push(Link { path, hash: *hash }),
                InputSource::Tree(hash) => links.extend(self.tree(&path, *hash, &batch.sources).await?),
                InputSource::Item => items.push(path),
                InputSource::From { stage: earlier, .. } if !stage.needs_whole(*earlier) => has_own = true,
                InputSource::From { stage: earlier, path: output, name } => {
                    let source = Output { stage: *earlier, path: output, name, below: &path };
                    let whole = Range { first: 0, count: u32::MAX };
                    links.extend(self.outputs_of(batch, source, &[whole], &mut wanted).await?);
                }
            }
        }
        for link in &links {
            wanted.add(link.hash, &[]);
        }
        self.hold(wanted, &batch.sources).await?;
        let (declared, blobs, scratch) = (stage.inputs.len(), self.blobs.clone(), self.scratch.clone());
        if declared == 0 {
            return Ok(Inputs::None);
        }
        Ok(blocking(move || Inputs::new(declared, links, items, has_own, &blobs, &scratch)).await?)
    }

    async fn tree(&self, below: &Path, list: Hash, from: &[NodeId]) -> Result<Vec<Link>, Unready> {
        let files: Vec<TreeFile> = self.list(list, from).await?;
        let link = |file: TreeFile| Ok(Link { path: below.join(plain_path(&file.path)?), hash: file.hash });
        files.into_iter().map(link).collect()
    }

    /// One declared output of some tasks of an earlier stage.
    async fn outputs_of(
        &self,
        batch: &Batch,
        source: Output<'_>,
        tasks: &[Range],
        wanted: &mut Wanted,
    ) -> Result<Vec<Link>, Unready> {
        let Output { stage: position, path: output, name, below } = source;
        let stage = batch.spec.stages.get(usize::from(position)).ok_or(Unready::NoStage(position))?;
        let whole = Range { first: 0, count: stage.count };
        let tasks: Vec<Range> = tasks.iter().filter_map(|range| common(*range, whole)).collect();
        let count = tasks.iter().fold(0u32, |sum, range| sum.saturating_add(range.count));
        if count > FROM_FILES_MAX {
            return Err(Unready::TooManyFiles { stage: stage.name.clone(), count });
        }
        let items = self.items(stage, &batch.sources).await?;
        let params = Params::new(batch.spec.options.params.clone());
        let (mut links, mut known) = (Vec::new(), 0);
        for (part, run) in self.runs(batch, position, stage, &tasks).await? {
            let Some(End::Done(results)) = &run.state.end else { continue };
            let Some(done) = common(run.range, part) else { continue };
            known += done.count;
            // A task that need not leave it may be done without.
            let Some(file) = results.outcome().outputs.iter().find(|file| file.path == output) else { continue };
            let holders: Vec<_> = results.holders().collect();
            wanted.add(file.hash, &holders);
            for index in done.indexes() {
                let item = items.as_ref().and_then(|items| items.get(index as usize));
                let name = render(name, &names(stage, index, item).with_params(&params))?;
                links.push(Link { path: below.join(plain_path(&name)?), hash: file.hash });
            }
        }
        if known < count && !may_lack(batch, position) {
            return Err(Unready::Incomplete { stage: stage.name.clone(), path: output.into(), known, count });
        }
        Ok(links)
    }

    /// What is known of some tasks of a stage, once all of them have ended; each run with the tasks it was asked for.
    async fn runs(
        &self,
        batch: &Batch,
        position: u16,
        stage: &StageSpec,
        tasks: &[Range],
    ) -> Result<Vec<(Range, Run)>, Unready> {
        let job = batch.lease.shard.job;
        let parts: Vec<_> = tasks.iter().flat_map(|range| parts_by_shard(stage, *range)).collect();
        let parts = parts.into_iter().map(|(number, part)| {
            let runs = (self.sources.shard)((ShardId { job, stage: position, number }, part));
            async move { runs.await.map(|runs| (part, runs)) }
        });
        let parts: Vec<_> = stream::iter(parts).buffered(AT_ONCE).try_collect().await.map_err(Unready::Unfetched)?;
        let earlier = match batch.spec.options.earlier.filter(|_| !stage.options.skip.is_empty()) {
            Some(hash) => self.earlier(hash, &batch.sources).await?,
            None => Earlier::new(),
        };
        let mut all = Vec::new();
        for (part, runs) in parts {
            let runs = if earlier.is_empty() { runs } else { substitute(stage, position, part, runs, &earlier) };
            all.extend(runs.into_iter().map(|run| (part, run)));
        }
        Ok(all)
    }

    async fn earlier(&self, hash: Hash, from: &[NodeId]) -> Result<Earlier, Unready> {
        let bytes = self.read(hash, EARLIER_BYTES_MAX as u64, from).await?;
        Ok(blocking(move || codec::decode(&bytes, EARLIER_BYTES_MAX)).await?)
    }

    /// Brings here what elements of earlier stages left for the batch's own tasks.
    async fn fetch_own(&self, stage: &Stage, batch: &Batch) -> Result<(), Unready> {
        let spec = stage.spec();
        let edges = Edge::of(&batch.spec, spec);
        let mut own: BTreeMap<u32, Vec<Link>> = BTreeMap::new();
        let mut wanted = Wanted::default();
        for input in &spec.inputs {
            let InputSource::From { stage: earlier, path, name } = &input.source else { continue };
            let Some(edge) = edges.iter().find(|edge| edge.stage == *earlier) else { continue };
            let below = plain_path(&input.path)?;
            for task in batch.tasks.iter().flat_map(|(range, _)| range.indexes()) {
                let source = Output { stage: *earlier, path, name, below: &below };
                let links = self.outputs_of(batch, source, &edge.needed(task), &mut wanted).await?;
                own.entry(task).or_default().extend(links);
            }
        }
        if own.is_empty() {
            return Ok(());
        }
        self.hold(wanted, &batch.sources).await?;
        stage.own().append(&mut own);
        Ok(())
    }

    /// Brings the files of the batch's own items here. One that is on no node concerns its own task alone.
    async fn fetch_items(&self, stage: &Stage, batch: &Batch) {
        let spec = stage.spec();
        let uses_file = spec.stdin == Stdin::Item || matches!(stage.inputs, Inputs::Own { .. });
        let Some(items) = stage.items.as_ref().filter(|_| uses_file) else { return };
        let indexes = batch.tasks.iter().flat_map(|(range, _)| range.indexes());
        let files = indexes.filter_map(|index| items.get(index as usize)?.file);
        let mut wanted = Wanted::default();
        files.for_each(|(hash, _)| wanted.add(hash, &[]));
        if wanted.is_empty() {
            return;
        }
        // While the job lives, what its list names stays where the list is: a task may wait long for its turn.
        for wanted in [Wanted::one(batch.spec.blobs), wanted] {
            if let Err(error) = self.hold(wanted, &batch.sources).await {
                tracing::warn!(lease = ?batch.lease, %error, "not every item is here");
            }
        }
    }

    async fn list<T: DeserializeOwned + Send + 'static>(&self, hash: Hash, from: &[NodeId]) -> Result<Vec<T>, Unready> {
        let bytes = self.read(hash, LIST_BYTES_MAX as u64, from).await?;
        Ok(blocking(move || codec::decode(&bytes, LIST_BYTES_MAX)).await?)
    }

    async fn read(&self, hash: Hash, max: u64, from: &[NodeId]) -> Result<Vec<u8>, Unready> {
        self.hold(Wanted::one(hash), from).await?;
        let blobs = self.blobs.clone();
        Ok(blocking(move || blobs.read(hash, max)).await?)
    }

    /// Brings blobs here and checks them. What turns out to be damaged on this disk is fetched once more.
    async fn hold(&self, wanted: Wanted, from: &[NodeId]) -> Result<(), Unready> {
        if wanted.is_empty() {
            return Ok(());
        }
        self.fetch(&wanted, from).await?;
        let damaged = self.damaged(wanted).await;
        if damaged.is_empty() {
            return Ok(());
        }
        self.fetch(&damaged, from).await?;
        let blobs = self.blobs.clone();
        Ok(blocking(move || damaged.0.keys().try_for_each(|hash| blobs.verify(*hash).map(drop))).await?)
    }

    async fn fetch(&self, wanted: &Wanted, from: &[NodeId]) -> Result<(), Unready> {
        let fetches =
            wanted.by_holders(from).into_iter().map(|(from, hashes)| Ok((self.sources.fetch)((hashes, from))));
        let all = stream::iter(fetches).try_buffer_unordered(AT_ONCE).try_collect::<()>();
        all.await.map_err(Unready::Unfetched)
    }

    async fn damaged(&self, mut wanted: Wanted) -> Wanted {
        let blobs = self.blobs.clone();
        blocking(move || {
            wanted.0.retain(|hash, _| blobs.verify(*hash).is_err());
            wanted
        })
        .await
    }
}

/// One output of an earlier stage, and where it goes.
#[derive(Clone, Copy)]
struct Output<'a> {
    stage: u16,
    path: &'a str,
    /// A template, evaluated with the earlier task's names.
    name: &'a str,
    below: &'a Path,
}

/// Whether the batch's stage runs though tasks of the earlier one failed.
fn may_lack(batch: &Batch, position: u16) -> bool {
    let mine = batch.spec.stages.get(usize::from(batch.lease.shard.stage));
    mine.is_some_and(|mine| mine.options.needs_finished.contains(&position))
}

/// The parts of a range that lie in one shard each.
fn parts_by_shard(stage: &StageSpec, range: Range) -> Vec<(u32, Range)> {
    let shard = stage.shard_tasks.max(1);
    let numbers = range.first / shard..range.end().div_ceil(shard);
    numbers.filter_map(|number| Some((number, common(range, stage.shard_range(number))?))).collect()
}

fn common(a: Range, b: Range) -> Option<Range> {
    let (first, end) = (a.first.max(b.first), a.end().min(b.end()));
    (first < end).then(|| Range { first, count: end - first })
}

/// Blobs that are needed, with the nodes that are known to hold each.
#[derive(Default)]
struct Wanted(BTreeMap<Hash, BTreeSet<NodeId>>);

impl Wanted {
    fn one(hash: Hash) -> Self {
        Self(BTreeMap::from([(hash, BTreeSet::new())]))
    }

    fn add(&mut self, hash: Hash, holders: &[NodeId]) {
        self.0.entry(hash).or_default().extend(holders);
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The blobs with equal holders together; after those, the nodes in `from` are asked.
    fn by_holders(&self, from: &[NodeId]) -> BTreeMap<Vec<NodeId>, Vec<Hash>> {
        let mut by_holders = BTreeMap::<_, Vec<_>>::new();
        for (hash, holders) in &self.0 {
            let others = from.iter().filter(|node| !holders.contains(node));
            by_holders.entry(holders.iter().chain(others).copied().collect()).or_default().push(*hash);
        }
        by_holders
    }
}

/// Whether something went wrong because this node has no room.
fn is_no_room(error: &(dyn Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.any(|cause| cause.is::<NoRoom>() || cause.downcast_ref().is_some_and(is_full))
}

/// Notes when what went wrong is this node's disk.
fn note_disk(blobs: &Blobs, error: &(dyn Error + 'static)) {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    for cause in causes.filter_map(|cause| cause.downcast_ref()) {
        blobs.note("prepare a task with the blobs in", blobs.root(), cause);
    }
}

/// What a slot holds on to while it runs a task.
pub(super) struct Control<'a> {
    pub(super) stop: &'a StopFlag,
    pub(super) ticking: &'a Ticking,
    pub(super) printed: [Printed; 2],
}

impl Stage {
    fn spec(&self) -> &StageSpec {
        &self.spec.stages[usize::from(self.position)] // was there when the stage was made ready
    }

    /// Slots that an attempt takes.
    pub(super) fn slots(&self) -> usize {
        self.resources.slots.max(1) as usize
    }

    fn own(&self) -> MutexGuard<'_, BTreeMap<u32, Vec<Link>>> {
        // Nothing that can panic runs under the lock.
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the clock of guests going.
    pub(super) fn ticking(&self) -> Ticking {
        self.module.ticking()
    }

    /// Which job's stage it is.
    pub(super) fn key(&self) -> StageKey {
        (self.job, self.position)
    }

    /// Runs one task to its end, on the calling thread. What has no room on this node's disk is run again when there is some,
    /// and given back when there is none for long.
    pub(super) fn run(&self, task: Taken, control: &Control<'_>) -> Outcome {
        let mut outcome = self.run_once(task, control);
        for _ in 0..ROOM_TRIES {
            if outcome.ending != Ending::Lost || !self.wait_for_room(control.stop) {
                break;
            }
            outcome = self.run_once(task, control);
        }
        self.own().remove(&task.index);
        outcome
    }

    fn wait_for_room(&self, stop: &StopFlag) -> bool {
        let until = Instant::now() + ROOM_WAIT;
        while self.blobs.no_room().is_some() && Instant::now() < until && !stop.is_stopped() {
            thread::sleep(ROOM_EVERY);
        }
        self.blobs.no_room().is_none() && !stop.is_stopped()
    }

    /// Once this node's disk has failed nothing is said of a task that could not be run: the process is about to stop, and
    /// the task runs elsewhere or after the next start.
    fn run_once(&self, task: Taken, control: &Control<'_>) -> Outcome {
        let run = self.try_run(task, control).inspect_err(|error| note_disk(&self.blobs, error));
        match run {
            Ok(outcome) => outcome,
            Err(_) if self.blobs.has_failed() => Outcome::bare(Ending::Cancelled),
            // It is not the task's fault, and another node may have room.
            Err(error) if is_no_room(&error) => Outcome::bare(Ending::Lost),
            Err(error) => Outcome::bare(Ending::Rejected(reason(&error))),
        }
    }

    fn try_run(&self, task: Taken, control: &Control<'_>) -> Result<Outcome, Unstarted> {
        let spec = self.spec();
        let item = self.item(task.index)?;
        let names = names(spec, task.index, item).with_params(&self.params);
        let seed = self.seed(task.index);
        let args = spec.args.iter().map(|arg| render(arg, &names)).collect::<Result<Vec<_>, _>>()?;
        let env = self.environment(task, &names, &seed)?;
        let stdin = self.stdin(&names, item)?;
        let own = self.own().get(&task.index).cloned().unwrap_or_default();
        let text = names.get("item").unwrap_or("");
        let in_dir = self.inputs.of_task(item, text, &own, &self.blobs, &self.scratch)?;
        let out_dir = (!spec.outputs.is_empty()).then(|| temp_dir("out-", &self.scratch)).transpose()?;
        let finished = self.module.run(Task {
            args: &args,
            program: &spec.name,
            entry: &spec.entry,
            env: &env,
            stdin,
            in_dir: in_dir.path(),
            out_dir: out_dir.as_ref().map(tempfile::TempDir::path),
            room: &self.room,
            limits: &self.limits,
            run_max: Duration::from_millis(spec.run_ms_max),
            seed: *seed.as_bytes(),
            stop: control.stop,
            ticking: control.ticking,
            printed: control.printed.clone(),
        });
        self.outcome(finished, out_dir)
    }

    /// How a task ends that this node's disk failed, which is found out by writing to it.
    fn ended_by_disk(&self) -> Option<Ending> {
        let writes = !self.spec().outputs.is_empty();
        let probe = || io::Write::write_all(&mut tempfile::tempfile_in(&self.scratch)?, &[0; PROBE_BYTES]);
        if writes && !self.blobs.disk_has_room(PROBE_BYTES as u64) {
            return Some(Ending::Lost);
        }
        match if writes { probe() } else { Ok(()) } {
            Err(error) if is_full(&error) => return Some(Ending::Lost),
            Err(error) => self.blobs.note("write below", &self.scratch, &error),
            Ok(()) => {}
        }
        self.blobs.has_failed().then_some(Ending::Cancelled)
    }

    fn item(&self, index: u32) -> Result<Option<&Item>, Unstarted> {
        match &self.items {
            None => Ok(None),
            Some(items) => items.get(index as usize).map(Some).ok_or(Unstarted::NoItem),
        }
    }

    /// Where the task's random numbers come from: the same for every attempt, on every node.
    fn seed(&self, index: u32) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.job.as_bytes());
        hasher.update(&self.position.to_le_bytes());
        hasher.update(&index.to_le_bytes());
        hasher.finalize()
    }

    fn environment<'a>(
        &'a self,
        task: Taken,
        names: &'a Names,
        seed: &blake3::Hash,
    ) -> Result<Vec<(&'a str, Cow<'a, str>)>, RenderError> {
        let spec = self.spec();
        let mut env = Vec::with_capacity(spec.env.len() + ENVIRONMENT);
        for (name, value) in &spec.env {
            env.push((name.as_str(), render(value, names)?.into()));
        }
        env.extend(names.environment().map(|(name, value)| (name, value.into())));
        env.push(("SWARM_JOB", self.job_name.as_str().into()));
        env.push(("SWARM_TASK", spec.name.as_str().into()));
        env.push(("SWARM_ATTEMPT", (u32::from(task.attempts) + 1).to_string().into()));
        env.push(("SWARM_SEED", seed.to_hex().to_string().into()));
        Ok(env)
    }

    fn stdin(&self, names: &Names, item: Option<&Item>) -> Result<Bytes, Unstarted> {
        match (&self.spec().stdin, item.and_then(|item| item.file)) {
            (Stdin::Empty, _) => Ok(Bytes::new()),
            (Stdin::Text(text), _) => Ok(render(text, names)?.into()),
            (Stdin::File { .. }, _) => Ok(self.stdin.clone()),
            (Stdin::Item, Some((hash, _))) => {
                self.blobs.read(hash, STDIN_BYTES_MAX).map(Bytes::from).map_err(Unstarted::Stdin)
            }
            (Stdin::Item, None) => Ok(names.get("item").unwrap_or("").to_owned().into()),
        }
    }

    fn outcome(&self, finished: Finished, out_dir: Option<tempfile::TempDir>) -> Result<Outcome, Unstarted> {
        let spec = self.spec();
        // Of its own doing, perhaps; or it met a full disk where it wanted to leave its outputs, which are still there.
        if !finished.ending.is_success()
            && let Some(ending) = self.ended_by_disk()
        {
            return Ok(Outcome::bare(ending));
        }
        let left = match out_dir.filter(|_| finished.ending.is_success()) {
            Some(dir) => outputs::collect(dir.path(), &spec.outputs, spec.limits.outputs_bytes_max, &self.blobs)?,
            None => Ok(Vec::new()),
        };
        let (ending, outputs) = match left {
            Ok(outputs) => (finished.ending, outputs),
            Err(ending) => (ending, Vec::new()),
        };
        Ok(Outcome { ending, stdout: self.content(finished.stdout)?, stderr: self.content(finished.stderr)?, outputs })
    }

    fn content(&self, bytes: Vec<u8>) -> Result<Content, Unstarted> {
        if bytes.len() <= INLINE_BYTES_MAX {
            return Ok(Content::Inline(bytes));
        }
        let hash = self.blobs.put(&bytes).map_err(Unstarted::Printed)?;
        Ok(Content::Blob { hash, len: bytes.len() as u64 })
    }
}
