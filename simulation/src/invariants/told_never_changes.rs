//! What a user was once told of how a task or job ended is never told differently later.
//!
//! One exception: a stop races with the results that are under way, perhaps on the far side of a partition, so a task of
//! a stopped job may rise to a stronger end, and with it the job. But while no node was lost or cut off, a job that was
//! over before anybody cancelled it stays what it was.

use std::collections::BTreeMap;

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
    /// Jobs that nobody had cancelled by then, and who told it first.
    jobs: BTreeMap<JobId, (NodeId, JobState)>,
    /// The same, as each node told it, while none was lost or cut off.
    by_node: BTreeMap<(JobId, NodeId), JobState>,
    disturbed: bool,
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

    fn on_job(&mut self, node: NodeId, job: JobId, now: JobState, cancelling: bool) -> Result<(), String> {
        if !cancelling {
            let (first, before) = *self.jobs.entry(job).or_insert((node, now));
            if !self.disturbed {
                self.by_node.insert((job, node), now);
            }
            if before != now {
                return Err(format!("job {job:?}: {first:?} told {before:?}, then {node:?} told {now:?}"));
            }
        }
        match self.by_node.get(&(job, node)) {
            Some(before) if *before != now => {
                Err(format!("job {job:?}: {node:?} told {before:?}, and after a cancel {now:?}"))
            }
            _ => Ok(()),
        }
    }
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
                let cancelling = history.jobs.get(&job.id()).is_some_and(|it| it.cancelling);
                self.on_job(*node, job.id(), status.state(), cancelling)
            }
            Fact::Told { node, query: Query::Shard { shard, .. }, answer: Answer::Shard { segment, .. }, .. } => {
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
