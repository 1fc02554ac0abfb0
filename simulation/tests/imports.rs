//! Who may import whom: ARCHITECTURE.md's table, held against `cargo metadata`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// The table. A crate may import those named, and none of ours besides.
const ALLOWED: [(&str, &[&str]); 6] = [
    ("swarm-protocol", &[]),
    ("swarm-store", &["swarm-protocol"]),
    ("swarm-executor", &["swarm-protocol"]),
    ("swarm-node", &["swarm-protocol", "swarm-store", "swarm-executor"]),
    ("swarm-embed", &["swarm-node"]),
    ("swarm-simulation", &["swarm-protocol", "swarm-store", "swarm-executor"]),
];

/// What the core must not even reach: runtimes, networks, disks, clocks and hidden randomness.
const BARRED_FROM_PROTOCOL: [&str; 14] = [
    "tokio",
    "mio",
    "libp2p",
    "ractor",
    "rocksdb",
    "librocksdb-sys",
    "wasmtime",
    "async-std",
    "smol",
    "rand",
    "rand_core",
    "chrono",
    "time",
    "socket2",
];

fn metadata() -> Value {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--manifest-path", manifest])
        .output()
        .expect("cargo runs, since it runs this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Package id → (name, ids of its ordinary and build dependencies).
fn graph(metadata: &Value) -> BTreeMap<String, (String, Vec<String>)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap();
    let names: BTreeMap<_, _> = packages.iter().map(|it| (text(&it["id"]), text(&it["name"]))).collect();
    let is_used =
        |dependency: &&Value| dependency["dep_kinds"].as_array().unwrap().iter().any(|it| it["kind"] != "dev");
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap().iter();
    nodes
        .map(|node| {
            let used = node["deps"].as_array().unwrap().iter().filter(is_used);
            let id = text(&node["id"]);
            let name = names[&id].clone();
            (id, (name, used.map(|it| text(&it["pkg"])).collect()))
        })
        .collect()
}

#[test]
fn crates_import_only_what_the_architecture_allows() {
    let graph = graph(&metadata());
    let ours: BTreeSet<_> = ALLOWED.iter().map(|(name, _)| *name).collect();
    for (name, allowed) in ALLOWED {
        let (_, imports) = graph.values().find(|(it, _)| it == name).unwrap_or_else(|| panic!("there is no {name}"));
        for import in imports.iter().map(|id| graph[id].0.as_str()).filter(|import| ours.contains(import)) {
            assert!(allowed.contains(&import), "{name} imports {import}");
        }
    }
}

#[test]
fn the_core_reaches_no_runtime_network_disk_or_randomness() {
    // Of the core alone: in the graph of the whole workspace its dependencies have features that others switch on.
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../protocol/Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--manifest-path",
            manifest,
        ])
        .output()
        .expect("cargo runs, since it runs this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8(output.stdout).unwrap();
    let reached: BTreeSet<_> = listed.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(reached.contains("blake3"), "the tree is not read rightly: {reached:?}");
    let barred: Vec<_> = BARRED_FROM_PROTOCOL.iter().filter(|name| reached.contains(*name)).collect();
    assert!(barred.is_empty(), "swarm-protocol reaches {barred:?}");
}
