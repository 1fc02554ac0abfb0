//! ExecutorSupervisor: one lease actor for each batch that is run.
//!
//! Always true: stopping and running happen in the order in which they were asked for; the tasks of a lease actor that
//! failed end as lost, so that they run elsewhere.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use swarm_protocol::{Batch, Ending, Event, LeaseId, Outcome, Range};
use tokio::sync::oneshot;

use super::Sources;
use super::lease::{Lease, LeaseStart};
use super::outcomes::Outcomes;
use super::slots::Slots;
use super::stage::Stages;
use super::tasks::Tasks;

pub(super) enum SupervisorMessage {
    Run(Batch),
    Stop(LeaseId, Vec<Range>),
    StopAll,
    /// What is not begun, and with `begun` also what runs, is not to be run here after all. Answered with those tasks, and
    /// all tasks of the leases: some may have ended meanwhile.
    GiveBack {
        begun: bool,
        given: oneshot::Sender<Vec<(LeaseId, Vec<Range>)>>,
    },
}

/// What the lease actors share.
#[derive(Clone)]
pub(super) struct Supervised {
    pub(super) stages: Arc<Stages>,
    pub(super) slots: Arc<Slots>,
    pub(super) sources: Sources,
}

pub(super) struct ExecutorSupervisor;

pub(super) struct State {
    shared: Supervised,
    running: BTreeMap<LeaseId, RunningLease>,
    leases: HashMap<ActorId, LeaseId>,
}

struct RunningLease {
    actor: ActorCell,
    tasks: Arc<Tasks>,
}

impl Actor for ExecutorSupervisor {
    type Msg = SupervisorMessage;
    type State = State;
    type Arguments = Supervised;

    async fn pre_start(&self, _: ActorRef<Self::Msg>, shared: Supervised) -> Result<State, ActorProcessingErr> {
        Ok(State { shared, running: BTreeMap::new(), leases: HashMap::new() })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: SupervisorMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMessage::Run(batch) => state.on_run(&myself, batch).await,
            SupervisorMessage::Stop(lease, tasks) => state.on_stop(lease, &tasks),
            SupervisorMessage::StopAll => state.on_stop_all(),
            SupervisorMessage::GiveBack { begun, given } => {
                // Whoever asked may have gone away.
                let _unheard = given.send(state.on_give_back(begun));
            }
        }
        Ok(())
    }

    // Overridden because by default a child's end stops its parent.
    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(actor, ..) => drop(state.forget(&actor)),
            SupervisionEvent::ActorFailed(actor, cause) => {
                if let Some((lease, running)) = state.forget(&actor) {
                    tracing::error!(?lease, %cause, "a lease failed; its tasks are given back");
                    state.give_back(lease, &running.tasks).await;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl State {
    async fn on_run(&mut self, myself: &ActorRef<SupervisorMessage>, batch: Batch) {
        let lease = batch.lease;
        let tasks = Arc::new(Tasks::new(batch.tasks.clone(), self.shared.slots.count()));
        let start = LeaseStart { batch, tasks: Arc::clone(&tasks), shared: self.shared.clone() };
        match Actor::spawn_linked(None, Lease, start, myself.get_cell()).await {
            Ok((actor, _)) => {
                self.leases.insert(actor.get_id(), lease);
                self.running.insert(lease, RunningLease { actor: actor.get_cell(), tasks });
            }
            Err(error) => {
                tracing::error!(?lease, %error, "a lease was not started; its tasks are given back");
                self.give_back(lease, &tasks).await;
            }
        }
    }

    fn on_stop(&mut self, lease: LeaseId, tasks: &[Range]) {
        let Some(running) = self.running.get(&lease) else { return };
        running.tasks.stop(tasks);
        if running.tasks.all_stopped() {
            // It may be waiting for blobs that nobody needs now. Slots that still run for it find nobody to tell.
            running.actor.kill();
        }
    }

    /// The lease actors live on, and report what has ended.
    fn on_give_back(&mut self, begun: bool) -> Vec<(LeaseId, Vec<Range>)> {
        let give = |(lease, running): (&LeaseId, &RunningLease)| {
            let rest = running.tasks.take_rest();
            let given = if begun { running.tasks.ranges().collect() } else { rest };
            if begun {
                running.tasks.stop(&given);
            }
            (!given.is_empty()).then_some((*lease, given))
        };
        self.running.iter().filter_map(give).collect()
    }

    fn on_stop_all(&mut self) {
        let all: Vec<_> =
            self.running.iter().map(|(lease, running)| (*lease, running.tasks.ranges().collect())).collect();
        for (lease, tasks) in all {
            let tasks: Vec<Range> = tasks;
            self.on_stop(lease, &tasks);
        }
    }

    fn forget(&mut self, actor: &ActorCell) -> Option<(LeaseId, RunningLease)> {
        let lease = self.leases.remove(&actor.get_id())?;
        // A lease that is run again under its name has another actor by now.
        let is_last = self.running.get(&lease).is_some_and(|running| running.actor.get_id() == actor.get_id());
        is_last.then(|| self.running.remove(&lease).expect("just seen")).map(|running| (lease, running))
    }

    async fn give_back(&self, lease: LeaseId, tasks: &Tasks) {
        let all: Vec<_> = tasks.ranges().collect();
        tasks.stop(&all);
        let outcomes = Outcomes::of_all(all.into_iter(), &Outcome::bare(Ending::Lost)).take();
        (self.shared.sources.tell)(Event::Ended { lease, outcomes, busy: Duration::ZERO }).await;
    }
}
