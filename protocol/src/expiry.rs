//! Expiry: a job that is over leaves, with all that is known of its tasks, once it was kept as long as its user asked.
//!
//! Always true:
//! - a job expires only after a custodian of it has seen it over for so long, by its own clock while it ran; so no
//!   clock is compared with another, and a swarm that is switched off keeps what it has;
//! - that a job expired is a fact that only grows. Who hears of it forgets the job, passes it on, and tells it to whoever
//!   still speaks of the job: a node that was away does not bring it back. Whoever has no reason to speak of it asks, and
//!   so does a custodian that finds the job's blobs nowhere.
//!
//! What is remembered of expired jobs is bounded ([`EXPIRED_MAX`]), the oldest are forgotten first.
//!
//! Elsewhere: removing the blobs that nothing names any more is `node::collector`; which those are is `uses`.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::codec::{self, DecodeError};
use crate::custody::shard_key;
use crate::jobs::Job;
use crate::message::Message;
use crate::node::Node;
use crate::{JobId, JobSpec, NodeId, ShardId, Table, Time, Write};

/// How often the age of finished jobs is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The age of a job is remembered this many times while it is kept: a restart costs at most so small a part.
const AGE_STEPS: u32 = 16;
/// Expired jobs that are remembered: of a thousand jobs a day, those of three months. 4 MB.
const EXPIRED_MAX: usize = 100_000;
/// Jobs in one message: 34 KiB.
const JOBS_PER_MESSAGE: usize = 1000;

/// What is known of jobs that are no more, and what is soon to join them.
#[derive(Debug)]
pub(crate) struct Expiry {
    /// Expired, with their number in the order in which this node heard of it.
    expired: BTreeMap<JobId, u64>,
    by_number: BTreeMap<u64, JobId>,
    next_look: Time,
    looked: Time,
}

impl Expiry {
    /// Nothing has expired, and time counts from now.
    pub(crate) const fn new(now: Time) -> Self {
        Self { expired: BTreeMap::new(), by_number: BTreeMap::new(), next_look: now, looked: now }
    }
}

impl Node {
    /// Whether a job was forgotten here because its time was over.
    pub fn has_expired(&self, job: JobId) -> bool {
        self.expiry.expired.contains_key(&job)
    }

    pub(crate) fn restore_expired(&mut self, key: &[u8], value: &[u8]) -> Result<(), DecodeError> {
        let job = <[u8; 32]>::try_from(key).map_err(|_| DecodeError::Malformed("a job's key is cut off".into()))?;
        let (job, number) = (JobId::from_bytes(job), codec::decode(value, 64)?);
        self.expiry.expired.insert(job, number);
        self.expiry.by_number.insert(number, job);
        Ok(())
    }

    /// Called every heartbeat: custodians count how long their jobs have been over.
    pub(crate) fn keep_expiry(&mut self) {
        if self.now < self.expiry.next_look {
            return;
        }
        let passed = self.now.since(self.expiry.looked);
        self.expiry.looked = self.now;
        self.expiry.next_look = self.now + LOOK_EVERY;
        let (mut old, mut aged) = (Vec::new(), Vec::new());
        for (id, job) in self.jobs_over() {
            // What passed before it was over does not count.
            if !core::mem::replace(&mut job.ages, true) {
                continue;
            }
            let keep = keep_of(&job.spec);
            let before = job.over_for;
            job.over_for += passed;
            if job.over_for >= keep {
                old.push(id);
            } else if steps(job.over_for, keep) > steps(before, keep) {
                aged.push(id);
            }
        }
        aged.into_iter().for_each(|id| self.persist_job(id));
        self.expire_all(&old, None);
        self.ask_after_jobs(passed);
    }

    /// Who is no custodian of a job may have been away when it expired, and hears nothing more of it: it asks one, after
    /// each time for which the job is kept.
    fn ask_after_jobs(&mut self, passed: Duration) {
        let (me, now) = (self.me(), self.now);
        let is_due = |job: &Job| {
            let (age, keep) = (now.since(job.arrived), keep_of(&job.spec).as_micros().max(1));
            age.as_micros() / keep > age.saturating_sub(passed).as_micros() / keep
        };
        let others = self.jobs.iter().filter(|(_, job)| !job.custodians.contains(&me) && is_due(job));
        let reached = |job: &Job| job.custodians.iter().copied().find(|node| self.reaches(*node));
        let asks: Vec<_> = others.filter_map(|(id, job)| Some((reached(job)?, (*id, job.stop)))).collect();
        for (custodian, job) in asks {
            self.send(custodian, Message::JobDigests(vec![job]));
        }
    }

    /// A neighbour says that these are no more.
    pub(crate) fn on_expired(&mut self, from: NodeId, jobs: Vec<JobId>) {
        let jobs: Vec<_> = jobs.into_iter().take(JOBS_PER_MESSAGE).collect();
        self.expire_all(&jobs, Some(from));
    }

    /// Forgets jobs, and passes on what was not known before.
    fn expire_all(&mut self, jobs: &[JobId], from: Option<NodeId>) {
        let new: Vec<_> = jobs.iter().copied().filter(|job| !self.has_expired(*job)).collect();
        for job in &new {
            self.remember_expired(*job);
            self.forget_job(*job);
        }
        let mut others = self.linked_neighbours();
        others.retain(|other| Some(*other) != from);
        for other in others.into_iter().filter(|_| !new.is_empty()) {
            for chunk in new.chunks(JOBS_PER_MESSAGE) {
                self.send(other, Message::Expired(chunk.to_vec()));
            }
        }
    }

    fn remember_expired(&mut self, job: JobId) {
        let Expiry { expired, by_number, .. } = &mut self.expiry;
        let number = by_number.last_key_value().map_or(0, |(last, _)| last + 1);
        expired.insert(job, number);
        by_number.insert(number, job);
        self.out.persist.push(Write::put(Table::Expired, job.as_bytes(), codec::encode(&number)));
        if expired.len() > EXPIRED_MAX
            && let Some((_, oldest)) = by_number.pop_first()
        {
            expired.remove(&oldest);
            self.out.persist.push(Write::remove(Table::Expired, oldest.as_bytes()));
        }
    }

    /// True when the job is no more: whoever spoke of it is told.
    pub(crate) fn tells_expired(&mut self, to: NodeId, job: JobId) -> bool {
        let expired = self.has_expired(job);
        if expired && to != self.me() {
            self.send(to, Message::Expired(vec![job]));
        }
        expired
    }

    /// Removes all that is known of a job, here and on the disk.
    fn forget_job(&mut self, job: JobId) {
        self.drop_leases_of(job);
        self.on_over(job);
        self.forget_shards(job);
        self.forget_uses(job);
        self.forget_job_record(job);
    }

    fn forget_shards(&mut self, job: JobId) {
        let arrival = self.jobs.get(job).map_or(0, |job| job.arrival);
        let shards: Vec<ShardId> = self.shards_of(job).collect();
        for id in shards {
            if let Some(shard) = self.custody.forget(arrival, id) {
                self.out.persist.extend(shard.unsure_note(id).map(|key| Write::remove(Table::Meta, key)));
                for number in 0..shard.segments() {
                    let key = [&shard_key(id)[..], &number.to_be_bytes()].concat();
                    self.out.persist.push(Write::remove(Table::Segments, key));
                }
            }
            self.out.persist.push(Write::remove(Table::Promises, shard_key(id)));
        }
    }
}

/// How long a job is kept after its end.
const fn keep_of(spec: &JobSpec) -> Duration {
    Duration::from_millis(spec.options.keep_ms)
}

fn steps(age: Duration, keep: Duration) -> u128 {
    age.as_micros() * u128::from(AGE_STEPS) / keep.as_micros().max(1)
}
