//! Lanes: over which connection to a peer blobs go.
//!
//! On a local network one TCP stream moves about half as much again as one over QUIC, with Noise and Yamux included
//! (`swarm-sim bench --only blobs`). So a peer nearby that is connected over QUIC is dialled over TCP, too, when a blob is to
//! come from it; the link stays where it is. Elsewhere QUIC has its merits, and nothing is dialled for blobs.
//!
//! Always true: a peer is dialled for this once at a time, and not again for a while after it failed; blobs then go over the
//! connection that is there.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};

use super::addresses::{is_near, is_tcp};

/// How long a peer that was not reached over TCP is left in peace.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// The lanes to all connected peers.
#[derive(Default)]
pub(super) struct Lanes {
    peers: HashMap<PeerId, Lane>,
}

#[derive(Default)]
struct Lane {
    /// Whether it is reached at an address of a local network.
    near: bool,
    tcp: Vec<ConnectionId>,
    /// Where it listens for TCP on the local network.
    addresses: Vec<Multiaddr>,
    dial: Option<ConnectionId>,
    failed: Option<Instant>,
}

impl Lanes {
    /// A connection is established, to this address.
    pub(super) fn on_connected(&mut self, peer: PeerId, connection: ConnectionId, remote: &Multiaddr) {
        let lane = self.peers.entry(peer).or_default();
        lane.near |= is_near(remote);
        lane.dial = lane.dial.filter(|dial| *dial != connection);
        if is_tcp(remote) {
            lane.tcp.push(connection);
        }
    }

    /// A connection is closed, after which so many are left.
    pub(super) fn on_disconnected(&mut self, peer: PeerId, connection: ConnectionId, left: u32) {
        if left == 0 {
            self.peers.remove(&peer);
        } else if let Some(lane) = self.peers.get_mut(&peer) {
            lane.tcp.retain(|other| *other != connection);
        }
    }

    /// A connected peer says where it listens.
    pub(super) fn on_identified<'a>(&mut self, peer: PeerId, addresses: impl Iterator<Item = &'a Multiaddr>) {
        if let Some(lane) = self.peers.get_mut(&peer) {
            lane.addresses = addresses.filter(|address| is_tcp(address) && is_near(address)).cloned().collect();
        }
    }

    /// A dial failed. Whether it was one of those for blobs.
    pub(super) fn on_failed(&mut self, peer: PeerId, connection: ConnectionId, now: Instant) -> bool {
        let lane = self.peers.get_mut(&peer).filter(|lane| lane.dial == Some(connection));
        let Some(lane) = lane else { return false };
        (lane.dial, lane.failed) = (None, Some(now));
        true
    }

    /// The newest connection over TCP.
    pub(super) fn fast(&self, peer: PeerId) -> Option<ConnectionId> {
        self.peers.get(&peer)?.tcp.last().copied()
    }

    /// Whether a dial over TCP is under way.
    pub(super) fn is_dialled(&self, peer: PeerId) -> bool {
        self.peers.get(&peer).is_some_and(|lane| lane.dial.is_some())
    }

    /// How to reach over TCP a peer that is connected otherwise, if that is worth it.
    pub(super) fn dial(&mut self, peer: PeerId, now: Instant) -> Option<DialOpts> {
        let lane = self.peers.get_mut(&peer)?;
        let failed = lane.failed.is_some_and(|failed| now.duration_since(failed) < RETRY_AFTER);
        if !lane.near || !lane.tcp.is_empty() || lane.addresses.is_empty() || failed || lane.dial.is_some() {
            return None;
        }
        let opts = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(lane.addresses.clone());
        let opts = opts.allocate_new_port().build();
        lane.dial = Some(opts.connection_id());
        Some(opts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_peer_is_dialled_over_tcp_once_and_left_in_peace_when_that_fails() {
        let (mut lanes, peer, now) = (Lanes::default(), PeerId::random(), Instant::now());
        let address = |text: &str| text.parse::<Multiaddr>().unwrap();
        let (quic, tcp) = (address("/ip4/10.0.0.1/udp/1/quic-v1"), address("/ip4/10.0.0.1/tcp/1"));
        let first = ConnectionId::new_unchecked(1);
        lanes.on_connected(peer, first, &quic);
        assert!(lanes.dial(peer, now).is_none());
        lanes.on_identified(peer, [&quic, &tcp, &address("/ip4/8.8.8.8/tcp/1")].into_iter());
        let dial = lanes.dial(peer, now).unwrap().connection_id();
        assert!(lanes.is_dialled(peer) && lanes.dial(peer, now).is_none());
        assert!(!lanes.on_failed(peer, first, now) && lanes.on_failed(peer, dial, now));
        assert!(!lanes.is_dialled(peer) && lanes.dial(peer, now + RETRY_AFTER / 2).is_none());

        let dial = lanes.dial(peer, now + RETRY_AFTER).unwrap().connection_id();
        lanes.on_connected(peer, dial, &tcp);
        assert_eq!((lanes.fast(peer), lanes.is_dialled(peer)), (Some(dial), false));
        assert!(lanes.dial(peer, now + RETRY_AFTER * 2).is_none());
        lanes.on_disconnected(peer, dial, 1);
        assert_eq!(lanes.fast(peer), None);
        lanes.on_disconnected(peer, first, 0);
        assert!(lanes.peers.is_empty());
    }

    #[test]
    fn a_peer_far_away_is_not_dialled_for_blobs() {
        let (mut lanes, peer) = (Lanes::default(), PeerId::random());
        lanes.on_connected(peer, ConnectionId::new_unchecked(1), &"/ip4/8.8.8.8/udp/1/quic-v1".parse().unwrap());
        lanes.on_identified(peer, [&"/ip4/192.168.0.1/tcp/1".parse().unwrap()].into_iter());
        assert!(lanes.dial(peer, Instant::now()).is_none());
    }
}
