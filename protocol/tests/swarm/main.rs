//! A few cores driven by hand: what reaches all of them, and what leaves all of them.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod expiry;
mod few;
mod leases;
mod lists;
mod modules;
mod records;
mod strategies;
mod wakes;
mod why;
