//! What came of a steady load.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::Kind;
use super::disks::Disks;
use super::journal::Attempts;
use super::ledger::Bad;

/// What came of a steady load. Printed, it is a page; the last line says `ok` or what is wrong.
#[derive(Clone, Debug, Serialize)]
pub struct SteadyReport {
    /// Nodes that were started.
    pub nodes: usize,
    /// Decided who was struck when.
    pub seed: u64,
    /// How long jobs were submitted.
    pub seconds: f64,
    /// Faults by kind.
    pub faults: BTreeMap<String, usize>,
    /// Jobs that were acknowledged.
    pub jobs: usize,
    /// Their tasks.
    pub tasks: u64,
    /// Tasks of jobs that were over when the load ended, a second.
    pub tasks_per_second: f64,
    /// Submissions that were refused or not answered in time; each was then tried elsewhere.
    pub refused: u64,
    /// Jobs submitted late because the swarm was too far behind.
    pub late: u64,
    /// Answers of nodes.
    pub told: Told,
    /// What was done during cuts.
    pub apart: Apart,
    /// What was wrong in the answers: must be nothing.
    pub bad: Bad,
    /// How often tasks were granted and ran.
    pub attempts: Attempts,
    /// Panics of any node: must be none.
    pub panics: usize,
    /// Nodes that ended by themselves, did not start, or did not leave as they should: must be none.
    pub failures: Vec<String>,
    /// What was on the disks after a power cut at the end.
    pub disks: Disks,
    /// From a kill to the next grant of each task that the killed node held.
    pub regrant: Spread,
    /// The same until all of its tasks were granted again, by kill.
    pub regrant_of_kill: Spread,
    /// From the stop of a process to the next grant of each task that it held.
    pub regrant_of_stopped: Spread,
    /// From a kill to the beginning of the next second in which four fifths of the load was done.
    pub resumed: Spread,
    /// Kills after which there was no such second before the load ended.
    pub not_resumed: usize,
    /// From the acknowledgement of a job until a client knew of its end.
    pub jobs_took: Spread,
    /// From the start of a process until it was ready.
    pub starts: Spread,
    /// What the nodes that are left used.
    pub used: Vec<Used>,
    /// Findings, word for word; not all when there are many.
    pub examples: Vec<String>,
}

/// How clients were served.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Told {
    /// Lists of outcomes that were read and checked.
    pub answers: u64,
    /// Questions without an answer, during the faults.
    pub unanswered: u64,
    /// Answers that a job is under way after another node had told of its end.
    pub stale: u64,
}

/// What was done while some nodes were cut off: by those, and by the others.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Apart {
    /// Cuts.
    pub cuts: usize,
    /// Jobs that were acknowledged by a node of each side.
    pub acknowledged: [u64; 2],
    /// Jobs of whose end a node of each side told first.
    pub over: [u64; 2],
}

/// What a node used.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Used {
    /// Which.
    pub node: usize,
    /// The most memory of any of its processes (VmHWM).
    pub memory_bytes: u64,
    /// Its data directory at the end.
    pub disk_bytes: u64,
}

/// How some durations are spread, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// How many.
    pub count: usize,
    /// Half of them are at most this.
    pub p50: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Spread {
    /// Of these.
    pub fn of(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        let rank = |share: f64| ((durations.len() as f64 * share).ceil() as usize).saturating_sub(1);
        let at = |position: usize| durations.get(position).map_or(0.0, Duration::as_secs_f64);
        Self { count: durations.len(), p50: at(rank(0.5)), p99: at(rank(0.99)), max: at(rank(1.0)) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, p50, p99, max } = self;
        write!(f, "p50 {p50:.2} s, p99 {p99:.2} s, max {max:.2} s of {count}")
    }
}

impl SteadyReport {
    /// Whether nothing was lost, doubled or wrong, every node lived as it should, and all custodians agreed.
    pub fn is_good(&self) -> bool {
        self.problems().is_empty()
    }

    /// How many there are of each kind.
    pub(super) fn count(kinds: impl Iterator<Item = Kind>) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for kind in kinds {
            *counts.entry(format!("{kind:?}").to_lowercase()).or_default() += 1;
        }
        counts
    }

    fn problems(&self) -> Vec<String> {
        let Self { bad, disks, .. } = self;
        let problems = [
            (bad.lost, "lost"),
            (bad.doubled, "doubled"),
            (bad.wrong, "wrong"),
            (bad.changed, "changed answers"),
            (self.panics as u64, "panics"),
            (self.failures.len() as u64, "nodes that ended by themselves or not as they should"),
            (disks.unequal, "shards whose custodians differ"),
            (disks.incomplete, "shards of which a custodian misses outcomes"),
            (disks.jobs_missing, "jobs that a custodian misses"),
            (u64::from(self.jobs == 0), "load without a job"),
        ];
        problems.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect()
    }
}

impl fmt::Display for SteadyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bad, attempts, disks, told, .. } = self;
        let faults: Vec<String> = self.faults.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        writeln!(f, "nodes      {} (seed {}), load for {:.0} s", self.nodes, self.seed, self.seconds)?;
        writeln!(f, "faults     {} ({})", self.faults.values().sum::<usize>(), faults.join(", "))?;
        writeln!(f, "jobs       {} acknowledged, {} submissions refused, {} late", self.jobs, self.refused, self.late)?;
        writeln!(f, "           {} until a client knew of the end", self.jobs_took)?;
        writeln!(f, "tasks      {}, {:.1} a second", self.tasks, self.tasks_per_second)?;
        let Attempts { granted_again, run_again, granted_after_end, .. } = attempts;
        write!(f, "attempts   {granted_again} tasks granted again, {run_again} run again; ")?;
        writeln!(f, "{granted_after_end} granted after the end of their job")?;
        writeln!(f, "answers    {} checked, {} behind what another node had told", told.answers, told.stale)?;
        writeln!(f, "           {} questions were not answered, during the faults", told.unanswered)?;
        if self.apart.cuts > 0 {
            let Apart { cuts, acknowledged: [one, other], over: [one_over, other_over] } = self.apart;
            writeln!(
                f,
                "apart      {cuts} cuts; {one} jobs acknowledged by the nodes cut off, {other} by the others,"
            )?;
            writeln!(f, "           {one_over} and {other_over} known to be over before the cut ended")?;
        }
        writeln!(f, "regranted  {} tasks of killed nodes", self.regrant)?;
        writeln!(f, "           {} kills, until all of the node's tasks were", self.regrant_of_kill)?;
        writeln!(f, "           {} tasks of stopped nodes", self.regrant_of_stopped)?;
        writeln!(f, "resumed    {} kills, {} not before the load ended", self.resumed, self.not_resumed)?;
        writeln!(f, "starts     {}", self.starts)?;
        for Used { node, memory_bytes, disk_bytes } in &self.used {
            writeln!(
                f,
                "node {node}     {} MB of memory at most, {} MB of disk",
                memory_bytes >> 20,
                disk_bytes >> 20
            )?;
        }
        let Disks { shards, unequal, incomplete, jobs_missing } = disks;
        write!(f, "disks      {shards} shards: {unequal} unequal, {incomplete} incomplete; ")?;
        writeln!(f, "{jobs_missing} jobs not with all custodians")?;
        let Bad { lost, doubled, wrong, changed } = bad;
        write!(f, "audit      {lost} lost, {doubled} doubled, {wrong} wrong, {changed} changed, ")?;
        writeln!(f, "{} panics, {} nodes failed", self.panics, self.failures.len())?;
        for finding in self.failures.iter().chain(&self.examples) {
            writeln!(f, "           {}", finding.replace('\n', "\n           "))?;
        }
        let problems = self.problems();
        write!(f, "result     {}", if problems.is_empty() { "ok".into() } else { problems.join("; ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_told_by_its_ranks() {
        let seconds = |count: u64| Spread::of((1..=count).rev().map(Duration::from_secs).collect());
        assert_eq!(seconds(0), Spread::default());
        assert_eq!(seconds(200), Spread { count: 200, p50: 100.0, p99: 198.0, max: 200.0 });
        assert_eq!(seconds(1).to_string(), "p50 1.00 s, p99 1.00 s, max 1.00 s of 1");
    }
}
