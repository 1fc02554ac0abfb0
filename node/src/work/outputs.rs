//! Outputs: the declared files that a guest left under `/out`.
//!
//! Always true: nothing outside the directory is read: whatever the guest made of the path, each part of it is a real
//! directory and its end a regular file. The guest is over by then, so nothing changes meanwhile.

use std::fs::{self, FileType, Metadata};
use std::io;
use std::path::Path;

use bytesize::ByteSize;
use swarm_protocol::{BadOutputs, Ending, OutputFile, OutputSpec, check_outputs};
use swarm_store::{BlobError, Blobs};

/// Why outputs cannot be kept, through no fault of the guest.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutputError {
    #[error("look for the declared output `{path}`")]
    Look { path: String, source: io::Error },
    #[error("keep the outputs")]
    Keep(#[from] BlobError),
}

/// Refuses outputs whose names could not be written below one folder everywhere. A job was checked when it was
/// submitted, by a node that may have been more lenient.
pub(super) fn check(declared: &[OutputSpec]) -> Result<(), BadOutputs> {
    check_outputs(declared.iter().map(|output| output.path.as_str()))
}

/// Stores the declared outputs as blobs, in the order of their declaration; or says how the task ends when one is
/// missing, none that can be kept, or too large. Nothing is stored before all were looked at.
pub(super) fn collect(
    dir: &Path,
    declared: &[OutputSpec],
    bytes_max: u64,
    blobs: &Blobs,
) -> Result<Result<Vec<OutputFile>, Ending>, OutputError> {
    let (mut total, mut found) = (0u64, Vec::new());
    for OutputSpec { path, required, bytes_max: max } in declared {
        match look(dir, path)? {
            Found::File(len) => {
                total = total.saturating_add(len);
                if let Some(ending) = too_large(path, len, *max, total, bytes_max) {
                    return Ok(Err(ending));
                }
                found.push(path);
            }
            Found::Nothing if *required => {
                return Ok(Err(Ending::Trapped(format!("declared output `{path}` was not written"))));
            }
            Found::Nothing => {}
            Found::Other(what) => {
                return Ok(Err(Ending::Trapped(format!("declared output `{path}` is {what}, not a file"))));
            }
        }
    }
    let keep = |path: &String| {
        let (hash, len) = blobs.put_file(&dir.join(path))?;
        Ok(OutputFile { path: path.clone(), hash, len })
    };
    Ok(Ok(found.into_iter().map(keep).collect::<Result<_, OutputError>>()?))
}

/// How a task ends when this output is over its own limit, or makes all of them too large together.
fn too_large(path: &str, len: u64, max: Option<u64>, total: u64, total_max: u64) -> Option<Ending> {
    let text = match max {
        Some(max) if len > max => format!("`{path}` has {}, of at most {}", ByteSize(len), ByteSize(max)),
        _ if total > total_max => {
            format!("outputs: {} with `{path}`, of at most {}", ByteSize(total), ByteSize(total_max))
        }
        _ => return None,
    };
    Some(Ending::OutputTooLarge(text))
}

enum Found {
    File(u64),
    Nothing,
    /// What is there instead.
    Other(&'static str),
}

fn look(dir: &Path, path: &str) -> Result<Found, OutputError> {
    let mut at = dir.to_owned();
    let mut parts = path.split('/').peekable();
    while let Some(part) = parts.next() {
        at.push(part);
        match fs::symlink_metadata(&at) {
            Ok(about) if parts.peek().is_none() => return Ok(found(&about)),
            Ok(about) if about.is_dir() => {}
            Ok(about) if about.is_symlink() => return Ok(Found::Other("behind a link")),
            Ok(_) => return Ok(Found::Other("below something that is no directory")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(source) => return Err(OutputError::Look { path: path.to_owned(), source }),
        }
    }
    Ok(Found::Nothing)
}

fn found(about: &Metadata) -> Found {
    match about.file_type() {
        kind if kind.is_file() => Found::File(about.len()),
        kind => Found::Other(name_of(kind)),
    }
}

fn name_of(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_symlink() => "a link",
        _ => "a device, pipe or socket",
    }
}
