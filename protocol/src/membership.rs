//! Who is in the swarm.
//!
//! Always true:
//! - a record replaces another of the same node only when its (incarnation, sequence) is higher;
//! - my own incarnation is persisted before anybody hears of it, and only grows;
//! - a live link of my own outweighs hearsay.
//!
//! Up to [`LINKS_FULL_MAX`] members everybody is linked with everybody and judges for itself. Beyond it the swarm is
//! *sparse*: only who should have a link to a member may find it dead; the others are told, and compare what they were
//! told with their neighbours from time to time (decision 0012).
//!
//! Elsewhere: which links are kept is `links`; dialling and the sockets are `node::network`; what a change of members
//! means for jobs is `custody`.
//!
//! Suspicion and refutation are SWIM's (Das, Gupta, Motivala, 2002 §4.2), carried by gossip instead of piggybacked.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use crate::links::{LINKS_FULL_MAX, Links};
use crate::message::{Gossip, Message, NodeRecord, SharedRecord};
use crate::node::Node;
use crate::placement::{View, mixed};
use crate::{MemberState, MemberView, NodeId, Notice, Table, Time, Write, codec};

/// A member is suspected when its link is gone and nothing was heard of it for this long.
pub(crate) const SILENCE_BEFORE_SUSPECT: Duration = Duration::from_secs(2);
/// A suspect that did not refute for this long is down.
const SUSPECT_BEFORE_DOWN: Duration = Duration::from_secs(5);
/// Whoever refuted my suspicion is left alone this long while I still do not reach it; doubles each time.
const PATIENCE_FIRST: Duration = Duration::from_secs(10);
/// The longest such time: between the two there is no way, but others have one.
const PATIENCE_DOUBLINGS_MAX: u32 = 6;
/// So many say in gossip that a member is down, so that a lost gossip matters little.
const MOURNERS: u8 = 3;
/// In a sparse swarm all members together gossip so many records a second, whatever their number.
const RECORDS_PER_SECOND: u64 = 2;
/// But each as often as this: who is in the swarm is known without it, only free slots and the like get old.
const RECORD_EVERY: core::ops::RangeInclusive<u64> = 10..=600;
/// What is new about me is said again after this: the first gossip may be lost.
const SAY_AGAIN: Duration = Duration::from_secs(1);
/// In a sparse swarm a node compares its members with those of one linked peer this often.
const ROLL_EVERY: Duration = Duration::from_secs(10);
/// The members are compared in so many slices, so that one difference costs one slice.
const ROLL_SLICES: usize = 64;
/// In a sparse swarm a node looks this often whether one of those that are down is back: how two halves meet again.
const LOOK_FOR_DOWN: Duration = Duration::from_secs(30);
/// Members kept; far above the thousand a cell is designed for.
const MEMBERS_MAX: usize = 16 * 1024;
/// Records in one message: about 64 KiB.
const PEERS_MAX: usize = 128;

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) record: SharedRecord,
    pub(crate) state: MemberState,
    heard: Time,
    /// When the state was last set.
    since: Time,
    /// How often it refuted a suspicion of mine since it was last linked, and until when that keeps me from another.
    refuted: u32,
    patient_until: Time,
    /// How many said of this incarnation that it is down, myself included.
    mourners: u8,
    /// Its part of the roll.
    print: u64,
}

impl Member {
    fn new(record: SharedRecord, now: Time) -> Self {
        let state = said_by(&record);
        Self { record, state, heard: now, since: now, refuted: 0, patient_until: now, mourners: 0, print: 0 }
    }

    /// Whether it takes part: nobody is sure that it does not.
    pub(crate) fn lives(&self) -> bool {
        self.state != MemberState::Down
    }

    /// Whether nobody doubts that it lives.
    pub(crate) const fn is_sound(&self) -> bool {
        matches!(self.state, MemberState::Alive | MemberState::Draining)
    }

    fn view(&self) -> MemberView {
        MemberView { record: self.record.clone(), state: self.state, heard: self.heard }
    }
}

/// Names what others should know of a member that lives.
fn print_of(record: &NodeRecord) -> u64 {
    let head = record.node.as_bytes().first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head));
    mixed(head ^ mixed(record.incarnation << 1 | u64::from(record.draining)))
}

/// The state of a member as its own record has it.
const fn said_by(record: &NodeRecord) -> MemberState {
    if record.draining { MemberState::Draining } else { MemberState::Alive }
}

#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) me: NodeRecord,
    pub(crate) members: BTreeMap<NodeId, Member>,
    pub(crate) links: Links,
    /// Members that may keep things, this node among them unless it drains.
    pub(crate) view: View,
    pub(crate) view_changed: bool,
    /// Members that live, this node among them.
    pub(crate) living: View,
    /// Whether there are too many members for a link between each two.
    pub(crate) sparse: bool,
    /// Members that changed since the last notice.
    changed: BTreeSet<NodeId>,
    next_gossip: Time,
    /// Whether what is new about me is to be said again.
    again: bool,
    /// What is known of the other members that live, slice by slice, each slice named by a number.
    prints: Vec<u64>,
    next_roll: Time,
    next_look: Time,
}

impl Membership {
    pub(crate) fn new(me: NodeRecord, now: Time) -> Self {
        let node = me.node;
        Self {
            me,
            members: BTreeMap::new(),
            links: Links::default(),
            view: View::of([node]),
            view_changed: true,
            living: View::of([node]),
            sparse: false,
            changed: BTreeSet::from([node]),
            next_gossip: now,
            again: true,
            prints: vec![0; ROLL_SLICES],
            next_roll: now,
            next_look: now + LOOK_FOR_DOWN,
        }
    }

    /// Whether every member is linked with this node and was since then: nobody is missing, and nobody was.
    pub(crate) fn are_linked_since(&self, since: Time) -> bool {
        self.members.keys().all(|node| self.links.is_up_since(*node, since))
    }

    pub(crate) fn lives(&self, node: NodeId) -> bool {
        self.members.get(&node).is_some_and(Member::lives)
    }

    /// A member appeared, or its state or incarnation changed.
    fn on_changed(&mut self, node: NodeId) {
        self.changed.insert(node);
        let Some(member) = self.members.get_mut(&node) else { return };
        let print = if member.lives() { print_of(&member.record) } else { 0 };
        self.prints[slice_of(node)] ^= core::mem::replace(&mut member.print, print) ^ print;
        let state = Some(member.state);
        let keeps = matches!(state, Some(MemberState::Alive | MemberState::Suspect));
        self.view_changed |= self.view.set(node, keeps);
        if self.living.set(node, keeps || state == Some(MemberState::Draining)) {
            self.links.neighbours_changed = true;
            self.sparse = self.is_too_large();
        }
    }

    /// A swarm that became sparse stays so until it is clearly smaller: links are not to come and go with one member.
    fn is_too_large(&self) -> bool {
        let others = self.living.len() - 1;
        others > if self.sparse { LINKS_FULL_MAX * 3 / 4 } else { LINKS_FULL_MAX }
    }

    fn set_state(&mut self, node: NodeId, state: MemberState, now: Time) {
        let Some(member) = self.members.get_mut(&node) else { return };
        if member.state != state {
            member.state = state;
            member.since = now;
            self.on_changed(node);
        }
    }

    /// Takes in a newer record and believes what it says.
    fn take(&mut self, record: SharedRecord, now: Time) {
        let (node, state) = (record.node, said_by(&record));
        let Some(member) = self.members.get_mut(&node) else {
            self.members.insert(node, Member::new(record, now));
            return self.on_changed(node);
        };
        let reborn = member.record.incarnation < record.incarnation;
        if reborn && member.state == MemberState::Suspect {
            member.refuted += 1;
            let doublings = member.refuted.min(PATIENCE_DOUBLINGS_MAX);
            member.patient_until = now + PATIENCE_FIRST * (1 << doublings) / 2;
        }
        member.record = record;
        member.heard = now;
        if reborn {
            member.mourners = 0;
        }
        if reborn || member.state != state {
            member.since = now;
            member.state = state;
            self.on_changed(node);
        } else {
            self.changed.insert(node);
        }
    }

    /// `clamp(N / 100, 1, 60)` seconds between linked members, less often in a sparse swarm: the cost per node stays flat
    /// as the swarm grows.
    fn gossip_interval(&self) -> Duration {
        let members = self.members.len() as u64;
        Duration::from_secs(match self.sparse {
            true => (members / RECORDS_PER_SECOND).clamp(*RECORD_EVERY.start(), *RECORD_EVERY.end()),
            false => (members / 100).clamp(1, 60),
        })
    }

    /// Says what is new about me at once, and once more.
    fn say_now(&mut self, now: Time) {
        self.next_gossip = now;
        self.again = true;
    }

    /// What the members of a slice that live say of themselves.
    fn living_in(&self, slice: u8) -> impl Iterator<Item = SharedRecord> + '_ {
        let width = (256 / ROLL_SLICES) as u8;
        let (first, last) = (slice * width, slice * width + (width - 1));
        let (mut from, mut to) = ([0; 32], [u8::MAX; 32]);
        (from[0], to[0]) = (first, last);
        let others = self.members.range(NodeId::from_bytes(from)..=NodeId::from_bytes(to)).map(|(_, member)| member);
        let me = (slice_of(self.me.node) == usize::from(slice)).then(|| self.my_record());
        others.filter(|member| member.lives()).map(|member| member.record.clone()).chain(me)
    }

    /// Names what is known of the members that live, this node among them, slice by slice.
    fn roll(&self) -> Vec<u64> {
        let mut slices = self.prints.clone();
        slices[slice_of(self.me.node)] ^= print_of(&self.me);
        slices
    }

    pub(crate) fn my_record(&self) -> SharedRecord {
        self.me.clone().into()
    }
}

fn slice_of(node: NodeId) -> usize {
    usize::from(node.as_bytes()[0]) * ROLL_SLICES / 256
}

impl Node {
    pub(crate) fn me(&self) -> NodeId {
        self.membership.me.node
    }

    /// Every node that this one knows, itself included and first.
    pub fn members(&self) -> Vec<MemberView> {
        core::iter::once(self.myself()).chain(self.membership.members.values().map(Member::view)).collect()
    }

    fn myself(&self) -> MemberView {
        let record = self.membership.my_record();
        MemberView { state: said_by(&record), record, heard: self.now }
    }

    /// What a newly linked peer is told of the members.
    pub(crate) fn greet(&mut self, peer: NodeId) {
        let me = self.membership.my_record();
        self.send(peer, Message::Hello(me));
        // Peers that were there all the time compare their members anyway, now and then.
        let returns = !self.membership.lives(peer) || self.is_kin(peer);
        if !self.membership.sparse {
            let others = self.membership.members.values().filter(|member| member.lives());
            let peers = others.take(PEERS_MAX).map(|member| member.record.clone()).collect();
            self.send(peer, Message::Peers(peers));
        } else if returns {
            let slices = self.membership.roll();
            self.send(peer, Message::Roll(slices));
        }
        if let Some(member) = self.membership.members.get_mut(&peer) {
            member.refuted = 0;
            member.patient_until = self.now;
        }
    }

    // ---- records

    pub(crate) fn on_hello(&mut self, from: NodeId, record: SharedRecord) {
        if record.node != from {
            return;
        }
        if let Some(known) = self.membership.members.get(&from) {
            let (mine, its) = (known.record.incarnation, record.incarnation);
            if mine > its || (mine == its && !known.is_sound()) {
                self.send(from, Message::Suspected(mine));
            }
        }
        self.on_record(record, true);
    }

    /// A node's word about itself, on my own link to it or in gossip.
    fn on_record(&mut self, record: SharedRecord, linked: bool) {
        let (node, now) = (record.node, self.now);
        if node == self.me() {
            return self.outlive(&record);
        }
        let known = self.membership.members.get(&node);
        if known.is_none() && self.membership.members.len() >= MEMBERS_MAX {
            return;
        }
        if let Some(known) = known {
            let (mine, its) = (known.record.incarnation, record.incarnation);
            let newer = (mine, known.record.sequence) < (its, record.sequence);
            // In a sparse swarm a suspect has to know of it: else others would go on believing that it is down.
            let doubted = self.membership.sparse && !linked && mine == its && !known.is_sound();
            if mine > its && !linked && !self.membership.sparse {
                // It does not know what was said in its name, and so is not heard. In a sparse swarm rolls tell it.
                self.out.gossip.push(Gossip::Suspect { node, incarnation: mine });
            }
            if !newer || doubted {
                return;
            }
        }
        self.want_link(node, record.addresses.clone());
        self.membership.take(record, now);
    }

    /// Another node's word about a member.
    fn on_hearsay(&mut self, record: SharedRecord) {
        if record.node == self.me() {
            return self.outlive(&record);
        }
        let news = match self.membership.members.get(&record.node) {
            None => self.membership.members.len() < MEMBERS_MAX,
            Some(known) if known.record.incarnation == record.incarnation => {
                let differs = known.record.draining != record.draining || known.record.addresses != record.addresses;
                known.is_sound() && known.record.sequence < record.sequence && differs
            }
            Some(known) => known.record.incarnation < record.incarnation,
        };
        if news {
            self.membership.take(record, self.now);
        }
    }

    pub(crate) fn on_peers(&mut self, peers: Vec<SharedRecord>) {
        // Where all can be linked each is heard itself; a thousand cannot.
        let believed = self.membership.sparse || self.membership.members.len() + peers.len() > LINKS_FULL_MAX;
        for hint in peers.into_iter().take(PEERS_MAX) {
            if believed || hint.node == self.me() {
                self.on_hearsay(hint);
            } else if !self.membership.lives(hint.node) {
                self.want_link(hint.node, hint.addresses.clone());
            }
        }
    }

    /// Any message proves that the sender lives.
    pub(crate) fn on_heard(&mut self, from: NodeId) {
        let now = self.now;
        if let Some(member) = self.membership.members.get_mut(&from) {
            member.heard = now;
            if member.state == MemberState::Suspect {
                let state = said_by(&member.record);
                self.membership.set_state(from, state, now);
            }
        }
    }

    pub(crate) fn on_gossip(&mut self, from: NodeId, gossip: Gossip) {
        match gossip {
            Gossip::Alive(record) if record.node == from => self.on_record(record, false),
            Gossip::Alive(_) => {}
            Gossip::Suspect { node, incarnation } => self.on_suspicion(node, incarnation),
            Gossip::Down { node, incarnation } => self.on_mourned(node, incarnation),
            Gossip::Left { incarnation } => self.on_left(from, incarnation),
            Gossip::Job { job, holder } => self.on_job_gossip(job, holder),
            Gossip::JobOver(job) => self.on_over(job),
        }
    }

    // ---- comparing members

    fn compare_members(&mut self) {
        if !self.membership.sparse || self.now < self.membership.next_roll {
            return;
        }
        let jitter = Duration::from_millis(self.rng.u64(0..=ROLL_EVERY.as_millis() as u64 / 2));
        self.membership.next_roll = self.now + ROLL_EVERY + jitter;
        if let Some(peer) = self.some_linked() {
            let slices = self.membership.roll();
            self.send(peer, Message::Roll(slices));
        }
    }

    /// Answers with what I know of the slices in which we differ.
    pub(crate) fn on_roll(&mut self, from: NodeId, theirs: &[u64]) {
        let mine = self.membership.roll();
        let differ = |slice: &usize| theirs.len() == mine.len() && theirs[*slice] != mine[*slice];
        let mut answers = vec![(Vec::new(), Vec::new())];
        for slice in (0..mine.len()).filter(differ).map(|slice| slice as u8) {
            let of_slice: Vec<_> = self.membership.living_in(slice).collect();
            if answers.last().is_some_and(|(_, records)| records.len() + of_slice.len() > PEERS_MAX) {
                answers.push((Vec::new(), Vec::new()));
            }
            if let Some((slices, records)) = answers.last_mut() {
                slices.push(slice);
                records.extend(of_slice);
            }
        }
        for (slices, records) in answers.into_iter().filter(|(slices, _)| !slices.is_empty()) {
            self.send(from, Message::RollDiffers { slices, records });
        }
    }

    /// Takes in what the other knows, and gives what it does not.
    pub(crate) fn on_roll_differs(&mut self, from: NodeId, slices: &[u8], records: Vec<SharedRecord>) {
        let told: BTreeMap<_, _> =
            records.iter().map(|record| (record.node, (record.incarnation, record.draining))).collect();
        let down = told.iter().filter_map(|(node, (its, _))| {
            let known = self.membership.members.get(node)?;
            let mine = known.record.incarnation;
            (!known.lives() && mine >= *its).then_some((*node, mine))
        });
        let down: Vec<_> = down.collect();
        records.into_iter().take(2 * PEERS_MAX).for_each(|record| self.on_hearsay(record));
        let lacking = |record: &SharedRecord| {
            told.get(&record.node).is_none_or(|its| *its < (record.incarnation, record.draining))
        };
        let slices: BTreeSet<_> = slices.iter().copied().filter(|slice| usize::from(*slice) < ROLL_SLICES).collect();
        let mine = slices.into_iter().flat_map(|slice| self.membership.living_in(slice));
        let news: Vec<_> = mine.filter(lacking).collect();
        for news in news.chunks(PEERS_MAX) {
            self.send(from, Message::Peers(news.to_vec()));
        }
        if !down.is_empty() {
            self.send(from, Message::AreDown(down));
        }
    }

    pub(crate) fn on_are_down(&mut self, nodes: Vec<(NodeId, u64)>) {
        nodes.into_iter().take(2 * PEERS_MAX).for_each(|(node, incarnation)| self.on_down(node, incarnation));
    }

    // ---- my own life

    /// Somebody knows a record of mine that is ahead of mine: a twin's, or one of my own past that I forgot. Others would
    /// believe that one, and that I still have what I had then.
    fn outlive(&mut self, record: &NodeRecord) {
        let me = &self.membership.me;
        if (record.incarnation, record.sequence) > (me.incarnation, me.sequence) {
            self.reincarnate(record.incarnation);
        }
    }

    /// Somebody takes me for dead. One that has left agrees.
    pub(crate) fn refute(&mut self, incarnation: u64) {
        if incarnation >= self.membership.me.incarnation && !self.has_left() {
            self.reincarnate(incarnation);
        }
    }

    fn reincarnate(&mut self, above: u64) {
        self.membership.me.incarnation = above.saturating_add(1);
        self.persist_incarnation();
        self.membership.say_now(self.now);
    }

    pub(crate) fn persist_incarnation(&mut self) {
        let incarnation = codec::encode(&self.membership.me.incarnation);
        self.out.persist.push(Write::put(Table::Meta, INCARNATION_KEY, incarnation));
    }

    /// Addresses or drain state changed: say so now rather than at the next heartbeat.
    pub(crate) fn on_me_changed(&mut self) {
        let (node, keeps) = (self.me(), !self.membership.me.draining);
        self.membership.say_now(self.now);
        self.membership.changed.insert(node);
        self.membership.view_changed |= self.membership.view.set(node, keeps);
    }

    pub(crate) fn on_addresses(&mut self, addresses: Vec<String>) {
        self.membership.me.addresses = addresses;
        self.on_me_changed();
        for peer in self.linked() {
            let me = self.membership.my_record();
            self.send(peer, Message::Hello(me));
        }
    }

    // ---- the death of others

    pub(crate) fn on_suspicion(&mut self, node: NodeId, incarnation: u64) {
        if node == self.me() {
            return self.refute(incarnation);
        }
        let known = self.membership.members.get(&node);
        if !known.is_some_and(|known| known.state == MemberState::Alive && known.record.incarnation <= incarnation) {
            return;
        }
        if self.is_heard(node) {
            // Whoever doubts it does not hear it, and it may not hear them.
            self.send(node, Message::Suspected(incarnation));
        } else {
            self.membership.set_state(node, MemberState::Suspect, self.now);
        }
    }

    /// Somebody says in gossip that a member is down. Who knows it by itself says so too, so that all hear it.
    fn on_mourned(&mut self, node: NodeId, incarnation: u64) {
        let misses = self.membership.sparse && self.is_kin(node) && self.is_missed(node);
        if let Some(known) = self.membership.members.get_mut(&node)
            && known.record.incarnation == incarnation
        {
            known.mourners = known.mourners.saturating_add(1);
            if known.lives() && misses && known.mourners < MOURNERS {
                known.mourners += 1;
                self.out.gossip.push(Gossip::Down { node, incarnation });
            }
        }
        self.on_down(node, incarnation);
    }

    /// Somebody is sure that this incarnation is over.
    fn on_down(&mut self, node: NodeId, incarnation: u64) {
        if node == self.me() {
            return self.refute(incarnation);
        }
        let known = self.membership.members.get(&node);
        if known.is_none_or(|known| known.record.incarnation > incarnation || !known.lives()) {
            return;
        }
        if self.membership.sparse && self.is_heard(node) {
            self.send(node, Message::Suspected(incarnation));
        } else {
            self.membership.set_state(node, MemberState::Down, self.now);
        }
    }

    /// Its own word, also when its links are still there.
    fn on_left(&mut self, node: NodeId, incarnation: u64) {
        if self.membership.members.get(&node).is_some_and(|known| known.record.incarnation <= incarnation) {
            self.membership.set_state(node, MemberState::Down, self.now);
        }
    }

    /// Called every heartbeat.
    pub(crate) fn keep_membership(&mut self) {
        self.keep_links();
        if self.membership.sparse {
            self.watch_kin();
            self.look_for_down();
        } else {
            self.suspect_the_silent();
        }
        self.compare_members();
        if self.now >= self.membership.next_gossip {
            self.gossip_alive();
        }
    }

    /// Each is linked with each, and judges for itself.
    fn suspect_the_silent(&mut self) {
        let now = self.now;
        let silence = SILENCE_BEFORE_SUSPECT + self.membership.gossip_interval();
        let mut changes = Vec::new();
        for (&node, member) in &self.membership.members {
            let reached = self.is_heard(node);
            match member.state {
                MemberState::Alive | MemberState::Draining if !reached && now.since(member.heard) > silence => {
                    changes.push((node, MemberState::Suspect, member.record.incarnation));
                }
                MemberState::Suspect if reached => changes.push((node, said_by(&member.record), 0)),
                MemberState::Suspect if now.since(member.since) > SUSPECT_BEFORE_DOWN => {
                    changes.push((node, MemberState::Down, 0));
                }
                _ => {}
            }
        }
        for (node, state, incarnation) in changes {
            self.membership.set_state(node, state, now);
            if state == MemberState::Suspect {
                self.out.gossip.push(Gossip::Suspect { node, incarnation });
            }
        }
    }

    /// In a sparse swarm only those that should have a link to a member may find it dead.
    fn watch_kin(&mut self) {
        let now = self.now;
        for node in self.kin() {
            let missed = self.is_missed(node);
            let Some(member) = self.membership.members.get_mut(&node) else { continue };
            let incarnation = member.record.incarnation;
            match member.state {
                MemberState::Alive | MemberState::Draining if missed && now >= member.patient_until => {
                    self.membership.set_state(node, MemberState::Suspect, now);
                    self.out.gossip.push(Gossip::Suspect { node, incarnation });
                }
                MemberState::Suspect if missed && now.since(member.since) > SUSPECT_BEFORE_DOWN => {
                    member.mourners = member.mourners.saturating_add(1);
                    self.membership.set_state(node, MemberState::Down, now);
                    self.out.gossip.push(Gossip::Down { node, incarnation });
                }
                _ => {}
            }
        }
    }

    /// Knocks at one that is down.
    fn look_for_down(&mut self) {
        if self.now < self.membership.next_look {
            return;
        }
        let jitter = Duration::from_millis(self.rng.u64(0..=LOOK_FOR_DOWN.as_millis() as u64));
        self.membership.next_look = self.now + LOOK_FOR_DOWN / 2 + jitter;
        let down: Vec<_> = self.membership.members.values().filter(|member| !member.lives()).collect();
        if !down.is_empty() {
            let record = &down[self.rng.usize(0..down.len())].record;
            self.out.dial.push((record.node, record.addresses.clone()));
        }
    }

    fn gossip_alive(&mut self) {
        let slots_free = self.free_slots();
        let again = core::mem::take(&mut self.membership.again);
        let interval = self.membership.gossip_interval();
        let interval = if again { interval.min(SAY_AGAIN) } else { interval };
        // Where many start at once their records must not stay in phase.
        let (least, spread) = if self.membership.sparse && !again { (interval / 2, 1) } else { (interval, 5) };
        let jitter = self.rng.u64(0..=interval.as_micros() as u64 / spread);
        self.membership.next_gossip = self.now + least + Duration::from_micros(jitter);
        let me = &mut self.membership.me;
        me.sequence += 1;
        me.slots_free = slots_free;
        self.out.gossip.push(Gossip::Alive(me.clone().into()));
        self.membership.changed.insert(self.membership.me.node);
    }

    /// At the end of every event.
    pub(crate) fn notify_members(&mut self) {
        if self.membership.changed.is_empty() {
            return;
        }
        let changed = core::mem::take(&mut self.membership.changed);
        let views = changed.into_iter().filter_map(|node| match self.membership.members.get(&node) {
            Some(member) => Some(member.view()),
            None => (node == self.me()).then(|| self.myself()),
        });
        let views = views.collect();
        self.out.notify.push(Notice::Members(views));
    }
}

/// Where [`Table::Meta`] keeps the incarnation.
pub(crate) const INCARNATION_KEY: &[u8] = b"incarnation";
