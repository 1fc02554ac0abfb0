//! A job is stopped only when a user asked for it, or when more of its tasks fail than it allows; and only the tasks of a
//! job that is stopped are cancelled.

use swarm_protocol::lattice::{End, Run};
use swarm_protocol::{Answer, Query, ShardId, StopCause};

use super::Invariant;
use crate::history::{Fact, History, JobHistory, facts_in};

pub(super) struct Judge;

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "stops_have_a_cause"
    }

    fn judge(&mut self, history: &History, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Told { node, answer: Answer::Job { job, status }, .. } => {
                let (Some(cause), Some(known)) = (status.stop, history.jobs.get(&job.id())) else { return Ok(()) };
                let rightly = match cause {
                    StopCause::Cancelled => known.cancelling,
                    StopCause::Failures => may_fail(known),
                };
                if rightly { Ok(()) } else { Err(format!("{node:?} says that {:?} was stopped: {cause:?}", job.id())) }
            }
            Fact::Told { query: Query::Shard { shard, .. }, answer: Answer::Shard { segment, .. }, .. } => {
                judge_segment(history, *shard, segment)
            }
            Fact::Said { message, .. } => match facts_in(message) {
                Some((shard, segment)) => judge_segment(history, shard, segment),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

/// Also when it fails less than allowed: a stage that needs a failed one can never run.
fn may_fail(job: &JobHistory) -> bool {
    job.failing() > 0 || job.may_be_lost()
}

fn judge_segment(history: &History, shard: ShardId, segment: &[Run]) -> Result<(), String> {
    let stopped = history.jobs.get(&shard.job).is_none_or(|job| job.cancelling || may_fail(job));
    match segment.iter().find(|run| run.state.end == Some(End::Cancelled)) {
        Some(run) if !stopped => {
            Err(format!("tasks {:?} of {shard:?} are cancelled, but nobody stopped it", run.range))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use swarm_protocol::lattice::{Counts, TaskState};

    use super::super::tale::{Job, Tale, record, run};
    use super::*;

    fn stopped(tale: Tale<Judge>, job: &Job, cause: StopCause) -> Tale<Judge> {
        tale.reports(1, job, Counts::default(), Some(cause))
    }

    #[test]
    fn a_cancel_needs_a_user() {
        let job = Job::patient(1);
        let tale = || Tale::of(Judge).with(&job);
        stopped(tale(), &job, StopCause::Cancelled).breaks("was stopped: Cancelled");
        stopped(tale().fact(&Fact::Cancelling { job: job.id }), &job, StopCause::Cancelled).passes();
    }

    #[test]
    fn failures_need_tasks_that_fail() {
        let (job, traps) = (Job::patient(1), Job::of_traps(1));
        stopped(Tale::of(Judge).with(&job), &job, StopCause::Failures).breaks("was stopped: Failures");
        stopped(Tale::of(Judge).with(&traps), &traps, StopCause::Failures).passes();
    }

    #[test]
    fn a_cancelled_task_needs_a_stopped_job() {
        let job = Job::patient(1);
        let cancelled = run(0, TaskState::ended(End::Cancelled));
        let tale = || Tale::of(Judge).with(&job);
        tale().says(1, 2, &record(job.shard(), 1, cancelled.clone())).breaks("nobody stopped");
        tale().shows(1, job.shard(), std::slice::from_ref(&cancelled)).breaks("nobody stopped");
        tale().fact(&Fact::Cancelling { job: job.id }).shows(1, job.shard(), &[cancelled]).passes();
    }
}
