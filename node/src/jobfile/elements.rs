//! `array`, `matrix` and `each`: how many tasks a table stands for, and what differs between them.
//!
//! Always true: the count is from 1 to `STAGE_TASKS_MAX`, and nothing is expanded to find it.

use swarm_protocol::{Axis, Item, STAGE_TASKS_MAX};

use super::blobs::{Blobs, Named};
use super::error::Fault;
use super::keys;
use super::template::STRING_BYTES_MAX;
use super::tree::{Entry, Table, Value};

/// Values of one axis: they stand in the spec, which has 256 KiB. A longer range is an `array`.
const AXIS_VALUES_MAX: u64 = 16_384;
/// Axes of a matrix; with two values each, the most that a stage of 2^24 tasks has room for.
const AXES_MAX: usize = 24;
/// What templates already mean by these words.
const RESERVED: &[&str] = &[
    "index", "item", "params", "true", "false", "none", "True", "False", "None", "and", "or", "not", "in", "is", "if",
    "else", "self", "loop",
];

/// What differs between the tasks of a table.
pub(super) struct Elements {
    pub(super) spec: swarm_protocol::Elements,
    pub(super) count: u32,
    /// One a task, for `each`.
    pub(super) items: Vec<Item>,
}

impl Elements {
    /// Whether each task has an `item`.
    pub(super) fn has_items(&self) -> bool {
        matches!(self.spec, swarm_protocol::Elements::Numbers { .. } | swarm_protocol::Elements::List(_))
    }
}

/// Reads whichever of the three a task table has.
pub(super) fn read(table: &Table, task: &str, blobs: &mut Blobs<'_>) -> Result<Elements, Fault> {
    let kinds = |entry: &&Entry| matches!(entry.key.as_str(), "array" | "each" | "matrix");
    let mut given = table.entries.iter().filter(kinds);
    let Some(entry) = given.next() else {
        return Ok(Elements { spec: swarm_protocol::Elements::One, count: 1, items: Vec::new() });
    };
    if let Some(second) = given.next() {
        let message = format!("a task has only one of `array`, `each` and `matrix`, and this one has `{}`", entry.key);
        return Err(Fault::new(&second.key_span, message));
    }
    match entry.key.as_str() {
        "array" => array(&entry.value, task),
        "matrix" => matrix(&entry.value, task),
        _ => each(&entry.value, task, blobs),
    }
}

fn array(value: &Value, task: &str) -> Result<Elements, Fault> {
    let (start, count) = value.as_text().and_then(range).ok_or_else(|| not_a_range(value))?;
    Ok(Elements {
        spec: swarm_protocol::Elements::Numbers { start },
        count: stage_count(value, task, count.into())?,
        items: Vec::new(),
    })
}

fn not_a_range(value: &Value) -> Fault {
    value.fault(format!("`{}` must be a range such as \"0..1000\"", value.label))
}

/// The start and the length of `A..B`, which excludes `B`.
fn range(text: &str) -> Option<(i64, u64)> {
    let (start, end) = text.split_once("..")?;
    let (start, end): (i64, i64) = (start.trim().parse().ok()?, end.trim().parse().ok()?);
    Some((start, if end > start { end.abs_diff(start) } else { 0 }))
}

fn matrix(value: &Value, task: &str) -> Result<Elements, Fault> {
    let table = value.table("{ x = \"0..16\", mode = [\"fast\", \"exact\"] }")?;
    keys::check_matrix(table)?;
    if table.entries.len() > AXES_MAX {
        return Err(value.fault(format!("a matrix has at most {AXES_MAX} axes")));
    }
    let axes = table.entries.iter().map(axis).collect::<Result<Vec<_>, _>>()?;
    check_distinct(table)?;
    let product = axes.iter().map(|axis| axis.values.len() as u128).try_fold(1, u128::checked_mul);
    let count = if axes.is_empty() { 0 } else { product.unwrap_or(u128::MAX) };
    let count = stage_count(value, task, count)?;
    Ok(Elements { spec: swarm_protocol::Elements::Matrix(axes), count, items: Vec::new() })
}

/// The environment has one `SWARM_MATRIX_X` for `x` and `X`.
fn check_distinct(table: &Table) -> Result<(), Fault> {
    let twin = |(at, entry): &(usize, &Entry)| {
        table.entries[..*at].iter().any(|before| before.key.eq_ignore_ascii_case(&entry.key))
    };
    match table.entries.iter().enumerate().find(twin) {
        None => Ok(()),
        Some((_, entry)) => {
            let message = format!("axis `{}` differs from another one only by its case", entry.key);
            Err(Fault::new(&entry.key_span, message))
        }
    }
}

fn axis(entry: &Entry) -> Result<Axis, Fault> {
    check_axis_name(entry)?;
    let value = &entry.value;
    let values = match (value.as_text(), value.as_list()) {
        (Some(text), _) => {
            let (start, count) = range(text).ok_or_else(|| axis_mismatch(value))?;
            check_axis_len(entry, count)?;
            (start..).take(usize::try_from(count).unwrap_or(usize::MAX)).map(|number| number.to_string()).collect()
        }
        (None, Some(list)) => {
            check_axis_len(entry, list.len() as u64)?;
            list.iter().map(axis_value).collect::<Result<_, _>>()?
        }
        (None, None) => return Err(axis_mismatch(value)),
    };
    Ok(Axis { name: entry.key.clone(), values })
}

fn axis_mismatch(value: &Value) -> Fault {
    value.fault(format!("`{}` must be a list or a range such as \"0..16\"", value.label))
}

fn axis_value(value: &Value) -> Result<String, Fault> {
    let text = value.scalar()?;
    let usable = text.len() <= STRING_BYTES_MAX && !text.contains('\0');
    if usable { Ok(text) } else { Err(value.fault("a value is at most 64 KiB of text without NUL")) }
}

fn check_axis_name(entry: &Entry) -> Result<(), Fault> {
    let name = entry.key.as_str();
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !plain || name.starts_with(|c: char| c.is_ascii_digit()) || !(1..=63).contains(&name.len()) {
        let message = format!("axis `{name}` must be a word of letters, digits and _ to be used in templates");
        return Err(Fault::new(&entry.key_span, message));
    }
    if RESERVED.contains(&name) {
        return Err(Fault::new(
            &entry.key_span,
            format!("`{name}` already means something in templates; name the axis otherwise"),
        ));
    }
    Ok(())
}

fn check_axis_len(entry: &Entry, count: u64) -> Result<(), Fault> {
    match count {
        0 => Err(entry.value.fault(format!("axis `{}` is empty, so there is nothing to run", entry.key))),
        1..=AXIS_VALUES_MAX => Ok(()),
        _ => {
            let message = format!(
                "axis `{}` has {count} values, and at most {AXIS_VALUES_MAX} are possible; use `array` for a long range",
                entry.key
            );
            Err(entry.value.fault(message))
        }
    }
}

fn each(value: &Value, task: &str, blobs: &mut Blobs<'_>) -> Result<Elements, Fault> {
    let table = value.table("{ lines = \"names.txt\" } or { files = \"in/*.txt\" }")?;
    keys::EACH.check(table)?;
    let entry = table.only("`lines` and `files`")?;
    let at = Named { value: &entry.value, task };
    let items: Vec<Item> = if entry.key == "lines" {
        blobs.lines(at)?.into_iter().map(|text| Item { text, file: None }).collect()
    } else {
        let item =
            |found: super::blobs::Found| Item { text: found.shown, file: Some((found.file.hash, found.file.len)) };
        blobs.glob(at)?.into_iter().map(item).collect()
    };
    let count = stage_count(&entry.value, task, items.len() as u128)?;
    Ok(Elements { spec: swarm_protocol::Elements::List(blobs.list(at, &items)?), count, items })
}

fn stage_count(value: &Value, task: &str, count: u128) -> Result<u32, Fault> {
    match u32::try_from(count) {
        Ok(0) => {
            let why = if value.label == "array" { " (the end of a range is not part of it)" } else { "" };
            Err(value.fault(format!("`{}` of task `{task}` is empty{why}, so there is nothing to run", value.label)))
        }
        Ok(count) if count <= STAGE_TASKS_MAX => Ok(count),
        _ => {
            let count = if count == u128::MAX { "more than 2^128".to_owned() } else { count.to_string() };
            Err(value
                .fault(format!("task `{task}` stands for {count} tasks, and at most {STAGE_TASKS_MAX} are possible")))
        }
    }
}
