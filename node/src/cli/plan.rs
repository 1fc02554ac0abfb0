//! `swarm plan`: what a job file would become, and where its tasks would run, before anything is sent.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use swarm_protocol::{JobSpec, NodeId, NodeRecord, Resources, StageSpec};

use super::args::{self, Global};
use super::node::data_dir;
use super::output::{Format, bytes, json, print, shown};
use super::submit::{Names, load};
use crate::api::view::NodeItem;
use crate::api::{Client, Code, Failure};
use crate::jobfile::{BlobSource, Plan};
use crate::words;

/// Schema of a plan.
pub(super) const PLAN: &str = "swarm.plan/1";
/// Nodes named after a stage; the others are counted.
const NODES_NAMED_MAX: usize = 4;

/// What `swarm plan` says.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Planned {
    schema: &'static str,
    name: String,
    tasks: u64,
    stages: Vec<Stage>,
    /// Modules, inputs and lists that are sent unless the swarm has them.
    blobs: usize,
    blobs_bytes: u64,
    /// Nodes that were looked at; absent without a node.
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<usize>,
}

/// One stage of it.
#[derive(Debug, Serialize, JsonSchema)]
struct Stage {
    name: String,
    tasks: u32,
    shards: u32,
    needs: Vec<Need>,
    /// 64 hexadecimal digits.
    module: String,
    /// Absent when the file names the module by its hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    module_bytes: Option<u64>,
    memory_bytes: u64,
    slots: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    require: Vec<String>,
    /// Where its tasks would run now, in proportion to the slots.
    placement: Vec<Place>,
    /// Why no node can ever run it.
    #[serde(skip_serializing_if = "Option::is_none")]
    never: Option<String>,
}

/// A stage that another needs.
#[derive(Debug, Serialize, JsonSchema)]
struct Need {
    task: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    same: Vec<String>,
    when: &'static str,
}

/// About how many tasks one node would get.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct Place {
    node: String,
    name: String,
    tasks: u32,
}

/// `swarm plan`.
pub(super) async fn plan(global: &Global, args: &args::Plan) -> Result<(), Failure> {
    let names = match args.offline {
        true => Names::IfThere(Client::new(&data_dir(global)?)),
        false => Names::of(global, false)?,
    };
    let plan = load(&args.file, None, args.set.clone(), names).await?;
    let nodes = if args.offline { None } else { Some(living(Client::new(&data_dir(global)?).nodes().await?.items)) };
    let planned = Planned::of(&plan, nodes.as_deref());
    let text = match global.output {
        Format::Table => planned.text(),
        Format::Json => json(&planned)?,
        Format::Jsonl => planned.stages.iter().map(json).collect::<Result<_, _>>()?,
        Format::Id => planned.stages.iter().map(|stage| format!("{}\n", stage.name)).collect(),
    };
    print(&text)?;
    planned.never().map_or(Ok(()), Err)
}

fn living(nodes: Vec<NodeItem>) -> Vec<NodeItem> {
    nodes.into_iter().filter(|node| matches!(node.state.as_str(), "alive" | "suspect")).collect()
}

impl Planned {
    fn of(plan: &Plan, nodes: Option<&[NodeItem]>) -> Self {
        let sizes: BTreeMap<String, u64> = plan.blobs.iter().map(|blob| (blob.hash().to_hex(), len_of(blob))).collect();
        let stage = |stage: &StageSpec| Stage::of(&plan.spec, stage, &sizes, nodes);
        Self {
            schema: PLAN,
            name: plan.spec.name.clone(),
            tasks: plan.spec.tasks(),
            stages: plan.spec.stages.iter().map(stage).collect(),
            blobs: plan.blobs.len(),
            blobs_bytes: sizes.values().sum(),
            nodes: nodes.map(<[NodeItem]>::len),
        }
    }

    /// Why not all of it can run on the nodes that are there.
    fn never(&self) -> Option<Failure> {
        let mut never = self.stages.iter().filter_map(|stage| Some((&stage.name, stage.never.as_ref()?)));
        let (name, why) = never.next()?;
        let others = match never.count() {
            0 => String::new(),
            others => format!("; and {} more can never", words::count(others as u64, "stage")),
        };
        let message = format!("`{}` can never run on the nodes that are there: {why}{others}", shown(name));
        Some(Failure::new(Code::NeverRunnable, message).hint("swarm nodes -o json   # what each offers"))
    }

    fn text(&self) -> String {
        let count = |number: u64, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
        let (tasks, stages) = (count(self.tasks, "task"), count(self.stages.len() as u64, "stage"));
        let blobs = format!("{} of {}", count(self.blobs as u64, "blob"), bytes(self.blobs_bytes));
        let mut text = format!("{}: {tasks} in {stages}; {blobs} to send unless the swarm has them\n", self.name);
        let children = self.children();
        let roots: Vec<usize> = (0..self.stages.len()).filter(|at| self.parent(*at).is_none()).collect();
        self.branch(&roots, &children, "", &mut text);
        let mut modules: Vec<(&str, Option<u64>)> =
            self.stages.iter().map(|stage| (stage.module.as_str(), stage.module_bytes)).collect();
        modules.sort_unstable();
        modules.dedup();
        for (hash, len) in modules {
            let len = len.map_or_else(|| "by its hash: the swarm must have it".to_owned(), bytes);
            text.push_str(&format!("module blake3:{}… {len}\n", &hash[..12.min(hash.len())]));
        }
        text
    }

    /// The stage under which one is shown: the last of those that it needs.
    fn parent(&self, at: usize) -> Option<usize> {
        let needs =
            self.stages[at].needs.iter().filter_map(|need| self.stages.iter().position(|it| it.name == need.task));
        needs.max()
    }

    fn children(&self) -> BTreeMap<usize, Vec<usize>> {
        let mut children: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for at in 0..self.stages.len() {
            if let Some(parent) = self.parent(at) {
                children.entry(parent).or_default().push(at);
            }
        }
        children
    }

    fn branch(&self, stages: &[usize], children: &BTreeMap<usize, Vec<usize>>, indent: &str, text: &mut String) {
        for (number, at) in stages.iter().enumerate() {
            let last = number + 1 == stages.len();
            let (knee, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            let parent = self.parent(*at).map(|parent| self.stages[parent].name.as_str());
            text.push_str(&format!("{indent}{knee}{}\n", self.stages[*at].line(parent)));
            let further = format!("{indent}{below}");
            self.branch(children.get(at).map_or(&[][..], Vec::as_slice), children, &further, text);
        }
    }
}

fn len_of(blob: &BlobSource) -> u64 {
    match blob {
        BlobSource::Bytes { bytes, .. } => bytes.len() as u64,
        BlobSource::File { len, .. } => *len,
    }
}

impl Stage {
    fn of(spec: &JobSpec, stage: &StageSpec, sizes: &BTreeMap<String, u64>, nodes: Option<&[NodeItem]>) -> Self {
        let first = stage.resources().next().unwrap_or(Resources { memory_bytes_max: 0, slots: 1 });
        let module = stage.wasm.to_hex();
        let records: Option<Vec<NodeRecord>> = nodes.map(|nodes| nodes.iter().map(record).collect());
        let fitting = records.iter().flatten().filter(|record| stage.fits(record)).collect::<Vec<_>>();
        let never = records.as_ref().filter(|_| fitting.is_empty());
        let never = never.map(|records| shown(&stage.unmet(&records.iter().collect::<Vec<_>>()).to_string()));
        Self {
            name: stage.name.clone(),
            tasks: stage.count,
            shards: stage.shards(),
            needs: stage.needs.iter().map(|need| need_of(spec, stage, *need)).collect(),
            module_bytes: sizes.get(&module).copied(),
            module,
            memory_bytes: first.memory_bytes_max,
            slots: first.slots,
            require: stage.options.place.require.iter().map(ToString::to_string).collect(),
            placement: placement(stage, &fitting),
            never,
        }
    }

    fn line(&self, parent: Option<&str>) -> String {
        let mut line = format!("{}: {} task{}", self.name, self.tasks, if self.tasks == 1 { "" } else { "s" });
        let needs = self.needs.iter().filter(|need| Some(need.task.as_str()) != parent || need.is_special());
        let needs: Vec<String> = needs.map(Need::text).collect();
        if !needs.is_empty() {
            line.push_str(&format!(", needs {}", needs.join(" and ")));
        }
        if let Some(never) = &self.never {
            return format!("{line} — can never run: {never}");
        }
        let named = self.placement.iter().take(NODES_NAMED_MAX);
        let mut places: Vec<String> = named.map(|place| format!("{} {}", place.label(), place.tasks)).collect();
        if self.placement.len() > NODES_NAMED_MAX {
            places.push(format!("and {} more nodes", self.placement.len() - NODES_NAMED_MAX));
        }
        if !places.is_empty() {
            line.push_str(&format!(" → {}", places.join(", ")));
        }
        line
    }
}

fn need_of(spec: &JobSpec, stage: &StageSpec, need: u16) -> Need {
    let same = stage.options.needs_same.iter().find(|same| same.stage == need);
    let finished = stage.options.needs_finished.contains(&need);
    Need {
        task: spec.stages.get(usize::from(need)).map(|stage| stage.name.clone()).unwrap_or_default(),
        same: same.map(|same| same.names.clone()).unwrap_or_default(),
        when: if finished { "finished" } else { "done" },
    }
}

impl Need {
    fn is_special(&self) -> bool {
        !self.same.is_empty() || self.when != "done"
    }

    fn text(&self) -> String {
        let mut text = self.task.clone();
        if !self.same.is_empty() {
            text.push_str(&format!(" of the same {}", self.same.join(", ")));
        }
        if self.when != "done" {
            text.push_str(" finished");
        }
        text
    }
}

impl Place {
    fn label(&self) -> String {
        if self.name.is_empty() { self.node.chars().take(12).collect() } else { shown(&self.name) }
    }
}

/// A node's record, as far as conditions look at it.
fn record(node: &NodeItem) -> NodeRecord {
    let pair = |label: &String| label.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    NodeRecord {
        node: NodeId::from_hex(&node.id).unwrap_or(NodeId::from_bytes([0; 32])),
        incarnation: 0,
        sequence: 0,
        name: node.name.clone(),
        addresses: Vec::new(),
        slots: node.slots,
        slots_free: node.slots_free,
        memory_bytes: node.memory_bytes,
        labels: node.labels.iter().filter_map(pair).collect(),
        arch: node.arch.clone(),
        version: node.version.clone(),
        draining: false,
    }
}

/// The tasks in proportion to the slots that each node has for them; the largest first.
fn placement(stage: &StageSpec, nodes: &[&NodeRecord]) -> Vec<Place> {
    let at_once = |node: &NodeRecord| {
        let slots = stage.resources_on(node).map_or(1, |resources| resources.slots.max(1));
        u64::from((node.slots / slots).max(1))
    };
    let preferred: Vec<&&NodeRecord> = nodes.iter().filter(|node| stage.options.place.likes(node)).collect();
    // Those that are liked take all, unless there are too few of them for all tasks at once.
    let liked: u64 = preferred.iter().map(|node| at_once(node)).sum();
    let chosen: Vec<&NodeRecord> = match u64::from(stage.count) <= liked {
        true => preferred.into_iter().copied().collect(),
        false => nodes.to_vec(),
    };
    let all: u64 = chosen.iter().map(|node| at_once(node)).sum();
    let (mut left, mut weight) = (u64::from(stage.count), all);
    let mut places = Vec::new();
    for node in chosen {
        let slots = at_once(node);
        let share = (left * slots).div_ceil(weight.max(1)).min(left);
        (left, weight) = (left - share, weight - slots);
        if share > 0 {
            let tasks = u32::try_from(share).unwrap_or(u32::MAX);
            places.push(Place { node: node.node.to_hex(), name: node.name.clone(), tasks });
        }
    }
    places.sort_by_key(|place| std::cmp::Reverse(place.tasks));
    places
}

#[cfg(test)]
mod tests {
    use swarm_protocol::{Attribute, Condition, Hash, Test};

    use super::*;

    fn node(name: &str, slots: u32, labels: &[&str]) -> NodeItem {
        NodeItem {
            id: hex::encode([name.len() as u8; 32]),
            name: name.into(),
            state: "alive".into(),
            slots,
            slots_free: slots,
            version: "0.1.0".into(),
            address: String::new(),
            heard_ms: 0,
            memory_bytes: 8 << 30,
            arch: "x86_64".into(),
            labels: labels.iter().map(|&label| label.to_owned()).collect(),
        }
    }

    fn stage(count: u32) -> StageSpec {
        StageSpec { count, ..StageSpec::plain("a", Hash::of(b"")) }
    }

    fn planned(stage: &StageSpec, nodes: &[NodeItem]) -> Vec<(String, u32)> {
        let records: Vec<NodeRecord> = nodes.iter().map(record).collect();
        let fitting: Vec<&NodeRecord> = records.iter().filter(|node| stage.fits(node)).collect();
        placement(stage, &fitting).into_iter().map(|place| (place.name, place.tasks)).collect()
    }

    #[test]
    fn tasks_are_spread_in_proportion_to_slots() {
        let nodes = [node("anna", 4, &[]), node("ben", 2, &[])];
        assert_eq!(planned(&stage(9), &nodes), [("anna".to_owned(), 6), ("ben".to_owned(), 3)]);
        assert_eq!(planned(&stage(1), &nodes), [("anna".to_owned(), 1)]);
    }

    #[test]
    fn nodes_that_are_preferred_take_what_they_can() {
        let mut few = stage(4);
        let label = Condition { attribute: Attribute::Label("disk".into()), test: Test::Exists };
        few.options.place.prefer = vec![label];
        let nodes = [node("anna", 4, &[]), node("ben", 4, &["disk=nvme"])];
        assert_eq!(planned(&few, &nodes), [("ben".to_owned(), 4)]);
        few.count = 8;
        assert_eq!(planned(&few, &nodes).len(), 2);
    }

    #[test]
    fn what_can_never_run_says_what_is_missing() {
        let mut picky = stage(4);
        let zone =
            Condition { attribute: Attribute::Label("zone".into()), test: Test::In(vec!["a".into(), "b".into()]) };
        picky.options.place.require = vec![zone];
        let nodes: Vec<NodeRecord> = [node("anna", 4, &["zone=c"]), node("ben", 4, &["zone=c"]), node("carl", 4, &[])]
            .iter()
            .map(record)
            .collect();
        let nodes: Vec<&NodeRecord> = nodes.iter().collect();
        let why = picky.unmet(&nodes).to_string();
        assert_eq!(why, "no node satisfies `label.zone in (a, b)` (1 node: no label; 2 nodes: zone = c)");
        let mut large = stage(1);
        large.limits.memory_bytes_max = 16 << 30;
        assert_eq!(
            large.unmet(&nodes).to_string(),
            "it needs 16.0GiB and 1 slot, and the largest node offers 8.0GiB and 4"
        );
    }
}
