//! Pulls: jobs that others told of and that are not known here are asked for until somebody brings them.
//!
//! Always true: pulls under way are bounded, and each is given up after so many requests; whoever told of the job tells again.

use core::time::Duration;

use super::REPEAT;
use crate::message::{Message, StopCause};
use crate::node::Node;
use crate::{JobId, NodeId, SignedJob, Time};

/// In a sparse swarm the holder of a job that gossip told of is asked for it after this: a neighbour is likely to be faster.
const NEIGHBOURS_FIRST: Duration = Duration::from_secs(2);
/// Pulls under way at once; more come with the next nudge.
const PULLS_MAX: usize = 4096;
/// A pull that nobody answers is forgotten after this many requests.
const PULL_TRIES_MAX: u32 = 30;

#[derive(Debug)]
pub(super) struct Pull {
    from: Vec<NodeId>,
    tries: u32,
    next: Time,
}

impl Node {
    pub(crate) fn on_job_gossip(&mut self, job: JobId, holder: NodeId) {
        let known = self.jobs.jobs.contains_key(&job);
        if known {
            self.seek_in(job);
        } else if !self.membership.sparse {
            self.pull_job(job, holder);
        } else if self.jobs.heard_of.len() < PULLS_MAX {
            let wait = NEIGHBOURS_FIRST + Duration::from_millis(self.rng.u64(0..1000));
            self.jobs.heard_of.entry(job).or_insert((self.now + wait, holder));
        }
    }

    /// Asks the holders of jobs that no neighbour brought.
    pub(super) fn keep_heard_of(&mut self) {
        let (now, jobs) = (self.now, &mut self.jobs);
        jobs.heard_of.retain(|job, _| !jobs.jobs.contains_key(job));
        let late: Vec<_> =
            jobs.heard_of.iter().filter(|(_, (at, _))| now >= *at).map(|(job, it)| (*job, it.1)).collect();
        for (job, holder) in late {
            self.jobs.heard_of.remove(&job);
            self.pull_job(job, holder);
        }
    }

    /// Asks for a job, now and until somebody brings it; `false` when nobody is asked.
    pub(crate) fn pull_job(&mut self, job: JobId, from: NodeId) -> bool {
        if self.tells_expired(from, job) {
            return false;
        }
        if !self.jobs.pulls.contains_key(&job) && self.jobs.pulls.len() >= PULLS_MAX {
            return false;
        }
        let now = self.now;
        let pull = self.jobs.pulls.entry(job).or_insert(Pull { from: Vec::new(), tries: 0, next: now });
        if !pull.from.contains(&from) {
            pull.from.push(from);
            // In a sparse swarm all neighbours tell of it within a moment, and one of them is enough.
            if !self.membership.sparse || pull.tries == 0 {
                pull.next = now;
            }
        }
        self.keep_pulls();
        true
    }

    pub(super) fn keep_pulls(&mut self) {
        let mut asks = Vec::new();
        self.jobs.pulls.retain(|_, pull| pull.tries < PULL_TRIES_MAX);
        for (&job, pull) in &mut self.jobs.pulls {
            if self.now >= pull.next {
                let from = pull.from[pull.tries as usize % pull.from.len()];
                pull.tries += 1;
                pull.next = self.now + REPEAT;
                asks.push((from, job));
            }
        }
        for (from, job) in asks {
            self.send(from, Message::JobPull(job));
        }
    }

    pub(crate) fn on_job_pull(&mut self, from: NodeId, job: JobId) {
        if let Some(known) = self.jobs.jobs.get(&job) {
            let push = Message::JobPush { job: known.signed.clone(), stop: known.stop };
            self.send(from, push);
        }
    }

    pub(crate) fn on_job_push(&mut self, from: NodeId, signed: SignedJob, stop: Option<StopCause>) {
        if self.tells_expired(from, signed.id()) {
            return;
        }
        let Some(id) = self.keep_job(signed) else { return };
        if let Some(cause) = stop {
            self.apply_stop(id, cause);
        }
    }
}
