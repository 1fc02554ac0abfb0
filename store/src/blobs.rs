//! Blobs: bytes of any size, each in a file named by its BLAKE3.
//!
//! ```text
//! ab/HEX        a blob; `ab` are the first two digits of its name
//! ab/HEX.tree   the hashes by which its groups are checked one by one, if it has several; made anew when missing
//! part/         blobs that are arriving from other nodes; kept, so that they go on after a restart
//! tmp/N         being written; cleared when the store is opened
//! damaged/      blobs that no longer had their hash when they were read, kept for whoever looks for the cause
//! ```
//!
//! Always true:
//! - a file under `ab/` was complete and synced before it got its name, so a crash leaves whole blobs or none;
//! - when a call that stores returns, the blob survives a power cut;
//! - any number of threads may store and read at once, also the same blob;
//! - the first failure of the disk itself (unreadable, read-only) is told to whoever asked to hear of it; a full disk is
//!   none: what does not fit is refused, and taken when there is room again.
//!
//! Elsewhere: one process at a time has the directory, which the lock of [`Rocks`](crate::Rocks) sees to: open that first.
//! What arrives in pieces is `arriving`, what is handed out in pieces is `source`, the hashes of both are `tree`. Which
//! blobs are worth keeping is decided by their users.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use swarm_protocol::Hash;

use crate::CrashPoint;
use crate::arriving::{self, Arriving};
use crate::source::Source;
use crate::space::{self, NoRoom, Space};
use crate::tree::{self, Outboard, TreeHasher};

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
    /// What is arriving now, to be handed on before it is whole.
    arriving: Mutex<BTreeMap<Hash, Weak<arriving::Shared>>>,
    space: Space,
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
    /// The bytes that were given are no part of the blob. Nothing was stored.
    #[error("what was given is no part of {hash}")]
    WrongPart {
        /// The blob.
        hash: Hash,
    },
    /// More bytes than a blob may have. Nothing was stored.
    #[error("it is longer than the {max} bytes that a blob may have")]
    Endless {
        /// Bytes allowed.
        max: u64,
    },
    /// More bytes than the caller accepts. Nothing was stored or read.
    #[error("{hash} is longer than the {max} bytes allowed")]
    TooLong {
        /// The blob.
        hash: Hash,
        /// Bytes allowed.
        max: u64,
    },
    /// There is no room for it. Nothing was stored.
    #[error("there is no room for more blobs")]
    NoRoom {
        /// Which room.
        #[source]
        why: NoRoom,
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
        for name in prefixes.chain(["tmp".into(), "damaged".into(), arriving::DIR.into()]) {
            let dir = root.join(name);
            fs::create_dir_all(&dir).map_err(|error| io_error("create", &dir, error))?;
        }
        sync_dir(root)?;
        sync_dir(&root.join(".."))?; // the name of `root` itself, which may be new
        arriving::clear_old(&root.join(arriving::DIR));
        Ok(Self(Arc::new(Directory {
            root: root.into(),
            temp_number: AtomicU64::new(0),
            naming: Mutex::new(()),
            arriving: Mutex::default(),
            space: Space::new(),
            failed: AtomicBool::new(false),
            on_failure: OnceLock::new(),
        })))
    }

    /// Has `tell` called, with a sentence, when the disk fails for the first time: from then on nothing can be promised
    /// of it. Only the first call counts.
    pub fn on_failure(&self, tell: impl Fn(String) + Send + Sync + 'static) {
        let _first_stays = self.0.on_failure.set(Box::new(tell));
    }

    /// Lets the blobs have so many bytes in all, and counts those that are here.
    pub fn set_budget(&self, budget: u64) -> Result<(), BlobError> {
        let used = bytes_below(&self.0.root).map_err(|error| self.failed("measure", &self.0.root, error))?;
        self.0.space.set(budget, used);
        Ok(())
    }

    /// Leaves so many bytes of the disk free, for whatever else has to be written there.
    pub fn set_reserve(&self, bytes: u64) {
        self.0.space.set_reserve(bytes);
    }

    /// Whether the disk has room for so many bytes besides what is left free. For whoever writes beside the blobs.
    pub fn disk_has_room(&self, bytes: u64) -> bool {
        self.0.space.look_at_disk(&self.0.root, bytes).is_ok()
    }

    /// Bytes that the blobs have, if there is a budget.
    pub fn used(&self) -> u64 {
        self.0.space.used()
    }

    /// Tells that so many bytes were removed.
    pub fn freed(&self, bytes: u64) {
        self.0.space.give_back(bytes);
    }

    /// Whether no new blob is taken now, and why.
    pub fn no_room(&self) -> Option<NoRoom> {
        self.0.space.look(&self.0.root, PIECE_BYTES as u64).err()
    }

    /// Takes room for so many bytes, to be [given back](Self::freed) when they are not stored after all.
    pub(crate) fn take_room(&self, bytes: u64) -> Result<(), BlobError> {
        self.0.space.take(&self.0.root, bytes).map_err(|why| BlobError::NoRoom { why })
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
        let hash = self.place(bytes)?;
        self.sync_prefix(hash)?;
        Ok(hash)
    }

    /// Stores several and names them in their order; each directory is synced once for all of them. On an error any of
    /// them may be stored.
    pub fn put_all<'a>(&self, blobs: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Hash>, BlobError> {
        let hashes = blobs.into_iter().map(|bytes| self.place(bytes)).collect::<Result<Vec<_>, _>>()?;
        let directories: BTreeSet<_> = hashes.iter().map(|hash| self.prefix(*hash)).collect();
        directories.iter().try_for_each(|dir| self.sync_dir(dir))?;
        Ok(hashes)
    }

    /// Stores a copy of a file, and says its name and length in bytes. A file that changes meanwhile is stored as it was
    /// read, under the name of just that.
    pub fn put_file(&self, path: &Path) -> Result<(Hash, u64), BlobError> {
        let failed = |error| self.failed("read", path, error);
        let mut source = File::open(path).map_err(failed)?;
        let mut receiver = self.nameless_receiver(u64::MAX)?;
        each_piece(&mut source, failed, |piece| receiver.write(piece))?;
        receiver.finish()
    }

    /// Begins to store a blob that comes in pieces, in their order, and whose name is known, of at most `len_max` bytes.
    pub fn receiver(&self, expected: Hash, len_max: u64) -> Result<Receiver, BlobError> {
        Ok(Receiver { expected: Some(expected), ..self.nameless_receiver(len_max)? })
    }

    /// The same for one whose name comes out at the end.
    pub fn nameless_receiver(&self, len_max: u64) -> Result<Receiver, BlobError> {
        let (temp, hasher) = (self.temp()?, TreeHasher::new());
        Ok(Receiver { blobs: self.clone(), temp, hasher, expected: None, len: 0, len_max })
    }

    /// Begins, or goes on, to store a blob of `len` bytes whose groups come in any order. Reads what is here of it already.
    pub fn arriving(&self, hash: Hash, len: u64) -> Result<Arriving, BlobError> {
        let arriving = Arriving::open(self, hash, len)?;
        let mut known = self.known_arriving();
        known.retain(|_, arriving| arriving.strong_count() > 0);
        known.insert(hash, arriving.shared());
        Ok(arriving)
    }

    /// The length in bytes of a blob that began to arrive and is not whole.
    pub fn begun(&self, hash: Hash) -> Option<u64> {
        arriving::begun(self, hash)
    }

    /// A blob to be handed out group by group, be it whole or still arriving.
    pub fn source(&self, hash: Hash) -> Result<Source, BlobError> {
        match Source::whole(self, hash) {
            Err(BlobError::Missing { .. }) => {}
            other => return other,
        }
        let arriving = self.known_arriving().get(&hash).and_then(Weak::upgrade);
        arriving.map(|arriving| Source::arriving(self, arriving)).ok_or(BlobError::Missing { hash })
    }

    /// Whether the blob is here. Its bytes are verified when they are read.
    pub fn contains(&self, hash: Hash) -> bool {
        self.path(hash).is_file()
    }

    /// Every blob that is here.
    pub fn list(&self) -> Result<Vec<Hash>, BlobError> {
        let mut hashes = Vec::new();
        for prefix in (0..=u8::MAX).map(|byte| self.0.root.join(format!("{byte:02x}"))) {
            let failed = |error| self.failed("list", &prefix, error);
            for entry in fs::read_dir(&prefix).map_err(failed)? {
                let name = entry.map_err(failed)?.file_name();
                hashes.extend(name.to_str().and_then(|name| Hash::from_hex(name).ok()));
            }
        }
        Ok(hashes)
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
        let found = Hash::from_bytes(*hasher.finalize().as_bytes());
        if found == hash { Ok(len) } else { Err(self.damaged(hash, &file)) }
    }

    /// The tree of a blob as it was stored, or made anew; to be checked as it is used.
    pub(crate) fn tree(&self, hash: Hash, file: &File, len: u64) -> Result<Outboard, BlobError> {
        let mut tree = tree::unknown(hash, len);
        match fs::read(self.tree_path(hash)) {
            Ok(stored) if stored.len() == tree.data.len() => tree.data = stored,
            _ if tree.data.is_empty() => {}
            _ => tree = self.make_tree(hash, file, len)?,
        }
        Ok(tree)
    }

    /// Reads the whole blob for its tree.
    pub(crate) fn make_tree(&self, hash: Hash, file: &File, len: u64) -> Result<Outboard, BlobError> {
        let failed = |error| self.failed("read", &self.path(hash), error);
        let mut again = File::open(self.path(hash)).map_err(failed)?;
        let mut hasher = TreeHasher::new();
        each_piece(&mut again, failed, |piece| {
            hasher.update(piece);
            Ok(())
        })?;
        let (found, made) = hasher.finish();
        if found != hash {
            return Err(self.damaged(hash, file));
        }
        self.keep_tree(hash, &made)?;
        Ok(Outboard { data: made, ..tree::unknown(hash, len) })
    }

    /// Where the blob is or would be. Only to be read, and **not verified**, as [`file`](Self::file).
    pub fn path(&self, hash: Hash) -> PathBuf {
        self.prefix(hash).join(hash.to_hex())
    }

    pub(crate) fn tree_path(&self, hash: Hash) -> PathBuf {
        self.prefix(hash).join(format!("{}.tree", hash.to_hex()))
    }

    fn prefix(&self, hash: Hash) -> PathBuf {
        self.0.root.join(&hash.to_hex()[..2])
    }

    pub(crate) fn sync_prefix(&self, hash: Hash) -> Result<(), BlobError> {
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
    pub(crate) fn failed(&self, step: &'static str, path: &Path, source: io::Error) -> BlobError {
        if is_full(&source) {
            let free = space::left(&self.0.root).map_or(0, |(free, _)| free);
            return BlobError::NoRoom { why: NoRoom::Disk { free } };
        }
        self.note(step, path, &source);
        io_error(step, path, source)
    }

    /// Gives these bytes their name; durable once the directory is synced.
    fn place(&self, bytes: &[u8]) -> Result<Hash, BlobError> {
        let (hash, tree) = TreeHasher::of(bytes).finish();
        // A blob that is here whole was synced before it got its name.
        if fs::read(self.path(hash)).is_ok_and(|stored| stored == bytes) && self.claim(hash) {
            return Ok(hash);
        }
        let mut temp = self.temp()?;
        temp.write(bytes)?;
        self.keep_tree(hash, &tree)?;
        self.keep(&temp.file, &temp.path, hash)?;
        temp.kept();
        Ok(hash)
    }

    /// Stores a tree. It need not survive anything: it can be made from the blob.
    fn keep_tree(&self, hash: Hash, tree: &[u8]) -> Result<(), BlobError> {
        if tree.is_empty() {
            return Ok(());
        }
        let mut temp = self.temp()?;
        temp.write(tree)?;
        let path = self.tree_path(hash);
        fs::rename(&temp.path, &path).map_err(|error| self.failed("name", &path, error))?;
        temp.kept();
        Ok(())
    }

    /// Syncs what was written and gives it its name; durable once the directory is synced. A second writer of the same
    /// blob replaces equal bytes, or damaged ones.
    pub(crate) fn keep(&self, written: &File, at: &Path, hash: Hash) -> Result<(), BlobError> {
        CrashPoint::BlobUnsynced.pass();
        written.sync_all().map_err(|error| self.failed("sync", at, error))?;
        CrashPoint::BlobUnnamed.pass();
        let path = self.path(hash);
        let _naming = self.naming();
        let replaced = fs::metadata(&path).map_or(0, |replaced| replaced.len());
        fs::rename(at, &path).map_err(|error| self.failed("name", &path, error))?;
        self.freed(replaced);
        Ok(())
    }

    fn temp(&self) -> Result<Temp, BlobError> {
        let number = self.0.temp_number.fetch_add(1, Ordering::Relaxed);
        let path = self.0.root.join("tmp").join(number.to_string());
        let file = File::create_new(&path).map_err(|error| self.failed("create", &path, error))?;
        Ok(Temp { blobs: self.clone(), file, path, bytes: 0 })
    }

    pub(crate) fn open_with_len(&self, hash: Hash) -> Result<(File, u64), BlobError> {
        let path = self.path(hash);
        let file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => BlobError::Missing { hash },
            _ => self.failed("open", &path, error),
        })?;
        let len = file.metadata().map_err(|error| self.failed("measure", &path, error))?.len();
        Ok((file, len))
    }

    /// Moves a file that was found damaged aside, unless a good copy took its place meanwhile.
    pub(crate) fn damaged(&self, hash: Hash, found: &File) -> BlobError {
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

    fn known_arriving(&self) -> MutexGuard<'_, BTreeMap<Hash, Weak<arriving::Shared>>> {
        // Every step on it leaves it whole.
        self.0.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn naming(&self) -> MutexGuard<'_, ()> {
        // It guards no data, so a thread that panicked while holding it left nothing half done.
        self.0.naming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A blob that comes in pieces, in their order. Dropped unfinished, it leaves nothing behind.
#[derive(Debug)]
pub struct Receiver {
    blobs: Blobs,
    temp: Temp,
    hasher: TreeHasher,
    expected: Option<Hash>,
    len: u64,
    len_max: u64,
}

impl Receiver {
    /// Takes the next piece.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), BlobError> {
        self.len = self.len.saturating_add(piece.len() as u64);
        if self.len > self.len_max {
            let max = self.len_max;
            return Err(self.expected.map_or(BlobError::Endless { max }, |hash| BlobError::TooLong { hash, max }));
        }
        self.hasher.update(piece);
        self.temp.write(piece)
    }

    /// Stores the blob, if what came is what was expected, and says its name and length in bytes.
    pub fn finish(self) -> Result<(Hash, u64), BlobError> {
        let Self { blobs, temp, hasher, expected, len, .. } = self;
        let (found, tree) = hasher.finish();
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(BlobError::WrongHash { expected, found });
        }
        blobs.keep_tree(found, &tree)?;
        blobs.keep(&temp.file, &temp.path, found)?;
        temp.kept();
        blobs.sync_prefix(found)?;
        Ok((found, len))
    }
}

/// A file without its name yet; removed when it never gets one.
#[derive(Debug)]
struct Temp {
    blobs: Blobs,
    file: File,
    path: PathBuf,
    /// For which room was taken.
    bytes: u64,
}

impl Temp {
    fn write(&mut self, piece: &[u8]) -> Result<(), BlobError> {
        self.blobs.take_room(piece.len() as u64)?;
        self.bytes += piece.len() as u64;
        self.file.write_all(piece).map_err(|error| self.blobs.failed("write", &self.path, error))
    }

    /// It has its name now.
    fn kept(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        // It is gone already when it got its name; and what cannot be removed now is cleared by the next `open`.
        let _ = fs::remove_file(&self.path);
        self.blobs.freed(self.bytes);
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

/// Whether the disk is full: what does not fit now may fit later.
pub fn is_full(error: &io::Error) -> bool {
    [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded].contains(&error.kind())
}

/// Bytes of all files below a directory.
fn bytes_below(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(found) if found.is_dir() => bytes += bytes_below(&entry.path())?,
            Ok(found) => bytes += found.len(),
            // Removed meanwhile.
            Err(_) => {}
        }
    }
    Ok(bytes)
}

/// Whether the disk is broken, so that the next write or read will fare no better. Not: full, or too many open files.
fn is_failure(error: &io::Error) -> bool {
    /// Input or output error; "structure needs cleaning". The standard library has no names for them.
    const BROKEN: [i32; 2] = [5, 117];
    let kinds = [io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::FileTooLarge];
    kinds.contains(&error.kind()) || error.raw_os_error().is_some_and(|code| BROKEN.contains(&code))
}
