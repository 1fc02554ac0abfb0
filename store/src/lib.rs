//! What a node remembers: small records in a [`Store`], large bytes in [`Blobs`].
//!
//! Always true: what a call acknowledged survives the death of the process and of the machine; what is read was
//! verified. Elsewhere: what is worth remembering is decided in `swarm_protocol`.
#![deny(unsafe_code)]

mod arriving;
mod blobs;
mod contract;
mod crash_point;
mod layout;
mod mark;
mod memory;
mod rocks;
mod source;
mod space;
mod sweep;
mod tree;
mod writer;

pub use arriving::Arriving;
pub use blobs::{BlobError, Blobs, Receiver, is_full};
pub use contract::{EngineError, Store, StoreError};
pub use crash_point::{CRASH_POINT_VARIABLE, CrashPoint};
pub use layout::FORMAT;
pub use memory::Memory;
pub use rocks::{OpenError, Rocks};
pub use source::Source;
pub use space::NoRoom;
pub use sweep::StoredBlob;
pub use tree::{GROUP_BYTES, Groups, encoded_bytes, groups_in};
pub use writer::{Done, OnRoom, WRITER_QUEUE, Writer, WriterError};
