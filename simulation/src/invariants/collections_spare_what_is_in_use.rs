//! No node removes a blob that others count on it for by its own word: of a result that it reported, or of a job that it told
//! others it has with all its blobs.
//!
//! A node that lost its disk, or was set back to an older one, forgot what it held together with what it said. A custodian that
//! has handed a shard over may remove what it had of it; that somebody has it then is judged by `outputs_are_held`.

use std::collections::{BTreeMap, BTreeSet};

use swarm_protocol::{Hash, JobSpec, Message, NodeId};

use super::Invariant;
use crate::history::{Fact, History};

#[derive(Default)]
pub(super) struct Judge {
    /// What each node said that it holds.
    held: BTreeMap<NodeId, BTreeSet<Hash>>,
}

impl Judge {
    fn says(&mut self, history: &History, node: NodeId, message: &Message) {
        let held = self.held.entry(node).or_default();
        match message {
            Message::Published(job) => {
                history.jobs.get(job).into_iter().for_each(|job| held.extend(blobs_of(&job.spec)));
            }
            Message::Report { outcomes, .. } => held.extend(outcomes.iter().flat_map(|(_, outcome)| outcome.blobs())),
            _ => {}
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
            Fact::Forgot { node } => drop(self.held.remove(node)),
            Fact::Collected { node, blob } if self.held.get(node).is_some_and(|held| held.contains(blob)) => {
                return Err(format!("{node:?} removed {blob}, which it told others it holds"));
            }
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
}
