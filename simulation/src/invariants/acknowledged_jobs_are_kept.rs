//! An acknowledged job is never lost: once everything settled, whichever node is asked knows it. Of jobs that expire,
//! `expired_jobs_were_over` tells.

use std::collections::BTreeSet;

use swarm_protocol::{Answer, JobId, Query};

use super::Invariant;
use crate::history::{Fact, History};

#[derive(Default)]
pub(super) struct Judge {
    known: BTreeSet<JobId>,
}

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "acknowledged_jobs_are_kept"
    }

    fn judge(&mut self, history: &History, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Told { node, query: Query::Job(job), answer, .. } if history.settled => match answer {
                Answer::Job { job: signed, .. } if signed.id() == *job => {
                    self.known.insert(*job);
                    Ok(())
                }
                Answer::Job { job: other, .. } => Err(format!("{node:?}, asked for {job:?}, gave {:?}", other.id())),
                _ if history.jobs.get(job).is_none_or(|it| !it.is_to_last()) => Ok(()),
                _ => Err(format!("{node:?} does not know job {job:?}, which was acknowledged")),
            },
            Fact::Closed => {
                let acknowledged = history.jobs.iter().filter(|(_, it)| it.is_to_last());
                match acknowledged.map(|(job, _)| job).find(|job| !self.known.contains(job)) {
                    Some(job) => Err(format!("nobody answered for job {job:?}, which was acknowledged")),
                    None => Ok(()),
                }
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

    fn settled(job: &Job) -> Tale<Judge> {
        Tale::of(Judge::default()).with(job).fact(&Fact::Settled)
    }

    #[test]
    fn a_job_that_everybody_knows_is_fine() {
        let job = Job::of(1);
        settled(&job).reports(1, &job, Counts::default(), None).fact(&Fact::Closed).passes();
    }

    #[test]
    fn a_job_that_a_node_does_not_know_is_judged() {
        let job = Job::of(1);
        settled(&job).told(1, &Query::Job(job.id), &Answer::Unknown).breaks("does not know");
    }

    #[test]
    fn a_job_that_nobody_answers_for_is_judged() {
        settled(&Job::of(1)).fact(&Fact::Closed).breaks("nobody answered");
    }

    #[test]
    fn a_job_that_was_not_acknowledged_may_be_unknown() {
        let job = Job::of(1);
        let tale = Tale::of(Judge::default()).submitted(&job).fact(&Fact::Settled);
        tale.told(1, &Query::Job(job.id), &Answer::Unknown).fact(&Fact::Closed).passes();
    }
}
