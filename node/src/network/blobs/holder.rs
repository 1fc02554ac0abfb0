//! Holder: a peer that has a blob, or a part of it, as the one sees it who wants the blob.
//!
//! Always true: what it says is a claim, and what it sends is handed on as it came: whoever stores it checks it. At most as
//! many bytes are taken as were asked for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::Stream;
use swarm_protocol::{Hash, NodeId};
use swarm_store::{Groups, encoded_bytes, groups_in};
use tokio::time::timeout;

use super::limits::Limit;
use super::{
    ALL_HERE, BLOB_BYTES_MAX, BUSY, FOUND, FetchError, GIVEN, Here, LACKING, LAST, NOT_FOUND, OTHERS_MAX, SOME_HERE,
    bit_bytes, from_bits, within,
};
use crate::network::Counters;
use crate::network::links::Transfer;

/// How long the end of a conversation is waited for, after which nothing may come.
const END_MAX: Duration = Duration::from_secs(1);

/// A conversation with a peer that has the blob, or a part of it.
#[derive(Debug)]
pub struct Holder {
    stream: Stream,
    len: u64,
    here: Here,
    /// Asked for and not answered.
    asked: VecDeque<Groups>,
    /// Others that may have it, as it said since [`Self::take_others`].
    others: Vec<NodeId>,
    limit: Limit,
    counters: Arc<Counters>,
    _transfer: Transfer,
}

impl Holder {
    /// Asks for a blob, on a stream that was opened for it. With `proof` its last group is asked for, too.
    pub(in crate::network) async fn open(
        (mut stream, transfer): (Stream, Transfer),
        hash: Hash,
        proof: bool,
        limit: Limit,
        counters: Arc<Counters>,
    ) -> Result<Self, FetchError> {
        let mut hello = hash.as_bytes().to_vec();
        if proof {
            hello.extend(request(LAST, 1));
        }
        within(stream.write_all(&hello)).await?;
        within(stream.flush()).await?;
        let [status, others] = read(&mut stream).await?;
        let others = read_nodes(&mut stream, usize::from(others)).await?;
        match status {
            FOUND => {}
            NOT_FOUND => return Err(FetchError::NotFound),
            BUSY => return Err(FetchError::Busy { others }),
            _ => return Err(FetchError::Damaged),
        }
        let len = u64::from_be_bytes(read(&mut stream).await?);
        if len > BLOB_BYTES_MAX {
            return Err(FetchError::TooMuch);
        }
        let here = read_here(&mut stream, groups_in(len)).await?;
        let last = groups_in(len) - 1;
        let asked = proof.then_some(last..last + 1).into_iter().collect();
        Ok(Self { stream, len, here, asked, others, limit, counters, _transfer: transfer })
    }

    /// Bytes of the whole blob, as it says.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Which groups it has, as it said last.
    pub(crate) fn here(&self) -> &Here {
        &self.here
    }

    /// Others that may have it, as it said since this was asked last.
    pub fn take_others(&mut self) -> Vec<NodeId> {
        std::mem::take(&mut self.others)
    }

    /// How many requests are not answered.
    pub fn asked(&self) -> usize {
        self.asked.len()
    }

    /// Asks for groups that it has, at most [`RUN_GROUPS_MAX`](super::RUN_GROUPS_MAX).
    pub async fn ask(&mut self, groups: Groups) -> Result<(), FetchError> {
        self.limit.take(encoded_bytes(self.len, &groups)).await;
        within(self.stream.write_all(&request(groups.start, groups.end - groups.start))).await?;
        within(self.stream.flush()).await?;
        self.asked.push_back(groups);
        Ok(())
    }

    /// The groups that were asked for first, with what is to prove them, in a buffer that may have been used before. To be
    /// called only when some were.
    pub async fn receive(&mut self, mut buffer: Vec<u8>) -> Result<(Groups, Vec<u8>), FetchError> {
        let groups = self.asked.pop_front().ok_or(FetchError::TooMuch)?;
        let [status, others] = read(&mut self.stream).await?;
        self.others.extend(read_nodes(&mut self.stream, usize::from(others)).await?);
        match status {
            GIVEN => {}
            LACKING => return Err(FetchError::Lacking),
            _ => return Err(FetchError::Damaged),
        }
        buffer.resize(encoded_bytes(self.len, &groups), 0);
        let mut filled = 0;
        while filled < buffer.len() {
            match within(self.stream.read(&mut buffer[filled..])).await? {
                0 => return Err(FetchError::Stream(std::io::ErrorKind::UnexpectedEof.into())),
                got => filled += got,
            }
        }
        self.counters.bytes_received.fetch_add(filled as u64, Ordering::Relaxed);
        Ok((groups, buffer))
    }

    /// Asks again which groups are here. To be called only when no request is open.
    pub async fn refresh(&mut self) -> Result<(), FetchError> {
        within(self.stream.write_all(&request(0, 0))).await?;
        within(self.stream.flush()).await?;
        self.here = read_here(&mut self.stream, groups_in(self.len)).await?;
        Ok(())
    }

    /// Ends the conversation. An error when anything comes that was not asked for.
    pub async fn close(mut self) -> Result<(), FetchError> {
        within(self.stream.close()).await?;
        let mut byte = [0];
        match timeout(END_MAX, self.stream.read(&mut byte)).await {
            Ok(Ok(1)) if self.asked.is_empty() => Err(FetchError::TooMuch),
            _ => Ok(()),
        }
    }
}

fn request(first: u32, count: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_be_bytes());
    bytes[4..].copy_from_slice(&count.to_be_bytes());
    bytes
}

async fn read<const BYTES: usize>(stream: &mut Stream) -> Result<[u8; BYTES], FetchError> {
    let mut bytes = [0; BYTES];
    within(stream.read_exact(&mut bytes)).await?;
    Ok(bytes)
}

async fn read_nodes(stream: &mut Stream, count: usize) -> Result<Vec<NodeId>, FetchError> {
    if count > OTHERS_MAX {
        return Err(FetchError::TooMuch);
    }
    let mut nodes = Vec::with_capacity(count);
    for _ in 0..count {
        nodes.push(NodeId::from_bytes(read(stream).await?));
    }
    Ok(nodes)
}

async fn read_here(stream: &mut Stream, groups: u32) -> Result<Here, FetchError> {
    match read(stream).await? {
        [ALL_HERE] => Ok(None),
        [SOME_HERE] => {
            let mut bits = vec![0; bit_bytes(groups)];
            within(stream.read_exact(&mut bits)).await?;
            Ok(Some(from_bits(&bits, groups)))
        }
        _ => Err(FetchError::Damaged),
    }
}
