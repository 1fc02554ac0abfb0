//! The sandbox: checks, compiles and runs one WebAssembly task on this machine.
//!
//! Always true:
//! - a guest sees its arguments, environment, standard input, `/in`, `/out`, a virtual clock and random numbers made
//!   from its seed, and nothing else of this machine; so two runs of one task give the same bytes;
//! - every run ends: by itself, or by its fuel, memory, time, stack or output limit;
//! - only code that this machine compiled is ever executed.
//!
//! Elsewhere: which task runs where is `protocol`; staging `/in` and collecting `/out` is `node::work`.

mod bare;
mod cache;
mod deterministic;
mod engine;
mod files;
mod guest;
mod inspect;
mod memory;
mod room;
mod run;
mod ticker;
mod validate;

pub use bare::{Bare, BareError};
pub use bytes::Bytes;
pub use cache::CACHE_BYTES_MAX;
pub use engine::{Engine, EngineConfig, EngineError, MODULE_BYTES_MAX};
pub use guest::{Printed, StopFlag};
pub use inspect::{Import, Inspection};
pub use room::Room;
pub use run::{Entered, Finished, Module, Task, WASM_STACK_BYTES_MAX};
pub use validate::InvalidModule;
