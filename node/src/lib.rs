//! The process: what a node is made of, as a library.

pub mod jobfile;
pub mod network;
mod supervisor;

pub use supervisor::{Crash, Failure, OnFailure, RESTART_WINDOW, RESTARTS_MAX, Service, Supervisor};
