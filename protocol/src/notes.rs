//! What runs here, noted on the disk, so that a task that kills its node is charged for it after the restart.
//!
//! Always true: a note is a help only. It is written without waiting for the disk, and what was lost by a lease that its
//! arbiter charged as well is the same fact: an attempt is named by its lease.
//!
//! Elsewhere: the leases are `worker`; what ends a task whose attempts are used up is `arbiter`.

use core::time::Duration;

use crate::codec::{self, DecodeError};
use crate::lattice::{AttemptId, Failure, Run, Segment, TaskState};
use crate::node::Node;
use crate::{Ending, LeaseId, Range, Table, Write};

/// Where [`Table::Meta`] keeps the note.
pub(crate) const RUNNING_KEY: &[u8] = b"running";
/// So long after its start a node notes every change at once: a task that killed it is likely to come back soon. Later
/// once a heartbeat is enough.
const CAREFUL: Duration = Duration::from_secs(10);
/// The longest note: ranges of at most a few batches for each slot.
const NOTE_BYTES_MAX: usize = 4 << 20;

type Note = Vec<(LeaseId, Vec<Range>)>;

impl Node {
    /// What ran when this node stopped is lost.
    pub(crate) fn restore_note(&mut self, value: &[u8]) -> Result<(), DecodeError> {
        let note: Note = codec::decode(value, NOTE_BYTES_MAX)?;
        for (lease, ranges) in note {
            let failure = Failure { node: self.me(), ending: Ending::Lost };
            let state = TaskState::failed(AttemptId::from(lease), failure);
            let open = |range: Range| range.indexes().filter(|task| !self.has_ended(lease.shard, *task));
            let one = |first| Run { range: Range { first, count: 1 }, state: state.clone() };
            let lost: Segment = ranges.into_iter().flat_map(open).map(one).collect();
            self.learn(lease.shard, lost);
        }
        self.worker.note_due = true;
        Ok(())
    }

    fn has_ended(&self, shard: crate::ShardId, task: u32) -> bool {
        self.custody.shard(shard).is_some_and(|shard| shard.state.has_ended(task))
    }

    /// At the end of every event, and at every heartbeat.
    pub(crate) fn note_running(&mut self, heartbeat: bool) {
        let careful = self.now.since(self.started) < CAREFUL;
        if self.worker.note_due && (careful || heartbeat) {
            self.worker.note_due = false;
            let note = self.note();
            self.out.note.push(note);
        }
    }

    fn note(&self) -> Write {
        let note: Note = self.worker.running_leases();
        Write::put(Table::Meta, RUNNING_KEY, codec::encode(&note))
    }

    /// For good: what was given back before this node left does not come back in a power cut.
    pub(crate) fn note_for_good(&mut self) {
        let note = self.note();
        self.out.persist.push(note);
    }
}
