//! `swarm-sim`: runs swarms in virtual time, many seeds at once or one to read.

use std::io::{self, BufWriter};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use swarm_simulation::cluster::{self, ClusterOptions};
use swarm_simulation::crash_points::{self, CrashOptions};
use swarm_simulation::damage::{self, DamageOptions};
use swarm_simulation::{Bug, Census, NODES, Report, Scenario, TASKS, Trace, run, sweep};

/// Simulates whole swarms. Everything in a run follows from its seed.
#[derive(Parser)]
#[command(name = "swarm-sim", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs many seeds: faults first, then everything acknowledged must finish. Exits with 1 when an invariant broke.
    Run {
        /// The seeds, the last one excluded.
        #[arg(long, value_name = "A..B", default_value = "0..200")]
        seeds: Seeds,
        /// Nodes in each swarm.
        #[arg(long, default_value_t = NODES)]
        nodes: usize,
        /// About how many tasks are submitted in each run.
        #[arg(long, default_value_t = TASKS)]
        tasks: u32,
        /// Threads; all cores unless given.
        #[arg(long)]
        threads: Option<usize>,
        /// Lets the machines do something wrong on purpose, which must be noticed.
        #[arg(long, value_enum)]
        bug: Option<Bug>,
        /// Goes on after a failing seed.
        #[arg(long)]
        keep_going: bool,
    },
    Cluster(ClusterOptions),
    CrashPoints(CrashOptions),
    Damage(DamageOptions),
    /// Runs one seed and prints what happens.
    Replay {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// Nodes in the swarm.
        #[arg(long, default_value_t = NODES)]
        nodes: usize,
        /// About how many tasks are submitted.
        #[arg(long, default_value_t = TASKS)]
        tasks: u32,
        /// What the machines do wrong on purpose.
        #[arg(long, value_enum)]
        bug: Option<Bug>,
    },
}

/// A range of seeds, the last one excluded.
#[derive(Clone, Copy, Debug)]
struct Seeds(u64, u64);

impl FromStr for Seeds {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, end) = text.split_once("..").context("expected A..B, such as 0..200")?;
        let seeds = Self(first.parse().context("the first seed")?, end.parse().context("the last seed")?);
        ensure!(seeds.0 < seeds.1, "the range is empty");
        Ok(seeds)
    }
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Run { seeds, nodes, tasks, threads, bug, keep_going } => {
            ensure!(nodes > 0, "a swarm has at least one node");
            let threads = threads.or_else(|| std::thread::available_parallelism().ok().map(NonZeroUsize::get));
            let scenarios: Vec<_> =
                (seeds.0..seeds.1).map(|seed| Scenario { tasks, bug, ..Scenario::new(seed, nodes) }).collect();
            Ok(run_all(&scenarios, threads.unwrap_or(1), keep_going))
        }
        Command::Cluster(options) => {
            let report = cluster::run(options)?;
            println!("{report}");
            Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::CrashPoints(options) => {
            let report = crash_points::run(&options)?;
            println!("{report}");
            Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Damage(options) => {
            let report = damage::run(&options)?;
            println!("{report}");
            Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Replay { seed, nodes, tasks, bug } => {
            ensure!(nodes > 0, "a swarm has at least one node");
            let out = Box::new(BufWriter::new(io::stdout()));
            let report = run(&Scenario { tasks, bug, ..Scenario::new(seed, nodes) }, Trace::Printed(out));
            println!("trace {:016x}, {} of virtual time", report.hash, report.time);
            Ok(judge(&report))
        }
    }
}

fn run_all(scenarios: &[Scenario], threads: usize, keep_going: bool) -> ExitCode {
    let begun = Instant::now();
    let mut total = Total::default();
    sweep(scenarios, threads, |report| {
        total.add(&report);
        judge(&report);
        if total.runs.is_multiple_of(100) {
            eprintln!("{} of {} seeds, {} failed", total.runs, scenarios.len(), total.failed);
        }
        keep_going || report.violation.is_none()
    });
    total.print(begun.elapsed().as_secs_f64());
    if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints what broke, if anything, and the command that repeats it.
fn judge(report: &Report) -> ExitCode {
    let Some(violation) = &report.violation else { return ExitCode::SUCCESS };
    println!("seed {} broke {violation}", report.scenario.seed);
    println!("  repeat it: {}", report.scenario.command());
    ExitCode::FAILURE
}

#[derive(Default)]
struct Total {
    runs: usize,
    failed: usize,
    virtual_seconds: f64,
    census: Census,
}

impl Total {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.failed += usize::from(report.violation.is_some());
        self.virtual_seconds += report.time.as_micros() as f64 / 1e6;
        self.census.merge(&report.census);
    }

    fn print(&self, seconds: f64) {
        let Self { runs, failed, virtual_seconds, census } = self;
        println!("{runs} seeds, {failed} failed, {:.1} seeds/s", *runs as f64 / seconds);
        println!("{virtual_seconds:.0} s of virtual time in {seconds:.1} s");
        for (what, times) in census.iter() {
            println!("{times:>12}  {what}");
        }
    }
}
