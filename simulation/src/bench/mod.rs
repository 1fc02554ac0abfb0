//! The benchmark: what the swarm costs on this machine, beside what the machine itself can do, measured in the same run.
//!
//! Always true: a figure is the median of its rounds unless its name says otherwise; a ratio is of two figures of one run,
//! and is left out when its other half was not measured; every process that is started is ended by its own id.
//!
//! The way through: `options` is what a user asks for, `report` and `row` what is printed. The limits are `machine`, `bare`,
//! `append`, `stream` and `bulk`. The measurements are `noop`, `nodes`, `latency`, `efficiency`, `submit`, `queue`, `waiting`, `disk`,
//! `start`, `idle`, `blobs` and `regrant`; each stands alone. Below: `fleet` is a swarm to be measured, `api` talks to one of its nodes,
//! `work` are the jobs, `command` runs and times one, `parts` are what a task cannot do without. Elsewhere: `cluster` starts and stops the processes.

mod api;
mod append;
mod bare;
mod blobs;
mod bulk;
mod command;
mod disk;
mod efficiency;
mod error;
mod far_end;
mod fleet;
mod idle;
mod latency;
mod machine;
mod noop;
mod options;
mod parts;
mod processor;
mod queue;
mod regrant;
mod report;
mod row;
mod start;
mod stream;
mod submit;
mod waiting;
mod work;

use std::path::PathBuf;
use std::time::Duration;

pub use bare::{BareOptions, bare};
pub use error::BenchError;
pub use far_end::{FarEndOptions, far_end};
pub use machine::Machine;
pub use options::{BenchOptions, Measurement};
pub use report::BenchReport;
pub use row::{Ratio, Row, Unit};

use crate::cluster::{check_interrupted, find_swarm, watch_interrupts};
use bare::Rates;
use work::Noop;

/// Measures what is asked for. That one measurement failed is told in the report, and the others go on; after Ctrl-C the
/// report has what was measured before.
pub fn run(options: &BenchOptions) -> Result<BenchReport, BenchError> {
    watch_interrupts();
    let mut bench = Bench::new(options)?;
    for measurement in options.chosen() {
        eprintln!("{}", measurement.name());
        let Err(error) = bench.measure(measurement) else { continue };
        bench.report.fail(measurement, &error);
        if check_interrupted().is_err() {
            break;
        }
    }
    if let Some(least) = options.at_least {
        bench.report.require(least);
    }
    Ok(bench.report)
}

/// A run: what is asked, and what is known by now.
struct Bench {
    program: PathBuf,
    /// The guest that does nothing.
    noop: Noop,
    rounds: Option<usize>,
    limits: Limits,
    report: BenchReport,
}

/// What this machine can do, as far as it was measured in this run.
#[derive(Default)]
struct Limits {
    bare: Rates,
    append: Option<Duration>,
    round_trip: Option<Duration>,
}

impl Bench {
    fn new(options: &BenchOptions) -> Result<Self, BenchError> {
        let program = find_swarm(options.swarm_bin.as_deref())?;
        let machine = Machine::look();
        eprint!("{machine}");
        let report = BenchReport::new(&program, machine);
        let noop = Noop::new(options.noop.clone())?;
        Ok(Self { program, noop, rounds: options.rounds, limits: Limits::default(), report })
    }

    fn measure(&mut self, measurement: Measurement) -> Result<(), BenchError> {
        check_interrupted()?;
        match measurement {
            Measurement::Bare => bare::measure(self),
            Measurement::Append => append::measure(self),
            Measurement::Stream => stream::measure(self),
            Measurement::Noop => noop::measure_one_node(self),
            Measurement::Nodes => noop::measure_nodes(self),
            Measurement::Latency => latency::measure(self),
            Measurement::Efficiency => efficiency::measure(self),
            Measurement::Submit => submit::measure(self),
            Measurement::Queue => queue::measure(self),
            Measurement::Waiting => waiting::measure(self),
            Measurement::Disk => disk::measure(self),
            Measurement::Start => start::measure(self),
            Measurement::Idle => idle::measure(self),
            Measurement::Blobs => blobs::measure(self),
            Measurement::Regrant => regrant::measure(self),
        }
    }

    /// As many rounds as asked for, or so many.
    fn rounds(&self, usual: usize) -> usize {
        self.rounds.unwrap_or(usual)
    }

    fn add(&mut self, row: Row) {
        eprintln!("  {row}");
        self.report.rows.push(row);
    }
}
