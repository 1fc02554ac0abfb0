//! Between our words and libp2p's: node ids and peer ids, multiaddresses and their texts.
//!
//! Elsewhere: which addresses are dialled when is `dialer`.

use std::io;
use std::net::{IpAddr, TcpListener};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use swarm_protocol::NodeId;

/// Addresses of one peer that are believed; more than any honest node has.
pub(super) const ADDRESSES_MAX: usize = 16;

/// The node of a libp2p peer; `None` when its key is not ed25519.
pub(super) fn node_of(peer: &PeerId) -> Option<NodeId> {
    NodeId::from_peer_id_bytes(&peer.to_bytes())
}

/// The libp2p peer of a node. Any 32 bytes make one, also those that are no point of the curve: nobody can own it then.
pub(super) fn peer_of(node: NodeId) -> PeerId {
    PeerId::from_bytes(&node.peer_id_bytes()).expect("an identity multihash of 36 bytes is a peer id")
}

/// The peer named at the end of an address.
pub(super) fn named_peer(address: &Multiaddr) -> Option<PeerId> {
    address.iter().find_map(|part| match part {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    })
}

/// Whether this node can dial addresses of this kind: an IP address or a name, then TCP or QUIC.
pub(super) fn is_spoken(address: &Multiaddr) -> bool {
    let mut parts = address.iter();
    let host = matches!(
        parts.next(),
        Some(Protocol::Ip4(_) | Protocol::Ip6(_) | Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_))
    );
    host && match parts.next() {
        Some(Protocol::Tcp(_)) => matches!(parts.next(), None | Some(Protocol::P2p(_))),
        Some(Protocol::Udp(_)) => parts.next() == Some(Protocol::QuicV1),
        _ => false,
    }
}

/// The addresses among `texts` at which `peer` may be dialled, at most [`ADDRESSES_MAX`]: what does not parse or names
/// somebody else is left out, because peers send these.
pub(super) fn dialable(peer: PeerId, texts: &[String]) -> Vec<Multiaddr> {
    let parsed = texts.iter().filter_map(|text| text.parse::<Multiaddr>().ok());
    let his = parsed.filter(|address| named_peer(address).is_none_or(|named| named == peer));
    his.filter(|address| is_spoken(address) && !is_unspecified(address)).take(ADDRESSES_MAX).collect()
}

/// This node's own addresses as others can dial them, each with `/p2p/`.
pub(super) fn own<'a>(me: PeerId, listening: impl Iterator<Item = &'a Multiaddr>) -> Vec<String> {
    let mut own = reachable(listening.cloned());
    own.sort();
    own.dedup();
    own.into_iter().map(|address| with_peer(address, me).to_string()).collect()
}

/// Those of a node's listening addresses at which others may reach it. Loopback addresses only when there are no others:
/// they mean another machine to everybody else. IPv6 link-local ones never: they need an interface's name.
pub(super) fn reachable(listening: impl Iterator<Item = Multiaddr>) -> Vec<Multiaddr> {
    let usable = listening.filter(|address| !is_unspecified(address) && !is_link_local(address));
    let (loopback, others): (Vec<_>, Vec<_>) = usable.partition(is_loopback);
    if others.is_empty() { loopback } else { others }
}

/// Whether a TCP port is free to listen on. libp2p shares ports (`SO_REUSEPORT`), so that it would not notice another
/// node there, and each would get half of the connections.
pub(super) fn check_free(address: &Multiaddr) -> io::Result<()> {
    match (ip(address), address.iter().nth(1)) {
        (Some(ip), Some(Protocol::Tcp(port))) if port != 0 => TcpListener::bind((ip, port)).map(drop),
        _ => Ok(()),
    }
}

/// Whether an address is one of a local network, or of this machine.
pub(super) fn is_near(address: &Multiaddr) -> bool {
    ip(address).is_some_and(|ip| match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local(),
    })
}

/// Whether an address is one of TCP.
pub(super) fn is_tcp(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::Tcp(_)))
}

fn is_loopback(address: &Multiaddr) -> bool {
    ip(address).is_some_and(|ip| ip.is_loopback())
}

fn is_unspecified(address: &Multiaddr) -> bool {
    ip(address).is_some_and(|ip| ip.is_unspecified())
}

fn is_link_local(address: &Multiaddr) -> bool {
    matches!(ip(address), Some(IpAddr::V6(ip)) if ip.is_unicast_link_local())
}

fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

fn with_peer(address: Multiaddr, peer: PeerId) -> Multiaddr {
    address.with_p2p(peer).unwrap_or_else(|unchanged| unchanged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Identity;

    #[test]
    fn our_peer_ids_are_those_of_libp2p() {
        for seed in 0..50 {
            let identity = Identity::from_secret([seed; 32]);
            let theirs = identity.keypair().public().to_peer_id();
            assert_eq!(peer_of(identity.node()), theirs);
            assert_eq!(node_of(&theirs), Some(identity.node()));
        }
    }

    #[test]
    fn any_node_id_that_a_peer_sends_has_a_peer_id() {
        for byte in 0..=255 {
            let node = NodeId::from_bytes([byte; 32]);
            assert_eq!(node_of(&peer_of(node)), Some(node));
        }
    }

    #[test]
    fn only_a_node_without_other_addresses_shows_its_loopback() {
        let me = Identity::from_secret([1; 32]).keypair().public().to_peer_id();
        let of = |texts: &[&str]| {
            let parsed: Vec<Multiaddr> = texts.iter().map(|text| text.parse().unwrap()).collect();
            own(me, parsed.iter())
        };
        assert_eq!(of(&["/ip4/127.0.0.1/tcp/1"]), [format!("/ip4/127.0.0.1/tcp/1/p2p/{me}")]);
        let both = of(&["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1", "/ip6/fe80::1/tcp/1"]);
        assert_eq!(both, [format!("/ip4/10.0.0.1/tcp/1/p2p/{me}")]);
    }

    #[test]
    fn addresses_that_peers_send_are_sifted() {
        let peer = Identity::from_secret([1; 32]).keypair().public().to_peer_id();
        let other = Identity::from_secret([2; 32]).keypair().public().to_peer_id();
        let mut texts = vec!["no address".to_owned(), "/ip4/0.0.0.0/tcp/1".to_owned()];
        texts.push(format!("/ip4/10.0.0.1/tcp/1/p2p/{other}"));
        texts.extend((1..100).map(|port| format!("/ip4/10.0.0.1/tcp/{port}")));
        assert_eq!(dialable(peer, &texts).len(), ADDRESSES_MAX);
        assert!(dialable(peer, &texts[..3]).is_empty());
    }

    #[test]
    fn only_what_our_transports_speak_is_dialled() {
        let spoken = |text: &str| is_spoken(&text.parse().unwrap());
        assert!(spoken("/ip4/10.0.0.1/udp/1/quic-v1"));
        assert!(spoken("/ip6/::1/tcp/1/p2p/12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5"));
        assert!(spoken("/dns4/seed.example/tcp/1"));
        for text in ["/ip4/10.0.0.1", "/ip4/10.0.0.1/udp/1", "/ip4/10.0.0.1/tcp/1/ws", "/unix/run", "/memory/1"] {
            assert!(!spoken(text), "{text}");
        }
    }
}
