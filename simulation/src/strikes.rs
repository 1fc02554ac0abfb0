//! Does faults to the swarm, and ends them.
//!
//! Elsewhere: walls in the network are `walls`; pauses, stalls, slow readers and clocks are `halts`;
//! disks are `disks`.

use std::time::Duration;

use crate::dice;
use crate::faults::{Fault, Faults};
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
        self.strike(fault);
        if self.stormy {
            self.strike_again(fault, seconds);
        }
    }

    /// Does a fault, unless the storm is over.
    pub(crate) fn strike(&mut self, fault: Fault) {
        if !self.stormy {
            return;
        }
        match fault {
            Fault::Partition | Fault::OneWay => self.strike_halves(fault),
            Fault::Bridge => self.strike_bridge(),
            Fault::HalfOpen => self.strike_half_open(),
            Fault::SlowReader => self.strike_slow_reader(),
            Fault::LinkCut => self.strike_cut(),
            Fault::Crash => self.strike_crash(),
            Fault::CrashInWrite => self.strike_in_write(fault),
            Fault::PowerCut => self.strike_power_cut(),
            Fault::Pause => self.strike_pause(),
            Fault::LongPause => self.strike_long_pause(),
            Fault::Stall => self.strike_stall(),
            Fault::ClockJump => self.strike_clock(),
            Fault::Wipe => self.strike_wipe(),
            Fault::OldDisk => self.strike_old_disk(),
            Fault::FullDisk => self.strike_full_disk(),
            Fault::Twin => self.strike_twin(),
            Fault::Drain => self.strike_drain(),
            // These are no strikes: they happen to messages, syncs, crashes, starts, clocks and tasks all the time.
            Fault::GuestTraps | Fault::GuestHangs | Fault::GuestKills | Fault::GuestLies => {}
            Fault::Loss | Fault::Duplication | Fault::Reordering | Fault::Delay => {}
            Fault::SlowSync | Fault::LostWrites | Fault::TornWrite | Fault::ReadError | Fault::ClockDrift => {}
            // This one waits for its moment.
            Fault::WipeAfterAck => {}
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
        let wait = dice::millis(self.dice(fault), 50..=12_000);
        let survivors = self.survivors(node);
        self.crash(node, survivors);
        self.after(wait, Happening::Restart { node });
    }

    fn cut_power(&mut self) {
        self.census.hit(Fault::PowerCut);
        for node in 0..self.machines.len() {
            let unsynced = self.machines[node].disk.unsynced();
            let dice = self.dice(Fault::PowerCut);
            let (survivors, wait) = (dice.usize(..=unsynced), dice::millis(dice, 500..=5000));
            self.crash(node, survivors);
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

    /// A machine for which this holds, by the dice of a fault.
    pub(crate) fn some_node(&mut self, fault: Fault, wanted: impl Fn(&Machine) -> bool) -> Option<usize> {
        let candidates: Vec<_> = (0..self.machines.len()).filter(|node| wanted(&self.machines[*node])).collect();
        dice::pick(self.dice(fault), &candidates)
    }

    /// Faults end: everything is repaired, and every node is up.
    pub(crate) fn end_storm(&mut self) {
        self.stormy = false;
        self.doomed = None;
        self.ambush = None;
        self.note(format_args!("the storm is over"));
        self.faults = Faults::default();
        self.network.rates = self.faults.rates;
        for cause in self.network.walls() {
            self.heal(cause);
        }
        for node in 0..self.machines.len() {
            self.unhinder(node);
            self.make_room(node);
            let wait = dice::millis(&mut self.timing, 0..=500);
            self.after(wait, Happening::Restart { node });
        }
        self.run_for(Duration::from_millis(500));
        self.end_twins();
        self.observe(&Fact::Healed);
    }
}
