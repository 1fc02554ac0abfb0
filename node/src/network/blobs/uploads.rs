//! Uploads: the side of a conversation that has the blob, or a part of it.
//!
//! Always true: what is sent was checked just before; while one answer is on its way the next is made, and no third.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::Stream;
use swarm_protocol::{Hash, NodeId};
use swarm_store::{Blobs, Groups, Source};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::limits::{Limit, PIECE_BYTES};
use super::{
    ALL_HERE, BUSY, FOUND, FetchError, GIVEN, LACKING, LAST, Limits, NOT_FOUND, OTHERS_MAX, RUN_GROUPS_MAX, Rates,
    SOME_HERE, UPLOADS_MAX, to_bits, within,
};
use crate::handle::blocking;
use crate::network::Counters;

/// Streams being answered at once, those told "busy" included.
pub(in crate::network) const REQUESTS_MAX: usize = 128;
/// How long a conversation may be quiet: who takes little a second asks rarely.
const QUIET_MAX: Duration = Duration::from_secs(30);
/// Blobs whose takers are remembered.
const CROWDS_MAX: usize = 256;
/// Shorter blobs are given before anybody could help: their takers are not remembered.
const CROWD_GROUPS_MIN: u32 = 8;
/// Conversations that give one blob which is not short. Who comes later takes it from those who came before, and so this node
/// sends about as many copies as these, however many want it.
const UPLOADS_PER_BLOB_MAX: usize = 3;

/// Everything that uploads share.
pub(in crate::network) struct Uploads {
    blobs: Blobs,
    slots: Semaphore,
    limits: Limits,
    crowds: Mutex<Crowds>,
    /// How many conversations give each blob that is not short.
    giving: Mutex<HashMap<Hash, usize>>,
    counters: Arc<Counters>,
}

/// Who took which blob of late, the latest blob first, and of each the latest taker first.
#[derive(Default)]
struct Crowds(VecDeque<(Hash, VecDeque<NodeId>)>);

/// One conversation that gives a blob.
struct Giving<'a> {
    uploads: &'a Uploads,
    hash: Hash,
    peer: NodeId,
    /// Others that the peer was told of.
    told: Vec<NodeId>,
    counted: bool,
}

/// What a peer asks for.
enum Request {
    /// Which groups are here.
    Here,
    Groups(Groups),
}

impl Uploads {
    pub(in crate::network) fn new(blobs: Blobs, rates: Rates, counters: Arc<Counters>) -> Self {
        let (slots, limits) = (Semaphore::new(UPLOADS_MAX), Limits::new(rates));
        Self { blobs, slots, limits, crowds: Mutex::default(), giving: Mutex::default(), counters }
    }

    /// A conversation more about a blob, unless there are enough.
    fn give(&self, hash: Hash, peer: NodeId, is_short: bool) -> Option<Giving<'_>> {
        let counted = !is_short;
        if counted {
            let mut giving = self.giving.lock().unwrap_or_else(PoisonError::into_inner);
            let count = giving.entry(hash).or_default();
            if *count >= UPLOADS_PER_BLOB_MAX {
                return None;
            }
            *count += 1;
        }
        Some(Giving { uploads: self, hash, peer, told: Vec::new(), counted })
    }

    /// The others who took a blob, of whom `peer` is one from now on if there is a crowd, or may come to be.
    fn meet(&self, hash: Hash, peer: NodeId, may_grow: bool) -> Vec<NodeId> {
        // Every step on it leaves it whole.
        self.crowds.lock().unwrap_or_else(PoisonError::into_inner).meet(hash, peer, may_grow)
    }
}

impl Giving<'_> {
    /// Others who take the blob and of whom the peer was not told.
    fn news(&mut self) -> Vec<NodeId> {
        if !self.counted {
            return Vec::new();
        }
        let mut others = self.uploads.meet(self.hash, self.peer, true);
        others.retain(|other| !self.told.contains(other));
        self.told.extend(&others);
        others
    }
}

impl Drop for Giving<'_> {
    fn drop(&mut self) {
        // Every step on it leaves it whole.
        let mut giving = self.uploads.giving.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = giving.get_mut(&self.hash).filter(|_| self.counted) {
            *count -= 1;
            if *count == 0 {
                giving.remove(&self.hash);
            }
        }
    }
}

impl Crowds {
    fn meet(&mut self, hash: Hash, peer: NodeId, may_grow: bool) -> Vec<NodeId> {
        let found = self.0.iter().position(|(known, _)| *known == hash).and_then(|at| self.0.remove(at));
        if found.is_none() && !may_grow {
            return Vec::new();
        }
        let mut takers = found.map(|(_, takers)| takers).unwrap_or_default();
        takers.retain(|taker| *taker != peer);
        let others = takers.iter().copied().collect();
        takers.push_front(peer);
        takers.truncate(OTHERS_MAX);
        self.0.push_front((hash, takers));
        self.0.truncate(CROWDS_MAX);
        others
    }
}

/// Answers a peer that wants a blob.
pub(in crate::network) async fn serve(mut stream: Stream, peer: NodeId, uploads: Arc<Uploads>) {
    if let Err(error) = answer(&mut stream, peer, &uploads).await {
        tracing::debug!(cause = std::error::Error::source(&error).map(ToString::to_string), "upload ended: {error}");
    }
}

async fn answer(stream: &mut Stream, peer: NodeId, uploads: &Uploads) -> Result<(), FetchError> {
    let mut hash = [0; 32];
    within(stream.read_exact(&mut hash)).await?;
    let hash = Hash::from_bytes(hash);
    let Ok(_slot) = uploads.slots.try_acquire() else {
        return refuse(stream, BUSY, &uploads.meet(hash, peer, false)).await;
    };
    let blobs = uploads.blobs.clone();
    // One that cannot be read is as good as none for the peer, who then asks others.
    let Ok(source) = blocking(move || blobs.source(hash)).await else {
        return refuse(stream, NOT_FOUND, &[]).await;
    };
    let Some(mut giving) = uploads.give(hash, peer, source.groups() < CROWD_GROUPS_MIN) else {
        return refuse(stream, BUSY, &uploads.meet(hash, peer, true)).await;
    };
    let mut header = named(FOUND, &giving.news());
    header.extend(source.len().to_be_bytes());
    header.extend(here(&source));
    within(stream.write_all(&header)).await?;
    within(stream.flush()).await?;

    let (reader, writer) = stream.split();
    let (made, answers) = mpsc::channel(1);
    let limit = uploads.limits.of(peer);
    futures::try_join!(make(reader, source, giving, made), send(writer, answers, limit, &uploads.counters))?;
    Ok(())
}

async fn refuse(stream: &mut Stream, status: u8, others: &[NodeId]) -> Result<(), FetchError> {
    within(stream.write_all(&named(status, others))).await?;
    within(stream.close()).await
}

/// A status and the names of others.
fn named(status: u8, others: &[NodeId]) -> Vec<u8> {
    let others = &others[..others.len().min(OTHERS_MAX)];
    let mut bytes = vec![status, others.len() as u8];
    others.iter().for_each(|node| bytes.extend(node.as_bytes()));
    bytes
}

fn here(source: &Source) -> Vec<u8> {
    match source.here() {
        None => vec![ALL_HERE],
        Some(here) => [vec![SOME_HERE], to_bits(&here)].concat(),
    }
}

/// Makes the answers, until the peer wants no more.
async fn make(
    mut reader: impl AsyncRead + Unpin,
    mut source: Source,
    mut giving: Giving<'_>,
    made: mpsc::Sender<Vec<u8>>,
) -> Result<(), FetchError> {
    while let Some(request) = next(&mut reader, source.groups()).await? {
        let news = giving.news();
        let answer = match at_hand(&source, &request, &news) {
            Some(answer) => answer,
            None => {
                let (given, answer) = blocking(move || {
                    let answer = of(&mut source, request, &news);
                    (source, answer)
                })
                .await;
                source = given;
                answer
            }
        };
        if made.send(answer).await.is_err() {
            return Ok(()); // the sending failed, and tells why
        }
    }
    Ok(())
}

/// The answer when it takes no disk: to wake another thread for so little would take as long as to make it.
fn at_hand(source: &Source, request: &Request, news: &[NodeId]) -> Option<Vec<u8>> {
    let Request::Groups(groups) = request else { return None };
    let mut answer = given(source, groups, news);
    source.encode_from_memory(groups, &mut answer).then_some(answer)
}

/// What stands before groups, with room for them.
fn given(source: &Source, groups: &Groups, news: &[NodeId]) -> Vec<u8> {
    let mut answer = named(GIVEN, news);
    answer.reserve(swarm_store::encoded_bytes(source.len(), groups));
    answer
}

fn of(source: &mut Source, request: Request, news: &[NodeId]) -> Vec<u8> {
    let Request::Groups(groups) = request else { return here(source) };
    let mut answer = given(source, &groups, news);
    match source.encode(&groups, &mut answer) {
        Ok(()) => answer,
        Err(error) => {
            tracing::debug!(%error, "groups that were asked for are not given");
            named(LACKING, &[])
        }
    }
}

/// The next request; none when the peer wants no more.
async fn next(reader: &mut (impl AsyncRead + Unpin), groups: u32) -> Result<Option<Request>, FetchError> {
    let mut bytes = [0; 8];
    let began = timeout(QUIET_MAX, reader.read(&mut bytes[..1])).await.map_err(|_| FetchError::Timeout)?;
    if began.map_err(FetchError::Stream)? == 0 {
        return Ok(None);
    }
    within(reader.read_exact(&mut bytes[1..])).await?;
    let number = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (first, count) = match (number(0), number(4)) {
        (_, 0) => return Ok(Some(Request::Here)),
        (LAST, _) => (groups - 1, 1), // there is at least one
        (first, count) => (first, count),
    };
    let end = first.checked_add(count).filter(|end| *end <= groups && count <= RUN_GROUPS_MAX);
    end.map(|end| Some(Request::Groups(first..end))).ok_or(FetchError::TooMuch)
}

async fn send(
    mut writer: impl AsyncWrite + Unpin,
    mut answers: mpsc::Receiver<Vec<u8>>,
    limit: Limit,
    counters: &Counters,
) -> Result<(), FetchError> {
    while let Some(answer) = answers.recv().await {
        let piece = if limit.is_none() { answer.len() } else { PIECE_BYTES };
        for piece in answer.chunks(piece) {
            limit.take(piece.len()).await;
            within(writer.write_all(piece)).await?;
            counters.bytes_sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        within(writer.flush()).await?;
    }
    within(writer.close()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_blob_is_given_to_a_few_at_once_who_are_told_of_those_who_come_later() {
        let dir = tempfile::tempdir().unwrap();
        let uploads = Uploads::new(Blobs::open(dir.path()).unwrap(), Rates::default(), Arc::default());
        let (hash, node) = (Hash::of(b"wanted"), |number: u8| NodeId::from_bytes([number; 32]));
        let mut first = uploads.give(hash, node(0), false).unwrap();
        assert!(first.news().is_empty());
        let others: Vec<_> = (1..3).map(|number| uploads.give(hash, node(number), false).unwrap()).collect();
        assert!(uploads.give(hash, node(9), false).is_none());
        assert!(uploads.give(hash, node(9), true).is_some() && uploads.give(Hash::of(b""), node(9), false).is_some());
        assert_eq!(uploads.meet(hash, node(9), true), [node(0)]);
        assert_eq!((first.news(), first.news()), (vec![node(9)], vec![]));
        drop(others);
        assert!(uploads.give(hash, node(9), false).is_some());
        drop(first);
        assert!(uploads.giving.lock().unwrap().is_empty());
    }

    #[test]
    fn a_crowd_is_told_of_those_who_came_before() {
        let mut crowds = Crowds::default();
        let (hash, other) = (Hash::of(b"wanted"), Hash::of(b"another"));
        let node = |number: u8| NodeId::from_bytes([number; 32]);
        assert!(crowds.meet(hash, node(1), false).is_empty());
        assert!(crowds.meet(hash, node(1), true).is_empty());
        assert!(crowds.meet(other, node(9), true).is_empty());
        assert_eq!(crowds.meet(hash, node(2), false), [node(1)]);
        assert_eq!(crowds.meet(hash, node(1), true), [node(2)]);
        for number in 3..100 {
            crowds.meet(hash, node(number), true);
        }
        assert_eq!(crowds.meet(hash, node(100), true).len(), OTHERS_MAX);
    }
}
