//! Two nodes with one identity: somebody copies a node's disk and starts the copy beside it.
//!
//! Always true: peers are linked to one of the two at most, as the network layer has one link a peer; the two never hear
//! each other; and one of them, mostly the copy, is stopped for good, only once all that it knows is on other nodes.

use std::time::Duration;

use swarm_protocol::{Event, NodeId};

use crate::dice;
use crate::faults::Fault;
use crate::history::Fact;
use crate::machine::{Copy, Machine, Running};
use crate::world::{Happening, World};

/// Nobody has this one's identity besides: who knows no other node dials it.
const BOOTSTRAP: usize = 0;
/// How long a twin runs at least, in milliseconds.
const TWIN_MS: std::ops::RangeInclusive<u64> = 500..=10_000;
/// How often it is tried to stop a twin that may not be stopped yet.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// So long one of the two runs alone, that others come to know what it knows.
const TURN: Duration = Duration::from_secs(10);
/// Without faults others mostly have all that one of the two knows within this time.
const LEAVE_MAX: Duration = Duration::from_secs(60);
/// With fewer nodes there is nobody between whom and the two a link could change.
const NODES_MIN: usize = 3;

impl World {
    /// Starts a copy of a node: as it is now, or as it was when somebody copied its disk.
    pub(crate) fn strike_twin(&mut self) {
        if self.scenario.nodes < NODES_MIN || !self.twins.is_empty() {
            return;
        }
        let stays = |machine: &Machine| machine.running.as_ref().is_some_and(|running| !running.draining);
        let up: Vec<_> = (BOOTSTRAP + 1..self.scenario.nodes).filter(|node| stays(&self.machines[*node])).collect();
        let Some(first) = dice::pick(self.dice(Fault::Twin), &up) else { return };
        let dice = self.dice(Fault::Twin);
        let (old, wait) = (dice.bool(), dice::millis(dice, TWIN_MS));
        let twin = self.machines.len();
        let machine = &mut self.machines[first];
        let now =
            || Copy { disk: machine.disk.synced_copy(), blobs: machine.blobs.clone(), pins: machine.pins.clone() };
        let copy = if old { machine.copy.take().unwrap_or_else(now) } else { now() };
        let machine = machine.twin(twin, copy);
        let id = machine.id;
        self.twins.insert(id, twin);
        self.machines.push(machine);
        self.note_at(twin, format_args!("is a twin of n{first}"));
        self.census.hit(Fault::Twin);
        self.observe(&Fact::Disturbed);
        self.after(Duration::ZERO, Happening::Restart { node: twin });
        self.after(wait, Happening::EndTwin { first, twin });
    }

    /// Stops one of the two as soon as it may be stopped. The second is often not linked to anybody as long as the first is
    /// there, so that others cannot have what it knows.
    pub(crate) fn on_end_twin(&mut self, first: usize, twin: usize) {
        if self.is_spare(twin) {
            self.retire(twin, first);
            self.start(first);
        } else if self.is_spare(first) {
            self.by_id.insert(self.machines[first].id, twin);
            self.retire(first, twin);
            self.start(twin);
        } else {
            self.after(LOOK_AGAIN, Happening::EndTwin { first, twin });
        }
    }

    /// What one of the two told that it holds others believe of the one that stays, until that hears of it.
    fn retire(&mut self, node: usize, stays: usize) {
        let survivors = self.machines[node].disk.unsynced();
        self.crash(node, survivors);
        self.note_at(node, format_args!("is gone for good"));
        let lost = self.machines[node].blobs.difference(&self.machines[stays].blobs);
        self.lost_with_twins.extend(lost);
        let machine = &mut self.machines[node];
        machine.gone = true;
        machine.blobs.clear();
        let id = machine.id;
        self.twins.remove(&id);
        self.observe(&Fact::Forgot { node: id });
    }

    /// A machine is about to speak: the memory behind its name is not that of its twin, which spoke before.
    pub(crate) fn note_speaker(&mut self, node: usize) {
        let id = self.machines[node].id;
        if self.twins.contains_key(&id) && self.speakers.insert(id, node) != Some(node) {
            self.observe(&Fact::Forgot { node: id });
        }
    }

    /// Waits until no identity has two nodes any more. If each knows something alone they run by turns, so that each is
    /// heard. But not for ever: there may be nobody to hear them.
    pub(crate) fn end_twins(&mut self) {
        let bound = self.now() + LEAVE_MAX;
        let mut turns = [true, false].into_iter().cycle();
        while !self.twins.is_empty() && self.broken.is_none() && self.now() < bound {
            self.run_for(TURN);
            let second_stops = turns.next().unwrap_or_default();
            for (id, twin) in self.twins.clone() {
                let first = self.by_id[&id];
                let (stops, starts) = if second_stops { (twin, first) } else { (first, twin) };
                let survivors = self.machines[stops].disk.unsynced();
                self.crash(stops, survivors);
                self.start(starts);
            }
        }
        for (id, twin) in self.twins.clone() {
            self.start(self.by_id[&id]);
            self.start(twin);
            let what = self.only_here(twin).unwrap_or_else(|| "nothing but itself".into());
            self.note_at(twin, format_args!("stays, for only it knows {what}"));
            self.census.count("twin that stays");
        }
    }

    /// Whether users do not ask this machine because another has the same identity.
    pub(crate) fn is_distrusted(&self, node: usize) -> bool {
        let twin = self.twins.get(&self.machines[node].id);
        twin.is_some_and(|twin| *twin == node || !self.stormy)
    }

    /// The machine that `node` means when it speaks to a peer: the one that it is linked to.
    pub(crate) fn machine_of(&self, node: usize, peer: NodeId) -> Option<usize> {
        let linked = self.twins.get(&peer).filter(|twin| self.network.end(node, **twin).is_some());
        linked.or_else(|| self.by_id.get(&peer)).copied()
    }

    /// The machine of a node that listens at one of these addresses; any of that node if none does.
    pub(crate) fn machine_at(&self, peer: NodeId, addresses: &[String]) -> Option<usize> {
        let twin = self.twins.get(&peer).filter(|twin| addresses.contains(&self.machines[**twin].address));
        twin.or_else(|| self.by_id.get(&peer)).copied()
    }

    /// Makes way for a link to `peer` at a node that is linked to its twin. The node with the lower id opens links, and
    /// opens none while it has one; the other takes the newer for the better.
    pub(crate) fn makes_way(&mut self, node: usize, peer: usize) -> bool {
        let ids = (self.machines[node].id, self.machines[peer].id);
        if self.machines.len() == self.scenario.nodes {
            return true; // nobody ever had a twin
        }
        let links = self.network.ends_of(node).into_iter();
        let Some((other, link)) = links.filter(|(it, _)| *it != peer).find(|(it, _)| self.machines[*it].id == ids.1)
        else {
            return true;
        };
        if ids.0 < ids.1 && !self.machines[other].gone {
            return false;
        }
        self.on_link_lost(node, other, link);
        true
    }

    /// Gossip arrives, unless it claims to be of the one who hears it, or the core is far behind: the network layer drops
    /// both.
    pub(crate) fn on_gossip_heard(&mut self, to: usize, boot: u64, from: NodeId, gossip: swarm_protocol::Gossip) {
        // Gossip is a hint.
        if self.machines[to].running.as_ref().is_some_and(Running::is_full) {
            self.census.count("gossip dropped");
        } else if self.machines[to].id != from {
            self.give(to, boot, Event::Gossip { from, gossip });
        }
    }
}
