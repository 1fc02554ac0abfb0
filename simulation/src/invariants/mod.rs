//! What must hold, one promise a file, judged over everything that is observed.
//!
//! Each invariant sees every [`Fact`] in order, after the shared [`History`] took it in, and says what broke.

mod acknowledged_jobs_are_kept;
mod acknowledged_jobs_finish;
mod attempts_within_budgets;
mod cancel_is_final;
mod collections_spare_what_is_in_use;
mod copies_before_words;
mod custodians_converge;
mod done_was_executed;
mod drained_node_owes_nothing;
mod expired_jobs_were_over;
mod grants_obey_promises;
mod leases_within_credits;
mod needs_come_first;
mod one_outcome_a_task;
mod outputs_are_held;
mod parallel_within_limits;
mod queues_within_bounds;
mod released_tasks_are_not_charged;
mod reports_need_leases;
mod stops_have_a_cause;
#[cfg(test)]
mod tale;
mod told_never_changes;

use swarm_protocol::Time;

use crate::history::{Fact, History};

/// One promise.
trait Invariant {
    /// As in the name of its file.
    fn name(&self) -> &'static str;

    /// Takes in a fact; the error says what broke.
    fn judge(&mut self, history: &History, fact: &Fact<'_>) -> Result<(), String>;
}

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{invariant}, at {at}: {what}")]
pub struct Violation {
    /// The invariant.
    pub invariant: &'static str,
    /// When it broke.
    pub at: Time,
    /// How.
    pub what: String,
}

/// Judges a run.
pub(crate) struct Auditor {
    history: History,
    invariants: Vec<Box<dyn Invariant>>,
}

impl Auditor {
    pub(crate) fn new() -> Self {
        let invariants: Vec<Box<dyn Invariant>> = vec![
            Box::new(acknowledged_jobs_are_kept::Judge::default()),
            Box::new(acknowledged_jobs_finish::Judge::default()),
            Box::new(attempts_within_budgets::Judge::default()),
            Box::new(cancel_is_final::Judge::default()),
            Box::new(collections_spare_what_is_in_use::Judge::default()),
            Box::new(copies_before_words::Judge::default()),
            Box::new(custodians_converge::Judge::default()),
            Box::new(done_was_executed::Judge),
            Box::new(drained_node_owes_nothing::Judge::default()),
            Box::new(expired_jobs_were_over::Judge::default()),
            Box::new(grants_obey_promises::Judge::default()),
            Box::new(leases_within_credits::Judge::default()),
            Box::new(needs_come_first::Judge),
            Box::new(one_outcome_a_task::Judge::default()),
            Box::new(outputs_are_held::Judge),
            Box::new(parallel_within_limits::Judge::default()),
            Box::new(queues_within_bounds::Judge::default()),
            Box::new(released_tasks_are_not_charged::Judge::default()),
            Box::new(reports_need_leases::Judge::default()),
            Box::new(stops_have_a_cause::Judge),
            Box::new(told_never_changes::Judge::default()),
        ];
        Self { history: History::default(), invariants }
    }

    /// Takes in a fact.
    pub(crate) fn observe(&mut self, at: Time, fact: &Fact<'_>) -> Result<(), Violation> {
        self.history.take(at, fact);
        self.invariants.iter_mut().try_for_each(|invariant| {
            let judged = invariant.judge(&self.history, fact);
            judged.map_err(|what| Violation { invariant: invariant.name(), at, what })
        })
    }

    pub(crate) const fn history(&self) -> &History {
        &self.history
    }
}
