//! Handing over: what a node that leaves, or is custodian no longer, owes to those who stay.
//!
//! Always true: a node says that it is drained only when of everything it knows, and of every blob that a result or an
//! unfinished job needs, somebody who stays said that it is synced there.
//!
//! Elsewhere: comparing copies is `custody`; leases are released by `worker`.

use core::time::Duration;
use std::collections::BTreeSet;

use crate::custody::Shard;
use crate::lattice::{End, Results, Run, Segment, TaskState};
use crate::node::Node;
use crate::planted::PlantedBug;
use crate::{Hash, NodeId, ShardId};

/// Shards whose blobs are looked after at one heartbeat.
const REPAIRS_AT_ONCE: usize = 64;
/// A holder that was linked for so long has compared copies, and fetched again what it had lost.
const HOLDER_TRUSTED_AFTER: Duration = Duration::from_secs(10);
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
        let Some(shard) = self.custody.shard_mut(id) else { return };
        let Some(open) = shard.giving.get_mut(&from) else { return };
        if open.remove(&receipt) && open.is_empty() {
            shard.giving.remove(&from);
            shard.given.insert(from);
        }
    }

    /// A fact that this node made is not with those who were given the others.
    pub(crate) fn is_mine_alone(&mut self, id: ShardId) {
        if let Some(shard) = self.custody.shard_mut(id) {
            shard.given.clear();
            shard.giving.clear();
        }
    }

    /// Who leaves does not go by what others had some time ago: they say it again, also those that are silent just now, or
    /// left a moment ago.
    pub(crate) fn doubt_all_copies(&mut self) {
        let mut others: BTreeSet<_> = self.membership.members.keys().copied().collect();
        others.extend(self.custody.kept().values().flat_map(|shard| &shard.custodians));
        others.extend(self.jobs.iter().flat_map(|(_, job)| &job.custodians));
        others.into_iter().for_each(|peer| self.doubt_copies_of(peer));
        self.hurry_digests();
    }

    /// Whether all that is kept here is with somebody who stays.
    pub(crate) fn is_handed_over(&self) -> bool {
        if self.plants(PlantedBug::LeavesInDebt) || self.is_the_only_one() {
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
        // Whoever has just come back may have lost what it held, and needs time to find that out; custodians do.
        let holds = |node: &NodeId| stays(node) && self.is_linked_for(*node, HOLDER_TRUSTED_AFTER);
        let blobs = |shard: &Shard| {
            let keeps = |node: &NodeId| shard.custodians.contains(node) && holds(node);
            !shard.has_blobs || shard.state.states().all(|(_, state)| !is_last_holder(state, me, keeps))
        };
        self.custody.kept().values().all(|shard| facts(shard) && blobs(shard)) && self.jobs_are_with(stays)
    }

    /// Whether there is nobody to whom anything could be handed over, and never was.
    fn is_the_only_one(&self) -> bool {
        !self.has_met && self.expected.is_empty() && !self.joins
    }

    // ---- blobs

    /// Facts that I did not know say that I hold blobs: my disk may have been replaced. What is here is not fetched again.
    pub(crate) fn doubt_my_blobs(&mut self, id: ShardId, segment: &[Run]) {
        let me = self.me();
        let Some(shard) = self.custody.shard(id) else { return };
        let claimed = |run: &&Run| holders_of(&run.state).contains(&me) && !is_known(shard, run);
        let runs: Segment = segment.iter().filter(claimed).cloned().collect();
        if !runs.is_empty() {
            self.begin_repair(Repair { shard: id, runs });
        }
    }

    /// The holders of results may be fewer now.
    pub(crate) fn doubt_blobs(&mut self) {
        let with_blobs = self.custody.kept().iter().filter(|(_, shard)| shard.has_blobs);
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

    /// Takes those runs out of the segment that are to be learnt only with their blobs; true when there were any.
    pub(crate) fn fetch_before_learning(&mut self, shard: ShardId, segment: &mut Segment) -> bool {
        let me = self.me();
        let Some(known) = self.custody.shard(shard) else { return false };
        let waits = |run: &mut Run| lacks_holders(run, me) && !is_known(known, run);
        let runs: Segment = segment.extract_if(.., waits).collect();
        let any = !runs.is_empty();
        let under_way = self.custody.repairs.values().any(|repair| repair.shard == shard && repair.runs == runs);
        if any && !under_way {
            self.begin_repair(Repair { shard, runs });
        }
        any
    }

    fn repair_blobs(&mut self, id: ShardId) {
        let me = self.me();
        let Some(shard) = self.custody.shard(id) else { return };
        let under_way = self.custody.repairs.values().any(|repair| repair.shard == id);
        if under_way || !shard.custodians.contains(&me) {
            return;
        }
        let keeps = |node: &&NodeId| shard.custodians.contains(node) && self.membership.view.contains(**node);
        let lacking = |state: &TaskState| {
            let holders = holders_of(state);
            !holders.is_empty() && !holders.contains(&me) && holders.iter().filter(keeps).count() < HOLDERS
        };
        let lacking = shard.state.states().filter(|(_, state)| lacking(state));
        let runs: Segment = lacking.map(|(range, state)| Run { range, state: state.clone() }).collect();
        if runs.is_empty() {
            return;
        }
        self.begin_repair(Repair { shard: id, runs });
    }

    fn begin_repair(&mut self, repair: Repair) {
        let wanted: BTreeSet<Hash> = repair.runs.iter().flat_map(|run| blobs_of(&run.state)).collect();
        let custodians = self.shard_custodians(repair.shard);
        let sources = repair.runs.iter().flat_map(|run| holders_of(&run.state)).chain(custodians).collect();
        let fetch = self.fetch_blobs(wanted, sources);
        self.custody.repairs.insert(fetch, repair);
    }

    /// Called with every comparison of copies: what could not be fetched is tried again.
    pub(crate) fn retry_repairs(&mut self) {
        for repair in core::mem::take(&mut self.custody.repairs_failed) {
            if self.custody.kept().contains_key(&repair.shard) {
                self.begin_repair(repair);
            }
        }
    }

    pub(crate) fn on_repair_fetched(&mut self, fetch: u64, complete: bool) {
        let Some(repair) = self.custody.repairs.remove(&fetch) else { return };
        if !complete {
            if self.custody.repairs_failed.len() < REPAIRS_AT_ONCE {
                self.custody.repairs_failed.push(repair);
            }
            return;
        }
        let Repair { shard, mut runs } = repair;
        let me = self.me();
        runs.iter_mut().for_each(|run| run.add_holder(me));
        self.recall_ended(shard, &runs);
        self.learn(shard, runs);
        self.custody.hurry(self.now);
    }
}

/// Whether `me` holds blobs of this run that nobody who stays holds.
fn is_last_holder(state: &TaskState, me: NodeId, stays: impl Fn(&NodeId) -> bool) -> bool {
    let holders = holders_of(state);
    holders.contains(&me) && !holders.iter().any(stays)
}

/// Whether `me` should take a copy of the run's blobs, going by what the run says.
pub(crate) fn lacks_holders(run: &Run, me: NodeId) -> bool {
    let holders = holders_of(&run.state);
    (1..HOLDERS).contains(&holders.len()) && !holders.contains(&me)
}

/// Whether the run's outcome was known before: its tasks may have ended here in another way, as cancelled.
fn is_known(shard: &Shard, run: &Run) -> bool {
    let known = shard.state.get(run.range.first).and_then(results_of);
    results_of(&run.state).is_some_and(|results| known.is_some_and(|known| known.outcome() == results.outcome()))
}

pub(crate) fn holders_of(state: &TaskState) -> BTreeSet<NodeId> {
    results_of(state).into_iter().flat_map(Results::holders).collect()
}

/// Every blob that the recorded outcome names.
pub(crate) fn blobs_of(state: &TaskState) -> impl Iterator<Item = Hash> {
    results_of(state).into_iter().flat_map(|results| results.outcome().blobs())
}

const fn results_of(state: &TaskState) -> Option<&Results> {
    match &state.end {
        Some(End::Done(results) | End::Exhausted(results)) => Some(results),
        _ => None,
    }
}
