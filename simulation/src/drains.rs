//! Nodes that leave as they should: told to drain, drained, gone; some for good with their disk, some come back later.
//!
//! In some runs operators have little patience: what is not begun is given back at once, and what runs when the time is
//! over, as `node::leaving` does.
//!
//! Always true: two nodes or more stay, among them the one that all others dial when they start, and one leaves at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use swarm_protocol::{Event, LeaseId, Range, Time};

use crate::dice;
use crate::faults::Fault;
use crate::history::Fact;
use crate::machine::{Machine, Running};
use crate::world::{Happening, World};

/// After so many milliseconds a drained process ends.
const LEAVES_MS: std::ops::RangeInclusive<u64> = 0..=1000;
/// After so many milliseconds a node that left comes back, unless it left for good.
const COMES_BACK_MS: std::ops::RangeInclusive<u64> = 200..=10_000;
/// So many milliseconds what runs may take, when operators are impatient.
const PATIENCE_MS: std::ops::RangeInclusive<u64> = 0..=3000;
/// What was granted in the moment of the drain is given back at the next look.
const GIVE_BACK_EVERY: Duration = Duration::from_millis(500);
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
        // A generator of their own: what patient ones do is the same with and without them.
        let mut impatient = dice::fork(self.scenario.seed, &format!("impatient {node} {boot}"));
        if self.are_impatient() {
            let over = self.now() + dice::millis(&mut impatient, PATIENCE_MS);
            self.on_give_back(node, boot, over);
        }
    }

    fn are_impatient(&self) -> bool {
        dice::fork(self.scenario.seed, "impatient").bool()
    }

    /// What has ended is reported first.
    pub(crate) fn on_give_back(&mut self, node: usize, boot: u64, over: Time) {
        if !self.is_boot(node, boot) {
            return;
        }
        self.after(GIVE_BACK_EVERY, Happening::GiveBack { node, boot, over });
        // A process that stands still does nothing.
        if self.machines[node].running.as_ref().is_some_and(Running::is_still) {
            return;
        }
        self.on_flush(node, boot);
        let begun = self.now() >= over;
        let given = self.machines[node].running.as_mut().map(|running| running.slots.give_back(begun));
        for (lease, tasks) in given.into_iter().flatten() {
            self.release(node, lease, tasks, begun);
        }
    }

    fn release(&mut self, node: usize, lease: LeaseId, tasks: Vec<Range>, begun: bool) {
        let (id, boot) = (self.machines[node].id, self.machines[node].boot);
        self.note_at(node, format_args!("gives back {lease:?} {tasks:?}"));
        self.census.count(if begun { "lease stopped by a drain" } else { "lease given back by a drain" });
        self.observe(&Fact::Released { node: id, lease, tasks: &tasks });
        self.give(node, boot, Event::Released { lease, tasks });
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
        (machine.gone, machine.copy) = (true, None);
        (machine.blobs, machine.pins) = (BTreeSet::new(), BTreeSet::new());
        machine.disk = machine.disk.emptied();
    }
}
