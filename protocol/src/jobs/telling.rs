//! Telling others of jobs: at once when one is new, again and again those custodians of it who may not know it, and those who
//! keep its shards and are silent.
//!
//! Always true: a node that has once said that it knows a job and its stop is not told again, unless it may have lost its disk.

use core::ops::Bound;
use std::collections::{BTreeMap, BTreeSet};

use super::{Blobs, Job};
use crate::message::{Gossip, Message, StopCause};
use crate::node::Node;
use crate::placement::Key;
use crate::planted::PlantedBug;
use crate::{JobId, NodeId, ShardId};

/// Jobs whose silent shards are looked after in one such round; of more, each has its turn.
const NUDGED_AT_ONCE: usize = 1000;
/// Jobs in one digest message: about 40 KiB.
const DIGEST_JOBS_MAX: usize = 1000;

impl Node {
    /// A custodian of the job makes sure that the custodians of its shards hear of it. In a sparse swarm everybody tells
    /// its neighbours, so that nobody has to bring the record to a thousand others.
    pub(super) fn announce(&mut self, id: JobId) {
        let me = self.me();
        let Some(job) = self.jobs.jobs.get(&id) else { return };
        let keeps = job.custodians.contains(&me);
        if keeps {
            self.jobs.gossip_due.insert(id);
        }
        if keeps || self.membership.sparse {
            for peer in self.linked_neighbours() {
                let announcement = self.announcement(id);
                self.send(peer, announcement);
            }
        }
    }

    fn announcement(&self, id: JobId) -> Message {
        let job = self.jobs.jobs.get(&id);
        let held = job.is_some_and(|job| job.blobs == Blobs::Held);
        Message::Announce { job: id, stop: job.and_then(|job| job.stop), held }
    }

    /// Tells everybody of new jobs. Where all are linked with all, the links told them already: gossip, which is signed and
    /// checked everywhere, then waits for the next heartbeat and is left out for jobs that are over by then.
    pub(crate) fn gossip_jobs(&mut self) {
        let holder = self.me();
        for job in core::mem::take(&mut self.jobs.gossip_due) {
            if self.jobs.jobs.get(&job).is_some_and(|job| !job.said_over) {
                self.out.gossip.push(Gossip::Job { job, holder });
            }
        }
    }

    pub(super) fn nudge_silent_shards(&mut self) {
        let me = self.me();
        let mut nudges: BTreeMap<NodeId, Vec<_>> = BTreeMap::new();
        let after = self.jobs.nudged.map_or(Bound::Unbounded, Bound::Excluded);
        let waits = |job: &Job| !job.said_over && job.custodians.contains(&me) && !job.status().state().is_over();
        let waiting = self.jobs.jobs.range((after, Bound::Unbounded)).filter(|(_, job)| waits(job));
        let waiting: Vec<_> = waiting.take(NUDGED_AT_ONCE).collect();
        let last = waiting.last().map(|(id, _)| **id).filter(|_| waiting.len() == NUDGED_AT_ONCE);
        for (&id, job) in waiting {
            let is_open = |shard: &ShardId| {
                let tasks = job.spec.stages[usize::from(shard.stage)].shard_range(shard.number).count;
                job.progress.get(&(shard.stage, shard.number)).is_none_or(|counts| counts.ended() < tasks)
            };
            // A large job has many open shards but few nodes; 64 shards name all nodes of a small swarm.
            let shards = job.spec.shards(id).filter(is_open).take(64);
            let nodes = shards.flat_map(|shard| self.membership.view.custodians(Key::of_shard(shard)));
            for node in nodes.collect::<BTreeSet<_>>() {
                nudges.entry(node).or_default().push((id, job.stop, job.blobs == Blobs::Held));
            }
        }
        self.jobs.nudged = last;
        for (node, jobs) in nudges {
            self.send(node, Message::Nudge(jobs));
        }
    }

    /// The same of many jobs.
    pub(crate) fn on_nudge(&mut self, from: NodeId, jobs: Vec<(JobId, Option<StopCause>, bool)>) {
        for (job, stop, held) in jobs.into_iter().take(NUDGED_AT_ONCE) {
            self.on_nudged(from, job, stop, held);
        }
    }

    /// A custodian of the job wonders about its shards here, or says that it knows the job.
    pub(crate) fn on_nudged(&mut self, from: NodeId, job: JobId, stop: Option<StopCause>, held: bool) {
        if held {
            self.note_held_by(job, from);
        }
        if !self.jobs.jobs.contains_key(&job) {
            self.pull_job(job, from);
        }
        self.note_known_by(job, from, stop);
        self.even_out_stops(from, job, stop);
        self.send_progress(from, job);
    }

    pub(super) fn send_job_digests(&mut self) {
        let (me, draining) = (self.me(), self.membership.me.draining);
        let mut digests: BTreeMap<NodeId, Vec<_>> = BTreeMap::new();
        for (&id, job) in &self.jobs.jobs {
            let keeps = job.custodians.contains(&me);
            // In a sparse swarm everybody knows every job: only who may know more than others tells of it.
            if self.membership.sparse && !keeps && job.blobs == Blobs::Unknown {
                continue;
            }
            let owes_blobs = draining && job.blobs == Blobs::Held && !job.status().state().is_over();
            let tells = keeps || !self.plants(PlantedBug::TellsJobsAsCustodian);
            for other in job.custodians.iter().filter(|other| **other != me) {
                if (owes_blobs && !job.held_by.contains(other)) || (tells && !job.known_by.contains(other)) {
                    digests.entry(*other).or_default().push((id, job.stop));
                }
            }
        }
        for (other, jobs) in digests {
            for chunk in jobs.chunks(DIGEST_JOBS_MAX) {
                self.send(other, Message::JobDigests(chunk.to_vec()));
            }
        }
    }

    pub(crate) fn on_job_digests(&mut self, from: NodeId, digests: Vec<(JobId, Option<StopCause>)>) {
        let mut known = Vec::new();
        for (id, stop) in digests.into_iter().take(DIGEST_JOBS_MAX) {
            self.note_known_by(id, from, stop);
            let Some(job) = self.jobs.jobs.get(&id) else {
                self.pull_job(id, from);
                continue;
            };
            known.push((id, job.stop.max(stop), job.blobs == Blobs::Held));
            self.even_out_stops(from, id, stop);
        }
        if !known.is_empty() {
            self.send(from, Message::JobsKnown(known));
        }
    }

    /// They need not be told of these any more.
    pub(crate) fn on_jobs_known(&mut self, from: NodeId, known: Vec<(JobId, Option<StopCause>, bool)>) {
        for (id, stop, held) in known.into_iter().take(DIGEST_JOBS_MAX) {
            if held {
                self.note_held_by(id, from);
            }
            self.note_known_by(id, from, stop);
            self.even_out_stops(from, id, stop);
        }
    }
}
