//! Faults of disks: what a crash leaves of the last writes, slow, full and unreadable disks, lost ones and old copies.
//!
//! Always true: a disk is lost only while everything that its node was told or told others is on another node that runs,
//! because two copies outlive the loss of one, and of no more. The simulator looks inside the nodes to know; the
//! auditor never does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use swarm_protocol::lattice::End;
use swarm_protocol::{Hash, JobId, Message, Node, ShardId};
use swarm_store::StoreError;

use crate::dice;
use crate::faults::Fault;
use crate::history::{Fact, facts_in};
use crate::machine::{Copy, Machine};
use crate::world::{Happening, World};

/// A sync takes so many microseconds on a good day.
const SYNC_US: std::ops::RangeInclusive<u64> = 300..=5000;
/// A slow sync takes so many milliseconds.
const SLOW_SYNC_MS: std::ops::RangeInclusive<u64> = 5..=500;
/// One slow sync in so many takes longer.
const VERY_SLOW_SYNC: u32 = 50;
/// Then it takes so many milliseconds.
const VERY_SLOW_SYNC_MS: std::ops::RangeInclusive<u64> = 500..=3000;
/// So many syncs in a thousand are slow, on a slow disk.
const SLOW_SYNCS: u32 = 50;
/// So many crashes in a thousand lose what was not synced, and so many tear it, where these are switched on.
const CRASHES_THAT_HURT: u32 = 600;
/// How long a disk is full, in milliseconds.
const FULL_MS: std::ops::RangeInclusive<u64> = 500..=10_000;
/// So many starts in a thousand find a disk that cannot be read.
const UNREADABLE_STARTS: u32 = 400;
/// After so many milliseconds somebody starts a node again that stopped or refused to start.
const TRY_AGAIN_MS: std::ops::RangeInclusive<u64> = 200..=3000;
/// After so many milliseconds a node starts whose disk was lost.
const REPLACED_MS: std::ops::RangeInclusive<u64> = 50..=8000;
/// How often it is tried to lose a disk while none may be lost.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

impl World {
    /// How long a sync that begins now takes.
    pub(crate) fn sync_time(&mut self) -> Duration {
        if !self.faults.has(Fault::SlowSync) || !dice::chance(self.dice(Fault::SlowSync), SLOW_SYNCS) {
            return dice::micros(&mut self.timing, SYNC_US);
        }
        self.census.hit(Fault::SlowSync);
        if self.dice(Fault::SlowSync).u32(..VERY_SLOW_SYNC) > 0 {
            return dice::millis(self.dice(Fault::SlowSync), SLOW_SYNC_MS);
        }
        // So long that others may take the node for dead.
        self.observe(&Fact::Disturbed);
        dice::millis(self.dice(Fault::SlowSync), VERY_SLOW_SYNC_MS)
    }

    /// A process ends: how many of the batches that it had not synced are on the disk all the same. All, unless the
    /// machine goes down with it.
    pub(crate) fn survivors(&mut self, node: usize) -> usize {
        let unsynced = self.machines[node].disk.unsynced();
        if unsynced == 0 {
            return 0;
        }
        if self.faults.has(Fault::TornWrite) && dice::chance(self.dice(Fault::TornWrite), CRASHES_THAT_HURT) {
            self.census.hit(Fault::TornWrite);
            return self.dice(Fault::TornWrite).usize(..unsynced);
        }
        if self.faults.has(Fault::LostWrites) && dice::chance(self.dice(Fault::LostWrites), CRASHES_THAT_HURT) {
            self.census.hit(Fault::LostWrites);
            return 0;
        }
        unsynced
    }

    // ---- full

    pub(crate) fn strike_full_disk(&mut self) {
        let Some(node) = self.some_node(Fault::FullDisk, |_| true) else { return };
        let wait = dice::millis(self.dice(Fault::FullDisk), FULL_MS);
        self.note_at(node, format_args!("has a full disk for {wait:?}"));
        self.machines[node].disk.set_full(true);
        self.after(wait, Happening::Room { node });
    }

    /// A batch could not be made durable: the node stops rather than lies, and is started again.
    pub(crate) fn stop_for_want_of_room(&mut self, node: usize) {
        self.note_at(node, format_args!("stops: its disk is full"));
        self.census.hit(Fault::FullDisk);
        // Whether the batch is there is unknown.
        let unsynced = self.machines[node].disk.unsynced();
        let dice = self.dice(Fault::FullDisk);
        let (survivors, wait) = (dice.usize(..=unsynced), dice::millis(dice, TRY_AGAIN_MS));
        self.crash(node, survivors);
        self.after(wait, Happening::Restart { node });
    }

    pub(crate) fn make_room(&mut self, node: usize) {
        self.machines[node].disk.set_full(false);
    }

    // ---- unreadable

    /// A node is about to start: perhaps its disk cannot be read this time.
    pub(crate) fn meet_unreadable_disk(&mut self, node: usize) {
        let unreadable =
            self.faults.has(Fault::ReadError) && dice::chance(self.dice(Fault::ReadError), UNREADABLE_STARTS);
        self.machines[node].disk.set_unreadable(unreadable);
    }

    /// A node that cannot read its records does not start, and is tried again.
    pub(crate) fn refuse_to_start(&mut self, node: usize, error: &StoreError) {
        self.note_at(node, format_args!("does not start: {error}"));
        self.census.hit(Fault::ReadError);
        let wait = dice::millis(self.dice(Fault::ReadError), TRY_AGAIN_MS);
        self.after(wait, Happening::Restart { node });
    }

    // ---- lost

    /// A node loses its disk, as soon as there is one that may.
    pub(crate) fn strike_wipe(&mut self) {
        let Some(node) = self.some_spare_node(Fault::Wipe) else {
            return self.after(LOOK_AGAIN, Happening::StrikeNow(Fault::Wipe));
        };
        self.note_at(node, format_args!("loses its disk"));
        self.lose_disk(node, Fault::Wipe);
    }

    /// The node ends, and will start with an empty disk.
    pub(crate) fn lose_disk(&mut self, node: usize, fault: Fault) {
        let disk = self.machines[node].disk.emptied();
        let empty = Copy { disk, blobs: BTreeSet::new(), pins: BTreeSet::new() };
        self.replace_disk(node, fault, empty);
    }

    /// First a disk is copied; later, as soon as it may, its node is set back to the copy.
    pub(crate) fn strike_old_disk(&mut self) {
        let copied = (0..self.machines.len()).filter(|node| self.machines[*node].copy.is_some()).collect::<Vec<_>>();
        if copied.is_empty() || self.dice(Fault::OldDisk).bool() {
            return self.copy_a_disk();
        }
        let is_copied = |node: &usize| copied.contains(node);
        let spare: Vec<_> = (0..self.machines.len()).filter(is_copied).filter(|node| self.is_spare(*node)).collect();
        let Some(node) = dice::pick(self.dice(Fault::OldDisk), &spare) else {
            return self.after(LOOK_AGAIN, Happening::StrikeNow(Fault::OldDisk));
        };
        let Some(copy) = self.machines[node].copy.take() else { return };
        self.note_at(node, format_args!("is set back to an old copy of its disk"));
        self.replace_disk(node, Fault::OldDisk, copy);
    }

    fn copy_a_disk(&mut self) {
        let Some(node) = self.some_node(Fault::OldDisk, Machine::is_up) else { return };
        self.note_at(node, format_args!("has its disk copied"));
        let machine = &mut self.machines[node];
        let (disk, blobs, pins) = (machine.disk.synced_copy(), machine.blobs.clone(), machine.pins.clone());
        machine.copy = Some(Copy { disk, blobs, pins });
    }

    fn replace_disk(&mut self, node: usize, fault: Fault, Copy { disk, blobs, pins }: Copy) {
        self.census.hit(fault);
        let survivors = self.machines[node].disk.unsynced();
        self.crash(node, survivors);
        let machine = &mut self.machines[node];
        (machine.disk, machine.blobs, machine.pins) = (disk, blobs, pins);
        let id = machine.id;
        self.observe(&Fact::Forgot { node: id });
        let wait = dice::millis(self.dice(fault), REPLACED_MS);
        self.after(wait, Happening::Restart { node });
    }

    fn some_spare_node(&mut self, fault: Fault) -> Option<usize> {
        let spare: Vec<_> = (0..self.machines.len()).filter(|node| self.is_spare(*node)).collect();
        dice::pick(self.dice(fault), &spare)
    }

    /// Blobs of outcomes that somebody recorded may not be lost; those that a task left of which nobody knows may.
    pub(crate) fn note_recorded_blobs(&mut self, message: &Message) {
        let ended = facts_in(message).into_iter().flat_map(|(_, runs)| runs).filter_map(|run| run.state.end.as_ref());
        for end in ended {
            if let End::Done(results) | End::Exhausted(results) = end {
                self.recorded_blobs.extend(results.outcome().blobs());
            }
        }
    }

    /// Whether all that this node knows is durable on other nodes that run and stay.
    pub(crate) fn is_spare(&self, node: usize) -> bool {
        self.machines[node].is_up() && self.only_here(node).is_none()
    }

    /// Something that this node knows and that is not durable on another node that runs and stays.
    pub(crate) fn only_here(&self, node: usize) -> Option<String> {
        let core = &self.machines[node].running.as_ref()?.core;
        let stays = |other: &usize| self.machines[*other].running.as_ref().is_some_and(|it| !it.draining);
        let others: Vec<_> = (0..self.machines.len()).filter(|other| *other != node && stays(other)).collect();
        // What a core knows while it syncs may not be durable yet.
        let running = others.iter().filter_map(|other| self.machines[*other].running.as_ref());
        let cores: Vec<_> = running.filter(|it| it.syncing.is_none()).map(|it| &it.core).collect();
        let stop_of = |core: &Node, job| core.job_status(job).map(|status| status.stop);
        // What is no more for one of them need not be known to anybody.
        let lasts = |job: &&JobId| !cores.iter().any(|other| other.has_expired(**job));
        // The newest first: of those something is here alone most often.
        let jobs: Vec<_> = self.clients.submitted.iter().chain(&self.clients.brief).rev().filter(lasts).collect();
        for job in jobs.iter().copied() {
            let Some(stop) = stop_of(core, *job) else { continue };
            if !cores.iter().any(|other| stop_of(other, *job) >= Some(stop)) {
                return Some(format!("job {job:?}, stopped: {stop:?}"));
            }
            let alone = |shard: &ShardId| !cores.iter().any(|other| other.knows_all_of(core, *shard));
            if let Some(shard) = self.shards_of(*job).into_iter().find(alone) {
                return Some(format!("facts of {shard:?}"));
            }
        }
        let blobs = &self.machines[node].blobs;
        // Where blobs are collected as jobs expire, who does not know that it needs one is about to remove it.
        let uses = |it: usize| self.machines[it].running.as_ref().map(|running| self.in_use(&running.core));
        let used: BTreeMap<usize, Option<BTreeSet<Hash>>> = match self.clients.jobs_expire() {
            true => others.iter().chain([&node]).map(|it| (*it, uses(*it))).collect(),
            false => BTreeMap::new(),
        };
        let knows = |it: &usize, blob: &Hash| used.get(it).is_none_or(|set| set.iter().any(|set| set.contains(blob)));
        let held = |blob: &Hash| others.iter().any(|it| self.machines[*it].blobs.contains(blob) && knows(it, blob));
        let of_jobs = jobs.into_iter().filter(|job| stop_of(core, **job) == Some(None));
        let of_jobs = of_jobs.filter_map(|job| Some(self.jobs.get(job)?.0.blobs)).flat_map(|it| self.with_listed(it));
        let mut needed = of_jobs.chain(self.recorded_blobs.iter().copied()).filter(|blob| blobs.contains(blob));
        let in_use = |blob: &Hash| used.is_empty() || used.keys().any(|it| knows(it, blob));
        needed.find(|blob| !held(blob) && in_use(blob)).map(|blob| format!("blob {blob}"))
    }
}
