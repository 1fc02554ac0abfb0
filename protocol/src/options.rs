//! What most jobs leave as it is: labels and priority of a job, placement and finer needs of a stage.
//!
//! Always true: all of it left out is what a spec without these fields means, so specs of the first version read the same.
//!
//! Elsewhere: what it does is in `claims` (order, placement), `parallel`, `edges` (element by element) and `node::work`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::demands::{Resources, Where};
use crate::{Hash, Range};

/// How long results are kept, when nothing is said: a day.
pub const KEEP_MS_DEFAULT: u64 = 24 * 3600 * 1000;
/// Labels of a job: for people and filters.
pub const LABELS_MAX: usize = 64;
/// The least and the greatest priority.
pub const PRIORITIES: core::ops::RangeInclusive<i8> = -100..=100;

/// The further settings of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobOptions {
    /// For people; empty when there is none.
    pub namespace: String,
    /// For people and filters.
    pub labels: BTreeMap<String, String>,
    /// Greater ones are granted first.
    pub priority: i8,
    /// So many of its tasks are leased at once, over the whole swarm.
    pub parallel_max: Option<u32>,
    /// How long results and logs are kept after its end, in milliseconds.
    pub keep_ms: u64,
    /// `params` in its templates.
    pub params: BTreeMap<String, String>,
    /// A blob with the CBOR encoding of a list of stages and segments: the results of the tasks that are skipped, from
    /// the job that this one repeats.
    pub earlier: Option<Hash>,
}

impl Default for JobOptions {
    fn default() -> Self {
        Self {
            namespace: String::new(),
            labels: BTreeMap::new(),
            priority: 0,
            parallel_max: None,
            keep_ms: KEEP_MS_DEFAULT,
            params: BTreeMap::new(),
            earlier: None,
        }
    }
}

/// The further settings of a stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageOptions {
    /// Of the stages needed, those that need only be over, whether or not their tasks succeeded.
    pub needs_finished: Vec<u16>,
    /// Of the stages needed, those needed element by element.
    pub needs_same: Vec<SameNeed>,
    /// Which nodes run it.
    pub place: Where,
    /// Slots that an attempt takes; 0 means 1.
    pub slots: u32,
    /// Instead of the first memory and slots, where a node does not have them.
    pub alternatives: Vec<Resources>,
    /// `timeout.total` in milliseconds: tasks of a shard that are not over so long after they could run fail.
    pub total_ms_max: Option<u64>,
    /// Tasks that are not run: their results are in [`JobOptions::earlier`].
    pub skip: Vec<Range>,
}

/// A stage that is needed element by element.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SameNeed {
    /// Its position.
    pub stage: u16,
    /// A task waits for the tasks of that stage that have the same values under these names.
    pub names: Vec<String>,
}

impl JobOptions {
    /// Whether nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl StageOptions {
    /// Whether nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
