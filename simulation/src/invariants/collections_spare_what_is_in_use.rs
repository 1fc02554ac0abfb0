//! No node removes a blob that others count on it for by its own word: of a result that it reported, or of a job that it told
//! others it has with all its blobs, until that job expires there; nor one of which it told a user that it stays.
//!
//! A node that lost its disk, or was set back to an older one, forgot what it held together with what it said. A custodian that
//! has handed a shard over may remove what it had of it; that somebody has it then is judged by `outputs_are_held`.

use std::collections::{BTreeMap, BTreeSet};

use swarm_protocol::{Hash, JobId, JobSpec, Message, NodeId};

use super::Invariant;
use crate::history::{Fact, History};

#[derive(Default)]
pub(super) struct Judge {
    /// What each node said that it holds, and for which job.
    held: BTreeMap<NodeId, BTreeMap<JobId, BTreeSet<Hash>>>,
    pinned: BTreeSet<(NodeId, Hash)>,
}

impl Judge {
    fn says(&mut self, history: &History, node: NodeId, message: &Message) {
        let held = self.held.entry(node).or_default();
        match message {
            Message::Published(id) => {
                if let Some(job) = history.jobs.get(id) {
                    held.entry(*id).or_default().extend(blobs_of(&job.spec));
                }
            }
            Message::Report { lease, outcomes } => {
                let blobs = outcomes.iter().flat_map(|(_, outcome)| outcome.blobs());
                held.entry(lease.shard.job).or_default().extend(blobs);
            }
            _ => {}
        }
    }

    fn on_collected(&self, node: NodeId, blob: Hash) -> Result<(), String> {
        if self.pinned.contains(&(node, blob)) {
            return Err(format!("{node:?} removed {blob}, of which it told a user that it stays"));
        }
        let mut held = self.held.get(&node).into_iter().flatten();
        match held.find(|(_, blobs)| blobs.contains(&blob)) {
            Some((job, _)) => Err(format!("{node:?} removed {blob} of {job:?}, which it told others it holds")),
            None => Ok(()),
        }
    }
}

/// The blobs of a job that every run of it needs.
fn blobs_of(spec: &JobSpec) -> impl Iterator<Item = Hash> + '_ {
    std::iter::once(spec.blobs).chain(spec.stages.iter().map(|stage| stage.wasm))
}

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "collections_spare_what_is_in_use"
    }

    fn judge(&mut self, history: &History, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Said { node, message, .. } => self.says(history, *node, message),
            Fact::Expired { node, job } => drop(self.held.get_mut(node).and_then(|held| held.remove(job))),
            Fact::Pinned { node, blob } => drop(self.pinned.insert((*node, *blob))),
            Fact::Unpinned { node, blob } => drop(self.pinned.remove(&(*node, *blob))),
            Fact::Forgot { node } => {
                self.held.remove(node);
                self.pinned.retain(|(of, _)| of != node);
            }
            Fact::Collected { node, blob } => return self.on_collected(*node, *blob),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use swarm_protocol::{Content, Ending, Outcome};

    use super::super::tale::{Job, Tale, id, report};
    use super::*;

    fn collects(tale: Tale<Judge>, node: u8, blob: Hash) -> Tale<Judge> {
        tale.fact(&Fact::Collected { node: id(node), blob })
    }

    #[test]
    fn who_reported_a_result_keeps_its_blobs() {
        let (job, blob) = (Job::of(1), Hash::of(b"printed"));
        let stdout = Content::Blob { hash: blob, len: 2000 };
        let outcome = Outcome { stdout, ..Outcome::bare(Ending::Exited(0)) };
        let reported =
            || Tale::of(Judge::default()).with(&job).says(3, 1, &report(job.lease(1, 1), 0, outcome.clone()));
        collects(reported(), 3, blob).breaks("which it told others it holds");
        collects(collects(reported(), 1, blob), 3, Hash::of(b"another")).passes();
        collects(reported().fact(&Fact::Forgot { node: id(3) }), 3, blob).passes();
    }

    #[test]
    fn who_told_others_that_it_has_a_job_keeps_its_blobs() {
        let job = Job::of(1);
        let said = || Tale::of(Judge::default()).with(&job).says(2, 1, &Message::Published(job.id));
        collects(said(), 2, job.spec.blobs).breaks("which it told others it holds");
        collects(said(), 1, job.spec.blobs).passes();
    }

    #[test]
    fn the_blobs_of_a_job_that_expired_may_go_unless_another_needs_them() {
        let (job, other) = (Job::of(1), Job::of(2));
        let said = || Tale::of(Judge::default()).with(&job).with(&other).says(2, 1, &Message::Published(job.id));
        let expired = |tale: Tale<Judge>| tale.fact(&Fact::Expired { node: id(2), job: job.id });
        collects(expired(said()), 2, job.spec.blobs).passes();
        let both = said().says(2, 1, &Message::Published(other.id));
        collects(expired(both), 2, job.spec.blobs).breaks("which it told others it holds");
        collects(said().fact(&Fact::Expired { node: id(1), job: job.id }), 2, job.spec.blobs).breaks("holds");
    }

    #[test]
    fn a_pinned_blob_stays_until_it_is_unpinned() {
        let blob = Hash::of(b"mine");
        let pinned = || Tale::of(Judge::default()).fact(&Fact::Pinned { node: id(2), blob });
        collects(pinned(), 2, blob).breaks("told a user that it stays");
        collects(pinned(), 1, blob).passes();
        collects(pinned().fact(&Fact::Unpinned { node: id(2), blob }), 2, blob).passes();
    }
}
