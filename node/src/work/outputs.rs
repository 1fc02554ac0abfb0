//! Outputs: the declared files that a guest left under `/out`.
//!
//! Always true: nothing outside the directory is read: whatever the guest made of the path, each part of it is a real
//! directory and its end a regular file. The guest is over by then, so nothing changes meanwhile.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::path::Path;

use swarm_protocol::{Ending, OutputFile, OutputRule};
use swarm_store::{BlobError, Blobs};

use super::inputs::{InputError, plain_path};

/// Why outputs cannot be kept, through no fault of the guest.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutputError {
    #[error("a declared output has no usable name")]
    Name(#[from] InputError),
    #[error("look for the declared output `{path}`")]
    Look { path: String, source: io::Error },
    #[error("keep the outputs")]
    Keep(#[from] BlobError),
}

/// Stores the declared outputs as blobs, in the order of their declaration; or says how the task ends when one is
/// missing that must be there, or one of them is too large, or all are together.
pub(super) fn collect(
    dir: &Path,
    declared: &[String],
    rules: &BTreeMap<String, OutputRule>,
    bytes_max: u64,
    blobs: &Blobs,
) -> Result<Result<Vec<OutputFile>, Ending>, OutputError> {
    let (mut total, mut left) = (0u64, Vec::new());
    for path in declared {
        let rule = rules.get(path);
        match look(dir, path)? {
            Found::File(len) if rule.and_then(|rule| rule.bytes_max).is_some_and(|max| len > max) => {
                return Ok(Err(Ending::OutputTooLarge(format!("output `{path}`"))));
            }
            Found::File(len) => {
                total = total.saturating_add(len);
                left.push(path);
            }
            Found::Nothing if rule.is_some_and(|rule| !rule.required) => {}
            Found::Nothing => return Ok(Err(Ending::Trapped(format!("declared output `{path}` was not written")))),
            Found::Other => return Ok(Err(Ending::Trapped(format!("declared output `{path}` is not a regular file")))),
        }
    }
    if total > bytes_max {
        return Ok(Err(Ending::OutputTooLarge("outputs".into())));
    }
    let keep = |path: &&String| {
        let (hash, len) = blobs.put_file(&dir.join(path.as_str()))?;
        Ok(OutputFile { path: (*path).clone(), hash, len })
    };
    Ok(Ok(left.iter().map(keep).collect::<Result<_, OutputError>>()?))
}

enum Found {
    File(u64),
    Nothing,
    Other,
}

fn look(dir: &Path, path: &str) -> Result<Found, OutputError> {
    let plain = plain_path(path)?;
    let parts: Vec<_> = plain.components().collect();
    let mut at = dir.to_owned();
    for (number, part) in parts.iter().enumerate() {
        at.push(part);
        let is_last = number + 1 == parts.len();
        match fs::symlink_metadata(&at) {
            Ok(about) if is_last => return Ok(found(&about)),
            Ok(about) if about.is_dir() => {}
            Ok(_) => return Ok(Found::Other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(source) => return Err(OutputError::Look { path: path.to_owned(), source }),
        }
    }
    Ok(Found::Nothing)
}

fn found(about: &Metadata) -> Found {
    if about.is_file() { Found::File(about.len()) } else { Found::Other }
}
