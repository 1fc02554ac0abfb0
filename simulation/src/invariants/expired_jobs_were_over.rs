//! A job expires only when it was over for as long as its user wanted it kept.
//!
//! That it leaves nothing behind then is looked at in the end of a run, by `tidy`.

use std::collections::BTreeSet;
use std::time::Duration;

use swarm_protocol::JobId;

use super::Invariant;
use crate::history::{Fact, History, JobHistory};

/// Clocks run too fast by so small a part at most.
const DRIFT: u32 = 1000;

#[derive(Default)]
pub(super) struct Judge {
    expired: BTreeSet<JobId>,
}

/// Whether all of its tasks need not have ended: it may have been stopped.
fn may_stop(job: &JobHistory) -> bool {
    job.cancelling || job.failing() > 0 || job.may_be_lost()
}

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "expired_jobs_were_over"
    }

    fn judge(&mut self, history: &History, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Expired { job: id, .. } = fact else { return Ok(()) };
        let Some(job) = history.jobs.get(id).filter(|_| self.expired.insert(*id)) else { return Ok(()) };
        let keep = Duration::from_millis(job.spec.options.keep_ms);
        match job.ended_at {
            None if may_stop(job) => Ok(()),
            None => Err(format!("{id:?} expired before it was over")),
            Some(at) if history.now.since(at) + keep / DRIFT < keep => {
                Err(format!("{id:?} was over at {at} and expired before {keep:?} had passed"))
            }
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tale::{Job, Tale, id, record};
    use super::*;

    fn expires(tale: Tale<Judge>, job: &Job) -> Tale<Judge> {
        tale.fact(&Fact::Expired { node: id(1), job: job.id })
    }

    #[test]
    fn a_job_that_expires_before_its_time_is_judged() {
        let job = Job::kept_for(1, Duration::from_secs(60));
        let tale = || Tale::of(Judge::default()).with(&job);
        let over = || tale().says(1, 2, &record(job.shard(), 1, job.done(0)));
        expires(tale(), &job).breaks("before it was over");
        expires(over().after(50), &job).breaks("expired before");
        expires(over().after(60), &job).passes();
    }
}
