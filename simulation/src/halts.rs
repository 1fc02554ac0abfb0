//! Hinders processes without ending them: pauses, stalls, slow readers, and clocks that are wrong.

use std::time::Duration;

use crate::dice;
use crate::faults::Fault;
use crate::history::Fact;
use crate::machine::{Crawl, Machine};
use crate::world::{Happening, World};

/// How long a pause takes, in milliseconds.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 100..=10_000;
/// A long pause takes at least so many milliseconds, and at most one of these.
const LONG_PAUSE_MS_MIN: u64 = 60_000;
const LONG_PAUSE_MS_MAX: [u64; 4] = [100_000, 100_000, 200_000, 600_000];
/// After a long pause the storm goes on for so long.
const AFTER_LONG_PAUSE: Duration = Duration::from_secs(3);
/// How long an event loop stalls, in milliseconds.
const STALL_MS: std::ops::RangeInclusive<u64> = 300..=6_000;
/// How long a node reads slowly, in milliseconds.
const CRAWL_MS: std::ops::RangeInclusive<u64> = 2_000..=15_000;
/// A slow reader takes one event every so many milliseconds.
const CRAWL_GAP_MS: std::ops::RangeInclusive<u64> = 20..=300;
/// So many messages wait for a slow reader. The network layer allows 32 MiB; a run is too short and its messages too
/// small to fill that, so the bound is smaller here to be met at all.
const CRAWL_ROOM: std::ops::RangeInclusive<usize> = 16..=256;
/// How far a wall clock jumps, in milliseconds.
const JUMP_MS: i64 = 3_600_000;
/// How far a clock drifts, in millionths.
const DRIFT_PPM: i64 = 500;

impl World {
    pub(crate) fn strike_pause(&mut self) {
        let wait = dice::millis(self.dice(Fault::Pause), PAUSE_MS);
        self.pause(Fault::Pause, wait);
    }

    /// One in a run is enough.
    pub(crate) fn strike_long_pause(&mut self) {
        if self.census.hits(Fault::LongPause) > 0 {
            return;
        }
        let dice = self.dice(Fault::LongPause);
        let most = LONG_PAUSE_MS_MAX[dice.usize(..LONG_PAUSE_MS_MAX.len())];
        let wait = dice::millis(dice, LONG_PAUSE_MS_MIN..=most);
        if self.pause(Fault::LongPause, wait) {
            self.storm_until = self.storm_until.max(self.now() + wait + AFTER_LONG_PAUSE);
        }
    }

    fn pause(&mut self, fault: Fault, wait: Duration) -> bool {
        let Some(node) = self.some_node(fault, Machine::is_awake) else { return false };
        self.note_at(node, format_args!("stands still for {wait:?}"));
        self.census.hit(fault);
        self.observe(&Fact::Disturbed);
        if let Some(running) = &mut self.machines[node].running {
            running.paused = true;
        }
        for (peer, link) in self.network.ends_of(node) {
            self.expect_timeout(peer, node, link);
        }
        let boot = self.machines[node].boot;
        self.after(wait, Happening::Resume { node, boot });
        true
    }

    pub(crate) fn resume(&mut self, node: usize) {
        let Some(running) = self.machines[node].running.as_mut().filter(|running| running.paused) else { return };
        running.paused = false;
        self.note_at(node, format_args!("goes on"));
        for (peer, _) in self.network.ends_of(node) {
            self.notice_half_open(node, peer);
        }
        self.go_on(node);
    }

    pub(crate) fn strike_stall(&mut self) {
        let Some(node) = self.some_node(Fault::Stall, Machine::is_awake) else { return };
        let wait = dice::millis(self.dice(Fault::Stall), STALL_MS);
        let Some(running) = self.machines[node].running.as_mut().filter(|running| !running.stalled) else { return };
        running.stalled = true;
        self.note_at(node, format_args!("handles nothing for {wait:?}"));
        self.census.hit(Fault::Stall);
        self.observe(&Fact::Disturbed);
        let boot = self.machines[node].boot;
        self.after(wait, Happening::Unstall { node, boot });
    }

    pub(crate) fn unstall(&mut self, node: usize) {
        let Some(running) = self.machines[node].running.as_mut().filter(|running| running.stalled) else { return };
        running.stalled = false;
        self.note_at(node, format_args!("handles events again"));
        self.go_on(node);
    }

    pub(crate) fn strike_slow_reader(&mut self) {
        let Some(node) = self.some_node(Fault::SlowReader, Machine::is_awake) else { return };
        let now = self.now();
        let dice = self.dice(Fault::SlowReader);
        let (wait, gap) = (dice::millis(dice, CRAWL_MS), dice::millis(dice, CRAWL_GAP_MS));
        let room = dice.usize(CRAWL_ROOM);
        let Some(running) = self.machines[node].running.as_mut().filter(|it| it.crawl.is_none()) else { return };
        running.crawl = Some(Crawl { gap, next: now, room });
        self.note_at(node, format_args!("reads one event in {gap:?} for {wait:?}"));
        self.census.hit(Fault::SlowReader);
        self.observe(&Fact::Disturbed);
        let boot = self.machines[node].boot;
        self.after(wait, Happening::ReadOn { node, boot });
    }

    pub(crate) fn read_on(&mut self, node: usize) {
        let Some(running) = self.machines[node].running.as_mut().filter(|it| it.crawl.is_some()) else { return };
        running.crawl = None;
        self.note_at(node, format_args!("reads as fast as ever"));
        self.go_on(node);
    }

    /// Whether a message finds room at a slow reader. When it does not, its sender gives up the link.
    pub(crate) fn has_room(&mut self, node: usize, peer: usize) -> bool {
        let sender = self.machines[peer].id;
        let Some(running) = &self.machines[node].running else { return true };
        let has_room = |crawl: Crawl| !running.is_full() && running.waiting_from(sender) < crawl.room;
        if running.crawl.is_none_or(has_room) {
            return true;
        }
        if let Some(link) = self.network.end(peer, node) {
            self.census.count("link to a slow reader closed");
            self.on_link_lost(peer, node, link);
        }
        false
    }

    /// Sets a wall clock.
    pub(crate) fn strike_clock(&mut self) {
        let Some(node) = self.some_node(Fault::ClockJump, |_| true) else { return };
        let off = self.dice(Fault::ClockJump).i64(-JUMP_MS..=JUMP_MS);
        self.machines[node].wall_off_ms = off;
        self.note_at(node, format_args!("has a wall clock that is {off} ms off"));
        self.census.hit(Fault::ClockJump);
    }

    /// How much too fast the clock of a process that starts now is, in millionths.
    pub(crate) fn drift(&mut self) -> i64 {
        if !self.faults.has(Fault::ClockDrift) {
            return 0;
        }
        self.census.hit(Fault::ClockDrift);
        self.dice(Fault::ClockDrift).i64(-DRIFT_PPM..=DRIFT_PPM)
    }

    /// Everybody works as he should.
    pub(crate) fn unhinder(&mut self, node: usize) {
        self.resume(node);
        self.unstall(node);
        self.read_on(node);
        self.machines[node].wall_off_ms = 0;
    }
}
