//! A node that promised an epoch never grants, records or promises below it; an epoch has one arbiter; a lease is granted
//! once, to one node, and no task runs twice at one time under one lease.
//!
//! A node whose disk was lost, or is that of an earlier day, has promised nothing: that is why nobody relies on one node.

use std::collections::BTreeMap;

use swarm_protocol::message::Grant;
use swarm_protocol::{Epoch, LeaseId, Message, NodeId, ShardId};

use super::Invariant;
use crate::history::{Fact, History};

#[derive(Default)]
pub(super) struct Judge {
    /// What each node promised, or granted in, at most.
    highest: BTreeMap<(NodeId, ShardId), Epoch>,
    arbiters: BTreeMap<(ShardId, Epoch), NodeId>,
    grants: BTreeMap<LeaseId, (NodeId, Grant)>,
}

impl Judge {
    /// The node obeys this epoch from now on.
    fn obey(&mut self, node: NodeId, shard: ShardId, epoch: Epoch, by: &str) -> Result<(), String> {
        let highest = self.highest.entry((node, shard)).or_default();
        if epoch < *highest {
            return Err(format!("{node:?} {by} in {epoch:?} of {shard:?} after it obeyed {highest:?}"));
        }
        *highest = epoch;
        Ok(())
    }

    fn on_said(&mut self, node: NodeId, to: NodeId, message: &Message) -> Result<(), String> {
        match message {
            Message::Promise(promises) => {
                promises.iter().try_for_each(|it| self.obey(node, it.shard, it.promised, "promises"))
            }
            Message::Prepare(shards) => {
                // Repeated while the answer is awaited, perhaps when another was obeyed meanwhile: no harm is done.
                shards.iter().for_each(|(shard, epoch)| drop(self.obey(node, *shard, *epoch, "prepares")));
                Ok(())
            }
            Message::Recorded { shard, epoch, .. } => self.obey(node, *shard, *epoch, "records"),
            Message::Deposed { shard, epoch } => self.obey(node, *shard, *epoch, "deposes"),
            Message::Grant(grant) => self.on_grant(node, to, grant),
            _ => Ok(()),
        }
    }

    fn on_grant(&mut self, node: NodeId, to: NodeId, grant: &Grant) -> Result<(), String> {
        let LeaseId { shard, epoch, .. } = grant.lease;
        let (first, known) = self.grants.entry(grant.lease).or_insert_with(|| (to, grant.clone()));
        if (*first, &*known) != (to, grant) {
            return Err(format!("{node:?} grants {grant:?} to {to:?}, but granted {known:?} to {first:?}"));
        }
        self.obey(node, shard, epoch, "grants")?;
        let arbiter = *self.arbiters.entry((shard, epoch)).or_insert(node);
        if arbiter == node {
            Ok(())
        } else {
            Err(format!("{arbiter:?} and {node:?} both grant in {epoch:?} of {shard:?}"))
        }
    }
}

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "grants_obey_promises"
    }

    fn judge(&mut self, _: &History, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Said { node, to, message } => self.on_said(*node, *to, message),
            Fact::Started { node, lease, task, again: true } => {
                Err(format!("{node:?} starts task {task} twice under {lease:?}"))
            }
            Fact::Forgot { node } => {
                self.highest.retain(|(other, _), _| other != node);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use swarm_protocol::message::ShardPromise;

    use super::super::tale::{Job, Tale, epoch, grant, id};
    use super::*;

    /// Node 1 promised the second epoch, to node 2.
    fn promised(job: &Job) -> Tale<Judge> {
        let promise = ShardPromise { shard: job.shard(), promised: epoch(2, 2), before: Epoch::NONE };
        Tale::of(Judge::default()).with(job).says(1, 2, &Message::Promise(vec![promise]))
    }

    #[test]
    fn granting_in_an_epoch_of_its_own_is_fine() {
        let job = Job::of(1);
        let later = LeaseId { epoch: epoch(3, 1), ..job.lease(1, 1) };
        promised(&job).says(1, 3, &grant(later, 0)).says(1, 3, &grant(later, 0)).passes();
    }

    #[test]
    fn granting_below_the_promise_is_judged() {
        let job = Job::of(1);
        promised(&job).says(1, 3, &grant(job.lease(1, 1), 0)).breaks("grants in");
        promised(&job).fact(&Fact::Forgot { node: id(1) }).says(1, 3, &grant(job.lease(1, 1), 0)).passes();
    }

    #[test]
    fn recording_below_the_promise_is_judged() {
        let job = Job::of(1);
        let recorded = |counter| Message::Recorded { shard: job.shard(), epoch: epoch(counter, 2), number: 1 };
        promised(&job).says(1, 2, &recorded(2)).passes();
        promised(&job).says(1, 2, &recorded(1)).breaks("records in");
    }

    #[test]
    fn promising_less_than_before_is_judged() {
        let job = Job::of(1);
        let less = ShardPromise { shard: job.shard(), promised: epoch(1, 2), before: Epoch::NONE };
        promised(&job).says(1, 2, &Message::Promise(vec![less])).breaks("promises in");
    }

    #[test]
    fn two_arbiters_of_one_epoch_are_judged() {
        let job = Job::of(2);
        let tale = Tale::of(Judge::default()).with(&job).says(1, 3, &grant(job.lease(1, 1), 0));
        tale.says(2, 3, &grant(job.lease(1, 2), 1)).breaks("both grant");
    }

    #[test]
    fn one_lease_for_two_is_judged() {
        let job = Job::of(2);
        let tale = || Tale::of(Judge::default()).with(&job).says(1, 3, &grant(job.lease(1, 1), 0));
        tale().says(1, 4, &grant(job.lease(1, 1), 0)).breaks("but granted");
        tale().says(1, 3, &grant(job.lease(1, 1), 1)).breaks("but granted");
    }

    #[test]
    fn one_task_twice_at_a_time_is_judged() {
        let job = Job::of(1);
        let again = Fact::Started { node: id(3), lease: job.lease(1, 1), task: 0, again: true };
        Tale::of(Judge::default()).with(&job).fact(&again).breaks("twice");
    }
}
