//! Swarms of real processes on loopback: started, killed, restarted, asked through the command line, and compared.
//!
//! Always true: whatever is started here is ended by its own process id, also after a failure, a panic or Ctrl-C; every
//! wait is for a condition and has a deadline.
//!
//! The way through: `options` is what a user asks for, `scenario` plays it, `swarm` holds the nodes, `node` is one process,
//! `answers` reads what the command line says, `wait` waits. Elsewhere: swarms in virtual time are the rest of this crate.

mod answers;
mod error;
mod node;
mod options;
mod report;
mod scenario;
mod swarm;
mod wait;

pub use answers::{Job, Member, Outcome, Status};
pub use error::ClusterError;
pub use node::{Node, Output};
pub use options::{ClusterOptions, find_swarm};
pub use report::{ClusterReport, Kill};
pub use scenario::run;
pub use swarm::Cluster;
pub(crate) use wait::watch_interrupts;
pub use wait::{DEADLINE, wait_until};
