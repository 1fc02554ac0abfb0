//! What the API says of nodes: of the one that is asked, of the others, and of one that leaves.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swarm_protocol::{MemberState, MemberView, Time};

use crate::collector::Scrubbed;
use crate::network::NetworkCounts;

/// Schema of a list of [`NodeItem`].
pub const NODES: &str = "swarm.nodes/1";
/// Schema of one [`NodeItem`].
pub const NODE: &str = "swarm.node/1";

/// One node, as another sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeItem {
    /// 64 hexadecimal digits.
    pub id: String,
    /// For people.
    pub name: String,
    /// `alive`, `suspect`, `down` or `draining`.
    pub state: String,
    /// Tasks it runs at once.
    pub slots: u32,
    /// Of these, free.
    pub slots_free: u32,
    /// The program's version.
    pub version: String,
    /// Where it can be dialled; empty when unknown.
    pub address: String,
    /// Milliseconds since its last sign of life.
    pub heard_ms: u64,
    /// Memory it offers.
    pub memory_bytes: u64,
    /// Processor architecture.
    pub arch: String,
    /// `K=V`.
    pub labels: Vec<String>,
}

impl NodeItem {
    /// The item of a member, at `now`.
    pub fn of(member: &MemberView, now: Time) -> Self {
        let record = &member.record;
        Self {
            id: record.node.to_hex(),
            name: record.name.clone(),
            state: member_state(member.state).into(),
            slots: record.slots,
            slots_free: record.slots_free,
            version: record.version.clone(),
            address: record.addresses.first().cloned().unwrap_or_default(),
            heard_ms: u64::try_from(now.since(member.heard).as_millis()).unwrap_or(u64::MAX),
            memory_bytes: record.memory_bytes,
            arch: record.arch.clone(),
            labels: record.labels.iter().map(|(key, value)| format!("{key}={value}")).collect(),
        }
    }
}

const fn member_state(state: MemberState) -> &'static str {
    match state {
        MemberState::Alive => "alive",
        MemberState::Suspect => "suspect",
        MemberState::Down => "down",
        MemberState::Draining => "draining",
    }
}

/// Schema of [`NodeStatus`].
pub const STATUS: &str = "swarm.status/1";

/// The asked node and what it sees of the swarm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatus {
    /// [`STATUS`].
    pub schema: String,
    /// 64 hexadecimal digits.
    pub node: String,
    /// For people.
    pub name: String,
    /// Its data directory.
    pub data: String,
    /// The program's version.
    pub version: String,
    /// Where it can be dialled.
    pub addresses: Vec<String>,
    /// Nodes known, this one included.
    pub members: usize,
    /// Of these, alive.
    pub alive: usize,
    /// Tasks it runs at once.
    pub slots: u32,
    /// Of these, busy.
    pub slots_busy: u32,
    /// Jobs known.
    pub jobs: usize,
    /// Of these, not over.
    pub jobs_running: usize,
    /// What it moved of blobs since its start.
    #[serde(default)]
    pub transfers: Transfers,
    /// Bytes of its blobs, if they have a budget.
    #[serde(default)]
    pub blob_bytes: u64,
    /// Why it can remember nothing new, when its disk has no room for that. Jobs are not counted then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for_room: Option<String>,
    /// What looking at the bytes of its blobs has brought to light since its start.
    #[serde(default)]
    pub scrub: Scrub,
    /// Why it takes no new blobs, when it takes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes_no_blobs: Option<String>,
}

/// Blobs that were found damaged on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Scrub {
    /// Looks at all blobs.
    pub rounds: u64,
    /// Blobs found damaged.
    pub damaged: u64,
    /// Of these, fetched anew.
    pub repaired: u64,
    /// Of these, those that are needed here and that no node has: 64 hexadecimal digits each.
    pub lost: Vec<String>,
}

impl Scrub {
    /// What was found.
    pub fn of(scrubbed: &Scrubbed) -> Self {
        let Scrubbed { rounds, damaged, repaired, lost } = scrubbed;
        let lost = lost.iter().map(|hash| hash.to_hex()).collect();
        Self { rounds: *rounds, damaged: *damaged, repaired: *repaired, lost }
    }
}

/// Blobs between this node and others, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Transfers {
    /// Bytes sent, with their proofs.
    pub sent_bytes: u64,
    /// Bytes received, with their proofs.
    pub received_bytes: u64,
    /// Sources dropped because what they sent was wrong.
    pub sources_wrong: u64,
    /// Sources dropped because they sent more than was asked for.
    pub sources_over: u64,
    /// Sources dropped because they lacked what they had claimed.
    pub sources_lacking: u64,
    /// Sources dropped because they stood still.
    pub sources_stalled: u64,
}

impl Transfers {
    /// What the network has counted.
    pub fn of(counts: &NetworkCounts) -> Self {
        Self {
            sent_bytes: counts.bytes_sent,
            received_bytes: counts.bytes_received,
            sources_wrong: counts.sources_wrong,
            sources_over: counts.sources_over,
            sources_lacking: counts.sources_lacking,
            sources_stalled: counts.sources_stalled,
        }
    }
}

/// Schema of [`Drained`].
pub const DRAINED: &str = "swarm.drained/1";

/// A node that has left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Drained {
    /// [`DRAINED`].
    pub schema: String,
    /// 64 hexadecimal digits.
    pub node: String,
    /// For people.
    pub name: String,
    /// Whether all that it kept is with others; absent when another node left, which alone knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handed_over: Option<bool>,
}
