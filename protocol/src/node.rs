//! The core: takes each event to the part that owns it, and gathers what is to be done.
//!
//! Always true:
//! - nothing here knows a clock, a socket, a disk or a thread; the same events give the same effects;
//! - what one part says to another on the same node is a message like any other: a swarm of one runs the same code;
//! - effects are to be executed in the order persist, send, start, notify.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::codec::{self, DecodeError};
use crate::custody::{Custody, UNSURE_PREFIX};
use crate::expiry::Expiry;
use crate::jobs::{EARLY_CANCEL_PREFIX, Jobs};
use crate::links::{HEARTBEAT, LINKS_FULL_MAX};
use crate::membership::{INCARNATION_KEY, Membership};
use crate::message::{Message, NodeRecord};
use crate::notes::RUNNING_KEY;
use crate::parallel::Shares;
use crate::planted::PlantedBug;
use crate::publishing::Publishing;
use crate::questions::Questions;
use crate::seek::Seek;
use crate::uses::Uses;
use crate::worker::Worker;
use crate::{Effects, Event, NodeId, Notice, Table, Time, Write};

/// After a start with known peers, how long to look for them before taking up arbitration alone.
const STARTUP_GRACE: Duration = Duration::from_secs(2);
/// In [`Table::Meta`] once another node was met.
const MET_KEY: &[u8] = b"met";
/// Leases, records, questions and receipts are numbered from a random number below this: those of two terms or two
/// processes of one node never meet.
pub(crate) const NUMBERS_MAX: u64 = 1 << 48;
/// The longest record read back from the store.
const RECORD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a core is given once.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this node is. `incarnation` and `sequence` are set by the core.
    pub record: NodeRecord,
    /// Seeds the node's only generator of randomness.
    pub seed: u64,
    /// Whether it was told of other nodes to join: then it is never the only one, only cut off.
    pub joins: bool,
    /// What the node does wrong on purpose.
    #[cfg(feature = "planted-bugs")]
    pub bug: Option<crate::PlantedBug>,
}

/// Why the stored records cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("a record in table `{table}` cannot be read")]
pub struct RestoreError {
    /// The table.
    pub table: &'static str,
    /// Why.
    pub source: DecodeError,
}

/// A node's mind.
#[derive(Debug)]
pub struct Node {
    pub(crate) now: Time,
    pub(crate) rng: fastrand::Rng,
    pub(crate) out: Effects,
    /// Messages to myself, handled before the event is over.
    pub(crate) inbox: VecDeque<Message>,
    pub(crate) membership: Membership,
    pub(crate) jobs: Jobs,
    pub(crate) custody: Custody,
    pub(crate) worker: Worker,
    pub(crate) publishing: Publishing,
    pub(crate) expiry: Expiry,
    pub(crate) uses: Uses,
    pub(crate) questions: Questions,
    pub(crate) seek: Seek,
    pub(crate) shares: Shares,
    next_heartbeat: Time,
    /// Moments between heartbeats at which something is due.
    wakes: BTreeMap<Time, &'static str>,
    /// The same for parts that wait for one moment at a time.
    alarms: BTreeMap<&'static str, Time>,
    /// Before this I do not arbitrate: others who know more may be about to appear.
    pub(crate) alone_until: Time,
    /// Nodes that were known before the start.
    pub(crate) expected: BTreeSet<NodeId>,
    pub(crate) started: Time,
    pub(crate) joins: bool,
    /// Whether it ever heard of another node, who may be gone by now.
    pub(crate) has_met: bool,
    /// A node that starts knows only itself and would keep everything. When it was one of many, it waits until then for
    /// word of the others before it keeps what it did not keep before.
    settles_at: Option<Time>,
    next_fetch: u64,
    #[cfg(feature = "planted-bugs")]
    bug: Option<crate::PlantedBug>,
}

impl Node {
    /// A node that remembers `records` (every record of every table but [`Table::Kad`]), and what it must do first.
    pub fn start(
        config: Config,
        now: Time,
        records: impl IntoIterator<Item = (Table, Vec<u8>, Vec<u8>)>,
    ) -> Result<(Self, Effects), RestoreError> {
        let mut node = Self {
            now,
            rng: fastrand::Rng::with_seed(config.seed),
            out: Effects::default(),
            inbox: VecDeque::new(),
            membership: Membership::new(config.record, now),
            jobs: Jobs::default(),
            custody: Custody::default(),
            worker: Worker::default(),
            publishing: Publishing::default(),
            expiry: Expiry::new(now),
            uses: Uses::default(),
            questions: Questions::default(),
            seek: Seek::default(),
            shares: Shares::default(),
            next_heartbeat: now,
            wakes: BTreeMap::new(),
            alarms: BTreeMap::new(),
            alone_until: now,
            expected: BTreeSet::new(),
            started: now,
            joins: config.joins,
            has_met: false,
            settles_at: None,
            next_fetch: 0,
            #[cfg(feature = "planted-bugs")]
            bug: config.bug,
        };
        // An answer to a question of the process before this one must not be taken for one to a question of this one.
        node.questions.last = node.rng.u64(..NUMBERS_MAX);
        node.custody.last_receipt = node.rng.u64(..NUMBERS_MAX);
        let (mut segments, mut unsure) = (Vec::new(), Vec::new());
        let mut note = None;
        let mut incarnation = 0;
        let records: Vec<_> = records.into_iter().collect();
        if records.iter().filter(|(table, ..)| *table == Table::Peers).count() > LINKS_FULL_MAX {
            node.settles_at = Some(now + STARTUP_GRACE);
        }
        for (table, key, value) in records {
            let unreadable = |source| RestoreError { table: table.name(), source };
            match table {
                Table::Meta if key == INCARNATION_KEY => {
                    incarnation = codec::decode(&value, RECORD_BYTES_MAX).map_err(unreadable)?;
                }
                Table::Meta if key == RUNNING_KEY => note = Some(value),
                Table::Meta if key == MET_KEY => node.has_met = true,
                Table::Meta if key.starts_with(EARLY_CANCEL_PREFIX) => node.restore_early_cancel(&key),
                Table::Meta if key.starts_with(UNSURE_PREFIX) => unsure.push(key),
                Table::Peers => node.expect(&key),
                Table::Jobs => node.restore_job(&key, &value).map_err(unreadable)?,
                Table::Promises => node.restore_promise(&key, &value).map_err(unreadable)?,
                Table::Segments => segments.push((key, value)),
                Table::Modules => node.restore_module(&value).map_err(unreadable)?,
                Table::Expired => node.restore_expired(&key, &value).map_err(unreadable)?,
                Table::Uses => node.restore_use(&key).map_err(unreadable)?,
                Table::Meta | Table::Pins | Table::Events | Table::Kad => {}
            }
        }
        node.membership.me.incarnation = incarnation + 1;
        node.persist_incarnation();
        node.refresh_custodians();
        for (key, value) in segments {
            let unreadable = |source| RestoreError { table: Table::Segments.name(), source };
            node.restore_segment(&key, &value).map_err(unreadable)?;
        }
        for key in unsure {
            node.restore_unsure(&key).map_err(|source| RestoreError { table: Table::Meta.name(), source })?;
        }
        node.forget_stray_uses();
        if let Some(note) = note {
            node.restore_note(&note).map_err(|source| RestoreError { table: Table::Meta.name(), source })?;
        }
        let effects = node.finish();
        Ok((node, effects))
    }

    /// A node that was known before: it is about to be linked, unless it is gone.
    fn expect(&mut self, key: &[u8]) {
        self.alone_until = self.now + STARTUP_GRACE;
        self.expected.extend(<[u8; 32]>::try_from(key).ok().map(NodeId::from_bytes));
    }

    /// Whether this node has met whom it knew, or waited for them: before that others may know more.
    pub(crate) fn has_settled(&self) -> bool {
        self.now >= self.alone_until || self.expected.iter().all(|node| self.is_heard(*node))
    }

    /// Takes one event and returns what the caller must now do.
    pub fn handle(&mut self, now: Time, event: Event) -> Effects {
        self.now = self.now.max(now);
        match event {
            Event::Tick => self.on_tick(),
            Event::LinkUp(peer) => {
                self.meet();
                self.on_link_up(peer);
            }
            Event::LinkDown(peer) => self.on_link_down(peer),
            Event::Gossip { from, gossip } => {
                if from != self.me() {
                    self.meet();
                }
                self.on_gossip(from, gossip);
            }
            Event::Received { from, message } => {
                self.on_link_heard(from, &message);
                self.on_heard(from);
                self.on_message(from, message);
            }
            Event::Submit { token, job } => self.on_submit(token, job),
            Event::Cancel { token, job } => self.on_cancel(token, job),
            Event::PublishModule { token, fact } => self.on_publish_module(token, fact),
            Event::Ask { token, query } => self.on_ask(token, query),
            Event::Fetched { fetch, complete } => self.on_fetched(fetch, complete),
            Event::Ended { lease, outcomes, busy } => self.on_ended(lease, outcomes, busy),
            Event::MarkBlobs { token } => {
                let in_use = self.blobs_in_use();
                self.out.notify.push(Notice::BlobsMarked { token, in_use });
            }
            Event::Addresses(addresses) => self.on_addresses(addresses),
            Event::Drain => self.on_drain(),
            Event::Released { lease, tasks } => self.on_released(lease, &tasks),
            Event::AskDrain { node, timeout_ms } => self.send(node, Message::DrainAsk { timeout_ms }),
        }
        self.finish()
    }

    /// When [`Event::Tick`] is next due, and which part is waiting for it.
    pub fn next_deadline(&self) -> Option<(Time, &'static str)> {
        let heartbeat = (self.next_heartbeat, "heartbeat");
        let wake = self.wakes.first_key_value().map(|(time, part)| (*time, *part));
        let alarms = self.alarms.iter().map(|(part, time)| (*time, *part));
        alarms.chain(wake).chain([heartbeat]).min()
    }

    fn on_message(&mut self, from: NodeId, message: Message) {
        match message {
            Message::Hello(record) => self.on_hello(from, record),
            Message::Peers(peers) => self.on_peers(peers),
            Message::Heartbeat { claimable, leases, every_ms, wanted, first } => {
                self.on_heartbeat(from, claimable, first, every_ms, wanted);
                self.renew(from, leases);
            }
            Message::Roll(slices) => self.on_roll(from, &slices),
            Message::RollDiffers { slices, records } => self.on_roll_differs(from, &slices, records),
            Message::AreDown(nodes) => self.on_are_down(nodes),
            Message::Suspected(incarnation) => self.refute(incarnation),

            Message::Publish(job) => self.on_publish(from, job),
            Message::Published(job) => self.on_published(from, job),
            Message::Announce { job, stop, held } => self.on_nudged(from, job, stop, held),
            Message::Nudge(jobs) => self.on_nudge(from, jobs),
            Message::JobPull(job) => self.on_job_pull(from, job),
            Message::JobPush { job, stop } => self.on_job_push(from, job, stop),
            Message::Stop { job, cause } => self.on_stop(from, job, cause),
            Message::Stopped(job) => self.on_stopped(from, job),
            Message::Expired(jobs) => self.on_expired(from, jobs),
            Message::Progress { job, shards } => self.on_progress(from, job, shards),
            Message::StagesDone { job, stages } => self.on_stages_done(job, stages),
            Message::StagesAsk(job) => self.on_stages_ask(from, job),
            Message::StagesEnded { job, stages } => self.on_stages_ended(job, stages),
            Message::TasksOver { job, stage, done, failed } => self.on_tasks_over(job, stage, &done, &failed),
            Message::TasksAsk(shard) => self.on_tasks_ask(from, shard),
            Message::ShareAsk { job, number, holds, wants } => self.on_share_ask(from, job, number, holds, wants),
            Message::Share { job, number, holds } => self.on_share(job, number, holds),
            Message::JobDigests(digests) => self.on_job_digests(from, digests),
            Message::JobsKnown(known) => self.on_jobs_known(from, known),

            Message::Prepare(shards) => self.on_prepare(from, shards),
            Message::Promise(shards) => self.on_promise(from, shards),
            Message::Record { shard, epoch, number, segment } => {
                self.on_record_asked(from, shard, epoch, number, segment)
            }
            Message::Recorded { shard, epoch, number } => self.on_recorded(from, shard, epoch, number),
            Message::RecordKept { shard, epoch, number } => self.on_record_kept(shard, epoch, number),
            Message::Deposed { shard, epoch } => self.on_deposed(shard, epoch),
            Message::Merge { shard, segment, receipt } => self.on_merge(from, shard, segment, receipt),
            Message::Merged { shard, receipt } => self.on_merged(from, shard, receipt),
            Message::Digests(digests) => self.on_digests(from, digests),
            Message::DigestsCompared { same, pull } => self.on_digests_compared(from, same, pull),

            Message::Seek(job) => self.on_seek(from, job),
            Message::Over(job) => self.on_over_said(job),
            Message::Want { slots, rates } => self.on_want(from, slots, rates),
            Message::Grant(grant) => self.on_grant(from, grant),
            Message::Report { lease, outcomes } => self.on_report(from, lease, outcomes),
            Message::Ack { lease, tasks } => self.on_ack(lease, tasks),
            Message::Fenced(lease) => self.on_fenced(from, lease),
            Message::Release { lease, tasks } => self.on_release(from, lease, tasks),
            Message::Resume { lease, tasks } => self.on_resume(from, lease, tasks),
            Message::Recall { lease, tasks } => self.on_recall(lease, tasks),

            Message::DrainAsk { timeout_ms } => self.out.notify.push(Notice::DrainAsked { by: from, timeout_ms }),

            Message::Modules { facts, keep } => self.on_modules(from, facts, keep),
            Message::ModuleKept(fact) => self.on_module_kept(from, fact),
            Message::ModulesDigest(digest) => self.on_modules_digest(from, digest),
            Message::ModulesHave { digest, names } => self.on_modules_have(from, digest, names),

            Message::Query { number, query } => self.on_query(from, number, query),
            Message::Answer { number, answer } => self.on_answer(from, number, answer),
        }
    }

    fn on_tick(&mut self) {
        while self.wakes.first_key_value().is_some_and(|(time, _)| *time <= self.now) {
            self.wakes.pop_first();
        }
        self.alarms.retain(|_, time| *time > self.now);
        if self.now >= self.next_heartbeat {
            self.next_heartbeat = self.now + HEARTBEAT;
            if self.settles_at.is_some_and(|at| self.now >= at) {
                self.settles_at = None;
                self.membership.view_changed = true;
            }
            self.keep_membership();
            self.keep_jobs();
            self.keep_modules();
            self.keep_expiry();
            self.keep_worker();
            self.keep_claims();
            self.keep_shares();
            self.keep_blobs();
            self.keep_sure();
            self.note_running(true);
            self.send_heartbeats();
            self.custody.look_around();
        }
        self.keep_dialling();
        self.keep_custody();
        self.keep_resumes();
        self.keep_seeking();
        self.keep_questions();
    }

    /// What every event may have caused, until nothing more follows.
    fn finish(&mut self) -> Effects {
        loop {
            while let Some(message) = self.inbox.pop_front() {
                self.on_message(self.me(), message);
            }
            if core::mem::take(&mut self.membership.view_changed) {
                self.on_view_changed();
            }
            self.settle_custody();
            self.settle_worker();
            if self.membership.sparse {
                self.gossip_jobs();
            }
            if self.inbox.is_empty() {
                break;
            }
        }
        self.tell_of_work();
        self.send_what_waits();
        self.note_running(false);
        self.notify_members();
        core::mem::take(&mut self.out)
    }

    /// Whether this node does this wrong on purpose.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn plants(&self, bug: PlantedBug) -> bool {
        self.bug == Some(bug)
    }

    /// A release does nothing wrong on purpose.
    #[cfg(not(feature = "planted-bugs"))]
    #[expect(clippy::unused_self, reason = "the same call as with the feature")]
    pub(crate) const fn plants(&self, _: PlantedBug) -> bool {
        false
    }

    /// Whether it is too early to tell who keeps what.
    pub(crate) const fn is_settling(&self) -> bool {
        self.settles_at.is_some()
    }

    /// Asks for a tick at `at`, however far the next heartbeat is.
    pub(crate) fn wake(&mut self, at: Time, part: &'static str) {
        self.wakes.insert(at, part);
    }

    /// The same for a part that waits for one moment at a time, in place of the one before.
    pub(crate) fn set_alarm(&mut self, part: &'static str, at: Option<Time>) {
        match at {
            Some(at) => self.alarms.insert(part, at),
            None => self.alarms.remove(part),
        };
    }

    pub(crate) fn new_fetch(&mut self) -> u64 {
        self.next_fetch += 1;
        self.next_fetch
    }

    /// Remembers for ever that there are others.
    fn meet(&mut self) {
        if !core::mem::replace(&mut self.has_met, true) {
            self.out.persist.push(Write::put(Table::Meta, MET_KEY, []));
        }
    }

    fn on_fetched(&mut self, fetch: u64, complete: bool) {
        self.on_job_fetched(fetch, complete);
        self.on_report_fetched(fetch, complete);
        self.on_record_fetched(fetch, complete);
        self.on_repair_fetched(fetch, complete);
        self.on_module_fetched(fetch, complete);
    }

    /// A peer became reachable or unreachable.
    pub(crate) fn on_link_change(&mut self, peer: NodeId) {
        self.custody.review_all();
        self.on_arbiter_link_change(peer);
        self.on_confirmations_changed();
    }

    fn on_view_changed(&mut self) {
        self.refresh_custodians();
        self.custody.review_all();
        self.on_confirmations_changed();
        self.doubt_blobs();
        self.hand_over_jobs();
    }

    fn on_drain(&mut self) {
        self.membership.me.draining = true;
        self.on_me_changed();
        self.doubt_all_copies();
        self.gossip_drain();
    }
}
