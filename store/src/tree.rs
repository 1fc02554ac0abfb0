//! Trees: the hashes between the name of a blob and its groups of [`GROUP_BYTES`], by which any group can be checked alone.
//!
//! Always true: a tree is as long as the blob says, and nothing else of it is believed: whoever uses it checks its hashes
//! from the name down. A blob of one group needs none.
//!
//! Elsewhere: the form of the tree and of what is sent is `bao-tree`'s, and so is the way through both; where trees are kept is
//! `blobs`. Bytes are checked and read where they are: `bao-tree`'s own encoder and decoder copy each group twice, which is
//! much beside what a stream costs.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use bao_tree::io::outboard::PreOrderMemOutboard;
use bao_tree::io::sync::{Outboard as _, truncate_ranges};
use bao_tree::iter::{BaoChunk, ResponseIterRef};
use bao_tree::{BaoTree, BlockSize, ChunkNum, ChunkRanges, TreeNode};
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use swarm_protocol::Hash;

/// What is checked, asked for and kept as a whole. A group has 64 bytes of the tree, and is checked in a tenth of a
/// millisecond.
pub const GROUP_BYTES: u64 = 256 << 10;
/// The same, as a power of two of BLAKE3's chunks of 1 KiB.
const GROUP: BlockSize = BlockSize::from_chunk_log(8);
const GROUP_CHUNKS: u64 = GROUP_BYTES / 1024;

/// The tree of one blob, in memory.
pub(crate) type Outboard = PreOrderMemOutboard<Vec<u8>>;

/// Some groups in a row: the first, and the one after the last.
pub type Groups = Range<u32>;

/// How many groups a blob of so many bytes has: at least one, which may be empty.
pub fn groups_in(len: u64) -> u32 {
    u32::try_from(len.div_ceil(GROUP_BYTES).max(1)).unwrap_or(u32::MAX)
}

/// Bytes of some groups of a blob of `len` bytes, as they are sent: with the hashes that prove them.
pub fn encoded_bytes(len: u64, groups: &Groups) -> usize {
    let size = |piece| match piece {
        BaoChunk::Parent { .. } => PAIR_BYTES,
        BaoChunk::Leaf { size, .. } => size,
    };
    let ranges = chunks(len, groups);
    ResponseIterRef::new(shape(len), truncate_ranges(&ranges, len)).map(size).sum()
}

/// Two hashes.
const PAIR_BYTES: usize = 64;

/// A node of a tree, and the two hashes below it.
pub(crate) type Parent = (TreeNode, (blake3::Hash, blake3::Hash));

/// Groups that were checked against the name of their blob.
pub(crate) struct Proven<'a> {
    /// What proves them.
    pub(crate) parents: Vec<Parent>,
    /// Their bytes, each with its place in the blob.
    pub(crate) leaves: Vec<(u64, &'a [u8])>,
}

/// Checks groups as [`encode`] made them. Nothing when any byte is wrong, missing or too much.
pub(crate) fn prove<'a>(hash: Hash, len: u64, groups: &Groups, mut encoded: &'a [u8]) -> Option<Proven<'a>> {
    let mut proven = Proven { parents: Vec::new(), leaves: Vec::new() };
    let mut expected = vec![*hash.as_bytes()];
    let ranges = chunks(len, groups);
    for piece in ResponseIterRef::new(shape(len), truncate_ranges(&ranges, len)) {
        let at = expected.pop()?;
        match piece {
            BaoChunk::Parent { node, is_root, left, right, .. } => {
                let (pair, rest) = encoded.split_first_chunk::<PAIR_BYTES>()?;
                let (his, hers) = halves(pair);
                if parent(&his, &hers, is_root) != at {
                    return None;
                }
                expected.extend(right.then_some(hers).into_iter().chain(left.then_some(his)));
                proven.parents.push((node, (his.into(), hers.into())));
                encoded = rest;
            }
            BaoChunk::Leaf { start_chunk, size, is_root, .. } => {
                let (bytes, rest) = encoded.split_at_checked(size)?;
                if leaf(start_chunk, bytes, is_root) != at {
                    return None;
                }
                proven.leaves.push((start_chunk.0 * 1024, bytes));
                encoded = rest;
            }
        }
    }
    encoded.is_empty().then_some(proven)
}

/// Why groups cannot be handed out.
pub(crate) enum Unproven {
    /// The tree is not that of the blob.
    Tree,
    /// Or the bytes are not.
    Bytes,
    Disk(io::Error),
}

/// Where the bytes of groups are read.
#[derive(Clone, Copy)]
pub(crate) enum ReadFrom<'a> {
    Disk(&'a File),
    /// Only what the system has in memory.
    Memory(&'a File),
}

impl ReadFrom<'_> {
    fn read_exact_at(self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        match self {
            Self::Disk(file) => file.read_exact_at(bytes, at),
            Self::Memory(file) => read_from_memory(file, bytes, at),
        }
    }
}

#[cfg(target_os = "linux")]
fn read_from_memory(file: &File, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
    use rustix::io::{ReadWriteFlags, preadv2};
    while !bytes.is_empty() {
        let read = preadv2(file, &mut [io::IoSliceMut::new(bytes)], at, ReadWriteFlags::NOWAIT)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[read..];
        at += read as u64;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn read_from_memory(_: &File, _: &mut [u8], _: u64) -> io::Result<()> {
    Err(io::ErrorKind::WouldBlock.into())
}

/// Appends groups with what proves them, after checking both.
pub(crate) fn encode(tree: &Outboard, data: ReadFrom<'_>, groups: &Groups, to: &mut Vec<u8>) -> Result<(), Unproven> {
    let len = tree.tree.size();
    let mut expected = vec![*tree.root.as_bytes()];
    let ranges = chunks(len, groups);
    for piece in ResponseIterRef::new(tree.tree, truncate_ranges(&ranges, len)) {
        let at = expected.pop().ok_or(Unproven::Tree)?;
        match piece {
            BaoChunk::Parent { node, is_root, left, right, .. } => {
                let (his, hers) = tree.load(node).map_err(Unproven::Disk)?.ok_or(Unproven::Tree)?;
                let (his, hers) = (*his.as_bytes(), *hers.as_bytes());
                if parent(&his, &hers, is_root) != at {
                    return Err(Unproven::Tree);
                }
                expected.extend(right.then_some(hers).into_iter().chain(left.then_some(his)));
                to.extend(his.into_iter().chain(hers));
            }
            BaoChunk::Leaf { start_chunk, size, is_root, .. } => {
                let begin = to.len();
                to.resize(begin + size, 0);
                data.read_exact_at(&mut to[begin..], start_chunk.0 * 1024).map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => Unproven::Bytes,
                    _ => Unproven::Disk(error),
                })?;
                if leaf(start_chunk, &to[begin..], is_root) != at {
                    return Err(Unproven::Bytes);
                }
            }
        }
    }
    Ok(())
}

fn halves(pair: &[u8; PAIR_BYTES]) -> (ChainingValue, ChainingValue) {
    let mut halves = ([0; 32], [0; 32]);
    halves.0.copy_from_slice(&pair[..32]);
    halves.1.copy_from_slice(&pair[32..]);
    halves
}

/// The hash of a node of the tree, by the two below it.
fn parent(left: &ChainingValue, right: &ChainingValue, is_root: bool) -> ChainingValue {
    match is_root {
        true => *merge_subtrees_root(left, right, Mode::Hash).as_bytes(),
        false => merge_subtrees_non_root(left, right, Mode::Hash),
    }
}

/// The hash of the bytes of a group.
fn leaf(start: ChunkNum, bytes: &[u8], is_root: bool) -> ChainingValue {
    if is_root {
        return *blake3::hash(bytes).as_bytes();
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(start.0 * 1024);
    hasher.update(bytes).finalize_non_root()
}

pub(crate) fn shape(len: u64) -> BaoTree {
    BaoTree::new(len, GROUP)
}

/// The chunks of these groups. Without an end when they reach that of the blob, which is how its length is proven.
pub(crate) fn chunks(len: u64, groups: &Groups) -> ChunkRanges {
    let at = |group: u32| ChunkNum(u64::from(group) * GROUP_CHUNKS);
    if groups.end >= groups_in(len) {
        ChunkRanges::from(at(groups.start)..)
    } else {
        ChunkRanges::from(at(groups.start)..at(groups.end))
    }
}

pub(crate) fn named(hash: Hash) -> blake3::Hash {
    blake3::Hash::from_bytes(*hash.as_bytes())
}

/// A tree of which nothing is known yet.
pub(crate) fn unknown(hash: Hash, len: u64) -> Outboard {
    let tree = shape(len);
    let bytes = usize::try_from(tree.outboard_size()).unwrap_or(usize::MAX);
    Outboard { root: named(hash), tree, data: vec![0; bytes] }
}

/// Hashes bytes that come in their order, and keeps the hash of each group.
#[derive(Debug)]
pub(crate) struct TreeHasher {
    /// Of the groups before this one.
    done: Vec<ChainingValue>,
    group: blake3::Hasher,
    /// Bytes of this group.
    filled: u64,
}

impl TreeHasher {
    pub(crate) fn new() -> Self {
        Self { done: Vec::new(), group: blake3::Hasher::new(), filled: 0 }
    }

    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut hasher = Self::new();
        hasher.update(bytes);
        hasher
    }

    pub(crate) fn update(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            // A full group is closed when more comes: the last one may be the whole blob.
            if self.filled == GROUP_BYTES {
                self.close_group();
            }
            let room = usize::try_from(GROUP_BYTES - self.filled).unwrap_or(usize::MAX);
            let (now, later) = piece.split_at(room.min(piece.len()));
            self.group.update(now);
            self.filled += now.len() as u64;
            piece = later;
        }
    }

    fn close_group(&mut self) {
        self.done.push(self.group.finalize_non_root());
        self.group = blake3::Hasher::new();
        self.group.set_input_offset(self.done.len() as u64 * GROUP_BYTES);
        self.filled = 0;
    }

    /// The name of all that came, and its tree: empty when it is of one group.
    pub(crate) fn finish(mut self) -> (Hash, Vec<u8>) {
        if self.done.is_empty() {
            return (Hash::from_bytes(*self.group.finalize().as_bytes()), Vec::new());
        }
        self.done.push(self.group.finalize_non_root());
        let mut tree = Vec::with_capacity(PAIR_BYTES * (self.done.len() - 1));
        let (left, right) = children(&self.done, &mut tree);
        (Hash::from_bytes(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()), tree)
    }
}

/// The two hashes below the node of these groups, after they and all below were appended to the tree.
fn children(groups: &[ChainingValue], tree: &mut Vec<u8>) -> (ChainingValue, ChainingValue) {
    // As BLAKE3 has it: the left one is as large as a power of two can be that leaves something for the right one.
    let (left, right) = groups.split_at(1 << (groups.len() - 1).ilog2());
    let at = tree.len();
    tree.extend([0; PAIR_BYTES]);
    let (left, right) = (subtree(left, tree), subtree(right, tree));
    tree[at..at + 32].copy_from_slice(&left);
    tree[at + 32..at + PAIR_BYTES].copy_from_slice(&right);
    (left, right)
}

fn subtree(groups: &[ChainingValue], tree: &mut Vec<u8>) -> ChainingValue {
    if let [only] = groups {
        return *only;
    }
    let (left, right) = children(groups, tree);
    merge_subtrees_non_root(&left, &right, Mode::Hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_trees_are_those_of_blake3_and_bao() {
        let group = GROUP_BYTES as usize;
        for len in [0, 1, group - 1, group, group + 1, 2 * group, 2 * group + 1, 5 * group + 7, 8 * group] {
            let bytes: Vec<u8> = (0..len).map(|at| (at % 253) as u8).collect();
            let mut hasher = TreeHasher::new();
            bytes.chunks(100_001).for_each(|piece| hasher.update(piece));
            let theirs = Outboard::create(&bytes, GROUP);
            assert_eq!(hasher.finish(), (Hash::of(&bytes), theirs.data), "{len} bytes");
            assert_eq!(groups_in(len as u64) as u64, theirs.tree.blocks());
        }
    }
}
