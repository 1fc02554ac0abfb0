//! One simulated node: what survives a crash, and what runs between two.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use fastrand::Rng;
use swarm_protocol::{Effects, Event, Hash, Node, NodeId, Time};

use crate::disk::Disk;
use crate::guests::Slots;
use crate::records::Facts;

/// Events that wait for a core before its network layer takes no more.
const WAITING_MAX: usize = 2048;

/// A node's machine: identity, disk and blobs outlive every crash.
pub(crate) struct Machine {
    pub(crate) id: NodeId,
    pub(crate) key: SigningKey,
    pub(crate) slots: u32,
    pub(crate) address: String,
    pub(crate) disk: Disk,
    /// Blobs that are here and synced.
    pub(crate) blobs: BTreeSet<Hash>,
    /// When blobs were last written or relied on.
    pub(crate) claimed: BTreeMap<Hash, Time>,
    /// Blobs that a user wants to stay here.
    pub(crate) pins: BTreeSet<Hash>,
    /// What somebody copied of the disk and the blobs some time ago.
    pub(crate) copy: Option<Copy>,
    /// Counts the starts; what was meant for an earlier one is void.
    pub(crate) boot: u64,
    /// How far its wall clock is off, in milliseconds: the core is never told of it.
    pub(crate) wall_off_ms: i64,
    /// Left for good, with its disk: it never starts again.
    pub(crate) gone: bool,
    /// What runs, unless the node is down.
    pub(crate) running: Option<Running>,
}

/// What is durable on a machine.
pub(crate) struct Copy {
    pub(crate) disk: Disk,
    pub(crate) blobs: BTreeSet<Hash>,
    pub(crate) pins: BTreeSet<Hash>,
}

impl Machine {
    pub(crate) fn new(position: usize, rng: &mut Rng, disk: Disk) -> Self {
        let key = SigningKey::from_bytes(&std::array::from_fn(|_| rng.u8(..)));
        let id = NodeId::from_bytes(key.verifying_key().to_bytes());
        let address = address_of(position);
        let slots = rng.u32(1..=4);
        Self {
            id,
            key,
            slots,
            address,
            disk,
            blobs: BTreeSet::new(),
            claimed: BTreeMap::new(),
            pins: BTreeSet::new(),
            copy: None,
            boot: 0,
            wall_off_ms: 0,
            gone: false,
            running: None,
        }
    }

    /// A second machine with the same identity, on a copy of its disk.
    pub(crate) fn twin(&self, position: usize, Copy { disk, blobs, pins }: Copy) -> Self {
        let (id, key, slots) = (self.id, self.key.clone(), self.slots);
        let address = address_of(position);
        let (claimed, copy, boot, wall_off_ms, gone, running) = (BTreeMap::new(), None, 0, 0, false, None);
        Self { id, key, slots, address, disk, blobs, claimed, pins, copy, boot, wall_off_ms, gone, running }
    }

    /// Keeps blobs that were written, or that somebody is about to rely on.
    pub(crate) fn claim(&mut self, blobs: impl IntoIterator<Item = Hash>, now: Time) {
        for blob in blobs {
            self.blobs.insert(blob);
            self.claimed.insert(blob, now);
        }
    }

    /// What a user reads on its wall clock, in milliseconds since 1970.
    pub(crate) fn wall_ms(&self, now: Time) -> u64 {
        (SIMULATED_UNIX_MS + now.as_micros() / 1000).saturating_add_signed(self.wall_off_ms)
    }

    pub(crate) const fn is_up(&self) -> bool {
        self.running.is_some()
    }

    /// Up, and not standing still.
    pub(crate) fn is_awake(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.paused)
    }
}

fn address_of(position: usize) -> String {
    format!("/ip4/10.0.{}.{}/tcp/4001", position / 250, position % 250 + 1)
}

/// The wall clock at the beginning of virtual time: some day in 2026.
const SIMULATED_UNIX_MS: u64 = 1_790_000_000_000;

/// A process's own clock, which begins anew with every start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalClock {
    /// The virtual time at its origin.
    pub(crate) origin: Time,
    /// Added to it, so that no two nodes ever agree on the time.
    pub(crate) skew: Duration,
    /// By how many millionths it is too fast.
    pub(crate) drift_ppm: i64,
}

impl LocalClock {
    /// What it shows.
    fn at(&self, now: Time) -> Time {
        let since = now.since(self.origin).as_micros() as u64;
        Time::ZERO + self.skew + Duration::from_micros(stretched(since, self.drift_ppm))
    }

    /// The virtual time at which it shows `local`, at the earliest `now`.
    fn moment(&self, now: Time, local: Time) -> Time {
        let wait = local.since(self.at(now)).as_micros() as u64;
        now + Duration::from_micros(stretched(wait, -self.drift_ppm))
    }
}

/// So many microseconds on a clock that is this much too fast.
fn stretched(micros: u64, ppm: i64) -> u64 {
    micros.saturating_add_signed(micros as i64 / 1000 * ppm / 1000)
}

/// A process whose core reads at a crawl.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crawl {
    /// From one event to the next.
    pub(crate) gap: Duration,
    /// When the next event is taken.
    pub(crate) next: Time,
    /// So many messages of one peer wait, then that peer gives up.
    pub(crate) room: usize,
}

/// What waits for the disk.
#[derive(Default)]
pub(crate) struct Syncing {
    /// What the disk is about to remember of tasks.
    pub(crate) records: Vec<Arc<Facts>>,
    /// What is done after that.
    pub(crate) then: Effects,
}

/// A node's process.
pub(crate) struct Running {
    pub(crate) core: Node,
    clock: LocalClock,
    /// Stands still: takes no events, which wait for it, and shows no sign of life.
    pub(crate) paused: bool,
    /// Takes no events, but its network layer lives.
    pub(crate) stalled: bool,
    /// Was told to drain.
    pub(crate) draining: bool,
    /// Takes events one by one.
    pub(crate) crawl: Option<Crawl>,
    /// Events that the core has not taken yet: it takes none while a sync is under way.
    pub(crate) inbox: VecDeque<Event>,
    /// What is to be done once the sync under way is over.
    pub(crate) syncing: Option<Syncing>,
    /// The sync is over, but nobody has looked yet.
    pub(crate) sync_is_over: bool,
    /// The earliest tick in the queue.
    pub(crate) tick_at: Option<Time>,
    pub(crate) slots: Slots,
    /// Addresses of members as the disk has them.
    pub(crate) peers: BTreeMap<NodeId, Vec<String>>,
}

impl Running {
    /// When it started.
    pub(crate) const fn started(&self) -> Time {
        self.clock.origin
    }

    /// The process's own clock.
    pub(crate) fn local(&self, now: Time) -> Time {
        self.clock.at(now)
    }

    /// The virtual time of a moment on the process's own clock, never before `now`.
    pub(crate) fn global(&self, now: Time, local: Time) -> Time {
        self.clock.moment(now, local)
    }

    /// How many events it takes now, `most` on a good day.
    pub(crate) fn events_now(&mut self, now: Time, most: usize) -> usize {
        let Some(crawl) = &mut self.crawl else { return most };
        if now < crawl.next || self.inbox.is_empty() {
            return 0;
        }
        crawl.next = now + crawl.gap;
        1
    }

    /// Takes no events now.
    pub(crate) const fn is_still(&self) -> bool {
        self.paused || self.stalled
    }

    /// So many events wait for the core that its network layer takes no more.
    pub(crate) fn is_full(&self) -> bool {
        self.inbox.len() >= WAITING_MAX
    }

    /// How many messages of this peer wait.
    pub(crate) fn waiting_from(&self, peer: NodeId) -> usize {
        self.inbox.iter().filter(|event| matches!(event, Event::Received { from, .. } if *from == peer)).count()
    }

    pub(crate) fn new(core: Node, clock: LocalClock, slots: u32, peers: BTreeMap<NodeId, Vec<String>>) -> Self {
        Self {
            core,
            clock,
            paused: false,
            stalled: false,
            draining: false,
            crawl: None,
            inbox: VecDeque::new(),
            syncing: None,
            sync_is_over: false,
            tick_at: None,
            slots: Slots::new(slots as usize),
            peers,
        }
    }
}
