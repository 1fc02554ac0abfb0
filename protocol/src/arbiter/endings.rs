//! Tasks that end without a report: their job was stopped, no node took them in time, or they had more attempts than they
//! may.
//!
//! Always true: what is leased of them is called back.
//!
//! Elsewhere: a stop itself is `jobs`; calling back second runs is `stragglers`.

use core::time::Duration;

use rangemap::RangeSet;

use super::{Arbiter, Phase};
use crate::lattice::{End, Results, Run, Segment, TaskState};
use crate::message::Message;
use crate::node::Node;
use crate::planted::PlantedBug;
use crate::task_sets::ranges_of;
use crate::{Ending, JobId, LeaseId, NodeRecord, Outcome, Range, ShardId};

/// Characters of why no node took a task: some lines of a terminal.
const WHY_CHARS_MAX: usize = 300;

impl Node {
    /// Ends what is open of the job's shards, and takes back what was granted.
    pub(crate) fn on_job_stopped(&mut self, job: JobId) {
        if self.plants(PlantedBug::GrantsStopped) {
            return;
        }
        self.drop_leases_of(job);
        let arbitrated = self.custody.open_of(job);
        self.custody.touch_all(&arbitrated);
        for id in arbitrated {
            let granting = |arbiter: &Arbiter| !matches!(arbiter.phase, Phase::Preparing { .. });
            if self.arbiter_mut(id).is_some_and(|arbiter| granting(arbiter)) {
                self.cancel_rest(id);
            }
        }
    }

    pub(super) fn cancel_rest(&mut self, id: ShardId) {
        self.record_gathered(id);
        let Some(shard) = self.custody.shard_mut(id) else { return };
        let open = ranges_of(&shard.open_tasks());
        let Some(arbiter) = shard.arbiter.as_mut() else { return };
        arbiter.pending.clear();
        arbiter.delayed.clear();
        arbiter.blocked.clear();
        self.recall_all(id);
        let cancelled = |range| Run { range, state: TaskState::ended(End::Cancelled) };
        self.record(id, open.into_iter().map(cancelled).collect(), None);
    }

    /// Calls back everything that is leased of the shard.
    fn recall_all(&mut self, id: ShardId) {
        let Some(arbiter) = self.arbiter_mut(id) else { return };
        let epoch = arbiter.epoch;
        for (number, lease) in core::mem::take(&mut arbiter.leases) {
            let tasks = ranges_of(&lease.tasks);
            self.send(lease.executor, Message::Recall { lease: LeaseId { shard: id, epoch, number }, tasks });
        }
    }

    /// Fails tasks that waited longer than their job allows while no node took one, and every custodian could be asked.
    pub(super) fn end_queue(&mut self, id: ShardId) {
        let now = self.now;
        let Some(shard) = self.custody.shard(id) else { return };
        let Some(queue_ms_max) = shard.spec.stages.get(usize::from(id.stage)).and_then(|stage| stage.queue_ms_max)
        else {
            return;
        };
        let complete = self.other_custodians(shard).len() + 1 == shard.custodians.len();
        // What the job's own limit holds back does not wait for a node.
        let held_back = self.is_held_back(id.job);
        let waits = complete && !held_back && self.grantable(id).is_some_and(|arbiter| !arbiter.pending.is_empty());
        let Some(arbiter) = self.arbiter_mut(id) else { return };
        if !waits {
            arbiter.waiting_since = None;
        } else if now.since(*arbiter.waiting_since.get_or_insert(now)) >= Duration::from_millis(queue_ms_max) {
            let late = arbiter.pending.clone();
            let why = format!("no node took it within its queue timeout: {}", self.why_untaken(id));
            self.record(id, all_failed(&late, Ending::Rejected(why)), None);
        }
    }

    /// What was in the way, as the members are now.
    fn why_untaken(&self, id: ShardId) -> String {
        let Some(stage) = self.stage_of(id) else { return String::new() };
        let nodes: Vec<&NodeRecord> = self.living_records().collect();
        let why = match nodes.iter().filter(|node| stage.fits(node)).count() {
            0 => stage.unmet(&nodes).to_string(),
            1 => "the one node that could run it had no room".to_owned(),
            able => format!("none of the {able} nodes that could run it had room"),
        };
        why.chars().take(WHY_CHARS_MAX).collect()
    }

    /// Fails tasks that are not over so long after they could run, as their stage allows.
    pub(super) fn end_total(&mut self, id: ShardId) {
        let now = self.now;
        let Some(options) = self.stage_of(id).map(|stage| &stage.options) else { return };
        if options.total_ms_max.is_none() && options.place.is_empty() {
            return;
        }
        let total = options.total_ms_max.map(Duration::from_millis);
        let able = self.grantable(id).is_some();
        let Some(shard) = self.custody.shard_mut(id) else { return };
        let open = shard.open_tasks();
        let Some(arbiter) = shard.arbiter.as_mut().filter(|arbiter| able || arbiter.able_since.is_some()) else {
            return;
        };
        let since = *arbiter.able_since.get_or_insert(now);
        if total.is_none_or(|total| now.since(since) < total) {
            return;
        }
        let mut late = open;
        arbiter.blocked.keys().for_each(|task| late.remove(*task..*task + 1));
        for range in arbiter.unconfirmed_tasks().iter() {
            late.remove(range.clone());
        }
        self.recall_all(id);
        let segment = all_failed(&late, Ending::TimedOut);
        if !segment.is_empty() {
            self.record(id, segment, None);
        }
    }

    /// Ends tasks that several arbiters, on both sides of a partition, gave more attempts together than are allowed.
    pub(crate) fn exhaust_overrun(&mut self, id: ShardId) {
        self.record_gathered(id);
        let Some(shard) = self.custody.shard(id).filter(|shard| shard.arbiter.is_some()) else { return };
        let Some(stage) = shard.spec.stages.get(usize::from(id.stage)) else { return };
        let overrun = |(range, state): (Range, &TaskState)| {
            let outcome = Outcome::bare(state.overrun(&stage.retry)?);
            Some(Run { range, state: TaskState::ended(End::Exhausted(Results::one(outcome, []))) })
        };
        let segment: Segment = shard.state.states().filter_map(overrun).collect();
        if !segment.is_empty() {
            self.recall_ended(id, &segment);
            self.record(id, segment, None);
        }
    }
}

/// That these tasks failed, and ran nowhere.
fn all_failed(tasks: &RangeSet<u32>, ending: Ending) -> Segment {
    let state = TaskState::ended(End::Exhausted(Results::one(Outcome::bare(ending), [])));
    ranges_of(tasks).into_iter().map(|range| Run { range, state: state.clone() }).collect()
}
