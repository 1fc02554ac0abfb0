//! What the API says of why a job is not done.
//!
//! Elsewhere: the reasons are `protocol::reasons`, their words `words`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swarm_protocol::reasons::{Cause, Reason};
use swarm_protocol::{JobId, JobState};

use super::jobs::StateWord;
use crate::api::ids::short_id;
use crate::explain::Explained;
use crate::words;

/// Schema of [`Explanation`].
pub const EXPLANATION: &str = "swarm.explanation/1";

/// Why a job, or some of its tasks, are not done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// [`EXPLANATION`].
    pub schema: String,
    /// `NAME-xxxxxx`.
    pub id: String,
    /// 64 hexadecimal digits.
    pub job: String,
    /// How far it is, in one word.
    #[schemars(with = "StateWord")]
    pub state: JobState,
    /// Succeeded.
    pub done: u64,
    /// All tasks.
    pub tasks: u64,
    /// The root cause first.
    pub reasons: Vec<ReasonItem>,
    /// By stage: groups of tasks that were not asked about, as those asked stand for them.
    #[serde(default)]
    pub not_asked: BTreeMap<String, u32>,
    /// What to type next.
    pub next: String,
}

/// One reason: its words, and the evidence, whose fields depend on `cause`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReasonItem {
    /// In words.
    pub text: String,
    /// `cause`, `stage`, `tasks`, `first` and what belongs to the cause.
    #[serde(flatten)]
    pub evidence: serde_json::Map<String, serde_json::Value>,
}

impl Explanation {
    /// The explanation of a job, at a time in milliseconds since 1970.
    pub fn of(job: JobId, explained: &Explained, now_unix_ms: u64) -> Self {
        let Explained { spec, status, reasons, not_asked } = explained;
        let id = short_id(&spec.name, job);
        let item = |reason: &Reason| ReasonItem {
            text: words::reason(reason, now_unix_ms),
            evidence: match serde_json::to_value(reason) {
                Ok(serde_json::Value::Object(evidence)) => evidence,
                _ => serde_json::Map::new(),
            },
        };
        Self {
            schema: EXPLANATION.into(),
            next: next(reasons.first().map(|reason| &reason.cause), &id, status.state()),
            job: job.to_hex(),
            state: status.state(),
            done: status.counts().done.into(),
            tasks: status.tasks(),
            reasons: reasons.iter().map(item).collect(),
            not_asked: not_asked.clone(),
            id,
        }
    }
}

/// What to type next.
fn next(first: Option<&Cause>, id: &str, state: JobState) -> String {
    match first {
        Some(Cause::Failed { .. } | Cause::TooManyFailed { .. } | Cause::NeedFailed { .. }) if state.is_over() => {
            format!("swarm retry {id} --failed   # what it wrote: swarm logs {id} --failed")
        }
        Some(Cause::Cancelled) => format!("swarm retry {id}"),
        Some(Cause::Behind { name, job, .. }) => {
            format!("swarm show {name}-{}", job.chars().take(6).collect::<String>())
        }
        Some(Cause::Running { .. }) => format!("swarm logs {id} --follow"),
        Some(Cause::Done) => format!("swarm logs {id}"),
        Some(
            Cause::NoNode { .. }
            | Cause::NodesGone { .. }
            | Cause::Unreachable { .. }
            | Cause::NoArbiter { .. }
            | Cause::Preparing { .. }
            | Cause::LeasedToLost { .. }
            | Cause::BlobsMissing
            | Cause::Busy { .. }
            | Cause::NotAcknowledged { .. },
        ) => "swarm nodes".into(),
        _ if state.is_over() => format!("swarm show {id} --tasks"),
        _ => format!("swarm wait {id}"),
    }
}
