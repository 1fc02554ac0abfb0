//! The core: routes each event to the part that owns it.

use crate::codec::DecodeError;
use crate::{Effects, Event, MemberView, NodeRecord, Table, Time};

/// What a core is given once.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this node is. `incarnation` and `sequence` are set by the core.
    pub record: NodeRecord,
    /// Seeds the node's only generator of randomness.
    pub seed: u64,
}

/// Why the stored records cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("a record in table `{table}` cannot be read")]
pub struct RestoreError {
    /// The table.
    pub table: &'static str,
    /// Why.
    pub source: DecodeError,
}

/// A node's mind.
#[derive(Debug)]
pub struct Node {}

impl Node {
    /// A node that remembers `records` (every record of every table but [`Table::Kad`]), and what it must do first.
    pub fn start(
        _config: Config,
        _now: Time,
        _records: impl IntoIterator<Item = (Table, Vec<u8>, Vec<u8>)>,
    ) -> Result<(Self, Effects), RestoreError> {
        Ok((Self {}, Effects::default()))
    }

    /// Takes one event and returns what the caller must now do.
    pub fn handle(&mut self, _now: Time, _event: Event) -> Effects {
        Effects::default()
    }

    /// When [`Event::Tick`] is next due, and which part is waiting for it.
    pub fn next_deadline(&self) -> Option<(Time, &'static str)> {
        None
    }

    /// Every node that this one knows, itself included.
    pub fn members(&self) -> Vec<MemberView> {
        Vec::new()
    }
}
