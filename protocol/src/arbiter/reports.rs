//! Reports: what executors say of tasks that ended, made into facts; and further attempts of those that failed.
//!
//! Always true: an outcome counts once its blobs are here; an attempt that failed counts against the task's budget once.
//!
//! Elsewhere: the facts wait in `gathering`, and are written down by `records`.

use core::time::Duration;
use std::collections::BTreeSet;

use crate::lattice::{AttemptId, End, Failure, Results, Run, Segment, TaskState};
use crate::message::Message;
use crate::node::Node;
use crate::planted::PlantedBug;
use crate::task_sets::{common, ranges_of};
use crate::{Ending, Hash, LeaseId, NodeId, Outcome, Range, ShardId};

/// A task that failed on a node is kept from it this long, while others may take it.
const AVOID: Duration = Duration::from_secs(2);
/// Tasks of a shard of which is remembered what their last failed attempt wrote: as many as people read, 32 KiB at most.
const LAST_WORDS_MAX: usize = 32;

/// A report whose blobs are on their way here.
#[derive(Debug)]
pub(crate) struct Parked {
    from: NodeId,
    pub(crate) lease: LeaseId,
    outcomes: Vec<(Range, Outcome)>,
}

impl Parked {
    /// The tasks in it.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = Range> + '_ {
        self.outcomes.iter().map(|(range, _)| *range)
    }
}

impl Node {
    pub(crate) fn on_report(&mut self, from: NodeId, id: LeaseId, outcomes: Vec<(Range, Outcome)>) {
        let now = self.now;
        if self.plants(PlantedBug::TakesFencedReports) && self.arbiter_mut(id.shard).is_some() {
            return self.record_outcomes(from, id, outcomes, true);
        }
        let Some(arbiter) = self.arbiter_of(id) else {
            self.send(from, Message::Fenced(id));
            return;
        };
        let Some(lease) = arbiter.leases.get_mut(&id.number).filter(|lease| lease.executor == from) else {
            if !self.was_reported(id) {
                self.send(from, Message::Fenced(id));
            }
            return;
        };
        let mut accepted = Vec::new();
        for (range, outcome) in outcomes {
            for piece in ranges_of(&common(&lease.tasks, &[range])) {
                lease.tasks.remove(piece.indexes());
                accepted.push((piece, outcome.clone()));
            }
        }
        arbiter.pace.note(now.since(core::mem::replace(&mut lease.since, now)));
        if lease.tasks.is_empty() {
            arbiter.leases.remove(&id.number);
        }
        let blobs: BTreeSet<Hash> = accepted.iter().flat_map(|(_, outcome)| outcome.blobs()).collect();
        if accepted.is_empty() {
        } else if blobs.is_empty() || from == self.me() || self.plants(PlantedBug::SkipsOutputs) {
            self.gather(from, id, accepted);
        } else {
            let fetch = self.fetch_blobs(blobs, BTreeSet::from([from]));
            self.custody.parked_reports.insert(fetch, Parked { from, lease: id, outcomes: accepted });
        }
    }

    /// Whether the rest of a lease was reported and is on its way to be acknowledged: its blobs, or its record.
    fn was_reported(&self, id: LeaseId) -> bool {
        let arbiter = self.custody.shard(id.shard).and_then(|shard| shard.arbiter.as_ref());
        arbiter
            .is_some_and(|arbiter| arbiter.is_recording(id) || arbiter.gathered.leases().any(|(_, lease)| lease == id))
            || self.custody.parked_reports.values().any(|parked| parked.lease == id)
    }

    pub(crate) fn on_report_fetched(&mut self, fetch: u64, complete: bool) {
        let Some(Parked { from, lease, mut outcomes }) = self.custody.parked_reports.remove(&fetch) else { return };
        if self.arbiter_of(lease).is_none() || self.is_stopped(lease.shard.job) {
            return; // the executor still has it, and asks the next arbiter
        }
        if !complete {
            outcomes.iter_mut().for_each(|(_, outcome)| *outcome = Outcome::bare(Ending::Lost));
        }
        self.gather(from, lease, outcomes);
    }

    /// Turns outcomes into facts, decides about further attempts, and records.
    pub(super) fn record_outcomes(&mut self, from: NodeId, id: LeaseId, outcomes: Vec<(Range, Outcome)>, ack: bool) {
        let acked = ack.then(|| (from, id, outcomes.iter().map(|(range, _)| *range).collect()));
        let mut segment = Segment::new();
        for (range, outcome) in outcomes {
            if outcome.ending.is_success() {
                let done = End::Done(Results::one(outcome, [from, self.me()]));
                segment.push(Run { range, state: TaskState::ended(done) });
            } else {
                let runs = range.indexes().filter_map(|task| self.judge_failure(from, id, task, &outcome));
                segment.extend(runs.collect::<Vec<_>>());
            }
        }
        self.record(id.shard, segment, acked);
    }

    /// One failed attempt: either the task is exhausted, or it is tried again.
    fn judge_failure(&mut self, node: NodeId, id: LeaseId, task: u32, outcome: &Outcome) -> Option<Run> {
        let (now, me) = (self.now, self.me());
        let jitter = self.rng.u64(0..=250);
        let lost_more = usize::from(self.plants(PlantedBug::RetriesLostOnceMore));
        let failed_more = usize::from(self.plants(PlantedBug::RetriesOnceMore));
        let shard = self.custody.shard_mut(id.shard).filter(|shard| !shard.state.has_ended(task))?;
        let retry = &shard.spec.stages.get(usize::from(id.shard.stage))?.retry;
        let failure = Failure { node, ending: outcome.ending.clone() };
        let mut state = TaskState::failed(AttemptId::from(id), failure);
        // Its executor may have told of this attempt already, after a restart.
        let (lost, failed) = shard.state.get(task).map_or((0, 0), |known| known.attempts_but(id.into()));
        let is_lost = outcome.ending == Ending::Lost;
        let lost_max = usize::from(retry.lost_max) + lost_more;
        let failed_max = usize::from(retry.max) + failed_more;
        let budget_left = if is_lost { lost < lost_max } else { failed < failed_max };
        if retry.allows(&outcome.ending) && budget_left {
            let doublings = u32::try_from(failed.min(20)).unwrap_or(20);
            let wait = retry.backoff_ms.saturating_mul(1 << doublings).min(retry.backoff_ms_max);
            // Jitter of up to a quarter, so that many failures of one moment do not come back as one.
            let wait = if is_lost { 0 } else { wait + wait * jitter / 1000 };
            let arbiter = shard.arbiter.as_mut()?;
            arbiter.copies.withdraw(task..task + 1);
            arbiter.last_words.insert(task, outcome.stderr.clone());
            if arbiter.last_words.len() > LAST_WORDS_MAX {
                arbiter.last_words.pop_first();
            }
            if !arbiter.has_two_runs() || arbiter.leases_of(task).next().is_none() {
                arbiter.delayed.insert((now + Duration::from_millis(wait), task));
            }
            arbiter.avoid.insert(task, (node, now + Duration::from_millis(wait) + AVOID));
            self.wake(now + Duration::from_millis(wait), "back-off");
        } else {
            state.end = Some(End::Exhausted(Results::one(outcome.clone(), [node, me])));
        }
        Some(Run { range: Range { first: task, count: 1 }, state })
    }

    pub(super) fn end_back_off(&mut self, id: ShardId) {
        let now = self.now;
        let Some(arbiter) = self.arbiter_mut(id) else { return };
        let mut any = false;
        while let Some((_, task)) = arbiter.delayed.first().copied().filter(|(until, _)| *until <= now) {
            arbiter.delayed.pop_first();
            arbiter.pending.insert(task..task + 1);
            any = true;
        }
        self.custody.grants_changed |= any;
    }
}
