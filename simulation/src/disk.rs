//! A node's disk.
//!
//! Always true: what was synced survives every crash, unless the disk was told to be forgetful; a batch that was being
//! written when the node crashed is there whole or not at all, and which of the two nobody can know before.

use std::collections::BTreeMap;

use swarm_protocol::{Table, Write};

type Records = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// The records of one node.
#[derive(Default)]
pub(crate) struct Disk {
    records: Records,
    unsynced: Vec<Write>,
    /// For a disk that lies: what it really kept.
    kept: Option<Records>,
}

impl Disk {
    /// A disk that acknowledges syncs, and forgets at a crash all that was written since the last start.
    pub(crate) fn forgetful() -> Self {
        Self { kept: Some(Records::new()), ..Self::default() }
    }

    /// Begins to write a batch.
    pub(crate) fn write(&mut self, batch: Vec<Write>) {
        self.unsynced.extend(batch);
    }

    /// Ends it: the batch is durable.
    pub(crate) fn sync(&mut self) {
        for write in self.unsynced.drain(..) {
            let key = (write.table, write.key);
            match write.value {
                Some(value) => drop(self.records.insert(key, value)),
                None => drop(self.records.remove(&key)),
            }
        }
    }

    /// The node is gone; `finished` tells whether a batch under way came to be durable all the same.
    pub(crate) fn crash(&mut self, finished: bool) {
        if finished {
            self.sync();
        }
        self.unsynced.clear();
        if let Some(kept) = &self.kept {
            self.records.clone_from(kept);
        }
    }

    /// Everything that a core wants to remember at its start.
    pub(crate) fn records(&self) -> impl Iterator<Item = (Table, Vec<u8>, Vec<u8>)> + '_ {
        let wanted = self.records.iter().filter(|((table, _), _)| *table != Table::Kad);
        wanted.map(|((table, key), value)| (*table, key.clone(), value.clone()))
    }
}
