//! Something done wrong on purpose, by a simulated machine or by a core, and the hunt for it: a simulator that does not
//! find it proves nothing.

use std::ops::Range;
use std::sync::LazyLock;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::run::{Report, run};
use crate::scenario::Scenario;
use crate::sweep::sweep;
use crate::trace::Trace;

/// Swarm sizes of a hunt, in turn: some bugs are hidden by a second copy, some need many nodes.
const SIZES: [usize; 6] = [1, 2, 3, 5, 5, 7];

/// Something that is done wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Disks acknowledge syncs, and forget at a crash all that was written since the last start.
    ForgetfulDisk,
    /// Nodes speak, start and notify before the sync is over.
    SpeaksBeforeSync,
    /// Collectors remove blobs that a user pinned.
    ForgetsPins,
    /// The cores themselves.
    #[cfg(feature = "planted-bugs")]
    Core(swarm_protocol::PlantedBug),
}

static ALL: LazyLock<Vec<Bug>> = LazyLock::new(|| {
    let machines = [Bug::ForgetfulDisk, Bug::SpeaksBeforeSync, Bug::ForgetsPins];
    #[cfg(feature = "planted-bugs")]
    let machines = machines.into_iter().chain(swarm_protocol::PlantedBug::ALL.iter().map(|bug| Bug::Core(*bug)));
    machines.into_iter().collect()
});

impl Bug {
    /// Every one that this build has.
    pub fn all() -> &'static [Self] {
        &ALL
    }

    /// The name on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ForgetfulDisk => "forgetful-disk",
            Self::SpeaksBeforeSync => "speaks-before-sync",
            Self::ForgetsPins => "forgets-pins",
            #[cfg(feature = "planted-bugs")]
            Self::Core(bug) => bug.name(),
        }
    }

    /// What the cores do wrong.
    #[cfg(feature = "planted-bugs")]
    pub(crate) const fn of_core(self) -> Option<swarm_protocol::PlantedBug> {
        match self {
            Self::Core(bug) => Some(bug),
            _ => None,
        }
    }

    /// Runs swarms of several sizes with this bug until an invariant breaks: the report of the first such run.
    pub fn hunt(self, seeds: Range<u64>, threads: usize) -> Option<Report> {
        let size = |seed: u64| SIZES[(seed % SIZES.len() as u64) as usize];
        let scenario = |seed| Scenario { bug: Some(self), ..Scenario::new(seed, size(seed)) };
        let scenarios: Vec<_> = seeds.map(scenario).collect();
        let mut found = None;
        sweep(&scenarios, threads, |report| {
            found = Some(report).filter(|report| report.violation.is_some() && self.is_to_blame(&report.scenario));
            found.is_none()
        });
        found
    }
}

impl Bug {
    /// Whether the run holds every promise without the bug.
    fn is_to_blame(self, scenario: &Scenario) -> bool {
        run(&Scenario { bug: None, ..scenario.clone() }, Trace::Rough).violation.is_none()
    }
}

impl ValueEnum for Bug {
    fn value_variants<'a>() -> &'a [Self] {
        Self::all()
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}
