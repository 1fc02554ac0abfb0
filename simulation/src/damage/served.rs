//! What a node serves of a finished job, byte by byte.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::harm::files;
use super::work::Work;
use crate::cluster::{ClusterError, Node};

/// How what was served compares with what was stored.
#[derive(Debug)]
pub enum Served {
    /// Every byte is there and right.
    Right,
    /// Not all of it, and an error says so.
    Refused(String),
    /// Bytes that nobody stored, or fewer without an error.
    Wrong(String),
}

/// Compares everything that a node serves of a job whose tasks all succeeded.
pub fn served(node: &Node, id: &str, work: &Work) -> Result<Served, ClusterError> {
    let logs = node.cli(&["logs", id])?;
    let expected = work.logs();
    if !expected.starts_with(&logs.stdout) || (logs.code == Some(0) && logs.stdout != expected) {
        let (got, of) = (logs.stdout.len(), expected.len());
        return Ok(Served::Wrong(format!("logs of {id}: {got} bytes that are not those of {of}")));
    }
    if logs.code != Some(0) {
        return Ok(Served::Refused(logs.stderr));
    }
    let expected: BTreeMap<_, _> = work.files().into_iter().collect();
    if expected.is_empty() { Ok(Served::Right) } else { files_served(node, id, &expected) }
}

fn files_served(node: &Node, id: &str, expected: &BTreeMap<PathBuf, Vec<u8>>) -> Result<Served, ClusterError> {
    let dir = tempfile::tempdir().map_err(ClusterError::io("create", std::env::temp_dir()))?;
    let got = node.cli(&[OsStr::new("get"), OsStr::new(id), dir.path().as_os_str()])?;
    let mut found = files(dir.path()).map_err(ClusterError::io("list", dir.path()))?;
    found.retain(|file| !is_kept_for_later(file));
    for file in &found {
        let name = file.strip_prefix(dir.path()).unwrap_or(file);
        let bytes = fs::read(file).map_err(ClusterError::io("read", file))?;
        if expected.get(name) != Some(&bytes) {
            return Ok(Served::Wrong(format!("{} of {id}: {} wrong bytes", name.display(), bytes.len())));
        }
    }
    Ok(match got.code {
        Some(0) if found.len() == expected.len() => Served::Right,
        Some(0) => Served::Wrong(format!("{} files of {id} instead of {}", found.len(), expected.len())),
        _ => Served::Refused(got.stderr),
    })
}

/// What `swarm get` leaves of a file that did not come whole, to go on with: no result.
fn is_kept_for_later(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(".swarm-") && name.ends_with(".part")
}
