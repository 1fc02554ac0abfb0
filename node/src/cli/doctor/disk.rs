//! The data directory: whether a node can live there, and what earlier ones left.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Check;
use crate::api::SOCKET_NAME;
use crate::cli::output::bytes;
use crate::runtime::{BLOBS_DIR, CACHE_DIR, LOCK_NAME, RuntimeOptions, SCRATCH_DIR};

/// What is left of the disk for records, unless a user says otherwise, as the store has it: a part of a small disk.
const RESERVE_BYTES: u64 = 64 << 20;
const RESERVE_SHARE_MAX: u64 = 16;
/// With less than this above the reserve, a few jobs with outputs fill the disk.
const FREE_BYTES_MIN: u64 = 2 << 30;
/// A sync that takes longer makes every acknowledgement wait: spinning disks are at about 10 ms.
const SYNC_MAX: Duration = Duration::from_millis(50);
/// Syncs of which the middle one counts.
const SYNCS: usize = 5;
/// Written, synced and removed.
const PROBE_NAME: &str = ".doctor";
/// A record of the log is about so long.
const PROBE: [u8; 512] = [0; 512];
/// Only for the owner.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// The mode of everybody else.
const OTHERS: u32 = 0o077;
/// The node's key, in the data directory.
const KEY_NAME: &str = "identity.key";
/// Leftovers that are named; the others are counted.
const NAMED_MAX: usize = 4;

/// Who has the data directory.
#[derive(Debug)]
pub(super) enum Holder {
    /// Nobody. Held as long as this lives, when something is repaired.
    Nobody { _lock: Option<File> },
    /// A living process, which has this number if the system says so.
    Process(Option<u32>),
    /// It cannot be told.
    Unknown,
}

/// The checks, and who has the directory.
pub(super) fn checks(options: &RuntimeOptions, fix: bool) -> (Vec<Check>, Holder) {
    let dir = &options.data;
    let mut checks = vec![directory(dir, fix)];
    if !dir.is_dir() {
        return (checks, Holder::Nobody { _lock: None });
    }
    checks.extend([space(options), sync(dir)]);
    checks.extend(key(dir, fix));
    let holder = holder(dir, fix);
    checks.push(lock(&holder));
    checks.extend(leftovers(dir, &holder, fix));
    checks.extend(damaged(dir));
    checks.push(cache(options));
    (checks, holder)
}

/// It is there, its owner's alone, and can be written.
fn directory(dir: &Path, fix: bool) -> Check {
    const NAME: &str = "data directory";
    let shown = dir.display().to_string();
    let about = match fs::metadata(dir) {
        Ok(about) => about,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = || DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir);
            return match fix.then(made) {
                None => {
                    Check::warning(NAME, format!("{shown} is not there yet"), format!("swarm start --data {shown}"))
                }
                Some(Ok(())) => Check::fixed(NAME, format!("{shown} was made")),
                Some(Err(error)) => {
                    Check::problem(NAME, format!("{shown} cannot be made: {error}"), "swarm start --data DIR")
                }
            };
        }
        Err(error) => {
            return Check::problem(NAME, format!("{shown} cannot be used: {error}"), "swarm start --data DIR");
        }
    };
    if !about.is_dir() {
        return Check::problem(NAME, format!("{shown} is not a directory"), "swarm start --data DIR");
    }
    if let Err(error) = write_and_sync(dir) {
        return Check::problem(NAME, format!("{shown} cannot be written: {error}"), format!("ls -ld '{shown}'"));
    }
    private(NAME, dir, about.permissions().mode(), DIR_MODE, fix)
}

/// Whether a file or directory is its owner's alone.
fn private(name: &'static str, path: &Path, mode: u32, wanted: u32, fix: bool) -> Check {
    let shown = path.display().to_string();
    if mode & OTHERS == 0 {
        return Check::ok(name, shown);
    }
    let next = format!("chmod {wanted:o} '{shown}'");
    match fix.then(|| fs::set_permissions(path, Permissions::from_mode(wanted))) {
        None => Check::warning(name, format!("{shown} is open to others (mode {:o})", mode & 0o777), next),
        Some(Ok(())) => Check::fixed(name, format!("{shown} is its owner's alone now")),
        Some(Err(error)) => Check::problem(name, format!("{shown} is open to others, and stays so: {error}"), next),
    }
}

/// The node's key is nobody else's to read.
fn key(dir: &Path, fix: bool) -> Option<Check> {
    let path = dir.join(KEY_NAME);
    let mode = fs::metadata(&path).ok()?.permissions().mode();
    Some(private("key", &path, mode, FILE_MODE, fix))
}

fn space(options: &RuntimeOptions) -> Check {
    const NAME: &str = "free disk";
    let disk = match rustix::fs::statvfs(&options.data) {
        Ok(disk) => disk,
        Err(error) => return Check::problem(NAME, error.to_string(), "df -h"),
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let all = disk.f_blocks.saturating_mul(disk.f_frsize);
    let reserve = options.disk_reserve_bytes.unwrap_or(RESERVE_BYTES.min(all / RESERVE_SHARE_MAX));
    let found = format!("{} free, of which {} are kept for records", bytes(free), bytes(reserve));
    let next =
        format!("df -h '{}'   # then free some, or swarm start --data DIR on another disk", options.data.display());
    match free.checked_sub(reserve) {
        None => Check::problem(NAME, format!("{found}: no new blobs are taken"), next),
        Some(left) if left < FREE_BYTES_MIN => Check::warning(NAME, found, next),
        Some(_) => Check::ok(NAME, found),
    }
}

fn sync(dir: &Path) -> Check {
    const NAME: &str = "sync latency";
    let mut took: Vec<Duration> = (0..SYNCS).filter_map(|_| write_and_sync(dir).ok()).collect();
    took.sort_unstable();
    let Some(middle) = took.get(took.len() / 2) else {
        return Check::problem(NAME, "nothing can be written", format!("ls -ld '{}'", dir.display()));
    };
    let found = format!("{:.1} ms", middle.as_secs_f64() * 1000.0);
    match *middle > SYNC_MAX {
        true => Check::warning(NAME, found, "swarm start --data DIR   # on a faster disk"),
        false => Check::ok(NAME, found),
    }
}

/// How long a small write takes to be durable.
fn write_and_sync(dir: &Path) -> io::Result<Duration> {
    let path = dir.join(PROBE_NAME);
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&path)?;
    let begun = Instant::now();
    file.write_all(&PROBE)?;
    file.sync_data()?;
    let took = begun.elapsed();
    fs::remove_file(path)?;
    Ok(took)
}

/// Who has the directory now; it is kept from others as long as something may be repaired.
fn holder(dir: &Path, keep: bool) -> Holder {
    let file = match File::open(dir.join(LOCK_NAME)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Holder::Nobody { _lock: None },
        Err(_) => return Holder::Unknown,
    };
    match file.try_lock() {
        Ok(()) => Holder::Nobody { _lock: keep.then_some(file) },
        Err(TryLockError::WouldBlock) => Holder::Process(file.metadata().ok().and_then(|about| locker(about.ino()))),
        Err(TryLockError::Error(_)) => Holder::Unknown,
    }
}

/// The process that has locked a file, as the system lists locks: `1: FLOCK ADVISORY WRITE 4711 08:01:131 0 EOF`.
fn locker(inode: u64) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (kind, pid, file) = (words.get(1)?, words.get(4)?, words.get(5)?);
        let same = *kind == "FLOCK" && file.rsplit(':').next()?.parse() == Ok(inode);
        if same { pid.parse().ok() } else { None }
    })
}

fn lock(holder: &Holder) -> Check {
    const NAME: &str = "lock";
    match holder {
        Holder::Nobody { .. } => Check::ok(NAME, "free: no node runs here"),
        Holder::Process(Some(pid)) => Check::ok(NAME, format!("held by process {pid}, which lives")),
        Holder::Process(None) => Check::ok(NAME, "held by a process that lives"),
        Holder::Unknown => Check::warning(NAME, "it cannot be told whether a node runs here", "swarm status"),
    }
}

/// What a node that ended abruptly has left; whoever has the directory now uses these.
fn leftovers(dir: &Path, holder: &Holder, fix: bool) -> Option<Check> {
    const NAME: &str = "leftovers";
    if !matches!(holder, Holder::Nobody { .. }) {
        return None;
    }
    let mut left: Vec<PathBuf> = [SOCKET_NAME, "api.sock.new"].iter().map(|name| dir.join(name)).collect();
    left.retain(|path| fs::symlink_metadata(path).is_ok());
    left.extend([dir.join(SCRATCH_DIR), dir.join(BLOBS_DIR).join("tmp")].iter().flat_map(|dir| entries(dir)));
    if left.is_empty() {
        return Some(Check::ok(NAME, "none of an earlier node"));
    }
    let names = named(dir, &left);
    if !fix {
        let next = "swarm doctor --fix   # swarm start clears them, too";
        return Some(Check::warning(NAME, format!("of a node that ended abruptly: {names}"), next));
    }
    let kept: Vec<PathBuf> = left.into_iter().filter(|path| remove(path).is_err()).collect();
    Some(match kept.is_empty() {
        true => Check::fixed(NAME, format!("removed: {names}")),
        false => {
            let next = format!("ls -l '{}'", dir.display());
            Check::problem(NAME, format!("cannot be removed: {}", named(dir, &kept)), next)
        }
    })
}

fn named(dir: &Path, paths: &[PathBuf]) -> String {
    let name = |path: &PathBuf| path.strip_prefix(dir).unwrap_or(path).display().to_string();
    let mut names: Vec<String> = paths.iter().take(NAMED_MAX).map(name).collect();
    if paths.len() > NAMED_MAX {
        names.push(format!("and {} more", paths.len() - NAMED_MAX));
    }
    names.join(", ")
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Blobs whose bytes were not theirs any more, which the store has set aside.
fn damaged(dir: &Path) -> Option<Check> {
    let aside = dir.join(BLOBS_DIR).join("damaged");
    let count = entries(&aside).len();
    (count > 0).then(|| {
        let found = format!("{count} blobs were found damaged and set aside; look at the disk");
        Check::warning("damaged blobs", found, format!("rm -r '{}'/*   # when the disk is well", aside.display()))
    })
}

fn cache(options: &RuntimeOptions) -> Check {
    const NAME: &str = "code cache";
    let dir = options.data.join(CACHE_DIR);
    let size: u64 = entries(&dir).iter().filter_map(|path| fs::metadata(path).ok()).map(|about| about.len()).sum();
    let found = format!("{} of {}", bytes(size), bytes(options.code_cache_bytes));
    let writable = !dir.exists() || rustix::fs::access(&dir, rustix::fs::Access::WRITE_OK).is_ok();
    if !writable {
        let next = format!("rm -r '{}'   # while no node runs", dir.display());
        return Check::warning(NAME, "it cannot be written: every start compiles again", next);
    }
    match options.code_cache_bytes {
        0 => Check::warning(NAME, "it is off: every start compiles again", "swarm start --code-cache 1GiB"),
        _ => Check::ok(NAME, found),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn looked(dir: &Path, fix: bool) -> Vec<(&'static str, State)> {
        let (checks, _) = checks(&RuntimeOptions::new(dir), fix);
        checks.iter().map(|check| (check.check, check.state)).collect()
    }

    #[test]
    fn what_a_dead_node_left_is_named_and_removed_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data");
        assert_eq!(looked(&dir, false), [("data directory", State::Warning)]);
        assert_eq!(looked(&dir, true)[0], ("data directory", State::Fixed));
        fs::create_dir_all(dir.join("scratch/in-1")).unwrap();
        fs::create_dir_all(dir.join("blobs/part")).unwrap();
        for name in ["lock", "api.sock", "blobs/part/kept", "identity.key"] {
            fs::write(dir.join(name), "").unwrap();
        }
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        let states = looked(&dir, false);
        for (name, state) in
            [("data directory", State::Warning), ("key", State::Warning), ("leftovers", State::Warning)]
        {
            assert!(states.contains(&(name, state)), "{name}: {states:?}");
        }
        let states = looked(&dir, true);
        for (name, state) in [("data directory", State::Fixed), ("key", State::Fixed), ("leftovers", State::Fixed)] {
            assert!(states.contains(&(name, state)), "{name}: {states:?}");
        }
        assert!(dir.join("blobs/part/kept").exists() && !dir.join("scratch/in-1").exists());
        assert!(looked(&dir, false).iter().all(|(name, state)| *state == State::Ok || *name == "free disk"));
    }

    #[test]
    fn what_a_living_process_has_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let lock = File::create(dir.path().join(LOCK_NAME)).unwrap();
        lock.try_lock().unwrap();
        fs::write(dir.path().join("api.sock"), "").unwrap();
        let (checks, holder) = checks(&RuntimeOptions::new(dir.path()), true);
        assert!(matches!(holder, Holder::Process(_)), "{checks:?}");
        assert!(checks.iter().all(|check| check.check != "leftovers") && dir.path().join("api.sock").exists());
    }
}
