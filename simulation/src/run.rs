//! One run: a storm in which safety is watched at every step, then a healing after which everything must finish.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use swarm_protocol::{Hash, NodeId, Query, ShardId, Time};

use crate::census::Census;
use crate::faults::{Fault, Faults};
use crate::history::Fact;
use crate::invariants::Violation;
use crate::scenario::Scenario;
use crate::trace::Trace;
use crate::world::World;

/// After the healing every acknowledged job is over within this time: the longest task takes 4 s, a stage 20 s of work.
pub(crate) const FINISH_MAX: Duration = Duration::from_secs(120);
/// After the healing nobody is asked for the results before this time: the last nodes to start change who the custodians
/// are, and views settle for 10 s.
const SETTLE_MIN: Duration = Duration::from_secs(12);
/// A job that nobody was promised may go on taking its nodes down after the healing: until that is over, all is asked again.
const CLOSINGS_MAX: usize = 10;
/// Questions are answered within this time on a network without faults.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Nodes that are asked for everything in the end, all of them where there are no more.
const NODES_ASKED_MAX: usize = 50;
/// After the healing a new job is acknowledged within this time: nodes find each other again, views settle for 10 s.
const ACCEPT_MAX: Duration = Duration::from_secs(60);
/// How often the users look whether jobs are over.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What came of one run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which run.
    pub scenario: Scenario,
    /// The faults that were switched on.
    pub faults: Faults,
    /// What broke, if anything.
    pub violation: Option<Violation>,
    /// Equal for equal runs.
    pub hash: u64,
    /// How often each thing happened.
    pub census: Census,
    /// Virtual time that passed.
    pub time: Time,
}

/// Runs a scenario. A panic of the core is a violation like any other.
pub fn run(scenario: &Scenario, trace: Trace) -> Report {
    let faults = Faults::choose(scenario.seed, &scenario.faults);
    let attempt = catch_unwind(AssertUnwindSafe(|| run_to_end(scenario, faults.clone(), trace)));
    attempt.unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().map(String::as_str);
        let what = what.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("something");
        let violation = Violation { invariant: "nobody_panics", at: Time::ZERO, what: what.into() };
        Report {
            scenario: scenario.clone(),
            faults,
            violation: Some(violation),
            hash: 0,
            census: Census::default(),
            time: Time::ZERO,
        }
    })
}

fn run_to_end(scenario: &Scenario, faults: Faults, trace: Trace) -> Report {
    let mut world = World::new(scenario.clone(), faults.clone(), trace);
    let nodes: Vec<_> = world.machines.iter().map(|machine| machine.id).collect();
    world.note(format_args!("{scenario:?} with {}; nodes n0.. are {nodes:?}", faults.on()));
    world.storm_until = world.now() + scenario.storm_time();
    world.begin_storm();
    if faults.has(Fault::WipeAfterAck) {
        world.prepare_ambush();
    } else {
        world.begin_users();
    }
    while world.broken.is_none() && world.now() < world.storm_until {
        world.run_until(world.storm_until);
    }
    let phases = [
        World::end_storm,
        World::demand_acceptance,
        World::finish_jobs,
        World::settle,
        World::ask_everybody,
        World::expire,
    ];
    for phase in phases {
        if world.broken.is_none() {
            phase(&mut world);
        }
    }
    world.census.add("event", world.steps);
    Report {
        scenario: scenario.clone(),
        faults,
        violation: world.broken,
        hash: world.tracer.hash(),
        census: world.census,
        time: world.queue.now(),
    }
}

impl World {
    /// Hands over one more small job, again when it is refused: a swarm without faults takes it.
    pub(crate) fn demand_acceptance(&mut self) {
        let bound = self.now() + ACCEPT_MAX;
        while self.broken.is_none() {
            let Some(node) = self.any_node() else { break };
            let job = self.submit_small(node);
            while self.clients.waits_for(job) && self.now() < bound && self.broken.is_none() {
                self.look_on();
            }
            if self.clients.acknowledged.contains(&job) {
                return;
            }
            if self.now() >= bound {
                return self
                    .break_with("jobs_are_accepted", format!("no job is acknowledged after the healing: {job:?}"));
            }
            self.look_on();
        }
    }

    /// Lets time pass until users were told that every acknowledged job is over, or the bound is reached.
    pub(crate) fn finish_jobs(&mut self) {
        let bound = self.now() + FINISH_MAX;
        // What was told in the storm counts as little as possible: everything is asked again.
        self.clients.over.clear();
        loop {
            let open: Vec<_> = self.clients.acknowledged.difference(&self.clients.over).copied().collect();
            // What was handed over in the storm may be acknowledged after it.
            let none_is_left = open.is_empty() && !self.clients.submits();
            if none_is_left || self.now() >= bound || self.broken.is_some() {
                break;
            }
            for job in open {
                if let Some(node) = self.any_node() {
                    self.question(node, Query::Job(job));
                }
            }
            self.look_on();
        }
        self.observe(&Fact::Bounded);
    }

    /// Lets a moment pass, and looks at what the custodians have: whether they agree in time is judged at every look.
    fn look_on(&mut self) {
        self.run_for(LOOK_EVERY);
        let shards: Vec<_> = self.clients.acknowledged.iter().flat_map(|job| self.shards_of(*job)).collect();
        for shard in shards {
            let copies = self.copies(shard);
            self.observe(&Fact::Kept { shard, copies: &copies });
        }
    }

    /// Lets custodians come to agree. That it does not take too long is judged while they do.
    pub(crate) fn settle(&mut self) {
        let quiet_from = |world: &Self| world.auditor.history().healed.unwrap_or_default() + SETTLE_MIN;
        let bound = self.now() + FINISH_MAX;
        while self.now() < quiet_from(self).min(bound) && self.broken.is_none() {
            self.run_until(quiet_from(self));
        }
        loop {
            self.look_on();
            let jobs = self.clients.acknowledged.iter();
            let mut shards = jobs.flat_map(|job| self.shards_of(*job));
            if self.broken.is_some() || shards.all(|shard| agree(&self.copies(shard))) {
                break;
            }
        }
        self.observe(&Fact::Settled);
    }

    /// What the custodians of a shard have of it. Every node may name them; all must name the same in the end.
    fn copies(&self, shard: ShardId) -> Vec<(NodeId, Option<Hash>)> {
        // Two machines with one identity are linked to the others by turns.
        let machines = self.machines.iter().filter(|machine| !self.twins.contains_key(&machine.id));
        let cores = machines.filter_map(|machine| Some((machine.id, &machine.running.as_ref()?.core)));
        let named: BTreeSet<_> = cores.clone().flat_map(|(_, core)| core.shard_custodians(shard)).collect();
        cores.filter(|(id, _)| named.contains(id)).map(|(id, core)| (id, core.shard_digest(shard))).collect()
    }

    /// Asks every node, in a large swarm some of them, for everything, and judges the answers.
    pub(crate) fn ask_everybody(&mut self) {
        self.ask_each();
        for _ in 1..CLOSINGS_MAX {
            if self.auditor.history().settled || self.broken.is_some() {
                break;
            }
            self.settle();
            self.ask_each();
        }
        self.observe_blobs();
        self.observe(&Fact::Closed);
    }

    fn ask_each(&mut self) {
        let jobs: Vec<_> = self.clients.submitted.clone();
        let is_one = |node: &usize| !self.twins.contains_key(&self.machines[*node].id);
        let up = (0..self.machines.len()).filter(|node| self.machines[*node].is_up());
        let up: Vec<_> = up.filter(is_one).collect();
        for node in up.iter().copied().step_by(up.len().div_ceil(NODES_ASKED_MAX).max(1)) {
            for job in &jobs {
                self.question(node, Query::Job(*job));
                for shard in self.shards_of(*job) {
                    self.question(node, Query::Shard { shard, first: 0 });
                }
            }
        }
        let bound = self.now() + ANSWER_MAX;
        while self.clients.waiting() > 0 && self.now() < bound && self.broken.is_none() {
            self.run_for(Duration::from_millis(100));
        }
    }

    /// Counts the holders of every blob of a result that users were told of, but for those of which one of two nodes with one
    /// identity had said that it holds them, and went.
    fn observe_blobs(&mut self) {
        let promised = self.clients.results.difference(&self.lost_with_twins).copied().collect::<Vec<_>>();
        for blob in promised {
            let holders = self.machines.iter().filter(|machine| machine.blobs.contains(&blob)).count();
            self.observe(&Fact::Held { blob, holders });
        }
    }
}

fn agree(copies: &[(NodeId, Option<Hash>)]) -> bool {
    copies.iter().all(|(_, digest)| Some(digest) == copies.first().map(|(_, first)| first))
}
