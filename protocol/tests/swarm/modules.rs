//! Named modules in a small swarm, driven by hand: facts reach every node, are remembered, and are not made up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::few::{Few, id, key};
use proptest::prelude::*;
use swarm_protocol::modules::{MODULE_FACT_VERSION, ModuleFact, ModuleRecord, ModuleVersion, Registry, SignedModule};
use swarm_protocol::{Answer, Event, Hash, NodeId, Notice, Query, Refusal};

fn published(publisher: u8, version: &str, wasm: &[u8]) -> SignedModule {
    let record = ModuleRecord {
        format: MODULE_FACT_VERSION,
        id: ModuleVersion { name: "sh.example.loudify".into(), version: version.into(), publisher: id(publisher) },
        wasm: Hash::of(wasm),
        len: wasm.len() as u64,
        description: "Louder.".into(),
        extensions: vec![],
        permissions: vec![],
        published_unix_ms: 0,
    };
    SignedModule::sign(&ModuleFact::Published(record), &key(publisher)).unwrap()
}

fn yanked(publisher: u8, version: &str) -> SignedModule {
    let version =
        ModuleVersion { name: "sh.example.loudify".into(), version: version.into(), publisher: id(publisher) };
    SignedModule::sign(&ModuleFact::Yanked(version), &key(publisher)).unwrap()
}

/// What users of modules do.
struct Users(Few);

impl Users {
    fn new(count: u8) -> Self {
        Self(Few::new(count))
    }

    fn publish(&mut self, number: u8, fact: SignedModule) -> Result<Hash, Refusal> {
        self.0.tell(id(number), Event::PublishModule { token: 7, fact });
        for _ in 0..70 {
            let core = self.0.cores.get_mut(&id(number)).unwrap();
            let answers = |notice: &mut Notice| matches!(notice, Notice::ModulePublished { token: 7, .. });
            if let Some(Notice::ModulePublished { result, .. }) = core.notices.extract_if(.., answers).next() {
                return result;
            }
            self.0.pass(Duration::from_secs(1));
        }
        panic!("the publication is never answered");
    }

    /// Versions, publishers and whether they are yanked, as a node's user is told.
    fn asked(&mut self, number: u8) -> Vec<(String, NodeId, bool)> {
        self.0.tell(id(number), Event::Ask { token: 9, query: Query::Modules("sh.example.loudify".into()) });
        self.0.pass(Duration::from_secs(3));
        let notices = self.0.cores[&id(number)].notices.iter().rev();
        let facts = notices.filter_map(|notice| match notice {
            Notice::Answered { token: 9, answer: Answer::Modules(facts) } => Some(facts.clone()),
            _ => None,
        });
        let mut registry = Registry::default();
        for fact in facts.take(1).flatten() {
            registry.join(fact).unwrap();
        }
        registry.versions().map(|(id, version)| (id.version.clone(), id.publisher, version.yanked)).collect()
    }

    fn digests(&self) -> BTreeSet<Hash> {
        self.0.cores.values().map(|core| core.node.modules().digest()).collect()
    }
}

#[test]
fn what_is_published_is_on_every_node_and_the_module_on_others() {
    let mut few = Users::new(5);
    few.publish(3, published(3, "1.0.0", b"wasm")).unwrap();
    few.0.pass(Duration::from_secs(1));
    assert_eq!(few.digests().len(), 1);
    assert_eq!(few.asked(0), [("1.0.0".to_owned(), id(3), false)]);
    let held = few.0.cores.iter().filter(|(node, core)| **node != id(3) && core.fetched.contains(&Hash::of(b"wasm")));
    assert!(held.count() >= 2);
}

#[test]
fn a_version_never_changes_and_the_same_again_is_the_same() {
    let mut few = Users::new(2);
    let first = few.publish(0, published(0, "1.0.0", b"wasm")).unwrap();
    assert_eq!(few.publish(0, published(0, "1.0.0", b"wasm")), Ok(first));
    let refused = few.publish(0, published(0, "1.0.0", b"other")).unwrap_err();
    assert!(refused.to_string().contains("a version never changes"), "{refused}");
    // Another key is another publisher, and both are known everywhere.
    few.publish(1, published(1, "1.0.0", b"other")).unwrap();
    assert_eq!(few.asked(0).len(), 2);
    // Nobody speaks for another.
    assert!(few.publish(0, published(1, "2.0.0", b"x")).is_err());
}

#[test]
fn without_the_module_on_other_nodes_nothing_is_acknowledged() {
    let mut few = Users::new(3);
    few.0.cores.values_mut().for_each(|core| core.fetches = false);
    let refused = few.publish(0, published(0, "1.0.0", b"wasm")).unwrap_err();
    assert!(matches!(refused, Refusal::TooFewCopies { have: 0, need: 2 }), "{refused}");
}

#[test]
fn a_yank_is_for_what_was_published_and_is_told_everywhere() {
    let mut few = Users::new(3);
    assert_eq!(few.publish(1, yanked(1, "1.0.0")), Err(Refusal::Unknown));
    few.publish(1, published(1, "1.0.0", b"wasm")).unwrap();
    few.publish(1, yanked(1, "1.0.0")).unwrap();
    assert_eq!(few.asked(2), [("1.0.0".to_owned(), id(1), true)]);
}

#[test]
fn who_was_away_and_who_comes_later_learn_what_they_missed() {
    let mut few = Users::new(3);
    few.publish(0, published(0, "1.0.0", b"one")).unwrap();
    few.0.cut(2);
    few.publish(0, published(0, "1.1.0", b"two")).unwrap();
    few.0.tell(id(2), Event::PublishModule { token: 7, fact: published(2, "1.0.0", b"three") });
    assert_eq!(few.digests().len(), 2);
    few.0.link(2, 0);
    few.0.link(2, 1);
    few.0.add(3, BTreeMap::new());
    few.0.pass(Duration::from_secs(15));
    assert_eq!(few.digests().len(), 1);
    assert_eq!(few.asked(3).len(), 3);
}

#[test]
fn a_restart_forgets_nothing() {
    let mut few = Users::new(1);
    few.publish(0, published(0, "1.0.0", b"one")).unwrap();
    let disk = few.0.cores.remove(&id(0)).unwrap().disk;
    few.0.add(0, disk);
    assert_eq!(few.asked(0), [("1.0.0".to_owned(), id(0), false)]);
}

fn facts() -> impl Strategy<Value = Vec<SignedModule>> {
    let fact = (0u8..3, 0u8..3, 0u8..2, any::<bool>()).prop_map(|(publisher, version, wasm, yank)| {
        let version = format!("1.{version}.0");
        if yank { yanked(publisher, &version) } else { published(publisher, &version, &[wasm]) }
    });
    prop::collection::vec(fact, 0..8)
}

fn registry(facts: impl IntoIterator<Item = SignedModule>) -> Registry {
    let mut registry = Registry::default();
    facts.into_iter().for_each(|fact| drop(registry.join(fact).unwrap()));
    registry
}

proptest! {
    #[test]
    fn order_repetition_and_grouping_do_not_matter(a in facts(), b in facts()) {
        let ab = registry(a.iter().chain(&b).cloned());
        let ba = registry(b.iter().chain(&a).chain(&b).rev().cloned());
        prop_assert_eq!(ab.digest(), ba.digest());
        prop_assert_eq!(ab.versions().collect::<Vec<_>>(), ba.versions().collect::<Vec<_>>());
        prop_assert!(ab.len() >= registry(a).len());
    }
}
