//! Submits: a job of a user here is published to others, who keep it and its blobs, until enough have it.
//!
//! Always true: it is acknowledged when its record and blobs are on two nodes besides this one, or on all other custodians
//! where there are fewer (decision 0003).

use core::time::Duration;
use std::collections::BTreeSet;

use super::{Blobs, REPEAT, Waiting, confirm};
use crate::message::Message;
use crate::node::Node;
use crate::placement::Key;
use crate::planted::PlantedBug;
use crate::{JobId, NodeId, Notice, Refusal, SignedJob};

/// How long a submit may take: its blobs have to travel.
const SUBMIT_MAX: Duration = Duration::from_secs(60);

impl Node {
    pub(crate) fn on_submit(&mut self, token: u64, signed: SignedJob) {
        // This process has just signed it.
        let verified = match signed.read() {
            Ok(spec) if spec.submitter != self.me() => signed.verify(),
            read => read,
        };
        let verified = match verified {
            Ok(_) if self.membership.me.draining => Err(Refusal::Draining),
            verified => verified.map_err(|error| Refusal::Invalid(error.to_string())),
        };
        let (spec, job) = match verified {
            Ok(spec) => (spec, signed.id()),
            Err(refusal) => return self.out.notify.push(Notice::Submitted { token, result: Err(refusal) }),
        };
        if !self.jobs.jobs.contains_key(&job) {
            self.take_up_job(signed, spec, true);
        }
        let deadline = self.now + SUBMIT_MAX;
        let waiting = Waiting { token, job, confirmed: BTreeSet::new(), deadline, next_repeat: self.now };
        self.jobs.submits.push(waiting);
        self.keep_submits();
    }

    pub(crate) fn on_publish(&mut self, from: NodeId, signed: SignedJob) {
        if self.tells_expired(from, signed.id()) {
            return;
        }
        let Some(id) = self.keep_job(signed) else { return };
        self.note_held_by(id, from);
        if self.jobs.jobs.get(&id).is_some_and(|job| job.blobs == Blobs::Held) {
            self.send(from, Message::Published(id));
            return;
        }
        self.jobs.publishers.entry(id).or_default().insert(from);
        let me = self.me();
        if let Some(job) = self.jobs.jobs.get_mut(&id)
            && !job.custodians.contains(&me)
        {
            // The submitter's view differs from mine; what it asks costs little and cannot hurt.
            job.custodians.push(me);
        }
        self.want_job_blobs(id, vec![from]);
    }

    pub(crate) fn on_published(&mut self, from: NodeId, job: JobId) {
        self.note_known_by(job, from, None);
        self.note_held_by(job, from);
        confirm(&mut self.jobs.submits, from, job);
        self.keep_submits();
    }

    /// Copies there are and copies needed of a job whose user here waits for the acknowledgement.
    pub(crate) fn submit_of(&self, job: JobId) -> Option<(u32, u32)> {
        let waiting = self.jobs.submits.iter().find(|waiting| waiting.job == job)?;
        let need = self.copies_wanted(job).0;
        Some((waiting.confirmed.len() as u32, need as u32))
    }

    /// Copies needed besides mine, and those who could give them: the custodians that answer, and for those that do not
    /// the nearest other nodes.
    pub(super) fn copies_wanted(&self, job: JobId) -> (usize, Vec<NodeId>) {
        self.copies_of(Key::of_job(job))
    }

    /// The same of anything that has custodians.
    pub(crate) fn copies_of(&self, key: Key) -> (usize, Vec<NodeId>) {
        let me = self.me();
        let custodians = self.membership.view.custodians(key);
        let wanted = custodians.iter().filter(|node| **node != me).count();
        let mut others: Vec<_> = custodians.into_iter().filter(|node| *node != me && self.reaches(*node)).collect();
        if others.len() < wanted {
            let mut stand_ins: Vec<_> = self.membership.view.nearest(key).collect();
            stand_ins.retain(|node| *node != me && !others.contains(node) && self.reaches(*node));
            others.extend(stand_ins.into_iter().take(wanted - others.len()));
        }
        (others.len().min(2), others)
    }

    pub(super) fn keep_submits(&mut self) {
        for mut waiting in core::mem::take(&mut self.jobs.submits) {
            let (mut need, others) = self.copies_wanted(waiting.job);
            if self.plants(PlantedBug::AcknowledgesAlone) {
                need = 0;
            }
            let (token, job) = (waiting.token, waiting.job);
            let have = waiting.confirmed.len();
            if have >= need {
                self.out.notify.push(Notice::Submitted { token, result: Ok(job) });
            } else if self.now >= waiting.deadline {
                let result = Err(Refusal::TooFewCopies { have, need });
                self.out.notify.push(Notice::Submitted { token, result });
            } else {
                let signed = self.jobs.jobs.get(&job).map(|job| job.signed.clone());
                if let (true, Some(signed)) = (self.now >= waiting.next_repeat, signed) {
                    waiting.next_repeat = self.now + REPEAT;
                    for other in others.into_iter().filter(|other| !waiting.confirmed.contains(other)) {
                        self.ask(other, Message::Publish(signed.clone()));
                    }
                }
                self.jobs.submits.push(waiting);
            }
        }
    }
}
