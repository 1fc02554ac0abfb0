//! Facts: taken in, persisted, and sent to who lacks them.
//!
//! Always true: only what is new is persisted, and with it go the shard's digest and the word of who had the same.
//!
//! Elsewhere: how facts are joined is `lattice`; what an arbiter records comes through `unsure`.

use std::collections::BTreeSet;

use super::stored::shard_key;
use crate::codec;
use crate::handover::lacks_holders;
use crate::lattice::{End, Run, Segment};
use crate::message::{CHUNK_BYTES, Message};
use crate::node::Node;
use crate::planted::PlantedBug;
use crate::{Happened, NodeId, Range, ShardId, Table, TaskChange, Write};

impl Node {
    /// Takes in facts and persists them; true when any was new.
    pub(crate) fn learn(&mut self, id: ShardId, segment: Segment) -> bool {
        let me = self.me();
        let Some(shard) = self.ensure_shard(id) else { return false };
        let (segment, was_over) = (within(shard.range, segment), shard.is_over());
        if !shard.state.join(&segment) {
            return false;
        }
        shard.digest = None;
        shard.confirmed.clear();
        let (named, lacked) = (names_blobs(&segment), segment.iter().any(|run| lacks_holders(run, me)));
        shard.has_blobs |= named;
        let key = [&shard_key(id)[..], &shard.next_segment.to_be_bytes()].concat();
        shard.next_segment += 1;
        let stage = shard.spec.stages.get(usize::from(id.stage)).map(|stage| stage.name.clone()).unwrap_or_default();
        if let Some(arbiter) = &mut shard.arbiter {
            arbiter.forget_ended(&segment);
        }
        self.out.persist.push(Write::put(Table::Segments, key, codec::encode(&segment)));
        self.out.happened.push(Happened::Tasks { shard: id, stage, tasks: TaskChange::of(&segment) });
        if was_over {
            self.custody.progress_late.insert(id);
        }
        if lacked {
            self.custody.blobs_due.insert(id);
        }
        self.progress_is_due(id);
        self.close_if_over(id);
        true
    }

    pub(super) fn close_if_over(&mut self, id: ShardId) {
        let Some(shard) = self.custody.shard(id) else { return };
        let Some(arrival) = self.jobs.get(id.job).map(|job| job.arrival) else { return };
        if shard.is_over() {
            self.custody.open.remove(&(arrival, id));
        }
    }

    pub(crate) fn on_merge(&mut self, from: NodeId, shard: ShardId, mut segment: Segment, receipt: Option<u64>) {
        if self.plants(PlantedBug::MergesFailuresOnly) {
            segment.iter_mut().for_each(|run| run.state.end = None);
        }
        if self.ensure_shard(shard).is_none() {
            return; // of a job that is not known here
        }
        // A result counts here when its blobs are here, or on two nodes: whoever has them may be lost before that.
        let waiting = self.fetch_before_learning(shard, &mut segment);
        self.recall_ended(shard, &segment);
        self.doubt_my_blobs(shard, &segment);
        let failed = segment.iter().any(|run| !run.state.failures.is_empty());
        if self.learn(shard, segment) && failed {
            self.exhaust_overrun(shard);
        }
        if let Some(receipt) = receipt.filter(|_| !waiting) {
            self.send(from, Message::Merged { shard, receipt });
        }
    }

    /// All that is known here of a shard, in segments of bounded size.
    fn facts_of(&self, id: ShardId) -> Vec<Segment> {
        let Some(shard) = self.custody.shard(id) else { return Vec::new() };
        let mut messages = Vec::new();
        let (mut segment, mut weight) = (Vec::new(), 0);
        for run in shard.state.runs() {
            weight += run.weight();
            segment.push(run);
            if weight >= CHUNK_BYTES {
                messages.push(core::mem::take(&mut segment));
                weight = 0;
            }
        }
        if !segment.is_empty() {
            messages.push(segment);
        }
        messages
    }

    pub(super) fn send_facts(&mut self, to: NodeId, id: ShardId) {
        for segment in self.facts_of(id) {
            self.send(to, Message::Merge { shard: id, segment, receipt: None });
        }
    }

    /// The same to a custodian, by a node that is none any more: it has to know that they arrived.
    pub(super) fn hand_over_facts(&mut self, to: NodeId, id: ShardId) {
        let messages = self.facts_of(id);
        let mut open = BTreeSet::new();
        for segment in messages {
            self.custody.last_receipt += 1;
            let receipt = self.custody.last_receipt;
            open.insert(receipt);
            self.send(to, Message::Merge { shard: id, segment, receipt: Some(receipt) });
        }
        let Some(shard) = self.custody.shard_mut(id) else { return };
        if open.is_empty() {
            shard.given.insert(to);
        } else {
            shard.giving.insert(to, open);
        }
    }
}

/// Keeps the runs, and the parts of runs, that lie in the shard: a peer may send anything.
pub(super) fn within(range: Range, segment: Segment) -> Segment {
    let clamp = |mut run: Run| {
        let first = run.range.first.max(range.first);
        let end = run.range.end().min(range.end());
        run.range = Range { first, count: end.checked_sub(first)? };
        (run.range.count > 0).then_some(run)
    };
    segment.into_iter().filter_map(clamp).collect()
}

pub(super) fn names_blobs(segment: &[Run]) -> bool {
    segment.iter().any(|run| match &run.state.end {
        Some(End::Done(results) | End::Exhausted(results)) => results.holders().next().is_some(),
        _ => false,
    })
}
