//! `swarm-sim bugs`: is every planted bug found, and how soon?

use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use swarm_simulation::Bug;

use super::exit;
use super::options::{Seeds, threads_or_all};
use super::say::say;

#[derive(Args)]
pub(super) struct Hunt {
    /// The seeds that are tried for each bug, the last one excluded.
    #[arg(long, value_name = "A..B", default_value = "0..2000")]
    seeds: Seeds,
    /// Only this one.
    #[arg(long, value_enum)]
    bug: Option<Bug>,
    /// Threads; all cores unless given.
    #[arg(long)]
    threads: Option<usize>,
}

impl Hunt {
    pub(super) fn run(&self) -> ExitCode {
        let wanted = Bug::all().iter().filter(|bug| self.bug.is_none_or(|only| only == **bug));
        let missed = wanted.filter(|bug| !self.find(**bug)).count();
        exit(missed == 0)
    }

    fn find(&self, bug: Bug) -> bool {
        let begun = Instant::now();
        let found = bug.hunt(self.seeds.0..self.seeds.1, threads_or_all(self.threads));
        let (name, seconds) = (bug.name(), begun.elapsed().as_secs_f64());
        let broken = found.as_ref().and_then(|report| Some((report.scenario.command(), report.violation.as_ref()?)));
        match &broken {
            Some((command, broken)) => {
                say(&format_args!("{name:<24} {:<28} {seconds:6.1} s  {command}", broken.invariant))
            }
            None => say(&format_args!("{name:<24} NOT FOUND in {}..{} {seconds:10.1} s", self.seeds.0, self.seeds.1)),
        }
        broken.is_some()
    }
}
