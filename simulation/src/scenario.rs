//! What one run is made of: everything follows from these few numbers.

use std::str::FromStr;
use std::time::Duration;

use crate::bug::Bug;
use crate::dice;
use crate::faults::FaultSet;

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Everything random.
    pub seed: u64,
    /// Nodes in the swarm, at least 1.
    pub nodes: usize,
    /// About how many tasks are submitted, over all jobs.
    pub tasks: u32,
    /// The kinds of faults of which the seed switches some on.
    pub faults: FaultSet,
    /// How long the storm takes, in seconds; `None`: as the seed has it.
    pub storm: Option<u64>,
    /// Something that is done wrong on purpose, which an invariant must notice.
    pub bug: Option<Bug>,
}

/// Nodes, unless told otherwise.
pub const NODES: usize = 5;
/// Tasks, unless told otherwise.
pub const TASKS: u32 = 200;
/// How long a storm takes, in seconds.
const STORM_SECONDS: std::ops::RangeInclusive<u64> = 8..=30;

impl Scenario {
    /// A run of this seed with the usual sizes and every kind of fault.
    pub fn new(seed: u64, nodes: usize) -> Self {
        Self { seed, nodes, tasks: TASKS, faults: FaultSet::all(), storm: None, bug: None }
    }

    /// How long the storm takes, in seconds.
    pub fn storm_seconds(&self) -> u64 {
        self.storm.unwrap_or_else(|| dice::fork(self.seed, "storm").u64(STORM_SECONDS))
    }

    /// The storm's duration.
    pub(crate) fn storm_time(&self) -> Duration {
        Duration::from_secs(self.storm_seconds())
    }

    /// The command that repeats this run.
    pub fn command(&self) -> String {
        let mut command = format!("swarm-sim replay --seed {} --nodes {}", self.seed, self.nodes);
        if self.tasks != TASKS {
            command += &format!(" --tasks {}", self.tasks);
        }
        if self.faults != FaultSet::all() {
            command += &format!(" --faults {}", self.faults);
        }
        if let Some(seconds) = self.storm {
            command += &format!(" --storm {seconds}");
        }
        if let Some(bug) = self.bug {
            command += &format!(" --bug {}", bug.name());
        }
        command
    }
}

/// How many nodes a swarm has: `N`, or a range from which the seed chooses: `3..26`, or the same as `3..=25`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    least: usize,
    most: usize,
}

impl Sizes {
    /// The nodes in the swarm of this seed.
    pub fn of(&self, seed: u64) -> usize {
        dice::fork(seed, "nodes").usize(self.least..=self.most)
    }
}

/// Why a text names no sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizesError {
    /// Neither a number nor a range.
    #[error("expected a number of nodes such as 5, or a range such as 3..26 or 3..=25")]
    Malformed,
    /// No number is in the range.
    #[error("the range is empty")]
    Empty,
    /// A swarm has somebody.
    #[error("a swarm has at least one node")]
    Nobody,
}

impl FromStr for Sizes {
    type Err = SizesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| SizesError::Malformed);
        let (least, most) = match text.split_once("..") {
            None => (number(text)?, number(text)?),
            Some((least, most)) => match most.strip_prefix('=') {
                Some(most) => (number(least)?, number(most)?),
                None => (number(least)?, number(most)?.checked_sub(1).ok_or(SizesError::Empty)?),
            },
        };
        match (least, most) {
            (0, _) => Err(SizesError::Nobody),
            (least, most) if least > most => Err(SizesError::Empty),
            _ => Ok(Self { least, most }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Fault;

    #[test]
    fn a_range_of_sizes_is_used_wholly() {
        let sizes: Sizes = "3..=5".parse().unwrap();
        assert_eq!(sizes, "3..6".parse().unwrap());
        let met: std::collections::BTreeSet<_> = (0..100).map(|seed| sizes.of(seed)).collect();
        assert_eq!(met, [3, 4, 5].into());
        assert_eq!("7".parse::<Sizes>().unwrap().of(1), 7);
        assert_eq!("0".parse::<Sizes>(), Err(SizesError::Nobody));
        assert_eq!("5..5".parse::<Sizes>(), Err(SizesError::Empty));
        assert_eq!("many".parse::<Sizes>(), Err(SizesError::Malformed));
    }

    #[test]
    fn the_command_names_what_is_unusual() {
        let usual = Scenario::new(7, 5);
        assert_eq!(usual.command(), "swarm-sim replay --seed 7 --nodes 5");
        let faults = [Fault::Loss, Fault::Crash].into_iter().collect();
        let unusual = Scenario { tasks: 10, faults, storm: Some(3), bug: Some(Bug::ForgetfulDisk), ..usual };
        let more = "--tasks 10 --faults loss,crash --storm 3 --bug forgetful-disk";
        assert_eq!(unusual.command(), format!("swarm-sim replay --seed 7 --nodes 5 {more}"));
    }
}
