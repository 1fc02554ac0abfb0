//! Raw streams as a libp2p behaviour: opens them on a chosen connection, hands over those that peers open.
//!
//! Always true: an asked-for stream is answered once, or its sender is dropped when the connection ends; a burst of
//! inbound streams of one connection is kept up to [`INCOMING_MAX`], the rest are reset.
//!
//! `libp2p-stream` does the same but picks any connection of a peer at random, also a dead one, dials when there is
//! none, and keeps a single inbound stream in waiting for all peers together.
//!
//! Elsewhere: what flows in a stream is `link` (control), `blobs` (bulk) and `news` (what tasks print).

use std::collections::VecDeque;
use std::task::{Context, Poll};

use futures::future::Either;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{ReadyUpgrade, SelectUpgrade};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};
use tokio::sync::oneshot;

/// Inbound streams of one connection that may wait to be handed over. The swarm takes them at once, so this is only
/// ever reached by a flood.
const INCOMING_MAX: usize = 64;
/// Streams of one connection that may wait to be opened.
const OPENING_MAX: usize = 64;

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The control stream of a link.
    Control,
    /// The transfer of one blob.
    Blob,
    /// A question about what a running task prints.
    News,
}

/// A stream that a peer opened.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) peer: PeerId,
    pub(super) connection: ConnectionId,
    pub(super) purpose: Purpose,
    pub(super) stream: Stream,
}

/// The names of our stream protocols.
#[derive(Clone, Debug)]
pub(super) struct Protocols {
    pub(super) control: StreamProtocol,
    pub(super) blob: StreamProtocol,
    pub(super) news: StreamProtocol,
}

impl Protocols {
    fn of(&self, purpose: Purpose) -> StreamProtocol {
        match purpose {
            Purpose::Control => self.control.clone(),
            Purpose::Blob => self.blob.clone(),
            Purpose::News => self.news.clone(),
        }
    }
}

/// The behaviour.
pub(super) struct Behaviour {
    protocols: Protocols,
    queue: VecDeque<ToSwarm<Incoming, Open>>,
}

impl Behaviour {
    pub(super) fn new(protocols: Protocols) -> Self {
        Self { protocols, queue: VecDeque::new() }
    }

    /// Opens a stream. The receiver fails when that does not work, for a reason that is logged at debug.
    pub(super) fn open(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        purpose: Purpose,
    ) -> oneshot::Receiver<Stream> {
        let (opened, receiver) = oneshot::channel();
        let event = Open { purpose, opened };
        self.queue.push_back(ToSwarm::NotifyHandler { peer_id: peer, handler: NotifyHandler::One(connection), event });
        receiver
    }

    fn handler(&self) -> Handler {
        Handler { protocols: self.protocols.clone(), opening: VecDeque::new(), incoming: VecDeque::new() }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Incoming;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        (purpose, stream): THandlerOutEvent<Self>,
    ) {
        self.queue.push_back(ToSwarm::GenerateEvent(Incoming { peer, connection, purpose, stream }));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        // No waker: the queue grows only in calls after which libp2p::Swarm polls every behaviour.
        self.queue.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// A stream to open.
#[derive(Debug)]
pub(super) struct Open {
    purpose: Purpose,
    opened: oneshot::Sender<Stream>,
}

/// One stream protocol, by its name alone.
type Named = ReadyUpgrade<StreamProtocol>;

/// The part of [`Behaviour`] in one connection.
pub(super) struct Handler {
    protocols: Protocols,
    opening: VecDeque<Open>,
    incoming: VecDeque<(Purpose, Stream)>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = (Purpose, Stream);
    type InboundProtocol = SelectUpgrade<SelectUpgrade<Named, Named>, Named>;
    type OutboundProtocol = Named;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Open;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        let ready = |purpose| ReadyUpgrade::new(self.protocols.of(purpose));
        let frequent = SelectUpgrade::new(ready(Purpose::Control), ready(Purpose::Blob));
        SubstreamProtocol::new(SelectUpgrade::new(frequent, ready(Purpose::News)), ())
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Open, Self::ToBehaviour>> {
        if let Some(incoming) = self.incoming.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(incoming));
        }
        let Some(open) = self.opening.pop_front() else { return Poll::Pending };
        let protocol = SubstreamProtocol::new(ReadyUpgrade::new(self.protocols.of(open.purpose)), open);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }

    fn on_behaviour_event(&mut self, open: Open) {
        if self.opening.len() < OPENING_MAX {
            self.opening.push_back(open);
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, (), Open>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                self.on_inbound(protocol)
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                // Nobody waits any more when this fails: the stream is dropped, so reset.
                let _ = info.opened.send(protocol);
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let error = match error {
                    StreamUpgradeError::NegotiationFailed => "the peer does not speak this protocol".to_owned(),
                    other => other.to_string(),
                };
                tracing::debug!(purpose = ?info.purpose, error, "stream not opened");
            }
            _ => {}
        }
    }
}

impl Handler {
    fn on_inbound(&mut self, stream: Either<Either<Stream, Stream>, Stream>) {
        let incoming = match stream {
            Either::Left(Either::Left(stream)) => (Purpose::Control, stream),
            Either::Left(Either::Right(stream)) => (Purpose::Blob, stream),
            Either::Right(stream) => (Purpose::News, stream),
        };
        if self.incoming.len() < INCOMING_MAX {
            self.incoming.push_back(incoming);
        }
    }
}
