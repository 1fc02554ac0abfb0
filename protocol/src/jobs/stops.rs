//! Stops: a user cancels, too many tasks failed, or another node says so.
//!
//! Always true: of two causes the greater one stays, also across a restart; a cancel of a job that is not known here yet is
//! remembered until it is.
//!
//! Elsewhere: what it ends is `arbiter`.

use core::time::Duration;
use std::collections::BTreeSet;

use super::{REPEAT, Waiting, confirm};
use crate::message::{Message, StopCause};
use crate::node::Node;
use crate::{Happened, JobId, NodeId, Notice, Refusal, Table, Write};

/// Cancels remembered of jobs that are not known here.
const EARLY_CANCELS_MAX: usize = 4096;
/// Under this, followed by the job, they are stored in [`Table::Meta`].
pub(crate) const EARLY_CANCEL_PREFIX: &[u8] = b"cancel:";
/// How long a cancel may take.
const CANCEL_MAX: Duration = Duration::from_secs(10);

impl Node {
    pub(crate) fn on_cancel(&mut self, token: u64, job: JobId) {
        let deadline = self.now + CANCEL_MAX;
        let waiting = Waiting { token, job, confirmed: BTreeSet::new(), deadline, next_repeat: self.now };
        self.jobs.cancels.push(waiting);
        if self.jobs.jobs.contains_key(&job) {
            self.apply_stop(job, StopCause::Cancelled);
        } else if self.jobs.early_cancels.len() < EARLY_CANCELS_MAX {
            self.jobs.early_cancels.insert(job);
            // Whoever is told that it is safe asks here again, perhaps after a restart.
            self.out.persist.push(Write::put(Table::Meta, early_cancel_key(job), []));
        }
        self.keep_cancels();
    }

    pub(super) fn keep_cancels(&mut self) {
        for mut waiting in core::mem::take(&mut self.jobs.cancels) {
            let (token, job) = (waiting.token, waiting.job);
            let (need, others) = self.copies_wanted(job);
            let known_here = self.jobs.jobs.contains_key(&job);
            let have = waiting.confirmed.len();
            if have >= need && (known_here || have > 0) {
                self.out.notify.push(Notice::Cancelled { token, result: Ok(()) });
            } else if self.now >= waiting.deadline || (need == 0 && !known_here) {
                let refusal = if have == 0 { Refusal::Unknown } else { Refusal::TooFewCopies { have, need } };
                self.out.notify.push(Notice::Cancelled { token, result: Err(refusal) });
            } else {
                if self.now >= waiting.next_repeat {
                    waiting.next_repeat = self.now + REPEAT;
                    for other in others.into_iter().filter(|other| !waiting.confirmed.contains(other)) {
                        self.send(other, Message::Stop { job, cause: StopCause::Cancelled });
                    }
                }
                self.jobs.cancels.push(waiting);
            }
        }
    }

    pub(crate) fn on_stop(&mut self, from: NodeId, job: JobId, cause: StopCause) {
        if self.jobs.jobs.contains_key(&job) {
            self.apply_stop(job, cause);
            self.send(from, Message::Stopped(job));
        } else {
            self.pull_job(job, from);
        }
    }

    /// Who does not know yet that a job is stopped would grant its tasks again and again to nodes that give them back.
    pub(crate) fn tell_stop(&mut self, to: NodeId, job: JobId) {
        if let Some(cause) = self.jobs.get(job).and_then(|job| job.stop) {
            self.send(to, Message::Stop { job, cause });
        }
    }

    pub(crate) fn on_stopped(&mut self, from: NodeId, job: JobId) {
        confirm(&mut self.jobs.cancels, from, job);
        self.keep_cancels();
    }

    /// Takes in that a job is stopped, and passes it on the first time.
    pub(crate) fn apply_stop(&mut self, id: JobId, cause: StopCause) {
        let Some(job) = self.jobs.jobs.get_mut(&id) else { return };
        if job.stop >= Some(cause) {
            return;
        }
        job.stop = Some(cause);
        self.out.happened.push(Happened::JobStopped { job: id, cause });
        job.known_by.clear();
        let passes_on = job.custodians.contains(&self.membership.me.node);
        self.persist_job(id);
        if passes_on {
            for peer in self.linked() {
                self.send(peer, Message::Stop { job: id, cause });
            }
        }
        self.on_job_stopped(id);
    }

    /// Whoever knows of the stronger stop tells the other.
    pub(super) fn even_out_stops(&mut self, with: NodeId, id: JobId, theirs: Option<StopCause>) {
        let Some(job) = self.jobs.jobs.get(&id) else { return };
        if job.stop > theirs {
            let push = Message::JobPush { job: job.signed.clone(), stop: job.stop };
            self.send(with, push);
        } else if let Some(cause) = theirs {
            self.apply_stop(id, cause);
        }
    }

    pub(crate) fn restore_early_cancel(&mut self, key: &[u8]) {
        let job = key.strip_prefix(EARLY_CANCEL_PREFIX).and_then(|id| id.try_into().ok());
        self.jobs.early_cancels.extend(job.map(JobId::from_bytes));
    }
}

pub(super) fn early_cancel_key(job: JobId) -> Vec<u8> {
    [EARLY_CANCEL_PREFIX, job.as_bytes()].concat()
}
