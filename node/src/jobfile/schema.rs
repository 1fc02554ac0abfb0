//! The form of a job file as Rust types: its JSON Schema, the keys that the reader knows, and the reference of the format.
//!
//! Always true: a key that is not here is unknown to the reader (`keys` is made from these types), and every file that the
//! reader accepts is accepted by the schema. What only the whole file shows (names that refer to others, files on disk,
//! templates) is the reader's alone.
#![expect(dead_code, reason = "the types are never made: their form is what counts")]

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, schema_for};

/// The JSON Schema of job files.
pub fn schema() -> Schema {
    let mut schema = schema_for!(JobFile);
    schema.insert("$id".to_owned(), "https://swarm.invalid/schema/job-1.json".into());
    schema
}

/// A job of a swarm: tasks that run WebAssembly modules, and what they need.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, extend("if" = {"properties": {"defaults": {"required": ["wasm"]}}, "required": ["defaults"]}, "else" = {"properties": {"task": {"additionalProperties": {"required": ["wasm"]}}}}))]
pub(super) struct JobFile {
    /// Version of the format.
    #[schemars(range(min = 1, max = 1))]
    version: Option<u8>,
    /// Name of the job.
    #[schemars(regex(pattern = r"^[a-z0-9-]{1,63}$"))]
    name: String,
    /// A prefix for people, in reverse-DNS style if you like.
    namespace: Option<String>,
    /// What the job is for.
    description: Option<String>,
    /// For people and filters: `swarm ls --label team=art`.
    labels: Option<BTreeMap<String, String>>,
    /// Jobs of a greater priority are granted first; 0 unless said.
    #[schemars(range(min = -100, max = 100))]
    priority: Option<i8>,
    /// More failed tasks than this (a number, or a share such as "5%") stop the job; 0 unless said.
    max_failures: Option<CountOrShare>,
    /// At most so many tasks run at once, over the whole swarm.
    #[schemars(range(min = 1))]
    max_parallel: Option<u32>,
    /// Results and logs are kept so long after the end; "24h" unless said.
    keep: Option<Duration>,
    /// Values chosen when submitting: `swarm submit job.toml --set size=8192`.
    params: Option<BTreeMap<String, Param>>,
    /// What every task inherits; tables merge, lists replace.
    defaults: Option<Defaults>,
    /// The tasks.
    #[schemars(extend("minProperties" = 1))]
    task: BTreeMap<String, Task>,
}

/// A number of tasks, or a share such as "5%".
#[derive(JsonSchema)]
#[schemars(untagged)]
enum CountOrShare {
    Count(#[schemars(range(min = 0, max = 4_294_967_295_u64))] u64),
    Share(String),
}

/// A duration such as "1m 30s".
#[derive(JsonSchema)]
struct Duration(String);

/// A size such as "256MiB", or a number of bytes.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Size {
    Text(String),
    Bytes(u64),
}

/// A text, number or boolean.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Scalar {
    Text(String),
    Integer(i64),
    Number(f64),
    Boolean(bool),
}

/// One parameter.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Param {
    /// What it is.
    #[schemars(rename = "type")]
    kind: ParamKind,
    /// Its value unless it is set.
    default: Option<Scalar>,
    /// The least value of a number.
    min: Option<f64>,
    /// The greatest value of a number.
    max: Option<f64>,
    /// All values that are possible.
    choices: Option<Vec<Scalar>>,
    /// For people.
    help: Option<String>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum ParamKind {
    Int,
    Float,
    Bool,
    String,
    File,
}

/// One task, or an array of them.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, extend("not" = {"anyOf": [{"required": ["array", "matrix"]}, {"required": ["array", "each"]}, {"required": ["matrix", "each"]}]}))]
pub(super) struct Task {
    /// The module: a path, "blake3:HEX", or "NAMESPACE.NAME@VERSION" of a published one.
    wasm: Option<String>,
    /// The exported function to call; "_start" unless said.
    entry: Option<String>,
    /// Arguments; templates.
    args: Option<Vec<String>>,
    /// Environment; the values are templates.
    env: Option<BTreeMap<String, String>>,
    /// Standard input.
    stdin: Option<Stdin>,
    /// One task for each number of a range such as "0..1000".
    array: Option<String>,
    /// One task for each combination of values.
    matrix: Option<Matrix>,
    /// One task for each line, file or value.
    each: Option<Each>,
    /// Files under /in, by their path there.
    inputs: Option<BTreeMap<String, Input>>,
    /// Files under /out that the task leaves.
    outputs: Option<Outputs>,
    /// Tasks that must be done before.
    needs: Option<Vec<Need>>,
    /// When to try again.
    retry: Option<RetryForm>,
    /// How long it may take.
    timeout: Option<TimeoutForm>,
    /// What an attempt takes of its node; of a list the first that a node has.
    resources: Option<ResourcesForm>,
    /// What an attempt may use up.
    limits: Option<Limits>,
    /// Which nodes run it.
    #[schemars(rename = "where")]
    place: Option<Where>,
}

/// What every task inherits.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Defaults {
    wasm: Option<String>,
    entry: Option<String>,
    args: Option<Vec<String>>,
    env: Option<BTreeMap<String, String>>,
    stdin: Option<Stdin>,
    inputs: Option<BTreeMap<String, Input>>,
    outputs: Option<Outputs>,
    retry: Option<RetryForm>,
    timeout: Option<TimeoutForm>,
    resources: Option<ResourcesForm>,
    limits: Option<Limits>,
    #[schemars(rename = "where")]
    place: Option<Where>,
}

/// Standard input: one of these.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, extend("minProperties" = 1, "maxProperties" = 1))]
pub(super) struct Stdin {
    /// A text; a template.
    text: Option<String>,
    /// A file.
    file: Option<String>,
    /// The item's own file or text.
    #[schemars(extend("const" = true))]
    item: Option<bool>,
}

/// One task for each of these.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, extend("minProperties" = 1, "maxProperties" = 1))]
pub(super) struct Each {
    /// The lines of a file.
    lines: Option<String>,
    /// The files that a pattern such as "in/*.txt" matches.
    files: Option<String>,
    /// The values of a JSON array in a file; `{{ item.NAME }}` of an object.
    json: Option<String>,
}

/// Names with their values; all combinations, unless excluded.
#[derive(JsonSchema)]
struct Matrix {
    /// Further names for some combinations, or further elements.
    include: Option<Vec<BTreeMap<String, Scalar>>>,
    /// Combinations to leave out.
    exclude: Option<Vec<BTreeMap<String, Scalar>>>,
    #[schemars(flatten)]
    axes: BTreeMap<String, Axis>,
}

/// A range such as "0..16", or a list of values.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Axis {
    Range(String),
    List(Vec<Scalar>),
}

/// One file or folder under /in: from one of these.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, extend("oneOf" = [{"required": ["file"]}, {"required": ["glob"]}, {"required": ["dir"]}, {"required": ["text"]}, {"required": ["blob"]}, {"required": ["item"]}, {"required": ["from"]}], "dependentRequired" = {"from": ["path"], "path": ["from"], "as": ["from"]}))]
pub(super) struct Input {
    /// A file.
    file: Option<String>,
    /// The files that a pattern matches, in a folder.
    glob: Option<String>,
    /// All files of a folder.
    dir: Option<String>,
    /// A text.
    text: Option<String>,
    /// "blake3:HEX" of bytes that the swarm has.
    blob: Option<String>,
    /// The item's own file or text.
    #[schemars(extend("const" = true))]
    item: Option<bool>,
    /// An earlier task: one of its outputs, of every element.
    from: Option<String>,
    /// Which of its outputs.
    path: Option<String>,
    /// The file's name in the folder; a template with the earlier task's names.
    #[schemars(rename = "as")]
    name: Option<String>,
}

/// Paths under /out, or a table with rules.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Outputs {
    Paths(Vec<String>),
    Rules(BTreeMap<String, Output>),
}

/// What is expected of one output.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Output {
    /// Whether a task that does not leave it has failed; true unless said.
    required: Option<bool>,
    /// Its longest length.
    max: Option<Size>,
}

/// A task: by name, or with how it is needed.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Need {
    Name(String),
    Table(NeedTable),
}

/// A task, and how it is needed.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct NeedTable {
    /// The task.
    task: String,
    /// Element by element: those with the same values under these names.
    #[schemars(length(min = 1))]
    same: Option<Vec<String>>,
    /// "done" (unless said), or "finished": even if some failed.
    when: Option<When>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum When {
    Done,
    Finished,
}

/// A number of further attempts, or a table.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum RetryForm {
    Max(#[schemars(range(min = 0, max = 100))] u16),
    Table(Retry),
}

/// When to try again.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Retry {
    /// Further attempts after failures of the task itself.
    #[schemars(range(min = 0, max = 100))]
    max: Option<u16>,
    /// Further attempts after nodes were lost.
    #[schemars(range(min = 0, max = 100))]
    lost_max: Option<u16>,
    /// Wait before the first further attempt; doubles each time.
    backoff: Option<Duration>,
    /// The longest wait.
    max_backoff: Option<Duration>,
    /// Failures that are worth another attempt: "trap", "exit", "exit:CODE", "timeout".
    on: Option<Vec<String>>,
}

/// A duration of one attempt, or a table.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum TimeoutForm {
    Run(Duration),
    Table(Timeout),
}

/// How long a task may take.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Timeout {
    /// One attempt.
    run: Option<Duration>,
    /// Without a node that takes it.
    queue: Option<Duration>,
    /// From when it could run to its end.
    total: Option<Duration>,
}

/// What an attempt takes, or a list of it in order of preference.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum ResourcesForm {
    One(Resources),
    List(#[schemars(length(min = 1))] Vec<Resources>),
}

/// What an attempt takes of its node.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Resources {
    /// Memory.
    memory: Option<Size>,
    /// Slots.
    #[schemars(range(min = 1, max = 4096))]
    slots: Option<u32>,
}

/// What an attempt may use up.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Limits {
    /// Fuel, about one unit an instruction.
    #[schemars(range(min = 1))]
    fuel: Option<i64>,
    /// Bytes of standard output, and of standard error.
    stdout: Option<Size>,
    /// Bytes of all outputs together.
    outputs: Option<Size>,
}

/// Conditions such as "arch = x86_64", "memory >= 4GiB", "label.zone in (a, b)".
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Where {
    /// All must hold.
    require: Option<Vec<String>>,
    /// Nodes for which all hold come first.
    prefer: Option<Vec<String>>,
    /// Nodes for which one of them holds come last.
    avoid: Option<Vec<String>>,
    /// Which of the nodes that are left.
    strategy: Option<Strategy>,
}

/// Which of several nodes that may run a task is given it.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub(super) enum Strategy {
    /// The one that asks first.
    Any,
    /// One with as few tasks of the job as any.
    Spread,
    /// The one with the fewest free slots.
    Pack,
}
