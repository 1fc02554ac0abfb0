//! Does faults to the swarm, and ends them.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::dice;
use crate::faults::{Faults, Strike};
use crate::history::Fact;
use crate::world::{Happening, World};

/// A node that crashes in the middle of its next sync, when most is at stake.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doom {
    node: usize,
    /// Together with all others.
    everybody: bool,
}

impl World {
    /// Faults begin.
    pub(crate) fn begin_storm(&mut self) {
        self.stormy = true;
        for (strike, seconds) in self.network.faults.strikes() {
            let wait = dice::millis(&mut self.striking, 500..=seconds * 1000);
            self.after(wait, Happening::Strike(strike, seconds));
        }
    }

    pub(crate) fn on_strike(&mut self, strike: Strike, seconds: u64) {
        if !self.stormy {
            return;
        }
        match strike {
            Strike::Partition => self.strike_partition(),
            Strike::Cut => self.strike_cut(),
            Strike::Crash => self.strike_crash(),
            Strike::PowerCut => self.strike_power_cut(),
            Strike::Pause => self.strike_pause(),
        }
        let wait = dice::millis(&mut self.striking, 500..=seconds * 1000);
        self.after(wait, Happening::Strike(strike, seconds));
    }

    fn strike_partition(&mut self) {
        if self.network.is_parted() || self.machines.len() < 2 {
            return;
        }
        let far = (0..self.machines.len()).filter(|_| self.striking.bool()).collect();
        self.part(far);
        let wait = dice::millis(&mut self.striking, 200..=15_000);
        self.after(wait, Happening::Heal);
    }

    /// Cuts these nodes off from the others.
    pub(crate) fn part(&mut self, far: BTreeSet<usize>) {
        self.note(format_args!("the swarm falls apart: {far:?} on the far side"));
        self.census.count("partition");
        self.observe(&Fact::Parted);
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
        let Some((a, b, link)) = dice::pick(&mut self.striking, &self.network.links()) else { return };
        self.census.count("link cut");
        for (node, peer) in [(a, b), (b, a)] {
            let wait = dice::millis(&mut self.striking, 0..=300);
            self.after(wait, Happening::LinkLost { node, peer, link });
        }
    }

    fn strike_crash(&mut self) {
        let Some(node) = self.some_node(|machine| machine.is_up()) else { return };
        if self.striking.bool() {
            self.doomed = Some(Doom { node, everybody: false });
        } else {
            self.crash_for_a_while(node);
        }
    }

    fn strike_power_cut(&mut self) {
        let Some(node) = self.some_node(|machine| machine.is_up()) else { return };
        if self.striking.bool() {
            self.doomed = Some(Doom { node, everybody: true });
        } else {
            self.cut_power();
        }
    }

    fn crash_for_a_while(&mut self, node: usize) {
        let finished = self.striking.bool();
        self.crash(node, finished);
        let wait = dice::millis(&mut self.striking, 50..=12_000);
        self.after(wait, Happening::Restart { node });
    }

    fn cut_power(&mut self) {
        self.census.count("power cut");
        for node in 0..self.machines.len() {
            let finished = self.striking.bool();
            self.crash(node, finished);
            let wait = dice::millis(&mut self.striking, 500..=5000);
            self.after(wait, Happening::Restart { node });
        }
    }

    /// A node begins a sync that takes this long: if it is doomed, it crashes before the end.
    pub(crate) fn meet_doom(&mut self, node: usize, sync: Duration) {
        if let Some(doom) = self.doomed.take_if(|doom| doom.node == node && self.stormy) {
            let boot = self.machines[node].boot;
            let wait = dice::micros(&mut self.striking, 0..=sync.as_micros() as u64);
            self.after(wait, Happening::Doom { doom, boot });
        }
    }

    pub(crate) fn on_doom(&mut self, Doom { node, everybody }: Doom, boot: u64) {
        if !self.stormy || !self.is_boot(node, boot) {
            return;
        }
        self.census.count("crash in a sync");
        if everybody {
            self.cut_power();
        } else {
            self.crash_for_a_while(node);
        }
    }

    fn strike_pause(&mut self) {
        let Some(node) = self.some_node(|machine| machine.is_awake()) else { return };
        self.note(format_args!("n{node} stands still"));
        self.census.count("pause");
        self.machines[node].paused = true;
        for (peer, link) in self.network.ends_of(node) {
            self.expect_timeout(peer, node, link);
        }
        let boot = self.machines[node].boot;
        let wait = dice::millis(&mut self.striking, 100..=10_000);
        self.after(wait, Happening::Resume { node, boot });
    }

    pub(crate) fn resume(&mut self, node: usize) {
        if !self.machines[node].paused {
            return;
        }
        self.note(format_args!("n{node} goes on"));
        self.machines[node].paused = false;
        for (peer, _) in self.network.ends_of(node) {
            self.notice_half_open(node, peer);
        }
        self.turn(node);
    }

    fn some_node(&mut self, wanted: impl Fn(&crate::machine::Machine) -> bool) -> Option<usize> {
        let candidates: Vec<_> = (0..self.machines.len()).filter(|node| wanted(&self.machines[*node])).collect();
        dice::pick(&mut self.striking, &candidates)
    }

    /// Faults end: everything is repaired, and every node is up.
    pub(crate) fn end_storm(&mut self) {
        self.stormy = false;
        self.doomed = None;
        self.note(format_args!("the storm is over"));
        self.network.faults = Faults::default();
        self.heal_partition();
        for node in 0..self.machines.len() {
            self.resume(node);
            let wait = dice::millis(&mut self.striking, 0..=500);
            self.after(wait, Happening::Restart { node });
        }
        self.run_for(Duration::from_millis(500));
        self.observe(&Fact::Healed);
    }
}
