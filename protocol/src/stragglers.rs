//! Tasks that take much longer than their fellows: granted a second time when little else is left.
//!
//! Always true:
//! - a task is granted a second time at most once a term of its arbiter, and never to the node that runs it already;
//! - the first outcome is the recorded one; the other run is recalled.
//!
//! Elsewhere: granting is `arbiter`, which asks here which tasks may go out again.
//!
//! Source: backup tasks of MapReduce (Dean and Ghemawat, 2004 §3.6).

use core::time::Duration;
use std::collections::VecDeque;

use rangemap::RangeSet;

use crate::arbiter::Arbiter;
use crate::custody::Shard;
use crate::lattice::{Run, TaskState};
use crate::message::Message;
use crate::node::Node;
use crate::task_sets::{count_of, ranges_of};
use crate::{LeaseId, NodeId, Range, ShardId, Time};

/// Reports remembered to know what is usual.
const SAMPLES_MAX: usize = 64;
/// With fewer reports nothing is known of what is usual.
const SAMPLES_MIN: usize = 3;
/// No task is slow that runs for less.
const SLOW_MIN: Duration = Duration::from_secs(1);
/// The tail of a shard: one task in so many, and at least one.
const TAIL: u32 = 20;

/// How long leases of a shard took from one sign of progress to the next.
#[derive(Debug, Default)]
pub(crate) struct Pace(VecDeque<Duration>);

impl Pace {
    pub(crate) fn note(&mut self, took: Duration) {
        if self.0.len() == SAMPLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(took);
    }

    /// What half of them stayed below; `None` before the first.
    pub(crate) fn usual(&self) -> Option<Duration> {
        let mut sorted: Vec<_> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }

    /// Twice what 95 of 100 stayed below; `None` while too little is known.
    fn slow(&self) -> Option<Duration> {
        let mut sorted: Vec<_> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        let p95 = sorted.get((sorted.len() * 95).div_ceil(100).saturating_sub(1))?;
        (sorted.len() >= SAMPLES_MIN).then(|| (*p95 * 2).max(SLOW_MIN))
    }
}

/// Second grants of one shard.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    /// May be granted a second time.
    offered: RangeSet<u32>,
    /// Were.
    granted: RangeSet<u32>,
}

impl Copies {
    pub(crate) fn offered(&self) -> u32 {
        count_of(&self.offered)
    }

    pub(crate) fn were_granted(&self) -> bool {
        !self.granted.is_empty()
    }

    /// Nobody runs these any more: whoever takes one is the first again.
    pub(crate) fn withdraw(&mut self, tasks: core::ops::Range<u32>) {
        self.offered.remove(tasks);
    }

    pub(crate) fn forget(&mut self, range: Range) {
        self.offered.remove(range.indexes());
        self.granted.remove(range.indexes());
    }
}

impl Arbiter {
    /// Takes up to `count` tasks that run elsewhere and may be granted to `executor` too.
    pub(crate) fn take_copies(&mut self, executor: NodeId, count: u32) -> RangeSet<u32> {
        let mut taken = RangeSet::new();
        for task in self.copies.offered.iter().flat_map(Clone::clone) {
            if count_of(&taken) < count && !self.leases_of(task).any(|lease| lease == executor) {
                taken.insert(task..task + 1);
            }
        }
        for range in taken.iter() {
            self.copies.offered.remove(range.clone());
            self.copies.granted.insert(range.clone());
        }
        taken
    }

    /// Offers the tasks of leases that stand still for too long, when only the tail is left.
    fn offer_stragglers(&mut self, left: u32, count: u32, now: Time, may_be_lost: impl Fn(u32) -> bool) -> bool {
        let is_tail = left <= (count / TAIL).max(1) && self.nothing_waits();
        let Some(slow) = self.pace.slow().filter(|_| is_tail) else { return false };
        let standing = self.leases.values().filter(|lease| now.since(lease.since) > slow);
        let tasks: Vec<_> = standing.flat_map(|lease| ranges_of(&lease.tasks)).collect();
        let before = self.copies.offered();
        let fresh = |task: &u32| !self.copies.granted.contains(task) && may_be_lost(*task);
        let offered: Vec<_> = tasks.iter().flat_map(Range::indexes).filter(fresh).collect();
        offered.into_iter().for_each(|task| self.copies.offered.insert(task..task + 1));
        self.copies.offered() > before
    }

    /// Takes ended tasks out of all leases; returns what their executors need not run any more.
    fn end_leased(&mut self, shard: ShardId, segment: &[Run]) -> Vec<(NodeId, LeaseId, Vec<Range>)> {
        let mut recalled = Vec::new();
        for (&number, lease) in &mut self.leases {
            let ended = segment.iter().filter(|run| run.state.end.is_some() && run.range.count > 0);
            let pieces: Vec<_> = ended.flat_map(|run| ranges_of(&lease.common(&[run.range]))).collect();
            for piece in &pieces {
                lease.tasks.remove(piece.indexes());
            }
            if !pieces.is_empty() {
                recalled.push((lease.executor, LeaseId { shard, epoch: self.epoch, number }, pieces));
            }
        }
        self.leases.retain(|_, lease| !lease.tasks.is_empty());
        recalled
    }
}

impl Node {
    /// Called every tick for each open shard.
    pub(crate) fn find_stragglers(&mut self, id: ShardId) {
        let now = self.now;
        if self.membership.links.is_empty() {
            return; // nobody else could run them
        }
        let Some(shard) = self.custody.shard_mut(id) else { return };
        let (left, count) = (open_count(shard), shard.range.count);
        let Some(stage) = shard.spec.stages.get(usize::from(id.stage)) else { return };
        // Both runs may take their nodes down: the budget has to allow it.
        let lost_max = usize::from(stage.retry.lost_max);
        let may_be_lost = |task| shard.state.get(task).map_or(0, TaskState::lost) < lost_max;
        let Some(arbiter) = shard.arbiter.as_mut() else { return };
        if arbiter.offer_stragglers(left, count, now, may_be_lost) {
            self.custody.grants_changed = true;
        }
    }

    /// Facts end tasks that are leased here: nobody needs to go on with them.
    pub(crate) fn recall_ended(&mut self, id: ShardId, segment: &[Run]) {
        let arbiter = self.custody.shard_mut(id).and_then(|shard| shard.arbiter.as_mut());
        let recalled = arbiter.map(|arbiter| arbiter.end_leased(id, segment)).unwrap_or_default();
        for (executor, lease, tasks) in recalled {
            self.send(executor, Message::Recall { lease, tasks });
        }
    }
}

fn open_count(shard: &Shard) -> u32 {
    shard.range.count.saturating_sub(shard.state.counts().ended())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_slow_before_something_is_usual() {
        let mut pace = Pace::default();
        pace.note(Duration::from_millis(900));
        pace.note(Duration::from_millis(900));
        assert_eq!(pace.slow(), None);
        pace.note(Duration::from_millis(900));
        assert_eq!(pace.slow(), Some(Duration::from_millis(1800)));
    }

    #[test]
    fn a_few_slow_ones_do_not_make_slowness_usual() {
        let mut pace = Pace::default();
        (0..60).for_each(|_| pace.note(Duration::from_millis(10)));
        (0..2).for_each(|_| pace.note(Duration::from_secs(60)));
        assert_eq!(pace.slow(), Some(SLOW_MIN));
    }
}
