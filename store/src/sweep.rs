//! Sweeping: which blobs are here, and removing those that nobody needs.
//!
//! Always true: a blob that was written or claimed after the moment that a sweep goes by is not removed by it, whatever
//! the order in which claims and sweeps come: both are made while no name is given or taken away.
//!
//! Elsewhere: which blobs are needed is decided by their users.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::SystemTime;

use swarm_protocol::Hash;

use crate::blobs::{BlobError, Blobs};

/// A blob that is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredBlob {
    /// Its name.
    pub hash: Hash,
    /// Its length in bytes.
    pub len: u64,
    /// When it was written or last claimed.
    pub claimed: SystemTime,
}

impl Blobs {
    /// Whether the blob is here, and from now on counts as written just now: for whoever is about to rely on it.
    pub fn claim(&self, hash: Hash) -> bool {
        let path = self.path(hash);
        let _naming = self.naming();
        let claimed = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = &claimed {
            self.note("claim", &path, error);
        }
        claimed.is_ok()
    }

    /// Every blob that is here, in the order of their names. What comes or goes meanwhile may be among them or not.
    pub fn stored(&self) -> Result<Vec<StoredBlob>, BlobError> {
        let mut stored = Vec::new();
        for byte in 0..=u8::MAX {
            let dir = self.root().join(format!("{byte:02x}"));
            let failed = |source| BlobError::Io { step: "list", path: dir.clone(), source };
            for entry in fs::read_dir(&dir).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name();
                let Some(hash) = name.to_str().and_then(|name| Hash::from_hex(name).ok()) else { continue };
                stored.extend(entry.metadata().ok().and_then(|about| describe(hash, &about).ok()));
            }
        }
        stored.sort_unstable_by_key(|blob| blob.hash);
        Ok(stored)
    }

    /// Removes a blob that was neither written nor claimed since `before`, and says how many bytes that freed; `None`
    /// when it stays, or is not here.
    pub fn remove_unclaimed(&self, hash: Hash, before: SystemTime) -> Result<Option<u64>, BlobError> {
        let path = self.path(hash);
        let _naming = self.naming();
        let Some(about) = look(&path)? else { return Ok(None) };
        let blob =
            describe(hash, &about).map_err(|source| BlobError::Io { step: "look at", path: path.clone(), source })?;
        if blob.claimed >= before {
            return Ok(None);
        }
        remove(&path)?;
        let mut freed = blob.len;
        // What is kept beside a blob has its name and an ending.
        for beside in beside(&path)? {
            freed += fs::metadata(&beside).map_or(0, |about| about.len());
            remove(&beside)?;
        }
        self.freed(freed);
        Ok(Some(blob.len))
    }
}

fn describe(hash: Hash, about: &fs::Metadata) -> io::Result<StoredBlob> {
    Ok(StoredBlob { hash, len: about.len(), claimed: about.modified()? })
}

fn look(path: &Path) -> Result<Option<fs::Metadata>, BlobError> {
    match fs::metadata(path) {
        Ok(about) => Ok(Some(about)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(BlobError::Io { step: "look at", path: path.into(), source }),
    }
}

/// The endings of files that belong to a blob.
const BESIDE: [&str; 1] = ["tree"];

fn beside(path: &Path) -> Result<Vec<std::path::PathBuf>, BlobError> {
    let there = |path: &std::path::PathBuf| look(path).map(|about| about.is_some());
    let mut found = Vec::new();
    for path in BESIDE.map(|ending| path.with_extension(ending)) {
        if there(&path)? {
            found.push(path);
        }
    }
    Ok(found)
}

fn remove(path: &Path) -> Result<(), BlobError> {
    fs::remove_file(path).map_err(|source| BlobError::Io { step: "remove", path: path.into(), source })
}
