//! What came of many runs, as tables.

use std::collections::BTreeMap;
use std::time::Instant;

use swarm_simulation::{Census, Fault, FaultSet, Report, sweep};

use super::judge;
use super::options::Many;
use super::say::say;

/// What came of many runs.
pub(crate) struct Totals {
    begun: Instant,
    runs: usize,
    pub(crate) failed: usize,
    virtual_seconds: f64,
    census: Census,
    /// In how many runs each kind of fault was met.
    met: BTreeMap<Fault, usize>,
}

impl Totals {
    /// Runs all, and stops at the first that fails unless told to go on.
    pub(crate) fn run(many: &Many, keep_going: bool) -> Self {
        let scenarios = many.scenarios();
        let (begun, census, met) = (Instant::now(), Census::default(), BTreeMap::new());
        let mut totals = Self { begun, runs: 0, failed: 0, virtual_seconds: 0.0, census, met };
        sweep(&scenarios, many.threads(), |report| {
            totals.add(&report);
            judge(&report);
            if totals.runs.is_multiple_of(100) {
                eprintln!("{} of {} seeds, {} failed", totals.runs, scenarios.len(), totals.failed);
            }
            keep_going || report.violation.is_none()
        });
        totals
    }

    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.failed += usize::from(report.violation.is_some());
        self.virtual_seconds += report.time.as_micros() as f64 / 1e6;
        self.census.merge(&report.census);
        for fault in FaultSet::all().iter().filter(|fault| report.census.hits(*fault) > 0) {
            *self.met.entry(fault).or_default() += 1;
        }
    }

    /// How many runs there were.
    pub(crate) const fn runs(&self) -> usize {
        self.runs
    }

    /// The kinds of these that no run met.
    pub(crate) fn never_met(&self, of: &FaultSet) -> FaultSet {
        of.iter().filter(|fault| !self.met.contains_key(fault)).collect()
    }

    /// How many runs, and how fast.
    pub(crate) fn print_speed(&self) {
        let Self { runs, failed, virtual_seconds, .. } = self;
        let seconds = self.begun.elapsed().as_secs_f64();
        say(&format_args!("{runs} seeds, {failed} failed, {:.1} seeds/s", *runs as f64 / seconds));
        say(&format_args!("{virtual_seconds:.0} s of virtual time in {seconds:.1} s"));
    }

    /// What happened, and how often.
    pub(crate) fn print_events(&self) {
        for (what, times) in self.census.iter() {
            say(&format_args!("{times:>12}  {what}"));
        }
    }

    /// What went wrong, how often, and in how many runs.
    pub(crate) fn print_faults(&self, of: &FaultSet) {
        say(&format_args!("{:>12} {:>12}  fault", "hits", "seeds"));
        for fault in of.iter() {
            let seeds = self.met.get(&fault).copied().unwrap_or(0);
            say(&format_args!("{:>12} {seeds:>12}  {}", self.census.hits(fault), fault.name()));
        }
    }
}
