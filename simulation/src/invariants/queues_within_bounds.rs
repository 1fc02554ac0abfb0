//! Nothing piles up at a node: events that wait for its core, messages of one turn to one peer, and grants that wait for
//! the record of their job.

use std::collections::BTreeMap;
use std::time::Duration;

use swarm_protocol::{LeaseId, Message, NodeId, Time};

use super::Invariant;
use crate::history::{Fact, History};

/// Events that wait, also after the node stood still until its links were given up.
const EVENTS_MAX: usize = 4096;
/// Messages of one turn, of 256 events at most, to one peer: each may be answered by some.
const FRAMES_MAX: usize = 1024;
/// Grants that wait for the record of their job.
const PARKED_MAX: usize = 256;
/// And for how long they may.
const PARKED_FOR: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Judge {
    /// Grants that were taken in and neither begun nor given back, and when they came.
    parked: BTreeMap<NodeId, BTreeMap<LeaseId, Time>>,
}

impl Judge {
    fn on_grant(&mut self, now: Time, node: NodeId, lease: LeaseId) -> Result<(), String> {
        let parked = self.parked.entry(node).or_default();
        parked.retain(|_, at| now <= *at + PARKED_FOR);
        parked.insert(lease, now);
        match parked.len() {
            0..=PARKED_MAX => Ok(()),
            many => Err(format!("{many} grants wait at {node:?}")),
        }
    }

    fn unpark(&mut self, node: NodeId, lease: LeaseId) {
        self.parked.entry(node).or_default().remove(&lease);
    }
}

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "queues_within_bounds"
    }

    fn judge(&mut self, history: &History, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Queued { node, queues } if queues.events > EVENTS_MAX || queues.frames > FRAMES_MAX => {
                return Err(format!("at {node:?} there are {queues:?}"));
            }
            Fact::Heard { node, message: Message::Grant(grant), .. } if grant.continues.is_none() => {
                return self.on_grant(history.now, *node, grant.lease);
            }
            Fact::Started { node, lease, .. } => self.unpark(*node, *lease),
            Fact::Said { node, message: Message::Release { lease, .. }, .. } => self.unpark(*node, *lease),
            Fact::Down { node } => drop(self.parked.remove(node)),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tale::{Job, Tale, grant, id};
    use super::*;
    use crate::history::Queues;

    fn queued(events: usize, frames: usize) -> Tale<Judge> {
        Tale::of(Judge::default()).fact(&Fact::Queued { node: id(1), queues: Queues { events, frames } })
    }

    #[test]
    fn short_queues_are_fine() {
        queued(EVENTS_MAX, FRAMES_MAX).passes();
    }

    #[test]
    fn a_long_queue_is_judged() {
        queued(EVENTS_MAX + 1, 0).breaks("events: 4097");
        queued(0, FRAMES_MAX + 1).breaks("frames: 1025");
    }

    #[test]
    fn grants_that_pile_up_are_judged() {
        let job = Job::of(1);
        let parked = |tale: Tale<Judge>, number| tale.tells(1, 3, &grant(job.lease(1, number), 0));
        let begun = |tale: Tale<Judge>, number| parked(tale, number).starts(3, job.lease(1, number), 0);
        (0..300).fold(Tale::of(Judge::default()).with(&job), parked).breaks("grants wait");
        (0..300).fold(Tale::of(Judge::default()).with(&job), begun).passes();
    }
}
