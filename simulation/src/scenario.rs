//! What one run is made of: everything follows from these few numbers.

use crate::bug::Bug;

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Everything random.
    pub seed: u64,
    /// Nodes in the swarm, at least 1.
    pub nodes: usize,
    /// About how many tasks are submitted, over all jobs.
    pub tasks: u32,
    /// Something that is done wrong on purpose, which an invariant must notice.
    pub bug: Option<Bug>,
}

/// Nodes, unless told otherwise.
pub const NODES: usize = 5;
/// Tasks, unless told otherwise.
pub const TASKS: u32 = 200;

impl Scenario {
    /// A run of this seed with the usual sizes.
    pub const fn new(seed: u64, nodes: usize) -> Self {
        Self { seed, nodes, tasks: TASKS, bug: None }
    }

    /// The command that repeats this run.
    pub fn command(&self) -> String {
        let tasks = if self.tasks == TASKS { String::new() } else { format!(" --tasks {}", self.tasks) };
        let bug = self.bug.map(|bug| format!(" --bug {}", bug.name())).unwrap_or_default();
        format!("swarm-sim replay --seed {} --nodes {}{tasks}{bug}", self.seed, self.nodes)
    }
}
