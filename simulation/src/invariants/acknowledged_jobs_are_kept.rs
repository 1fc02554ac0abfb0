//! An acknowledged job is never lost: once everything settled, whichever node is asked knows it.

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
                _ if !history.jobs.get(job).is_some_and(|it| it.acknowledged.is_some()) => Ok(()),
                _ => Err(format!("{node:?} does not know job {job:?}, which was acknowledged")),
            },
            Fact::Closed => {
                let acknowledged = history.jobs.iter().filter(|(_, it)| it.acknowledged.is_some());
                match acknowledged.map(|(job, _)| job).find(|job| !self.known.contains(job)) {
                    Some(job) => Err(format!("nobody answered for job {job:?}, which was acknowledged")),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
