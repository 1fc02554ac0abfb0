//! Events: every change of state that this node takes in, numbered, on the disk, for whoever follows along.
//!
//! Always true:
//! - numbers only grow, also over restarts; each start leaves out [`START_SKIP`] of them, which is more than a crash can lose,
//!   so that no number ever names two events;
//! - an event is told only after it was handed to the disk; a reader that was away gets what followed the last number that it
//!   saw, or is told that some of it is gone;
//! - it costs the hot path a push of ranges; one write that nobody waits for follows every [`FLUSH_EVERY`] at most.
//!
//! The log is a ring of [`BATCHES_MAX`] batches on the disk, written over in turn (deleting from the front of a queue would
//! slow the store down), and of [`EVENTS_MAX`] events in memory.
//!
//! Elsewhere: what became known is `swarm_protocol::Happened`; the socket and the command are `api` and `cli`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use swarm_protocol::{Batch, Happened, JobId, MemberState, NodeId, Range, ShardId, Table, Write, codec};
use tokio::sync::watch;

use crate::clock::unix_ms;
use crate::storage::{Record, Storage};

/// Events that can be read again: some MiB of memory.
pub const EVENTS_MAX: usize = 16 * 1024;
/// Batches on the disk. A busy node writes four a second and an idle one almost none.
const BATCHES_MAX: u64 = 4096;
/// The shortest time between two batches.
const FLUSH_EVERY: Duration = Duration::from_millis(250);
/// Events in one batch, or it is written at once.
const BATCH_EVENTS_MAX: usize = 1024;
/// Neighbouring tasks are one event when so few others, not told either, lie between: grants and facts take turns.
const JOINED_WITHIN: usize = 4;
/// Numbers left out at each start.
const START_SKIP: u64 = 1 << 20;
/// The longest batch read back.
const BATCH_BYTES_MAX: usize = 64 << 20;

/// Something that happened, as this node heard of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered {
    /// Its number on this node.
    pub seq: u64,
    /// When, in milliseconds since 1970 by this node's clock.
    pub at_unix_ms: u64,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// This node started. What happened while it was away comes as it hears of it.
    Started,
    /// A job or tasks changed.
    Core(Happened),
    /// Every task of a job has ended, as this node, one of its custodians, was told.
    JobOver(JobId),
    /// Tasks began to run here, or wait here for a slot.
    Granted {
        /// The shard.
        shard: ShardId,
        /// The name of its stage.
        #[serde(default)]
        stage: String,
        /// The tasks.
        tasks: Vec<Range>,
    },
    /// A node is new or in another state.
    Node {
        /// The node.
        node: NodeId,
        /// Its name.
        name: String,
        /// Its state.
        state: Seen,
    },
}

/// The state of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seen {
    /// It lives.
    Alive,
    /// Somebody lost it.
    Suspect,
    /// It is taken for dead, or has left.
    Down,
    /// It leaves.
    Draining,
}

impl From<MemberState> for Seen {
    fn from(state: MemberState) -> Self {
        match state {
            MemberState::Alive => Self::Alive,
            MemberState::Suspect => Self::Suspect,
            MemberState::Down => Self::Down,
            MemberState::Draining => Self::Draining,
        }
    }
}

impl What {
    /// The job that it is about.
    pub fn job(&self) -> Option<JobId> {
        match self {
            Self::Core(
                Happened::JobKnown { job, .. } | Happened::JobStopped { job, .. } | Happened::JobExpired(job),
            ) => Some(*job),
            Self::JobOver(job) => Some(*job),
            Self::Core(Happened::Tasks { shard, .. }) | Self::Granted { shard, .. } => Some(shard.job),
            Self::Started | Self::Node { .. } => None,
        }
    }
}

/// What a reader gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Set when events after the reader's last one are gone: the number of the first that is there.
    pub gap: Option<u64>,
    /// What follows, in order.
    pub events: Vec<Numbered>,
    /// Where to go on.
    pub cursor: u64,
}

/// The events of a node. Cheap to clone.
#[derive(Clone)]
pub struct Events(Arc<Inner>);

struct Inner {
    // Held for a push or a copy, never across an await.
    log: Mutex<Log>,
    storage: Storage,
    /// The last number that was told.
    told: watch::Sender<u64>,
}

struct Log {
    /// Handed to the disk.
    told: VecDeque<Numbered>,
    /// Not yet.
    fresh: Vec<Numbered>,
    next: u64,
    batch: u64,
    flushed: Instant,
}

impl Events {
    /// The log that these records of [`Table::Events`] hold; what cannot be read is left out.
    pub(crate) fn open(records: &[Record], storage: Storage) -> Self {
        let read = |(_, _, value): &Record| codec::decode::<(u64, Vec<Numbered>)>(value, BATCH_BYTES_MAX).ok();
        let mut batches: Vec<_> = records.iter().filter_map(read).collect();
        batches.sort_by_key(|(number, _)| *number);
        let batch = batches.last().map_or(0, |(number, _)| number + 1);
        let mut told: VecDeque<Numbered> = batches.into_iter().flat_map(|(_, events)| events).collect();
        told.drain(..told.len().saturating_sub(EVENTS_MAX));
        let next = told.back().map_or(1, |last| last.seq + START_SKIP);
        let last = told.back().map_or(0, |last| last.seq);
        let log = Log { told, fresh: Vec::new(), next, batch, flushed: Instant::now() };
        let events = Self(Arc::new(Inner { log: Mutex::new(log), storage, told: watch::Sender::new(last) }));
        events.push(What::Started);
        events
    }

    pub(crate) fn push(&self, what: What) {
        let mut log = self.log();
        if log.fresh.iter_mut().rev().take(JOINED_WITHIN).any(|event| take_in(&mut event.what, &what)) {
            return;
        }
        let seq = log.next;
        log.next += 1;
        log.fresh.push(Numbered { seq, at_unix_ms: unix_ms(), what });
    }

    pub(crate) fn granted(&self, batch: &Batch) {
        let shard = batch.lease.shard;
        let stage = batch.spec.stages.get(usize::from(shard.stage)).map(|stage| stage.name.clone()).unwrap_or_default();
        let tasks = batch.tasks.iter().map(|(range, _)| *range).collect();
        self.push(What::Granted { shard, stage, tasks });
    }

    /// Called after every round of the core: hands to the disk what is due.
    pub(crate) fn flush(&self) {
        let log = self.log();
        if log.flushed.elapsed() >= FLUSH_EVERY || log.fresh.len() >= BATCH_EVENTS_MAX {
            self.hand_over(log);
        }
    }

    /// The same at once, when the node is about to leave.
    pub(crate) fn flush_now(&self) {
        self.hand_over(self.log());
    }

    fn hand_over(&self, mut log: MutexGuard<'_, Log>) {
        if log.fresh.is_empty() {
            return;
        }
        let key = u16::try_from(log.batch % BATCHES_MAX).unwrap_or_default().to_be_bytes();
        let value = codec::encode(&(log.batch, &log.fresh));
        // When the queue is full this is tried again after the next round.
        let Ok(()) = self.0.storage.commit_lazily(vec![Write::put(Table::Events, key, value)]) else { return };
        log.batch += 1;
        log.flushed = Instant::now();
        let fresh = std::mem::take(&mut log.fresh);
        let last = fresh.last().map_or(0, |last| last.seq);
        log.told.extend(fresh);
        let over = log.told.len().saturating_sub(EVENTS_MAX);
        log.told.drain(..over);
        drop(log);
        self.0.told.send_replace(last);
    }

    /// What followed an event; from the oldest on without one. At most `most` at once.
    pub fn after(&self, since: Option<u64>, most: usize) -> Read {
        let log = self.log();
        let first = log.told.front().map_or(log.next, |first| first.seq);
        let last = log.told.back().map_or(0, |last| last.seq);
        // What is newer than the newest belongs to a log that is no more.
        let known = since.filter(|since| *since <= last && *since + 1 >= first);
        let gap = since.filter(|_| known.is_none()).map(|_| first);
        let start = known.map_or(0, |since| log.told.partition_point(|event| event.seq <= since));
        let events: Vec<Numbered> = log.told.iter().skip(start).take(most).cloned().collect();
        let cursor = events.last().map_or(known.unwrap_or(last), |event| event.seq);
        Read { gap, events, cursor }
    }

    /// Changes whenever there is more to read.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.told.subscribe()
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // Nothing that can panic runs under the lock.
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes one event of two that are not told yet and say the same of neighbouring tasks.
fn take_in(event: &mut What, next: &What) -> bool {
    match (event, next) {
        (
            What::Core(Happened::Tasks { shard, tasks, .. }),
            What::Core(Happened::Tasks { shard: same, tasks: more, .. }),
        ) if shard == same => match (tasks.last_mut(), more.as_slice()) {
            (Some((range, change)), [(next, same)]) if change == same => follows(range, next),
            _ => false,
        },
        (What::Granted { shard, tasks, .. }, What::Granted { shard: same, tasks: more, .. }) if shard == same => {
            match (tasks.last_mut(), more.as_slice()) {
                (Some(range), [next]) => follows(range, next),
                _ => false,
            }
        }
        _ => false,
    }
}

fn follows(range: &mut Range, next: &Range) -> bool {
    let follows = range.end() == next.first;
    range.count += if follows { next.count } else { 0 };
    follows
}

#[cfg(test)]
mod tests {
    use swarm_protocol::TaskChange;

    use super::*;

    fn tasks(first: u32, count: u32) -> What {
        let shard = ShardId { job: JobId::from_bytes([1; 32]), stage: 0, number: 0 };
        What::Core(Happened::Tasks {
            shard,
            stage: "tile".into(),
            tasks: vec![(Range { first, count }, TaskChange::Done)],
        })
    }

    fn flushed(events: &Events) {
        events.log().flushed = Instant::now().checked_sub(FLUSH_EVERY).unwrap();
        events.flush();
    }

    async fn stored(storage: &Storage) -> Vec<Record> {
        // A commit is durable after all that was handed in before it.
        storage.commit(Vec::new()).await.unwrap();
        storage.table(Table::Events).await.unwrap()
    }

    #[tokio::test]
    async fn a_reader_goes_on_where_it_was_also_after_a_restart() {
        let storage = Storage::in_memory();
        let events = Events::open(&[], storage.clone());
        events.push(tasks(0, 5));
        events.push(tasks(5, 3));
        events.push(What::JobOver(JobId::from_bytes([1; 32])));
        assert_eq!(events.after(None, 10).events, [], "nothing is told before it was handed to the disk");
        flushed(&events);
        let read = events.after(None, 10);
        assert_eq!(read.events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(read.events[1].what, tasks(0, 8), "neighbours are one event");
        let again = events.after(Some(2), 10);
        assert_eq!((again.gap, again.events.len(), again.cursor), (None, 1, 3));

        let events = Events::open(&stored(&storage).await, storage);
        events.push(tasks(8, 1));
        flushed(&events);
        let read = events.after(Some(2), 10);
        assert_eq!(read.gap, None);
        assert_eq!(read.events.iter().map(|event| event.seq).collect::<Vec<_>>(), [3, 3 + START_SKIP, 4 + START_SKIP]);
    }

    #[tokio::test]
    async fn a_reader_that_was_away_for_too_long_is_told_of_the_gap() {
        let events = Events::open(&[], Storage::in_memory());
        for _ in 0..=EVENTS_MAX {
            events.push(What::JobOver(JobId::from_bytes([1; 32])));
        }
        flushed(&events);
        let read = events.after(Some(1), 1);
        assert_eq!((read.gap, read.events[0].seq), (Some(3), 3));
        assert_eq!(events.after(Some(2), 1).gap, None);
        assert_eq!(events.after(Some(1 << 40), 1).gap, Some(3), "it read another log");
    }
}
