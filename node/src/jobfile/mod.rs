//! `job.toml`: from the text a user wrote to a [`JobSpec`] and the blobs it names.
//!
//! Always true of a [`Plan`]: the spec passes its own check, every hash in it was computed from bytes that were read,
//! and every blob it names is either in the plan or was given in the file as `blake3:HEX`. What is wrong is refused
//! here with the place where it was written, before anything is sent.
//!
//! The way through: `tree` reads the text, `keys` says which keys there are, `draft` reads one task table with the
//! help of `elements`, `inputs`, `settings` and `blobs`, and `stages` puts the tasks in order.
//!
//! Elsewhere: signing and submitting is the node's; `template` is also used wherever a task is run.

mod blobs;
mod conditions;
mod draft;
mod elements;
mod error;
mod inputs;
mod keys;
mod params;
mod schema;
mod settings;
mod stages;
mod template;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use swarm_protocol::{
    Hash, JOB_SPEC_BYTES_MAX, JOB_SPEC_VERSION, JobOptions, JobSpec, LABELS_MAX, NodeId, PRIORITIES, STAGES_MAX,
    StageSpec, codec,
};

pub use blobs::{BlobSource, GLOB_FILES_MAX, LIST_BYTES_MAX, MODULE_BYTES_MAX};
pub use error::{FaultCode, JobFileError, Problem};
pub use schema::schema;
pub use template::{Names, Params, RenderError, STRING_BYTES_MAX, names, render};

pub(crate) use error::{Fault, suggestion};

use blobs::Blobs;
use draft::Draft;
use tree::{Table, Value};

/// Bytes of a job file: the spec it becomes is smaller, so more would be refused anyhow.
pub const JOB_FILE_BYTES_MAX: usize = 1024 * 1024;
/// The version of the format that is read.
const VERSION: i64 = 1;
/// A name or description fits a screen.
const DESCRIPTION_BYTES_MAX: usize = 4096;
/// Below a minute nobody could fetch the results; what is to be kept for years belongs elsewhere.
const KEEP: std::ops::RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(366 * 24 * 3600);

/// Says whether bytes are a module that can be run, and why not.
pub type Validate<'a> = dyn Fn(&[u8]) -> Result<(), String> + 'a;

/// Says which module a published name such as `sh.example.loudify@1` means, or why none.
pub type Resolve<'a> = dyn Fn(&str) -> Result<Hash, String> + 'a;

/// What the reader of a job file is told besides the file.
pub struct LoadOptions<'a> {
    /// Takes the place of the job's own name.
    pub name: Option<String>,
    /// Values of parameters.
    pub set: Vec<(String, String)>,
    /// Nodes in the swarm: decides how finely stages are cut.
    pub nodes: usize,
    /// The check that each module must pass.
    pub validate: &'a Validate<'a>,
    /// Finds published modules.
    pub resolve: &'a Resolve<'a>,
}

/// A job that is ready to be signed and submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The job. Its `submitter`, `submitted_unix_ms` and `nonce` are zero until a node takes it on.
    pub spec: JobSpec,
    /// Every blob that the job needs and that is at hand, once each, by hash: `spec.blobs` too, which is the list of
    /// all the others and of those named in the file as `blake3:HEX`.
    pub blobs: Vec<BlobSource>,
}

/// Reads the job file at `path`; the paths in it are relative to its folder.
pub fn load(path: &Path, options: &LoadOptions<'_>) -> Result<Plan, JobFileError> {
    let file_name = path.display().to_string();
    let bytes = read(path)?;
    if bytes.len() > JOB_FILE_BYTES_MAX {
        return Err(JobFileError::TooLarge(file_name));
    }
    let text = String::from_utf8(bytes).map_err(|_| JobFileError::NotText(file_name.clone()))?;
    parse(
        &text,
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")),
        &file_name,
        options,
    )
}

fn read(path: &Path) -> Result<Vec<u8>, JobFileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => JobFileError::Missing(path.to_owned()),
        _ => JobFileError::Unreadable { path: path.to_owned(), source },
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(JOB_FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Reads the text of a job file. Paths in it are relative to `base`; `file_name` is what errors call it.
pub fn parse(text: &str, base: &Path, file_name: &str, options: &LoadOptions<'_>) -> Result<Plan, JobFileError> {
    if text.len() > JOB_FILE_BYTES_MAX {
        return Err(JobFileError::TooLarge(file_name.to_owned()));
    }
    if let Some(name) = options.name.as_ref().filter(|name| !is_job_name(name)) {
        return Err(JobFileError::Name(name.clone()));
    }
    plan(text, base, options).map_err(|fault| fault.in_file(text, file_name))
}

fn plan(text: &str, base: &Path, options: &LoadOptions<'_>) -> Result<Plan, Fault> {
    let mut job = tree::parse(text)?;
    check_version(&job)?;
    keys::JOB.check(&job)?;
    let params = params::read(&job, &options.set)?;
    params::fill_in(&mut job, &params)?;
    let (name, description) = (name(&job, options)?, description(&job)?);
    let mut job_options = job_options(&job)?;
    let mut blobs = Blobs::new(base, options);
    let drafts = drafts(&job, &mut blobs)?;
    let order = stages::order(&drafts)?;
    let params = Params::new(params);
    let stages = stages::build(drafts, &order, options.nodes, &params)?;
    job_options.params = Params::unwrap_or_clone(params);
    let source = blobs.bytes(text.as_bytes().to_vec());
    let (list, sources) = blobs.finish();
    let spec = JobSpec {
        version: JOB_SPEC_VERSION,
        name,
        description,
        submitter: NodeId::from_bytes([0; 32]),
        submitted_unix_ms: 0,
        nonce: 0,
        source: Some(source),
        blobs: list,
        failures_max: job.get("max_failures").map_or(Ok(tolerated(&stages)), |value| max_failures(value, &stages))?,
        stages,
        options: job_options,
    };
    check_spec(&spec, &job)?;
    Ok(Plan { spec, blobs: sources })
}

/// What is said of the job as a whole.
fn job_options(job: &Table) -> Result<JobOptions, Fault> {
    let mut options = JobOptions::default();
    for entry in &job.entries {
        let value = &entry.value;
        match entry.key.as_str() {
            "namespace" => options.namespace = namespace(value)?,
            "labels" => options.labels = labels(value)?,
            "priority" => {
                let range = i64::from(*PRIORITIES.start())..=i64::from(*PRIORITIES.end());
                options.priority = value.integer(range).map(|priority| i8::try_from(priority).unwrap_or(0))?;
            }
            "max_parallel" => {
                let most = value.integer(1..=i64::from(u32::MAX))?;
                options.parallel_max = Some(u32::try_from(most).unwrap_or(u32::MAX));
            }
            "keep" => options.keep_ms = value.duration_ms(KEEP)?,
            _ => {}
        }
    }
    Ok(options)
}

fn namespace(value: &Value) -> Result<String, Fault> {
    let text = value.plain()?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let part = |part: &str| !part.is_empty() && part.chars().all(plain);
    let rule = "a namespace is words of a-z, 0-9 and - with dots between them, up to 127 characters";
    let valid = text.len() <= 127 && text.split('.').all(part);
    if valid { Ok(text.to_owned()) } else { Err(value.fault(format!("`{text}` is not valid: {rule}"))) }
}

fn labels(value: &Value) -> Result<BTreeMap<String, String>, Fault> {
    let table = value.table("{ team = \"art\" }")?;
    if table.entries.len() > LABELS_MAX {
        return Err(value.fault(format!("a job has at most {LABELS_MAX} labels")).coded(FaultCode::Limit));
    }
    let label = |entry: &tree::Entry| {
        let text = entry.value.plain()?;
        let rule = || format!("label `{}` must be 1 to 63 characters without `=`, its value up to 255", entry.key);
        let valid = (1..=63).contains(&entry.key.len()) && !entry.key.contains('=') && text.len() <= 255;
        if valid { Ok((entry.key.clone(), text.to_owned())) } else { Err(Fault::new(&entry.key_span, rule())) }
    };
    table.entries.iter().map(label).collect()
}

/// Failures that are allowed when nothing is said: none, but for stages whose failures another stage waits for.
fn tolerated(stages: &[StageSpec]) -> u32 {
    let handled = |at: u16| {
        stages.iter().any(|stage| stage.options.needs_finished.contains(&at))
            && !stages.iter().any(|stage| stage.needs.contains(&at) && !stage.options.needs_finished.contains(&at))
    };
    let counts = (0..).zip(stages).filter(|(at, _)| handled(*at)).map(|(_, stage)| stage.count);
    counts.fold(0, u32::saturating_add)
}

/// The version decides what all other keys mean, so it is looked at before them.
fn check_version(job: &Table) -> Result<(), Fault> {
    let Some(value) = job.get("version") else { return Ok(()) };
    match value.as_integer() {
        Some(VERSION) => Ok(()),
        Some(other) => Err(value.fault(format!("version {other} is unknown; this program reads version {VERSION}"))),
        None => Err(value.mismatch("an integer")),
    }
}

fn is_job_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&name.len()) && name.chars().all(plain)
}

fn name(job: &Table, options: &LoadOptions<'_>) -> Result<String, Fault> {
    let message = "the job has no name: write name = \"…\" at the top";
    let missing = || Fault::new(&(0..0), message).coded(FaultCode::Missing);
    let written = job.get("name").map(|value| (value, value.plain()));
    match (written, &options.name) {
        (Some((_, Err(fault))), _) => Err(fault),
        (Some((value, Ok(name))), _) if !is_job_name(name) => {
            let rule = "a job name has 1 to 63 of the characters a-z, 0-9 and -";
            Err(value.fault(format!("the name `{name}` is not valid: {rule}")))
        }
        (_, Some(name)) => Ok(name.clone()),
        (Some((_, Ok(name))), None) => Ok(name.to_owned()),
        (None, None) => Err(missing()),
    }
}

fn description(job: &Table) -> Result<String, Fault> {
    let Some(value) = job.get("description") else { return Ok(String::new()) };
    let text = value.plain()?;
    let too_long = || value.fault(format!("the description is over {DESCRIPTION_BYTES_MAX} bytes"));
    if text.len() > DESCRIPTION_BYTES_MAX { Err(too_long()) } else { Ok(text.to_owned()) }
}

/// A count, or a share of all tasks rounded down.
fn max_failures(value: &Value, stages: &[StageSpec]) -> Result<u32, Fault> {
    if value.as_integer().is_some() {
        return value.integer(0..=i64::from(u32::MAX)).map(|count| u32::try_from(count).unwrap_or(u32::MAX));
    }
    let unclear = || value.fault("`max_failures` must be a number of tasks, or a share of them such as \"5%\"");
    value.as_text().ok_or_else(|| unclear().coded(FaultCode::Type))?;
    let share = value.as_text().and_then(|text| text.trim().strip_suffix('%')).ok_or_else(unclear)?;
    let share: f64 = share.trim().parse().map_err(|_| unclear())?;
    if !(0.0..=100.0).contains(&share) {
        return Err(value.fault("`max_failures` must be 0% to 100% of the tasks"));
    }
    let tasks: u64 = stages.iter().map(|stage| u64::from(stage.count)).sum();
    // A float cast saturates; 2^24 tasks in 256 stages are exact in 53 bits.
    Ok((tasks as f64 * share / 100.0).floor() as u32)
}

fn drafts(job: &Table, blobs: &mut Blobs<'_>) -> Result<Vec<Draft>, Fault> {
    let defaults = job.get("defaults").map(|value| value.table("{ retry = 3 }")).transpose()?;
    defaults.map_or(Ok(()), keys::check_defaults)?;
    let message = "the job has no task: write a `[task.NAME]` table with its `wasm`";
    let none = || Fault::new(&(0..0), message).coded(FaultCode::Missing);
    let tasks = job.get("task").ok_or_else(none)?;
    let table = tasks.table("[task.NAME]")?;
    match table.entries.len() {
        0 => Err(none()),
        1..=STAGES_MAX => table.entries.iter().map(|entry| draft::read(entry, defaults, blobs)).collect(),
        many => {
            let at = &table.entries[STAGES_MAX].key_span;
            let message = format!("the job has {many} task tables, and at most {STAGES_MAX} are possible");
            Err(Fault::new(at, message).coded(FaultCode::Limit))
        }
    }
}

/// What only the whole spec shows. The largest stage is to blame for its size.
fn check_spec(spec: &JobSpec, job: &Table) -> Result<(), Fault> {
    spec.check().map_err(|error| Fault::new(&(0..0), error.to_string()))?;
    let bytes = codec::encode(spec).len();
    if bytes <= JOB_SPEC_BYTES_MAX {
        return Ok(());
    }
    let largest = spec.stages.iter().max_by_key(|stage| codec::encode(stage).len()).map(|stage| stage.name.as_str());
    let tasks = job.get("task").and_then(Value::as_table);
    let entry = largest.and_then(|name| tasks?.entry(name));
    let hint = "move long lists into files: `each`, or an input";
    let message = format!("the job is {bytes} bytes, and at most {JOB_SPEC_BYTES_MAX} are possible; {hint}");
    Err(Fault::new(&entry.map_or(0..0, |entry| entry.key_span.clone()), message).coded(FaultCode::Limit))
}
