//! Drives the cores as the real driver does: events in, effects out, in their order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use swarm_protocol::{
    Batch, Effects, Event, Fetch, Gossip, Happened, Hash, LeaseId, MemberView, Message, NodeId, NodeRecord, Notice,
    Table, Wanted, Write, codec,
};

use crate::bug::Bug;
use crate::dice;
use crate::disk::Record;
use crate::guests::{Attempt, Fate};
use crate::history::{Fact, Queues};
use crate::machine::Syncing;
use crate::records::Facts;
use crate::trace::{Brief, BriefGossip, Place};
use crate::world::{Happening, World};

/// Events that the driver takes before it carries out what they led to.
const EVENTS_A_TURN: usize = 256;
/// A tick that is due this little earlier than the one planned is the same: clocks that drift are read with such errors.
const TICK_SLACK: Duration = Duration::from_micros(10);
/// How often a fetch looks for a holder, 100 ms apart, before it gives up.
const FETCH_TRIES: u32 = 30;

impl World {
    /// Lets a node take its events, unless it is busy syncing or stands still.
    pub(crate) fn turn(&mut self, node: usize) {
        let now = self.now();
        let running = self.machines[node].running.as_mut();
        let Some(running) = running.filter(|it| it.syncing.is_none() && !it.is_still()) else { return };
        let local = running.local(now);
        let events = running.events_now(now, EVENTS_A_TURN).min(running.inbox.len());
        let taken: Vec<_> = running.inbox.drain(..events).collect();
        self.observe_heard(node, &taken);
        let Some(running) = self.machines[node].running.as_mut() else { return };
        let mut effects = Effects::default();
        for event in taken {
            effects.append(running.core.handle(local, event));
        }
        if running.core.next_deadline().is_some_and(|(deadline, _)| deadline <= local) {
            effects.append(running.core.handle(local, Event::Tick));
        }
        self.carry_out(node, effects);
    }

    fn observe_heard(&mut self, node: usize, events: &[Event]) {
        let node = self.machines[node].id;
        for event in events {
            let Event::Received { from, message } = event else { continue };
            // Of a record that was asked for, the claim is heard when it is kept.
            if self.record_asked(*from, message).is_some() && matches!(message, Message::Record { .. }) {
                continue;
            }
            if let Some(record) = self.record_asked(*from, message).cloned() {
                self.observe(&Fact::Heard { node, from: *from, message: &record });
            }
            self.observe(&Fact::Heard { node, from: *from, message });
        }
    }

    /// Asks, persists, and only then does the rest.
    pub(crate) fn carry_out(&mut self, node: usize, mut effects: Effects) {
        let boot = self.machines[node].boot;
        self.note_speaker(node);
        for (to, message) in std::mem::take(&mut effects.ask) {
            if matches!(message, Message::Record { .. }) {
                effects.ask.push((to, message.clone()));
            }
            self.ask(node, to, message);
        }
        let batch = std::mem::take(&mut effects.persist);
        if batch.is_empty() {
            self.act(node, effects);
            self.plan_tick(node);
            return;
        }
        self.census.count("sync");
        self.machines[node].disk.write(&batch);
        let took = self.sync_time();
        let mut then = effects;
        if self.scenario.bug == Some(Bug::SpeaksBeforeSync) {
            self.act(node, std::mem::take(&mut then));
        }
        let recorded = |write: &Write| self.recorded.read(write.table, &write.key, write.value.as_deref()?);
        let records = batch.iter().filter_map(recorded).collect();
        if let Some(running) = &mut self.machines[node].running {
            running.syncing = Some(Syncing { records, then });
        }
        self.after(took, Happening::Synced { node, boot });
        self.meet_doom(node, took);
    }

    pub(crate) fn on_synced(&mut self, node: usize, boot: u64) {
        if !self.is_boot(node, boot) {
            return;
        }
        let machine = &mut self.machines[node];
        if let Some(running) = machine.running.as_mut().filter(|running| running.is_still()) {
            running.sync_is_over = true;
            return;
        }
        if machine.disk.sync().is_err() {
            return self.stop_for_want_of_room(node);
        }
        let (id, syncing) = (machine.id, machine.running.as_mut().and_then(|running| running.syncing.take()));
        let Syncing { records, then } = syncing.unwrap_or_default();
        self.observe_records(id, &records);
        self.act(node, then);
        self.turn(node);
    }

    /// A node's disk remembers these.
    pub(crate) fn observe_records(&mut self, node: NodeId, records: &[Arc<Facts>]) {
        for record in records {
            self.observe(&Fact::Recorded { node, shard: record.shard, segment: &record.segment });
        }
    }

    /// A node that stood still takes up what came meanwhile.
    pub(crate) fn go_on(&mut self, node: usize) {
        let boot = self.machines[node].boot;
        let Some(running) = self.machines[node].running.as_mut().filter(|running| !running.is_still()) else { return };
        if std::mem::take(&mut running.sync_is_over) {
            self.on_synced(node, boot);
        } else {
            self.turn(node);
        }
    }

    pub(crate) fn on_tick(&mut self, node: usize, boot: u64) {
        if !self.is_boot(node, boot) {
            return;
        }
        if let Some(running) = &mut self.machines[node].running {
            running.tick_at = None;
        }
        self.turn(node);
    }

    /// Puts the core's next deadline into the queue, unless an earlier tick is there.
    fn plan_tick(&mut self, node: usize) {
        let now = self.now();
        let boot = self.machines[node].boot;
        let Some(running) = &mut self.machines[node].running else { return };
        // A turn takes so many events at most: the next turn takes the rest.
        let rest = (!running.inbox.is_empty()).then(|| running.crawl.map_or(now, |crawl| crawl.next));
        let due = running.core.next_deadline().map(|(deadline, _)| running.global(now, deadline));
        let Some(next) = rest.into_iter().chain(due).min() else { return };
        // A microsecond of work at least, so that a core which always wants a tick now cannot stop time.
        let at = next.max(now + Duration::from_micros(1));
        if running.tick_at.is_none_or(|planned| at + TICK_SLACK < planned) {
            running.tick_at = Some(at);
            self.queue.put(at, Happening::Tick { node, boot });
        }
    }

    /// Everything but persisting. What is left of what was asked are records, which are claimed now that they are synced.
    fn act(&mut self, node: usize, effects: Effects) {
        self.note_speaker(node);
        let Effects { ask, persist: _, happened, note, send, gossip, dial, hang_up, fetch, start, stop, notify } =
            effects;
        self.observe_queues(node, &send);
        if !note.is_empty() {
            self.machines[node].disk.write(&note);
        }
        for (to, message) in send {
            self.send(node, to, message);
        }
        // What was sent may have been decided before.
        let id = self.machines[node].id;
        for (to, record) in ask {
            self.observe(&Fact::Said { node: id, to, message: &record });
        }
        // What one event made it say may be over with the next one of the same turn.
        self.observe_happened(node, &happened);
        gossip.into_iter().for_each(|it| self.gossip(node, it));
        dial.into_iter().for_each(|(to, addresses)| self.dial(node, to, &addresses));
        hang_up.into_iter().for_each(|peer| self.hang_up(node, peer));
        fetch.into_iter().for_each(|it| self.fetch(node, it));
        start.into_iter().for_each(|batch| self.start_batch(node, batch));
        stop.into_iter().for_each(|(lease, ranges)| {
            self.note_at(node, format_args!("stops {lease:?} {ranges:?}"));
            self.observe(&Fact::Dropped { node: id, lease, tasks: &ranges });
            if let Some(running) = &mut self.machines[node].running {
                running.slots.stop(lease, &ranges);
            }
            self.fill_slots(node);
        });
        notify.into_iter().for_each(|notice| self.notify(node, notice));
    }

    /// Of what a core tells for users to read, only that jobs are gone; the rest follows from what is judged itself.
    fn observe_happened(&mut self, node: usize, happened: &[Happened]) {
        let id = self.machines[node].id;
        for happened in happened {
            if let Happened::JobExpired(job) = happened {
                self.census.count("job expired");
                self.observe(&Fact::Expired { node: id, job: *job });
            }
        }
    }

    fn observe_queues(&mut self, node: usize, send: &[(NodeId, Message)]) {
        let mut frames = BTreeMap::<NodeId, usize>::new();
        send.iter().for_each(|(to, _)| *frames.entry(*to).or_default() += 1);
        let events = self.machines[node].running.as_ref().map_or(0, |running| running.inbox.len());
        let queues = Queues { events, frames: frames.into_values().max().unwrap_or(0) };
        self.observe(&Fact::Queued { node: self.machines[node].id, queues });
    }

    /// What is asked claims nothing. A record is claimed once its arbiter has synced it.
    fn ask(&mut self, from: usize, to: NodeId, message: Message) {
        let node = self.machines[from].id;
        match &message {
            Message::Record { shard, epoch, number, .. } => {
                self.records_asked.insert((node, *shard, *epoch, *number), message.clone());
            }
            _ => self.observe(&Fact::Said { node, to, message: &message }),
        }
        self.carry(from, to, message);
    }

    fn send(&mut self, from: usize, to: NodeId, message: Message) {
        self.observe(&Fact::Said { node: self.machines[from].id, to, message: &message });
        self.carry(from, to, message);
    }

    /// The record that this message of a node is, or is about, when it was asked for before it was synced.
    fn record_asked(&self, node: NodeId, message: &Message) -> Option<&Message> {
        match message {
            Message::Record { shard, epoch, number, .. } | Message::RecordKept { shard, epoch, number } => {
                self.records_asked.get(&(node, *shard, *epoch, *number))
            }
            _ => None,
        }
    }

    fn carry(&mut self, from: usize, to: NodeId, message: Message) {
        let Some(to) = self.machine_of(from, to) else { return };
        self.note_recorded_blobs(&message);
        if matches!(message, Message::Ack { .. }) {
            self.report_acknowledged(from);
        }
        if let Some(meter) = &mut self.meter {
            meter.said(from, &message);
        }
        let now = self.now();
        let arrivals = self.network.carry(now, from, to, &mut self.census);
        let fate = if arrivals.is_empty() { " ✗" } else { "" };
        self.tracer.note(now, Place::Way(from, to), format_args!("{}{fate}", Brief(&message)));
        let boot = self.machines[to].boot;
        let mut arrivals = arrivals.into_iter();
        let Some(first) = arrivals.next() else {
            self.notice_half_open(from, to);
            return;
        };
        for more in arrivals {
            let message = message.clone();
            self.queue.put(more.at, Happening::Arrive { to, from, boot, link: more.link, message });
        }
        self.queue.put(first.at, Happening::Arrive { to, from, boot, link: first.link, message });
        self.notice_half_open(from, to);
    }

    pub(crate) fn on_arrive(&mut self, to: usize, from: usize, boot: u64, link: Option<u64>, message: Message) {
        let end = self.network.end(to, from);
        let heard = end.is_some() && (link.is_none() || link == end);
        if heard && self.has_room(to, from) {
            let from = self.machines[from].id;
            self.give(to, boot, Event::Received { from, message });
        }
    }

    fn gossip(&mut self, node: usize, gossip: Gossip) {
        self.note_at(node, format_args!("⇒ {}", BriefGossip(&gossip)));
        let from = self.machines[node].id;
        let reached = self.network.gossip_reaches(node, &mut self.census);
        if let Some(meter) = &mut self.meter {
            meter.gossiped(node, &gossip, &reached, &self.network);
        }
        for to in reached {
            let wait = self.network.delay() * 2;
            let boot = self.machines[to].boot;
            self.after(wait, Happening::Heard { to, boot, from, gossip: gossip.clone() });
        }
    }

    fn fetch(&mut self, node: usize, Fetch { number, wanted, from }: Fetch) {
        let wanted = match wanted {
            Wanted::Blobs(blobs) => blobs,
            Wanted::JobBlobs(list) => self.with_listed(list),
        };
        self.note_at(node, format_args!("fetches {wanted:?} (number {number})"));
        let from = from.iter().filter_map(|id| self.by_id.get(id).copied()).collect();
        let boot = self.machines[node].boot;
        let wait = self.network.delay() * 2;
        self.after(wait, Happening::Fetch { node, boot, number, wanted, from, tries: FETCH_TRIES });
    }

    /// A list and all that it names.
    pub(crate) fn with_listed(&self, list: Hash) -> Vec<Hash> {
        let named = self.lists.get(&list).into_iter().flatten();
        std::iter::once(list).chain(named.copied()).collect()
    }

    pub(crate) fn on_fetch(
        &mut self,
        node: usize,
        boot: u64,
        number: u64,
        wanted: Vec<Hash>,
        from: Vec<usize>,
        tries: u32,
    ) {
        if !self.is_boot(node, boot) {
            return;
        }
        let complete = self.bring(node, &wanted);
        if complete || tries == 0 {
            self.note_at(node, format_args!("fetched (number {number}): {complete}"));
            self.census.count(if complete { "fetch" } else { "fetch failed" });
            self.give(node, boot, Event::Fetched { fetch: number, complete });
            return;
        }
        let again = Happening::Fetch { node, boot, number, wanted, from, tries: tries - 1 };
        self.after(Duration::from_millis(100), again);
    }

    /// Copies what reachable nodes hold of these blobs; true when all are here.
    pub(crate) fn bring(&mut self, node: usize, wanted: &[Hash]) -> bool {
        let held_by = |machine: usize, blob: &Hash| {
            self.machines[machine].is_awake()
                && self.network.meets(node, machine)
                && self.machines[machine].blobs.contains(blob)
        };
        // What is here is relied on from now on, as what comes is.
        let everybody = 0..self.machines.len();
        let held = |blob: &&Hash| everybody.clone().any(|machine| held_by(machine, blob));
        let found: Vec<_> = wanted.iter().filter(held).copied().collect();
        let complete = found.len() == wanted.len();
        let now = self.now();
        self.machines[node].claim(found, now);
        complete
    }

    fn start_batch(&mut self, node: usize, batch: Batch) {
        let Batch { lease, spec, tasks, .. } = batch;
        self.note_at(node, format_args!("starts {lease:?} {tasks:?}"));
        let id = self.machines[node].id;
        let boot = self.machines[node].boot;
        for task in tasks.iter().flat_map(|(range, _)| range.indexes()) {
            let attempt = Attempt { lease, task };
            let Some(running) = &mut self.machines[node].running else { return };
            let again = !running.slots.hold(attempt);
            self.observe(&Fact::Started { node: id, lease, task, again });
            if self.broken.is_some() {
                return;
            }
        }
        self.on_prepare(node, boot, lease, spec.blobs);
    }

    /// Runs the tasks of a lease once their blobs are here.
    pub(crate) fn on_prepare(&mut self, node: usize, boot: u64, lease: LeaseId, wanted: Hash) {
        if !self.is_boot(node, boot) {
            return;
        }
        let blobs = self.with_listed(wanted);
        let (here, missing): (Vec<_>, Vec<_>) =
            blobs.iter().copied().partition(|blob| self.machines[node].blobs.contains(blob));
        let now = self.now();
        self.machines[node].claim(here, now);
        if !missing.is_empty() {
            self.bring(node, &blobs);
            let wait = self.network.delay() * 2;
            self.after(wait.max(Duration::from_millis(20)), Happening::Prepare { node, boot, lease, wanted });
            return;
        }
        if let Some(running) = &mut self.machines[node].running {
            running.slots.release(lease);
        }
        self.fill_slots(node);
    }

    /// Begins attempts while slots are free.
    fn fill_slots(&mut self, node: usize) {
        let (boot, now) = (self.machines[node].boot, self.now());
        while let Some((number, attempt)) = self.machines[node].running.as_mut().and_then(|it| it.slots.next(now)) {
            let shard = attempt.lease.shard;
            let Some((spec, scripts)) = self.jobs.get(&shard.job) else { continue };
            let stage = usize::from(shard.stage);
            let wait = match scripts[stage].fate(spec.nonce, shard.stage, attempt.task) {
                Fate::Hangs => Duration::from_millis(spec.stages[stage].run_ms_max),
                Fate::Ends(_) | Fate::Kills => scripts[stage].duration(&mut self.timing),
            };
            self.after(wait, Happening::Ran { node, boot, number });
        }
    }

    pub(crate) fn on_ran(&mut self, node: usize, boot: u64, number: u64) {
        if !self.is_boot(node, boot) {
            return;
        }
        let slots = self.machines[node].running.as_mut().map(|running| &mut running.slots);
        let Some((attempt, begun)) = slots.and_then(|slots| slots.end(number)) else { return };
        let took = self.now().since(begun);
        let Some(outcome) = self.end_guest(node, attempt) else { return };
        let Attempt { lease, task } = attempt;
        let now = self.now();
        let machine = &mut self.machines[node];
        machine.claim(outcome.blobs(), now);
        let id = machine.id;
        self.census.count("task run");
        self.observe(&Fact::Ran { node: id, lease, task, outcome: &outcome });
        self.note_at(node, format_args!("ran {task} of {lease:?}: {:?}", outcome.ending));
        if let Some(running) = &mut self.machines[node].running
            && running.slots.keep(attempt, outcome, took)
        {
            let wait = dice::millis(&mut self.timing, 0..=5);
            self.after(wait, Happening::Flush { node, boot });
        }
        self.fill_slots(node);
    }

    pub(crate) fn on_flush(&mut self, node: usize, boot: u64) {
        if !self.is_boot(node, boot) {
            return;
        }
        let ended = self.machines[node].running.as_mut().map(|running| running.slots.take_ended());
        for (lease, (outcomes, busy)) in ended.into_iter().flatten() {
            self.give(node, boot, Event::Ended { lease, outcomes, busy });
        }
    }

    fn notify(&mut self, node: usize, notice: Notice) {
        match notice {
            Notice::Submitted { token, result } => self.on_submitted(node, token, result),
            Notice::Cancelled { token, result } => self.on_cancelled(node, token, &result),
            Notice::Answered { token, answer } => self.on_answered(node, token, &answer),
            Notice::Members(changed) => {
                self.remember_addresses(node, &changed);
                self.note_deaths(node, &changed);
            }
            Notice::Over(_) => self.census.count("end of a job noticed"),
            // Users of the simulation publish no modules and drain nodes where they are; the tests of the core do otherwise.
            // Its collectors ask the cores themselves.
            Notice::ModulePublished { .. } | Notice::BlobsMarked { .. } | Notice::DrainAsked { .. } => {}
            Notice::Drained => self.on_drained(node),
        }
    }

    /// Keeps the addresses of members for the next start, which dials them. Only a help, so nothing waits for it.
    fn remember_addresses(&mut self, node: usize, members: &[MemberView]) {
        self.census.count("member change");
        let machine = &mut self.machines[node];
        let me = machine.id;
        let Some(running) = &mut machine.running else { return };
        let mut writes = Vec::new();
        for NodeRecord { node, addresses, .. } in members.iter().map(|member| &*member.record) {
            if *node != me && !addresses.is_empty() && running.peers.get(node) != Some(addresses) {
                running.peers.insert(*node, addresses.clone());
                writes.push(Write::put(Table::Peers, node.as_bytes(), codec::encode(addresses)));
            }
        }
        if !writes.is_empty() {
            machine.disk.write(&writes);
        }
    }
}

/// The members and addresses in the records of [`Table::Peers`].
pub(crate) fn known_peers(records: &[Record]) -> BTreeMap<NodeId, Vec<String>> {
    let read = |(_, key, value): &Record| {
        let node = NodeId::from_bytes(key.as_slice().try_into().ok()?);
        Some((node, codec::decode(value, value.len()).ok()?))
    };
    records.iter().filter(|(table, ..)| *table == Table::Peers).filter_map(read).collect()
}
