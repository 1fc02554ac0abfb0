//! The contract that every store keeps; `tests/contract.rs` holds each implementation to it.
//!
//! Elsewhere: RocksDB is `rocks`, the deterministic model with faults is `memory`.

use swarm_protocol::{Table, Write};

/// Small records in tables, sorted by key.
///
/// - **Atomic**: after a crash a batch is there wholly or not at all, also when it touches several tables.
/// - **Durable**: when [`commit`](Self::commit) returns `Ok`, the batch and all before it survive a power cut.
/// - **Ordered**: batches take effect in the order of their commits, writes in the order of their batch; a crash may only
///   forget the latest batches, and of those only ones whose commit had not returned.
/// - **Honest**: a commit that returns `Err` may be there after a restart or not. Nothing may be assumed, so the caller
///   must stop the process, and the next one reads what is true. Only after [`StoreError::NoRoom`] it may instead commit
///   the same batch again, before any other: a batch that is there already is not changed by that.
pub trait Store: Send {
    /// Makes a batch durable. On `Err` the caller must stop the process, or try again when there was no room.
    fn commit(&mut self, batch: &[Write]) -> Result<(), StoreError>;

    /// Writes a batch that a crash may lose; the next [`commit`](Self::commit) makes it durable, too. On `Err` the same
    /// as there.
    fn commit_unsynced(&mut self, batch: &[Write]) -> Result<(), StoreError>;

    /// The value of a key.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Shows every key that begins with `prefix`, and its value, in the byte order of the keys.
    fn scan(&self, table: Table, prefix: &[u8], show: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError>;
}

/// Why a store did not do as asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Whether the batch is there is unknown.
    #[error("the batch could not be made durable")]
    Commit {
        /// What the engine says.
        source: EngineError,
    },
    /// The disk is full. Whether the batch is there is unknown.
    #[error("the disk has no room for records")]
    NoRoom {
        /// What the engine says.
        source: EngineError,
    },
    /// The table could not be read.
    #[error("table `{table}` could not be read")]
    Read {
        /// Its stored name.
        table: &'static str,
        /// What the engine says.
        source: EngineError,
    },
    /// Bytes on the disk are not those that were written.
    #[error("table `{table}` is damaged on the disk")]
    Damaged {
        /// Its stored name.
        table: &'static str,
        /// What the engine says.
        source: EngineError,
    },
    /// Nothing of this batch was written: an earlier commit failed.
    #[error("an earlier batch could not be made durable, so no more are taken")]
    Stopped,
}

impl StoreError {
    /// Whether what was stored is no longer what is there.
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }
}

/// What the storage engine says, in its own words.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub(crate) String);
