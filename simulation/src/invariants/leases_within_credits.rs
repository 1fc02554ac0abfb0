//! An executor is granted no more than it asked for: by one arbiter, for each of its wants, at most one batch: its free
//! slots, or 100 ms of what it manages when that is more. Leases that go on under another arbiter are no new work.
//!
//! A want replaces the one before it, unless that is answered in the same turn of the arbiter, just before.

use std::collections::BTreeMap;

use swarm_protocol::{Message, NodeId, Time};

use super::Invariant;
use crate::history::{Fact, History, tasks_of};

/// Work that may be handed out at once to an executor that manages more tasks than it has slots.
const BATCH_MS: u64 = 100;
/// Tasks in one batch, however fast the executor.
const BATCH_TASKS_MAX: u64 = 4096;

#[derive(Default)]
pub(super) struct Judge {
    credits: BTreeMap<(NodeId, NodeId), Credit>,
}

/// What one arbiter may still grant to one executor.
#[derive(Default)]
struct Credit {
    tasks: u64,
    /// Of these, for the last want alone.
    last: u64,
    /// When that was taken in.
    at: Time,
}

impl Judge {
    fn on_want(&mut self, now: Time, arbiter: NodeId, executor: NodeId, slots: u32, rate: u32) {
        let batch = u64::from(slots.max(1)).max(u64::from(rate) * BATCH_MS / 1000).min(BATCH_TASKS_MAX);
        let credit = self.credits.entry((arbiter, executor)).or_default();
        let kept = if credit.at == now { credit.tasks } else { credit.tasks.min(credit.last) };
        *credit = Credit { tasks: kept + batch, last: batch, at: now };
    }

    fn on_grant(&mut self, arbiter: NodeId, executor: NodeId, tasks: u64) -> Result<(), String> {
        let credit = self.credits.entry((arbiter, executor)).or_default();
        let Some(left) = credit.tasks.checked_sub(tasks) else {
            let asked = credit.tasks;
            return Err(format!("{arbiter:?} grants {tasks} tasks to {executor:?}, which asked for {asked} more"));
        };
        credit.tasks = left;
        Ok(())
    }
}

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "leases_within_credits"
    }

    fn judge(&mut self, history: &History, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Heard { node, from, message: Message::Want { slots, rate } } => {
                self.on_want(history.now, *node, *from, *slots, *rate);
                Ok(())
            }
            Fact::Said { node, to, message: Message::Grant(grant) } if grant.continues.is_none() => {
                let tasks = grant.tasks.iter().map(|(range, _)| tasks_of(*range).len() as u64).sum();
                self.on_grant(*node, *to, tasks)
            }
            // Another process goes by that name now: what it was asked for it may have heard before.
            Fact::Forgot { node } => {
                let credits = self.credits.iter_mut().filter(|((arbiter, _), _)| arbiter == node);
                credits.for_each(|(_, credit)| credit.tasks = BATCH_TASKS_MAX);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tale::{Job, Tale, grant};
    use super::*;

    fn after_want(job: &Job, rate: u32) -> Tale<Judge> {
        Tale::of(Judge::default()).with(job).after(1).tells(3, 1, &Message::Want { slots: 1, rate })
    }

    #[test]
    fn one_task_for_one_slot_is_fine() {
        let job = Job::of(3);
        after_want(&job, 0).says(1, 3, &grant(job.lease(1, 1), 0)).passes();
    }

    #[test]
    fn a_second_task_for_one_slot_is_judged() {
        let job = Job::of(3);
        let granted = after_want(&job, 0).says(1, 3, &grant(job.lease(1, 1), 0));
        granted.says(1, 3, &grant(job.lease(1, 2), 1)).breaks("asked for 0 more");
    }

    #[test]
    fn a_fast_executor_gets_a_batch_and_no_more() {
        let job = Job::of(3);
        let fast = |tasks| {
            let granted = |tale: Tale<Judge>, task| tale.says(1, 3, &grant(job.lease(1, u64::from(task)), task));
            (0..tasks).fold(after_want(&job, 100), granted)
        };
        fast(10).passes();
        fast(11).breaks("asked for 0 more");
    }

    #[test]
    fn wants_do_not_add_up() {
        let job = Job::of(3);
        let asks = |tale: Tale<Judge>, _| tale.after(1).tells(3, 1, &Message::Want { slots: 1, rate: 0 });
        let granted = |tale: Tale<Judge>, task| tale.says(1, 3, &grant(job.lease(1, u64::from(task)), task));
        (0..3).fold((0..9).fold(after_want(&job, 0), asks), granted).breaks("asked for 0 more");
    }

    #[test]
    fn granting_to_who_never_asked_is_judged() {
        let job = Job::of(1);
        Tale::of(Judge::default()).with(&job).says(1, 3, &grant(job.lease(1, 1), 0)).breaks("asked for 0 more");
    }
}
