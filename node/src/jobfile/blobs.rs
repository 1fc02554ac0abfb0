//! The bytes that a job names: found on disk, hashed, and listed once each.
//!
//! Always true: a blob is named by the BLAKE3 of what was read; a path is read once however often the file names it;
//! a module is valid before it is listed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};
use serde::Serialize;
use swarm_protocol::{Hash, TreeFile, codec};

use super::error::{Fault, FaultCode};
use super::template::STRING_BYTES_MAX;
use super::tree::Value;
use super::{LoadOptions, Resolve, Validate};
use crate::modules::Reference;

/// Bytes of a module: the largest real programs have some 70 MiB, and compiling costs time in proportion.
pub const MODULE_BYTES_MAX: u64 = swarm_executor::MODULE_BYTES_MAX;
/// Bytes of an encoded list (items, files of a folder, blobs) and of a file of lines: each node that runs a part of
/// the job holds the lists in memory.
pub const LIST_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Files that one glob may match: all are opened and hashed while the user waits.
pub const GLOB_FILES_MAX: usize = 65_536;

/// As a shell matches: `*` stays within a folder and skips hidden files.
const LIKE_A_SHELL: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
/// The same while walking, hidden files included: the library panics when it looks for them among names that are not
/// UTF-8. They are left out afterwards, and names that are not UTF-8 are matched by nothing.
const WALKING: MatchOptions = MatchOptions { require_literal_leading_dot: false, ..LIKE_A_SHELL };

/// A blob that a job needs, and where its bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobSource {
    /// Made while reading the job file.
    Bytes {
        /// Its name.
        hash: Hash,
        /// All of it.
        bytes: Vec<u8>,
    },
    /// A file of the user's.
    File {
        /// BLAKE3 of the content when it was read.
        hash: Hash,
        /// Bytes read.
        len: u64,
        /// Where it was.
        path: PathBuf,
    },
}

impl BlobSource {
    /// The blob's name.
    pub const fn hash(&self) -> Hash {
        match self {
            Self::Bytes { hash, .. } | Self::File { hash, .. } => *hash,
        }
    }
}

/// The blobs found so far.
pub(super) struct Blobs<'a> {
    /// Absolute, so that a glob's matches begin with it, and paths outlive a change of the working directory.
    base: PathBuf,
    validate: &'a Validate<'a>,
    resolve: &'a Resolve<'a>,
    named: BTreeSet<Hash>,
    sources: BTreeMap<Hash, BlobSource>,
    read: HashMap<PathBuf, (Hash, u64)>,
    modules: HashMap<PathBuf, Hash>,
}

/// A file that a glob matched.
pub(super) struct Found {
    /// As the author of the job file would write it.
    pub(super) shown: String,
    pub(super) file: TreeFile,
}

/// A path in a job file: the value that holds it, and the task it is for.
#[derive(Clone, Copy)]
pub(super) struct Named<'a> {
    pub(super) value: &'a Value,
    pub(super) task: &'a str,
}

impl<'a> Named<'a> {
    fn path(&self) -> Result<&'a str, Fault> {
        let path = self.value.plain()?;
        if path.is_empty() { Err(self.value.fault(format!("`{}` is empty", self.value.label))) } else { Ok(path) }
    }

    /// `` `x.txt` (task a) {problem} ``
    fn fault(&self, problem: impl AsRef<str>) -> Fault {
        let path = self.value.as_text().unwrap_or_default();
        self.value.fault(format!("`{path}` (task {}) {}", self.task, problem.as_ref())).coded(FaultCode::File)
    }

    fn io_fault(&self, error: &io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::NotFound => self.fault("does not exist"),
            kind => self.fault(format!("cannot be read: {kind}")),
        }
    }
}

impl<'a> Blobs<'a> {
    pub(super) fn new(base: &Path, options: &'a LoadOptions<'a>) -> Self {
        Self {
            base: std::path::absolute(base).unwrap_or_else(|_| base.to_owned()),
            validate: options.validate,
            resolve: options.resolve,
            named: BTreeSet::new(),
            sources: BTreeMap::new(),
            read: HashMap::new(),
            modules: HashMap::new(),
        }
    }

    /// Some bytes of our own.
    pub(super) fn bytes(&mut self, bytes: Vec<u8>) -> Hash {
        let hash = Hash::of(&bytes);
        self.named.insert(hash);
        self.sources.entry(hash).or_insert(BlobSource::Bytes { hash, bytes });
        hash
    }

    /// A list as a blob.
    pub(super) fn list<T: Serialize>(&mut self, at: Named<'_>, list: &[T]) -> Result<Hash, Fault> {
        let bytes = codec::encode(&list);
        if bytes.len() > LIST_BYTES_MAX {
            return Err(at.fault(format!("names too much: the list is over {LIST_BYTES_MAX} bytes")));
        }
        Ok(self.bytes(bytes))
    }

    /// A file: its hash and length.
    pub(super) fn file(&mut self, at: Named<'_>) -> Result<(Hash, u64), Fault> {
        let path = self.base.join(at.path()?);
        open(&path, at)?;
        self.add(path, at)
    }

    /// The lines of a file, without their ends.
    pub(super) fn lines(&mut self, at: Named<'_>) -> Result<Vec<String>, Fault> {
        let bytes = read_bounded(&self.base.join(at.path()?), LIST_BYTES_MAX as u64, at)?;
        let text =
            String::from_utf8(bytes).map_err(|_| at.fault("is not a text file: it holds bytes that are not UTF-8"))?;
        let line = |(number, line): (usize, &str)| match line {
            line if line.len() > STRING_BYTES_MAX => {
                Err(at.fault(format!("has a line {} of over {STRING_BYTES_MAX} bytes", number + 1)))
            }
            line if line.contains('\0') => Err(at.fault(format!("has a NUL character in line {}", number + 1))),
            line => Ok(line.to_owned()),
        };
        text.lines().enumerate().map(line).collect()
    }

    /// The values of a JSON array: strings as they are, other values as JSON.
    pub(super) fn json(&mut self, at: Named<'_>) -> Result<Vec<String>, Fault> {
        let bytes = read_bounded(&self.base.join(at.path()?), LIST_BYTES_MAX as u64, at)?;
        let wrong = |error: serde_json::Error| at.fault(format!("is no JSON array: {error}"));
        let values: Vec<serde_json::Value> = serde_json::from_slice(&bytes).map_err(wrong)?;
        let item = |(number, value): (usize, serde_json::Value)| {
            let text = match value {
                serde_json::Value::String(text) => text,
                value => value.to_string(),
            };
            match text {
                text if text.len() > STRING_BYTES_MAX => {
                    Err(at.fault(format!("has a value {} of over {STRING_BYTES_MAX} bytes", number + 1)))
                }
                text if text.contains('\0') => Err(at.fault(format!("has a NUL character in value {}", number + 1))),
                text => Ok(text),
            }
        };
        values.into_iter().enumerate().map(item).collect()
    }

    /// `blake3:HEX` of bytes that the swarm has.
    pub(super) fn named(&mut self, at: Named<'_>) -> Result<Hash, Fault> {
        let text = at.path()?;
        let wrong = || at.fault("must be `blake3:` and 64 hexadecimal digits").coded(FaultCode::Value);
        let hash = text.strip_prefix("blake3:").and_then(|_| text.parse().ok()).ok_or_else(wrong)?;
        self.named.insert(hash);
        Ok(hash)
    }

    /// All files of a folder, hidden ones too, by path.
    pub(super) fn dir(&mut self, at: Named<'_>) -> Result<Vec<TreeFile>, Fault> {
        let root = self.base.join(at.path()?);
        let kind = fs::metadata(&root).map_err(|error| at.io_fault(&error))?;
        if !kind.is_dir() {
            return Err(at.fault("is no folder"));
        }
        let (mut folders, mut files) = (vec![root.clone()], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).map_err(|error| at.io_fault(&error))? {
                let path = entry.map_err(|error| at.io_fault(&error))?.path();
                // A link to a folder could lead in a circle; one to a file is the file.
                let about = fs::symlink_metadata(&path).map_err(|error| at.io_fault(&error))?;
                match about.is_dir() {
                    true => folders.push(path),
                    false => files.push(path),
                }
                if folders.len() + files.len() > GLOB_FILES_MAX {
                    return Err(at.fault(format!("has more than {GLOB_FILES_MAX} files")).coded(FaultCode::Limit));
                }
            }
        }
        let mut found =
            files.into_iter().map(|path| self.file_below(&root, path, at)).collect::<Result<Vec<_>, _>>()?;
        found.sort_by(|a, b| a.path.cmp(&b.path));
        if found.is_empty() { Err(at.fault("is a folder without files")) } else { Ok(found) }
    }

    fn file_below(&mut self, root: &Path, path: PathBuf, at: Named<'_>) -> Result<TreeFile, Fault> {
        let below = path.strip_prefix(root).unwrap_or(&path);
        let below = below.to_str().ok_or_else(|| at.fault("has a file whose name is not UTF-8"))?.to_owned();
        open(&path, at).map_err(|_| at.fault(format!("has `{below}`, which cannot be read as a file")))?;
        let (hash, len) = self.add(path, at)?;
        Ok(TreeFile { path: below, hash, len })
    }

    /// A module: `blake3:HEX`, a published name, or a file that is checked. What has a name was checked by its publisher,
    /// and is again by whoever runs it.
    pub(super) fn module(&mut self, at: Named<'_>) -> Result<Hash, Fault> {
        let text = at.path()?;
        if text.starts_with("blake3:") {
            let hash = text.parse().map_err(|_| at.fault("must have 64 hexadecimal digits after `blake3:`"))?;
            self.named.insert(hash);
            return Ok(hash);
        }
        let path = self.base.join(text);
        if Reference::is_meant(text) && !path.exists() {
            let found = (self.resolve)(text).map_err(|why| at.fault(format!("names no module: {why}")))?;
            self.named.insert(found);
            return Ok(found);
        }
        if let Some(hash) = self.modules.get(&path) {
            return Ok(*hash);
        }
        let bytes = read_bounded(&path, MODULE_BYTES_MAX, at)?;
        (self.validate)(&bytes).map_err(|reason| at.fault(format!("is not a usable module: {reason}")))?;
        let (hash, len) = (Hash::of(&bytes), bytes.len() as u64);
        self.named.insert(hash);
        self.sources.entry(hash).or_insert_with(|| BlobSource::File { hash, len, path: path.clone() });
        self.modules.insert(path, hash);
        Ok(hash)
    }

    /// The files that a glob matches, at least one, by path.
    pub(super) fn glob(&mut self, at: Named<'_>) -> Result<Vec<Found>, Fault> {
        let pattern = at.path()?;
        let base = self.base.to_str().ok_or_else(|| at.fault("is in a folder whose name is not UTF-8"))?;
        let full = Path::new(&Pattern::escape(base)).join(pattern);
        let full = full.to_str().ok_or_else(|| at.fault("is not UTF-8"))?;
        let matches =
            glob::glob_with(full, WALKING).map_err(|error| at.fault(format!("is not a glob: {}", error.msg)))?;
        let fixed = fixed_part(pattern);
        let mut found = Vec::new();
        for path in matches {
            let path = path
                .map_err(|error| at.fault(format!("meets a folder that cannot be read: {}", error.path().display())))?;
            if path.is_dir() || self.is_hidden(&path, pattern, fixed) {
                continue;
            }
            if found.len() == GLOB_FILES_MAX {
                return Err(at.fault(format!("matches more than {GLOB_FILES_MAX} files")));
            }
            found.push(self.found(path, fixed, at)?);
        }
        found.sort_by(|a: &Found, b| a.file.path.cmp(&b.file.path));
        if found.is_empty() { Err(at.fault("matches no file")) } else { Ok(found) }
    }

    /// Whether a wildcard of the pattern stands for the dot of a hidden file or folder.
    fn is_hidden(&self, path: &Path, pattern: &str, fixed: &str) -> bool {
        let below = path.strip_prefix(self.base.join(fixed)).unwrap_or(path);
        let wild = pattern[fixed.len()..].trim_start_matches('/');
        let dotted = |part: std::path::Component<'_>| part.as_os_str().as_encoded_bytes().starts_with(b".");
        below.components().any(dotted)
            && Pattern::new(wild).is_ok_and(|wild| !wild.matches_path_with(below, LIKE_A_SHELL))
    }

    fn found(&mut self, path: PathBuf, fixed: &str, at: Named<'_>) -> Result<Found, Fault> {
        let below = path.strip_prefix(self.base.join(fixed)).unwrap_or(&path);
        let below = below.to_str().ok_or_else(|| at.fault("matches a file whose name is not UTF-8"))?.to_owned();
        let shown = if fixed.is_empty() { below.clone() } else { format!("{}/{below}", fixed.trim_end_matches('/')) };
        open(&path, at).map_err(|_| at.fault(format!("matches `{shown}`, which cannot be read")))?;
        let (hash, len) = self.add(path, at)?;
        Ok(Found { shown, file: TreeFile { path: below, hash, len } })
    }

    fn add(&mut self, path: PathBuf, at: Named<'_>) -> Result<(Hash, u64), Fault> {
        if let Some(known) = self.read.get(&path) {
            return Ok(*known);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(open(&path, at)?).map_err(|error| at.io_fault(&error))?;
        let (hash, len) = (Hash::from_bytes(*hasher.finalize().as_bytes()), hasher.count());
        self.named.insert(hash);
        self.sources.entry(hash).or_insert_with(|| BlobSource::File { hash, len, path: path.clone() });
        self.read.insert(path, (hash, len));
        Ok((hash, len))
    }

    /// The name of the list of all names, and the sources of everything: the list's own too.
    pub(super) fn finish(mut self) -> (Hash, Vec<BlobSource>) {
        let names: Vec<Hash> = self.named.iter().copied().collect();
        let list = self.bytes(codec::encode(&names));
        (list, self.sources.into_values().collect())
    }
}

/// The folders of a glob before its first wildcard.
fn fixed_part(pattern: &str) -> &str {
    let wild = pattern.find(['*', '?', '[']).unwrap_or(pattern.len());
    pattern[..wild].rfind('/').map_or("", |slash| &pattern[..slash.max(1)])
}

fn open(path: &Path, at: Named<'_>) -> Result<File, Fault> {
    let kind = fs::metadata(path).map_err(|error| at.io_fault(&error))?.file_type();
    if kind.is_dir() {
        return Err(at.fault("is a folder, where a file is needed"));
    }
    // Opening a pipe would wait for its writer.
    if !kind.is_file() {
        return Err(at.fault("is not a regular file"));
    }
    File::open(path).map_err(|error| at.io_fault(&error))
}

fn read_bounded(path: &Path, max: u64, at: Named<'_>) -> Result<Vec<u8>, Fault> {
    let file = open(path, at)?;
    let too_large = || at.fault(format!("is over {}", bytesize::ByteSize(max)));
    if file.metadata().map_err(|error| at.io_fault(&error))?.len() > max {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(|error| at.io_fault(&error))?;
    if bytes.len() as u64 > max { Err(too_large()) } else { Ok(bytes) }
}
