//! What the API says: one type a document, the same for the server, the client and `-o json`.
//!
//! Always true: a document names its schema, and a schema only ever gains fields. Times are RFC 3339; `*_ms` and
//! `*_bytes` are integers.

mod blobs;
mod events;
mod explanation;
mod jobs;
mod modules;
mod nodes;
mod tasks;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swarm_protocol::Hash;

pub use self::blobs::{BLOB, BLOBS, BlobItem, BlobStat, COLLECTED, CollectedBlobs, STORED, Stored, VERIFIED};
pub use self::events::{EVENTS, EventItem, TaskRange};
pub use self::explanation::{EXPLANATION, Explanation, ReasonItem};
pub use self::jobs::{JOB, JOBS, JobDetail, JobItem, StageItem, Submitted};
pub use self::modules::{MODULES, ModuleItem, PublishModule, YankModule};
pub use self::nodes::{DRAINED, Drained, NODE, NODES, NodeItem, NodeStatus, STATUS, Scrub, Transfers};
pub use self::tasks::{Bytes, Ended, NEWS, Output, RUNNING, RunningTask, TaskNews, TaskRun};

/// A list of things.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct List<T> {
    /// Names the form of the items, as `swarm.nodes/1`.
    pub schema: String,
    /// The things.
    pub items: Vec<T>,
}

impl<T> List<T> {
    /// A list of a schema.
    pub fn new(schema: &str, items: Vec<T>) -> Self {
        Self { schema: schema.into(), items }
    }
}

/// The node sent a document that this program cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node's answer has no valid {0}")]
pub struct BadDocument(&'static str);

/// Reads the 64 digits of a hash in a document.
pub fn parse_hash(hex: &str) -> Result<Hash, BadDocument> {
    Hash::from_hex(hex).map_err(|_| BadDocument("hash"))
}

/// Milliseconds since 1970 as RFC 3339 in UTC; a time that no calendar has is shown as the epoch.
pub(in crate::api) fn rfc3339(unix_ms: u64) -> String {
    let timestamp = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    timestamp.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}
