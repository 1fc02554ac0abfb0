//! The commands of `swarm-sim`.

mod bugs;
mod options;
mod say;
mod totals;

use std::fmt::Write as _;
use std::io::{self, BufWriter};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use swarm_simulation::bench::{self, BareOptions, BenchOptions, FarEndOptions};
use swarm_simulation::cluster::{self, ClusterOptions};
use swarm_simulation::crash_points::{self, CrashOptions};
use swarm_simulation::damage::{self, DamageOptions};
use swarm_simulation::{FaultSet, MembershipOptions, Report, Trace, membership, run, shrink};

use bugs::Hunt;
use options::{Many, Shape};
use say::say;
use totals::Totals;

/// A census of so many seeds must have met every kind of fault.
const CENSUS_SEEDS_MIN: usize = 500;

/// Simulates whole swarms. Everything in a run follows from its seed.
#[derive(Parser)]
#[command(name = "swarm-sim", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs many seeds: faults first, then everything acknowledged must finish. Exits with 1 when an invariant broke.
    Run {
        #[command(flatten)]
        many: Many,
        /// Goes on after a failing seed.
        #[arg(long)]
        keep_going: bool,
    },
    /// Runs many seeds and prints how often each kind of fault was met, and in how many seeds. Exits with 1 when one of
    /// at least 500 seeds was never met, or when an invariant broke.
    #[command(after_long_help = kinds())]
    Faults {
        #[command(flatten)]
        many: Many,
    },
    /// Runs one seed and prints what happens.
    Replay {
        /// The seed.
        #[arg(long)]
        seed: u64,
        #[command(flatten)]
        shape: Shape,
        /// One JSON object a line: `time_us`, `node` (null for the whole swarm), `to` (of messages), `what`. The last has
        /// `verdict` (null, or the invariant that broke), `trace`, `time_us` and `command`.
        #[arg(long)]
        json: bool,
    },
    /// From a failing seed to fewer faults, nodes, tasks and a shorter storm that break the same invariant.
    Shrink {
        /// The seed.
        #[arg(long)]
        seed: u64,
        #[command(flatten)]
        shape: Shape,
    },
    /// Plants one bug after the other and tells which seed finds it. Exits with 1 when one is not found.
    Bugs(Hunt),
    Membership(MembershipOptions),
    Cluster(Box<ClusterOptions>),
    CrashPoints(CrashOptions),
    Damage(DamageOptions),
    Bench(BenchOptions),
    #[command(hide = true)]
    BenchBare(BareOptions),
    #[command(hide = true)]
    BenchFarEnd(FarEndOptions),
}

/// Every kind of fault, for the help.
fn kinds() -> String {
    let mut text = String::from("Kinds of faults:\n");
    for fault in FaultSet::all().iter() {
        writeln!(text, "  {:<16} {}", fault.name(), fault.help()).expect("a String takes every write");
    }
    text
}

impl Cli {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run { many, keep_going } => Ok(run_all(&many, keep_going)),
            Command::Faults { many } => Ok(count_faults(&many)),
            Command::Replay { seed, shape, json: false } => Ok(replay(seed, &shape)),
            Command::Replay { seed, shape, json: true } => Ok(replay_as_json(seed, &shape)),
            Command::Shrink { seed, shape } => Ok(shrink_seed(seed, &shape)),
            Command::Bugs(hunt) => Ok(hunt.run()),
            Command::Membership(options) => {
                let report = membership(&options);
                say(&report);
                Ok(exit(report.is_good()))
            }
            Command::Cluster(options) => run_cluster(*options),
            Command::CrashPoints(options) => {
                let report = crash_points::run(&options)?;
                say(&report);
                Ok(exit(report.is_good()))
            }
            Command::Damage(options) => {
                let report = damage::run(&options)?;
                say(&report);
                Ok(exit(report.is_good()))
            }
            Command::Bench(options) => {
                let report = bench::run(&options)?;
                print_report(&report, options.json)?;
                Ok(exit(report.is_good()))
            }
            Command::BenchBare(options) => {
                bench::bare(&options)?;
                Ok(ExitCode::SUCCESS)
            }
            Command::BenchFarEnd(options) => {
                bench::far_end(&options)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn run_all(many: &Many, keep_going: bool) -> ExitCode {
    let totals = Totals::run(many, keep_going);
    totals.print_speed();
    totals.print_events();
    totals.print_faults(many.shape().faults());
    exit(totals.failed == 0)
}

fn count_faults(many: &Many) -> ExitCode {
    let totals = Totals::run(many, true);
    totals.print_speed();
    totals.print_faults(many.shape().faults());
    let missing = totals.never_met(many.shape().faults());
    let is_census = totals.runs() >= CENSUS_SEEDS_MIN;
    if is_census && missing != FaultSet::none() {
        say(&format_args!("never met in {} seeds: {missing}", totals.runs()));
    }
    exit(totals.failed == 0 && (!is_census || missing == FaultSet::none()))
}

fn replay(seed: u64, shape: &Shape) -> ExitCode {
    let report = run(&shape.of(seed), Trace::Printed(Box::new(BufWriter::new(io::stdout()))));
    say(&format_args!("trace {:016x}, {} of virtual time", report.hash, report.time));
    judge(&report);
    exit(report.violation.is_none())
}

fn replay_as_json(seed: u64, shape: &Shape) -> ExitCode {
    let report = run(&shape.of(seed), Trace::Json(Box::new(BufWriter::new(io::stdout()))));
    let verdict = report
        .violation
        .as_ref()
        .map(|it| serde_json::json!({ "invariant": it.invariant, "time_us": it.at.as_micros(), "what": it.what }));
    let trace = format!("{:016x}", report.hash);
    let (time_us, command) = (report.time.as_micros(), report.scenario.command());
    say(&serde_json::json!({ "verdict": verdict, "trace": trace, "time_us": time_us, "command": command }));
    exit(report.violation.is_none())
}

fn shrink_seed(seed: u64, shape: &Shape) -> ExitCode {
    let smallest = shrink(&shape.of(seed), |report| eprintln!("breaks: {}", report.scenario.command()));
    let Some(report) = smallest else {
        say(&format_args!("seed {seed} breaks nothing"));
        return ExitCode::SUCCESS;
    };
    judge(&report);
    ExitCode::FAILURE
}

fn run_cluster(options: ClusterOptions) -> anyhow::Result<ExitCode> {
    let json = options.json;
    if options.is_steady() {
        let report = cluster::steady(&options)?;
        print_report(&report, json)?;
        return Ok(exit(report.is_good()));
    }
    let report = cluster::run(options)?;
    print_report(&report, json)?;
    Ok(exit(report.is_good()))
}

fn print_report(report: &(impl serde::Serialize + std::fmt::Display), json: bool) -> anyhow::Result<()> {
    match json {
        true => say(&serde_json::to_string(report)?),
        false => say(&report),
    }
    Ok(())
}

/// Prints what broke, if anything, and the command that repeats it.
fn judge(report: &Report) {
    if let Some(violation) = &report.violation {
        say(&format_args!("seed {} broke {violation}", report.scenario.seed));
        say(&format_args!("  repeat it: {}", report.scenario.command()));
    }
}

fn exit(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
