//! A job that is over has exactly one outcome a task, and every node that is asked tells the same. Where runs left
//! different things behind, because a machine lies, all tell the same of them, and that there is a dispute.

use std::collections::{BTreeMap, BTreeSet};

use swarm_protocol::lattice::{End, Results, Run};
use swarm_protocol::{Answer, Ending, JobId, JobState, NodeId, Query, ShardId};

use super::Invariant;
use crate::history::{Fact, History, JobHistory, tasks_of};

#[derive(Default)]
pub(super) struct Judge {
    states: BTreeMap<JobId, (NodeId, JobState)>,
    ends: BTreeMap<(ShardId, u32), (NodeId, End)>,
    /// Per shard, the nodes that were asked for its first task and on.
    told: BTreeMap<ShardId, BTreeSet<NodeId>>,
}

impl Judge {
    fn on_state(&mut self, node: NodeId, job: JobId, state: JobState) -> Result<(), String> {
        let (first, known) = *self.states.entry(job).or_insert((node, state));
        if known == state {
            return Ok(());
        }
        Err(format!("job {job:?} is {known:?} for {first:?} and {state:?} for {node:?}"))
    }

    fn on_segment(&mut self, node: NodeId, job: &JobHistory, shard: ShardId, segment: &[Run]) -> Result<(), String> {
        self.told.entry(shard).or_default().insert(node);
        for run in segment {
            let Some(end) = &run.state.end else { continue };
            for task in tasks_of(run.range) {
                self.on_end(node, job, shard, task, end)?;
            }
        }
        Ok(())
    }

    fn on_end(&mut self, node: NodeId, job: &JobHistory, shard: ShardId, task: u32, end: &End) -> Result<(), String> {
        let (first, known) = self.ends.entry((shard, task)).or_insert_with(|| (node, end.clone()));
        if !same(known, end) {
            return Err(format!("task {task} of {shard:?} is {known:?} for {first:?} and {end:?} for {node:?}"));
        }
        let scripted = job.scripted(shard.stage, task).is_some_and(|it| it.ending.is_success());
        match end {
            End::Done(results) | End::Exhausted(results)
                if results.is_disputed() && !job.has_two_outcomes(shard.stage, task) =>
            {
                Err(format!("task {task} of {shard:?} has two outcomes: {results:?}"))
            }
            End::Done(_) if !scripted => Err(format!("task {task} of {shard:?} cannot succeed, but is done")),
            End::Exhausted(results) if scripted && !may_fail(job, shard, task, results) => {
                Err(format!("task {task} of {shard:?} cannot fail, but failed: {end:?}"))
            }
            _ => Ok(()),
        }
    }

    /// Every task of every acknowledged job has an end.
    fn on_closed(&self, history: &History) -> Result<(), String> {
        for (id, job) in history.jobs.iter().filter(|(_, job)| job.is_to_last()) {
            for shard in job.spec.shards(*id) {
                let range = job.spec.stages[usize::from(shard.stage)].shard_range(shard.number);
                if let Some(task) = range.indexes().find(|task| !self.ends.contains_key(&(shard, *task))) {
                    let told = self.told.get(&shard);
                    return Err(format!("nobody told an end of task {task} of {shard:?}; answers came from {told:?}"));
                }
            }
        }
        Ok(())
    }
}

/// Whether two ends are one for a user: holders of blobs may differ.
fn same(one: &End, other: &End) -> bool {
    match (one, other) {
        (End::Done(one), End::Done(other)) | (End::Exhausted(one), End::Exhausted(other)) => {
            (one.outcome(), one.is_disputed()) == (other.outcome(), other.is_disputed())
        }
        (End::Cancelled, End::Cancelled) => true,
        _ => false,
    }
}

/// Whether a task that succeeds by its script may fail in this way: lost with its nodes, or with an element that it needs.
fn may_fail(job: &JobHistory, shard: ShardId, task: u32, results: &Results) -> bool {
    match results.outcome().ending {
        Ending::Lost => job.may_be_lost(),
        Ending::Rejected(_) => job.may_wait_in_vain(shard.stage, task),
        _ => false,
    }
}

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "one_outcome_a_task"
    }

    fn judge(&mut self, history: &History, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Told { .. } if !history.settled => Ok(()),
            Fact::Told { node, answer: Answer::Job { job, status }, .. } => {
                let over = history.jobs.get(&job.id()).is_some_and(|it| it.acknowledged.is_some());
                if over { self.on_state(*node, job.id(), status.state()) } else { Ok(()) }
            }
            Fact::Told { node, query: Query::Shard { shard, .. }, answer: Answer::Shard { segment, .. }, .. } => {
                match history.jobs.get(&shard.job) {
                    Some(job) if job.acknowledged.is_some() => self.on_segment(*node, job, *shard, segment),
                    _ => Ok(()),
                }
            }
            Fact::Closed => self.on_closed(history),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use swarm_protocol::lattice::Counts;

    use super::super::tale::{Job, Tale, given_up};
    use super::*;

    fn settled(job: &Job) -> Tale<Judge> {
        Tale::of(Judge::default()).with(job).fact(&Fact::Settled)
    }

    #[test]
    fn one_end_told_by_all_is_fine() {
        let job = Job::of(1);
        let told = settled(&job).shows(1, job.shard(), &[job.done(0)]).shows(2, job.shard(), &[job.done(0)]);
        told.fact(&Fact::Closed).passes();
    }

    #[test]
    fn two_ends_are_judged() {
        let job = Job::of(1);
        let told = settled(&job).shows(1, job.shard(), &[job.done(0)]);
        told.shows(2, job.shard(), &[job.done_with(0, job.another())]).breaks("is Done");
    }

    #[test]
    fn two_outcomes_of_honest_machines_are_judged() {
        let job = Job::of(1);
        settled(&job).shows(1, job.shard(), &[job.disputed(0)]).breaks("two outcomes");
        let lied = settled(&job).runs(3, job.lease(1, 1), 0, &job.another()).runs(4, job.lease(1, 2), 0, &job.left(0));
        lied.shows(1, job.shard(), &[job.disputed(0)]).passes();
    }

    #[test]
    fn success_and_failure_are_not_mixed_up() {
        let (job, traps) = (Job::of(1), Job::of_traps(1));
        let failed = |job: &Job| given_up(0, job.lease(1, 1), 3, Ending::Trapped("unreachable".into()));
        settled(&job).shows(1, job.shard(), &[failed(&job)]).breaks("cannot fail");
        settled(&traps).shows(1, traps.shard(), &[failed(&traps)]).passes();
        settled(&traps).shows(1, traps.shard(), &[traps.done(0)]).breaks("cannot succeed");
    }

    #[test]
    fn a_task_without_an_end_is_judged() {
        let job = Job::of(2);
        settled(&job).shows(1, job.shard(), &[job.done(0)]).fact(&Fact::Closed).breaks("an end of task 1");
    }

    #[test]
    fn two_states_of_one_job_are_judged() {
        let job = Job::of(1);
        let counts = |done, failed| Counts { done, failed, cancelled: 0 };
        let told = settled(&job).reports(1, &job, counts(1, 0), None);
        told.reports(2, &job, counts(0, 1), None).breaks("is Done for");
    }
}
