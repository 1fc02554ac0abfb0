//! Records of arbiters, taken in: facts that may be known here alone, until their arbiter has synced them too or another copy
//! is equal.
//!
//! Always true: what is unsure is not told as progress, also after a restart; nothing of a lower epoch than was promised is
//! taken in.
//!
//! Elsewhere: the arbiter's side is `arbiter`.

use std::collections::BTreeSet;

use super::Custody;
use super::stored::unsure_key;
use crate::handover::{blobs_of, holders_of};
use crate::lattice::{Counts, Run, Segment};
use crate::message::Message;
use crate::node::Node;
use crate::planted::PlantedBug;
use crate::{Epoch, Hash, NodeId, ShardId, Table, Write};

/// Records whose blobs are on their way here; beyond it the arbiter repeats.
const PARKED_RECORDS_MAX: usize = 4096;

/// Records are sent while their arbiter syncs them: until it says that it has, this may be their only copy.
#[derive(Debug, Default)]
pub(super) struct Unsure {
    pub(super) told: Counts,
    pub(super) records: BTreeSet<(Epoch, u64)>,
    /// Records that came before a restart, which are not told apart any more: only another copy makes sure of them.
    pub(super) restored: bool,
}

/// A `Record` whose blobs are on their way here.
#[derive(Debug)]
pub(super) struct ParkedRecord {
    from: NodeId,
    pub(super) shard: ShardId,
    epoch: Epoch,
    number: u64,
    segment: Segment,
    /// Whether its arbiter has synced it meanwhile.
    kept: bool,
}

impl Node {
    pub(crate) fn on_record_asked(&mut self, from: NodeId, id: ShardId, epoch: Epoch, number: u64, segment: Segment) {
        let promised = self.custody.promises.get(&id).copied().unwrap_or_default();
        if epoch < promised {
            self.send(from, Message::Deposed { shard: id, epoch: promised });
            return;
        }
        if self.ensure_shard(id).is_none() {
            self.pull_job(id.job, from);
            return;
        }
        if epoch > promised {
            self.promise(id, epoch);
        }
        let wanted: BTreeSet<Hash> = segment.iter().flat_map(blobs_on_one_node).collect();
        if wanted.is_empty() || self.plants(PlantedBug::SkipsOutputs) {
            self.learn_unsure(id, (epoch, number), segment);
            self.send(from, Message::Recorded { shard: id, epoch, number });
        } else if self.custody.parked_records.len() < PARKED_RECORDS_MAX {
            let sources = segment.iter().flat_map(|run| holders_of(&run.state)).chain([from]).collect::<BTreeSet<_>>();
            let fetch = self.fetch_blobs(wanted, sources);
            let parked = ParkedRecord { from, shard: id, epoch, number, segment, kept: false };
            self.custody.parked_records.insert(fetch, parked);
        }
    }

    pub(crate) fn on_record_fetched(&mut self, fetch: u64, complete: bool) {
        let Some(mut parked) = self.custody.parked_records.remove(&fetch) else { return };
        if !complete {
            return; // the arbiter repeats
        }
        let promised = self.custody.promises.get(&parked.shard).copied().unwrap_or_default();
        if parked.epoch < promised {
            self.send(parked.from, Message::Deposed { shard: parked.shard, epoch: promised });
            return;
        }
        let me = self.me();
        parked.segment.iter_mut().for_each(|run| run.add_holder(me));
        let (shard, epoch, number) = (parked.shard, parked.epoch, parked.number);
        if parked.kept {
            self.learn(shard, parked.segment);
        } else {
            self.learn_unsure(shard, (epoch, number), parked.segment);
        }
        self.send(parked.from, Message::Recorded { shard, epoch, number });
    }

    /// Takes in what an arbiter records, who may not have synced it yet.
    fn learn_unsure(&mut self, id: ShardId, record: (Epoch, u64), segment: Segment) {
        let Some(shard) = self.custody.shard_mut(id) else { return };
        let (told, was_sure) = (shard.settled_counts(), shard.unsure.is_none());
        shard.unsure.get_or_insert_with(|| Unsure { told, ..Unsure::default() });
        let news = self.learn(id, segment);
        let Custody { shards, unsure, .. } = &mut self.custody;
        let Some(shard) = shards.get_mut(&id) else { return };
        if !news && was_sure {
            shard.unsure = None; // known before, and told
        } else if let Some(facts) = &mut shard.unsure {
            facts.records.insert(record);
            unsure.insert(id);
            if !core::mem::replace(&mut shard.unsure_noted, true) {
                self.out.persist.push(Write::put(Table::Meta, unsure_key(id), []));
            }
        }
    }

    /// The arbiter has synced a record, too.
    pub(crate) fn on_record_kept(&mut self, id: ShardId, epoch: Epoch, number: u64) {
        let mut parked = self.custody.parked_records.values_mut();
        if let Some(parked) = parked.find(|it| (it.shard, it.epoch, it.number) == (id, epoch, number)) {
            parked.kept = true;
        }
        let Some(unsure) = self.custody.shard_mut(id).and_then(|shard| shard.unsure.as_mut()) else { return };
        if unsure.records.remove(&(epoch, number)) && unsure.records.is_empty() && !unsure.restored {
            self.be_sure(id);
        }
    }

    /// What is known of this shard may be told: it is on another node, too, or there is none.
    pub(super) fn be_sure(&mut self, id: ShardId) {
        self.custody.unsure.remove(&id);
        let Some(shard) = self.custody.shard_mut(id) else { return };
        if shard.unsure.take().is_none() {
            return;
        }
        // One note for all records of a shard, which no sync waits for: one that stays costs a comparison.
        if shard.is_over() && core::mem::take(&mut shard.unsure_noted) {
            self.out.note.push(Write::remove(Table::Meta, unsure_key(id)));
        }
        self.progress_is_due(id);
    }

    /// Whoever recorded last may be gone: comparing copies tells what is known to two.
    pub(crate) fn hurry_if_unsure(&mut self, id: ShardId) {
        if self.custody.unsure.contains(&id) {
            self.custody.hurry(self.now);
        }
    }

    /// Called every heartbeat. Whoever keeps a shard alone, because nobody else can be reached, tells what he knows.
    pub(crate) fn keep_sure(&mut self) {
        if self.custody.unsure.is_empty() || !self.has_settled() {
            return;
        }
        let alone = |id: &ShardId| self.custody.shard(*id).is_none_or(|shard| self.keepers(*id, shard).is_empty());
        let alone: Vec<_> = self.custody.unsure.iter().copied().filter(alone).collect();
        alone.into_iter().for_each(|id| self.be_sure(id));
    }
}

/// Blobs of results that fewer than two nodes are known to hold.
fn blobs_on_one_node(run: &Run) -> Vec<Hash> {
    if holders_of(&run.state).len() < 2 { blobs_of(&run.state).collect() } else { Vec::new() }
}
