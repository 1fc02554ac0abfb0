//! Lease: one granted batch, from its blobs to its last outcome.
//!
//! Always true: outcomes leave at most every [`REPORT_EVERY`], and all have left when the actor stops.

use std::sync::Arc;
use std::time::Instant;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use swarm_protocol::{Batch, Ending, Event, LeaseId, Outcome};

use super::Sources;
use super::outcomes::Outcomes;
use super::slots::{Job, REPORT_EVERY, SlotReport};
use super::supervisor::Supervised;
use super::tasks::Tasks;

pub(super) struct LeaseStart {
    pub(super) batch: Batch,
    pub(super) tasks: Arc<Tasks>,
    pub(super) shared: Supervised,
}

pub(super) enum LeaseMessage {
    /// "Begin." Sent by the actor to itself, so that fetching is outside its start.
    Begin(Box<LeaseStart>),
    Slot(SlotReport),
    /// Time to report what has gathered.
    Report,
}

pub(super) struct Lease;

pub(super) struct State {
    lease: LeaseId,
    sources: Sources,
    /// Slots that have not left yet, or may still come.
    slots: usize,
    outcomes: Outcomes,
    reported: Instant,
    report_due: bool,
}

impl Actor for Lease {
    type Msg = LeaseMessage;
    type State = State;
    type Arguments = LeaseStart;

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, start: LeaseStart) -> Result<State, ActorProcessingErr> {
        let (lease, sources) = (start.batch.lease, start.shared.sources.clone());
        myself.send_message(LeaseMessage::Begin(Box::new(start))).map_err(|_| "the lease ended before it began")?;
        let outcomes = Outcomes::default();
        Ok(State { lease, sources, slots: 0, outcomes, reported: Instant::now(), report_due: false })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: LeaseMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            LeaseMessage::Begin(start) => state.begin(&myself, *start).await,
            LeaseMessage::Slot(SlotReport::Ended(outcomes)) => state.on_outcomes(&myself, outcomes).await,
            LeaseMessage::Slot(SlotReport::Left(outcomes)) => {
                state.slots -= 1;
                state.on_outcomes(&myself, outcomes).await;
            }
            LeaseMessage::Report => state.report().await,
        }
        if state.slots == 0 {
            state.report().await;
            myself.stop(None);
        }
        Ok(())
    }
}

impl State {
    async fn begin(&mut self, myself: &ActorRef<LeaseMessage>, LeaseStart { batch, tasks, shared }: LeaseStart) {
        match shared.stages.prepare(&batch).await {
            Ok(stage) => {
                let lease = myself.clone();
                let report = Arc::new(move |report| {
                    // A lease that is gone was stopped, and nobody waits for these outcomes.
                    let _unheard = lease.send_message(LeaseMessage::Slot(report));
                });
                let at_once = (shared.slots.count() / stage.slots()).max(1);
                let helpers = at_once.min(batch.tasks.iter().map(|(range, _)| range.count as usize).sum());
                self.slots = helpers;
                let job = Job { stage, tasks, report };
                for _ in 0..helpers {
                    shared.slots.enqueue(job.clone()).await;
                }
            }
            // The process is about to stop, and what is not reported runs elsewhere or after the next start.
            Err(reason) if shared.stages.disk_failed() => {
                tracing::warn!(lease = ?self.lease, %reason, "the disk failed")
            }
            Err(reason) if shared.stages.has_no_room() => {
                tracing::warn!(lease = ?self.lease, %reason, "a batch has no room here");
                self.outcomes = Outcomes::of_all(tasks.ranges(), &Outcome::bare(Ending::Lost));
            }
            Err(reason) => {
                tracing::warn!(lease = ?self.lease, %reason, "a batch cannot be started");
                let rejected = Outcome::bare(Ending::Rejected(reason));
                self.outcomes = Outcomes::of_all(tasks.ranges(), &rejected);
            }
        }
    }

    async fn on_outcomes(&mut self, myself: &ActorRef<LeaseMessage>, outcomes: Outcomes) {
        self.outcomes.append(outcomes);
        if self.slots == 0 || self.report_due {
            return;
        }
        match REPORT_EVERY.checked_sub(self.reported.elapsed()) {
            None => self.report().await,
            Some(wait) => {
                self.report_due = true;
                // Nobody is left to join: a lease that ended meanwhile has reported.
                let _timer = myself.send_after(wait, || LeaseMessage::Report);
            }
        }
    }

    async fn report(&mut self) {
        self.report_due = false;
        self.reported = Instant::now();
        if !self.outcomes.is_empty() {
            let (outcomes, busy) = (self.outcomes.take(), self.outcomes.take_busy());
            let ended = outcomes.iter().filter(|(_, outcome)| outcome.ending != Ending::Cancelled);
            super::log("ended", self.lease, ended.map(|(range, _)| *range));
            (self.sources.tell)(Event::Ended { lease: self.lease, outcomes, busy }).await;
        }
    }
}
