//! The mark: how much of the store was acknowledged, in a file beside the engine's own.
//!
//! A log cannot tell an end that was cut off from an end that was never written. The mark can: it names the number of the
//! last change that was acknowledged, and whoever opens the store must find at least that one.
//!
//! Always true: it is written after the batch was synced and never names what was not; it is not synced itself, so after
//! a power cut it may be behind, never ahead. A mark that is damaged says nothing, and then the engine's own checks remain.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::CrashPoint;

/// Beside the engine's files, whose names never look like this.
const FILE_NAME: &str = "swarm.mark";
/// The number, big-endian, and the first half of its BLAKE3.
const BYTES: usize = 8 + 16;

/// The open file.
#[derive(Debug)]
pub(crate) struct Mark(File);

impl Mark {
    /// The number in the mark of this directory: `None` when there is none, or none that can be trusted.
    pub(crate) fn read(dir: &Path) -> io::Result<Option<u64>> {
        let path = dir.join(FILE_NAME);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let number = decode(&bytes);
        if number.is_none() {
            tracing::error!(path = %path.display(), "the mark is damaged, so it cannot tell whether records are missing");
        }
        Ok(number)
    }

    /// Opens the mark of this directory and sets it; makes a new one when there is none.
    pub(crate) fn open(dir: &Path, number: u64) -> io::Result<Self> {
        let path = dir.join(FILE_NAME);
        let is_new = !path.exists();
        let mark = Self(File::options().create(true).truncate(false).write(true).open(path)?);
        mark.set(number)?;
        mark.0.set_len(BYTES as u64)?;
        mark.0.sync_all()?;
        if is_new {
            CrashPoint::MarkNamed.pass();
            File::open(dir)?.sync_all()?;
        }
        Ok(mark)
    }

    /// Says that all changes up to this number are acknowledged.
    pub(crate) fn set(&self, number: u64) -> io::Result<()> {
        self.0.write_all_at(&encode(number), 0)
    }
}

fn encode(number: u64) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes[8..].copy_from_slice(&blake3::hash(&number.to_be_bytes()).as_bytes()[..BYTES - 8]);
    bytes
}

fn decode(bytes: &[u8]) -> Option<u64> {
    let number = u64::from_be_bytes(*bytes.first_chunk()?);
    (encode(number) == bytes).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back_and_a_damaged_one_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Mark::read(dir.path()).unwrap(), None);
        Mark::open(dir.path(), 7).unwrap().set(1 << 40).unwrap();
        assert_eq!(Mark::read(dir.path()).unwrap(), Some(1 << 40));
        let path = dir.path().join(FILE_NAME);
        let good = fs::read(&path).unwrap();
        for at in 0..BYTES {
            let mut bytes = good.clone();
            bytes[at] ^= 4;
            assert_eq!(decode(&bytes), None);
            assert_eq!(decode(&good[..at]), None);
        }
    }
}
