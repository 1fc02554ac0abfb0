//! Limit: what one bare libp2p stream moves between two processes over TCP with Noise and Yamux, or over QUIC.

use std::time::{Duration, Instant};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::core::muxing::SubstreamBox;

use super::BenchError;
use super::far_end::{FarEnd, PIECE_BYTES, Threads, failed};
use crate::cluster::Transport;

/// How long so many bytes take from another process: from the first byte asked for to the last that came.
pub(super) fn time(transport: Transport, threads: Threads, bytes: u64) -> Result<Duration, BenchError> {
    let giver = FarEnd::start(transport, threads, Some(bytes))?;
    threads.runtime()?.block_on(async {
        let mut near = giver.open().await?;
        let received = tokio::spawn(async move { receive(&mut near.stream, bytes).await }).await;
        received.map_err(|error| failed("the task")(&error))?.map_err(|error| failed("the receiving")(&error))
    })
}

async fn receive(stream: &mut SubstreamBox, bytes: u64) -> std::io::Result<Duration> {
    let (mut piece, mut left, began) = (vec![0; PIECE_BYTES], bytes, Instant::now());
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
