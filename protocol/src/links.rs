//! Which nodes this one is linked with, how often they hear from it, and whom it reaches.
//!
//! Always true:
//! - up to [`LINKS_FULL_MAX`] other members every two nodes want a link, and hear from each other every [`HEARTBEAT`];
//! - in a sparse swarm a node wants a link to its *kin*: its neighbours by [`View::neighbours`](crate::placement::View),
//!   and its partners, with whom it shares work. Partners hear from each other every [`HEARTBEAT`], others less often;
//! - whom this node has something to say to is dialled; what waits for the link is bounded, and forgotten in time;
//! - a link is given up when neither end wants it.
//!
//! Elsewhere: dialling and the sockets are `node::network`; what silence means for a member is `membership`.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use crate::membership::SILENCE_BEFORE_SUSPECT;
use crate::message::Message;
use crate::node::Node;
use crate::{NodeId, Standing, Time};

/// Up to so many other members every two are linked: at four heartbeats a second each, a node then sends about 10 kB a
/// second. In larger swarms a node has about ten links and those that it works with.
pub const LINKS_FULL_MAX: usize = 32;
/// How often linked peers that share work hear from each other. Bounds how late a silent death is noticed.
pub const HEARTBEAT: Duration = Duration::from_millis(250);
/// How often other linked peers hear from each other.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// A link without a heartbeat for this long is not counted on: eight heartbeats, so that a stall of a busy machine is
/// survived. A process that died is noticed at once, by its closed connection.
pub const LINK_SILENCE_MAX: Duration = Duration::from_millis(2000);
/// Where heartbeats are rarer, so many of them may be missed.
const HEARTBEATS_MISSED_MAX: u32 = 4;
/// The longest time between two heartbeats that a peer can ask to be granted.
const HEARTBEAT_EVERY_MAX: Duration = Duration::from_secs(5);
/// The first redial of a lost peer; doubles.
const REDIAL_FIRST: Duration = Duration::from_millis(200);
/// The longest wait between two dials of one peer.
const REDIAL_MAX: Duration = Duration::from_secs(10);
/// A member that lives as far as is known is counted on without a link, until dials have failed for this long.
const DIALS_FAIL_AFTER: Duration = Duration::from_millis(1500);
/// That a node could not be reached is remembered so long after it was last wanted.
const FAILURE_MEMORY: Duration = Duration::from_secs(30);
/// A link over which no work was talked of for this long is not wanted, unless to a neighbour.
const LINK_IDLE_MAX: Duration = Duration::from_secs(30);
/// Peers dialled at once or remembered as hints, so that a liar cannot fill the memory.
const DIALS_MAX: usize = 1024;
/// What is in no hurry waits so long for something else that goes to the same peer.
const COMPANY_MAX: Duration = Duration::from_millis(50);
/// Messages that wait for one link to come up.
const WAITING_MESSAGES_MAX: usize = 32;
/// How long they wait. Whatever matters is said again.
const WAITING_MAX: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(crate) struct Link {
    since: Time,
    heard: Time,
    /// How long the peer may be silent, by what it said last.
    silence_max: Duration,
    /// Tasks that the peer could grant, by its last heartbeat.
    pub(crate) claimable: u32,
    /// The first of them.
    first: Option<Standing>,
    /// Tasks that it was told it could have here.
    told: u32,
    /// Whether the peer wants the link, by its last heartbeat.
    is_wanted_there: bool,
    /// When work was last talked of.
    used: Time,
    next_heartbeat: Time,
    /// When it was last given up. The network may have kept it for something else.
    given_up: Option<Time>,
    /// In no hurry; they go with the next message to this peer.
    waiting: Vec<Message>,
}

#[derive(Debug)]
struct Dial {
    addresses: Vec<String>,
    /// The first try.
    since: Time,
    next: Time,
    wait: Duration,
    /// When the link was last asked for.
    wanted: Time,
    waiting: Vec<Message>,
}

#[derive(Debug, Default)]
pub(crate) struct Links {
    up: BTreeMap<NodeId, Link>,
    dials: BTreeMap<NodeId, Dial>,
    neighbours: BTreeSet<NodeId>,
    pub(crate) neighbours_changed: bool,
    /// Nodes with which work is shared, as of the last heartbeat.
    partners: BTreeSet<NodeId>,
    /// When what waits for company is sent without.
    company_due: Option<Time>,
}

impl Links {
    pub(crate) fn len(&self) -> usize {
        self.up.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.up.is_empty()
    }

    pub(crate) fn contains(&self, node: NodeId) -> bool {
        self.up.contains_key(&node)
    }

    /// Whether this link was never lost since then.
    pub(crate) fn is_up_since(&self, node: NodeId, since: Time) -> bool {
        self.up.get(&node).is_some_and(|link| link.since <= since)
    }

    /// Linked peers that have tasks to grant, as they said.
    pub(crate) fn with_work(&self) -> impl Iterator<Item = (NodeId, Option<Standing>)> + '_ {
        self.up.iter().filter(|(_, link)| link.claimable > 0).map(|(node, link)| (*node, link.first))
    }

    /// Linked peers that were told last that there is nothing for them.
    pub(crate) fn told_nothing(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.up.iter().filter(|(_, link)| link.told == 0).map(|(node, _)| *node)
    }

    fn is_kin(&self, node: NodeId) -> bool {
        self.neighbours.contains(&node) || self.partners.contains(&node)
    }

    fn wants(&self, node: NodeId, now: Time) -> bool {
        self.is_kin(node) || self.up.get(&node).is_some_and(|link| now.since(link.used) < LINK_IDLE_MAX)
    }
}

impl Node {
    /// Linked with it for so long. Of one that is not linked in a sparse swarm nothing is known but that it lives.
    pub(crate) fn is_linked_for(&self, node: NodeId, time: Duration) -> bool {
        let link = self.membership.links.up.get(&node);
        link.map_or(self.membership.sparse, |link| self.now.since(link.since) >= time)
    }

    /// Linked with it, and heard of it lately.
    pub(crate) fn is_heard(&self, node: NodeId) -> bool {
        let link = self.membership.links.up.get(&node);
        link.is_some_and(|link| self.now.since(link.heard) < link.silence_max)
    }

    /// Whether messages to `node` arrive, as far as I can tell now: I hear it, or in a sparse swarm nobody doubts that it
    /// lives and I have not tried in vain.
    pub(crate) fn reaches(&self, node: NodeId) -> bool {
        node == self.me() || self.is_heard(node) || (self.membership.sparse && self.could_link(node))
    }

    fn could_link(&self, node: NodeId) -> bool {
        let links = &self.membership.links;
        let fails = |dial: &Dial| self.now.since(dial.since) >= DIALS_FAIL_AFTER;
        let sound = self.membership.members.get(&node).is_some_and(|member| member.is_sound());
        sound && !links.contains(node) && !links.dials.get(&node).is_some_and(fails)
    }

    /// Whether there should be a link and has not been one for too long.
    pub(crate) fn is_missed(&self, node: NodeId) -> bool {
        let links = &self.membership.links;
        match links.up.get(&node) {
            Some(link) => self.now.since(link.heard) >= link.silence_max + SILENCE_BEFORE_SUSPECT,
            None => links.dials.get(&node).is_some_and(|dial| self.now.since(dial.since) >= SILENCE_BEFORE_SUSPECT),
        }
    }

    pub(crate) fn is_kin(&self, node: NodeId) -> bool {
        self.membership.links.is_kin(node)
    }

    pub(crate) fn kin(&self) -> Vec<NodeId> {
        let links = &self.membership.links;
        links.neighbours.union(&links.partners).copied().collect()
    }

    pub(crate) fn linked(&self) -> Vec<NodeId> {
        self.membership.links.up.keys().copied().collect()
    }

    /// Those whom this node tells what all should hear: in a small swarm everybody.
    pub(crate) fn linked_neighbours(&self) -> Vec<NodeId> {
        let links = &self.membership.links;
        let near = |node: &NodeId| !self.membership.sparse || links.neighbours.contains(node);
        links.up.keys().copied().filter(near).collect()
    }

    pub(crate) fn some_linked(&mut self) -> Option<NodeId> {
        let linked = self.linked();
        (!linked.is_empty()).then(|| linked[self.rng.usize(0..linked.len())])
    }

    /// Whether the network need not look for more peers by itself: this node is where it belongs in a sparse swarm.
    pub fn has_enough_links(&self) -> bool {
        let links = &self.membership.links;
        let there = links.neighbours.iter().filter(|node| links.contains(**node)).count();
        self.membership.sparse && 2 * there >= links.neighbours.len()
    }

    // ---- up and down

    pub(crate) fn on_link_up(&mut self, peer: NodeId) {
        let now = self.now;
        let link = Link {
            since: now,
            heard: now,
            silence_max: LINK_SILENCE_MAX,
            claimable: 0,
            first: None,
            told: 0,
            is_wanted_there: true,
            used: now,
            next_heartbeat: now,
            given_up: None,
            waiting: Vec::new(),
        };
        self.membership.links.up.insert(peer, link);
        let waiting = self.membership.links.dials.remove(&peer).map(|dial| dial.waiting).unwrap_or_default();
        self.doubt_copies_of(peer);
        self.greet(peer);
        self.send_heartbeat(peer);
        for message in waiting {
            self.send(peer, message);
        }
        self.on_link_change(peer);
    }

    pub(crate) fn on_link_down(&mut self, peer: NodeId) {
        let was_wanted = self.membership.links.wants(peer, self.now) || !self.membership.sparse;
        self.membership.links.up.remove(&peer);
        // It may be gone, with all that it had.
        self.doubt_copies_of(peer);
        if was_wanted && let Some(member) = self.membership.members.get(&peer) {
            let addresses = member.record.addresses.clone();
            self.dial(peer, addresses);
        }
        self.on_executor_unlinked(peer);
        self.on_link_change(peer);
    }

    // ---- heartbeats

    /// Called every heartbeat.
    pub(crate) fn send_heartbeats(&mut self) {
        let now = self.now;
        let due: Vec<_> = self.membership.links.up.iter().filter(|(_, link)| now >= link.next_heartbeat).collect();
        let due: Vec<_> = due.into_iter().map(|(node, _)| *node).chain([self.me()]).collect();
        for peer in due {
            self.send_heartbeat(peer);
        }
    }

    pub(crate) fn send_heartbeat(&mut self, peer: NodeId) {
        let now = self.now;
        let (claimable, first) = (self.claimable_for(peer), self.first_for(peer));
        let leases = self.worker.leases_of(peer);
        let links = &mut self.membership.links;
        let works = !self.membership.sparse || !leases.is_empty() || links.partners.contains(&peer);
        let every = if works { HEARTBEAT } else { KEEP_ALIVE };
        let wanted = !self.membership.sparse || links.wants(peer, now);
        if let Some(link) = links.up.get_mut(&peer) {
            // Heartbeats are sent at ticks, one of which may come a little early.
            link.next_heartbeat = now + (every - HEARTBEAT / 2);
            link.told = claimable;
        }
        let every_ms = every.as_millis() as u16;
        self.send(peer, Message::Heartbeat { claimable, leases, every_ms, wanted, first });
    }

    pub(crate) fn on_heartbeat(
        &mut self,
        from: NodeId,
        claimable: u32,
        first: Option<Standing>,
        every_ms: u16,
        wanted: bool,
    ) {
        if let Some(link) = self.membership.links.up.get_mut(&from) {
            let every = Duration::from_millis(every_ms.into()).min(HEARTBEAT_EVERY_MAX);
            link.claimable = claimable;
            link.first = first;
            link.silence_max = LINK_SILENCE_MAX.max(every * HEARTBEATS_MISSED_MAX);
            link.is_wanted_there = wanted;
        }
        self.worker.wants_changed = true;
    }

    /// A message came over this link.
    pub(crate) fn on_link_heard(&mut self, from: NodeId, message: &Message) {
        let now = self.now;
        if let Some(link) = self.membership.links.up.get_mut(&from) {
            link.heard = now;
            if message.is_about_work() {
                link.used = now;
            }
        }
    }

    // ---- saying

    /// Asks a linked peer, while what this event left is still on its way to the disk: for a request that claims nothing of
    /// it. Anybody else is told as by [`Self::send`].
    pub(crate) fn ask(&mut self, to: NodeId, message: Message) {
        match self.membership.links.up.get_mut(&to) {
            Some(link) => {
                link.used = self.now;
                self.out.ask.push((to, message));
            }
            None => self.send(to, message),
        }
    }

    /// To a linked peer, or to myself. In a sparse swarm a member that is not linked is dialled.
    pub(crate) fn send(&mut self, to: NodeId, message: Message) {
        if to == self.me() {
            return self.inbox.push_back(message);
        }
        let now = self.now;
        if let Some(link) = self.membership.links.up.get_mut(&to) {
            if message.is_about_work() {
                link.used = now;
            }
            self.out.send.push((to, message));
        } else if self.membership.sparse && self.membership.lives(to) {
            let addresses = self.membership.members.get(&to).map(|member| member.record.addresses.clone());
            self.dial(to, addresses.unwrap_or_default());
            if let Some(dial) = self.membership.links.dials.get_mut(&to)
                && dial.waiting.len() < WAITING_MESSAGES_MAX
                // While it waited a higher one may be given; the arbiter asks again.
                && !matches!(message, Message::Promise(_))
            {
                dial.waiting.push(message);
            }
        }
    }

    /// To a linked peer, with the next message to it or soon: a message of its own costs both more than what it says.
    pub(crate) fn send_in_company(&mut self, to: NodeId, message: Message) {
        let due = self.now + COMPANY_MAX;
        match self.membership.links.up.get_mut(&to) {
            Some(link) => {
                link.waiting.push(message);
                self.membership.links.company_due.get_or_insert(due);
            }
            None => self.send(to, message),
        }
    }

    /// At the end of every event.
    pub(crate) fn send_what_waits(&mut self) {
        let Some(due) = self.membership.links.company_due else { return };
        let (now, is_due) = (self.now, self.now >= due);
        let sent: BTreeSet<NodeId> = self.out.send.iter().map(|(to, _)| *to).collect();
        let mut left = false;
        for (to, link) in &mut self.membership.links.up {
            if !link.waiting.is_empty() && (is_due || sent.contains(to)) {
                link.used = now;
                self.out.send.extend(link.waiting.drain(..).map(|message| (*to, message)));
            }
            left |= !link.waiting.is_empty();
        }
        self.membership.links.company_due = left.then_some(due);
        self.set_alarm("company", self.membership.links.company_due);
    }

    // ---- dials

    /// A node that may be unlinked is there: where all are linked with all, it is to be linked.
    pub(crate) fn want_link(&mut self, node: NodeId, addresses: Vec<String>) {
        if !self.membership.sparse || self.is_kin(node) {
            self.dial(node, addresses);
        }
    }

    /// Dials a node that is not linked: at once, and again until it is not wanted any more.
    fn dial(&mut self, node: NodeId, addresses: Vec<String>) {
        let (now, me, sparse) = (self.now, self.me(), self.membership.sparse);
        let links = &mut self.membership.links;
        if node == me || links.contains(node) || (addresses.is_empty() && !sparse) {
            return;
        }
        if let Some(dial) = links.dials.get_mut(&node) {
            dial.addresses = addresses;
            dial.wanted = now;
        } else if links.dials.len() < DIALS_MAX {
            let dial = Dial { addresses, since: now, next: now, wait: REDIAL_FIRST, wanted: now, waiting: Vec::new() };
            links.dials.insert(node, dial);
            if sparse {
                self.wake(now, "dial");
            }
        }
    }

    /// Called every heartbeat.
    pub(crate) fn keep_links(&mut self) {
        if self.membership.sparse {
            self.know_kin();
            self.hang_up();
        }
        self.dial_the_missing();
    }

    fn know_kin(&mut self) {
        self.membership.links.partners = self.partners();
        if core::mem::take(&mut self.membership.links.neighbours_changed) {
            self.membership.links.neighbours = self.membership.living.neighbours(self.me());
        }
    }

    fn dial_the_missing(&mut self) {
        let now = self.now;
        let wanted = match self.membership.sparse {
            true => self.kin(),
            false => self.membership.members.keys().copied().collect(),
        };
        for node in wanted {
            if self.membership.lives(node) && !self.membership.links.contains(node) {
                let addresses = self.membership.members.get(&node).map(|member| member.record.addresses.clone());
                self.dial(node, addresses.unwrap_or_default());
            }
        }
        if self.membership.sparse {
            let members = &self.membership.members;
            let may_live = |node: &NodeId| members.get(node).is_none_or(|member| member.lives());
            let links = &mut self.membership.links;
            links.dials.retain(|node, dial| may_live(node) && now.since(dial.wanted) < FAILURE_MEMORY);
            let late = links.dials.values_mut().filter(|dial| now.since(dial.wanted.max(dial.since)) > WAITING_MAX);
            late.for_each(|dial| dial.waiting.clear());
        }
        self.keep_dialling();
    }

    /// Called every tick.
    pub(crate) fn keep_dialling(&mut self) {
        let now = self.now;
        for (&node, dial) in &mut self.membership.links.dials {
            if now >= dial.next && !dial.addresses.is_empty() {
                let jitter = self.rng.u64(0..=dial.wait.as_micros() as u64 / 2);
                dial.next = now + dial.wait + Duration::from_micros(jitter);
                dial.wait = (dial.wait * 2).min(REDIAL_MAX);
                self.out.dial.push((node, dial.addresses.clone()));
            }
        }
    }

    /// Gives up links that neither end wants.
    fn hang_up(&mut self) {
        let now = self.now;
        let links = &self.membership.links;
        let unwanted = links.up.iter().filter(|(node, link)| !link.is_wanted_there && !links.wants(**node, now));
        let due = unwanted.filter(|(_, link)| link.given_up.is_none_or(|at| now.since(at) > LINK_IDLE_MAX));
        let due: Vec<_> = due.map(|(node, _)| *node).collect();
        for node in &due {
            if let Some(link) = self.membership.links.up.get_mut(node) {
                link.given_up = Some(now);
            }
        }
        self.out.hang_up.extend(due);
    }

    /// Nodes with which work is shared: they hear of each other's death at once.
    fn partners(&self) -> BTreeSet<NodeId> {
        let mut partners: BTreeSet<_> = self.worker.arbiters().chain(self.custody.wants.keys().copied()).collect();
        for (_, id) in &self.custody.open {
            let Some(shard) = self.custody.shard(*id) else { continue };
            partners.extend(&shard.custodians);
            partners.extend(shard.arbiter.iter().flat_map(|arbiter| arbiter.leases.values().map(|it| it.executor)));
        }
        partners.remove(&self.me());
        partners
    }
}
