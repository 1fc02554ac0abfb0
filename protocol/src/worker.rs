//! The executor's side of claims: asking for work, holding leases, reporting, and finding the next arbiter.
//!
//! Always true:
//! - an outcome is kept until the arbiter acknowledges it, or says that somebody else has recorded the task;
//! - a lease keeps the name under which its tasks were started, whatever arbiters it passes through.
//!
//! Elsewhere: running the tasks is `node::work` and the `executor` crate.

use core::time::Duration;
use std::collections::BTreeMap;

use rangemap::RangeSet;

use crate::message::{CHUNK_BYTES, Gossip, Grant, Message};
use crate::node::Node;
use crate::placement::Key;
use crate::planted::PlantedBug;
use crate::rates::Rates;
use crate::standing::{Standing, neediest};
use crate::task_sets::{common, count_of, ranges_of};
use crate::{Batch, Ending, JobId, LeaseId, NodeId, Notice, Outcome, Range, Time};

/// An unanswered want is repeated after this, before the arbiter forgets it.
const WANT_REPEAT: Duration = Duration::from_secs(1);
/// A report without an acknowledgement is repeated after this.
const REPORT_REPEAT: Duration = Duration::from_secs(1);
/// Between two questions for a lease's next arbiter.
const RESUME_REPEAT: Duration = Duration::from_millis(300);
/// A lease without an arbiter is given up after this: others have run its tasks by then.
const RESUME_MAX: Duration = Duration::from_secs(20);
/// A grant waits this long for its job's record.
const PARKED_GRANT_MAX: Duration = Duration::from_secs(5);
/// A grant may be late, and come twice: its lease is remembered so long after its start.
const STARTED_MEMORY: Duration = Duration::from_secs(60);
/// Grants that may wait.
const PARKED_GRANTS_MAX: usize = 256;
/// New work is asked for when less than this is left, as far as can be told, or than an answer takes: half of a short batch.
const REFILL: Duration = Duration::from_millis(10);
/// An answer that takes longer is one that waited for work.
const ANSWER_MAX: Duration = Duration::from_millis(150);
/// Where an answer takes less than this part of a task, none is asked for before a slot is free.
const WAIT_PART: u32 = 20;
/// No more is held than what frees the slots and lasts so long: a long batch. Of tasks that take longer none waits here
/// where answers come quickly: it would wait for the end of one of them while another node is idle, to save a moment.
const HELD_MAX: Duration = Duration::from_millis(200);
/// Arbiters at which one node is parked at once (Sparrow's late binding, d = 2).
const WANTS_AT_ONCE: usize = 2;
/// The second want follows only when the first was not answered at once: a few round trips in a local network.
const SECOND_WANT_AFTER: Duration = Duration::from_millis(3);

/// Looking for the arbiter of now.
#[derive(Debug)]
struct Resume {
    next: Time,
    until: Time,
}

#[derive(Debug)]
struct Held {
    /// Its name at the arbiter of now.
    current: LeaseId,
    arbiter: NodeId,
    /// Started, without outcome.
    running: RangeSet<u32>,
    /// Slots that each of them takes.
    slots: u32,
    /// Ended, not acknowledged.
    outcomes: Vec<(Range, Outcome)>,
    reported: Time,
    resume: Option<Resume>,
}

impl Held {
    fn tasks(&self) -> Vec<Range> {
        let mut tasks = ranges_of(&self.running);
        tasks.extend(self.outcomes.iter().map(|(range, _)| *range));
        tasks
    }

    fn is_empty(&self) -> bool {
        self.running.is_empty() && self.outcomes.is_empty()
    }

    /// Forgets the outcomes of these tasks.
    fn forget(&mut self, tasks: &[Range]) {
        let mut forgotten = RangeSet::new();
        forgotten.extend(tasks.iter().filter(|range| range.count > 0).map(Range::indexes));
        let mut kept = Vec::new();
        for (range, outcome) in core::mem::take(&mut self.outcomes) {
            for gap in forgotten.gaps(&range.indexes()) {
                kept.push((Range { first: gap.start, count: gap.end - gap.start }, outcome.clone()));
            }
        }
        self.outcomes = kept;
    }
}

#[derive(Debug, Default)]
pub(crate) struct Worker {
    /// By the name under which the tasks were started.
    held: BTreeMap<LeaseId, Held>,
    /// Name at the arbiter of now → name at the start.
    started_as: BTreeMap<LeaseId, LeaseId>,
    /// Leases that were started, and when: a grant that comes again is not started again, also when the lease is over.
    begun: BTreeMap<LeaseId, Time>,
    parked: Vec<(Time, NodeId, Grant)>,
    /// Arbiters at which I am parked, and since when.
    wanted: BTreeMap<NodeId, Time>,
    pub(crate) wants_changed: bool,
    pub(crate) parked_changed: bool,
    rates: Rates,
    /// How long arbiters took to answer of late.
    answer: Duration,
    /// When tasks ended last, or the first began.
    progressed: Time,
    drained: bool,
    /// What runs here changed since it was last noted.
    pub(crate) note_due: bool,
}

impl Worker {
    /// The leases to renew at this arbiter: one of which all was reported is no lease there any more.
    pub(crate) fn leases_of(&self, arbiter: NodeId) -> Vec<LeaseId> {
        let held = self.held.values().filter(|held| held.arbiter == arbiter && held.resume.is_none());
        held.filter(|held| !held.running.is_empty()).map(|held| held.current).collect()
    }

    /// Where work is held or asked for.
    pub(crate) fn arbiters(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.held.values().map(|held| held.arbiter).chain(self.wanted.keys().copied())
    }

    fn running(&self) -> u32 {
        self.held.values().map(|held| count_of(&held.running).saturating_mul(held.slots)).sum()
    }

    /// The time that slots will have spent on all that runs, from start to end; `None` when that cannot be told.
    fn work(&self) -> Option<Duration> {
        let work = |(started, held): (&LeaseId, &Held)| {
            let tasks = count_of(&held.running).saturating_mul(held.slots);
            Some(self.rates.mean(started.shard)?.saturating_mul(tasks))
        };
        self.held.iter().map(work).sum()
    }

    /// The same, and a task's part of it, when tasks are so short that one more may wait here for a slot.
    fn short_work(&self) -> Option<(Duration, Duration)> {
        let work = self.work()?;
        let one = work / self.running().max(1);
        let rare = one > HELD_MAX && self.answer < one / WAIT_PART;
        (!rare).then_some((work, one))
    }

    /// Slots without a task; none while it is not known what was granted.
    fn free_slots(&self, slots: u32) -> u32 {
        if self.parked.is_empty() { slots.saturating_sub(self.running()) } else { 0 }
    }

    /// When to ask for more, if never before now: outcomes come in batches, so what still runs is estimated.
    fn wants_at(&self, slots: u32, now: Time) -> Option<Time> {
        if !self.parked.is_empty() {
            return None;
        }
        if self.running() < slots {
            return Some(now);
        }
        let ((work, one), slots) = (self.short_work()?, slots.max(1));
        if work / slots >= one + HELD_MAX {
            return None;
        }
        // One of the slots is free when the others are left with one task each.
        let wait = work.saturating_sub(one * (slots - 1)) / slots;
        Some((self.progressed + wait.saturating_sub(REFILL.max(self.answer))).max(now))
    }

    /// An arbiter has granted something.
    fn answered(&mut self, arbiter: NodeId, now: Time) {
        if let Some(asked) = self.wanted.remove(&arbiter) {
            self.answer = (self.answer * 3 + now.since(asked).min(ANSWER_MAX)) / 4;
        }
    }

    /// Whether this grant came before.
    fn has_seen(&self, lease: LeaseId) -> bool {
        self.begun.contains_key(&lease) || self.parked.iter().any(|(.., grant)| grant.lease == lease)
    }

    fn remove(&mut self, started: LeaseId) -> Option<Held> {
        let held = self.held.remove(&started)?;
        self.started_as.remove(&held.current);
        self.note_due = true;
        Some(held)
    }

    /// Every lease with what runs under it, by the name under which its arbiter of now would charge it.
    pub(crate) fn running_leases(&self) -> Vec<(LeaseId, Vec<Range>)> {
        let running = self.held.values().filter(|held| !held.running.is_empty());
        running.map(|held| (held.current, ranges_of(&held.running))).collect()
    }

    fn by_current(&mut self, current: LeaseId) -> Option<(LeaseId, &mut Held)> {
        let started = *self.started_as.get(&current)?;
        Some((started, self.held.get_mut(&started)?))
    }
}

impl Node {
    pub(crate) fn free_slots(&self) -> u32 {
        self.worker.free_slots(self.membership.me.slots)
    }

    /// At the end of every event.
    pub(crate) fn settle_worker(&mut self) {
        if core::mem::take(&mut self.worker.parked_changed) {
            for (at, from, grant) in core::mem::take(&mut self.worker.parked) {
                self.take_grant(at, from, grant);
            }
        }
        if core::mem::take(&mut self.worker.wants_changed) {
            self.want_work();
        }
    }

    // ---- asking

    /// Asks an arbiter that has work, when there is little left to do; another one, when the first does not answer at
    /// once. What two arbiters grant for one free slot waits here while other nodes are idle, so the second is not greedy.
    fn want_work(&mut self) {
        let now = self.now;
        self.set_alarm("want", None);
        let Some(at) = self.worker.wants_at(self.membership.me.slots, now).filter(|_| !self.membership.me.draining)
        else {
            return;
        };
        if at > now {
            return self.set_alarm("want", Some(at));
        }
        self.worker.wanted.retain(|_, at| now.since(*at) < WANT_REPEAT);
        let able = self.arbiters_with_work();
        let parked: Vec<_> = able.iter().filter_map(|(node, _)| self.worker.wanted.get(node)).copied().collect();
        let fresh = parked.iter().any(|at| now.since(*at) < SECOND_WANT_AFTER);
        let others = neediest(able.into_iter().filter(|(node, _)| !self.worker.wanted.contains_key(node)).collect());
        if others.is_empty() || parked.len() >= WANTS_AT_ONCE {
            return;
        }
        if fresh {
            return self.set_alarm("want", Some(now + SECOND_WANT_AFTER));
        }
        let arbiter = others[self.rng.usize(0..others.len())];
        self.want_of(arbiter);
    }

    /// Parks at an arbiter, unless that was just done.
    pub(crate) fn want_of(&mut self, arbiter: NodeId) {
        if self.worker.wanted.get(&arbiter).is_none_or(|at| self.now.since(*at) >= WANT_REPEAT) {
            self.worker.wanted.insert(arbiter, self.now);
            let slots = self.free_slots().max(1);
            let rates = self.worker.rates.told(self.membership.me.slots);
            self.send(arbiter, Message::Want { slots, rates });
        }
    }

    /// Whether an arbiter said that it has work.
    pub(crate) fn has_work_in_sight(&self) -> bool {
        !self.arbiters_with_work().is_empty()
    }

    fn arbiters_with_work(&self) -> Vec<(NodeId, Option<Standing>)> {
        let me = self.me();
        let own = (self.claimable_for(me) > 0).then(|| (me, self.first_for(me)));
        self.membership.links.with_work().chain(own).filter(|(node, _)| self.reaches(*node)).collect()
    }

    // ---- leases

    pub(crate) fn on_grant(&mut self, from: NodeId, grant: Grant) {
        self.worker.wants_changed = true;
        if grant.continues.is_some() {
            self.continue_lease(from, grant);
            return;
        }
        self.worker.answered(from, self.now);
        self.on_found();
        let known = self.worker.has_seen(grant.lease);
        if !known || self.plants(PlantedBug::StartsTwice) {
            self.take_grant(self.now, from, grant);
        }
    }

    fn take_grant(&mut self, came: Time, from: NodeId, grant: Grant) {
        let job = grant.lease.shard.job;
        let refuses = self.membership.me.draining || self.is_stopped(job) || self.would_wait_long();
        if refuses {
            self.tell_stop(from, job);
            self.give_back(from, &grant);
        } else if self.jobs.get(job).is_some() {
            self.begin_lease(from, grant);
        } else if self.worker.parked.len() < PARKED_GRANTS_MAX && self.pull_job(job, from) {
            self.worker.parked.push((came, from, grant));
        } else {
            self.give_back(from, &grant);
        }
    }

    /// Two arbiters answered for one slot: what one of them granted would wait here while another node is idle.
    fn would_wait_long(&self) -> bool {
        self.worker.running() >= self.membership.me.slots && self.worker.short_work().is_none()
    }

    fn give_back(&mut self, arbiter: NodeId, grant: &Grant) {
        let tasks = grant.tasks.iter().map(|(range, _)| *range).collect();
        self.send(arbiter, Message::Release { lease: grant.lease, tasks });
        self.worker.begun.insert(grant.lease, self.now);
    }

    fn begin_lease(&mut self, from: NodeId, grant: Grant) {
        let Some(job) = self.jobs.get(grant.lease.shard.job) else { return };
        let spec = job.spec.clone();
        let stage = spec.stages.get(usize::from(grant.lease.shard.stage));
        let count = stage.map_or(0, |stage| stage.count);
        let taken = stage.and_then(|stage| stage.resources_on(&self.membership.me)).map_or(1, |it| it.slots);
        let mut running = RangeSet::new();
        running.extend(grant.tasks.iter().filter(|(range, _)| range.count > 0).map(|(range, _)| range.indexes()));
        if grant.tasks.iter().any(|(range, _)| range.end() > count) || running.is_empty() {
            return; // nonsense; the arbiter's lease will expire
        }
        let lease = grant.lease;
        if self.worker.running() == 0 {
            self.worker.progressed = self.now;
        }
        let held = Held {
            current: lease,
            arbiter: from,
            running,
            slots: taken,
            outcomes: Vec::new(),
            reported: self.now,
            resume: None,
        };
        self.worker.held.insert(lease, held);
        self.worker.begun.insert(lease, self.now);
        self.worker.note_due = true;
        self.worker.started_as.insert(lease, lease);
        let me = self.me();
        let sources = self.job_sources(lease.shard.job).into_iter().filter(|node| *node != me).collect();
        self.out.start.push(Batch { lease, spec, tasks: grant.tasks, sources });
    }

    /// Another arbiter took the lease over: what it did not grant is done elsewhere.
    fn continue_lease(&mut self, from: NodeId, grant: Grant) {
        if self.worker.started_as.contains_key(&grant.lease) {
            return; // said twice
        }
        let tasks: Vec<_> = grant.tasks.iter().map(|(range, _)| *range).collect();
        let Some((started, held)) = grant.continues.and_then(|old| self.worker.by_current(old)) else {
            self.send(from, Message::Release { lease: grant.lease, tasks });
            return;
        };
        let old = core::mem::replace(&mut held.current, grant.lease);
        held.arbiter = from;
        held.resume = None;
        held.reported = self.now;
        let mut granted = RangeSet::new();
        granted.extend(tasks.iter().filter(|range| range.count > 0).map(Range::indexes));
        let all = held.tasks();
        let dropped: Vec<_> = all
            .iter()
            .flat_map(|range| granted.gaps(&range.indexes()).collect::<Vec<_>>())
            .map(|gap| Range { first: gap.start, count: gap.end - gap.start })
            .collect();
        let outcomes = held.outcomes.clone();
        self.worker.note_due = true;
        self.worker.started_as.remove(&old);
        self.worker.started_as.insert(grant.lease, started);
        self.drop_tasks(started, dropped);
        let known = |(range, _): &(Range, Outcome)| granted.overlaps(&range.indexes());
        self.report(grant.lease, from, outcomes.into_iter().filter(known).collect());
    }

    /// Forgets tasks of a lease: those running are stopped, and no outcome is owed.
    fn drop_tasks(&mut self, started: LeaseId, tasks: Vec<Range>) {
        let Some(held) = self.worker.held.get_mut(&started) else { return };
        held.forget(&tasks);
        for range in tasks.iter().filter(|range| range.count > 0) {
            held.running.remove(range.indexes());
        }
        if held.is_empty() {
            self.worker.remove(started);
        }
        if !tasks.is_empty() {
            self.out.stop.push((started, tasks));
        }
        self.worker.wants_changed = true;
    }

    pub(crate) fn on_recall(&mut self, lease: LeaseId, tasks: Vec<Range>) {
        if let Some((started, _)) = self.worker.by_current(lease) {
            self.drop_tasks(started, tasks);
        }
    }

    pub(crate) fn drop_leases_of(&mut self, job: JobId) {
        let held = self.worker.held.iter().filter(|(lease, _)| lease.shard.job == job);
        let held: Vec<_> = held.map(|(started, held)| (*started, held.tasks())).collect();
        for (started, tasks) in held {
            self.drop_tasks(started, tasks);
        }
    }

    /// This node does not run these tasks after all. Without an arbiter to tell, whoever becomes it has them pending.
    pub(crate) fn on_released(&mut self, started: LeaseId, tasks: &[Range]) {
        let Some(held) = self.worker.held.get(&started) else { return };
        let released = common(&held.running, tasks);
        if released.is_empty() {
            return;
        }
        let (arbiter, lease, searches) = (held.arbiter, held.current, held.resume.is_some());
        if !searches {
            self.send(arbiter, Message::Release { lease, tasks: ranges_of(&released) });
        }
        self.drop_tasks(started, ranges_of(&released));
    }

    // ---- outcomes

    pub(crate) fn on_ended(&mut self, started: LeaseId, outcomes: Vec<(Range, Outcome)>, busy: Duration) {
        self.worker.wants_changed = true;
        let Some(held) = self.worker.held.get_mut(&started) else { return };
        let mut new = Vec::new();
        for (range, outcome) in outcomes.into_iter().filter(|(_, outcome)| outcome.ending != Ending::Cancelled) {
            // What was dropped meanwhile is not owed any more.
            let pieces: Vec<_> = held.running.overlapping(&range.indexes()).cloned().collect();
            for piece in pieces {
                let (first, end) = (piece.start.max(range.first), piece.end.min(range.end()));
                held.running.remove(first..end);
                new.push((Range { first, count: end - first }, outcome.clone()));
            }
        }
        held.outcomes.extend(new.iter().cloned());
        held.reported = self.now;
        let (current, arbiter) = (held.current, held.arbiter);
        let searching = held.resume.is_some();
        new.iter().for_each(|(_, outcome)| self.use_blobs_of(started.shard.job, outcome));
        self.worker.note_due = true;
        self.worker.progressed = self.now;
        self.worker.rates.note(started.shard, new.iter().map(|(range, _)| range.count).sum(), busy);
        if !searching {
            self.report(current, arbiter, new);
        }
    }

    /// Sends outcomes in messages of bounded size.
    fn report(&mut self, lease: LeaseId, arbiter: NodeId, outcomes: Vec<(Range, Outcome)>) {
        let (mut message, mut weight) = (Vec::new(), 0);
        for (range, outcome) in outcomes {
            weight += outcome.weight();
            message.push((range, outcome));
            if weight >= CHUNK_BYTES {
                self.send(arbiter, Message::Report { lease, outcomes: core::mem::take(&mut message) });
                weight = 0;
            }
        }
        if !message.is_empty() {
            self.send(arbiter, Message::Report { lease, outcomes: message });
        }
    }

    pub(crate) fn on_ack(&mut self, lease: LeaseId, tasks: Vec<Range>) {
        let Some((started, held)) = self.worker.by_current(lease) else { return };
        held.forget(&tasks);
        // An acknowledgement of what still runs here: somebody else was faster.
        let running: Vec<_> = tasks.iter().filter(|range| range.count > 0).copied().collect();
        let running = running.into_iter().filter(|range| held.running.overlaps(&range.indexes())).collect::<Vec<_>>();
        if !running.is_empty() {
            self.drop_tasks(started, running);
        } else if held.is_empty() {
            self.worker.remove(started);
        }
        self.worker.wants_changed = true;
    }

    // ---- the arbiter is gone

    pub(crate) fn on_fenced(&mut self, from: NodeId, lease: LeaseId) {
        let now = self.now;
        if let Some((_, held)) = self.worker.by_current(lease)
            && held.arbiter == from
            && held.resume.is_none()
        {
            held.resume = Some(Resume { next: now, until: now + RESUME_MAX });
            self.wake(now, "resume");
        }
    }

    pub(crate) fn on_arbiter_unlinked(&mut self, arbiter: NodeId) {
        let now = self.now;
        self.worker.wanted.remove(&arbiter);
        self.worker.parked.retain(|(_, from, _)| *from != arbiter); // whoever follows it has these tasks pending
        let mut any = false;
        for held in self.worker.held.values_mut().filter(|held| held.arbiter == arbiter && held.resume.is_none()) {
            held.resume = Some(Resume { next: now, until: now + RESUME_MAX });
            any = true;
        }
        if any {
            self.wake(now, "resume");
        }
    }

    /// Called every tick.
    pub(crate) fn keep_resumes(&mut self) {
        let now = self.now;
        self.worker.wants_changed = true;
        let (mut asks, mut over) = (Vec::new(), Vec::new());
        for (&started, held) in &mut self.worker.held {
            let tasks = held.tasks();
            match &mut held.resume {
                Some(resume) if now >= resume.until => over.push((started, tasks)),
                Some(resume) if now >= resume.next => {
                    resume.next = now + RESUME_REPEAT;
                    asks.push((held.current, tasks));
                }
                _ => {}
            }
        }
        for (lease, tasks) in asks {
            let custodians = self.membership.view.custodians(Key::of_shard(lease.shard));
            if let Some(arbiter) = custodians.into_iter().find(|node| self.reaches(*node)) {
                self.send(arbiter, Message::Resume { lease, tasks });
            }
            self.wake(now + RESUME_REPEAT, "resume");
        }
        for (started, tasks) in over {
            self.drop_tasks(started, tasks);
        }
    }

    /// Called every heartbeat.
    pub(crate) fn keep_worker(&mut self) {
        let now = self.now;
        for (_, from, grant) in
            self.worker.parked.extract_if(.., |(at, ..)| now.since(*at) >= PARKED_GRANT_MAX).collect::<Vec<_>>()
        {
            self.give_back(from, &grant);
        }
        let held = &self.worker.held;
        self.worker.begun.retain(|lease, at| now.since(*at) < STARTED_MEMORY || held.contains_key(lease));
        let mut again = Vec::new();
        for held in self.worker.held.values_mut() {
            let waits = !held.outcomes.is_empty() && held.resume.is_none();
            if waits && now.since(held.reported) >= REPORT_REPEAT {
                held.reported = now;
                again.push((held.current, held.arbiter, held.outcomes.clone()));
            }
        }
        for (lease, arbiter, outcomes) in again {
            self.report(lease, arbiter, outcomes);
        }
        self.worker.wants_changed = true;
        self.finish_drain();
    }

    // ---- leaving

    pub(crate) fn gossip_drain(&mut self) {
        let me = self.membership.my_record();
        self.keep_membership();
        for peer in self.linked() {
            self.send(peer, Message::Hello(me.clone()));
        }
        self.hurry_digests();
        self.finish_drain();
    }

    pub(crate) const fn has_left(&self) -> bool {
        self.worker.drained
    }

    fn finish_drain(&mut self) {
        if !self.membership.me.draining || self.worker.drained {
            return; // to look through all that is kept costs too much to be done for nothing
        }
        if self.worker.held.is_empty() && self.is_handed_over() {
            self.worker.drained = true;
            self.note_for_good();
            let incarnation = self.membership.me.incarnation;
            self.out.gossip.push(Gossip::Left { incarnation });
            self.out.notify.push(Notice::Drained);
        }
    }
}
