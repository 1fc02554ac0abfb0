//! What the nodes of a swarm know, say and decide. Pure: no clock, network, disk, thread or hidden randomness.
//!
//! [`Node`] is a plain value: events in, [`Effects`] out. It runs under libp2p in the `node` crate and, by the thousand,
//! in virtual time in `simulation`.
#![deny(unsafe_code)]

mod arbiter;
mod claim_queue;
mod claims;
pub mod codec;
mod custody;
mod demands;
mod edges;
mod effects;
mod expiry;
mod grid;
mod handover;
mod ids;
mod jobs;
pub mod lattice;
mod links;
mod membership;
pub mod message;
pub mod modules;
mod node;
mod notes;
mod options;
mod outcome;
mod outputs;
mod parallel;
pub mod placement;
mod planted;
mod publishing;
mod questions;
mod rates;
pub mod reasons;
mod seek;
pub mod situation;
mod spec;
mod standing;
mod stragglers;
mod task_sets;
mod time;
mod unmet;
mod uses;
mod worker;
mod write;

pub use custody::recorded_in;
pub use demands::{Attribute, CONDITIONS_MAX, Comparison, Condition, Resources, Strategy, Test, Where};
pub use edges::Edge;
pub use effects::{
    Batch, Effects, Event, Fetch, Happened, MemberState, MemberView, Notice, Refusal, TaskChange, Wanted,
};
pub use grid::{Cell, EXCLUDES_MAX, Grid, INCLUDES_MAX, Values};
pub use ids::{Epoch, Hash, JobId, LeaseId, NodeId, ParseIdError, Range, ShardId};
pub use links::{HEARTBEAT, LINK_SILENCE_MAX, LINKS_FULL_MAX};
pub use message::{
    Answer, Gossip, JobState, JobStatus, JobSummary, Message, NodeRecord, Query, SharedRecord, StopCause,
};
pub use node::{Config, Node, RestoreError};
pub use options::{JobOptions, KEEP_MS_DEFAULT, LABELS_MAX, PRIORITIES, SameNeed, StageOptions};
pub use outcome::{Content, Ending, INLINE_BYTES_MAX, Outcome, OutputFile};
pub use outputs::{
    BadName, BadOutputs, OUTPUT_PART_BYTES_MAX, OUTPUT_PATH_BYTES_MAX, OUTPUTS_MAX, OutputSpec, check_output,
    check_outputs,
};
#[cfg(feature = "planted-bugs")]
pub use planted::PlantedBug;
pub use spec::{
    Axis, Elements, Input, InputSource, InvalidSpec, Item, JOB_SPEC_BYTES_MAX, JOB_SPEC_VERSION, JobSpec, Limits,
    Retry, RetryOn, SHARD_TASKS, STAGE_TASKS_MAX, STAGES_MAX, SignedJob, StageSpec, Stdin, TreeFile, VerifyError,
    is_inside,
};
pub use standing::Standing;
pub use time::Time;
pub use unmet::{Found, Unmet};
pub use uses::InUse;
pub use write::{Table, Write};
