//! Collections: each node removes, again and again, the blobs that nothing on it needs, as `node::collector` does.
//!
//! Always true: what the core names as in use stays, what a user pinned, and what was written or relied on within the time of grace. Looking draws
//! no lots and tells the core nothing, so that a seed plays the same with and without it as long as nothing is removed.
//!
//! Elsewhere: who pins blobs and lets jobs expire is `tidy`.

use std::collections::BTreeSet;
use std::time::Duration;

use swarm_protocol::{Hash, InUse, Node};

use crate::bug::Bug;
use crate::history::Fact;
use crate::machine::Running;
use crate::world::{Happening, World};

/// Between two collections of a node: often, against the ten minutes of real ones.
pub(crate) const COLLECT_EVERY: Duration = Duration::from_secs(3);
/// A blob stays so long after it was written or relied on: above what passes until it is recorded that somebody needs it,
/// faults included, as the hour of real nodes is.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

impl World {
    pub(crate) fn on_collect(&mut self, node: usize, boot: u64) {
        if self.is_boot(node, boot) {
            if self.is_idle(node) {
                self.collect(node);
            }
            self.after(COLLECT_EVERY, Happening::Collect { node, boot });
        }
    }

    /// Whether the core has taken in all that happened: a collector asks it, and is answered after what waits before it.
    fn is_idle(&self, node: usize) -> bool {
        let machine = &self.machines[node];
        let is_done = |running: &Running| running.inbox.is_empty() && running.syncing.is_none();
        machine.is_awake() && machine.running.as_ref().is_some_and(is_done)
    }

    /// What a core names as in use, and what the lists among it name.
    pub(crate) fn in_use(&self, core: &Node) -> BTreeSet<Hash> {
        let InUse { held_lists, lists, blobs } = core.blobs_in_use();
        held_lists.union(&lists).flat_map(|list| self.with_listed(*list)).chain(blobs).collect()
    }

    /// Removes what is neither in use nor claimed lately.
    fn collect(&mut self, node: usize) {
        let Some(running) = &self.machines[node].running else { return };
        let mut stays = self.in_use(&running.core);
        let forgets_pins = self.scenario.bug == Some(Bug::ForgetsPins);
        let pins = self.machines[node].pins.iter().copied().filter(|_| !forgets_pins);
        stays.extend(pins);
        let (now, machine) = (self.now(), &self.machines[node]);
        let is_old = |blob: &Hash| machine.claimed.get(blob).is_none_or(|at| now.since(*at) >= GRACE);
        let goes: Vec<Hash> =
            machine.blobs.iter().copied().filter(|blob| !stays.contains(blob) && is_old(blob)).collect();
        for blob in goes {
            self.remove(node, blob);
        }
    }

    fn remove(&mut self, node: usize, blob: Hash) {
        let machine = &mut self.machines[node];
        machine.blobs.remove(&blob);
        machine.claimed.remove(&blob);
        let id = machine.id;
        self.census.count("blob collected");
        self.note_at(node, format_args!("collects {blob}"));
        // Of one that is or was two machines each knows a part of what others were told by its name.
        if !self.speakers.contains_key(&id) {
            self.observe(&Fact::Collected { node: id, blob });
        }
    }
}
