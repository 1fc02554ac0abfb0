//! Damaged stores: real data directories, damaged in one place, and what real nodes make of them.
//!
//! Promised of every one: the node starts clean, or repairs itself from the others, or refuses with one clear error. It
//! never panics, never hangs and never serves a byte that was not stored.
//!
//! The way through: `work` knows jobs whose bytes are known, `originals` makes the directories, `harm` damages a copy,
//! `case` starts a node on it and judges, `table` tells of all cases.

mod case;
mod harm;
mod originals;
mod table;
pub(crate) mod work;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use clap::Args;

use crate::cluster::{ClusterError, find_swarm, watch_interrupts};
use case::{Verdict, play};
use originals::Originals;
pub use table::DamageReport;

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
    let (next, end) = (AtomicU64::new(cases.start), cases.end);
    let (verdicts, judged) = mpsc::channel();
    let mut report = DamageReport::new(seed);
    thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            let verdicts = verdicts.clone();
            scope.spawn(|| {
                let verdicts = verdicts;
                let numbers = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
                for case in numbers.take_while(|case| *case < end) {
                    let verdict = play(&program, &originals, seed, case, options.only.is_some());
                    let stop = verdict.is_err();
                    // The other end is there until all threads are done.
                    let _unheard = verdicts.send(verdict);
                    if stop {
                        next.store(end, Ordering::Relaxed);
                    }
                }
            });
        }
        drop(verdicts);
        judged.iter().try_for_each(|verdict: Result<Verdict, ClusterError>| verdict.map(|it| report.add(it)))
    })?;
    Ok(report)
}
