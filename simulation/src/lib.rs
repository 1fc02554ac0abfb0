//! Whole swarms in virtual time: the real core, simulated machines, network and guests, everything from one seed.
//!
//! A [`Scenario`] is [`run`] in two phases: a storm of faults in which safety is judged at every step, then a healing
//! after which everything that was acknowledged must finish. A [`Report`] says what broke, if anything, and the
//! scenario's command repeats it. [`Swarm`] tells one story at a time, for tests.

mod after_ack;
pub mod bench;
mod bug;
mod census;
mod clients;
pub mod cluster;
mod collections;
pub mod crash_points;
pub mod damage;
mod dice;
mod disk;
mod disks;
mod drains;
mod driver;
mod faults;
mod guests;
mod halts;
mod history;
mod invariants;
mod links;
mod machine;
mod membership;
mod network;
mod queue;
mod records;
mod run;
mod scenario;
mod shrink;
mod story;
mod strikes;
mod sweep;
mod tidy;
mod trace;
mod twins;
mod walls;
mod world;

pub use bug::Bug;
pub use census::Census;
pub use faults::{Fault, FaultSet, Faults, UnknownFault};
pub use guests::{Leaves, Script};
pub use invariants::Violation;
pub use membership::{MembershipOptions, MembershipReport, membership};
pub use run::{Report, run};
pub use scenario::{NODES, Scenario, Sizes, SizesError, TASKS};
pub use shrink::shrink;
pub use story::Swarm;
pub use sweep::sweep;
pub use trace::Trace;
