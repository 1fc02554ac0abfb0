//! What is known of a task for good, and how two nodes' knowledge is joined.
//!
//! Always true: `join` is commutative, associative and idempotent (property tests in `tests/lattice.rs`), so copies that
//! have seen the same facts in any order, any number of times, are equal. `Done ⊐ Exhausted ⊐ Cancelled`:
//! what a run brought to light is never hidden by a cancel (decision 0013).
//!
//! Elsewhere: who may run a task now is soft state, in `arbiter`.
//!
//! Source: join semilattices as in Shapiro et al., "Conflict-free Replicated Data Types" (2011). We differ in keeping
//! both of two different `Done` outcomes: the difference shows a guest that is not deterministic, or a node that lies.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize, Serializer};

use crate::codec;
use crate::{Ending, Hash, LeaseId, NodeId, Outcome, Range, Retry};

/// Names one attempt of one task: the lease it ran under. A task is in a lease once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttemptId {
    /// The arbiter's epoch.
    pub epoch: crate::Epoch,
    /// The arbiter's number of the lease.
    pub lease: u64,
}

impl From<LeaseId> for AttemptId {
    fn from(lease: LeaseId) -> Self {
        Self { epoch: lease.epoch, lease: lease.number }
    }
}

/// An attempt that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Failure {
    /// Where it ran.
    pub node: NodeId,
    /// How it ended.
    pub ending: Ending,
}

/// Outcomes with the nodes that hold their blobs. More than one outcome means that runs differed.
// In order, without duplicates. Almost always one: a map would take some 2 kB for it, and there may be millions.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<Outcome, BTreeSet<NodeId>>")]
pub struct Results(Vec<(Outcome, BTreeSet<NodeId>)>);

impl TryFrom<BTreeMap<Outcome, BTreeSet<NodeId>>> for Results {
    type Error = &'static str;

    fn try_from(outcomes: BTreeMap<Outcome, BTreeSet<NodeId>>) -> Result<Self, Self::Error> {
        let outcomes: Vec<_> = outcomes.into_iter().collect();
        if outcomes.is_empty() { Err("results without an outcome") } else { Ok(Self(outcomes)) }
    }
}

impl Serialize for Results {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(outcome, holders)| (outcome, holders)))
    }
}

impl Results {
    /// One outcome, whose blobs (if any) are at `holders`.
    pub fn one(outcome: Outcome, holders: impl IntoIterator<Item = NodeId>) -> Self {
        let holders = if outcome.blobs().next().is_some() { holders.into_iter().collect() } else { BTreeSet::new() };
        Self(vec![(outcome, holders)])
    }

    fn first(&self) -> &(Outcome, BTreeSet<NodeId>) {
        self.0.first().expect("results are built with one outcome and only grow")
    }

    /// The recorded outcome: the least of those known, so that every node picks the same.
    pub fn outcome(&self) -> &Outcome {
        &self.first().0
    }

    /// The nodes said to hold the blobs of the recorded outcome. A hint: fetched bytes are checked whoever sends them.
    pub fn holders(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.first().1.iter().copied()
    }

    /// Whether runs differed.
    pub fn is_disputed(&self) -> bool {
        self.0.len() > 1
    }

    /// Notes that `node` holds the blobs of every outcome here.
    pub fn add_holder(&mut self, node: NodeId) {
        for (outcome, holders) in &mut self.0 {
            if outcome.blobs().next().is_some() {
                holders.insert(node);
            }
        }
    }

    fn join(&mut self, other: &Self) {
        for (outcome, holders) in &other.0 {
            match self.0.binary_search_by(|(known, _)| known.cmp(outcome)) {
                Ok(at) => self.0[at].1.extend(holders),
                Err(at) => self.0.insert(at, (outcome.clone(), holders.clone())),
            }
        }
    }

    /// The same for failures, which may well differ from run to run: only the greatest is kept.
    fn join_greatest(&mut self, other: &Self) {
        self.join(other);
        self.0.drain(..self.0.len() - 1);
    }
}

/// The terminal state of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// It failed and its budget is used up; holds the last failure.
    Exhausted(Results),
    /// Its job was stopped first.
    Cancelled,
    /// It succeeded.
    Done(Results),
}

impl End {
    const fn rank(&self) -> u8 {
        match self {
            Self::Cancelled => 0,
            Self::Exhausted(_) => 1,
            Self::Done(_) => 2,
        }
    }

    fn join(&mut self, other: &Self) {
        let rises = other.rank() > self.rank();
        match (&mut *self, other) {
            (Self::Done(mine), Self::Done(theirs)) => mine.join(theirs),
            (Self::Exhausted(mine), Self::Exhausted(theirs)) => mine.join_greatest(theirs),
            (mine, theirs) if rises => *mine = theirs.clone(),
            _ => {}
        }
    }
}

/// All that is known of one task for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskState {
    /// Attempts that did not succeed; only grows.
    pub failures: BTreeMap<AttemptId, Failure>,
    /// Set once the task has ended; only rises.
    pub end: Option<End>,
}

impl TaskState {
    /// Nothing but this end.
    pub const fn ended(end: End) -> Self {
        Self { failures: BTreeMap::new(), end: Some(end) }
    }

    /// Nothing but this failed attempt.
    pub fn failed(attempt: AttemptId, failure: Failure) -> Self {
        Self { failures: BTreeMap::from([(attempt, failure)]), end: None }
    }

    /// Takes in what `other` knows.
    pub fn join(&mut self, other: &Self) {
        for (attempt, failure) in &other.failures {
            let known = self.failures.entry(*attempt).or_insert_with(|| failure.clone());
            // An attempt has one ending; a lying peer may say two, and then the least stands everywhere.
            if failure < known {
                *known = failure.clone();
            }
        }
        match (&mut self.end, &other.end) {
            (Some(mine), Some(theirs)) => mine.join(theirs),
            (mine @ None, Some(theirs)) => *mine = Some(theirs.clone()),
            (_, None) => {}
        }
    }

    /// Whether nothing that `other` knows would be new here.
    fn covers(&self, other: &Self) -> bool {
        let joined = || {
            let mut joined = self.clone();
            joined.join(other);
            joined
        };
        self == other || *self == joined()
    }

    /// Attempts lost with their node, and those that failed by themselves, without this one.
    pub fn attempts_but(&self, attempt: AttemptId) -> (usize, usize) {
        let (lost, failed) = (self.lost(), self.failed_attempts());
        match self.failures.get(&attempt) {
            Some(failure) if failure.ending == Ending::Lost => (lost - 1, failed),
            Some(_) => (lost, failed - 1),
            None => (lost, failed),
        }
    }

    /// Attempts lost with their node.
    pub fn lost(&self) -> usize {
        self.failures.values().filter(|failure| failure.ending == Ending::Lost).count()
    }

    /// How the task failed, when its attempts are more than its budgets allow though nobody has ended it: several
    /// arbiters counted their own.
    pub fn overrun(&self, retry: &Retry) -> Option<Ending> {
        let failed = self.failures.values().map(|failure| &failure.ending).filter(|ending| **ending != Ending::Lost);
        if self.end.is_some() {
            None
        } else if self.failed_attempts() > usize::from(retry.max) {
            failed.max().cloned()
        } else {
            (self.lost() > usize::from(retry.lost_max)).then_some(Ending::Lost)
        }
    }

    /// Attempts that failed by themselves.
    pub fn failed_attempts(&self) -> usize {
        self.failures.len() - self.lost()
    }
}

/// Neighbouring tasks of which the same is known: `count` tasks from `first`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The tasks.
    pub range: Range,
    /// What is known of each of them.
    pub state: TaskState,
}

impl Run {
    /// Notes that `node` holds the blobs that it names.
    pub fn add_holder(&mut self, node: NodeId) {
        if let Some(End::Done(results) | End::Exhausted(results)) = &mut self.state.end {
            results.add_holder(node);
        }
    }

    /// About how many bytes its encoding has: messages are cut by this.
    pub fn weight(&self) -> usize {
        let results = match &self.state.end {
            Some(End::Done(results) | End::Exhausted(results)) => Some(&results.0),
            _ => None,
        };
        let outcomes = results.into_iter().flatten();
        let outcomes: usize = outcomes.map(|(outcome, holders)| outcome.weight() + holders.len() * 34).sum();
        64 + self.state.failures.len() * 160 + outcomes
    }
}

/// A batch of facts about the tasks of one shard, as it is stored and sent.
pub type Segment = Vec<Run>;

/// How many tasks of a shard (or stage, or job) ended in each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Counts {
    /// Succeeded.
    pub done: u32,
    /// Failed for good.
    pub failed: u32,
    /// Cancelled.
    pub cancelled: u32,
}

impl Counts {
    /// All that ended.
    pub const fn ended(&self) -> u32 {
        self.done.saturating_add(self.failed).saturating_add(self.cancelled)
    }

    /// Adds `other` to these.
    pub fn add(&mut self, other: Self) {
        self.done = self.done.saturating_add(other.done);
        self.failed = self.failed.saturating_add(other.failed);
        self.cancelled = self.cancelled.saturating_add(other.cancelled);
    }
}

/// What is known for good of the tasks of one shard: runs of equal states, so that a million equal outcomes are one entry.
/// Tasks of which nothing is known are absent. Runs are maximal, hence equal knowledge has equal form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardState {
    /// First task → number of tasks, and their state.
    runs: BTreeMap<u32, (u32, TaskState)>,
    counts: Counts,
}

impl ShardState {
    /// What is known of one task.
    pub fn get(&self, task: u32) -> Option<&TaskState> {
        let (first, (count, state)) = self.runs.range(..=task).next_back()?;
        (task - first < *count).then_some(state)
    }

    /// Whether the task has ended.
    pub fn has_ended(&self, task: u32) -> bool {
        self.get(task).is_some_and(|state| state.end.is_some())
    }

    /// How many ended in each way.
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// What is known of which tasks, in order.
    pub fn states(&self) -> impl Iterator<Item = (Range, &TaskState)> {
        self.runs.iter().map(|(&first, (count, state))| (Range { first, count: *count }, state))
    }

    /// Every run, in order.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.runs_from(0)
    }

    /// The runs that reach `first` or beyond: also one that begins before it, since the reader of a page may have got the
    /// page before from a node with other runs.
    pub fn runs_from(&self, first: u32) -> impl Iterator<Item = Run> + '_ {
        let before = self.runs.range(..=first).next_back().filter(|(at, (count, _))| first - **at < *count);
        let start = before.map_or(first, |(at, _)| *at);
        self.runs
            .range(start..)
            .map(|(&first, (count, state))| Run { range: Range { first, count: *count }, state: state.clone() })
    }

    /// Names this knowledge: equal for equal knowledge.
    pub fn digest(&self) -> Hash {
        Hash::of(&codec::encode(&self.runs))
    }

    /// Whether nothing that `other` knows would be new here.
    pub fn covers(&self, other: &Self) -> bool {
        other.runs.iter().all(|(first, (count, state))| self.covers_run(*first, first + count, state))
    }

    fn covers_run(&self, first: u32, end: u32, state: &TaskState) -> bool {
        let mut at = first;
        while at < end {
            let known = self.runs.range(..=at).next_back().filter(|(run, (count, _))| at - **run < *count);
            let Some((run, (count, known))) = known else { return false };
            if !known.covers(state) {
                return false;
            }
            at = run + count;
        }
        true
    }

    /// Takes in a batch of facts; true when any of it was new.
    pub fn join(&mut self, segment: &[Run]) -> bool {
        let mut changed = false;
        for run in segment {
            changed |= self.join_run(run);
        }
        changed
    }

    /// Takes in one run; true when any of it was new.
    fn join_run(&mut self, run: &Run) -> bool {
        let Range { first, .. } = run.range;
        let end = run.range.end();
        if run.state == TaskState::default() || self.covers_run(first, end, &run.state) {
            return false;
        }
        self.split_at(first);
        self.split_at(end);
        let mut at = first;
        while at < end {
            let next = self.runs.range(at..).next().map(|(&next, (count, _))| (next, *count));
            at = match next {
                Some((next, count)) if next == at => {
                    self.join_in_place(at, &run.state);
                    at + count
                }
                other => {
                    let gap_end = other.map_or(end, |(next, _)| next.min(end));
                    self.insert(at, gap_end - at, run.state.clone());
                    gap_end
                }
            };
        }
        self.merge_around(first, end);
        true
    }

    fn join_in_place(&mut self, first: u32, state: &TaskState) {
        let (count, mut known) = self.runs.remove(&first).expect("the caller found it");
        self.uncount(count, &known);
        known.join(state);
        self.insert(first, count, known);
    }

    fn insert(&mut self, first: u32, count: u32, state: TaskState) {
        if let Some(slot) = slot(&mut self.counts, &state) {
            *slot += count;
        }
        self.runs.insert(first, (count, state));
    }

    fn uncount(&mut self, count: u32, state: &TaskState) {
        if let Some(slot) = slot(&mut self.counts, state) {
            *slot -= count;
        }
    }

    /// Makes `at` the border of a run.
    fn split_at(&mut self, at: u32) {
        let Some((&first, (count, _))) = self.runs.range_mut(..at).next_back() else { return };
        let end = first + *count;
        if at < end {
            let (_, state) = self.runs.remove(&first).expect("just seen");
            self.runs.insert(first, (at - first, state.clone()));
            self.runs.insert(at, (end - at, state));
        }
    }

    /// Joins equal neighbours that touch within `first ..= end`.
    fn merge_around(&mut self, first: u32, end: u32) {
        let start = self.runs.range(..first).next_back().map_or(first, |(&before, _)| before);
        let mut at = start;
        while let Some((count, state)) = self.runs.get(&at) {
            let next = at + count;
            let equal = self.runs.get(&next).is_some_and(|(_, neighbour)| neighbour == state);
            if equal {
                let (more, _) = self.runs.remove(&next).expect("just seen");
                self.runs.get_mut(&at).expect("just seen").0 += more;
                continue;
            }
            match self.runs.range(at + 1..).next() {
                Some((&following, _)) if following <= end => at = following,
                _ => break,
            }
        }
    }
}

fn slot<'a>(counts: &'a mut Counts, state: &TaskState) -> Option<&'a mut u32> {
    match state.end.as_ref()? {
        End::Done(_) => Some(&mut counts.done),
        End::Exhausted(_) => Some(&mut counts.failed),
        End::Cancelled => Some(&mut counts.cancelled),
    }
}
