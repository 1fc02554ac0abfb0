//! A node's disk: the memory model of the store, whose crashes lose what was not synced.
//!
//! Always true: what was synced survives every crash, unless the disk was told to be forgetful; a batch that was being
//! written when the node crashed is there whole or not at all, and which of the two nobody can know before.

use swarm_protocol::{Table, Write};
use swarm_store::{Memory, Store, StoreError};

/// Tables that a core wants to remember at its start.
const OF_THE_CORE: [Table; 8] = [
    Table::Meta,
    Table::Peers,
    Table::Jobs,
    Table::Promises,
    Table::Segments,
    Table::Modules,
    Table::Expired,
    Table::Uses,
];

/// A record: its table, key and value.
pub(crate) type Record = (Table, Vec<u8>, Vec<u8>);

/// The records of one node.
#[derive(Default)]
pub(crate) struct Disk {
    memory: Memory,
    /// For a disk that lies: what it really kept.
    kept: Option<Memory>,
}

impl Disk {
    /// A disk that acknowledges syncs, and forgets at a crash all that was ever written.
    pub(crate) fn forgetful() -> Self {
        Self { kept: Some(Memory::new()), ..Self::default() }
    }

    /// Writes a batch, to be durable with the next sync.
    pub(crate) fn write(&mut self, batch: &[Write]) {
        self.memory.commit_unsynced(batch).expect("a disk in memory takes every write that nobody waits for");
    }

    /// Makes everything durable that was written. After an error nobody knows what is.
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        self.memory.commit(&[])
    }

    /// How many batches a crash could lose.
    pub(crate) fn unsynced(&self) -> usize {
        self.memory.unsynced()
    }

    /// The node is gone; so many of the batches that were not synced survive.
    pub(crate) fn crash(&mut self, survivors: usize) {
        self.memory.crash_torn(survivors);
        if let Some(kept) = &self.kept {
            self.memory.clone_from(kept);
        }
    }

    /// A disk of the same kind with nothing on it.
    pub(crate) fn emptied(&self) -> Self {
        Self { memory: Memory::new(), kept: self.kept.as_ref().map(|_| Memory::new()) }
    }

    /// What a copy made now would have.
    pub(crate) fn synced_copy(&self) -> Self {
        Self { memory: self.memory.synced_copy(), kept: self.kept.clone() }
    }

    /// Lets syncs fail, or not any more.
    pub(crate) fn set_full(&mut self, full: bool) {
        self.memory.set_full(full);
    }

    /// Lets reads fail, or not any more.
    pub(crate) fn set_unreadable(&mut self, unreadable: bool) {
        self.memory.set_unreadable(unreadable);
    }

    /// Everything that a core wants to remember at its start.
    pub(crate) fn records(&self) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::new();
        for table in OF_THE_CORE {
            let mut keep = |key: &[u8], value: &[u8]| records.push((table, key.to_vec(), value.to_vec()));
            self.memory.scan(table, &[], &mut keep)?;
        }
        Ok(records)
    }
}
