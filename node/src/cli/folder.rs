//! A folder of the user's, into which files are put that come from elsewhere.
//!
//! Always true:
//! - nothing outside the folder is made, written or replaced: each step below it is one plain name, taken from the open
//!   folder above it without following links, so it does not matter what else happens to the folder meanwhile;
//! - a file has its name only when it is whole; until then it is `.swarm-….part`, which the next try goes on with;
//! - nothing is replaced unless that was asked for.
//!
//! Elsewhere: whether the bytes are the right ones is for the caller to check.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use swarm_protocol::Hash;

/// Results are as any other file of the user's; the process's mask is taken off these.
const FILE_MODE: u32 = 0o666;
const FOLDER_MODE: u32 = 0o777;
/// A name is opened as what it is, never as what it leads to.
const PLAIN: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);
/// Bytes read at once.
const PIECE_BYTES: usize = 128 << 10;

/// Why a file was not put in its place.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    /// A name that leads elsewhere.
    #[error("`{0}` is not a path below the directory")]
    Outside(String),
    /// A link or a file where a folder must be.
    #[error("`{0}` is in the way: it is not a directory")]
    NoFolder(PathBuf),
    /// Something else has the name.
    #[error("`{0}` is there already, and is something else")]
    Taken(PathBuf),
    /// Another process is putting the same file there.
    #[error("`{0}` is being written by another process")]
    Busy(PathBuf),
    /// The disk.
    #[error("cannot {step} `{path}`")]
    Io {
        /// What was being done.
        step: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

fn failed(step: &'static str, path: &Path) -> impl Fn(Errno) -> FolderError {
    move |error| FolderError::Io { step, path: path.into(), source: error.into() }
}

/// The folder, open.
#[derive(Debug)]
pub(super) struct Folder {
    handle: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Makes the folder where it is missing, and opens it. The user names it, so links on the way to it are followed.
    pub(super) fn open(path: &Path) -> Result<Self, FolderError> {
        let unmade = |source| FolderError::Io { step: "make the directory", path: path.into(), source };
        fs::create_dir_all(path).map_err(unmade)?;
        let opened = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        Ok(Self { handle: opened.map_err(failed("open the directory", path))?, path: path.into() })
    }

    /// As the user calls it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The place of a file below the folder. The folders on the way are made where they are missing.
    pub(super) fn place(&self, path: &str) -> Result<Place, FolderError> {
        let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
        if !path.split('/').all(plain) {
            return Err(FolderError::Outside(path.into()));
        }
        let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut shown = self.path.clone();
        let mut folder = self.handle.try_clone().map_err(|source| {
            let path = shown.clone();
            FolderError::Io { step: "open the directory", path, source }
        })?;
        for part in folders.split('/').filter(|part| !part.is_empty()) {
            shown.push(part);
            folder = enter(&folder, part, &shown)?;
        }
        Ok(Place { folder, name: name.into(), path: shown.join(name) })
    }
}

/// Opens a folder in a folder, and makes it when it is missing.
fn enter(folder: &OwnedFd, name: &str, shown: &Path) -> Result<OwnedFd, FolderError> {
    match rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(FOLDER_MODE)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(failed("make the directory", shown)(error)),
    }
    match rustix::fs::openat(folder, name, PLAIN | OFlags::DIRECTORY, Mode::empty()) {
        Ok(opened) => Ok(opened),
        Err(Errno::NOTDIR | Errno::LOOP) => Err(FolderError::NoFolder(shown.into())),
        Err(error) => Err(failed("open the directory", shown)(error)),
    }
}

/// Where one file goes.
#[derive(Debug)]
pub(super) struct Place {
    folder: OwnedFd,
    name: String,
    path: PathBuf,
}

/// What has the name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Present {
    Nothing,
    /// A file of this length.
    File(u64),
    /// A folder, a link or something stranger.
    Other,
}

impl Place {
    /// The whole path, for people.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What is there now.
    pub(super) fn present(&self) -> Result<Present, FolderError> {
        match rustix::fs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(Present::Nothing),
            Err(error) => Err(failed("look at", &self.path)(error)),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                Ok(Present::File(u64::try_from(stat.st_size).unwrap_or(0)))
            }
            Ok(_) => Ok(Present::Other),
        }
    }

    /// Whether just these bytes are there.
    pub(super) fn holds(&self, hash: Hash, len: u64) -> Result<bool, FolderError> {
        if self.present()? != Present::File(len) {
            return Ok(false);
        }
        let opened = rustix::fs::openat(&self.folder, &self.name, PLAIN | OFlags::NONBLOCK, Mode::empty());
        let mut file = File::from(opened.map_err(failed("open", &self.path))?);
        let mut hasher = blake3::Hasher::new();
        let read = hasher.update_reader(&mut file);
        read.map_err(|source| FolderError::Io { step: "read", path: self.path.clone(), source })?;
        Ok(hasher.finalize().as_bytes() == hash.as_bytes())
    }

    /// Begins to write the file, or goes on where an earlier try stopped.
    pub(super) fn begin(&self, hash: Hash, len: u64) -> Result<Part, FolderError> {
        let name = self.part_name(hash);
        let flags = PLAIN | OFlags::RDWR | OFlags::CREATE;
        let opened = rustix::fs::openat(&self.folder, &name, flags, Mode::from_raw_mode(FILE_MODE));
        let file = File::from(opened.map_err(failed("write", &self.path))?);
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // Some network file systems have no locks; then two processes would only do the same work.
            Ok(()) | Err(Errno::NOLCK | Errno::NOTSUP) => {}
            Err(Errno::WOULDBLOCK) => return Err(FolderError::Busy(self.path.clone())),
            Err(error) => return Err(failed("lock", &self.path)(error)),
        }
        Part::go_on(file, len).map_err(|source| FolderError::Io { step: "read", path: self.path.clone(), source })
    }

    /// Gives a part that is whole its name.
    pub(super) fn finish(&self, hash: Hash, part: &File, replace: bool) -> Result<(), FolderError> {
        part.sync_all().map_err(|source| FolderError::Io { step: "write", path: self.path.clone(), source })?;
        let from = self.part_name(hash);
        let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        match rustix::fs::renameat_with(&self.folder, &from, &self.folder, &self.name, flags) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(FolderError::Taken(self.path.clone())),
            // A file system that cannot refuse by itself.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if self.present()? == Present::Nothing || replace => {
                let renamed = rustix::fs::renameat(&self.folder, &from, &self.folder, &self.name);
                renamed.map_err(failed("name", &self.path))
            }
            Err(error) => Err(failed("name", &self.path)(error)),
        }
    }

    /// Throws away what an earlier try left.
    pub(super) fn forget(&self, hash: Hash) -> Result<(), FolderError> {
        match rustix::fs::unlinkat(&self.folder, self.part_name(hash), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed("remove what is left of", &self.path)(error)),
        }
    }

    /// Of this name and these bytes: two equal files of one folder are written side by side.
    fn part_name(&self, hash: Hash) -> String {
        let both = [hash.as_bytes(), self.name.as_bytes()].concat();
        format!(".swarm-{}.part", &Hash::of(&both).to_hex()[..16])
    }
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) file: File,
    /// Of the bytes that are there.
    pub(super) hasher: blake3::Hasher,
    /// How many are there.
    pub(super) len: u64,
}

impl Part {
    fn go_on(mut file: File, len_max: u64) -> io::Result<Self> {
        if file.metadata()?.len() > len_max {
            file.set_len(0)?;
        }
        let (mut hasher, mut len, mut piece) = (blake3::Hasher::new(), 0, vec![0; PIECE_BYTES]);
        file.seek(SeekFrom::Start(0))?;
        loop {
            let got = file.read(&mut piece)?;
            if got == 0 {
                return Ok(Self { file, hasher, len });
            }
            hasher.update(&piece[..got]);
            len += got as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;

    fn put(folder: &Folder, path: &str, bytes: &[u8], replace: bool) -> Result<(), FolderError> {
        let (place, hash) = (folder.place(path)?, Hash::of(bytes));
        let mut part = place.begin(hash, bytes.len() as u64)?;
        part.file.write_all(&bytes[part.len as usize..]).unwrap();
        place.finish(hash, &part.file, replace)
    }

    #[test]
    fn no_name_leads_outside() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(&root.path().join("dest")).unwrap();
        for name in ["../x", "a/../../x", "/etc/passwd", "", "a/..", ".", "a//b", "a\0b"] {
            assert!(matches!(put(&folder, name, b"x", true), Err(FolderError::Outside(_))), "{name:?}");
        }
        put(&folder, "tile/3/a/b.ppm", b"x", false).unwrap();
        assert_eq!(fs::read(root.path().join("dest/tile/3/a/b.ppm")).unwrap(), b"x");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn links_are_neither_followed_nor_written_through() {
        let (root, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(elsewhere.path().join("file"), "precious").unwrap();
        symlink(elsewhere.path(), root.path().join("tile")).unwrap();
        symlink(elsewhere.path().join("file"), root.path().join("file")).unwrap();
        symlink(elsewhere.path().join("new"), root.path().join("new")).unwrap();
        let folder = Folder::open(root.path()).unwrap();
        assert!(matches!(put(&folder, "tile/x", b"x", true), Err(FolderError::NoFolder(_))));
        assert!(matches!(put(&folder, "file", b"x", false), Err(FolderError::Taken(_))));
        assert!(matches!(put(&folder, "new", b"x", false), Err(FolderError::Taken(_))));
        put(&folder, "file", b"x", true).unwrap();
        assert_eq!(fs::read(elsewhere.path().join("file")).unwrap(), b"precious");
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
        // The link itself was replaced.
        assert_eq!(folder.place("file").unwrap().present().unwrap(), Present::File(1));
    }

    #[test]
    fn a_folder_that_moves_away_takes_its_files_with_it() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(&root.path().join("dest")).unwrap();
        let place = folder.place("sub/file").unwrap();
        fs::rename(root.path().join("dest"), root.path().join("moved")).unwrap();
        symlink("/", root.path().join("dest")).unwrap();
        let mut part = place.begin(Hash::of(b"x"), 1).unwrap();
        part.file.write_all(b"x").unwrap();
        place.finish(Hash::of(b"x"), &part.file, false).unwrap();
        assert_eq!(fs::read(root.path().join("moved/sub/file")).unwrap(), b"x");
    }

    #[test]
    fn an_interrupted_file_goes_on_where_it_stopped() {
        let root = tempfile::tempdir().unwrap();
        let (bytes, folder) = (b"hello world", Folder::open(root.path()).unwrap());
        let (place, hash) = (folder.place("a").unwrap(), Hash::of(bytes));
        place.begin(hash, 11).unwrap().file.write_all(b"hello").unwrap();
        let part = place.begin(hash, 11).unwrap();
        assert_eq!((part.len, part.hasher.finalize()), (5, blake3::hash(b"hello")));
        assert!(matches!(place.begin(hash, 11), Err(FolderError::Busy(_))));
        drop(part);
        // Longer than the whole: nothing of it can be right.
        assert_eq!(place.begin(hash, 4).unwrap().len, 0);
        place.forget(hash).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_there_is_recognised_by_its_bytes() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        put(&folder, "a", b"x", false).unwrap();
        let place = folder.place("a").unwrap();
        assert!(place.holds(Hash::of(b"x"), 1).unwrap());
        assert!(!place.holds(Hash::of(b"y"), 1).unwrap() && !place.holds(Hash::of(b"xy"), 2).unwrap());
        assert!(matches!(put(&folder, "a", b"y", false), Err(FolderError::Taken(_))));
        put(&folder, "a", b"y", true).unwrap();
        assert!(place.holds(Hash::of(b"y"), 1).unwrap());
    }
}
