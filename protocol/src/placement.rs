//! Who keeps what: a pure function of a key and the members, so that nobody has to be asked.
//!
//! Custodians are the nearest members by the Kademlia metric (Maymounkov and Mazières, 2002: XOR of SHA-256 keys), as
//! libp2p computes it, so that a kad query finds the same nodes. The order inside them, and so the arbiter, is by
//! rendezvous hashing (Thaler and Ravishankar, 1998): nearest-by-XOR alone is three times skewed at 100 nodes.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use crate::{JobId, NodeId, ShardId};

/// Copies of everything: custodians of a key.
pub const CUSTODIANS: usize = 3;
/// Neighbours on each side of the ring. Two, so that the ring survives the loss of any one node, and each node is watched
/// by at least four.
const RING: usize = 2;
/// Neighbours across the ring: with those that others choose, a node has about ten links, and a thousand nodes lie within
/// four or five hops of each other.
const CHORDS: usize = 3;

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

    /// Where the modules of a name are kept.
    pub fn of_module(name: &str) -> Self {
        Self::of(&[b"module ", name.as_bytes()])
    }

    fn bit(&self, bit: usize) -> bool {
        self.0[bit / 8] >> (7 - bit % 8) & 1 == 1
    }

    fn head(&self) -> u64 {
        self.0.first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head))
    }
}

/// A set of members in the order of their keys: a ring, and a trie for searches by XOR.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View(Vec<(Key, NodeId)>);

impl View {
    /// The view of these members.
    pub fn of(members: impl IntoIterator<Item = NodeId>) -> Self {
        let mut members: Vec<_> = members.into_iter().map(|node| (Key::of_node(node), node)).collect();
        members.sort_unstable();
        Self(members)
    }

    /// Whether nobody is in it: this node drains, and is alone.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many are in it.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Puts a member in or takes it out; true when that changed anything.
    pub(crate) fn set(&mut self, node: NodeId, included: bool) -> bool {
        let entry = (Key::of_node(node), node);
        match (self.0.binary_search(&entry), included) {
            (Err(place), true) => self.0.insert(place, entry),
            (Ok(place), false) => drop(self.0.remove(place)),
            _ => return false,
        }
        true
    }

    /// Whether this node may keep things.
    pub(crate) fn contains(&self, node: NodeId) -> bool {
        self.0.binary_search(&(Key::of_node(node), node)).is_ok()
    }

    /// Every member, the nearest to `key` by XOR first: a walk through the trie that the sorted keys are.
    pub fn nearest(&self, key: Key) -> impl Iterator<Item = NodeId> + '_ {
        let mut ahead = vec![(&self.0[..], 0)];
        core::iter::from_fn(move || {
            loop {
                match ahead.pop()? {
                    ([], _) => {}
                    ([(_, node)], _) => return Some(*node),
                    (members, bit) => {
                        let (zeros, ones) = members.split_at(members.partition_point(|(at, _)| !at.bit(bit)));
                        let (near, far) = if key.bit(bit) { (ones, zeros) } else { (zeros, ones) };
                        ahead.extend([(far, bit + 1), (near, bit + 1)]);
                    }
                }
            }
        })
    }

    /// The [`CUSTODIANS`] members nearest to `key`, the first arbiter first.
    pub fn custodians(&self, key: Key) -> Vec<NodeId> {
        let mut ranked: Vec<_> = self.nearest(key).take(CUSTODIANS).map(|node| (rendezvous(node, key), node)).collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, node)| node).collect()
    }

    /// With whom `me` keeps a link when there are too many for all: the [`RING`] next on each side of the ring, which
    /// keeps the graph in one piece, and [`CHORDS`] by rendezvous with me, which keep it small.
    pub(crate) fn neighbours(&self, me: NodeId) -> BTreeSet<NodeId> {
        let mine = Key::of_node(me);
        let (Ok(place) | Err(place)) = self.0.binary_search(&(mine, me));
        let (before, after) = self.0.split_at(place);
        let after = &after[usize::from(after.first().is_some_and(|(_, node)| *node == me))..];
        let up = after.iter().chain(before).take(RING);
        let down = before.iter().rev().chain(after.iter().rev()).take(RING);
        let mut neighbours: BTreeSet<_> = up.chain(down).map(|(_, node)| *node).collect();
        let mut chords: Vec<(u64, NodeId)> = Vec::with_capacity(CHORDS + 1);
        for (key, node) in &self.0 {
            let weight = mixed(mine.head() ^ key.head());
            if *node == me || chords.len() == CHORDS && chords.last().is_some_and(|(most, _)| *most <= weight) {
                continue;
            }
            chords.insert(chords.partition_point(|(other, _)| *other <= weight), (weight, *node));
            chords.truncate(CHORDS);
        }
        neighbours.extend(chords.into_iter().map(|(_, node)| node));
        neighbours
    }
}

/// The finalizer of splitmix64 (Steele, Lea and Flood, 2014): spreads what differs in few bits.
pub(crate) const fn mixed(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
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
    fn custodians_are_the_nearest_by_xor() {
        let members: Vec<_> = (0..200).map(node).collect();
        let view = View::of(members.clone());
        for number in 0..40 {
            let key = Key::of_shard(ShardId { job: JobId::from_bytes([3; 32]), stage: 0, number });
            let distance =
                |node: &NodeId| Key::of_node(*node).0.iter().zip(key.0).map(|(a, b)| a ^ b).collect::<Vec<_>>();
            let mut sorted = members.clone();
            sorted.sort_by_key(distance);
            let expected: BTreeSet<_> = sorted.into_iter().take(CUSTODIANS).collect();
            assert_eq!(view.custodians(key).into_iter().collect::<BTreeSet<_>>(), expected, "{number}");
        }
    }

    #[test]
    fn a_member_more_or_less_gives_the_view_of_all() {
        let mut view = View::of((0..20).map(node));
        assert!(view.set(node(20), true) && !view.set(node(20), true));
        assert!(view.set(node(5), false) && !view.set(node(5), false));
        assert_eq!(view, View::of((0..=20).filter(|byte| *byte != 5).map(node)));
    }

    #[test]
    fn everybody_reaches_everybody_over_a_few_neighbours() {
        let members: Vec<_> = (0..250).map(node).collect();
        let view = View::of(members.clone());
        let mut links: std::collections::BTreeMap<_, BTreeSet<NodeId>> = std::collections::BTreeMap::new();
        for me in &members {
            for other in view.neighbours(*me) {
                assert_ne!(other, *me);
                links.entry(*me).or_default().insert(other);
                links.entry(other).or_default().insert(*me);
            }
        }
        assert!(links.values().all(|peers| (4..=24).contains(&peers.len())));
        let mut reached = BTreeSet::from([node(0)]);
        for _ in 0..6 {
            reached.extend(reached.clone().iter().flat_map(|node| links[node].clone()));
        }
        assert_eq!(reached.len(), members.len());
    }

    #[test]
    fn in_a_small_view_all_are_neighbours() {
        for nodes in 0..6 {
            let view = View::of((0..nodes).map(node));
            assert_eq!(view.neighbours(node(0)), (1..nodes).map(node).collect());
        }
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
