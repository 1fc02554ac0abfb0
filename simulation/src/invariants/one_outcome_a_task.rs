//! A job that is over has exactly one outcome a task, and every node that is asked tells the same.

use std::collections::{BTreeMap, BTreeSet};

use swarm_protocol::lattice::{End, Run};
use swarm_protocol::{Answer, JobId, JobState, NodeId, Query, ShardId};

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
            End::Done(results) | End::Exhausted(results) if results.is_disputed() => {
                Err(format!("task {task} of {shard:?} has two outcomes: {results:?}"))
            }
            End::Done(_) if !scripted => Err(format!("task {task} of {shard:?} cannot succeed, but is done")),
            End::Exhausted(_) if scripted => Err(format!("task {task} of {shard:?} cannot fail, but failed: {end:?}")),
            _ => Ok(()),
        }
    }

    /// Every task of every acknowledged job has an end.
    fn on_closed(&self, history: &History) -> Result<(), String> {
        for (id, job) in history.jobs.iter().filter(|(_, job)| job.acknowledged.is_some()) {
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
            one.outcome() == other.outcome()
        }
        (End::Cancelled, End::Cancelled) => true,
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
