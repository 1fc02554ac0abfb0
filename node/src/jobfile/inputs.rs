//! `stdin`, `inputs` and `outputs`: what a task reads and what it leaves behind.
//!
//! Always true: a guest path is relative, plain and below its own root, and none lies inside another.

use std::collections::BTreeMap;
use std::ops::Range;

use swarm_protocol::{InputSource, OutputRule, Stdin};

use super::blobs::{Blobs, Named};
use super::elements::Elements;
use super::error::{Fault, FaultCode};
use super::keys;
use super::tree::{Entry, Table, Value};

/// Bytes of a guest path: far below what any file system takes, data directory included.
const GUEST_PATH_BYTES_MAX: usize = 512;
/// Bytes of one part of a path, as Linux has it.
const PART_BYTES_MAX: usize = 255;
/// Entries of `inputs` and of `outputs`: each is a file to place or to collect around every run.
const PATHS_MAX: usize = 256;

/// A string with `{{ }}` and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Template {
    pub(super) text: String,
    pub(super) span: Range<usize>,
}

impl Template {
    pub(super) fn read(value: &Value) -> Result<Self, Fault> {
        Ok(Self { text: value.text()?.to_owned(), span: value.span.clone() })
    }
}

/// An entry of `inputs`, before the stages have positions.
pub(super) struct DraftInput {
    pub(super) path: String,
    pub(super) source: DraftSource,
}

/// Where an input is from.
pub(super) enum DraftSource {
    Known(InputSource),
    /// `{ from, path, as }`
    From {
        task: Word,
        path: Word,
        name: Option<Template>,
    },
}

/// A string and where it stands.
pub(super) struct Word {
    pub(super) text: String,
    pub(super) span: Range<usize>,
}

impl Word {
    pub(super) fn read(value: &Value) -> Result<Self, Fault> {
        Ok(Self { text: value.plain()?.to_owned(), span: value.span.clone() })
    }
}

/// Reads `stdin`; a text is a template.
pub(super) fn stdin(value: &Value, task: &str, elements: &Elements, blobs: &mut Blobs<'_>) -> Result<Stdin, Fault> {
    let table = value.table("{ text = \"…\" } or { file = \"in.txt\" }")?;
    keys::STDIN.check(table)?;
    let entry = table.only("`text`, `file` and `item`")?;
    match entry.key.as_str() {
        "text" => Ok(Stdin::Text(entry.value.text()?.to_owned())),
        "file" => blobs.file(Named { value: &entry.value, task }).map(|(hash, len)| Stdin::File { hash, len }),
        _ => item(entry, elements).map(|()| Stdin::Item),
    }
}

fn item(entry: &Entry, elements: &Elements) -> Result<(), Fault> {
    entry.value.only_true()?;
    let message = format!("`{}` needs an `array` or `each`: this task has no items", entry.value.label);
    if elements.has_items() { Ok(()) } else { Err(Fault::new(&entry.key_span, message).coded(FaultCode::Reference)) }
}

/// Reads one entry of `inputs`.
pub(super) fn input(
    entry: &Entry,
    task: &str,
    elements: &Elements,
    blobs: &mut Blobs<'_>,
) -> Result<DraftInput, Fault> {
    check_guest_path(&entry.key, &entry.key_span, "/in")?;
    let table = entry.value.table("{ file = \"scene.json\" }")?;
    keys::INPUT.check(table)?;
    let path = entry.key.clone();
    let source = match table.entry("from") {
        Some(from) => from_task(table, from)?,
        None => DraftSource::Known(known(table, task, elements, blobs)?),
    };
    Ok(DraftInput { path, source })
}

fn known(table: &Table, task: &str, elements: &Elements, blobs: &mut Blobs<'_>) -> Result<InputSource, Fault> {
    if let Some(entry) = table.entry("path").or_else(|| table.entry("as")) {
        let message = format!("`{}` needs `from`, which names an earlier task", entry.key);
        return Err(Fault::new(&entry.key_span, message).coded(FaultCode::Missing));
    }
    let entry = table.only("`file`, `glob`, `dir`, `text`, `blob`, `item` and `from`")?;
    let at = Named { value: &entry.value, task };
    match entry.key.as_str() {
        "file" => blobs.file(at).map(|(hash, len)| InputSource::File { hash, len }),
        "glob" => {
            let files: Vec<_> = blobs.glob(at)?.into_iter().map(|found| found.file).collect();
            blobs.list(at, &files).map(InputSource::Tree)
        }
        "dir" => {
            let files = blobs.dir(at)?;
            blobs.list(at, &files).map(InputSource::Tree)
        }
        "blob" => blobs.named(at).map(|hash| InputSource::File { hash, len: 0 }),
        "text" => {
            let bytes = entry.value.plain()?.as_bytes().to_vec();
            let len = bytes.len() as u64;
            Ok(InputSource::File { hash: blobs.bytes(bytes), len })
        }
        _ => item(entry, elements).map(|()| InputSource::Item),
    }
}

fn from_task(table: &Table, from: &Entry) -> Result<DraftSource, Fault> {
    let other = |entry: &&Entry| !matches!(entry.key.as_str(), "from" | "path" | "as");
    if let Some(entry) = table.entries.iter().find(other) {
        let message = format!("`{}` must have only one of `from` and `{}`", table.label, entry.key);
        return Err(Fault::new(&entry.key_span, message).coded(FaultCode::Type));
    }
    let needed = "`from` needs `path`: one of that task's outputs";
    let missing = || Fault::new(&from.key_span, needed).coded(FaultCode::Missing);
    let path = Word::read(table.get("path").ok_or_else(missing)?)?;
    let name = table.get("as").map(Template::read).transpose()?;
    Ok(DraftSource::From { task: Word::read(&from.value)?, path, name })
}

/// Declared outputs, and the rules of those that have any.
pub(super) type Outputs = (Vec<String>, BTreeMap<String, OutputRule>);

/// Reads `outputs`: a list of paths, or a table of rules.
pub(super) fn outputs(value: &Value) -> Result<Outputs, Fault> {
    if let Some(table) = value.as_table() {
        return output_rules(value, table);
    }
    let list = value.list("paths, or a table such as { \"a.txt\" = { required = true } }")?;
    check_paths_len(list.len(), value)?;
    for output in list {
        check_guest_path(output.plain()?, &output.span, "/out")?;
    }
    let paths: Vec<(&str, &Range<usize>)> =
        list.iter().filter_map(|output| Some((output.as_text()?, &output.span))).collect();
    check_apart(&paths)?;
    Ok((paths.into_iter().map(|(path, _)| path.to_owned()).collect(), BTreeMap::new()))
}

fn output_rules(value: &Value, table: &Table) -> Result<Outputs, Fault> {
    check_paths_len(table.entries.len(), value)?;
    let mut rules = BTreeMap::new();
    for entry in &table.entries {
        check_guest_path(&entry.key, &entry.key_span, "/out")?;
        let table = entry.value.table("{ required = true, max = \"512MiB\" }")?;
        keys::OUTPUT.check(table)?;
        let required = table.get("required").map_or(Ok(true), Value::boolean)?;
        let bytes_max = table.get("max").map(|max| max.size(1..=u64::MAX)).transpose()?;
        rules.insert(entry.key.clone(), OutputRule { required, bytes_max });
    }
    let paths: Vec<_> = table.entries.iter().map(|entry| (entry.key.as_str(), &entry.key_span)).collect();
    check_apart(&paths)?;
    Ok((paths.into_iter().map(|(path, _)| path.to_owned()).collect(), rules))
}

pub(super) fn check_paths_len(len: usize, value: &Value) -> Result<(), Fault> {
    let message = || format!("`{}` has {len} entries, and at most {PATHS_MAX} are possible", value.label);
    if len > PATHS_MAX { Err(value.fault(message()).coded(FaultCode::Limit)) } else { Ok(()) }
}

/// Refuses a path that is given twice or that makes a folder of another one.
pub(super) fn check_apart(paths: &[(&str, &Range<usize>)]) -> Result<(), Fault> {
    for (at, (path, span)) in paths.iter().enumerate() {
        for (before, _) in &paths[..at] {
            if path == before {
                return Err(Fault::new(span, format!("`{path}` is given twice")));
            }
            let inside = |outer: &str, inner: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
            if inside(before, path) || inside(path, before) {
                return Err(Fault::new(
                    span,
                    format!("`{path}` and `{before}` cannot both be: one lies inside the other"),
                ));
            }
        }
    }
    Ok(())
}

fn check_guest_path(path: &str, span: &Range<usize>, root: &str) -> Result<(), Fault> {
    let refuse = |why: String| Err(Fault::new(span, format!("the path `{path}` {why}")));
    if path.is_empty() {
        return Err(Fault::new(span, format!("a path under `{root}` is empty")));
    }
    if path.starts_with('/') {
        return refuse(format!("must be relative: it is under `{root}` already"));
    }
    if path.contains("{{") {
        return refuse("cannot differ between tasks: `{{ }}` is not supported here".to_owned());
    }
    if path.contains('\\') || path.chars().any(char::is_control) {
        return refuse("must not hold backslashes or control characters".to_owned());
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return refuse("must not have `..`, `.` or empty parts".to_owned());
    }
    if path.len() > GUEST_PATH_BYTES_MAX || path.split('/').any(|part| part.len() > PART_BYTES_MAX) {
        return refuse(format!("is over {GUEST_PATH_BYTES_MAX} bytes, or a part of it over {PART_BYTES_MAX}"));
    }
    Ok(())
}

/// Whether a rendered `as` is one plain file name.
pub(super) fn is_file_name(name: &str) -> bool {
    let plain = !name.contains(['/', '\\']) && !name.chars().any(char::is_control);
    plain && !matches!(name, "" | "." | "..") && name.len() <= PART_BYTES_MAX
}
