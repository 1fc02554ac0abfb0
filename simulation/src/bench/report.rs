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
    /// What could not be measured, and why.
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

    /// Whether everything that was asked for was measured.
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
        self.failures.iter().try_for_each(|failure| write!(f, "\nnot measured: {failure}"))
    }
}
