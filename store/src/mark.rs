//! The mark: how much of the store was acknowledged, in a file beside the engine's own.
//!
//! A log cannot tell an end that was cut off from an end that was never written, and neither can the engine's list of its
//! files. The mark can: it names the number of the last change that was acknowledged, and how long the list was before that.
//! Whoever opens the store must find at least that much of both.
//!
//! Always true: it is written after the batch was synced and never names a change that was not; it is not synced itself, so
//! after a power cut it may be behind, never ahead. A mark that is damaged says nothing, and then the engine's own checks
//! remain. The engine syncs what it adds to its list at once, by itself: the length is asked for before the batch is written,
//! so that this has most likely happened when the mark is set.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::CrashPoint;

/// Beside the engine's files, whose names never look like this.
const FILE_NAME: &str = "swarm.mark";
/// Three numbers, big-endian, and the first half of their BLAKE3.
const NUMBERS_BYTES: usize = 3 * 8;
const BYTES: usize = NUMBERS_BYTES + 16;

/// The open file.
#[derive(Debug)]
pub(crate) struct Mark {
    file: File,
    /// The engine's list: its number, and the file, which grows until the store is opened anew.
    list: (u64, File),
}

/// What a mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marked {
    /// The number of the last change that was acknowledged.
    pub(crate) change: u64,
    /// What the engine's list of files was before.
    pub(crate) list: FileList,
}

/// How long RocksDB's list of its files is: the manifest, which only grows until one of a higher number takes its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileList {
    number: u64,
    len: u64,
}

impl FileList {
    /// That of this directory: `None` when RocksDB's pointer to it is missing or damaged, which RocksDB notices itself.
    pub(crate) fn of(dir: &Path) -> io::Result<Option<Self>> {
        let Some((number, file)) = open_list(dir)? else { return Ok(None) };
        Ok(Some(Self { number, len: file.metadata()?.len() }))
    }
}

impl Mark {
    /// What the mark of this directory says: `None` when there is none, or none that can be trusted.
    pub(crate) fn read(dir: &Path) -> io::Result<Option<Marked>> {
        let path = dir.join(FILE_NAME);
        let Some(bytes) = unless_missing(fs::read(&path))? else { return Ok(None) };
        let marked = decode(&bytes);
        if marked.is_none() {
            tracing::error!(path = %path.display(), "the mark is damaged, so it cannot tell whether records are missing");
        }
        Ok(marked)
    }

    /// Opens the mark of this directory, whose store is open, and sets it; makes a new one when there is none.
    pub(crate) fn open(dir: &Path, change: u64) -> io::Result<Self> {
        let path = dir.join(FILE_NAME);
        let is_new = !path.exists();
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        let list = open_list(dir)?.ok_or(io::ErrorKind::NotFound)?;
        let mark = Self { file, list };
        mark.set(Marked { change, list: mark.list()? })?;
        mark.file.set_len(BYTES as u64)?;
        mark.file.sync_all()?;
        if is_new {
            CrashPoint::MarkNamed.pass();
            File::open(dir)?.sync_all()?;
        }
        Ok(mark)
    }

    /// What the engine's list of files is now.
    pub(crate) fn list(&self) -> io::Result<FileList> {
        let (number, file) = &self.list;
        Ok(FileList { number: *number, len: file.metadata()?.len() })
    }

    /// Says that all changes up to this one are acknowledged.
    pub(crate) fn set(&self, marked: Marked) -> io::Result<()> {
        self.file.write_all_at(&encode(marked), 0)
    }
}

/// The list that RocksDB's pointer names, and its number.
fn open_list(dir: &Path) -> io::Result<Option<(u64, File)>> {
    let Some(pointer) = unless_missing(fs::read_to_string(dir.join("CURRENT")))? else { return Ok(None) };
    let name = pointer.trim_end();
    let Some(number) = name.strip_prefix("MANIFEST-").and_then(|number| number.parse().ok()) else { return Ok(None) };
    Ok(unless_missing(File::open(dir.join(name)))?.map(|file| (number, file)))
}

/// A file that is not there, or whose text is none, is not an error here.
fn unless_missing<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => Ok(None),
        other => other.map(Some),
    }
}

fn encode(Marked { change, list: FileList { number, len } }: Marked) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[..NUMBERS_BYTES].copy_from_slice([change, number, len].map(u64::to_be_bytes).as_flattened());
    let hash = blake3::hash(&bytes[..NUMBERS_BYTES]);
    bytes[NUMBERS_BYTES..].copy_from_slice(&hash.as_bytes()[..BYTES - NUMBERS_BYTES]);
    bytes
}

fn decode(bytes: &[u8]) -> Option<Marked> {
    let ([change, number, len], _) = bytes.as_chunks().0.split_first_chunk()?;
    let [change, number, len] = [change, number, len].map(|bytes| u64::from_be_bytes(*bytes));
    let marked = Marked { change, list: FileList { number, len } };
    (encode(marked) == bytes).then_some(marked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back_and_a_damaged_one_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Mark::read(dir.path()).unwrap(), None);
        fs::write(dir.path().join("CURRENT"), "MANIFEST-000034\n").unwrap();
        fs::write(dir.path().join("MANIFEST-000034"), [0; 77]).unwrap();
        let list = FileList { number: 34, len: 77 };
        let marked = Marked { change: 1 << 40, list };
        Mark::open(dir.path(), 7).unwrap().set(marked).unwrap();
        assert_eq!(Mark::read(dir.path()).unwrap(), Some(marked));
        assert_eq!(FileList::of(dir.path()).unwrap(), Some(list));
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
