//! Blobs: bytes of any size, each in a file named by its BLAKE3.
//!
//! ```text
//! ab/HEX     a blob; `ab` are the first two digits of its name
//! tmp/N      being written; cleared when the store is opened
//! damaged/   blobs that no longer had their hash when they were read, kept for whoever looks for the cause
//! ```
//!
//! Always true:
//! - a file under `ab/` was complete and synced before it got its name, so a crash leaves whole blobs or none;
//! - when a call that stores returns, the blob survives a power cut;
//! - any number of threads may store and read at once, also the same blob;
//! - the first failure of the disk itself (full, unreadable, read-only) is told to whoever asked to hear of it.
//!
//! Elsewhere: one process at a time has the directory, which the lock of [`Rocks`](crate::Rocks) sees to: open that first.
//! Which blobs are worth keeping is decided by their users.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use swarm_protocol::Hash;

use crate::CrashPoint;

/// Files are copied and checked in pieces of this size: BLAKE3 is fastest from some 100 KiB on.
const PIECE_BYTES: usize = 128 << 10;

/// A directory of blobs. A clone is another handle to the same one.
#[derive(Clone, Debug)]
pub struct Blobs(Arc<Directory>);

struct Directory {
    root: PathBuf,
    temp_number: AtomicU64,
    /// Held while a name is given or taken away, so that what is moved aside as damaged is what was found damaged.
    naming: Mutex<()>,
    failed: AtomicBool,
    on_failure: OnceLock<OnFailure>,
}

/// Told of the first failure of the disk.
type OnFailure = Box<dyn Fn(String) + Send + Sync>;

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Blobs").field(&self.root).finish()
    }
}

/// Why a blob was not stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// It is not in this store.
    #[error("{hash} is not here")]
    Missing {
        /// The blob.
        hash: Hash,
    },
    /// Its bytes on the disk are no longer those that were stored. It has been moved aside: it is not here any more.
    #[error("{hash} was damaged on the disk; it must be fetched again")]
    Damaged {
        /// The blob.
        hash: Hash,
    },
    /// The bytes that were given are those of another blob. Nothing was stored.
    #[error("expected {expected}, but the bytes are {found}")]
    WrongHash {
        /// What was promised.
        expected: Hash,
        /// What came.
        found: Hash,
    },
    /// More bytes than the caller accepts. Nothing was stored or read.
    #[error("{hash} is longer than the {max} bytes allowed")]
    TooLong {
        /// The blob.
        hash: Hash,
        /// Bytes allowed.
        max: u64,
    },
    /// The disk.
    #[error("{step} `{path}`")]
    Io {
        /// What was being done.
        step: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
}

impl Blobs {
    /// Opens the blobs in `root`, creating it when missing, and removes what was being written when the last process ended.
    pub fn open(root: &Path) -> Result<Self, BlobError> {
        let temp = root.join("tmp");
        match fs::remove_dir_all(&temp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("clear", &temp, error)),
            _ => {}
        }
        let prefixes = (0..=u8::MAX).map(|byte| format!("{byte:02x}"));
        for name in prefixes.chain(["tmp".into(), "damaged".into()]) {
            let dir = root.join(name);
            fs::create_dir_all(&dir).map_err(|error| io_error("create", &dir, error))?;
        }
        sync_dir(root)?;
        sync_dir(&root.join(".."))?; // the name of `root` itself, which may be new
        let (temp_number, naming, failed) = (AtomicU64::new(0), Mutex::new(()), AtomicBool::new(false));
        let directory = Directory { root: root.into(), temp_number, naming, failed, on_failure: OnceLock::new() };
        Ok(Self(Arc::new(directory)))
    }

    /// Has `tell` called, with a sentence, when the disk fails for the first time: from then on nothing can be promised
    /// of it. Only the first call counts.
    pub fn on_failure(&self, tell: impl Fn(String) + Send + Sync + 'static) {
        let _first_stays = self.0.on_failure.set(Box::new(tell));
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Whether the disk has failed.
    pub fn has_failed(&self) -> bool {
        self.0.failed.load(Ordering::Relaxed)
    }

    /// Notes an error of the disk that these blobs are on, if it is one, wherever it was met.
    pub fn note(&self, step: &str, path: &Path, error: &io::Error) {
        if is_failure(error) && !self.0.failed.swap(true, Ordering::Relaxed) {
            let sentence = format!("{step} `{}`: {error}", path.display());
            if let Some(tell) = self.0.on_failure.get() {
                tell(sentence);
            }
        }
    }

    /// Stores some bytes.
    pub fn put(&self, bytes: &[u8]) -> Result<Hash, BlobError> {
        let hash = Hash::of(bytes);
        self.place(hash, bytes)?;
        self.sync_prefix(hash)?;
        Ok(hash)
    }

    /// Stores several and names them in their order; each directory is synced once for all of them. On an error any of
    /// them may be stored.
    pub fn put_all<'a>(&self, blobs: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Hash>, BlobError> {
        let place = |bytes| {
            let hash = Hash::of(bytes);
            self.place(hash, bytes).map(|()| hash)
        };
        let hashes = blobs.into_iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let directories: BTreeSet<_> = hashes.iter().map(|hash| self.prefix(*hash)).collect();
        directories.iter().try_for_each(|dir| self.sync_dir(dir))?;
        Ok(hashes)
    }

    /// Stores a copy of a file, and says its name and length in bytes. A file that changes meanwhile is stored as it was
    /// read, under the name of just that.
    pub fn put_file(&self, path: &Path) -> Result<(Hash, u64), BlobError> {
        let failed = |error| self.failed("read", path, error);
        let mut source = File::open(path).map_err(failed)?;
        let mut temp = self.temp()?;
        let mut hasher = blake3::Hasher::new();
        let len = each_piece(&mut source, failed, |piece| {
            hasher.update(piece);
            temp.write(self, piece)
        })?;
        let hash = name(&hasher);
        self.keep(temp, hash)?;
        self.sync_prefix(hash)?;
        Ok((hash, len))
    }

    /// Begins to store a blob that arrives in pieces and whose name is known, of at most `len_max` bytes.
    pub fn receiver(&self, expected: Hash, len_max: u64) -> Result<Receiver, BlobError> {
        let temp = self.temp()?;
        Ok(Receiver { blobs: self.clone(), temp, hasher: blake3::Hasher::new(), expected, len: 0, len_max })
    }

    /// Whether the blob is here. Its bytes are verified when they are read.
    pub fn contains(&self, hash: Hash) -> bool {
        self.path(hash).is_file()
    }

    /// The blob's length in bytes.
    pub fn len(&self, hash: Hash) -> Result<u64, BlobError> {
        self.open_with_len(hash).map(|(_, len)| len)
    }

    /// The blob as a file, **not verified**: after [`verify`](Self::verify), for a reader that verifies what it gets. Never
    /// write to it.
    pub fn file(&self, hash: Hash) -> Result<File, BlobError> {
        self.open_with_len(hash).map(|(file, _)| file)
    }

    /// Begins to hand out a blob in pieces, which are verified on the way.
    pub fn sender(&self, hash: Hash) -> Result<Sender, BlobError> {
        let (file, len) = self.open_with_len(hash)?;
        Ok(Sender { blobs: self.clone(), file, hasher: blake3::Hasher::new(), hash, len, left: len })
    }

    /// All bytes of a blob of at most `max`, verified.
    pub fn read(&self, hash: Hash, max: u64) -> Result<Vec<u8>, BlobError> {
        let (mut file, len) = self.open_with_len(hash)?;
        if len > max {
            return Err(BlobError::TooLong { hash, max });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
        file.read_to_end(&mut bytes).map_err(|error| self.failed("read", &self.path(hash), error))?;
        if Hash::of(&bytes) == hash { Ok(bytes) } else { Err(self.damaged(hash, &file)) }
    }

    /// Reads a blob of any length and checks it against its name, and says its length in bytes.
    pub fn verify(&self, hash: Hash) -> Result<u64, BlobError> {
        let (mut file, _) = self.open_with_len(hash)?;
        let mut hasher = blake3::Hasher::new();
        let failed = |error| self.failed("read", &self.path(hash), error);
        let len = each_piece(&mut file, failed, |piece| {
            hasher.update(piece);
            Ok(())
        })?;
        if name(&hasher) == hash { Ok(len) } else { Err(self.damaged(hash, &file)) }
    }

    /// Where the blob is or would be. Only to be read, and **not verified**, as [`file`](Self::file).
    pub fn path(&self, hash: Hash) -> PathBuf {
        self.prefix(hash).join(hash.to_hex())
    }

    fn prefix(&self, hash: Hash) -> PathBuf {
        self.0.root.join(&hash.to_hex()[..2])
    }

    fn sync_prefix(&self, hash: Hash) -> Result<(), BlobError> {
        self.sync_dir(&self.prefix(hash))
    }

    /// Makes the names in a directory of blobs durable.
    fn sync_dir(&self, dir: &Path) -> Result<(), BlobError> {
        CrashPoint::BlobNamed.pass();
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(|error| self.failed("sync", dir, error))?;
        CrashPoint::BlobDurable.pass();
        Ok(())
    }

    /// An error of the disk, noted.
    fn failed(&self, step: &'static str, path: &Path, source: io::Error) -> BlobError {
        self.note(step, path, &source);
        io_error(step, path, source)
    }

    /// Gives these bytes their name; durable once the directory is synced.
    fn place(&self, hash: Hash, bytes: &[u8]) -> Result<(), BlobError> {
        // A blob that is here whole was synced before it got its name.
        if fs::read(self.path(hash)).is_ok_and(|stored| stored == bytes) && self.claim(hash) {
            return Ok(());
        }
        let mut temp = self.temp()?;
        temp.write(self, bytes)?;
        self.keep(temp, hash)
    }

    /// Syncs what was written and gives it its name; durable once the directory is synced. A second writer of the same
    /// blob replaces equal bytes, or damaged ones.
    fn keep(&self, temp: Temp, hash: Hash) -> Result<(), BlobError> {
        CrashPoint::BlobUnsynced.pass();
        temp.file.sync_all().map_err(|error| self.failed("sync", &temp.path, error))?;
        CrashPoint::BlobUnnamed.pass();
        let path = self.path(hash);
        let _naming = self.naming();
        fs::rename(&temp.path, &path).map_err(|error| self.failed("name", &path, error))
    }

    fn temp(&self) -> Result<Temp, BlobError> {
        let number = self.0.temp_number.fetch_add(1, Ordering::Relaxed);
        let path = self.0.root.join("tmp").join(number.to_string());
        let file = File::create_new(&path).map_err(|error| self.failed("create", &path, error))?;
        Ok(Temp { file, path })
    }

    fn open_with_len(&self, hash: Hash) -> Result<(File, u64), BlobError> {
        let path = self.path(hash);
        let file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => BlobError::Missing { hash },
            _ => self.failed("open", &path, error),
        })?;
        let len = file.metadata().map_err(|error| self.failed("measure", &path, error))?.len();
        Ok((file, len))
    }

    /// Moves a file that was found damaged aside, unless a good copy took its place meanwhile.
    fn damaged(&self, hash: Hash, found: &File) -> BlobError {
        let path = self.path(hash);
        let aside = self.0.root.join("damaged").join(hash.to_hex());
        let _naming = self.naming();
        if is_at(found, &path).unwrap_or(false) {
            CrashPoint::DamagedFound.pass();
            match fs::rename(&path, &aside) {
                Ok(()) => tracing::error!(%hash, "a blob was damaged on the disk and moved to {}", aside.display()),
                Err(error) => return self.failed("move aside the damaged", &path, error),
            }
            CrashPoint::DamagedAside.pass();
        }
        BlobError::Damaged { hash }
    }

    pub(crate) fn naming(&self) -> MutexGuard<'_, ()> {
        // It guards no data, so a thread that panicked while holding it left nothing half done.
        self.0.naming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A blob that is arriving. Dropped unfinished, it leaves nothing behind.
#[derive(Debug)]
pub struct Receiver {
    blobs: Blobs,
    temp: Temp,
    hasher: blake3::Hasher,
    expected: Hash,
    len: u64,
    len_max: u64,
}

impl Receiver {
    /// Takes the next piece.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), BlobError> {
        self.len = self.len.saturating_add(piece.len() as u64);
        if self.len > self.len_max {
            return Err(BlobError::TooLong { hash: self.expected, max: self.len_max });
        }
        self.hasher.update(piece);
        self.temp.write(&self.blobs, piece)
    }

    /// Stores the blob, if what came is what was expected.
    pub fn finish(self) -> Result<(), BlobError> {
        let found = name(&self.hasher);
        if found != self.expected {
            return Err(BlobError::WrongHash { expected: self.expected, found });
        }
        self.blobs.keep(self.temp, self.expected)?;
        self.blobs.sync_prefix(self.expected)
    }
}

/// A blob that is being handed out. Its last piece comes only when all bytes are those that were stored: who has them all
/// has the blob, and a damaged one is never handed out whole.
#[derive(Debug)]
pub struct Sender {
    blobs: Blobs,
    file: File,
    hasher: blake3::Hasher,
    hash: Hash,
    len: u64,
    left: u64,
}

impl Sender {
    /// All bytes that are to come, and have come.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `piece` as far as there are bytes and says how many there are; none at the end.
    pub fn read(&mut self, piece: &mut [u8]) -> Result<usize, BlobError> {
        let wanted = piece.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let piece = &mut piece[..wanted];
        match self.file.read_exact(piece) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(self.blobs.damaged(self.hash, &self.file));
            }
            Err(error) => return Err(self.blobs.failed("read", &self.blobs.path(self.hash), error)),
            Ok(()) => {}
        }
        self.hasher.update(piece);
        self.left -= wanted as u64;
        if self.left == 0 && name(&self.hasher) != self.hash {
            return Err(self.blobs.damaged(self.hash, &self.file));
        }
        Ok(wanted)
    }
}

/// A file without its name yet; removed when it never gets one.
#[derive(Debug)]
struct Temp {
    file: File,
    path: PathBuf,
}

impl Temp {
    fn write(&mut self, blobs: &Blobs, piece: &[u8]) -> Result<(), BlobError> {
        self.file.write_all(piece).map_err(|error| blobs.failed("write", &self.path, error))
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        // It is gone already when it got its name; and what cannot be removed now is cleared by the next `open`.
        let _ = fs::remove_file(&self.path);
    }
}

/// Shows a file piece by piece and says its length in bytes.
fn each_piece(
    source: &mut File,
    failed: impl Fn(io::Error) -> BlobError,
    mut show: impl FnMut(&[u8]) -> Result<(), BlobError>,
) -> Result<u64, BlobError> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut len = 0;
    loop {
        match source.read(&mut piece) {
            Ok(0) => return Ok(len),
            Ok(read) => {
                show(&piece[..read])?;
                len += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

fn name(hasher: &blake3::Hasher) -> Hash {
    Hash::from_bytes(*hasher.finalize().as_bytes())
}

/// Whether this open file is the one that has the path now.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let (open, named) = (file.metadata()?, fs::metadata(path)?);
    Ok((open.dev(), open.ino()) == (named.dev(), named.ino()))
}

fn sync_dir(dir: &Path) -> Result<(), BlobError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| io_error("sync", dir, error))
}

fn io_error(step: &'static str, path: &Path, source: io::Error) -> BlobError {
    BlobError::Io { step, path: path.into(), source }
}

/// Whether the disk is full or broken, so that the next write or read will fare no better. Not: too many open files.
fn is_failure(error: &io::Error) -> bool {
    /// Input or output error; "structure needs cleaning". The standard library has no names for them.
    const BROKEN: [i32; 2] = [5, 117];
    let kinds = [
        io::ErrorKind::StorageFull,
        io::ErrorKind::QuotaExceeded,
        io::ErrorKind::ReadOnlyFilesystem,
        io::ErrorKind::FileTooLarge,
    ];
    kinds.contains(&error.kind()) || error.raw_os_error().is_some_and(|code| BROKEN.contains(&code))
}
