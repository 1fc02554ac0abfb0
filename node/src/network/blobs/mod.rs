//! Moving blobs: one conversation about one blob, on a stream of its own.
//!
//! ```text
//! who wants it   the hash (32 bytes), and then requests of 8 bytes: the first group and how many (0: which are here?)
//! who has it     a status; others who may have it (a count, 32 bytes each); when it has it, the length (8 bytes) and
//!                which groups are here; then the answers to the requests, in their order: again which groups are here, or
//!                a status, others who came since, and the groups
//! ```
//!
//! Numbers are big-endian. Groups are of 256 KiB; each answer has the hashes that prove them, in `bao-tree`'s form, so that
//! who wants a blob can take it from several at once and believes none of them.
//!
//! Always true: what is stored was checked against its hash, and what is sent was, too; a peer that stands still is given up
//! after [`STALL_MAX`]; at most [`UPLOADS_MAX`] conversations give at once, and who comes then is told at once of others
//! who came before, so that a crowd becomes a tree.
//!
//! `holder` is the side that wants, `uploads` the one that has, `limits` are the rates. Elsewhere: from whom to get which
//! groups is `artifacts`.

mod holder;
mod limits;
mod uploads;

use std::time::Duration;

use fixedbitset::FixedBitSet;
use swarm_store::BlobError;
use tokio::time::timeout;

use super::driver::OPEN_MAX;

pub use holder::Holder;
pub(super) use limits::Limits;
pub use limits::{Rate, Rates};
pub(super) use uploads::{REQUESTS_MAX, Uploads, serve};

/// Conversations that give at once: few fast ones rather than many slow ones, so that a flash crowd soon has more sources.
const UPLOADS_MAX: usize = 6;
/// How long a peer may make no progress.
const STALL_MAX: Duration = Duration::from_secs(5);
/// The longest blob that is fetched.
const BLOB_BYTES_MAX: u64 = 16 << 30;
/// The most groups of one request: what is in memory for it, and lost when the stream breaks.
pub(crate) const RUN_GROUPS_MAX: u32 = 4;
/// Others that are named in one answer.
const OTHERS_MAX: usize = 16;

const FOUND: u8 = 0;
const NOT_FOUND: u8 = 1;
const BUSY: u8 = 2;

/// All groups are here; or a bit for each follows.
const ALL_HERE: u8 = 0;
const SOME_HERE: u8 = 1;

/// The groups that were asked for follow; or they are not here.
const GIVEN: u8 = 0;
const LACKING: u8 = 1;

/// As the first group: the last one, which proves the length.
const LAST: u32 = u32::MAX;

/// Which groups of a blob somebody has: all when `None`.
pub(crate) type Here = Option<FixedBitSet>;

/// Why a conversation about a blob ended. What came before and was checked is kept.
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
    Busy {
        /// Those who may have it, as the peer says.
        others: Vec<swarm_protocol::NodeId>,
    },
    /// What the peer sent is not the blob.
    #[error("what the peer sent is not what was asked for")]
    Damaged,
    /// More than was asked for, or a blob longer than any.
    #[error("the peer sent more than was asked for")]
    TooMuch,
    /// It said that it has what it could not give.
    #[error("the peer lacks what it said it has")]
    Lacking,
    /// No progress for some seconds.
    #[error("the peer made no progress for {STALL_MAX:?}")]
    Timeout,
    /// The stream broke.
    #[error("the stream from the peer broke")]
    Stream(#[source] std::io::Error),
    /// This node's own disk.
    #[error("store the blob")]
    Store(#[source] BlobError),
}

pub(super) async fn within<T>(step: impl Future<Output = std::io::Result<T>>) -> Result<T, FetchError> {
    timeout(STALL_MAX, step).await.map_err(|_| FetchError::Timeout)?.map_err(FetchError::Stream)
}

/// Bytes in which a bit for each group fits.
fn bit_bytes(groups: u32) -> usize {
    groups.div_ceil(8) as usize
}

fn to_bits(here: &FixedBitSet) -> Vec<u8> {
    let mut bits = vec![0; here.len().div_ceil(8)];
    here.ones().for_each(|group| bits[group / 8] |= 1 << (group % 8));
    bits
}

fn from_bits(bits: &[u8], groups: u32) -> FixedBitSet {
    let mut here = FixedBitSet::with_capacity(groups as usize);
    let set = (0..groups as usize).filter(|group| bits.get(group / 8).is_some_and(|byte| byte >> (group % 8) & 1 == 1));
    set.for_each(|group| here.insert(group));
    here
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_read_back_whatever_stands_behind_them() {
        let mut here = FixedBitSet::with_capacity(11);
        [0, 7, 8, 10].into_iter().for_each(|group| here.insert(group));
        let mut bits = to_bits(&here);
        assert_eq!(bits.len(), bit_bytes(11));
        bits[1] |= 0xf0;
        assert_eq!(from_bits(&bits, 11), here);
    }
}
