//! Needs element by element: which tasks of an earlier stage each task of a later one waits for, and which of them are over.
//!
//! Always true:
//! - a task waits until every task with its values has succeeded (or, where that is enough, ended), as a node told that has
//!   it on enough disks;
//! - what is known here of earlier tasks only grows; whoever lacks something asks again every two seconds.
//!
//! Elsewhere: needs of whole stages are `jobs`; granting is `arbiter`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rangemap::RangeSet;

use crate::arbiter::Arbiter;
use crate::custody::SHARDS_PER_MESSAGE;
use crate::lattice::{End, Results, Run, Segment, TaskState};
use crate::message::Message;
use crate::node::Node;
use crate::task_sets::ranges_of;
use crate::{Elements, Ending, Grid, JobId, JobSpec, NodeId, Outcome, Range, ShardId, StageSpec};

/// Shards asked about in one round: those of the first tasks that are missing; others follow when these are over.
const ASKS_MAX: usize = 64;
/// Ranges in one message: about 200 KiB.
const RANGES_PER_MESSAGE: usize = 10_000;

/// Which tasks of one stage the tasks of a later one wait for.
#[derive(Debug)]
pub struct Edge {
    /// Position of the earlier stage.
    pub stage: u16,
    /// Whether it is enough that they ended.
    pub finished: bool,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Task `i` waits for task `i + by`.
    Shift { by: i64, count: u32 },
    /// Those with the same values on some axes.
    Values(Box<Values>),
}

#[derive(Debug)]
struct Values {
    mine: Elements,
    theirs: Grid,
    /// Per axis of theirs that is compared: its position, and where each value is on it.
    axes: Vec<(usize, BTreeMap<String, u32>)>,
}

impl Edge {
    /// The edges of a stage. Names that a stage does not have are refused by [`JobSpec::check`].
    pub fn of(spec: &JobSpec, stage: &StageSpec) -> Vec<Self> {
        let edge = |need: &crate::SameNeed| {
            let theirs = spec.stages.get(usize::from(need.stage))?;
            let finished = stage.options.needs_finished.contains(&need.stage);
            Some(Self { stage: need.stage, finished, kind: Kind::of(stage, theirs, &need.names)? })
        };
        stage.options.needs_same.iter().filter_map(edge).collect()
    }

    /// Whether a stage can need another one by these names.
    pub(crate) fn is_possible(mine: &StageSpec, theirs: &StageSpec, names: &[String]) -> bool {
        Kind::of(mine, theirs, names).is_some()
    }

    /// The tasks that a task waits for, in order.
    pub fn needed(&self, task: u32) -> Vec<Range> {
        let mut needed = Vec::new();
        self.visit(task, &mut |range| {
            needed.push(range);
            true
        });
        needed
    }

    /// The first task that this one waits for and that is not among these.
    fn first_missing(&self, task: u32, known: &RangeSet<u32>) -> Option<u32> {
        let mut missing = None;
        self.visit(task, &mut |range| {
            missing = known.gaps(&range.indexes()).next().map(|gap| gap.start);
            missing.is_none()
        });
        missing
    }

    /// Names the ranges in order, as long as the visitor wants more.
    fn visit(&self, task: u32, visitor: &mut dyn FnMut(Range) -> bool) {
        match &self.kind {
            Kind::Shift { by, count } => {
                let first = u32::try_from(i64::from(task) + by).ok().filter(|first| first < count);
                if let Some(first) = first {
                    visitor(Range { first, count: 1 });
                }
            }
            Kind::Values(values) => values.visit(task, visitor),
        }
    }
}

impl Kind {
    fn of(mine: &StageSpec, theirs: &StageSpec, names: &[String]) -> Option<Self> {
        let count = theirs.count;
        match names {
            [] => None,
            [name] if name == "index" => Some(Self::Shift { by: 0, count }),
            [name] if name == "item" => match (&mine.elements, &theirs.elements) {
                (Elements::Numbers { start: mine }, Elements::Numbers { start: theirs }) => {
                    Some(Self::Shift { by: mine.checked_sub(*theirs)?, count })
                }
                (Elements::List(mine), Elements::List(theirs)) | (Elements::Json(mine), Elements::Json(theirs))
                    if mine == theirs =>
                {
                    Some(Self::Shift { by: 0, count })
                }
                _ => None,
            },
            names => {
                let grid = grid_of(&theirs.elements)?;
                let known: BTreeSet<&str> = names_of(&mine.elements).into_iter().collect();
                let axis = |name: &String| {
                    let at = grid.axes.iter().position(|axis| axis.name == *name)?;
                    let values = (0..).zip(&grid.axes[at].values).map(|(at, value)| (value.clone(), at)).collect();
                    known.contains(name.as_str()).then_some((at, values))
                };
                let axes = names.iter().map(axis).collect::<Option<_>>()?;
                Some(Self::Values(Box::new(Values { mine: mine.elements.clone(), theirs: grid, axes })))
            }
        }
    }
}

fn grid_of(elements: &Elements) -> Option<Grid> {
    match elements {
        Elements::Matrix(axes) => Some(Grid::new(axes.clone(), vec![], vec![], vec![])),
        Elements::Grid(grid) => Some(grid.clone()),
        _ => None,
    }
}

fn names_of(elements: &Elements) -> Vec<&str> {
    match elements {
        Elements::Matrix(axes) => axes.iter().map(|axis| axis.name.as_str()).collect(),
        Elements::Grid(grid) => grid.names(),
        _ => Vec::new(),
    }
}

impl Values {
    fn visit(&self, task: u32, visitor: &mut dyn FnMut(Range) -> bool) {
        let mine = self.mine.values(task);
        let value_of = |axis: usize| {
            let name = &self.theirs.axes[axis].name;
            mine.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
        };
        let mut fixed: Vec<Option<u32>> = vec![None; self.theirs.axes.len()];
        let mut in_grid = true;
        for (axis, values) in &self.axes {
            fixed[*axis] = value_of(*axis).and_then(|value| values.get(value).copied());
            in_grid &= fixed[*axis].is_some();
        }
        if in_grid && !self.visit_combinations(&fixed, visitor) {
            return;
        }
        let agrees = |values: &crate::Values| {
            self.axes.iter().all(|(axis, _)| {
                let name = &self.theirs.axes[*axis].name;
                values.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str()) == value_of(*axis)
            })
        };
        let first = u32::try_from(self.theirs.combinations()).unwrap_or(u32::MAX);
        for (at, _) in (0..).zip(&self.theirs.append).filter(|(_, values)| agrees(values)) {
            if !visitor(Range { first: first.saturating_add(at), count: 1 }) {
                return;
            }
        }
    }

    /// Every combination with these values; false when the visitor wants no more.
    fn visit_combinations(&self, fixed: &[Option<u32>], visitor: &mut dyn FnMut(Range) -> bool) -> bool {
        let sizes: Vec<u32> = self.theirs.axes.iter().map(|axis| axis.values.len() as u32).collect();
        // Of a whole product, the axes after the last that is compared make one range.
        let whole = self.theirs.exclude.is_empty();
        let last = fixed.iter().rposition(Option::is_some).map_or(0, |at| at + 1);
        let (outer, run) = if whole { (last, sizes[last..].iter().product()) } else { (sizes.len(), 1) };
        let mut positions: Vec<u32> = fixed.iter().map(|value| value.unwrap_or(0)).collect();
        loop {
            let index = self.theirs.index(&positions);
            if let Some(first) = index
                && !visitor(Range { first, count: run })
            {
                return false;
            }
            // The next combination of those before it, the last varying fastest.
            let next = (0..outer).rev().find(|at| fixed[*at].is_none() && positions[*at] + 1 < sizes[*at]);
            let Some(next) = next else { return true };
            positions[next] += 1;
            (next + 1..outer).filter(|at| fixed[*at].is_none()).for_each(|at| positions[at] = 0);
        }
    }
}

impl Elements {
    /// The names of an element of a matrix, with their values.
    pub fn values(&self, index: u32) -> Vec<(&str, &str)> {
        match self {
            Self::Grid(grid) => grid.values(index),
            Self::Matrix(axes) => {
                let mut rest = index as usize;
                let mut values = Vec::with_capacity(axes.len());
                for axis in axes.iter().rev() {
                    // A spec from a peer may have an empty axis: such a name is empty, not a panic.
                    let at = rest.checked_rem(axis.values.len()).unwrap_or(0);
                    rest = rest.checked_div(axis.values.len()).unwrap_or(0);
                    values.push((axis.name.as_str(), axis.values.get(at).map_or("", String::as_str)));
                }
                values.reverse();
                values
            }
            _ => Vec::new(),
        }
    }
}

/// What a node knows of the edges of one job.
#[derive(Debug, Default)]
pub(crate) struct Edges {
    /// Of the stages that have any.
    stages: BTreeMap<u16, Arc<Vec<Edge>>>,
    /// Tasks that are over, of the stages that are needed element by element.
    over: BTreeMap<u16, Over>,
}

#[derive(Debug, Default)]
struct Over {
    done: RangeSet<u32>,
    failed: RangeSet<u32>,
    /// Either.
    any: RangeSet<u32>,
}

/// What a task waits for.
enum Waits {
    No,
    For(u16, u32),
    /// What it needs has failed.
    Never(u16),
}

impl Edges {
    pub(crate) fn new(spec: &JobSpec) -> Self {
        let edges = |(at, stage): (u16, &StageSpec)| {
            let edges = Edge::of(spec, stage);
            (!edges.is_empty()).then(|| (at, Arc::new(edges)))
        };
        Self { stages: (0..).zip(&spec.stages).filter_map(edges).collect(), over: BTreeMap::new() }
    }

    /// Whether the tasks of this stage are waited for one by one.
    pub(crate) fn is_needed(&self, stage: u16) -> bool {
        self.stages.values().flat_map(|edges| edges.iter()).any(|edge| edge.stage == stage)
    }

    fn waits(&self, edges: &[Edge], task: u32) -> Waits {
        let nothing = Over::default();
        for edge in edges {
            let over = self.over.get(&edge.stage).unwrap_or(&nothing);
            let known = if edge.finished { &over.any } else { &over.done };
            match edge.first_missing(task, known) {
                None => {}
                Some(missing) if over.failed.contains(&missing) => return Waits::Never(edge.stage),
                Some(missing) => return Waits::For(edge.stage, missing),
            }
        }
        Waits::No
    }

    fn is_over(&self, stage: u16, task: u32) -> bool {
        self.over.get(&stage).is_some_and(|over| over.any.contains(&task))
    }

    fn learn(&mut self, stage: u16, done: &[Range], failed: &[Range]) {
        let over = self.over.entry(stage).or_default();
        let some =
            |ranges: &[Range]| ranges.iter().filter(|range| range.count > 0).map(Range::indexes).collect::<Vec<_>>();
        over.any.extend(some(done).into_iter().chain(some(failed)));
        over.failed.extend(some(failed));
        for range in some(done) {
            over.failed.remove(range.clone());
            over.done.insert(range);
        }
    }
}

/// Tasks that became safe, to be told to those who wait for them.
pub(crate) type OverDue = BTreeMap<(JobId, u16), (RangeSet<u32>, RangeSet<u32>)>;

impl Node {
    fn edges(&self, id: ShardId) -> Option<Arc<Vec<Edge>>> {
        self.jobs.get(id.job)?.edges.stages.get(&id.stage).cloned()
    }

    // ---- whoever waits

    /// The arbiter's tasks are all pending: those that wait for others are taken out.
    pub(crate) fn block_tasks(&mut self, id: ShardId) {
        let Some(edges) = self.edges(id) else { return };
        let Some(arbiter) = self.arbiter_mut(id) else { return };
        let tasks = core::mem::take(&mut arbiter.pending);
        let all = tasks.iter().flat_map(Clone::clone).collect();
        self.sort_out(id, &edges, all);
        self.ask_for_tasks(id);
    }

    /// Looks again at tasks of the shard that wait for what is now known.
    fn unblock_tasks(&mut self, id: ShardId) {
        let Some(edges) = self.edges(id) else { return };
        let Some(job) = self.jobs.get(id.job) else { return };
        let Some(arbiter) = self.custody.shard(id).and_then(|shard| shard.arbiter.as_ref()) else { return };
        let moved = arbiter.blocked.iter().filter(|(_, (stage, missing))| job.edges.is_over(*stage, *missing));
        let moved: Vec<u32> = moved.map(|(task, _)| *task).collect();
        if !moved.is_empty() {
            self.sort_out(id, &edges, moved);
        }
    }

    fn sort_out(&mut self, id: ShardId, edges: &[Edge], tasks: Vec<u32>) {
        let Some(job) = self.jobs.get(id.job) else { return };
        let waits: Vec<_> = tasks.into_iter().map(|task| (task, job.edges.waits(edges, task))).collect();
        let mut given_up: BTreeMap<u16, RangeSet<u32>> = BTreeMap::new();
        let Some(arbiter) = self.arbiter_mut(id) else { return };
        for (task, waits) in waits {
            arbiter.blocked.remove(&task);
            match waits {
                Waits::No => arbiter.pending.insert(task..task + 1),
                Waits::For(stage, missing) => {
                    arbiter.blocked.insert(task, (stage, missing));
                }
                Waits::Never(stage) => given_up.entry(stage).or_default().insert(task..task + 1),
            }
        }
        self.custody.grants_changed = true;
        for (stage, tasks) in given_up {
            self.give_up_waiting(id, stage, &tasks);
        }
    }

    /// What these tasks need has failed, so they fail, too.
    fn give_up_waiting(&mut self, id: ShardId, stage: u16, tasks: &RangeSet<u32>) {
        let name = self.jobs.get(id.job).and_then(|job| job.spec.stages.get(usize::from(stage)));
        let why = format!("an element of `{}` that it needs failed", name.map_or("", |stage| &stage.name));
        let state = TaskState::ended(End::Exhausted(Results::one(Outcome::bare(Ending::Rejected(why)), [])));
        let segment: Segment = ranges_of(tasks).into_iter().map(|range| Run { range, state: state.clone() }).collect();
        self.record(id, segment, None);
    }

    /// Asks the keepers of what the shard's tasks wait for.
    pub(crate) fn ask_for_tasks(&mut self, id: ShardId) {
        let Some(arbiter) = self.custody.shard(id).and_then(|shard| shard.arbiter.as_ref()) else { return };
        let Some(spec) = self.jobs.get(id.job).map(|job| job.spec.clone()) else { return };
        let mut asked = BTreeSet::new();
        for (stage, missing) in arbiter.blocked.values() {
            let Some(earlier) = spec.stages.get(usize::from(*stage)) else { continue };
            asked.insert(ShardId { job: id.job, stage: *stage, number: missing / earlier.shard_tasks.max(1) });
            if asked.len() == ASKS_MAX {
                break;
            }
        }
        for shard in asked {
            let custodians = self.shard_custodians(shard);
            if let Some(first) = custodians.into_iter().find(|node| self.reaches(*node)) {
                self.send(first, Message::TasksAsk(shard));
            }
        }
    }

    /// Called with the nudges: what was told may have been lost.
    pub(crate) fn ask_for_all_tasks(&mut self) {
        let blocked = |id: &ShardId| {
            let arbiter = self.custody.shard(*id).and_then(|shard| shard.arbiter.as_ref());
            arbiter.is_some_and(|arbiter| !arbiter.blocked.is_empty())
        };
        for id in self.open_of_staged().into_iter().filter(blocked).collect::<Vec<_>>() {
            self.ask_for_tasks(id);
        }
    }

    pub(crate) fn on_tasks_over(&mut self, job: JobId, stage: u16, done: &[Range], failed: &[Range]) {
        let Some(known) = self.jobs.get_mut(job) else { return };
        if !known.edges.is_needed(stage) {
            return;
        }
        known.edges.learn(stage, done, failed);
        let first = ShardId { job, stage, number: 0 };
        let waiting: Vec<_> =
            self.custody.kept().range(first..).map(|(id, _)| *id).take_while(|id| id.job == job).collect();
        for id in waiting {
            self.unblock_tasks(id);
        }
    }

    // ---- whoever is waited for

    /// These facts are on enough disks: those who wait for them are told at the end of the event.
    pub(crate) fn note_over(&mut self, id: ShardId, segment: &[Run]) {
        if !self.jobs.get(id.job).is_some_and(|job| job.edges.is_needed(id.stage)) {
            return;
        }
        let due = self.custody.over_due.entry((id.job, id.stage)).or_default();
        for run in segment.iter().filter(|run| run.range.count > 0) {
            match &run.state.end {
                Some(End::Done(_)) => due.0.insert(run.range.indexes()),
                Some(End::Exhausted(_)) => due.1.insert(run.range.indexes()),
                _ => {}
            }
        }
    }

    /// Tells the arbiters of the shards that wait.
    pub(crate) fn tell_over(&mut self) {
        for ((job, stage), (done, failed)) in core::mem::take(&mut self.custody.over_due) {
            let (done, failed) = (ranges_of(&done), ranges_of(&failed));
            for node in self.waiting_for(job, stage) {
                self.send_over(node, job, stage, &done, &failed);
            }
        }
    }

    fn send_over(&mut self, to: NodeId, job: JobId, stage: u16, done: &[Range], failed: &[Range]) {
        for done in done.chunks(RANGES_PER_MESSAGE) {
            self.send(to, Message::TasksOver { job, stage, done: done.to_vec(), failed: Vec::new() });
        }
        for failed in failed.chunks(RANGES_PER_MESSAGE) {
            self.send(to, Message::TasksOver { job, stage, done: Vec::new(), failed: failed.to_vec() });
        }
    }

    /// The arbiters, as I see it, of the shards that wait for tasks of this stage.
    fn waiting_for(&self, job: JobId, stage: u16) -> BTreeSet<NodeId> {
        let Some(known) = self.jobs.get(job) else { return BTreeSet::new() };
        let waits = |edges: &Arc<Vec<Edge>>| edges.iter().any(|edge| edge.stage == stage);
        let stages = known.edges.stages.iter().filter(|(_, edges)| waits(edges)).map(|(at, _)| *at);
        let shards = stages.flat_map(|stage| {
            let count = known.spec.stages[usize::from(stage)].shards();
            (0..count).map(move |number| ShardId { job, stage, number })
        });
        // A very large stage has shards everywhere; those who are not told here ask.
        let first = |shard| self.shard_custodians(shard).into_iter().find(|node| self.reaches(*node));
        shards.take(SHARDS_PER_MESSAGE).filter_map(first).collect()
    }

    pub(crate) fn on_tasks_ask(&mut self, from: NodeId, id: ShardId) {
        let Some(shard) = self.custody.shard(id) else { return };
        let unsafe_yet = shard.arbiter.as_ref().map(Arbiter::unconfirmed_tasks).unwrap_or_default();
        let (mut done, mut failed) = (RangeSet::new(), RangeSet::new());
        for (range, state) in shard.state.states() {
            let ranges = match &state.end {
                Some(End::Done(_)) => &mut done,
                Some(End::Exhausted(_)) => &mut failed,
                _ => continue,
            };
            ranges.extend(unsafe_yet.gaps(&range.indexes()));
        }
        let (done, failed) = (ranges_of(&done), ranges_of(&failed));
        self.send_over(from, id.job, id.stage, &done, &failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Axis, Hash};

    fn axis(name: &str, count: u32) -> Axis {
        Axis { name: name.into(), values: (0..count).map(|value| value.to_string()).collect() }
    }

    fn stage(elements: Elements, count: u32) -> StageSpec {
        StageSpec { elements, count, ..StageSpec::plain("stage", Hash::of(b"wasm")) }
    }

    fn needed(mine: &StageSpec, theirs: &StageSpec, names: &[&str], task: u32) -> Vec<u32> {
        let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
        let kind = Kind::of(mine, theirs, &names).unwrap();
        let ranges = Edge { stage: 0, finished: false, kind }.needed(task);
        ranges.iter().flat_map(Range::indexes).collect()
    }

    #[test]
    fn an_element_waits_for_its_own_number() {
        let (mine, theirs) = (stage(Elements::Numbers { start: 10 }, 5), stage(Elements::Numbers { start: 8 }, 20));
        assert_eq!(needed(&mine, &theirs, &["index"], 3), [3]);
        assert_eq!(needed(&mine, &theirs, &["item"], 3), [5]);
    }

    #[test]
    fn an_element_waits_for_all_with_its_values() {
        let theirs = stage(Elements::Matrix(vec![axis("x", 3), axis("y", 4)]), 12);
        let mine = stage(Elements::Matrix(vec![axis("y", 4)]), 4);
        assert_eq!(needed(&mine, &theirs, &["y"], 1), [1, 5, 9]);
        let mine = stage(Elements::Matrix(vec![axis("x", 3)]), 3);
        assert_eq!(needed(&mine, &theirs, &["x"], 2), [8, 9, 10, 11]);
        let mine = stage(Elements::Matrix(vec![axis("y", 4), axis("x", 3)]), 12);
        assert_eq!(needed(&mine, &theirs, &["x", "y"], 1), [4]);
    }

    #[test]
    fn excluded_and_appended_elements_are_found_by_their_values() {
        let grid = Grid::new(
            vec![axis("x", 3), axis("y", 2)],
            vec![vec![(0, 0), (1, 1)]],
            vec![],
            vec![vec![("x".into(), "7".into()), ("y".into(), "1".into())]],
        );
        let theirs = stage(Elements::Grid(grid.clone()), 6);
        let mine = stage(Elements::Matrix(vec![axis("y", 2)]), 2);
        assert_eq!(needed(&mine, &theirs, &["y"], 0), [0, 1, 3]);
        assert_eq!(needed(&mine, &theirs, &["y"], 1), [2, 4, 5]);
        assert_eq!(needed(&theirs, &theirs, &["x"], 5), [5]);
    }

    #[test]
    fn stages_without_a_common_name_cannot_be_needed_by_it() {
        let (numbers, matrix) =
            (stage(Elements::Numbers { start: 0 }, 4), stage(Elements::Matrix(vec![axis("x", 4)]), 4));
        let possible = |mine, theirs, name: &str| Edge::is_possible(mine, theirs, &[name.to_owned()]);
        assert!(!possible(&numbers, &matrix, "x") && !possible(&matrix, &numbers, "x"));
        assert!(!possible(&matrix, &matrix, "y") && !possible(&matrix, &numbers, "item"));
        assert!(possible(&matrix, &numbers, "index") && possible(&matrix, &matrix, "x"));
    }
}
