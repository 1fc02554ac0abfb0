//! Copies compared: custodians tell each other digests of their shards until all copies are equal.
//!
//! Always true: a copy that is known to be equal is not compared again, unless it changed or its node may have lost its disk.
//!
//! Elsewhere: the blobs of results are repaired by `handover`.

use core::time::Duration;
use std::collections::BTreeMap;

use super::{Custody, SHARDS_PER_MESSAGE};
use crate::message::{Message, ShardDigest};
use crate::node::Node;
use crate::planted::PlantedBug;
use crate::{Hash, NodeId, ShardId, Time};

/// Anti-entropy between custodians.
const DIGEST_EVERY: Duration = Duration::from_secs(5);
/// The same after a change of custodians or links: what else changes at the same time is compared together.
pub(super) const DIGEST_SOON: Duration = Duration::from_secs(1);

impl Custody {
    /// Copies are compared soon.
    pub(crate) fn hurry(&mut self, now: Time) {
        self.next_digest = self.next_digest.min(now + DIGEST_SOON);
    }
}

impl Node {
    pub(crate) fn keep_digests(&mut self) {
        if self.now < self.custody.next_digest {
            return;
        }
        self.retry_repairs();
        let jitter = Duration::from_millis(self.rng.u64(0..1000));
        let every = if self.membership.me.draining { DIGEST_SOON } else { DIGEST_EVERY };
        self.custody.next_digest = self.now + every + jitter;
        let me = self.me();
        let drops = self.plants(PlantedBug::DropsHandOver);
        let mut digests: BTreeMap<NodeId, Vec<ShardDigest>> = BTreeMap::new();
        for (&id, shard) in &mut self.custody.shards {
            // Who keeps the shard compares until the copies are equal; who kept it, until others were given what it knows.
            let former = !shard.custodians.contains(&me);
            if former && drops {
                continue;
            }
            let knows = |node: &NodeId| shard.confirmed.contains(node) || (former && shard.given.contains(node));
            let others: Vec<_> = shard.custodians.iter().copied().filter(|node| *node != me && !knows(node)).collect();
            if others.is_empty() {
                continue;
            }
            let (digest, counts) = (shard.digest(), shard.state.counts());
            for other in others {
                digests.entry(other).or_default().push(ShardDigest { shard: id, digest, counts });
            }
        }
        for (other, digests) in digests {
            for chunk in digests.chunks(SHARDS_PER_MESSAGE) {
                self.send(other, Message::Digests(chunk.to_vec()));
            }
        }
    }

    pub(crate) fn on_digests(&mut self, from: NodeId, digests: Vec<ShardDigest>) {
        let (mut same, mut pull) = (Vec::new(), Vec::new());
        let skips = self.plants(PlantedBug::SkipsRepair);
        for theirs in digests.into_iter().take(SHARDS_PER_MESSAGE) {
            let id = theirs.shard;
            let Some(shard) = self.ensure_shard(id) else {
                self.pull_job(id.job, from);
                continue;
            };
            if shard.digest() == theirs.digest || skips {
                shard.confirmed.insert(from);
                same.push((id, theirs.digest));
                self.be_sure(id);
            } else {
                shard.confirmed.remove(&from);
                pull.push(id);
                self.send_facts(from, id);
            }
        }
        self.send(from, Message::DigestsCompared { same, pull });
    }

    pub(crate) fn on_digests_compared(&mut self, from: NodeId, same: Vec<(ShardId, Hash)>, pull: Vec<ShardId>) {
        let me = self.me();
        for (id, digest) in same {
            // It may have changed here meanwhile; then the next round finds out.
            if let Some(shard) = self.custody.shard_mut(id)
                && shard.digest() == digest
            {
                shard.confirmed.insert(from);
                self.be_sure(id);
            }
        }
        for id in pull.into_iter().take(SHARDS_PER_MESSAGE) {
            let former = self.custody.shard(id).is_some_and(|shard| !shard.custodians.contains(&me));
            if former {
                self.hand_over_facts(from, id);
            } else {
                self.send_facts(from, id);
            }
        }
    }

    /// The peer may be a new process, on a disk that was restored or is new: what it had is compared again.
    pub(crate) fn doubt_copies_of(&mut self, peer: NodeId) {
        for shard in self.custody.shards.values_mut() {
            shard.confirmed.remove(&peer);
            shard.given.remove(&peer);
            shard.giving.remove(&peer);
        }
        self.custody.hurry(self.now);
        self.doubt_jobs_of(peer);
        self.doubt_modules_of(peer);
    }

    /// Compares copies now rather than with the next round.
    pub(crate) fn hurry_digests(&mut self) {
        self.custody.next_digest = self.now;
        self.wake(self.now, "digests");
    }
}
