//! Work: turns a granted batch of tasks into their outcomes.
//!
//! ```text
//! Work → supervisor ─┬─ lease  fetch → stage → feed the slots → report     one actor a batch
//!                    └─ …
//!        slots       one OS thread each; takes tasks from a lease until none is left
//! ```
//!
//! Always true:
//! - every task of a batch gets one outcome, unless it was stopped; what cannot be started ends as `Rejected`, what was
//!   running when something here failed ends as `Lost`;
//! - between the supervisor and a task there are no messages and no locks, only atomics;
//! - what a job names (paths, templates, lists) is checked before it touches the disk.
//!
//! Elsewhere: the sandbox is `swarm_executor`; which tasks run here is decided by `swarm_protocol`; moving blobs is
//! `artifacts`.

mod inputs;
mod lease;
mod outcomes;
mod outputs;
mod permits;
mod slots;
mod stage;
mod supervisor;
mod tasks;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use ractor::{ActorRef, ActorRuntime};
use swarm_executor::{Engine, Room};
use swarm_protocol::lattice::Run;
use swarm_protocol::{Batch, Event, Hash, LeaseId, NodeId, Range, ShardId};
use swarm_store::Blobs;
use tokio::sync::oneshot;

use crate::artifacts::Artifacts;
use crate::board::Board;
use crate::commands::Commands;
use crate::supervisor::Failure;

use slots::{REPORT_EVERY, Slots};
use stage::{Offer, Stages};
use supervisor::{Supervised, SupervisorMessage};

/// Outcomes are reported at most so late after their tasks were stopped.
pub(crate) const REPORTED_WITHIN: Duration = REPORT_EVERY.saturating_mul(2);
/// The log, at level debug, of what is granted to this node and what ended on it: two lines a batch, for whoever follows
/// every task from node to node.
const TASKS_LOG: &str = "swarm_node::tasks";

/// What [`Work`] needs.
pub(crate) struct WorkOptions {
    /// The sandbox.
    pub(crate) engine: Engine,
    /// This node's blobs.
    pub(crate) blobs: Blobs,
    /// A directory for the files of running tasks, on the same file system as the blobs. Emptied at the start.
    pub(crate) scratch: PathBuf,
    /// Tasks to run at once.
    pub(crate) slots: usize,
    /// Memory offered to each of them.
    pub(crate) memory_bytes: u64,
    /// Shows what tasks print.
    pub(crate) board: Board,
    /// Brings blobs here.
    pub(crate) artifacts: Artifacts,
    /// Answers what earlier stages left, and takes the outcomes.
    pub(crate) commands: Commands,
}

/// Why [`Work`] could not be started.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The scratch directory.
    #[error("prepare the directory for running tasks `{path}`")]
    Scratch {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A slot's thread.
    #[error("start the threads that run tasks")]
    Threads(#[source] io::Error),
    /// The supervisor actor.
    #[error("start the supervisor of leases")]
    Supervisor(#[source] ractor::SpawnErr),
}

/// Takes an event to the core.
type Tell = dyn Fn(Event) -> BoxFuture<'static, ()> + Send + Sync;
/// Blobs, and the nodes that may have them.
type Wish = (Vec<Hash>, Vec<NodeId>);

/// The rest of the node, as work sees it.
#[derive(Clone)]
struct Sources {
    /// Returns once all these blobs are here.
    fetch: Arc<Ask<Wish, ()>>,
    /// The recorded outcomes of a shard all of whose tasks have ended.
    shard: Arc<Ask<(ShardId, Range), Vec<Run>>>,
    /// Takes an event to the core; waits while the core is busy.
    tell: Arc<Tell>,
}

/// A question to the rest of the node. The error is for people.
type Ask<Q, A> = dyn Fn(Q) -> BoxFuture<'static, Result<A, String>> + Send + Sync;

impl Sources {
    fn of(artifacts: Artifacts, commands: Commands) -> Self {
        let told = commands.clone();
        Self {
            fetch: Arc::new(move |(hashes, from)| {
                let artifacts = artifacts.clone();
                Box::pin(async move { artifacts.ensure(hashes, &from).await.map_err(|error| reason(&error)) })
            }),
            shard: Arc::new(move |(shard, tasks)| {
                let commands = commands.clone();
                Box::pin(async move { commands.shard_outcomes(shard, tasks).await.map_err(|error| reason(&error)) })
            }),
            tell: Arc::new(move |event| {
                let commands = told.clone();
                // The only error is that the process is stopping, and then nobody waits for outcomes.
                Box::pin(async move { commands.tell(event).await.unwrap_or_default() })
            }),
        }
    }
}

/// An error with its causes, on one line.
fn reason(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |error| (*error).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The room that the disk under the blobs has for what tasks write beside them.
pub(crate) fn disk_room(blobs: &Blobs) -> Room {
    let blobs = blobs.clone();
    Room::new(move |bytes| blobs.disk_has_room(bytes))
}

fn log(what: &str, lease: LeaseId, tasks: impl Iterator<Item = Range>) {
    let ShardId { job, stage, .. } = lease.shard;
    if tracing::enabled!(target: TASKS_LOG, tracing::Level::DEBUG) {
        let tasks: Vec<Range> = tasks.collect();
        tracing::debug!(target: TASKS_LOG, %job, stage, ?tasks, "{what}");
    }
}

/// Runs batches. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Work {
    supervisor: ActorRef<SupervisorMessage>,
    slots: Arc<Slots>,
}

impl Work {
    /// Starts the slots and the supervisor, on the tokio runtime of the caller.
    pub(crate) fn start(options: WorkOptions) -> Result<Self, WorkError> {
        let WorkOptions { engine, blobs, scratch, slots, memory_bytes, board, artifacts, commands } = options;
        let offer = Offer { slots, memory_bytes };
        Self::start_with(engine, blobs, scratch, offer, &board, Sources::of(artifacts, commands))
    }

    fn start_with(
        engine: Engine,
        blobs: Blobs,
        scratch: PathBuf,
        offer: Offer,
        board: &Board,
        sources: Sources,
    ) -> Result<Self, WorkError> {
        inputs::empty(&scratch).map_err(|source| WorkError::Scratch { path: scratch.clone(), source })?;
        let slots = Arc::new(Slots::start(offer.slots, board).map_err(WorkError::Threads)?);
        let stages = Arc::new(Stages::new(engine, blobs, scratch, offer, sources.clone()));
        let start = Supervised { stages, slots: Arc::clone(&slots), sources };
        let (supervisor, _) =
            ActorRuntime::spawn_instant(None, supervisor::ExecutorSupervisor, start).map_err(WorkError::Supervisor)?;
        Ok(Self { supervisor, slots })
    }

    /// Runs the tasks of a batch; their outcomes come as [`Event::Ended`].
    pub(crate) fn run(&self, batch: Batch) {
        log("granted", batch.lease, batch.tasks.iter().map(|(range, _)| *range));
        self.tell(SupervisorMessage::Run(batch));
    }

    /// Drops the tasks of a lease that have not begun, and stops those that run. They get no outcome.
    pub(crate) fn stop(&self, lease: LeaseId, tasks: Vec<Range>) {
        self.tell(SupervisorMessage::Stop(lease, tasks));
    }

    /// Does not begin what is not begun, and with `begun` stops what runs; what is not to be expected from here. What has
    /// ended meanwhile is reported all the same.
    pub(crate) async fn give_back(&self, begun: bool) -> Vec<(LeaseId, Vec<Range>)> {
        let (given, heard) = oneshot::channel();
        self.tell(SupervisorMessage::GiveBack { begun, given });
        // Without a supervisor the process is about to stop.
        heard.await.unwrap_or_default()
    }

    /// Stops every task of every lease.
    pub(crate) fn stop_all(&self) {
        self.tell(SupervisorMessage::StopAll);
    }

    /// Stops every task of every lease; no more can be run.
    pub(crate) fn close(&self) {
        self.stop_all();
        // Refused only when it is gone already.
        let _gone = self.supervisor.drain();
    }

    /// Returns when the supervisor of leases is gone: tasks granted to this node would never be run or given back.
    pub(crate) async fn watch(self) -> Result<(), Failure> {
        // Without a deadline there is no error.
        let _gone = self.supervisor.wait(None).await;
        Err("the supervisor of leases is gone".into())
    }

    /// Slots with something to do.
    pub(crate) fn slots_busy(&self) -> usize {
        self.slots.busy()
    }

    fn tell(&self, message: SupervisorMessage) {
        if self.supervisor.send_message(message).is_err() {
            tracing::error!("the supervisor of leases is gone; its tasks will be run by other nodes");
        }
    }
}
