//! Outputs: which files under `/out` a task declares, and which names may be declared.
//!
//! Always true of names that pass [`check_outputs`]: whoever writes all of them below one folder, on Linux, macOS or
//! Windows, gets just as many files, none of them outside the folder, none of them a device.
//!
//! Elsewhere: collecting the files is `node::work`, writing them below a folder `node::cli`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Outputs of one task: the record of a task names each of them, and has to fit a message.
pub const OUTPUTS_MAX: usize = 1000;
/// Bytes of an output's path. macOS takes 1024 and Windows 260 for a whole path; this leaves room for the folder.
pub const OUTPUT_PATH_BYTES_MAX: usize = 512;
/// Bytes of one part of a path, as every usual file system has it.
pub const OUTPUT_PART_BYTES_MAX: usize = 255;

/// A declared file under `/out`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputSpec {
    /// Its path, relative to `/out`.
    pub path: String,
    /// Whether a task that did not write it has failed.
    pub required: bool,
    /// Its own limit in bytes, below that of all outputs together.
    pub bytes_max: Option<u64>,
}

impl OutputSpec {
    /// A file that must be there, as large as all outputs together may be.
    pub fn required(path: impl Into<String>) -> Self {
        Self { path: path.into(), required: true, bytes_max: None }
    }
}

/// Why a path cannot be the name of an output. The path comes before these words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// There is nothing.
    #[error("is empty")]
    Empty,
    /// It begins with a slash or a drive.
    #[error("must be relative: it is under `/out` already")]
    Absolute,
    /// A backslash, or a character that is not printed.
    #[error("must not hold backslashes or control characters")]
    Character,
    /// A character that Windows does not have in names.
    #[error("holds one of < > : \" | ? *, which some systems do not have in names")]
    Unportable,
    /// It leads up, or nowhere.
    #[error("must not have `..`, `.` or empty parts")]
    Dots,
    /// `CON`, `NUL` and so on.
    #[error("has a part that is a device on some systems")]
    Device,
    /// Windows drops them, so two names become one.
    #[error("has a part that ends with a dot or a space, which some systems drop")]
    Tail,
    /// Too long.
    #[error("is over {OUTPUT_PATH_BYTES_MAX} bytes, or a part of it over {OUTPUT_PART_BYTES_MAX}")]
    Long,
}

/// Why declared outputs are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadOutputs {
    /// More than [`OUTPUTS_MAX`].
    #[error("a task declares {0} outputs, and at most {OUTPUTS_MAX} are possible")]
    TooMany(usize),
    /// A name.
    #[error("the output `{path}` {why}")]
    Name {
        /// The path.
        path: String,
        /// What is wrong with it.
        why: BadName,
    },
    /// Two that are one, on a system that does not tell capitals apart.
    #[error("the outputs `{before}` and `{path}` are one file where capitals do not count")]
    Clash {
        /// The first of them.
        before: String,
        /// The second.
        path: String,
    },
    /// A file that would have to be a folder, too.
    #[error("the outputs `{before}` and `{path}` cannot both be: one lies inside the other")]
    Inside {
        /// The first of them.
        before: String,
        /// The second.
        path: String,
    },
}

/// Checks all outputs of one task.
pub fn check_outputs<'a>(paths: impl ExactSizeIterator<Item = &'a str>) -> Result<(), BadOutputs> {
    if paths.len() > OUTPUTS_MAX {
        return Err(BadOutputs::TooMany(paths.len()));
    }
    let mut seen = BTreeMap::<String, &str>::new();
    for path in paths {
        check_output(path).map_err(|why| BadOutputs::Name { path: path.into(), why })?;
        let folded = folded(path);
        if let Some(before) = seen.get(&folded) {
            return Err(BadOutputs::Clash { before: (*before).into(), path: path.into() });
        }
        seen.insert(folded, path);
    }
    check_apart(&seen)
}

/// Refuses a path that makes a folder of another one.
fn check_apart(seen: &BTreeMap<String, &str>) -> Result<(), BadOutputs> {
    for (folded, path) in seen {
        let mut folders = folded.match_indices('/').map(|(slash, _)| &folded[..slash]);
        if let Some(before) = folders.find_map(|folder| seen.get(folder)) {
            return Err(BadOutputs::Inside { before: (*before).into(), path: (*path).into() });
        }
    }
    Ok(())
}

/// Checks one path.
pub fn check_output(path: &str) -> Result<(), BadName> {
    if path.is_empty() {
        return Err(BadName::Empty);
    }
    if path.starts_with('/') {
        return Err(BadName::Absolute);
    }
    if path.contains('\\') || path.chars().any(char::is_control) {
        return Err(BadName::Character);
    }
    if path.contains(['<', '>', ':', '"', '|', '?', '*']) {
        return Err(BadName::Unportable);
    }
    if path.len() > OUTPUT_PATH_BYTES_MAX {
        return Err(BadName::Long);
    }
    path.split('/').try_for_each(check_part)
}

fn check_part(part: &str) -> Result<(), BadName> {
    match part {
        "" | "." | ".." => Err(BadName::Dots),
        _ if part.len() > OUTPUT_PART_BYTES_MAX => Err(BadName::Long),
        _ if part.ends_with(['.', ' ']) => Err(BadName::Tail),
        _ if is_device(part) => Err(BadName::Device),
        _ => Ok(()),
    }
}

/// Windows's names of devices, which stand for the device whatever comes after a dot.
fn is_device(part: &str) -> bool {
    let stem = part.split('.').next().unwrap_or(part).trim_end().to_lowercase();
    let numbered = |name: &str| {
        let number = stem.strip_prefix(name).unwrap_or_default();
        matches!(number, "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9" | "¹" | "²" | "³")
    };
    matches!(stem.as_str(), "con" | "prn" | "aux" | "nul" | "conin$" | "conout$") || numbered("com") || numbered("lpt")
}

/// Equal for paths that a file system may take for one: capitals do not count.
fn folded(path: &str) -> String {
    // Down alone would leave `ſ` and `s` apart, which become one letter in capitals.
    path.to_uppercase().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(paths: &[&str]) -> Result<(), BadOutputs> {
        check_outputs(paths.iter().copied())
    }

    #[test]
    fn ordinary_names_pass() {
        check(&["a", "a.txt", "b/c.d/e", ".hidden", "ü b", "console", "com10", "lpt", "..x", "a-b"]).unwrap();
    }

    #[test]
    fn each_bad_name_is_refused_for_its_own_reason() {
        for (path, why) in [
            ("", BadName::Empty),
            ("/etc/passwd", BadName::Absolute),
            ("..", BadName::Dots),
            ("a/../../b", BadName::Dots),
            ("./a", BadName::Dots),
            ("a//b", BadName::Dots),
            ("a/", BadName::Dots),
            ("a\\b", BadName::Character),
            ("a\0b", BadName::Character),
            ("a\u{1b}[2J", BadName::Character),
            ("C:/x", BadName::Unportable),
            ("what?", BadName::Unportable),
            ("CON", BadName::Device),
            ("x/nul.txt", BadName::Device),
            ("Com1", BadName::Device),
            ("lpt9.a.b", BadName::Device),
            ("aux .txt", BadName::Device),
            ("a.", BadName::Tail),
            ("a /b", BadName::Tail),
        ] {
            assert_eq!(check_output(path), Err(why), "{path:?}");
        }
        assert_eq!(check_output(&"x".repeat(OUTPUT_PART_BYTES_MAX + 1)), Err(BadName::Long));
        assert_eq!(check_output(&"x/".repeat(OUTPUT_PATH_BYTES_MAX)), Err(BadName::Long));
    }

    #[test]
    fn names_that_meet_on_some_system_are_refused_together() {
        let clash = |before: &str, path: &str| BadOutputs::Clash { before: before.into(), path: path.into() };
        let inside = |before: &str, path: &str| BadOutputs::Inside { before: before.into(), path: path.into() };
        assert_eq!(check(&["a.txt", "b", "A.TXT"]), Err(clash("a.txt", "A.TXT")));
        assert_eq!(check(&["straße", "STRASSE"]), Err(clash("straße", "STRASSE")));
        assert_eq!(check(&["a/b", "a-c", "A"]), Err(inside("A", "a/b")));
        assert_eq!(check(&["a", "a/b/c"]), Err(inside("a", "a/b/c")));
    }

    #[test]
    fn a_thousand_outputs_are_possible_and_one_more_is_not() {
        let names: Vec<String> = (0..=OUTPUTS_MAX).map(|number| format!("part-{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        check(&names[..OUTPUTS_MAX]).unwrap();
        assert_eq!(check(&names), Err(BadOutputs::TooMany(1001)));
    }
}
