//! Who is in the swarm, and whom I can reach.
//!
//! Always true:
//! - a record replaces another of the same node only when its (incarnation, sequence) is higher;
//! - my own incarnation is persisted before anybody hears of it, and only grows;
//! - a live link of my own outweighs hearsay.
//!
//! Elsewhere: dialling and the sockets are `node::network`; what a change of members means for jobs is `custody`.
//!
//! Suspicion and refutation are SWIM's (Das, Gupta, Motivala, 2002 §4.2), carried by gossip instead of piggybacked.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::message::{Gossip, Message, NodeRecord};
use crate::node::Node;
use crate::placement::View;
use crate::planted::PlantedBug;
use crate::{MemberState, MemberView, NodeId, Notice, Table, Time, Write, codec};

/// How often linked peers hear from each other. Bounds how late a silent death is noticed.
pub const HEARTBEAT: Duration = Duration::from_millis(250);
/// A link without a heartbeat for this long is not counted on: eight heartbeats, so that a stall of a busy machine is
/// survived. A process that died is noticed at once, by its closed connection.
pub const LINK_SILENCE_MAX: Duration = Duration::from_millis(2000);
/// A member is suspected when its link is gone and nothing was heard of it for this long.
const SILENCE_BEFORE_SUSPECT: Duration = Duration::from_secs(2);
/// A suspect that did not refute for this long is down.
const SUSPECT_BEFORE_DOWN: Duration = Duration::from_secs(5);
/// The first redial of a lost peer; doubles.
const REDIAL_FIRST: Duration = Duration::from_millis(200);
/// The longest wait between two dials of one peer.
const REDIAL_MAX: Duration = Duration::from_secs(10);
/// Peers tried at once or remembered as hints, so that a liar cannot fill the memory.
const DIALS_MAX: usize = 1024;
/// Members kept; far above the thousand a cell is designed for.
const MEMBERS_MAX: usize = 16 * 1024;
/// Records in one `Peers` message: about 64 KiB.
const PEERS_MAX: usize = 128;

#[derive(Debug)]
pub(crate) struct Member {
    record: NodeRecord,
    state: MemberState,
    heard: Time,
    /// When the state was last set.
    since: Time,
}

#[derive(Debug)]
pub(crate) struct Link {
    heard: Time,
    /// Tasks that the peer could grant, by its last heartbeat.
    pub(crate) claimable: u32,
}

#[derive(Debug)]
struct Dial {
    addresses: Vec<String>,
    next: Time,
    wait: Duration,
}

#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) me: NodeRecord,
    members: BTreeMap<NodeId, Member>,
    pub(crate) links: BTreeMap<NodeId, Link>,
    dials: BTreeMap<NodeId, Dial>,
    /// Members that may keep things. Replaced as a whole when it changes.
    pub(crate) view: View,
    pub(crate) view_changed: bool,
    members_changed: bool,
    next_gossip: Time,
}

impl Membership {
    pub(crate) fn new(me: NodeRecord, now: Time) -> Self {
        let view = View::of([me.node]);
        Self {
            me,
            members: BTreeMap::new(),
            links: BTreeMap::new(),
            dials: BTreeMap::new(),
            view,
            view_changed: true,
            members_changed: true,
            next_gossip: now,
        }
    }

    /// Whether messages to `node` arrive, as far as I can tell now.
    pub(crate) fn reaches(&self, node: NodeId, now: Time) -> bool {
        node == self.me.node || self.links.get(&node).is_some_and(|link| now.since(link.heard) < LINK_SILENCE_MAX)
    }

    fn refresh_view(&mut self) {
        let keeps = |state| matches!(state, MemberState::Alive | MemberState::Suspect);
        let others = self.members.iter().filter(|(_, member)| keeps(member.state)).map(|(node, _)| *node);
        let me = (!self.me.draining).then_some(self.me.node);
        let mut nodes: Vec<_> = others.chain(me).collect();
        nodes.sort_unstable();
        let view = View::of(nodes);
        if view != self.view {
            self.view = view;
            self.view_changed = true;
        }
    }

    fn set_state(&mut self, node: NodeId, state: MemberState, now: Time) {
        let Some(member) = self.members.get_mut(&node) else { return };
        if member.state != state {
            member.state = state;
            member.since = now;
            self.members_changed = true;
            self.refresh_view();
        }
    }

    fn want_dial(&mut self, node: NodeId, addresses: Vec<String>, now: Time) {
        if node == self.me.node || self.links.contains_key(&node) || addresses.is_empty() {
            return;
        }
        if let Some(dial) = self.dials.get_mut(&node) {
            dial.addresses = addresses;
        } else if self.dials.len() < DIALS_MAX {
            self.dials.insert(node, Dial { addresses, next: now, wait: REDIAL_FIRST });
        }
    }

    /// `clamp(N / 100, 1, 60)` seconds: the cost per node stays flat as the swarm grows.
    fn gossip_interval(&self) -> Duration {
        Duration::from_secs((self.members.len() as u64 / 100).clamp(1, 60))
    }
}

impl Node {
    pub(crate) fn me(&self) -> NodeId {
        self.membership.me.node
    }

    pub(crate) fn reaches(&self, node: NodeId) -> bool {
        self.membership.reaches(node, self.now)
    }

    /// Every node that this one knows, itself included and first.
    pub fn members(&self) -> Vec<MemberView> {
        let state = if self.membership.me.draining { MemberState::Draining } else { MemberState::Alive };
        let me = MemberView { record: self.membership.me.clone(), state, heard: self.now };
        let others = self.membership.members.values();
        let others = others.map(|it| MemberView { record: it.record.clone(), state: it.state, heard: it.heard });
        core::iter::once(me).chain(others).collect()
    }

    pub(crate) fn on_link_up(&mut self, peer: NodeId) {
        self.membership.links.insert(peer, Link { heard: self.now, claimable: 0 });
        self.membership.dials.remove(&peer);
        let me = self.membership.me.clone();
        let alive = self.membership.members.values().filter(|member| member.state != MemberState::Down);
        let peers: Vec<_> = alive.take(PEERS_MAX).map(|member| member.record.clone()).collect();
        self.send(peer, Message::Hello(me));
        self.send(peer, Message::Peers(peers));
        self.send_heartbeat(peer);
        self.on_link_change(peer);
    }

    pub(crate) fn on_link_down(&mut self, peer: NodeId) {
        self.membership.links.remove(&peer);
        if let Some(member) = self.membership.members.get(&peer) {
            let addresses = member.record.addresses.clone();
            self.membership.want_dial(peer, addresses, self.now);
        }
        self.on_executor_unlinked(peer);
        self.on_link_change(peer);
    }

    pub(crate) fn on_hello(&mut self, from: NodeId, record: NodeRecord) {
        if record.node == from {
            self.on_record(record);
        }
    }

    pub(crate) fn on_peers(&mut self, peers: Vec<NodeRecord>) {
        for hint in peers.into_iter().take(PEERS_MAX) {
            let known = self.membership.members.get(&hint.node);
            if known.is_none_or(|member| member.state == MemberState::Down) {
                self.membership.want_dial(hint.node, hint.addresses, self.now);
            }
        }
    }

    /// Any message proves that the link lives.
    pub(crate) fn on_heard(&mut self, from: NodeId) {
        let now = self.now;
        if let Some(link) = self.membership.links.get_mut(&from) {
            link.heard = now;
        }
        if let Some(member) = self.membership.members.get_mut(&from) {
            member.heard = now;
            if member.state == MemberState::Suspect {
                self.membership.set_state(from, MemberState::Alive, now);
            }
        }
    }

    pub(crate) fn on_gossip(&mut self, from: NodeId, gossip: Gossip) {
        match gossip {
            Gossip::Alive(record) => self.on_hello(from, record),
            Gossip::Suspect { node, incarnation } => self.on_suspicion(node, incarnation),
            Gossip::Left { incarnation } => self.on_left(from, incarnation),
            Gossip::Job { job, holder } => self.on_announced(job, holder),
        }
    }

    fn on_record(&mut self, record: NodeRecord) {
        let (node, now) = (record.node, self.now);
        let version = (record.incarnation, record.sequence);
        if node == self.me() {
            return self.outlive(record.incarnation);
        }
        let known = self.membership.members.get(&node).map(|known| (known.record.incarnation, known.record.sequence));
        if known.is_some_and(|known| known >= version)
            || (known.is_none() && self.membership.members.len() >= MEMBERS_MAX)
        {
            return;
        }
        let state = if record.draining { MemberState::Draining } else { MemberState::Alive };
        self.membership.want_dial(node, record.addresses.clone(), now);
        let member = self.membership.members.entry(node);
        let is_new = matches!(member, std::collections::btree_map::Entry::Vacant(_));
        let member = member.or_insert_with(|| Member { record: record.clone(), state, heard: now, since: now });
        member.record = record;
        member.heard = now;
        self.membership.members_changed = true;
        self.membership.set_state(node, state, now);
        if is_new {
            self.membership.refresh_view();
        }
    }

    /// Somebody speaks of me as of an incarnation that is not behind mine: a twin, or my own past that I forgot.
    fn outlive(&mut self, incarnation: u64) {
        if incarnation > self.membership.me.incarnation {
            self.reincarnate(incarnation);
        }
    }

    fn reincarnate(&mut self, above: u64) {
        self.membership.me.incarnation = above.saturating_add(1);
        self.persist_incarnation();
        self.membership.next_gossip = self.now;
    }

    pub(crate) fn persist_incarnation(&mut self) {
        let incarnation = codec::encode(&self.membership.me.incarnation);
        self.out.persist.push(Write::put(Table::Meta, INCARNATION_KEY, incarnation));
    }

    fn on_suspicion(&mut self, node: NodeId, incarnation: u64) {
        if node == self.me() {
            if incarnation >= self.membership.me.incarnation {
                self.reincarnate(incarnation);
            }
            return;
        }
        let current = self
            .membership
            .members
            .get(&node)
            .is_some_and(|known| known.state == MemberState::Alive && known.record.incarnation <= incarnation);
        if current && !self.reaches(node) {
            self.membership.set_state(node, MemberState::Suspect, self.now);
        }
    }

    fn on_left(&mut self, node: NodeId, incarnation: u64) {
        if self.membership.members.get(&node).is_some_and(|known| known.record.incarnation <= incarnation) {
            self.membership.set_state(node, MemberState::Down, self.now);
        }
    }

    /// Addresses or drain state changed: say so now rather than at the next heartbeat.
    pub(crate) fn on_me_changed(&mut self) {
        self.membership.next_gossip = self.now;
        self.membership.members_changed = true;
        self.membership.refresh_view();
    }

    pub(crate) fn on_addresses(&mut self, addresses: Vec<String>) {
        self.membership.me.addresses = addresses;
        self.on_me_changed();
        let peers: Vec<_> = self.membership.links.keys().copied().collect();
        for peer in peers {
            let me = self.membership.me.clone();
            self.send(peer, Message::Hello(me));
        }
    }

    /// Called every heartbeat.
    pub(crate) fn keep_membership(&mut self) {
        self.suspect_the_silent();
        self.dial_the_missing();
        if self.now >= self.membership.next_gossip {
            self.gossip_alive();
        }
    }

    fn suspect_the_silent(&mut self) {
        let now = self.now;
        let silence = SILENCE_BEFORE_SUSPECT + self.membership.gossip_interval();
        let mut changes = Vec::new();
        for (&node, member) in &self.membership.members {
            let reached = self.membership.reaches(node, now);
            match member.state {
                MemberState::Alive | MemberState::Draining if !reached && now.since(member.heard) > silence => {
                    changes.push((node, MemberState::Suspect, member.record.incarnation));
                }
                MemberState::Suspect if reached => changes.push((node, MemberState::Alive, 0)),
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

    fn dial_the_missing(&mut self) {
        let now = self.now;
        let known = self.membership.members.iter();
        let missing: Vec<_> = known
            .filter(|(node, member)| member.state != MemberState::Down && !self.membership.links.contains_key(node))
            .map(|(node, member)| (*node, member.record.addresses.clone()))
            .collect();
        for (node, addresses) in missing {
            self.membership.want_dial(node, addresses, now);
        }
        for (&node, dial) in &mut self.membership.dials {
            if now >= dial.next {
                let jitter = self.rng.u64(0..=dial.wait.as_micros() as u64 / 2);
                dial.next = now + dial.wait + Duration::from_micros(jitter);
                dial.wait = (dial.wait * 2).min(REDIAL_MAX);
                self.out.dial.push((node, dial.addresses.clone()));
            }
        }
    }

    fn gossip_alive(&mut self) {
        let slots_free = self.free_slots();
        let interval = self.membership.gossip_interval();
        let jitter = self.rng.u64(0..=interval.as_micros() as u64 / 5);
        self.membership.next_gossip = self.now + interval + Duration::from_micros(jitter);
        let by_clock = self.plants(PlantedBug::TrustsTheClock);
        let me = &mut self.membership.me;
        me.sequence = if by_clock { self.now.as_micros() } else { me.sequence + 1 };
        me.slots_free = slots_free;
        self.out.gossip.push(Gossip::Alive(me.clone()));
        self.membership.members_changed = true;
    }

    /// At the end of every event.
    pub(crate) fn notify_members(&mut self) {
        if core::mem::take(&mut self.membership.members_changed) {
            let members = self.members();
            self.out.notify.push(Notice::Members(members));
        }
    }
}

/// Where [`Table::Meta`] keeps the incarnation.
pub(crate) const INCARNATION_KEY: &[u8] = b"incarnation";
