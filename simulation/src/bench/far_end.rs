//! The other end of a bare libp2p stream, with nothing of ours around it: a process of its own, as nodes are.
//!
//! As in a node, a tokio task of its own drives each connection, and another one reads or writes the stream.

use std::future::poll_fn;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use clap::Args;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt, SubstreamBox};
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, PortUse, TransportEvent};
use libp2p::core::{Endpoint, upgrade};
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId, Transport as _, noise, quic, tcp, yamux};
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;

use super::BenchError;
use crate::cluster::Transport;

/// Bytes written and read at once, where there are many.
pub(super) const PIECE_BYTES: usize = 256 << 10;
/// About one short message.
pub(super) const MESSAGE_BYTES: usize = 100;

type Ends = Boxed<(PeerId, StreamMuxerBox)>;

/// What an end runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Threads {
    /// One for all it does, as a node has for its network on two processors: nothing waits for another thread to wake.
    One,
    /// As tokio comes: one for each processor.
    Each,
}

impl Threads {
    pub(super) fn runtime(self) -> Result<Runtime, BenchError> {
        let mut builder = match self {
            Self::One => tokio::runtime::Builder::new_current_thread(),
            Self::Each => tokio::runtime::Builder::new_multi_thread(),
        };
        builder.enable_all().build().map_err(|error| failed("the runtime")(&error))
    }
}

/// The far end of a bare stream; part of `swarm-sim bench`.
#[derive(Clone, Debug, Args)]
pub struct FarEndOptions {
    /// Gives so many bytes; without it, says again whatever it hears
    #[arg(long)]
    bytes: Option<u64>,
    /// Over QUIC
    #[arg(long)]
    quic: bool,
    /// With a thread for each processor instead of one
    #[arg(long)]
    threads: bool,
}

/// Serves the first who opens a stream, and ends.
pub fn far_end(options: &FarEndOptions) -> Result<(), BenchError> {
    let transport = if options.quic { Transport::Quic } else { Transport::Tcp };
    let threads = if options.threads { Threads::Each } else { Threads::One };
    threads.runtime()?.block_on(async {
        let stream = accept(transport).await?;
        let served = match options.bytes {
            Some(bytes) => give(stream, bytes).await,
            None => say_again(stream).await,
        };
        served.map_err(|error| failed("the sending")(&error))
    })
}

/// Such a process, from here. Dropped, it is no more.
pub(super) struct FarEnd {
    process: Child,
    transport: Transport,
    address: Multiaddr,
}

impl FarEnd {
    /// Starts one that gives so many bytes, or one that says again whatever it hears.
    pub(super) fn start(transport: Transport, threads: Threads, bytes: Option<u64>) -> Result<Self, BenchError> {
        let program = std::env::current_exe().map_err(BenchError::io("find", "swarm-sim"))?;
        let mut command = Command::new(&program);
        command.arg("bench-far-end").args(bytes.map(|bytes| format!("--bytes={bytes}")));
        command.args((transport == Transport::Quic).then_some("--quic"));
        command.args((threads == Threads::Each).then_some("--threads"));
        let mut process = command.stdout(Stdio::piped()).spawn().map_err(BenchError::io("start", &program))?;
        let mut said = String::new();
        let read = process.stdout.take().map(|out| BufReader::new(out).read_line(&mut said));
        match (read, said.trim().parse()) {
            (Some(Ok(_)), Ok(address)) => Ok(Self { process, transport, address }),
            _ => Err(BenchError::Said(said)),
        }
    }

    /// Opens a stream to it.
    pub(super) async fn open(&self) -> Result<NearEnd, BenchError> {
        let mut ends = ends(self.transport)?;
        let how = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
        let dialled = ends.dial(self.address.clone(), how).map_err(|error| failed("the dialling")(&error))?;
        let dialling = spawn(async move { while ends.next().await.is_some() {} });
        let (_, mut connection) = dialled.await.map_err(|error| failed("the connection")(&error))?;
        let stream = poll_fn(|cx| connection.poll_outbound_unpin(cx)).await;
        let stream = stream.map_err(|error| failed("the opening")(&error))?;
        Ok(NearEnd { stream, _driven: [dialling, spawn(drive(connection))] })
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        // Both fail only when it has ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A stream to a far end.
pub(super) struct NearEnd {
    pub(super) stream: SubstreamBox,
    _driven: [Driven; 2],
}

/// A task that ends when nobody needs it any more.
struct Driven(AbortHandle);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Driven {
    Driven(tokio::spawn(task).abort_handle())
}

pub(super) fn failed(step: &'static str) -> impl Fn(&dyn std::fmt::Display) -> BenchError {
    move |error| BenchError::Stream { step, reason: error.to_string() }
}

fn ends(transport: Transport) -> Result<Ends, BenchError> {
    let key = Keypair::generate_ed25519();
    if transport == Transport::Quic {
        let quic = quic::tokio::Transport::new(quic::Config::new(&key));
        return Ok(quic.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))).boxed());
    }
    let noise = noise::Config::new(&key).map_err(|error| failed("the encryption")(&error))?;
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let upgraded = tcp.upgrade(upgrade::Version::V1).authenticate(noise).multiplex(yamux::Config::default());
    Ok(upgraded.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))).boxed())
}

/// Says where it listens, and waits for the first stream of the first connection.
async fn accept(transport: Transport) -> Result<SubstreamBox, BenchError> {
    let mut ends = ends(transport)?;
    let listen = if transport == Transport::Quic { "/ip4/127.0.0.1/udp/0/quic-v1" } else { "/ip4/127.0.0.1/tcp/0" };
    let address = listen.parse().expect("it is an address");
    ends.listen_on(ListenerId::next(), address).map_err(|error| failed("the listening")(&error))?;
    let upgrade = loop {
        match ends.next().await {
            Some(TransportEvent::NewAddress { listen_addr, .. }) => println!("{listen_addr}"),
            Some(TransportEvent::Incoming { upgrade, .. }) => break upgrade,
            _ => {}
        }
    };
    // The transport has to be driven, too: QUIC's connections live in it.
    tokio::spawn(async move { while ends.next().await.is_some() {} });
    let (_, mut connection) = upgrade.await.map_err(|error| failed("the connection")(&error))?;
    let stream = poll_fn(|cx| connection.poll_inbound_unpin(cx)).await;
    let stream = stream.map_err(|error| failed("the opening")(&error))?;
    tokio::spawn(drive(connection));
    Ok(stream)
}

/// Moves bytes between the connection and its streams until it ends.
async fn drive(mut connection: StreamMuxerBox) {
    while poll_fn(|cx| connection.poll_unpin(cx)).await.is_ok() {}
}

/// Sends after a first byte came, and ends when the other end has all.
async fn give(mut stream: SubstreamBox, bytes: u64) -> std::io::Result<()> {
    let (piece, mut byte, mut left) = (vec![7; PIECE_BYTES], [0], bytes);
    stream.read_exact(&mut byte).await?;
    while left > 0 {
        let now = left.min(PIECE_BYTES as u64);
        stream.write_all(&piece[..now as usize]).await?;
        left -= now;
    }
    stream.flush().await?;
    // The other end has all when it says so, or goes away.
    let _ = stream.read_exact(&mut byte).await;
    Ok(())
}

/// Until the other end has seen enough, and goes away.
async fn say_again(mut stream: SubstreamBox) -> std::io::Result<()> {
    let mut bytes = [0; MESSAGE_BYTES];
    while stream.read_exact(&mut bytes).await.is_ok() {
        stream.write_all(&bytes).await?;
        stream.flush().await?;
    }
    Ok(())
}
