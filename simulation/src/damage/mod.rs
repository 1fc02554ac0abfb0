//! Damaged stores: real data directories, damaged in one place, and what real nodes make of them.
//!
//! Promised of every one: the node starts clean, or repairs itself from the others, or refuses with one clear error. It
//! never panics, never hangs and never serves a byte that was not stored.
//!
//! The way through: `work` knows jobs whose bytes are known, `originals` makes the directories, `harm` damages a copy,
//! `case` starts a node on it and judges with `served`, `table` tells of all cases.

mod case;
mod harm;
mod originals;
pub(crate) mod parallel;
mod served;
mod table;
mod work;

use std::path::PathBuf;

use clap::Args;

use crate::cluster::{ClusterError, find_swarm, watch_interrupts};
use case::play;
pub(crate) use harm::files;
use originals::Originals;
use parallel::play_all;
pub use served::{Served, served};
pub use table::DamageReport;
pub use work::{Shape, Work};

/// Damages the stores of real nodes, starts nodes on them, and judges what they do.
#[derive(Clone, Debug, Args)]
pub struct DamageOptions {
    /// Damaged stores to try
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub stores: u64,
    /// Decides what is damaged and how [default: random, and printed]
    #[arg(long, value_name = "X")]
    pub seed: Option<u64>,
    /// Stores tried at once; most of the time goes by waiting
    #[arg(long, value_name = "T", default_value_t = 6)]
    pub threads: usize,
    /// Try the store of this number alone, and keep it
    #[arg(long, value_name = "NUMBER")]
    pub only: Option<u64>,
    /// The `swarm` program [default: the one beside this program, else the one in PATH]
    #[arg(long, value_name = "PATH")]
    pub swarm_bin: Option<PathBuf>,
}

/// Tries as many stores as asked for. What becomes of them is in the report; an error means that it could not be tried.
pub fn run(options: &DamageOptions) -> Result<DamageReport, ClusterError> {
    watch_interrupts();
    let program = find_swarm(options.swarm_bin.as_deref())?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("seed {seed}");
    let originals = Originals::make(&program)?;
    let cases = options.only.map_or(0..options.stores, |only| only..only + 1);
    let mut report = DamageReport::new(seed);
    let keep = options.only.is_some();
    let play = |case| play(&program, &originals, seed, case, keep);
    play_all(cases, options.threads, play, |verdict| report.add(verdict))?;
    Ok(report)
}
