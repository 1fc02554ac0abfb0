//! Moving one blob over its own stream.
//!
//! The one who wants it opens the stream and sends the 32 bytes of the hash. The other answers with one byte ([`FOUND`],
//! [`NOT_FOUND`] or [`BUSY`]), and when it was found with the length (8 bytes, big-endian) and that many bytes.
//!
//! Always true: what is stored was verified against its hash, and what is damaged here is never sent whole; a peer that stands still is given up after [`STALL_MAX`];
//! at most [`UPLOADS_MAX`] uploads run at once, and who comes then is told at once to try others.
//!
//! Elsewhere: from whom to fetch, and from whom next, is the caller's choice.

use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::Stream;
use swarm_protocol::Hash;
use swarm_store::{BlobError, Blobs, Sender};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::driver::OPEN_MAX;

/// Uploads at once: few fast ones rather than many slow ones, so that a flash crowd soon has more sources.
pub(super) const UPLOADS_MAX: usize = 6;
/// Streams being answered at once, those told "busy" included.
pub(super) const REQUESTS_MAX: usize = 128;
/// How long a peer may make no progress.
const STALL_MAX: Duration = Duration::from_secs(10);
/// The longest blob that is fetched.
const BLOB_BYTES_MAX: u64 = 16 << 30;
/// Bytes moved at once between disk and stream.
const PIECE_BYTES: usize = 256 * 1024;

const FOUND: u8 = 0;
const NOT_FOUND: u8 = 1;
const BUSY: u8 = 2;

/// Why a blob was not fetched from a peer. Nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The peer cannot be reached.
    #[error("the peer is not connected")]
    NotConnected,
    /// Neither a stream nor a refusal in time: a dial hangs, or the peer does.
    #[error("no stream to the peer was opened within {OPEN_MAX:?}")]
    NotOpened,
    /// The peer does not have it.
    #[error("the peer does not have it")]
    NotFound,
    /// The peer serves others: try them, or try again later.
    #[error("the peer is busy")]
    Busy,
    /// What the peer sent is not the blob.
    #[error("what the peer sent is not what was asked for")]
    Damaged,
    /// No progress for ten seconds.
    #[error("the peer made no progress for {STALL_MAX:?}")]
    Timeout,
    /// The stream broke.
    #[error("the stream from the peer broke")]
    Stream(#[source] std::io::Error),
    /// This node's own disk.
    #[error("store the blob")]
    Store(#[source] BlobError),
}

/// Answers a peer that wants a blob.
pub(super) async fn serve(mut stream: Stream, blobs: Blobs, uploads: Arc<Semaphore>) {
    if let Err(error) = answer(&mut stream, blobs, uploads).await {
        tracing::debug!(cause = std::error::Error::source(&error).map(ToString::to_string), "upload ended: {error}");
    }
}

/// Fetches a blob over a stream that was opened for it, and says its length in bytes.
pub(super) async fn fetch(mut stream: Stream, hash: Hash, blobs: Blobs) -> Result<u64, FetchError> {
    within(stream.write_all(hash.as_bytes())).await?;
    within(stream.flush()).await?;
    let len = read_answer(&mut stream).await?;
    if len > BLOB_BYTES_MAX {
        return Err(FetchError::Damaged);
    }
    let mut receiver = blocking(move || blobs.receiver(hash, len)).await?.map_err(stored)?;
    let mut left = len;
    let mut piece = vec![0; PIECE_BYTES];
    while left > 0 {
        let wanted = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let got = fill(&mut stream, &mut piece[..wanted]).await?;
        (receiver, piece) = blocking(move || {
            receiver.write(&piece[..got])?;
            Ok((receiver, piece))
        })
        .await?
        .map_err(stored)?;
        left -= got as u64;
    }
    blocking(move || receiver.finish()).await?.map_err(stored)?;
    Ok(len)
}

async fn answer(stream: &mut Stream, blobs: Blobs, uploads: Arc<Semaphore>) -> Result<(), FetchError> {
    let mut hash = [0; 32];
    within(stream.read_exact(&mut hash)).await?;
    let Ok(_permit) = uploads.try_acquire() else { return reply(stream, &[BUSY]).await };
    let hash = Hash::from_bytes(hash);
    // One that cannot be read, or is damaged at its beginning, is as good as none for the peer, who then asks others.
    let begun = blocking(move || next(blobs.sender(hash)?, vec![0; PIECE_BYTES])).await?;
    let Ok(begun) = begun else { return reply(stream, &[NOT_FOUND]).await };
    let mut header = vec![FOUND];
    header.extend(begun.0.len().to_be_bytes());
    within(stream.write_all(&header)).await?;
    upload(stream, begun).await?;
    within(stream.close()).await
}

/// A blob on its way, a buffer, and how many bytes of the buffer are the next.
type Upload = (Sender, Vec<u8>, usize);

fn next(mut sender: Sender, mut piece: Vec<u8>) -> Result<Upload, BlobError> {
    let got = sender.read(&mut piece)?;
    Ok((sender, piece, got))
}

/// Sends the whole blob. When it turns out to be damaged it breaks off before the last piece.
async fn upload(stream: &mut Stream, (mut sender, mut piece, mut got): Upload) -> Result<(), FetchError> {
    while got > 0 {
        within(stream.write_all(&piece[..got])).await?;
        (sender, piece, got) = blocking(move || next(sender, piece)).await?.map_err(FetchError::Store)?;
    }
    Ok(())
}

async fn reply(stream: &mut Stream, bytes: &[u8]) -> Result<(), FetchError> {
    within(stream.write_all(bytes)).await?;
    within(stream.close()).await
}

/// The length that is to come.
async fn read_answer(stream: &mut Stream) -> Result<u64, FetchError> {
    let mut status = [0];
    within(stream.read_exact(&mut status)).await?;
    match status {
        [FOUND] => {}
        [NOT_FOUND] => return Err(FetchError::NotFound),
        [BUSY] => return Err(FetchError::Busy),
        _ => return Err(FetchError::Damaged),
    }
    let mut len = [0; 8];
    within(stream.read_exact(&mut len)).await?;
    Ok(u64::from_be_bytes(len))
}

/// Fills the piece, so that the disk is written in large pieces; each read must make progress.
async fn fill(stream: &mut Stream, piece: &mut [u8]) -> Result<usize, FetchError> {
    let mut filled = 0;
    while filled < piece.len() {
        match within(stream.read(&mut piece[filled..])).await? {
            0 => return Err(FetchError::Stream(std::io::ErrorKind::UnexpectedEof.into())),
            got => filled += got,
        }
    }
    Ok(filled)
}

async fn within<T>(step: impl Future<Output = std::io::Result<T>>) -> Result<T, FetchError> {
    timeout(STALL_MAX, step).await.map_err(|_| FetchError::Timeout)?.map_err(FetchError::Stream)
}

/// Runs disk work where it may block. Fails only when the runtime is shutting down.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, FetchError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| FetchError::Stream(std::io::Error::other(error)))
}

fn stored(error: BlobError) -> FetchError {
    match error {
        BlobError::WrongHash { .. } | BlobError::TooLong { .. } => FetchError::Damaged,
        other => FetchError::Store(other),
    }
}
