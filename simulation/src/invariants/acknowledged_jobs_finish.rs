//! Progress: once faults are over, every acknowledged job is over within the bound.

use std::collections::BTreeMap;

use swarm_protocol::{Answer, JobId, JobState, JobStatus};

use super::Invariant;
use crate::history::{Fact, History};

#[derive(Default)]
pub(super) struct Judge {
    last: BTreeMap<JobId, JobStatus>,
    over: BTreeMap<JobId, JobState>,
}

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "acknowledged_jobs_finish"
    }

    fn judge(&mut self, history: &History, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Told { answer: Answer::Job { job, status }, .. } => {
                let (job, state) = (job.id(), status.state());
                if state.is_over() {
                    self.over.insert(job, state);
                }
                self.last.insert(job, status.clone());
                Ok(())
            }
            Fact::Bounded => {
                let acknowledged = history.jobs.iter().filter(|(_, it)| it.is_to_last());
                let mut open = acknowledged.map(|(job, _)| job).filter(|job| !self.over.contains_key(job));
                open.next().map_or(Ok(()), |job| match self.last.get(job) {
                    Some(status) => Err(format!("job {job:?} is not over; last told: {status:?}")),
                    None => Err(format!("job {job:?} is not over; nobody ever told anything of it")),
                })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use swarm_protocol::lattice::Counts;

    use super::super::tale::{Job, Tale};
    use super::*;

    fn reported(done: u32) -> Tale<Judge> {
        let job = Job::of(2);
        Tale::of(Judge::default()).with(&job).reports(1, &job, Counts { done, ..Counts::default() }, None)
    }

    #[test]
    fn a_job_that_is_over_is_fine() {
        reported(2).fact(&Fact::Bounded).passes();
    }

    #[test]
    fn a_job_that_is_not_over_is_judged() {
        reported(1).fact(&Fact::Bounded).breaks("is not over; last told");
        Tale::of(Judge::default()).with(&Job::of(1)).fact(&Fact::Bounded).breaks("nobody ever told");
    }
}
