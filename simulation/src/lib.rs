//! Whole swarms in virtual time: the real core, simulated machines, network and guests, everything from one seed.
//!
//! A [`Scenario`] is [`run`] in two phases: a storm of faults in which safety is judged at every step, then a healing
//! after which everything that was acknowledged must finish. A [`Report`] says what broke, if anything, and the
//! scenario's command repeats it. [`Swarm`] tells one story at a time, for tests.

mod clients;
pub mod cluster;
pub mod crash_points;
pub mod damage;
mod dice;
mod disk;
mod driver;
mod faults;
mod guests;
mod history;
mod invariants;
mod links;
mod machine;
mod network;
mod queue;
mod run;
mod scenario;
mod story;
mod strikes;
mod sweep;
mod trace;
mod world;

pub use faults::{Census, Faults};
pub use guests::{Leaves, Script};
pub use invariants::Violation;
pub use run::{Report, run};
pub use scenario::{Bug, NODES, Scenario, TASKS};
pub use story::Swarm;
pub use sweep::sweep;
pub use trace::Trace;
