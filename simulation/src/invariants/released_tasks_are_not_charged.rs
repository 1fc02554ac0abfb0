//! A task that an executor gave back is not charged: once its arbiter has heard of it, no attempt under that lease is
//! counted as failed or lost. And who gave a task back reports nothing of it any more.
//!
//! An executor that dies before it is drained may have lost its note that it gave the task back, and then charges itself.

use std::collections::{BTreeMap, BTreeSet};

use swarm_protocol::lattice::{AttemptId, Run};
use swarm_protocol::{Epoch, LeaseId, Message, NodeId, Range, ShardId};

use super::Invariant;
use crate::history::{Fact, History, facts_in, tasks_of};

/// One attempt at one task.
type Attempt = (ShardId, AttemptId, u32);

#[derive(Default)]
pub(super) struct Judge {
    /// On its way to the arbiter or there, with who gave it back and has not died since.
    told: BTreeMap<Attempt, NodeId>,
    /// Of these, those that the arbiter heard of.
    released: BTreeSet<Attempt>,
    /// Charged before they were released.
    charged: BTreeSet<Attempt>,
    /// Given back by this node.
    given_back: BTreeSet<(NodeId, LeaseId, u32)>,
    drained: BTreeSet<NodeId>,
}

impl Judge {
    fn on_segment(&mut self, shard: ShardId, segment: &[Run]) -> Result<(), String> {
        for run in segment {
            for (attempt, failure) in &run.state.failures {
                for task in tasks_of(run.range) {
                    let one = (shard, *attempt, task);
                    if self.charged.insert(one) && self.released.contains(&one) {
                        let ending = &failure.ending;
                        return Err(format!("task {task} of {shard:?} was given back, and is charged: {ending:?}"));
                    }
                }
            }
        }
        Ok(())
    }

    fn forget(&mut self, is_void: impl Fn(AttemptId, NodeId) -> bool) {
        let Self { told, released, .. } = self;
        told.retain(|(_, attempt, _), from| !is_void(*attempt, *from));
        released.retain(|attempt| told.contains_key(attempt));
    }

    fn on_report(&self, node: NodeId, lease: LeaseId, mut tasks: impl Iterator<Item = u32>) -> Result<(), String> {
        match tasks.find(|task| self.given_back.contains(&(node, lease, *task))) {
            Some(task) => Err(format!("{node:?} reports task {task} of {lease:?}, which it gave back")),
            None => Ok(()),
        }
    }
}

fn attempts(lease: LeaseId, tasks: &[Range]) -> impl Iterator<Item = Attempt> + '_ {
    let tasks = tasks.iter().flat_map(|range| tasks_of(*range));
    tasks.map(move |task| (lease.shard, AttemptId::from(lease), task))
}

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "released_tasks_are_not_charged"
    }

    fn judge(&mut self, _: &History, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Said { node, message: Message::Release { lease, tasks }, .. } => {
                self.told.extend(attempts(*lease, tasks).map(|attempt| (attempt, *node)));
                Ok(())
            }
            Fact::Heard { message: Message::Release { lease, tasks }, .. } => {
                let told = attempts(*lease, tasks).filter(|attempt| self.told.contains_key(attempt));
                self.released.extend(told);
                Ok(())
            }
            Fact::Said { node, message: Message::Report { lease, outcomes }, .. } => {
                self.on_report(*node, *lease, outcomes.iter().flat_map(|(range, _)| tasks_of(*range)))
            }
            Fact::Said { message, .. } => {
                facts_in(message).map_or(Ok(()), |(shard, segment)| self.on_segment(shard, segment))
            }
            Fact::Recorded { shard, segment, .. } => self.on_segment(*shard, segment),
            Fact::Released { node, lease, tasks } => {
                let tasks = tasks.iter().flat_map(|range| tasks_of(*range));
                self.given_back.extend(tasks.map(|task| (*node, *lease, task)));
                Ok(())
            }
            Fact::Drained { node } => {
                self.drained.insert(*node);
                Ok(())
            }
            Fact::Down { node } => {
                if !self.drained.remove(node) {
                    self.forget(|_, from| from == *node);
                }
                Ok(())
            }
            // An arbiter that forgot what it promised may give the same names once more.
            Fact::Forgot { node } => {
                let tie = Epoch::NONE.next(*node).tie;
                self.forget(|attempt, from| attempt.epoch.tie == tie || from == *node);
                self.given_back.retain(|(at, lease, _)| at != node && lease.epoch.tie != tie);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use swarm_protocol::Ending;

    use super::super::tale::{Job, Tale, failure, id, one, record, report};
    use super::*;

    fn lost(job: &Job) -> Message {
        record(job.shard(), 1, failure(0, job.lease(1, 1), 3, Ending::Lost))
    }

    #[test]
    fn a_charge_after_the_release_is_judged() {
        let job = Job::of(1);
        let release = Message::Release { lease: job.lease(1, 1), tasks: vec![one(0)] };
        let tale = || Tale::of(Judge::default()).with(&job);
        tale().tells(3, 1, &release).says(1, 2, &lost(&job)).breaks("was given back, and is charged");
        // A release that is lost on its way leaves the lease to run out.
        tale().says(3, 1, &release).says(1, 2, &lost(&job)).passes();
        tale().says(1, 2, &lost(&job)).tells(3, 1, &release).says(1, 2, &lost(&job)).passes();
    }

    #[test]
    fn who_is_drained_has_noted_what_it_gave_back() {
        let job = Job::of(1);
        let release = Message::Release { lease: job.lease(1, 1), tasks: vec![one(0)] };
        let tale = || Tale::of(Judge::default()).with(&job).tells(3, 1, &release);
        let down = Fact::Down { node: id(3) };
        tale().fact(&down).says(3, 2, &lost(&job)).passes();
        tale().fact(&Fact::Drained { node: id(3) }).fact(&down).says(3, 2, &lost(&job)).breaks("is charged");
    }

    #[test]
    fn reporting_what_was_given_back_is_judged() {
        let job = Job::of(1);
        let given = Fact::Released { node: id(3), lease: job.lease(1, 1), tasks: &[one(0)] };
        let tale = Tale::of(Judge::default()).with(&job).fact(&given);
        tale.says(3, 1, &report(job.lease(1, 1), 0, job.left(0))).breaks("which it gave back");
    }
}
