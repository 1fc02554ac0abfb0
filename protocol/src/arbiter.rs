//! Granting the tasks of a shard: leases with epochs, and their outcomes recorded on enough nodes.
//!
//! Always true:
//! - a grant carries the epoch that this node promised itself and every reachable custodian promised;
//! - an outcome is acknowledged to its executor only when `min(2, live nodes)` nodes have synced it;
//! - a report under a lease that is not held here changes nothing.
//!
//! Leases are soft state: an arbiter that restarts asks the executors. The wait for their answers is the grace.
//!
//! Elsewhere: facts and promises are `custody`; the executor's side is `worker`.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use rangemap::RangeSet;

use crate::claim_queue::ClaimQueue;
use crate::custody::{SHARDS_PER_MESSAGE, Shard};
use crate::lattice::{AttemptId, Counts, End, Failure, Results, Run, Segment, TaskState};
use crate::message::{Grant, Message, RATES_MAX, ShardPromise, StageRate};
use crate::node::{NUMBERS_MAX, Node};
use crate::placement::Key;
use crate::planted::PlantedBug;
use crate::stragglers::{Copies, Pace};
use crate::{Content, Ending, Epoch, Hash, JobId, LeaseId, NodeId, Outcome, Range, ShardId, Time};

/// How long a lease holds without renewal: ten heartbeats. Only a frozen executor lasts that long; of one that died the
/// connection closes.
pub(crate) const LEASE_TTL: Duration = Duration::from_millis(2500);
/// What is left of a lease when the executor's connection closes: time to reconnect, no more. A process that was killed is
/// not there to be dialled; a connection alone is back within some 10 ms.
const LEASE_TTL_UNLINKED: Duration = Duration::from_millis(250);
/// After a takeover, executors have this long to re-announce their leases.
const GRACE: Duration = Duration::from_millis(400);
/// A request to a custodian is repeated after this.
const REPEAT: Duration = Duration::from_millis(500);
/// Custodians of a new shard promise unasked, as soon as they know of it: so long after the arbiter, or they are asked.
const UNASKED: Duration = Duration::from_millis(20);
/// A want is forgotten after this; executors repeat it sooner.
pub(crate) const WANT_TTL: Duration = Duration::from_millis(1500);
/// Work handed out at once: so much of what the executor manages, in milliseconds. Short batches end a job evenly; long ones
/// cost less, as long as much is left.
pub(crate) const BATCH_MS: core::ops::RangeInclusive<u64> = 20..=100;
/// Tasks in one grant.
const BATCH_TASKS_MAX: u64 = 4096;
/// What a batch that several stages fill is counted in.
const BATCH_PARTS: u64 = 1 << 20;
/// A task that failed on a node is kept from it this long, while others may take it.
const AVOID: Duration = Duration::from_secs(2);
/// Executors that may wait here.
const WANTS_MAX: usize = 4096;
/// The first wait after being deposed; a random one, so that two that argue do not meet again.
const QUIET_FIRST_MS: core::ops::Range<u64> = 50..400;
/// The longest such wait: whoever deposed me and then died is not waited for longer.
const QUIET_MAX: Duration = Duration::from_secs(2);
/// Deposed again within this time after the wait: the argument goes on.
const QUIET_MEMORY: Duration = Duration::from_secs(3);
/// Tasks of a shard of which is remembered what their last failed attempt wrote: as many as people read, 32 KiB at most.
const LAST_WORDS_MAX: usize = 32;
/// Not more often than this are executors told that there is work again.
const HINT_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct Want {
    slots: u32,
    rates: Vec<StageRate>,
    at: Time,
}

impl Want {
    /// So many tasks of a stage are a batch of this many milliseconds; none where its rate is not known.
    fn tasks_in(&self, shard: ShardId, ms: u64) -> u64 {
        let mut rates = self.rates.iter();
        let known = rates.find(|it| (it.job, it.stage) == (shard.job, shard.stage));
        known.map_or(0, |it| u64::from(it.rate) * ms / 1000)
    }

    /// How much of one stage is granted at once: a batch of 20 to 100 ms, shorter towards the end, and one task for each
    /// free slot at least. `fair` of what is left are for each claimant.
    fn batch(&self, shard: ShardId, fair: u64) -> u64 {
        let slots = u64::from(self.slots.max(1));
        let [short, long] = [BATCH_MS.start(), BATCH_MS.end()].map(|ms| self.tasks_in(shard, *ms));
        (fair / 8).clamp(short, long).clamp(slots, (fair / 2).max(slots)).min(BATCH_TASKS_MAX)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waiting for promises.
    Preparing {
        waiting: BTreeSet<NodeId>,
        repeat: Time,
        seen_before: bool,
    },
    /// Waiting for executors that hold leases of an earlier arbiter.
    Grace {
        until: Time,
    },
    Granting,
}

#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) executor: NodeId,
    /// Granted and not reported.
    pub(crate) tasks: RangeSet<u32>,
    /// The grant, or the last report.
    pub(crate) since: Time,
    expires: Time,
}

impl Lease {
    /// The tasks of `ranges` that are leased by it.
    pub(crate) fn common(&self, ranges: &[Range]) -> RangeSet<u32> {
        common(&self.tasks, ranges)
    }
}

/// Facts on their way to the other custodians.
#[derive(Debug)]
struct Recording {
    segment: Segment,
    confirmed: BTreeSet<NodeId>,
    /// Tasks that ended by it.
    ended: Counts,
    /// Whom to tell when it is safe.
    ack: Option<(NodeId, LeaseId, Vec<Range>)>,
    repeat: Time,
}

/// A report whose blobs are on their way here.
#[derive(Debug)]
pub(crate) struct Parked {
    from: NodeId,
    pub(crate) lease: LeaseId,
    outcomes: Vec<(Range, Outcome)>,
}

impl Parked {
    /// The tasks in it.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = Range> + '_ {
        self.outcomes.iter().map(|(range, _)| *range)
    }
}

#[derive(Debug)]
pub(crate) struct Arbiter {
    pub(crate) epoch: Epoch,
    phase: Phase,
    /// Neither ended, leased, reported, backing off nor waiting for tasks of another stage.
    pub(crate) pending: RangeSet<u32>,
    /// Waiting for a task of another stage: its stage and index.
    pub(crate) blocked: BTreeMap<u32, (u16, u32)>,
    /// Backing off until then.
    delayed: BTreeSet<(Time, u32)>,
    /// Who should not get a task, and until when.
    avoid: BTreeMap<u32, (NodeId, Time)>,
    pub(crate) leases: BTreeMap<u64, Lease>,
    pub(crate) pace: Pace,
    pub(crate) copies: Copies,
    /// Since when tasks wait and none was granted.
    waiting_since: Option<Time>,
    /// Since when tasks could be granted at all.
    pub(crate) able_since: Option<Time>,
    /// When a node that the stage likes took some last.
    pub(crate) liked_at: Option<Time>,
    recordings: BTreeMap<u64, Recording>,
    /// What the last failed attempts of some tasks wrote to standard error: for people.
    last_words: BTreeMap<u32, Content>,
    last_lease: u64,
    last_recording: u64,
}

impl Arbiter {
    /// `numbers` is random: an arbiter that forgot (a restored disk) may come to an epoch in which it granted before.
    fn new(epoch: Epoch, waiting: BTreeSet<NodeId>, repeat: Time, seen_before: bool, numbers: u64) -> Self {
        Self {
            epoch,
            phase: Phase::Preparing { waiting, repeat, seen_before },
            pending: RangeSet::new(),
            blocked: BTreeMap::new(),
            delayed: BTreeSet::new(),
            avoid: BTreeMap::new(),
            leases: BTreeMap::new(),
            pace: Pace::default(),
            copies: Copies::default(),
            waiting_since: None,
            able_since: None,
            liked_at: None,
            recordings: BTreeMap::new(),
            last_words: BTreeMap::new(),
            last_lease: numbers,
            last_recording: numbers,
        }
    }

    /// Tasks that ended here and wait for their second copy.
    pub(crate) fn unconfirmed(&self) -> Counts {
        let mut sum = Counts::default();
        for recording in self.recordings.values() {
            sum.add(recording.ended);
        }
        sum
    }

    /// Tasks of which the same is true.
    pub(crate) fn unconfirmed_tasks(&self) -> RangeSet<u32> {
        let runs = self.recordings.values().flat_map(|recording| &recording.segment);
        runs.filter(|run| run.range.count > 0).map(|run| run.range.indexes()).collect()
    }

    /// Facts came from elsewhere: what they end is not to be granted.
    pub(crate) fn forget_ended(&mut self, segment: &[Run]) {
        for run in segment.iter().filter(|run| run.state.end.is_some() && run.range.count > 0) {
            self.pending.remove(run.range.indexes());
            self.copies.forget(run.range);
            if !self.blocked.is_empty() {
                self.blocked.retain(|task, _| !run.range.indexes().contains(task));
            }
            if !self.delayed.is_empty() {
                self.delayed.retain(|(_, task)| !run.range.indexes().contains(task));
            }
        }
    }

    /// Tasks leased now, with their executors.
    pub(crate) fn leased(&self) -> Vec<(Range, NodeId)> {
        let leases = self.leases.values();
        leases.flat_map(|lease| ranges_of(&lease.tasks).into_iter().map(|range| (range, lease.executor))).collect()
    }

    /// Who runs this task now: two nodes, when it is a straggler.
    pub(crate) fn leases_of(&self, task: u32) -> impl Iterator<Item = NodeId> + '_ {
        self.leases.values().filter(move |lease| lease.tasks.contains(&task)).map(|lease| lease.executor)
    }

    pub(crate) const fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Tasks backing off, with the moment at which each may be granted again.
    pub(crate) fn delays(&self) -> impl Iterator<Item = (Time, u32)> + '_ {
        self.delayed.iter().copied()
    }

    /// Tasks that a node is not given, and for how long.
    pub(crate) fn avoided(&self, now: Time) -> impl Iterator<Item = (u32, NodeId, Duration)> + '_ {
        let avoided = self.avoid.iter().map(move |(task, (node, until))| (*task, *node, until.since(now)));
        avoided.filter(|(.., left)| !left.is_zero())
    }

    /// Since when tasks wait and none was granted.
    pub(crate) const fn waiting_since(&self) -> Option<Time> {
        self.waiting_since
    }

    /// What the task's last attempt wrote to standard error, while that is remembered.
    pub(crate) fn words_of(&self, task: u32) -> Content {
        self.last_words.get(&task).cloned().unwrap_or(Content::EMPTY)
    }

    /// Whether any task was granted a second time.
    fn has_two_runs(&self) -> bool {
        self.copies.were_granted()
    }

    /// Whether everything that is left is leased.
    pub(crate) fn nothing_waits(&self) -> bool {
        self.phase == Phase::Granting && self.pending.is_empty() && self.delayed.is_empty() && self.blocked.is_empty()
    }

    /// Tasks that could be granted.
    pub(crate) fn claimable(&self) -> u32 {
        count_of(&self.pending) + self.copies.offered()
    }

    /// These are leased no more: they may be granted again, unless another node runs them too.
    fn free(&mut self, tasks: &RangeSet<u32>) {
        for range in tasks.iter() {
            self.pending.insert(range.clone());
            self.copies.withdraw(range.clone());
        }
        if self.copies.were_granted() {
            for lease in self.leases.values() {
                lease.tasks.iter().for_each(|range| self.pending.remove(range.clone()));
            }
        }
    }

    /// Takes up to `count` tasks that `executor` may run.
    fn take(&mut self, executor: NodeId, count: u64, now: Time) -> RangeSet<u32> {
        self.avoid.retain(|_, (_, until)| *until > now);
        let mut taken = RangeSet::new();
        let mut left = u32::try_from(count).unwrap_or(u32::MAX);
        'ranges: for range in self.pending.iter() {
            let mut first = range.start;
            // The avoided tasks of this range, in order, cut it into pieces.
            let avoided = self.avoid.range(range.clone()).filter(|(_, (node, _))| *node == executor);
            let avoided = avoided.map(|(task, _)| *task).chain([range.end]);
            for stop in avoided {
                let piece = (stop - first).min(left);
                if piece > 0 {
                    taken.insert(first..first + piece);
                    left -= piece;
                }
                if left == 0 {
                    break 'ranges;
                }
                first = stop.saturating_add(1);
            }
        }
        for range in taken.iter() {
            self.pending.remove(range.clone());
        }
        if left > 0 && self.copies.offered() > 0 {
            taken.extend(self.take_copies(executor, left));
        }
        taken
    }

    fn lease(&mut self, executor: NodeId, tasks: RangeSet<u32>, now: Time) -> u64 {
        self.last_lease += 1;
        if tasks.is_empty() {
            return self.last_lease; // an answer to `Resume` that leaves nothing
        }
        self.leases.insert(self.last_lease, Lease { executor, tasks, since: now, expires: now + LEASE_TTL });
        self.last_lease
    }
}

/// The ranges of a set.
pub(crate) fn ranges_of(set: &RangeSet<u32>) -> Vec<Range> {
    set.iter().map(|range| Range { first: range.start, count: range.end - range.start }).collect()
}

/// How many tasks a set has.
pub(crate) fn count_of(set: &RangeSet<u32>) -> u32 {
    set.iter().map(|range| range.end - range.start).sum()
}

/// The tasks of `ranges` that are in `set`.
pub(crate) fn common(set: &RangeSet<u32>, ranges: &[Range]) -> RangeSet<u32> {
    let mut common = RangeSet::new();
    for range in ranges.iter().filter(|range| range.first < range.end()) {
        for piece in set.overlapping(&range.indexes()) {
            common.insert(piece.start.max(range.first)..piece.end.min(range.end()));
        }
    }
    common
}

impl Arbiter {
    /// Whether time alone may change something soon: who only waits for somebody to take its tasks is looked at less often.
    pub(crate) fn is_active(&self) -> bool {
        self.phase != Phase::Granting
            || !(self.delayed.is_empty() && self.leases.is_empty() && self.recordings.is_empty())
    }
}

impl Node {
    pub(crate) fn arbiter_mut(&mut self, shard: ShardId) -> Option<&mut Arbiter> {
        self.custody.shard_mut(shard)?.arbiter.as_mut()
    }

    /// The arbiter here, if it works under this lease's epoch.
    fn arbiter_of(&mut self, lease: LeaseId) -> Option<&mut Arbiter> {
        self.arbiter_mut(lease.shard).filter(|arbiter| arbiter.epoch == lease.epoch)
    }

    fn other_custodians(&self, shard: &Shard) -> BTreeSet<NodeId> {
        let me = self.me();
        shard.custodians.iter().copied().filter(|node| *node != me && self.reaches(*node)).collect()
    }

    /// Who besides me is to have the facts of this shard: its other custodians. For those that do not answer the
    /// nearest others stand in, and hand over what they were given when digests are compared (hinted handoff: DeCandia
    /// et al., "Dynamo", 2007 §4.6).
    pub(crate) fn keepers(&self, id: ShardId, shard: &Shard) -> BTreeSet<NodeId> {
        let mut keepers = self.other_custodians(shard);
        let others = shard.custodians.iter().filter(|node| **node != self.me()).count();
        if keepers.len() < others {
            let me = self.me();
            let stands_in = |node: &NodeId| *node != me && !shard.custodians.contains(node) && self.reaches(*node);
            let nearest = self.membership.view.nearest(Key::of_shard(id)).filter(stands_in);
            keepers.extend(nearest.take(others - keepers.len()));
        }
        keepers
    }

    // ---- taking up and giving up

    /// At the end of every event: whatever it made possible.
    pub(crate) fn settle_custody(&mut self) {
        if core::mem::take(&mut self.custody.arbitration_changed) {
            self.review_arbitration();
        }
        self.recount_claims();
        if core::mem::take(&mut self.custody.grants_changed) {
            self.grant_wants();
        }
        if !self.custody.over_due.is_empty() {
            self.tell_over();
        }
        self.flush_progress();
    }

    /// The first reachable custodian of each open shard arbitrates it. Of a new shard the others promise unasked what it
    /// would ask for, which saves a round trip; it asks those who did not within [`UNASKED`].
    fn review_arbitration(&mut self) {
        let may = self.has_settled();
        let me = self.me();
        let mut prepares: BTreeMap<NodeId, Vec<(ShardId, Epoch)>> = BTreeMap::new();
        let mut promises: BTreeMap<NodeId, Vec<ShardPromise>> = BTreeMap::new();
        for id in self.custody.take_review() {
            let Some(shard) = self.custody.shard(id).filter(|shard| !shard.is_over()) else { continue };
            let first = shard.custodians.iter().copied().find(|node| self.reaches(*node));
            match (first == Some(me), shard.arbiter.is_some()) {
                (true, false) if may && self.now >= shard.quiet_until => {
                    let is_new = shard.is_new() && !self.custody.promises.contains_key(&id);
                    for (other, epoch) in self.take_up(id) {
                        if !is_new {
                            prepares.entry(other).or_default().push((id, epoch));
                        }
                    }
                }
                (true, false) => self.custody.review_later(id), // as soon as it may
                (false, true) => self.step_down(id),
                (false, false) if shard.is_new() && !may => self.custody.review_later(id),
                (false, false) if shard.is_new() && !self.custody.promises.contains_key(&id) => {
                    let Some(first) = first else { continue };
                    let promised = Epoch::NONE.next(first);
                    self.promise(id, promised);
                    promises.entry(first).or_default().push(ShardPromise { shard: id, promised, before: Epoch::NONE });
                }
                _ => {}
            }
        }
        for (other, shards) in prepares {
            self.send_prepares(other, &shards);
        }
        for (first, promised) in promises {
            for chunk in promised.chunks(SHARDS_PER_MESSAGE) {
                self.send(first, Message::Promise(chunk.to_vec()));
            }
        }
    }

    /// Begins to arbitrate; returns whom to ask for a promise.
    fn take_up(&mut self, id: ShardId) -> Vec<(NodeId, Epoch)> {
        let me = self.me();
        let before = self.custody.promises.get(&id).copied().unwrap_or_default();
        let epoch = before.next(me);
        self.promise(id, epoch);
        let Some(shard) = self.custody.shard(id) else { return Vec::new() };
        let waiting = self.other_custodians(shard);
        let asked = waiting.iter().map(|other| (*other, epoch)).collect();
        let numbers = self.rng.u64(..NUMBERS_MAX);
        let first_repeat = self.now + if before == Epoch::NONE { UNASKED } else { REPEAT };
        self.wake(first_repeat, "promise");
        let arbiter = Arbiter::new(epoch, waiting, first_repeat, before != Epoch::NONE, numbers);
        if let Some(shard) = self.custody.shard_mut(id) {
            shard.arbiter = Some(arbiter);
        }
        self.hurry_if_unsure(id);
        self.advance(id);
        asked
    }

    /// Gives up; executors are told to look for the next arbiter.
    pub(crate) fn step_down(&mut self, id: ShardId) {
        let Some(arbiter) = self.custody.shard_mut(id).and_then(|shard| shard.arbiter.take()) else { return };
        for (number, lease) in arbiter.leases {
            self.send(lease.executor, Message::Fenced(LeaseId { shard: id, epoch: arbiter.epoch, number }));
        }
        self.custody.review(id);
        self.progress_is_due(id);
    }

    /// Somebody promised a higher epoch: step down, and do not argue at once.
    pub(crate) fn on_deposed(&mut self, id: ShardId, epoch: Epoch) {
        if self.arbiter_mut(id).is_some_and(|arbiter| arbiter.epoch < epoch) {
            self.promise(id, epoch);
            let (now, first) = (self.now, Duration::from_millis(self.rng.u64(QUIET_FIRST_MS)));
            if let Some(shard) = self.custody.shard_mut(id) {
                let goes_on = now.since(shard.quiet_until) < QUIET_MEMORY;
                shard.quiet = if goes_on { (shard.quiet * 2 + first / 2).clamp(first, QUIET_MAX) } else { first };
                shard.quiet_until = now + shard.quiet;
            }
        }
    }

    pub(crate) fn on_promise(&mut self, from: NodeId, promises: Vec<ShardPromise>) {
        for given in promises {
            let Some(arbiter) = self.arbiter_mut(given.shard) else { continue };
            if given.promised > arbiter.epoch {
                self.on_deposed(given.shard, given.promised);
            } else if given.promised == arbiter.epoch
                && let Phase::Preparing { waiting, seen_before, .. } = &mut arbiter.phase
            {
                waiting.remove(&from);
                *seen_before |= given.before != Epoch::NONE && given.before != given.promised;
                self.advance(given.shard);
            }
        }
    }

    /// Goes on when nobody is left to wait for.
    fn advance(&mut self, id: ShardId) {
        let now = self.now;
        let is_stopped = self.is_stopped(id.job);
        let Some(shard) = self.custody.shard_mut(id) else { return };
        let open = shard.open_tasks();
        let Some(arbiter) = shard.arbiter.as_mut() else { return };
        match &arbiter.phase {
            Phase::Preparing { waiting, seen_before, .. } if waiting.is_empty() => {
                arbiter.pending = open;
                arbiter.phase = if *seen_before { Phase::Grace { until: now + GRACE } } else { Phase::Granting };
                if is_stopped {
                    self.cancel_rest(id);
                } else {
                    self.block_tasks(id);
                }
                self.wake(now + GRACE, "grace");
            }
            Phase::Grace { until } if now >= *until => arbiter.phase = Phase::Granting,
            _ => return,
        }
        self.exhaust_overrun(id);
        self.custody.grants_changed = true;
    }

    /// Ends tasks that several arbiters, on both sides of a partition, gave more attempts together than are allowed.
    pub(crate) fn exhaust_overrun(&mut self, id: ShardId) {
        let Some(shard) = self.custody.shard(id).filter(|shard| shard.arbiter.is_some()) else { return };
        let Some(stage) = shard.spec.stages.get(usize::from(id.stage)) else { return };
        let overrun = |(range, state): (Range, &TaskState)| {
            let outcome = Outcome::bare(state.overrun(&stage.retry)?);
            Some(Run { range, state: TaskState::ended(End::Exhausted(Results::one(outcome, []))) })
        };
        let segment: Segment = shard.state.states().filter_map(overrun).collect();
        if !segment.is_empty() {
            self.recall_ended(id, &segment);
            self.record(id, segment, None);
        }
    }

    // ---- what time brings

    /// Called every tick.
    pub(crate) fn keep_custody(&mut self) {
        for id in self.custody.take_looks() {
            if self.custody.shard(id).is_none_or(Shard::is_over) {
                continue;
            }
            self.keep_preparing(id);
            self.advance(id);
            self.end_back_off(id);
            self.end_leases(id);
            self.find_stragglers(id);
            self.end_queue(id);
            self.end_total(id);
        }
        // Waits for an avoided executor end with time, too.
        self.custody.grants_changed |= self.custody.claimable > 0;
        self.keep_recordings();
        self.custody.wants.retain(|_, want| self.now.since(want.at) < WANT_TTL);
        self.keep_digests();
    }

    fn keep_preparing(&mut self, id: ShardId) {
        let now = self.now;
        let Some(shard) = self.custody.shard(id) else { return };
        let reachable = self.other_custodians(shard);
        let Some(arbiter) = self.arbiter_mut(id) else { return };
        let epoch = arbiter.epoch;
        let Phase::Preparing { waiting, repeat, .. } = &mut arbiter.phase else { return };
        waiting.retain(|node| reachable.contains(node));
        if now >= *repeat {
            *repeat = now + REPEAT;
            for node in waiting.clone() {
                self.send_prepares(node, &[(id, epoch)]);
            }
        }
    }

    fn end_back_off(&mut self, id: ShardId) {
        let now = self.now;
        let Some(arbiter) = self.arbiter_mut(id) else { return };
        let mut any = false;
        while let Some((_, task)) = arbiter.delayed.first().copied().filter(|(until, _)| *until <= now) {
            arbiter.delayed.pop_first();
            arbiter.pending.insert(task..task + 1);
            any = true;
        }
        self.custody.grants_changed |= any;
    }

    /// Fails tasks that waited longer than their job allows while no node took one, and every custodian could be asked.
    fn end_queue(&mut self, id: ShardId) {
        let now = self.now;
        let Some(shard) = self.custody.shard(id) else { return };
        let Some(queue_ms_max) = shard.spec.stages.get(usize::from(id.stage)).and_then(|stage| stage.queue_ms_max)
        else {
            return;
        };
        let complete = self.other_custodians(shard).len() + 1 == shard.custodians.len();
        // What the job's own limit holds back does not wait for a node.
        let held_back = self.is_held_back(id.job);
        let waits = complete && !held_back && self.grantable(id).is_some_and(|arbiter| !arbiter.pending.is_empty());
        let Some(arbiter) = self.arbiter_mut(id) else { return };
        if !waits {
            arbiter.waiting_since = None;
        } else if now.since(*arbiter.waiting_since.get_or_insert(now)) >= Duration::from_millis(queue_ms_max) {
            let outcome = Outcome::bare(Ending::Rejected("no node took it within its queue timeout".into()));
            let state = TaskState::ended(End::Exhausted(Results::one(outcome, [])));
            let failed = |range| Run { range, state: state.clone() };
            let segment = ranges_of(&arbiter.pending).into_iter().map(failed).collect();
            self.record(id, segment, None);
        }
    }

    fn end_leases(&mut self, id: ShardId) {
        let now = self.now;
        if self.plants(PlantedBug::KeepsDeadLeases) {
            return;
        }
        let Some(arbiter) = self.arbiter_mut(id) else { return };
        let over: Vec<_> =
            arbiter.leases.iter().filter(|(_, lease)| now >= lease.expires).map(|(number, _)| *number).collect();
        for number in over {
            self.lose_lease(id, number);
        }
    }

    /// The executor is gone: its tasks are charged a lost attempt and are pending again.
    fn lose_lease(&mut self, id: ShardId, number: u64) {
        let Some(arbiter) = self.arbiter_mut(id) else { return };
        let Some(lease) = arbiter.leases.remove(&number) else { return };
        let lease_id = LeaseId { shard: id, epoch: arbiter.epoch, number };
        let lost = Outcome::bare(Ending::Lost);
        let outcomes: Vec<_> = ranges_of(&lease.tasks).into_iter().map(|range| (range, lost.clone())).collect();
        if !outcomes.is_empty() {
            self.record_outcomes(lease.executor, lease_id, outcomes, false);
        }
    }

    // ---- granting

    /// Tasks that could be granted when grants were made last.
    pub(crate) fn claimable(&self) -> u32 {
        self.custody.claimable
    }

    pub(crate) fn grantable(&self, id: ShardId) -> Option<&Arbiter> {
        let arbiter = self.custody.shard(id)?.arbiter.as_ref()?;
        let job = self.jobs.get(id.job)?;
        let stopped = job.stop.is_some() && !self.plants(PlantedBug::GrantsStopped);
        let waits = !job.is_ready(id.stage) && !self.plants(PlantedBug::IgnoresNeeds);
        let ready = arbiter.phase == Phase::Granting && !stopped && !waits && job.can_be_fetched();
        ready.then_some(arbiter)
    }

    fn grant_wants(&mut self) {
        let claimants = self.membership.links.len() as u64 + 1;
        // Of those who wait whoever has the artifact and the inputs already goes first: that costs no waiting.
        let next = self.custody.claims.queue.first();
        let lacks = |node: &NodeId| next.is_some_and(|job| !self.has_blobs_of(job, *node));
        let wants = self.custody.wants.iter().map(|(node, want)| (lacks(node), want.at, *node));
        let mut wants: Vec<_> = wants.collect();
        wants.sort_unstable();
        let mut remaining = self.count_claimable();
        for (.., executor) in wants {
            if remaining == 0 {
                break;
            }
            let Some(want) = self.custody.wants.remove(&executor) else { continue };
            let queue = core::mem::take(&mut self.custody.claims.queue);
            let granted = self.grant_some(executor, &want, remaining / claimants, &queue);
            self.custody.claims.queue = queue;
            if granted == 0 {
                self.custody.wants.insert(executor, want);
                continue;
            }
            self.recount_claims();
            remaining = self.count_claimable();
        }
        self.custody.claimable = u32::try_from(remaining).unwrap_or(u32::MAX);
        self.custody.hint_due = remaining > 0 && (self.custody.hint_due || !self.uninformed().is_empty());
        self.worker.wants_changed |= remaining > 0;
    }

    /// Peers that were told last that there is nothing for them, and now there is.
    fn uninformed(&self) -> Vec<NodeId> {
        let told_nothing = self.membership.links.told_nothing();
        told_nothing.filter(|peer| self.claimable_for(*peer) > 0).collect()
    }

    /// At the end of an event, when this node took what it wants itself: executors need not wait for the next heartbeat to
    /// learn that there is work.
    pub(crate) fn tell_of_work(&mut self) {
        if !self.custody.hint_due {
            return;
        }
        if self.now < self.custody.next_claimable_hint {
            return self.wake(self.custody.next_claimable_hint, "hint");
        }
        self.custody.hint_due = false;
        self.custody.next_claimable_hint = self.now + HINT_EVERY;
        for peer in self.uninformed() {
            self.send_heartbeat(peer);
        }
    }

    /// Grants a batch of the first shards that have any tasks for this executor; returns how many tasks.
    fn grant_some(&mut self, executor: NodeId, want: &Want, fair: u64, queue: &ClaimQueue) -> u64 {
        let mut granted = 0;
        // Parts of a batch: tasks of several stages may fill it, each at its own rate.
        let mut left = BATCH_PARTS;
        let mut shares: BTreeMap<JobId, u32> = BTreeMap::new();
        let groups: Vec<_> = queue.groups().map(|(group, _)| group).filter(|it| self.may_claim(executor, it)).collect();
        for (id, pending) in queue.order(&groups) {
            // A shard ends: the rest of a batch is not worth a lease of its own, unless a slot waits for it.
            let fills_slots = granted >= u64::from(want.slots.max(1));
            if left * if fills_slots { 2 } else { BATCH_TASKS_MAX } < BATCH_PARTS {
                break;
            }
            let batch = match self.plants(PlantedBug::GrantsBeyondWants) {
                true => BATCH_TASKS_MAX,
                false => want.batch(id, fair),
            };
            let limited = self.jobs.is_limited(id.job);
            let share = limited.then(|| *shares.entry(id.job).or_insert_with(|| self.share_left(id.job)));
            let count = (batch * left / BATCH_PARTS).min(pending.min(share.unwrap_or(u32::MAX)).into());
            let most = if count > 0 { self.may_take(id, executor, count) } else { 0 };
            let now = self.now;
            let Some(arbiter) = self.arbiter_mut(id).filter(|_| most > 0) else { continue };
            let tasks = arbiter.take(executor, most, now);
            let taken = count_of(&tasks);
            if taken == 0 {
                continue;
            }
            shares.entry(id.job).and_modify(|share| *share = share.saturating_sub(taken));
            granted += u64::from(taken);
            left = left.saturating_sub(u64::from(taken) * BATCH_PARTS / batch);
            self.note_liked(id, executor);
            self.send_grant(id, executor, tasks, None);
        }
        granted
    }

    fn send_grant(&mut self, id: ShardId, executor: NodeId, tasks: RangeSet<u32>, continues: Option<LeaseId>) {
        let now = self.now;
        let Some(shard) = self.custody.shard_mut(id) else { return };
        let with_attempts = attempts_of(shard, &tasks);
        let Some(arbiter) = shard.arbiter.as_mut() else { return };
        arbiter.waiting_since = None;
        let lease = LeaseId { shard: id, epoch: arbiter.epoch, number: arbiter.lease(executor, tasks, now) };
        let ttl_ms = LEASE_TTL.as_millis() as u32;
        self.send(executor, Message::Grant(Grant { lease, continues, tasks: with_attempts, ttl_ms }));
    }

    pub(crate) fn on_want(&mut self, from: NodeId, slots: u32, mut rates: Vec<StageRate>) {
        if self.custody.wants.len() < WANTS_MAX {
            rates.truncate(RATES_MAX);
            self.custody.wants.insert(from, Want { slots, rates, at: self.now });
            self.custody.grants_changed = true;
        }
    }

    // ---- leases

    /// The executor lives and runs these leases.
    pub(crate) fn renew(&mut self, from: NodeId, leases: Vec<LeaseId>) {
        let now = self.now;
        for id in leases {
            let lease = self.arbiter_of(id).and_then(|arbiter| arbiter.leases.get_mut(&id.number));
            match lease.filter(|lease| lease.executor == from) {
                Some(lease) => lease.expires = now + LEASE_TTL,
                None => self.send(from, Message::Fenced(id)),
            }
        }
    }

    /// The executor's connection closed.
    pub(crate) fn on_executor_unlinked(&mut self, executor: NodeId) {
        let expires = self.now + LEASE_TTL_UNLINKED;
        self.custody.wants.remove(&executor);
        let mut any = false;
        for id in self.custody.active() {
            let leases = self.arbiter_mut(id).into_iter().flat_map(|arbiter| arbiter.leases.values_mut());
            for lease in leases.filter(|lease| lease.executor == executor) {
                lease.expires = lease.expires.min(expires);
                any = true;
            }
        }
        if any {
            self.wake(expires, "lease");
        }
        self.on_arbiter_unlinked(executor);
    }

    pub(crate) fn on_release(&mut self, from: NodeId, id: LeaseId, tasks: Vec<Range>) {
        let Some(arbiter) = self.arbiter_of(id) else { return };
        let Some(lease) = arbiter.leases.get_mut(&id.number).filter(|lease| lease.executor == from) else { return };
        let released = lease.common(&tasks);
        released.iter().for_each(|range| lease.tasks.remove(range.clone()));
        if lease.tasks.is_empty() {
            arbiter.leases.remove(&id.number);
        }
        arbiter.free(&released);
        self.custody.grants_changed = true;
    }

    pub(crate) fn on_resume(&mut self, from: NodeId, old: LeaseId, tasks: Vec<Range>) {
        let Some(arbiter) = self.arbiter_mut(old.shard) else {
            if self.is_over_elsewhere(old.shard) {
                self.send(from, Message::Ack { lease: old, tasks });
            } else {
                self.custody.hurry(self.now); // the executor asks again
            }
            return;
        };
        if matches!(arbiter.phase, Phase::Preparing { .. }) {
            return; // the executor asks again
        }
        if old.epoch == arbiter.epoch
            && let Some(lease) = arbiter.leases.get(&old.number)
            && lease.executor == from
        {
            let lease = arbiter.leases.remove(&old.number).expect("just seen");
            arbiter.free(&lease.tasks);
        }
        // What already runs waits for nothing any more, though its end of waiting was not heard of here.
        for range in tasks.iter().filter(|range| range.count > 0) {
            let running: Vec<u32> = arbiter.blocked.range(range.indexes()).map(|(task, _)| *task).collect();
            for task in running {
                arbiter.blocked.remove(&task);
                arbiter.pending.insert(task..task + 1);
            }
        }
        let continued = common(&arbiter.pending, &tasks);
        for range in continued.iter() {
            arbiter.pending.remove(range.clone());
        }
        self.send_grant(old.shard, from, continued, Some(old));
        self.custody.grants_changed = true;
    }

    /// Whether every task of the shard has ended, and somebody besides me knows it where there is anybody.
    fn is_over_elsewhere(&self, id: ShardId) -> bool {
        let known = |shard: &Shard| !shard.confirmed.is_empty() || self.keepers(id, shard).is_empty();
        self.custody.shard(id).is_some_and(|shard| shard.is_over() && known(shard))
    }

    // ---- reports and records

    pub(crate) fn on_report(&mut self, from: NodeId, id: LeaseId, outcomes: Vec<(Range, Outcome)>) {
        let now = self.now;
        if self.plants(PlantedBug::TakesFencedReports) && self.arbiter_mut(id.shard).is_some() {
            return self.record_outcomes(from, id, outcomes, true);
        }
        let Some(arbiter) = self.arbiter_of(id) else {
            self.send(from, Message::Fenced(id));
            return;
        };
        let recording = arbiter.recordings.values().any(|it| it.ack.as_ref().is_some_and(|(_, lease, _)| *lease == id));
        let Some(lease) = arbiter.leases.get_mut(&id.number).filter(|lease| lease.executor == from) else {
            if !recording && !self.custody.parked_reports.values().any(|parked| parked.lease == id) {
                self.send(from, Message::Fenced(id));
            }
            return;
        };
        let mut accepted = Vec::new();
        for (range, outcome) in outcomes {
            for piece in ranges_of(&common(&lease.tasks, &[range])) {
                lease.tasks.remove(piece.indexes());
                accepted.push((piece, outcome.clone()));
            }
        }
        arbiter.pace.note(now.since(core::mem::replace(&mut lease.since, now)));
        if lease.tasks.is_empty() {
            arbiter.leases.remove(&id.number);
        }
        let blobs: BTreeSet<Hash> = accepted.iter().flat_map(|(_, outcome)| outcome.blobs()).collect();
        if accepted.is_empty() {
        } else if blobs.is_empty() || from == self.me() || self.plants(PlantedBug::SkipsOutputs) {
            self.record_outcomes(from, id, accepted, true);
        } else {
            let fetch = self.fetch_blobs(blobs, BTreeSet::from([from]));
            self.custody.parked_reports.insert(fetch, Parked { from, lease: id, outcomes: accepted });
        }
    }

    pub(crate) fn on_report_fetched(&mut self, fetch: u64, complete: bool) {
        let Some(Parked { from, lease, mut outcomes }) = self.custody.parked_reports.remove(&fetch) else { return };
        if self.arbiter_of(lease).is_none() || self.is_stopped(lease.shard.job) {
            return; // the executor still has it, and asks the next arbiter
        }
        if !complete {
            outcomes.iter_mut().for_each(|(_, outcome)| *outcome = Outcome::bare(Ending::Lost));
        }
        self.record_outcomes(from, lease, outcomes, true);
    }

    /// Turns outcomes into facts, decides about further attempts, and records.
    fn record_outcomes(&mut self, from: NodeId, id: LeaseId, outcomes: Vec<(Range, Outcome)>, ack: bool) {
        let acked = ack.then(|| (from, id, outcomes.iter().map(|(range, _)| *range).collect()));
        let mut segment = Segment::new();
        for (range, outcome) in outcomes {
            if outcome.ending.is_success() {
                let done = End::Done(Results::one(outcome, [from, self.me()]));
                segment.push(Run { range, state: TaskState::ended(done) });
            } else {
                let runs = range.indexes().filter_map(|task| self.judge_failure(from, id, task, &outcome));
                segment.extend(runs.collect::<Vec<_>>());
            }
        }
        self.record(id.shard, segment, acked);
    }

    /// One failed attempt: either the task is exhausted, or it is tried again.
    fn judge_failure(&mut self, node: NodeId, id: LeaseId, task: u32, outcome: &Outcome) -> Option<Run> {
        let (now, me) = (self.now, self.me());
        let jitter = self.rng.u64(0..=250);
        let lost_more = usize::from(self.plants(PlantedBug::RetriesLostOnceMore));
        let failed_more = usize::from(self.plants(PlantedBug::RetriesOnceMore));
        let shard = self.custody.shard_mut(id.shard).filter(|shard| !shard.state.has_ended(task))?;
        let retry = &shard.spec.stages.get(usize::from(id.shard.stage))?.retry;
        let failure = Failure { node, ending: outcome.ending.clone() };
        let mut state = TaskState::failed(AttemptId::from(id), failure);
        // Its executor may have told of this attempt already, after a restart.
        let (lost, failed) = shard.state.get(task).map_or((0, 0), |known| known.attempts_but(id.into()));
        let is_lost = outcome.ending == Ending::Lost;
        let lost_max = usize::from(retry.lost_max) + lost_more;
        let failed_max = usize::from(retry.max) + failed_more;
        let budget_left = if is_lost { lost < lost_max } else { failed < failed_max };
        if retry.allows(&outcome.ending) && budget_left {
            let doublings = u32::try_from(failed.min(20)).unwrap_or(20);
            let wait = retry.backoff_ms.saturating_mul(1 << doublings).min(retry.backoff_ms_max);
            // Jitter of up to a quarter, so that many failures of one moment do not come back as one.
            let wait = if is_lost { 0 } else { wait + wait * jitter / 1000 };
            let arbiter = shard.arbiter.as_mut()?;
            arbiter.copies.withdraw(task..task + 1);
            arbiter.last_words.insert(task, outcome.stderr.clone());
            if arbiter.last_words.len() > LAST_WORDS_MAX {
                arbiter.last_words.pop_first();
            }
            if !arbiter.has_two_runs() || arbiter.leases_of(task).next().is_none() {
                arbiter.delayed.insert((now + Duration::from_millis(wait), task));
            }
            arbiter.avoid.insert(task, (node, now + Duration::from_millis(wait) + AVOID));
            self.wake(now + Duration::from_millis(wait), "back-off");
        } else {
            state.end = Some(End::Exhausted(Results::one(outcome.clone(), [node, me])));
        }
        Some(Run { range: Range { first: task, count: 1 }, state })
    }

    /// Persists facts and brings them to the other custodians; acknowledges when enough have them.
    pub(crate) fn record(&mut self, id: ShardId, segment: Segment, ack: Option<(NodeId, LeaseId, Vec<Range>)>) {
        let repeat = self.now + REPEAT;
        let Some(before) = self.custody.shard(id).map(|shard| shard.state.counts()) else { return };
        if self.arbiter_mut(id).is_some_and(|arbiter| arbiter.has_two_runs()) {
            self.recall_ended(id, &segment);
        }
        self.learn(id, segment.clone());
        self.is_mine_alone(id);
        let Some(shard) = self.custody.shard(id) else { return };
        let after = shard.state.counts();
        let others = self.keepers(id, shard);
        let ended = Counts {
            done: after.done.saturating_sub(before.done),
            failed: after.failed.saturating_sub(before.failed),
            cancelled: after.cancelled.saturating_sub(before.cancelled),
        };
        let Some(arbiter) = self.arbiter_mut(id) else { return };
        arbiter.last_recording += 1;
        let (number, epoch) = (arbiter.last_recording, arbiter.epoch);
        // What an executor reported stands for itself. What follows from something else that is synced now, as a stop, waits.
        let stands = ack.is_some();
        let recording = Recording { segment: segment.clone(), confirmed: BTreeSet::new(), ended, ack, repeat };
        arbiter.recordings.insert(number, recording);
        for other in others {
            let record = Message::Record { shard: id, epoch, number, segment: segment.clone() };
            if stands {
                self.ask(other, record)
            } else {
                self.send(other, record)
            }
            self.send(other, Message::RecordKept { shard: id, epoch, number });
        }
        self.finish_recordings(id);
        self.custody.grants_changed = true;
    }

    pub(crate) fn on_recorded(&mut self, from: NodeId, id: ShardId, epoch: Epoch, number: u64) {
        let Some(arbiter) = self.arbiter_mut(id).filter(|arbiter| arbiter.epoch == epoch) else { return };
        if let Some(recording) = arbiter.recordings.get_mut(&number) {
            recording.confirmed.insert(from);
            self.finish_recordings(id);
        }
    }

    /// Acknowledges what `min(2, live nodes)` nodes, this one included, have synced.
    fn finish_recordings(&mut self, id: ShardId) {
        let Some(shard) = self.custody.shard(id) else { return };
        let others = self.keepers(id, shard);
        let need = others.len().min(usize::from(!self.plants(PlantedBug::RecordsAlone)));
        let Some(arbiter) = self.arbiter_mut(id) else { return };
        let is_safe = |recording: &Recording| recording.confirmed.len() >= need;
        let safe: Vec<_> = arbiter.recordings.iter().filter(|(_, it)| is_safe(it)).map(|(number, _)| *number).collect();
        let safe: Vec<_> = safe.into_iter().filter_map(|number| arbiter.recordings.remove(&number)).collect();
        for recording in safe {
            self.progress_is_due(id);
            self.note_over(id, &recording.segment);
            if let Some((executor, lease, tasks)) = recording.ack {
                self.send(executor, Message::Ack { lease, tasks });
            }
        }
    }

    /// Shards whose last records are not confirmed are over, so not in `open`; they are found by their arbiter.
    fn keep_recordings(&mut self) {
        let now = self.now;
        let shards = self.custody.active().into_iter().filter_map(|id| Some((id, self.custody.shard(id)?)));
        let busy = shards.filter(|(_, shard)| shard.arbiter.as_ref().is_some_and(|it| !it.recordings.is_empty()));
        let busy: Vec<_> = busy.map(|(id, shard)| (id, self.keepers(id, shard))).collect();
        for (id, others) in busy {
            self.finish_recordings(id);
            let Some(arbiter) = self.arbiter_mut(id) else { continue };
            let epoch = arbiter.epoch;
            let mut repeats = Vec::new();
            for (&number, recording) in arbiter.recordings.iter_mut().filter(|(_, it)| now >= it.repeat) {
                recording.repeat = now + REPEAT;
                for other in others.iter().filter(|other| !recording.confirmed.contains(other)) {
                    repeats.push((*other, number, recording.segment.clone()));
                }
            }
            for (other, number, segment) in repeats {
                self.send(other, Message::Record { shard: id, epoch, number, segment });
                self.send(other, Message::RecordKept { shard: id, epoch, number });
            }
        }
    }

    /// A custodian became reachable or unreachable: fewer or more copies may be enough.
    pub(crate) fn on_arbiter_link_change(&mut self, peer: NodeId) {
        let shards = self.custody.kept().iter();
        let concerned = shards.filter(|(_, shard)| shard.arbiter.is_some() && shard.custodians.contains(&peer));
        let concerned: Vec<_> = concerned.map(|(id, _)| *id).collect();
        for id in concerned {
            self.keep_preparing(id);
            self.advance(id);
            self.finish_recordings(id);
        }
    }

    // ---- stops and stages

    /// Ends what is open of the job's shards, and takes back what was granted.
    pub(crate) fn on_job_stopped(&mut self, job: JobId) {
        if self.plants(PlantedBug::GrantsStopped) {
            return;
        }
        self.drop_leases_of(job);
        let arbitrated = self.custody.open_of(job);
        self.custody.touch_all(&arbitrated);
        for id in arbitrated {
            let granting = |arbiter: &Arbiter| !matches!(arbiter.phase, Phase::Preparing { .. });
            if self.arbiter_mut(id).is_some_and(|arbiter| granting(arbiter)) {
                self.cancel_rest(id);
            }
        }
    }

    fn cancel_rest(&mut self, id: ShardId) {
        let Some(shard) = self.custody.shard_mut(id) else { return };
        let open = ranges_of(&shard.open_tasks());
        let Some(arbiter) = shard.arbiter.as_mut() else { return };
        let epoch = arbiter.epoch;
        let leases = core::mem::take(&mut arbiter.leases);
        arbiter.pending.clear();
        arbiter.delayed.clear();
        arbiter.blocked.clear();
        for (number, lease) in leases {
            let tasks = ranges_of(&lease.tasks);
            self.send(lease.executor, Message::Recall { lease: LeaseId { shard: id, epoch, number }, tasks });
        }
        let cancelled = |range| Run { range, state: TaskState::ended(End::Cancelled) };
        self.record(id, open.into_iter().map(cancelled).collect(), None);
    }

    pub(crate) fn on_job_known(&mut self, job: JobId) {
        self.worker.parked_changed = true;
        self.seek_in(job);
    }

    /// Whether tasks of the job can be granted may have changed.
    pub(crate) fn on_job_able(&mut self, job: JobId) {
        let open = self.custody.open_of(job);
        self.custody.touch_all(&open);
        self.custody.grants_changed = true;
    }

    /// Jobs of which I arbitrate a shard that waits for an earlier stage.
    pub(crate) fn jobs_with_blocked_shards(&self) -> BTreeSet<JobId> {
        let arbitrates = |id: &ShardId| self.custody.shard(*id).is_some_and(|shard| shard.arbiter.is_some());
        let blocked = |id: &ShardId| self.jobs.get(id.job).is_some_and(|job| !job.is_ready(id.stage));
        self.open_of_staged().into_iter().filter(|id| blocked(id) && arbitrates(id)).map(|id| id.job).collect()
    }

    /// The open shards of jobs that have several stages: only their tasks wait for others.
    pub(crate) fn open_of_staged(&self) -> Vec<ShardId> {
        let staged = self.jobs.iter().filter(|(_, job)| job.spec.stages.len() > 1 && !job.is_said_over());
        staged.flat_map(|(id, _)| self.custody.open_of(*id)).collect()
    }
}

/// The tasks with how often each was tried before, neighbours with the same number together.
fn attempts_of(shard: &Shard, tasks: &RangeSet<u32>) -> Vec<(Range, u16)> {
    let mut all: Vec<(Range, u16)> = Vec::new();
    for task in tasks.iter().flat_map(Clone::clone) {
        let attempts = shard.state.get(task).map_or(0, |state| state.failures.len() as u16);
        match all.last_mut() {
            Some((range, same)) if *same == attempts && range.end() == task => range.count += 1,
            _ => all.push((Range { first: task, count: 1 }, attempts)),
        }
    }
    all
}
