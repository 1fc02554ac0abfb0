//! What the API says of published modules, and what it is asked by who publishes one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swarm_protocol::modules::{ModuleRecord, ModuleVersion, Registry};

use super::rfc3339;

/// Schema of a list of [`ModuleItem`].
pub const MODULES: &str = "swarm.modules/1";

/// One published version of a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModuleItem {
    /// Namespace and name.
    pub name: String,
    /// The version.
    pub version: String,
    /// The publisher's key: 64 hexadecimal digits.
    pub publisher: String,
    /// The module: 64 hexadecimal digits of its BLAKE3.
    pub wasm: String,
    /// Its length.
    pub len_bytes: u64,
    /// For people.
    pub description: String,
    /// What a node must offer besides WASI preview 1.
    pub extensions: Vec<String>,
    /// What it asks for.
    pub permissions: Vec<String>,
    /// When, by the publisher's clock.
    pub published: String,
    /// Whether its publisher took it back.
    pub yanked: bool,
    /// Whether others published something of this name, too.
    pub disputed: bool,
}

impl ModuleItem {
    /// The item of a record in a registry.
    pub fn of(registry: &Registry, record: &ModuleRecord) -> Self {
        let id = &record.id;
        let same_name = |other: &ModuleVersion| other.name == id.name && other.publisher != id.publisher;
        Self {
            name: id.name.clone(),
            version: id.version.clone(),
            publisher: id.publisher.to_hex(),
            wasm: record.wasm.to_hex(),
            len_bytes: record.len,
            description: record.description.clone(),
            extensions: record.extensions.clone(),
            permissions: record.permissions.clone(),
            published: rfc3339(record.published_unix_ms),
            yanked: registry.version(id).is_some_and(|version| version.yanked),
            disputed: registry.versions().any(|(other, _)| same_name(other))
                || registry.version(id).is_some_and(|version| version.records.len() > 1),
        }
    }

    /// Every version in a registry.
    pub fn all(registry: &Registry) -> Vec<Self> {
        let records = registry.versions().flat_map(|(_, version)| version.records.values());
        records.map(|record| Self::of(registry, record)).collect()
    }
}

/// What is asked of a node that publishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishModule {
    /// Namespace and name.
    pub name: String,
    /// A semantic version.
    pub version: String,
    /// The module, which is on the node: 64 hexadecimal digits of its BLAKE3.
    pub wasm: String,
    /// For people.
    pub description: String,
    /// What a node must offer besides WASI preview 1.
    pub extensions: Vec<String>,
    /// What it asks for.
    pub permissions: Vec<String>,
}

/// Which version its publisher takes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct YankModule {
    /// Namespace and name.
    pub name: String,
    /// The version.
    pub version: String,
}
