//! Nodes that leave as they should: told to drain, drained, gone; some for good with their disk, some come back later.
//!
//! Always true: two nodes or more stay, among them the one that all others dial when they start, and one leaves at a time.

use std::collections::BTreeSet;

use swarm_protocol::Event;

use crate::dice;
use crate::faults::Fault;
use crate::history::Fact;
use crate::machine::Machine;
use crate::world::{Happening, World};

/// After so many milliseconds a drained process ends.
const LEAVES_MS: std::ops::RangeInclusive<u64> = 0..=1000;
/// After so many milliseconds a node that left comes back, unless it left for good.
const COMES_BACK_MS: std::ops::RangeInclusive<u64> = 200..=10_000;
/// Whoever starts dials this node: an address that everybody is given must exist.
const BOOTSTRAP: usize = 0;
/// A node leaves only when so many others stay.
const STAY_MIN: usize = 2;

impl World {
    pub(crate) fn strike_drain(&mut self) {
        let drains = |machine: &Machine| machine.running.as_ref().is_some_and(|running| running.draining);
        let stay = self.machines.iter().filter(|machine| !machine.gone).count() > STAY_MIN;
        if !stay || !self.twins.is_empty() || self.machines.iter().any(drains) {
            return;
        }
        let twins: Vec<_> = self.twins.keys().copied().collect();
        if let Some(node) = self.some_node(Fault::Drain, |it| it.is_awake() && !twins.contains(&it.id)) {
            self.drain(node);
        }
    }

    /// Tells a node to drain.
    pub(crate) fn drain(&mut self, node: usize) {
        self.note_at(node, format_args!("is told to drain"));
        self.observe(&Fact::Disturbed);
        let machine = &mut self.machines[node];
        let (id, boot) = (machine.id, machine.boot);
        if let Some(running) = &mut machine.running {
            running.draining = true;
        }
        self.observe(&Fact::Draining { node: id });
        self.give(node, boot, Event::Drain);
    }

    pub(crate) fn on_drained(&mut self, node: usize) {
        self.note_at(node, format_args!("is drained"));
        self.census.hit(Fault::Drain);
        let (id, boot) = (self.machines[node].id, self.machines[node].boot);
        self.observe(&Fact::Drained { node: id });
        let wait = dice::millis(self.dice(Fault::Drain), LEAVES_MS);
        self.after(wait, Happening::Leave { node, boot });
    }

    /// A drained process ends.
    pub(crate) fn leave(&mut self, node: usize) {
        let survivors = self.machines[node].disk.unsynced();
        // Who never met another node has nobody to whom it could have handed over anything.
        let met = self.machines[node].running.as_ref().is_some_and(|running| !running.peers.is_empty());
        self.crash(node, survivors);
        let dice = self.dice(Fault::Drain);
        let (for_good, wait) = (dice.bool(), dice::millis(dice, COMES_BACK_MS));
        if for_good && met && node != BOOTSTRAP {
            self.lose_for_good(node);
        } else {
            self.after(wait, Happening::Restart { node });
        }
    }

    /// A machine that is down will never be seen again.
    pub(crate) fn lose_for_good(&mut self, node: usize) {
        self.note_at(node, format_args!("is gone for good, with its disk"));
        self.census.count("node gone for good");
        let machine = &mut self.machines[node];
        (machine.gone, machine.copy, machine.blobs) = (true, None, BTreeSet::new());
        machine.disk = machine.disk.emptied();
    }
}
