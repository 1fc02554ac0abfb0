//! Publishing: facts about named modules, brought to every node.
//!
//! Always true:
//! - a fact is synced before anybody is told that it is here;
//! - a user's publication is acknowledged when it, and the module itself, are on two nodes besides this one, or on all
//!   that can be reached where there are fewer;
//! - the custodians of a module's name hold the module, as long as it was not yanked.
//!
//! New facts are passed on from neighbour to neighbour; what was missed is found by comparing digests.
//!
//! Elsewhere: what a fact is, and how sets of them are joined, is `modules`.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use crate::codec::{self, DecodeError};
use crate::message::{Answer, CHUNK_BYTES, Message};
use crate::modules::{MODULE_FACT_BYTES_MAX, MODULE_FACTS_MAX, ModuleFact, Registry, SignedModule};
use crate::node::Node;
use crate::placement::Key;
use crate::{Hash, NodeId, Notice, Refusal, Table, Time, Write};

/// How long a publication may take: the module has to travel.
const PUBLISH_MAX: Duration = Duration::from_secs(60);
/// A request without an answer is repeated after this.
const REPEAT: Duration = Duration::from_secs(1);
/// Sets are compared with neighbours this often.
const COMPARE_EVERY: Duration = Duration::from_secs(5);
/// Names of facts in one answer to a digest: all that a swarm takes, twice. 640 KiB.
const NAMES_MAX: usize = 2 * MODULE_FACTS_MAX;
/// Modules on their way here at once because this node is to keep them.
const FETCHES_MAX: usize = 8;

/// A publication of this node's own user that waits for confirmations.
#[derive(Debug)]
struct Waiting {
    token: u64,
    fact: Hash,
    confirmed: BTreeSet<NodeId>,
    deadline: Time,
    next_repeat: Time,
}

#[derive(Debug, Default)]
pub(crate) struct Publishing {
    registry: Registry,
    publishes: Vec<Waiting>,
    /// Of the modules that this node is to keep, those that are here, as far as this process looked.
    held: BTreeSet<Hash>,
    fetches: BTreeMap<u64, Hash>,
    /// Who waits to hear that the module of a fact is here.
    askers: BTreeMap<Hash, BTreeSet<NodeId>>,
    /// Neighbours that have the same set as this node, as they said.
    agreed: BTreeSet<NodeId>,
    next_round: Time,
}

impl Node {
    /// The facts about modules that this node knows.
    pub fn modules(&self) -> &Registry {
        &self.publishing.registry
    }

    pub(crate) fn restore_module(&mut self, value: &[u8]) -> Result<(), DecodeError> {
        let signed: SignedModule = codec::decode(value, 2 * MODULE_FACT_BYTES_MAX)?;
        let joined = self.publishing.registry.join(signed);
        joined.map(drop).map_err(|error| DecodeError::Malformed(error.to_string()))
    }

    // ---- a user publishes

    pub(crate) fn on_publish_module(&mut self, token: u64, signed: SignedModule) {
        match self.accept(signed) {
            Err(refusal) => self.out.notify.push(Notice::ModulePublished { token, result: Err(refusal) }),
            Ok(fact) => {
                let deadline = self.now + PUBLISH_MAX;
                let confirmed = BTreeSet::new();
                self.publishing.publishes.push(Waiting { token, fact, confirmed, deadline, next_repeat: self.now });
                self.keep_publishes();
            }
        }
    }

    /// Takes in a fact of this node's own key. What was published before, byte for byte, is that again.
    fn accept(&mut self, signed: SignedModule) -> Result<Hash, Refusal> {
        let invalid = |text: String| Err(Refusal::Invalid(text));
        let fact = signed.verify().map_err(|error| Refusal::Invalid(error.to_string()))?;
        let id = fact.id();
        let known = self.publishing.registry.version(id);
        let (name, version) = (&id.name, &id.version);
        match &fact {
            _ if id.publisher != self.me() => return invalid("it is signed with another key than this node's".into()),
            _ if self.publishing.registry.len() >= MODULE_FACTS_MAX => {
                return invalid(format!("the swarm has {MODULE_FACTS_MAX} facts about modules, and takes no more"));
            }
            ModuleFact::Yanked(_) if known.is_none() => return Err(Refusal::Unknown),
            ModuleFact::Yanked(_) => {}
            ModuleFact::Published(record) => {
                let before = known.and_then(|known| known.records.iter().next());
                match before {
                    Some((fact, before)) if before.wasm == record.wasm => return Ok(*fact),
                    Some((_, before)) => {
                        let was = before.wasm;
                        return invalid(format!(
                            "{name}@{version} is published as {was}, and a version never changes; take a new one"
                        ));
                    }
                    None => drop(self.publishing.held.insert(record.wasm)),
                }
            }
        }
        let fact = signed.id();
        self.learn_module(signed, None);
        Ok(fact)
    }

    fn keep_publishes(&mut self) {
        for mut waiting in core::mem::take(&mut self.publishing.publishes) {
            let Some(signed) = self.publishing.registry.facts().get(&waiting.fact).cloned() else { continue };
            let Ok(fact) = signed.verify() else { continue };
            let (need, others) = self.copies_of(Key::of_module(&fact.id().name));
            let (token, have) = (waiting.token, waiting.confirmed.len());
            if have >= need {
                self.out.notify.push(Notice::ModulePublished { token, result: Ok(waiting.fact) });
            } else if self.now >= waiting.deadline {
                let result = Err(Refusal::TooFewCopies { have, need });
                self.out.notify.push(Notice::ModulePublished { token, result });
            } else {
                if self.now >= waiting.next_repeat {
                    waiting.next_repeat = self.now + REPEAT;
                    for other in others.into_iter().filter(|other| !waiting.confirmed.contains(other)) {
                        self.send(other, Message::Modules { facts: vec![signed.clone()], keep: true });
                    }
                }
                self.publishing.publishes.push(waiting);
            }
        }
    }

    pub(crate) fn on_module_kept(&mut self, from: NodeId, fact: Hash) {
        for waiting in self.publishing.publishes.iter_mut().filter(|waiting| waiting.fact == fact) {
            waiting.confirmed.insert(from);
        }
        self.keep_publishes();
    }

    // ---- facts arrive

    pub(crate) fn on_modules(&mut self, from: NodeId, facts: Vec<SignedModule>, keep: bool) {
        for signed in facts {
            let fact = signed.id();
            self.learn_module(signed, Some(from));
            if keep && self.publishing.registry.facts().contains_key(&fact) {
                self.publishing.askers.entry(fact).or_default().insert(from);
                self.keep_module_for(fact);
            }
        }
    }

    /// Remembers a fact and passes it on, if it is new. A neighbour that sends what is none is not answered.
    fn learn_module(&mut self, signed: SignedModule, from: Option<NodeId>) {
        if self.publishing.registry.len() >= NAMES_MAX {
            return;
        }
        let Ok(Some(_)) = self.publishing.registry.join(signed.clone()) else { return };
        self.out.persist.push(Write::put(Table::Modules, *signed.id().as_bytes(), codec::encode(&signed)));
        self.publishing.agreed.clear();
        for peer in self.linked_neighbours().into_iter().filter(|peer| Some(*peer) != from) {
            self.send(peer, Message::Modules { facts: vec![signed.clone()], keep: false });
        }
        self.keep_named_modules();
    }

    /// Brings the module of a fact here for those who asked, and tells them when it is.
    fn keep_module_for(&mut self, fact: Hash) {
        let signed = self.publishing.registry.facts().get(&fact);
        match signed.and_then(|signed| signed.verify().ok()) {
            // Also when it was here before: what this node need not keep may have been collected.
            Some(ModuleFact::Published(record)) => {
                let from = self.publishing.askers.get(&fact).cloned().unwrap_or_default();
                self.fetch_module(record.wasm, from);
            }
            _ => self.tell_module_kept(fact),
        }
    }

    fn tell_module_kept(&mut self, fact: Hash) {
        for asker in self.publishing.askers.remove(&fact).unwrap_or_default() {
            self.send(asker, Message::ModuleKept(fact));
        }
    }

    fn fetch_module(&mut self, wasm: Hash, from: BTreeSet<NodeId>) {
        if !self.publishing.fetches.values().any(|fetched| *fetched == wasm) {
            let number = self.fetch_blobs(BTreeSet::from([wasm]), from);
            self.publishing.fetches.insert(number, wasm);
        }
    }

    pub(crate) fn on_module_fetched(&mut self, fetch: u64, complete: bool) {
        let Some(wasm) = self.publishing.fetches.remove(&fetch) else { return };
        if complete {
            self.publishing.held.insert(wasm);
            let facts = self.publishing.registry.versions().flat_map(|(_, version)| &version.records);
            let facts: Vec<_> = facts.filter(|(_, record)| record.wasm == wasm).map(|(fact, _)| *fact).collect();
            facts.into_iter().for_each(|fact| self.tell_module_kept(fact));
            self.keep_named_modules();
        }
    }

    /// Brings modules here of whose names this node is a custodian.
    fn keep_named_modules(&mut self) {
        if self.is_settling() {
            return;
        }
        let room = FETCHES_MAX.saturating_sub(self.publishing.fetches.len());
        let lacking: Vec<_> = self.modules_to_keep().filter(|(wasm, _)| !self.publishing.held.contains(wasm)).collect();
        for (wasm, publisher) in lacking.into_iter().take(room) {
            let others = self.linked().into_iter().filter(|node| *node == publisher).collect();
            self.fetch_module(wasm, others);
        }
    }

    /// Modules that this node is to keep, with their publishers.
    pub(crate) fn modules_to_keep(&self) -> impl Iterator<Item = (Hash, NodeId)> + '_ {
        let me = self.me();
        let mine = move |name: &str| self.membership.view.custodians(Key::of_module(name)).contains(&me);
        let versions = self.publishing.registry.versions();
        let kept = versions.filter(move |(id, version)| !version.yanked && (id.publisher == me || mine(&id.name)));
        kept.flat_map(|(id, version)| version.records.values().map(|record| (record.wasm, id.publisher)))
    }

    // ---- what was missed

    /// Called every heartbeat.
    pub(crate) fn keep_modules(&mut self) {
        self.keep_publishes();
        if self.now < self.publishing.next_round {
            return;
        }
        let jitter = Duration::from_millis(self.rng.u64(0..1000));
        self.publishing.next_round = self.now + COMPARE_EVERY + jitter;
        self.keep_named_modules();
        let digest = self.publishing.registry.digest();
        let mut others = self.linked_neighbours();
        others.retain(|peer| !self.publishing.agreed.contains(peer));
        for peer in others {
            self.send(peer, Message::ModulesDigest(digest));
        }
    }

    /// The peer may be a new process on another disk.
    pub(crate) fn doubt_modules_of(&mut self, peer: NodeId) {
        self.publishing.agreed.remove(&peer);
        self.publishing.next_round = self.publishing.next_round.min(self.now + REPEAT);
    }

    pub(crate) fn on_modules_digest(&mut self, from: NodeId, digest: Hash) {
        let names = match digest == self.publishing.registry.digest() {
            true => Vec::new(),
            false => self.publishing.registry.facts().keys().copied().take(NAMES_MAX).collect(),
        };
        self.send(from, Message::ModulesHave { digest: self.publishing.registry.digest(), names });
    }

    /// A neighbour says what it has: it is sent what it lacks. What I lack it sends when I compare with it.
    pub(crate) fn on_modules_have(&mut self, from: NodeId, digest: Hash, names: Vec<Hash>) {
        if digest == self.publishing.registry.digest() {
            self.publishing.agreed.insert(from);
            return;
        }
        let names: BTreeSet<Hash> = names.into_iter().take(NAMES_MAX).collect();
        let facts = self.publishing.registry.facts().iter();
        let lacking: Vec<_> = facts.filter(|(id, _)| !names.contains(id)).map(|(_, signed)| signed.clone()).collect();
        for facts in in_messages(lacking) {
            self.send(from, Message::Modules { facts, keep: false });
        }
    }

    // ---- questions

    pub(crate) fn answer_modules(&self, name: &str) -> Answer {
        let facts = if name.is_empty() {
            self.publishing.registry.facts().values().cloned().collect()
        } else {
            in_messages(self.publishing.registry.about(name)).into_iter().next().unwrap_or_default()
        };
        Answer::Modules(facts)
    }
}

/// Cuts facts into messages of bounded size.
fn in_messages(facts: Vec<SignedModule>) -> Vec<Vec<SignedModule>> {
    let (mut messages, mut next, mut weight) = (Vec::new(), Vec::new(), 0);
    for fact in facts {
        weight += fact.weight();
        next.push(fact);
        if weight >= CHUNK_BYTES {
            messages.push(core::mem::take(&mut next));
            weight = 0;
        }
    }
    if !next.is_empty() {
        messages.push(next);
    }
    messages
}
