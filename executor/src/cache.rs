//! Compiled code kept on this machine's disk, so that a restart does not compile again.
//!
//! Always true:
//! - a file is either complete and in its own place or recognised as damaged: it begins with the BLAKE3 of what follows,
//!   keyed by its name, and is written beside its place and renamed;
//! - what is read here was written here: the directory is this user's alone, and nothing from the network enters it.
//!
//! A cache that cannot be read or written only costs time, so every error here is logged and passed over.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::time::SystemTime;

use swarm_protocol::Hash;

use crate::room::Room;

/// First bytes of a file: what it is, and the version of its layout.
const MAGIC: &[u8; 8] = b"swarmcw2";
/// Magic and BLAKE3.
const HEADER_BYTES: usize = MAGIC.len() + 32;
/// The usual size of a cache. Compiled code is about three times its module; this keeps hundreds of ordinary ones.
pub const CACHE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// The directory.
pub(crate) struct Cache {
    dir: PathBuf,
    bytes_max: u64,
    room: Room,
}

impl Cache {
    /// Opens the directory, creating it for this user alone. What is in it beyond its size, which may have been larger
    /// before, is removed.
    pub(crate) fn open(dir: PathBuf, bytes_max: u64, room: Room) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let cache = Self { dir, bytes_max, room };
        cache.make_room(0)?;
        Ok(cache)
    }

    /// The compiled code of a module, if it is here, whole, and made by this very program and configuration.
    pub(crate) fn load(&self, engine: &wasmtime::Engine, module: Hash) -> Option<wasmtime::Module> {
        let key = key(engine, module);
        let path = self.path(&key);
        let file = fs::read(&path).ok()?;
        let Some(code) = intact(&key, &file) else {
            tracing::warn!(path = %path.display(), "cached code is damaged; compiling again");
            return None;
        };
        // What is used stays longest. Where the time cannot be set, what is oldest goes first.
        let _oldest = fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        deserialize(engine, code)
            .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "cached code is unusable"))
            .ok()
    }

    /// Keeps compiled code, making room by removing what was not used for longest.
    pub(crate) fn save(&self, engine: &wasmtime::Engine, module: Hash, compiled: &wasmtime::Module) {
        let saved = compiled.serialize().map_err(io::Error::other).and_then(|code| {
            if code.len() as u64 > self.bytes_max {
                tracing::warn!(bytes = code.len(), max = self.bytes_max, "compiled code is larger than its cache");
                return Ok(());
            }
            self.make_room(code.len() as u64)?;
            if !self.room.has(code.len() as u64) {
                tracing::warn!(bytes = code.len(), "the disk has no room for compiled code");
                return Ok(());
            }
            self.write(&key(engine, module), &code)
        });
        if let Err(error) = saved {
            tracing::warn!(dir = %self.dir.display(), %error, "compiled code was not cached");
        }
    }

    fn write(&self, key: &Key, code: &[u8]) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        file.write_all(MAGIC)?;
        file.write_all(blake3::keyed_hash(key, code).as_bytes())?;
        file.write_all(code)?;
        file.persist(self.path(key)).map_err(|error| error.error)?;
        Ok(())
    }

    fn make_room(&self, wanted: u64) -> io::Result<()> {
        let mut files = self.files()?;
        files.sort();
        let mut used: u64 = files.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in files {
            if used.saturating_add(wanted) <= self.bytes_max {
                break;
            }
            fs::remove_file(path)?;
            used -= len;
        }
        Ok(())
    }

    fn files(&self) -> io::Result<Vec<(SystemTime, u64, PathBuf)>> {
        let entries = fs::read_dir(&self.dir)?.flatten();
        let described = entries.filter_map(|entry| {
            let about = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some((about.modified().ok()?, about.len(), entry.path()))
        });
        Ok(described.collect())
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.dir.join(format!("{}.cwasm", blake3::Hash::from_bytes(*key).to_hex()))
    }
}

/// What compiled code depends on: the module, the engine's settings and processor features, and this program's version.
type Key = [u8; 32];

fn key(engine: &wasmtime::Engine, module: Hash) -> Key {
    let mut settings = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut settings);
    let mut key = blake3::Hasher::new();
    key.update(module.as_bytes());
    key.update(&settings.finish().to_le_bytes());
    key.update(env!("CARGO_PKG_VERSION").as_bytes());
    *key.finalize().as_bytes()
}

/// The code in a file, if it is what was written under this key: the code of another module has another hash.
fn intact<'a>(key: &Key, file: &'a [u8]) -> Option<&'a [u8]> {
    let (header, code) = file.split_at_checked(HEADER_BYTES)?;
    let (magic, hash) = header.split_at(MAGIC.len());
    (magic == MAGIC && hash == blake3::keyed_hash(key, code).as_bytes()).then_some(code)
}

#[expect(unsafe_code, reason = "wasmtime trusts serialized code; this was written by `save`, never by a peer")]
fn deserialize(engine: &wasmtime::Engine, code: &[u8]) -> wasmtime::Result<wasmtime::Module> {
    // SAFETY: `code` is what `Module::serialize` returned on this machine: its hash was checked, and it lies in a
    // directory that only this user can write.
    unsafe { wasmtime::Module::deserialize(engine, code) }
}
