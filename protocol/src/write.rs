//! What the core asks the store to remember: small durable facts, as keys and values in named tables.
//!
//! Elsewhere: what "durable" means is the contract of `store::Store`.

/// A family of records. All of them, so that the whole layout is on one screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// `format` → the stored format's version; `incarnation` → this node's.
    Meta,
    /// Node id → last known addresses: whom to dial after a restart.
    Peers,
    /// Job id → signed spec and whether it was stopped.
    Jobs,
    /// Shard → highest epoch promised.
    Promises,
    /// Shard, sequence → a batch of outcomes. One value a batch, never one a task.
    Segments,
    /// Hash of a fact about a named module → the fact, signed.
    Modules,
    /// Job id → its number in the order of expiry. What is here is no more.
    Expired,
    /// Job id, blob → nothing: this node is counted as a holder of the blob.
    Uses,
    /// Blob → nothing: its user wants this node to keep it. Not the core's.
    Pins,
    /// Place in a ring → a batch of events: what this node's followers read. Not the core's.
    Events,
    /// Kademlia record key → record, written behind the bounded map in memory.
    Kad,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 11] = [
        Self::Meta,
        Self::Peers,
        Self::Jobs,
        Self::Promises,
        Self::Segments,
        Self::Modules,
        Self::Expired,
        Self::Uses,
        Self::Pins,
        Self::Events,
        Self::Kad,
    ];

    /// Its stored name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Peers => "peers",
            Self::Jobs => "jobs",
            Self::Promises => "promises",
            Self::Segments => "segments",
            Self::Modules => "modules",
            Self::Expired => "expired",
            Self::Uses => "uses",
            Self::Pins => "pins",
            Self::Events => "events",
            Self::Kad => "kad",
        }
    }
}

/// One change to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub table: Table,
    /// The key; keys sort as bytes.
    pub key: Vec<u8>,
    /// The new value; `None` removes the key.
    pub value: Option<Vec<u8>>,
}

impl Write {
    /// Sets a key.
    pub fn put(table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self { table, key: key.into(), value: Some(value.into()) }
    }

    /// Removes a key.
    pub fn remove(table: Table, key: impl Into<Vec<u8>>) -> Self {
        Self { table, key: key.into(), value: None }
    }
}
