//! What a user was once told of how a task or job ended is never told differently later.
//!
//! One exception: a stop races with the results that are under way, perhaps on the far side of a partition, so a task of
//! a stopped job may rise to a stronger end, and with it the job: from cancelled to failed to done. In the end nothing is
//! weaker than it was ever told. And while no node was lost or cut off, a job that was over before anybody cancelled it
//! stays what it was.
//!
//! Another: where a machine lies, two results of one task may both be recorded before anybody sees both. Then the least is
//! told by everybody in the end, and that there is a dispute.

use std::collections::{BTreeMap, BTreeSet};

use swarm_protocol::lattice::End;
use swarm_protocol::{Answer, JobId, JobState, NodeId, Outcome, Query, ShardId};

use super::Invariant;
use crate::history::{Fact, History, tasks_of};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Cancelled,
    Exhausted(Outcome),
    Done(Outcome),
}

impl From<&End> for Told {
    fn from(end: &End) -> Self {
        match end {
            End::Exhausted(results) => Self::Exhausted(results.outcome().clone()),
            End::Cancelled => Self::Cancelled,
            End::Done(results) => Self::Done(results.outcome().clone()),
        }
    }
}

#[derive(Default)]
pub(super) struct Judge {
    tasks: BTreeMap<(ShardId, u32), (NodeId, Told)>,
    /// Tasks of which two results were told.
    disputed: BTreeSet<(ShardId, u32)>,
    /// The strongest state of each job that was told, and by whom first.
    jobs: BTreeMap<JobId, (NodeId, JobState)>,
    /// The same, as each node told it, while none was lost or cut off.
    by_node: BTreeMap<(JobId, NodeId), JobState>,
    disturbed: bool,
}

impl Judge {
    fn on_task(&mut self, history: &History, node: NodeId, shard: ShardId, task: u32, end: &End) -> Result<(), String> {
        let Some(job) = history.jobs.get(&shard.job) else { return Ok(()) };
        let now = Told::from(end);
        let (first, before) = self.tasks.entry((shard, task)).or_insert_with(|| (node, now.clone()));
        let same_kind = std::mem::discriminant(before) == std::mem::discriminant(&now);
        let may_stop = job.cancelling || job.failing() > 0 || job.may_be_lost();
        let may_change = if same_kind { job.has_two_outcomes(shard.stage, task) } else { may_stop };
        let sinks = history.settled && !same_kind && now < *before;
        let conceals = history.settled && self.disputed.contains(&(shard, task)) && !is_disputed(end);
        if *before != now && !may_change || sinks || conceals {
            return Err(format!("task {task} of {shard:?}: {first:?} told {before:?}, then {node:?} told {now:?}"));
        }
        if *before != now && same_kind {
            self.disputed.insert((shard, task));
        }
        *before = now.max(before.clone());
        Ok(())
    }

    fn on_job(&mut self, history: &History, node: NodeId, id: JobId, now: JobState) -> Result<(), String> {
        let Some(job) = history.jobs.get(&id) else { return Ok(()) };
        let (first, before) = *self.jobs.entry(id).or_insert((node, now));
        if !self.disturbed && !job.cancelling {
            self.by_node.insert((id, node), now);
        }
        let may_change = job.cancelling || job.may_be_lost();
        let sinks = history.settled && rank(now) < rank(before);
        if before != now && !may_change || sinks {
            return Err(format!("job {id:?}: {first:?} told {before:?}, then {node:?} told {now:?}"));
        }
        if rank(now) > rank(before) {
            self.jobs.insert(id, (node, now));
        }
        match self.by_node.get(&(id, node)) {
            Some(before) if *before != now => {
                Err(format!("job {id:?}: {node:?} told {before:?}, and after a cancel {now:?}"))
            }
            _ => Ok(()),
        }
    }
}

/// As tasks rise, so do jobs.
const fn rank(state: JobState) -> u8 {
    match state {
        JobState::Done => 2,
        JobState::Failed => 1,
        JobState::Cancelled | JobState::Running | JobState::Stopping => 0,
    }
}

fn is_disputed(end: &End) -> bool {
    matches!(end, End::Done(results) | End::Exhausted(results) if results.is_disputed())
}

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "told_never_changes"
    }

    fn judge(&mut self, history: &History, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Disturbed => {
                self.disturbed = true;
                self.by_node.clear();
                Ok(())
            }
            Fact::Told { node, answer: Answer::Job { job, status }, .. } if status.state().is_over() => {
                self.on_job(history, *node, job.id(), status.state())
            }
            Fact::Told { node, query: Query::Shard { shard, .. }, answer: Answer::Shard { segment, .. }, .. } => {
                let ended = segment.iter().filter_map(|run| Some((run.range, run.state.end.as_ref()?)));
                for (range, end) in ended {
                    for task in tasks_of(range) {
                        self.on_task(history, *node, *shard, task, end)?;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use swarm_protocol::StopCause;
    use swarm_protocol::lattice::{Counts, TaskState};

    use super::super::tale::{Job, Tale, run};
    use super::*;

    fn tale(job: &Job) -> Tale<Judge> {
        Tale::of(Judge::default()).with(job)
    }

    fn counts(done: u32, failed: u32, cancelled: u32) -> Counts {
        Counts { done, failed, cancelled }
    }

    #[test]
    fn telling_the_same_again_is_fine() {
        let job = Job::of(1);
        let told = tale(&job).shows(1, job.shard(), &[job.done(0)]).shows(2, job.shard(), &[job.done(0)]);
        told.reports(1, &job, counts(1, 0, 0), None).reports(2, &job, counts(1, 0, 0), None).passes();
    }

    #[test]
    fn another_result_of_a_task_is_judged() {
        let job = Job::of(1);
        let told = tale(&job).shows(1, job.shard(), &[job.done(0)]);
        told.shows(2, job.shard(), &[job.done_with(0, job.another())]).breaks("then");
    }

    #[test]
    fn two_results_of_runs_that_differ_must_be_told_as_such_in_the_end() {
        let job = Job::of(1);
        let lied = || tale(&job).runs(3, job.lease(1, 1), 0, &job.another()).runs(4, job.lease(1, 2), 0, &job.left(0));
        let both = || {
            let one = lied().shows(1, job.shard(), &[job.done(0)]);
            one.shows(2, job.shard(), &[job.done_with(0, job.another())]).fact(&Fact::Settled)
        };
        both().shows(1, job.shard(), &[job.disputed(0)]).passes();
        both().shows(1, job.shard(), &[job.done(0)]).breaks("then");
    }

    #[test]
    fn a_task_rises_only_when_its_job_may_stop() {
        let job = Job::patient(1);
        let cancelled = run(0, TaskState::ended(End::Cancelled));
        let rises = |tale: Tale<Judge>| {
            tale.shows(1, job.shard(), std::slice::from_ref(&cancelled)).shows(1, job.shard(), &[job.done(0)])
        };
        rises(tale(&job)).breaks("then");
        rises(tale(&job).fact(&Fact::Cancelling { job: job.id })).passes();
    }

    #[test]
    fn a_result_that_is_gone_in_the_end_is_judged() {
        let job = Job::of(1);
        let told = tale(&job).fact(&Fact::Cancelling { job: job.id }).shows(1, job.shard(), &[job.done(0)]);
        let cancelled = run(0, TaskState::ended(End::Cancelled));
        told.fact(&Fact::Settled).shows(1, job.shard(), &[cancelled]).breaks("then");
    }

    #[test]
    fn another_end_of_a_job_is_judged() {
        let job = Job::patient(1);
        let told = tale(&job).reports(1, &job, counts(1, 0, 0), None);
        told.reports(2, &job, counts(0, 1, 0), None).breaks("told Done, then");
    }

    #[test]
    fn a_job_that_failed_is_not_cancelled_in_the_end() {
        let job = Job::of(2);
        let cancelling = || tale(&job).fact(&Fact::Disturbed).fact(&Fact::Cancelling { job: job.id });
        let told = |first, last: Counts| {
            let told = cancelling().reports(1, &job, first, None).fact(&Fact::Settled);
            told.reports(2, &job, last, Some(StopCause::Cancelled))
        };
        told(counts(1, 1, 0), counts(1, 0, 1)).breaks("told Failed, then");
        told(counts(1, 1, 0), counts(2, 0, 0)).passes();
    }

    #[test]
    fn a_cancel_after_the_end_changes_nothing_in_a_calm_swarm() {
        let job = Job::of(2);
        let over = || tale(&job).reports(1, &job, counts(1, 1, 0), None);
        let cancelled = |tale: Tale<Judge>| {
            let cancelled = tale.fact(&Fact::Cancelling { job: job.id });
            cancelled.reports(1, &job, counts(1, 0, 1), Some(StopCause::Cancelled))
        };
        cancelled(over()).breaks("after a cancel");
        cancelled(over().fact(&Fact::Disturbed)).passes();
    }
}
