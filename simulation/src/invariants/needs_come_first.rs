//! No task starts before what it needs: every task of a stage that is needed whole has succeeded, or has ended where that
//! is enough; of a stage that is needed element by element, those with its values.

use swarm_protocol::Edge;

use super::Invariant;
use crate::history::{Fact, History, JobHistory};

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
        let enough = |need: &u16| match stage.options.needs_finished.contains(need) {
            true => job.stage_has_ended(*need) || job.stage_succeeded(*need),
            false => job.stage_succeeded(*need),
        };
        if let Some(need) = stage.needs.iter().find(|need| stage.needs_whole(**need) && !enough(need)) {
            return Err(format!("{node:?} starts task {task} of {:?} before stage {need} is done", lease.shard));
        }
        match Edge::of(&job.spec, stage).iter().find_map(|edge| early(job, edge, *task)) {
            Some((stage, needed)) => {
                Err(format!("{node:?} starts task {task} of {:?} before task {needed} of stage {stage}", lease.shard))
            }
            None => Ok(()),
        }
    }
}

/// A task that must be over before this one starts, and is not.
fn early(job: &JobHistory, edge: &Edge, task: u32) -> Option<(u16, u32)> {
    let is_over = |needed: &u32| {
        job.has_succeeded(edge.stage, *needed) || (edge.finished && job.has_task_ended(edge.stage, *needed))
    };
    let mut needed = edge.needed(task).into_iter().flat_map(|range| range.indexes());
    needed.find(|needed| !is_over(needed)).map(|needed| (edge.stage, needed))
}

#[cfg(test)]
mod tests {
    use swarm_protocol::{Ending, SameNeed, StageOptions};

    use super::super::tale::{Job, Tale, given_up, id};
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
    fn an_element_waits_for_its_own() {
        let needs_same = vec![SameNeed { stage: 0, names: vec!["index".into()] }];
        let job = Job::of_two_stages_with(2, StageOptions { needs_same, ..StageOptions::default() });
        let half = || Tale::of(Judge).with(&job).runs(3, job.lease(1, 1), 0, &job.left(0));
        half().starts(3, second(&job), 0).passes();
        half().starts(3, second(&job), 1).breaks("before task 1 of stage 0");
    }

    #[test]
    fn a_stage_that_is_needed_over_must_be_over() {
        let job = Job::of_two_stages_with(2, StageOptions { needs_finished: vec![0], ..StageOptions::default() });
        let half = || Tale::of(Judge).with(&job).runs(3, job.lease(1, 1), 0, &job.left(0));
        half().starts(3, second(&job), 0).breaks("before stage 0 is done");
        let ended = [job.done(0), given_up(1, job.lease(1, 1), 3, Ending::Lost)];
        let recorded = Fact::Recorded { node: id(3), shard: job.shard(), segment: &ended };
        half().fact(&recorded).starts(3, second(&job), 0).passes();
    }

    #[test]
    fn a_task_that_does_not_exist_is_judged() {
        let job = Job::of(2);
        Tale::of(Judge).with(&job).starts(3, job.lease(1, 1), 2).breaks("does not exist");
        Tale::of(Judge).starts(3, job.lease(1, 1), 0).breaks("nobody submitted");
    }
}
