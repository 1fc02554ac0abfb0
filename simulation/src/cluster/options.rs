//! What a user asks of `swarm-sim cluster`.

use std::env;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::{ClusterError, Kind};

/// Runs real nodes on this machine, kills, stops and cuts them off from each other, and checks everything they tell.
///
/// With --duration, --rolling, --lose or --split: a steady load of jobs whose every output byte is known, faults
/// meanwhile, then calm, a power cut after which the disks of all custodians are compared, and the audit: every node is
/// asked for every acknowledged job. Otherwise one job (--job), of whose nodes some are killed for good.
#[derive(Clone, Debug, Args)]
pub struct ClusterOptions {
    /// Nodes to start
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub nodes: usize,
    /// Tasks that each node runs at once
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub slots: usize,
    /// The `swarm` program [default: the one beside this program, else the one in PATH]
    #[arg(long, value_name = "PATH")]
    pub swarm_bin: Option<PathBuf>,
    /// Decides whom to strike and when; the same seed is a similar run, not the same [default: random, and printed]
    #[arg(long, value_name = "X")]
    pub seed: Option<u64>,
    /// Keep the nodes' directories, with what the nodes said, to look at them
    #[arg(long)]
    pub keep: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// A job file: the one job, or what the steady load consists of (all runs must tell the same) [default for a load: jobs
    /// built in, 20 to 150 tasks each, every tenth with outputs of 3.4 kB]
    #[arg(long, value_name = "FILE")]
    pub job: Option<PathBuf>,

    /// Steady load: for how long, as 30m
    #[arg(long, value_name = "TIME", value_parser = duration, group = "course")]
    pub duration: Option<Duration>,
    /// Steady load: restart all nodes one after the other (SIGTERM), so many times
    #[arg(long, value_name = "TIMES", group = "course")]
    pub rolling: Option<usize>,
    /// Steady load: lose so many nodes for good, disks included, one after the other with a minute to repair after each
    #[arg(long, value_name = "K", group = "course")]
    pub lose: Option<usize>,
    /// Steady load: cut two fifths of the nodes off from the others for this long (network namespaces, so it takes root,
    /// or `unshare -Urnm sh -c 'mount -t tmpfs tmpfs /run && swarm-sim cluster …'`); users reach both sides
    #[arg(long, value_name = "TIME", value_parser = duration, group = "course")]
    pub split: Option<Duration>,
    /// Steady load: tasks submitted a second
    #[arg(long, value_name = "T", default_value_t = 100.0)]
    pub tasks_per_second: f64,
    /// Steady load: processor time of each built-in task
    #[arg(long, value_name = "TIME", default_value = "3ms", value_parser = duration)]
    pub task_time: Duration,
    /// With --duration: what is done to nodes at random moments.
    ///
    /// At most (N - 1) / 2 nodes are killed, stopped or restarting at a time. A directory is wiped only while all nodes
    /// run and reach each other, and only when in the last 60 s no other was and no cut was healed: what is acknowledged
    /// is on two disks, and the swarm needs that time to bring it onto two again. One cut at a time (see --split).
    #[arg(long, value_name = "KINDS", value_delimiter = ',', requires = "duration", verbatim_doc_comment)]
    pub chaos: Vec<Kind>,
    /// The time from one fault to the next
    #[arg(long, value_name = "A..B", default_value = "2s..10s", value_parser = interval)]
    pub chaos_every: Interval,

    /// One job: nodes to kill while it runs, at random moments; at least one lives on
    #[arg(long, value_name = "K", default_value_t = 0, conflicts_with = "course")]
    pub kill: usize,
    /// One job: kill the node that it is submitted to as soon as it has acknowledged; it counts as one of the K
    #[arg(long, conflicts_with = "course")]
    pub kill_submitter: bool,
    /// One job: how long it may take, as 120s or 5m
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = duration)]
    pub timeout: Duration,
    /// One job: what it must have written to standard output, byte for byte, in task order
    #[arg(long, value_name = "FILE", conflicts_with = "course")]
    pub expect: Option<PathBuf>,
}

/// Between two durations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval(pub Range<Duration>);

impl Default for ClusterOptions {
    /// What holds when nothing is said on the command line.
    fn default() -> Self {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            options: ClusterOptions,
        }
        <Cli as clap::Parser>::try_parse_from(["cluster"]).expect("no option is required").options
    }
}

impl ClusterOptions {
    /// Whether it is a steady load, and not one job.
    pub fn is_steady(&self) -> bool {
        self.duration.is_some() || self.rolling.is_some() || self.lose.is_some() || self.split.is_some()
    }

    /// Whether nodes are to be cut off from each other, for which each needs a network of its own.
    pub(super) fn needs_cuts(&self) -> bool {
        self.split.is_some() || self.chaos.contains(&Kind::Partition)
    }

    /// How many nodes are killed: `kill`, or one when only the submitter is to be.
    pub(super) fn kills(&self) -> usize {
        self.kill.max(usize::from(self.kill_submitter))
    }

    pub(super) fn check(&self) -> Result<(), ClusterError> {
        let wrong = |why: String| Err(ClusterError::Options(why));
        let (nodes, kills) = (self.nodes, self.kills());
        if nodes == 0 {
            return wrong("a swarm has at least one node".into());
        }
        if kills >= nodes {
            return wrong(format!("killing {kills} of {nodes} nodes would leave none"));
        }
        if self.lose.is_some_and(|lost| lost >= nodes) {
            return wrong(format!("losing that many of {nodes} nodes would leave none"));
        }
        if self.tasks_per_second <= 0.0 || !self.tasks_per_second.is_finite() {
            return wrong("a load is a positive number of tasks a second".into());
        }
        if !self.is_steady() && self.job.is_none() {
            return wrong("name a job (--job), or a steady load (--duration, --rolling, --lose or --split)".into());
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

/// `2s..10s`.
fn interval(text: &str) -> Result<Interval, String> {
    let (first, last) = text.split_once("..").ok_or("an interval is A..B, as 2s..10s")?;
    let interval = duration(first)?..duration(last)?;
    if interval.start > interval.end {
        Err("the interval ends before it begins".into())
    } else {
        Ok(Interval(interval))
    }
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
    fn a_steady_load_has_one_course() {
        let load = options(&["--duration", "30m", "--chaos", "kill,stop", "--chaos-every", "1s..2s"]);
        assert!(load.is_steady() && !load.needs_cuts() && load.check().is_ok());
        assert_eq!(load.chaos, [Kind::Kill, Kind::Stop]);
        assert_eq!(load.chaos_every, Interval(Duration::from_secs(1)..Duration::from_secs(2)));
        assert!(options(&["--split", "2m"]).needs_cuts());
        for wrong in
            [&["--split", "2m", "--rolling", "1"][..], &["--chaos", "kill"], &["--rolling", "1", "--kill", "1"]]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        for wrong in [&["--lose", "5"][..], &["--duration", "1s", "--tasks-per-second", "0"]] {
            assert!(options(wrong).check().is_err(), "{wrong:?}");
        }
        assert!(ClusterOptions::default().check().is_err(), "neither a job nor a load");
        assert!(interval("3s..2s").is_err() && interval("3s").is_err());
    }

    #[test]
    fn a_named_program_is_taken_as_it_is() {
        assert_eq!(find_swarm(Some(Path::new("/some/swarm"))).unwrap(), Path::new("/some/swarm"));
    }

    fn options(args: &[&str]) -> ClusterOptions {
        parse(args).unwrap()
    }

    fn parse(args: &[&str]) -> Result<ClusterOptions, clap::Error> {
        let job = ["swarm-sim", "--job", "job.toml"];
        Ok(Cli::try_parse_from(job.iter().chain(args))?.options)
    }
}
