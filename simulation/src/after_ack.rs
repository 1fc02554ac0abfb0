//! The loss of a disk that nobody looked into: right after its node acknowledged something, in a run in which no node was
//! ever hindered, cut off or stopped. That is what two copies are for, so nothing may be lost whatever the nodes think.

use std::time::Duration;

use swarm_protocol::LINKS_FULL_MAX;

use crate::dice;
use crate::faults::Fault;
use crate::world::{Happening, World};

/// All nodes are linked for this long before anything is acknowledged: by then each knows all.
const LINKED_MIN: Duration = Duration::from_secs(10);
/// How often it is looked whether they are.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// So many milliseconds are left for jobs after that.
const STORM_MS: std::ops::RangeInclusive<u64> = 8_000..=20_000;
/// So many acknowledgements are let pass, at most.
const LET_PASS: u32 = 8;
/// The disk is lost within so many microseconds of the acknowledgement.
const LOST_US: std::ops::RangeInclusive<u64> = 0..=2000;

/// Which acknowledgement is punished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ambush {
    /// Of a job, to its user; after so many others.
    Job(u32),
    /// Of outcomes, to their executor; after so many others.
    Report(u32),
}

impl World {
    /// Waits until all nodes have been linked for long enough.
    pub(crate) fn prepare_ambush(&mut self) {
        let until = self.now() + LINKED_MIN;
        self.storm_until = self.storm_until.max(until + Duration::from_secs(10));
        self.after(LOOK_EVERY, Happening::Ambush { until });
    }

    pub(crate) fn on_ambush(&mut self, until: swarm_protocol::Time) {
        if !self.stormy {
            return;
        }
        let nodes = self.machines.len();
        let whole = self.is_whole();
        if whole && self.now() >= until {
            let dice = self.dice(Fault::WipeAfterAck);
            let others = dice.u32(..LET_PASS);
            self.ambush = Some(if dice.bool() { Ambush::Job(others / 4) } else { Ambush::Report(others) });
            let storm = dice::millis(self.dice(Fault::WipeAfterAck), STORM_MS);
            self.storm_until = self.storm_until.max(self.now() + storm);
            return self.begin_users();
        }
        if nodes < 3 {
            return self.begin_users();
        }
        let until = if whole { until } else { self.now() + LINKED_MIN };
        self.storm_until = self.storm_until.max(until + LOOK_EVERY);
        self.after(LOOK_EVERY, Happening::Ambush { until });
    }

    /// Whether everybody has the links that it wants: to all others, or in a sparse swarm to its neighbours. Among fewer than
    /// three a second copy is not promised at every moment.
    fn is_whole(&self) -> bool {
        let nodes = self.machines.len();
        if nodes <= LINKS_FULL_MAX {
            return nodes > 2 && self.network.open_links() == nodes * (nodes - 1) / 2;
        }
        self.machines.iter().all(|it| it.running.as_ref().is_some_and(|running| running.core.has_enough_links()))
    }

    /// A node tells its user that a job is safe.
    pub(crate) fn job_acknowledged(&mut self, node: usize) {
        match &mut self.ambush {
            Some(Ambush::Job(0)) => self.lose_disk_soon(node),
            Some(Ambush::Job(others)) => *others -= 1,
            _ => {}
        }
    }

    /// A node tells an executor that its outcomes are safe.
    pub(crate) fn report_acknowledged(&mut self, node: usize) {
        match &mut self.ambush {
            Some(Ambush::Report(0)) => self.lose_disk_soon(node),
            Some(Ambush::Report(others)) => *others -= 1,
            _ => {}
        }
    }

    fn lose_disk_soon(&mut self, node: usize) {
        self.ambush = None;
        let wait = dice::micros(self.dice(Fault::WipeAfterAck), LOST_US);
        self.after(wait, Happening::LoseDisk { node });
    }

    pub(crate) fn on_lose_disk(&mut self, node: usize) {
        if self.stormy {
            self.note_at(node, format_args!("loses its disk, having acknowledged something"));
            self.lose_disk(node, Fault::WipeAfterAck);
        }
    }
}
