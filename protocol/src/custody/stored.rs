//! How shards are stored: under which keys, and how they are read after a restart.
//!
//! Always true: keys sort like the shards.

use super::Shard;
use super::facts::names_blobs;
use super::unsure::Unsure;
use crate::codec::{self, DecodeError};
use crate::lattice::Segment;
use crate::node::Node;
use crate::planted::PlantedBug;
use crate::{JobId, ShardId, Table};

/// The longest stored segment: a report is cut at a quarter of a frame.
const SEGMENT_BYTES_MAX: usize = crate::message::FRAME_BYTES_MAX * 4;
/// Under this, followed by the shard, [`Table::Meta`] says that facts of it may be here alone.
pub(crate) const UNSURE_PREFIX: &[u8] = b"unsure:";

impl Shard {
    /// Where the disk says that facts of it may be here alone, if it does.
    pub(crate) fn unsure_note(&self, id: ShardId) -> Option<Vec<u8>> {
        self.unsure_noted.then(|| unsure_key(id))
    }
}

impl Node {
    pub(crate) fn restore_promise(&mut self, key: &[u8], value: &[u8]) -> Result<(), DecodeError> {
        let shard = shard_of_key(key)?;
        self.custody.promises.insert(shard, codec::decode(value, 1024)?);
        Ok(())
    }

    pub(crate) fn restore_segment(&mut self, key: &[u8], value: &[u8]) -> Result<(), DecodeError> {
        let id = shard_of_key(key)?;
        let segment: Segment = codec::decode(value, SEGMENT_BYTES_MAX)?;
        let number = key.last_chunk::<8>().map_or(0, |tail| u64::from_be_bytes(*tail));
        let next = u64::from(!self.plants(PlantedBug::OverwritesSegments));
        let Some(shard) = self.ensure_shard(id) else { return Ok(()) };
        shard.has_blobs |= names_blobs(&segment);
        shard.state.join(&segment);
        shard.next_segment = shard.next_segment.max(number + next);
        self.close_if_over(id);
        Ok(())
    }

    /// The process before this one may have ended before it heard that a record is on two disks.
    pub(crate) fn restore_unsure(&mut self, key: &[u8]) -> Result<(), DecodeError> {
        let id = shard_of_key(key.strip_prefix(UNSURE_PREFIX).unwrap_or_default())?;
        let Some(shard) = self.custody.shard_mut(id) else { return Ok(()) };
        shard.unsure = Some(Unsure { restored: true, ..Unsure::default() });
        shard.unsure_noted = true;
        self.custody.unsure.insert(id);
        Ok(())
    }
}

/// The facts about a shard's tasks in a record of the store, if it is such a record: what a disk remembers, for auditors.
pub fn recorded_in(table: Table, key: &[u8], value: &[u8]) -> Option<(ShardId, Segment)> {
    let facts = || Some((shard_of_key(key).ok()?, codec::decode(value, SEGMENT_BYTES_MAX).ok()?));
    (table == Table::Segments).then(facts)?
}

/// 38 bytes that sort like the shards.
pub(crate) fn shard_key(shard: ShardId) -> Vec<u8> {
    [shard.job.as_bytes(), &shard.stage.to_be_bytes()[..], &shard.number.to_be_bytes()[..]].concat()
}

pub(super) fn unsure_key(shard: ShardId) -> Vec<u8> {
    [UNSURE_PREFIX, &shard_key(shard)].concat()
}

fn shard_of_key(key: &[u8]) -> Result<ShardId, DecodeError> {
    let read = || {
        let (job, rest) = key.split_first_chunk::<32>()?;
        let (stage, rest) = rest.split_first_chunk::<2>()?;
        let number = rest.first_chunk::<4>()?;
        let (stage, number) = (u16::from_be_bytes(*stage), u32::from_be_bytes(*number));
        Some(ShardId { job: JobId::from_bytes(*job), stage, number })
    };
    read().ok_or_else(|| DecodeError::Malformed("a shard's key is too short".into()))
}
