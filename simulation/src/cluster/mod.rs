//! Swarms of real processes on loopback: started, killed, restarted, asked through the command line, and compared.
//!
//! Always true: whatever is started here is ended by its own process id, also after a failure, a panic or Ctrl-C; every
//! wait is for a condition and has a deadline.
//!
//! The way through: `options` is what a user asks for. `scenario` plays one job and some deaths, `report` tells what came
//! of it. `steady` plays a steady load: `load` are its clients, `recipe` and `guest` say which jobs they submit, `stage`
//! looks after the machines, `chaos` and `stories` strike them, `ledger` knows what was told, `audit` asks for everything
//! at the end, `disks` reads what each custodian has, `journal` what the nodes logged, `steady_report` tells all that.
//! Below: `swarm` holds the nodes, `node` is one process, `namespaces` their networks, `client` talks to one, `answers` and
//! `reading` read what it says, `wait` waits. Elsewhere: swarms in virtual time are the rest of this crate.

mod answers;
mod audit;
mod chaos;
mod client;
mod disks;
mod error;
mod guest;
mod journal;
mod ledger;
mod load;
mod namespaces;
mod node;
mod options;
mod reading;
mod recipe;
mod report;
mod scenario;
mod stage;
mod steady;
mod steady_report;
mod stories;
mod swarm;
mod wait;

pub use answers::{Job, Member, Outcome, Scrub, Status, Transfers};
pub use chaos::Kind;
pub use client::Output;
pub use disks::Disks;
pub use error::ClusterError;
pub use journal::Attempts;
pub(crate) use journal::Journal;
pub use ledger::Bad;
pub use node::{Node, Transport};
pub use options::{ClusterOptions, Interval, find_swarm};
pub use report::{ClusterReport, Kill};
pub use scenario::run;
pub(crate) use stage::Fault;
pub use steady::steady;
pub use steady_report::{Apart, Spread, SteadyReport, Told, Used};
pub use swarm::Cluster;
pub use wait::{DEADLINE, wait_until};
pub(crate) use wait::{check_interrupted, watch_interrupts};
