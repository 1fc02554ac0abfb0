//! What the API says of jobs and their stages.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swarm_protocol::lattice::Counts;
use swarm_protocol::{Elements, JobId, JobSpec, JobState, JobStatus, JobSummary, NodeId, StageSpec};

use super::rfc3339;
use crate::api::ids::short_id;

/// A [`JobState`], for the schema.
#[derive(JsonSchema)]
#[schemars(rename = "JobState", rename_all = "lowercase")]
#[expect(dead_code, reason = "it is only looked at as a type")]
pub(super) enum StateWord {
    /// Tasks are waiting or running.
    Running,
    /// Stopped; the running tasks are being ended.
    Stopping,
    /// Every task succeeded.
    Done,
    /// Over, and not every task succeeded.
    Failed,
    /// Over, because it was cancelled.
    Cancelled,
}

/// Schema of a list of [`JobItem`].
pub const JOBS: &str = "swarm.jobs/1";

/// One job in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobItem {
    /// `NAME-xxxxxx`.
    pub id: String,
    /// 64 hexadecimal digits.
    pub job: String,
    /// Its name.
    pub name: String,
    /// How far it is, in one word.
    #[schemars(with = "StateWord")]
    pub state: JobState,
    /// All tasks.
    pub tasks: u64,
    /// Succeeded.
    pub done: u64,
    /// Failed for good.
    pub failed: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// When it was submitted, by the submitter's clock.
    pub submitted: String,
    /// The node it was handed to.
    pub submitter: String,
    /// For people and filters.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Greater ones are granted first.
    #[serde(default)]
    pub priority: i8,
}

impl JobItem {
    /// The item of a summary.
    pub fn of(summary: &JobSummary) -> Self {
        let (labels, priority) = (summary.labels.clone(), summary.priority);
        let item = Self::new(summary.job, &summary.name, summary.submitted_unix_ms, summary.submitter, &summary.status);
        Self { labels, priority, ..item }
    }

    fn new(job: JobId, name: &str, submitted_unix_ms: u64, submitter: NodeId, status: &JobStatus) -> Self {
        let counts = status.counts();
        Self {
            id: short_id(name, job),
            job: job.to_hex(),
            name: name.into(),
            state: status.state(),
            tasks: status.tasks(),
            done: counts.done.into(),
            failed: counts.failed.into(),
            cancelled: counts.cancelled.into(),
            submitted: rfc3339(submitted_unix_ms),
            submitter: submitter.to_hex(),
            labels: BTreeMap::new(),
            priority: 0,
        }
    }

    /// A state in one word.
    pub fn state_word(state: JobState) -> String {
        format!("{state:?}").to_lowercase()
    }

    /// Tasks that ended in any way.
    pub const fn ended(&self) -> u64 {
        self.done + self.failed + self.cancelled
    }
}

/// Schema of [`JobDetail`].
pub const JOB: &str = "swarm.job/1";

/// A job with its stages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobDetail {
    /// [`JOB`].
    pub schema: String,
    /// What a list says of it.
    #[serde(flatten)]
    pub item: JobItem,
    /// For people.
    pub description: String,
    /// The stages, in the order of the spec.
    pub stages: Vec<StageItem>,
}

impl JobDetail {
    /// The detail of a job.
    pub fn of(job: JobId, spec: &JobSpec, status: &JobStatus) -> Self {
        let none = (0, Counts::default());
        let stage = |(number, stage)| StageItem::of(stage, status.stages.get::<usize>(number).unwrap_or(&none).1);
        Self {
            schema: JOB.into(),
            item: JobItem {
                labels: spec.options.labels.clone(),
                priority: spec.options.priority,
                ..JobItem::new(job, &spec.name, spec.submitted_unix_ms, spec.submitter, status)
            },
            description: spec.description.clone(),
            stages: spec.stages.iter().enumerate().map(stage).collect(),
        }
    }
}

/// One stage of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StageItem {
    /// Its name.
    pub name: String,
    /// Whether it is an array: its tasks are then `NAME[INDEX]`.
    pub array: bool,
    /// All tasks.
    pub tasks: u32,
    /// Succeeded.
    pub done: u32,
    /// Failed for good.
    pub failed: u32,
    /// Cancelled.
    pub cancelled: u32,
    /// Declared outputs.
    pub outputs: Vec<String>,
}

impl StageItem {
    fn of(stage: &StageSpec, counts: Counts) -> Self {
        Self {
            name: stage.name.clone(),
            array: stage.elements != Elements::One,
            tasks: stage.count,
            done: counts.done,
            failed: counts.failed,
            cancelled: counts.cancelled,
            outputs: stage.outputs.iter().map(|output| output.path.clone()).collect(),
        }
    }
}

/// The answer to a submitted job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Submitted {
    /// `NAME-xxxxxx`.
    pub id: String,
    /// 64 hexadecimal digits.
    pub job: String,
}
