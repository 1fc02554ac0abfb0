//! Shards kept here: facts about their tasks, how they are persisted, promised, compared and repaired. Here: what is
//! remembered of each.
//!
//! Always true:
//! - facts only grow (`lattice`), and are synced before anybody is told that they are here;
//! - a promise of an epoch is synced before it is given, and nothing of a lower epoch is recorded after it;
//! - a node that is no longer custodian keeps its copy.
//!
//! The parts: `adoption` of shards, `facts` taken in, those that are `unsure` until a second node has them, `promises`,
//! `digests` that are compared, `progress` that is told, what `looks` are due, and how it is `stored`.
//!
//! Elsewhere: granting the tasks is `arbiter`; which nodes are custodians is `placement`; what a node owes that leaves is
//! `handover`.

mod adoption;
mod digests;
mod facts;
mod looks;
mod progress;
mod promises;
mod stored;
mod unsure;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use self::stored::recorded_in;
pub(crate) use self::stored::{UNSURE_PREFIX, shard_key};
use self::unsure::{ParkedRecord, Unsure};
use crate::arbiter::{Arbiter, Parked, Want};
use crate::claims::Claims;
use crate::edges::OverDue;
use crate::handover::Repair;
use crate::lattice::ShardState;
use crate::node::Node;
use crate::placement::Key;
use crate::{Epoch, Fetch, Hash, JobId, JobSpec, NodeId, Range, ShardId, Time, Wanted};

/// Shards in one message about many: about 200 KiB of digests.
pub(crate) const SHARDS_PER_MESSAGE: usize = 1500;

#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) spec: Arc<JobSpec>,
    pub(crate) range: Range,
    pub(crate) state: ShardState,
    /// In rank order, the first arbiter first.
    pub(crate) custodians: Vec<NodeId>,
    next_segment: u64,
    digest: Option<Hash>,
    /// Nodes whose copy equals mine.
    pub(crate) confirmed: BTreeSet<NodeId>,
    /// Nodes that were given all that I knew: enough for a node that leaves, though the copies of a busy shard differ.
    pub(crate) given: BTreeSet<NodeId>,
    /// Messages on their way to such nodes, not yet acknowledged.
    pub(crate) giving: BTreeMap<NodeId, BTreeSet<u64>>,
    /// Whether any result here names a blob.
    pub(crate) has_blobs: bool,
    /// Facts that came in a record which its arbiter may not have synced, and what could be told before them.
    unsure: Option<Unsure>,
    /// Whether the disk says that there may be such facts.
    unsure_noted: bool,
    pub(crate) arbiter: Option<Arbiter>,
    /// After losing an argument about the epoch, wait until then.
    pub(crate) quiet_until: Time,
    /// How long the last such wait was: it doubles while two nodes that do not see each other depose one another in turn.
    pub(crate) quiet: Duration,
}

impl Shard {
    pub(crate) fn is_over(&self) -> bool {
        self.state.counts().ended() >= self.range.count
    }

    /// Segments of it on the disk.
    pub(crate) const fn segments(&self) -> u64 {
        self.next_segment
    }

    /// Whether nothing was ever recorded here.
    pub(crate) fn is_new(&self) -> bool {
        self.next_segment == 0
    }

    fn digest(&mut self) -> Hash {
        *self.digest.get_or_insert_with(|| self.state.digest())
    }

    /// Whether every task has ended, as may be told to others.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled_counts().ended() >= self.range.count
    }

    /// Whether every task is done: nothing can come after that.
    pub(crate) fn is_done(&self) -> bool {
        self.state.counts().done >= self.range.count
    }

    /// The tasks of which nothing final is known.
    pub(crate) fn open_tasks(&self) -> rangemap::RangeSet<u32> {
        let mut open = rangemap::RangeSet::new();
        if self.range.count > 0 {
            open.insert(self.range.indexes());
        }
        for (range, _) in self.state.states().filter(|(_, state)| state.end.is_some()) {
            open.remove(range.indexes());
        }
        open
    }
}

#[derive(Debug, Default)]
pub(crate) struct Custody {
    shards: BTreeMap<ShardId, Shard>,
    /// Shards with open tasks, in order of the arrival of their jobs.
    pub(crate) open: BTreeSet<(u64, ShardId)>,
    /// Shards that this event may have changed: they are counted again at its end.
    touched: BTreeSet<ShardId>,
    /// Shards that are looked at every tick.
    active: BTreeSet<ShardId>,
    /// Those that are looked at with the next tick besides.
    looks: BTreeSet<ShardId>,
    /// Where the last round of looks at all open shards got to.
    looked: Option<(u64, ShardId)>,
    /// Shards of which another node may have to be the arbiter now, and whether that may be so of all.
    review: BTreeSet<ShardId>,
    review_all: bool,
    pub(crate) promises: BTreeMap<ShardId, Epoch>,
    /// Executors that wait for work, by node.
    pub(crate) wants: BTreeMap<NodeId, Want>,
    /// Reports whose blobs are on their way here.
    pub(crate) parked_reports: BTreeMap<u64, Parked>,
    /// Shards of which outcomes are gathered, and when those of all shards were written down last.
    pub(crate) gathered: BTreeSet<ShardId>,
    pub(crate) last_records: Option<Time>,
    parked_records: BTreeMap<u64, ParkedRecord>,
    /// Blobs on their way here because too few nodes hold them.
    pub(crate) repairs: BTreeMap<u64, Repair>,
    /// Those that failed.
    pub(crate) repairs_failed: Vec<Repair>,
    /// Shards whose blobs may have too few holders.
    pub(crate) blobs_due: BTreeSet<ShardId>,
    pub(crate) last_receipt: u64,
    pub(crate) arbitration_changed: bool,
    pub(crate) grants_changed: bool,
    pub(crate) claimable: u32,
    pub(crate) claims: Claims,
    /// Tasks that became safe in this event and that others wait for.
    pub(crate) over_due: OverDue,
    pub(crate) next_claimable_hint: Time,
    /// A shard is over, and its job's custodians are to know at once.
    progress_urgent: bool,
    /// Of these more became known after they were over: nobody asks any more, so each custodian that learns it tells it.
    progress_late: BTreeSet<ShardId>,
    /// Tasks of those shards failed.
    progress_fails: bool,
    /// Executors are still to be told that there is work again.
    pub(crate) hint_due: bool,
    /// Shards with facts that may be known here alone.
    unsure: BTreeSet<ShardId>,
    progress_due: BTreeSet<ShardId>,
    last_progress: Option<Time>,
    next_digest: Time,
}

impl Custody {
    /// What is kept of a shard.
    pub(crate) fn shard(&self, id: ShardId) -> Option<&Shard> {
        self.shards.get(&id)
    }

    /// The same, to be changed.
    pub(crate) fn shard_mut(&mut self, id: ShardId) -> Option<&mut Shard> {
        let shard = self.shards.get_mut(&id)?;
        self.touched.insert(id);
        Some(shard)
    }

    /// All shards.
    pub(crate) const fn kept(&self) -> &BTreeMap<ShardId, Shard> {
        &self.shards
    }

    /// The shards of a job that have open tasks.
    pub(crate) fn open_of(&self, job: JobId) -> Vec<ShardId> {
        self.shards.range(all_of(job)).filter(|(_, shard)| !shard.is_over()).map(|(id, _)| *id).collect()
    }

    /// Forgets a shard of a job that is no more.
    pub(crate) fn forget(&mut self, arrival: u64, id: ShardId) -> Option<Shard> {
        self.open.remove(&(arrival, id));
        self.touched.insert(id);
        self.looks.remove(&id);
        self.review.remove(&id);
        self.promises.remove(&id);
        self.blobs_due.remove(&id);
        self.unsure.remove(&id);
        self.progress_due.remove(&id);
        self.progress_late.remove(&id);
        self.parked_records.retain(|_, parked| parked.shard != id);
        self.parked_reports.retain(|_, parked| parked.lease.shard != id);
        self.shards.remove(&id)
    }
}

impl Node {
    /// Names what this node knows of a shard's tasks; `None` when it keeps nothing of it.
    pub fn shard_digest(&self, shard: ShardId) -> Option<Hash> {
        self.custody.shard(shard).map(|kept| kept.state.digest())
    }

    /// Whether this node knows all that the other knows of a shard's tasks.
    pub fn knows_all_of(&self, other: &Self, shard: ShardId) -> bool {
        let Some(theirs) = other.custody.shard(shard) else { return true };
        let mine = self.custody.shard(shard).map(|kept| &kept.state);
        mine.map_or(theirs.state.states().next().is_none(), |mine| mine.covers(&theirs.state))
    }

    /// The custodians of a shard as this node sees them, the first arbiter first.
    pub fn shard_custodians(&self, shard: ShardId) -> Vec<NodeId> {
        self.membership.view.custodians(Key::of_shard(shard))
    }

    /// The shards of a job that are kept here, or of which an epoch was promised.
    pub(crate) fn shards_of(&self, job: JobId) -> impl Iterator<Item = ShardId> + use<> {
        let kept = self.custody.shards.range(all_of(job)).map(|(id, _)| *id);
        let promised = self.custody.promises.range(all_of(job)).map(|(id, _)| *id);
        kept.chain(promised).collect::<BTreeSet<_>>().into_iter()
    }

    pub(crate) fn fetch_blobs(&mut self, wanted: BTreeSet<Hash>, from: BTreeSet<NodeId>) -> u64 {
        let number = self.new_fetch();
        let me = self.me();
        let from = from.into_iter().filter(|node| *node != me).collect();
        self.out.fetch.push(Fetch { number, wanted: Wanted::Blobs(wanted.into_iter().collect()), from });
        number
    }
}

/// Where the shards of a job are among all.
const fn all_of(job: JobId) -> core::ops::RangeInclusive<ShardId> {
    ShardId { job, stage: 0, number: 0 }..=ShardId { job, stage: u16::MAX, number: u32::MAX }
}
