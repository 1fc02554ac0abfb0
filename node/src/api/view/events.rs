//! What the API says of events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swarm_protocol::{Happened, Range, ShardId, TaskChange};

use super::rfc3339;
use crate::clock::unix_ms;
use crate::events::{Numbered, What};

/// Schema of [`EventItem`], and of a list of them.
pub const EVENTS: &str = "swarm.events/1";

/// Something that a node heard of. Fields that do not belong to its `kind` are absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventItem {
    /// Grows with every event of this node; the same number never names two events of one data directory.
    pub seq: u64,
    /// When, by this node's clock.
    pub at: String,
    /// `node_started`, `job_known`, `job_stopped`, `job_over`, `job_expired`, `tasks_granted`, `tasks_done`, `tasks_failed`,
    /// `tasks_cancelled`, `attempts_failed`, `tasks_changed` (several of these), `node_alive`, `node_suspect`, `node_down`,
    /// `node_draining`, or `gap`: events before `seq` are gone.
    pub kind: String,
    /// The job: 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The name of the job or node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The node: 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Position of the stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<u16>,
    /// Its name; absent in events of earlier versions, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage_name: Option<String>,
    /// The tasks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskRange>,
    /// Why a job was stopped: `cancelled` or `failures`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// Neighbouring tasks of one stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskRange {
    /// The first one's index.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// What became of them; absent in `tasks_granted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
}

impl EventItem {
    /// The item of an event.
    pub fn of(event: &Numbered) -> Self {
        let item = Self { seq: event.seq, at: rfc3339(event.at_unix_ms), ..Self::default() };
        match &event.what {
            What::Started => Self { kind: "node_started".into(), ..item },
            What::JobOver(job) => Self { kind: "job_over".into(), job: Some(job.to_hex()), ..item },
            What::Granted { shard, stage, tasks } => {
                let range = |range: &Range| TaskRange { first: range.first, count: range.count, change: None };
                item.about(*shard, stage, "tasks_granted", tasks.iter().map(range).collect())
            }
            What::Node { node, name, state } => {
                let kind = format!("node_{}", format!("{state:?}").to_lowercase());
                Self { kind, node: Some(node.to_hex()), name: Some(name.clone()), ..item }
            }
            What::Core(happened) => item.happened(happened),
        }
    }

    /// That events before this number are gone.
    pub fn gap(first: u64) -> Self {
        Self { seq: first.saturating_sub(1), kind: "gap".into(), at: rfc3339(unix_ms()), ..Self::default() }
    }

    fn happened(self, happened: &Happened) -> Self {
        match happened {
            Happened::JobKnown { job, name } => {
                Self { kind: "job_known".into(), job: Some(job.to_hex()), name: Some(name.clone()), ..self }
            }
            Happened::JobStopped { job, cause } => {
                let cause = Some(format!("{cause:?}").to_lowercase());
                Self { kind: "job_stopped".into(), job: Some(job.to_hex()), cause, ..self }
            }
            Happened::JobExpired(job) => Self { kind: "job_expired".into(), job: Some(job.to_hex()), ..self },
            Happened::Tasks { shard, stage, tasks } => {
                let mut kinds: Vec<TaskChange> = tasks.iter().map(|(_, change)| *change).collect();
                kinds.sort_unstable();
                kinds.dedup();
                let kind = if let [one] = kinds.as_slice() { change_kind(*one) } else { "tasks_changed" };
                let range = |(range, change): &(Range, TaskChange)| TaskRange {
                    first: range.first,
                    count: range.count,
                    change: Some(change_kind(*change).into()),
                };
                self.about(*shard, stage, kind, tasks.iter().map(range).collect())
            }
        }
    }

    fn about(self, shard: ShardId, stage: &str, kind: &str, tasks: Vec<TaskRange>) -> Self {
        let stage_name = (!stage.is_empty()).then(|| stage.to_owned());
        let job = Some(shard.job.to_hex());
        Self { kind: kind.into(), job, stage: Some(shard.stage), stage_name, tasks, ..self }
    }
}

const fn change_kind(change: TaskChange) -> &'static str {
    match change {
        TaskChange::Done => "tasks_done",
        TaskChange::Failed => "tasks_failed",
        TaskChange::Cancelled => "tasks_cancelled",
        TaskChange::AttemptFailed => "attempts_failed",
    }
}
