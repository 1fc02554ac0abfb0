//! One simulated node: what survives a crash, and what runs between two.

use std::collections::{BTreeSet, VecDeque};

use ed25519_dalek::SigningKey;
use fastrand::Rng;
use swarm_protocol::{Effects, Event, Hash, Node, NodeId, Time};

use crate::disk::Disk;
use crate::guests::Slots;

/// A node's machine: identity, disk and blobs outlive every crash.
pub(crate) struct Machine {
    pub(crate) id: NodeId,
    pub(crate) key: SigningKey,
    pub(crate) slots: u32,
    pub(crate) address: String,
    pub(crate) disk: Disk,
    /// Blobs that are here and synced.
    pub(crate) blobs: BTreeSet<Hash>,
    /// Counts the starts; what was meant for an earlier one is void.
    pub(crate) boot: u64,
    /// Stands still: takes no events, which wait for it.
    pub(crate) paused: bool,
    /// What runs, unless the node is down.
    pub(crate) running: Option<Running>,
}

impl Machine {
    pub(crate) fn new(position: usize, rng: &mut Rng, disk: Disk) -> Self {
        let key = SigningKey::from_bytes(&std::array::from_fn(|_| rng.u8(..)));
        let id = NodeId::from_bytes(key.verifying_key().to_bytes());
        let address = format!("/ip4/10.0.{}.{}/tcp/4001", position / 250, position % 250 + 1);
        let slots = rng.u32(1..=4);
        Self { id, key, slots, address, disk, blobs: BTreeSet::new(), boot: 0, paused: false, running: None }
    }

    pub(crate) const fn is_up(&self) -> bool {
        self.running.is_some()
    }

    /// Up, and not standing still.
    pub(crate) const fn is_awake(&self) -> bool {
        self.is_up() && !self.paused
    }
}

/// A node's process.
pub(crate) struct Running {
    pub(crate) core: Node,
    /// The virtual time at the origin of the process's own clock, which begins anew with every start.
    origin: Time,
    /// Added to the process's clock, so that no two nodes ever agree on the time.
    skew: std::time::Duration,
    /// Events that the core has not taken yet: it takes none while a sync is under way.
    pub(crate) inbox: VecDeque<Event>,
    /// What is to be done once the sync under way is over.
    pub(crate) syncing: Option<Effects>,
    /// The earliest tick in the queue.
    pub(crate) tick_at: Option<Time>,
    pub(crate) slots: Slots,
}

impl Running {
    /// The process's own clock.
    pub(crate) fn local(&self, now: Time) -> Time {
        Time::ZERO + self.skew + now.since(self.origin)
    }

    /// The virtual time of a moment on the process's own clock, never before `now`.
    pub(crate) fn global(&self, now: Time, local: Time) -> Time {
        now + local.since(self.local(now))
    }

    pub(crate) fn new(core: Node, origin: Time, skew: std::time::Duration, slots: u32) -> Self {
        Self {
            core,
            origin,
            skew,
            inbox: VecDeque::new(),
            syncing: None,
            tick_at: None,
            slots: Slots::new(slots as usize),
        }
    }
}
