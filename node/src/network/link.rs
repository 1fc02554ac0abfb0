//! One link: the control stream between two nodes, from its `LinkUp` to its `LinkDown`.
//!
//! Always true:
//! - events of one link come in this order: one `LinkUp`, the messages as they were sent, one `LinkDown`;
//! - a message that [`Outbox::push`] took is sent, or the link goes down;
//! - no bytes whatever that a peer sends cost more than one frame of memory, or end more than this link.
//!
//! A frame is a length (4 bytes, big-endian, at most [`FRAME_BYTES_MAX`]) and an encoded `Message`. An empty frame is a
//! sign of life, sent when there is nothing else to say, so that a peer which vanished is noticed on any transport.
//!
//! Elsewhere: which streams become links is `links`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::Stream;
use swarm_protocol::message::FRAME_BYTES_MAX;
use swarm_protocol::{Message, NodeId, codec};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::NetworkEvent;

/// Bytes that may wait to be sent on one link. A peer that is this far behind is taken for lost: it is told everything
/// again when it comes back, which is cheaper than to remember what it missed.
pub(super) const OUTBOX_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long a link is silent before it says that it lives.
const KEEPALIVE: Duration = Duration::from_millis(500);
/// How long a peer may be silent: six signs of life missed. Shorter than a QUIC connection may be idle, and the only way
/// to notice that a peer behind a TCP connection was cut off.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Bytes read from the stream at once.
const READ_BYTES: usize = 64 * 1024;
/// Frames are gathered up to this size before they are written.
const WRITE_BYTES: usize = 64 * 1024;
/// Frames taken from the outbox at once.
const BATCH_FRAMES: usize = 128;
/// Bytes of the length before each frame.
const HEADER_BYTES: usize = 4;

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkEnd {
    #[error("the stream ended")]
    Ended,
    #[error("the stream failed")]
    Stream(#[source] std::io::Error),
    #[error("the peer was silent for {SILENCE_MAX:?}")]
    Silent,
    #[error("a frame of {0} bytes is more than the {FRAME_BYTES_MAX} allowed")]
    FrameTooLong(usize),
    #[error("a frame cannot be read")]
    Frame(#[source] codec::DecodeError),
    #[error("the peer is over {OUTBOX_BYTES_MAX} bytes behind")]
    Slow,
    #[error("it was given up for a newer one")]
    Replaced,
    #[error("this node closed it")]
    Closed,
    #[error("the events are read by nobody any more")]
    NoReader,
}

/// The sending end of a link.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    frames: mpsc::UnboundedSender<Vec<u8>>,
    shared: Arc<Shared>,
}

/// What the sender, the link's task and the table of links know together.
#[derive(Debug)]
struct Shared {
    /// Bytes in the channel.
    waiting: AtomicUsize,
    /// Milliseconds from `opened` to the last byte from the peer.
    heard_ms: AtomicU64,
    opened: Instant,
    /// Set when the peer is too slow.
    slow: CancellationToken,
    /// Set when another stream takes the link's place.
    replaced: CancellationToken,
}

impl Outbox {
    /// Enqueues an encoded message, without waiting. `false` when the link is down or, having waited for too much
    /// already, goes down now.
    pub(super) fn push(&self, frame: Vec<u8>) -> bool {
        let waiting = self.shared.waiting.fetch_add(frame.len(), Ordering::Relaxed) + frame.len();
        if waiting > OUTBOX_BYTES_MAX {
            self.shared.slow.cancel();
            return false;
        }
        self.frames.send(frame).is_ok()
    }

    /// Ends the link because its place is taken.
    pub(super) fn replace(&self) {
        self.shared.replaced.cancel();
    }

    /// When the link was opened.
    pub(super) fn opened(&self) -> Instant {
        self.shared.opened
    }

    /// When the last byte came from the peer.
    pub(super) fn heard(&self) -> Instant {
        self.shared.opened + Duration::from_millis(self.shared.heard_ms.load(Ordering::Relaxed))
    }
}

/// The task's end of a link.
pub(super) struct Link {
    peer: NodeId,
    frames: mpsc::UnboundedReceiver<Vec<u8>>,
    shared: Arc<Shared>,
    events: mpsc::Sender<NetworkEvent>,
}

/// Both ends of a new link to `peer`.
pub(super) fn link(peer: NodeId, events: mpsc::Sender<NetworkEvent>) -> (Outbox, Link) {
    let (sender, frames) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        waiting: AtomicUsize::new(0),
        heard_ms: AtomicU64::new(0),
        opened: Instant::now(),
        slow: CancellationToken::new(),
        replaced: CancellationToken::new(),
    });
    (Outbox { frames: sender, shared: shared.clone() }, Link { peer, frames, shared, events })
}

impl Link {
    /// Moves messages both ways until the link ends. `down` runs before `LinkDown` is said.
    pub(super) async fn run(mut self, stream: Stream, closing: CancellationToken, down: impl FnOnce()) -> LinkEnd {
        let up = self.events.send(NetworkEvent::LinkUp(self.peer)).await.is_ok();
        let end = if up { self.exchange(stream, closing).await } else { LinkEnd::NoReader };
        down();
        let _ = self.events.send(NetworkEvent::LinkDown(self.peer)).await;
        end
    }

    async fn exchange(&mut self, stream: Stream, closing: CancellationToken) -> LinkEnd {
        let (reader, writer) = stream.split();
        let shared = self.shared.clone();
        tokio::select! {
            end = receive(reader, self.peer, &shared, &self.events) => end,
            end = transmit(writer, &mut self.frames, &shared, closing) => end,
            () = shared.slow.cancelled() => LinkEnd::Slow,
            () = shared.replaced.cancelled() => LinkEnd::Replaced,
        }
    }
}

/// Reads frames until the stream ends.
async fn receive(
    mut stream: impl AsyncRead + Unpin,
    peer: NodeId,
    shared: &Shared,
    events: &mpsc::Sender<NetworkEvent>,
) -> LinkEnd {
    let mut frames = Frames::default();
    let mut piece = vec![0; READ_BYTES];
    loop {
        let len = match timeout(SILENCE_MAX, stream.read(&mut piece)).await {
            Err(_) => return LinkEnd::Silent,
            Ok(Err(error)) => return LinkEnd::Stream(error),
            Ok(Ok(0)) => return LinkEnd::Ended,
            Ok(Ok(len)) => len,
        };
        shared.heard_ms.store(shared.opened.elapsed().as_millis() as u64, Ordering::Relaxed);
        frames.add(&piece[..len]);
        loop {
            let message = match frames.next() {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(end) => return end,
            };
            // Waits when the core is behind: the peer then waits too, and gives up on us if that lasts.
            if events.send(NetworkEvent::Received { from: peer, message }).await.is_err() {
                return LinkEnd::NoReader;
            }
        }
    }
}

/// Bytes on their way to become messages. Holds less than a frame and a piece.
#[derive(Default)]
struct Frames {
    bytes: Vec<u8>,
    /// Where the next frame begins.
    start: usize,
}

impl Frames {
    fn add(&mut self, piece: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(piece);
    }

    /// The next complete message; signs of life are skipped.
    fn next(&mut self) -> Result<Option<Message>, LinkEnd> {
        loop {
            let rest = &self.bytes[self.start..];
            let Some((header, body)) = rest.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
            let len = u32::from_be_bytes(*header) as usize;
            if len > FRAME_BYTES_MAX {
                return Err(LinkEnd::FrameTooLong(len));
            }
            let Some(frame) = body.get(..len) else { return Ok(None) };
            self.start += HEADER_BYTES + len;
            if !frame.is_empty() {
                return codec::decode(frame, FRAME_BYTES_MAX).map(Some).map_err(LinkEnd::Frame);
            }
        }
    }
}

/// Writes frames until the stream fails, or until `closing` and all of them are written.
async fn transmit(
    mut stream: impl AsyncWrite + Unpin,
    frames: &mut mpsc::UnboundedReceiver<Vec<u8>>,
    shared: &Shared,
    closing: CancellationToken,
) -> LinkEnd {
    let mut batch = Vec::with_capacity(BATCH_FRAMES);
    let mut bytes = Vec::with_capacity(2 * WRITE_BYTES);
    loop {
        tokio::select! {
            biased;
            taken = frames.recv_many(&mut batch, BATCH_FRAMES) => if taken == 0 {
                return close(stream).await;
            },
            () = closing.cancelled() => return close(stream).await,
            () = tokio::time::sleep(KEEPALIVE) => batch.push(Vec::new()),
        }
        if let Err(error) = write(&mut stream, &mut batch, &mut bytes, shared).await {
            return LinkEnd::Stream(error);
        }
    }
}

/// Writes a batch, gathered, and flushes once.
async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    batch: &mut Vec<Vec<u8>>,
    bytes: &mut Vec<u8>,
    shared: &Shared,
) -> std::io::Result<()> {
    let mut written = 0;
    for frame in batch.drain(..) {
        bytes.extend_from_slice(&u32::try_from(frame.len()).expect("at most FRAME_BYTES_MAX").to_be_bytes());
        bytes.extend_from_slice(&frame);
        written += frame.len();
        if bytes.len() >= WRITE_BYTES {
            stream.write_all(bytes).await?;
            bytes.clear();
        }
    }
    stream.write_all(bytes).await?;
    bytes.clear();
    stream.flush().await?;
    shared.waiting.fetch_sub(written, Ordering::Relaxed);
    Ok(())
}

async fn close(mut stream: impl AsyncWrite + Unpin) -> LinkEnd {
    match stream.close().await {
        Ok(()) => LinkEnd::Closed,
        Err(error) => LinkEnd::Stream(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_protocol::JobId;

    fn framed(message: &Message) -> Vec<u8> {
        let body = codec::encode(message);
        [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
    }

    #[test]
    fn messages_survive_any_cutting_into_pieces() {
        let messages: Vec<_> = (0..20).map(|byte| Message::Published(JobId::from_bytes([byte; 32]))).collect();
        let mut bytes: Vec<u8> = messages.iter().flat_map(framed).collect();
        bytes.extend([0; HEADER_BYTES]);
        for size in 1..100 {
            let mut frames = Frames::default();
            let mut got = Vec::new();
            for piece in bytes.chunks(size) {
                frames.add(piece);
                while let Some(message) = frames.next().unwrap() {
                    got.push(message);
                }
            }
            assert_eq!(got, messages);
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_before_it_is_read() {
        let mut frames = Frames::default();
        frames.add(&(FRAME_BYTES_MAX as u32 + 1).to_be_bytes());
        assert!(matches!(frames.next(), Err(LinkEnd::FrameTooLong(_))));
    }

    #[test]
    fn a_frame_of_another_version_is_refused() {
        let mut frames = Frames::default();
        frames.add(&[0, 0, 0, 2, 99, 0]);
        assert!(matches!(frames.next(), Err(LinkEnd::Frame(codec::DecodeError::Version(Some(99))))));
    }
}
