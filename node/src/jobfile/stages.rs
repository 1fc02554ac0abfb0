//! Tasks in the order in which they can run, as the stages of a spec.
//!
//! Always true: a stage comes after all that it needs, and otherwise where its author wrote it; every template was
//! rendered for the first and the last task of its stage.

use std::collections::{BTreeMap, HashSet};

use petgraph::algo::{kosaraju_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};
use swarm_protocol::{Elements, Input, InputSource, Item, StageSpec, Stdin};

use super::draft::Draft;
use super::error::{Fault, listed, suggestion};
use super::inputs::{DraftInput, DraftSource, Template, Word, is_file_name};
use super::template::{self, Names, RenderError};

/// Bytes of all arguments and variables of one task: half of what a spec may have, so that several tasks fit.
const ARGS_ENV_BYTES_MAX: usize = 128 * 1024;
/// Elements for which the names given by `as` are tried out one by one, which takes a few milliseconds.
const NAMES_TRIED_MAX: u32 = 10_000;

/// Positions of the drafts in an order that can run.
pub(super) fn order(drafts: &[Draft]) -> Result<Vec<usize>, Fault> {
    let mut graph = DiGraph::<(), ()>::new();
    let nodes: Vec<NodeIndex> = drafts.iter().map(|_| graph.add_node(())).collect();
    for (at, draft) in drafts.iter().enumerate() {
        for need in &draft.needs {
            graph.add_edge(nodes[at], nodes[position(drafts, need)?], ());
        }
    }
    // An edge leads to what is needed, so the reverse of the order is wanted: each stage as soon as what it needs is
    // there, in the order of the file.
    match toposort(&graph, None) {
        Ok(sorted) => Ok(sorted.into_iter().rev().map(NodeIndex::index).collect()),
        Err(_) => Err(cycle(drafts, &graph)),
    }
}

fn position(drafts: &[Draft], need: &Word) -> Result<usize, Fault> {
    let unknown = || {
        let hint = suggestion(&need.text, drafts.iter().map(|draft| draft.name.text.as_str()));
        Fault::new(&need.span, format!("there is no task `{}`{hint}", need.text))
    };
    drafts.iter().position(|draft| draft.name.text == need.text).ok_or_else(unknown)
}

/// `` `a` needs `b`, which needs `a` ``, shown where the first of them needs the next.
fn cycle(drafts: &[Draft], graph: &DiGraph<(), ()>) -> Fault {
    let on_cycle =
        |group: &Vec<NodeIndex>| group.len() > 1 || group.iter().any(|&node| graph.contains_edge(node, node));
    let group = kosaraju_scc(graph).into_iter().filter(on_cycle).min_by_key(|group| group.iter().min().copied());
    let group = group.unwrap_or_default();
    let next = |at: usize| {
        let inside = |need: &&Word| group.iter().any(|node| drafts[node.index()].name.text == need.text);
        drafts[at].needs.iter().find(inside).map(|need| (need, position(drafts, need).unwrap_or_default()))
    };
    let (mut at, mut path) = (group.iter().min().map_or(0, |node| node.index()), Vec::new());
    while let (false, Some((need, to))) = (path.iter().any(|(from, _)| *from == at), next(at)) {
        path.push((at, need));
        at = to;
    }
    let start = path.iter().position(|(from, _)| *from == at).unwrap_or_default();
    if let [(_, need)] = &path[start..] {
        return Fault::new(&need.span, format!("task `{}` needs itself", need.text));
    }
    let steps: Vec<String> = path[start..].iter().map(|(_, need)| format!("needs `{}`", need.text)).collect();
    let span = path.get(start).map_or(0..0, |(_, need)| need.span.clone());
    Fault::new(&span, format!("tasks wait for each other: `{}` {}", drafts[at].name.text, steps.join(", which ")))
}

/// A stage, with what only the job file knows of it.
struct Built {
    spec: StageSpec,
    items: Vec<Item>,
}

/// The stages of the drafts, in the order given.
pub(super) fn build(drafts: Vec<Draft>, order: &[usize], nodes: usize) -> Result<Vec<StageSpec>, Fault> {
    let mut drafts: Vec<Option<Draft>> = drafts.into_iter().map(Some).collect();
    let mut built: Vec<Built> = Vec::with_capacity(order.len());
    for draft in order.iter().filter_map(|&at| drafts[at].take()) {
        let next = stage(draft, &built, nodes)?;
        built.push(next);
    }
    Ok(built.into_iter().map(|built| built.spec).collect())
}

fn stage(draft: Draft, earlier: &[Built], nodes: usize) -> Result<Built, Fault> {
    let positions: BTreeMap<&str, u16> = (0_u16..).zip(earlier).map(|(at, built)| (&*built.spec.name, at)).collect();
    let mut needs: Vec<u16> = draft.needs.iter().filter_map(|need| positions.get(&*need.text).copied()).collect();
    needs.sort_unstable();
    let inputs = draft.inputs.iter().map(|input| resolve(input, &positions, earlier)).collect::<Result<_, _>>()?;
    let count = draft.elements.count;
    let spec = StageSpec {
        name: draft.name.text.clone(),
        wasm: draft.wasm,
        entry: draft.entry.clone(),
        args: draft.args.iter().map(|arg| arg.text.clone()).collect(),
        env: draft.env.iter().map(|(name, value)| (name.clone(), value.text.clone())).collect(),
        stdin: draft.stdin.clone(),
        count,
        shard_tasks: StageSpec::shard_tasks_for(count, nodes),
        elements: draft.elements.spec.clone(),
        inputs,
        outputs: draft.outputs.clone(),
        needs,
        retry: draft.settings.retry.clone(),
        run_ms_max: draft.settings.run_ms_max,
        queue_ms_max: draft.settings.queue_ms_max,
        limits: draft.settings.limits.clone(),
    };
    let built = Built { spec, items: draft.elements.items.clone() };
    for index in [0, count - 1] {
        try_templates(&draft, &built.names(index))?;
    }
    Ok(built)
}

impl Built {
    fn names(&self, index: u32) -> Names {
        template::names(&self.spec, index, self.items.get(index as usize))
    }
}

/// Renders everything once, so that a mistake is found here and not on a node.
fn try_templates(draft: &Draft, names: &Names) -> Result<(), Fault> {
    let mut bytes = 0;
    for arg in &draft.args {
        bytes += try_template(arg, names)?.len() + 1;
    }
    for (name, value) in &draft.env {
        bytes += name.len() + try_template(value, names)?.len() + 2;
    }
    if bytes > ARGS_ENV_BYTES_MAX {
        let message =
            format!("the arguments and variables of task `{}` are over {ARGS_ENV_BYTES_MAX} bytes", draft.name.text);
        return Err(Fault::new(&draft.name.span, message));
    }
    if let Stdin::Text(text) = &draft.stdin {
        render(&Template { text: text.clone(), span: draft.stdin_span.clone() }, names)?;
    }
    Ok(())
}

/// Renders what becomes an argument or a variable, which end at a NUL.
fn try_template(template: &Template, names: &Names) -> Result<String, Fault> {
    let text = render(template, names)?;
    let nul = || Fault::new(&template.span, "an argument or variable cannot hold a NUL character");
    if text.contains('\0') { Err(nul()) } else { Ok(text) }
}

fn render(template: &Template, names: &Names) -> Result<String, Fault> {
    template::render(&template.text, names).map_err(|error| {
        let message = match &error {
            RenderError::UnknownName { name, .. } if name == "params" => "`params` is not supported yet".to_owned(),
            _ => error.to_string(),
        };
        Fault::new(&template.span, message).within(error.culprit())
    })
}

fn resolve(input: &DraftInput, positions: &BTreeMap<&str, u16>, earlier: &[Built]) -> Result<Input, Fault> {
    let source = match &input.source {
        DraftSource::Known(source) => source.clone(),
        DraftSource::From { task, path, name } => {
            let unknown = || Fault::new(&task.span, format!("there is no task `{}`", task.text));
            let stage = *positions.get(&*task.text).ok_or_else(unknown)?;
            let from = &earlier[usize::from(stage)];
            check_output(&from.spec, path)?;
            let name = name.clone().unwrap_or_else(|| default_name(&from.spec, path));
            check_names(from, &name)?;
            InputSource::From { stage, path: path.text.clone(), name: name.text }
        }
    };
    Ok(Input { path: input.path.clone(), source })
}

fn check_output(from: &StageSpec, path: &Word) -> Result<(), Fault> {
    if from.outputs.iter().any(|output| output.path == path.text) {
        return Ok(());
    }
    let declared = listed(from.outputs.iter().map(|output| output.path.as_str()));
    let message = format!("`{}` is not an output of task `{}`, which declares {declared}", path.text, from.name);
    Err(Fault::new(&path.span, message))
}

/// The output's own file name, with the task's index before it when there are several.
fn default_name(from: &StageSpec, path: &Word) -> Template {
    let file_name = path.text.rsplit('/').next().unwrap_or(&path.text);
    let text = if from.count == 1 { file_name.to_owned() } else { format!("{{{{ index }}}}-{file_name}") };
    Template { text, span: path.span.clone() }
}

/// Refuses an `as` that is no file name, or the same one for two tasks.
fn check_names(from: &Built, name: &Template) -> Result<(), Fault> {
    if from.spec.count > NAMES_TRIED_MAX && !tells_apart(from, name)? {
        let message =
            format!("`as` must use `index` or every name of task `{}`, to give each file its own", from.spec.name);
        return Err(Fault::new(&name.span, message));
    }
    let mut seen = HashSet::new();
    let beyond = (from.spec.count > NAMES_TRIED_MAX).then_some(from.spec.count - 1);
    for index in (0..from.spec.count.min(NAMES_TRIED_MAX)).chain(beyond) {
        let text = render(name, &from.names(index))?;
        let of = format!("for task {}[{index}]", from.spec.name);
        if !is_file_name(&text) {
            return Err(Fault::new(&name.span, format!("`as` gives `{text}` {of}, which is not a plain file name")));
        }
        if seen.contains(&text) {
            return Err(Fault::new(&name.span, format!("`as` gives two files the name `{text}`, the second {of}")));
        }
        seen.insert(text);
    }
    Ok(())
}

/// Whether a template uses what makes an element unlike all others.
fn tells_apart(from: &Built, name: &Template) -> Result<bool, Fault> {
    let used = template::used(&name.text).map_err(|error| Fault::new(&name.span, error.to_string()))?;
    let uses = |name: &str| used.contains(name);
    Ok(uses("index")
        || match &from.spec.elements {
            Elements::One => true,
            Elements::Numbers { .. } => uses("item"),
            Elements::Matrix(axes) => axes.iter().all(|axis| uses(&axis.name)),
            Elements::List(_) => {
                let mut texts = HashSet::new();
                uses("item") && from.items.iter().all(|item| texts.insert(&item.text))
            }
        })
}
