//! Whom this node keeps dialling: its bootstrap addresses, and the peers it knew before.
//!
//! Always true: a target that is not connected is dialled for ever, with back-off and jitter, and once at a time.
//!
//! Elsewhere: dials that the core asks for happen once, in `driver`.

use std::time::{Duration, Instant};

use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId};

use super::addresses::{ADDRESSES_MAX, is_tcp, named_peer};

/// The wait after the first failure; it doubles with each further one.
const WAIT_MIN: Duration = Duration::from_millis(250);
/// The longest wait: a peer that comes back is found within this.
const WAIT_MAX: Duration = Duration::from_secs(15);
/// The longest wait for a bootstrap address in the first minutes, so that nodes which are started together, in any
/// order, find each other at once.
const BOOTSTRAP_WAIT_MAX: Duration = Duration::from_secs(2);
/// A bootstrap address that failed so often, for some four seconds, is told: nodes that are started together have found each
/// other by then, so it is probably a slip.
const FAILURES_TOLD: u32 = 4;
/// How long these first minutes are.
const BOOTSTRAP_EAGER: Duration = Duration::from_secs(300);
/// Targets dialled at the same time: a node that knew a thousand peers must not storm the network at its start.
const DIALS_MAX: usize = 16;
/// In a large swarm a node that is linked with its neighbours tries the others this much later than it would otherwise.
const REST: Duration = Duration::from_secs(300);
/// Targets kept.
const TARGETS_MAX: usize = 2048;

/// All targets.
pub(super) struct Dialer {
    me: PeerId,
    started: Instant,
    targets: Vec<Target>,
    /// Whether there are enough links without them.
    rests: bool,
}

struct Target {
    /// For a bootstrap address without `/p2p/`: whoever is connected there now.
    peer: Option<PeerId>,
    /// Whether it is this peer that is wanted, or whoever is at the address.
    named: bool,
    addresses: Vec<Multiaddr>,
    bootstrap: bool,
    failures: u32,
    next: Instant,
    dial: Option<ConnectionId>,
    /// Connected, and so not to be dialled.
    connected: bool,
}

impl Dialer {
    pub(super) fn new(me: PeerId) -> Self {
        Self { me, started: Instant::now(), targets: Vec::new(), rests: false }
    }

    /// An address to keep dialling, whoever is there. Adding it again changes nothing.
    pub(super) fn add_bootstrap(&mut self, address: Multiaddr) {
        match named_peer(&address) {
            Some(peer) if peer == self.me => tracing::debug!(%address, "a bootstrap address is this node's own"),
            Some(peer) => self.add(Some(peer), vec![address], true),
            None => self.add(None, vec![address], true),
        }
    }

    /// A peer to keep dialling, at these addresses from now on.
    pub(super) fn add_known(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        if peer != self.me && !addresses.is_empty() {
            self.add(Some(peer), addresses, false);
        }
    }

    /// New addresses of a peer, if it is one of those that are kept dialling.
    pub(super) fn learn(&mut self, peer: PeerId, addresses: &[Multiaddr]) {
        for target in self.targets.iter_mut().filter(|target| target.named && target.peer == Some(peer)) {
            target.learn(addresses);
        }
    }

    /// Whether the node has enough links, so that its targets are tried rarely.
    pub(super) fn rest(&mut self, rests: bool) {
        self.rests = rests;
    }

    /// Whom to dial now. Each is answered by one of the functions below.
    pub(super) fn due(&mut self, now: Instant) -> Vec<DialOpts> {
        let running = self.targets.iter().filter(|target| target.dial.is_some()).count();
        let now = if self.rests { now.checked_sub(REST) } else { Some(now) };
        let Some(now) = now else { return Vec::new() };
        let waiting = self.targets.iter_mut().filter(|target| target.is_due(now));
        waiting.take(DIALS_MAX.saturating_sub(running)).map(Target::dial).collect()
    }

    /// When somebody is to be dialled next, unless so many are being dialled already.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let next = self.targets.iter().filter(|target| target.is_waiting()).map(|target| target.next).min()?;
        Some(if self.rests { next + REST } else { next })
    }

    /// A dial failed, or did not even begin.
    pub(super) fn on_failed(&mut self, connection: ConnectionId, error: &DialError) {
        if let DialError::LocalPeerId { address } = error {
            tracing::debug!(%address, "a bootstrap address is this node's own");
            self.targets.retain(|target| target.dial != Some(connection));
        }
        let wait_max = self.bootstrap_wait_max();
        let Some(target) = self.targets.iter_mut().find(|target| target.dial == Some(connection)) else { return };
        target.dial = None;
        let already = matches!(error, DialError::DialPeerConditionFalse(_));
        if target.failures == FAILURES_TOLD && target.bootstrap && !already {
            let address = target.addresses.first().map(ToString::to_string).unwrap_or_default();
            tracing::warn!(
                "no node of this swarm at {address}: {}; trying on. `swarm status` there prints its addresses",
                cause(error)
            );
        } else {
            tracing::debug!(addresses = ?target.addresses, failures = target.failures, "not reached: {error}");
        }
        target.try_later(wait_max);
    }

    /// A connection to `peer` is there, whoever dialled.
    pub(super) fn on_connected(&mut self, peer: PeerId, connection: ConnectionId) {
        for target in &mut self.targets {
            if target.dial == Some(connection) {
                target.dial = None;
                target.peer = Some(peer);
            }
            target.connected |= target.peer == Some(peer);
        }
    }

    /// `peer` proved to be of this swarm: the next time it is lost it is dialled at once.
    pub(super) fn on_welcome(&mut self, peer: PeerId) {
        for target in self.targets.iter_mut().filter(|target| target.peer == Some(peer)) {
            target.failures = 0;
        }
    }

    /// `peer` belongs to another swarm. Unless a user named it, it is not dialled again.
    pub(super) fn on_refused(&mut self, peer: PeerId) {
        self.targets.retain(|target| target.bootstrap || target.peer != Some(peer));
    }

    /// The last connection to `peer` is gone.
    pub(super) fn on_disconnected(&mut self, peer: PeerId) {
        let wait_max = self.bootstrap_wait_max();
        for target in self.targets.iter_mut().filter(|target| target.peer == Some(peer)) {
            target.connected = false;
            target.peer = target.peer.filter(|_| target.named);
            target.try_later(wait_max);
        }
    }

    fn add(&mut self, peer: Option<PeerId>, addresses: Vec<Multiaddr>, bootstrap: bool) {
        let known = self.targets.len();
        let same = |target: &&mut Target| match peer {
            Some(_) => target.named && target.peer == peer,
            None => !target.named && target.addresses == addresses,
        };
        match self.targets.iter_mut().find(same) {
            Some(target) => {
                target.learn(&addresses);
                target.bootstrap |= bootstrap;
            }
            None if known < TARGETS_MAX => self.targets.push(Target {
                peer,
                named: peer.is_some(),
                addresses,
                bootstrap,
                failures: 0,
                next: Instant::now(),
                dial: None,
                connected: false,
            }),
            None => tracing::debug!("too many peers to keep dialling"),
        }
    }

    fn bootstrap_wait_max(&self) -> Duration {
        if self.started.elapsed() < BOOTSTRAP_EAGER { BOOTSTRAP_WAIT_MAX } else { WAIT_MAX }
    }
}

/// Dials a peer at these addresses, and at those that the Kademlia map knows.
///
/// TCP is dialled from a port of its own: two nodes that dial each other at once from the ports they listen on become one
/// connection without a listening side (a TCP simultaneous open), which then fails.
pub(super) fn dial_peer(peer: PeerId, addresses: Vec<Multiaddr>) -> DialOpts {
    let new_port = addresses.is_empty() || addresses.iter().any(is_tcp);
    let opts = DialOpts::peer_id(peer).addresses(addresses).extend_addresses_through_behaviour();
    if new_port { opts.allocate_new_port().build() } else { opts.build() }
}

/// Why a dial failed, in a few words.
fn cause(error: &DialError) -> String {
    let last: &dyn std::error::Error = match error {
        DialError::WrongPeerId { obtained, .. } => return format!("the node there is {obtained}"),
        DialError::Transport(tried) => match tried.first() {
            Some((_, tried)) => tried,
            None => error,
        },
        other => other,
    };
    let deepest = std::iter::successors(Some(last), |error| error.source()).last().unwrap_or(last);
    deepest.to_string()
}

fn dial_address(address: Multiaddr) -> DialOpts {
    let new_port = is_tcp(&address);
    let opts = DialOpts::unknown_peer_id().address(address);
    if new_port { opts.allocate_new_port().build() } else { opts.build() }
}

impl Target {
    fn is_due(&self, now: Instant) -> bool {
        self.is_waiting() && self.next <= now
    }

    fn is_waiting(&self) -> bool {
        !self.connected && self.dial.is_none()
    }

    fn dial(&mut self) -> DialOpts {
        let opts = match self.peer {
            Some(peer) => dial_peer(peer, self.addresses.clone()),
            None => dial_address(self.addresses.first().expect("a target is made with an address").clone()),
        };
        self.dial = Some(opts.connection_id());
        opts
    }

    /// The newest addresses first, so that the oldest are forgotten.
    fn learn(&mut self, addresses: &[Multiaddr]) {
        let mut merged: Vec<_> = addresses.to_vec();
        merged.extend(self.addresses.iter().filter(|old| !addresses.contains(old)).cloned());
        merged.truncate(ADDRESSES_MAX);
        self.addresses = merged;
    }

    fn try_later(&mut self, bootstrap_wait_max: Duration) {
        let wait_max = if self.bootstrap { bootstrap_wait_max } else { WAIT_MAX };
        let wait = WAIT_MIN.saturating_mul(1 << self.failures.min(10)).min(wait_max);
        self.failures = self.failures.saturating_add(1);
        // Half to one and a half times as long, so that two nodes which lost each other do not dial in step.
        self.next = Instant::now() + wait.mul_f64(0.5 + fastrand::f64());
    }
}
