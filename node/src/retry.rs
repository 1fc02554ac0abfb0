//! Retry: a finished job once more, as it was or from a new spec, and only what did not succeed when that is wanted.
//!
//! Always true of a job that runs only the rest: the results that it takes over are in a blob of its own and listed with the
//! job's blobs, so it depends on nothing that the earlier job kept. A task is taken over only when all that it needed is.
//!
//! Elsewhere: how taken-over results are shown and used is `earlier`; that skipped tasks are not run is `swarm_protocol`.

use std::collections::{BTreeMap, BTreeSet};

use swarm_protocol::lattice::{End, Run, Segment};
use swarm_protocol::{Edge, Hash, JobId, JobSpec, JobStatus, NodeId, Range, ShardId, StageSpec, codec};

use crate::artifacts::BLOB_LIST_BYTES_MAX;
use crate::commands::CommandError;
use crate::earlier::{EARLIER_BYTES_MAX, Earlier};
use crate::handle::{Handle, blocking};

/// Why a job is not run once more.
#[derive(Debug, thiserror::Error)]
pub enum RetryError {
    /// A command on the way.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// It is not over.
    #[error("the job still runs")]
    StillRuns,
    /// Every task succeeded.
    #[error("every task of the job succeeded: there is nothing to run again")]
    NothingFailed,
    /// The new file has other tasks.
    #[error("task `{stage}` has {new} elements now and had {old}: what is to run again cannot be told")]
    OtherTasks {
        /// The task.
        stage: String,
        /// Elements it had.
        old: u32,
        /// Elements it has.
        new: u32,
    },
    /// More results than are taken over.
    #[error("the results of the tasks that succeeded are over {EARLIER_BYTES_MAX} bytes; submit the whole job again")]
    TooMuch,
}

impl Handle {
    /// Runs a job that is over once more, from `spec` when it is given; only what did not succeed, when `rest` says so.
    pub async fn retry(&self, job: JobId, spec: Option<JobSpec>, rest: bool) -> Result<(JobId, JobSpec), RetryError> {
        let (old, status) = self.job(job).await?;
        if !status.state().is_over() {
            return Err(RetryError::StillRuns);
        }
        let mut new = spec.unwrap_or_else(|| old.clone());
        // What it took over itself is not taken over unseen.
        new.options.earlier = None;
        new.stages.iter_mut().for_each(|stage| stage.options.skip.clear());
        let holders: Vec<NodeId> = vec![old.submitter];
        self.hold_list(new.blobs, &holders).await?;
        if rest {
            self.take_over(job, &old, &status, &mut new).await?;
        }
        Ok((self.submit(new.clone()).await?, new))
    }

    /// Brings the blobs of a list here.
    async fn hold_list(&self, list: Hash, from: &[NodeId]) -> Result<(), RetryError> {
        self.ensure_blob(list, from.to_vec()).await?;
        self.artifacts().ensure(self.list(list).await?, from).await.map_err(CommandError::from)?;
        Ok(())
    }

    async fn list(&self, list: Hash) -> Result<Vec<Hash>, CommandError> {
        let blobs = self.blobs().clone();
        blocking(move || {
            let bytes = blobs.read(list, BLOB_LIST_BYTES_MAX as u64)?;
            codec::decode(&bytes, BLOB_LIST_BYTES_MAX).map_err(CommandError::BlobList)
        })
        .await
    }

    async fn take_over(
        &self,
        job: JobId,
        old: &JobSpec,
        status: &JobStatus,
        new: &mut JobSpec,
    ) -> Result<(), RetryError> {
        let mut done = BTreeMap::new();
        for (position, stage) in (0..).zip(&new.stages) {
            let Some(before) = old.stages.iter().position(|before| before.name == stage.name) else { continue };
            let (old_count, new_count) = (old.stages[before].count, stage.count);
            if old_count != new_count {
                return Err(RetryError::OtherTasks { stage: stage.name.clone(), old: old_count, new: new_count });
            }
            done.insert(position, self.done_of(job, old, status, before as u16).await?);
        }
        let skips = skips(new, &done);
        let (mut earlier, mut blobs, mut holders) = (Earlier::new(), BTreeSet::new(), BTreeSet::new());
        for (position, skip) in &skips {
            let segment: Segment = done[position].iter().flat_map(|run| parts(run, skip)).collect();
            for run in &segment {
                let Some(End::Done(results)) = &run.state.end else { continue };
                blobs.extend(results.outcome().blobs());
                holders.extend(results.holders());
            }
            earlier.push((*position, segment));
        }
        let skipped: u64 = skips.values().flatten().map(|range| u64::from(range.count)).sum();
        if skipped == new.tasks() {
            return Err(RetryError::NothingFailed);
        }
        for (position, skip) in skips {
            new.stages[usize::from(position)].options.skip = skip;
        }
        self.keep_earlier(new, earlier, blobs, holders.into_iter().collect()).await
    }

    /// The tasks of a stage that succeeded.
    async fn done_of(
        &self,
        job: JobId,
        spec: &JobSpec,
        status: &JobStatus,
        position: u16,
    ) -> Result<Segment, CommandError> {
        let stage = &spec.stages[usize::from(position)];
        let mut done = Segment::new();
        for number in 0..stage.shards() {
            let tasks = stage.shard_range(number);
            let view = self.shard(spec, status, ShardId { job, stage: position, number }).await?;
            let runs = view.runs.iter().filter(|run| matches!(run.state.end, Some(End::Done(_))));
            done.extend(runs.flat_map(|run| parts(run, &[tasks])).map(|mut run| {
                // How often it was tried is the other job's story.
                run.state.failures.clear();
                run
            }));
        }
        Ok(done)
    }

    async fn keep_earlier(
        &self,
        new: &mut JobSpec,
        earlier: Earlier,
        blobs: BTreeSet<Hash>,
        holders: Vec<NodeId>,
    ) -> Result<(), RetryError> {
        let bytes = codec::encode(&earlier);
        if bytes.len() > EARLIER_BYTES_MAX {
            return Err(RetryError::TooMuch);
        }
        self.artifacts().ensure(blobs.iter().copied().collect(), &holders).await.map_err(CommandError::from)?;
        let kept = self.put_blob(bytes).await?;
        let mut list: BTreeSet<Hash> = self.list(new.blobs).await?.into_iter().collect();
        list.extend(blobs.into_iter().chain([kept]));
        let list: Vec<Hash> = list.into_iter().collect();
        new.options.earlier = Some(kept);
        new.blobs = self.put_blob(codec::encode(&list)).await?;
        Ok(())
    }
}

/// The tasks that need not run again, by stage: those that succeeded, and all that they needed with them.
fn skips(spec: &JobSpec, done: &BTreeMap<u16, Segment>) -> BTreeMap<u16, Vec<Range>> {
    let mut skips: BTreeMap<u16, Vec<Range>> = BTreeMap::new();
    for (position, stage) in (0..).zip(&spec.stages) {
        let whole = |need: &u16| {
            let count = spec.stages[usize::from(*need)].count;
            skips.get(need).is_some_and(|skip| skip.iter().map(|range| range.count).sum::<u32>() == count)
        };
        let rested = stage.needs.iter().all(|need| !stage.needs_whole(*need) || whole(need));
        let Some(done) = done.get(&position).filter(|_| rested) else { continue };
        let ranges = done.iter().map(|run| run.range);
        let edges = Edge::of(spec, stage);
        let skip = if edges.is_empty() { merged(ranges) } else { with_needs(stage, &edges, ranges, &skips) };
        if !skip.is_empty() {
            skips.insert(position, skip);
        }
    }
    skips
}

/// Of these tasks those whose needed elements are all skipped.
fn with_needs(
    stage: &StageSpec,
    edges: &[Edge],
    ranges: impl Iterator<Item = Range>,
    skips: &BTreeMap<u16, Vec<Range>>,
) -> Vec<Range> {
    let nothing = Vec::new();
    let has = |skip: &[Range], range: &Range| {
        let at = skip.partition_point(|known| known.end() < range.end());
        skip.get(at).is_some_and(|known| known.first <= range.first)
    };
    let is_rested = |task: &u32| {
        edges.iter().all(|edge| {
            let skip = skips.get(&edge.stage).unwrap_or(&nothing);
            edge.needed(*task).iter().all(|range| has(skip, range))
        })
    };
    let tasks = ranges.flat_map(|range| range.indexes()).filter(|task| *task < stage.count && is_rested(task));
    merged(tasks.map(|first| Range { first, count: 1 }))
}

/// Neighbours together, in order.
fn merged(ranges: impl Iterator<Item = Range>) -> Vec<Range> {
    let mut sorted: Vec<Range> = ranges.filter(|range| range.count > 0).collect();
    sorted.sort_unstable_by_key(|range| range.first);
    let mut merged: Vec<Range> = Vec::new();
    for range in sorted {
        match merged.last_mut() {
            Some(last) if last.end() >= range.first => last.count = last.count.max(range.end() - last.first),
            _ => merged.push(range),
        }
    }
    merged
}

/// The parts of a run within some ranges.
fn parts(run: &Run, within: &[Range]) -> Segment {
    let part = |range: &Range| {
        let (first, end) = (run.range.first.max(range.first), run.range.end().min(range.end()));
        (first < end).then(|| Run { range: Range { first, count: end - first }, state: run.state.clone() })
    };
    within.iter().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use swarm_protocol::lattice::{Results, TaskState};
    use swarm_protocol::{Elements, Ending, JobOptions, Outcome, SameNeed, StageOptions};

    use super::*;

    fn stage(name: &str, count: u32, needs: Vec<u16>, same: bool) -> StageSpec {
        let needs_same =
            needs.iter().filter(|_| same).map(|need| SameNeed { stage: *need, names: vec!["index".into()] });
        let options = StageOptions { needs_same: needs_same.collect(), ..StageOptions::default() };
        StageSpec {
            count,
            elements: Elements::Numbers { start: 0 },
            needs,
            options,
            ..StageSpec::plain(name, Hash::of(b""))
        }
    }

    fn spec(stages: Vec<StageSpec>) -> JobSpec {
        JobSpec {
            version: 2,
            name: "job".into(),
            description: String::new(),
            submitter: NodeId::from_bytes([0; 32]),
            submitted_unix_ms: 0,
            nonce: 0,
            source: None,
            blobs: Hash::of(b""),
            failures_max: 0,
            stages,
            options: JobOptions::default(),
        }
    }

    fn done(ranges: &[(u32, u32)]) -> Segment {
        let state = TaskState::ended(End::Done(Results::one(Outcome::bare(Ending::Exited(0)), [])));
        ranges
            .iter()
            .map(|(first, count)| Run { range: Range { first: *first, count: *count }, state: state.clone() })
            .collect()
    }

    #[test]
    fn what_needs_something_that_runs_again_runs_again() {
        let spec =
            spec(vec![stage("a", 10, vec![], false), stage("b", 1, vec![0], false), stage("c", 10, vec![0], true)]);
        let ended = BTreeMap::from([(0, done(&[(0, 3), (4, 6)])), (1, done(&[(0, 1)])), (2, done(&[(0, 2), (2, 8)]))]);
        let rest = vec![Range { first: 0, count: 3 }, Range { first: 4, count: 6 }];
        assert_eq!(skips(&spec, &ended), BTreeMap::from([(0, rest.clone()), (2, rest)]));
        let whole = BTreeMap::from([(0, done(&[(0, 10)])), (1, done(&[(0, 1)]))]);
        assert_eq!(skips(&spec, &whole).len(), 2);
    }
}
