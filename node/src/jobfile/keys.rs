//! Every key a job file may have, table by table: those that are read, and those that are known but not read yet.

use super::error::{Fault, listed, suggestion};
use super::tree::{Entry, Table};

/// The keys of one kind of table.
pub(super) struct Keys {
    read: &'static [&'static str],
    /// Part of version 1, refused by name until it is supported.
    later: &'static [&'static str],
}

pub(super) const JOB: Keys = Keys {
    read: &["version", "name", "description", "max_failures", "defaults", "task"],
    later: &["namespace", "labels", "priority", "max_parallel", "keep", "params"],
};
pub(super) const TASK: Keys = Keys {
    read: &[
        "wasm",
        "entry",
        "args",
        "env",
        "stdin",
        "array",
        "each",
        "matrix",
        "inputs",
        "outputs",
        "needs",
        "retry",
        "timeout",
        "resources",
        "limits",
    ],
    later: &["where"],
};
/// What belongs to one task and cannot be a default.
const OWN_TO_A_TASK: &[&str] = &["array", "each", "matrix", "needs"];
pub(super) const RETRY: Keys = Keys { read: &["max", "lost_max", "backoff", "max_backoff", "on"], later: &[] };
pub(super) const TIMEOUT: Keys = Keys { read: &["run", "queue"], later: &["total"] };
pub(super) const RESOURCES: Keys = Keys { read: &["memory", "slots"], later: &[] };
pub(super) const LIMITS: Keys = Keys { read: &["fuel", "stdout", "outputs"], later: &[] };
pub(super) const EACH: Keys = Keys { read: &["lines", "files"], later: &["json"] };
pub(super) const STDIN: Keys = Keys { read: &["text", "file", "item"], later: &[] };
pub(super) const OUTPUT: Keys = Keys { read: &["required", "max"], later: &[] };
pub(super) const INPUT: Keys =
    Keys { read: &["file", "glob", "text", "item", "from", "path", "as"], later: &["dir", "blob"] };
/// Names that a matrix gives another meaning than an axis.
const MATRIX_LATER: &[&str] = &["include", "exclude"];

impl Keys {
    /// Refuses the first key of a table that is not read.
    pub(super) fn check(&self, table: &Table) -> Result<(), Fault> {
        table.entries.iter().try_for_each(|entry| self.check_key(table, entry))
    }

    fn check_key(&self, table: &Table, entry: &Entry) -> Result<(), Fault> {
        let key = entry.key.as_str();
        if self.read.contains(&key) {
            return Ok(());
        }
        if self.later.contains(&key) {
            return Err(not_yet(entry));
        }
        let hint = match suggestion(key, self.read.iter().chain(self.later).copied()) {
            hint if !hint.is_empty() => hint,
            _ if table.label.is_empty() && TASK.read.contains(&key) => "; it belongs in a `[task.NAME]` table".into(),
            _ if !table.label.is_empty() && JOB.read.contains(&key) => "; it belongs at the top of the file".into(),
            _ => format!("; here there are {}", listed(self.read.iter().copied())),
        };
        Err(Fault::new(&entry.key_span, format!("unknown key `{key}`{hint}")))
    }
}

/// Refuses in `[defaults]` what cannot be a default.
pub(super) fn check_defaults(table: &Table) -> Result<(), Fault> {
    TASK.check(table)?;
    match table.entries.iter().find(|entry| OWN_TO_A_TASK.contains(&entry.key.as_str())) {
        None => Ok(()),
        Some(entry) => {
            let message = format!("`{}` cannot be a default: it belongs to one task", entry.key);
            Err(Fault::new(&entry.key_span, message))
        }
    }
}

/// Refuses the keys of a matrix that are not axes.
pub(super) fn check_matrix(table: &Table) -> Result<(), Fault> {
    let later = |entry: &&Entry| MATRIX_LATER.contains(&entry.key.as_str());
    table.entries.iter().find(later).map_or(Ok(()), |entry| Err(not_yet(entry)))
}

fn not_yet(entry: &Entry) -> Fault {
    Fault::new(&entry.key_span, format!("`{}` is not supported yet", entry.value.label))
}
