//! One story at a time, in the words of the domain, on a network and machines that fail only when told to.

use std::time::Duration;

use swarm_protocol::{JobId, Query};

use crate::bug::Bug;
use crate::census::Census;
use crate::clients::StagePlan;
use crate::faults::{Fault, FaultSet, Faults};
use crate::guests::Script;
use crate::invariants::Violation;
use crate::network::Wall;
use crate::scenario::{NODES, Scenario};
use crate::trace::Trace;
use crate::world::World;

/// How long a story waits for anything.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A swarm whose fate the test decides.
pub struct Swarm {
    world: World,
}

impl Swarm {
    /// A swarm of the usual size.
    pub fn from_seed(seed: u64) -> Self {
        Self::of(Scenario::new(seed, NODES))
    }

    /// The same with so many nodes. To be called first.
    #[must_use]
    pub fn with_nodes(self, nodes: usize) -> Self {
        Self::of(Scenario { nodes, ..self.world.scenario })
    }

    /// The same on machines that do something wrong. To be called first.
    #[must_use]
    pub fn with_bug(self, bug: Bug) -> Self {
        Self::of(Scenario { bug: Some(bug), ..self.world.scenario })
    }

    /// The same where these happen without being told to. To be called after the others.
    #[must_use]
    pub fn with_faults(mut self, faults: FaultSet) -> Self {
        self.world.faults = Faults::exactly(faults);
        self
    }

    /// The same with so many slots on each node. To be called before it is started.
    #[must_use]
    pub fn with_slots(mut self, slots: u32) -> Self {
        self.world.machines.iter_mut().for_each(|machine| machine.slots = slots);
        self
    }

    fn of(scenario: Scenario) -> Self {
        Self { world: World::new(scenario, Faults::default(), Trace::Rough) }
    }

    /// Lets all nodes start and find each other.
    #[must_use]
    pub fn started(mut self) -> Self {
        self.pass(Duration::from_secs(5));
        self
    }

    /// Submits a job of one stage to a node and waits until it is acknowledged.
    ///
    /// # Panics
    /// When nobody acknowledges it in two minutes of virtual time.
    pub fn submit(&mut self, node: usize, tasks: u32, script: Script) -> JobId {
        let plan = StagePlan::plain(tasks, script);
        let job = self.world.submit(node, vec![plan], 0);
        self.run_until(|it| it.world.clients.acknowledged.contains(&job));
        job
    }

    /// Lets virtual time pass.
    pub fn pass(&mut self, time: Duration) {
        self.world.run_for(time);
    }

    /// The virtual time that passes while a job of one stage is submitted to a node, runs, and is told to be over.
    ///
    /// # Panics
    /// As [`Self::run_until`].
    pub fn time(&mut self, node: usize, tasks: u32, script: Script) -> Duration {
        let before = self.world.now();
        let job = self.submit(node, tasks, script);
        while !self.is_over(job) {
            self.ask(node, job);
            self.pass(LOOK_EVERY);
            assert!(self.world.now().since(before) < PATIENCE, "it was not over within {PATIENCE:?} of virtual time");
        }
        self.world.now().since(before)
    }

    /// Lets time pass until the condition holds.
    ///
    /// # Panics
    /// When it does not hold in two minutes of virtual time, or an invariant breaks before.
    pub fn run_until(&mut self, holds: impl Fn(&Self) -> bool) {
        let bound = self.world.now() + PATIENCE;
        while !holds(self) {
            assert!(self.world.broken.is_none(), "{:?}", self.world.broken);
            assert!(self.world.now() < bound, "it did not happen within {PATIENCE:?} of virtual time");
            self.world.run_for(LOOK_EVERY);
        }
    }

    /// The nodes that execute tasks of this job now.
    pub fn holders_of(&self, job: JobId) -> Vec<usize> {
        let executes = |node: &usize| {
            let running = self.world.machines[*node].running.as_ref();
            running.is_some_and(|it| it.slots.leases().iter().any(|lease| lease.shard.job == job))
        };
        (0..self.world.machines.len()).filter(executes).collect()
    }

    /// Stops a node without a word; what it had not synced is lost.
    pub fn crash(&mut self, node: usize) {
        self.world.crash(node, 0);
    }

    /// Starts a node that is down.
    pub fn restart(&mut self, node: usize) {
        self.world.start(node);
    }

    /// Cuts these nodes off from the others.
    pub fn part(&mut self, far: &[usize]) {
        self.world.raise(Fault::Partition, Wall::Around(far.iter().copied().collect()));
    }

    /// Tells a node to hand over what it owes; then it leaves.
    pub fn drain(&mut self, node: usize) {
        self.world.drain(node);
    }

    /// Whether the node runs.
    pub fn is_up(&self, node: usize) -> bool {
        self.world.machines[node].is_up()
    }

    /// Of how many tasks users were told that runs of them differed.
    pub fn disputed(&self) -> usize {
        self.world.clients.disputed.len()
    }

    /// Asks a node to cancel a job.
    pub fn cancel(&mut self, node: usize, job: JobId) {
        self.world.cancel(node, job);
    }

    /// Asks a node how far a job is; [`Self::is_over`] tells what came of it.
    pub fn ask(&mut self, node: usize, job: JobId) {
        self.world.question(node, Query::Job(job));
    }

    /// Whether a user was told that the job is over.
    pub fn is_over(&self, job: JobId) -> bool {
        self.world.clients.over.contains(&job)
    }

    /// Ends all faults, starts all nodes, and demands that everything acknowledged finishes and all nodes tell the same.
    /// The error says which invariant broke, then or at any time before.
    pub fn heal_and_settle(&mut self) -> Result<(), Violation> {
        self.world.end_storm();
        self.world.finish_jobs();
        self.world.settle();
        self.world.ask_everybody();
        self.world.broken.clone().map_or(Ok(()), Err)
    }

    /// How often each thing happened.
    pub const fn census(&self) -> &Census {
        &self.world.census
    }
}
