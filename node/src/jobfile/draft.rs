//! One `[task.NAME]` table, read on top of `[defaults]`, before the tasks are put in order.

use std::collections::BTreeMap;
use std::ops::Range;

use swarm_protocol::{Hash, OutputSpec, Stdin};

use super::blobs::{Blobs, Named};
use super::elements::{self, Elements};
use super::error::{Fault, FaultCode, suggestion};
use super::inputs::{self, DraftInput, DraftSource, Template, Word};
use super::keys;
use super::settings::Settings;
use super::tree::{Entry, Table, Value};

/// The exported function that a WASI command is entered by.
const ENTRY: &str = "_start";
/// Bytes of a name: of a task, a function, a variable.
const NAME_BYTES_MAX: usize = 63;

/// A task table as its author meant it.
pub(super) struct Draft {
    pub(super) name: Word,
    pub(super) wasm: Hash,
    pub(super) entry: String,
    pub(super) args: Vec<Template>,
    pub(super) env: BTreeMap<String, Template>,
    pub(super) stdin: Stdin,
    /// Where the text of `stdin` stands.
    pub(super) stdin_span: Range<usize>,
    pub(super) elements: Elements,
    pub(super) inputs: Vec<DraftInput>,
    pub(super) outputs: Vec<OutputSpec>,
    /// `needs`, then what inputs are from; no name twice.
    pub(super) needs: Vec<DraftNeed>,
    pub(super) settings: Settings,
}

/// A task that is needed, and how.
pub(super) struct DraftNeed {
    pub(super) task: Word,
    /// Names by which it is needed element by element; none when it is needed whole.
    pub(super) same: Vec<Word>,
    pub(super) finished: bool,
}

/// The task's own table over the defaults.
struct Layers<'t>([Option<&'t Table>; 2]);

impl<'t> Layers<'t> {
    fn each(&self) -> impl Iterator<Item = &'t Table> + use<'t> {
        self.0.into_iter().flatten()
    }

    /// The task's own value, or else the default.
    fn get(&self, key: &str) -> Option<&'t Value> {
        self.each().filter_map(|table| table.get(key)).last()
    }

    /// The entries of a table that merges, by key: the task's own instead of a default.
    fn merged(&self, key: &str, example: &str) -> Result<BTreeMap<&'t str, &'t Entry>, Fault> {
        let mut merged = BTreeMap::new();
        for value in self.each().filter_map(|table| table.get(key)) {
            merged.extend(value.table(example)?.entries.iter().map(|entry| (entry.key.as_str(), entry)));
        }
        Ok(merged)
    }
}

/// Reads a task table whose keys were not checked yet.
pub(super) fn read(entry: &Entry, defaults: Option<&Table>, blobs: &mut Blobs<'_>) -> Result<Draft, Fault> {
    let task = entry.key.as_str();
    check_name(entry)?;
    let own = entry.value.as_table().ok_or_else(|| entry.value.mismatch("a table"))?;
    keys::TASK.check(own)?;
    let layers = Layers([defaults, Some(own)]);
    let missing = || {
        Fault::new(&entry.key_span, format!("task `{task}` has no `wasm`: the module to run")).coded(FaultCode::Missing)
    };
    let wasm = blobs.module(Named { value: layers.get("wasm").ok_or_else(missing)?, task })?;
    let elements = elements::read(own, task, blobs)?;
    let (stdin, stdin_span) = stdin(&layers, task, &elements, blobs)?;
    let inputs = inputs(&layers, task, &elements, blobs)?;
    Ok(Draft {
        name: Word { text: task.to_owned(), span: entry.key_span.clone() },
        wasm,
        entry: layers.get("entry").map_or(Ok(ENTRY.to_owned()), function)?,
        args: layers.get("args").map_or(Ok(Vec::new()), args)?,
        env: env(&layers)?,
        stdin,
        stdin_span,
        needs: needs(own, &inputs)?,
        elements,
        inputs,
        outputs: inputs::outputs(&layers.each().filter_map(|table| table.get("outputs")).collect::<Vec<_>>())?,
        settings: settings(&layers)?,
    })
}

fn check_name(entry: &Entry) -> Result<(), Fault> {
    let name = entry.key.as_str();
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if plain && (1..=NAME_BYTES_MAX).contains(&name.len()) {
        return Ok(());
    }
    let rule = "a task name has 1 to 63 letters, digits, - and _";
    Err(Fault::new(&entry.key_span, format!("the name `{name}` is not valid: {rule}")))
}

fn function(value: &Value) -> Result<String, Fault> {
    let name = value.plain()?;
    let usable = !name.is_empty() && name.len() <= 4 * NAME_BYTES_MAX && !name.chars().any(char::is_control);
    if usable { Ok(name.to_owned()) } else { Err(value.fault("`entry` must be the name of an exported function")) }
}

fn args(value: &Value) -> Result<Vec<Template>, Fault> {
    value.list("strings")?.iter().map(Template::read).collect()
}

fn env(layers: &Layers<'_>) -> Result<BTreeMap<String, Template>, Fault> {
    let variable = |(name, entry): (&str, &Entry)| {
        check_variable(entry)?;
        Ok((name.to_owned(), Template::read(&entry.value)?))
    };
    layers.merged("env", "{ LEVEL = \"warn\" }")?.into_iter().map(variable).collect()
}

fn check_variable(entry: &Entry) -> Result<(), Fault> {
    let name = entry.key.as_str();
    if name.is_empty() || name.len() > 4 * NAME_BYTES_MAX || name.contains('=') || name.chars().any(char::is_control) {
        let message = format!("`{name}` cannot be a variable: a name has up to 252 characters, and no `=`");
        return Err(Fault::new(&entry.key_span, message));
    }
    if name.starts_with("SWARM_") {
        let message = format!("`{name}` cannot be set: names that begin with `SWARM_` are given to every task");
        return Err(Fault::new(&entry.key_span, message));
    }
    Ok(())
}

fn stdin(
    layers: &Layers<'_>,
    task: &str,
    elements: &Elements,
    blobs: &mut Blobs<'_>,
) -> Result<(Stdin, Range<usize>), Fault> {
    match layers.get("stdin") {
        None => Ok((Stdin::Empty, 0..0)),
        Some(value) => {
            let text = value.as_table().and_then(|table| table.get("text"));
            Ok((inputs::stdin(value, task, elements, blobs)?, text.unwrap_or(value).span.clone()))
        }
    }
}

fn inputs(
    layers: &Layers<'_>,
    task: &str,
    elements: &Elements,
    blobs: &mut Blobs<'_>,
) -> Result<Vec<DraftInput>, Fault> {
    let merged = layers.merged("inputs", "{ \"scene.json\" = { file = \"scene.json\" } }")?;
    let inputs = merged.values().map(|entry| inputs::input(entry, task, elements, blobs)).collect::<Result<_, _>>()?;
    if let Some(value) = layers.get("inputs") {
        inputs::check_paths_len(merged.len(), value)?;
    }
    let mut paths: Vec<_> = merged.values().map(|entry| (entry.key.as_str(), &entry.key_span)).collect();
    paths.sort_by_key(|(_, span)| span.start);
    inputs::check_apart(&paths)?;
    Ok(inputs)
}

fn needs(own: &Table, inputs: &[DraftInput]) -> Result<Vec<DraftNeed>, Fault> {
    let written = own.get("needs").map_or(Ok([].as_slice()), |needs| needs.list("task names"))?;
    let mut needs = written.iter().map(need).collect::<Result<Vec<DraftNeed>, _>>()?;
    for (at, need) in needs.iter().enumerate() {
        if needs[..at].iter().any(|before| before.task.text == need.task.text) {
            return Err(Fault::new(&need.task.span, format!("task `{}` is needed twice", need.task.text)));
        }
    }
    for input in inputs {
        if let DraftSource::From { task, .. } = &input.source
            && !needs.iter().any(|need| need.task.text == task.text)
        {
            let task = Word { text: task.text.clone(), span: task.span.clone() };
            needs.push(DraftNeed { task, same: Vec::new(), finished: false });
        }
    }
    Ok(needs)
}

fn need(value: &Value) -> Result<DraftNeed, Fault> {
    let Some(table) = value.as_table() else {
        return Ok(DraftNeed { task: Word::read(value)?, same: Vec::new(), finished: false });
    };
    keys::NEED.check(table)?;
    let missing = || value.fault("an entry of `needs` must name its `task`").coded(FaultCode::Missing);
    let task = Word::read(table.get("task").ok_or_else(missing)?)?;
    let same = match table.get("same") {
        None => Vec::new(),
        Some(names) => match names.list("names")? {
            [] => return Err(names.fault("`same` names nothing").coded(FaultCode::Type)),
            list => list.iter().map(Word::read).collect::<Result<_, _>>()?,
        },
    };
    let finished = match table.get("when").map(|when| Ok((when, when.text()?))).transpose()? {
        None | Some((_, "done")) => false,
        Some((_, "finished")) => true,
        Some((when, other)) => {
            let hint = suggestion(other, ["done", "finished"]);
            return Err(when
                .fault(format!("`when` is `done` or `finished`, not `{other}`{hint}"))
                .coded(FaultCode::Type));
        }
    };
    Ok(DraftNeed { task, same, finished })
}

fn settings(layers: &Layers<'_>) -> Result<Settings, Fault> {
    let mut settings = Settings::default();
    layers.each().try_for_each(|table| settings.apply(table))?;
    Ok(settings)
}
