//! The requests about named modules.

use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use swarm_protocol::Hash;
use swarm_protocol::modules::{ModuleRecord, ModuleVersion};

use super::error::{Code, Failure};
use super::server::{Answer, Api, failure};
use super::view::{self, List, ModuleItem, PublishModule, YankModule};
use crate::modules::{Reference, resolve};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/modules", get(list).post(publish))
        .route("/v1/modules/yank", post(yank))
        .route("/v1/modules/{reference}", get(find))
}

#[derive(Deserialize)]
struct ListQuery {
    #[serde(default)]
    name: String,
}

async fn list(State(api): State<Api>, Query(query): Query<ListQuery>) -> Answer<Json<List<ModuleItem>>> {
    let registry = api.handle.modules(&query.name).await.map_err(failure)?;
    Ok(Json(List::new(view::MODULES, ModuleItem::all(&registry))))
}

async fn find(State(api): State<Api>, Path(reference): Path<String>) -> Answer<Json<ModuleItem>> {
    let wanted: Reference = reference.parse().map_err(|error: crate::modules::ReferenceError| failure(error.into()))?;
    let registry = api.handle.modules(&wanted.name).await.map_err(failure)?;
    let record = resolve(&registry, &wanted).map_err(|error| failure(error.into()))?;
    Ok(Json(ModuleItem::of(&registry, record)))
}

async fn publish(State(api): State<Api>, Json(body): Json<PublishModule>) -> Answer<Json<ModuleItem>> {
    let wasm = Hash::from_hex(&body.wasm)
        .map_err(|error| Failure::new(Code::Usage, format!("`{}` names no blob: {error}", body.wasm)))?;
    let id = ModuleVersion { name: body.name, version: body.version, publisher: api.handle.node() };
    let record = ModuleRecord {
        format: 0,
        id,
        wasm,
        len: 0,
        description: body.description,
        extensions: body.extensions,
        permissions: body.permissions,
        published_unix_ms: 0,
    };
    let id = api.handle.publish_module(record).await.map_err(failure)?;
    let registry = api.handle.modules(&id.name).await.map_err(failure)?;
    let record = registry.version(&id).and_then(|version| version.records.values().next());
    let lost = || Failure::new(Code::Bug, format!("{}@{} is published and not known", id.name, id.version));
    Ok(Json(ModuleItem::of(&registry, record.ok_or_else(lost)?)))
}

/// Why a version that this node has not published cannot be yanked here.
fn not_ours(name: &str, version: &str, known: &[ModuleItem]) -> Failure {
    let there = known.iter().any(|item| item.version == version);
    let (code, why) = match there {
        true => (Code::NotAllowed, "only its publisher can yank a version"),
        false => (Code::NotFound, "nobody has"),
    };
    Failure::new(code, format!("this node has not published {name}@{version}; {why}")).hint("swarm module ls")
}

async fn yank(State(api): State<Api>, Json(body): Json<YankModule>) -> Answer<Json<List<ModuleItem>>> {
    let YankModule { name, version } = body;
    let yanked = api.handle.yank_module(name.clone(), version.clone()).await.map_err(failure);
    let registry = api.handle.modules(&name).await.map_err(failure)?;
    yanked.map_err(|error| match error.code {
        Code::NotFound => not_ours(&name, &version, &ModuleItem::all(&registry)),
        _ => error,
    })?;
    Ok(Json(List::new(view::MODULES, ModuleItem::all(&registry))))
}
