//! No task starts before every task of every stage that it needs has succeeded.

use super::Invariant;
use crate::history::{Fact, History};

pub(super) struct Judge;

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "needs_come_first"
    }

    fn judge(&mut self, history: &History, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Started { node, lease, task, .. } = fact else { return Ok(()) };
        let Some(job) = history.jobs.get(&lease.shard.job) else {
            return Err(format!("{node:?} starts a task of {:?}, which nobody submitted", lease.shard));
        };
        let Some(stage) = job.spec.stages.get(usize::from(lease.shard.stage)).filter(|stage| *task < stage.count)
        else {
            return Err(format!("{node:?} starts task {task} of {:?}, which does not exist", lease.shard));
        };
        match stage.needs.iter().find(|need| !job.stage_succeeded(**need)) {
            Some(need) => Err(format!("{node:?} starts task {task} of {:?} before stage {need} is done", lease.shard)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tale::{Job, Tale};
    use super::*;

    fn second(job: &Job) -> swarm_protocol::LeaseId {
        let first = job.lease(1, 1);
        swarm_protocol::LeaseId { shard: swarm_protocol::ShardId { stage: 1, ..first.shard }, ..first }
    }

    #[test]
    fn a_stage_waits_for_what_it_needs() {
        let job = Job::of_two_stages(2);
        let half = || Tale::of(Judge).with(&job).runs(3, job.lease(1, 1), 0, &job.left(0));
        half().starts(3, second(&job), 0).breaks("before stage 0 is done");
        half().runs(3, job.lease(1, 1), 1, &job.left(1)).starts(3, second(&job), 0).passes();
    }

    #[test]
    fn a_task_that_does_not_exist_is_judged() {
        let job = Job::of(2);
        Tale::of(Judge).with(&job).starts(3, job.lease(1, 1), 2).breaks("does not exist");
        Tale::of(Judge).starts(3, job.lease(1, 1), 0).breaks("nobody submitted");
    }
}
