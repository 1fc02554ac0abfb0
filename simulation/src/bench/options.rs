//! What a user asks of `swarm-sim bench`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Measures the swarm and, in the same run, what this machine can do: one table, with the ratios between the two.
///
/// Everything takes about a quarter of an hour on two cores. Nothing else should run meanwhile.
#[derive(Clone, Debug, Args)]
pub struct BenchOptions {
    /// Only these, in the usual order; ratios to what is left out are left out, too
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<Measurement>,
    /// The `swarm` program [default: the one beside this program, else the one in PATH]
    #[arg(long, value_name = "PATH")]
    pub swarm_bin: Option<PathBuf>,
    /// Rounds of everything, of which the median counts [default: 5 of what is short, fewer of what is long]
    #[arg(long, value_name = "N", value_parser = rounds)]
    pub rounds: Option<usize>,
    /// A module to do nothing with, instead of the built-in one: a C program with a stack of 1 MiB, as Rust's have
    #[arg(long, value_name = "PATH")]
    pub noop: Option<PathBuf>,
    /// Fail unless one node runs no-op tasks at least so many times as fast as the bare loop on as many cores
    #[arg(long, value_name = "RATIO")]
    pub at_least: Option<f64>,
    /// Print the table as JSON
    #[arg(long)]
    pub json: bool,
}

/// Something to measure. The machine itself always is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Measurement {
    /// Limit: no-op calls a second of a bare wasmtime loop, by threads and by processes
    Bare,
    /// Limit: appending 100 bytes to a file and syncing it
    Append,
    /// Limit: a round trip on a bare libp2p stream
    Stream,
    /// No-op tasks a second on one node, and what a task costs as jobs grow
    Noop,
    /// No-op tasks a second on two, three and four nodes
    Nodes,
    /// One task across two nodes that are warm and idle, by the socket and by the command
    Latency,
    /// The ideal over the real time of tasks of known length
    Efficiency,
    /// From a submission to its acknowledgement, for 1 to 1,000,000 tasks
    Submit,
    /// Memory of a queued task
    Queue,
    /// What thousands of jobs cost that wait: an idle node, and small jobs beside them
    Waiting,
    /// Disk of a job with a million empty outcomes
    Disk,
    /// From `swarm start` to ready, and `swarm submit hello --local`
    Start,
    /// What an idle node uses
    Idle,
    /// A large blob from node to node beside a bare libp2p stream, and to eight nodes at once
    Blobs,
    /// From the death or the standstill of a node to the next grant of its tasks
    Regrant,
}

impl BenchOptions {
    /// What is to be measured, limits first.
    pub(super) fn chosen(&self) -> Vec<Measurement> {
        let chosen = |measurement: &&Measurement| self.only.is_empty() || self.only.contains(measurement);
        Measurement::value_variants().iter().filter(chosen).copied().collect()
    }
}

impl Measurement {
    /// As on the command line.
    pub(super) fn name(self) -> String {
        let value = self.to_possible_value().expect("no measurement is hidden from the command line");
        value.get_name().to_owned()
    }
}

fn rounds(text: &str) -> Result<usize, String> {
    let rounds = text.parse().ok().filter(|rounds| *rounds > 0);
    rounds.ok_or_else(|| "rounds are a number from 1 on".into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: BenchOptions,
    }

    #[test]
    fn limits_are_measured_before_what_is_compared_with_them() {
        let chosen = |args: &[&str]| {
            let args = ["bench"].iter().chain(args);
            Cli::try_parse_from(args).map(|cli| cli.options.chosen()).map_err(|error| error.kind())
        };
        assert_eq!(chosen(&["--only", "noop,bare"]), Ok(vec![Measurement::Bare, Measurement::Noop]));
        assert_eq!(chosen(&[]).unwrap().len(), Measurement::value_variants().len());
        assert!(chosen(&["--only", "nonsense"]).is_err() && chosen(&["--rounds", "0"]).is_err());
    }
}
