//! A fenced report changes nothing: what an arbiter records of a task comes from a report under a lease that it granted
//! to the reporter in this epoch, and had not fenced when the report came. What it ran itself needs no report, nor does
//! giving a task up for failures that others recorded.

use std::collections::{BTreeMap, BTreeSet};

use swarm_protocol::lattice::{End, Run};
use swarm_protocol::message::Grant;
use swarm_protocol::{Ending, Epoch, LeaseId, Message, NodeId, Outcome, Range, ShardId};

use super::Invariant;
use crate::history::{Fact, History, tasks_of};

/// An outcome, and the epoch of the lease under which it came.
type Reported = (Option<Epoch>, Outcome);

#[derive(Default)]
pub(super) struct Judge {
    leases: BTreeMap<LeaseId, Lease>,
    fenced: BTreeSet<(LeaseId, NodeId)>,
    /// Reports under leases that the arbiter had fenced.
    refused: BTreeMap<NodeId, Vec<Report>>,
    /// What each arbiter was rightly told of a task, and in which epoch; what it ran itself, in none.
    reported: BTreeMap<(NodeId, ShardId, u32), Vec<Reported>>,
    /// Failures that anybody recorded.
    failures: BTreeMap<(ShardId, u32), BTreeSet<Ending>>,
}

/// Who reports, under which lease, what.
type Report = (NodeId, LeaseId, Vec<(Range, Outcome)>);

struct Lease {
    arbiter: NodeId,
    executor: NodeId,
    tasks: BTreeSet<u32>,
}

impl Judge {
    fn on_grant(&mut self, arbiter: NodeId, executor: NodeId, grant: &Grant) {
        let tasks = grant.tasks.iter().flat_map(|(range, _)| tasks_of(*range)).collect();
        self.leases.insert(grant.lease, Lease { arbiter, executor, tasks });
    }

    fn is_granted(&self, arbiter: NodeId, executor: NodeId, id: LeaseId, task: u32) -> bool {
        self.leases
            .get(&id)
            .is_some_and(|lease| (lease.arbiter, lease.executor) == (arbiter, executor) && lease.tasks.contains(&task))
    }

    fn on_report(&mut self, arbiter: NodeId, from: NodeId, id: LeaseId, outcomes: &[(Range, Outcome)]) {
        if self.fenced.contains(&(id, from)) {
            self.refused.entry(arbiter).or_default().push((from, id, outcomes.to_vec()));
            return;
        }
        for (range, outcome) in outcomes {
            for task in tasks_of(*range).filter(|task| self.is_granted(arbiter, from, id, *task)).collect::<Vec<_>>() {
                self.remember(arbiter, id.shard, task, Some(id.epoch), outcome);
            }
        }
    }

    /// What a node fenced binds it no more, perhaps because it was its twin that did.
    fn on_forgot(&mut self, arbiter: NodeId) {
        let leases = &self.leases;
        self.fenced.retain(|(id, _)| leases.get(id).is_some_and(|lease| lease.arbiter != arbiter));
        for (from, id, outcomes) in self.refused.remove(&arbiter).unwrap_or_default() {
            self.on_report(arbiter, from, id, &outcomes);
        }
    }

    fn remember(&mut self, node: NodeId, shard: ShardId, task: u32, epoch: Option<Epoch>, outcome: &Outcome) {
        let reports = self.reported.entry((node, shard, task)).or_default();
        if !reports.iter().any(|(under, known)| *under == epoch && known == outcome) {
            reports.push((epoch, outcome.clone()));
        }
    }

    /// What an arbiter recorded others may count on.
    fn note_failures(&mut self, shard: ShardId, segment: &[Run]) {
        for run in segment.iter().filter(|run| !run.state.failures.is_empty()) {
            for task in tasks_of(run.range) {
                let endings = run.state.failures.values().map(|failure| failure.ending.clone());
                self.failures.entry((shard, task)).or_default().extend(endings);
            }
        }
    }

    fn on_record(&self, node: NodeId, shard: ShardId, epoch: Epoch, segment: &[Run]) -> Result<(), String> {
        for run in segment {
            for task in tasks_of(run.range) {
                self.judge_task(node, shard, epoch, task, run)
                    .map_err(|what| format!("{node:?} records task {task} of {shard:?} in {epoch:?}: {what}"))?;
            }
        }
        Ok(())
    }

    fn judge_task(&self, node: NodeId, shard: ShardId, epoch: Epoch, task: u32, run: &Run) -> Result<(), String> {
        let reports = self.reported.get(&(node, shard, task)).map_or(&[][..], Vec::as_slice);
        let told = |fits: &dyn Fn(&Outcome) -> bool| {
            reports.iter().any(|(under, outcome)| under.is_none_or(|under| under == epoch) && fits(outcome))
        };
        for (attempt, failure) in &run.state.failures {
            let lease = LeaseId { shard, epoch: attempt.epoch, number: attempt.lease };
            if failure.node != node && !self.is_granted(node, failure.node, lease, task) {
                return Err(format!("{failure:?} of {lease:?}, which it did not grant"));
            }
            if failure.ending != Ending::Lost && !told(&|outcome| outcome.ending == failure.ending) {
                return Err(format!("{failure:?}, which nobody reported under a valid lease"));
            }
        }
        match &run.state.end {
            // What needs a failed element fails without a report; `done_was_executed` judges whether rightly.
            Some(End::Exhausted(results)) if matches!(results.outcome().ending, Ending::Rejected(_)) => Ok(()),
            Some(End::Done(results) | End::Exhausted(results)) if results.outcome().ending != Ending::Lost => {
                let recorded = results.outcome();
                let failures = self.failures.get(&(shard, task));
                let failed = !recorded.ending.is_success() && failures.is_some_and(|it| it.contains(&recorded.ending));
                if failed || told(&|outcome| outcome == recorded) {
                    return Ok(());
                }
                Err(format!("{:?}, which nobody reported under a valid lease", recorded.ending))
            }
            _ => Ok(()),
        }
    }
}

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "reports_need_leases"
    }

    fn judge(&mut self, _: &History, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Said { node, to, message } => match message {
                Message::Grant(grant) => self.on_grant(*node, *to, grant),
                Message::Fenced(lease) => drop(self.fenced.insert((*lease, *to))),
                Message::Record { shard, epoch, segment, .. } => {
                    self.on_record(*node, *shard, *epoch, segment)?;
                    self.note_failures(*shard, segment);
                }
                Message::Merge { shard, segment, .. } => self.note_failures(*shard, segment),
                _ => {}
            },
            Fact::Heard { node, from, message: Message::Report { lease, outcomes } } => {
                self.on_report(*node, *from, *lease, outcomes);
            }
            Fact::Forgot { node } => self.on_forgot(*node),
            Fact::Ran { node, lease, task, outcome } => self.remember(*node, lease.shard, *task, None, outcome),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tale::{Job, Tale, failure, given_up, grant, id, record, report};
    use super::*;

    /// Node 1 arbitrates, node 3 executes, node 2 keeps a copy.
    fn tale(job: &Job) -> Tale<Judge> {
        Tale::of(Judge::default()).with(job).tells(1, 3, &grant(job.lease(1, 1), 0))
    }

    fn recorded(job: &Job) -> Message {
        record(job.shard(), 1, job.done(0))
    }

    #[test]
    fn a_report_under_a_lease_is_recorded() {
        let job = Job::of(1);
        let told = tale(&job).tells(3, 1, &report(job.lease(1, 1), 0, job.left(0)));
        told.says(1, 3, &Message::Fenced(job.lease(1, 1))).says(1, 2, &recorded(&job)).passes();
    }

    #[test]
    fn recording_a_fenced_report_is_judged() {
        let job = Job::of(1);
        let fenced = tale(&job).says(1, 3, &Message::Fenced(job.lease(1, 1)));
        let told = fenced.tells(3, 1, &report(job.lease(1, 1), 0, job.left(0)));
        told.says(1, 2, &recorded(&job)).breaks("nobody reported");
    }

    #[test]
    fn what_a_twin_fenced_does_not_count() {
        let job = Job::of(1);
        let fenced = tale(&job).says(1, 3, &Message::Fenced(job.lease(1, 1)));
        let told = fenced.tells(3, 1, &report(job.lease(1, 1), 0, job.left(0)));
        told.fact(&Fact::Forgot { node: id(1) }).says(1, 2, &recorded(&job)).passes();
    }

    #[test]
    fn recording_without_a_grant_is_judged() {
        let job = Job::of(1);
        let told = tale(&job).tells(4, 1, &report(job.lease(1, 1), 0, job.left(0)));
        told.says(1, 2, &recorded(&job)).breaks("nobody reported");
    }

    #[test]
    fn recording_a_report_of_an_earlier_epoch_is_judged() {
        let job = Job::of(1);
        let earlier = LeaseId { epoch: Epoch::NONE, ..job.lease(1, 1) };
        let told = tale(&job).tells(1, 3, &grant(earlier, 0)).tells(3, 1, &report(earlier, 0, job.left(0)));
        told.says(1, 2, &recorded(&job)).breaks("nobody reported");
    }

    #[test]
    fn charging_a_lease_that_nobody_had_is_judged() {
        let job = Job::of(1);
        let lost = |number| record(job.shard(), 1, failure(0, job.lease(1, number), 3, Ending::Lost));
        tale(&job).says(1, 2, &lost(1)).passes();
        tale(&job).says(1, 2, &lost(2)).breaks("did not grant");
    }

    #[test]
    fn what_an_arbiter_ran_itself_needs_no_report() {
        let job = Job::of(1);
        let ran = tale(&job).runs(1, job.lease(1, 9), 0, &job.left(0));
        ran.says(1, 2, &recorded(&job)).passes();
    }

    #[test]
    fn giving_up_for_failures_that_others_recorded_needs_no_report() {
        let job = Job::of_traps(1);
        let trapped = || job.left(0).ending;
        let others = Message::Merge {
            shard: job.shard(),
            receipt: None,
            segment: vec![failure(0, job.lease(2, 1), 3, trapped())],
        };
        let mut given_up = given_up(0, job.lease(2, 1), 3, trapped());
        given_up.state.failures.clear();
        let tale = || Tale::of(Judge::default()).with(&job);
        tale().says(2, 1, &others).says(1, 2, &record(job.shard(), 1, given_up.clone())).passes();
        tale().says(1, 2, &record(job.shard(), 1, given_up)).breaks("nobody reported");
    }
}
