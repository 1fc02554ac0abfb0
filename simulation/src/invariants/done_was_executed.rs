//! Every task is executed at least once before anybody says that it ended, and what is said is what a run left behind; so
//! are its failures, except those of attempts lost with their node.

use swarm_protocol::lattice::{End, Run};
use swarm_protocol::{Answer, Ending, Outcome, Query, ShardId};

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
    for task in tasks_of(run.range) {
        match &run.state.end {
            Some(End::Done(results)) => judge_end(job, shard, task, results.outcome())?,
            // What needs a failed element fails, and never ran.
            Some(End::Exhausted(results)) if matches!(results.outcome().ending, Ending::Rejected(_)) => {
                judge_wait(job, shard, task, results.outcome())?;
            }
            // A task that was lost with its nodes never came to an end of its own.
            Some(End::Exhausted(results)) if results.outcome().ending != Ending::Lost => {
                judge_end(job, shard, task, results.outcome())?;
            }
            _ => {}
        }
        for failure in run.state.failures.values().filter(|failure| failure.ending != Ending::Lost) {
            judge_end(job, shard, task, &Outcome::bare(failure.ending.clone()))?;
        }
    }
    Ok(())
}

fn judge_wait(job: &JobHistory, shard: ShardId, task: u32, said: &Outcome) -> Result<(), String> {
    match job.may_wait_in_vain(shard.stage, task) {
        true => Ok(()),
        false => Err(format!("task {task} of {shard:?} is said to wait in vain: {said:?}")),
    }
}

fn judge_end(job: &JobHistory, shard: ShardId, task: u32, said: &Outcome) -> Result<(), String> {
    if job.has_left(shard.stage, task, said) {
        return Ok(());
    }
    if !job.has_run(shard.stage, task) {
        return Err(format!("task {task} of {shard:?} is said to have ended ({:?}), but never ran", said.ending));
    }
    let left = job.scripted(shard.stage, task);
    Err(format!("task {task} of {shard:?} is said to have left {said:?}, but left {left:?}"))
}

#[cfg(test)]
mod tests {
    use super::super::tale::{Job, Tale, failure, record};
    use super::*;

    #[test]
    fn what_ran_may_be_told() {
        let job = Job::of(1);
        let ran = Tale::of(Judge).with(&job).runs(3, job.lease(1, 1), 0, &job.left(0));
        ran.says(1, 2, &record(job.shard(), 1, job.done(0))).shows(1, job.shard(), &[job.done(0)]).passes();
    }

    #[test]
    fn an_end_without_a_run_is_judged() {
        let job = Job::of(2);
        let ran = || Tale::of(Judge).with(&job).runs(3, job.lease(1, 1), 0, &job.left(0));
        ran().says(1, 2, &record(job.shard(), 1, job.done(1))).breaks("never ran");
        ran().shows(1, job.shard(), &[job.done(1)]).breaks("never ran");
    }

    #[test]
    fn an_outcome_that_no_run_left_is_judged() {
        let job = Job::of(2);
        let ran = Tale::of(Judge).with(&job).runs(3, job.lease(1, 1), 0, &job.left(0));
        ran.says(1, 2, &record(job.shard(), 1, job.done_with(0, job.another()))).breaks("but left");
    }

    #[test]
    fn what_a_lying_machine_left_may_be_told() {
        let job = Job::of(1);
        let ran = Tale::of(Judge).with(&job).runs(3, job.lease(1, 1), 0, &job.another());
        let told = ran.says(1, 2, &record(job.shard(), 1, job.done_with(0, job.another())));
        told.says(1, 2, &record(job.shard(), 1, job.done(0))).breaks("but left");
    }

    #[test]
    fn a_failure_that_did_not_happen_is_judged() {
        let job = Job::of(1);
        let ran = || Tale::of(Judge).with(&job).runs(3, job.lease(1, 1), 0, &job.left(0));
        let lost = failure(0, job.lease(1, 1), 3, Ending::Lost);
        ran().says(1, 2, &record(job.shard(), 1, lost)).passes();
        let trapped = failure(0, job.lease(1, 1), 3, Ending::Trapped("no".into()));
        ran().says(1, 2, &record(job.shard(), 1, trapped)).breaks("but left");
    }
}
