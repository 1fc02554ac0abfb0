//! The libp2p behaviours of a node, and every setting of theirs.

use std::time::Duration;

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::gossipsub::{self, IdentTopic, MessageAuthenticity, ValidationMode};
use libp2p::identity::Keypair;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{StreamProtocol, Swarm, SwarmBuilder, identify, kad, mdns, noise, ping, quic, tcp, yamux};
use swarm_protocol::Gossip;
use swarm_protocol::message::GOSSIP_BYTES_MAX;

use super::NetworkError;
use super::records::Records;
use super::streams::{self, Protocols};

/// A connection without any stream is closed after this; a link's control stream keeps its own open.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// A QUIC connection whose peer is silent for this long is dead: there is no other sign when a process is killed.
const QUIC_IDLE_MAX: Duration = Duration::from_secs(5);
/// How often a quiet QUIC connection says that it lives: five chances before the other side gives up.
const QUIC_KEEPALIVE: Duration = Duration::from_secs(1);
/// How often a connection is pinged, and how long an answer may take: finds dead TCP connections that carry no link.
const PING: Duration = Duration::from_secs(5);
/// Connections to one peer: two from simultaneous dials, and two dead ones of its former life that nobody noticed yet. A
/// limit of one would let simultaneous dials kill both connections.
const CONNECTIONS_PER_PEER_MAX: u32 = 4;
/// Connections in all: twice a cell of about a thousand nodes.
const CONNECTIONS_MAX: u32 = 2048;
/// Connections that are being set up in each direction.
const PENDING_MAX: u32 = 256;
/// Gossip heartbeats: how soon meshes mend, and how late a message that got lost is offered again.
const GOSSIP_HEARTBEAT: Duration = Duration::from_millis(500);
/// The first one comes early, so that a node that was just started is soon in the mesh.
const GOSSIP_HEARTBEAT_FIRST: Duration = Duration::from_millis(100);
/// What the envelope adds to a gossip: author, sequence number, topic, signature.
const GOSSIP_ENVELOPE_BYTES: usize = 512;
/// A walk through the Kademlia map that takes longer is given up.
const QUERY_MAX: Duration = Duration::from_secs(10);
/// How long records and provider records are believed. They are not republished: what matters is kept by custodians.
const RECORD_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often mDNS asks the local network; packets get lost.
const MDNS_QUERY: Duration = Duration::from_secs(10);

/// The protocol names of one swarm: nodes of swarms with different names have no protocol in common.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// What identify calls the swarm.
    pub(super) swarm: String,
    kad: StreamProtocol,
    streams: Protocols,
    members: IdentTopic,
    jobs: IdentTopic,
}

impl Names {
    pub(super) fn new(swarm: &str) -> Result<Self, NetworkError> {
        let name = |what: &str| format!("/swarm/{swarm}{what}/1");
        let protocol = |what: &str| {
            StreamProtocol::try_from_owned(name(what)).map_err(|_| NetworkError::SwarmName { name: swarm.to_owned() })
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !(1..=64).contains(&swarm.len()) || !swarm.chars().all(plain) {
            return Err(NetworkError::SwarmName { name: swarm.to_owned() });
        }
        Ok(Self {
            swarm: name(""),
            kad: protocol("/kad")?,
            streams: Protocols { control: protocol("/control")?, blob: protocol("/blob")?, news: protocol("/news")? },
            members: IdentTopic::new(name("/members")),
            jobs: IdentTopic::new(name("/jobs")),
        })
    }

    /// Where this is gossiped.
    pub(super) fn topic(&self, gossip: &Gossip) -> IdentTopic {
        match gossip {
            Gossip::Job { .. } | Gossip::JobOver(_) => self.jobs.clone(),
            Gossip::Alive(_) | Gossip::Suspect { .. } | Gossip::Down { .. } | Gossip::Left { .. } => {
                self.members.clone()
            }
        }
    }
}

/// All behaviours together.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) limits: connection_limits::Behaviour,
    pub(super) identify: identify::Behaviour,
    pub(super) ping: ping::Behaviour,
    pub(super) gossip: gossipsub::Behaviour,
    pub(super) kad: kad::Behaviour<Records>,
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(super) streams: streams::Behaviour,
}

/// A libp2p::Swarm that does not listen yet.
pub(super) fn swarm(
    keypair: Keypair,
    names: &Names,
    lan: bool,
    records: Records,
) -> Result<Swarm<Behaviour>, NetworkError> {
    let tcp = tcp::Config::default().nodelay(true);
    let setup = |error: &dyn std::fmt::Display| NetworkError::Setup { reason: error.to_string() };
    let builder = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(tcp, noise::Config::new, yamux::Config::default)
        .map_err(|error| setup(&error))?
        .with_quic_config(quic_config)
        .with_behaviour(|key| Behaviour::new(key, names, lan, records))
        .map_err(|error| setup(&error))?;
    Ok(builder.with_swarm_config(|config| config.with_idle_connection_timeout(IDLE_MAX)).build())
}

impl Behaviour {
    fn new(
        key: &Keypair,
        names: &Names,
        lan: bool,
        records: Records,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let me = key.public().to_peer_id();
        let mdns_config = mdns::Config { query_interval: MDNS_QUERY, ..mdns::Config::default() };
        let mdns = lan.then(|| mdns::tokio::Behaviour::new(mdns_config, me)).transpose()?;
        let mut kad = kad::Behaviour::with_config(me, records, kad_config(names));
        // Else kad waits in client mode for a confirmed external address, which a local network never gives.
        kad.set_mode(Some(kad::Mode::Server));
        Ok(Self {
            limits: connection_limits::Behaviour::new(limits()),
            identify: identify::Behaviour::new(
                identify::Config::new(names.swarm.clone(), key.public())
                    .with_agent_version(concat!("swarm/", env!("CARGO_PKG_VERSION")).to_owned())
                    .with_push_listen_addr_updates(true),
            ),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(PING).with_timeout(PING)),
            gossip: gossip(key, names)?,
            kad,
            mdns: mdns.into(),
            streams: streams::Behaviour::new(names.streams.clone()),
        })
    }
}

fn limits() -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING_MAX))
        .with_max_pending_outgoing(Some(PENDING_MAX))
        .with_max_established(Some(CONNECTIONS_MAX))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER_MAX))
}

fn quic_config(mut config: quic::Config) -> quic::Config {
    config.max_idle_timeout = QUIC_IDLE_MAX.as_millis() as u32;
    config.keep_alive_interval = QUIC_KEEPALIVE;
    config
}

fn kad_config(names: &Names) -> kad::Config {
    let mut config = kad::Config::new(names.kad.clone());
    config
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_query_timeout(QUERY_MAX)
        .set_record_ttl(Some(RECORD_LIFE))
        .set_provider_record_ttl(Some(RECORD_LIFE))
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None);
    config
}

/// Names a gossip by its author and number, in 16 bytes: names are offered to peers again and again, and the usual ones
/// have 70 bytes.
fn short_id(message: &gossipsub::Message) -> gossipsub::MessageId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&message.source.map(|peer| peer.to_bytes()).unwrap_or_default());
    hasher.update(&message.sequence_number.unwrap_or_default().to_be_bytes());
    gossipsub::MessageId::new(&hasher.finalize().as_bytes()[..16])
}

/// No peer scoring: it would punish many nodes on one host, and a swarm is not open to strangers.
fn gossip(key: &Keypair, names: &Names) -> Result<gossipsub::Behaviour, Box<dyn std::error::Error + Send + Sync>> {
    let mut config = gossipsub::ConfigBuilder::default();
    config
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .heartbeat_initial_delay(GOSSIP_HEARTBEAT_FIRST)
        .heartbeat_interval(GOSSIP_HEARTBEAT)
        .message_id_fn(short_id)
        // One outbound peer is enough for a mesh of two, and a swarm's meshes are small.
        .mesh_outbound_min(1)
        .flood_publish(true);
    for topic in [&names.members, &names.jobs] {
        config.max_transmit_size_for_topic(GOSSIP_BYTES_MAX + GOSSIP_ENVELOPE_BYTES, topic.hash());
    }
    let mut gossip = gossipsub::Behaviour::new(MessageAuthenticity::Signed(key.clone()), config.build()?)?;
    gossip.subscribe(&names.members)?;
    gossip.subscribe(&names.jobs)?;
    Ok(gossip)
}
