//! Membership alone, in swarms too large for a link between each two: who is believed dead, how soon, and at what cost.
//!
//! Nodes crash without a word and come back some time later; messages get lost; nobody submits anything. Bytes are those
//! of encoded messages and gossip, with what the transport adds, as the constants here have it.
//!
//! Elsewhere: the nodes, the network and the clock are those of every other run (`world`).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use swarm_protocol::{Gossip, MemberState, MemberView, Message, NodeId, Time, codec};

use crate::dice;
use crate::faults::Faults;
use crate::network::Network;
use crate::scenario::Scenario;
use crate::trace::Trace;
use crate::world::{Happening, World};

/// What a message costs besides its encoding: 4 bytes of the frame, 28 of UDP and IP, and about 30 of QUIC.
const PACKET_BYTES: u64 = 62;
/// What each end of a link sends in a second when there is nothing to say: one sign of life, one acknowledgement.
const LINK_BYTES_A_SECOND: u64 = 2 * (PACKET_BYTES + 4);
/// What a gossip costs besides its encoding: author, sequence number, topic and signature (about 170 bytes), and a packet.
const ENVELOPE_BYTES: u64 = 170 + PACKET_BYTES;
/// Peers to which a node passes gossip on: gossipsub's mesh is between 5 and 12 peers, 6 when it may choose.
const MESH: usize = 8;
/// Each gossip is offered by name to peers outside the mesh: in 3 heartbeats, to 4 peers, in about 24 bytes.
const OFFER_BYTES: u64 = 3 * 4 * 24;
/// Addresses of a real node are longer than the simulated ones: two of about 90 bytes.
const LONGER_ADDRESSES: u64 = 160;
/// Before this nothing is counted: nodes start, find each other, and give up the links of the beginning.
const WARM_UP: Duration = Duration::from_secs(90);
/// A crash is expected to be known by then.
const KNOWN_WITHIN: Duration = Duration::from_secs(30);
/// How long a node that crashed stays away, in milliseconds: longer than it takes until all know.
const AWAY_MS: std::ops::RangeInclusive<u64> = 45_000..=120_000;
/// At the end the swarm is left alone for this long, and all should agree.
const CALM: Duration = Duration::from_secs(60);

/// What is promised: a crash is known to 99 of 100 nodes within this.
const KNOWN_MAX: Duration = Duration::from_secs(15);
/// What is promised: false deaths that a node hears of in a day, at up to this loss.
const FALSE_DEATHS_MAX: f64 = 1.0;
const FALSE_DEATHS_LOSS: u32 = 20;
/// What is promised: bytes that a node sends in a second.
const BYTES_MAX: f64 = 25_000.0;

/// Simulates only who is in the swarm: nodes crash and come back, messages get lost, nobody works. Exits with 1 when a
/// crash is not known to 99 of 100 nodes within 15 s, a node sends more than 25 kB a second, or at up to 2 % of loss
/// hears of more than one false death a day.
#[derive(Clone, Debug, clap::Args)]
pub struct MembershipOptions {
    /// Nodes in the swarm.
    #[arg(long, default_value_t = 1000)]
    pub nodes: usize,
    /// Messages lost, of a thousand.
    #[arg(long, default_value_t = 50)]
    pub loss: u32,
    /// Nodes that crash in a minute, of a thousand; each comes back after one or two.
    #[arg(long, default_value_t = 10)]
    pub churn: u32,
    /// Minutes of virtual time that are watched.
    #[arg(long, default_value_t = 5)]
    pub minutes: u32,
    /// Everything random.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct MembershipReport {
    options: MembershipOptions,
    /// Nodes that ran, times days.
    node_days: f64,
    /// Notices at one node that another is dead which is not.
    pub false_deaths: u64,
    /// Suspicions, at one node each, of others that lived.
    false_suspicions: u64,
    /// Of each crash that was watched to the end: when each of the others knew.
    crashes: Vec<Crash>,
    /// Bytes sent by each node in a second.
    bytes: Vec<f64>,
    /// The same for all nodes together, by what was sent.
    bytes_by_kind: BTreeMap<&'static str, f64>,
    /// Dials of all nodes in a second.
    dials: f64,
    /// Links of a node at the end.
    links: f64,
    /// At the end, after a minute of calm: pairs of nodes of which one is wrong about the other.
    pub wrong_at_the_end: usize,
}

/// A crash, and how long it took until others knew.
#[derive(Clone, Debug)]
struct Crash {
    node: usize,
    at: Time,
    /// In order; those who never knew are missing.
    known: Vec<Duration>,
    /// Who should know.
    others: usize,
}

impl Crash {
    /// When so many of a hundred knew.
    fn known_to(&self, per_cent: usize) -> Option<Duration> {
        self.known.get((self.others * per_cent).div_ceil(100).saturating_sub(1)).copied()
    }
}

/// Counts while the swarm runs.
pub(crate) struct Meter {
    /// Nothing is counted before.
    from: Time,
    now: Time,
    bytes: Vec<u64>,
    by_kind: BTreeMap<&'static str, u64>,
    /// When a node last took another for dead.
    deaths: BTreeMap<(usize, usize), Time>,
    false_deaths: u64,
    false_suspicions: u64,
}

impl Meter {
    fn new(nodes: usize, from: Time) -> Self {
        Self {
            from,
            now: Time::ZERO,
            bytes: vec![0; nodes],
            by_kind: BTreeMap::new(),
            deaths: BTreeMap::new(),
            false_deaths: 0,
            false_suspicions: 0,
        }
    }

    fn add(&mut self, node: usize, kind: &'static str, bytes: u64) {
        if self.now >= self.from {
            self.bytes[node] += bytes;
            *self.by_kind.entry(kind).or_default() += bytes;
        }
    }

    /// A node says something to a linked peer.
    pub(crate) fn said(&mut self, node: usize, message: &Message) {
        if self.now < self.from {
            return;
        }
        let (kind, records) = match message {
            Message::Heartbeat { .. } => ("heartbeats", 0),
            Message::Hello(_) => ("records to peers", 1),
            Message::Peers(records) | Message::RollDiffers { records, .. } => ("records to peers", records.len()),
            Message::Roll(_) => ("comparisons", 0),
            _ => ("other messages", 0),
        };
        let bytes = codec::encode(message).len() as u64 + PACKET_BYTES + LONGER_ADDRESSES * records as u64;
        self.add(node, kind, bytes);
    }

    /// A node gossips: it tells all that it is linked with, and each that is reached passes it on to its mesh, but for
    /// the one from which it came.
    pub(crate) fn gossiped(&mut self, author: usize, gossip: &Gossip, reached: &[usize], network: &Network) {
        if self.now < self.from {
            return;
        }
        let (kind, more) = match gossip {
            Gossip::Alive(_) => ("gossip of records", LONGER_ADDRESSES),
            Gossip::Suspect { .. } => ("gossip of suspicions", 0),
            Gossip::Down { .. } => ("gossip of deaths", 0),
            _ => ("other gossip", 0),
        };
        let bytes = codec::encode(gossip).len() as u64 + ENVELOPE_BYTES + more;
        self.add(author, kind, bytes * network.ends_of(author).len() as u64);
        for node in reached {
            let copies = network.ends_of(*node).len().min(MESH).saturating_sub(1);
            self.add(*node, kind, bytes * copies as u64 + OFFER_BYTES);
        }
    }
}

impl World {
    /// A core tells of members that changed: deaths are of interest.
    pub(crate) fn note_deaths(&mut self, node: usize, changed: &[MemberView]) {
        let now = self.now();
        let Some(meter) = &mut self.meter else { return };
        for member in changed {
            let Some(&other) = self.by_id.get(&member.record.node) else { continue };
            let lives = self.machines[other].is_up();
            match member.state {
                MemberState::Down => {
                    meter.deaths.insert((node, other), now);
                    meter.false_deaths += u64::from(lives && now >= meter.from);
                }
                MemberState::Suspect => meter.false_suspicions += u64::from(lives && now >= meter.from),
                _ => {}
            }
        }
    }
}

/// Runs it.
pub fn membership(options: &MembershipOptions) -> MembershipReport {
    let scenario = Scenario { tasks: 0, ..Scenario::new(options.seed, options.nodes) };
    let mut world = World::new(scenario, Faults::only_loss(options.loss), Trace::Rough);
    world.meter = Some(Meter::new(options.nodes, Time::ZERO + WARM_UP));
    let mut watch = Watch { world, dice: dice::fork(options.seed, "churn"), open: Vec::new(), over: Vec::new() };
    watch.pass_until(Time::ZERO + WARM_UP);
    let dials = watch.world.census.of("dial");
    let watched = Duration::from_secs(60) * options.minutes;
    watch.churn(options, Time::ZERO + WARM_UP + watched);
    let dials = (watch.world.census.of("dial") - dials) as f64 / watched.as_secs_f64();
    let mut report = watch.report(options, watched);
    report.dials = dials;
    watch.pass_until(watch.world.now() + CALM + Duration::from_millis(*AWAY_MS.end()));
    report.wrong_at_the_end = watch.wrong();
    report
}

/// A swarm that is watched.
struct Watch {
    world: World,
    dice: fastrand::Rng,
    /// Crashes of which it is too early to judge.
    open: Vec<Crash>,
    over: Vec<Crash>,
}

impl Watch {
    /// Lets time pass, second by second.
    fn pass_until(&mut self, until: Time) {
        while self.world.now() < until {
            let next = (self.world.now() + Duration::from_secs(1)).min(until);
            self.world.run_until(next);
            assert!(self.world.broken.is_none(), "{:?}", self.world.broken);
            self.charge_links();
        }
    }

    /// Links that live cost something even when nothing is said.
    fn charge_links(&mut self) {
        let now = self.world.now();
        let Some(meter) = &mut self.world.meter else { return };
        meter.now = now;
        for node in 0..self.world.machines.len() {
            let links = self.world.network.ends_of(node).len() as u64;
            meter.add(node, "signs of life", links * LINK_BYTES_A_SECOND);
        }
    }

    /// Crashes nodes until then, and judges how soon the others knew.
    fn churn(&mut self, options: &MembershipOptions, until: Time) {
        let a_minute = u64::from(options.churn) * options.nodes as u64 / 1000;
        while self.world.now() < until {
            if let Some(most) = 120_000_u64.checked_div(a_minute) {
                let wait = dice::millis(&mut self.dice, 0..=most);
                self.pass_until((self.world.now() + wait).min(until));
                self.crash_one();
            } else {
                self.pass_until(until);
            }
            self.judge();
        }
    }

    fn crash_one(&mut self) {
        let up: Vec<_> = (0..self.world.machines.len()).filter(|node| self.world.machines[*node].is_up()).collect();
        let Some(node) = dice::pick(&mut self.dice, &up) else { return };
        self.world.crash(node, usize::MAX);
        let away = dice::millis(&mut self.dice, AWAY_MS);
        self.world.after(away, Happening::Restart { node });
        self.open.push(Crash { node, at: self.world.now(), known: Vec::new(), others: 0 });
    }

    /// Asks who knew of the crashes that are long enough ago.
    fn judge(&mut self) {
        let now = self.world.now();
        let ripe = |crash: &Crash| now.since(crash.at) > KNOWN_WITHIN;
        let (ripe, open): (Vec<_>, Vec<_>) = std::mem::take(&mut self.open).into_iter().partition(ripe);
        self.open = open;
        for mut crash in ripe {
            let Some(meter) = &self.world.meter else { return };
            let ran = |node: &usize| {
                let running = self.world.machines[*node].running.as_ref();
                *node != crash.node && running.is_some_and(|running| running.started() < crash.at)
            };
            let others: Vec<_> = (0..self.world.machines.len()).filter(ran).collect();
            let knew = |node: &usize| meter.deaths.get(&(*node, crash.node)).filter(|at| **at >= crash.at);
            crash.known = others.iter().filter_map(knew).map(|at| at.since(crash.at)).collect();
            crash.known.sort_unstable();
            crash.others = others.len();
            self.over.push(crash);
        }
    }

    fn report(&self, options: &MembershipOptions, watched: Duration) -> MembershipReport {
        let meter = self.world.meter.as_ref().expect("it was put there at the start");
        let (nodes, seconds) = (options.nodes as f64, watched.as_secs_f64());
        let links: usize = (0..options.nodes).map(|node| self.world.network.ends_of(node).len()).sum();
        MembershipReport {
            options: options.clone(),
            node_days: nodes * seconds / 86_400.0,
            false_deaths: meter.false_deaths,
            false_suspicions: meter.false_suspicions,
            crashes: self.over.clone(),
            bytes: meter.bytes.iter().map(|bytes| *bytes as f64 / seconds).collect(),
            bytes_by_kind: meter.by_kind.iter().map(|(kind, bytes)| (*kind, *bytes as f64 / seconds / nodes)).collect(),
            dials: 0.0,
            links: links as f64 / nodes,
            wrong_at_the_end: 0,
        }
    }

    /// Pairs of nodes of which one is wrong about the other.
    fn wrong(&self) -> usize {
        let up: Vec<_> = self.world.machines.iter().filter_map(|machine| machine.running.as_ref()).collect();
        let lives = |node: &NodeId| self.world.by_id.get(node).is_some_and(|it| self.world.machines[*it].is_up());
        up.iter()
            .map(|running| {
                let members = running.core.members();
                let right = |member: &&MemberView| (member.state != MemberState::Down) == lives(&member.record.node);
                let living = members.iter().filter(right).filter(|member| member.state != MemberState::Down).count();
                let wrong = members.iter().filter(|member| !right(member)).count();
                wrong + up.len().saturating_sub(living)
            })
            .sum()
    }
}

impl MembershipReport {
    /// Whether what is promised was kept.
    pub fn is_good(&self) -> bool {
        let quiet = self.options.loss > FALSE_DEATHS_LOSS || self.false_deaths_a_day() <= FALSE_DEATHS_MAX;
        let soon = self.crashes.iter().all(|crash| crash.known_to(99).is_some_and(|it| it <= KNOWN_MAX));
        quiet && soon && self.mean_bytes() <= BYTES_MAX
    }

    /// False deaths that a node hears of in a day.
    pub fn false_deaths_a_day(&self) -> f64 {
        self.false_deaths as f64 / self.node_days
    }

    /// Bytes that a node sends in a second.
    pub fn mean_bytes(&self) -> f64 {
        self.bytes.iter().sum::<f64>() / self.bytes.len().max(1) as f64
    }

    /// How many crashes were watched to the end.
    pub fn crashes(&self) -> usize {
        self.crashes.len()
    }
}

impl fmt::Display for MembershipReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MembershipOptions { nodes, loss, churn, minutes, seed } = self.options;
        writeln!(f, "{nodes} nodes, {minutes} min of virtual time, seed {seed}")?;
        writeln!(
            f,
            "{:.1} % of messages lost, {:.1} % of nodes crash a minute",
            loss as f64 / 10.0,
            churn as f64 / 10.0
        )?;
        writeln!(f, "{:>10.2}  node days", self.node_days)?;
        let a_day = self.false_deaths_a_day();
        writeln!(f, "{:>10}  false deaths, {a_day:.3} a node and day", self.false_deaths)?;
        writeln!(f, "{:>10}  false suspicions, at one node each", self.false_suspicions)?;
        self.write_crashes(f)?;
        let mut bytes = self.bytes.clone();
        bytes.sort_by(f64::total_cmp);
        let most = bytes.last().copied().unwrap_or_default();
        let p99 = bytes.get(bytes.len() * 99 / 100).copied().unwrap_or_default();
        writeln!(
            f,
            "{:>10.0}  bytes sent a second by a node (p99 {p99:.0}, most {most:.0}), of these",
            self.mean_bytes()
        )?;
        for (kind, bytes) in &self.bytes_by_kind {
            writeln!(f, "{bytes:>10.0}    {kind}")?;
        }
        writeln!(f, "{:>10.2}  dials a second by all nodes together", self.dials)?;
        writeln!(f, "{:>10.1}  links of a node", self.links)?;
        write!(f, "{:>10}  pairs of which one is wrong about the other after a minute of calm", self.wrong_at_the_end)
    }
}

impl MembershipReport {
    fn write_crashes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all: Vec<_> = self.crashes.iter().flat_map(|crash| crash.known.iter().copied()).collect();
        all.sort_unstable();
        let at = |per_mille: usize| all.get(all.len() * per_mille / 1000).copied().unwrap_or_default().as_secs_f64();
        let others: usize = self.crashes.iter().map(|crash| crash.others).sum();
        writeln!(f, "{:>10}  crashes watched for {} s", self.crashes.len(), KNOWN_WITHIN.as_secs())?;
        writeln!(
            f,
            "{:>10.2}  s until another node knows: p50 (p99 {:.2} s, p99.9 {:.2} s)",
            at(500),
            at(990),
            at(999)
        )?;
        let mut known: Vec<_> = self.crashes.iter().map(|crash| crash.known_to(99)).collect();
        known.sort_by_key(|it| it.unwrap_or(Duration::MAX));
        let show = |it: Option<&Option<Duration>>| match it {
            Some(Some(time)) => format!("{:.2}", time.as_secs_f64()),
            Some(None) => "never".into(),
            None => "-".into(),
        };
        let (median, worst) = (show(known.get(known.len() / 2)), show(known.last()));
        writeln!(f, "{median:>10}  s until 99 of 100 nodes know: median over crashes (worst {worst} s)")?;
        writeln!(
            f,
            "{:>10}  of {others} that should have known did not within {} s",
            others - all.len(),
            KNOWN_WITHIN.as_secs()
        )
    }
}
