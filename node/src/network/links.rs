//! Which stream is the link to a peer.
//!
//! Of two connected nodes the one with the smaller id opens the control stream and the other one accepts it, so that two
//! never meet, however many connections simultaneous dials have made. The opener opens another only when it holds the
//! old one for dead; the other, offered a new one, therefore gives the old one up.
//!
//! Always true: a peer has at most one link; `LinkUp` of a link comes after `LinkDown` of the one before it; while there
//! is a connection, the opener tries again, with back-off.
//!
//! A peer that was killed and comes back leaves a dead QUIC connection behind, which nobody has noticed yet. So a new
//! connection puts an existing link under suspicion: unless it shows a sign of life within [`SUSPICION`], it is ended.
//!
//! Elsewhere: the life of one link is `link`; the libp2p::Swarm is in `driver`.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;
use libp2p::{PeerId, Stream};
use swarm_protocol::NodeId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::link::{self, LinkEnd, Outbox};
use super::{Counters, NetworkEvent};

/// How long a link may be silent after a new connection to the same peer: two signs of life.
const SUSPICION: Duration = Duration::from_millis(1200);
/// A link that lived this long was a good one: the next is opened at once.
const GOOD_LINK: Duration = Duration::from_secs(10);
/// The first and the longest wait before a control stream is opened again.
const REOPEN: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(10);
/// Peers whose bad frames were logged at warn; later ones of the same peer are logged at debug.
const WARNED_MAX: usize = 1024;

/// The sending ends of all links. Written when a link comes or goes, read for each message; `send` must not wait, so
/// this one lock is shared with the callers, and never held across anything that waits.
#[derive(Clone, Debug, Default)]
pub(super) struct Outboxes(Arc<RwLock<HashMap<NodeId, Outbox>>>);

impl Outboxes {
    /// Enqueues a message made by `encode`, which is called only when there is a link.
    pub(super) fn push(&self, to: NodeId, encode: impl FnOnce() -> Option<Vec<u8>>) -> bool {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(outbox) = table.get(&to) else { return false };
        encode().is_some_and(|frame| outbox.push(frame))
    }

    fn add(&self, node: NodeId, outbox: Outbox) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(node, outbox);
    }

    fn remove(&self, node: NodeId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&node);
    }
}

/// What a link's task reports when it is over.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) peer: PeerId,
    pub(super) end: LinkEnd,
}

/// All links, as the driver's task sees them.
pub(super) struct Links {
    mine: NodeId,
    peers: HashMap<PeerId, Peer>,
    outboxes: Outboxes,
    events: mpsc::Sender<NetworkEvent>,
    ended: mpsc::UnboundedSender<Ended>,
    closing: CancellationToken,
    counters: Arc<Counters>,
    warned: HashSet<PeerId>,
}

/// A connected peer, or one whose link is just ending.
struct Peer {
    node: NodeId,
    /// The oldest first.
    connections: Vec<ConnectionId>,
    link: LinkState,
    /// Taken as soon as the link before it has ended.
    successor: Option<(ConnectionId, Stream)>,
    /// Tries in a row that made no good link.
    failures: u32,
    /// When to open a control stream, at the earliest.
    open_at: Instant,
    /// Set when a connection came while the link was up.
    suspected: Option<Instant>,
    /// Held by every transfer of a blob from or to the peer.
    transfers: Transfer,
}

/// A transfer of a blob under way.
pub(super) type Transfer = Arc<()>;

enum LinkState {
    Down,
    Opening,
    Up { connection: ConnectionId, outbox: Outbox },
}

impl Links {
    pub(super) fn new(
        mine: NodeId,
        outboxes: Outboxes,
        events: mpsc::Sender<NetworkEvent>,
        ended: mpsc::UnboundedSender<Ended>,
        counters: Arc<Counters>,
    ) -> Self {
        let closing = CancellationToken::new();
        Self { mine, peers: HashMap::new(), outboxes, events, ended, closing, counters, warned: HashSet::new() }
    }

    /// A connection to `peer` is established.
    pub(super) fn on_connected(&mut self, peer: PeerId, node: NodeId, connection: ConnectionId) {
        let now = Instant::now();
        let peer = self.peers.entry(peer).or_insert_with(|| Peer {
            node,
            connections: Vec::new(),
            link: LinkState::Down,
            successor: None,
            failures: 0,
            open_at: now,
            suspected: None,
            transfers: Transfer::default(),
        });
        peer.connections.push(connection);
        match peer.link {
            LinkState::Up { .. } => peer.suspected = Some(now),
            _ => peer.open_at = now,
        }
    }

    /// A connection to `peer` is closed. Its link, if it was there, ends by itself when all that came has been read.
    pub(super) fn on_disconnected(&mut self, peer: PeerId, connection: ConnectionId) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.connections.retain(|other| *other != connection);
        }
        self.forget_if_gone(peer);
    }

    /// Where a control stream is to be opened now. Each is answered by [`Self::on_opened`].
    pub(super) fn openings_due(&mut self, now: Instant) -> Vec<(PeerId, ConnectionId)> {
        let (mine, closing) = (self.mine, self.closing.is_cancelled());
        let due = |peer: &Peer| !closing && peer.is_opened_by(mine) && peer.open_at <= now;
        let due = self.peers.iter_mut().filter(|(_, peer)| due(peer));
        due.filter_map(|(id, peer)| {
            let connection = peer.connection_to_try()?;
            peer.link = LinkState::Opening;
            Some((*id, connection))
        })
        .collect()
    }

    /// When the next control stream is to be opened, or the next silent link to be doubted.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let opening = |peer: &Peer| peer.is_opened_by(self.mine).then_some(peer.open_at);
        let doubt = |peer: &Peer| peer.suspected.map(|since| since + SUSPICION);
        self.peers.values().filter_map(|peer| opening(peer).into_iter().chain(doubt(peer)).min()).min()
    }

    /// A stream that was to be opened is open, or is not.
    pub(super) fn on_opened(&mut self, peer: PeerId, connection: ConnectionId, stream: Option<Stream>) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.link = LinkState::Down;
        match stream.filter(|_| known.connections.contains(&connection)) {
            Some(stream) => self.start(peer, connection, stream),
            None => known.try_later(),
        }
        self.forget_if_gone(peer);
    }

    /// A peer opened a control stream.
    pub(super) fn on_accepted(&mut self, peer: PeerId, connection: ConnectionId, stream: Stream) {
        let mine = self.mine;
        let Some(known) = self.peers.get_mut(&peer).filter(|known| known.node < mine) else {
            tracing::debug!(%peer, "a control stream from a peer that should not open one");
            return;
        };
        match &known.link {
            LinkState::Up { outbox, .. } => {
                outbox.replace();
                known.successor = Some((connection, stream));
            }
            _ => self.start(peer, connection, stream),
        }
    }

    /// A link's task is over. Says which connection is to be closed because of it.
    pub(super) fn on_ended(&mut self, Ended { peer, end }: Ended) -> Option<ConnectionId> {
        self.log_end(peer, &end);
        let known = self.peers.get_mut(&peer)?;
        let LinkState::Up { connection, outbox } = std::mem::replace(&mut known.link, LinkState::Down) else {
            return None;
        };
        known.suspected = None;
        if outbox.opened().elapsed() > GOOD_LINK {
            known.failures = 0;
            known.open_at = Instant::now();
        } else {
            known.try_later();
        }
        if let Some((connection, stream)) = known.successor.take().filter(|(on, _)| known.connections.contains(on)) {
            self.start(peer, connection, stream);
        }
        self.forget_if_gone(peer);
        matches!(end, LinkEnd::Silent).then_some(connection)
    }

    /// Connections whose link has not shown a sign of life since the peer connected anew: to be closed.
    pub(super) fn dead(&mut self, now: Instant) -> Vec<ConnectionId> {
        let mut dead = Vec::new();
        for peer in self.peers.values_mut() {
            let (LinkState::Up { connection, outbox }, Some(since)) = (&peer.link, peer.suspected) else { continue };
            if outbox.heard() > since {
                peer.suspected = None;
            } else if now.duration_since(since) > SUSPICION {
                peer.suspected = None;
                dead.push(*connection);
                outbox.replace();
            }
        }
        dead
    }

    /// The connection that carries the link to `peer`, or else the newest one.
    pub(super) fn best_connection(&self, peer: PeerId) -> Option<ConnectionId> {
        let known = self.peers.get(&peer)?;
        match known.link {
            LinkState::Up { connection, .. } => Some(connection),
            _ => known.connections.last().copied(),
        }
    }

    /// To be held while a blob is on its way from or to `peer`.
    pub(super) fn transfer(&self, peer: PeerId) -> Transfer {
        self.peers.get(&peer).map(|known| known.transfers.clone()).unwrap_or_default()
    }

    /// Whether a blob is on its way from or to `peer`.
    pub(super) fn has_transfers(&self, peer: PeerId) -> bool {
        self.peers.get(&peer).is_some_and(|known| Arc::strong_count(&known.transfers) > 1)
    }

    /// Ends all links once what waits in them is sent, and opens no more.
    pub(super) fn close(&mut self) {
        self.closing.cancel();
    }

    /// Whether no link is up.
    pub(super) fn all_down(&self) -> bool {
        self.peers.values().all(|peer| !matches!(peer.link, LinkState::Up { .. }))
    }

    fn start(&mut self, peer: PeerId, connection: ConnectionId, stream: Stream) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let node = known.node;
        let (outbox, link) = link::link(node, self.events.clone());
        known.link = LinkState::Up { connection, outbox: outbox.clone() };
        self.outboxes.add(node, outbox);
        let (outboxes, ended, closing) = (self.outboxes.clone(), self.ended.clone(), self.closing.clone());
        tokio::spawn(async move {
            let end = link.run(stream, closing, || outboxes.remove(node)).await;
            // The driver is gone when this fails, and with it the table of links.
            let _ = ended.send(Ended { peer, end });
        });
    }

    fn log_end(&mut self, peer: PeerId, end: &LinkEnd) {
        let cause = std::error::Error::source(end).map(ToString::to_string);
        match end {
            LinkEnd::FrameTooLong(_) | LinkEnd::Frame(_) => {
                self.counters.frames_refused.fetch_add(1, Ordering::Relaxed);
                if self.warned.len() < WARNED_MAX && self.warned.insert(peer) {
                    tracing::warn!(%peer, cause, "link closed: {end}; is it of another version?");
                } else {
                    tracing::debug!(%peer, cause, "link closed: {end}");
                }
            }
            LinkEnd::Slow => {
                self.counters.links_slow.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%peer, "link closed: {end}");
            }
            _ => tracing::debug!(%peer, cause, "link closed: {end}"),
        }
    }

    fn forget_if_gone(&mut self, peer: PeerId) {
        let gone = |peer: &Peer| peer.connections.is_empty() && peer.is_down();
        if self.peers.get(&peer).is_some_and(gone) {
            self.peers.remove(&peer);
        }
    }
}

impl Peer {
    /// Whether this node is the one of the two that opens the control stream, and it is missing.
    fn is_opened_by(&self, mine: NodeId) -> bool {
        mine < self.node && self.is_down() && !self.connections.is_empty()
    }

    fn is_down(&self) -> bool {
        matches!(self.link, LinkState::Down)
    }

    /// The newest connection, and after a failure the one before it, and so on: one of them may be dead.
    fn connection_to_try(&self) -> Option<ConnectionId> {
        let back = (self.failures as usize).checked_rem(self.connections.len())?;
        self.connections.iter().rev().nth(back).copied()
    }

    fn try_later(&mut self) {
        let wait = REOPEN.start().saturating_mul(1 << self.failures.min(10)).min(*REOPEN.end());
        self.failures = self.failures.saturating_add(1);
        self.open_at = Instant::now() + wait;
    }
}
