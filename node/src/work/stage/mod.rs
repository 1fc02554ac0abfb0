//! Stages: everything that the tasks of one stage share, made ready once on this node; and running one of them.
//!
//! Always true: a stage is made ready once at a time, however many leases of it there are; what could not be made ready is
//! tried again by the next lease.
//!
//! `files` finds the files that a stage and its tasks are given, `fetching` brings blobs here, `running` runs one task.

mod fetching;
mod files;
mod running;

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use swarm_executor::{Bytes, Engine, Entered, InvalidModule, MODULE_BYTES_MAX, Module, Printed, Room, StopFlag};
use swarm_protocol::codec::DecodeError;
use swarm_protocol::{
    BadOutputs, Batch, Elements, Hash, Item, JobId, JobSpec, Limits, NodeId, Resources, StageSpec, Stdin,
};
use swarm_store::{BlobError, Blobs};
use tokio::sync::{OnceCell, oneshot};

use self::files::FROM_FILES_MAX;
use crate::jobfile::{Params, RenderError};
use crate::work::inputs::{InputError, Inputs, Link};
use crate::work::outputs;
use crate::work::{Sources, disk_room, reason};

/// Stages kept ready: those of a few jobs side by side. One that falls out is made ready again by its next lease.
const STAGES_MAX: usize = 16;
/// Bytes of a standard input that comes from a file: it is held in memory.
const STDIN_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How long what has no room here waits for some before it is given back: another node may have room, but each time that a
/// task is given back counts against how often it may be lost.
const ROOM_WAIT: Duration = Duration::from_secs(10);
/// How often it is looked for.
const ROOM_EVERY: Duration = Duration::from_millis(100);

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

/// What a slot holds on to while it runs a task.
pub(super) struct Control<'a> {
    pub(super) stop: &'a StopFlag,
    pub(super) entered: &'a Entered<'a>,
    pub(super) printed: [Printed; 2],
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
}

impl Stage {
    fn spec(&self) -> &StageSpec {
        &self.spec.stages[usize::from(self.position)] // was there when the stage was made ready
    }

    /// Slots that an attempt takes.
    pub(super) fn slots(&self) -> usize {
        self.resources.slots.max(1) as usize
    }

    /// Only tasks that have a directory of their own have own files: the others share no lock.
    fn own(&self) -> Option<MutexGuard<'_, BTreeMap<u32, Vec<Link>>>> {
        // Nothing that can panic runs under the lock.
        let lock = || self.own.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(self.inputs, Inputs::Own { .. }).then(lock)
    }

    /// Readies the calling thread for its tasks.
    pub(super) fn enter(&self) -> Entered<'_> {
        self.module.enter()
    }

    /// Which job's stage it is.
    pub(super) fn key(&self) -> StageKey {
        (self.job, self.position)
    }
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

/// Notes when what went wrong is this node's disk.
fn note_disk(blobs: &Blobs, error: &(dyn Error + 'static)) {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    for cause in causes.filter_map(|cause| cause.downcast_ref()) {
        blobs.note("prepare a task with the blobs in", blobs.root(), cause);
    }
}
