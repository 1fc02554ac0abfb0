//! Uses: which blobs on this node are needed by something that it knows.
//!
//! Always true: a blob that a fact of this node names, or by which this node is counted as a holder, is in use until its
//! job expires or its module is yanked.
//!
//! Elsewhere: removing the others, after a time of grace, is `node::collector`.

use std::collections::{BTreeMap, BTreeSet};

use crate::codec::DecodeError;
use crate::handover::blobs_of;
use crate::node::Node;
use crate::planted::PlantedBug;
use crate::{Hash, JobId, Outcome, Table, Write};

/// What is in use, as far as the core knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    /// Blobs with the CBOR encoding of a list of [`Hash`]es: they and all that they name are here, as this node told others.
    pub held_lists: BTreeSet<Hash>,
    /// Lists of which that is so only where they are here.
    pub lists: BTreeSet<Hash>,
    /// Others.
    pub blobs: BTreeSet<Hash>,
}

/// What tasks left here that ran on this node: others count on it, whether or not the node keeps their shard.
#[derive(Debug, Default)]
pub(crate) struct Uses(BTreeMap<JobId, BTreeSet<Hash>>);

impl Node {
    /// The blobs that something on this node names.
    pub fn blobs_in_use(&self) -> InUse {
        let mut used = InUse::default();
        for (_, job) in self.jobs.iter() {
            let lists = if job.holds_blobs() { &mut used.held_lists } else { &mut used.lists };
            lists.insert(job.spec.blobs);
            used.blobs.extend(job.spec.source);
        }
        for shard in self.custody.kept().values().filter(|shard| shard.has_blobs) {
            used.blobs.extend(shard.state.states().flat_map(|(_, state)| blobs_of(state)));
        }
        used.blobs.extend(self.uses.0.values().flatten());
        used.blobs.extend(self.modules_to_keep().map(|(wasm, _)| wasm));
        used
    }

    pub(crate) fn restore_use(&mut self, key: &[u8]) -> Result<(), DecodeError> {
        let read = || {
            let (job, hash) = key.split_first_chunk::<32>()?;
            Some((JobId::from_bytes(*job), Hash::from_bytes(hash.try_into().ok()?)))
        };
        let (job, hash) = read().ok_or_else(|| DecodeError::Malformed("the key of a use is cut off".into()))?;
        self.uses.0.entry(job).or_default().insert(hash);
        Ok(())
    }

    /// A task of the job ended here and left these.
    pub(crate) fn use_blobs_of(&mut self, job: JobId, outcome: &Outcome) {
        if self.plants(PlantedBug::ForgetsUses) {
            return;
        }
        for hash in outcome.blobs() {
            if self.uses.0.entry(job).or_default().insert(hash) {
                self.out.persist.push(Write::put(Table::Uses, use_key(job, hash), Vec::new()));
            }
        }
    }

    /// At the start: what a job left that is not known any more.
    pub(crate) fn forget_stray_uses(&mut self) {
        let stray: Vec<_> = self.uses.0.keys().copied().filter(|job| self.jobs.get(*job).is_none()).collect();
        stray.into_iter().for_each(|job| self.forget_uses(job));
    }

    pub(crate) fn forget_uses(&mut self, job: JobId) {
        for hash in self.uses.0.remove(&job).unwrap_or_default() {
            self.out.persist.push(Write::remove(Table::Uses, use_key(job, hash)));
        }
    }
}

fn use_key(job: JobId, hash: Hash) -> Vec<u8> {
    [&job.as_bytes()[..], hash.as_bytes()].concat()
}
