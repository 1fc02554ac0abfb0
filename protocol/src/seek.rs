//! Looking for work in a sparse swarm, where an idle node has no link to those that have some.
//!
//! Whoever knows a job computes the arbiters of its shards: an idle node asks those of two shards of a new job, at a random
//! moment, so that a small job does not call a large swarm. What it finds nothing in is looked at again ever more rarely,
//! and a custodian of the job is asked whether it is over.
//!
//! Always true: a node looks at most every [`LOOK_FIRST`], and a job that is known to be over is not looked at.
//!
//! Elsewhere: asking an arbiter that is linked and says that it has work is `worker`.

use core::time::Duration;
use std::collections::BTreeSet;

use crate::message::{Gossip, Message};
use crate::node::Node;
use crate::placement::Key;
use crate::{JobId, NodeId, ShardId, Time};

/// The first wait after a look that brought no grant; doubles.
const LOOK_FIRST: Duration = Duration::from_millis(500);
/// The longest: an idle node then costs the arbiters of unfinished jobs next to nothing.
const LOOK_MAX: Duration = Duration::from_secs(30);
/// Within this time those idle nodes ask for a new job that it has tasks for.
const CALL: Duration = Duration::from_millis(250);
/// All others ask later, but within this.
const CALL_MAX: Duration = Duration::from_secs(30);
/// Shards whose arbiters are asked at once (Sparrow's d = 2).
const SHARDS_AT_ONCE: usize = 2;
/// Of the jobs that may have work so many are considered, the earliest first.
const JOBS_CONSIDERED: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Seek {
    /// Jobs not known to be over, with their arrival.
    jobs: BTreeSet<(u64, JobId)>,
    /// Heard of since the last look.
    fresh: Vec<JobId>,
    next: Time,
    wait: Duration,
}

impl Node {
    /// There is a job, or there is work again in a job known before.
    pub(crate) fn seek_in(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(id) else { return };
        if job.stop.is_some() {
            return;
        }
        let tasks: u64 = job.spec.stages.iter().map(|stage| u64::from(stage.count)).sum();
        let called = CALL * u32::try_from(self.membership.living.len() as u64 / tasks.max(1)).unwrap_or(u32::MAX);
        let within = called.clamp(CALL, CALL_MAX).as_micros() as u64;
        self.seek.jobs.insert((job.arrival, id));
        if self.seek.fresh.len() < JOBS_CONSIDERED {
            self.seek.fresh.push(id);
        }
        self.seek.wait = LOOK_FIRST;
        let at = self.now + Duration::from_micros(self.rng.u64(0..=within));
        self.seek.next = if self.seek.next > self.now { self.seek.next.min(at) } else { at };
        if self.membership.sparse {
            self.set_alarm("seek", Some(self.seek.next));
        }
    }

    /// A job is over, or nothing of it is granted any more.
    pub(crate) fn on_over(&mut self, id: JobId) {
        if let Some(arrival) = self.jobs.get(id).map(|job| job.arrival) {
            self.seek.jobs.remove(&(arrival, id));
        }
    }

    /// An answer: this one is over, there are others.
    pub(crate) fn on_over_said(&mut self, id: JobId) {
        self.on_over(id);
        self.on_found();
        self.seek.next = self.seek.next.min(self.now + LOOK_FIRST);
    }

    /// A grant came: where that was there may be more.
    pub(crate) fn on_found(&mut self) {
        self.seek.wait = LOOK_FIRST;
    }

    /// Called every tick.
    pub(crate) fn keep_seeking(&mut self) {
        if !self.membership.sparse || self.now < self.seek.next || self.seek.jobs.is_empty() {
            return;
        }
        if self.free_slots() == 0 || self.membership.me.draining || self.has_work_in_sight() {
            self.seek.next = self.now + LOOK_FIRST;
            return;
        }
        self.seek.wait = self.seek.wait.max(LOOK_FIRST);
        let jitter = self.rng.u64(0..=self.seek.wait.as_micros() as u64);
        self.seek.next = self.now + self.seek.wait / 2 + Duration::from_micros(jitter);
        self.seek.wait = (self.seek.wait * 2).min(LOOK_MAX);
        self.set_alarm("seek", Some(self.seek.next));
        let fresh = core::mem::take(&mut self.seek.fresh).pop();
        let Some(job) = fresh.or_else(|| self.some_open_job()) else { return };
        self.look_at(job, fresh.is_none());
    }

    fn some_open_job(&mut self) -> Option<JobId> {
        let open: Vec<_> = self.seek.jobs.iter().take(JOBS_CONSIDERED).map(|(_, job)| *job).collect();
        (!open.is_empty()).then(|| open[self.rng.usize(0..open.len())])
    }

    /// Asks for work of a job, and whether there is any.
    fn look_at(&mut self, id: JobId, doubtful: bool) {
        let Some(job) = self.jobs.get(id) else { return };
        let (spec, custodians) = (job.spec.clone(), job.custodians.clone());
        if job.stop.is_some() {
            return self.on_over(id);
        }
        let shards = spec.shards(id).count();
        for _ in 0..SHARDS_AT_ONCE.min(shards) {
            let shard = spec.shards(id).nth(self.rng.usize(0..shards));
            if let Some(arbiter) = shard.and_then(|shard| self.first_reachable(shard)) {
                self.want_of(arbiter);
            }
        }
        let others: Vec<_> = custodians.into_iter().filter(|node| *node != self.me() && self.reaches(*node)).collect();
        if doubtful && !others.is_empty() {
            let other = others[self.rng.usize(0..others.len())];
            self.send(other, Message::Seek(id));
        }
    }

    fn first_reachable(&self, shard: ShardId) -> Option<NodeId> {
        self.membership.view.custodians(Key::of_shard(shard)).into_iter().find(|node| self.reaches(*node))
    }

    /// An idle node wonders whether there is any work left in a job.
    pub(crate) fn on_seek(&mut self, from: NodeId, id: JobId) {
        let over = |job: &crate::jobs::Job| job.stop.is_some() || job.status().state().is_over();
        if self.jobs.get(id).is_some_and(over) {
            self.send(from, Message::Over(id));
        }
    }

    /// A custodian of the job sees that it is over, and tells all idle nodes.
    pub(crate) fn say_over(&mut self, id: JobId) {
        self.on_over(id);
        if self.membership.sparse {
            self.out.gossip.push(Gossip::JobOver(id));
        }
    }
}
