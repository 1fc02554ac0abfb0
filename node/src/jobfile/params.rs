//! `[params]`: values that a user chooses when submitting, and their place in the file's strings.
//!
//! Always true: every parameter has a value of its type and within its limits; a string whose expressions use nothing but
//! parameters is replaced by its text before the file is read any further, so it may stand wherever a string may.

use std::collections::BTreeMap;

use super::error::{Fault, FaultCode, listed, suggestion};
use super::keys;
use super::template::{self, Names};
use super::tree::{Entry, Table, Value};

/// Parameters of one file; more would be a table of their own.
const PARAMS_MAX: usize = 256;
/// Bytes of one value.
const VALUE_BYTES_MAX: usize = 4096;
/// What a parameter can be.
const TYPES: [&str; 5] = ["int", "float", "bool", "string", "file"];

/// Reads `[params]`; `set` are the values that were given from outside, as text.
pub(super) fn read(job: &Table, set: &[(String, String)]) -> Result<BTreeMap<String, String>, Fault> {
    let table = job.get("params").map(|value| value.table("[params]")).transpose()?;
    let entries = table.map_or(&[][..], |table| table.entries.as_slice());
    if entries.len() > PARAMS_MAX {
        return Err(Fault::new(&entries[PARAMS_MAX].key_span, format!("at most {PARAMS_MAX} parameters are possible"))
            .coded(FaultCode::Limit));
    }
    for (name, _) in set {
        if !entries.iter().any(|entry| entry.key == *name) {
            let known = entries.iter().map(|entry| entry.key.as_str());
            let hint = suggestion(name, known.clone());
            let span = table.map_or(0..0, |table| table.span.clone());
            let message = format!("there is no parameter `{name}`; this file has {}{hint}", listed(known));
            return Err(Fault::new(&span, message).coded(FaultCode::Parameter));
        }
    }
    entries.iter().map(|entry| Ok((entry.key.clone(), param(entry, set)?))).collect()
}

fn param(entry: &Entry, set: &[(String, String)]) -> Result<String, Fault> {
    let name = entry.key.as_str();
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !plain || name.starts_with(|c: char| c.is_ascii_digit()) || !(1..=63).contains(&name.len()) {
        let message = format!("parameter `{name}` must be a word of letters, digits and _ to be used in templates");
        return Err(Fault::new(&entry.key_span, message));
    }
    let table = entry.value.table("{ type = \"int\", default = 1 }")?;
    keys::PARAM.check(table)?;
    let kind = kind(entry, table)?;
    let default = table.get("default").map(|value| Ok((value, written(value, kind)?))).transpose()?;
    if let Some((value, text)) = &default {
        check(value, name, kind, text, table)?;
    }
    match (set.iter().rev().find(|(key, _)| key == name), default) {
        (Some((_, text)), _) => {
            check(&entry.value, name, kind, text, table)?;
            Ok(text.clone())
        }
        (None, Some((_, text))) => Ok(text),
        (None, None) => {
            let message = format!("parameter `{name}` has no default: give it with `--set {name}=…`");
            Err(Fault::new(&entry.key_span, message).coded(FaultCode::Parameter))
        }
    }
}

fn kind<'t>(entry: &Entry, table: &'t Table) -> Result<&'t str, Fault> {
    let missing =
        || Fault::new(&entry.key_span, format!("parameter `{}` has no `type`", entry.key)).coded(FaultCode::Missing);
    let value = table.get("type").ok_or_else(missing)?;
    let kind = value.text()?;
    if TYPES.contains(&kind) {
        return Ok(kind);
    }
    let message = format!("`{kind}` is no type; there are {}{}", listed(TYPES), suggestion(kind, TYPES));
    Err(value.fault(message).coded(FaultCode::Type))
}

/// The default, which must be written as its type is.
fn written(value: &Value, kind: &str) -> Result<String, Fault> {
    let text = value.scalar()?;
    let fits = match kind {
        "string" | "file" => value.as_text().is_some(),
        "int" => value.as_integer().is_some(),
        _ => value.as_text().is_none(),
    };
    if fits { Ok(text) } else { Err(value.mismatch(&article(kind)).coded(FaultCode::Value)) }
}

fn article(kind: &str) -> String {
    match kind {
        "int" => "an integer".to_owned(),
        "bool" => "true or false".to_owned(),
        "float" => "a number".to_owned(),
        _ => "a string".to_owned(),
    }
}

fn check(at: &Value, name: &str, kind: &str, text: &str, table: &Table) -> Result<(), Fault> {
    let refuse = |why: String| Err(at.fault(format!("parameter `{name}` {why}")).coded(FaultCode::Parameter));
    if text.len() > VALUE_BYTES_MAX || text.contains("{{") || text.contains('\0') {
        return refuse(format!("must be at most {VALUE_BYTES_MAX} bytes without `{{{{` and NUL"));
    }
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
    let fits = match kind {
        "int" => text.parse::<i64>().is_ok(),
        "float" => number.is_some(),
        "bool" => matches!(text, "true" | "false"),
        _ => true,
    };
    if !fits {
        return refuse(format!("must be {}, not `{text}`", article(kind)));
    }
    for (key, wrong) in [("min", f64::lt as fn(&f64, &f64) -> bool), ("max", f64::gt)] {
        let Some(limit) = table.get(key) else { continue };
        let written = limit.scalar()?;
        let bound = written.parse::<f64>().ok().filter(|_| matches!(kind, "int" | "float"));
        let Some(bound) = bound else {
            return Err(
                limit.fault(format!("`{key}` belongs to a parameter of type `int` or `float`, and is a number"))
            );
        };
        if number.is_some_and(|number| wrong(&number, &bound)) {
            return refuse(format!("must be at {} {written}, not {text}", if key == "min" { "least" } else { "most" }));
        }
    }
    match table.get("choices").map(|choices| choices.list("values")).transpose()? {
        Some(choices) => {
            let choices = choices.iter().map(Value::scalar).collect::<Result<Vec<_>, _>>()?;
            let known = choices.iter().map(String::as_str);
            let message =
                || format!("must be one of {}, not `{text}`{}", listed(known.clone()), suggestion(text, known.clone()));
            if known.clone().any(|choice| choice == text) { Ok(()) } else { refuse(message()) }
        }
        None => Ok(()),
    }
}

/// Replaces the strings that use nothing but parameters, everywhere but in `[params]` itself.
pub(super) fn fill_in(job: &mut Table, params: &BTreeMap<String, String>) -> Result<(), Fault> {
    let names = Names::of_params(params);
    let sections = job.entries.iter_mut().filter(|entry| entry.key != "params");
    sections.map(|entry| &mut entry.value).try_for_each(|value| fill_in_value(value, &names))
}

fn fill_in_value(value: &mut Value, names: &Names) -> Result<(), Fault> {
    if let Some(text) = value.as_text().filter(|text| text.contains("{{")) {
        // What is wrong with a template is told where it is known what it is for.
        let Ok(used) = template::used(text) else { return Ok(()) };
        if used.is_empty() || used.iter().any(|name| name != "params") {
            return Ok(());
        }
        let filled = template::render(text, names)
            .map_err(|error| value.fault(error.to_string()).within(error.culprit()).coded(FaultCode::Template))?;
        value.set_text(filled);
        return Ok(());
    }
    value.children_mut().try_for_each(|child| fill_in_value(child, names))
}
