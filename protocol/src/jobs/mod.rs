//! Jobs: what is known here of each, its publication, its stop, and how far it is. Here: that knowledge, and when each part
//! looks after it.
//!
//! Always true:
//! - a job's record is synced before anybody is told that it is here;
//! - `stop` only grows (`None` < `Cancelled` < `Failures`);
//! - a submit is acknowledged when its record and blobs are on two nodes besides the submitter, or on all other
//!   custodians where there are fewer (decision 0003).
//!
//! The parts: `records` on this disk, `submits` and `stops` of users, `telling` others of jobs and `pulls` of those that
//! others told of, `progress` of the stages.
//!
//! Elsewhere: the tasks are `custody` (facts) and `arbiter` (who runs them); when a job leaves is `expiry`.

mod progress;
mod pulls;
mod records;
mod stops;
mod submits;
mod telling;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::pulls::Pull;
pub(crate) use self::stops::EARLY_CANCEL_PREFIX;
use crate::edges::Edges;
use crate::lattice::Counts;
use crate::message::{JobStatus, JobSummary, StopCause};
use crate::node::Node;
use crate::placement::Key;
use crate::planted::PlantedBug;
use crate::{JobId, JobSpec, NodeId, ShardId, SignedJob, StageSpec, Time};

/// A request without an answer is repeated after this.
const REPEAT: Duration = Duration::from_secs(1);
/// Custodians of an unfinished job remind the custodians of silent shards this often.
const NUDGE: Duration = Duration::from_secs(2);
/// How often custodians are told of jobs that they are not known to know.
const DIGEST_EVERY: Duration = Duration::from_secs(5);

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

impl Node {
    /// How far a job is, as far as this node heard; `None` when it does not know the job.
    pub fn job_status(&self, job: JobId) -> Option<JobStatus> {
        self.jobs.get(job).map(Job::status)
    }

    pub(crate) fn signed_job(&self, id: JobId) -> Option<(SignedJob, JobStatus)> {
        self.jobs.jobs.get(&id).map(|job| (job.signed.clone(), job.status()))
    }

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

    /// The jobs that this node keeps and has seen over.
    pub(crate) fn jobs_over(&mut self) -> impl Iterator<Item = (JobId, &mut Job)> {
        let me = self.membership.me.node;
        let over = move |job: &Job| job.said_over && job.custodians.contains(&me);
        self.jobs.jobs.iter_mut().filter(move |(_, job)| over(job)).map(|(id, job)| (*id, job))
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

    /// `node` knows the job and this stop: enough, unless I know of a stronger one.
    fn note_known_by(&mut self, job: JobId, node: NodeId, stop: Option<StopCause>) {
        if let Some(job) = self.jobs.jobs.get_mut(&job)
            && job.stop <= stop
        {
            job.known_by.insert(node);
        }
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
}

fn confirm(waiting: &mut [Waiting], from: NodeId, job: JobId) {
    for waiting in waiting.iter_mut().filter(|waiting| waiting.job == job) {
        waiting.confirmed.insert(from);
    }
}
