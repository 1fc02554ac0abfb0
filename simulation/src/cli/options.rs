//! What the user may say about runs.

use std::num::NonZeroUsize;
use std::str::FromStr;

use anyhow::{Context, ensure};
use swarm_simulation::{Bug, FaultSet, Scenario, Sizes, TASKS};

/// What every run of a command has in common.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Shape {
    /// Nodes in each swarm: a number, or a range from which the seed chooses, such as 3..26 or 3..=25.
    #[arg(long, value_name = "N|A..B", default_value = "5")]
    nodes: Sizes,
    /// About how many tasks are submitted in each run.
    #[arg(long, default_value_t = TASKS)]
    tasks: u32,
    /// Kinds of faults of which each seed switches some on: `all`, `none`, or names with commas (see `swarm-sim faults --help`).
    #[arg(long, value_name = "SET", default_value_t = FaultSet::all(), hide_default_value = true)]
    faults: FaultSet,
    /// Seconds of faults before the healing; as the seed has it unless given.
    #[arg(long, value_name = "SECONDS")]
    storm: Option<u64>,
    /// Lets the machines or the cores do something wrong on purpose, which must be noticed.
    #[arg(long, value_enum)]
    bug: Option<Bug>,
}

impl Shape {
    /// The run of a seed.
    pub(crate) fn of(&self, seed: u64) -> Scenario {
        let Self { nodes, tasks, faults, storm, bug } = self.clone();
        Scenario { seed, nodes: nodes.of(seed), tasks, faults, storm, bug }
    }

    /// The kinds of faults that may be switched on.
    pub(crate) const fn faults(&self) -> &FaultSet {
        &self.faults
    }
}

/// Many runs.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Many {
    /// The seeds, the last one excluded.
    #[arg(long, value_name = "A..B", default_value = "0..200")]
    seeds: Seeds,
    /// Threads; all cores unless given.
    #[arg(long)]
    threads: Option<usize>,
    #[command(flatten)]
    shape: Shape,
}

impl Many {
    /// Every run.
    pub(crate) fn scenarios(&self) -> Vec<Scenario> {
        (self.seeds.0..self.seeds.1).map(|seed| self.shape.of(seed)).collect()
    }

    /// How many threads run them.
    pub(crate) fn threads(&self) -> usize {
        threads_or_all(self.threads)
    }

    pub(crate) const fn shape(&self) -> &Shape {
        &self.shape
    }
}

/// As many threads as said, or one a core.
pub(crate) fn threads_or_all(threads: Option<usize>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    threads.unwrap_or_else(cores)
}

/// A range of seeds, the last one excluded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seeds(pub(crate) u64, pub(crate) u64);

impl FromStr for Seeds {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, end) = text.split_once("..").context("expected A..B, such as 0..200")?;
        let seeds = Self(first.parse().context("the first seed")?, end.parse().context("the last seed")?);
        ensure!(seeds.0 < seeds.1, "the range is empty");
        Ok(seeds)
    }
}
