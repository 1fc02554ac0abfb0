//! Results: questions about jobs that take more than one answer.
//!
//! Always true: what is returned as the results of a job that is over is complete. Custodians answer from what they
//! have, and the one that answers may be behind, so it is asked again until its view is whole or [`COMPLETE_WAIT`] is over.
//!
//! Elsewhere: the answers themselves come from the core; turning them into tables and files is `api`.

use std::cmp::Reverse;
use std::time::Duration;

use swarm_protocol::lattice::{Run, ShardState};
use swarm_protocol::placement::{Key, View};
use swarm_protocol::{
    Answer, Hash, JobId, JobSpec, JobStatus, JobSummary, MemberState, NodeId, Query, Range, Refusal, ShardId,
    SignedJob, codec,
};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::commands::{CommandError, Commands};
use crate::earlier::{EARLIER_BYTES_MAX, Earlier, substitute};
use crate::handle::{Handle, blocking};

/// How long to wait for a custodian to catch up: a few rounds of anti-entropy, which runs every 5 s.
pub const COMPLETE_WAIT: Duration = Duration::from_secs(30);
/// The first and the longest wait before asking again: answers are cheap, and users wait for them.
const ASK_AGAIN: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(1000)];
/// How often who waits for the end of a job asks, though this node would be told of it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pages of one shard: a shard of 4,096 tasks with full inline output needs some 60.
const PAGES_MAX: usize = 4096;

/// Jobs in a list: some 100 MB of memory.
pub const JOBS_LISTED_MAX: usize = 1 << 18;

/// What is known of one shard.
#[derive(Clone, Debug, Default)]
pub struct ShardView {
    /// Runs of tasks of which the same is known, in order; tasks of which nothing is known are absent.
    pub runs: Vec<Run>,
    /// Tasks leased now, with their executors, as far as the answerer arbitrates.
    pub leased: Vec<(Range, NodeId)>,
}

impl Handle {
    /// A job as submitted, and how far it is.
    pub async fn job(&self, job: JobId) -> Result<(JobSpec, JobStatus), CommandError> {
        let (job, status) = self.commands().job(job).await?;
        Ok((job.read()?, status))
    }

    /// Every job that the swarm knows, the newest first; at most [`JOBS_LISTED_MAX`].
    pub async fn jobs(&self) -> Result<Vec<JobSummary>, CommandError> {
        self.newest_jobs(JOBS_LISTED_MAX).await
    }

    /// The newest jobs that the swarm knows, the newest first: at most so many.
    pub async fn newest_jobs(&self, at_most: usize) -> Result<Vec<JobSummary>, CommandError> {
        let (mut jobs, mut more): (Vec<JobSummary>, bool) = (Vec::new(), true);
        while more && jobs.len() < at_most {
            let last = jobs.last().map(JobSummary::order);
            let after = last.map(|(Reverse(unix_ms), job)| (unix_ms, job));
            let Answer::Jobs { jobs: page, more: others } = self.ask(Query::Jobs { after }).await? else { break };
            let known = jobs.len();
            jobs.extend(page.into_iter().filter(|job| Some(job.order()) > last));
            // A node that tells the same again would keep us here for ever.
            more = others && jobs.len() > known;
        }
        jobs.truncate(at_most);
        Ok(jobs)
    }

    /// Waits until a job is over and returns its final status; pending while it runs.
    pub async fn wait(&self, job: JobId) -> Result<JobStatus, CommandError> {
        loop {
            let (_, status) = self.job_within(job, LOOK_EVERY).await?;
            if status.state().is_over() {
                return Ok(status);
            }
        }
    }

    /// A job once it is over, or after so long as it is then.
    pub async fn job_within(&self, job: JobId, patience: Duration) -> Result<(JobSpec, JobStatus), CommandError> {
        let until = Instant::now() + patience;
        loop {
            let end = self.endings().expect(job);
            let (spec, status) = self.job(job).await?;
            if status.state().is_over() || Instant::now() >= until {
                return Ok((spec, status));
            }
            if let Ok(seen) = timeout_at(until, self.sees_end(job, status, end)).await {
                seen?;
            }
        }
    }

    /// Returns when the job may be over.
    async fn sees_end(
        &self,
        job: JobId,
        status: JobStatus,
        mut end: watch::Receiver<bool>,
    ) -> Result<(), CommandError> {
        if self.is_told_of(job) {
            // It is told once, and what is told may be lost with a link or a core: the next question tells what there is.
            let _ = timeout(LOOK_EVERY, end.wait_for(|over| *over)).await;
            return Ok(());
        }
        let mut watched = self.watchers().watch(job, status).await?;
        tokio::select! {
            // Closed when the watcher lost sight of the job: the next question tells why.
            _ = watched.wait_for(|status| status.state().is_over()) => {}
            Ok(_) = end.wait_for(|over| *over) => {}
        }
        Ok(())
    }

    /// Whether this node is told of the job's end, as one of its custodians. Wrong only while members come and go.
    fn is_told_of(&self, job: JobId) -> bool {
        let members = self.members();
        let alive = members.iter().filter(|member| member.state == MemberState::Alive).map(|member| member.record.node);
        View::of(alive).custodians(Key::of_job(job)).contains(&self.node())
    }

    /// What is known of one shard: all of it when its job is over, else what the answering custodian knows now.
    pub async fn shard_runs(&self, shard: ShardId) -> Result<Vec<Run>, CommandError> {
        let (spec, status) = self.job(shard.job).await?;
        Ok(self.shard(&spec, &status, shard).await?.runs)
    }

    /// As [`Self::shard_runs`], with the leases, for a caller that has the job already.
    pub async fn shard(&self, spec: &JobSpec, status: &JobStatus, shard: ShardId) -> Result<ShardView, CommandError> {
        let stage = spec.stages.get(usize::from(shard.stage)).ok_or(Refusal::Unknown)?;
        let tasks = stage.shard_range(shard.number);
        let view = match status.state().is_over() {
            true => self.commands().ended_shard(shard, tasks).await?,
            false => self.commands().shard(shard).await?,
        };
        let Some(hash) = spec.options.earlier.filter(|_| !stage.options.skip.is_empty()) else { return Ok(view) };
        let earlier = self.earlier(hash, spec.submitter).await?;
        Ok(ShardView { runs: substitute(stage, shard.stage, tasks, view.runs, &earlier), ..view })
    }

    /// The results that a job took over.
    async fn earlier(&self, hash: Hash, submitter: NodeId) -> Result<Earlier, CommandError> {
        self.ensure_blob(hash, vec![submitter]).await?;
        let blobs = self.blobs().clone();
        let read = move || {
            let bytes = blobs.read(hash, EARLIER_BYTES_MAX as u64)?;
            codec::decode(&bytes, EARLIER_BYTES_MAX).map_err(CommandError::BlobList)
        };
        blocking(read).await
    }
}

impl Commands {
    /// A job, and how far it is.
    pub(crate) async fn job(&self, job: JobId) -> Result<(SignedJob, JobStatus), CommandError> {
        match self.ask(Query::Job(job)).await? {
            Answer::Job { job, status } => Ok((job, status)),
            _ => Err(Refusal::Unknown.into()),
        }
    }

    /// The recorded outcomes of a shard all of whose tasks have ended: what later stages take their inputs from.
    pub async fn shard_outcomes(&self, shard: ShardId, tasks: Range) -> Result<Vec<Run>, CommandError> {
        Ok(self.ended_shard(shard, tasks).await?.runs)
    }

    /// Asks until all tasks of the shard have ended in the answer.
    async fn ended_shard(&self, shard: ShardId, tasks: Range) -> Result<ShardView, CommandError> {
        let deadline = Instant::now() + COMPLETE_WAIT;
        let [mut wait, wait_max] = ASK_AGAIN;
        loop {
            let view = self.shard(shard).await?;
            if ended(&view.runs, tasks) >= tasks.count {
                return Ok(view);
            }
            if Instant::now() + wait > deadline {
                return Err(CommandError::Incomplete);
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(wait_max);
        }
    }

    /// Every page of what the answering custodians know. Pages may come from different ones, so they are joined.
    async fn shard(&self, shard: ShardId) -> Result<ShardView, CommandError> {
        let (mut known, mut leased, mut first) = (ShardState::default(), Vec::new(), 0);
        for _ in 0..PAGES_MAX {
            let Answer::Shard { segment, next, leased: page } = self.ask(Query::Shard { shard, first }).await? else {
                break;
            };
            known.join(&segment);
            leased.extend(page);
            match next {
                Some(next) if next > first => first = next,
                _ => break,
            }
        }
        leased.sort_unstable();
        leased.dedup();
        Ok(ShardView { runs: known.runs().collect(), leased })
    }
}

/// How many of the tasks have ended. What an answer says of others does not count.
fn ended(runs: &[Run], tasks: Range) -> u32 {
    let within = |run: &Run| run.range.end().min(tasks.end()).saturating_sub(run.range.first.max(tasks.first));
    runs.iter().filter(|run| run.state.end.is_some()).map(within).sum()
}
