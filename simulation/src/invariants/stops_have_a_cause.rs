//! A job is stopped only when a user asked for it, or when more of its tasks fail than it allows.

use swarm_protocol::{Answer, StopCause};

use super::Invariant;
use crate::history::{Fact, History};

pub(super) struct Judge;

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "stops_have_a_cause"
    }

    fn judge(&mut self, history: &History, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Told { node, answer: Answer::Job { job, status }, .. } = fact else { return Ok(()) };
        let (Some(cause), Some(known)) = (status.stop, history.jobs.get(&job.id())) else { return Ok(()) };
        let rightly = match cause {
            StopCause::Cancelled => known.cancelling,
            // Also when it fails less than allowed: a stage that needs a failed one can never run.
            StopCause::Failures => known.failing() > 0,
        };
        if rightly { Ok(()) } else { Err(format!("{node:?} says that {:?} was stopped: {cause:?}", job.id())) }
    }
}
