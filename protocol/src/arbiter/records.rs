//! Records: facts on their way to the other custodians, and what follows once enough nodes have synced them.
//!
//! Always true: nobody is told of an outcome before `min(2, live nodes)` nodes, this one included, have synced it.
//!
//! Elsewhere: who takes a record in is `custody`.

use std::collections::BTreeSet;

use rangemap::RangeSet;

use super::{Arbiter, REPEAT};
use crate::lattice::{Counts, Segment};
use crate::message::Message;
use crate::node::Node;
use crate::planted::PlantedBug;
use crate::{Epoch, LeaseId, NodeId, Range, ShardId, Time};

/// Facts on their way to the other custodians.
#[derive(Debug)]
pub(super) struct Recording {
    segment: Segment,
    confirmed: BTreeSet<NodeId>,
    /// Tasks that ended by it.
    ended: Counts,
    /// Whom to tell when it is safe.
    ack: Option<(NodeId, LeaseId, Vec<Range>)>,
    repeat: Time,
}

impl Arbiter {
    /// Tasks that ended here and wait for their second copy.
    pub(crate) fn unconfirmed(&self) -> Counts {
        let mut sum = Counts::default();
        for recording in self.recordings.values() {
            sum.add(recording.ended);
        }
        sum
    }

    /// Whether outcomes of this lease are among them.
    pub(super) fn is_recording(&self, id: LeaseId) -> bool {
        self.recordings.values().any(|it| it.ack.as_ref().is_some_and(|(_, lease, _)| *lease == id))
    }

    /// Tasks of which the same is true, or that wait to be recorded.
    pub(crate) fn unconfirmed_tasks(&self) -> RangeSet<u32> {
        let runs = self.recordings.values().flat_map(|recording| &recording.segment);
        let ranges = runs.map(|run| run.range).chain(self.gathered.tasks());
        ranges.filter(|range| range.count > 0).map(|range| range.indexes()).collect()
    }
}

impl Node {
    /// Persists facts and brings them to the other custodians; acknowledges when enough have them.
    pub(crate) fn record(&mut self, id: ShardId, segment: Segment, ack: Option<(NodeId, LeaseId, Vec<Range>)>) {
        let repeat = self.now + REPEAT;
        let Some(before) = self.custody.shard(id).map(|shard| shard.state.counts()) else { return };
        if self.arbiter_mut(id).is_some_and(|arbiter| arbiter.has_two_runs()) {
            self.recall_ended(id, &segment);
        }
        self.learn(id, segment.clone());
        self.is_mine_alone(id);
        let Some(shard) = self.custody.shard(id) else { return };
        let (after, is_over) = (shard.state.counts(), shard.is_over());
        let others = self.keepers(id, shard);
        let ended = Counts {
            done: after.done.saturating_sub(before.done),
            failed: after.failed.saturating_sub(before.failed),
            cancelled: after.cancelled.saturating_sub(before.cancelled),
        };
        let Some(arbiter) = self.arbiter_mut(id) else { return };
        arbiter.last_recording += 1;
        let (number, epoch) = (arbiter.last_recording, arbiter.epoch);
        // What an executor reported stands for itself. What follows from something else that is synced now, as a stop, waits.
        let stands = ack.is_some();
        let recording = Recording { segment: segment.clone(), confirmed: BTreeSet::new(), ended, ack, repeat };
        arbiter.recordings.insert(number, recording);
        for other in others {
            let record = Message::Record { shard: id, epoch, number, segment: segment.clone() };
            if stands {
                self.ask(other, record)
            } else {
                self.send(other, record)
            }
            let kept = Message::RecordKept { shard: id, epoch, number };
            // Users wait for the end; what is kept before it may be known a little later.
            if is_over { self.send(other, kept) } else { self.send_in_company(other, kept) }
        }
        self.finish_recordings(id);
        self.custody.grants_changed = true;
    }

    pub(crate) fn on_recorded(&mut self, from: NodeId, id: ShardId, epoch: Epoch, number: u64) {
        let Some(arbiter) = self.arbiter_mut(id).filter(|arbiter| arbiter.epoch == epoch) else { return };
        if let Some(recording) = arbiter.recordings.get_mut(&number) {
            recording.confirmed.insert(from);
            self.finish_recordings(id);
        }
    }

    /// Acknowledges what `min(2, live nodes)` nodes, this one included, have synced.
    pub(super) fn finish_recordings(&mut self, id: ShardId) {
        let Some(shard) = self.custody.shard(id) else { return };
        let others = self.keepers(id, shard);
        let need = others.len().min(usize::from(!self.plants(PlantedBug::RecordsAlone)));
        let Some(arbiter) = self.arbiter_mut(id) else { return };
        let is_safe = |recording: &Recording| recording.confirmed.len() >= need;
        let safe: Vec<_> = arbiter.recordings.iter().filter(|(_, it)| is_safe(it)).map(|(number, _)| *number).collect();
        let safe: Vec<_> = safe.into_iter().filter_map(|number| arbiter.recordings.remove(&number)).collect();
        for recording in safe {
            self.progress_is_due(id);
            self.note_over(id, &recording.segment);
            if let Some((executor, lease, tasks)) = recording.ack {
                self.send_in_company(executor, Message::Ack { lease, tasks });
            }
        }
    }

    /// Shards whose last records are not confirmed are over, so not in `open`; they are found by their arbiter.
    pub(super) fn keep_recordings(&mut self) {
        let now = self.now;
        let shards = self.custody.active().into_iter().filter_map(|id| Some((id, self.custody.shard(id)?)));
        let busy = shards.filter(|(_, shard)| shard.arbiter.as_ref().is_some_and(|it| !it.recordings.is_empty()));
        let busy: Vec<_> = busy.map(|(id, shard)| (id, self.keepers(id, shard))).collect();
        for (id, others) in busy {
            self.finish_recordings(id);
            let Some(arbiter) = self.arbiter_mut(id) else { continue };
            let epoch = arbiter.epoch;
            let mut repeats = Vec::new();
            for (&number, recording) in arbiter.recordings.iter_mut().filter(|(_, it)| now >= it.repeat) {
                recording.repeat = now + REPEAT;
                for other in others.iter().filter(|other| !recording.confirmed.contains(other)) {
                    repeats.push((*other, number, recording.segment.clone()));
                }
            }
            for (other, number, segment) in repeats {
                self.send(other, Message::Record { shard: id, epoch, number, segment });
                self.send(other, Message::RecordKept { shard: id, epoch, number });
            }
        }
    }
}
