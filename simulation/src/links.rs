//! Connects nodes, and lets them notice when a connection is gone.

use std::collections::BTreeSet;
use std::time::Duration;

use swarm_protocol::{Event, NodeId};

use crate::dice;
use crate::faults::Fault;
use crate::history::Fact;
use crate::machine::Running;
use crate::world::{Happening, World};

/// A broken connection is noticed at once when the other machine says so, in this many milliseconds otherwise.
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1500..=5000;
/// The first wait between two dials of one peer; it doubles.
const DIAL_WAIT_MIN: Duration = Duration::from_millis(250);
/// The longest wait between two dials of the bootstrap node, as in the network layer's first minutes.
const BOOTSTRAP_WAIT_MAX: Duration = Duration::from_secs(2);
/// The longest wait between two dials of a peer that the disk knows.
const KNOWN_WAIT_MAX: Duration = Duration::from_secs(15);
/// Peers of those that the disk knows that are dialled: enough to find the swarm again.
const KNOWN_DIALLED_MAX: usize = 32;

impl World {
    /// Dials a node at these addresses.
    pub(crate) fn dial(&mut self, from: usize, to: NodeId, addresses: &[String]) {
        let Some(to) = self.machine_at(to, addresses) else { return };
        let known = addresses.contains(&self.machines[to].address);
        self.note_at(from, format_args!("dials n{to}{}", if known { "" } else { " at a wrong address" }));
        self.census.count("dial");
        if known && from != to {
            self.begin_dial(from, to);
        }
    }

    fn begin_dial(&mut self, from: usize, to: usize) {
        if self.network.end(from, to).is_some() || !self.dialling.insert((from, to)) {
            return;
        }
        let wait = self.network.delay() * 4 + dice::millis(&mut self.timing, 3..=60);
        let boot = self.machines[from].boot;
        self.after(wait, Happening::Dialled { from, boot, to });
    }

    pub(crate) fn on_dialled(&mut self, from: usize, boot: u64, to: usize) {
        if !self.is_boot(from, boot) {
            return;
        }
        self.dialling.remove(&(from, to));
        let open = self.takes_links(to) && self.takes_links(from) && self.network.meets(from, to);
        let other = self.machines[from].id != self.machines[to].id;
        if open && other && self.network.end(from, to).is_none() && self.makes_way(to, from) && self.makes_way(from, to)
        {
            self.connect(from, to);
        }
    }

    /// Whether the network layer of a node finishes handshakes now: not while it cannot hand on what came.
    fn takes_links(&self, node: usize) -> bool {
        let machine = &self.machines[node];
        machine.is_awake() && !machine.running.as_ref().is_some_and(Running::is_full)
    }

    fn connect(&mut self, from: usize, to: usize) {
        // The other side may not have noticed yet that an earlier connection broke.
        if self.network.end(to, from).is_some() {
            let peer = self.machines[from].id;
            self.give(to, self.machines[to].boot, Event::LinkDown(peer));
        }
        let link = self.network.connect(from, to);
        self.note_at(from, format_args!("and n{to} are linked ({link})"));
        self.census.count("link");
        for (node, peer) in [(from, to), (to, from)] {
            let peer = self.machines[peer].id;
            self.give(node, self.machines[node].boot, Event::LinkUp(peer));
        }
        let nodes = self.by_id.len();
        if self.network.links().len() == nodes * (nodes - 1) / 2 && !self.faults.has(Fault::Delay) {
            self.observe(&Fact::Linked { nodes });
        }
    }

    /// The network layer of a node that starts dials the bootstrap node, which is the first, and whom the disk knows.
    pub(crate) fn keep_dialling(&mut self, node: usize) {
        let boot = self.machines[node].boot;
        let Some(running) = &self.machines[node].running else { return };
        let mut known: Vec<_> = running.peers.keys().filter_map(|peer| self.by_id.get(peer).copied()).collect();
        if known.len() > KNOWN_DIALLED_MAX {
            self.timing.shuffle(&mut known);
            known.truncate(KNOWN_DIALLED_MAX);
        }
        let peers: BTreeSet<_> = known.into_iter().chain([0]).filter(|peer| *peer != node).collect();
        for peer in peers {
            self.after(Duration::ZERO, Happening::KeepLinked { node, boot, peer, wait: DIAL_WAIT_MIN });
        }
    }

    /// It does so for ever, with back-off, while the core has too few links.
    pub(crate) fn on_keep_linked(&mut self, node: usize, boot: u64, peer: usize, wait: Duration) {
        if !self.is_boot(node, boot) {
            return;
        }
        if self.machines[node].running.as_ref().is_some_and(|running| running.core.has_enough_links()) {
            return self.after(KNOWN_WAIT_MAX, Happening::KeepLinked { node, boot, peer, wait: DIAL_WAIT_MIN });
        }
        let linked = self.network.end(node, peer).is_some();
        if !linked {
            self.begin_dial(node, peer);
        }
        let wait_max = if peer == 0 { BOOTSTRAP_WAIT_MAX } else { KNOWN_WAIT_MAX };
        let next = if linked { DIAL_WAIT_MIN } else { (wait * 2).min(wait_max) };
        self.after(wait, Happening::KeepLinked { node, boot, peer, wait: next });
    }

    /// A core needs its link to this peer no more.
    pub(crate) fn hang_up(&mut self, node: usize, peer: NodeId) {
        let peer = self.by_id.get(&peer).copied();
        if let Some((peer, link)) = peer.and_then(|peer| Some((peer, self.network.end(node, peer)?))) {
            self.census.count("link given up");
            self.after(Duration::from_millis(1), Happening::LinkLost { node, peer, link });
        }
    }

    /// Closes a node's end of a link and tells it.
    pub(crate) fn on_link_lost(&mut self, node: usize, peer: usize, link: u64) {
        if self.network.close(node, peer, link) {
            self.note_at(node, format_args!("lost its link to n{peer} ({link})"));
            let gone = self.machines[peer].id;
            self.give(node, self.machines[node].boot, Event::LinkDown(gone));
            self.notice_half_open(peer, node);
        }
    }

    pub(crate) fn on_link_timeout(&mut self, node: usize, peer: usize, link: u64) {
        let silent = !self.network.passes(peer, node) || !self.machines[peer].is_awake();
        if silent || self.network.end(peer, node) != Some(link) {
            self.on_link_lost(node, peer, link);
        }
    }

    /// Whose connection is closed at the other end learns of it, if packets pass this way.
    pub(crate) fn notice_half_open(&mut self, node: usize, peer: usize) {
        let Some(link) = self.network.end(node, peer) else { return };
        if self.network.passes(peer, node) && self.network.end(peer, node) != Some(link) {
            let wait = dice::millis(&mut self.timing, 1..=30);
            self.after(wait, Happening::LinkLost { node, peer, link });
        }
    }

    /// The links of a node that is gone: the others notice sooner or later.
    pub(crate) fn drop_links_of(&mut self, node: usize) {
        for (peer, link) in self.network.ends_of(node) {
            self.network.close(node, peer, link);
            self.notice_half_open(peer, node);
            self.expect_timeout(peer, node, link);
        }
    }

    /// Should `node` still hear nothing by then, it gives up its link.
    pub(crate) fn expect_timeout(&mut self, node: usize, peer: usize, link: u64) {
        let wait = dice::millis(&mut self.timing, TIMEOUT_MS);
        self.after(wait, Happening::LinkTimeout { node, peer, link });
    }
}
