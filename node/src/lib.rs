//! The process: what a node is made of, as a library.

pub mod api;
mod artifacts;
pub mod cli;
mod clock;
mod collector;
mod commands;
mod driver;
mod earlier;
mod endings;
mod explain;
mod handle;
pub mod jobfile;
mod leaving;
mod modules;
pub mod network;
mod results;
mod retry;
mod runtime;
mod storage;
mod supervisor;
mod watchers;
mod words;
mod work;

pub use artifacts::{Artifacts, BLOB_LIST_BYTES_MAX, FETCH_DEADLINE, Unfetched};
pub use collector::{CollectError, Collected, GRACE, GRACE_MIN, KeptBlob};
pub use commands::{CommandError, Commands};
pub use earlier::{EARLIER_BYTES_MAX, Earlier};
pub use explain::Explained;
pub use handle::Handle;
pub use leaving::{DRAIN_TIMEOUT, DrainAsked};
pub use modules::ReferenceError;
pub use results::{COMPLETE_WAIT, ShardView};
pub use retry::RetryError;
pub use runtime::{DEFAULT_SWARM, Runtime, RuntimeOptions, StartError};
pub use supervisor::{Crash, Failure, OnFailure, RESTART_WINDOW, RESTARTS_MAX, Service, Supervisor};
