//! Named modules, as a user means them: `NAME`, `NAME@VERSION` or `NAME@VERSION#KEY`, and which bytes that is.
//!
//! A whole version (`1.2.3`) is just that one; a part of one (`1`, `1.2`) or a requirement (`>=1, <3`, `*`) is the newest
//! that fits and was not yanked.
//!
//! Always true: when two publishers have something that fits, with different bytes, nothing is chosen: the user is told
//! of both and says which key is meant.
//!
//! Elsewhere: the facts and their signatures are `swarm_protocol::modules`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use semver::{Version, VersionReq};
use swarm_protocol::NodeId;
use swarm_protocol::modules::{ModuleRecord, Registry, is_module_name};

/// Hexadecimal digits by which a publisher's key is shown, and at least meant.
const KEY_DIGITS: usize = 8;

/// Which module a user means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Namespace and name.
    pub(crate) name: String,
    /// Which versions fit.
    wanted: Wanted,
    /// The first hexadecimal digits of the publisher's key.
    key: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Exactly(Version),
    Newest(VersionReq),
}

/// Why a reference names no module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It is not written as one.
    #[error("`{0}` is not the name of a published module, which is as `sh.example.loudify@1.2`")]
    Malformed(String),
    /// Nobody published anything of the name.
    #[error("no module `{0}` is published in this swarm")]
    Unknown(String),
    /// No version fits.
    #[error("no version of `{name}` fits {wanted}; there are {known}")]
    NoVersion {
        /// The module.
        name: String,
        /// As the user wrote it.
        wanted: String,
        /// Every version, with its publisher when there are several.
        known: String,
    },
    /// Several publishers have something that fits.
    #[error("`{name}` was published with {} keys; say which is meant: {}", .choices.len(), .choices.join(" or "))]
    Disputed {
        /// The module.
        name: String,
        /// References that are clear.
        choices: Vec<String>,
    },
}

impl Reference {
    /// Whether a text is meant as the name of a published module rather than as a file.
    pub(crate) fn is_meant(text: &str) -> bool {
        text.split_once('@').is_some_and(|(name, _)| is_module_name(name))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let malformed = || ReferenceError::Malformed(text.chars().take(200).collect());
        let (rest, key) = match text.split_once('#') {
            Some((rest, key)) => (rest, Some(key.to_lowercase())),
            None => (text, None),
        };
        let (name, version) = rest.split_once('@').unwrap_or((rest, "*"));
        let hex = |key: &String| !key.is_empty() && key.len() <= 64 && key.chars().all(|c| c.is_ascii_hexdigit());
        if !is_module_name(name) || !key.as_ref().is_none_or(hex) {
            return Err(malformed());
        }
        let wanted = match version.parse() {
            Ok(version) => Wanted::Exactly(version),
            Err(_) => Wanted::Newest(version.parse().map_err(|_| malformed())?),
        };
        Ok(Self { name: name.into(), wanted, key })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.wanted)?;
        self.key.as_ref().map_or(Ok(()), |key| write!(f, "#{key}"))
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(version) => version.fmt(f),
            Self::Newest(wanted) => wanted.fmt(f),
        }
    }
}

impl Wanted {
    fn fits(&self, version: &Version) -> bool {
        match self {
            Self::Exactly(wanted) => wanted == version,
            Self::Newest(wanted) => wanted.matches(version),
        }
    }
}

/// One published version.
#[derive(Clone, Debug)]
struct Candidate<'a> {
    version: Version,
    record: &'a ModuleRecord,
    yanked: bool,
}

/// The record that a reference means.
pub(crate) fn resolve<'a>(registry: &'a Registry, wanted: &Reference) -> Result<&'a ModuleRecord, ReferenceError> {
    let all = candidates(registry, wanted);
    if all.is_empty() {
        return Err(ReferenceError::Unknown(wanted.name.clone()));
    }
    let mut best = BTreeMap::<NodeId, Vec<&Candidate<'_>>>::new();
    for candidate in all.iter().filter(|it| !it.yanked && wanted.wanted.fits(&it.version)) {
        let known = best.entry(candidate.record.id.publisher).or_default();
        match known.first().map(|known| known.version.cmp(&candidate.version)) {
            Some(std::cmp::Ordering::Greater) => {}
            Some(std::cmp::Ordering::Equal) => known.push(candidate),
            _ => *known = vec![candidate],
        }
    }
    let best: Vec<_> = best.into_values().flatten().collect();
    let modules: BTreeSet<_> = best.iter().map(|candidate| candidate.record.wasm).collect();
    match (best.first(), modules.len()) {
        (Some(only), 1) => Ok(only.record),
        (Some(_), _) => Err(disputed(&wanted.name, &best)),
        (None, _) => Err(no_version(wanted, &all)),
    }
}

fn candidates<'a>(registry: &'a Registry, wanted: &Reference) -> Vec<Candidate<'a>> {
    let of_key = |publisher: &NodeId| wanted.key.as_ref().is_none_or(|key| publisher.to_hex().starts_with(key));
    let versions = registry.versions().filter(|(id, _)| id.name == wanted.name && of_key(&id.publisher));
    let candidates = versions.filter_map(|(id, known)| {
        // What is no semantic version is never meant.
        let version: Version = id.version.parse().ok()?;
        let record = |record| Candidate { version: version.clone(), record, yanked: known.yanked };
        Some(known.records.values().map(record).collect::<Vec<_>>())
    });
    candidates.flatten().collect()
}

fn disputed(name: &str, best: &[&Candidate<'_>]) -> ReferenceError {
    let publishers: BTreeSet<_> = best.iter().map(|candidate| candidate.record.id.publisher).collect();
    let choice = |candidate: &&Candidate<'_>| match publishers.len() {
        // One key, two modules: its owner's disk was set back. Only the hash tells them apart.
        1 => candidate.record.wasm.to_string(),
        _ => format!("{name}@{}#{}", candidate.version, short_key(candidate.record.id.publisher)),
    };
    ReferenceError::Disputed { name: name.into(), choices: best.iter().map(choice).collect() }
}

fn no_version(wanted: &Reference, all: &[Candidate<'_>]) -> ReferenceError {
    let mut all: Vec<_> = all.iter().collect();
    all.sort_by(|a, b| a.version.cmp(&b.version));
    let shown = |candidate: &&Candidate<'_>| {
        let yanked = if candidate.yanked { " (yanked)" } else { "" };
        format!("{}{yanked}", candidate.version)
    };
    let known: Vec<_> = all.iter().map(shown).collect();
    let (name, wanted) = (wanted.name.clone(), wanted.wanted.to_string());
    ReferenceError::NoVersion { name, wanted, known: known.join(", ") }
}

/// As much of a key as people compare.
pub(crate) fn short_key(publisher: NodeId) -> String {
    publisher.to_hex()[..KEY_DIGITS].to_owned()
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use swarm_protocol::Hash;
    use swarm_protocol::modules::{MODULE_FACT_VERSION, ModuleFact, ModuleVersion, SignedModule};

    use super::*;

    const NAME: &str = "sh.example.loudify";

    fn key(number: u8) -> (SigningKey, NodeId) {
        let key = SigningKey::from_bytes(&[number; 32]);
        let id = NodeId::from_bytes(key.verifying_key().to_bytes());
        (key, id)
    }

    fn publish(registry: &mut Registry, publisher: u8, version: &str, wasm: &str) {
        let (key, publisher) = key(publisher);
        let record = ModuleRecord {
            format: MODULE_FACT_VERSION,
            id: ModuleVersion { name: NAME.into(), version: version.into(), publisher },
            wasm: Hash::of(wasm.as_bytes()),
            len: 1,
            description: String::new(),
            extensions: Vec::new(),
            permissions: Vec::new(),
            published_unix_ms: 0,
        };
        registry.join(SignedModule::sign(&ModuleFact::Published(record), &key).unwrap()).unwrap();
    }

    fn resolved(registry: &Registry, reference: &str) -> Result<String, ReferenceError> {
        resolve(registry, &reference.parse()?).map(|record| record.id.version.clone())
    }

    #[test]
    fn the_newest_that_fits_is_meant_and_a_whole_version_is_just_that() {
        let mut registry = Registry::default();
        for version in ["1.0.0", "1.9.0", "1.10.0", "2.0.0", "3.0.0-rc.1"] {
            publish(&mut registry, 1, version, version);
        }
        for (reference, version) in [
            ("sh.example.loudify", "2.0.0"),
            ("sh.example.loudify@1", "1.10.0"),
            ("sh.example.loudify@1.9", "1.9.0"),
            ("sh.example.loudify@1.0.0", "1.0.0"),
            ("sh.example.loudify@3.0.0-rc.1", "3.0.0-rc.1"),
            ("sh.example.loudify@>=1, <2", "1.10.0"),
        ] {
            // `1.9` is the newest 1 from 9 on.
            let version = if reference.ends_with("@1.9") { "1.10.0" } else { version };
            assert_eq!(resolved(&registry, reference).unwrap(), version, "{reference}");
        }
        let error = resolved(&registry, "sh.example.loudify@4").unwrap_err().to_string();
        assert_eq!(
            error,
            "no version of `sh.example.loudify` fits ^4; there are 1.0.0, 1.9.0, 1.10.0, 2.0.0, 3.0.0-rc.1"
        );
        assert_eq!(resolved(&registry, "a.b@1"), Err(ReferenceError::Unknown("a.b".into())));
    }

    #[test]
    fn two_publishers_are_told_apart_by_their_key() {
        let mut registry = Registry::default();
        publish(&mut registry, 1, "1.0.0", "mine");
        publish(&mut registry, 2, "1.0.0", "mine");
        // The same bytes are the same module, whoever says so.
        assert!(resolved(&registry, "sh.example.loudify@1").is_ok());
        publish(&mut registry, 2, "1.1.0", "theirs");
        let Err(ReferenceError::Disputed { choices, .. }) = resolved(&registry, "sh.example.loudify@1") else {
            panic!("disputed")
        };
        let mut versions: Vec<_> = choices.iter().map(|choice| resolved(&registry, choice).unwrap()).collect();
        versions.sort();
        assert_eq!(versions, ["1.0.0", "1.1.0"]);
        assert!(choices.contains(&format!("{NAME}@1.1.0#{}", short_key(key(2).1))));
    }

    #[test]
    fn a_yanked_version_is_not_chosen() {
        let mut registry = Registry::default();
        publish(&mut registry, 1, "1.0.0", "a");
        publish(&mut registry, 1, "1.1.0", "b");
        let (key, publisher) = key(1);
        let yanked = ModuleVersion { name: NAME.into(), version: "1.1.0".into(), publisher };
        registry.join(SignedModule::sign(&ModuleFact::Yanked(yanked), &key).unwrap()).unwrap();
        assert_eq!(resolved(&registry, "sh.example.loudify@1").unwrap(), "1.0.0");
        let error = resolved(&registry, "sh.example.loudify@1.1.0").unwrap_err().to_string();
        assert!(error.ends_with("there are 1.0.0, 1.1.0 (yanked)"), "{error}");
    }

    #[test]
    fn what_is_no_name_of_a_module_is_refused() {
        for text in ["", "hello", "a.b@", "a.b@one", "A.b@1", "a/b.wasm@1", "a.b@1#", "a.b@1#xyz"] {
            assert!(matches!(text.parse::<Reference>(), Err(ReferenceError::Malformed(_))), "{text}");
        }
        assert!(Reference::is_meant("sh.example.loudify@1") && Reference::is_meant("a.b@nonsense"));
        assert!(!Reference::is_meant("hello.wasm") && !Reference::is_meant("dir/hello@1.wasm"));
    }
}
