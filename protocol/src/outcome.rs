//! How an attempt ended, and what it left behind.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::Hash;

/// Bytes up to this length travel inside the record; longer ones are a blob of their own.
/// 1 KiB: a line or two of output costs no transfer, and a full shard of them still fits a few frames.
pub const INLINE_BYTES_MAX: usize = 1024;

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Ending {
    /// The guest returned or called `proc_exit`.
    Exited(i32),
    /// A WebAssembly trap, with wasmtime's words for it.
    Trapped(String),
    /// `limits.fuel` was used up.
    OutOfFuel,
    /// `resources.memory` was reached.
    OutOfMemory,
    /// `timeout.run` passed.
    TimedOut,
    /// Standard output, standard error or `/out` grew beyond its limit; says which.
    OutputTooLarge(String),
    /// Stopped because its job was.
    Cancelled,
    /// The node that ran it is gone.
    Lost,
    /// It could not be started: an unusable module, a missing input, a wrong template.
    Rejected(String),
}

impl Ending {
    /// Whether this is the success that a task aims at: exit code 0.
    pub const fn is_success(&self) -> bool {
        matches!(self, Self::Exited(0))
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited {code}"),
            Self::Trapped(why) => write!(f, "trapped: {why}"),
            Self::OutOfFuel => f.write_str("out of fuel"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::TimedOut => f.write_str("timed out"),
            Self::OutputTooLarge(what) => write!(f, "output too large: {what}"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Lost => f.write_str("its node was lost, or had no room for it"),
            Self::Rejected(why) => write!(f, "rejected: {why}"),
        }
    }
}

/// Some bytes of a result: in place when they are few, else by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Content {
    /// At most [`INLINE_BYTES_MAX`] bytes.
    Inline(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A blob.
    Blob {
        /// Its name.
        hash: Hash,
        /// Its length in bytes.
        len: u64,
    },
}

impl Content {
    /// No bytes.
    pub const EMPTY: Self = Self::Inline(Vec::new());

    /// The number of bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Blob { len, .. } => *len,
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The blob that holds the bytes, unless they are in place.
    pub const fn blob(&self) -> Option<Hash> {
        match self {
            Self::Inline(_) => None,
            Self::Blob { hash, .. } => Some(*hash),
        }
    }
}

/// One file that the guest left under `/out`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OutputFile {
    /// The declared path, relative to `/out`.
    pub path: String,
    /// The blob.
    pub hash: Hash,
    /// Its length in bytes.
    pub len: u64,
}

/// How an attempt ended and what it left behind. Two runs of a deterministic task have equal outcomes, so nothing that
/// differs between runs (node, time taken, fuel used) is in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// Standard output.
    pub stdout: Content,
    /// Standard error.
    pub stderr: Content,
    /// The declared outputs, in order of declaration.
    pub outputs: Vec<OutputFile>,
}

impl Outcome {
    /// An outcome that left nothing behind.
    pub const fn bare(ending: Ending) -> Self {
        Self { ending, stdout: Content::EMPTY, stderr: Content::EMPTY, outputs: Vec::new() }
    }

    /// About how many bytes its encoding has: messages are cut by this.
    pub fn weight(&self) -> usize {
        let inline = |content: &Content| match content {
            Content::Inline(bytes) => bytes.len() + 16,
            Content::Blob { .. } => 64,
        };
        let reason = match &self.ending {
            Ending::Trapped(text) | Ending::OutputTooLarge(text) | Ending::Rejected(text) => text.len(),
            _ => 0,
        };
        let outputs: usize = self.outputs.iter().map(|file| file.path.len() + 80).sum();
        64 + reason + inline(&self.stdout) + inline(&self.stderr) + outputs
    }

    /// Every blob that it names.
    pub fn blobs(&self) -> impl Iterator<Item = Hash> + '_ {
        let logs = [&self.stdout, &self.stderr].into_iter().filter_map(Content::blob);
        logs.chain(self.outputs.iter().map(|file| file.hash))
    }
}
