//! What the nodes logged of each task: when it was granted to a node, and when an attempt ended there. From this follows
//! how soon the work of a struck node was granted again, how often tasks ran, and when the swarm was back at its pace.
//!
//! Times are those of the logs, to the microsecond, by the one clock that nodes and harness share.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::stage::Fault;
use super::{ClusterError, Kind};

/// What the lines are marked with.
const TARGET: &str = " swarm_node::tasks: ";
/// Over how long the pace is measured.
const PACE: Duration = Duration::from_secs(1);
/// The share of the load that counts as being back at its pace: jobs come in lumps, so all of it would be luck.
const PACE_SHARE: f64 = 0.8;

/// An outcome that is older is recorded, so a node that is struck does not hold its task any more.
const RECORDED_WITHIN: Duration = Duration::from_secs(1);

/// What was logged of the tasks of some jobs.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// Their ids → the numbers by which they are known here, and when a client knew of their ends.
    jobs: BTreeMap<String, (u32, u64)>,
    /// Job, stage and index → when, on which node, and what.
    tasks: BTreeMap<(u32, u16, u32), Vec<Line>>,
    /// When attempts ended, and how many.
    ends: Vec<(u64, u32)>,
    granted_after_end: u64,
}

/// Something that happened to a task: microseconds since 1970, the node, and whether an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    at: u64,
    node: usize,
    ended: bool,
}

/// Work of a struck node that was granted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Regrant {
    /// Which of the faults.
    pub(crate) fault: usize,
    /// After that.
    pub(crate) after: Duration,
}

/// How often tasks ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Attempts {
    /// Tasks that were granted at all.
    pub tasks: u64,
    /// Grants beyond one a task.
    pub granted_again: u64,
    /// Attempts that ended, beyond one a task: work done in vain.
    pub run_again: u64,
    /// Grants after a client had been told the end of the job.
    pub granted_after_end: u64,
}

impl Journal {
    /// Nothing is known yet of these jobs but when a client knew of their ends. Of other jobs nothing is kept: a
    /// submission that was not acknowledged may run or not.
    pub(crate) fn of(jobs: impl Iterator<Item = (String, Option<SystemTime>)>) -> Self {
        let known = |((id, over), number): ((String, Option<SystemTime>), u32)| {
            (id, (number, over.map_or(u64::MAX, unix_micros)))
        };
        Self { jobs: jobs.zip(0..).map(known).collect(), ..Self::default() }
    }

    /// Adds the log of a node.
    pub(crate) fn read(&mut self, node: usize, log: &Path) -> Result<(), ClusterError> {
        let file = File::open(log).map_err(ClusterError::io("read", log))?;
        for line in BufReader::new(file).split(b'\n') {
            let line = line.map_err(ClusterError::io("read", log))?;
            self.add(node, &String::from_utf8_lossy(&line));
        }
        Ok(())
    }

    fn add(&mut self, node: usize, line: &str) -> Option<()> {
        let (head, said) = line.split_once(TARGET)?;
        let at = micros(head.split(' ').next()?)?;
        let (what, fields) = said.split_once(' ')?;
        let ended = match what {
            "granted" => false,
            "ended" => true,
            _ => return None,
        };
        let (job, fields) = fields.strip_prefix("job=")?.split_once(" stage=")?;
        let (stage, tasks) = fields.split_once(" tasks=")?;
        let (job, over) = *self.jobs.get(job)?;
        if !ended && at > over {
            self.granted_after_end += ranges(tasks).map(|(_, count)| u64::from(count)).sum::<u64>();
            return None;
        }
        let stage = stage.parse().ok()?;
        let mut sum = 0;
        for (first, count) in ranges(tasks) {
            sum += count;
            for index in first..first + count {
                self.tasks.entry((job, stage, index)).or_default().push(Line { at, node, ended });
            }
        }
        if ended {
            self.ends.push((at, sum));
        }
        Some(())
    }

    /// Brings everything in order; to be called once all logs are read.
    pub(crate) fn sort(&mut self) {
        self.tasks.values_mut().for_each(|lines| lines.sort_unstable());
        self.ends.sort_unstable();
    }

    /// How often tasks ran.
    pub(super) fn attempts(&self) -> Attempts {
        let (tasks, granted_after_end) = (self.tasks.len() as u64, self.granted_after_end);
        let mut attempts = Attempts { tasks, granted_after_end, ..Attempts::default() };
        for lines in self.tasks.values() {
            let ended = lines.iter().filter(|line| line.ended).count() as u64;
            attempts.granted_again += (lines.len() as u64 - ended).saturating_sub(1);
            attempts.run_again += ended.saturating_sub(1);
        }
        attempts
    }

    /// Every task that a node held when it was struck and that was granted once more after it, whoever got it then.
    pub(crate) fn regrants(&self, faults: &[Fault]) -> Vec<Regrant> {
        let struck: Vec<(u64, &Fault)> = faults.iter().map(|fault| (unix_micros(fault.at), fault)).collect();
        let mut regrants = Vec::new();
        for lines in self.tasks.values() {
            let grants: Vec<&Line> = lines.iter().filter(|line| !line.ended).collect();
            for pair in grants.windows(2) {
                let (node, held) = (pair[0].node, pair[0].at..pair[1].at.min(released(lines, pair[0])));
                let strikes = |(at, fault): &(u64, &Fault)| {
                    fault.kind != Kind::Partition && fault.nodes.contains(&node) && held.contains(at)
                };
                let Some(fault) = struck.iter().position(strikes) else { continue };
                // A node that was only stopped may have ended it after all.
                let missed = struck[fault].0..pair[1].at;
                if !lines.iter().any(|line| line.ended && missed.contains(&line.at)) {
                    let after = Duration::from_micros(pair[1].at - struck[fault].0);
                    regrants.push(Regrant { fault, after });
                }
            }
        }
        regrants
    }

    /// How long after `at` a second begins in which the pace is that of the load; `None` when none does before `until`.
    pub(super) fn resumed(&self, at: SystemTime, until: SystemTime, tasks_per_second: f64) -> Option<Duration> {
        let (at, until, pace) = (unix_micros(at), unix_micros(until), PACE.as_micros() as u64);
        let first = self.ends.partition_point(|(end, _)| *end < at);
        let starts = std::iter::once(at).chain(self.ends[first..].iter().map(|(end, _)| *end));
        let enough = (tasks_per_second * PACE.as_secs_f64() * PACE_SHARE).ceil() as u64;
        let (mut low, mut high, mut sum) = (first, first, 0);
        for start in starts.take_while(|start| start + pace <= until) {
            while high < self.ends.len() && self.ends[high].0 < start + pace {
                sum += u64::from(self.ends[high].1);
                high += 1;
            }
            while low < high && self.ends[low].0 < start {
                sum -= u64::from(self.ends[low].1);
                low += 1;
            }
            if sum >= enough {
                return Some(Duration::from_micros(start - at));
            }
        }
        None
    }
}

/// When a node no longer holds a task that was granted to it, if it ended there.
fn released(lines: &[Line], grant: &Line) -> u64 {
    let ended = lines.iter().find(|line| line.ended && line.node == grant.node && line.at >= grant.at);
    ended.map_or(u64::MAX, |line| line.at + RECORDED_WITHIN.as_micros() as u64)
}

/// `[[0+5], [9+1]]`.
fn ranges(text: &str) -> impl Iterator<Item = (u32, u32)> {
    let pieces = text.split(['[', ']']);
    pieces
        .filter_map(|piece| piece.split_once('+'))
        .filter_map(|(first, count)| Some((first.parse().ok()?, count.parse().ok()?)))
}

fn unix_micros(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

/// `2026-11-22T07:48:28.123456Z` as microseconds since 1970.
fn micros(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, fraction) = time.split_once('.')?;
    let seconds = time.split(':').try_fold(0, |sum, part| Some(sum * 60 + part.parse::<u64>().ok()?))?;
    // Days by the Gregorian calendar, counted from a March so that the leap day is the last of a year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some((days * 86_400 + seconds) * 1_000_000 + format!("{fraction:0<6}").get(..6)?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(micros("1970-01-01T00:00:00.000001Z"), Some(1));
        assert_eq!(micros("2026-11-22T07:48:28.5Z"), Some(1_795_333_708_500_000));
        assert_eq!(micros("2024-02-29T23:59:59.999999Z"), Some(1_709_251_199_999_999));
        assert_eq!(micros("yesterday"), None);
    }

    #[test]
    fn work_of_a_killed_node_is_followed_to_its_next_holder() {
        let journal = journal(&[
            (0, "00.000000", "granted job=ab stage=0 tasks=[[0+2], [5+1]]"),
            (0, "00.500000", "ended job=ab stage=0 tasks=[[0+1]]"),
            (1, "02.200000", "granted job=ab stage=0 tasks=[[1+1]]"),
            (2, "02.900000", "granted job=ab stage=0 tasks=[[5+1]]"),
            (2, "03.000000", "ended job=ab stage=0 tasks=[[5+1]]"),
            (1, "03.100000", "ended job=ab stage=0 tasks=[[1+1]]"),
            (3, "09.000000", "granted job=ab stage=0 tasks=[[1+1]]"),
            (3, "09.100000", "ended job=ab stage=0 tasks=[[1+1]]"),
            (4, "30.000000", "granted job=ab stage=0 tasks=[[1+2]]"),
        ]);
        let faults =
            [fault(Kind::Kill, 1, 1_000_000), fault(Kind::Kill, 0, 2_000_000), fault(Kind::Kill, 0, 2_500_000)];
        let mut after: Vec<_> = journal.regrants(&faults).iter().map(|it| (it.fault, it.after.as_millis())).collect();
        after.sort_unstable();
        // The last grant followed a death of the node that had run the task before, but not while it held it.
        assert_eq!(after, [(1, 200), (1, 900)]);
        assert_eq!(journal.attempts(), Attempts { tasks: 3, granted_again: 3, run_again: 1, granted_after_end: 2 });
    }

    #[test]
    fn the_pace_is_back_when_a_whole_second_has_it() {
        let journal = journal(&[
            (0, "01.000000", "ended job=ab stage=0 tasks=[[0+4]]"),
            (0, "03.500000", "ended job=ab stage=0 tasks=[[4+5]]"),
            (0, "04.400000", "ended job=ab stage=0 tasks=[[9+3]]"),
        ]);
        let resumed = |at, pace| journal.resumed(time(at), time(9_000_000), pace).map(|it| it.as_millis());
        assert_eq!(resumed(900_000, 5.0), Some(0));
        assert_eq!(resumed(1_500_000, 10.0), Some(2_000));
        assert_eq!(resumed(1_500_000, 11.0), None);
    }

    #[test]
    fn other_lines_and_broken_ones_are_passed_over() {
        let journal = journal(&[
            (0, "01.000000", "granted job=ab stage=0"),
            (0, "01.000000", "granted job=cd stage=0 tasks=[[0+1]]"),
        ]);
        assert_eq!(journal.attempts(), Attempts::default());
    }

    fn journal(lines: &[(usize, &str, &str)]) -> Journal {
        let over = time(20_000_000);
        let mut journal = Journal::of([("ab".into(), Some(over))].into_iter());
        for (node, second, said) in lines {
            journal.add(*node, &format!("1970-01-01T00:00:{second}Z DEBUG swarm_node::tasks: {said}"));
        }
        journal.sort();
        journal
    }

    fn fault(kind: Kind, node: usize, micros: u64) -> Fault {
        Fault { kind, nodes: vec![node], at: time(micros) }
    }

    fn time(micros: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(micros)
    }
}
