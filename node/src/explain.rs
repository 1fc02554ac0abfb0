//! Explain: why a job or some of its tasks are not done, asked of those who keep them.
//!
//! Always true: any node can answer; nothing is changed by it. What cannot be asked within a second or two is left out and
//! counted.
//!
//! Elsewhere: what follows from the evidence is `swarm_protocol::reasons`; words for it are `words`.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use swarm_protocol::reasons::{Cause, Evidence, Reason, Target, last_line, not_asked, reasons, to_ask};
use swarm_protocol::situation::{JobSituation, ShardSituation};
use swarm_protocol::{Answer, Content, Hash, JobId, JobSpec, JobStatus, Query, Range, ShardId};

use crate::commands::CommandError;
use crate::handle::{Handle, blocking};

/// How long to look for what a task wrote, when it is too long to be in the record: it is only a help.
const WORDS_WAIT: Duration = Duration::from_secs(2);
/// The most that is read of it.
const WORDS_BYTES_MAX: u64 = 4 << 20;

/// Why a job is not done.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The job.
    pub spec: JobSpec,
    /// How far it is.
    pub status: JobStatus,
    /// The root cause first.
    pub reasons: Vec<Reason>,
    /// Shards of each stage that were not asked about, as those asked stand for them.
    pub not_asked: BTreeMap<String, u32>,
}

impl Handle {
    /// Why a job, or the tasks that are meant, are not done.
    pub async fn explain(&self, id: JobId, target: Option<Target>) -> Result<Explained, CommandError> {
        let (spec, status) = self.job(id).await?;
        let jobs = self.job_situations(id).await?;
        let asked = to_ask(id, &spec, &status, target, &jobs);
        let shards = join_all(asked.iter().map(|(shard, tasks)| self.shard_situations(*shard, *tasks))).await;
        let shards: Vec<ShardSituation> = shards.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
        let members = self.members();
        let (spec_now, status_now) = (&spec, &status);
        let evidence = Evidence {
            id,
            spec: spec_now,
            status: status_now,
            target,
            jobs: &jobs,
            asked: &asked,
            shards: &shards,
            members: &members,
        };
        let mut reasons = reasons(&evidence);
        join_all(reasons.iter_mut().map(|reason| self.find_words(reason))).await;
        Ok(Explained { not_asked: not_asked(&spec, &asked), spec, status, reasons })
    }

    async fn job_situations(&self, id: JobId) -> Result<Vec<JobSituation>, CommandError> {
        match self.ask(Query::WhyJob(id)).await? {
            Answer::WhyJob(said) => Ok(said),
            _ => Ok(Vec::new()),
        }
    }

    async fn shard_situations(&self, shard: ShardId, tasks: Range) -> Result<Vec<ShardSituation>, CommandError> {
        match self.ask(Query::WhyShard { shard, tasks }).await? {
            Answer::WhyShard(said) => Ok(said),
            _ => Ok(Vec::new()),
        }
    }

    /// The last line of a long standard error, which is a blob somewhere.
    async fn find_words(&self, reason: &mut Reason) {
        let (Cause::Failed { said, stderr, node, .. } | Cause::BackingOff { said, stderr, node, .. }) =
            &mut reason.cause
        else {
            return;
        };
        let Content::Blob { hash, .. } = stderr else { return };
        let from = node.as_ref().and_then(|node| swarm_protocol::NodeId::from_hex(&node.id).ok());
        if let Ok(Some(line)) = tokio::time::timeout(WORDS_WAIT, self.words(*hash, from)).await {
            *said = line;
        }
    }

    async fn words(&self, hash: Hash, from: Option<swarm_protocol::NodeId>) -> Option<String> {
        self.ensure_blob(hash, from.into_iter().collect()).await.ok()?;
        let blobs = self.blobs().clone();
        blocking(move || blobs.read(hash, WORDS_BYTES_MAX)).await.ok().map(|bytes| last_line(&bytes))
    }
}
