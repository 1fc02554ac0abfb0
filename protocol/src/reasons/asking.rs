//! About which tasks the custodians should be asked.
//!
//! Always true: no more than [`SHARDS_ASKED_MAX`] shards are asked about, those that are meant first.

use std::collections::{BTreeMap, BTreeSet};

use super::evidence::Target;
use crate::situation::JobSituation;
use crate::{JobId, JobSpec, JobStatus, Range, ShardId};

/// Shards that are asked about at most: a few milliseconds of a custodian's time each. The first of each stage stand for
/// the others.
pub const SHARDS_ASKED_MAX: usize = 32;

/// The tasks about which custodians should be asked.
pub fn to_ask(
    id: JobId,
    spec: &JobSpec,
    status: &JobStatus,
    target: Option<Target>,
    jobs: &[JobSituation],
) -> Vec<(ShardId, Range)> {
    let mut asked: Vec<(ShardId, Range)> = target.iter().flat_map(|target| shards_of(id, spec, *target)).collect();
    let needs_others =
        |target: &Target| spec.stages.get(usize::from(target.stage)).is_some_and(|it| !it.needs.is_empty());
    if target.is_none_or(|target| needs_others(&target) && !status.state().is_over()) {
        let over = status.state().is_over();
        let failed: BTreeSet<ShardId> = jobs.iter().flat_map(|job| job.failed.iter().copied()).collect();
        let open: BTreeSet<ShardId> = jobs.iter().flat_map(|job| job.open.iter().copied()).filter(|_| !over).collect();
        let concerned = target.map(|target| needed(spec, target.stage));
        let concerns = |shard: &ShardId| concerned.as_ref().is_none_or(|stages| stages.contains(&shard.stage));
        let known = failed.into_iter().chain(open).filter(|shard| shard.job == id && concerns(shard));
        let others: Vec<_> = known.filter_map(|shard| Some((shard, whole(spec, shard)?))).collect();
        asked.extend(if others.is_empty() && target.is_none() { first_open(id, spec, status) } else { others });
    }
    let mut seen = BTreeSet::new();
    asked.retain(|(shard, _)| seen.insert(*shard));
    asked.truncate(SHARDS_ASKED_MAX);
    asked
}

/// How many shards of the job were not asked about, of each stage.
pub fn not_asked(spec: &JobSpec, asked: &[(ShardId, Range)]) -> BTreeMap<String, u32> {
    let mut left = BTreeMap::new();
    for (at, stage) in (0..).zip(&spec.stages) {
        let seen = asked.iter().filter(|(shard, _)| shard.stage == at).count() as u32;
        if seen > 0 && stage.shards() > seen {
            left.insert(stage.name.clone(), stage.shards() - seen);
        }
    }
    left
}

/// The stages that a stage needs, and those that these need.
fn needed(spec: &JobSpec, stage: u16) -> BTreeSet<u16> {
    let mut needed = BTreeSet::from([stage]);
    // Each stage needs earlier ones only.
    for at in (0..=stage).rev().filter(|at| usize::from(*at) < spec.stages.len()) {
        if needed.contains(&at) {
            needed.extend(spec.stages[usize::from(at)].needs.iter().filter(|need| **need < at));
        }
    }
    needed
}

fn whole(spec: &JobSpec, shard: ShardId) -> Option<Range> {
    let range = spec.stages.get(usize::from(shard.stage))?.shard_range(shard.number);
    (range.count > 0).then_some(range)
}

fn shards_of(id: JobId, spec: &JobSpec, target: Target) -> Vec<(ShardId, Range)> {
    let Some(stage) = spec.stages.get(usize::from(target.stage)) else { return Vec::new() };
    let size = stage.shard_tasks.max(1);
    let numbers = target.tasks.first / size..target.tasks.end().min(stage.count).div_ceil(size);
    let part = |number| {
        let shard = stage.shard_range(number);
        let first = shard.first.max(target.tasks.first);
        let count = shard.end().min(target.tasks.end()).saturating_sub(first);
        (ShardId { job: id, stage: target.stage, number }, Range { first, count })
    };
    numbers.take(SHARDS_ASKED_MAX).map(part).filter(|(_, range)| range.count > 0).collect()
}

/// When nobody said which: the first of each stage that is not over, or has failed.
fn first_open(id: JobId, spec: &JobSpec, status: &JobStatus) -> Vec<(ShardId, Range)> {
    let stages = (0..).zip(&spec.stages).zip(&status.stages);
    let open = stages.filter(|(_, (tasks, counts))| counts.done < *tasks);
    let first = open.map(|((stage, _), _)| ShardId { job: id, stage, number: 0 });
    first.filter_map(|shard| Some((shard, whole(spec, shard)?))).collect()
}
