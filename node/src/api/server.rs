//! The node's side: each request becomes a call of [`Handle`].

use std::io;
use std::path::Path as FilePath;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, head, post};
use axum::{Json, Router};
use futures::{StreamExt, stream};
use serde::Deserialize;
use swarm_protocol::reasons::Target;
use swarm_protocol::{
    Hash, JOB_SPEC_BYTES_MAX, JobId, JobSpec, JobState, JobStatus, MemberState, NodeId, Range, Refusal, ShardId, codec,
};
use swarm_store::{BlobError, GROUP_BYTES, Groups, Receiver, Source};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::error::{Code, Failure, causes};
use super::ids::{full_id, resolve, short_id};
use super::socket::{self, SOCKET_NAME, SocketError};
use super::view::{
    self, BlobStat, Drained, Explanation, JobDetail, JobItem, List, NodeItem, NodeStatus, Scrub, Stored, Submitted,
    TaskRun, Transfers,
};
use crate::artifacts::Unfetched;
use crate::clock::unix_ms;
use crate::commands::CommandError;
use crate::handle::{self, Handle};
use crate::modules::ReferenceError;
use crate::results::JOBS_LISTED_MAX;
use crate::retry::RetryError;
use crate::supervisor;

/// The longest blob that a user may hand over: what an input of a task may reasonably be, and less than a disk.
const BLOB_BYTES_MAX: u64 = 16 << 30;
/// The longest job file that is kept and shown.
const SOURCE_BYTES_MAX: u64 = 4 << 20;
/// Pieces of an upload that wait for the disk.
const PIECES_QUEUED_MAX: usize = 8;
/// What is still taken of an upload that was refused, so that its user hears why: a second or two on a local socket.
const UNHEARD_BYTES_MAX: usize = 1 << 30;
/// Lists are sent in pieces of this size: few system calls, little memory.
const PIECE_BYTES: usize = 128 << 10;
/// How long a request may wait for the end of a job; whoever waits longer asks again.
const JOB_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long requests may finish once the node stops.
const STOP_WAIT: Duration = Duration::from_secs(1);

/// The API of a node. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    api: Api,
    /// Set when it stops. Whoever serves holds a receiver.
    stop: watch::Sender<bool>,
    /// The first listener, made at the start of the process so that an unusable socket refuses the start.
    first: Arc<Mutex<Option<UnixListener>>>,
}

impl Server {
    /// Listens on the socket in the node's data directory; whoever connects waits until [`Self::run`].
    pub(crate) fn listen(handle: Handle) -> Result<Self, SocketError> {
        let first = socket::listen(handle.data_dir())?;
        let api = Api { handle, leave: watch::Sender::new(false) };
        Ok(Self { api, stop: watch::Sender::new(false), first: Arc::new(Mutex::new(Some(first))) })
    }

    /// Serves until [`Self::stop`]. Run once more after a failure, it listens anew.
    pub(crate) async fn run(self) -> Result<(), supervisor::Failure> {
        let (mut stopped, _serving) = (self.stop.subscribe(), self.stop.subscribe());
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let listener = first.map_or_else(|| socket::listen(self.api.handle.data_dir()), Ok)?;
        let stop = async move { drop(stopped.wait_for(|stop| *stop).await) };
        Ok(axum::serve(listener, router(self.api)).with_graceful_shutdown(stop).await?)
    }

    /// Waits until a user's drain is over.
    pub async fn drained(&self) {
        let mut drained = self.api.leave.subscribe();
        drop(drained.wait_for(|drained| *drained).await);
    }

    /// Lets requests finish for a moment and removes the socket.
    pub(crate) async fn stop(&self) {
        self.stop.send_replace(true);
        if tokio::time::timeout(STOP_WAIT, self.stop.closed()).await.is_err() {
            tracing::debug!("requests were cut off");
        }
        remove(&self.api.handle.data_dir().join(SOCKET_NAME));
    }
}

fn remove(socket: &FilePath) {
    if let Err(error) = std::fs::remove_file(socket) {
        tracing::debug!(%error, "the socket was gone already");
    }
}

#[derive(Clone)]
pub(super) struct Api {
    pub(super) handle: Handle,
    leave: watch::Sender<bool>,
}

fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/nodes", get(nodes))
        .route("/v1/jobs", get(jobs).post(submit))
        .route("/v1/jobs/{id}", get(job))
        .route("/v1/jobs/{id}/tasks", get(tasks))
        .route("/v1/jobs/{id}/spec", get(source))
        .route("/v1/jobs/{id}/explain", get(explain))
        .route("/v1/jobs/{id}/cancel", post(cancel))
        .route("/v1/jobs/{id}/retry", post(retry))
        .route("/v1/blobs", post(post_blob))
        .route("/v1/blobs/{hex}", head(has_blob).get(blob).put(put_blob).post(hold_blob))
        .route("/v1/blobs/{hex}/stat", get(stat_blob))
        .route("/v1/blobs/{hex}/verify", post(verify_blob))
        .route("/v1/drain", post(drain))
        .route("/v1/nodes/{id}/drain", post(drain_node))
        .merge(super::events::routes())
        .merge(super::modules::routes())
        .merge(super::news::routes())
        .merge(super::keeping::routes())
        .fallback(|| async { Failure::new(Code::NotFound, "the API has no such path") })
        .layer(DefaultBodyLimit::max(JOB_SPEC_BYTES_MAX))
        .with_state(api)
}

/// What a request is answered.
pub(super) type Answer<T> = Result<T, Failure>;

async fn status(State(api): State<Api>) -> Answer<Json<NodeStatus>> {
    let node = &api.handle;
    let members = node.members();
    let alive = members.iter().filter(|member| member.state == MemberState::Alive).count();
    let waits_for_room = node.commands().no_room();
    let jobs = match node.jobs().await {
        // The core waits; everything else can be told.
        Err(CommandError::NoRoom(_) | CommandError::NoRoomMeanwhile) => Vec::new(),
        jobs => jobs.map_err(failure)?,
    };
    let running = |state: JobState| !state.is_over();
    Ok(Json(NodeStatus {
        schema: view::STATUS.into(),
        node: node.node().to_hex(),
        name: node.name().to_owned(),
        data: node.data_dir().display().to_string(),
        version: env!("CARGO_PKG_VERSION").into(),
        addresses: node.addresses(),
        members: members.len(),
        alive,
        slots: count(node.slots()),
        slots_busy: count(node.slots_busy()),
        jobs: jobs.len(),
        transfers: Transfers::of(&node.counts()),
        blob_bytes: node.blobs().used(),
        waits_for_room,
        scrub: Scrub::of(&node.collector().scrubbed()),
        takes_no_blobs: node.blobs().no_room().map(|why| why.to_string()),
        jobs_running: jobs.iter().filter(|job| running(job.status.state())).count(),
    }))
}

fn count(slots: usize) -> u32 {
    u32::try_from(slots).unwrap_or(u32::MAX)
}

async fn nodes(State(api): State<Api>) -> Json<List<NodeItem>> {
    let now = api.handle.now();
    let items = api.handle.members().iter().map(|member| NodeItem::of(member, now)).collect();
    Json(List::new(view::NODES, items))
}

/// Which jobs are listed.
#[derive(Debug, Deserialize)]
struct Newest {
    /// The newest so many; otherwise all.
    limit: Option<usize>,
}

async fn jobs(State(api): State<Api>, Query(wanted): Query<Newest>) -> Answer<Json<List<JobItem>>> {
    let at_most = wanted.limit.map_or(JOBS_LISTED_MAX, |limit| limit.min(JOBS_LISTED_MAX));
    let jobs = api.handle.newest_jobs(at_most).await.map_err(failure)?;
    Ok(Json(List::new(view::JOBS, jobs.iter().map(JobItem::of).collect())))
}

async fn submit(State(api): State<Api>, body: Result<Bytes, BytesRejection>) -> Answer<Json<Submitted>> {
    let body = body.map_err(|error| unread(&error))?;
    let spec: JobSpec = codec::decode(&body, JOB_SPEC_BYTES_MAX)
        .map_err(|error| Failure::caused(Code::Invalid, "the job cannot be read", &error))?;
    let name = spec.name.clone();
    let job = api.handle.submit(spec).await.map_err(failure)?;
    Ok(Json(Submitted { id: short_id(&name, job), job: job.to_hex() }))
}

fn unread(error: &BytesRejection) -> Failure {
    let too_long = error.status() == StatusCode::PAYLOAD_TOO_LARGE;
    let limit = format!("the job is over {JOB_SPEC_BYTES_MAX} bytes; move long lists into files");
    Failure::new(Code::Invalid, if too_long { limit } else { format!("the job cannot be read: {error}") })
}

#[derive(Deserialize)]
struct JobQuery {
    #[serde(default)]
    wait_ms: u64,
}

async fn job(State(api): State<Api>, Path(id): Path<String>, Query(query): Query<JobQuery>) -> Answer<Json<JobDetail>> {
    let (job, spec, status) = find_within(&api.handle, &id, query.wait_ms).await?;
    Ok(Json(JobDetail::of(job, &spec, &status)))
}

async fn cancel(State(api): State<Api>, Path(id): Path<String>) -> Answer<Json<JobDetail>> {
    let (job, spec, status) = find(&api.handle, &id).await?;
    if status.state().is_over() {
        return Ok(Json(JobDetail::of(job, &spec, &status)));
    }
    api.handle.cancel(job).await.map_err(failure)?;
    let (spec, status) = api.handle.job(job).await.map_err(failure)?;
    Ok(Json(JobDetail::of(job, &spec, &status)))
}

#[derive(Deserialize)]
struct ExplainQuery {
    stage: Option<u16>,
    #[serde(default)]
    first: u32,
    #[serde(default)]
    count: u32,
}

/// Why the job, or the tasks that are meant, are not done.
async fn explain(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(query): Query<ExplainQuery>,
) -> Answer<Json<Explanation>> {
    let job = named(&api.handle, &id).await?;
    let tasks = Range { first: query.first, count: query.count };
    let target = query.stage.map(|stage| Target { stage, tasks });
    let explained = api.handle.explain(job, target).await.map_err(|error| unknown(&api.handle, &id, error))?;
    Ok(Json(Explanation::of(job, &explained, unix_ms())))
}

#[derive(Deserialize)]
struct RetryQuery {
    /// Only what did not succeed.
    #[serde(default)]
    failed: bool,
}

/// With a body it is the new spec; its blobs are on this node already.
async fn retry(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(query): Query<RetryQuery>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Json<Submitted>> {
    let body = body.map_err(|error| unread(&error))?;
    let unreadable = |error| Failure::caused(Code::Invalid, "the job cannot be read", &error);
    let spec = (!body.is_empty()).then(|| codec::decode(&body, JOB_SPEC_BYTES_MAX).map_err(unreadable)).transpose()?;
    let (job, old, _) = find(&api.handle, &id).await?;
    let old_id = short_id(&old.name, job);
    let (job, spec) = api.handle.retry(job, spec, query.failed).await.map_err(|error| retry_failure(error, &old_id))?;
    Ok(Json(Submitted { id: short_id(&spec.name, job), job: job.to_hex() }))
}

fn retry_failure(error: RetryError, id: &str) -> Failure {
    let text = format!("{id}: {error}");
    match error {
        RetryError::Command(error) => failure(error),
        RetryError::StillRuns => Failure::new(Code::Usage, text).hint(format!("swarm wait {id}")),
        RetryError::NothingFailed => Failure::new(Code::Usage, text).hint(format!("swarm retry {id}")),
        RetryError::OtherTasks { .. } | RetryError::TooMuch => {
            Failure::new(Code::Invalid, text).hint("swarm submit FILE")
        }
    }
}

async fn source(State(api): State<Api>, Path(id): Path<String>) -> Answer<Response> {
    let (_, spec, _) = find(&api.handle, &id).await?;
    let none = || Failure::new(Code::NotFound, "the job was not made from a file");
    let source = spec.source.ok_or_else(none)?;
    api.handle.ensure_blob(source, vec![spec.submitter]).await.map_err(failure)?;
    let blobs = api.handle.blobs().clone();
    let bytes = blocking(move || blobs.read(source, SOURCE_BYTES_MAX)).await?.map_err(|error| blob_failure(&error))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], bytes).into_response())
}

/// The job that `id` names in any form.
pub(super) async fn find(handle: &Handle, id: &str) -> Answer<(JobId, JobSpec, JobStatus)> {
    let job = named(handle, id).await?;
    let (spec, status) = handle.job(job).await.map_err(|error| unknown(handle, id, error))?;
    Ok((job, spec, status))
}

/// The same once the job is over, or after so long with how far it is then.
async fn find_within(handle: &Handle, id: &str, wait_ms: u64) -> Answer<(JobId, JobSpec, JobStatus)> {
    let job = named(handle, id).await?;
    let wait = Duration::from_millis(wait_ms).min(JOB_WAIT_MAX);
    let (spec, status) = handle.job_within(job, wait).await.map_err(|error| unknown(handle, id, error))?;
    Ok((job, spec, status))
}

pub(super) async fn named(handle: &Handle, id: &str) -> Answer<JobId> {
    match full_id(id) {
        Some(job) => Ok(job),
        None => resolve(id, &handle.jobs().await.map_err(failure)?, handle.node()),
    }
}

/// Whoever is cut off from the others knows few jobs, and says so.
fn unknown(handle: &Handle, id: &str, error: CommandError) -> Failure {
    if !matches!(error, CommandError::Refused(Refusal::Unknown)) {
        return failure(error);
    }
    let members = handle.members();
    let alive = members.iter().filter(|member| member.state == MemberState::Alive).count();
    let message = format!("no job `{id}` is known");
    if members.len() > 1 && alive <= 1 {
        let others = members.len() - 1;
        let message = format!("{message}; this node reaches none of the {others} others that it knows");
        return Failure::new(Code::NotFound, message).hint("swarm nodes");
    }
    Failure::new(Code::NotFound, message).hint("swarm ls")
}

#[derive(Deserialize)]
struct TasksQuery {
    stage: Option<u16>,
    #[serde(default)]
    from: u32,
    #[serde(default)]
    wait_ms: u64,
}

async fn tasks(State(api): State<Api>, Path(id): Path<String>, Query(query): Query<TasksQuery>) -> Answer<Response> {
    let (job, spec, status) = find_within(&api.handle, &id, query.wait_ms).await?;
    let (lines, read) = mpsc::channel(2);
    tokio::spawn(async move {
        let list = TaskList { handle: api.handle, job, spec, status, lines, pending: Vec::new() };
        list.send(&query).await;
    });
    let body = Body::from_stream(ReceiverStream::new(read).map(Ok::<_, io::Error>));
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], body).into_response())
}

/// The lines of a `tasks` document, on their way to a reader that sets the pace.
struct TaskList {
    handle: Handle,
    job: JobId,
    spec: JobSpec,
    status: JobStatus,
    lines: mpsc::Sender<Vec<u8>>,
    pending: Vec<u8>,
}

/// The reader went away.
struct Unread;

impl TaskList {
    async fn send(mut self, query: &TasksQuery) {
        let shards: Vec<ShardId> = self.spec.shards(self.job).filter(|shard| self.wants(query, *shard)).collect();
        for shard in shards {
            let sent = match self.handle.shard(&self.spec, &self.status, shard).await {
                Ok(view) => self.send_runs(shard.stage, query.from, view.runs).await,
                Err(error) => {
                    self.push(&failure(error));
                    break;
                }
            };
            if sent.is_err() {
                return;
            }
        }
        // A reader that went away needs no last piece.
        let _unread = self.flush().await;
    }

    fn wants(&self, query: &TasksQuery, shard: ShardId) -> bool {
        let stage = &self.spec.stages[usize::from(shard.stage)];
        query.stage.is_none_or(|stage| stage == shard.stage) && stage.shard_range(shard.number).end() > query.from
    }

    async fn send_runs(
        &mut self,
        stage: u16,
        from: u32,
        runs: Vec<swarm_protocol::lattice::Run>,
    ) -> Result<(), Unread> {
        for mut run in runs.into_iter().filter(|run| run.range.end() > from) {
            let first = run.range.first.max(from);
            run.range.count = run.range.end() - first;
            run.range.first = first;
            self.push(&TaskRun::of(stage, &run));
            if self.pending.len() >= PIECE_BYTES {
                self.flush().await?;
            }
        }
        Ok(())
    }

    fn push(&mut self, line: &impl serde::Serialize) {
        serde_json::to_writer(&mut self.pending, line).expect("a Vec takes every write and our documents are plain");
        self.pending.push(b'\n');
    }

    async fn flush(&mut self) -> Result<(), Unread> {
        let piece = std::mem::take(&mut self.pending);
        self.lines.send(piece).await.map_err(|_| Unread)
    }
}

async fn has_blob(State(api): State<Api>, Path(hex): Path<String>) -> Answer<StatusCode> {
    // Verified, or a user would not hand over again what is damaged here.
    let hash = blob_name(&hex)?;
    let found = api.handle.verify_blob(hash).await;
    // Claimed, for the user is about to submit a job with it.
    Ok(if found.is_ok() && api.handle.blobs().claim(hash) { StatusCode::OK } else { StatusCode::NOT_FOUND })
}

async fn put_blob(State(api): State<Api>, Path(hex): Path<String>, body: Body) -> Answer<Json<Stored>> {
    let (hash, blobs) = (blob_name(&hex)?, api.handle.blobs().clone());
    keep(&api.handle, move || blobs.receiver(hash, BLOB_BYTES_MAX), body).await
}

/// The same for bytes whose name is not known yet.
async fn post_blob(State(api): State<Api>, body: Body) -> Answer<Json<Stored>> {
    let blobs = api.handle.blobs().clone();
    keep(&api.handle, move || blobs.nameless_receiver(BLOB_BYTES_MAX), body).await
}

/// Stores what comes as it comes.
async fn keep(
    handle: &Handle,
    receiver: impl FnOnce() -> Result<Receiver, BlobError> + Send + 'static,
    body: Body,
) -> Answer<Json<Stored>> {
    let (pieces, written) = mpsc::channel(PIECES_QUEUED_MAX);
    let writing = tokio::task::spawn_blocking(move || store(receiver()?, written));
    let mut body = body.into_data_stream();
    let mut unheard = 0;
    while let Some(piece) = body.next().await {
        let len = piece.as_ref().map_or(0, Bytes::len);
        // An upload that breaks off must not pass for a shorter blob. The writer may have gone away because it failed; its
        // own error is told below, which the user hears only once all was sent.
        if unheard > 0 || pieces.send(piece.map_err(drop)).await.is_err() {
            unheard += len.max(1);
        }
        if unheard > UNHEARD_BYTES_MAX {
            break;
        }
    }
    drop(pieces);
    let stored = writing.await.map_err(|error| Failure::caused(Code::Bug, "storing a blob failed", &error))?;
    let (hash, len_bytes) = stored.map_err(|error| blob_failure(&error))?.ok_or_else(cut_off)?;
    handle.blob_came(hash);
    Ok(Json(Stored { hash: hash.to_hex(), len_bytes }))
}

fn cut_off() -> Failure {
    Failure::new(Code::Failed, "the bytes broke off before their end; nothing was stored")
}

/// Nothing when the bytes broke off.
fn store(
    mut receiver: Receiver,
    mut pieces: mpsc::Receiver<Result<Bytes, ()>>,
) -> Result<Option<(Hash, u64)>, BlobError> {
    while let Some(piece) = pieces.blocking_recv() {
        let Ok(piece) = piece else { return Ok(None) };
        receiver.write(&piece)?;
    }
    receiver.finish().map(Some)
}

#[derive(Deserialize)]
struct BlobQuery {
    #[serde(default)]
    from: String,
    #[serde(default)]
    offset: u64,
}

impl BlobQuery {
    /// Nodes that may have it.
    fn holders(&self) -> Vec<NodeId> {
        self.from.split(',').filter_map(|node| NodeId::from_hex(node).ok()).collect()
    }
}

async fn blob(State(api): State<Api>, Path(hex): Path<String>, Query(query): Query<BlobQuery>) -> Answer<Response> {
    let (hash, from) = (blob_name(&hex)?, query.holders());
    let source = api.handle.open_blob(hash, &from).await.map_err(failure)?;
    let len = source.len();
    let beyond = || Failure::new(Code::Usage, format!("{hash} has {len} bytes, fewer than {}", query.offset));
    let left = len.checked_sub(query.offset).ok_or_else(beyond)?;
    let (first, skip) = (query.offset / GROUP_BYTES, (query.offset % GROUP_BYTES) as usize);
    let next = u32::try_from(first).unwrap_or(u32::MAX)..source.groups();
    let reading = Reading { handle: api.handle, hash, from, source: Some(source), next, skip };
    let body = stream::try_unfold(reading, |mut reading| async move {
        let piece = reading.next().await?;
        Ok::<_, io::Error>(piece.map(|piece| (piece, reading)))
    });
    let headers =
        [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, left.to_string())];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// A blob on its way to a user, each group verified just before.
struct Reading {
    handle: Handle,
    hash: Hash,
    from: Vec<NodeId>,
    /// None after one that was damaged.
    source: Option<Source>,
    next: Groups,
    /// Bytes of the next group that the user has.
    skip: usize,
}

impl Reading {
    /// The next group. When it is damaged on this disk the blob is fetched once more, and goes on from there.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let Some(group) = self.next.next() else { return Ok(None) };
        let piece = match self.read(group).await {
            Ok(piece) => piece,
            Err(_) => self.read(group).await?,
        };
        let skip = std::mem::take(&mut self.skip).min(piece.len());
        Ok(Some(piece.slice(skip..)))
    }

    async fn read(&mut self, group: u32) -> io::Result<Bytes> {
        let mut source = match self.source.take() {
            Some(source) => source,
            None => self.handle.open_blob(self.hash, &self.from).await.map_err(io::Error::other)?,
        };
        let read = handle::blocking(move || source.read(group).map(|piece| (piece, source))).await;
        let (piece, source) = read.map_err(io::Error::other)?;
        self.source = Some(source);
        Ok(piece.into())
    }
}

/// Brings a blob onto this node.
async fn hold_blob(
    State(api): State<Api>,
    Path(hex): Path<String>,
    Query(query): Query<BlobQuery>,
) -> Answer<Json<Stored>> {
    let hash = blob_name(&hex)?;
    let source = api.handle.open_blob(hash, &query.holders()).await.map_err(failure)?;
    Ok(Json(Stored { hash: hash.to_hex(), len_bytes: source.len() }))
}

async fn verify_blob(State(api): State<Api>, Path(hex): Path<String>) -> Answer<Json<Stored>> {
    let hash = blob_name(&hex)?;
    let len_bytes = api.handle.verify_blob(hash).await.map_err(|error| blob_failure(&error))?;
    Ok(Json(Stored { hash: hash.to_hex(), len_bytes }))
}

async fn stat_blob(State(api): State<Api>, Path(hex): Path<String>) -> Answer<Json<BlobStat>> {
    let (hash, blobs) = (blob_name(&hex)?, api.handle.blobs().clone());
    let (state, len_bytes) = blocking(move || match (blobs.len(hash), blobs.begun(hash)) {
        (Ok(len), _) => ("here", Some(len)),
        (Err(_), Some(len)) => ("arriving", Some(len)),
        (Err(_), None) => ("missing", None),
    })
    .await?;
    Ok(Json(BlobStat { schema: view::BLOB.into(), hash: hash.to_hex(), state: state.into(), len_bytes }))
}

pub(super) fn blob_name(hex: &str) -> Answer<Hash> {
    Hash::from_hex(hex).map_err(|error| Failure::new(Code::Usage, format!("`{hex}` names no blob: {error}")))
}

#[derive(Deserialize)]
struct DrainQuery {
    timeout_ms: Option<u32>,
}

impl DrainQuery {
    fn timeout(&self) -> Option<Duration> {
        self.timeout_ms.map(|ms| Duration::from_millis(ms.into()))
    }
}

/// Answers when this node has handed over what it can; then the process ends.
async fn drain(State(api): State<Api>, Query(query): Query<DrainQuery>) -> Answer<Json<Drained>> {
    let timeout = query.timeout().unwrap_or_else(|| api.handle.drain_timeout());
    let handed_over = api.handle.drain(timeout).await;
    api.leave.send_replace(true);
    let (node, name) = (api.handle.node().to_hex(), api.handle.name().to_owned());
    Ok(Json(Drained { schema: view::DRAINED.into(), node, name, handed_over: Some(handed_over) }))
}

/// Answers when another node has left.
async fn drain_node(
    State(api): State<Api>,
    Path(wanted): Path<String>,
    Query(query): Query<DrainQuery>,
) -> Answer<Json<Drained>> {
    let (node, name) = find_node(&api.handle, &wanted)?;
    if node == api.handle.node() {
        return drain(State(api), Query(query)).await;
    }
    let timeout = query.timeout();
    api.handle.drain_node(node, timeout).await.map_err(failure)?;
    Ok(Json(Drained { schema: view::DRAINED.into(), node: node.to_hex(), name, handed_over: None }))
}

/// The one member that is not down and that a name, or the beginning of an id, means.
fn find_node(handle: &Handle, wanted: &str) -> Answer<(NodeId, String)> {
    let members = handle.members();
    let there = members.iter().filter(|member| member.state != MemberState::Down).map(|member| &member.record);
    let is_meant = |name: &str, id: &str| name == wanted || (!wanted.is_empty() && id.starts_with(wanted));
    let found: Vec<_> = there.filter(|record| is_meant(&record.name, &record.node.to_hex())).collect();
    match found.as_slice() {
        [record] => Ok((record.node, record.name.clone())),
        [] => Err(Failure::new(Code::NotFound, format!("no node `{wanted}` is there")).hint("swarm nodes")),
        several => {
            let message = format!("`{wanted}` means {} nodes; give the beginning of an id", several.len());
            Err(Failure::new(Code::NotFound, message).hint("swarm nodes"))
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Answer<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::caused(Code::Bug, "reading a blob failed", &error))
}

/// The way on from a full disk.
const ROOM_HINT: &str = "df -h; swarm status; then free some of the disk, or start the node with more --disk";

/// What a user is told of a command that was not done.
pub(super) fn failure(error: CommandError) -> Failure {
    let text = causes(&error);
    let (code, hint) = match error {
        CommandError::Refused(Refusal::Unknown) => (Code::NotFound, "swarm ls"),
        CommandError::Refused(Refusal::Invalid(_)) | CommandError::Invalid(_) | CommandError::BlobList(_) => {
            (Code::Invalid, "")
        }
        CommandError::Module(_) => (Code::Invalid, ""),
        CommandError::Reference(ReferenceError::Malformed(_)) => (Code::Usage, "swarm module ls"),
        CommandError::Reference(ReferenceError::Disputed { .. }) => (Code::Usage, ""),
        CommandError::Reference(_) => (Code::NotFound, "swarm module ls"),
        CommandError::Fetch(Unfetched::Disk { .. })
        | CommandError::Blob(BlobError::NoRoom { .. })
        | CommandError::NoRoom(_) => (Code::Failed, ROOM_HINT),
        CommandError::NoRoomMeanwhile => (Code::Failed, "df -h; swarm ls, before you ask again"),
        CommandError::Fetch(_) => (Code::NotFound, "swarm nodes"),
        CommandError::Refused(Refusal::TooFewCopies { .. }) => {
            (Code::Failed, "swarm nodes; the job may still run, so look at `swarm ls` before you submit it again")
        }
        CommandError::Refused(Refusal::Draining) => (Code::NotAllowed, "use another node: swarm --node DIR …"),
        CommandError::NotReached => (Code::Unreachable, "swarm nodes"),
        CommandError::Incomplete | CommandError::Unanswered => (Code::TimedOut, "swarm nodes"),
        CommandError::Stopping => (Code::Unreachable, "swarm start"),
        _ => (Code::Failed, ""),
    };
    Failure::new(code, text).hint(hint)
}

fn blob_failure(error: &BlobError) -> Failure {
    let code = match error {
        BlobError::Missing { .. } => Code::NotFound,
        BlobError::Damaged { .. } | BlobError::WrongHash { .. } | BlobError::WrongPart { .. } => Code::Integrity,
        BlobError::TooLong { .. } | BlobError::Endless { .. } => Code::Invalid,
        BlobError::Io { .. } | BlobError::NoRoom { .. } => Code::Failed,
    };
    let hint = match error {
        BlobError::NoRoom { .. } => ROOM_HINT,
        _ => "",
    };
    Failure::new(code, causes(error)).hint(hint)
}
