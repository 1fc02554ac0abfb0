//! Every key a job file may have, table by table, as `schema` has them.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use schemars::{JsonSchema, schema_for};

use super::error::{Fault, FaultCode, listed, suggestion};
use super::schema;
use super::tree::{Entry, Table};

/// The keys of one kind of table.
pub(super) struct Keys(BTreeSet<String>);

pub(super) static JOB: LazyLock<Keys> = LazyLock::new(Keys::of::<schema::JobFile>);
pub(super) static TASK: LazyLock<Keys> = LazyLock::new(Keys::of::<schema::Task>);
pub(super) static PARAM: LazyLock<Keys> = LazyLock::new(Keys::of::<schema::Param>);
pub(super) static RETRY: LazyLock<Keys> = LazyLock::new(Keys::of::<schema::Retry>);
pub(super) static TIMEOUT: LazyLock<Keys> = LazyLock::new(Keys::of::<schema::Timeout>);
pub(super) static RESOURCES: LazyLock<Keys> = LazyLock::new(Keys::of::<schema::Resources>);
pub(super) static LIMITS: LazyLock<Keys> = LazyLock::new(Keys::of::<schema::Limits>);
pub(super) static EACH: LazyLock<Keys> = LazyLock::new(Keys::of::<schema::Each>);
pub(super) static STDIN: LazyLock<Keys> = LazyLock::new(Keys::of::<schema::Stdin>);
pub(super) static INPUT: LazyLock<Keys> = LazyLock::new(Keys::of::<schema::Input>);
pub(super) static OUTPUT: LazyLock<Keys> = LazyLock::new(Keys::of::<schema::Output>);
pub(super) static NEED: LazyLock<Keys> = LazyLock::new(Keys::of::<schema::NeedTable>);
pub(super) static WHERE: LazyLock<Keys> = LazyLock::new(Keys::of::<schema::Where>);
/// The tables of a task that have keys which somebody may write beside them.
const INNER: [(&str, &LazyLock<Keys>); 4] =
    [("resources", &RESOURCES), ("limits", &LIMITS), ("retry", &RETRY), ("where", &WHERE)];
/// What belongs to one task and cannot be a default.
const OWN_TO_A_TASK: &[&str] = &["array", "each", "matrix", "needs"];

impl Keys {
    fn of<T: JsonSchema>() -> Self {
        let schema = schema_for!(T);
        let properties = schema.get("properties").and_then(|properties| properties.as_object());
        Self(properties.into_iter().flatten().map(|(key, _)| key.clone()).collect())
    }

    fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.iter().map(String::as_str)
    }

    /// Refuses the first key of a table that is not among these.
    pub(super) fn check(&self, table: &Table) -> Result<(), Fault> {
        table.entries.iter().try_for_each(|entry| self.check_key(table, entry))
    }

    fn check_key(&self, table: &Table, entry: &Entry) -> Result<(), Fault> {
        let key = entry.key.as_str();
        if self.0.contains(key) {
            return Ok(());
        }
        let hint = match suggestion(key, self.names()) {
            hint if !hint.is_empty() => hint,
            _ if table.label.is_empty() && TASK.0.contains(key) => "; it belongs in a `[task.NAME]` table".into(),
            _ if !table.label.is_empty() && JOB.0.contains(key) => "; it belongs at the top of the file".into(),
            _ => self.inside(key).unwrap_or_else(|| format!("; here there are {}", listed(self.names()))),
        };
        Err(Fault::new(&entry.key_span, format!("unknown key `{key}`{hint}")).coded(FaultCode::UnknownKey))
    }

    /// Where a key is meant that belongs to a table of one of these keys.
    fn inside(&self, key: &str) -> Option<String> {
        let tables = INNER.iter().filter(|(name, _)| self.0.contains(*name));
        let mut hints = tables.map(|(name, keys)| suggestion(key, keys.names()).replacen('`', &format!("`{name}."), 1));
        hints.find(|hint| !hint.is_empty())
    }
}

/// Refuses in `[defaults]` what cannot be a default.
pub(super) fn check_defaults(table: &Table) -> Result<(), Fault> {
    TASK.check(table)?;
    match table.entries.iter().find(|entry| OWN_TO_A_TASK.contains(&entry.key.as_str())) {
        None => Ok(()),
        Some(entry) => {
            let message = format!("`{}` cannot be a default: it belongs to one task", entry.key);
            Err(Fault::new(&entry.key_span, message).coded(FaultCode::UnknownKey))
        }
    }
}
