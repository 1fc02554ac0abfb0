//! Handing over: what a node that leaves, or is custodian no longer, owes to those who stay.
//!
//! Always true: a node says that it is drained only when of everything it knows, and of every blob that a result or an
//! unfinished job needs, somebody who stays said that it is synced there.
//!
//! Elsewhere: comparing copies is `custody`; leases are released by `worker`.

use std::collections::BTreeSet;

use crate::custody::Shard;
use crate::lattice::{End, Run, Segment};
use crate::node::Node;
use crate::planted::PlantedBug;
use crate::{Hash, NodeId, ShardId};

/// Shards whose blobs are looked after at one heartbeat.
const REPAIRS_AT_ONCE: usize = 64;
/// Holders of every blob of a result.
const HOLDERS: usize = 2;

/// Blobs on their way here because too few nodes hold them.
#[derive(Debug)]
pub(crate) struct Repair {
    shard: ShardId,
    runs: Segment,
}

impl Node {
    // ---- facts

    /// A peer has synced facts that it was given.
    pub(crate) fn on_merged(&mut self, from: NodeId, id: ShardId, receipt: u64) {
        let Some(shard) = self.custody.shards.get_mut(&id) else { return };
        let Some(open) = shard.giving.get_mut(&from) else { return };
        if open.remove(&receipt) && open.is_empty() {
            shard.giving.remove(&from);
            shard.given.insert(from);
        }
    }

    /// A fact that this node made is not with those who were given the others.
    pub(crate) fn is_mine_alone(&mut self, id: ShardId) {
        if let Some(shard) = self.custody.shards.get_mut(&id) {
            shard.given.clear();
            shard.giving.clear();
        }
    }

    /// Whether all that is kept here is with somebody who stays.
    pub(crate) fn is_handed_over(&self) -> bool {
        if self.plants(PlantedBug::LeavesInDebt) || (self.membership.knows_nobody() && self.expected.is_empty()) {
            return true;
        }
        let me = self.me();
        let stays = |node: &NodeId| *node != me && self.membership.view.contains(*node);
        let has = |shard: &Shard, node: &NodeId| shard.confirmed.contains(node) || shard.given.contains(node);
        // Two copies, where two custodians can be reached, and one in any case.
        let facts = |shard: &Shard| {
            let others = shard.custodians.iter().filter(|node| stays(node) && self.reaches(**node)).count();
            let have = shard.custodians.iter().filter(|node| stays(node) && has(shard, node)).count();
            have >= others.clamp(1, 2)
        };
        let blobs = |shard: &Shard| !shard.has_blobs || shard.state.runs().all(|run| !is_last_holder(&run, me, stays));
        self.custody.shards.values().all(|shard| facts(shard) && blobs(shard)) && self.jobs_are_with(stays)
    }

    // ---- blobs

    /// The holders of results may be fewer now.
    pub(crate) fn doubt_blobs(&mut self) {
        let with_blobs = self.custody.shards.iter().filter(|(_, shard)| shard.has_blobs);
        let with_blobs: Vec<_> = with_blobs.map(|(id, _)| *id).collect();
        self.custody.blobs_due.extend(with_blobs);
    }

    /// Called every heartbeat: custodians take copies of blobs of which too few nodes that live hold one.
    pub(crate) fn keep_blobs(&mut self) {
        let due: Vec<_> = self.custody.blobs_due.iter().copied().take(REPAIRS_AT_ONCE).collect();
        for id in due {
            self.custody.blobs_due.remove(&id);
            self.repair_blobs(id);
        }
    }

    fn repair_blobs(&mut self, id: ShardId) {
        let me = self.me();
        let Some(shard) = self.custody.shards.get(&id) else { return };
        let under_way = self.custody.repairs.values().any(|repair| repair.shard == id);
        if under_way || !shard.custodians.contains(&me) {
            return;
        }
        let view = &self.membership.view;
        let lacking = |run: &Run| {
            let holders = holders_of(run);
            !holders.is_empty()
                && !holders.contains(&me)
                && holders.iter().filter(|node| view.contains(**node)).count() < HOLDERS
        };
        let runs: Segment = shard.state.runs().filter(lacking).collect();
        if runs.is_empty() {
            return;
        }
        let wanted: BTreeSet<Hash> = runs.iter().flat_map(blobs_of).collect();
        let sources = runs.iter().flat_map(holders_of).chain(shard.custodians.iter().copied()).collect();
        let fetch = self.fetch_blobs(wanted, sources);
        self.custody.repairs.insert(fetch, Repair { shard: id, runs });
    }

    pub(crate) fn on_repair_fetched(&mut self, fetch: u64, complete: bool) {
        let Some(Repair { shard, mut runs }) = self.custody.repairs.remove(&fetch) else { return };
        if !complete {
            return; // with the next change of members or comparison of copies
        }
        let me = self.me();
        runs.iter_mut().for_each(|run| run.add_holder(me));
        self.learn(shard, runs);
        self.custody.hurry(self.now);
    }
}

/// Whether `me` holds blobs of this run that nobody who stays holds.
fn is_last_holder(run: &Run, me: NodeId, stays: impl Fn(&NodeId) -> bool) -> bool {
    let holders = holders_of(run);
    holders.contains(&me) && !holders.iter().any(stays)
}

/// Whether `me` should take a copy of the run's blobs, going by what the run says.
pub(crate) fn lacks_holders(run: &Run, me: NodeId) -> bool {
    let holders = holders_of(run);
    (1..HOLDERS).contains(&holders.len()) && !holders.contains(&me)
}

pub(crate) fn holders_of(run: &Run) -> BTreeSet<NodeId> {
    match &run.state.end {
        Some(End::Done(results) | End::Exhausted(results)) => results.holders().collect(),
        _ => BTreeSet::new(),
    }
}

/// Every blob that the run's recorded outcome names.
pub(crate) fn blobs_of(run: &Run) -> Vec<Hash> {
    match &run.state.end {
        Some(End::Done(results) | End::Exhausted(results)) => results.outcome().blobs().collect(),
        _ => Vec::new(),
    }
}
