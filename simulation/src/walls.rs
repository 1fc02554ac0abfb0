//! Keeps packets from passing, and lets them pass again: partitions of every form, and half-open links.

use std::collections::BTreeSet;

use crate::dice;
use crate::faults::Fault;
use crate::history::Fact;
use crate::network::Wall;
use crate::world::{Happening, World};

/// How long a wall stands, in milliseconds.
const WALL_MS: std::ops::RangeInclusive<u64> = 200..=15_000;
/// How long one end takes a closed link for open, in milliseconds: longer than any silence that a node is patient with.
const HALF_OPEN_MS: std::ops::RangeInclusive<u64> = 3_000..=25_000;

impl World {
    /// The swarm falls into two halves, or packets pass from one half to the other only one way.
    pub(crate) fn strike_halves(&mut self, fault: Fault) {
        let nodes = self.machines.len();
        let dice = self.dice(fault);
        let far: BTreeSet<_> = (0..nodes).filter(|_| dice.bool()).collect();
        if !far.is_empty() && far.len() < nodes {
            let wall = if fault == Fault::OneWay { Wall::OneWay(far) } else { Wall::Around(far) };
            self.strike_wall(fault, wall);
        }
    }

    /// Two groups do not see each other, and at least one node sees both.
    pub(crate) fn strike_bridge(&mut self) {
        let nodes = self.machines.len();
        if nodes < 3 {
            return;
        }
        let dice = self.dice(Fault::Bridge);
        let mut order: Vec<_> = (0..nodes).collect();
        dice.shuffle(&mut order);
        let bridge = dice.usize(1..=nodes - 2);
        let left = dice.usize(bridge + 1..nodes);
        let these = order[bridge..left].iter().copied().collect();
        let those = order[left..].iter().copied().collect();
        self.strike_wall(Fault::Bridge, Wall::Between(these, those));
    }

    fn strike_wall(&mut self, fault: Fault, wall: Wall) {
        if self.network.walls().contains(&fault) {
            return;
        }
        self.raise(fault, wall);
        let wait = dice::millis(self.dice(fault), WALL_MS);
        self.after(wait, Happening::Heal(fault));
    }

    /// Keeps packets from passing, and lets those who hear nothing any more notice.
    pub(crate) fn raise(&mut self, fault: Fault, wall: Wall) {
        self.note(format_args!("packets do not pass: {wall:?}"));
        self.census.hit(fault);
        self.observe(&Fact::Disturbed);
        self.network.raise(fault, wall);
        for (a, b, link) in self.network.links() {
            for (node, peer) in [(a, b), (b, a)] {
                if !self.network.passes(peer, node) {
                    self.expect_timeout(node, peer, link);
                }
            }
        }
    }

    /// Packets pass where this wall was.
    pub(crate) fn heal(&mut self, fault: Fault) {
        if !self.network.take_down(fault) {
            return;
        }
        self.note(format_args!("packets pass again ({})", fault.name()));
        self.observe(&Fact::Reunited);
        for (a, b, _) in self.network.links() {
            self.notice_half_open(a, b);
            self.notice_half_open(b, a);
        }
    }

    /// Closes one end of a link. Nothing tells the other.
    pub(crate) fn strike_half_open(&mut self) {
        if self.network.walls().contains(&Fault::HalfOpen) {
            return;
        }
        let links = self.network.links();
        let dice = self.dice(Fault::HalfOpen);
        let Some((a, b, link)) = dice::pick(dice, &links) else { return };
        let (node, peer) = if dice.bool() { (a, b) } else { (b, a) };
        let wait = dice::millis(dice, HALF_OPEN_MS);
        if self.network.end(peer, node) != Some(link) || self.network.end(node, peer) != Some(link) {
            return;
        }
        self.census.hit(Fault::HalfOpen);
        self.observe(&Fact::Disturbed);
        self.network.raise(Fault::HalfOpen, Wall::Between([node].into(), [peer].into()));
        self.on_link_lost(node, peer, link);
        self.after(wait, Happening::Heal(Fault::HalfOpen));
    }
}
