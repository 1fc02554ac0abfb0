//! What was measured, as one table or as JSON.

use std::fmt;
use std::path::Path;

use comfy_table::{Table, presets};
use serde::Serialize;

use super::{BenchError, Machine, Measurement, Row};

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// Names the form of this document.
    pub schema: &'static str,
    /// The program.
    pub swarm: String,
    /// This machine, before anything else.
    pub machine: Machine,
    /// Every figure.
    pub rows: Vec<Row>,
    /// What could not be measured, and why; what is not as good as was asked for.
    pub failures: Vec<String>,
}

impl BenchReport {
    pub(super) fn new(program: &Path, machine: Machine) -> Self {
        let (schema, swarm) = ("swarm.bench/1", program.display().to_string());
        Self { schema, swarm, machine, rows: Vec::new(), failures: Vec::new() }
    }

    pub(super) fn fail(&mut self, measurement: Measurement, error: &BenchError) {
        let failure = format!("{}: {}", measurement.name(), error.causes());
        eprintln!("  failed: {failure}");
        self.failures.push(failure);
    }

    /// Fails when no-op tasks are not at least so many times as fast as the bare loop, or were not compared with it.
    pub(super) fn require(&mut self, least: f64) {
        let compared = self.rows.iter().filter(|row| row.measurement == "noop").flat_map(|row| &row.ratios);
        let ratios: Vec<_> = compared.filter(|ratio| ratio.of.starts_with("bare")).map(|ratio| ratio.value).collect();
        let lowest = ratios.into_iter().reduce(f64::min);
        if lowest.is_none_or(|lowest| lowest < least) {
            let found = lowest.map_or("nothing to compare".into(), |lowest| format!("{lowest:.3}"));
            self.failures.push(format!("no-op tasks at {least} times the bare loop: {found}"));
        }
    }

    /// Whether everything that was asked for was measured, and good enough.
    pub fn is_good(&self) -> bool {
        self.failures.is_empty()
    }
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(vec!["", "WHAT", "FIGURE", "RATIO", "FROM TO (ROUNDS)"]);
        for row in &self.rows {
            let measurement = row.measurement.to_owned();
            table.add_row(vec![measurement, row.what.clone(), row.figure(), row.compared(), row.spread()]);
        }
        write!(f, "{}{}\n{table}", self.machine, self.swarm)?;
        self.failures.iter().try_for_each(|failure| write!(f, "\nfailed: {failure}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Unit;
    use super::*;

    fn report(rows: Vec<Row>) -> BenchReport {
        let (kernel, load) = (String::new(), String::new());
        let machine = Machine { cores: 2, kernel, load, two_spinners: 2.0, is_quotable: true };
        let mut report = BenchReport::new(Path::new("swarm"), machine);
        report.rows = rows;
        report.require(0.5);
        report
    }

    #[test]
    fn a_swarm_that_is_slow_beside_the_bare_loop_fails() {
        let row = |bare| Row::median("noop", "tasks", Unit::PerSecond, vec![100.0]).over("bare, 2 threads", Some(bare));
        assert!(report(vec![row(150.0), row(199.0)]).is_good());
        assert!(!report(vec![row(150.0), row(201.0)]).is_good());
        assert!(!report(Vec::new()).is_good());
    }
}
