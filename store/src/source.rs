//! Source: a blob that is handed out group by group, also while it is still arriving.
//!
//! Always true: every byte that is handed out was checked against the blob's name just before. A blob that turns out to be
//! damaged is moved aside; a damaged tree is made anew.

use std::fs::File;
use std::sync::Arc;

use fixedbitset::FixedBitSet;
use swarm_protocol::Hash;

use crate::arriving::Shared;
use crate::blobs::{BlobError, Blobs};
use crate::tree::{self, GROUP_BYTES, Groups, Outboard, ReadFrom, Unproven, groups_in};

/// A blob that is handed out. It can be read to its end also when it is removed or moved meanwhile.
#[derive(Debug)]
pub struct Source {
    blobs: Blobs,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Whole { hash: Hash, len: u64, file: File, tree: Outboard },
    Arriving(Arc<Shared>),
}

impl Source {
    pub(crate) fn whole(blobs: &Blobs, hash: Hash) -> Result<Self, BlobError> {
        let (file, len) = blobs.open_with_len(hash)?;
        if len == 0 && hash != Hash::of(&[]) {
            return Err(blobs.damaged(hash, &file)); // it has no group whose proof could fail
        }
        let tree = blobs.tree(hash, &file, len)?;
        Ok(Self { blobs: blobs.clone(), kind: Kind::Whole { hash, len, file, tree } })
    }

    pub(crate) fn arriving(blobs: &Blobs, shared: Arc<Shared>) -> Self {
        Self { blobs: blobs.clone(), kind: Kind::Arriving(shared) }
    }

    /// The blob.
    pub fn hash(&self) -> Hash {
        match &self.kind {
            Kind::Whole { hash, .. } => *hash,
            Kind::Arriving(shared) => shared.hash(),
        }
    }

    /// Bytes of the whole blob.
    pub fn len(&self) -> u64 {
        match &self.kind {
            Kind::Whole { len, .. } => *len,
            Kind::Arriving(shared) => shared.len(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Which groups are here now; `None` when all are.
    pub fn here(&self) -> Option<FixedBitSet> {
        match &self.kind {
            Kind::Whole { .. } => None,
            Kind::Arriving(shared) => Some(shared.here()),
        }
    }

    /// Appends some groups of the blob, which are here, with the hashes that prove them:
    /// [`encoded_bytes`](crate::encoded_bytes) in all. On an error what was appended is of no use.
    pub fn encode(&mut self, groups: &Groups, to: &mut Vec<u8>) -> Result<(), BlobError> {
        let begin = to.len();
        let (hash, len, file, tree) = match &mut self.kind {
            Kind::Arriving(shared) => return shared.encode(groups, to),
            Kind::Whole { hash, len, file, tree } => (*hash, *len, file, tree),
        };
        let mut encoded = tree::encode(tree, ReadFrom::Disk(file), groups, to);
        if matches!(encoded, Err(Unproven::Tree)) {
            *tree = self.blobs.make_tree(hash, file, len)?;
            to.truncate(begin);
            encoded = tree::encode(tree, ReadFrom::Disk(file), groups, to);
        }
        encoded.map_err(|error| match error {
            Unproven::Disk(error) => self.blobs.failed("read", &self.blobs.path(hash), error),
            Unproven::Tree | Unproven::Bytes => self.blobs.damaged(hash, file),
        })
    }

    /// The same without waiting for a disk, when the system has all of it in memory. Otherwise false, and nothing is appended:
    /// what is wrong, if anything, [`Self::encode`] tells.
    pub fn encode_from_memory(&self, groups: &Groups, to: &mut Vec<u8>) -> bool {
        let begin = to.len();
        let encoded = match &self.kind {
            Kind::Arriving(shared) => shared.encode_from_memory(groups, to),
            Kind::Whole { file, tree, .. } => tree::encode(tree, ReadFrom::Memory(file), groups, to).is_ok(),
        };
        if !encoded {
            to.truncate(begin);
        }
        encoded
    }

    /// The bytes of one group.
    pub fn read(&mut self, group: u32) -> Result<Vec<u8>, BlobError> {
        let begin = u64::from(group) * GROUP_BYTES;
        let bytes = usize::try_from(self.len().saturating_sub(begin).min(GROUP_BYTES)).unwrap_or(0);
        let mut encoded = Vec::new();
        self.encode(&(group..group + 1), &mut encoded)?;
        // They stand behind their proof.
        Ok(encoded.split_off(encoded.len() - bytes))
    }

    /// How many groups it has.
    pub fn groups(&self) -> u32 {
        groups_in(self.len())
    }
}
