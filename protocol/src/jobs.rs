//! Jobs: the record of each, its publication, its stop, and how far it is.
//!
//! Always true:
//! - a job's record is synced before anybody is told that it is here;
//! - `stop` only grows (`None` < `Cancelled` < `Failures`);
//! - a submit is acknowledged when its record and blobs are on two nodes besides the submitter, or on all other
//!   custodians where there are fewer (decision 0003).
//!
//! Elsewhere: the tasks are `custody` (facts) and `arbiter` (who runs them).

use core::ops::Bound;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError};
use crate::edges::Edges;
use crate::lattice::Counts;
use crate::message::{Gossip, JobStatus, JobSummary, Message, StopCause};
use crate::node::Node;
use crate::placement::Key;
use crate::planted::PlantedBug;
use crate::{
    Fetch, Happened, JobId, JobSpec, NodeId, Notice, Refusal, ShardId, SignedJob, StageSpec, Table, Time, Wanted, Write,
};

/// How long a submit may take: its blobs have to travel.
const SUBMIT_MAX: Duration = Duration::from_secs(60);
/// Cancels remembered of jobs that are not known here.
const EARLY_CANCELS_MAX: usize = 4096;
/// Under this, followed by the job, they are stored in [`Table::Meta`].
pub(crate) const EARLY_CANCEL_PREFIX: &[u8] = b"cancel:";
/// How long a cancel may take.
const CANCEL_MAX: Duration = Duration::from_secs(10);
/// A request without an answer is repeated after this.
const REPEAT: Duration = Duration::from_secs(1);
/// Custodians of an unfinished job remind the custodians of silent shards this often.
const NUDGE: Duration = Duration::from_secs(2);
/// Jobs whose silent shards are looked after in one such round; of more, each has its turn.
const NUDGED_AT_ONCE: usize = 1000;
/// How often custodians are told of jobs that they are not known to know.
const DIGEST_EVERY: Duration = Duration::from_secs(5);
/// In a sparse swarm the holder of a job that gossip told of is asked for it after this: a neighbour is likely to be faster.
const NEIGHBOURS_FIRST: Duration = Duration::from_secs(2);
/// Jobs in one digest message: about 40 KiB.
const DIGEST_JOBS_MAX: usize = 1000;
/// Pulls under way at once; more come with the next nudge.
const PULLS_MAX: usize = 4096;
/// A pull that nobody answers is forgotten after this many requests.
const PULL_TRIES_MAX: u32 = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blobs {
    /// Not needed here, or not asked for yet.
    Unknown,
    Fetching,
    Held,
}

#[derive(Debug)]
pub(crate) struct Job {
    signed: SignedJob,
    pub(crate) spec: Arc<JobSpec>,
    pub(crate) stop: Option<StopCause>,
    pub(crate) custodians: Vec<NodeId>,
    blobs: Blobs,
    /// Per shard that somebody reported: tasks ended. Soft: asked for again after a restart.
    progress: BTreeMap<(u16, u32), Counts>,
    /// Stages known to be done, by my own count or by a custodian's word.
    pub(crate) stages_done: BTreeSet<u16>,
    /// Stages known to be over, in whatever way.
    stages_ended: BTreeSet<u16>,
    /// Which tasks wait for which, one by one.
    pub(crate) edges: Edges,
    /// Nodes that have the record, as they said. Custodians not among them are told of it again and again.
    known_by: BTreeSet<NodeId>,
    /// Those of them that hold the blobs, too.
    held_by: BTreeSet<NodeId>,
    /// Order of arrival: earlier jobs are granted first.
    pub(crate) arrival: u64,
    /// When this process took it up.
    pub(crate) arrived: Time,
    /// It was said that it is over.
    said_over: bool,
    /// How long this node has seen it over, all its runs together.
    pub(crate) over_for: Duration,
    /// It was over when this was last looked at.
    pub(crate) ages: bool,
}

impl Job {
    /// How far the job is, as far as this node heard.
    pub(crate) fn status(&self) -> JobStatus {
        let mut stages: Vec<_> = self.spec.stages.iter().map(|stage| (stage.count, Counts::default())).collect();
        for ((stage, _), counts) in &self.progress {
            if let Some((_, sum)) = stages.get_mut(usize::from(*stage)) {
                sum.add(*counts);
            }
        }
        JobStatus { stages, stop: self.stop }
    }

    /// Whether all that this stage needs whole is done, or over where that is enough.
    pub(crate) fn is_ready(&self, stage: u16) -> bool {
        let Some(stage) = self.spec.stages.get(usize::from(stage)) else { return true };
        stage.needs.iter().all(|need| !stage.needs_whole(*need) || self.is_enough(stage, *need))
    }

    /// The stages that this stage needs whole and that are not done, or over where that is enough.
    pub(crate) fn missing_needs(&self, stage: u16) -> Vec<u16> {
        let Some(stage) = self.spec.stages.get(usize::from(stage)) else { return Vec::new() };
        let missing = |need: &&u16| stage.needs_whole(**need) && !self.is_enough(stage, **need);
        stage.needs.iter().filter(missing).copied().collect()
    }

    fn is_enough(&self, stage: &StageSpec, need: u16) -> bool {
        let done = self.stages_done.contains(&need);
        done || (stage.options.needs_finished.contains(&need) && self.stages_ended.contains(&need))
    }

    /// Tasks of a shard that ended, as far as was heard.
    pub(crate) fn ended_of(&self, shard: ShardId) -> Counts {
        self.progress.get(&(shard.stage, shard.number)).copied().unwrap_or_default()
    }

    /// Whether a stage that needs another whole can never run once a task of that one failed.
    fn is_blocked_by_failures_of(&self, stage: u16) -> bool {
        let blocked = |it: &StageSpec| it.needs_whole(stage) && !it.options.needs_finished.contains(&stage);
        self.spec.stages.iter().any(blocked)
    }

    /// Whether anybody is known to hold its blobs: before that whoever takes its tasks only waits.
    pub(crate) fn can_be_fetched(&self) -> bool {
        self.blobs == Blobs::Held || !self.held_by.is_empty()
    }

    /// Whether this node has seen it over.
    pub(crate) const fn is_said_over(&self) -> bool {
        self.said_over
    }

    /// Whether this node said that it holds the job's blobs.
    pub(crate) fn holds_blobs(&self) -> bool {
        self.blobs == Blobs::Held
    }

    /// Nodes likely to hold the job's blobs.
    pub(crate) fn sources(&self) -> Vec<NodeId> {
        self.custodians.iter().copied().chain([self.spec.submitter]).collect()
    }
}

/// A command of this node's own user that waits for confirmations.
#[derive(Debug)]
struct Waiting {
    token: u64,
    job: JobId,
    confirmed: BTreeSet<NodeId>,
    deadline: Time,
    next_repeat: Time,
}

#[derive(Debug)]
struct Pull {
    from: Vec<NodeId>,
    tries: u32,
    next: Time,
}

#[derive(Debug, Default)]
pub(crate) struct Jobs {
    jobs: BTreeMap<JobId, Job>,
    /// Those that limit how many of their tasks run at once.
    limited: BTreeSet<JobId>,
    arrivals: u64,
    pulls: BTreeMap<JobId, Pull>,
    submits: Vec<Waiting>,
    cancels: Vec<Waiting>,
    /// Cancels of jobs that are not known here yet.
    early_cancels: BTreeSet<JobId>,
    /// Blobs on their way here for these jobs, with those who wait to hear `Published`.
    fetches: BTreeMap<u64, JobId>,
    publishers: BTreeMap<JobId, BTreeSet<NodeId>>,
    next_nudge: Time,
    /// Where the last round of nudges got to.
    nudged: Option<JobId>,
    next_digest: Time,
    /// New jobs of which gossip has not told yet.
    gossip_due: BTreeSet<JobId>,
    /// Jobs heard of by gossip in a sparse swarm: a neighbour will bring the record; if not by then, the holder is asked.
    heard_of: BTreeMap<JobId, (Time, NodeId)>,
}

impl Jobs {
    pub(crate) fn get(&self, job: JobId) -> Option<&Job> {
        self.jobs.get(&job)
    }

    pub(crate) fn get_mut(&mut self, job: JobId) -> Option<&mut Job> {
        self.jobs.get_mut(&job)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&JobId, &Job)> {
        self.jobs.iter()
    }

    /// The stop that a user here asked for of a job that is not known here yet.
    pub(crate) fn early_stop(&self, job: JobId) -> Option<StopCause> {
        self.early_cancels.contains(&job).then_some(StopCause::Cancelled)
    }

    /// Jobs that limit how many of their tasks run at once.
    pub(crate) fn limited(&self) -> impl Iterator<Item = JobId> {
        self.limited.iter().copied()
    }

    pub(crate) fn is_limited(&self, job: JobId) -> bool {
        self.limited.contains(&job)
    }
}

#[derive(Serialize, Deserialize)]
struct StoredJob {
    job: SignedJob,
    stop: Option<StopCause>,
    blobs_held: bool,
    #[serde(default)]
    over_ms: u64,
}

impl Node {
    /// How far a job is, as far as this node heard; `None` when it does not know the job.
    pub fn job_status(&self, job: JobId) -> Option<JobStatus> {
        self.jobs.get(job).map(Job::status)
    }

    // ---- remembering

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

    pub(crate) fn restore_early_cancel(&mut self, key: &[u8]) {
        let job = key.strip_prefix(EARLY_CANCEL_PREFIX).and_then(|id| id.try_into().ok());
        self.jobs.early_cancels.extend(job.map(JobId::from_bytes));
    }

    pub(crate) fn persist_job(&mut self, id: JobId) {
        let Some(job) = self.jobs.jobs.get(&id) else { return };
        let stop = job.stop.filter(|_| !self.plants(PlantedBug::ForgetsStops));
        let over_ms = u64::try_from(job.over_for.as_millis()).unwrap_or(u64::MAX);
        let stored = StoredJob { job: job.signed.clone(), stop, blobs_held: job.blobs == Blobs::Held, over_ms };
        self.out.persist.push(Write::put(Table::Jobs, id.as_bytes(), codec::encode(&stored)));
    }

    fn insert_job(&mut self, signed: SignedJob, spec: JobSpec, stop: Option<StopCause>, blobs_held: bool) {
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

    /// Takes up a job of which a peer told, unless it is known or not what it says.
    fn keep_job(&mut self, signed: SignedJob) -> Option<JobId> {
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
    fn take_up_job(&mut self, signed: SignedJob, spec: JobSpec, blobs_held: bool) {
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

    /// A custodian of the job makes sure that the custodians of its shards hear of it. In a sparse swarm everybody tells
    /// its neighbours, so that nobody has to bring the record to a thousand others.
    fn announce(&mut self, id: JobId) {
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
    fn keep_heard_of(&mut self) {
        let (now, jobs) = (self.now, &mut self.jobs);
        jobs.heard_of.retain(|job, _| !jobs.jobs.contains_key(job));
        let late: Vec<_> =
            jobs.heard_of.iter().filter(|(_, (at, _))| now >= *at).map(|(job, it)| (*job, it.1)).collect();
        for (job, holder) in late {
            self.jobs.heard_of.remove(&job);
            self.pull_job(job, holder);
        }
    }

    /// Custodians hold the job's blobs, so that they are not lost with the submitter.
    fn want_job_blobs(&mut self, id: JobId, first: Vec<NodeId>) {
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
            self.persist_job(id);
            for publisher in self.jobs.publishers.remove(&id).unwrap_or_default() {
                self.send(publisher, Message::Published(id));
            }
            self.announce(id); // its tasks can be granted now
            self.on_job_able(id);
        }
    }

    // ---- submit

    pub(crate) fn on_submit(&mut self, token: u64, signed: SignedJob) {
        let verified = match signed.verify() {
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

    fn note_held_by(&mut self, job: JobId, node: NodeId) {
        let Some(known) = self.jobs.jobs.get_mut(&job) else { return };
        let could_be_fetched = known.can_be_fetched();
        known.held_by.insert(node);
        if !could_be_fetched {
            self.on_job_able(job);
        }
    }

    /// Whether every job is known to somebody who stays, and where it is not over, its blobs are there.
    pub(crate) fn jobs_are_with(&self, stays: impl Fn(&NodeId) -> bool) -> bool {
        let is_with = |nodes: &BTreeSet<NodeId>| nodes.iter().any(&stays);
        self.jobs.jobs.values().all(|job| {
            let needs_blobs = job.blobs == Blobs::Held && !job.status().state().is_over();
            is_with(&job.known_by) && (!needs_blobs || is_with(&job.held_by))
        })
    }

    fn announcement(&self, id: JobId) -> Message {
        let job = self.jobs.jobs.get(&id);
        let held = job.is_some_and(|job| job.blobs == Blobs::Held);
        Message::Announce { job: id, stop: job.and_then(|job| job.stop), held }
    }

    /// `node` knows the job and this stop: enough, unless I know of a stronger one.
    fn note_known_by(&mut self, job: JobId, node: NodeId, stop: Option<StopCause>) {
        if let Some(job) = self.jobs.jobs.get_mut(&job)
            && job.stop <= stop
        {
            job.known_by.insert(node);
        }
    }

    pub(crate) fn on_published(&mut self, from: NodeId, job: JobId) {
        self.note_known_by(job, from, None);
        self.note_held_by(job, from);
        confirm(&mut self.jobs.submits, from, job);
        self.keep_submits();
    }

    /// Copies needed besides mine, and those who could give them: the custodians that answer, and for those that do not
    /// the nearest other nodes.
    fn copies_wanted(&self, job: JobId) -> (usize, Vec<NodeId>) {
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

    /// Copies there are and copies needed of a job whose user here waits for the acknowledgement.
    pub(crate) fn submit_of(&self, job: JobId) -> Option<(u32, u32)> {
        let waiting = self.jobs.submits.iter().find(|waiting| waiting.job == job)?;
        let need = self.copies_wanted(job).0;
        Some((waiting.confirmed.len() as u32, need as u32))
    }

    fn keep_submits(&mut self) {
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

    // ---- cancel and other stops

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

    fn keep_cancels(&mut self) {
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

    // ---- hearing of jobs

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

    /// The same of many jobs.
    pub(crate) fn on_nudge(&mut self, from: NodeId, jobs: Vec<(JobId, Option<StopCause>, bool)>) {
        for (job, stop, held) in jobs.into_iter().take(NUDGED_AT_ONCE) {
            self.on_nudged(from, job, stop, held);
        }
    }

    /// Whoever knows of the stronger stop tells the other.
    fn even_out_stops(&mut self, with: NodeId, id: JobId, theirs: Option<StopCause>) {
        let Some(job) = self.jobs.jobs.get(&id) else { return };
        if job.stop > theirs {
            let push = Message::JobPush { job: job.signed.clone(), stop: job.stop };
            self.send(with, push);
        } else if let Some(cause) = theirs {
            self.apply_stop(id, cause);
        }
    }

    pub(crate) fn pull_job(&mut self, job: JobId, from: NodeId) {
        if self.tells_expired(from, job) {
            return;
        }
        if !self.jobs.pulls.contains_key(&job) && self.jobs.pulls.len() >= PULLS_MAX {
            return;
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
    }

    fn keep_pulls(&mut self) {
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

    // ---- progress

    pub(crate) fn on_progress(&mut self, from: NodeId, id: JobId, shards: Vec<(u16, u32, Counts)>) {
        let counts_twice = self.plants(PlantedBug::CountsTwice);
        let Some(job) = self.jobs.jobs.get_mut(&id) else {
            self.pull_job(id, from);
            return;
        };
        for (stage, number, counts) in shards {
            let Some(spec) = job.spec.stages.get(usize::from(stage)) else { continue };
            if number >= spec.shards() || counts.ended() > spec.shard_range(number).count {
                continue;
            }
            if counts_twice {
                job.progress.entry((stage, number)).or_default().add(counts);
                continue;
            }
            let known = job.progress.entry((stage, number)).or_default();
            if (counts.ended(), counts.done, counts.failed) > (known.ended(), known.done, known.failed) {
                *known = counts;
            }
        }
        self.act_on_progress(id);
    }

    fn act_on_progress(&mut self, id: JobId) {
        let Some(job) = self.jobs.jobs.get_mut(&id) else { return };
        let status = job.status();
        let (mut newly_done, mut newly_ended) = (Vec::new(), Vec::new());
        for (stage, (tasks, counts)) in (0..).zip(&status.stages) {
            if counts.done >= *tasks && job.stages_done.insert(stage) {
                newly_done.push(stage);
            }
            if counts.ended() >= *tasks && job.stages_ended.insert(stage) && counts.done < *tasks {
                newly_ended.push(stage);
            }
        }
        // A stage that is needed whole and ended with failures blocks for ever what needs it.
        let blocks = (0..).zip(&status.stages).any(|(stage, (tasks, counts))| {
            counts.failed > 0 && counts.ended() >= *tasks && job.is_blocked_by_failures_of(stage)
        });
        let too_many_failed = (blocks || status.counts().failed > job.spec.failures_max) && job.stop.is_none();
        if status.state().is_over() && !core::mem::replace(&mut job.said_over, true) {
            self.say_over(id);
            self.out.notify.push(Notice::Over(id));
        }
        if !newly_done.is_empty() {
            let stages = newly_done.clone();
            self.tell_stages(id, &newly_done, Message::StagesDone { job: id, stages });
            self.on_job_able(id);
        }
        if !newly_ended.is_empty() {
            let stages = newly_ended.clone();
            self.tell_stages(id, &newly_ended, Message::StagesEnded { job: id, stages });
            self.on_job_able(id);
        }
        if too_many_failed {
            self.apply_stop(id, StopCause::Failures);
        }
    }

    fn tell_stages(&mut self, id: JobId, stages: &[u16], message: Message) {
        let Some(job) = self.jobs.get(id) else { return };
        let waits = |stage: &StageSpec| stage.needs.iter().any(|need| stages.contains(need));
        if job.spec.stages.iter().any(waits) {
            for peer in self.linked() {
                self.send(peer, message.clone());
            }
            if self.membership.sparse {
                let holder = self.me();
                self.out.gossip.push(Gossip::Job { job: id, holder });
            }
        }
    }

    pub(crate) fn on_stages_done(&mut self, id: JobId, stages: Vec<u16>) {
        let Some(job) = self.jobs.jobs.get_mut(&id) else { return };
        let before = job.stages_done.len();
        job.stages_done.extend(stages);
        if job.stages_done.len() > before {
            self.on_job_able(id);
        }
    }

    pub(crate) fn on_stages_ended(&mut self, id: JobId, stages: Vec<u16>) {
        let Some(job) = self.jobs.jobs.get_mut(&id) else { return };
        let before = job.stages_ended.len();
        job.stages_ended.extend(stages);
        if job.stages_ended.len() > before {
            self.on_job_able(id);
        }
    }

    pub(crate) fn on_stages_ask(&mut self, from: NodeId, id: JobId) {
        if let Some(job) = self.jobs.jobs.get(&id) {
            let done = Message::StagesDone { job: id, stages: job.stages_done.iter().copied().collect() };
            let ended: Vec<u16> = job.stages_ended.difference(&job.stages_done).copied().collect();
            self.send(from, done);
            if !ended.is_empty() {
                self.send(from, Message::StagesEnded { job: id, stages: ended });
            }
        }
    }

    // ---- the end

    /// The jobs that this node keeps and has seen over.
    pub(crate) fn jobs_over(&mut self) -> impl Iterator<Item = (JobId, &mut Job)> {
        let me = self.membership.me.node;
        let over = move |job: &Job| job.said_over && job.custodians.contains(&me);
        self.jobs.jobs.iter_mut().filter(move |(_, job)| over(job)).map(|(id, job)| (*id, job))
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

    // ---- summaries

    /// The jobs that are known, in no order: when each was submitted, and its name.
    pub(crate) fn known_jobs(&self) -> impl Iterator<Item = (u64, JobId)> + '_ {
        self.jobs.jobs.iter().map(|(id, job)| (job.spec.submitted_unix_ms, *id))
    }

    pub(crate) fn job_summary(&self, id: JobId) -> Option<JobSummary> {
        let job = self.jobs.jobs.get(&id)?;
        Some(JobSummary {
            job: id,
            name: job.spec.name.clone(),
            submitted_unix_ms: job.spec.submitted_unix_ms,
            submitter: job.spec.submitter,
            labels: job.spec.options.labels.clone(),
            priority: job.spec.options.priority,
            status: job.status(),
        })
    }

    pub(crate) fn signed_job(&self, id: JobId) -> Option<(SignedJob, JobStatus)> {
        self.jobs.jobs.get(&id).map(|job| (job.signed.clone(), job.status()))
    }

    // ---- what time and change of members bring

    /// Called every heartbeat.
    pub(crate) fn keep_jobs(&mut self) {
        self.keep_submits();
        self.keep_cancels();
        self.keep_pulls();
        self.keep_heard_of();
        self.gossip_jobs();
        if self.is_settling() {
            return;
        }
        if self.now >= self.jobs.next_nudge {
            self.jobs.next_nudge = self.now + NUDGE;
            self.nudge_silent_shards();
            self.ask_for_stages();
            self.ask_for_all_tasks();
            self.retry_blobs();
        }
        if self.now >= self.jobs.next_digest {
            let jitter = Duration::from_millis(self.rng.u64(0..1000));
            let every = if self.membership.me.draining { REPEAT } else { DIGEST_EVERY };
            self.jobs.next_digest = self.now + every + jitter;
            self.send_job_digests();
        }
    }

    fn nudge_silent_shards(&mut self) {
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

    fn ask_for_stages(&mut self) {
        let mut asks = Vec::new();
        for id in self.jobs_with_blocked_shards() {
            let Some(job) = self.jobs.jobs.get(&id) else { continue };
            asks.extend(job.custodians.iter().map(|node| (*node, id)));
        }
        for (node, id) in asks {
            self.send(node, Message::StagesAsk(id));
        }
    }

    fn retry_blobs(&mut self) {
        let lacking = self.jobs.jobs.iter().filter(|(_, job)| job.blobs == Blobs::Unknown && job.stop.is_none());
        let lacking: Vec<_> = lacking.map(|(id, _)| *id).collect();
        for id in lacking {
            self.want_job_blobs(id, Vec::new());
        }
    }

    fn send_job_digests(&mut self) {
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

    pub(crate) fn on_confirmations_changed(&mut self) {
        self.keep_submits();
        self.keep_cancels();
    }

    /// After a view change every holder tells the custodians what it has, until they say that they know.
    pub(crate) fn hand_over_jobs(&mut self) {
        let view = &self.membership.view;
        for (id, job) in &mut self.jobs.jobs {
            job.custodians = view.custodians(Key::of_job(*id));
        }
        self.jobs.next_digest = self.jobs.next_digest.min(self.now + REPEAT);
    }

    /// The peer may have lost its disk: it is told again of the jobs of which it is custodian.
    pub(crate) fn doubt_jobs_of(&mut self, peer: NodeId) {
        let mut unable = Vec::new();
        for (id, job) in &mut self.jobs.jobs {
            job.known_by.remove(&peer);
            if job.held_by.remove(&peer) && !job.can_be_fetched() {
                unable.push(*id);
            }
        }
        unable.into_iter().for_each(|id| self.on_job_able(id));
        self.jobs.next_digest = self.jobs.next_digest.min(self.now + REPEAT);
    }

    /// Whether the job's tasks may not run any more.
    pub(crate) fn is_stopped(&self, job: JobId) -> bool {
        !self.plants(PlantedBug::GrantsStopped) && self.jobs.jobs.get(&job).is_some_and(|job| job.stop.is_some())
    }

    /// Whether a node is known to have the job's blobs.
    pub(crate) fn has_blobs_of(&self, job: JobId, node: NodeId) -> bool {
        let has = |job: &Job| if node == self.me() { job.holds_blobs() } else { job.held_by.contains(&node) };
        self.jobs.get(job).is_some_and(has)
    }

    /// The blob list of the job, for those who run its tasks.
    pub(crate) fn job_sources(&self, job: JobId) -> Vec<NodeId> {
        self.jobs.jobs.get(&job).map(Job::sources).unwrap_or_default()
    }
}

fn early_cancel_key(job: JobId) -> Vec<u8> {
    [EARLY_CANCEL_PREFIX, job.as_bytes()].concat()
}

fn confirm(waiting: &mut [Waiting], from: NodeId, job: JobId) {
    for waiting in waiting.iter_mut().filter(|waiting| waiting.job == job) {
        waiting.confirmed.insert(from);
    }
}
