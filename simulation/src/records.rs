//! What disks remember of tasks, read once: the same facts are on several disks, and read again whenever a node starts.

use std::collections::HashMap;
use std::sync::Arc;

use swarm_protocol::lattice::Segment;
use swarm_protocol::{ShardId, Table, recorded_in};

/// Facts of one record.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) shard: ShardId,
    pub(crate) segment: Segment,
}

/// Every record that was read, by the shard in its key and by its value.
#[derive(Debug, Default)]
pub(crate) struct Records(HashMap<(Vec<u8>, Vec<u8>), Arc<Facts>>);

/// After the shard a key has the number of the record.
const NUMBER_BYTES: usize = 8;

impl Records {
    /// The facts in a record of a store, if it has any.
    pub(crate) fn read(&mut self, table: Table, key: &[u8], value: &[u8]) -> Option<Arc<Facts>> {
        if table != Table::Segments {
            return None;
        }
        let shard = key.get(..key.len().checked_sub(NUMBER_BYTES)?)?;
        let name = (shard.to_vec(), value.to_vec());
        if let Some(known) = self.0.get(&name) {
            return Some(known.clone());
        }
        let (shard, segment) = recorded_in(table, key, value)?;
        let record = Arc::new(Facts { shard, segment });
        self.0.insert(name, record.clone());
        Some(record)
    }
}
