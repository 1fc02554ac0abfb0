//! Records of jobs: how one is taken up, written, read after a restart and forgotten; and the blobs that come with it.
//!
//! Always true: a job that is taken up is persisted in the same event; its custodians fetch its blobs.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::stops::early_cancel_key;
use super::{Blobs, Job};
use crate::codec::{self, DecodeError};
use crate::edges::Edges;
use crate::message::{Message, StopCause};
use crate::node::Node;
use crate::placement::Key;
use crate::planted::PlantedBug;
use crate::{Fetch, Happened, JobId, JobSpec, NodeId, SignedJob, Table, Wanted, Write};

#[derive(Serialize, Deserialize)]
struct StoredJob {
    job: SignedJob,
    stop: Option<StopCause>,
    blobs_held: bool,
    #[serde(default)]
    over_ms: u64,
}

impl Node {
    pub(crate) fn restore_job(&mut self, key: &[u8], value: &[u8]) -> Result<(), DecodeError> {
        let stored: StoredJob = codec::decode(value, 2 * crate::JOB_SPEC_BYTES_MAX)?;
        let id = stored.job.id();
        if id.as_bytes() != key {
            return Err(DecodeError::Malformed(format!("job {id:?} is stored under another name")));
        }
        // It was verified before it was stored: left out now, an acknowledged job would be forgotten without a word.
        let spec = stored.job.read().map_err(|error| DecodeError::Malformed(error.to_string()))?;
        self.insert_job(stored.job, spec, stored.stop, stored.blobs_held);
        if let Some(job) = self.jobs.jobs.get_mut(&id) {
            job.over_for = Duration::from_millis(stored.over_ms);
        }
        self.adopt_shards(id);
        self.seek_in(id);
        Ok(())
    }

    /// Takes up a job of which a peer told, unless it is known or not what it says.
    pub(super) fn keep_job(&mut self, signed: SignedJob) -> Option<JobId> {
        let id = signed.id();
        if self.has_expired(id) {
            return None;
        }
        if !self.jobs.jobs.contains_key(&id) {
            let spec = signed.verify().ok()?;
            self.take_up_job(signed, spec, false);
        }
        Some(id)
    }

    /// Remembers a job that was not known before and starts to keep my shards of it.
    pub(super) fn take_up_job(&mut self, signed: SignedJob, spec: JobSpec, blobs_held: bool) {
        let id = signed.id();
        self.out.happened.push(Happened::JobKnown { job: id, name: spec.name.clone() });
        self.insert_job(signed, spec, None, blobs_held);
        self.persist_job(id);
        self.adopt_shards(id);
        if self.jobs.early_cancels.remove(&id) {
            self.out.persist.push(Write::remove(Table::Meta, early_cancel_key(id)));
            self.apply_stop(id, StopCause::Cancelled); // its user was faster than the job
        }
        self.on_job_known(id);
        self.want_job_blobs(id, Vec::new());
        // Whoever hears of it before its blobs are here could only wait.
        let waits = self.jobs.jobs.get(&id).is_some_and(|job| job.blobs == Blobs::Fetching);
        if self.membership.sparse || !waits {
            self.announce(id);
        }
    }

    fn on_job_known(&mut self, job: JobId) {
        self.worker.parked_changed = true;
        self.seek_in(job);
    }

    pub(super) fn insert_job(&mut self, signed: SignedJob, spec: JobSpec, stop: Option<StopCause>, blobs_held: bool) {
        let id = signed.id();
        self.jobs.arrivals += 1;
        self.jobs.pulls.remove(&id);
        if spec.options.parallel_max.is_some() {
            self.jobs.limited.insert(id);
        }
        let edges = Edges::new(&spec);
        let job = Job {
            signed,
            spec: Arc::new(spec),
            stop,
            custodians: self.membership.view.custodians(Key::of_job(id)),
            blobs: if blobs_held { Blobs::Held } else { Blobs::Unknown },
            progress: BTreeMap::new(),
            stages_done: BTreeSet::new(),
            stages_ended: BTreeSet::new(),
            edges,
            known_by: BTreeSet::new(),
            held_by: BTreeSet::new(),
            arrival: self.jobs.arrivals,
            arrived: self.now,
            said_over: false,
            over_for: Duration::ZERO,
            ages: false,
        };
        self.jobs.jobs.insert(id, job);
    }

    pub(crate) fn persist_job(&mut self, id: JobId) {
        let Some(job) = self.jobs.jobs.get(&id) else { return };
        let stop = job.stop.filter(|_| !self.plants(PlantedBug::ForgetsStops));
        let over_ms = u64::try_from(job.over_for.as_millis()).unwrap_or(u64::MAX);
        let stored = StoredJob { job: job.signed.clone(), stop, blobs_held: job.blobs == Blobs::Held, over_ms };
        self.out.persist.push(Write::put(Table::Jobs, id.as_bytes(), codec::encode(&stored)));
    }

    /// Removes a job's record, and what is under way for it.
    pub(crate) fn forget_job_record(&mut self, id: JobId) {
        let jobs = &mut self.jobs;
        jobs.jobs.remove(&id);
        jobs.limited.remove(&id);
        jobs.pulls.remove(&id);
        jobs.heard_of.remove(&id);
        jobs.early_cancels.remove(&id);
        jobs.gossip_due.remove(&id);
        jobs.publishers.remove(&id);
        jobs.fetches.retain(|_, job| *job != id);
        self.out.happened.push(Happened::JobExpired(id));
        self.out.persist.push(Write::remove(Table::Jobs, id.as_bytes()));
    }

    // ---- blobs

    /// Custodians hold the job's blobs, so that they are not lost with the submitter.
    pub(super) fn want_job_blobs(&mut self, id: JobId, first: Vec<NodeId>) {
        let me = self.me();
        let Some(job) = self.jobs.jobs.get_mut(&id) else { return };
        if job.blobs == Blobs::Unknown && job.custodians.contains(&me) {
            job.blobs = Blobs::Fetching;
            let from = first.into_iter().chain(job.sources()).filter(|node| *node != me).collect();
            let wanted = Wanted::JobBlobs(job.spec.blobs);
            let number = self.new_fetch();
            self.jobs.fetches.insert(number, id);
            self.out.fetch.push(Fetch { number, wanted, from });
        }
    }

    pub(crate) fn on_job_fetched(&mut self, fetch: u64, complete: bool) {
        let Some(id) = self.jobs.fetches.remove(&fetch) else { return };
        let Some(job) = self.jobs.jobs.get_mut(&id) else { return };
        job.blobs = if complete { Blobs::Held } else { Blobs::Unknown };
        if complete {
            self.on_blobs_held(id);
        } else {
            self.ask_about(id);
        }
    }

    fn on_blobs_held(&mut self, id: JobId) {
        self.persist_job(id);
        for publisher in self.jobs.publishers.remove(&id).unwrap_or_default() {
            self.send(publisher, Message::Published(id));
        }
        self.announce(id); // its tasks can be granted now
        self.on_job_able(id);
    }

    /// Asks a neighbour about a job whose blobs are nowhere to be found: the job may have expired, and all its other
    /// custodians may have forgotten that with their disks.
    fn ask_about(&mut self, id: JobId) {
        let neighbours = self.linked_neighbours();
        let Some(job) = self.jobs.jobs.get(&id).filter(|_| !neighbours.is_empty()) else { return };
        let about = Message::JobDigests(vec![(id, job.stop)]);
        let neighbour = neighbours[self.rng.usize(0..neighbours.len())];
        self.send(neighbour, about);
    }

    pub(super) fn retry_blobs(&mut self) {
        let lacking = self.jobs.jobs.iter().filter(|(_, job)| job.blobs == Blobs::Unknown && job.stop.is_none());
        let lacking: Vec<_> = lacking.map(|(id, _)| *id).collect();
        for id in lacking {
            self.want_job_blobs(id, Vec::new());
        }
    }
}
