//! `array`, `matrix` and `each`: how many tasks a table stands for, and what differs between them.
//!
//! Always true: the count is from 1 to `STAGE_TASKS_MAX`, and nothing is expanded to find it.

use swarm_protocol::{Axis, Cell, EXCLUDES_MAX, Grid, INCLUDES_MAX, Item, STAGE_TASKS_MAX, Values};

use super::blobs::{Blobs, Named};
use super::error::{Fault, FaultCode, suggestion};
use super::keys;
use super::template::STRING_BYTES_MAX;
use super::tree::{Entry, Table, Value};

/// Values of one axis: they stand in the spec, which has 256 KiB. A longer range is an `array`.
const AXIS_VALUES_MAX: u64 = 16_384;
/// Axes of a matrix; with two values each, the most that a stage of 2^24 tasks has room for.
const AXES_MAX: usize = 24;
/// Keys of a matrix that are no axes.
const NOT_AXES: [&str; 2] = ["include", "exclude"];
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
        use swarm_protocol::Elements::{Json, List, Numbers};
        matches!(self.spec, Numbers { .. } | List(_) | Json(_))
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
        return Err(Fault::new(&second.key_span, message).coded(FaultCode::Type));
    }
    match entry.key.as_str() {
        "array" => array(&entry.value, task),
        "matrix" => matrix(&entry.value, task),
        _ => each(&entry.value, task, blobs),
    }
}

fn array(value: &Value, task: &str) -> Result<Elements, Fault> {
    let text = value.as_text().ok_or_else(|| not_a_range(value).coded(FaultCode::Type))?;
    let (start, count) = range(text).ok_or_else(|| not_a_range(value))?;
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
    let own: Vec<&Entry> = table.entries.iter().filter(|entry| !NOT_AXES.contains(&entry.key.as_str())).collect();
    if own.len() > AXES_MAX {
        return Err(value.fault(format!("a matrix has at most {AXES_MAX} axes")).coded(FaultCode::Limit));
    }
    let axes = own.iter().map(|entry| axis(entry)).collect::<Result<Vec<_>, _>>()?;
    check_distinct(&own)?;
    if let Some(entry) = table.entries.iter().find(|entry| NOT_AXES.contains(&entry.key.as_str())) {
        return grid(value, task, axes, table, &entry.value);
    }
    let product = axes.iter().map(|axis| axis.values.len() as u128).try_fold(1, u128::checked_mul);
    let count = if axes.is_empty() { 0 } else { product.unwrap_or(u128::MAX) };
    let count = stage_count(value, task, count)?;
    Ok(Elements { spec: swarm_protocol::Elements::Matrix(axes), count, items: Vec::new() })
}

/// A matrix with `include` or `exclude`.
fn grid(value: &Value, task: &str, axes: Vec<Axis>, table: &Table, first: &Value) -> Result<Elements, Fault> {
    let excludes = combinations(table, "exclude", EXCLUDES_MAX)?;
    let exclude = excludes.iter().map(|it| excluded(it, &axes)).collect::<Result<Vec<Cell>, Fault>>()?;
    let plain = Grid::new(axes.clone(), exclude.clone(), Vec::new(), Vec::new());
    let (mut add, mut append) = (Vec::new(), Vec::new());
    for included in combinations(table, "include", INCLUDES_MAX)? {
        let values = included.entries.iter().map(included_value).collect::<Result<Values, Fault>>()?;
        let (mine, more): (Values, Values) =
            values.iter().cloned().partition(|(name, _)| axes.iter().any(|axis| axis.name == *name));
        match cell(&axes, &mine).filter(|cell| !more.is_empty() && plain.has(cell)) {
            Some(cell) => add.push((cell, more)),
            None => append.push(values),
        }
    }
    let grid = Grid::new(axes, exclude, add, append);
    if !grid.is_sound() {
        return Err(first.fault("these combinations are too intricate to be counted").coded(FaultCode::Limit));
    }
    let count = stage_count(value, task, grid.count().into())?;
    Ok(Elements { spec: swarm_protocol::Elements::Grid(grid), count, items: Vec::new() })
}

/// The tables of `include` or `exclude`.
fn combinations<'t>(table: &'t Table, key: &str, max: usize) -> Result<Vec<&'t Table>, Fault> {
    let Some(value) = table.get(key) else { return Ok(Vec::new()) };
    let list = value.list("tables such as { x = 1 }")?;
    if list.len() > max {
        return Err(value.fault(format!("`{}` has at most {max} entries", value.label)).coded(FaultCode::Limit));
    }
    let tables = list.iter().map(|item| item.table("{ x = 1 }")).collect::<Result<Vec<_>, _>>()?;
    match tables.iter().find(|table| table.entries.is_empty()) {
        Some(empty) => Err(Fault::new(&empty.span, format!("an entry of `{}` names nothing", value.label))),
        None => Ok(tables),
    }
}

fn excluded(table: &Table, axes: &[Axis]) -> Result<Cell, Fault> {
    let position = |entry: &Entry| {
        let names = axes.iter().map(|axis| axis.name.as_str());
        let unknown = || {
            let message = format!("the matrix has no axis `{}`{}", entry.key, suggestion(&entry.key, names.clone()));
            Fault::new(&entry.key_span, message).coded(FaultCode::Reference)
        };
        let at = axes.iter().position(|axis| axis.name == entry.key).ok_or_else(unknown)?;
        let text = axis_value(&entry.value)?;
        let values = &axes[at].values;
        let none = || {
            let hint = suggestion(&text, values.iter().map(String::as_str));
            entry.value.fault(format!("axis `{}` has no value `{text}`{hint}", entry.key)).coded(FaultCode::Reference)
        };
        let value = values.iter().position(|value| *value == text).ok_or_else(none)?;
        Ok((u8::try_from(at).unwrap_or(u8::MAX), u32::try_from(value).unwrap_or(u32::MAX)))
    };
    table.entries.iter().map(position).collect()
}

fn included_value(entry: &Entry) -> Result<(String, String), Fault> {
    check_axis_name(entry)?;
    Ok((entry.key.clone(), axis_value(&entry.value)?))
}

/// The positions of these values, when all axes have them.
fn cell(axes: &[Axis], values: &Values) -> Option<Cell> {
    let position = |(name, value): &(String, String)| {
        let at = axes.iter().position(|axis| axis.name == *name)?;
        let found = axes[at].values.iter().position(|known| known == value)?;
        Some((u8::try_from(at).ok()?, u32::try_from(found).ok()?))
    };
    values.iter().map(position).collect()
}

/// The environment has one `SWARM_MATRIX_X` for `x` and `X`.
fn check_distinct(axes: &[&Entry]) -> Result<(), Fault> {
    let twin =
        |(at, entry): &(usize, &&Entry)| axes[..*at].iter().any(|before| before.key.eq_ignore_ascii_case(&entry.key));
    match axes.iter().enumerate().find(twin) {
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
        (None, None) => return Err(axis_mismatch(value).coded(FaultCode::Type)),
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
    let entry = table.only("`lines`, `files` and `json`")?;
    let at = Named { value: &entry.value, task };
    let line = |text| Item { text, file: None };
    let items: Vec<Item> = match entry.key.as_str() {
        "lines" => blobs.lines(at)?.into_iter().map(line).collect(),
        "json" => blobs.json(at)?.into_iter().map(line).collect(),
        _ => {
            let found = blobs.glob(at)?.into_iter();
            found.map(|it| Item { text: it.shown, file: Some((it.file.hash, it.file.len)) }).collect()
        }
    };
    let count = stage_count(&entry.value, task, items.len() as u128)?;
    let list = blobs.list(at, &items)?;
    let spec = match entry.key.as_str() {
        "json" => swarm_protocol::Elements::Json(list),
        _ => swarm_protocol::Elements::List(list),
    };
    Ok(Elements { spec, count, items })
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
