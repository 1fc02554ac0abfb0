//! Granting the tasks of a shard: leases with epochs, and their outcomes recorded on enough nodes. Here: what an arbiter
//! remembers, who keeps what it records, and what every event and every tick bring.
//!
//! Always true:
//! - a grant carries the epoch that this node promised itself and every reachable custodian promised;
//! - an outcome is acknowledged to its executor only when `min(2, live nodes)` nodes have synced it;
//! - a report under a lease that is not held here changes nothing.
//!
//! A shard's life with its arbiter: `takeover` → `grants` → `leases` → `reports` → `gathering` → `records`; what
//! ends without a report is in `endings`. Leases are soft state: an arbiter that restarts asks the executors.
//!
//! Elsewhere: facts and promises are `custody`; the executor's side is `worker`.

mod endings;
mod gathering;
mod grants;
mod leases;
mod records;
mod reports;
mod takeover;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use rangemap::RangeSet;

use self::gathering::Gathered;
use self::grants::WANT_TTL;
pub(crate) use self::grants::{BATCH_MS, Want};
use self::leases::Lease;
use self::records::Recording;
pub(crate) use self::reports::Parked;
use crate::custody::Shard;
use crate::lattice::Run;
use crate::node::Node;
use crate::placement::Key;
use crate::stragglers::{Copies, Pace};
use crate::task_sets::{count_of, ranges_of};
use crate::{Content, Epoch, LeaseId, NodeId, Range, ShardId, Time};

/// A request to a custodian is repeated after this.
const REPEAT: Duration = Duration::from_millis(500);

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waiting for promises.
    Preparing {
        waiting: BTreeSet<NodeId>,
        repeat: Time,
        seen_before: bool,
    },
    /// Waiting for executors that hold leases of an earlier arbiter.
    Grace {
        until: Time,
    },
    Granting,
}

#[derive(Debug)]
pub(crate) struct Arbiter {
    pub(crate) epoch: Epoch,
    phase: Phase,
    /// Neither ended, leased, reported, backing off nor waiting for tasks of another stage.
    pub(crate) pending: RangeSet<u32>,
    /// Waiting for a task of another stage: its stage and index.
    pub(crate) blocked: BTreeMap<u32, (u16, u32)>,
    /// Backing off until then.
    delayed: BTreeSet<(Time, u32)>,
    /// Who should not get a task, and until when.
    avoid: BTreeMap<u32, (NodeId, Time)>,
    pub(crate) leases: BTreeMap<u64, Lease>,
    pub(crate) pace: Pace,
    pub(crate) copies: Copies,
    /// Since when tasks wait and none was granted.
    waiting_since: Option<Time>,
    /// Since when tasks could be granted at all.
    pub(crate) able_since: Option<Time>,
    /// When a node that the stage likes took some last.
    pub(crate) liked_at: Option<Time>,
    /// Reported, not yet recorded.
    gathered: Gathered,
    recordings: BTreeMap<u64, Recording>,
    /// What the last failed attempts of some tasks wrote to standard error: for people.
    last_words: BTreeMap<u32, Content>,
    last_lease: u64,
    last_recording: u64,
}

impl Arbiter {
    /// `numbers` is random: an arbiter that forgot (a restored disk) may come to an epoch in which it granted before.
    fn new(epoch: Epoch, waiting: BTreeSet<NodeId>, repeat: Time, seen_before: bool, numbers: u64) -> Self {
        Self {
            epoch,
            phase: Phase::Preparing { waiting, repeat, seen_before },
            pending: RangeSet::new(),
            blocked: BTreeMap::new(),
            delayed: BTreeSet::new(),
            avoid: BTreeMap::new(),
            leases: BTreeMap::new(),
            pace: Pace::default(),
            copies: Copies::default(),
            waiting_since: None,
            able_since: None,
            liked_at: None,
            gathered: Gathered::default(),
            recordings: BTreeMap::new(),
            last_words: BTreeMap::new(),
            last_lease: numbers,
            last_recording: numbers,
        }
    }

    /// Facts came from elsewhere: what they end is not to be granted.
    pub(crate) fn forget_ended(&mut self, segment: &[Run]) {
        for run in segment.iter().filter(|run| run.state.end.is_some() && run.range.count > 0) {
            self.pending.remove(run.range.indexes());
            self.copies.forget(run.range);
            if !self.blocked.is_empty() {
                self.blocked.retain(|task, _| !run.range.indexes().contains(task));
            }
            if !self.delayed.is_empty() {
                self.delayed.retain(|(_, task)| !run.range.indexes().contains(task));
            }
        }
    }

    /// Tasks leased now, with their executors.
    pub(crate) fn leased(&self) -> Vec<(Range, NodeId)> {
        let leases = self.leases.values();
        leases.flat_map(|lease| ranges_of(&lease.tasks).into_iter().map(|range| (range, lease.executor))).collect()
    }

    /// Who runs this task now: two nodes, when it is a straggler.
    pub(crate) fn leases_of(&self, task: u32) -> impl Iterator<Item = NodeId> + '_ {
        self.leases.values().filter(move |lease| lease.tasks.contains(&task)).map(|lease| lease.executor)
    }

    pub(crate) const fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Tasks backing off, with the moment at which each may be granted again.
    pub(crate) fn delays(&self) -> impl Iterator<Item = (Time, u32)> + '_ {
        self.delayed.iter().copied()
    }

    /// Tasks that a node is not given, and for how long.
    pub(crate) fn avoided(&self, now: Time) -> impl Iterator<Item = (u32, NodeId, Duration)> + '_ {
        let avoided = self.avoid.iter().map(move |(task, (node, until))| (*task, *node, until.since(now)));
        avoided.filter(|(.., left)| !left.is_zero())
    }

    /// Since when tasks wait and none was granted.
    pub(crate) const fn waiting_since(&self) -> Option<Time> {
        self.waiting_since
    }

    /// What the task's last attempt wrote to standard error, while that is remembered.
    pub(crate) fn words_of(&self, task: u32) -> Content {
        self.last_words.get(&task).cloned().unwrap_or(Content::EMPTY)
    }

    /// Whether any task was granted a second time.
    fn has_two_runs(&self) -> bool {
        self.copies.were_granted()
    }

    /// Whether everything that is left is leased.
    pub(crate) fn nothing_waits(&self) -> bool {
        self.phase == Phase::Granting && self.pending.is_empty() && self.delayed.is_empty() && self.blocked.is_empty()
    }

    /// Tasks that could be granted.
    pub(crate) fn claimable(&self) -> u32 {
        count_of(&self.pending) + self.copies.offered()
    }

    /// Whether time alone may change something soon: who only waits for somebody to take its tasks is looked at less often.
    pub(crate) fn is_active(&self) -> bool {
        self.phase != Phase::Granting
            || !(self.delayed.is_empty() && self.leases.is_empty() && self.recordings.is_empty())
    }
}

impl Node {
    pub(crate) fn arbiter_mut(&mut self, shard: ShardId) -> Option<&mut Arbiter> {
        self.custody.shard_mut(shard)?.arbiter.as_mut()
    }

    /// The arbiter here, if it works under this lease's epoch.
    fn arbiter_of(&mut self, lease: LeaseId) -> Option<&mut Arbiter> {
        self.arbiter_mut(lease.shard).filter(|arbiter| arbiter.epoch == lease.epoch)
    }

    fn other_custodians(&self, shard: &Shard) -> BTreeSet<NodeId> {
        let me = self.me();
        shard.custodians.iter().copied().filter(|node| *node != me && self.reaches(*node)).collect()
    }

    /// Who besides me is to have the facts of this shard: its other custodians. For those that do not answer the
    /// nearest others stand in, and hand over what they were given when digests are compared (hinted handoff: DeCandia
    /// et al., "Dynamo", 2007 §4.6).
    pub(crate) fn keepers(&self, id: ShardId, shard: &Shard) -> BTreeSet<NodeId> {
        let mut keepers = self.other_custodians(shard);
        let others = shard.custodians.iter().filter(|node| **node != self.me()).count();
        if keepers.len() < others {
            let me = self.me();
            let stands_in = |node: &NodeId| *node != me && !shard.custodians.contains(node) && self.reaches(*node);
            let nearest = self.membership.view.nearest(Key::of_shard(id)).filter(stands_in);
            keepers.extend(nearest.take(others - keepers.len()));
        }
        keepers
    }

    // ---- what every event and every tick bring

    /// At the end of every event: whatever it made possible.
    pub(crate) fn settle_custody(&mut self) {
        if core::mem::take(&mut self.custody.arbitration_changed) {
            self.review_arbitration();
        }
        self.recount_claims();
        if core::mem::take(&mut self.custody.grants_changed) {
            self.grant_wants();
        }
        if !self.custody.over_due.is_empty() {
            self.tell_over();
        }
        self.flush_progress();
    }

    /// Called every tick.
    pub(crate) fn keep_custody(&mut self) {
        for id in self.custody.take_looks() {
            if self.custody.shard(id).is_none_or(Shard::is_over) {
                continue;
            }
            self.keep_preparing(id);
            self.advance(id);
            self.end_back_off(id);
            self.end_leases(id);
            self.find_stragglers(id);
            self.end_queue(id);
            self.end_total(id);
        }
        // Waits for an avoided executor end with time, too.
        self.custody.grants_changed |= self.custody.claimable > 0;
        self.keep_gathered();
        self.keep_recordings();
        self.custody.wants.retain(|_, want| self.now.since(want.at) < WANT_TTL);
        self.keep_digests();
    }

    /// A custodian became reachable or unreachable: fewer or more copies may be enough.
    pub(crate) fn on_arbiter_link_change(&mut self, peer: NodeId) {
        let shards = self.custody.kept().iter();
        let concerned = shards.filter(|(_, shard)| shard.arbiter.is_some() && shard.custodians.contains(&peer));
        let concerned: Vec<_> = concerned.map(|(id, _)| *id).collect();
        for id in concerned {
            self.keep_preparing(id);
            self.advance(id);
            self.finish_recordings(id);
        }
    }
}
