//! Tasks in the order in which they can run, as the stages of a spec.
//!
//! Always true: a stage comes after all that it needs, and otherwise where its author wrote it; every template was
//! rendered for the first and the last task of its stage.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use petgraph::algo::{kosaraju_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};
use swarm_protocol::{Elements, Input, InputSource, Item, SameNeed, StageOptions, StageSpec, Stdin};

use super::draft::{Draft, DraftNeed};
use super::error::{Fault, FaultCode, listed, suggestion};
use super::inputs::{DraftInput, DraftSource, Template, Word, is_file_name};
use super::template::{self, Names, Params};

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
            graph.add_edge(nodes[at], nodes[position(drafts, &need.task)?], ());
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
        Fault::new(&need.span, format!("there is no task `{}`{hint}", need.text)).coded(FaultCode::Reference)
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
        drafts[at]
            .needs
            .iter()
            .map(|need| &need.task)
            .find(inside)
            .map(|need| (need, position(drafts, need).unwrap_or_default()))
    };
    let (mut at, mut path) = (group.iter().min().map_or(0, |node| node.index()), Vec::new());
    while let (false, Some((need, to))) = (path.iter().any(|(from, _)| *from == at), next(at)) {
        path.push((at, need));
        at = to;
    }
    let start = path.iter().position(|(from, _)| *from == at).unwrap_or_default();
    if let [(_, need)] = &path[start..] {
        return Fault::new(&need.span, format!("task `{}` needs itself", need.text)).coded(FaultCode::Cycle);
    }
    let steps: Vec<String> = path[start..].iter().map(|(_, need)| format!("needs `{}`", need.text)).collect();
    let span = path.get(start).map_or(0..0, |(_, need)| need.span.clone());
    let message = format!("tasks wait for each other: `{}` {}", drafts[at].name.text, steps.join(", which "));
    Fault::new(&span, message).coded(FaultCode::Cycle)
}

/// A stage, with what only the job file knows of it.
struct Built {
    spec: StageSpec,
    items: Vec<Item>,
    params: Params,
}

/// The stages of the drafts, in the order given.
pub(super) fn build(
    drafts: Vec<Draft>,
    order: &[usize],
    nodes: usize,
    params: &Params,
) -> Result<Vec<StageSpec>, Fault> {
    let mut drafts: Vec<Option<Draft>> = drafts.into_iter().map(Some).collect();
    let mut built: Vec<Built> = Vec::with_capacity(order.len());
    for draft in order.iter().filter_map(|&at| drafts[at].take()) {
        let next = stage(draft, &built, nodes, params)?;
        built.push(next);
    }
    Ok(built.into_iter().map(|built| built.spec).collect())
}

fn stage(draft: Draft, earlier: &[Built], nodes: usize, params: &Params) -> Result<Built, Fault> {
    let positions: BTreeMap<&str, u16> = (0_u16..).zip(earlier).map(|(at, built)| (&*built.spec.name, at)).collect();
    let mut needs: Vec<u16> = draft.needs.iter().filter_map(|need| positions.get(&*need.task.text).copied()).collect();
    needs.sort_unstable();
    let options = options(&draft, &positions);
    let settings = &draft.settings;
    let inputs = draft.inputs.iter().map(|input| resolve(input, &draft.needs, &positions, earlier));
    let inputs = inputs.collect::<Result<_, _>>()?;
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
        retry: settings.retry.clone(),
        run_ms_max: settings.run_ms_max,
        queue_ms_max: settings.queue_ms_max,
        limits: settings.limits.clone(),
        options,
    };
    let built = Built { spec, items: draft.elements.items.clone(), params: params.clone() };
    for need in &draft.needs {
        check_same(need, &built.spec, &earlier[usize::from(positions[&*need.task.text])])?;
    }
    for index in [0, count - 1] {
        try_templates(&draft, &built.names(index))?;
    }
    Ok(built)
}

fn options(draft: &Draft, positions: &BTreeMap<&str, u16>) -> StageOptions {
    let settings = &draft.settings;
    let mut options = StageOptions {
        place: settings.place.clone(),
        slots: settings.slots,
        alternatives: settings.alternatives.clone(),
        total_ms_max: settings.total_ms_max,
        ..StageOptions::default()
    };
    // One slot is what a stage takes that says nothing.
    options.slots = if options.slots == 1 { 0 } else { options.slots };
    for need in &draft.needs {
        let Some(&stage) = positions.get(&*need.task.text) else { continue };
        options.needs_finished.extend(need.finished.then_some(stage));
        let names: Vec<String> = need.same.iter().map(|name| name.text.clone()).collect();
        options.needs_same.extend((!names.is_empty()).then_some(SameNeed { stage, names }));
    }
    options
}

/// Refuses an element-wise need by names that the two tasks do not share, or with elements that have no counterpart.
fn check_same(need: &DraftNeed, mine: &StageSpec, theirs: &Built) -> Result<(), Fault> {
    let (Some(first), task) = (need.same.first(), &need.task.text) else { return Ok(()) };
    let of = |elements: &Elements| -> Vec<String> {
        let mut names = vec!["index".to_owned()];
        match elements {
            Elements::One => {}
            Elements::Matrix(axes) => names.extend(axes.iter().map(|axis| axis.name.clone())),
            Elements::Grid(grid) => names.extend(grid.names().into_iter().map(str::to_owned)),
            Elements::Numbers { .. } | Elements::List(_) | Elements::Json(_) => names.push("item".to_owned()),
        }
        names
    };
    let (ours, known) = (of(&mine.elements), of(&theirs.spec.elements));
    for name in &need.same {
        let shared: Vec<&str> = ours.iter().filter(|name| known.contains(name)).map(String::as_str).collect();
        if !shared.contains(&&*name.text) {
            let hint = suggestion(&name.text, shared.iter().copied());
            let message = format!("`{}` and `{task}` do not share the name `{}`{hint}", mine.name, name.text);
            return Err(Fault::new(&name.span, message).coded(FaultCode::Reference));
        }
    }
    let alone = matches!(&*first.text, "index" | "item");
    if alone && need.same.len() > 1 {
        return Err(Fault::new(&first.span, format!("`{}` cannot stand beside other names", first.text)));
    }
    let lacks = |message: String| Err(Fault::new(&first.span, message).coded(FaultCode::Reference));
    let missing =
        |value: &str| format!("`{task}` has no element with `{}` = {value}, which `{}` needs", first.text, mine.name);
    match (&mine.elements, &theirs.spec.elements) {
        _ if first.text == "index" && mine.count > theirs.spec.count => lacks(missing(&(mine.count - 1).to_string())),
        _ if first.text == "index" => Ok(()),
        (Elements::Numbers { start: a }, Elements::Numbers { start: b }) => {
            let last = a.saturating_add(i64::from(mine.count) - 1);
            let end = b.saturating_add(i64::from(theirs.spec.count));
            if a < b {
                lacks(missing(&a.to_string()))
            } else if last >= end {
                lacks(missing(&last.to_string()))
            } else {
                Ok(())
            }
        }
        (Elements::List(a), Elements::List(b)) | (Elements::Json(a), Elements::Json(b)) if a == b => Ok(()),
        _ if first.text == "item" => lacks(format!(
            "`item` of `{}` and of `{task}` can only be the same where both are made from the same list",
            mine.name
        )),
        _ => need.same.iter().try_for_each(|name| {
            let theirs = values_of(&theirs.spec.elements, &name.text);
            match values_of(&mine.elements, &name.text).difference(&theirs).next() {
                Some(value) => {
                    let message =
                        format!("`{task}` has no element with `{}` = {value}, which `{}` needs", name.text, mine.name);
                    Err(Fault::new(&name.span, message).coded(FaultCode::Reference))
                }
                None => Ok(()),
            }
        }),
    }
}

/// The values that a name of a matrix takes.
fn values_of(elements: &Elements, name: &str) -> BTreeSet<String> {
    let of = |axes: &[swarm_protocol::Axis]| -> BTreeSet<String> {
        axes.iter().filter(|axis| axis.name == name).flat_map(|axis| axis.values.iter().cloned()).collect()
    };
    match elements {
        Elements::Matrix(axes) => of(axes),
        Elements::Grid(grid) => {
            let more = grid.append.iter().chain(grid.add.iter().map(|(_, values)| values)).flatten();
            let more = more.filter(|(known, _)| known == name).map(|(_, value)| value.clone());
            of(&grid.axes).into_iter().chain(more).collect()
        }
        _ => BTreeSet::new(),
    }
}

impl Built {
    fn names(&self, index: u32) -> Names {
        template::names(&self.spec, index, self.items.get(index as usize)).with_params(&self.params)
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
        return Err(Fault::new(&draft.name.span, message).coded(FaultCode::Limit));
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
        Fault::new(&template.span, error.to_string()).within(error.culprit()).coded(FaultCode::Template)
    })
}

fn resolve(
    input: &DraftInput,
    needs: &[DraftNeed],
    positions: &BTreeMap<&str, u16>,
    earlier: &[Built],
) -> Result<Input, Fault> {
    let source = match &input.source {
        DraftSource::Known(source) => source.clone(),
        DraftSource::From { task, path, name } => {
            let unknown =
                || Fault::new(&task.span, format!("there is no task `{}`", task.text)).coded(FaultCode::Reference);
            let stage = *positions.get(&*task.text).ok_or_else(unknown)?;
            let from = &earlier[usize::from(stage)];
            check_output(&from.spec, path)?;
            let name = name.clone().unwrap_or_else(|| default_name(&from.spec, path));
            let same = needs.iter().find(|need| need.task.text == task.text).map_or(&[][..], |need| &need.same);
            check_names(from, &name, same)?;
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
    Err(Fault::new(&path.span, message).coded(FaultCode::Reference))
}

/// The output's own file name, with the task's index before it when there are several.
fn default_name(from: &StageSpec, path: &Word) -> Template {
    let file_name = path.text.rsplit('/').next().unwrap_or(&path.text);
    let text = if from.count == 1 { file_name.to_owned() } else { format!("{{{{ index }}}}-{file_name}") };
    Template { text, span: path.span.clone() }
}

/// Refuses an `as` that is no file name, or the same one for two tasks whose files go to the same task: all of them, or
/// those with the same values under some names.
fn check_names(from: &Built, name: &Template, same: &[Word]) -> Result<(), Fault> {
    if from.spec.count > NAMES_TRIED_MAX && !tells_apart(from, name, same)? {
        let message =
            format!("`as` must use `index` or every name of task `{}`, to give each file its own", from.spec.name);
        return Err(Fault::new(&name.span, message));
    }
    let mut seen = HashSet::new();
    let beyond = (from.spec.count > NAMES_TRIED_MAX).then_some(from.spec.count - 1);
    for index in (0..from.spec.count.min(NAMES_TRIED_MAX)).chain(beyond) {
        let names = from.names(index);
        let text = render(name, &names)?;
        let of = format!("for task {}[{index}]", from.spec.name);
        if !is_file_name(&text) {
            return Err(Fault::new(&name.span, format!("`as` gives `{text}` {of}, which is not a plain file name")));
        }
        let group: Vec<String> = same.iter().map(|name| names.get(&name.text).unwrap_or_default().to_owned()).collect();
        if !seen.insert((group, text.clone())) {
            return Err(Fault::new(&name.span, format!("`as` gives two files the name `{text}`, the second {of}")));
        }
    }
    Ok(())
}

/// Whether a template uses what makes an element unlike all others.
fn tells_apart(from: &Built, name: &Template, same: &[Word]) -> Result<bool, Fault> {
    let used = template::used(&name.text).map_err(|error| Fault::new(&name.span, error.to_string()))?;
    let uses = |name: &str| used.contains(name) || same.iter().any(|it| it.text == name);
    Ok(uses("index")
        || match &from.spec.elements {
            Elements::One => true,
            Elements::Numbers { .. } => uses("item"),
            Elements::Matrix(axes) => axes.iter().all(|axis| uses(&axis.name)),
            // What was appended may lack names, so only the number tells all apart.
            Elements::Grid(grid) => grid.append.is_empty() && grid.axes.iter().all(|axis| uses(&axis.name)),
            Elements::List(_) | Elements::Json(_) => {
                let mut texts = HashSet::new();
                uses("item") && from.items.iter().all(|item| texts.insert(&item.text))
            }
        })
}
