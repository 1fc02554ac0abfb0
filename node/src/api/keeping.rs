//! The requests about what stays on the node's disk.

use std::time::{Duration, SystemTime};

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

use super::error::{Code, Failure, causes};
use super::server::{Answer, Api, blob_name, failure};
use super::view::{self, BlobItem, CollectedBlobs, List, rfc3339};
use crate::collector::{CollectError, GRACE_MIN, KeptBlob};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/kept", get(list))
        .route("/v1/kept/{hex}", post(pin).delete(unpin))
        .route("/v1/collect", post(collect))
}

async fn list(State(api): State<Api>) -> Answer<Json<List<BlobItem>>> {
    let kept = api.handle.collector().list().await.map_err(unkept)?;
    Ok(Json(List::new(view::BLOBS, kept.iter().map(item).collect())))
}

fn item(KeptBlob { blob, pinned, used }: &KeptBlob) -> BlobItem {
    let claimed = blob.claimed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    BlobItem {
        hash: blob.hash.to_hex(),
        len_bytes: blob.len,
        pinned: *pinned,
        used: *used,
        claimed: rfc3339(u64::try_from(claimed.as_millis()).unwrap_or(u64::MAX)),
    }
}

async fn pin(State(api): State<Api>, Path(hex): Path<String>) -> Answer<StatusCode> {
    api.handle.collector().pin(blob_name(&hex)?).await.map_err(unkept)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn unpin(State(api): State<Api>, Path(hex): Path<String>) -> Answer<StatusCode> {
    let hash = blob_name(&hex)?;
    match api.handle.collector().unpin(hash).await.map_err(unkept)? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Failure::new(Code::NotFound, format!("{hash} is not pinned on this node")).hint("swarm blob ls")),
    }
}

#[derive(Deserialize)]
struct CollectQuery {
    grace_ms: Option<u64>,
}

async fn collect(State(api): State<Api>, Query(query): Query<CollectQuery>) -> Answer<Json<CollectedBlobs>> {
    let grace = query.grace_ms.map(Duration::from_millis);
    if grace.is_some_and(|grace| grace < GRACE_MIN) {
        let message = "within a second a blob may just be arriving; ask for a longer grace";
        return Err(Failure::new(Code::Usage, message).hint("swarm blob gc --grace 1m"));
    }
    let collected = api.handle.collector().collect(grace).await.map_err(unkept)?;
    Ok(Json(CollectedBlobs {
        schema: view::COLLECTED.into(),
        removed: collected.removed,
        removed_bytes: collected.removed_bytes,
        kept: collected.kept,
    }))
}

fn unkept(error: CollectError) -> Failure {
    match error {
        CollectError::Core(error) => failure(error),
        CollectError::List(_) | CollectError::Unbrought(_) => {
            Failure::new(Code::NotFound, causes(&error)).hint("swarm nodes")
        }
        _ => Failure::new(Code::Failed, causes(&error)),
    }
}
