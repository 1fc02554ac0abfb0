//! A swarm in virtual time: real cores, simulated machines, one seed.
//!
//! Always true: what happens is a function of the scenario alone; the core is driven as the real driver does it, that is
//! one event after another, none while a sync is under way, and nothing said, started or told before its sync is over.
//!
//! Here: the machines, the queue and the clock. Elsewhere: `driver` carries out effects, `links` connects nodes,
//! `strikes` does faults, `clients` plays the users, `run` has the two phases.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use swarm_protocol::{
    Config, Epoch, Event, Gossip, Hash, JobId, JobSpec, LeaseId, Message, Node, NodeId, NodeRecord, ShardId, Time,
};

use crate::after_ack::Ambush;
use crate::bug::Bug;
use crate::census::Census;
use crate::clients::Clients;
use crate::collections::COLLECT_EVERY;
use crate::dice;
use crate::disk::Disk;
use crate::driver::known_peers;
use crate::faults::{self, Fault, Faults};
use crate::guests::Script;
use crate::history::Fact;
use crate::invariants::{Auditor, Violation};
use crate::machine::{LocalClock, Machine, Running};
use crate::membership::Meter;
use crate::network::Network;
use crate::queue::Queue;
use crate::records::Records;
use crate::scenario::Scenario;
use crate::strikes::Doom;
use crate::trace::{Place, Trace, Tracer};

/// Something that will happen. What is meant for a process names its start, and is void after that.
pub(crate) enum Happening {
    /// A message arrives.
    Arrive { to: usize, from: usize, boot: u64, link: Option<u64>, message: Message },
    /// Gossip arrives.
    Heard { to: usize, boot: u64, from: NodeId, gossip: Gossip },
    /// A dial comes to its end.
    Dialled { from: usize, boot: u64, to: usize },
    /// The network layer of a node looks whether this peer is linked, next after this wait if not.
    KeepLinked { node: usize, boot: u64, peer: usize, wait: Duration },
    /// A node's end of a link notices that the other is gone.
    LinkLost { node: usize, peer: usize, link: u64 },
    /// The same, unless packets pass again by then.
    LinkTimeout { node: usize, peer: usize, link: u64 },
    /// A core's deadline.
    Tick { node: usize, boot: u64 },
    /// A sync is over.
    Synced { node: usize, boot: u64 },
    /// A fetch tries (again) to bring its blobs.
    Fetch { node: usize, boot: u64, number: u64, wanted: Vec<Hash>, from: Vec<usize>, tries: u32 },
    /// The executor tries (again) to bring the blobs of a lease.
    Prepare { node: usize, boot: u64, lease: LeaseId, wanted: Hash },
    /// A guest comes to its end.
    Ran { node: usize, boot: u64, number: u64 },
    /// The executor tells the core what ended.
    Flush { node: usize, boot: u64 },
    /// A user does something.
    User,
    /// A fault happens, and again within so many seconds.
    Strike(Fault, u64),
    /// A fault that was put off happens.
    StrikeNow(Fault),
    /// A wall in the network falls.
    Heal(Fault),
    /// A paused node goes on.
    Resume { node: usize, boot: u64 },
    /// A node whose event loop was stalled goes on.
    Unstall { node: usize, boot: u64 },
    /// A slow node reads as fast as ever.
    ReadOn { node: usize, boot: u64 },
    /// A doomed node is in the middle of a sync.
    Doom { doom: Doom, boot: u64 },
    /// A node that is down starts.
    Restart { node: usize },
    /// A full disk has room again.
    Room { node: usize },
    /// One of two machines with one identity is stopped, if it may be.
    EndTwin { first: usize, twin: usize },
    /// All nodes are linked since some time, or not yet: then it is looked again until this moment.
    Ambush { until: Time },
    /// A node that has just acknowledged something loses its disk.
    LoseDisk { node: usize },
    /// A drained process ends.
    Leave { node: usize, boot: u64 },
    /// A node collects blobs, and again some time later.
    Collect { node: usize, boot: u64 },
    /// A user pins or unpins a blob, or hands over a job that is kept for seconds.
    Tidy,
    /// A node that drains gives back what it has not begun, and when its time is over what runs.
    GiveBack { node: usize, boot: u64, over: Time },
}

/// The swarm.
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) queue: Queue<Happening>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) by_id: BTreeMap<NodeId, usize>,
    /// The second machines of nodes that are two.
    pub(crate) twins: BTreeMap<NodeId, usize>,
    /// Blobs that one of such two held and the other, who speaks for it from then on, did not.
    pub(crate) lost_with_twins: BTreeSet<Hash>,
    /// Which machine of each of them spoke last.
    pub(crate) speakers: BTreeMap<NodeId, usize>,
    pub(crate) ambush: Option<Ambush>,
    /// What disks were given to remember of tasks.
    pub(crate) recorded: Records,
    /// Blobs of outcomes that were told from node to node.
    pub(crate) recorded_blobs: BTreeSet<Hash>,
    /// Records that were sent before their arbiter synced them.
    pub(crate) records_asked: BTreeMap<(NodeId, ShardId, Epoch, u64), Message>,
    pub(crate) network: Network,
    pub(crate) clients: Clients,
    pub(crate) census: Census,
    pub(crate) tracer: Tracer,
    pub(crate) auditor: Auditor,
    pub(crate) broken: Option<Violation>,
    /// Jobs as the executors know them.
    pub(crate) jobs: BTreeMap<JobId, (Arc<JobSpec>, Vec<Script>)>,
    /// Blobs that list others.
    pub(crate) lists: BTreeMap<Hash, Vec<Hash>>,
    /// Dials under way.
    pub(crate) dialling: BTreeSet<(usize, usize)>,
    /// Whether strikes still happen.
    pub(crate) stormy: bool,
    /// Until then the storm lasts at least.
    pub(crate) storm_until: Time,
    pub(crate) doomed: Option<Doom>,
    pub(crate) steps: u64,
    pub(crate) timing: Rng,
    pub(crate) faults: Faults,
    /// Counts bytes and deaths, when somebody wants to know.
    pub(crate) meter: Option<Meter>,
    /// The dice of each kind of fault.
    striking: BTreeMap<Fault, Rng>,
}

/// More events than any honest run has: beyond this the cores keep each other busy.
const STEPS_MAX: u64 = 5_000_000;
/// In one run of so many, users say more of their jobs than which stage needs which.
const PARTICULAR_ONE_IN: u32 = 3;
/// In one run of so many, users pin blobs and have jobs that expire.
const TIDY_ONE_IN: u32 = 3;
/// In large swarms and long runs: more than so many for each node and second.
const STEPS_A_NODE_SECOND: u64 = 400;
/// To meet all others costs a node as much as so many seconds.
const START_SECONDS: u64 = 20;
/// Starts of the nodes are spread over this many milliseconds.
const START_SPREAD_MS: u64 = 500;

impl World {
    /// The swarm of a scenario with these faults, before anything happened.
    pub(crate) fn new(scenario: Scenario, faults: Faults, trace: Trace) -> Self {
        let seed = scenario.seed;
        let mut keys = dice::fork(seed, "machines");
        let disk = || if scenario.bug == Some(Bug::ForgetfulDisk) { Disk::forgetful() } else { Disk::default() };
        let machines: Vec<_> = (0..scenario.nodes).map(|it| Machine::new(it, &mut keys, disk())).collect();
        let by_id = machines.iter().enumerate().map(|(position, machine)| (machine.id, position)).collect();
        // A generator of their own: what the other users do is the same with and without them.
        let mut particular = dice::fork(seed, "particular");
        let particular = (particular.u32(0..PARTICULAR_ONE_IN) == 0).then_some(particular);
        let mut tidy = dice::fork(seed, "tidy");
        let tidy = (tidy.u32(0..TIDY_ONE_IN) == 0).then_some(tidy);
        let clients = Clients::new(dice::fork(seed, "clients"), particular, tidy, scenario.tasks);
        let mut world = Self {
            queue: Queue::new(),
            machines,
            by_id,
            twins: BTreeMap::new(),
            lost_with_twins: BTreeSet::new(),
            speakers: BTreeMap::new(),
            ambush: None,
            recorded: Records::default(),
            recorded_blobs: BTreeSet::new(),
            records_asked: BTreeMap::new(),
            network: Network::new(dice::fork(seed, "network"), faults.rates),
            clients,
            census: Census::default(),
            tracer: Tracer::new(trace),
            auditor: Auditor::new(),
            broken: None,
            jobs: BTreeMap::new(),
            lists: BTreeMap::new(),
            dialling: BTreeSet::new(),
            stormy: false,
            storm_until: Time::ZERO,
            doomed: None,
            steps: 0,
            timing: dice::fork(seed, "timing"),
            faults,
            meter: None,
            striking: BTreeMap::new(),
            scenario,
        };
        for node in 0..world.machines.len() {
            let at = Time::ZERO + dice::millis(&mut world.timing, 0..=START_SPREAD_MS);
            world.queue.put(at, Happening::Restart { node });
        }
        world
    }

    /// The dice of a kind of fault.
    pub(crate) fn dice(&mut self, fault: Fault) -> &mut Rng {
        let seed = self.scenario.seed;
        self.striking.entry(fault).or_insert_with(|| faults::dice_of(seed, fault))
    }

    pub(crate) const fn now(&self) -> Time {
        self.queue.now()
    }

    /// Puts something at a moment from now.
    pub(crate) fn after(&mut self, wait: Duration, what: Happening) {
        self.queue.put(self.queue.now() + wait, what);
    }

    /// Lets time pass until this moment, or until something broke.
    pub(crate) fn run_until(&mut self, until: Time) {
        while self.broken.is_none() {
            let Some(what) = self.queue.take(until) else { return };
            self.steps += 1;
            let seconds = self.now().as_micros() / 1_000_000 + START_SECONDS;
            let most = STEPS_MAX.max(seconds * STEPS_A_NODE_SECOND * self.machines.len() as u64);
            if self.steps > most {
                self.break_with("nodes_come_to_rest", format!("more than {most} events in one run"));
            }
            self.happen(what);
        }
    }

    /// Lets this much time pass.
    pub(crate) fn run_for(&mut self, time: Duration) {
        self.run_until(self.now() + time);
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Arrive { to, from, boot, link, message } => self.on_arrive(to, from, boot, link, message),
            Happening::Heard { to, boot, from, gossip } => self.on_gossip_heard(to, boot, from, gossip),
            Happening::Dialled { from, boot, to } => self.on_dialled(from, boot, to),
            Happening::KeepLinked { node, boot, peer, wait } => self.on_keep_linked(node, boot, peer, wait),
            Happening::LinkLost { node, peer, link } => self.on_link_lost(node, peer, link),
            Happening::LinkTimeout { node, peer, link } => self.on_link_timeout(node, peer, link),
            Happening::Tick { node, boot } => self.on_tick(node, boot),
            Happening::Synced { node, boot } => self.on_synced(node, boot),
            Happening::Fetch { node, boot, number, wanted, from, tries } => {
                self.on_fetch(node, boot, number, wanted, from, tries);
            }
            Happening::Prepare { node, boot, lease, wanted } => self.on_prepare(node, boot, lease, wanted),
            Happening::Ran { node, boot, number } => self.on_ran(node, boot, number),
            Happening::Flush { node, boot } => self.on_flush(node, boot),
            Happening::User => self.on_user(),
            Happening::Strike(fault, seconds) => self.on_strike(fault, seconds),
            Happening::StrikeNow(fault) => self.strike(fault),
            Happening::Heal(fault) => self.heal(fault),
            Happening::Resume { node, boot } if self.is_boot(node, boot) => self.resume(node),
            Happening::Unstall { node, boot } if self.is_boot(node, boot) => self.unstall(node),
            Happening::ReadOn { node, boot } if self.is_boot(node, boot) => self.read_on(node),
            Happening::Resume { .. } | Happening::Unstall { .. } | Happening::ReadOn { .. } => {}
            Happening::Doom { doom, boot } => self.on_doom(doom, boot),
            Happening::Restart { node } => self.start(node),
            Happening::EndTwin { first, twin } => self.on_end_twin(first, twin),
            Happening::Ambush { until } => self.on_ambush(until),
            Happening::LoseDisk { node } => self.on_lose_disk(node),
            Happening::Room { node } => self.make_room(node),
            Happening::Leave { node, boot } if self.is_boot(node, boot) => self.leave(node),
            Happening::Collect { node, boot } => self.on_collect(node, boot),
            Happening::Tidy => self.on_tidy(),
            Happening::GiveBack { node, boot, over } => self.on_give_back(node, boot, over),
            Happening::Leave { .. } => {}
        }
    }

    /// Whether this start of the node still runs.
    pub(crate) fn is_boot(&self, node: usize, boot: u64) -> bool {
        self.machines[node].is_up() && self.machines[node].boot == boot
    }

    /// Hands an event to a node, if this start of it still runs.
    pub(crate) fn give(&mut self, node: usize, boot: u64, event: Event) {
        if !self.is_boot(node, boot) {
            return;
        }
        if let Some(running) = &mut self.machines[node].running {
            running.inbox.push_back(event);
        }
        self.turn(node);
    }

    /// Starts a node that is down, on its disk as it is.
    pub(crate) fn start(&mut self, node: usize) {
        if self.machines[node].is_up() || self.machines[node].gone {
            return;
        }
        self.meet_unreadable_disk(node);
        let now = self.now();
        let skew = dice::millis(&mut self.timing, 0..=10_000);
        let drift_ppm = self.drift();
        let machine = &mut self.machines[node];
        machine.boot += 1;
        let boot = machine.boot;
        let config = Config {
            record: record_of(machine, node),
            seed: dice::mix(self.scenario.seed ^ dice::mix(node as u64 ^ (boot << 32))),
            joins: node > 0,
            #[cfg(feature = "planted-bugs")]
            bug: self.scenario.bug.and_then(Bug::of_core),
        };
        let records = match machine.disk.records() {
            Ok(records) => records,
            Err(error) => return self.refuse_to_start(node, &error),
        };
        let peers = known_peers(&records);
        // What was not synced when the last process died may have survived.
        let read = records.iter().filter_map(|(table, key, value)| self.recorded.read(*table, key, value));
        let remembered: Vec<_> = read.collect();
        let id = machine.id;
        match Node::start(config, Time::ZERO + skew, records) {
            Ok((core, effects)) => {
                let mut running = Running::new(core, LocalClock { origin: now, skew, drift_ppm }, machine.slots, peers);
                running.inbox.push_back(Event::Addresses(vec![machine.address.clone()]));
                machine.running = Some(running);
                self.note_at(node, format_args!("starts, boot {boot}"));
                self.census.count("start");
                self.observe_records(id, &remembered);
                self.observe_expired(node);
                self.carry_out(node, effects);
                self.keep_dialling(node);
                self.after(COLLECT_EVERY, Happening::Collect { node, boot });
            }
            Err(error) => {
                self.break_with("own_records_are_readable", format!("n{node} cannot start: {error}: {}", error.source))
            }
        }
    }

    /// Stops a node without a word; so many of the batches that it had not synced survive.
    pub(crate) fn crash(&mut self, node: usize, survivors: usize) {
        if self.machines[node].running.take().is_none() {
            return;
        }
        self.machines[node].disk.crash(survivors);
        self.note_at(node, format_args!("crashes"));
        self.census.count("crash");
        self.observe(&Fact::Disturbed);
        self.observe(&Fact::Down { node: self.machines[node].id });
        self.clients.node_gone(node);
        self.dialling.retain(|(from, _)| *from != node);
        self.drop_links_of(node);
    }

    /// Notes a line of the trace.
    pub(crate) fn note(&mut self, text: fmt::Arguments<'_>) {
        self.tracer.note(self.queue.now(), Place::Swarm, text);
    }

    /// Notes a line of the trace that tells of one node.
    pub(crate) fn note_at(&mut self, node: usize, text: fmt::Arguments<'_>) {
        self.tracer.note(self.queue.now(), Place::Node(node), text);
    }

    /// Tells the auditor.
    pub(crate) fn observe(&mut self, fact: &Fact<'_>) {
        if self.broken.is_none() {
            self.broken = self.auditor.observe(self.queue.now(), fact).err();
            if let Some(violation) = self.broken.clone() {
                self.note(format_args!("BROKEN {violation}"));
            }
        }
    }

    /// Notes what the world itself found broken.
    pub(crate) fn break_with(&mut self, invariant: &'static str, what: String) {
        if self.broken.is_none() {
            let violation = Violation { invariant, at: self.now(), what };
            self.note(format_args!("BROKEN {violation}"));
            self.broken = Some(violation);
        }
    }
}

fn record_of(machine: &Machine, node: usize) -> NodeRecord {
    NodeRecord {
        node: machine.id,
        incarnation: 0,
        sequence: 0,
        name: format!("n{node}"),
        addresses: Vec::new(),
        slots: machine.slots,
        slots_free: machine.slots,
        memory_bytes: 1 << 30,
        labels: BTreeMap::new(),
        arch: "virtual".into(),
        version: "0".into(),
        draining: false,
    }
}
