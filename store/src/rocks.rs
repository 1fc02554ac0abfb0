//! The store on a disk: RocksDB.
//!
//! Always true: one process at a time has the directory; a commit is one write-ahead log record, synced before it
//! returns; a store that lacks what was acknowledged is not opened, and is left as it was; no type of RocksDB leaves this
//! crate. Elsewhere: tables and tuning are `layout`, how much was acknowledged is `mark`.
//!
//! RocksDB takes no more writes once the disk was full under one. It would come back by itself, but what is in its log by then
//! is a guess; so the store is closed, and opened anew when there is room: what it has is then read and checked as after a
//! crash.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use rocksdb::{ColumnFamily, DB, ErrorKind, PrefixRange, ReadOptions, WriteBatch, WriteOptions};
use swarm_protocol::{Table, Write};

use crate::layout::{self, FORMAT, FORMAT_KEY};
use crate::mark::{FileList, Mark, Marked};
use crate::{CrashPoint, EngineError, Store, StoreError, is_full, space};

/// Its lock keeps a second process out. RocksDB's own `LOCK` would too, but says so only in prose.
const LOCK_FILE: &str = "swarm.lock";

/// What must be free before a store is opened again that found the disk full: what is in its log is then written anew as
/// tables. On a small disk, a part of it.
const REOPEN_BYTES: u64 = 16 << 20;
const REOPEN_SHARE_MAX: u64 = 16;

/// A store in a directory of its own. Dropping it closes RocksDB, which blocks for as long as the disk does: drop it on a
/// thread that may wait.
#[derive(Debug)]
pub struct Rocks {
    dir: PathBuf,
    /// `None` since there was no room.
    open: Option<Open>,
    /// Released when the process ends, however it ends. Declared after `open`, so that it outlives it.
    _lock: File,
}

/// The engine, and what of it was acknowledged.
#[derive(Debug)]
struct Open {
    db: DB,
    mark: Mark,
}

/// Why a directory cannot be opened as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A live process has it.
    #[error("`{dir}` is in use by another process")]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// It cannot be created, or nothing can be written in it.
    #[error("`{dir}` cannot be written to")]
    Unwritable {
        /// The directory.
        dir: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A newer program wrote it. It is left as it was.
    #[error("data is of format {found}; this program reads up to {known}")]
    TooNew {
        /// The stored format.
        found: u32,
        /// The newest that this program reads.
        known: u32,
    },
    /// Bytes on the disk are not those that were written.
    #[error("the store in `{dir}` is damaged")]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// What RocksDB says.
        source: EngineError,
    },
    /// Changes that were acknowledged are not in it any more: files were cut, removed or replaced. It is left as it was.
    #[error("the store in `{dir}` is damaged: the last {missing} changes that were acknowledged are missing")]
    Missing {
        /// The directory.
        dir: PathBuf,
        /// How many; a batch is one for each record in it.
        missing: u64,
    },
    /// The disk is full. The store is left as it was.
    #[error("the disk of `{dir}` is full")]
    NoRoom {
        /// The directory.
        dir: PathBuf,
        /// What RocksDB or the operating system says.
        source: EngineError,
    },
    /// RocksDB cannot open it for another reason.
    #[error("the store in `{dir}` cannot be opened")]
    Engine {
        /// The directory.
        dir: PathBuf,
        /// What RocksDB says.
        source: EngineError,
    },
    /// It is open, but its format cannot be read or written.
    #[error("the stored format in `{dir}` cannot be read or written")]
    Format {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: StoreError,
    },
}

impl OpenError {
    /// Whether what was stored is no longer what is there: the same will be said of it tomorrow.
    pub const fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::Missing { .. } => true,
            Self::Format { source, .. } => source.is_damage(),
            Self::Locked { .. }
            | Self::Unwritable { .. }
            | Self::TooNew { .. }
            | Self::NoRoom { .. }
            | Self::Engine { .. } => false,
        }
    }
}

impl Rocks {
    /// Opens the store in `dir`, creating both when missing. Blocks while the log of the last run is replayed.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let lock = lock(dir)?;
        CrashPoint::StoreUnopened.pass();
        let mut rocks = Self { dir: dir.into(), open: Some(Open::at(dir)?), _lock: lock };
        rocks.check_format(dir)?;
        CrashPoint::FormatStored.pass();
        Ok(rocks)
    }

    fn check_format(&mut self, dir: &Path) -> Result<(), OpenError> {
        let failed = |source| OpenError::Format { dir: dir.into(), source };
        let Some(stored) = self.get(Table::Meta, FORMAT_KEY).map_err(failed)? else {
            return self.commit(&[Write::put(Table::Meta, FORMAT_KEY, FORMAT.to_be_bytes())]).map_err(failed);
        };
        let Ok(stored) = stored.try_into().map(u32::from_be_bytes) else {
            let source = EngineError("the stored format is not a 4-byte number".into());
            return Err(OpenError::Damaged { dir: dir.into(), source });
        };
        if stored > FORMAT { Err(OpenError::TooNew { found: stored, known: FORMAT }) } else { Ok(()) }
    }

    /// Writes with the open engine, and closes it when there is no room.
    fn write(&mut self, write: impl FnOnce(&Open) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let open = match self.open.take() {
            Some(open) => open,
            None => self.reopen()?,
        };
        let written = write(&open);
        if !matches!(written, Err(StoreError::NoRoom { .. })) {
            self.open = Some(open);
        }
        written
    }

    fn reopen(&self) -> Result<Open, StoreError> {
        let room = space::left(&self.dir).is_none_or(|(free, all)| free >= REOPEN_BYTES.min(all / REOPEN_SHARE_MAX));
        if !room {
            return Err(StoreError::NoRoom { source: EngineError("too few bytes are free".into()) });
        }
        Open::at(&self.dir).map_err(|error| match error {
            OpenError::NoRoom { source, .. } => StoreError::NoRoom { source },
            other => StoreError::Commit { source: EngineError(format!("open it anew: {other}")) },
        })
    }

    /// The engine, to be read.
    fn engine(&self) -> Result<&Open, StoreError> {
        let source = || EngineError("it is closed until there is room".into());
        self.open.as_ref().ok_or_else(|| StoreError::NoRoom { source: source() })
    }
}

impl Open {
    /// Opens what is there, once it was looked at.
    fn at(dir: &Path) -> Result<Self, OpenError> {
        check_acknowledged(dir)?;
        let db = open(dir).map_err(|error| refused(dir, error))?;
        CrashPoint::StoreOpened.pass();
        let mark = Mark::open(dir, db.latest_sequence_number()).map_err(|source| unwritable(dir, source))?;
        Ok(Self { db, mark })
    }

    fn write(&self, batch: &[Write], synced: bool) -> Result<(), StoreError> {
        let mut record = WriteBatch::default();
        for Write { table, key, value } in batch {
            match value {
                Some(value) => record.put_cf(self.table(*table), key, value),
                None => record.delete_cf(self.table(*table), key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(synced);
        self.db.write_opt(record, &options).map_err(unwritten)
    }

    fn commit(&self, batch: &[Write]) -> Result<(), StoreError> {
        let list = self.mark.list().map_err(unmarked)?;
        self.write(batch, true)?;
        CrashPoint::BatchSynced.pass();
        self.mark.set(Marked { change: self.db.latest_sequence_number(), list }).map_err(unmarked)?;
        CrashPoint::BatchMarked.pass();
        Ok(())
    }

    fn table(&self, table: Table) -> &ColumnFamily {
        self.db.cf_handle(table.name()).expect("open() opened every table, and none is ever dropped")
    }
}

impl Store for Rocks {
    fn commit(&mut self, batch: &[Write]) -> Result<(), StoreError> {
        CrashPoint::BatchUnwritten.pass();
        self.write(|open| open.commit(batch))
    }

    fn commit_unsynced(&mut self, batch: &[Write]) -> Result<(), StoreError> {
        self.write(|open| open.write(batch, false))
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let open = self.engine()?;
        open.db.get_cf(open.table(table), key).map_err(|error| unread(table, error))
    }

    fn scan(&self, table: Table, prefix: &[u8], show: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        let open = self.engine()?;
        let mut options = ReadOptions::default();
        options.set_iterate_range(PrefixRange(prefix));
        options.fill_cache(false); // scans are for the start, and pass once
        let mut records = open.db.raw_iterator_cf_opt(open.table(table), options);
        records.seek_to_first();
        while let Some((key, value)) = records.item() {
            show(key, value);
            records.next();
        }
        // An iterator that met damage ends early; its status tells that from the end of the table.
        records.status().map_err(|error| unread(table, error))
    }
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let unwritable = |source| unwritable(dir, source);
    std::fs::create_dir_all(dir).map_err(unwritable)?;
    sync_entry(dir).map_err(unwritable)?;
    let options = File::options().create(true).truncate(false).write(true).clone();
    let file = options.open(dir.join(LOCK_FILE)).map_err(unwritable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { dir: dir.into() }),
        Err(TryLockError::Error(source)) => Err(unwritable(source)),
    }
}

/// Syncs the name of a directory: without it a power cut could forget a new one with everything in it.
fn sync_entry(dir: &Path) -> io::Result<()> {
    File::open(dir.join(".."))?.sync_all()
}

/// Fails when the store has less than its mark says was acknowledged. Looks without changing anything: opened for
/// writing, RocksDB would replay what is left of a damaged log and remove it.
fn check_acknowledged(dir: &Path) -> Result<(), OpenError> {
    let Some(marked) = Mark::read(dir).map_err(|source| unwritable(dir, source))? else { return Ok(()) };
    let list = FileList::of(dir).map_err(|source| unwritable(dir, source))?;
    if list.is_some_and(|list| list < marked.list) {
        let source = EngineError("RocksDB's list of its files is shorter than it was".into());
        return Err(OpenError::Damaged { dir: dir.into(), source });
    }
    let found = last_change(dir).map_err(|error| refused(dir, error))?;
    match marked.change.saturating_sub(found) {
        0 => Ok(()),
        missing => Err(OpenError::Missing { dir: dir.into(), missing }),
    }
}

/// The number of the last change before which none is missing.
fn last_change(dir: &Path) -> Result<u64, rocksdb::Error> {
    if !is_made(dir) {
        return Ok(0);
    }
    let options = layout::looked_at();
    let tables = layout::tables(DB::list_cf(&options, dir)?);
    Ok(DB::open_cf_descriptors_read_only(&options, dir, tables, false)?.latest_sequence_number())
}

fn open(dir: &Path) -> Result<DB, rocksdb::Error> {
    let options = layout::database();
    let stored = if is_made(dir) { DB::list_cf(&options, dir)? } else { Vec::new() };
    DB::open_cf_descriptors(&options, dir, layout::tables(stored))
}

/// Whether there is RocksDB's pointer to its newest manifest: without it there is no database yet.
fn is_made(dir: &Path) -> bool {
    dir.join("CURRENT").exists()
}

fn unwritable(dir: &Path, source: io::Error) -> OpenError {
    let dir = dir.into();
    if is_full(&source) {
        return OpenError::NoRoom { dir, source: EngineError(source.to_string()) };
    }
    OpenError::Unwritable { dir, source }
}

fn refused(dir: &Path, error: rocksdb::Error) -> OpenError {
    let dir = dir.into();
    match error.kind() {
        ErrorKind::Corruption => OpenError::Damaged { dir, source: engine(error) },
        ErrorKind::IOError if says_full(&error) => OpenError::NoRoom { dir, source: engine(error) },
        ErrorKind::IOError if says_missing(&error) => OpenError::Damaged { dir, source: engine(error) },
        _ => OpenError::Engine { dir, source: engine(error) },
    }
}

fn unmarked(error: io::Error) -> StoreError {
    let source = EngineError(format!("mark it as acknowledged: {error}"));
    if is_full(&error) { StoreError::NoRoom { source } } else { StoreError::Commit { source } }
}

fn unwritten(error: rocksdb::Error) -> StoreError {
    if says_full(&error) {
        return StoreError::NoRoom { source: engine(error) };
    }
    StoreError::Commit { source: engine(error) }
}

/// Whether the disk is full, which RocksDB tells in the words of the operating system (`ENOSPC`, `EDQUOT`).
fn says_full(error: &rocksdb::Error) -> bool {
    ["No space left on device", "Disk quota exceeded"].iter().any(|words| error.as_ref().contains(words))
}

/// Whether a file is gone. RocksDB looks only for files that it wrote, and tells this kind of I/O error in prose alone.
fn says_missing(error: &rocksdb::Error) -> bool {
    error.as_ref().contains("No such file")
}

fn unread(table: Table, error: rocksdb::Error) -> StoreError {
    let table = table.name();
    match error.kind() {
        ErrorKind::Corruption => StoreError::Damaged { table, source: engine(error) },
        // Not every file is opened with the store.
        ErrorKind::IOError if says_missing(&error) => StoreError::Damaged { table, source: engine(error) },
        _ => StoreError::Read { table, source: engine(error) },
    }
}

fn engine(error: rocksdb::Error) -> EngineError {
    EngineError(error.into_string())
}
