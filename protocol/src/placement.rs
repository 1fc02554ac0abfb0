//! Who keeps what: a pure function of a key and the members, so that nobody has to be asked.
//!
//! Custodians are the nearest members by the Kademlia metric (Maymounkov and Mazières, 2002: XOR of SHA-256 keys), as
//! libp2p computes it, so that a kad query finds the same nodes. The order inside them, and so the arbiter, is by
//! rendezvous hashing (Thaler and Ravishankar, 1998): nearest-by-XOR alone is three times skewed at 100 nodes.

use sha2::{Digest, Sha256};

use crate::{JobId, NodeId, ShardId};

/// Copies of everything: custodians of a key.
pub const CUSTODIANS: usize = 3;

/// A point in the Kademlia key space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key([u8; 32]);

impl Key {
    fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    /// Where a node stands: SHA-256 of its `PeerId`, as in libp2p.
    pub fn of_node(node: NodeId) -> Self {
        Self::of(&[&node.peer_id_bytes()])
    }

    /// Where a job is kept: SHA-256 of its id, which is also its kad record key.
    pub fn of_job(job: JobId) -> Self {
        Self::of(&[job.as_bytes()])
    }

    /// Where a shard is kept.
    pub fn of_shard(shard: ShardId) -> Self {
        Self::of(&[shard.job.as_bytes(), &shard.stage.to_be_bytes(), &shard.number.to_be_bytes()])
    }

    fn distance(&self, other: &Self) -> [u8; 32] {
        core::array::from_fn(|i| self.0[i] ^ other.0[i])
    }
}

/// Members that may keep things, with their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View(Vec<(NodeId, Key)>);

impl View {
    /// The view of these members.
    pub fn of(members: impl IntoIterator<Item = NodeId>) -> Self {
        Self(members.into_iter().map(|node| (node, Key::of_node(node))).collect())
    }

    /// Whether nobody may keep anything: this node drains, and is alone.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every member, the nearest to `key` first.
    pub fn nearest(&self, key: Key) -> impl Iterator<Item = NodeId> + use<> {
        let mut nearest: Vec<_> = self.0.iter().map(|(node, at)| (at.distance(&key), *node)).collect();
        nearest.sort_unstable();
        nearest.into_iter().map(|(_, node)| node)
    }

    /// The [`CUSTODIANS`] members nearest to `key`, the first arbiter first.
    pub fn custodians(&self, key: Key) -> Vec<NodeId> {
        let nearest = self.nearest(key).take(CUSTODIANS);
        let mut ranked: Vec<_> = nearest.map(|node| (rendezvous(node, key), node)).collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, node)| node).collect()
    }
}

fn rendezvous(node: NodeId, key: Key) -> Key {
    Key::of(&[node.as_bytes(), &key.0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(byte: u8) -> NodeId {
        NodeId::from_bytes([byte; 32])
    }

    #[test]
    fn custodians_do_not_depend_on_the_order_of_members() {
        let key = Key::of_job(JobId::from_bytes([7; 32]));
        let forward = View::of((0..20).map(node));
        let backward = View::of((0..20).rev().map(node));
        assert_eq!(forward.custodians(key), backward.custodians(key));
        assert_eq!(forward.custodians(key).len(), CUSTODIANS);
    }

    #[test]
    fn losing_a_stranger_moves_nothing() {
        let key = Key::of_job(JobId::from_bytes([9; 32]));
        let all = View::of((0..20).map(node));
        let kept = all.custodians(key);
        let stranger = (0..20).map(node).find(|node| !kept.contains(node)).expect("17 are strangers");
        let fewer = View::of((0..20).map(node).filter(|node| *node != stranger));
        assert_eq!(fewer.custodians(key), kept);
    }

    #[test]
    fn arbitration_is_spread_evenly() {
        let view = View::of((0..10).map(node));
        let mut first = [0; 10];
        for number in 0..1000 {
            let shard = ShardId { job: JobId::from_bytes([1; 32]), stage: 0, number };
            first[usize::from(view.custodians(Key::of_shard(shard))[0].as_bytes()[0])] += 1;
        }
        assert!(first.iter().all(|count| (20..300).contains(count)), "{first:?}");
    }
}
