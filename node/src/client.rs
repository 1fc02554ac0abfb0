//! Client: the interface for Rust programs that run a node inside themselves.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use swarm_node::{Client, Runtime, RuntimeOptions};
//!
//! let runtime = Runtime::start(RuntimeOptions::new("/var/lib/swarm")).await?;
//! let client = Client::new(runtime.handle());
//! let job = client.load("job.toml").await?;
//! let id = client.submit(&job).await?;
//! for result in client.results(id).await? {
//!     println!("{}[{}]: {}", result.stage, result.index, result.ending);
//! }
//! runtime.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! Always true: a job that [`Client::submit`] returned is acknowledged, and from then on it is not lost with this process;
//! bytes that [`Client::stdout`] and [`Client::file`] return were verified.
//!
//! Elsewhere: the way to a node in another process is `api::Client`, over its socket; what a job is made of is `jobfile`.

use std::fs;
use std::path::{Path, PathBuf};

use futures::{StreamExt, stream};
use swarm_executor::{Engine, MODULE_BYTES_MAX};
use swarm_protocol::lattice::End;
use swarm_protocol::{Content, Ending, Hash, JobId, JobStatus, MemberState, NodeId, OutputFile, ShardId};
use swarm_store::BlobError;
use tokio::sync::watch;

use crate::api::causes;
use crate::commands::CommandError;
use crate::events::What;
use crate::handle::{Handle, blocking};
use crate::jobfile::{self, BlobSource, JobFileError, LoadOptions, Plan};
use crate::modules::{self, Reference, ReferenceError};

/// Jobs of one call that are on their way at once: enough to share syncs and round trips.
const SUBMITS_AT_ONCE: usize = 64;
/// The most that is read into memory of one output.
const READ_BYTES_MAX: u64 = 1 << 30;
/// Events looked at in one step.
const EVENTS_AT_ONCE: usize = 1024;

/// Why a job was not made or not handed over.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The job file.
    #[error(transparent)]
    JobFile(#[from] JobFileError),
    /// A file that it names cannot be read now.
    #[error("read `{path}`")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it was when the job file was read.
    #[error("`{path}` has changed since the job was made")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The node.
    #[error(transparent)]
    Node(#[from] CommandError),
}

/// What became of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskResult {
    /// The stage's name.
    pub stage: String,
    /// The task's index in it.
    pub index: u32,
    /// How it ended; [`Ending::Cancelled`] when its job was stopped first.
    pub ending: Ending,
    /// Standard output.
    pub stdout: Content,
    /// Standard error.
    pub stderr: Content,
    /// Declared files.
    pub outputs: Vec<OutputFile>,
    /// Nodes that hold what is not in place.
    pub holders: Vec<NodeId>,
}

/// What a program may do with the swarm through its own node. Cheap to clone.
#[derive(Clone)]
pub struct Client(Handle);

impl Client {
    /// A client of this node.
    pub fn new(node: &Handle) -> Self {
        Self(node.clone())
    }

    /// Reads a job file, with the files that it names. Nothing is sent.
    pub async fn load(&self, path: impl AsRef<Path>) -> Result<Plan, ClientError> {
        let (path, node) = (path.as_ref().to_owned(), self.clone());
        Ok(blocking(move || node.with_options(|options| jobfile::load(&path, options))).await?)
    }

    /// Makes a job of the text of a job file. Paths in it are relative to `base`; modules may be named as they were published.
    pub async fn parse(&self, text: &str, base: impl AsRef<Path>) -> Result<Plan, ClientError> {
        let (text, base, node) = (text.to_owned(), base.as_ref().to_owned(), self.clone());
        Ok(blocking(move || node.with_options(|options| jobfile::parse(&text, &base, "job", options))).await?)
    }

    /// Hands a job to the swarm; returns once it is acknowledged.
    pub async fn submit(&self, job: &Plan) -> Result<JobId, ClientError> {
        for blob in &job.blobs {
            self.store(blob).await?;
        }
        Ok(self.0.submit(job.spec.clone()).await?)
    }

    /// Hands over many jobs at once; the answers are in their order.
    pub async fn submit_all(&self, jobs: &[Plan]) -> Vec<Result<JobId, ClientError>> {
        stream::iter(jobs).map(|job| self.submit(job)).buffered(SUBMITS_AT_ONCE).collect().await
    }

    /// How far a job is.
    pub async fn status(&self, job: JobId) -> Result<JobStatus, ClientError> {
        Ok(self.0.job(job).await?.1)
    }

    /// How far a job is, as that changes. Closed when it is over, or when this node lost sight of it: ask again then.
    pub async fn watch(&self, job: JobId) -> Result<watch::Receiver<JobStatus>, ClientError> {
        let status = self.status(job).await?;
        Ok(self.0.watchers().watch(job, status).await?)
    }

    /// Waits until a job is over.
    pub async fn wait(&self, job: JobId) -> Result<JobStatus, ClientError> {
        Ok(self.0.wait(job).await?)
    }

    /// Cancels a job; returns once the stop is on enough nodes.
    pub async fn cancel(&self, job: JobId) -> Result<(), ClientError> {
        Ok(self.0.cancel(job).await?)
    }

    /// Waits until a job is over, and returns what became of each task, stage by stage. Of a job of many millions of tasks
    /// [`Handle::shard_runs`] gives them shard by shard.
    pub async fn results(&self, job: JobId) -> Result<Vec<TaskResult>, ClientError> {
        let status = self.0.wait(job).await?;
        let (spec, _) = self.0.job(job).await?;
        let mut results = Vec::new();
        for shard in spec.shards(job).collect::<Vec<ShardId>>() {
            let view = self.0.shard(&spec, &status, shard).await?;
            let stage = &spec.stages[usize::from(shard.stage)].name;
            for run in view.runs {
                results
                    .extend(run.range.indexes().filter_map(|index| task_result(stage, index, run.state.end.as_ref())));
            }
        }
        Ok(results)
    }

    /// What a task wrote to standard output.
    pub async fn stdout(&self, result: &TaskResult) -> Result<Vec<u8>, ClientError> {
        self.content(&result.stdout, &result.holders).await
    }

    /// What a task wrote to standard error.
    pub async fn stderr(&self, result: &TaskResult) -> Result<Vec<u8>, ClientError> {
        self.content(&result.stderr, &result.holders).await
    }

    /// A declared file that a task left.
    pub async fn file(&self, result: &TaskResult, file: &OutputFile) -> Result<Vec<u8>, ClientError> {
        self.blob(file.hash, &result.holders).await
    }

    /// The jobs whose end this node hears of from now on, or that followed event `since`.
    pub fn completions(&self, since: Option<u64>) -> Completions {
        let events = self.0.events().clone();
        let cursor = since.unwrap_or_else(|| *events.watch().borrow());
        Completions { news: events.watch(), events, cursor, waiting: Vec::new() }
    }

    /// The node, for all else.
    pub fn node(&self) -> &Handle {
        &self.0
    }

    fn nodes(&self) -> usize {
        self.0.members().iter().filter(|member| member.state == MemberState::Alive).count()
    }

    /// Reads something with what this node knows; on a thread that may wait.
    fn with_options(
        &self,
        read: impl FnOnce(&LoadOptions<'_>) -> Result<Plan, JobFileError>,
    ) -> Result<Plan, JobFileError> {
        let validate = |wasm: &[u8]| Engine::validate(wasm, MODULE_BYTES_MAX).map_err(|error| causes(&error));
        let resolve = |name: &str| tokio::runtime::Handle::current().block_on(self.published(name));
        let nodes = self.nodes();
        read(&LoadOptions { name: None, set: Vec::new(), nodes, validate: &validate, resolve: &resolve })
    }

    /// The published module that a name such as `sh.example.loudify@1` means, or why none.
    async fn published(&self, name: &str) -> Result<Hash, String> {
        let wanted: Reference = name.parse().map_err(|error: ReferenceError| error.to_string())?;
        let registry = self.0.modules(&wanted.name).await.map_err(|error| causes(&error))?;
        let record = modules::resolve(&registry, &wanted).map_err(|error| error.to_string())?;
        match record.extensions.as_slice() {
            [] => Ok(record.wasm),
            needs => Err(format!("it needs {}, which no node offers", needs.join(", "))),
        }
    }

    async fn store(&self, blob: &BlobSource) -> Result<(), ClientError> {
        let (blobs, blob) = (self.0.blobs().clone(), blob.clone());
        blocking(move || {
            if blobs.contains(blob.hash()) && blobs.claim(blob.hash()) {
                return Ok(());
            }
            let (hash, stored) = match blob {
                BlobSource::Bytes { hash, bytes } => (hash, blobs.put(&bytes)),
                BlobSource::File { hash, path, .. } => {
                    let bytes = fs::read(&path).map_err(|source| ClientError::File { path: path.clone(), source })?;
                    if Hash::of(&bytes) != hash {
                        return Err(ClientError::Changed { path });
                    }
                    (hash, blobs.put(&bytes))
                }
            };
            let stored = stored.map_err(CommandError::from)?;
            debug_assert_eq!(stored, hash);
            Ok(())
        })
        .await
    }

    async fn content(&self, content: &Content, holders: &[NodeId]) -> Result<Vec<u8>, ClientError> {
        match content {
            Content::Inline(bytes) => Ok(bytes.clone()),
            Content::Blob { hash, .. } => self.blob(*hash, holders).await,
        }
    }

    async fn blob(&self, hash: Hash, holders: &[NodeId]) -> Result<Vec<u8>, ClientError> {
        self.0.ensure_blob(hash, holders.to_vec()).await?;
        let blobs = self.0.blobs().clone();
        let read: Result<Vec<u8>, BlobError> = blocking(move || blobs.read(hash, READ_BYTES_MAX)).await;
        Ok(read.map_err(CommandError::from)?)
    }
}

/// Jobs that end, one by one. One that this process heard of twice, as after a restart, may come twice.
pub struct Completions {
    events: crate::events::Events,
    news: watch::Receiver<u64>,
    cursor: u64,
    waiting: Vec<(u64, JobId)>,
}

impl Completions {
    /// The next job that is over, with the number to give to [`Client::completions`] to go on after it. `None` when the
    /// node has stopped.
    pub async fn next(&mut self) -> Option<(u64, JobId)> {
        loop {
            if !self.waiting.is_empty() {
                return Some(self.waiting.remove(0));
            }
            self.news.mark_unchanged();
            let read = self.events.after(Some(self.cursor), EVENTS_AT_ONCE);
            self.cursor = read.cursor;
            let over = read.events.iter().filter_map(|event| match event.what {
                What::JobOver(job) => Some((event.seq, job)),
                _ => None,
            });
            self.waiting = over.collect();
            if read.events.is_empty() {
                self.news.changed().await.ok()?;
            }
        }
    }
}

fn task_result(stage: &str, index: u32, end: Option<&End>) -> Option<TaskResult> {
    let none = |ending| TaskResult {
        stage: stage.into(),
        index,
        ending,
        stdout: Content::EMPTY,
        stderr: Content::EMPTY,
        outputs: Vec::new(),
        holders: Vec::new(),
    };
    Some(match end? {
        End::Cancelled => none(Ending::Cancelled),
        End::Done(results) | End::Exhausted(results) => {
            let outcome = results.outcome();
            TaskResult {
                stdout: outcome.stdout.clone(),
                stderr: outcome.stderr.clone(),
                outputs: outcome.outputs.clone(),
                holders: results.holders().collect(),
                ..none(outcome.ending.clone())
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use swarm_protocol::JobState;
    use swarm_protocol::modules::{MODULE_FACT_VERSION, ModuleRecord, ModuleVersion};

    use super::*;
    use crate::runtime::{Runtime, RuntimeOptions};

    const DEADLINE: Duration = Duration::from_secs(60);

    fn record(client: &Client, wasm: Hash, version: &str, extensions: &[&str]) -> ModuleRecord {
        let id = ModuleVersion { name: "sh.example.rest".into(), version: version.into(), publisher: client.0.node() };
        ModuleRecord {
            format: MODULE_FACT_VERSION,
            id,
            wasm,
            len: 0,
            description: String::new(),
            extensions: extensions.iter().map(|&name| name.to_owned()).collect(),
            permissions: Vec::new(),
            published_unix_ms: 0,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_job_may_name_a_module_as_it_was_published() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::start(RuntimeOptions::embedded(dir.path())).await.unwrap();
        let client = Client::new(runtime.handle());
        let wasm = wat::parse_str("(module (memory (export \"memory\") 1) (func (export \"_start\")))").unwrap();
        let wasm = runtime.handle().put_blob(wasm).await.unwrap();
        runtime.handle().publish_module(record(&client, wasm, "1.0.0", &[])).await.unwrap();
        runtime.handle().publish_module(record(&client, wasm, "2.0.0", &["space"])).await.unwrap();
        let text = |name: &str| format!("name = \"named\"\n[task.x]\nwasm = \"{name}\"\narray = \"0..3\"\n");
        let job = client.parse(&text("sh.example.rest@1"), dir.path()).await.unwrap();
        let id = client.submit(&job).await.unwrap();
        let over = tokio::time::timeout(DEADLINE, client.wait(id)).await.unwrap().unwrap();
        assert_eq!(over.state(), JobState::Done);
        for (name, said) in [
            ("sh.example.rest@3", "no version of `sh.example.rest` fits"),
            ("sh.example.rest@2", "it needs space"),
            ("sh.example.other@1", "no module `sh.example.other`"),
        ] {
            let refused = client.parse(&text(name), dir.path()).await.unwrap_err();
            assert!(refused.to_string().contains(said), "{name}: {refused}");
        }
        runtime.shutdown().await;
    }
}
