//! `/v1/jobs/{id}/running` and `/v1/jobs/{id}/news`: which tasks run now, and what they print meanwhile.
//!
//! Elsewhere: what a task printed that is over is its result, and found with it (`/v1/jobs/{id}/tasks`).

use axum::extract::{Path, Query, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use swarm_protocol::{Content, JobId, JobSpec, ShardId};

use super::server::{Answer, Api, failure, find};
use super::view::{self, Bytes, List, RunningTask, TaskNews};
use crate::api::{Code, Failure};
use crate::board::NewsQuestion;

/// Tasks in one answer: more than anybody can follow.
const RUNNING_MAX: usize = 64;
/// Shards that are asked about: the first that are not done.
const SHARDS_MAX: usize = 16;

/// The routes of what runs now.
pub(super) fn routes() -> Router<Api> {
    Router::new().route("/v1/jobs/{id}/running", get(running)).route("/v1/jobs/{id}/news", get(news))
}

#[derive(Deserialize)]
struct RunningQuery {
    stage: u16,
    /// The first task of interest.
    #[serde(default)]
    from: u32,
}

/// The first tasks of a stage that are granted to a node now.
async fn running(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(query): Query<RunningQuery>,
) -> Answer<Json<List<RunningTask>>> {
    let (job, spec, _) = find(&api.handle, &id).await?;
    let stage = spec.stages.get(usize::from(query.stage)).ok_or_else(no_task)?;
    let first = query.from / stage.shard_tasks.max(1);
    let shards = spec.shards(job).filter(|shard| shard.stage == query.stage && shard.number >= first);
    let mut items = Vec::new();
    for shard in shards.take(SHARDS_MAX) {
        for (tasks, node) in api.handle.leases(shard).await.map_err(failure)? {
            let tasks = tasks.indexes().filter(|task| *task >= query.from);
            items.extend(tasks.take(RUNNING_MAX).map(|task| RunningTask { task, node: node.to_hex() }));
        }
        if items.len() >= RUNNING_MAX {
            break;
        }
    }
    items.sort_by_key(|item| item.task);
    items.truncate(RUNNING_MAX);
    Ok(Json(List::new(view::RUNNING, items)))
}

#[derive(Deserialize)]
struct NewsQuery {
    stage: u16,
    task: u32,
    /// Bytes seen.
    #[serde(default)]
    stdout: u64,
    #[serde(default)]
    stderr: u64,
}

/// Answered as soon as there is something new, or after half a second.
async fn news(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(query): Query<NewsQuery>,
) -> Answer<Json<TaskNews>> {
    let (job, spec, _) = find(&api.handle, &id).await?;
    let shard = shard_of(job, &spec, query.stage, query.task).ok_or_else(no_task)?;
    let question = NewsQuestion { task: (job, query.stage, query.task), seen: [query.stdout, query.stderr] };
    let news = api.handle.news(shard, &question).await.map_err(failure)?;
    let runs = news.is_some();
    let [stdout, stderr] = news.unwrap_or_default().map(|bytes| Bytes::of(&Content::Inline(bytes)));
    Ok(Json(TaskNews { schema: view::NEWS.into(), runs, stdout, stderr }))
}

fn shard_of(job: JobId, spec: &JobSpec, stage: u16, task: u32) -> Option<ShardId> {
    let known = spec.stages.get(usize::from(stage)).filter(|known| task < known.count)?;
    Some(ShardId { job, stage, number: task / known.shard_tasks.max(1) })
}

fn no_task() -> Failure {
    Failure::new(Code::NotFound, "the job has no such task")
}
