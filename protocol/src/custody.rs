//! Shards kept here: facts about their tasks, how they are persisted, promised, compared and repaired.
//!
//! Always true:
//! - facts only grow (`lattice`), and are synced before anybody is told that they are here;
//! - a promise of an epoch is synced before it is given, and nothing of a lower epoch is recorded after it;
//! - a node that is no longer custodian keeps its copy.
//!
//! Elsewhere: granting the tasks is `arbiter`; which nodes are custodians is `placement`.

use core::ops::Bound;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::arbiter::{Arbiter, Parked, Want};
use crate::claims::Claims;
use crate::codec::{self, DecodeError};
use crate::edges::OverDue;
use crate::handover::{Repair, blobs_of, holders_of, lacks_holders};
use crate::lattice::{Counts, End, Results, Run, Segment, ShardState, TaskState};
use crate::message::{CHUNK_BYTES, Message, ShardDigest, ShardPromise};
use crate::node::Node;
use crate::placement::Key;
use crate::planted::PlantedBug;
use crate::{
    Ending, Epoch, Fetch, Happened, Hash, JobId, JobSpec, NodeId, Outcome, Range, ShardId, StageSpec, Table,
    TaskChange, Time, Wanted, Write,
};

/// Anti-entropy between custodians.
const DIGEST_EVERY: Duration = Duration::from_secs(5);
/// The same after a change of custodians or links: what else changes at the same time is compared together.
const DIGEST_SOON: Duration = Duration::from_secs(1);
/// Of the shards that only wait so many are looked at each heartbeat: all of a thousand every second, at little cost.
const LOOKS_AT_ONCE: usize = 256;
/// Shards in one message about many: about 200 KiB of digests.
pub(crate) const SHARDS_PER_MESSAGE: usize = 1500;
/// Progress is gathered this long, so that a fast job does not flood its custodians.
const PROGRESS_EVERY: Duration = Duration::from_millis(50);
/// The longest stored segment: a report is cut at a quarter of a frame.
const SEGMENT_BYTES_MAX: usize = crate::message::FRAME_BYTES_MAX * 4;
/// Records whose blobs are on their way here; beyond it the arbiter repeats.
const PARKED_RECORDS_MAX: usize = 4096;

/// Under this, followed by the shard, [`Table::Meta`] says that facts of it may be here alone.
pub(crate) const UNSURE_PREFIX: &[u8] = b"unsure:";

#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) spec: Arc<JobSpec>,
    pub(crate) range: Range,
    pub(crate) state: ShardState,
    /// In rank order, the first arbiter first.
    pub(crate) custodians: Vec<NodeId>,
    next_segment: u64,
    digest: Option<Hash>,
    /// Nodes whose copy equals mine.
    pub(crate) confirmed: BTreeSet<NodeId>,
    /// Nodes that were given all that I knew: enough for a node that leaves, though the copies of a busy shard differ.
    pub(crate) given: BTreeSet<NodeId>,
    /// Messages on their way to such nodes, not yet acknowledged.
    pub(crate) giving: BTreeMap<NodeId, BTreeSet<u64>>,
    /// Whether any result here names a blob.
    pub(crate) has_blobs: bool,
    /// Facts that came in a record which its arbiter may not have synced, and what could be told before them.
    unsure: Option<Unsure>,
    /// Whether the disk says that there may be such facts.
    unsure_noted: bool,
    pub(crate) arbiter: Option<Arbiter>,
    /// After losing an argument about the epoch, wait until then.
    pub(crate) quiet_until: Time,
    /// How long the last such wait was: it doubles while two nodes that do not see each other depose one another in turn.
    pub(crate) quiet: Duration,
}

/// Records are sent while their arbiter syncs them: until it says that it has, this may be their only copy.
#[derive(Debug, Default)]
struct Unsure {
    told: Counts,
    records: BTreeSet<(Epoch, u64)>,
    /// Records that came before a restart, which are not told apart any more: only another copy makes sure of them.
    restored: bool,
}

impl Shard {
    pub(crate) fn is_over(&self) -> bool {
        self.state.counts().ended() >= self.range.count
    }

    /// Segments of it on the disk.
    pub(crate) const fn segments(&self) -> u64 {
        self.next_segment
    }

    /// Where the disk says that facts of it may be here alone, if it does.
    pub(crate) fn unsure_note(&self, id: ShardId) -> Option<Vec<u8>> {
        self.unsure_noted.then(|| unsure_key(id))
    }

    /// Whether nothing was ever recorded here.
    pub(crate) fn is_new(&self) -> bool {
        self.next_segment == 0
    }

    fn digest(&mut self) -> Hash {
        *self.digest.get_or_insert_with(|| self.state.digest())
    }

    /// What may be told to others as ended: without what waits for its second copy.
    fn settled_counts(&self) -> Counts {
        if let Some(unsure) = &self.unsure {
            return unsure.told;
        }
        let open = self.arbiter.as_ref().map(Arbiter::unconfirmed).unwrap_or_default();
        let counts = self.state.counts();
        Counts {
            done: counts.done.saturating_sub(open.done),
            failed: counts.failed.saturating_sub(open.failed),
            cancelled: counts.cancelled.saturating_sub(open.cancelled),
        }
    }

    /// Whether every task has ended, as may be told to others.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled_counts().ended() >= self.range.count
    }

    /// Whether every task is done: nothing can come after that.
    pub(crate) fn is_done(&self) -> bool {
        self.state.counts().done >= self.range.count
    }

    /// The tasks of which nothing final is known.
    pub(crate) fn open_tasks(&self) -> rangemap::RangeSet<u32> {
        let mut open = rangemap::RangeSet::new();
        if self.range.count > 0 {
            open.insert(self.range.indexes());
        }
        for (range, _) in self.state.states().filter(|(_, state)| state.end.is_some()) {
            open.remove(range.indexes());
        }
        open
    }
}

/// A `Record` whose blobs are on their way here.
#[derive(Debug)]
struct ParkedRecord {
    from: NodeId,
    shard: ShardId,
    epoch: Epoch,
    number: u64,
    segment: Segment,
    /// Whether its arbiter has synced it meanwhile.
    kept: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Custody {
    shards: BTreeMap<ShardId, Shard>,
    /// Shards with open tasks, in order of the arrival of their jobs.
    pub(crate) open: BTreeSet<(u64, ShardId)>,
    /// Shards that this event may have changed: they are counted again at its end.
    touched: BTreeSet<ShardId>,
    /// Shards that are looked at every tick.
    active: BTreeSet<ShardId>,
    /// Those that are looked at with the next tick besides.
    looks: BTreeSet<ShardId>,
    /// Where the last round of looks at all open shards got to.
    looked: Option<(u64, ShardId)>,
    /// Shards of which another node may have to be the arbiter now, and whether that may be so of all.
    review: BTreeSet<ShardId>,
    review_all: bool,
    pub(crate) promises: BTreeMap<ShardId, Epoch>,
    /// Executors that wait for work, by node.
    pub(crate) wants: BTreeMap<NodeId, Want>,
    /// Reports whose blobs are on their way here.
    pub(crate) parked_reports: BTreeMap<u64, Parked>,
    parked_records: BTreeMap<u64, ParkedRecord>,
    /// Blobs on their way here because too few nodes hold them.
    pub(crate) repairs: BTreeMap<u64, Repair>,
    /// Those that failed.
    pub(crate) repairs_failed: Vec<Repair>,
    /// Shards whose blobs may have too few holders.
    pub(crate) blobs_due: BTreeSet<ShardId>,
    pub(crate) last_receipt: u64,
    pub(crate) arbitration_changed: bool,
    pub(crate) grants_changed: bool,
    pub(crate) claimable: u32,
    pub(crate) claims: Claims,
    /// Tasks that became safe in this event and that others wait for.
    pub(crate) over_due: OverDue,
    pub(crate) next_claimable_hint: Time,
    /// A shard is over, and its job's custodians are to know at once.
    progress_urgent: bool,
    /// Executors are still to be told that there is work again.
    pub(crate) hint_due: bool,
    /// Shards with facts that may be known here alone.
    unsure: BTreeSet<ShardId>,
    progress_due: BTreeSet<ShardId>,
    next_progress: Time,
    next_digest: Time,
}

impl Custody {
    /// What is kept of a shard.
    pub(crate) fn shard(&self, id: ShardId) -> Option<&Shard> {
        self.shards.get(&id)
    }

    /// The same, to be changed.
    pub(crate) fn shard_mut(&mut self, id: ShardId) -> Option<&mut Shard> {
        let shard = self.shards.get_mut(&id)?;
        self.touched.insert(id);
        Some(shard)
    }

    /// All shards.
    pub(crate) const fn kept(&self) -> &BTreeMap<ShardId, Shard> {
        &self.shards
    }

    /// The shards of a job that have open tasks.
    pub(crate) fn open_of(&self, job: JobId) -> Vec<ShardId> {
        self.shards.range(all_of(job)).filter(|(_, shard)| !shard.is_over()).map(|(id, _)| *id).collect()
    }

    // ---- what is to be looked at

    pub(crate) fn touch_all(&mut self, ids: &[ShardId]) {
        self.touched.extend(ids);
    }

    pub(crate) fn take_touched(&mut self) -> BTreeSet<ShardId> {
        core::mem::take(&mut self.touched)
    }

    /// The shard is looked at with every tick as long as it is active; when it has just changed, with the next at any rate.
    pub(crate) fn note_looks(&mut self, id: ShardId, changed: bool) {
        let arbiter = self.shards.get(&id).and_then(|shard| shard.arbiter.as_ref());
        if arbiter.is_some_and(Arbiter::is_active) {
            self.active.insert(id);
        } else {
            self.active.remove(&id);
        }
        if changed {
            self.looks.insert(id);
        }
    }

    /// Shards of which time alone may change something soon.
    pub(crate) fn active(&self) -> Vec<ShardId> {
        self.active.iter().copied().collect()
    }

    pub(crate) fn take_looks(&mut self) -> BTreeSet<ShardId> {
        let mut looks = core::mem::take(&mut self.looks);
        looks.extend(&self.active);
        looks
    }

    /// The arbiter of a shard may have to be another.
    pub(crate) fn review(&mut self, id: ShardId) {
        self.review.insert(id);
        self.arbitration_changed = true;
    }

    /// The same, from the next heartbeat on.
    pub(crate) fn review_later(&mut self, id: ShardId) {
        self.review.insert(id);
    }

    /// The same of all shards, now.
    pub(crate) fn review_all(&mut self) {
        self.review_all = true;
        self.arbitration_changed = true;
    }

    pub(crate) fn take_review(&mut self) -> Vec<ShardId> {
        let some = core::mem::take(&mut self.review);
        if core::mem::take(&mut self.review_all) {
            return self.open.iter().map(|(_, id)| *id).collect();
        }
        some.into_iter().collect()
    }

    /// Called every heartbeat: the next shards in turn are looked at. Of thousands that only wait each is seen now and then.
    pub(crate) fn look_around(&mut self) {
        let after = self.looked.map_or(Bound::Unbounded, Bound::Excluded);
        let next: Vec<_> = self.open.range((after, Bound::Unbounded)).take(LOOKS_AT_ONCE).copied().collect();
        self.looked = next.last().copied().filter(|_| next.len() == LOOKS_AT_ONCE);
        self.looks.extend(next.iter().map(|(_, id)| *id));
        self.review.extend(next.iter().map(|(_, id)| *id));
        self.arbitration_changed = true;
    }

    /// Forgets a shard of a job that is no more.
    pub(crate) fn forget(&mut self, arrival: u64, id: ShardId) -> Option<Shard> {
        self.open.remove(&(arrival, id));
        self.touched.insert(id);
        self.looks.remove(&id);
        self.review.remove(&id);
        self.promises.remove(&id);
        self.blobs_due.remove(&id);
        self.unsure.remove(&id);
        self.progress_due.remove(&id);
        self.parked_records.retain(|_, parked| parked.shard != id);
        self.parked_reports.retain(|_, parked| parked.lease.shard != id);
        self.shards.remove(&id)
    }

    /// Copies are compared soon.
    pub(crate) fn hurry(&mut self, now: Time) {
        self.next_digest = self.next_digest.min(now + DIGEST_SOON);
    }
}

/// The facts about a shard's tasks in a record of the store, if it is such a record: what a disk remembers, for auditors.
pub fn recorded_in(table: Table, key: &[u8], value: &[u8]) -> Option<(ShardId, Segment)> {
    let facts = || Some((shard_of_key(key).ok()?, codec::decode(value, SEGMENT_BYTES_MAX).ok()?));
    (table == Table::Segments).then(facts)?
}

impl Node {
    /// Names what this node knows of a shard's tasks; `None` when it keeps nothing of it.
    pub fn shard_digest(&self, shard: ShardId) -> Option<Hash> {
        self.custody.shard(shard).map(|kept| kept.state.digest())
    }

    /// Whether this node knows all that the other knows of a shard's tasks.
    pub fn knows_all_of(&self, other: &Self, shard: ShardId) -> bool {
        let Some(theirs) = other.custody.shard(shard) else { return true };
        let mine = self.custody.shard(shard).map(|kept| &kept.state);
        mine.map_or(theirs.state.states().next().is_none(), |mine| mine.covers(&theirs.state))
    }

    /// The custodians of a shard as this node sees them, the first arbiter first.
    pub fn shard_custodians(&self, shard: ShardId) -> Vec<NodeId> {
        self.membership.view.custodians(Key::of_shard(shard))
    }

    /// The shards of a job that are kept here, or of which an epoch was promised.
    pub(crate) fn shards_of(&self, job: JobId) -> impl Iterator<Item = ShardId> + use<> {
        let kept = self.custody.shards.range(all_of(job)).map(|(id, _)| *id);
        let promised = self.custody.promises.range(all_of(job)).map(|(id, _)| *id);
        kept.chain(promised).collect::<BTreeSet<_>>().into_iter()
    }

    // ---- which shards are kept

    /// Starts to keep the shards of a job of which this node is a custodian.
    pub(crate) fn adopt_shards(&mut self, job: JobId) {
        let Some(spec) = self.jobs.get(job).map(|job| job.spec.clone()) else { return };
        let me = self.me();
        if self.is_settling() {
            return;
        }
        for shard in spec.shards(job) {
            let custodians = self.shard_custodians(shard);
            if custodians.contains(&me) {
                self.ensure_shard(shard);
            }
        }
    }

    /// The shard as kept here; `None` when its job is unknown or has no such shard.
    pub(crate) fn ensure_shard(&mut self, id: ShardId) -> Option<&mut Shard> {
        let job = self.jobs.get(id.job)?;
        let stage = job.spec.stages.get(usize::from(id.stage))?;
        if id.number >= stage.shards() {
            return None;
        }
        let range = stage.shard_range(id.number);
        if !self.custody.shards.contains_key(&id) {
            let shard = Shard {
                spec: job.spec.clone(),
                range,
                state: skipped(stage, range),
                custodians: self.shard_custodians(id),
                next_segment: 0,
                digest: None,
                confirmed: BTreeSet::new(),
                given: BTreeSet::new(),
                giving: BTreeMap::new(),
                has_blobs: false,
                unsure: None,
                unsure_noted: false,
                arbiter: None,
                quiet_until: Time::ZERO,
                quiet: Duration::ZERO,
            };
            self.custody.open.insert((job.arrival, id));
            self.custody.review(id);
            let is_over = shard.is_over();
            self.custody.shards.insert(id, shard);
            if is_over {
                self.progress_is_due(id);
                self.close_if_over(id);
            }
        }
        self.custody.shard_mut(id)
    }

    /// The members changed: so may have the custodians of everything.
    pub(crate) fn refresh_custodians(&mut self) {
        let jobs: Vec<_> = self.jobs.iter().map(|(id, _)| *id).collect();
        for job in jobs {
            self.adopt_shards(job);
        }
        let view = &self.membership.view;
        for (id, shard) in &mut self.custody.shards {
            let custodians = view.custodians(Key::of_shard(*id));
            if custodians != shard.custodians {
                shard.custodians = custodians;
                self.custody.next_digest = self.custody.next_digest.min(self.now + DIGEST_SOON);
            }
        }
    }

    // ---- facts

    pub(crate) fn restore_promise(&mut self, key: &[u8], value: &[u8]) -> Result<(), DecodeError> {
        let shard = shard_of_key(key)?;
        self.custody.promises.insert(shard, codec::decode(value, 1024)?);
        Ok(())
    }

    pub(crate) fn restore_segment(&mut self, key: &[u8], value: &[u8]) -> Result<(), DecodeError> {
        let id = shard_of_key(key)?;
        let segment: Segment = codec::decode(value, SEGMENT_BYTES_MAX)?;
        let number = key.last_chunk::<8>().map_or(0, |tail| u64::from_be_bytes(*tail));
        let next = u64::from(!self.plants(PlantedBug::OverwritesSegments));
        let Some(shard) = self.ensure_shard(id) else { return Ok(()) };
        shard.has_blobs |= names_blobs(&segment);
        shard.state.join(&segment);
        shard.next_segment = shard.next_segment.max(number + next);
        self.close_if_over(id);
        Ok(())
    }

    /// The process before this one may have ended before it heard that a record is on two disks.
    pub(crate) fn restore_unsure(&mut self, key: &[u8]) -> Result<(), DecodeError> {
        let id = shard_of_key(key.strip_prefix(UNSURE_PREFIX).unwrap_or_default())?;
        let Some(shard) = self.custody.shard_mut(id) else { return Ok(()) };
        shard.unsure = Some(Unsure { restored: true, ..Unsure::default() });
        shard.unsure_noted = true;
        self.custody.unsure.insert(id);
        Ok(())
    }

    /// Takes in facts and persists them; true when any was new.
    pub(crate) fn learn(&mut self, id: ShardId, segment: Segment) -> bool {
        let me = self.me();
        let Some(shard) = self.ensure_shard(id) else { return false };
        let segment = within(shard.range, segment);
        if !shard.state.join(&segment) {
            return false;
        }
        shard.digest = None;
        shard.confirmed.clear();
        let (named, lacked) = (names_blobs(&segment), segment.iter().any(|run| lacks_holders(run, me)));
        shard.has_blobs |= named;
        let key = [&shard_key(id)[..], &shard.next_segment.to_be_bytes()].concat();
        shard.next_segment += 1;
        if let Some(arbiter) = &mut shard.arbiter {
            arbiter.forget_ended(&segment);
        }
        self.out.persist.push(Write::put(Table::Segments, key, codec::encode(&segment)));
        self.out.happened.push(Happened::Tasks { shard: id, tasks: TaskChange::of(&segment) });
        if lacked {
            self.custody.blobs_due.insert(id);
        }
        self.progress_is_due(id);
        self.close_if_over(id);
        true
    }

    fn close_if_over(&mut self, id: ShardId) {
        let Some(shard) = self.custody.shard(id) else { return };
        let Some(arrival) = self.jobs.get(id.job).map(|job| job.arrival) else { return };
        if shard.is_over() {
            self.custody.open.remove(&(arrival, id));
        }
    }

    pub(crate) fn on_merge(&mut self, from: NodeId, shard: ShardId, mut segment: Segment, receipt: Option<u64>) {
        if self.plants(PlantedBug::MergesFailuresOnly) {
            segment.iter_mut().for_each(|run| run.state.end = None);
        }
        if self.ensure_shard(shard).is_none() {
            return; // of a job that is not known here
        }
        // A result counts here when its blobs are here, or on two nodes: whoever has them may be lost before that.
        let waiting = self.fetch_before_learning(shard, &mut segment);
        self.recall_ended(shard, &segment);
        self.doubt_my_blobs(shard, &segment);
        let failed = segment.iter().any(|run| !run.state.failures.is_empty());
        if self.learn(shard, segment) && failed {
            self.exhaust_overrun(shard);
        }
        if let Some(receipt) = receipt.filter(|_| !waiting) {
            self.send(from, Message::Merged { shard, receipt });
        }
    }

    pub(crate) fn on_record_asked(&mut self, from: NodeId, id: ShardId, epoch: Epoch, number: u64, segment: Segment) {
        let promised = self.custody.promises.get(&id).copied().unwrap_or_default();
        if epoch < promised {
            self.send(from, Message::Deposed { shard: id, epoch: promised });
            return;
        }
        if self.ensure_shard(id).is_none() {
            self.pull_job(id.job, from);
            return;
        }
        if epoch > promised {
            self.promise(id, epoch);
        }
        let wanted: BTreeSet<Hash> = segment.iter().flat_map(blobs_on_one_node).collect();
        if wanted.is_empty() || self.plants(PlantedBug::SkipsOutputs) {
            self.learn_unsure(id, (epoch, number), segment);
            self.send(from, Message::Recorded { shard: id, epoch, number });
        } else if self.custody.parked_records.len() < PARKED_RECORDS_MAX {
            let sources = segment.iter().flat_map(|run| holders_of(&run.state)).chain([from]).collect::<BTreeSet<_>>();
            let fetch = self.fetch_blobs(wanted, sources);
            let parked = ParkedRecord { from, shard: id, epoch, number, segment, kept: false };
            self.custody.parked_records.insert(fetch, parked);
        }
    }

    /// Takes in what an arbiter records, who may not have synced it yet.
    fn learn_unsure(&mut self, id: ShardId, record: (Epoch, u64), segment: Segment) {
        let Some(shard) = self.custody.shard_mut(id) else { return };
        let (told, was_sure) = (shard.settled_counts(), shard.unsure.is_none());
        shard.unsure.get_or_insert_with(|| Unsure { told, ..Unsure::default() });
        let news = self.learn(id, segment);
        let Custody { shards, unsure, .. } = &mut self.custody;
        let Some(shard) = shards.get_mut(&id) else { return };
        if !news && was_sure {
            shard.unsure = None; // known before, and told
        } else if let Some(facts) = &mut shard.unsure {
            facts.records.insert(record);
            unsure.insert(id);
            if !core::mem::replace(&mut shard.unsure_noted, true) {
                self.out.persist.push(Write::put(Table::Meta, unsure_key(id), []));
            }
        }
    }

    /// The arbiter has synced a record, too.
    pub(crate) fn on_record_kept(&mut self, id: ShardId, epoch: Epoch, number: u64) {
        let mut parked = self.custody.parked_records.values_mut();
        if let Some(parked) = parked.find(|it| (it.shard, it.epoch, it.number) == (id, epoch, number)) {
            parked.kept = true;
        }
        let Some(unsure) = self.custody.shard_mut(id).and_then(|shard| shard.unsure.as_mut()) else { return };
        if unsure.records.remove(&(epoch, number)) && unsure.records.is_empty() && !unsure.restored {
            self.be_sure(id);
        }
    }

    /// What is known of this shard may be told: it is on another node, too, or there is none.
    fn be_sure(&mut self, id: ShardId) {
        self.custody.unsure.remove(&id);
        let Some(shard) = self.custody.shard_mut(id) else { return };
        if shard.unsure.take().is_none() {
            return;
        }
        // One note for all records of a shard, which no sync waits for: one that stays costs a comparison.
        if shard.is_over() && core::mem::take(&mut shard.unsure_noted) {
            self.out.note.push(Write::remove(Table::Meta, unsure_key(id)));
        }
        self.progress_is_due(id);
    }

    /// Whoever recorded last may be gone: comparing copies tells what is known to two.
    pub(crate) fn hurry_if_unsure(&mut self, id: ShardId) {
        if self.custody.unsure.contains(&id) {
            self.custody.hurry(self.now);
        }
    }

    /// Called every heartbeat. Whoever keeps a shard alone, because nobody else can be reached, tells what he knows.
    pub(crate) fn keep_sure(&mut self) {
        if self.custody.unsure.is_empty() || !self.has_settled() {
            return;
        }
        let alone = |id: &ShardId| self.custody.shard(*id).is_none_or(|shard| self.keepers(*id, shard).is_empty());
        let alone: Vec<_> = self.custody.unsure.iter().copied().filter(alone).collect();
        alone.into_iter().for_each(|id| self.be_sure(id));
    }

    pub(crate) fn fetch_blobs(&mut self, wanted: BTreeSet<Hash>, from: BTreeSet<NodeId>) -> u64 {
        let number = self.new_fetch();
        let me = self.me();
        let from = from.into_iter().filter(|node| *node != me).collect();
        self.out.fetch.push(Fetch { number, wanted: Wanted::Blobs(wanted.into_iter().collect()), from });
        number
    }

    pub(crate) fn on_record_fetched(&mut self, fetch: u64, complete: bool) {
        let Some(mut parked) = self.custody.parked_records.remove(&fetch) else { return };
        if !complete {
            return; // the arbiter repeats
        }
        let promised = self.custody.promises.get(&parked.shard).copied().unwrap_or_default();
        if parked.epoch < promised {
            self.send(parked.from, Message::Deposed { shard: parked.shard, epoch: promised });
            return;
        }
        let me = self.me();
        parked.segment.iter_mut().for_each(|run| run.add_holder(me));
        let (shard, epoch, number) = (parked.shard, parked.epoch, parked.number);
        if parked.kept {
            self.learn(shard, parked.segment);
        } else {
            self.learn_unsure(shard, (epoch, number), parked.segment);
        }
        self.send(parked.from, Message::Recorded { shard, epoch, number });
    }

    // ---- promises

    /// Obeys `epoch` from now on. An arbiter of a lower one stops.
    pub(crate) fn promise(&mut self, shard: ShardId, epoch: Epoch) {
        self.custody.promises.insert(shard, epoch);
        if !self.plants(PlantedBug::ForgetsPromises) {
            self.out.persist.push(Write::put(Table::Promises, shard_key(shard), codec::encode(&epoch)));
        }
        let arbitrates = self.custody.shard(shard).and_then(|kept| kept.arbiter.as_ref());
        if arbitrates.is_some_and(|arbiter| arbiter.epoch < epoch) && !self.plants(PlantedBug::IgnoresEpochs) {
            self.step_down(shard);
        }
    }

    pub(crate) fn on_prepare(&mut self, from: NodeId, shards: Vec<(ShardId, Epoch)>) {
        let mut promises = Vec::new();
        for (shard, epoch) in shards.into_iter().take(SHARDS_PER_MESSAGE) {
            if self.tells_expired(from, shard.job) {
                continue; // what was promised of it is forgotten
            }
            if self.jobs.get(shard.job).is_none() {
                self.pull_job(shard.job, from);
            }
            if !self.may_arbitrate(from, shard) {
                continue; // its view is not complete yet, or mine; it asks again
            }
            let before = self.custody.promises.get(&shard).copied().unwrap_or_default();
            if epoch > before {
                self.promise(shard, epoch);
            }
            self.send_facts(from, shard);
            promises.push(ShardPromise { shard, promised: before.max(epoch), before });
        }
        self.send(from, Message::Promise(promises));
    }

    /// Whether nobody whom I reach should rather arbitrate the shard than this node, which is no custodian for me.
    fn may_arbitrate(&self, node: NodeId, shard: ShardId) -> bool {
        let custodians = self.shard_custodians(shard);
        custodians.contains(&node) || !custodians.iter().any(|custodian| self.reaches(*custodian))
    }

    pub(crate) fn send_prepares(&mut self, to: NodeId, shards: &[(ShardId, Epoch)]) {
        for chunk in shards.chunks(SHARDS_PER_MESSAGE) {
            self.send(to, Message::Prepare(chunk.to_vec()));
        }
    }

    /// All that is known here of a shard, in segments of bounded size.
    fn facts_of(&self, id: ShardId) -> Vec<Segment> {
        let Some(shard) = self.custody.shard(id) else { return Vec::new() };
        let mut messages = Vec::new();
        let (mut segment, mut weight) = (Vec::new(), 0);
        for run in shard.state.runs() {
            weight += run.weight();
            segment.push(run);
            if weight >= CHUNK_BYTES {
                messages.push(core::mem::take(&mut segment));
                weight = 0;
            }
        }
        if !segment.is_empty() {
            messages.push(segment);
        }
        messages
    }

    fn send_facts(&mut self, to: NodeId, id: ShardId) {
        for segment in self.facts_of(id) {
            self.send(to, Message::Merge { shard: id, segment, receipt: None });
        }
    }

    /// The same to a custodian, by a node that is none any more: it has to know that they arrived.
    fn hand_over_facts(&mut self, to: NodeId, id: ShardId) {
        let messages = self.facts_of(id);
        let mut open = BTreeSet::new();
        for segment in messages {
            self.custody.last_receipt += 1;
            let receipt = self.custody.last_receipt;
            open.insert(receipt);
            self.send(to, Message::Merge { shard: id, segment, receipt: Some(receipt) });
        }
        let Some(shard) = self.custody.shard_mut(id) else { return };
        if open.is_empty() {
            shard.given.insert(to);
        } else {
            shard.giving.insert(to, open);
        }
    }

    // ---- anti-entropy

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

    // ---- progress

    pub(crate) fn progress_is_due(&mut self, id: ShardId) {
        self.custody.progress_due.insert(id);
        // Whoever waits for a job or a stage waits for the end of its last shard.
        let shard = self.custody.shard(id);
        self.custody.progress_urgent |= shard.is_some_and(Shard::is_settled);
    }

    pub(crate) fn flush_progress(&mut self) {
        if self.custody.progress_due.is_empty() {
            return;
        }
        let is_urgent = core::mem::take(&mut self.custody.progress_urgent);
        if self.now < self.custody.next_progress && !is_urgent {
            let at = self.custody.next_progress;
            self.wake(at, "progress");
            return;
        }
        self.custody.next_progress = self.now + PROGRESS_EVERY;
        let me = self.me();
        let (mut mine, mut others): (Told, Told) = Default::default();
        for id in core::mem::take(&mut self.custody.progress_due) {
            let Some(shard) = self.custody.shard(id) else { continue };
            let counts = (id.stage, id.number, shard.settled_counts());
            mine.entry(id.job).or_default().push(counts);
            // What several custodians know one of them tells, the first that can be reached.
            if shard.arbiter.is_some() || shard.custodians.iter().find(|node| self.reaches(**node)) == Some(&me) {
                others.entry(id.job).or_default().push(counts);
            }
        }
        for (told, to_me) in [(mine, true), (others, false)] {
            for (job, shards) in told {
                let custodians = self.jobs.get(job).map(|job| job.custodians.clone()).unwrap_or_default();
                for custodian in custodians.into_iter().filter(|node| (*node == me) == to_me) {
                    self.tell_progress(custodian, job, &shards);
                }
            }
        }
    }

    fn tell_progress(&mut self, to: NodeId, job: JobId, shards: &[(u16, u32, Counts)]) {
        for chunk in shards.chunks(SHARDS_PER_MESSAGE) {
            self.send(to, Message::Progress { job, shards: chunk.to_vec() });
        }
    }

    /// All that is known here of a job's shards, for a custodian of the job that asks.
    pub(crate) fn send_progress(&mut self, to: NodeId, job: JobId) {
        let shards = self.custody.shards.range(all_of(job));
        let shards: Vec<_> = shards
            .map(|(id, shard)| (id.stage, id.number, shard.settled_counts()))
            .filter(|(_, _, counts)| counts.ended() > 0)
            .collect();
        self.tell_progress(to, job, &shards);
    }
}

/// Where the shards of a job are among all.
const fn all_of(job: JobId) -> core::ops::RangeInclusive<ShardId> {
    ShardId { job, stage: 0, number: 0 }..=ShardId { job, stage: u16::MAX, number: u32::MAX }
}

/// How many tasks ended of some shards of some jobs.
type Told = BTreeMap<JobId, Vec<(u16, u32, Counts)>>;

/// Keeps the runs, and the parts of runs, that lie in the shard: a peer may send anything.
fn within(range: Range, segment: Segment) -> Segment {
    let clamp = |mut run: Run| {
        let first = run.range.first.max(range.first);
        let end = run.range.end().min(range.end());
        run.range = Range { first, count: end.checked_sub(first)? };
        (run.range.count > 0).then_some(run)
    };
    segment.into_iter().filter_map(clamp).collect()
}

fn names_blobs(segment: &[Run]) -> bool {
    segment.iter().any(|run| match &run.state.end {
        Some(End::Done(results) | End::Exhausted(results)) => results.holders().next().is_some(),
        _ => false,
    })
}

/// What is known of a shard before anything of it ran: the tasks that the job does not run succeeded in an earlier one.
fn skipped(stage: &StageSpec, range: Range) -> ShardState {
    let mut state = ShardState::default();
    let done = TaskState::ended(End::Done(Results::one(Outcome::bare(Ending::Exited(0)), [])));
    let run = |skipped: &Range| Run { range: *skipped, state: done.clone() };
    state.join(&within(range, stage.options.skip.iter().map(run).collect()));
    state
}

/// Blobs of results that fewer than two nodes are known to hold.
fn blobs_on_one_node(run: &Run) -> Vec<Hash> {
    if holders_of(&run.state).len() < 2 { blobs_of(&run.state).collect() } else { Vec::new() }
}

/// 38 bytes that sort like the shards.
pub(crate) fn shard_key(shard: ShardId) -> Vec<u8> {
    [shard.job.as_bytes(), &shard.stage.to_be_bytes()[..], &shard.number.to_be_bytes()[..]].concat()
}

fn unsure_key(shard: ShardId) -> Vec<u8> {
    [UNSURE_PREFIX, &shard_key(shard)].concat()
}

fn shard_of_key(key: &[u8]) -> Result<ShardId, DecodeError> {
    let read = || {
        let (job, rest) = key.split_first_chunk::<32>()?;
        let (stage, rest) = rest.split_first_chunk::<2>()?;
        let number = rest.first_chunk::<4>()?;
        let (stage, number) = (u16::from_be_bytes(*stage), u32::from_be_bytes(*number));
        Some(ShardId { job: JobId::from_bytes(*job), stage, number })
    };
    read().ok_or_else(|| DecodeError::Malformed("a shard's key is too short".into()))
}
