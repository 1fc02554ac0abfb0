//! Driver: turns the core's decisions into deeds.
//!
//! Always true:
//! - one round takes what is queued, and then: ask, persist (one sync), say, start, notify. Nothing is said that is not
//!   remembered, and nothing of a round is said when its records could not be made durable;
//! - the core is a value of one [`Driver::run`]. When it panics it is gone, with the fetches that it began and the tasks
//!   that it started, and the next run rebuilds it from the records on the disk; links and addresses are told anew;
//! - the queues are bounded: a core that is slow slows down who feeds it, the network's readers and with them the peers.
//!
//! Elsewhere: every decision is `swarm_protocol::Node`; starting the driver again is `supervisor`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use swarm_protocol::{
    Config, Effects, Event, Fetch, Hash, MemberState, MemberView, Node, NodeId, NodeRecord, Notice, RestoreError,
    Table, Wanted, Write, codec,
};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;

use crate::artifacts::Artifacts;
use crate::clock::Clock;
use crate::commands::Commands;
use crate::endings::Endings;
use crate::events::{Events, What};
use crate::leaving::DrainAsked;
use crate::network::{Network, NetworkEvent};
use crate::storage::{CommitError, ReadError, Record, Storage};
use crate::supervisor::Failure;
use crate::work::Work;

/// Events in one round: enough to share a sync among many reports, few enough that a round stays short.
const ROUND_EVENTS_MAX: usize = 256;

/// What the driver works with, and keeps when it is started again.
#[derive(Clone)]
pub(crate) struct Driver {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) storage: Storage,
    pub(crate) network: Network,
    pub(crate) work: Work,
    pub(crate) artifacts: Artifacts,
    pub(crate) commands: Commands,
    pub(crate) told: Told,
    pub(crate) events: Events,
    pub(crate) inbox: Arc<Mutex<Inbox>>,
}

/// What the driver tells the rest of the process.
#[derive(Clone, Default)]
pub(crate) struct Told {
    pub(crate) members: watch::Sender<Vec<MemberView>>,
    pub(crate) linked: watch::Sender<Vec<NodeId>>,
    pub(crate) addresses: watch::Sender<Vec<String>>,
    pub(crate) drained: watch::Sender<bool>,
    pub(crate) drain_asked: watch::Sender<Option<DrainAsked>>,
    pub(crate) endings: Endings,
}

/// Where events come from, and what a new core must be told of the world.
pub(crate) struct Inbox {
    events: mpsc::Receiver<Event>,
    heard: mpsc::Receiver<NetworkEvent>,
    /// Whose turn it is: neither queue waits for the other to be empty.
    network_first: bool,
    /// The first core, made at the start of the process so that unreadable records refuse the start.
    first: Option<(Node, Effects)>,
    links: BTreeSet<NodeId>,
    addresses: Vec<String>,
    /// Addresses of members as the store has them.
    peers: BTreeMap<NodeId, Vec<String>>,
    /// The states of members, as they were told last.
    states: BTreeMap<NodeId, MemberState>,
}

impl Inbox {
    pub(crate) fn new(
        events: mpsc::Receiver<Event>,
        heard: mpsc::Receiver<NetworkEvent>,
        first: (Node, Effects),
        peers: BTreeMap<NodeId, Vec<String>>,
    ) -> Self {
        let (links, addresses) = (BTreeSet::new(), Vec::new());
        let states = BTreeMap::new();
        Self { events, heard, network_first: false, first: Some(first), links, addresses, peers, states }
    }

    /// Waits for what comes next. `None` when nobody can tell anything any more.
    async fn next(&mut self) -> Option<Event> {
        tokio::select! {
            Some(heard) = self.heard.recv() => Some(to_core(heard)),
            event = self.events.recv() => event,
        }
    }

    /// What waits already.
    fn take(&mut self) -> Option<Event> {
        self.network_first = !self.network_first;
        if self.network_first
            && let Ok(heard) = self.heard.try_recv()
        {
            return Some(to_core(heard));
        }
        self.events.try_recv().ok().or_else(|| self.heard.try_recv().ok().map(to_core))
    }

    /// Keeps in mind what a new core would have to be told.
    fn note(&mut self, event: &Event, told: &Told) {
        match event {
            Event::LinkUp(peer) => self.note_link(*peer, BTreeSet::insert, told),
            Event::LinkDown(peer) => self.note_link(*peer, |links, peer| links.remove(&peer), told),
            Event::Addresses(addresses) => {
                self.addresses.clone_from(addresses);
                told.addresses.send_replace(addresses.clone());
            }
            _ => {}
        }
    }

    fn note_link(&mut self, peer: NodeId, change: impl FnOnce(&mut BTreeSet<NodeId>, NodeId) -> bool, told: &Told) {
        if change(&mut self.links, peer) {
            told.linked.send_replace(self.links.iter().copied().collect());
        }
    }
}

/// Why the driver failed.
#[derive(Debug, thiserror::Error)]
enum DriverError {
    #[error("read the records")]
    Read(#[from] ReadError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error("make records durable")]
    Commit(#[from] CommitError),
}

fn to_core(event: NetworkEvent) -> Event {
    match event {
        NetworkEvent::LinkUp(peer) => Event::LinkUp(peer),
        NetworkEvent::LinkDown(peer) => Event::LinkDown(peer),
        NetworkEvent::Gossip { from, gossip } => Event::Gossip { from, gossip },
        NetworkEvent::Received { from, message } => Event::Received { from, message },
        NetworkEvent::Addresses(addresses) => Event::Addresses(addresses),
    }
}

/// A fetch that is over: its number, and whether it is complete.
type Fetches = JoinSet<(u64, bool)>;

impl Driver {
    /// Runs the core until nobody can send it events any more.
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let mut inbox = self.inbox.lock().await;
        let (mut node, effects) = match inbox.first.take() {
            Some(first) => first,
            None => self.rebuild(&inbox).await?,
        };
        let mut fetches = Fetches::new();
        self.carry_out(effects, &mut inbox, &mut fetches).await?;
        let mut rests = false;
        while let Some(event) = self.next(&node, &mut inbox, &mut fetches).await? {
            let effects = self.round(&mut node, event, &mut inbox);
            self.carry_out(effects, &mut inbox, &mut fetches).await?;
            if rests != node.has_enough_links() {
                rests = !rests;
                self.network.rest(rests);
            }
        }
        Ok(())
    }

    /// A core that remembers what is on the disk, in place of one that failed.
    async fn rebuild(&self, inbox: &Inbox) -> Result<(Node, Effects), DriverError> {
        self.commands.forget();
        self.work.stop_all();
        self.told.members.send_replace(Vec::new());
        let records = self.storage.records().await?;
        let now = self.clock.now();
        let config = Config { seed: fastrand::u64(..), ..self.config.clone() };
        let (mut node, mut effects) = Node::start(config, now, records)?;
        effects.append(node.handle(now, Event::Addresses(inbox.addresses.clone())));
        for peer in &inbox.links {
            effects.append(node.handle(now, Event::LinkUp(*peer)));
        }
        tracing::warn!("the core was rebuilt from its records");
        Ok((node, effects))
    }

    /// Waits for something to happen. `None` when nothing will any more.
    async fn next(
        &self,
        node: &Node,
        inbox: &mut Inbox,
        fetches: &mut Fetches,
    ) -> Result<Option<Event>, tokio::task::JoinError> {
        let deadline = node.next_deadline().map(|(time, _)| self.clock.instant(time));
        let due = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased; // what is due comes before what is new, or a flood of events would hold up heartbeats
            () = due => Ok(Some(Event::Tick)),
            Some(ended) = fetches.join_next() => {
                let (fetch, complete) = ended?;
                Ok(Some(Event::Fetched { fetch, complete }))
            }
            event = inbox.next() => Ok(event),
        }
    }

    /// Gives the core this event and those queued behind it.
    fn round(&self, node: &mut Node, first: Event, inbox: &mut Inbox) -> Effects {
        let mut effects = self.handle(node, first, inbox);
        for _ in 1..ROUND_EVENTS_MAX {
            let Some(event) = inbox.take() else { break };
            effects.append(self.handle(node, event, inbox));
        }
        effects
    }

    fn handle(&self, node: &mut Node, event: Event, inbox: &mut Inbox) -> Effects {
        trace_event(&event);
        inbox.note(&event, &self.told);
        let mut effects = node.handle(self.clock.now(), event);
        // What is here already is not worth a round of its own.
        let here = effects.fetch.extract_if(.., |fetch| self.artifacts.holds(&fetch.wanted));
        for Fetch { number, .. } in here.collect::<Vec<_>>() {
            effects.append(node.handle(self.clock.now(), Event::Fetched { fetch: number, complete: true }));
        }
        effects
    }

    /// Does what the core decided, in the order that it relies on.
    async fn carry_out(&self, effects: Effects, inbox: &mut Inbox, fetches: &mut Fetches) -> Result<(), CommitError> {
        trace_effects(&effects);
        for (to, message) in &effects.ask {
            let _sent = self.network.send(*to, message);
        }
        if !effects.persist.is_empty() {
            self.storage.commit(effects.persist).await?;
            tracing::trace!(target: CORE_LOG, "is durable");
        }
        if !effects.note.is_empty()
            && let Err(error) = self.storage.commit_lazily(effects.note)
        {
            tracing::warn!(%error, "what runs is not noted");
        }
        for (to, message) in &effects.send {
            // A link that is gone meanwhile shows as `LinkDown`; whatever mattered is then said again.
            let _sent = self.network.send(*to, message);
        }
        for gossip in &effects.gossip {
            self.network.gossip(gossip);
        }
        for (node, addresses) in effects.dial {
            self.network.dial(node, addresses);
        }
        for node in effects.hang_up {
            self.network.hang_up(node);
        }
        for fetch in effects.fetch {
            fetches.spawn(fetch_blobs(self.artifacts.clone(), self.network.clone(), fetch));
        }
        for happened in effects.happened {
            self.events.push(What::Core(happened));
        }
        // One round may start a batch and stop it again, never the other way round: a lease is started once.
        for batch in effects.start {
            self.events.granted(&batch);
            self.work.run(batch);
        }
        for (lease, tasks) in effects.stop {
            self.work.stop(lease, tasks);
        }
        for notice in effects.notify {
            self.notify(notice, inbox);
        }
        self.events.flush();
        Ok(())
    }

    fn notify(&self, notice: Notice, inbox: &mut Inbox) {
        match notice {
            Notice::Submitted { token, .. }
            | Notice::Cancelled { token, .. }
            | Notice::ModulePublished { token, .. }
            | Notice::BlobsMarked { token, .. }
            | Notice::Answered { token, .. } => {
                self.commands.answer(token, notice);
            }
            Notice::Members(members) => {
                self.remember_addresses(&members, inbox);
                self.tell_states(&members, inbox);
                self.told.members.send_modify(|known| update(known, members));
            }
            Notice::Over(job) => {
                self.events.push(What::JobOver(job));
                self.told.endings.tell(job);
            }
            Notice::DrainAsked { by, timeout_ms } => {
                let timeout = timeout_ms.map(|ms| Duration::from_millis(ms.into()));
                self.told.drain_asked.send_replace(Some(DrainAsked { by, timeout }));
            }
            Notice::Drained => {
                self.events.flush_now();
                self.told.drained.send_replace(true);
            }
        }
    }

    /// A node that is new, or in another state, is an event; all else that it says of itself is not.
    fn tell_states(&self, members: &[MemberView], inbox: &mut Inbox) {
        for MemberView { record, state, .. } in members {
            if inbox.states.insert(record.node, *state) != Some(*state) {
                let (node, name) = (record.node, record.name.clone());
                self.events.push(What::Node { node, name, state: (*state).into() });
            }
        }
    }

    /// Keeps the addresses of members for the next start, which dials them. Only a help, so nothing waits for it.
    fn remember_addresses(&self, members: &[MemberView], inbox: &mut Inbox) {
        let me = self.config.record.node;
        let mut writes = Vec::new();
        for NodeRecord { node, addresses, .. } in members.iter().map(|member| &*member.record) {
            if *node != me && !addresses.is_empty() && inbox.peers.get(node) != Some(addresses) {
                inbox.peers.insert(*node, addresses.clone());
                writes.push(peer_record(*node, addresses));
            }
        }
        if !writes.is_empty()
            && let Err(error) = self.storage.commit_lazily(writes)
        {
            tracing::warn!(%error, "the addresses of members are not remembered");
        }
    }
}

/// The log, at level trace, of what the core hears and decides, in few words: for whoever looks where the time goes.
const CORE_LOG: &str = "swarm_node::core";

fn trace_event(event: &Event) {
    if let Event::Received { from, message } = event {
        tracing::trace!(target: CORE_LOG, ?from, message = %first_word(message), "hears");
    } else {
        tracing::trace!(target: CORE_LOG, event = %first_word(event), "hears");
    }
}

fn trace_effects(effects: &Effects) {
    if tracing::enabled!(target: CORE_LOG, tracing::Level::TRACE) {
        let send: Vec<_> = effects
            .ask
            .iter()
            .chain(&effects.send)
            .map(|(to, message)| format!("{to:?} {}", first_word(message)))
            .collect();
        let notify: Vec<_> = effects.notify.iter().map(first_word).collect();
        let (persist, start, fetch) = (effects.persist.len(), effects.start.len(), effects.fetch.len());
        tracing::trace!(target: CORE_LOG, persist, ?send, start, fetch, ?notify, "decides");
    }
}

/// The name of a variant.
fn first_word(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    text.split(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

/// Puts members that are new or changed in their place in the list, which is in the order of the nodes' ids.
fn update(known: &mut Vec<MemberView>, changed: Vec<MemberView>) {
    for member in changed {
        match known.binary_search_by_key(&member.record.node, |known| known.record.node) {
            Ok(place) => known[place] = member,
            Err(place) => known.insert(place, member),
        }
    }
}

/// The record of a member's addresses.
fn peer_record(node: NodeId, addresses: &[String]) -> Write {
    Write::put(Table::Peers, node.as_bytes(), codec::encode(&addresses))
}

/// The members and addresses in the records of [`Table::Peers`]; what cannot be read is left out, for it is only a help.
pub(crate) fn known_peers(records: &[Record]) -> BTreeMap<NodeId, Vec<String>> {
    let read = |(_, key, value): &Record| {
        let node = NodeId::from_bytes(key.as_slice().try_into().ok()?);
        Some((node, codec::decode(value, value.len()).ok()?))
    };
    records.iter().filter(|(table, ..)| *table == Table::Peers).filter_map(read).collect()
}

/// Brings what the core wants onto this node: the fetch's number, and whether it is complete.
async fn fetch_blobs(artifacts: Artifacts, network: Network, Fetch { number, wanted, from }: Fetch) -> (u64, bool) {
    let complete = match wanted {
        Wanted::Blobs(hashes) => artifacts.ensure(hashes, &from).await.map_err(Failure::from),
        Wanted::JobBlobs(list) => {
            let held = artifacts.ensure_job(list, &from).await;
            held.map(|held| announce(network, held)).map_err(Failure::from)
        }
    };
    if let Err(error) = &complete {
        tracing::debug!(%error, "a fetch is not complete");
    }
    (number, complete.is_ok())
}

/// Says in the Kademlia map that these blobs are here, behind the back of whoever waits for the fetch.
fn announce(network: Network, held: Vec<Hash>) {
    tokio::spawn(async move {
        for hash in held {
            network.provide(hash).await;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_members_are_read_back() {
        let node = NodeId::from_bytes([7; 32]);
        let addresses = vec!["/ip4/127.0.0.1/tcp/1".to_owned()];
        let Write { table, key, value } = peer_record(node, &addresses);
        let value = value.unwrap();
        let records = [(table, key, value.clone()), (table, vec![1, 2, 3], value), (Table::Meta, vec![], vec![])];
        assert_eq!(known_peers(&records), BTreeMap::from([(node, addresses)]));
    }
}
