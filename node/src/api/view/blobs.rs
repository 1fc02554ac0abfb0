//! What the API says of blobs: whether a node has one, which it keeps and why, and what it removed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Schema of [`BlobStat`].
pub const BLOB: &str = "swarm.blob/1";

/// What a node has of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlobStat {
    /// [`BLOB`].
    pub schema: String,
    /// 64 hexadecimal digits of its BLAKE3.
    pub hash: String,
    /// `here`, `arriving` or `missing`.
    pub state: String,
    /// Its length, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub len_bytes: Option<u64>,
}

/// Schema of a list of [`Stored`] that a user stored.
pub const STORED: &str = "swarm.stored/1";
/// Schema of a list of [`Stored`] whose every byte was checked.
pub const VERIFIED: &str = "swarm.verified/1";

/// The answer to a stored blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stored {
    /// 64 hexadecimal digits of its BLAKE3.
    pub hash: String,
    /// Its length.
    pub len_bytes: u64,
}

/// Schema of a list of [`BlobItem`].
pub const BLOBS: &str = "swarm.blobs/1";

/// A blob on a node, and why it stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlobItem {
    /// 64 hexadecimal digits of its BLAKE3.
    pub hash: String,
    /// Its length.
    pub len_bytes: u64,
    /// A user wants it to stay.
    pub pinned: bool,
    /// A job or a published module on this node names it.
    pub used: bool,
    /// When it was written or last relied on.
    pub claimed: String,
}

/// Schema of [`CollectedBlobs`].
pub const COLLECTED: &str = "swarm.collected/1";

/// What a collection did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CollectedBlobs {
    /// [`COLLECTED`].
    pub schema: String,
    /// Blobs removed.
    pub removed: u64,
    /// Bytes that these had.
    pub removed_bytes: u64,
    /// Blobs that stay.
    pub kept: u64,
}
