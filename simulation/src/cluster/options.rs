//! What a user asks of `swarm-sim cluster`.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::ClusterError;

/// Runs a job on real nodes on this machine, kills some of them meanwhile, and compares what the others have.
#[derive(Clone, Debug, Args)]
pub struct ClusterOptions {
    /// Nodes to start
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub nodes: usize,
    /// The job file
    #[arg(long, value_name = "FILE")]
    pub job: PathBuf,
    /// Nodes to kill while the job runs, at random moments; at least one lives on
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub kill: usize,
    /// Kill the node that the job is submitted to as soon as it has acknowledged; it counts as one of the K
    #[arg(long)]
    pub kill_submitter: bool,
    /// Tasks that each node runs at once
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub slots: usize,
    /// The `swarm` program [default: the one beside this program, else the one in PATH]
    #[arg(long, value_name = "PATH")]
    pub swarm_bin: Option<PathBuf>,
    /// Decides whom to kill and when [default: random, and printed]
    #[arg(long, value_name = "X")]
    pub seed: Option<u64>,
    /// How long the job may take, as 120s or 5m
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = duration)]
    pub timeout: Duration,
    /// What the job must have written to standard output, byte for byte, in task order
    #[arg(long, value_name = "FILE")]
    pub expect: Option<PathBuf>,
    /// Keep the nodes' directories, to look at them
    #[arg(long)]
    pub keep: bool,
}

impl ClusterOptions {
    /// How many nodes are killed: `kill`, or one when only the submitter is to be.
    pub(super) fn kills(&self) -> usize {
        self.kill.max(usize::from(self.kill_submitter))
    }

    pub(super) fn check(&self) -> Result<(), ClusterError> {
        if self.nodes == 0 {
            return Err(ClusterError::Options("a swarm has at least one node".into()));
        }
        if self.kills() >= self.nodes {
            let (kills, nodes) = (self.kills(), self.nodes);
            return Err(ClusterError::Options(format!("killing {kills} of {nodes} nodes would leave none")));
        }
        Ok(())
    }
}

/// The `swarm` program: `named`, or the one beside this program (for a test: beside its directory), or one in PATH.
pub fn find_swarm(named: Option<&Path>) -> Result<PathBuf, ClusterError> {
    if let Some(named) = named {
        return Ok(named.into());
    }
    let this = env::current_exe().unwrap_or_default();
    let beside = this.ancestors().skip(1).take(2).map(Path::to_owned);
    let path = env::var_os("PATH").unwrap_or_default();
    let candidates = beside.chain(env::split_paths(&path)).map(|dir| dir.join("swarm"));
    candidates.into_iter().find(|program| program.is_file()).ok_or(ClusterError::NoProgram)
}

/// `90s`, `5m`: a unit is required, so that nobody takes minutes for seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a time is a number and a unit, as 90s or 5m".to_owned();
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    let unit = units.iter().find_map(|(unit, ms)| Some((text.strip_suffix(unit)?, *ms)));
    let (number, ms) = unit.ok_or_else(wrong)?;
    let number: u64 = number.trim().parse().map_err(|_| wrong())?;
    number.checked_mul(ms).map(Duration::from_millis).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: ClusterOptions,
    }

    #[test]
    fn times_need_a_unit() {
        assert_eq!(duration("120s"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("20ms"), Ok(Duration::from_millis(20)));
        assert!(
            ["", "5", "s", "-1s", "99999999999999999999h", "9999999999999999h"]
                .iter()
                .all(|text| duration(text).is_err())
        );
    }

    #[test]
    fn somebody_must_live_on() {
        assert!(options(&["--nodes", "3", "--kill", "2"]).check().is_ok());
        assert_eq!(options(&["--kill-submitter"]).kills(), 1);
        assert_eq!(options(&["--kill-submitter", "--kill", "2"]).kills(), 2);
        for nobody in [&["--nodes", "3", "--kill", "3"][..], &["--nodes", "1", "--kill-submitter"], &["--nodes", "0"]] {
            assert!(matches!(options(nobody).check(), Err(ClusterError::Options(_))), "{nobody:?}");
        }
    }

    #[test]
    fn a_named_program_is_taken_as_it_is() {
        assert_eq!(find_swarm(Some(Path::new("/some/swarm"))).unwrap(), Path::new("/some/swarm"));
    }

    fn options(args: &[&str]) -> ClusterOptions {
        Cli::try_parse_from(["swarm-sim", "--job", "job.toml"].iter().chain(args)).unwrap().options
    }
}
