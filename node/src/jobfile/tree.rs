//! A job file as a tree of values that know where they were written, and the typed questions asked of them.
//!
//! Always true: entries of a table are in the order of the file; an answer of the wrong type is a [`Fault`] that names
//! the key as its author would, such as `retry.max`.
//!
//! Elsewhere: which keys there are is in `keys`.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use bytesize::ByteSize;
use jiff::{Span, SpanRelativeTo};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::error::{Fault, FaultCode};

/// One value.
#[derive(Debug)]
pub(super) struct Value {
    /// Where it stands, in bytes.
    pub(super) span: Range<usize>,
    /// What its author would call it.
    pub(super) label: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Value>),
    Table(Table),
    /// What no key takes: its name, and how it was written where that is needed.
    Other(&'static str, String),
}

/// A table; no two entries have the same key.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) span: Range<usize>,
    pub(super) label: String,
    pub(super) entries: Vec<Entry>,
}

/// A key and its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Range<usize>,
    pub(super) value: Value,
}

/// Reads the text of a job file.
pub(super) fn parse(text: &str) -> Result<Table, Fault> {
    let end = text.len()..text.len();
    match DeTable::parse(text) {
        Ok(table) => build_table(table.get_ref(), 0..text.len(), String::new()),
        Err(error) => {
            let message = format!("not valid TOML: {}", error.message());
            Err(Fault::new(&error.span().unwrap_or(end), message).coded(FaultCode::Syntax))
        }
    }
}

fn build_table(table: &DeTable<'_>, span: Range<usize>, label: String) -> Result<Table, Fault> {
    let entry = |(key, value): (&Spanned<DeString<'_>>, &Spanned<DeValue<'_>>)| {
        let name: &str = key.get_ref();
        let value = build(value.get_ref(), value.span(), child_label(&label, name))?;
        Ok(Entry { key: name.to_owned(), key_span: key.span(), value })
    };
    let mut entries = table.iter().map(entry).collect::<Result<Vec<_>, Fault>>()?;
    entries.sort_by_key(|entry| entry.key_span.start);
    Ok(Table { span, label, entries })
}

fn build(value: &DeValue<'_>, span: Range<usize>, label: String) -> Result<Value, Fault> {
    let kind = match value {
        DeValue::String(text) => Kind::Text(text.to_string()),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(integer) => Kind::Integer(integer),
            Err(_) => return Err(Fault::new(&span, format!("`{label}` is too large a number"))),
        },
        DeValue::Boolean(boolean) => Kind::Boolean(*boolean),
        DeValue::Float(float) => Kind::Other("a fractional number", float.as_str().to_owned()),
        DeValue::Datetime(datetime) => Kind::Other("a date", datetime.to_string()),
        DeValue::Array(items) => {
            let item = |(at, item): (usize, &Spanned<DeValue<'_>>)| {
                build(item.get_ref(), item.span(), format!("{label}[{at}]"))
            };
            Kind::List(items.iter().enumerate().map(item).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => Kind::Table(build_table(table, span.clone(), label.clone())?),
    };
    Ok(Value { span, label, kind })
}

/// Inside `[task.NAME]` and `[defaults]` a key is called by its own name.
fn child_label(parent: &str, key: &str) -> String {
    let section = parent.is_empty() || parent == "defaults" || parent.starts_with("task.");
    let bare = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    match (section, bare) {
        (true, _) => key.to_owned(),
        (false, true) => format!("{parent}.{key}"),
        (false, false) => format!("{parent}.\"{key}\""),
    }
}

impl Table {
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The only entry of a table that names a choice, such as `{ file = "x" }`.
    pub(super) fn only(&self, choices: &str) -> Result<&Entry, Fault> {
        match self.entries.as_slice() {
            [only] => Ok(only),
            [] => {
                let message = format!("`{}` must have one of {choices}", self.label);
                Err(Fault::new(&self.span, message).coded(FaultCode::Missing))
            }
            [_, second, ..] => {
                let message = format!("`{}` must have only one of {choices}", self.label);
                Err(Fault::new(&second.key_span, message).coded(FaultCode::Type))
            }
        }
    }
}

impl Value {
    /// Takes the place of a string.
    pub(super) fn set_text(&mut self, text: String) {
        self.kind = Kind::Text(text);
    }

    /// The values inside.
    pub(super) fn children_mut(&mut self) -> impl Iterator<Item = &mut Self> {
        let (list, table) = match &mut self.kind {
            Kind::List(items) => (Some(items.iter_mut()), None),
            Kind::Table(table) => (None, Some(table.entries.iter_mut().map(|entry| &mut entry.value))),
            _ => (None, None),
        };
        list.into_iter().flatten().chain(table.into_iter().flatten())
    }

    pub(super) fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::new(&self.span, message)
    }

    /// `` `label` must be {wanted}, not {found} ``
    pub(super) fn mismatch(&self, wanted: &str) -> Fault {
        self.fault(format!("`{}` must be {wanted}, not {}", self.label, self.type_name())).coded(FaultCode::Type)
    }

    fn type_name(&self) -> &'static str {
        match &self.kind {
            Kind::Text(_) => "a string",
            Kind::Integer(_) => "an integer",
            Kind::Boolean(_) => "a boolean",
            Kind::List(_) => "a list",
            Kind::Table(_) => "a table",
            Kind::Other(name, _) => name,
        }
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        if let Kind::Text(text) = &self.kind { Some(text) } else { None }
    }

    pub(super) fn as_integer(&self) -> Option<i64> {
        if let Kind::Integer(integer) = self.kind { Some(integer) } else { None }
    }

    pub(super) fn as_list(&self) -> Option<&[Self]> {
        if let Kind::List(items) = &self.kind { Some(items) } else { None }
    }

    pub(super) fn as_table(&self) -> Option<&Table> {
        if let Kind::Table(table) = &self.kind { Some(table) } else { None }
    }

    /// A string, as written.
    pub(super) fn text(&self) -> Result<&str, Fault> {
        match &self.kind {
            Kind::Text(text) => Ok(text),
            Kind::Integer(integer) => {
                let message = format!("`{}` must be a string; write \"{integer}\"", self.label);
                Err(self.fault(message).coded(FaultCode::Type))
            }
            _ => Err(self.mismatch("a string")),
        }
    }

    /// A string in which `{{ }}` means nothing.
    pub(super) fn plain(&self) -> Result<&str, Fault> {
        let text = self.text()?;
        match text.find("{{") {
            None => Ok(text),
            Some(_) => Err(self
                .fault(format!("`{}` cannot differ between tasks: `{{{{ }}}}` is not supported here", self.label))
                .within(Some("{{"))
                .coded(FaultCode::Template)),
        }
    }

    pub(super) fn list(&self, of: &str) -> Result<&[Self], Fault> {
        self.as_list().ok_or_else(|| self.mismatch(&format!("a list of {of}")))
    }

    pub(super) fn table(&self, example: &str) -> Result<&Table, Fault> {
        self.as_table().ok_or_else(|| self.mismatch(&format!("a table such as {example}")))
    }

    pub(super) fn integer(&self, allowed: RangeInclusive<i64>) -> Result<i64, Fault> {
        let integer = self.as_integer().ok_or_else(|| self.mismatch("an integer"))?;
        let (least, most) = (allowed.start(), allowed.end());
        let limits = match *most {
            i64::MAX => format!("at least {least}"),
            _ => format!("{least} to {most}"),
        };
        let outside = || self.fault(format!("`{}` must be {limits}, not {integer}", self.label));
        if allowed.contains(&integer) { Ok(integer) } else { Err(outside()) }
    }

    pub(super) fn boolean(&self) -> Result<bool, Fault> {
        if let Kind::Boolean(boolean) = self.kind { Ok(boolean) } else { Err(self.mismatch("true or false")) }
    }

    /// `true`, where `false` would mean nothing.
    pub(super) fn only_true(&self) -> Result<(), Fault> {
        let message = || format!("`{}` can only be `true`; leave it out otherwise", self.label);
        let wrong = || self.fault(message()).coded(FaultCode::Type);
        if matches!(self.kind, Kind::Boolean(true)) { Ok(()) } else { Err(wrong()) }
    }

    /// A string, number or boolean as text: one value of a matrix axis.
    pub(super) fn scalar(&self) -> Result<String, Fault> {
        match &self.kind {
            Kind::Text(_) => Ok(self.plain()?.to_owned()),
            Kind::Integer(integer) => Ok(integer.to_string()),
            Kind::Boolean(boolean) => Ok(boolean.to_string()),
            Kind::Other(_, written) => Ok(written.clone()),
            Kind::List(_) | Kind::Table(_) => Err(self.mismatch("a string or a number")),
        }
    }

    /// A size in bytes: `"256MiB"`, or an integer.
    pub(super) fn size(&self, allowed: RangeInclusive<u64>) -> Result<u64, Fault> {
        let unclear = || self.fault(format!("`{}` must be a size such as \"256MiB\"", self.label));
        let bytes = match &self.kind {
            Kind::Text(text) => text.parse::<ByteSize>().map_err(|_| unclear())?.as_u64(),
            Kind::Integer(integer) => u64::try_from(*integer).map_err(|_| unclear())?,
            _ => return Err(unclear().coded(FaultCode::Type)),
        };
        let (least, most) = (ByteSize(*allowed.start()), ByteSize(*allowed.end()));
        let outside = || self.fault(format!("`{}` must be {least} to {most}", self.label));
        if allowed.contains(&bytes) { Ok(bytes) } else { Err(outside()) }
    }

    /// A duration such as `"1m 30s"`, in milliseconds.
    pub(super) fn duration_ms(&self, allowed: RangeInclusive<Duration>) -> Result<u64, Fault> {
        let unclear = || self.fault(format!("`{}` must be a duration such as \"1m 30s\"", self.label));
        let text = self.as_text().ok_or_else(|| unclear().coded(FaultCode::Type))?;
        let duration = duration(text).ok_or_else(unclear)?;
        if !allowed.contains(&duration) {
            let (least, most) = (shown(*allowed.start()), shown(*allowed.end()));
            return Err(self.fault(format!("`{}` must be {least} to {most}", self.label)));
        }
        Ok(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}

/// A span of hours and less, or of days and weeks, which here have 24 hours and 7 days: no calendar is involved.
fn duration(text: &str) -> Option<Duration> {
    let span: Span = text.parse().ok()?;
    let signed = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(signed).ok()
}

/// In whole days when it is some.
fn shown(limit: Duration) -> String {
    const DAY_SECONDS: u64 = 24 * 3600;
    match limit.as_secs() {
        seconds if seconds > 0 && seconds.is_multiple_of(DAY_SECONDS) => format!("{}d", seconds / DAY_SECONDS),
        _ => format!("{:#}", jiff::SignedDuration::try_from(limit).unwrap_or(jiff::SignedDuration::MAX)),
    }
}
