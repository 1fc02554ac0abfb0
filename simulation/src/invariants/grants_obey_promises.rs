//! A node that promised an epoch never grants below it, unless it lost its disk meanwhile; an epoch has one arbiter; a lease
//! is granted once, to one node; and no task runs twice at one time under one lease.

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
    fn on_promise(&mut self, node: NodeId, shard: ShardId, promised: Epoch) {
        let highest = self.highest.entry((node, shard)).or_default();
        *highest = promised.max(*highest);
    }

    fn on_grant(&mut self, node: NodeId, to: NodeId, grant: &Grant) -> Result<(), String> {
        let LeaseId { shard, epoch, .. } = grant.lease;
        let (first, known) = self.grants.entry(grant.lease).or_insert_with(|| (to, grant.clone()));
        if (*first, &*known) != (to, grant) {
            return Err(format!("{node:?} grants {grant:?} to {to:?}, but granted {known:?} to {first:?}"));
        }
        let highest = self.highest.entry((node, shard)).or_default();
        if epoch < *highest {
            return Err(format!("{node:?} grants in {epoch:?} of {shard:?} after it obeyed {highest:?}"));
        }
        *highest = epoch;
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
            Fact::Said { node, message: Message::Promise(promises), .. } => {
                promises.iter().for_each(|it| self.on_promise(*node, it.shard, it.promised));
                Ok(())
            }
            Fact::Forgot { node } => {
                self.highest.retain(|(other, _), _| other != node);
                Ok(())
            }
            Fact::Said { node, to, message: Message::Grant(grant) } => self.on_grant(*node, *to, grant),
            Fact::Started { node, lease, task, again: true } => {
                Err(format!("{node:?} starts task {task} twice under {lease:?}"))
            }
            _ => Ok(()),
        }
    }
}
