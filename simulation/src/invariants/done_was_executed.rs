//! Every task is executed at least once before anybody says that it ended, and what is said is what it left behind.

use swarm_protocol::lattice::{End, Run};
use swarm_protocol::{Answer, Outcome, Query, ShardId};

use super::Invariant;
use crate::history::{Fact, History, JobHistory, facts_in, tasks_of};

pub(super) struct Judge;

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "done_was_executed"
    }

    fn judge(&mut self, history: &History, fact: &Fact<'_>) -> Result<(), String> {
        let (shard, segment): (ShardId, &[Run]) = match fact {
            Fact::Said { message, .. } => match facts_in(message) {
                Some(facts) => facts,
                None => return Ok(()),
            },
            Fact::Told { query: Query::Shard { shard, .. }, answer: Answer::Shard { segment, .. }, .. } => {
                (*shard, segment)
            }
            _ => return Ok(()),
        };
        let Some(job) = history.jobs.get(&shard.job) else { return Err(format!("nobody submitted {:?}", shard.job)) };
        segment.iter().try_for_each(|run| judge_run(job, shard, run))
    }
}

fn judge_run(job: &JobHistory, shard: ShardId, run: &Run) -> Result<(), String> {
    let said = match &run.state.end {
        Some(End::Done(results) | End::Exhausted(results)) => results.outcome(),
        Some(End::Cancelled) | None => return Ok(()),
    };
    tasks_of(run.range).try_for_each(|task| judge_task(job, shard, task, said))
}

fn judge_task(job: &JobHistory, shard: ShardId, task: u32, said: &Outcome) -> Result<(), String> {
    if !job.has_run(shard.stage, task) {
        return Err(format!("task {task} of {shard:?} is said to have ended ({:?}), but never ran", said.ending));
    }
    match job.scripted(shard.stage, task) {
        Some(left) if left == *said => Ok(()),
        left => Err(format!("task {task} of {shard:?} is said to have left {said:?}, but left {left:?}")),
    }
}
