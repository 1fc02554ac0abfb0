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
use futures::StreamExt;
use serde::Deserialize;
use swarm_protocol::{
    Hash, JOB_SPEC_BYTES_MAX, JobId, JobSpec, JobState, JobStatus, MemberState, NodeId, Refusal, ShardId, codec,
};
use swarm_store::{BlobError, Receiver};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::ReaderStream;

use super::error::{Code, Failure, causes};
use super::ids::{full_id, resolve, short_id};
use super::socket::{self, SOCKET_NAME, SocketError};
use super::view::{self, JobDetail, JobItem, List, NodeItem, NodeStatus, Stored, Submitted, TaskRun};
use crate::commands::CommandError;
use crate::handle::Handle;
use crate::retry::RetryError;
use crate::supervisor;

/// The longest blob that a user may hand over: what an input of a task may reasonably be, and less than a disk.
const BLOB_BYTES_MAX: u64 = 16 << 30;
/// The longest job file that is kept and shown.
const SOURCE_BYTES_MAX: u64 = 4 << 20;
/// Pieces of an upload that wait for the disk.
const PIECES_QUEUED_MAX: usize = 8;
/// Blobs and lists are sent in pieces of this size: few system calls, little memory.
const PIECE_BYTES: usize = 128 << 10;
/// How long a drain may hand things over before it says that it could not.
const DRAIN_WAIT: Duration = Duration::from_secs(60);
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
struct Api {
    handle: Handle,
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
        .route("/v1/jobs/{id}/cancel", post(cancel))
        .route("/v1/jobs/{id}/retry", post(retry))
        .route("/v1/blobs/{hex}", head(has_blob).get(blob).put(put_blob))
        .route("/v1/drain", post(drain))
        .fallback(|| async { Failure::new(Code::NotFound, "the API has no such path") })
        .layer(DefaultBodyLimit::max(JOB_SPEC_BYTES_MAX))
        .with_state(api)
}

type Answer<T> = Result<T, Failure>;

async fn status(State(api): State<Api>) -> Answer<Json<NodeStatus>> {
    let node = &api.handle;
    let members = node.members();
    let alive = members.iter().filter(|member| member.state == MemberState::Alive).count();
    let jobs = node.jobs().await.map_err(failure)?;
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

async fn jobs(State(api): State<Api>) -> Answer<Json<List<JobItem>>> {
    let mut jobs = api.handle.jobs().await.map_err(failure)?;
    jobs.sort_by_key(|job| (std::cmp::Reverse(job.submitted_unix_ms), job.job));
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

async fn job(State(api): State<Api>, Path(id): Path<String>) -> Answer<Json<JobDetail>> {
    let (job, spec, status) = find(&api.handle, &id).await?;
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
async fn find(handle: &Handle, id: &str) -> Answer<(JobId, JobSpec, JobStatus)> {
    let job = match full_id(id) {
        Some(job) => job,
        None => resolve(id, &handle.jobs().await.map_err(failure)?, handle.node())?,
    };
    match handle.job(job).await {
        Ok((spec, status)) => Ok((job, spec, status)),
        Err(CommandError::Refused(Refusal::Unknown)) => {
            Err(Failure::new(Code::NotFound, format!("no job `{id}` is known")).hint("swarm ls"))
        }
        Err(error) => Err(failure(error)),
    }
}

#[derive(Deserialize)]
struct TasksQuery {
    stage: Option<u16>,
    #[serde(default)]
    from: u32,
}

async fn tasks(State(api): State<Api>, Path(id): Path<String>, Query(query): Query<TasksQuery>) -> Answer<Response> {
    let (job, spec, status) = find(&api.handle, &id).await?;
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
    let found = api.handle.verify_blob(blob_name(&hex)?).await;
    Ok(if found.is_ok() { StatusCode::OK } else { StatusCode::NOT_FOUND })
}

async fn put_blob(State(api): State<Api>, Path(hex): Path<String>, body: Body) -> Answer<Json<Stored>> {
    let (hash, blobs) = (blob_name(&hex)?, api.handle.blobs().clone());
    let (pieces, written) = mpsc::channel(PIECES_QUEUED_MAX);
    let writing = tokio::task::spawn_blocking(move || store(blobs.receiver(hash, BLOB_BYTES_MAX)?, written));
    let mut body = body.into_data_stream();
    // An upload that breaks off has another hash, and is refused for it.
    while let Some(Ok(piece)) = body.next().await {
        // The writer went away when it failed; its own error is told below.
        if pieces.send(piece).await.is_err() {
            break;
        }
    }
    drop(pieces);
    let stored = writing.await.map_err(|error| Failure::caused(Code::Bug, "storing a blob failed", &error))?;
    let len_bytes = stored.map_err(|error| blob_failure(&error))?;
    Ok(Json(Stored { hash: hash.to_hex(), len_bytes }))
}

fn store(mut receiver: Receiver, mut pieces: mpsc::Receiver<Bytes>) -> Result<u64, BlobError> {
    let mut len_bytes = 0;
    while let Some(piece) = pieces.blocking_recv() {
        receiver.write(&piece)?;
        len_bytes += piece.len() as u64;
    }
    receiver.finish().map(|()| len_bytes)
}

#[derive(Deserialize)]
struct BlobQuery {
    #[serde(default)]
    from: String,
}

async fn blob(State(api): State<Api>, Path(hex): Path<String>, Query(query): Query<BlobQuery>) -> Answer<Response> {
    let (hash, blobs) = (blob_name(&hex)?, api.handle.blobs().clone());
    let holders = query.from.split(',').filter_map(|node| NodeId::from_hex(node).ok()).collect();
    api.handle.ensure_blob(hash, holders).await.map_err(failure)?;
    let opened = blocking(move || Ok((blobs.len(hash)?, blobs.file(hash)?))).await?;
    let (len, file) = opened.map_err(|error: BlobError| blob_failure(&error))?;
    let stream = ReaderStream::with_capacity(tokio::fs::File::from_std(file), PIECE_BYTES);
    let headers =
        [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, len.to_string())];
    Ok((headers, Body::from_stream(stream)).into_response())
}

fn blob_name(hex: &str) -> Answer<Hash> {
    Hash::from_hex(hex).map_err(|error| Failure::new(Code::Usage, format!("`{hex}` names no blob: {error}")))
}

async fn drain(State(api): State<Api>) -> Answer<StatusCode> {
    if !api.handle.drain(DRAIN_WAIT).await {
        let message = format!("not everything was handed over within {} s", DRAIN_WAIT.as_secs());
        return Err(Failure::new(Code::TimedOut, message).hint("swarm drain"));
    }
    api.leave.send_replace(true);
    Ok(StatusCode::NO_CONTENT)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Answer<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::caused(Code::Bug, "reading a blob failed", &error))
}

/// What a user is told of a command that was not done.
fn failure(error: CommandError) -> Failure {
    let text = causes(&error);
    let (code, hint) = match error {
        CommandError::Refused(Refusal::Unknown) => (Code::NotFound, "swarm ls"),
        CommandError::Refused(Refusal::Invalid(_)) | CommandError::Invalid(_) | CommandError::BlobList(_) => {
            (Code::Invalid, "")
        }
        CommandError::Refused(Refusal::TooFewCopies { .. }) => {
            (Code::Failed, "swarm nodes; the job may still run, so look at `swarm ls` before you submit it again")
        }
        CommandError::Refused(Refusal::Draining) => (Code::NotAllowed, "use another node: swarm --node DIR …"),
        CommandError::Incomplete | CommandError::Unanswered => (Code::TimedOut, "swarm nodes"),
        CommandError::Stopping => (Code::Unreachable, "swarm start"),
        _ => (Code::Failed, ""),
    };
    Failure::new(code, text).hint(hint)
}

fn blob_failure(error: &BlobError) -> Failure {
    let code = match error {
        BlobError::Missing { .. } => Code::NotFound,
        BlobError::Damaged { .. } | BlobError::WrongHash { .. } => Code::Integrity,
        BlobError::TooLong { .. } => Code::Invalid,
        BlobError::Io { .. } => Code::Failed,
    };
    Failure::new(code, causes(error))
}
