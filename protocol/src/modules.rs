//! Named modules: who published which bytes under which name and version.
//!
//! A registry is a growing set of signed facts; joining two is their union, so the order, the repetition and the way of
//! their arrival do not matter. The manifest and the names are those of the seed project serval.
//!
//! Always true:
//! - every fact in a registry is signed by its publisher, and keeps every limit below;
//! - what was published stays published: a publisher can only say that a version should not be used any more ("yanked");
//! - nobody speaks for another: the same name published with two keys is two things, and both are shown.
//!
//! Elsewhere: bringing facts to all nodes is `publishing`; which version is meant by `NAME@1` is `node::modules`.

use std::collections::BTreeMap;

use ed25519_dalek::{Signature, Signer, SigningKey, Verifier, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError};
use crate::{Hash, NodeId};

/// Version of the encoding of [`ModuleFact`].
pub const MODULE_FACT_VERSION: u16 = 1;
/// Characters of a name with its namespace: what fits a line.
pub const MODULE_NAME_CHARS_MAX: usize = 127;
/// Characters of one part of a name, as of a DNS label.
const LABEL_CHARS_MAX: usize = 63;
/// Characters of a version: semantic versions of real packages have some ten.
const VERSION_CHARS_MAX: usize = 64;
/// Bytes of a description: a paragraph.
pub const MODULE_DESCRIPTION_BYTES_MAX: usize = 4096;
/// Extensions, and permissions, that a module may name, and the characters of each.
pub const MODULE_NEEDS_MAX: usize = 64;
const NEED_CHARS_MAX: usize = 127;
/// Bytes of an encoded fact.
pub const MODULE_FACT_BYTES_MAX: usize = 32 * 1024;
/// Facts that a swarm takes: each node has them all in memory. A few MB, usually.
pub const MODULE_FACTS_MAX: usize = 10_000;

/// Something that a publisher said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModuleFact {
    /// "These bytes are this version of this module, for ever."
    Published(ModuleRecord),
    /// "Do not begin to use this version any more." Who uses it by its hash still can.
    Yanked(ModuleVersion),
}

/// One version of a module of one publisher.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModuleVersion {
    /// Namespace and name, as `sh.example.loudify`.
    pub name: String,
    /// A semantic version, as `1.2.3`.
    pub version: String,
    /// Whose key signs.
    pub publisher: NodeId,
}

/// What is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleRecord {
    /// [`MODULE_FACT_VERSION`].
    pub format: u16,
    /// Which version this is.
    pub id: ModuleVersion,
    /// The module.
    pub wasm: Hash,
    /// Its length in bytes.
    pub len: u64,
    /// For people.
    pub description: String,
    /// What a node must offer besides WASI preview 1, by name.
    pub extensions: Vec<String>,
    /// What the module asks for, by name; for people and later for rules.
    pub permissions: Vec<String>,
    /// Wall-clock milliseconds since 1970 at the publisher: for display only.
    pub published_unix_ms: u64,
}

/// Why a fact is refused.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// It does not decode.
    #[error("the record of a module does not decode")]
    Decode(#[from] DecodeError),
    /// It breaks a limit.
    #[error("the record of a module is invalid: {0}")]
    Invalid(&'static str),
    /// The signature is not the publisher's.
    #[error("the signature of a module's record is not its publisher's")]
    Signature,
}

/// A fact with its publisher's signature, as it travels and is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedModule {
    /// The encoded fact.
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
    /// Ed25519 over the 32 bytes of the fact's hash, after [`SIGNING_CONTEXT`].
    #[serde(with = "serde_bytes")]
    signature: Vec<u8>,
}

/// Separates signatures of modules from every other use of the key.
const SIGNING_CONTEXT: &[u8] = b"swarm module 1\0";

impl ModuleFact {
    /// What it is about.
    pub const fn id(&self) -> &ModuleVersion {
        match self {
            Self::Published(record) => &record.id,
            Self::Yanked(id) => id,
        }
    }

    fn check(&self) -> Result<(), ModuleError> {
        let ensure = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(ModuleError::Invalid(what)) };
        let id = self.id();
        ensure(is_module_name(&id.name), "a name is two or more parts of a-z, 0-9 and - with dots between them")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
        let versioned = id.version.starts_with(|c: char| c.is_ascii_digit()) && id.version.chars().all(plain);
        ensure(versioned && id.version.len() <= VERSION_CHARS_MAX, "its version is not a semantic one")?;
        let Self::Published(record) = self else { return Ok(()) };
        ensure(record.format == MODULE_FACT_VERSION, "its format is unknown")?;
        ensure(record.description.len() <= MODULE_DESCRIPTION_BYTES_MAX, "its description is over 4096 bytes")?;
        let plain = |need: &String| {
            (1..=NEED_CHARS_MAX).contains(&need.len()) && need.chars().all(|c| c.is_ascii_graphic() || c == ' ')
        };
        for needs in [&record.extensions, &record.permissions] {
            let short = needs.len() <= MODULE_NEEDS_MAX;
            ensure(short && needs.iter().all(plain), "its extensions or permissions are too many or not plain names")?;
        }
        Ok(())
    }
}

/// Whether a text can be the name of a published module: labels as in DNS, at least two.
pub fn is_module_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let label = |part: &str| {
        (1..=LABEL_CHARS_MAX).contains(&part.len())
            && part.chars().all(plain)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    name.len() <= MODULE_NAME_CHARS_MAX && name.contains('.') && name.split('.').all(label)
}

impl SignedModule {
    /// Checks, encodes and signs a fact of the owner of `key`.
    pub fn sign(fact: &ModuleFact, key: &SigningKey) -> Result<Self, ModuleError> {
        fact.check()?;
        let bytes = codec::encode(fact);
        if bytes.len() > MODULE_FACT_BYTES_MAX {
            return Err(ModuleError::Invalid("it is over 32 KiB"));
        }
        let signature = key.sign(&signed_bytes(Hash::of(&bytes))).to_bytes().to_vec();
        Ok(Self { bytes, signature })
    }

    /// Names the fact.
    pub fn id(&self) -> Hash {
        Hash::of(&self.bytes)
    }

    /// Decodes and checks everything: what a peer sent is believed only after this.
    pub fn verify(&self) -> Result<ModuleFact, ModuleError> {
        let fact: ModuleFact = codec::decode(&self.bytes, MODULE_FACT_BYTES_MAX)?;
        fact.check()?;
        let signed = || {
            let key = VerifyingKey::from_bytes(fact.id().publisher.as_bytes()).ok()?;
            let signature = Signature::from_slice(&self.signature).ok()?;
            key.verify(&signed_bytes(self.id()), &signature).ok()
        };
        signed().ok_or(ModuleError::Signature)?;
        Ok(fact)
    }

    /// About how many bytes its encoding has.
    pub(crate) const fn weight(&self) -> usize {
        self.bytes.len() + self.signature.len() + 16
    }
}

fn signed_bytes(id: Hash) -> Vec<u8> {
    [SIGNING_CONTEXT, id.as_bytes()].concat()
}

/// What is known of one version of one publisher.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// What was published, by the name of the fact. One, unless the publisher's disk was set back and it published again.
    pub records: BTreeMap<Hash, ModuleRecord>,
    /// Whether it should not be used any more.
    pub yanked: bool,
}

/// Facts about modules: a set that only grows.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    facts: BTreeMap<Hash, SignedModule>,
    versions: BTreeMap<ModuleVersion, Version>,
}

impl Registry {
    /// Takes in a fact. `None` when it was known; else what it says.
    pub fn join(&mut self, signed: SignedModule) -> Result<Option<ModuleFact>, ModuleError> {
        let id = signed.id();
        if self.facts.contains_key(&id) {
            return Ok(None);
        }
        let fact = signed.verify()?;
        let version = self.versions.entry(fact.id().clone()).or_default();
        match &fact {
            ModuleFact::Published(record) => drop(version.records.insert(id, record.clone())),
            ModuleFact::Yanked(_) => version.yanked = true,
        }
        self.facts.insert(id, signed);
        Ok(Some(fact))
    }

    /// How many facts there are.
    pub fn len(&self) -> usize {
        self.facts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    /// Every fact, by its name.
    pub fn facts(&self) -> &BTreeMap<Hash, SignedModule> {
        &self.facts
    }

    /// The versions of which something was published, by name, version (as text) and publisher.
    pub fn versions(&self) -> impl Iterator<Item = (&ModuleVersion, &Version)> {
        self.versions.iter().filter(|(_, version)| !version.records.is_empty())
    }

    /// One version.
    pub fn version(&self, id: &ModuleVersion) -> Option<&Version> {
        self.versions.get(id).filter(|version| !version.records.is_empty())
    }

    /// The facts about one name, also of versions that were yanked before anybody heard of them.
    pub fn about(&self, name: &str) -> Vec<SignedModule> {
        let of_name = |signed: &&SignedModule| {
            codec::decode::<ModuleFact>(&signed.bytes, MODULE_FACT_BYTES_MAX).is_ok_and(|fact| fact.id().name == name)
        };
        self.facts.values().filter(of_name).cloned().collect()
    }

    /// Names the set.
    pub fn digest(&self) -> Hash {
        let mut bytes = Vec::with_capacity(self.facts.len() * 32);
        self.facts.keys().for_each(|id| bytes.extend_from_slice(id.as_bytes()));
        Hash::of(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SigningKey {
        SigningKey::from_bytes(&[byte; 32])
    }

    fn record(name: &str, version: &str, publisher: u8) -> ModuleRecord {
        let publisher = NodeId::from_bytes(key(publisher).verifying_key().to_bytes());
        ModuleRecord {
            format: MODULE_FACT_VERSION,
            id: ModuleVersion { name: name.into(), version: version.into(), publisher },
            wasm: Hash::of(version.as_bytes()),
            len: 5,
            description: String::new(),
            extensions: Vec::new(),
            permissions: Vec::new(),
            published_unix_ms: 0,
        }
    }

    #[test]
    fn names_are_labels_with_dots() {
        for name in ["a.b", "sh.example.loudify", "a-1.b2.c"] {
            assert!(is_module_name(name), "{name}");
        }
        for name in ["", "a", "a.", ".a", "a..b", "A.b", "a_b.c", "-a.b", "a-.b", "a/b.c", "a.b@1", &"a.".repeat(99)] {
            assert!(!is_module_name(name), "{name}");
        }
    }

    #[test]
    fn a_fact_is_its_publishers_or_refused() {
        let fact = ModuleFact::Published(record("a.b", "1.0.0", 1));
        let signed = SignedModule::sign(&fact, &key(1)).unwrap();
        assert_eq!(signed.verify().unwrap(), fact);
        assert!(matches!(SignedModule::sign(&fact, &key(2)).unwrap().verify(), Err(ModuleError::Signature)));
        let mut bent = signed;
        *bent.bytes.last_mut().unwrap() ^= 1;
        assert!(bent.verify().is_err());
    }

    #[test]
    fn what_breaks_a_limit_is_not_signed() {
        let long = |change: fn(&mut ModuleRecord)| {
            let mut bad = record("a.b", "1.0.0", 1);
            change(&mut bad);
            SignedModule::sign(&ModuleFact::Published(bad), &key(1)).unwrap_err()
        };
        long(|bad| bad.id.name = "No Name".into());
        long(|bad| bad.id.version = "latest".into());
        long(|bad| bad.id.version = "1.0\n".into());
        long(|bad| bad.description = "x".repeat(MODULE_DESCRIPTION_BYTES_MAX + 1));
        long(|bad| bad.permissions = vec!["x".into(); MODULE_NEEDS_MAX + 1]);
        long(|bad| bad.extensions = vec!["\u{1b}[2J".into()]);
    }

    #[test]
    fn two_publishers_of_one_name_are_two_and_a_yank_is_for_ones_own() {
        let mut registry = Registry::default();
        let (one, two) = (record("a.b", "1.0.0", 1), record("a.b", "1.0.0", 2));
        for (record, publisher) in [(&one, 1), (&two, 2)] {
            let fact = ModuleFact::Published(record.clone());
            registry.join(SignedModule::sign(&fact, &key(publisher)).unwrap()).unwrap().unwrap();
        }
        let yank = SignedModule::sign(&ModuleFact::Yanked(two.id.clone()), &key(2)).unwrap();
        registry.join(yank.clone()).unwrap().unwrap();
        assert_eq!(registry.join(yank).unwrap(), None);
        let known: Vec<_> = registry.versions().map(|(id, version)| (id.publisher, version.yanked)).collect();
        assert_eq!(known.len(), 2);
        assert!(known.contains(&(one.id.publisher, false)) && known.contains(&(two.id.publisher, true)));
        assert_eq!(registry.about("a.b").len(), 3);
    }
}
