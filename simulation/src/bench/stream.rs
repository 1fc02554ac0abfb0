//! Limit: a round trip on a long-lived libp2p stream over TCP, Noise and Yamux, with nothing of ours around it.
//!
//! Two ends in one process, each with its own transport, on loopback. As in a node, a tokio task of its own drives each
//! connection, and another one reads and writes the stream.

use std::future::poll_fn;
use std::time::{Duration, Instant};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt, SubstreamBox};
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, PortUse, TransportEvent};
use libp2p::core::{Endpoint, upgrade};
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId, Transport, noise, tcp, yamux};

use super::{Bench, BenchError, Row};

/// About one short message.
const BYTES: usize = 100;
/// Round trips a round.
const TRIPS: usize = 2000;
/// Round trips before, so that everything is warm.
const TRIPS_WARM: usize = 200;
/// A free port of loopback.
const LOOPBACK: &str = "/ip4/127.0.0.1/tcp/0";

type Ends = Boxed<(PeerId, StreamMuxerBox)>;

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed("the runtime")(&error))?;
    let mut medians = Vec::new();
    for _ in 0..bench.rounds(5) {
        let mut times = runtime.block_on(round())?;
        times.sort_unstable();
        medians.push(times[TRIPS / 2]);
    }
    let what = format!("round trip of {BYTES} bytes on a bare libp2p stream, p50");
    let row = Row::time("stream", what, &medians);
    bench.limits.round_trip = Some(Duration::from_secs_f64(row.value));
    bench.add(row);
    Ok(())
}

async fn round() -> Result<Vec<Duration>, BenchError> {
    let (mut listener, mut dialer) = (transport()?, transport()?);
    let address = listen(&mut listener).await?;
    let echo = tokio::spawn(async move { echo(listener).await });
    let mut connection = dial(&mut dialer, address).await?;
    let stream = poll_fn(|cx| connection.poll_outbound_unpin(cx)).await;
    let stream = stream.map_err(|error| failed("the opening")(&error))?;
    let driven = tokio::spawn(drive(connection));
    let trips = tokio::spawn(trips(stream)).await;
    driven.abort();
    echo.abort();
    trips.map_err(|error| failed("the task")(&error))?
}

fn failed(step: &'static str) -> impl Fn(&dyn std::fmt::Display) -> BenchError {
    move |error| BenchError::Stream { step, reason: error.to_string() }
}

fn transport() -> Result<Ends, BenchError> {
    let key = Keypair::generate_ed25519();
    let noise = noise::Config::new(&key).map_err(|error| failed("the encryption")(&error))?;
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let upgraded = tcp.upgrade(upgrade::Version::V1).authenticate(noise).multiplex(yamux::Config::default());
    Ok(upgraded.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))).boxed())
}

async fn listen(transport: &mut Ends) -> Result<Multiaddr, BenchError> {
    let address = LOOPBACK.parse().expect("it is an address");
    transport.listen_on(ListenerId::next(), address).map_err(|error| failed("the listening")(&error))?;
    loop {
        if let Some(TransportEvent::NewAddress { listen_addr, .. }) = transport.next().await {
            return Ok(listen_addr);
        }
    }
}

async fn dial(transport: &mut Ends, address: Multiaddr) -> Result<StreamMuxerBox, BenchError> {
    let how = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
    let dialled = transport.dial(address, how).map_err(|error| failed("the dialling")(&error))?;
    let (_, connection) = dialled.await.map_err(|error| failed("the connection")(&error))?;
    Ok(connection)
}

/// Sends back whatever comes on the first stream of the first connection.
async fn echo(mut transport: Ends) -> Result<(), BenchError> {
    let upgrade = loop {
        if let Some(TransportEvent::Incoming { upgrade, .. }) = transport.next().await {
            break upgrade;
        }
    };
    let (_, mut connection) = upgrade.await.map_err(|error| failed("the connection")(&error))?;
    let stream = poll_fn(|cx| connection.poll_inbound_unpin(cx)).await;
    let mut stream = stream.map_err(|error| failed("the opening")(&error))?;
    let driven = tokio::spawn(drive(connection));
    let mut bytes = [0; BYTES];
    // The other end goes away when it has seen enough.
    while stream.read_exact(&mut bytes).await.is_ok() && send(&mut stream, &bytes).await.is_ok() {}
    driven.abort();
    Ok(())
}

/// Moves bytes between the connection and its streams until it ends.
async fn drive(mut connection: StreamMuxerBox) {
    while poll_fn(|cx| connection.poll_unpin(cx)).await.is_ok() {}
}

async fn trips(mut stream: SubstreamBox) -> Result<Vec<Duration>, BenchError> {
    let mut times = Vec::with_capacity(TRIPS_WARM + TRIPS);
    for _ in 0..TRIPS_WARM + TRIPS {
        let (began, mut bytes) = (Instant::now(), [7; BYTES]);
        send(&mut stream, &bytes).await.map_err(|error| failed("the sending")(&error))?;
        stream.read_exact(&mut bytes).await.map_err(|error| failed("the answer")(&error))?;
        times.push(began.elapsed());
    }
    Ok(times.split_off(TRIPS_WARM))
}

async fn send(stream: &mut SubstreamBox, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}
