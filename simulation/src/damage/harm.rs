//! What is done to a store: one kind of damage to one file.
//!
//! Always true: the same generator chooses the same damage to the same directory; something is changed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fastrand::Rng;

/// Bytes of a zeroed block: a sector up to a page.
const ZEROED_BYTES: [usize; 3] = [512, 4096, 16384];
/// Bits flipped at most.
const FLIPS_MAX: usize = 8;

/// A kind of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Harm {
    /// One to eight bits are others.
    Flipped,
    /// The end is missing, or everything.
    Truncated,
    /// The file is missing.
    Deleted,
    /// It has the bytes of another file of its kind, and that has its.
    Swapped,
    /// A block of it is zero.
    Zeroed,
}

/// Which files are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Manifest,
    Current,
    Table,
    Log,
    Options,
    Identity,
    Lock,
    Diary,
    Mark,
    Key,
    Blob,
    Compiled,
    Other,
}

/// One damage.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    pub(crate) harm: Harm,
    pub(crate) kind: Kind,
    /// What was done to which file, for people.
    pub(crate) told: String,
}

impl Harm {
    const ALL: [Self; 5] = [Self::Flipped, Self::Truncated, Self::Deleted, Self::Swapped, Self::Zeroed];
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flipped => "bits flipped",
            Self::Truncated => "truncated",
            Self::Deleted => "deleted",
            Self::Swapped => "swapped",
            Self::Zeroed => "zeroed block",
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Manifest => "MANIFEST",
            Self::Current => "CURRENT",
            Self::Table => "table file",
            Self::Log => "write-ahead log",
            Self::Options => "OPTIONS",
            Self::Identity => "IDENTITY",
            Self::Lock => "lock",
            Self::Diary => "RocksDB's diary",
            Self::Mark => "mark",
            Self::Key => "node key",
            Self::Blob => "blob",
            Self::Compiled => "compiled code",
            Self::Other => "other",
        })
    }
}

impl Kind {
    fn of(path: &Path) -> Self {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let below = |dir: &str| path.components().any(|part| part.as_os_str() == dir);
        match name {
            _ if name.starts_with("MANIFEST") => Self::Manifest,
            "CURRENT" => Self::Current,
            _ if name.ends_with(".sst") => Self::Table,
            _ if name.ends_with(".log") => Self::Log,
            _ if name.starts_with("OPTIONS") => Self::Options,
            "IDENTITY" => Self::Identity,
            "LOCK" | "lock" | "swarm.lock" => Self::Lock,
            _ if name.starts_with("LOG") => Self::Diary,
            "swarm.mark" => Self::Mark,
            "identity.key" => Self::Key,
            _ if below("blobs") => Self::Blob,
            _ if below("cache") => Self::Compiled,
            _ => Self::Other,
        }
    }
}

/// Damages one file below `dir`. Each kind of file is as likely as another, however many there are of it.
pub(crate) fn damage(dir: &Path, random: &mut Rng) -> io::Result<Damage> {
    let files = files_by_kind(dir)?;
    let kinds: Vec<_> = files.keys().copied().collect();
    let kind = kinds[random.usize(..kinds.len())];
    let alike = &files[&kind];
    let file = &alike[random.usize(..alike.len())];
    let bytes = fs::read(file)?;
    let harm = possible(Harm::ALL[random.usize(..Harm::ALL.len())], &bytes, alike.len());
    let how = match harm {
        Harm::Flipped => flip(file, bytes, random)?,
        Harm::Truncated => truncate(file, bytes, random)?,
        Harm::Deleted => fs::remove_file(file).map(|()| String::new())?,
        Harm::Swapped => swap(file, &bytes, alike, random)?,
        Harm::Zeroed => zero(file, bytes, random)?,
    };
    let name = file.strip_prefix(dir).unwrap_or(file).display();
    Ok(Damage { harm, kind, told: format!("{name}: {harm}{how}") })
}

/// This harm, if it changes anything; an empty file can only go.
fn possible(harm: Harm, bytes: &[u8], alike: usize) -> Harm {
    match harm {
        _ if bytes.is_empty() => Harm::Deleted,
        Harm::Swapped if alike < 2 => Harm::Flipped,
        Harm::Zeroed if bytes.iter().all(|byte| *byte == 0) => Harm::Truncated,
        possible => possible,
    }
}

fn flip(file: &Path, mut bytes: Vec<u8>, random: &mut Rng) -> io::Result<String> {
    let flips = random.usize(1..=FLIPS_MAX);
    let at = random.usize(..bytes.len());
    // Side by side, as a bad memory cell or a bad sector has them; an even number never undoes itself.
    for bit in 0..flips {
        bytes[at] ^= 1 << bit;
    }
    fs::write(file, bytes)?;
    Ok(format!(" ({flips} at {at})"))
}

fn truncate(file: &Path, bytes: Vec<u8>, random: &mut Rng) -> io::Result<String> {
    let len = if random.u8(..4) == 0 { 0 } else { random.usize(..bytes.len()) };
    fs::write(file, &bytes[..len])?;
    Ok(format!(" to {len} of {}", bytes.len()))
}

fn swap(file: &Path, bytes: &[u8], alike: &[PathBuf], random: &mut Rng) -> io::Result<String> {
    let others: Vec<_> = alike.iter().filter(|other| *other != file).collect();
    let other = others[random.usize(..others.len())];
    let others_bytes = fs::read(other)?;
    fs::write(other, bytes)?;
    fs::write(file, others_bytes)?;
    Ok(format!(" with {}", other.file_name().unwrap_or_default().display()))
}

fn zero(file: &Path, mut bytes: Vec<u8>, random: &mut Rng) -> io::Result<String> {
    let len = ZEROED_BYTES[random.usize(..ZEROED_BYTES.len())].min(bytes.len());
    let blocks = bytes.len().div_ceil(len);
    let nonzero = |block: &usize| bytes[block * len..].iter().take(len).any(|byte| *byte != 0);
    let choice: Vec<_> = (0..blocks).filter(nonzero).collect();
    let from = choice[random.usize(..choice.len())] * len;
    let end = (from + len).min(bytes.len());
    bytes[from..end].fill(0);
    fs::write(file, bytes)?;
    Ok(format!(" ({from} to {end})"))
}

fn files_by_kind(dir: &Path) -> io::Result<BTreeMap<Kind, Vec<PathBuf>>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for file in files(dir)? {
        found.entry(Kind::of(file.strip_prefix(dir).unwrap_or(&file))).or_default().push(file);
    }
    Ok(found)
}

/// Every file below a directory, in the order of their paths. Sockets are none.
pub(crate) fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut entries = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    for path in entries {
        let about = fs::symlink_metadata(&path)?;
        if about.is_dir() {
            found.extend(files(&path)?);
        } else if about.is_file() {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_damage_changes_something_and_follows_from_the_seed() {
        for seed in 0..300 {
            let told: Vec<_> = (0..2).map(|_| harmed(seed)).collect();
            assert_eq!(told[0], told[1]);
        }
    }

    fn harmed(seed: u64) -> String {
        let dir = tempfile::tempdir().unwrap();
        for (name, len) in [("CURRENT", 16), ("1.log", 0), ("2.log", 5_000), ("3.log", 700), ("identity.key", 32)] {
            fs::write(dir.path().join(name), vec![name.as_bytes()[0]; len]).unwrap();
        }
        let state = || files(dir.path()).unwrap().into_iter().map(|file| (file.clone(), fs::read(file).unwrap()));
        let before: Vec<_> = state().collect();
        let damage = damage(dir.path(), &mut Rng::with_seed(seed)).unwrap();
        assert!(before != state().collect::<Vec<_>>(), "{}", damage.told);
        damage.told
    }
}
