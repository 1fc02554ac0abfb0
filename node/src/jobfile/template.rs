//! `{{ }}` in the strings of a job: what names there are for a task, and the text they give.
//!
//! Always true, whoever wrote the template: rendering does no I/O, ends soon, and uses a few megabytes at most. There
//! are no loops, variables or macros, so work is bounded by an expression's length; the one operator that could blow
//! up, `*`, is evaluated among numbers alone.
//!
//! Elsewhere: which strings of a job are templates is said in `swarm_protocol::StageSpec`.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, LazyLock};

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, Value, filters};
use swarm_protocol::{Elements, Item, StageSpec};

use super::error::listed;

/// Bytes of one string, as a template and rendered: as long as Linux lets half an argument be.
pub const STRING_BYTES_MAX: usize = 64 * 1024;
/// Bytes between `{{` and `}}`. Bounds what one expression can build from the values of names.
const EXPRESSION_BYTES_MAX: usize = 1024;
/// Digits of a width or precision given to `format`: a name of a thousand characters is wide enough.
const FORMAT_DIGITS_MAX: usize = 3;
/// Nesting of an expression; far above any that is read by people.
const NESTING_MAX: usize = 64;

/// Names that most tasks have.
const NAMES: usize = 2;

/// The names a task's templates may use, with their values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    entries: Vec<Name>,
    params: Params,
}

/// `params` of a job: shared by the names of all its tasks.
pub type Params = Arc<BTreeMap<String, String>>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    name: Cow<'static, str>,
    /// Given to the guest under this name too.
    variable: Cow<'static, str>,
    text: String,
    /// Set when the value counts as a number in an expression.
    number: Option<i64>,
    /// Set when the value has fields.
    fields: Option<serde_json::Value>,
}

/// The names of one task: `index`; `item` in an array or list; the axes of a matrix. `item` is the element of the
/// stage's list, and is used only when the stage has one.
pub fn names(stage: &StageSpec, index: u32, item: Option<&Item>) -> Names {
    let mut entries = Vec::with_capacity(NAMES);
    entries.push(Name::number("index", "SWARM_INDEX", i64::from(index)));
    match (&stage.elements, item) {
        (Elements::Json(_), Some(item)) => entries.push(Name::json(&item.text)),
        (Elements::Grid(grid), _) => {
            entries.extend(grid.values(index).into_iter().map(|(name, text)| Name::axis(name, text)))
        }
        (Elements::Numbers { start }, _) => {
            entries.push(Name::number("item", "SWARM_ITEM", start.saturating_add(i64::from(index))));
        }
        (Elements::List(_), Some(item)) => entries.push(Name::text("item", "SWARM_ITEM", &item.text)),
        (Elements::Matrix(_), _) => {
            entries.extend(stage.elements.values(index).into_iter().map(|(name, text)| Name::axis(name, text)));
        }
        (Elements::One | Elements::List(_) | Elements::Json(_), _) => {}
    }
    Names { entries, params: Params::default() }
}

impl Name {
    fn text(name: &'static str, variable: &'static str, text: &str) -> Self {
        Self { name: name.into(), variable: variable.into(), text: text.into(), number: None, fields: None }
    }

    /// A JSON value: an object or list has parts, which templates may name.
    fn json(text: &str) -> Self {
        let fields = text.starts_with(['{', '[']).then(|| serde_json::from_str(text).ok()).flatten();
        Self { fields, ..Self::text("item", "SWARM_ITEM", text) }
    }

    fn number(name: &'static str, variable: &'static str, number: i64) -> Self {
        let (name, variable) = (name.into(), variable.into());
        Self { name, variable, text: number.to_string(), number: Some(number), fields: None }
    }

    /// A value that reads as a plain integer counts as one; `007` stays text.
    fn axis(name: &str, text: &str) -> Self {
        let variable = format!("SWARM_MATRIX_{}", name.to_ascii_uppercase());
        let number = text.parse().ok().filter(|number: &i64| number.to_string() == text);
        Self { name: name.to_owned().into(), variable: variable.into(), text: text.into(), number, fields: None }
    }

    fn value(&self) -> Value {
        if let Some(fields) = &self.fields {
            return of_json(fields, false);
        }
        self.number.map_or_else(|| Value::from(self.text.as_str()), Value::from)
    }

    /// The value as a number, where only numbers are allowed.
    fn numeric(&self) -> Option<Value> {
        if let Some(fields) = &self.fields {
            return Some(of_json(fields, true));
        }
        self.number.map(Value::from).or_else(|| number_of(&self.text))
    }
}

fn number_of(text: &str) -> Option<Value> {
    let fraction = || text.parse::<f64>().ok().filter(|fraction| fraction.is_finite()).map(Value::from);
    text.parse::<i64>().ok().map(Value::from).or_else(fraction)
}

/// A JSON value in an expression; where only numbers are allowed, its other parts are left out.
fn of_json(value: &serde_json::Value, numeric: bool) -> Value {
    use serde_json::Value as Json;
    match value {
        Json::Number(number) => number_of(&number.to_string()).unwrap_or(Value::UNDEFINED),
        Json::Array(items) => items.iter().map(|item| of_json(item, numeric)).collect(),
        Json::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(name, value)| (name.clone(), of_json(value, numeric))))
        }
        _ if numeric => Value::UNDEFINED,
        Json::String(text) => Value::from(text.as_str()),
        Json::Bool(boolean) => Value::from(*boolean),
        Json::Null => Value::from(""),
    }
}

impl Names {
    /// The parameters alone: what is known before there are tasks.
    pub(super) fn of_params(params: &BTreeMap<String, String>) -> Self {
        Self { entries: Vec::new(), params: Arc::new(params.clone()) }
    }

    /// The same, with the parameters of the job.
    #[must_use]
    pub fn with_params(self, params: &Params) -> Self {
        Self { params: Arc::clone(params), ..self }
    }

    /// The value of a name, as text.
    pub fn get(&self, name: &str) -> Option<&str> {
        let param = || self.params.get(name.strip_prefix("params.")?).map(String::as_str);
        self.entry(name).map(|entry| entry.text.as_str()).or_else(param)
    }

    /// The names, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| &*entry.name)
    }

    /// All that a template may use.
    fn known(&self) -> Vec<String> {
        let params = self.params.keys().map(|name| format!("params.{name}"));
        self.iter().map(str::to_owned).chain(params).collect()
    }

    fn params_value(&self, numeric: bool) -> Value {
        let value = |text: &String| match text.as_str() {
            "true" | "false" if !numeric => Some(Value::from(text == "true")),
            text if numeric => number_of(text),
            text => Some(
                text.parse::<i64>()
                    .ok()
                    .filter(|number| number.to_string() == text)
                    .map_or_else(|| Value::from(text), Value::from),
            ),
        };
        Value::from_pairs(self.params.iter().filter_map(|(name, text)| Some((name.clone(), value(text)?))))
    }

    /// What the guest finds in its environment: `SWARM_INDEX`, `SWARM_ITEM`, and `SWARM_MATRIX_X` for each axis.
    pub fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|entry| (&*entry.variable, entry.text.as_str()))
    }

    fn entry(&self, name: &str) -> Option<&Name> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}

/// Why a template cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The template, or its text, is over [`STRING_BYTES_MAX`].
    #[error("the text is over {STRING_BYTES_MAX} bytes")]
    TooLong,
    /// One expression is too long.
    #[error("an expression is over {EXPRESSION_BYTES_MAX} bytes")]
    LongExpression {
        /// The expression, with its braces.
        expression: String,
    },
    /// `{{` without `}}`.
    #[error("`{{{{` is never closed")]
    Unclosed,
    /// `{% … %}`.
    #[error("`{{% %}}` blocks are not supported, only `{{{{ }}}}`")]
    Block,
    /// `{{- x -}}`.
    #[error("whitespace control (`{{{{-`, `-}}}}`) is not supported")]
    WhitespaceControl,
    /// `{{ }}`.
    #[error("`{{{{ }}}}` is empty")]
    Empty,
    /// A name that this task does not have.
    #[error("unknown name `{name}`; this task has {}", listed(known.iter().map(String::as_str)))]
    UnknownName {
        /// The expression, with its braces.
        expression: String,
        /// The name.
        name: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// Text in an expression that multiplies.
    #[error("`{name}` is multiplied, but its value `{text}` is not a number")]
    NotANumber {
        /// The expression, with its braces.
        expression: String,
        /// The name.
        name: String,
        /// Its value.
        text: String,
    },
    /// The expression is malformed, or its operands do not fit.
    #[error("`{expression}` cannot be evaluated: {reason}")]
    Expression {
        /// The expression, with its braces.
        expression: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl RenderError {
    /// The part of the template that is wrong.
    pub(super) fn culprit(&self) -> Option<&str> {
        match self {
            Self::TooLong => None,
            Self::Unclosed | Self::Empty => Some("{{"),
            Self::Block => Some("{%"),
            Self::WhitespaceControl => Some("-"),
            Self::UnknownName { expression, .. }
            | Self::NotANumber { expression, .. }
            | Self::LongExpression { expression }
            | Self::Expression { expression, .. } => Some(expression),
        }
    }
}

/// The text of a template for a task with these names.
pub fn render(template: &str, names: &Names) -> Result<String, RenderError> {
    if template.len() > STRING_BYTES_MAX {
        return Err(RenderError::TooLong);
    }
    if template.contains("{%") {
        return Err(RenderError::Block);
    }
    let (mut text, mut rest) = (String::with_capacity(template.len()), template);
    while let Some((literal, after)) = rest.split_once("{{") {
        let end = expression_end(after).ok_or(RenderError::Unclosed)?;
        text.push_str(literal);
        text.push_str(&evaluate(&after[..end], names)?);
        if text.len() > STRING_BYTES_MAX {
            return Err(RenderError::TooLong);
        }
        rest = &after[end + 2..];
    }
    text.push_str(rest);
    if text.len() > STRING_BYTES_MAX { Err(RenderError::TooLong) } else { Ok(text) }
}

/// The names that a template uses.
pub(super) fn used(template: &str) -> Result<BTreeSet<String>, RenderError> {
    let (mut used, mut rest) = (BTreeSet::new(), template);
    while let Some((_, after)) = rest.split_once("{{") {
        let end = expression_end(after).ok_or(RenderError::Unclosed)?;
        let compiled = TEXTS.compile_expression_owned(after[..end].trim().to_owned());
        let compiled = compiled.map_err(|error| Unusable::from(error).about(in_braces(&after[..end])))?;
        used.extend(compiled.undeclared_variables(false));
        rest = &after[end + 2..];
    }
    Ok(used)
}

/// Where the `}}` of an expression is: not in a string, nor closing a brace of its own.
fn expression_end(text: &str) -> Option<usize> {
    let (mut depth, mut quote, mut skip) = (0_usize, None, false);
    for (at, byte) in text.bytes().enumerate() {
        match (byte, quote) {
            _ if skip => skip = false,
            (b'\\', Some(_)) => skip = true,
            (byte, Some(open)) if byte == open => quote = None,
            (_, Some(_)) => {}
            (b'\'' | b'"', None) => quote = Some(byte),
            (b'}', None) if depth == 0 => return text[at..].starts_with("}}").then_some(at),
            (b'}', None) => depth -= 1,
            (b'{', None) => depth += 1,
            _ => {}
        }
    }
    None
}

fn evaluate(inside: &str, names: &Names) -> Result<String, RenderError> {
    let expression = inside.trim();
    // Almost every expression is a bare name, and almost every task has some.
    if let Some(text) = names.get(expression) {
        return Ok(text.to_owned());
    }
    if expression.is_empty() {
        return Err(RenderError::Empty);
    }
    if inside.starts_with('-') || inside.ends_with('-') {
        return Err(RenderError::WhitespaceControl);
    }
    if expression.len() > EXPRESSION_BYTES_MAX {
        return Err(RenderError::LongExpression { expression: in_braces(inside) });
    }
    calculate(expression, names).map_err(|problem| problem.about(in_braces(inside)))
}

fn in_braces(inside: &str) -> String {
    format!("{{{{{inside}}}}}")
}

fn calculate(expression: &str, names: &Names) -> Result<String, Unusable> {
    let multiplies = multiplies(expression);
    if let Some(c) = expression.chars().find(|c| multiplies && "\"'[{,~".contains(*c)) {
        return Err(Unusable::Expression(format!("an expression that multiplies holds only numbers, and no `{c}`")));
    }
    let environment = if multiplies { &*NUMBERS } else { &*TEXTS };
    let compiled = environment.compile_expression_owned(expression.to_owned())?;
    let mut used: Vec<String> = compiled.undeclared_variables(false).into_iter().collect();
    used.sort();
    check_params(&compiled.undeclared_variables(true), names, multiplies)?;
    let value = compiled.eval(context(&used, names, multiplies)?)?;
    match value.kind() {
        ValueKind::String | ValueKind::Number | ValueKind::Bool => Ok(value.to_string()),
        kind => Err(Unusable::Expression(format!("it gives a value of type {kind}, not text or a number"))),
    }
}

/// Why an expression has no value.
enum Unusable {
    UnknownName(String, Vec<String>),
    NotANumber(String, String),
    Expression(String),
}

impl From<Error> for Unusable {
    fn from(error: Error) -> Self {
        Self::Expression(error.detail().map_or_else(|| error.kind().to_string(), str::to_owned))
    }
}

impl Unusable {
    fn about(self, expression: String) -> RenderError {
        match self {
            Self::UnknownName(name, known) => RenderError::UnknownName { expression, name, known },
            Self::NotANumber(name, text) => RenderError::NotANumber { expression, name, text },
            Self::Expression(reason) => RenderError::Expression { expression, reason },
        }
    }
}

/// Whether there is a `*` outside string literals.
fn multiplies(expression: &str) -> bool {
    let (mut quote, mut skip) = (None, false);
    expression.bytes().any(|byte| {
        match (byte, quote) {
            _ if skip => skip = false,
            (b'\\', Some(_)) => skip = true,
            (byte, Some(open)) if byte == open => quote = None,
            (b'\'' | b'"', None) => quote = Some(byte),
            (b'*', None) => return true,
            _ => {}
        }
        false
    })
}

/// Every parameter that is used must be there, and be a number where only numbers are allowed.
fn check_params(used: &HashSet<String>, names: &Names, numeric: bool) -> Result<(), Unusable> {
    let mut used: Vec<&String> = used.iter().filter(|name| name.starts_with("params")).collect();
    used.sort();
    for name in used {
        let param = name.strip_prefix("params.").map(|rest| rest.split('.').next().unwrap_or(rest));
        let Some(text) = param.and_then(|param| names.params.get(param)) else {
            return Err(Unusable::UnknownName(name.clone(), names.known()));
        };
        if numeric && number_of(text).is_none() {
            return Err(Unusable::NotANumber(name.clone(), text.clone()));
        }
    }
    Ok(())
}

/// All names there are, once the names used are known to be among them. In an expression that multiplies, only those
/// whose values are numbers.
fn context(used: &[String], names: &Names, numeric: bool) -> Result<Value, Unusable> {
    for name in used.iter().filter(|name| *name != "params") {
        let unknown = || Unusable::UnknownName(name.clone(), names.known());
        let entry = names.entry(name).ok_or_else(unknown)?;
        if numeric && entry.numeric().is_none() {
            return Err(Unusable::NotANumber(name.clone(), entry.text.clone()));
        }
    }
    let value = |entry: &Name| if numeric { entry.numeric() } else { Some(entry.value()) };
    let entries = names.entries.iter().filter_map(|entry| Some((entry.name.clone(), value(entry)?)));
    let params = (!names.params.is_empty()).then(|| (Cow::Borrowed("params"), names.params_value(numeric)));
    Ok(Value::from_pairs(entries.chain(params)))
}

/// For expressions with `*`: nothing here makes text, which `*` would repeat.
static NUMBERS: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_recursion_limit(NESTING_MAX);
    environment.add_filter("abs", filters::abs);
    environment.add_filter("float", filters::float);
    environment.add_filter("int", filters::int);
    environment.add_filter("round", filters::round);
    environment
});

/// For all others: nothing here makes more than its operands hold, save `format` and `replace`, which are bounded.
static TEXTS: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = NUMBERS.clone();
    environment.add_filter("first", filters::first);
    environment.add_filter("last", filters::last);
    environment.add_filter("length", filters::length);
    environment.add_filter("lower", filters::lower);
    environment.add_filter("split", filters::split);
    environment.add_filter("trim", filters::trim);
    environment.add_filter("upper", filters::upper);
    environment.add_filter("format", format_bounded);
    environment.add_filter("replace", replace_bounded);
    environment
});

fn format_bounded(state: &mut State, pattern: &Value, values: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let text = pattern.as_str().unwrap_or_default();
    let wide = text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > FORMAT_DIGITS_MAX);
    if wide || text.contains('*') {
        return Err(Error::new(ErrorKind::InvalidOperation, "a width is a number of up to 3 digits"));
    }
    filters::format(state, pattern, values)
}

fn replace_bounded(text: Cow<'_, str>, from: Cow<'_, str>, to: Cow<'_, str>) -> Result<String, Error> {
    let added = text.matches(&*from).count().saturating_mul(to.len());
    if text.len().saturating_add(added) > STRING_BYTES_MAX {
        return Err(Error::new(ErrorKind::InvalidOperation, "the text becomes too long"));
    }
    Ok(text.replace(&*from, &to))
}
