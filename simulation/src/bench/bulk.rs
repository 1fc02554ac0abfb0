//! Limit: what one bare libp2p stream moves over TCP with Noise and Yamux, or over QUIC, with nothing of ours around it.
//!
//! Two ends on loopback, each in a process of its own, as nodes are. As in a node, a tokio task of its own drives each
//! connection, and another one reads or writes the stream.

use std::future::poll_fn;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt, SubstreamBox};
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, PortUse, TransportEvent};
use libp2p::core::{Endpoint, upgrade};
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId, Transport as _, noise, quic, tcp, yamux};

use super::BenchError;
use crate::cluster::Transport;

/// Bytes written and read at once.
const PIECE_BYTES: usize = 256 << 10;

type Ends = Boxed<(PeerId, StreamMuxerBox)>;

/// The end of a bare stream that gives; part of `swarm-sim bench`.
#[derive(Clone, Debug, Args)]
pub struct BulkOptions {
    /// How many bytes
    #[arg(long)]
    pub bytes: u64,
    /// Over QUIC
    #[arg(long)]
    pub quic: bool,
}

/// How long so many bytes take from another process: from the opening of the stream to the last byte.
pub(super) fn time(transport: Transport, bytes: u64) -> Result<Duration, BenchError> {
    let program = std::env::current_exe().map_err(BenchError::io("find", "swarm-sim"))?;
    let mut command = Command::new(&program);
    command.args(["bench-bulk", "--bytes", &bytes.to_string()]);
    if transport == Transport::Quic {
        command.arg("--quic");
    }
    let mut giver = command.stdout(Stdio::piped()).spawn().map_err(BenchError::io("start", &program))?;
    let mut address = String::new();
    let said = giver.stdout.take().map(|out| BufReader::new(out).read_line(&mut address));
    let took = match (said, address.trim().parse()) {
        (Some(Ok(_)), Ok(address)) => runtime()?.block_on(take(transport, address, bytes)),
        _ => Err(BenchError::Said(address)),
    };
    // Both fail only when it has ended by itself.
    let _ = giver.kill();
    let _ = giver.wait();
    took
}

/// Gives to the first who opens a stream, and ends.
pub fn bulk(options: &BulkOptions) -> Result<(), BenchError> {
    let transport = if options.quic { Transport::Quic } else { Transport::Tcp };
    runtime()?.block_on(give(transport, options.bytes))
}

fn runtime() -> Result<tokio::runtime::Runtime, BenchError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| failed("the runtime")(&error))
}

fn failed(step: &'static str) -> impl Fn(&dyn std::fmt::Display) -> BenchError {
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

async fn give(transport: Transport, bytes: u64) -> Result<(), BenchError> {
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
    let _listening = tokio::spawn(async move { while ends.next().await.is_some() {} });
    let (_, mut connection) = upgrade.await.map_err(|error| failed("the connection")(&error))?;
    let stream = poll_fn(|cx| connection.poll_inbound_unpin(cx)).await;
    let stream = stream.map_err(|error| failed("the opening")(&error))?;
    let _driven = tokio::spawn(drive(connection));
    send(stream, bytes).await.map_err(|error| failed("the sending")(&error))
}

/// Sends after a first byte came, and ends when the other end has all.
async fn send(mut stream: SubstreamBox, bytes: u64) -> std::io::Result<()> {
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

async fn take(transport: Transport, address: Multiaddr, bytes: u64) -> Result<Duration, BenchError> {
    let mut ends = ends(transport)?;
    let how = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
    let dialled = ends.dial(address, how).map_err(|error| failed("the dialling")(&error))?;
    let _dialling = tokio::spawn(async move { while ends.next().await.is_some() {} });
    let (_, mut connection) = dialled.await.map_err(|error| failed("the connection")(&error))?;
    let began = Instant::now();
    let stream = poll_fn(|cx| connection.poll_outbound_unpin(cx)).await;
    let stream = stream.map_err(|error| failed("the opening")(&error))?;
    let _driven = tokio::spawn(drive(connection));
    let received = tokio::spawn(receive(stream, bytes, began)).await.map_err(|error| failed("the task")(&error))?;
    received.map_err(|error| failed("the receiving")(&error))
}

async fn receive(mut stream: SubstreamBox, bytes: u64, began: Instant) -> std::io::Result<Duration> {
    let (mut piece, mut left) = (vec![0; PIECE_BYTES], bytes);
    stream.write_all(&[1]).await?;
    stream.flush().await?;
    while left > 0 {
        match stream.read(&mut piece).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            got => left = left.saturating_sub(got as u64),
        }
    }
    let took = began.elapsed();
    stream.write_all(&[1]).await?;
    stream.flush().await?;
    Ok(took)
}

/// Moves bytes between the connection and its streams until it ends.
async fn drive(mut connection: StreamMuxerBox) {
    while poll_fn(|cx| connection.poll_unpin(cx)).await.is_ok() {}
}
