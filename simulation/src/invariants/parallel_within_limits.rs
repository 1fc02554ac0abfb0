//! Of a job that limits how many of its tasks run at once, no more are with executors at once, over the whole swarm.
//!
//! The limit is exact while the nodes agree who is the first custodian of the job, and its tolerance is for when they do
//! not: so it is judged of jobs that were handed over after all nodes were linked for [`ACQUAINTED`], while no node is
//! lost or cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use swarm_protocol::{JobId, LeaseId, NodeId, Range, Time};

use super::Invariant;
use crate::history::{Fact, History, tasks_of};

/// After so long, nodes that are linked know each other as members, and whoever became the first custodian has heard what
/// each arbiter holds.
const ACQUAINTED: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Judge {
    /// What executors were given of limited jobs and what has not come to an end with them.
    given: BTreeMap<JobId, BTreeSet<(NodeId, LeaseId, u32)>>,
    disturbed: Time,
}

impl Judge {
    fn on_started(&mut self, history: &History, node: NodeId, lease: LeaseId, task: u32) -> Result<(), String> {
        let id = lease.shard.job;
        let Some(job) = history.jobs.get(&id) else { return Ok(()) };
        let Some(most) = job.spec.options.parallel_max else { return Ok(()) };
        let given = self.given.entry(id).or_default();
        given.insert((node, lease, task));
        let linked = history.linked.map(|(at, _)| at);
        let calm = linked.is_some_and(|at| job.submitted >= at.max(self.disturbed) + ACQUAINTED);
        if calm && given.len() > most as usize {
            return Err(format!("{} tasks of {id:?} are with executors, and {most} may be: {given:?}", given.len()));
        }
        Ok(())
    }

    fn take(&mut self, node: NodeId, lease: LeaseId, tasks: impl Iterator<Item = u32>) {
        if let Some(given) = self.given.get_mut(&lease.shard.job) {
            tasks.for_each(|task| {
                given.remove(&(node, lease, task));
            });
        }
    }

    fn take_all(&mut self, node: NodeId, lease: LeaseId, tasks: &[Range]) {
        self.take(node, lease, tasks.iter().flat_map(|range| tasks_of(*range)));
    }
}

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "parallel_within_limits"
    }

    fn judge(&mut self, history: &History, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Started { node, lease, task, .. } => return self.on_started(history, *node, *lease, *task),
            Fact::Ran { node, lease, task, .. } => self.take(*node, *lease, std::iter::once(*task)),
            Fact::Dropped { node, lease, tasks } | Fact::Released { node, lease, tasks } => {
                self.take_all(*node, *lease, tasks);
            }
            Fact::Down { node } => {
                self.given.values_mut().for_each(|given| given.retain(|(at, ..)| at != node));
            }
            // Those that could not hear each other are not acquainted when packets pass again.
            Fact::Disturbed | Fact::Reunited => self.disturbed = history.now,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tale::{Job, Tale, id};
    use super::*;

    /// Two tasks at once of a job that allows two, in a swarm that is calm.
    fn two(job: &Job) -> Tale<Judge> {
        let linked = Tale::of(Judge::default()).fact(&Fact::Linked { nodes: 3 }).after(10);
        linked.with(job).starts(1, job.lease(1, 1), 0).starts(2, job.lease(1, 2), 1)
    }

    #[test]
    fn one_task_too_many_at_once_is_judged() {
        let job = Job::of_parallel(3, 2);
        two(&job).starts(3, job.lease(1, 3), 2).breaks("3 tasks of");
        two(&job).runs(2, job.lease(1, 2), 1, &job.left(1)).starts(3, job.lease(1, 3), 2).passes();
        two(&job).fact(&Fact::Down { node: id(1) }).starts(3, job.lease(1, 3), 2).passes();
    }

    #[test]
    fn nodes_that_are_parted_may_each_run_as_many() {
        let job = Job::of_parallel(3, 2);
        two(&job).fact(&Fact::Disturbed).starts(3, job.lease(1, 3), 2).passes();
        two(&job).fact(&Fact::Reunited).starts(3, job.lease(1, 3), 2).passes();
    }
}
