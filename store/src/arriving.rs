//! Arriving: a blob whose groups come from other nodes, in any order.
//!
//! ```text
//! part/HEX        its bytes, each in its place; as long as the blob, with holes
//! part/HEX.tree   what is known of its tree
//! ```
//!
//! Always true: a group is on the disk only after it was checked against the blob's name, and is checked again before it is
//! believed after a restart; a blob leaves this directory whole and synced, or not at all.
//!
//! Elsewhere: from whom to get which groups is the node's choice.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::Duration;

use bao_tree::io::sync::OutboardMut;
use fixedbitset::FixedBitSet;
use swarm_protocol::Hash;

use crate::blobs::{BlobError, Blobs};
use crate::tree::{self, Groups, Outboard, Parent, ReadFrom, Unproven};

/// Where they are, below the blobs.
pub(crate) const DIR: &str = "part";
/// What was not touched for so long is given up when the store is opened: nobody has wanted it.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// A blob that is arriving. Dropped unfinished, it goes on from there another time.
#[derive(Clone, Debug)]
pub struct Arriving(Arc<Shared>);

/// What is shared with those that it is handed on to meanwhile.
#[derive(Debug)]
pub(crate) struct Shared {
    blobs: Blobs,
    hash: Hash,
    len: u64,
    data: File,
    tree: File,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    tree: Outboard,
    here: FixedBitSet,
}

impl State {
    fn has(&self, groups: &Groups) -> bool {
        self.here.contains_all_in_range(groups.start as usize..groups.end as usize)
    }
}

/// The length of a blob that began to arrive.
pub(crate) fn begun(blobs: &Blobs, hash: Hash) -> Option<u64> {
    fs::metadata(data_path(blobs, hash)).ok().map(|data| data.len())
}

/// Removes what nobody came back for.
pub(crate) fn clear_old(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let age = entry.metadata().and_then(|it| it.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > KEPT) {
            remove(&entry.path());
        }
    }
}

fn data_path(blobs: &Blobs, hash: Hash) -> PathBuf {
    blobs.root().join(DIR).join(hash.to_hex())
}

fn tree_path(blobs: &Blobs, hash: Hash) -> PathBuf {
    blobs.root().join(DIR).join(format!("{}.tree", hash.to_hex()))
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(%error, "{} stays", path.display());
    }
}

impl Arriving {
    pub(crate) fn open(blobs: &Blobs, hash: Hash, len: u64) -> Result<Self, BlobError> {
        let tree = tree::unknown(hash, len);
        if begun(blobs, hash) != Some(len) {
            blobs.take_room(len)?;
        }
        let data = open_with_len(blobs, &data_path(blobs, hash), len)?;
        let tree_file = open_with_len(blobs, &tree_path(blobs, hash), tree.data.len() as u64)?;
        let here = FixedBitSet::with_capacity(tree::groups_in(len) as usize);
        let state = RwLock::new(State { tree, here });
        let shared = Shared { blobs: blobs.clone(), hash, len, data, tree: tree_file, state };
        shared.recall()?;
        Ok(Self(Arc::new(shared)))
    }

    pub(crate) fn shared(&self) -> Weak<Shared> {
        Arc::downgrade(&self.0)
    }

    /// Bytes of the whole blob.
    pub fn len(&self) -> u64 {
        self.0.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// Which groups are here.
    pub fn here(&self) -> FixedBitSet {
        self.0.here()
    }

    /// Whether these bytes, as [`Source::encode`](crate::Source::encode) made them, prove a part of the blob. Stores nothing.
    pub fn proves(hash: Hash, len: u64, groups: &Groups, encoded: &[u8]) -> bool {
        tree::prove(hash, len, groups, encoded).is_some()
    }

    /// Checks and stores some groups, as [`Source::encode`](crate::Source::encode) made them.
    pub fn add(&self, groups: &Groups, encoded: &[u8]) -> Result<(), BlobError> {
        self.0.add(groups, encoded)
    }

    /// Makes what came until now durable.
    pub fn sync(&self) -> Result<(), BlobError> {
        let failed = |error| self.0.blobs.failed("sync", &data_path(&self.0.blobs, self.0.hash), error);
        self.0.data.sync_data().map_err(failed)?;
        self.0.tree.sync_data().map_err(failed)
    }

    /// Stores the blob, of which all groups are here.
    pub fn finish(self) -> Result<(), BlobError> {
        let Shared { blobs, hash, data, .. } = &*self.0;
        let (at, tree, named) = (data_path(blobs, *hash), tree_path(blobs, *hash), blobs.tree_path(*hash));
        fs::rename(&tree, &named).map_err(|error| blobs.failed("name", &named, error))?;
        blobs.keep(data, &at, *hash)?;
        blobs.sync_prefix(*hash)
    }
}

impl Shared {
    pub(crate) fn hash(&self) -> Hash {
        self.hash
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn here(&self) -> FixedBitSet {
        self.read().here.clone()
    }

    /// Appends groups that are here, with their proof.
    pub(crate) fn encode(&self, groups: &Groups, to: &mut Vec<u8>) -> Result<(), BlobError> {
        let state = self.read();
        if !state.has(groups) {
            return Err(BlobError::Missing { hash: self.hash });
        }
        tree::encode(&state.tree, ReadFrom::Disk(&self.data), groups, to).map_err(|error| match error {
            Unproven::Disk(error) => self.failed("read", error),
            Unproven::Tree | Unproven::Bytes => BlobError::Missing { hash: self.hash },
        })
    }

    /// The same without waiting for a disk or for who writes to it; false when that cannot be.
    pub(crate) fn encode_from_memory(&self, groups: &Groups, to: &mut Vec<u8>) -> bool {
        let Ok(state) = self.state.try_read() else { return false };
        state.has(groups) && tree::encode(&state.tree, ReadFrom::Memory(&self.data), groups, to).is_ok()
    }

    fn add(&self, groups: &Groups, encoded: &[u8]) -> Result<(), BlobError> {
        let proven = tree::prove(self.hash, self.len, groups, encoded);
        let proven = proven.ok_or(BlobError::WrongPart { hash: self.hash })?;
        for (place, bytes) in proven.leaves {
            self.data.write_all_at(bytes, place).map_err(|error| self.failed("write", error))?;
        }
        self.note(groups, &proven.parents)
    }

    /// Keeps the proof of groups that are written, and says that they are here.
    fn note(&self, groups: &Groups, parents: &[Parent]) -> Result<(), BlobError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let State { tree, here } = &mut *state;
        let place = |node| tree.tree.pre_order_offset(node).map(|place| 64 * place);
        for (at, (left, right)) in parents.iter().filter_map(|(node, pair)| Some((place(*node)?, pair))) {
            let pair = [*left.as_bytes(), *right.as_bytes()].concat();
            let known = usize::try_from(at).ok().and_then(|at| tree.data.get(at..at + 64));
            if known != Some(&pair) {
                self.tree.write_all_at(&pair, at).map_err(|error| self.failed("write", error))?;
            }
        }
        for (node, pair) in parents {
            tree.save(*node, pair).map_err(|error| self.failed("write", error))?;
        }
        here.insert_range(groups.start as usize..groups.end as usize);
        Ok(())
    }

    /// Finds out which groups are on the disk and right.
    fn recall(&self) -> Result<(), BlobError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let State { tree, here } = &mut *state;
        self.tree.read_exact_at(&mut tree.data, 0).map_err(|error| self.failed("read", error))?;
        if tree.data.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let mut encoded = Vec::new();
        for group in 0..tree::groups_in(self.len) {
            encoded.clear();
            match tree::encode(tree, ReadFrom::Disk(&self.data), &(group..group + 1), &mut encoded) {
                Ok(()) => here.insert(group as usize),
                Err(Unproven::Disk(error)) => return Err(self.failed("read", error)),
                Err(Unproven::Tree | Unproven::Bytes) => {}
            }
        }
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // What is marked as here was written before.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, step: &'static str, error: io::Error) -> BlobError {
        self.blobs.failed(step, &data_path(&self.blobs, self.hash), error)
    }
}

/// A file of just this length: what was there of another one is of no use.
fn open_with_len(blobs: &Blobs, path: &Path, len: u64) -> Result<File, BlobError> {
    let open = || {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if file.metadata()?.len() != len {
            file.set_len(0)?;
            file.set_len(len)?;
        }
        Ok(file)
    };
    open().map_err(|error| blobs.failed("open", path, error))
}
