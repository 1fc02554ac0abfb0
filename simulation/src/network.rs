//! The simulated network: who can reach whom, which links are open at which end, and when a message arrives.
//!
//! Always true: what is sent on a link arrives in order while the link lives, except for the faults that are switched on;
//! a link may be open at one end only, as a broken connection is until both sides have noticed.
//!
//! Elsewhere: telling the nodes of it is `world`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fastrand::Rng;
use swarm_protocol::Time;

use crate::census::Census;
use crate::dice;
use crate::faults::{Fault, Rates};

/// A link between two nodes, the one with the lower position first.
pub(crate) struct Link {
    /// Unique in the run.
    pub(crate) number: u64,
    open: [bool; 2],
    /// Per sender, when its last message arrives: none may overtake it.
    last: [Time; 2],
}

/// When a message arrives.
pub(crate) struct Arrival {
    pub(crate) at: Time,
    /// Only while this link lives; a straggler arrives on whatever link there is.
    pub(crate) link: Option<u64>,
}

pub(crate) struct Network {
    rng: Rng,
    /// One way, on a good day.
    latency_us: (u64, u64),
    pub(crate) rates: Rates,
    links: BTreeMap<(usize, usize), Link>,
    /// The same from each end: the peers to which it is open, and the link's number.
    ends: BTreeMap<usize, BTreeMap<usize, u64>>,
    numbers: u64,
    /// What keeps packets from passing, by its cause.
    walls: BTreeMap<Fault, Wall>,
}

/// Between whom packets do not pass.
#[derive(Clone, Debug)]
pub(crate) enum Wall {
    /// These and all others.
    Around(BTreeSet<usize>),
    /// From these to all others; the other way they do.
    OneWay(BTreeSet<usize>),
    /// These and those; whoever is of neither sees both.
    Between(BTreeSet<usize>, BTreeSet<usize>),
}

impl Wall {
    fn stops(&self, from: usize, to: usize) -> bool {
        match self {
            Self::Around(these) => these.contains(&from) != these.contains(&to),
            Self::OneWay(these) => these.contains(&from) && !these.contains(&to),
            Self::Between(these, those) => {
                (these.contains(&from) && those.contains(&to)) || (those.contains(&from) && these.contains(&to))
            }
        }
    }
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl Network {
    pub(crate) fn new(mut rng: Rng, rates: Rates) -> Self {
        // A rack, a building, or a continent.
        let latency_us = [(100, 500), (500, 3000), (10_000, 60_000)][[0, 0, 1, 1, 1, 2][rng.usize(0..6)]];
        Self {
            rng,
            latency_us,
            rates,
            links: BTreeMap::new(),
            ends: BTreeMap::new(),
            numbers: 0,
            walls: BTreeMap::new(),
        }
    }

    /// Whether packets pass this way.
    pub(crate) fn passes(&self, from: usize, to: usize) -> bool {
        !self.walls.values().any(|wall| wall.stops(from, to))
    }

    /// Whether packets pass both ways, as every conversation needs it.
    pub(crate) fn meets(&self, a: usize, b: usize) -> bool {
        self.passes(a, b) && self.passes(b, a)
    }

    /// Raises a wall in place of any before of the same cause; nobody takes it down.
    pub(crate) fn raise(&mut self, cause: Fault, wall: Wall) {
        self.walls.insert(cause, wall);
    }

    /// Takes a wall down; false when there is none.
    pub(crate) fn take_down(&mut self, cause: Fault) -> bool {
        self.walls.remove(&cause).is_some()
    }

    /// The causes of which there is a wall.
    pub(crate) fn walls(&self) -> Vec<Fault> {
        self.walls.keys().copied().collect()
    }

    /// One way, now.
    pub(crate) fn delay(&mut self) -> Duration {
        let (shortest, longest) = self.latency_us;
        dice::micros(&mut self.rng, shortest..=longest)
    }

    /// The open ends of `node`'s links: peer and link number.
    pub(crate) fn ends_of(&self, node: usize) -> Vec<(usize, u64)> {
        self.ends.get(&node).into_iter().flatten().map(|(peer, number)| (*peer, *number)).collect()
    }

    /// Every link: its nodes and number.
    pub(crate) fn links(&self) -> Vec<(usize, usize, u64)> {
        self.links.iter().map(|((a, b), link)| (*a, *b, link.number)).collect()
    }

    /// How many links are open at both ends.
    pub(crate) fn open_links(&self) -> usize {
        self.links.values().filter(|link| link.open == [true; 2]).count()
    }

    /// The link that `node` has open to `peer`.
    pub(crate) fn end(&self, node: usize, peer: usize) -> Option<u64> {
        self.ends.get(&node)?.get(&peer).copied()
    }

    /// Opens a link at both ends, in place of any before.
    pub(crate) fn connect(&mut self, a: usize, b: usize) -> u64 {
        self.numbers += 1;
        let link = Link { number: self.numbers, open: [true; 2], last: [Time::ZERO; 2] };
        self.links.insert(pair(a, b), link);
        for (node, peer) in [(a, b), (b, a)] {
            self.ends.entry(node).or_default().insert(peer, self.numbers);
        }
        self.numbers
    }

    /// Closes `node`'s end of this link; false when it was closed already.
    pub(crate) fn close(&mut self, node: usize, peer: usize, number: u64) -> bool {
        let key = pair(node, peer);
        let Some(link) = self.links.get_mut(&key).filter(|link| link.number == number) else { return false };
        let was_open = std::mem::replace(&mut link.open[usize::from(node > peer)], false);
        if link.open == [false; 2] {
            self.links.remove(&key);
        }
        if was_open && let Some(ends) = self.ends.get_mut(&node) {
            ends.remove(&peer);
        }
        was_open
    }

    /// When a message sent now on the link from `from` to `to` arrives: never, once or twice.
    pub(crate) fn carry(&mut self, now: Time, from: usize, to: usize, census: &mut Census) -> Vec<Arrival> {
        if !self.passes(from, to) || self.end(from, to).is_none() {
            return Vec::new();
        }
        let Rates { loss, duplication, reordering, delay } = self.rates;
        if dice::chance(&mut self.rng, loss) {
            census.hit(Fault::Loss);
            return Vec::new();
        }
        let mut at = now + self.delay();
        if dice::chance(&mut self.rng, delay) {
            census.hit(Fault::Delay);
            at = at + dice::millis(&mut self.rng, 50..=5000);
        }
        let mut arrivals = Vec::with_capacity(2);
        if dice::chance(&mut self.rng, duplication) {
            census.hit(Fault::Duplication);
            arrivals.push(Arrival { at: at + dice::millis(&mut self.rng, 0..=2000), link: None });
        }
        if dice::chance(&mut self.rng, reordering) {
            census.hit(Fault::Reordering);
            arrivals.push(Arrival { at: at + dice::millis(&mut self.rng, 1..=1000), link: None });
            return arrivals;
        }
        if let Some(link) = self.links.get_mut(&pair(from, to)) {
            let last = &mut link.last[usize::from(from > to)];
            *last = at.max(*last);
            arrivals.push(Arrival { at: *last, link: Some(link.number) });
        }
        arrivals
    }

    /// Nodes that gossip from `author` reaches, hop by hop over links, in their order.
    pub(crate) fn gossip_reaches(&mut self, author: usize, census: &mut Census) -> Vec<usize> {
        let mut seen = BTreeSet::from([author]);
        let mut next = vec![author];
        while let Some(node) = next.pop() {
            for peer in self.ends.get(&node).into_iter().flat_map(BTreeMap::keys) {
                if self.passes(node, *peer) && seen.insert(*peer) {
                    next.push(*peer);
                }
            }
        }
        seen.remove(&author);
        let loss = self.rates.loss;
        seen.retain(|_| {
            let lost = dice::chance(&mut self.rng, loss);
            if lost {
                census.hit(Fault::Loss);
            }
            !lost
        });
        seen.into_iter().collect()
    }
}
