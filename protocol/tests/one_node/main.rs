//! A swarm of one, driven by hand.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod gathering;
mod jobs;
mod lone;
mod scheduling;
