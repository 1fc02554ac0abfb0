//! An executor is granted no more than it asked for: by one arbiter, for each of its wants, at most one batch: its free
//! slots, or 200 ms of what it says that it manages of a stage when that is more; or a part of such a batch of one stage and
//! the other part of another. Leases that go on under another arbiter are no new work.
//!
//! A want replaces the one before it, unless that is answered in the same turn of the arbiter, just before.

use std::collections::BTreeMap;

use swarm_protocol::message::{Grant, StageRate};
use swarm_protocol::{Message, NodeId, ShardId, Time};

use super::Invariant;
use crate::history::{Fact, History, tasks_of};

/// Work that may be handed out at once to an executor that manages more tasks than it has slots.
const BATCH_MS: u64 = 200;
/// Tasks in one batch, however fast the executor.
const BATCH_TASKS_MAX: u64 = 4096;
/// Parts of a batch.
const WHOLE: u64 = 1 << 20;

#[derive(Default)]
pub(super) struct Judge {
    credits: BTreeMap<(NodeId, NodeId), Credit>,
}

/// What one arbiter may still grant to one executor.
#[derive(Default)]
struct Credit {
    /// Parts of batches.
    parts: u64,
    /// When the last want was taken in.
    at: Time,
    /// Of all wants that may still be answered.
    slots: u32,
    rates: Vec<StageRate>,
    last: (u32, Vec<StageRate>),
}

impl Credit {
    /// The tasks of one batch.
    fn batch(&self, shard: ShardId) -> u64 {
        let of_stage = self.rates.iter().filter(|it| (it.job, it.stage) == (shard.job, shard.stage));
        let rate = of_stage.map(|it| u64::from(it.rate)).max().unwrap_or(0);
        u64::from(self.slots.max(1)).max((rate * BATCH_MS + 500) / 1000).min(BATCH_TASKS_MAX)
    }
}

impl Judge {
    fn on_want(&mut self, now: Time, (arbiter, executor): (NodeId, NodeId), slots: u32, rates: &[StageRate]) {
        let credit = self.credits.entry((arbiter, executor)).or_default();
        if credit.at != now {
            credit.parts = credit.parts.min(WHOLE);
            (credit.slots, credit.rates) = std::mem::take(&mut credit.last);
        }
        credit.parts += WHOLE;
        credit.at = now;
        credit.slots = credit.slots.max(slots);
        credit.rates.extend(rates);
        credit.last = (slots, rates.to_vec());
    }

    fn on_grant(&mut self, arbiter: NodeId, executor: NodeId, grant: &Grant) -> Result<(), String> {
        let tasks: u64 = grant.tasks.iter().map(|(range, _)| tasks_of(*range).len() as u64).sum();
        let credit = self.credits.entry((arbiter, executor)).or_default();
        let batch = credit.batch(grant.lease.shard);
        let Some(left) = credit.parts.checked_sub(tasks * WHOLE / batch) else {
            let more = credit.parts * batch / WHOLE;
            return Err(format!("{arbiter:?} grants {tasks} tasks to {executor:?}, which asked for {more} more"));
        };
        credit.parts = left;
        Ok(())
    }
}

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "leases_within_credits"
    }

    fn judge(&mut self, history: &History, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Heard { node, from, message: Message::Want { slots, rates } } => {
                self.on_want(history.now, (*node, *from), *slots, rates);
                Ok(())
            }
            Fact::Said { node, to, message: Message::Grant(grant) } if grant.continues.is_none() => {
                self.on_grant(*node, *to, grant)
            }
            // Another process goes by that name now: what it was asked for it may have heard before.
            Fact::Forgot { node } => {
                let credits = self.credits.iter_mut().filter(|((arbiter, _), _)| arbiter == node);
                credits.for_each(|(_, credit)| credit.parts = BATCH_TASKS_MAX * WHOLE);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use swarm_protocol::LeaseId;

    use super::super::tale::{Job, Tale, grant};
    use super::*;

    fn after_want(job: &Job, rate: u32) -> Tale<Judge> {
        let rates = vec![StageRate { job: job.id, stage: 0, rate }];
        Tale::of(Judge::default()).with(job).after(1).tells(3, 1, &Message::Want { slots: 1, rates })
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
            (0..tasks).fold(after_want(&job, 50), granted)
        };
        fast(10).passes();
        fast(11).breaks("asked for 0 more");
    }

    #[test]
    fn a_batch_is_filled_once_whatever_fills_it() {
        let job = Job::of_two_stages(10);
        let first = |tale: Tale<Judge>, task| tale.says(1, 3, &grant(job.lease(1, u64::from(task)), task));
        let half = || (0..5).fold(after_want(&job, 50), first);
        let shard = ShardId { stage: 1, ..job.shard() };
        half().says(1, 3, &grant(LeaseId { shard, ..job.lease(1, 9) }, 0)).breaks("asked for 0 more");
    }

    #[test]
    fn wants_do_not_add_up() {
        let job = Job::of(3);
        let asks = |tale: Tale<Judge>, _| tale.after(1).tells(3, 1, &Message::Want { slots: 1, rates: vec![] });
        let granted = |tale: Tale<Judge>, task| tale.says(1, 3, &grant(job.lease(1, u64::from(task)), task));
        (0..3).fold((0..9).fold(after_want(&job, 0), asks), granted).breaks("asked for 0 more");
    }

    #[test]
    fn granting_to_who_never_asked_is_judged() {
        let job = Job::of(1);
        Tale::of(Judge::default()).with(&job).says(1, 3, &grant(job.lease(1, 1), 0)).breaks("asked for 0 more");
    }
}
