//! Inputs: what guests see under `/in`.
//!
//! Always true:
//! - every path comes from a job that somebody else wrote, and none leads out of the directory it is meant for;
//! - a file is a hard link to its blob: nothing is copied, and the sandbox lets nobody write to it;
//! - a directory is removed when the last task that sees it is over.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use swarm_protocol::{Hash, Item};
use swarm_store::{BlobError, Blobs};
use tempfile::TempDir;

/// The longest path of an input or output, in bytes: below what systems allow (4096), with room for where it is put.
const PATH_BYTES_MAX: usize = 2048;

/// Why a task's files cannot be put in place.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    /// A path that is empty, absolute, or has `.`, `..` or NUL in it.
    #[error("{0:?} is not a plain path below a directory")]
    Path(String),
    /// Two inputs, or two tasks of an earlier stage, with one name.
    #[error("two inputs are named {0:?}")]
    Twice(PathBuf),
    /// The blob of an item.
    #[error("the file of its item cannot be read")]
    Blob(#[from] BlobError),
    /// The disk.
    #[error("put {path:?} in place")]
    Place { path: PathBuf, source: io::Error },
}

/// One file under `/in`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Where, relative to `/in`.
    pub(super) path: PathBuf,
    /// The blob.
    pub(super) hash: Hash,
}

/// The inputs of a stage.
pub(super) enum Inputs {
    /// None are declared, so there is no `/in`.
    None,
    /// The same for every task.
    Shared(TempDir),
    /// Some are the task's own (its item, or what elements of an earlier stage left for it): a directory for each task.
    Own {
        /// The same for every task.
        links: Vec<Link>,
        /// Where the item goes.
        items: Vec<PathBuf>,
    },
}

/// The directory of one task.
pub(super) enum InDir<'a> {
    None,
    Shared(&'a Path),
    Own(TempDir),
}

impl InDir<'_> {
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::None => None,
            Self::Shared(path) => Some(path),
            Self::Own(dir) => Some(dir.path()),
        }
    }
}

impl Inputs {
    /// Puts the shared files in place, whose blobs are here and verified.
    pub(super) fn new(
        declared: usize,
        links: Vec<Link>,
        items: Vec<PathBuf>,
        has_own: bool,
        blobs: &Blobs,
        scratch: &Path,
    ) -> Result<Self, InputError> {
        match (declared, items.is_empty() && !has_own) {
            (0, _) => Ok(Self::None),
            (_, true) => Ok(Self::Shared(directory(&links, blobs, scratch)?)),
            (_, false) => Ok(Self::Own { links, items }),
        }
    }

    /// The directory of one task, whose item is `text` or has a file, with links of its own.
    pub(super) fn of_task(
        &self,
        item: Option<&Item>,
        text: &str,
        own: &[Link],
        blobs: &Blobs,
        scratch: &Path,
    ) -> Result<InDir<'_>, InputError> {
        match self {
            Self::None => Ok(InDir::None),
            Self::Shared(dir) => Ok(InDir::Shared(dir.path())),
            Self::Own { links, items } => {
                let dir = directory(links, blobs, scratch)?;
                for Link { path, hash } in own {
                    link(dir.path(), path, &blobs.path(*hash))?;
                }
                for path in items {
                    place_item(dir.path(), path, item, text, blobs)?;
                }
                Ok(InDir::Own(dir))
            }
        }
    }
}

fn directory(links: &[Link], blobs: &Blobs, scratch: &Path) -> Result<TempDir, InputError> {
    let dir = temp_dir("in-", scratch)?;
    for Link { path, hash } in links {
        link(dir.path(), path, &blobs.path(*hash))?;
    }
    Ok(dir)
}

fn place_item(dir: &Path, path: &Path, item: Option<&Item>, text: &str, blobs: &Blobs) -> Result<(), InputError> {
    match item.and_then(|item| item.file) {
        Some((hash, _)) => {
            blobs.verify(hash)?;
            link(dir, path, &blobs.path(hash))
        }
        None => {
            let failed = |source| InputError::Place { path: path.to_owned(), source };
            let place = make_room(dir, path)?;
            let mut file = fs::File::create_new(place).map_err(failed)?;
            io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)
        }
    }
}

fn link(dir: &Path, path: &Path, blob: &Path) -> Result<(), InputError> {
    let place = make_room(dir, path)?;
    match fs::hard_link(blob, &place) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(InputError::Twice(path.to_owned())),
        // Another file system, or more links than this one allows.
        Err(_) => match fs::copy(blob, &place) {
            Ok(_) => Ok(()),
            Err(source) => Err(InputError::Place { path: path.to_owned(), source }),
        },
    }
}

/// Makes the directories above a file.
fn make_room(dir: &Path, path: &Path) -> Result<PathBuf, InputError> {
    let place = dir.join(path);
    let parent = place.parent().expect("a plain path has a parent below `dir`");
    fs::create_dir_all(parent).map_err(|source| InputError::Place { path: path.to_owned(), source })?;
    Ok(place)
}

/// An empty directory for one task or stage.
pub(super) fn temp_dir(prefix: &str, scratch: &Path) -> Result<TempDir, InputError> {
    let made = tempfile::Builder::new().prefix(prefix).tempdir_in(scratch);
    made.map_err(|source| InputError::Place { path: scratch.to_owned(), source })
}

/// Makes a directory empty, whether or not it was there.
pub(super) fn empty(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(dir)
}

/// A path that a stranger wrote, if it stays below the directory it is relative to.
pub(super) fn plain_path(path: &str) -> Result<PathBuf, InputError> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    let short = path.len() <= PATH_BYTES_MAX;
    let parsed = PathBuf::from(path);
    let normal = || parsed.components().all(|part| matches!(part, Component::Normal(_)));
    if short && path.split('/').all(plain) && normal() { Ok(parsed) } else { Err(InputError::Path(cut(path))) }
}

/// Enough of a text to recognise it by.
fn cut(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_out_are_refused() {
        for path in ["", "/", "/etc/passwd", "..", "a/../b", "a//b", "./a", "a/", "a\0b", &"x".repeat(5000)] {
            assert!(plain_path(path).is_err(), "{path:?}");
        }
        for path in ["a", "a/b.c", "..a", "a b/ü"] {
            assert_eq!(plain_path(path).unwrap(), Path::new(path));
        }
    }
}
