//! Does faults to the swarm, and ends them.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::dice;
use crate::faults::{self, Fault, Faults};
use crate::history::Fact;
use crate::machine::Machine;
use crate::world::{Happening, World};

/// A node that crashes in the middle of its next sync, when most is at stake.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doom {
    node: usize,
    /// What it dies of: all others may die with it.
    fault: Fault,
}

/// A slow sync takes so many milliseconds.
const SLOW_SYNC_MS: std::ops::RangeInclusive<u64> = 5..=500;
/// So many syncs in a thousand are slow, on a slow disk.
const SLOW_SYNCS: u32 = 50;

impl World {
    /// Faults begin.
    pub(crate) fn begin_storm(&mut self) {
        self.stormy = true;
        for (fault, seconds) in self.faults.strikes() {
            self.strike_again(fault, seconds);
        }
    }

    fn strike_again(&mut self, fault: Fault, seconds: u64) {
        let wait = dice::millis(self.dice(fault), 500..=seconds * 1000);
        self.after(wait, Happening::Strike(fault, seconds));
    }

    pub(crate) fn on_strike(&mut self, fault: Fault, seconds: u64) {
        if !self.stormy {
            return;
        }
        match fault {
            Fault::Partition => self.strike_partition(),
            Fault::LinkCut => self.strike_cut(),
            Fault::Crash => self.strike_crash(),
            Fault::CrashInWrite => self.strike_in_write(fault),
            Fault::PowerCut => self.strike_power_cut(),
            Fault::Pause => self.strike_pause(),
            Fault::Loss | Fault::Duplication | Fault::Reordering | Fault::Delay | Fault::SlowSync => {}
        }
        self.strike_again(fault, seconds);
    }

    fn strike_partition(&mut self) {
        if self.network.is_parted() || self.machines.len() < 2 {
            return;
        }
        let nodes = self.machines.len();
        let dice = self.dice(Fault::Partition);
        let far: BTreeSet<_> = (0..nodes).filter(|_| dice.bool()).collect();
        let wait = dice::millis(dice, 200..=15_000);
        if !far.is_empty() && far.len() < nodes {
            self.part(far);
            self.after(wait, Happening::Heal);
        }
    }

    /// Cuts these nodes off from the others.
    pub(crate) fn part(&mut self, far: BTreeSet<usize>) {
        self.note(format_args!("the swarm falls apart: {far:?} on the far side"));
        self.census.hit(Fault::Partition);
        self.observe(&Fact::Disturbed);
        self.network.part(far);
        for (a, b, link) in self.network.links() {
            if !self.network.passes(a, b) {
                self.expect_timeout(a, b, link);
                self.expect_timeout(b, a, link);
            }
        }
    }

    /// Packets pass everywhere again.
    pub(crate) fn heal_partition(&mut self) {
        if !self.network.is_parted() {
            return;
        }
        self.note(format_args!("the swarm is one again"));
        self.network.part(BTreeSet::new());
        for (a, b, _) in self.network.links() {
            self.notice_half_open(a, b);
            self.notice_half_open(b, a);
        }
    }

    fn strike_cut(&mut self) {
        let links = self.network.links();
        let dice = self.dice(Fault::LinkCut);
        let Some((a, b, link)) = dice::pick(dice, &links) else { return };
        let waits = [dice::millis(dice, 0..=300), dice::millis(dice, 0..=300)];
        self.census.hit(Fault::LinkCut);
        self.observe(&Fact::Disturbed);
        for ((node, peer), wait) in [(a, b), (b, a)].into_iter().zip(waits) {
            self.after(wait, Happening::LinkLost { node, peer, link });
        }
    }

    fn strike_crash(&mut self) {
        if let Some(node) = self.some_node(Fault::Crash, Machine::is_up) {
            self.crash_for_a_while(node, Fault::Crash);
        }
    }

    /// Marks a node to die in its next sync.
    fn strike_in_write(&mut self, fault: Fault) {
        if let Some(node) = self.some_node(fault, Machine::is_up) {
            self.doomed = Some(Doom { node, fault });
        }
    }

    fn strike_power_cut(&mut self) {
        if self.dice(Fault::PowerCut).bool() {
            self.strike_in_write(Fault::PowerCut);
        } else {
            self.cut_power();
        }
    }

    fn crash_for_a_while(&mut self, node: usize, fault: Fault) {
        self.census.hit(fault);
        let dice = self.dice(fault);
        let (finished, wait) = (dice.bool(), dice::millis(dice, 50..=12_000));
        self.crash(node, finished);
        self.after(wait, Happening::Restart { node });
    }

    fn cut_power(&mut self) {
        self.census.hit(Fault::PowerCut);
        for node in 0..self.machines.len() {
            let dice = self.dice(Fault::PowerCut);
            let (finished, wait) = (dice.bool(), dice::millis(dice, 500..=5000));
            self.crash(node, finished);
            self.after(wait, Happening::Restart { node });
        }
    }

    /// A node begins a sync that takes this long: if it is doomed, it crashes before the end.
    pub(crate) fn meet_doom(&mut self, node: usize, sync: Duration) {
        if let Some(doom) = self.doomed.take_if(|doom| doom.node == node && self.stormy) {
            let boot = self.machines[node].boot;
            let wait = dice::micros(self.dice(doom.fault), 0..=sync.as_micros() as u64);
            self.after(wait, Happening::Doom { doom, boot });
        }
    }

    pub(crate) fn on_doom(&mut self, Doom { node, fault }: Doom, boot: u64) {
        if !self.stormy || !self.is_boot(node, boot) {
            return;
        }
        match fault {
            Fault::PowerCut => self.cut_power(),
            _ => self.crash_for_a_while(node, fault),
        }
    }

    fn strike_pause(&mut self) {
        let Some(node) = self.some_node(Fault::Pause, Machine::is_awake) else { return };
        self.note_at(node, format_args!("stands still"));
        self.census.hit(Fault::Pause);
        self.observe(&Fact::Disturbed);
        self.machines[node].paused = true;
        for (peer, link) in self.network.ends_of(node) {
            self.expect_timeout(peer, node, link);
        }
        let boot = self.machines[node].boot;
        let wait = dice::millis(self.dice(Fault::Pause), 100..=10_000);
        self.after(wait, Happening::Resume { node, boot });
    }

    pub(crate) fn resume(&mut self, node: usize) {
        if !self.machines[node].paused {
            return;
        }
        self.note_at(node, format_args!("goes on"));
        self.machines[node].paused = false;
        for (peer, _) in self.network.ends_of(node) {
            self.notice_half_open(node, peer);
        }
        self.turn(node);
    }

    /// How long a sync that begins now takes.
    pub(crate) fn sync_time(&mut self) -> Duration {
        if self.stormy && self.faults.has(Fault::SlowSync) && dice::chance(self.dice(Fault::SlowSync), SLOW_SYNCS) {
            self.census.hit(Fault::SlowSync);
            return dice::millis(self.dice(Fault::SlowSync), SLOW_SYNC_MS);
        }
        faults::sync_time(&mut self.timing)
    }

    /// A machine for which this holds, by the dice of a fault.
    pub(crate) fn some_node(&mut self, fault: Fault, wanted: impl Fn(&Machine) -> bool) -> Option<usize> {
        let candidates: Vec<_> = (0..self.machines.len()).filter(|node| wanted(&self.machines[*node])).collect();
        dice::pick(self.dice(fault), &candidates)
    }

    /// Faults end: everything is repaired, and every node is up.
    pub(crate) fn end_storm(&mut self) {
        self.stormy = false;
        self.doomed = None;
        self.note(format_args!("the storm is over"));
        self.faults = Faults::default();
        self.network.rates = self.faults.rates;
        self.heal_partition();
        for node in 0..self.machines.len() {
            self.resume(node);
            let wait = dice::millis(&mut self.timing, 0..=500);
            self.after(wait, Happening::Restart { node });
        }
        self.run_for(Duration::from_millis(500));
        self.observe(&Fact::Healed);
    }
}
