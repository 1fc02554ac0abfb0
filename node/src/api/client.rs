//! The way from the command to a node: HTTP/1.1 over the socket of a data directory.
//!
//! Always true: a connection is used again as soon as the answer before is read to its end; bytes of a blob are checked
//! against its name before the caller sees the end of them.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use swarm_protocol::{Hash, JobSpec, codec};
use tokio::io::AsyncWriteExt;

use super::error::{Code, Failure};
use super::socket;
use super::view::{
    BlobItem, BlobStat, CollectedBlobs, Drained, EventItem, Explanation, JobDetail, JobItem, List, ModuleItem,
    NodeItem, NodeStatus, PublishModule, RunningTask, Stored, Submitted, TaskNews, TaskRun, YankModule,
};

/// A whole document is read into memory; ten thousand jobs or nodes are a few MiB.
const DOCUMENT_BYTES_MAX: usize = 64 << 20;
/// A line of the `tasks` document: two inline outputs, their names, and some hundred holders.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Idle connections kept. One is the rule; a second one is opened to fetch blobs while a list of tasks is read.
const IDLE_MAX: usize = 4;

/// A way to a node.
#[derive(Debug)]
pub struct Client {
    data: PathBuf,
    // Held for a push or a pop, never across an await.
    idle: Mutex<Vec<SendRequest<Body>>>,
}

impl Client {
    /// A client of the node of a data directory; connects when it is first used.
    pub fn new(data: &Path) -> Self {
        Self { data: data.into(), idle: Mutex::default() }
    }

    /// `GET /v1/status`.
    pub async fn status(&self) -> Result<NodeStatus, Failure> {
        self.document(Method::GET, "/v1/status", Body::empty()).await
    }

    /// `GET /v1/nodes`.
    pub async fn nodes(&self) -> Result<List<NodeItem>, Failure> {
        self.document(Method::GET, "/v1/nodes", Body::empty()).await
    }

    /// `GET /v1/jobs`.
    pub async fn jobs(&self) -> Result<List<JobItem>, Failure> {
        self.document(Method::GET, "/v1/jobs", Body::empty()).await
    }

    /// `GET /v1/jobs?limit=N`: the newest.
    pub async fn newest_jobs(&self, limit: usize) -> Result<List<JobItem>, Failure> {
        self.document(Method::GET, &format!("/v1/jobs?limit={limit}"), Body::empty()).await
    }

    /// `GET /v1/jobs/{id}`.
    pub async fn job(&self, id: &str) -> Result<JobDetail, Failure> {
        self.document(Method::GET, &format!("/v1/jobs/{}", segment(id)), Body::empty()).await
    }

    /// `GET /v1/jobs/{id}?wait_ms=N`: answered when the job is over, or after so long with how far it is then.
    pub async fn job_within(&self, id: &str, wait: Duration) -> Result<JobDetail, Failure> {
        let path = format!("/v1/jobs/{}?wait_ms={}", segment(id), wait.as_millis());
        self.document(Method::GET, &path, Body::empty()).await
    }

    /// `POST /v1/jobs`.
    pub async fn submit(&self, spec: &JobSpec) -> Result<Submitted, Failure> {
        self.document(Method::POST, "/v1/jobs", Body::from(codec::encode(spec))).await
    }

    /// `POST /v1/jobs/{id}/cancel`.
    pub async fn cancel(&self, id: &str) -> Result<JobDetail, Failure> {
        self.document(Method::POST, &format!("/v1/jobs/{}/cancel", segment(id)), Body::empty()).await
    }

    /// `POST /v1/jobs/{id}/retry`: once more, from `spec` when it is given; only what did not succeed, when `rest` says so.
    pub async fn retry(&self, id: &str, spec: Option<&JobSpec>, rest: bool) -> Result<Submitted, Failure> {
        let body = spec.map_or_else(Body::empty, |spec| Body::from(codec::encode(spec)));
        self.document(Method::POST, &format!("/v1/jobs/{}/retry?failed={rest}", segment(id)), body).await
    }

    /// `GET /v1/jobs/{id}/explain`: why the job is not done, or the tasks of a stage that are meant.
    pub async fn explain(&self, id: &str, tasks: Option<(u16, std::ops::Range<u32>)>) -> Result<Explanation, Failure> {
        let query = tasks.map(|(stage, tasks)| format!("?stage={stage}&first={}&count={}", tasks.start, tasks.len()));
        let path = format!("/v1/jobs/{}/explain{}", segment(id), query.unwrap_or_default());
        self.document(Method::GET, &path, Body::empty()).await
    }

    /// `GET /v1/jobs/{id}/spec`.
    pub async fn source(&self, id: &str) -> Result<Vec<u8>, Failure> {
        let answer = self.send(Method::GET, &format!("/v1/jobs/{}/spec", segment(id)), Body::empty()).await?;
        self.whole(answer.into_body()).await
    }

    /// `GET /v1/jobs/{id}/tasks`: the known runs of a stage from task `from` on, or of all stages.
    pub async fn tasks(&self, id: &str, stage: Option<u16>, from: u32) -> Result<TaskReader, Failure> {
        let stage = stage.map(|stage| format!("&stage={stage}")).unwrap_or_default();
        let path = format!("/v1/jobs/{}/tasks?from={from}{stage}", segment(id));
        let answer = self.send(Method::GET, &path, Body::empty()).await?;
        Ok(TaskReader(Lines { data: self.data.clone(), body: answer.into_body(), line: Vec::new(), ended: false }))
    }

    /// `GET /v1/events`: what followed an event, of one job or all; with `follow` it does not end.
    pub async fn events(&self, since: Option<u64>, job: Option<&str>, follow: bool) -> Result<EventReader, Failure> {
        let since = since.map(|since| format!("&since={since}")).unwrap_or_default();
        let job = job.map(|job| format!("&job={}", segment(job))).unwrap_or_default();
        let path = format!("/v1/events?follow={follow}{since}{job}");
        let answer = self.send(Method::GET, &path, Body::empty()).await?;
        Ok(EventReader(Lines { data: self.data.clone(), body: answer.into_body(), line: Vec::new(), ended: false }))
    }

    /// `GET /v1/jobs/{id}/running`: the first tasks of a stage, from task `from` on, that are granted to a node now.
    pub async fn running(&self, id: &str, stage: u16, from: u32) -> Result<List<RunningTask>, Failure> {
        let path = format!("/v1/jobs/{}/running?stage={stage}&from={from}", segment(id));
        self.document(Method::GET, &path, Body::empty()).await
    }

    /// `GET /v1/jobs/{id}/news`: what a running task printed behind `seen` bytes of its outputs.
    pub async fn news(&self, id: &str, stage: u16, task: u32, seen: [u64; 2]) -> Result<TaskNews, Failure> {
        let [stdout, stderr] = seen;
        let path = format!("/v1/jobs/{}/news?stage={stage}&task={task}&stdout={stdout}&stderr={stderr}", segment(id));
        self.document(Method::GET, &path, Body::empty()).await
    }

    /// `GET /v1/modules`: every version of a name, or of all names with an empty one.
    pub async fn modules(&self, name: &str) -> Result<List<ModuleItem>, Failure> {
        self.document(Method::GET, &format!("/v1/modules?name={}", segment(name)), Body::empty()).await
    }

    /// `GET /v1/modules/{reference}`.
    pub async fn module(&self, reference: &str) -> Result<ModuleItem, Failure> {
        self.document(Method::GET, &format!("/v1/modules/{}", segment(reference)), Body::empty()).await
    }

    /// `POST /v1/modules`.
    pub async fn publish_module(&self, module: &PublishModule) -> Result<ModuleItem, Failure> {
        self.ask("/v1/modules", module).await
    }

    /// `POST /v1/modules/yank`.
    pub async fn yank_module(&self, module: &YankModule) -> Result<List<ModuleItem>, Failure> {
        self.ask("/v1/modules/yank", module).await
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str, question: &impl serde::Serialize) -> Result<T, Failure> {
        let body = serde_json::to_vec(question).expect("our documents are plain");
        let answer = self.exchange(json_request(path, Body::from(body))?).await?;
        let bytes = self.whole(self.unless_failed(answer, path).await?.into_body()).await?;
        serde_json::from_slice(&bytes).map_err(|error| unreadable(&error))
    }

    /// `GET /v1/kept`: every blob on the node.
    pub async fn kept(&self) -> Result<List<BlobItem>, Failure> {
        self.document(Method::GET, "/v1/kept", Body::empty()).await
    }

    /// `POST /v1/kept/{hex}`: brings a blob to the node, to stay.
    pub async fn pin(&self, hash: Hash) -> Result<(), Failure> {
        self.send(Method::POST, &format!("/v1/kept/{}", hash.to_hex()), Body::empty()).await.map(drop)
    }

    /// `DELETE /v1/kept/{hex}`.
    pub async fn unpin(&self, hash: Hash) -> Result<(), Failure> {
        self.send(Method::DELETE, &format!("/v1/kept/{}", hash.to_hex()), Body::empty()).await.map(drop)
    }

    /// `POST /v1/collect`.
    pub async fn collect(&self, grace: Option<Duration>) -> Result<CollectedBlobs, Failure> {
        let grace = grace.map(|grace| format!("?grace_ms={}", grace.as_millis())).unwrap_or_default();
        self.document(Method::POST, &format!("/v1/collect{grace}"), Body::empty()).await
    }

    /// `POST /v1/drain`, or of another node `POST /v1/nodes/{id}/drain`.
    pub async fn drain(&self, node: Option<&str>, timeout: Option<Duration>) -> Result<Drained, Failure> {
        let path = node.map_or_else(|| "/v1/drain".to_owned(), |node| format!("/v1/nodes/{}/drain", segment(node)));
        let query = timeout.map(|timeout| format!("?timeout_ms={}", timeout.as_millis())).unwrap_or_default();
        self.document(Method::POST, &format!("{path}{query}"), Body::empty()).await
    }

    /// `HEAD /v1/blobs/{hex}`: whether the node has the blob.
    pub async fn has_blob(&self, hash: Hash) -> Result<bool, Failure> {
        let asked = request(Method::HEAD, &format!("/v1/blobs/{}", hash.to_hex()), Body::empty())?;
        let answer = self.exchange(asked).await?;
        Ok(answer.status() == StatusCode::OK)
    }

    /// `PUT /v1/blobs/{hex}`.
    pub async fn put_blob(&self, hash: Hash, body: Body) -> Result<(), Failure> {
        self.send(Method::PUT, &format!("/v1/blobs/{}", hash.to_hex()), body).await?;
        Ok(())
    }

    /// `POST /v1/blobs`: stores bytes whose name comes out at the end.
    pub async fn put_nameless(&self, body: Body) -> Result<Stored, Failure> {
        self.document(Method::POST, "/v1/blobs", body).await
    }

    /// `GET /v1/blobs/{hex}/stat`.
    pub async fn stat_blob(&self, hash: Hash) -> Result<BlobStat, Failure> {
        self.document(Method::GET, &format!("/v1/blobs/{}/stat", hash.to_hex()), Body::empty()).await
    }

    /// `POST /v1/blobs/{hex}/verify`: an error when it is damaged, or not on the node.
    pub async fn verify_blob(&self, hash: Hash) -> Result<Stored, Failure> {
        self.document(Method::POST, &format!("/v1/blobs/{}/verify", hash.to_hex()), Body::empty()).await
    }

    /// `GET /v1/blobs/{hex}`; `holders` are nodes that may have it, in hexadecimal digits.
    pub async fn blob(&self, hash: Hash, holders: &[String]) -> Result<BlobReader, Failure> {
        self.blob_from(hash, holders, blake3::Hasher::new(), 0).await
    }

    /// The same from byte `offset` on, for who has those before it, which `hasher` has taken in.
    pub async fn blob_from(
        &self,
        hash: Hash,
        holders: &[String],
        hasher: blake3::Hasher,
        offset: u64,
    ) -> Result<BlobReader, Failure> {
        let path = format!("/v1/blobs/{}?offset={offset}&from={}", hash.to_hex(), segment(&holders.join(",")));
        let answer = self.send(Method::GET, &path, Body::empty()).await?;
        Ok(BlobReader { data: self.data.clone(), body: answer.into_body(), hash, hasher })
    }

    async fn document<T: DeserializeOwned>(&self, method: Method, path: &str, body: Body) -> Result<T, Failure> {
        let answer = self.send(method, path, body).await?;
        let bytes = self.whole(answer.into_body()).await?;
        serde_json::from_slice(&bytes).map_err(|error| unreadable(&error))
    }

    async fn whole(&self, body: Incoming) -> Result<Vec<u8>, Failure> {
        let collected = Limited::new(body, DOCUMENT_BYTES_MAX).collect().await;
        let cut_off = |error: Box<dyn std::error::Error + Send + Sync>| {
            Failure::new(Code::Unreachable, format!("the node's answer broke off: {error}"))
        };
        Ok(collected.map_err(cut_off)?.to_bytes().to_vec())
    }

    /// An answer that is not an error.
    async fn send(&self, method: Method, path: &str, body: Body) -> Result<Response<Incoming>, Failure> {
        let answer = self.exchange(request(method, path, body)?).await?;
        self.unless_failed(answer, path).await
    }

    async fn unless_failed(&self, answer: Response<Incoming>, path: &str) -> Result<Response<Incoming>, Failure> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let bytes = self.whole(answer.into_body()).await?;
        let other = |_| Failure::new(Code::Bug, format!("the node answered {status} to {path}"));
        Err(serde_json::from_slice(&bytes).unwrap_or_else(other))
    }

    async fn exchange(&self, request: Request<Body>) -> Result<Response<Incoming>, Failure> {
        let mut connection = match self.take_idle() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let answer = connection.send_request(request).await;
        let answer = answer.map_err(|error| gone(&self.data, &error))?;
        self.put_idle(connection);
        Ok(answer)
    }

    async fn connect(&self) -> Result<SendRequest<Body>, Failure> {
        let stream = socket::connect(&self.data).await.map_err(|error| not_running(&self.data, &error))?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| gone(&self.data, &error))?;
        // An error of the connection is told to whoever waits for an answer on it.
        tokio::spawn(async { drop(connection.await) });
        Ok(sender)
    }

    fn take_idle(&self) -> Option<SendRequest<Body>> {
        let mut idle = self.idle();
        let ready = idle.iter().position(SendRequest::is_ready)?;
        Some(idle.swap_remove(ready))
    }

    fn put_idle(&self, connection: SendRequest<Body>) {
        let mut idle = self.idle();
        idle.retain(|connection| !connection.is_closed());
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<SendRequest<Body>>> {
        // No code that can panic runs under the lock.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the lines of a `tasks` document.
#[derive(Debug)]
pub struct TaskReader(Lines);

impl TaskReader {
    /// The next run; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<TaskRun>, Failure> {
        self.0.next().await?.map(|line| run_or_failure(&line)).transpose()
    }
}

/// Reads the events of a node.
#[derive(Debug)]
pub struct EventReader(Lines);

impl EventReader {
    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<EventItem>, Failure> {
        let read = |line: Vec<u8>| serde_json::from_slice(&line).map_err(|error| unreadable(&error));
        self.0.next().await?.map(read).transpose()
    }
}

/// The lines of an answer.
#[derive(Debug)]
struct Lines {
    data: PathBuf,
    body: Incoming,
    line: Vec<u8>,
    ended: bool,
}

impl Lines {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            if let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let rest = self.line.split_off(end + 1);
                return Ok(Some(std::mem::replace(&mut self.line, rest)));
            }
            if self.ended || !self.read().await? {
                return Ok(None);
            }
        }
    }

    async fn read(&mut self) -> Result<bool, Failure> {
        match next_piece(&mut self.body, &self.data).await? {
            None => self.ended = true,
            Some(_) if self.line.len() > LINE_BYTES_MAX => {
                return Err(Failure::new(Code::Bug, "the node's answer has a line that is too long"));
            }
            Some(piece) => self.line.extend_from_slice(&piece),
        }
        Ok(!self.ended)
    }
}

/// A line is a run; the last one may be a failure that came too late for the status of the answer.
fn run_or_failure(line: &[u8]) -> Result<TaskRun, Failure> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Line {
        Run(TaskRun),
        Failure(Failure),
    }
    match serde_json::from_slice(line).map_err(|error| unreadable(&error))? {
        Line::Run(run) => Ok(run),
        Line::Failure(failure) => Err(failure),
    }
}

/// Reads a blob and checks it.
#[derive(Debug)]
pub struct BlobReader {
    data: PathBuf,
    body: Incoming,
    hash: Hash,
    hasher: blake3::Hasher,
}

impl BlobReader {
    /// The next piece; `None` after the last, once all of them together are the blob that was asked for.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let piece = next_piece(&mut self.body, &self.data).await?;
        match &piece {
            Some(piece) => {
                self.hasher.update(piece);
            }
            None if self.hasher.finalize().as_bytes() != self.hash.as_bytes() => {
                let message = format!("the bytes that came are not {}", self.hash);
                return Err(
                    Failure::new(Code::Integrity, message).hint("try again; another node may have a whole copy")
                );
            }
            None => {}
        }
        Ok(piece)
    }

    /// Writes all of it; the writer has seen unchecked bytes when this fails.
    pub async fn write_to(mut self, to: &mut (impl tokio::io::AsyncWrite + Unpin)) -> Result<(), Failure> {
        while let Some(piece) = self.next().await? {
            to.write_all(&piece).await.map_err(|error| Failure::caused(Code::Failed, "cannot write", &error))?;
        }
        Ok(())
    }
}

/// The next bytes of a body; trailers are none of ours.
async fn next_piece(body: &mut Incoming, data: &Path) -> Result<Option<Bytes>, Failure> {
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame.map_err(|error| gone(data, &error))?.into_data() {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

fn request(method: Method, path: &str, body: Body) -> Result<Request<Body>, Failure> {
    built(Request::builder().method(method).uri(path), body)
}

fn json_request(path: &str, body: Body) -> Result<Request<Body>, Failure> {
    built(Request::post(path).header(header::CONTENT_TYPE, "application/json"), body)
}

fn built(request: axum::http::request::Builder, body: Body) -> Result<Request<Body>, Failure> {
    let request = request.header(header::HOST, "swarm").body(body);
    request.map_err(|error| Failure::caused(Code::Bug, "the request cannot be built", &error))
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
fn segment(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let encode = |byte: u8| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(encode).collect()
}

fn unreadable(error: &serde_json::Error) -> Failure {
    Failure::caused(Code::Bug, "the node's answer cannot be read", error)
        .hint("swarm version; is the node of the same version?")
}

fn not_running(data: &Path, error: &std::io::Error) -> Failure {
    use std::io::ErrorKind::{ConnectionRefused, NotADirectory, NotFound, PermissionDenied};
    let dir = data.display();
    match error.kind() {
        NotFound | ConnectionRefused => {
            Failure::new(Code::Unreachable, format!("no node is running at {dir}; start one with `swarm start`"))
                .hint(format!("swarm start --data {dir}"))
        }
        PermissionDenied => Failure::new(Code::NotAllowed, format!("the node at {dir} belongs to another user"))
            .hint(format!("ls -ld {dir}   # ask as its owner, or start your own: swarm start")),
        NotADirectory => Failure::new(Code::Unreachable, format!("`{dir}` is not a directory, so no node runs there"))
            .hint("swarm status --node DIR   # with what `swarm start` printed after `data`"),
        _ => Failure::caused(Code::Unreachable, &format!("the node at {dir} cannot be reached"), error),
    }
}

fn gone(data: &Path, error: &hyper::Error) -> Failure {
    let message = format!("the node at {} went away: {}", data.display(), super::causes(error));
    Failure::new(Code::Unreachable, message).hint("swarm status")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::extract::Path as UrlPath;
    use axum::routing::{get, put};

    use super::*;

    /// Serves some routes on the socket of a directory.
    fn serve(data: &Path, router: Router) {
        let listener = socket::listen(data).unwrap();
        tokio::spawn(async { axum::serve(listener, router).await });
    }

    #[tokio::test]
    async fn without_a_node_the_error_says_how_to_start_one() {
        let data = tempfile::tempdir().unwrap();
        let failure = Client::new(data.path()).status().await.unwrap_err();
        assert_eq!(failure.code, Code::Unreachable);
        let dir = data.path().display();
        assert_eq!(failure.message, format!("no node is running at {dir}; start one with `swarm start`"));
    }

    #[tokio::test]
    async fn an_error_of_the_node_arrives_whole() {
        let data = tempfile::tempdir().unwrap();
        let refuse = |UrlPath(id): UrlPath<String>| async move { Failure::new(Code::NotFound, id).hint("swarm ls") };
        serve(data.path(), Router::new().route("/v1/jobs/{id}", get(refuse)));
        let failure = Client::new(data.path()).job("a/b c%é").await.unwrap_err();
        assert_eq!(failure, Failure::new(Code::NotFound, "a/b c%é").hint("swarm ls"));
    }

    #[tokio::test]
    async fn a_blob_that_is_not_what_was_asked_for_is_refused() {
        let data = tempfile::tempdir().unwrap();
        serve(data.path(), Router::new().route("/v1/blobs/{hex}", get(|| async { "forged" })));
        let client = Client::new(data.path());
        let mut sink = Vec::new();
        client.blob(Hash::of(b"forged"), &[]).await.unwrap().write_to(&mut sink).await.unwrap();
        assert_eq!(sink, b"forged");
        let reader = client.blob(Hash::of(b"genuine"), &[]).await.unwrap();
        assert_eq!(reader.write_to(&mut sink).await.unwrap_err().code, Code::Integrity);
    }

    #[tokio::test]
    async fn one_connection_serves_request_after_request() {
        let data = tempfile::tempdir().unwrap();
        let opened = Arc::new(AtomicUsize::new(0));
        let listener = CountingListener(socket::listen(data.path()).unwrap(), opened.clone());
        let router = Router::new().route("/v1/blobs/{hex}", put(|_: Bytes| async {}).head(|| async {}));
        tokio::spawn(async { axum::serve(listener, router).await });
        let client = Client::new(data.path());
        for _ in 0..5 {
            client.put_blob(Hash::of(b""), Body::from("bytes")).await.unwrap();
            assert!(client.has_blob(Hash::of(b"")).await.unwrap());
        }
        // An answer may be seen before its connection is known to be free again, so a second one is possible.
        assert!(opened.load(Ordering::Relaxed) <= 2);
    }

    struct CountingListener(tokio::net::UnixListener, Arc<AtomicUsize>);

    impl axum::serve::Listener for CountingListener {
        type Io = tokio::net::UnixStream;
        type Addr = tokio::net::unix::SocketAddr;

        async fn accept(&mut self) -> (Self::Io, Self::Addr) {
            self.1.fetch_add(1, Ordering::Relaxed);
            axum::serve::Listener::accept(&mut self.0).await
        }

        fn local_addr(&self) -> std::io::Result<Self::Addr> {
            self.0.local_addr()
        }
    }

    #[test]
    fn a_line_of_tasks_may_be_a_late_failure() {
        let failure = Failure::new(Code::NotFound, "gone");
        let line = serde_json::to_vec(&failure).unwrap();
        assert_eq!(run_or_failure(&line), Err(failure));
    }
}
