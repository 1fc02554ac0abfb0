//! What the system allows a node: open files, memory, and what its kernel can.

use std::fs::{self, File};

use rustix::process::{Resource, getrlimit};

use super::Check;
use crate::cli::output::bytes;
use crate::runtime::RuntimeOptions;

/// The store, the links and the blobs of a busy node need some hundred.
const OPEN_FILES_MIN: u64 = 1024;
/// Address space that each slot reserves: all that 32-bit WebAssembly has, and its guards.
const SLOT_ADDRESSES: u64 = 8 << 30;
/// The first kernel that finds the pages a guest wrote with one system call (`PAGEMAP_SCAN`).
const SCAN_SINCE: (u32, u32) = (6, 7);

/// The checks.
pub(super) fn checks(options: &RuntimeOptions) -> Vec<Check> {
    vec![open_files(), address_space(options), memory(options), kernel()]
}

fn open_files() -> Check {
    const NAME: &str = "open files";
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < OPEN_FILES_MIN => Check::warning(
            NAME,
            format!("{limit} may be open, and a busy node needs {OPEN_FILES_MIN}"),
            "ulimit -n 4096",
        ),
        Some(limit) => Check::ok(NAME, format!("{limit} may be open")),
        None => Check::ok(NAME, "no limit"),
    }
}

fn address_space(options: &RuntimeOptions) -> Check {
    const NAME: &str = "address space";
    let needed = SLOT_ADDRESSES.saturating_mul(options.slots as u64);
    match getrlimit(Resource::As).current {
        Some(limit) if limit < needed => {
            let found =
                format!("{} may be mapped, and {} slots reserve {}", bytes(limit), options.slots, bytes(needed));
            Check::problem(NAME, found, "ulimit -v unlimited")
        }
        Some(limit) => Check::ok(NAME, format!("{} may be mapped", bytes(limit))),
        None => Check::ok(NAME, "no limit"),
    }
}

fn memory(options: &RuntimeOptions) -> Check {
    const NAME: &str = "memory";
    let offered = options.memory_bytes;
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let (Some(all), Some(available)) = (field(&info, "MemTotal:"), field(&info, "MemAvailable:")) else {
        return Check::ok(NAME, format!("{} offered to tasks; the system does not say what there is", bytes(offered)));
    };
    let allowed = group_limit().map_or(all, |limit| limit.min(all));
    let found = format!("{} offered to tasks, {} available of {}", bytes(offered), bytes(available), bytes(allowed));
    let next = |fits: u64| format!("swarm start --memory {}MiB", (fits >> 20).max(1));
    if offered > allowed {
        Check::problem(NAME, found, next(allowed / 2))
    } else if offered > available {
        Check::warning(NAME, found, next(available / 2))
    } else {
        Check::ok(NAME, found)
    }
}

fn field(info: &str, name: &str) -> Option<u64> {
    let line = info.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The memory that this process's control group may have; `None` without a limit.
fn group_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let up: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let limit = |depth: usize| {
        let file = format!("/sys/fs/cgroup/{}/memory.max", up[..depth].join("/"));
        fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()
    };
    (0..=up.len()).filter_map(limit).min()
}

fn kernel() -> Check {
    const NAME: &str = "kernel";
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let numbers: Vec<u32> = release.split(['.', '-']).take(2).filter_map(|number| number.parse().ok()).collect();
    let [major, minor] = numbers[..] else { return Check::ok(NAME, "its version is not known") };
    let (least_major, least_minor) = SCAN_SINCE;
    if (major, minor) < SCAN_SINCE {
        let found = format!("{release}: short tasks are faster from {least_major}.{least_minor} on (PAGEMAP_SCAN)");
        return Check::warning(NAME, found, "uname -r   # nothing to do unless tasks are short");
    }
    if File::open("/proc/self/pagemap").is_err() {
        let found = format!("{release}, but /proc/self/pagemap is closed to us: short tasks are slower");
        return Check::warning(NAME, found, "ls -l /proc/self/pagemap   # a container's sandbox may close it");
    }
    Check::ok(NAME, format!("{release}, with PAGEMAP_SCAN"))
}
