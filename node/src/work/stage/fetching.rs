//! Blobs that a stage needs, brought here and checked.
//!
//! Always true: a blob that turns out to be damaged on this disk is fetched once more.
//!
//! Elsewhere: moving blobs is `artifacts`.

use std::collections::{BTreeMap, BTreeSet};

use futures::{TryStreamExt, stream};
use serde::de::DeserializeOwned;
use swarm_protocol::codec;
use swarm_protocol::{Hash, NodeId};

use super::{Stages, Unready};
use crate::handle::blocking;

/// Bytes of an encoded list of items or of a tree's files: ten million short lines.
const LIST_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Questions for the shards of an earlier stage, and fetches from different holders, at once.
pub(super) const AT_ONCE: usize = 8;

/// Blobs that are needed, with the nodes that are known to hold each.
#[derive(Default)]
pub(super) struct Wanted(BTreeMap<Hash, BTreeSet<NodeId>>);

impl Wanted {
    pub(super) fn one(hash: Hash) -> Self {
        Self(BTreeMap::from([(hash, BTreeSet::new())]))
    }

    pub(super) fn add(&mut self, hash: Hash, holders: &[NodeId]) {
        self.0.entry(hash).or_default().extend(holders);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The blobs with equal holders together; after those, the nodes in `from` are asked.
    fn by_holders(&self, from: &[NodeId]) -> BTreeMap<Vec<NodeId>, Vec<Hash>> {
        let mut by_holders = BTreeMap::<_, Vec<_>>::new();
        for (hash, holders) in &self.0 {
            let others = from.iter().filter(|node| !holders.contains(node));
            by_holders.entry(holders.iter().chain(others).copied().collect()).or_default().push(*hash);
        }
        by_holders
    }
}

impl Stages {
    pub(super) async fn list<T: DeserializeOwned + Send + 'static>(
        &self,
        hash: Hash,
        from: &[NodeId],
    ) -> Result<Vec<T>, Unready> {
        let bytes = self.read(hash, LIST_BYTES_MAX as u64, from).await?;
        Ok(blocking(move || codec::decode(&bytes, LIST_BYTES_MAX)).await?)
    }

    pub(super) async fn read(&self, hash: Hash, max: u64, from: &[NodeId]) -> Result<Vec<u8>, Unready> {
        self.hold(Wanted::one(hash), from).await?;
        let blobs = self.blobs.clone();
        Ok(blocking(move || blobs.read(hash, max)).await?)
    }

    /// Brings blobs here and checks them. What turns out to be damaged on this disk is fetched once more.
    pub(super) async fn hold(&self, wanted: Wanted, from: &[NodeId]) -> Result<(), Unready> {
        if wanted.is_empty() {
            return Ok(());
        }
        self.fetch(&wanted, from).await?;
        let damaged = self.damaged(wanted).await;
        if damaged.is_empty() {
            return Ok(());
        }
        self.fetch(&damaged, from).await?;
        let blobs = self.blobs.clone();
        Ok(blocking(move || damaged.0.keys().try_for_each(|hash| blobs.verify(*hash).map(drop))).await?)
    }

    async fn fetch(&self, wanted: &Wanted, from: &[NodeId]) -> Result<(), Unready> {
        let fetches =
            wanted.by_holders(from).into_iter().map(|(from, hashes)| Ok((self.sources.fetch)((hashes, from))));
        let all = stream::iter(fetches).try_buffer_unordered(AT_ONCE).try_collect::<()>();
        all.await.map_err(Unready::Unfetched)
    }

    async fn damaged(&self, mut wanted: Wanted) -> Wanted {
        let blobs = self.blobs.clone();
        blocking(move || {
            wanted.0.retain(|hash, _| blobs.verify(*hash).is_err());
            wanted
        })
        .await
    }
}
