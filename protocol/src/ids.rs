//! Names of things. Each is its own type, prints short in logs, and is written in full where it is data.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

/// A 32-byte value that travels as one CBOR byte string (33 to 34 bytes) rather than an array of 32 numbers.
macro_rules! bytes32 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(#[serde(with = "serde_bytes")] [u8; 32]);

        impl $name {
            /// Wraps the bytes as they are.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// All 64 hexadecimal digits.
            pub fn to_hex(&self) -> String {
                blake3::Hash::from_bytes(self.0).to_hex().to_string()
            }

            /// Reads 64 hexadecimal digits.
            pub fn from_hex(hex: &str) -> Result<Self, ParseIdError> {
                blake3::Hash::from_hex(hex).map(|hash| Self(*hash.as_bytes())).map_err(|_| ParseIdError)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.to_hex()[..8])
            }
        }
    };
}

/// The text is not 64 hexadecimal digits (for a [`Hash`]: after `blake3:`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 hexadecimal digits")]
pub struct ParseIdError;

bytes32! {
    /// BLAKE3 of some bytes: the name of a blob. Written `blake3:HEX`.
    Hash
}

impl Hash {
    /// The name of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blake3:{}", self.to_hex())
    }
}

impl FromStr for Hash {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        Self::from_hex(text.strip_prefix("blake3:").ok_or(ParseIdError)?)
    }
}

bytes32! {
    /// A node: its ed25519 public key. libp2p's `PeerId` is a function of it.
    NodeId
}

impl NodeId {
    /// The bytes of the libp2p `PeerId` of this key: an identity multihash around the protobuf-encoded public key
    /// (libp2p peer-ids spec: `00 24` multihash, `08 01` key type ed25519, `12 20` 32 bytes of data).
    pub fn peer_id_bytes(&self) -> [u8; 38] {
        let mut bytes = [0; 38];
        bytes[..6].copy_from_slice(&[0x00, 0x24, 0x08, 0x01, 0x12, 0x20]);
        bytes[6..].copy_from_slice(&self.0);
        bytes
    }

    /// The inverse of [`Self::peer_id_bytes`]; `None` when the peer has a key of another kind.
    pub fn from_peer_id_bytes(bytes: &[u8]) -> Option<Self> {
        let key = bytes.strip_prefix(&[0x00, 0x24, 0x08, 0x01, 0x12, 0x20])?;
        Some(Self(key.try_into().ok()?))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

bytes32! {
    /// A job: BLAKE3 of the canonical encoding of its [`JobSpec`](crate::JobSpec).
    JobId
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

/// A contiguous range of one stage's tasks: the unit of custody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId {
    /// The job.
    pub job: JobId,
    /// Position of the stage in [`JobSpec::stages`](crate::JobSpec::stages).
    pub stage: u16,
    /// Position of the shard in the stage, from 0.
    pub number: u32,
}

impl fmt::Debug for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{}.{}", self.job, self.stage, self.number)
    }
}

/// A run of task indexes of one stage: `first .. first + count`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Range {
    /// The first index in the stage, from 0.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl Range {
    /// One past the last index; saturating, since peers send these.
    pub const fn end(&self) -> u32 {
        self.first.saturating_add(self.count)
    }

    /// The indexes.
    pub fn indexes(&self) -> core::ops::Range<u32> {
        self.first..self.end()
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}+{}]", self.first, self.count)
    }
}

/// Fences off older arbiters of a shard: only grows. Ties between arbiters that never met are broken by `tie`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// One more than the highest that the new arbiter heard of.
    pub counter: u64,
    /// The first 8 bytes of the arbiter's id.
    pub tie: u64,
}

impl Epoch {
    /// Before any arbiter.
    pub const NONE: Self = Self { counter: 0, tie: 0 };

    /// The epoch with which `arbiter` supersedes `self`.
    pub fn next(self, arbiter: NodeId) -> Self {
        let tie = arbiter.0.first_chunk::<8>().map_or(0, |head| u64::from_be_bytes(*head));
        Self { counter: self.counter.saturating_add(1), tie }
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}.{:x}", self.counter, self.tie >> 48)
    }
}

/// The right to run some tasks of a shard for a time. Unique: an epoch has one arbiter, which numbers its leases.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId {
    /// The shard whose tasks are leased.
    pub shard: ShardId,
    /// The epoch in which it was granted.
    pub epoch: Epoch,
    /// The arbiter's own count.
    pub number: u64,
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{:?}#{}", self.shard, self.epoch, self.number)
    }
}
