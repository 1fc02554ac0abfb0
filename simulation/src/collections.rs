//! Collections: each node removes, now and then, the blobs that nothing on it needs.
//!
//! Judged here: no node removes a blob that others were told it holds. Not of a node that is two machines, each of which
//! knows a part; nor of one that lost its disk, which forgot what it held together with the blobs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use swarm_protocol::lattice::{End, Run};
use swarm_protocol::{Event, Hash, InUse, NodeId};

use crate::world::{Happening, World};

/// Between two collections of a node: often, against the hour and more of real ones.
pub(crate) const COLLECT_EVERY: Duration = Duration::from_secs(3);
/// A blob stays so long after it was written or relied on. Above what a fetched blob waits to be recorded.
const GRACE: Duration = Duration::from_secs(10);

/// Blobs of outcomes, with the nodes that hold them, as it was told from node to node.
#[derive(Debug, Default)]
pub(crate) struct Counted(BTreeMap<Hash, BTreeSet<NodeId>>);

impl Counted {
    /// Takes in facts that one node tells another.
    pub(crate) fn note(&mut self, run: &Run) {
        if let Some(End::Done(results) | End::Exhausted(results)) = &run.state.end {
            for blob in results.outcome().blobs() {
                self.0.entry(blob).or_default().extend(results.holders());
            }
        }
    }

    /// A node lost its disk, and with it what it held and knew.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.0.values_mut().for_each(|holders| drop(holders.remove(&node)));
    }

    fn has(&self, blob: Hash, node: NodeId) -> bool {
        self.0.get(&blob).is_some_and(|holders| holders.contains(&node))
    }
}

impl World {
    pub(crate) fn on_collect(&mut self, node: usize, boot: u64) {
        if self.is_boot(node, boot) {
            self.give(node, boot, Event::MarkBlobs { token: 0 });
            self.after(COLLECT_EVERY, Happening::Collect { node, boot });
        }
    }

    /// Removes what is not in use and was not claimed lately.
    pub(crate) fn collect(&mut self, node: usize, in_use: &InUse) {
        let now = self.now();
        let lists = in_use.held_lists.union(&in_use.lists).flat_map(|list| self.with_listed(*list));
        let stays: BTreeSet<Hash> = lists.chain(in_use.blobs.iter().copied()).collect();
        let machine = &self.machines[node];
        let is_old = |blob: &Hash| machine.claimed.get(blob).is_none_or(|at| now.since(*at) >= GRACE);
        let unused: Vec<_> =
            machine.blobs.iter().copied().filter(|blob| !stays.contains(blob) && is_old(blob)).collect();
        let (id, is_two) = (machine.id, self.twins.contains_key(&machine.id));
        for blob in unused {
            self.census.count("collected");
            if self.counted.has(blob, id) && !is_two {
                self.break_with(
                    "collections_spare_what_is_in_use",
                    format!("n{node} removes {blob}, which it holds for others"),
                );
            }
            self.machines[node].blobs.remove(&blob);
            self.machines[node].claimed.remove(&blob);
        }
    }
}
