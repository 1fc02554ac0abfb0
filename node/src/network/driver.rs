//! The one task that owns the `libp2p::Swarm`: hands its events to the parts that act on them.
//!
//! Always true: it never waits for a peer, a disk, or a reader of our events; no message between nodes goes through it.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::gossipsub::{self, MessageAcceptance};
use libp2p::kad::{self, InboundRequest};
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Stream, Swarm, TransportError, identify, mdns, ping};
use swarm_protocol::message::GOSSIP_BYTES_MAX;
use swarm_protocol::{Gossip, Hash, JobId, NodeId, SignedJob, codec};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, sleep_until, timeout};

use super::addresses::{self, node_of, peer_of};
use super::behaviour::{Behaviour, BehaviourEvent, Names};
use super::blobs::{self, Uploads};
use super::dialer::{self, Dialer};
use super::lanes::Lanes;
use super::links::{Ended, Links, Transfer};
use super::news;
use super::queries::Queries;
use super::records;
use super::streams::{Incoming, Purpose};
use super::{Counters, NetworkError, NetworkEvent};
use crate::board::Board;

/// How often the timers of dials and links are looked at: at most when something is due, and at least. A look wakes an idle
/// node, which costs more than the look.
const LOOK_OFTEN: Duration = Duration::from_millis(100);
const LOOK_RARELY: Duration = Duration::from_secs(1);
/// How long opening a stream may take.
pub(super) const OPEN_MAX: Duration = Duration::from_secs(5);
/// How long a shutdown may take, so that peers hear our last messages.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// How long the last gossip has to leave; nothing tells when it has.
const GOSSIP_LINGER: Duration = Duration::from_millis(100);
/// How long the start waits for the addresses of the listeners.
const LISTEN_MAX: Duration = Duration::from_secs(2);
/// Peers of other swarms that are warned of; later ones are logged at debug.
const STRANGERS_MAX: usize = 1024;
/// Streams that wait for a connection.
const WAITING_MAX: usize = 256;

/// What the `libp2p::Swarm` says.
pub(super) type Event = SwarmEvent<BehaviourEvent>;

/// A stream, and the mark that it is in use.
pub(super) type BulkStream = (Stream, Transfer);
/// What a stream that has to wait is for, and who waits for it.
type Waiting = (Purpose, oneshot::Sender<BulkStream>);

/// What [`super::Network`] asks for.
pub(super) enum Command {
    Gossip(Gossip),
    Dial(NodeId, Vec<String>),
    HangUp(NodeId),
    Rest(bool),
    Bootstrap(Vec<Multiaddr>),
    Open { from: NodeId, purpose: Purpose, answer: oneshot::Sender<BulkStream> },
    PublishJob { id: JobId, value: Vec<u8> },
    FindJob { id: JobId, answer: oneshot::Sender<Option<SignedJob>> },
    Provide { hash: Hash, done: oneshot::Sender<()> },
    Providers { hash: Hash, answer: oneshot::Sender<Vec<NodeId>> },
    Shutdown { done: oneshot::Sender<()> },
}

/// A control stream that was asked for.
struct Opened {
    peer: PeerId,
    connection: ConnectionId,
    stream: Option<Stream>,
}

/// Everything the driver is made of.
pub(super) struct Driver {
    pub(super) swarm: Swarm<Behaviour>,
    /// What happened while the listeners were being set up: a peer may have connected already.
    pub(super) early: Vec<Event>,
    pub(super) names: Names,
    pub(super) events: mpsc::Sender<NetworkEvent>,
    pub(super) links: Links,
    pub(super) ended: mpsc::UnboundedReceiver<Ended>,
    pub(super) dialer: Dialer,
    pub(super) uploads: Arc<Uploads>,
    pub(super) board: Board,
    pub(super) counters: Arc<Counters>,
}

/// The driver at work.
struct Running {
    driver: Driver,
    queries: Queries,
    lanes: Lanes,
    requests: Arc<Semaphore>,
    news_asked: Arc<Semaphore>,
    opened_sender: mpsc::UnboundedSender<Opened>,
    opened: mpsc::UnboundedReceiver<Opened>,
    /// Streams that wait for a connection to the peer.
    waiting: HashMap<PeerId, Vec<Waiting>>,
    /// Peers of other swarms that were warned of.
    strangers: HashSet<PeerId>,
    /// The own addresses last told, and whether they still have to be.
    addresses: Vec<String>,
    addresses_told: bool,
}

impl Driver {
    /// Runs until a shutdown is asked for, or until nobody is left to ask for anything.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let (opened_sender, opened) = mpsc::unbounded_channel();
        let early = std::mem::take(&mut self.early);
        let mut running = Running {
            driver: self,
            queries: Queries::default(),
            lanes: Lanes::default(),
            requests: Arc::new(Semaphore::new(blobs::REQUESTS_MAX)),
            news_asked: Arc::new(Semaphore::new(news::QUESTIONS_MAX)),
            opened_sender,
            opened,
            waiting: HashMap::new(),
            strangers: HashSet::new(),
            addresses: Vec::new(),
            addresses_told: false,
        };
        running.on_addresses_changed();
        early.into_iter().for_each(|event| running.on_swarm(event));
        let done = running.run(&mut commands).await;
        running.close().await;
        drop(running);
        if let Some(done) = done {
            // Whoever asked may have stopped waiting.
            let _ = done.send(());
        }
    }
}

impl Running {
    async fn run(&mut self, commands: &mut mpsc::Receiver<Command>) -> Option<oneshot::Sender<()>> {
        self.look_round();
        let mut looked = Instant::now();
        loop {
            let look = self.next_look(looked);
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Shutdown { done }) => return Some(done),
                    Some(command) => self.on_command(command),
                    None => return None,
                },
                () = self.progress() => {}
                () = sleep_until(look.into()) => {
                    looked = Instant::now();
                    self.look_round();
                }
            }
        }
    }

    /// When something is due that does not happen by itself.
    fn next_look(&self, looked: Instant) -> Instant {
        let due = [self.driver.links.next_due(), self.driver.dialer.next_due()].into_iter().flatten().min();
        let due = if self.addresses_told { due } else { Some(looked) };
        due.map_or(looked + LOOK_RARELY, |due| due.clamp(looked + LOOK_OFTEN, looked + LOOK_RARELY))
    }

    /// Takes the next thing that happened by itself.
    async fn progress(&mut self) {
        tokio::select! {
            event = self.driver.swarm.select_next_some() => self.on_swarm(event),
            Some(opened) = self.opened.recv() => self.on_opened(opened),
            Some(ended) = self.driver.ended.recv() => self.on_ended(ended),
        }
    }

    /// Lets the last messages and the last gossip leave, then says goodbye to all peers.
    async fn close(&mut self) {
        self.driver.links.close();
        if self.driver.swarm.network_info().num_peers() == 0 {
            return;
        }
        let _ = timeout(GOSSIP_LINGER, self.progress_until(|_| false)).await;
        let _ = timeout(CLOSE_MAX, self.progress_until(|it| it.driver.links.all_down())).await;
        let peers: Vec<_> = self.driver.swarm.connected_peers().copied().collect();
        for peer in peers {
            // Fails when it has gone by itself.
            let _ = self.driver.swarm.disconnect_peer_id(peer);
        }
        let _ = timeout(CLOSE_MAX, self.progress_until(|it| it.driver.swarm.network_info().num_peers() == 0)).await;
    }

    async fn progress_until(&mut self, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            self.progress().await;
        }
    }

    fn on_command(&mut self, command: Command) {
        let kad = &mut self.driver.swarm.behaviour_mut().kad;
        match command {
            Command::Gossip(gossip) => self.gossip(&gossip),
            Command::Dial(node, texts) => self.dial(node, &texts),
            Command::HangUp(node) => self.hang_up(node),
            Command::Rest(rests) => self.driver.dialer.rest(rests),
            Command::Bootstrap(addresses) => {
                addresses.into_iter().for_each(|address| self.driver.dialer.add_bootstrap(address))
            }
            Command::Open { from, purpose, answer } => self.open_bulk(from, purpose, answer),
            Command::PublishJob { id, value } => self.queries.publish_job(kad, id, value),
            Command::FindJob { id, answer } => self.queries.find_job(kad, id, answer),
            Command::Provide { hash, done } => self.queries.provide(kad, hash, done),
            Command::Providers { hash, answer } => self.queries.providers(kad, hash, answer),
            Command::Shutdown { .. } => {} // Taken by `run`.
        }
    }

    fn on_swarm(&mut self, event: Event) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, endpoint.get_remote_address())
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, cause, .. } => {
                tracing::debug!(peer = %peer_id, ?cause, "connection closed");
                self.on_disconnected(peer_id, connection_id, num_established);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.on_dial_failed(connection_id, peer_id, &error)
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(from = %send_back_addr, "connection refused: {error}");
            }
            SwarmEvent::NewListenAddr { .. } | SwarmEvent::ExpiredListenAddr { .. } => self.on_addresses_changed(),
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                tracing::error!(?addresses, ?reason, "no longer listening");
                self.on_addresses_changed();
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!("a connection was not accepted: {error}"),
            _ => {}
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.on_identified(peer_id, info)
            }
            BehaviourEvent::Gossip(gossipsub::Event::Message { propagation_source, message_id, message }) => {
                self.on_gossip(propagation_source, &message_id, &message)
            }
            BehaviourEvent::Kad(event) => self.on_kad(event),
            BehaviourEvent::Mdns(mdns::Event::Discovered(peers)) => {
                peers.into_iter().for_each(|(peer, address)| self.driver.dialer.add_known(peer, vec![address]))
            }
            BehaviourEvent::Ping(ping::Event { connection, result: Err(ping::Failure::Timeout), .. }) => {
                self.driver.swarm.close_connection(connection);
            }
            BehaviourEvent::Streams(incoming) => self.on_incoming(incoming),
            _ => {}
        }
    }

    fn look_round(&mut self) {
        let now = Instant::now();
        for connection in self.driver.links.dead(now) {
            self.driver.swarm.close_connection(connection);
        }
        self.open_links();
        for opts in self.driver.dialer.due(now) {
            let (connection, peer) = (opts.connection_id(), opts.get_peer_id());
            if let Err(error) = self.driver.swarm.dial(opts) {
                self.on_dial_failed(connection, peer, &error);
            }
        }
        self.waiting.retain(|_, streams| {
            streams.retain(|(_, answer)| !answer.is_closed());
            !streams.is_empty()
        });
        self.tell_addresses();
    }

    // ---- connections

    fn on_connected(&mut self, peer: PeerId, connection: ConnectionId, remote: &Multiaddr) {
        let Some(node) = node_of(&peer) else {
            tracing::debug!(%peer, "refused: its key is not ed25519");
            let _ = self.driver.swarm.disconnect_peer_id(peer);
            return;
        };
        self.driver.dialer.on_connected(peer, connection);
        self.lanes.on_connected(peer, connection, remote);
        self.driver.links.on_connected(peer, node, connection);
        self.open_links();
        self.open_waiting(peer, node);
    }

    fn open_waiting(&mut self, peer: PeerId, node: NodeId) {
        for (purpose, answer) in self.waiting.remove(&peer).unwrap_or_default() {
            self.open_bulk(node, purpose, answer);
        }
    }

    fn on_disconnected(&mut self, peer: PeerId, connection: ConnectionId, left: u32) {
        self.driver.links.on_disconnected(peer, connection);
        self.lanes.on_disconnected(peer, connection, left);
        if left == 0 {
            self.driver.dialer.on_disconnected(peer);
        }
    }

    fn on_dial_failed(&mut self, connection: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        self.driver.dialer.on_failed(connection, error);
        if let Some((peer, node)) = peer.and_then(|peer| Some((peer, node_of(&peer)?)))
            && self.lanes.on_failed(peer, connection, Instant::now())
        {
            tracing::debug!(%peer, "not reached over TCP for blobs: {error}");
            return self.open_waiting(peer, node);
        }
        // When the peer is being dialled already, the answer comes from that dial.
        if let Some(peer) = peer.filter(|_| !matches!(error, DialError::DialPeerConditionFalse(_))) {
            tracing::debug!(%peer, "not reached: {error}");
            self.waiting.remove(&peer);
        }
    }

    fn dial(&mut self, node: NodeId, texts: &[String]) {
        let peer = peer_of(node);
        if peer == *self.driver.swarm.local_peer_id() {
            return;
        }
        let addresses = addresses::dialable(peer, texts);
        self.driver.dialer.learn(peer, &addresses);
        let opts = dialer::dial_peer(peer, addresses);
        let connection = opts.connection_id();
        if let Err(error) = self.driver.swarm.dial(opts) {
            self.on_dial_failed(connection, Some(peer), &error);
        }
    }

    /// Closes all connections to a peer, unless a blob is on its way: whoever wants to hang up asks again.
    fn hang_up(&mut self, node: NodeId) {
        let peer = peer_of(node);
        if !self.driver.links.has_transfers(peer) {
            // Fails when it has gone by itself.
            let _ = self.driver.swarm.disconnect_peer_id(peer);
        }
    }

    fn on_identified(&mut self, peer: PeerId, info: identify::Info) {
        if info.protocol_version != self.driver.names.swarm {
            self.refuse_stranger(peer, &info.protocol_version);
            return;
        }
        self.driver.dialer.on_welcome(peer);
        let reachable = addresses::reachable(info.listen_addrs.into_iter());
        self.lanes.on_identified(peer, reachable.iter().take(addresses::ADDRESSES_MAX));
        for address in reachable.into_iter().take(addresses::ADDRESSES_MAX) {
            self.driver.swarm.behaviour_mut().kad.add_address(&peer, address);
        }
    }

    /// Warns once of each: a wrong `--bootstrap` or `--swarm` is a user's mistake, but neighbours found by mDNS are not.
    fn refuse_stranger(&mut self, peer: PeerId, theirs: &str) {
        if self.strangers.len() < STRANGERS_MAX && self.strangers.insert(peer) {
            tracing::warn!(%peer, theirs, "refused: it belongs to another swarm");
        } else {
            tracing::debug!(%peer, theirs, "refused: it belongs to another swarm");
        }
        self.driver.dialer.on_refused(peer);
        // Fails when it has gone by itself.
        let _ = self.driver.swarm.disconnect_peer_id(peer);
    }

    fn on_addresses_changed(&mut self) {
        let swarm = &self.driver.swarm;
        let own = addresses::own(*swarm.local_peer_id(), swarm.listeners().chain(swarm.external_addresses()));
        if own != self.addresses {
            self.addresses = own;
            self.addresses_told = false;
            self.tell_addresses();
        }
    }

    /// Tells the own addresses; again with the next look while the events are read too slowly.
    fn tell_addresses(&mut self) {
        if !self.addresses_told {
            let event = NetworkEvent::Addresses(self.addresses.clone());
            self.addresses_told = self.driver.events.try_send(event).is_ok();
        }
    }

    // ---- streams

    fn on_incoming(&mut self, Incoming { peer, connection, purpose, stream }: Incoming) {
        match purpose {
            Purpose::Control => self.driver.links.on_accepted(peer, connection, stream),
            Purpose::Blob => self.serve_blob(peer, stream),
            Purpose::News => self.serve_news(stream),
        }
    }

    /// Opens the control streams that are due.
    fn open_links(&mut self) {
        for (peer, connection) in self.driver.links.openings_due(Instant::now()) {
            let stream = self.driver.swarm.behaviour_mut().streams.open(peer, connection, Purpose::Control);
            let opened = self.opened_sender.clone();
            tokio::spawn(async move {
                let stream = timeout(OPEN_MAX, stream).await.ok().and_then(Result::ok);
                // The driver is gone when this fails.
                let _ = opened.send(Opened { peer, connection, stream });
            });
        }
    }

    fn on_opened(&mut self, Opened { peer, connection, stream }: Opened) {
        self.driver.links.on_opened(peer, connection, stream);
    }

    fn on_ended(&mut self, ended: Ended) {
        if let Some(connection) = self.driver.links.on_ended(ended) {
            self.driver.swarm.close_connection(connection);
        }
        self.open_links();
    }

    fn serve_blob(&mut self, peer: PeerId, stream: Stream) {
        // Beyond the bound the stream is dropped, which its peer sees as a broken one.
        let Some(node) = node_of(&peer) else { return };
        if let Ok(permit) = self.requests.clone().try_acquire_owned() {
            let (uploads, transfer) = (Arc::clone(&self.driver.uploads), self.driver.links.transfer(peer));
            tokio::spawn(async move {
                blobs::serve(stream, node, uploads).await;
                drop((permit, transfer));
            });
        }
    }

    fn serve_news(&self, stream: Stream) {
        if let Ok(permit) = self.news_asked.clone().try_acquire_owned() {
            let board = self.driver.board.clone();
            tokio::spawn(async move {
                news::serve(stream, board).await;
                drop(permit);
            });
        }
    }

    /// Opens a stream on the best connection, which may have to be made. Drops `answer` when that fails.
    fn open_bulk(&mut self, from: NodeId, purpose: Purpose, answer: oneshot::Sender<BulkStream>) {
        let peer = peer_of(from);
        let connection = match self.lanes.fast(peer) {
            Some(fast) => Some(fast),
            None if purpose == Purpose::Blob && self.dial_lane(peer) => None,
            None => self.driver.links.best_connection(peer),
        };
        match connection {
            Some(connection) => {
                let stream = self.driver.swarm.behaviour_mut().streams.open(peer, connection, purpose);
                let transfer = self.driver.links.transfer(peer);
                tokio::spawn(async move {
                    if let Ok(stream) = stream.await {
                        // Whoever asked may have stopped waiting.
                        let _ = answer.send((stream, transfer));
                    }
                });
            }
            None if self.waiting.len() < WAITING_MAX => {
                self.waiting.entry(peer).or_default().push((purpose, answer));
                if !self.lanes.is_dialled(peer) {
                    self.dial(from, &[]);
                }
            }
            None => tracing::debug!(%peer, "too many streams wait for a connection"),
        }
    }

    /// Whether a faster connection for blobs is under way.
    fn dial_lane(&mut self, peer: PeerId) -> bool {
        let now = Instant::now();
        if let Some(opts) = self.lanes.dial(peer, now) {
            let connection = opts.connection_id();
            if let Err(error) = self.driver.swarm.dial(opts) {
                tracing::debug!(%peer, "not dialled over TCP for blobs: {error}");
                self.lanes.on_failed(peer, connection, now);
            }
        }
        self.lanes.is_dialled(peer)
    }

    // ---- gossip

    fn gossip(&mut self, gossip: &Gossip) {
        let bytes = codec::encode(gossip);
        if bytes.len() > GOSSIP_BYTES_MAX {
            tracing::error!(len = bytes.len(), "gossip not sent: it is over {GOSSIP_BYTES_MAX} bytes");
            return;
        }
        let topic = self.driver.names.topic(gossip);
        match self.driver.swarm.behaviour_mut().gossip.publish(topic, bytes) {
            Ok(_) | Err(gossipsub::PublishError::NoPeersSubscribedToTopic) => {}
            Err(error) => tracing::debug!("gossip not sent: {error}"),
        }
    }

    fn on_gossip(&mut self, through: PeerId, id: &gossipsub::MessageId, message: &gossipsub::Message) {
        let gossip = codec::decode::<Gossip>(&message.data, GOSSIP_BYTES_MAX).ok();
        let author = message.source.as_ref().and_then(node_of);
        let (acceptance, event) = match (gossip, author) {
            (Some(gossip), Some(from)) => (MessageAcceptance::Accept, Some(NetworkEvent::Gossip { from, gossip })),
            _ => (MessageAcceptance::Reject, None),
        };
        self.driver.swarm.behaviour_mut().gossip.report_message_validation_result(id, &through, acceptance);
        let Some(event) = event else {
            self.driver.counters.gossip_refused.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%through, "gossip refused");
            return;
        };
        // A hint: when the core is behind, it does without.
        if self.driver.events.try_send(event).is_err() {
            self.driver.counters.gossip_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    // ---- the Kademlia map

    fn on_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => {
                let kad = &mut self.driver.swarm.behaviour_mut().kad;
                self.queries.on_progress(kad, id, result, step.last);
            }
            kad::Event::InboundRequest { request } => self.on_kad_request(request),
            _ => {}
        }
    }

    /// What peers want to be stored comes in only when it is what its key says.
    fn on_kad_request(&mut self, request: InboundRequest) {
        use libp2p::kad::store::RecordStore;
        let store = self.driver.swarm.behaviour_mut().kad.store_mut();
        let stored = match request {
            InboundRequest::PutRecord { source, record: Some(record), .. } => {
                if records::check(record.key.as_ref(), &record.value).is_none() {
                    self.driver.counters.records_refused.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(peer = %source, "record refused: it is not the job that its key names");
                    return;
                }
                store.put(record)
            }
            InboundRequest::AddProvider { record: Some(record) } => store.add_provider(record),
            _ => return,
        };
        if let Err(error) = stored {
            tracing::debug!("record not kept: {error}");
        }
    }
}

/// Listens on all of `addresses`, and waits until each has led to an address at which the node can be dialled. Returns what
/// else happened meanwhile.
pub(super) async fn listen(
    swarm: &mut Swarm<Behaviour>,
    addresses: Vec<(String, Multiaddr)>,
) -> Result<Vec<Event>, NetworkError> {
    let (mut early, mut waiting) = (Vec::new(), HashMap::new());
    for (text, address) in addresses {
        addresses::check_free(&address).map_err(|source| NetworkError::Listen { address: text.clone(), source })?;
        let listener = swarm.listen_on(address).map_err(|error| match error {
            TransportError::Other(source) => not_listening(&text, source),
            TransportError::MultiaddrNotSupported(_) => NetworkError::Address { text: text.clone() },
        })?;
        waiting.insert(listener, text);
    }
    let mut late = std::pin::pin!(sleep(LISTEN_MAX));
    while !waiting.is_empty() {
        let event = tokio::select! {
            event = swarm.select_next_some() => event,
            () = &mut late => break,
        };
        match event {
            SwarmEvent::NewListenAddr { listener_id, .. } => _ = waiting.remove(&listener_id),
            SwarmEvent::ListenerClosed { listener_id, reason: Err(source), .. } => {
                return Err(not_listening(&waiting.remove(&listener_id).unwrap_or_default(), source));
            }
            other => early.push(other),
        }
    }
    // Bound, but without an address yet: the network may come up later.
    waiting.values().for_each(|address| tracing::warn!(address, "listening, but no address leads there yet"));
    Ok(early)
}

/// The system's own error stands at the end of libp2p's chain of wrappers, which say nothing.
fn not_listening(address: &str, wrapped: io::Error) -> NetworkError {
    let mut system = wrapped.raw_os_error();
    let mut cause = wrapped.get_ref().map(|inner| inner as &(dyn Error + 'static));
    while let Some(error) = cause {
        system = error.downcast_ref().and_then(io::Error::raw_os_error).or(system);
        cause = error.source();
    }
    let source = system.map_or(wrapped, io::Error::from_raw_os_error);
    NetworkError::Listen { address: address.to_owned(), source }
}
