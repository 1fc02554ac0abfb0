//! `swarm submit` and `swarm validate`: from a job file to a job in the swarm.

use std::io::Read;
use std::path::Path;

use axum::body::Body;
use schemars::JsonSchema;
use serde::Serialize;
use swarm_executor::Engine;
use swarm_protocol::Hash;
use tokio_util::io::ReaderStream;

use super::args::{self, Global};
use super::get::{self, Destination};
use super::logs::{Choice, Printer};
use super::modules;
use super::node::{Node, data_dir};
use super::output::{self, Document, Format, json, print, shown};
use super::wait::{Meanwhile, or_detach, or_give_up, until_over, verdict};
use crate::api::view::{List, Submitted};
use crate::api::{Client, Code, Failure, causes};
use crate::jobfile::{
    self, BlobSource, FaultCode, JOB_FILE_BYTES_MAX, JobFileError, LoadOptions, MODULE_BYTES_MAX, Plan,
};

/// How a module begins.
const MODULE_MAGIC: &[u8; 4] = b"\0asm";
/// What most call a job file.
const USUAL_NAME: &str = "job.toml";
/// Files of a folder among which one of nearly the same name is looked for.
const NAMES_MAX: usize = 1000;
/// Stands for standard input.
const STDIN: &str = "-";
/// Schema of the answer to a submission.
pub(super) const SUBMITTED: &str = "swarm.submitted/1";
/// Schema of a list of [`Validity`].
pub(super) const VALIDITY: &str = "swarm.validate/1";

/// `swarm submit`.
pub(super) async fn submit(global: &Global, args: &args::Submit) -> Result<(), Failure> {
    let mut plan = load(&args.file, args.name.clone(), args.set.clone(), Names::of(global, args.local)?).await?;
    let options = &mut plan.spec.options;
    options.priority = args.priority.unwrap_or(options.priority);
    options.labels.extend(args.labels.iter().cloned());
    let node = Node::open(global, args.local).await?;
    let done = hand_over(global, args, &node, &plan).await;
    node.close().await;
    done
}

async fn hand_over(global: &Global, args: &args::Submit, node: &Node, plan: &Plan) -> Result<(), Failure> {
    let (client, local) = (node.client(), node.is_embedded());
    let submitted = or_give_up(upload_and_submit(client, plan)).await?;
    // Nobody can use the id of an embedded job later, so standard output is left to what its tasks wrote.
    if local {
        eprintln!("{}", submitted.id)
    } else {
        announce(global.output, &submitted)?
    }
    if !(args.wait || args.follow || local || args.get.is_some()) {
        return Ok(());
    }
    let finish = async {
        let mut printer = Printer::new(if local { Choice::as_if_here() } else { Choice::stdout() });
        let meanwhile = if args.follow { Meanwhile::Follow(&mut printer) } else { Meanwhile::Progress };
        let job = until_over(client, &submitted.job, None, meanwhile).await?;
        if args.follow || local {
            printer.print_all(client, &job).await?;
        }
        if let Some(dest) = &args.get {
            get::fetch_all(client, &job, &Destination::open(dest, false)?).await?;
        }
        verdict(client, &job, local).await
    };
    or_detach(&submitted.id, local, finish).await
}

pub(super) fn announce(format: Format, submitted: &Submitted) -> Result<(), Failure> {
    match format {
        Format::Table | Format::Id => print(&format!("{}\n", submitted.id)),
        Format::Json | Format::Jsonl => print(&json(&Document { schema: SUBMITTED, content: submitted })?),
    }
}

/// Reads a job file, or standard input, and everything that it names.
pub(super) async fn load(
    path: &Path,
    name: Option<String>,
    set: Vec<(String, String)>,
    names: Names,
) -> Result<Plan, Failure> {
    try_load(path, name, set, names).await?.map_err(|error| invalid(&error, path))
}

async fn try_load(
    path: &Path,
    name: Option<String>,
    set: Vec<(String, String)>,
    names: Names,
) -> Result<Result<Plan, JobFileError>, Failure> {
    if path == Path::new(STDIN) {
        let text = from_stdin()?;
        return try_parse(text, "standard input", name, set, names).await;
    }
    unless_module(path)?;
    let path = path.to_owned();
    on_thread(move || {
        let resolve = |reference: &str| names.resolve(reference);
        let options = LoadOptions { name, set, nodes: 1, validate: &validate_module, resolve: &resolve };
        jobfile::load(&path, &options)
    })
    .await
}

/// Reads the text of a job file whose paths are relative to the working directory.
pub(super) async fn parse(
    text: String,
    file_name: &'static str,
    names: Names,
) -> Result<Result<Plan, JobFileError>, Failure> {
    try_parse(text, file_name, None, Vec::new(), names).await
}

async fn try_parse(
    text: String,
    file_name: &'static str,
    name: Option<String>,
    set: Vec<(String, String)>,
    names: Names,
) -> Result<Result<Plan, JobFileError>, Failure> {
    on_thread(move || {
        let resolve = |reference: &str| names.resolve(reference);
        let options = LoadOptions { name, set, nodes: 1, validate: &validate_module, resolve: &resolve };
        jobfile::parse(&text, Path::new("."), file_name, &options)
    })
    .await
}

/// Where published modules are looked for.
#[derive(Debug)]
pub(super) enum Names {
    /// At this node.
    Node(Client),
    /// At this node if it runs; otherwise whatever is written is taken for published.
    IfThere(Client),
    /// Nowhere: an embedded swarm begins empty.
    Nowhere,
}

impl Names {
    /// Of the node that a command talks to.
    pub(super) fn of(global: &Global, local: bool) -> Result<Self, Failure> {
        Ok(if local { Self::Nowhere } else { Self::Node(Client::new(&data_dir(global)?)) })
    }

    /// On a thread that may wait.
    fn resolve(&self, reference: &str) -> Result<Hash, String> {
        let ask = |client: &Client| tokio::runtime::Handle::current().block_on(modules::resolve(client, reference));
        match self {
            Self::Node(client) => ask(client).map_err(|failure| failure.message),
            Self::IfThere(client) => match ask(client) {
                Err(failure) if failure.code == Code::Unreachable => Ok(Hash::of(reference.as_bytes())),
                found => found.map_err(|failure| failure.message),
            },
            Self::Nowhere => Err("an embedded swarm has no published modules; name a file".into()),
        }
    }
}

/// Reading inputs and checking modules takes disk and processor time.
async fn on_thread(
    read: impl FnOnce() -> Result<Plan, JobFileError> + Send + 'static,
) -> Result<Result<Plan, JobFileError>, Failure> {
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|error| Failure::caused(Code::Bug, "reading the job file failed", &error))
}

/// What is wrong with a job file, and what to do about it; `path` is what was typed.
fn invalid(error: &JobFileError, path: &Path) -> Failure {
    let failure = Failure::new(Code::Invalid, causes(error));
    let typed = path.display();
    match error {
        JobFileError::Missing(_) => match near(path) {
            Some(near) => failure.hint(format!("did you mean `{near}`? swarm validate {near}")),
            None => failure.hint("ls *.toml   # paths are relative to where you are"),
        },
        JobFileError::Name(_) => {
            Failure { code: Code::Usage, ..failure }.hint(format!("swarm submit {typed} --name my-job"))
        }
        JobFileError::Unreadable { .. } if path.is_dir() => {
            failure.hint(format!("swarm validate {}   # the job file in it", path.join(USUAL_NAME).display()))
        }
        JobFileError::Invalid(problem) => match problem.code() {
            FaultCode::File => failure.hint(format!("paths are relative to the job file; then swarm validate {typed}")),
            FaultCode::Parameter => failure.hint(format!("swarm validate {typed} --set NAME=VALUE")),
            FaultCode::UnknownKey => failure.hint(format!("swarm validate {typed}   # all keys: swarm schema job")),
            _ => failure.hint(format!("mend it, then swarm validate {typed}")),
        },
        _ => failure.hint(format!("swarm validate {typed}")),
    }
}

/// A job file beside a path that is called nearly so.
fn near(path: &Path) -> Option<String> {
    let (name, folder) = (path.file_name()?.to_str()?, path.parent()?);
    let there = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let names = std::fs::read_dir(there).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let names: Vec<String> = names.filter(|name| name.ends_with(".toml")).take(NAMES_MAX).collect();
    let near = names.iter().find(|near| !jobfile::suggestion(name, [near.as_str()]).is_empty())?;
    Some(folder.join(near).display().to_string())
}

/// A module where a job file was expected is run otherwise.
fn unless_module(path: &Path) -> Result<(), Failure> {
    let mut first = [0; MODULE_MAGIC.len()];
    // What can be read only once is left for whoever reads it whole.
    let is_module = path.is_file()
        && std::fs::File::open(path).is_ok_and(|mut file| file.read_exact(&mut first).is_ok())
        && first == *MODULE_MAGIC;
    if !is_module {
        return Ok(());
    }
    let message = format!("`{}` is a WebAssembly module, not a job file", path.display());
    Err(Failure::new(Code::Invalid, message).hint(format!("swarm run {}", path.display())))
}

fn validate_module(bytes: &[u8]) -> Result<(), String> {
    Engine::validate(bytes, MODULE_BYTES_MAX).map_err(|error| causes(&error))
}

fn from_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    let limited = std::io::stdin().lock().take(JOB_FILE_BYTES_MAX as u64 + 1).read_to_string(&mut text);
    limited.map_err(|error| Failure::caused(Code::Invalid, "standard input cannot be read", &error))?;
    Ok(text)
}

/// Gives the node every blob that it lacks, then the job.
pub(super) async fn upload_and_submit(client: &Client, plan: &Plan) -> Result<Submitted, Failure> {
    upload(client, plan).await?;
    client.submit(&plan.spec).await
}

/// Gives the node every blob that it lacks.
pub(super) async fn upload(client: &Client, plan: &Plan) -> Result<(), Failure> {
    for blob in &plan.blobs {
        if !client.has_blob(blob.hash()).await? {
            client.put_blob(blob.hash(), body(blob).await?).await.map_err(|failure| changed(failure, blob))?;
        }
    }
    Ok(())
}

async fn body(blob: &BlobSource) -> Result<Body, Failure> {
    match blob {
        BlobSource::Bytes { bytes, .. } => Ok(Body::from(bytes.clone())),
        BlobSource::File { path, .. } => {
            let what = format!("`{}` cannot be read", path.display());
            let file = tokio::fs::File::open(path).await;
            Ok(Body::from_stream(ReaderStream::new(
                file.map_err(|error| Failure::caused(Code::Invalid, &what, &error))?,
            )))
        }
    }
}

/// A file with another hash than a moment ago was written to meanwhile.
fn changed(failure: Failure, blob: &BlobSource) -> Failure {
    match blob {
        BlobSource::File { path, .. } if failure.code == Code::Integrity => {
            let message = format!("`{}` changed while it was read", path.display());
            Failure::new(Code::Integrity, message).hint("submit it again")
        }
        _ => failure,
    }
}

/// What `validate` says of one file.
#[derive(Serialize, JsonSchema)]
pub(super) struct Validity {
    file: String,
    valid: bool,
    name: String,
    stages: usize,
    tasks: u64,
    /// Why it is not valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Invalidity>,
}

/// What is wrong with a file, and where.
#[derive(Serialize, JsonSchema)]
struct Invalidity {
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<FaultCode>,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
}

impl Invalidity {
    fn of(error: &JobFileError) -> Self {
        match error {
            JobFileError::Invalid(problem) => {
                let (line, column) = problem.position();
                let (code, message) = (Some(problem.code()), problem.message().to_owned());
                Self { code, message, line: Some(line), column: Some(column) }
            }
            other => Self { code: None, message: causes(other), line: None, column: None },
        }
    }
}

impl output::Row for Validity {
    const HEADER: &'static [&'static str] = &["FILE", "VALID", "NAME", "STAGES", "TASKS"];

    fn cells(&self) -> Vec<String> {
        let valid = if self.valid { "yes" } else { "no" };
        vec![shown(&self.file), valid.into(), self.name.clone(), self.stages.to_string(), self.tasks.to_string()]
    }

    fn id(&self) -> String {
        self.name.clone()
    }
}

/// `swarm validate`.
pub(super) async fn validate(global: &Global, args: &args::Validate) -> Result<(), Failure> {
    let (mut items, mut last_failure) = (Vec::new(), None);
    for file in &args.files {
        let names = Names::IfThere(Client::new(&data_dir(global)?));
        let loaded = try_load(file, None, args.set.clone(), names).await?;
        let spec = loaded.as_ref().map(|plan| &plan.spec).ok();
        items.push(Validity {
            file: file.display().to_string(),
            valid: spec.is_some(),
            name: spec.map(|spec| spec.name.clone()).unwrap_or_default(),
            stages: spec.map_or(0, |spec| spec.stages.len()),
            tasks: spec.map_or(0, swarm_protocol::JobSpec::tasks),
            error: loaded.as_ref().err().map(Invalidity::of),
        });
        if let Err(error) = loaded {
            // The last one is told by whoever runs the command.
            last_failure.replace(invalid(&error, file)).iter().for_each(super::complain);
        }
    }
    output::list(global.output, &List::new(VALIDITY, items))?;
    last_failure.map_or(Ok(()), Err)
}
