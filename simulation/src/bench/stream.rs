//! Limit: a round trip on a long-lived libp2p stream between two processes, over TCP, Noise and Yamux.

use std::time::{Duration, Instant};

use futures::{AsyncReadExt, AsyncWriteExt};

use super::far_end::{FarEnd, MESSAGE_BYTES, NearEnd, Threads, failed};
use super::{Bench, BenchError, Row};
use crate::cluster::Transport;

/// Round trips a round.
const TRIPS: usize = 2000;
/// Round trips before, so that everything is warm.
const TRIPS_WARM: usize = 200;

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let mut medians = Vec::new();
    for _ in 0..bench.rounds(5) {
        let mut times = round()?;
        times.sort_unstable();
        medians.push(times[TRIPS / 2]);
    }
    let what = format!("round trip of {MESSAGE_BYTES} bytes on a bare libp2p stream between two processes, p50");
    let row = Row::time("stream", what, &medians);
    bench.limits.round_trip = Some(Duration::from_secs_f64(row.value));
    bench.add(row);
    Ok(())
}

fn round() -> Result<Vec<Duration>, BenchError> {
    let echo = FarEnd::start(Transport::Tcp, Threads::One, None)?;
    Threads::One.runtime()?.block_on(async {
        let near = echo.open().await?;
        let times = tokio::spawn(trips(near)).await.map_err(|error| failed("the task")(&error))?;
        times.map_err(|error| failed("the round trip")(&error))
    })
}

async fn trips(mut near: NearEnd) -> std::io::Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(TRIPS_WARM + TRIPS);
    for _ in 0..TRIPS_WARM + TRIPS {
        times.push(trip(&mut near).await?);
    }
    Ok(times.split_off(TRIPS_WARM))
}

/// How long one takes.
pub(super) async fn trip(near: &mut NearEnd) -> std::io::Result<Duration> {
    let (began, mut bytes) = (Instant::now(), [7; MESSAGE_BYTES]);
    near.stream.write_all(&bytes).await?;
    near.stream.flush().await?;
    near.stream.read_exact(&mut bytes).await?;
    Ok(began.elapsed())
}
