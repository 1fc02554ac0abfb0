//! The network: all that is libp2p. Nothing of libp2p is seen outside: nodes are [`NodeId`]s, addresses are texts.
//!
//! A [`Network`] is a handle; one task owns the `libp2p::Swarm`. What happens comes out as [`NetworkEvent`]s.
//!
//! Always true:
//! - bytes that a peer sends can be refused, they never panic us;
//! - a message that [`Network::send`] took arrives, in order and once, or the link to the peer goes down;
//! - whatever is stored for others was verified, and everything that peers can make grow has a bound.
//!
//! | module | what it owns |
//! |---|---|
//! | `driver` | the task around the `libp2p::Swarm` |
//! | `behaviour` | the libp2p behaviours and all their settings |
//! | `streams` | opening and accepting raw streams |
//! | `links`, `link` | which stream is the link to a peer; the life of one link |
//! | `dialer`, `resolver` | whom this node keeps dialling; host names in bootstrap addresses |
//! | `blobs` | moving blobs: conversations, uploads, rates |
//! | `news` | what running tasks print, told to who follows them |
//! | `lanes` | over which connection blobs go |
//! | `records`, `queries` | what is kept for the Kademlia map; questions to it |
//! | `addresses` | between our ids and addresses and libp2p's |
//! | `identity` | the node's key |
//!
//! Elsewhere: what the messages mean is `swarm_protocol`; membership is decided there too.

mod addresses;
mod behaviour;
mod blobs;
mod dialer;
mod driver;
mod identity;
mod lanes;
mod link;
mod links;
mod news;
mod queries;
mod records;
mod resolver;
mod streams;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use libp2p::Multiaddr;
use swarm_protocol::message::FRAME_BYTES_MAX;
use swarm_protocol::{Gossip, Hash, JobId, Message, NodeId, SignedJob, Write, codec};
use swarm_store::Blobs;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::board::{Board, News, NewsQuestion};
pub use blobs::{FetchError, Holder, Rate, Rates};
pub(crate) use blobs::{Here, RUN_GROUPS_MAX};
pub use identity::{Identity, IdentityError};

use behaviour::Names;
use blobs::{Limits, Uploads};
use dialer::Dialer;
use driver::{BulkStream, Command, Driver};
use links::{Links, Outboxes};
use records::{RECORD_BYTES_MAX, Records};
use streams::Purpose;

/// Where a node listens unless told otherwise: every interface, free ports, both transports.
pub const LISTEN_DEFAULT: [&str; 2] = ["/ip4/0.0.0.0/udp/0/quic-v1", "/ip4/0.0.0.0/tcp/0"];
/// Events that may wait to be read; beyond it the links wait, so that peers slow down. An event is a frame at most.
const EVENTS_MAX: usize = 256;
/// Commands that may wait for the driver, which never waits itself.
const COMMANDS_MAX: usize = 4096;

/// How a network is started.
#[derive(Debug)]
pub struct NetworkConfig {
    /// Who this node is.
    pub identity: Identity,
    /// Nodes of differently named swarms never link. 1 to 64 of `A-Z a-z 0-9 - _ .`.
    pub swarm_name: String,
    /// Multiaddresses to listen on; [`LISTEN_DEFAULT`] when empty.
    pub listen: Vec<String>,
    /// Multiaddresses that are dialled until they answer, and again when they are lost. `/p2p/ID` may be missing, and a
    /// host's name (`/dns4/…`) may stand for its address.
    pub bootstrap: Vec<String>,
    /// Find nodes of the local network by mDNS.
    pub lan: bool,
    /// Nodes known from an earlier run with their multiaddresses; dialled like bootstrap nodes.
    pub known_peers: Vec<(NodeId, Vec<String>)>,
    /// What is served to peers.
    pub blobs: Blobs,
    /// What tasks print here, which peers may follow.
    pub board: Board,
    /// How fast blobs are sent.
    pub upload_rates: Rates,
    /// How fast blobs are taken.
    pub download_rates: Rates,
    /// Keys and values of `Table::Kad`, as earlier runs were told to persist them.
    pub kad_records: Vec<(Vec<u8>, Vec<u8>)>,
    /// Takes changes of `Table::Kad`, to be persisted at leisure. What does not fit in the channel is not persisted.
    pub kad_writes: Option<mpsc::Sender<Write>>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum NetworkEvent {
    /// A control stream to this peer is open. Alternates with `LinkDown` of the same peer.
    LinkUp(NodeId),
    /// The control stream to this peer is gone; what was sent lately may not have arrived.
    LinkDown(NodeId),
    /// Gossip of an authenticated author. May be lost, repeated or late.
    Gossip {
        /// The author.
        from: NodeId,
        /// What it says.
        gossip: Gossip,
    },
    /// A message of a linked peer, in the order in which it sent them.
    Received {
        /// The peer.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// The multiaddresses, with `/p2p/`, at which this node can be dialled now. Loopback ones only when there are no others.
    Addresses(Vec<String>),
}

/// Why a network did not start.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A listening address cannot be had.
    #[error("cannot listen on `{address}`")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// A text is not an address of a kind that this node speaks.
    #[error("`{text}` is not an address like `/ip4/192.0.2.1/udp/4001/quic-v1` or `/ip4/192.0.2.1/tcp/4001`")]
    Address {
        /// The text.
        text: String,
    },
    /// A swarm's name is part of protocol names.
    #[error("the swarm name `{name}` must have 1 to 64 of the characters A-Z, a-z, 0-9, `-`, `_` and `.`")]
    SwarmName {
        /// The name.
        name: String,
    },
    /// libp2p cannot be set up on this machine.
    #[error("cannot set up the network: {reason}")]
    Setup {
        /// Why, in libp2p's words: its error types stay in this module.
        reason: String,
    },
}

/// What has been refused or lost since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkCounts {
    /// Frames too long or unreadable; each closed its link.
    pub frames_refused: u64,
    /// Links closed because the peer read too slowly.
    pub links_slow: u64,
    /// Gossip that could not be read.
    pub gossip_refused: u64,
    /// Gossip dropped because this node is behind.
    pub gossip_dropped: u64,
    /// Kademlia records that were not what their key says.
    pub records_refused: u64,
    /// Bytes of blobs that were sent to peers, with their proofs.
    pub bytes_sent: u64,
    /// Bytes of blobs that peers sent, with their proofs.
    pub bytes_received: u64,
    /// Sources of blobs dropped because a byte was wrong.
    pub sources_wrong: u64,
    /// Sources of blobs dropped because they sent more than was asked for.
    pub sources_over: u64,
    /// Sources of blobs dropped because they lacked what they had claimed.
    pub sources_lacking: u64,
    /// Sources of blobs dropped because they stood still.
    pub sources_stalled: u64,
}

/// [`NetworkCounts`] as they grow.
#[derive(Debug, Default)]
struct Counters {
    frames_refused: AtomicU64,
    links_slow: AtomicU64,
    gossip_refused: AtomicU64,
    gossip_dropped: AtomicU64,
    records_refused: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    sources_wrong: AtomicU64,
    sources_over: AtomicU64,
    sources_lacking: AtomicU64,
    sources_stalled: AtomicU64,
}

/// A handle to the network. When the last one is dropped, the network closes as by [`Self::shutdown`].
#[derive(Clone, Debug)]
pub struct Network {
    me: NodeId,
    commands: mpsc::Sender<Command>,
    outboxes: Outboxes,
    downloads: Arc<Limits>,
    counters: Arc<Counters>,
}

impl Network {
    /// Listens, and begins to dial. The first event says at which addresses this node can be dialled.
    pub async fn start(config: NetworkConfig) -> Result<(Self, mpsc::Receiver<NetworkEvent>), NetworkError> {
        let names = Names::new(&config.swarm_name)?;
        let listen = listen_addresses(&config.listen)?;
        let keypair = config.identity.keypair();
        let (id, me) = (keypair.public().to_peer_id(), config.identity.node());
        let (dialer, named) = dialer(id, &config)?;
        let records = Records::new(id, config.kad_records, config.kad_writes);
        let mut swarm = behaviour::swarm(keypair, &names, config.lan, records)?;
        let early = driver::listen(&mut swarm, listen).await?;

        let (events, events_receiver) = mpsc::channel(EVENTS_MAX);
        let (commands, commands_receiver) = mpsc::channel(COMMANDS_MAX);
        let (ended_sender, ended) = mpsc::unbounded_channel();
        let (outboxes, counters) = (Outboxes::default(), Arc::new(Counters::default()));
        let links = Links::new(me, outboxes.clone(), events.clone(), ended_sender, counters.clone());
        let downloads = Arc::new(Limits::new(config.download_rates));
        let network = Self { me, commands, outboxes, downloads, counters: counters.clone() };
        let uploads = Arc::new(Uploads::new(config.blobs, config.upload_rates, counters.clone()));
        let board = config.board;
        let driver = Driver { swarm, early, names, events, links, ended, dialer, uploads, board, counters };
        tokio::spawn(driver.run(commands_receiver));
        for address in named {
            tokio::spawn(resolver::keep_resolving(address, network.commands.downgrade()));
        }
        Ok((network, events_receiver))
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.me
    }

    /// Enqueues a message on the link to `to`, without waiting. `false` when there is no link, when it is so far behind
    /// that it is closed now, or when the message is over `FRAME_BYTES_MAX` (an error of the caller, which is logged).
    pub fn send(&self, to: NodeId, message: &Message) -> bool {
        self.outboxes.push(to, || {
            let frame = codec::encode(message);
            if frame.len() > FRAME_BYTES_MAX {
                tracing::error!(len = frame.len(), "message not sent: it is over {FRAME_BYTES_MAX} bytes");
                return None;
            }
            Some(frame)
        })
    }

    /// Says something to everybody, as a hint: may be lost.
    pub fn gossip(&self, gossip: &Gossip) {
        self.command(Command::Gossip(gossip.clone()));
    }

    /// Dials a peer once, unless it is connected or being dialled. Success shows as `LinkUp`, failure does not show.
    pub fn dial(&self, node: NodeId, addresses: Vec<String>) {
        self.command(Command::Dial(node, addresses));
    }

    /// Closes the connections to a peer, unless a blob is on its way. Shows as `LinkDown`.
    pub fn hang_up(&self, node: NodeId) {
        self.command(Command::HangUp(node));
    }

    /// Whether bootstrap addresses and known peers that are not connected may be left in peace, but for a rare try.
    pub fn rest(&self, rests: bool) {
        self.command(Command::Rest(rests));
    }

    /// Asks a peer for a blob; with `proof` also for its last group, which proves its length. A peer that is not connected is
    /// dialled if the Kademlia map knows an address; this node itself is never connected. May be called for several blobs
    /// and peers at once.
    pub async fn find_blob(&self, from: NodeId, hash: Hash, proof: bool) -> Result<Holder, FetchError> {
        let stream = self.open(from, Purpose::Blob).await?;
        Holder::open(stream, hash, proof, self.downloads.of(from), Arc::clone(&self.counters)).await
    }

    /// Asks a peer what a task has printed that it runs; `None` when it does not run it.
    pub async fn news(&self, from: NodeId, question: &NewsQuestion) -> Result<Option<News>, FetchError> {
        let (stream, _in_use) = self.open(from, Purpose::News).await?;
        news::ask(stream, question).await
    }

    async fn open(&self, from: NodeId, purpose: Purpose) -> Result<BulkStream, FetchError> {
        if from == self.me {
            // No dial ever leads there, so the stream would wait for a connection in vain.
            return Err(FetchError::NotConnected);
        }
        let (answer, stream) = oneshot::channel();
        let asked = self.commands.send(Command::Open { from, purpose, answer }).await;
        asked.map_err(|_| FetchError::NotConnected)?;
        let stream = timeout(driver::OPEN_MAX, stream).await.map_err(|_| FetchError::NotOpened)?;
        stream.map_err(|_| FetchError::NotConnected)
    }

    /// Counts a source that is dropped for what it did.
    pub(crate) fn count_source(&self, from: NodeId, hash: Hash, why: &FetchError) {
        let counter = match why {
            FetchError::Damaged => &self.counters.sources_wrong,
            FetchError::TooMuch => &self.counters.sources_over,
            FetchError::Lacking => &self.counters.sources_lacking,
            FetchError::Timeout => &self.counters.sources_stalled,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(?from, %hash, "a source is dropped: {why}");
    }

    /// Says in the Kademlia map that this node has a blob. Returns when the walk is over; a hint, so it cannot fail.
    pub async fn provide(&self, hash: Hash) {
        let (done, walked) = oneshot::channel();
        if self.commands.send(Command::Provide { hash, done }).await.is_ok() {
            // Dropped when the network closes or asks too much at once.
            let _ = walked.await;
        }
    }

    /// Who has a blob, as far as the Kademlia map knows. Without this node itself.
    pub async fn providers(&self, hash: Hash) -> Vec<NodeId> {
        let (answer, found) = oneshot::channel();
        if self.commands.send(Command::Providers { hash, answer }).await.is_err() {
            return Vec::new();
        }
        let mut nodes = found.await.unwrap_or_default();
        nodes.retain(|node| *node != self.me);
        nodes
    }

    /// Puts a job that this node verified into the Kademlia map, if it is short enough: at most 14 KiB. Does not wait.
    pub fn publish_job(&self, id: JobId, signed: &SignedJob) {
        let value = codec::encode(signed);
        if value.len() <= RECORD_BYTES_MAX {
            self.command(Command::PublishJob { id, value });
        }
    }

    /// Looks for a job in the Kademlia map. What is found is verified.
    pub async fn find_job(&self, id: JobId) -> Option<SignedJob> {
        let (answer, found) = oneshot::channel();
        self.commands.send(Command::FindJob { id, answer }).await.ok()?;
        found.await.ok().flatten()
    }

    /// Returns when the libp2p task is gone: the node hears nobody any more.
    pub(crate) async fn watch(self) -> Result<(), crate::supervisor::Failure> {
        self.commands.closed().await;
        Err("the libp2p task is gone".into())
    }

    /// What has been refused or lost since the start.
    pub fn counts(&self) -> NetworkCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NetworkCounts {
            frames_refused: read(&self.counters.frames_refused),
            links_slow: read(&self.counters.links_slow),
            gossip_refused: read(&self.counters.gossip_refused),
            gossip_dropped: read(&self.counters.gossip_dropped),
            records_refused: read(&self.counters.records_refused),
            bytes_sent: read(&self.counters.bytes_sent),
            bytes_received: read(&self.counters.bytes_received),
            sources_wrong: read(&self.counters.sources_wrong),
            sources_over: read(&self.counters.sources_over),
            sources_lacking: read(&self.counters.sources_lacking),
            sources_stalled: read(&self.counters.sources_stalled),
        }
    }

    /// Sends what waits to be sent, closes all links and connections, and stops listening. Takes about two seconds at most.
    pub async fn shutdown(self) {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Shutdown { done }).await.is_ok() {
            let _ = closed.await;
        }
    }

    /// A command that may be dropped: all of these are hints.
    fn command(&self, command: Command) {
        if self.commands.try_send(command).is_err() {
            tracing::debug!("the network is behind or closed; a hint is dropped");
        }
    }
}

fn listen_addresses(texts: &[String]) -> Result<Vec<(String, Multiaddr)>, NetworkError> {
    let defaults = || LISTEN_DEFAULT.map(str::to_owned).to_vec();
    let texts = if texts.is_empty() { defaults() } else { texts.to_vec() };
    texts.into_iter().map(|text| Ok((text.clone(), parse(&text)?))).collect()
}

/// The dialer, and the bootstrap addresses whose names are to be looked up first.
fn dialer(me: libp2p::PeerId, config: &NetworkConfig) -> Result<(Dialer, Vec<Multiaddr>), NetworkError> {
    let mut dialer = Dialer::new(me);
    let bootstrap: Vec<_> = config.bootstrap.iter().map(|text| parse(text)).collect::<Result<_, _>>()?;
    let (named, numbered): (Vec<_>, Vec<_>) = bootstrap.into_iter().partition(resolver::has_name);
    numbered.into_iter().for_each(|address| dialer.add_bootstrap(address));
    for (node, texts) in &config.known_peers {
        let peer = addresses::peer_of(*node);
        dialer.add_known(peer, addresses::dialable(peer, texts));
    }
    Ok((dialer, named))
}

fn parse(text: &str) -> Result<Multiaddr, NetworkError> {
    let parsed = text.trim().parse().ok().filter(addresses::is_spoken);
    parsed.ok_or_else(|| NetworkError::Address { text: text.to_owned() })
}
