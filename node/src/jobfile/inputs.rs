//! `stdin`, `inputs` and `outputs`: what a task reads and what it leaves behind.
//!
//! Always true: a guest path is relative, plain and below its own root, and none lies inside another.

use std::ops::Range;

use swarm_protocol::{InputSource, OUTPUTS_MAX, OutputSpec, Stdin, check_output, check_outputs};

use super::blobs::{Blobs, Named};
use super::elements::Elements;
use super::error::{Fault, FaultCode};
use super::keys;
use super::settings::OUTPUTS_BYTES;
use super::tree::{Entry, Table, Value};

/// Bytes of a guest path: far below what any file system takes, data directory included.
const GUEST_PATH_BYTES_MAX: usize = 512;
/// Bytes of one part of a path, as Linux has it.
const PART_BYTES_MAX: usize = 255;
/// Entries of `inputs`: each is a file to place before every run.
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

/// An output, and where its path stands.
type SpannedOutput = (OutputSpec, Range<usize>);

/// Reads `outputs`: a list of paths, or tables by path, of which the later goes before the earlier.
pub(super) fn outputs(layers: &[&Value]) -> Result<Vec<OutputSpec>, Fault> {
    let Some(last) = layers.last() else { return Ok(Vec::new()) };
    let outputs = match last.as_table() {
        None => listed_outputs(last)?,
        Some(_) => tabled_outputs(layers.iter().filter_map(|layer| layer.as_table()))?,
    };
    check_all(&outputs, last)?;
    Ok(outputs.into_iter().map(|(output, _)| output).collect())
}

fn listed_outputs(value: &Value) -> Result<Vec<SpannedOutput>, Fault> {
    let output = |value: &Value| Ok((OutputSpec::required(value.plain()?), value.span.clone()));
    value.list("paths, or a table such as { \"a.txt\" = { required = false } }")?.iter().map(output).collect()
}

fn tabled_outputs<'t>(tables: impl Iterator<Item = &'t Table>) -> Result<Vec<SpannedOutput>, Fault> {
    let mut outputs = Vec::<SpannedOutput>::new();
    for entry in tables.flat_map(|table| &table.entries) {
        let output = (tabled_output(entry)?, entry.key_span.clone());
        match outputs.iter_mut().find(|(known, _)| known.path == entry.key) {
            Some(known) => *known = output,
            None => outputs.push(output),
        }
    }
    Ok(outputs)
}

fn tabled_output(entry: &Entry) -> Result<OutputSpec, Fault> {
    let table = entry.value.table("{ required = true, max = \"512MiB\" }")?;
    keys::OUTPUT.check(table)?;
    Ok(OutputSpec {
        path: entry.key.clone(),
        required: table.get("required").map_or(Ok(true), Value::boolean)?,
        bytes_max: table.get("max").map(|max| max.size(OUTPUTS_BYTES)).transpose()?,
    })
}

/// Refuses one by one, to show where, what would be refused of them together.
fn check_all(outputs: &[SpannedOutput], value: &Value) -> Result<(), Fault> {
    if outputs.len() > OUTPUTS_MAX {
        let len = outputs.len();
        return Err(value.fault(format!("`outputs` has {len} entries, and at most {OUTPUTS_MAX} are possible")));
    }
    for (output, span) in outputs {
        let OutputSpec { path, .. } = output;
        if path.contains("{{") {
            let message = format!("the path `{path}` cannot differ between tasks: `{{{{ }}}}` is not supported here");
            return Err(Fault::new(span, message));
        }
        check_output(path).map_err(|why| Fault::new(span, format!("the path `{path}` {why}")))?;
    }
    let paths: Vec<_> = outputs.iter().map(|(output, span)| (output.path.as_str(), span)).collect();
    check_apart(&paths)?;
    let together = check_outputs(paths.iter().map(|(path, _)| *path));
    together.map_err(|error| value.fault(error.to_string()))
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
