//! What a user was once told of how a task or job ended is never told differently later.
//!
//! One exception: a task of a stopped job may rise to a stronger end, since somebody may still come with its result.

use std::collections::BTreeMap;

use swarm_protocol::lattice::End;
use swarm_protocol::{Answer, JobId, JobState, NodeId, Outcome, Query, ShardId};

use super::Invariant;
use crate::history::{Fact, History, tasks_of};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Exhausted(Outcome),
    Cancelled,
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
    jobs: BTreeMap<JobId, (NodeId, JobState)>,
}

impl Judge {
    fn on_task(&mut self, node: NodeId, shard: ShardId, task: u32, now: Told, stopped: bool) -> Result<(), String> {
        let (first, before) = self.tasks.entry((shard, task)).or_insert_with(|| (node, now.clone()));
        let kind = |told: &Told| std::mem::discriminant(told);
        if *before == now || (stopped && kind(before) != kind(&now)) {
            *before = now.max(before.clone());
            return Ok(());
        }
        Err(format!("task {task} of {shard:?}: {first:?} told {before:?}, then {node:?} told {now:?}"))
    }

    fn on_job(&mut self, node: NodeId, job: JobId, now: JobState) -> Result<(), String> {
        let (first, before) = *self.jobs.entry(job).or_insert((node, now));
        if before == now {
            return Ok(());
        }
        Err(format!("job {job:?}: {first:?} told {before:?}, then {node:?} told {now:?}"))
    }
}

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "told_never_changes"
    }

    fn judge(&mut self, history: &History, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Told { node, answer: Answer::Job { job, status }, .. } if status.state().is_over() => {
                self.on_job(*node, job.id(), status.state())
            }
            Fact::Told { node, query: Query::Shard { shard, .. }, answer: Answer::Shard { segment, .. } } => {
                let stopped = history.jobs.get(&shard.job).is_some_and(|job| job.cancelling || job.failing() > 0);
                let ended = segment.iter().filter_map(|run| Some((run.range, run.state.end.as_ref()?)));
                for (range, end) in ended {
                    for task in tasks_of(range) {
                        self.on_task(*node, *shard, task, Told::from(end), stopped)?;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
