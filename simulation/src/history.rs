//! What was observed so far, as far as more than one invariant asks for it, and what can be observed at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use swarm_protocol::lattice::{Counts, Run};
use swarm_protocol::{
    Answer, Edge, Hash, JobId, JobSpec, KEEP_MS_DEFAULT, LeaseId, Message, NodeId, Outcome, Query, Range, ShardId, Time,
};

use crate::clients::patient;
use crate::guests::Script;

/// Something that the auditor is told, in the order in which it happens.
pub(crate) enum Fact<'a> {
    /// A user hands over a job.
    Submitted { job: JobId, spec: Arc<JobSpec>, scripts: Vec<Script> },
    /// This node told its user that the job is safe.
    Acknowledged { node: NodeId, job: JobId },
    /// A user cancels the job; nobody has confirmed it yet.
    Cancelling { job: JobId },
    /// This node told its user that the cancel is safe.
    Cancelled { node: NodeId, job: JobId },
    /// All nodes are linked with one another, on a network that delivers in time.
    Linked { nodes: usize },
    /// A node is lost or cut off.
    Disturbed,
    /// Packets pass again between nodes that could not hear each other.
    Reunited,
    /// A node's process ended, by whatever cause.
    Down { node: NodeId },
    /// A node is told to drain.
    Draining { node: NodeId },
    /// A node says that everything which it owed is handed over.
    Drained { node: NodeId },
    /// A node's disk was lost or is that of an earlier day, or another machine with its identity speaks from now on: what
    /// it said before binds it no more.
    Forgot { node: NodeId },
    /// A node says something to a linked peer.
    Said { node: NodeId, to: NodeId, message: &'a Message },
    /// A node takes in what a linked peer said.
    Heard { node: NodeId, from: NodeId, message: &'a Message },
    /// A node's disk remembers something of a shard's tasks.
    Recorded { node: NodeId, shard: ShardId, segment: &'a [Run] },
    /// A node gives a task to its executor; `again` when it is there already under the same lease.
    Started { node: NodeId, lease: LeaseId, task: u32, again: bool },
    /// A guest came to its end.
    Ran { node: NodeId, lease: LeaseId, task: u32, outcome: &'a Outcome },
    /// A node tells its executor to stop tasks, which then owe no outcome.
    Dropped { node: NodeId, lease: LeaseId, tasks: &'a [Range] },
    /// A node that drains gives tasks back, which it then does not run.
    Released { node: NodeId, lease: LeaseId, tasks: &'a [Range] },
    /// A user who asked at that moment was answered.
    Told { node: NodeId, asked: Time, query: &'a Query, answer: &'a Answer },
    /// Faults are over, all nodes are up.
    Healed,
    /// Within the bound after the healing every acknowledged job should have been over.
    Bounded,
    /// Custodians had their time to come to agree.
    Settled,
    /// A node's queues as they are now.
    Queued { node: NodeId, queues: Queues },
    /// What a shard's custodians have of it, as the nodes themselves tell.
    Kept { shard: ShardId, copies: &'a [(NodeId, Option<Hash>)] },
    /// A node removed a blob that nothing on it needs.
    Collected { node: NodeId, blob: Hash },
    /// A user was told that this blob stays on this node until it is unpinned.
    Pinned { node: NodeId, blob: Hash },
    /// A user wants it to stay there no longer.
    Unpinned { node: NodeId, blob: Hash },
    /// A node forgot a job whose time was over.
    Expired { node: NodeId, job: JobId },
    /// Which nodes hold a blob, after everything settled.
    Held { blob: Hash, holders: usize },
    /// Every question after the settling was asked, and had its time to be answered.
    Closed,
}

/// How much waits at a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Queues {
    /// Events that the core has not taken.
    pub(crate) events: usize,
    /// Messages to one peer that one turn of the driver brought forth, at most.
    pub(crate) frames: usize,
}

/// One job, as its submitter and the executors know it.
pub(crate) struct JobHistory {
    pub(crate) spec: Arc<JobSpec>,
    pub(crate) scripts: Vec<Script>,
    /// When a user was first told that it is safe.
    pub(crate) acknowledged: Option<Time>,
    pub(crate) cancelling: bool,
    /// When a user was first told that the cancel is safe.
    pub(crate) cancelled: Option<Time>,
    /// Per stage, the tasks that came to their end on an honest machine at least once.
    ran: Vec<BTreeSet<u32>>,
    /// What tasks left behind where guests lie.
    lies: BTreeMap<(u16, u32), BTreeSet<Outcome>>,
    /// Per stage, how many tasks succeed by their script.
    succeed: Vec<u32>,
    /// Per stage, how many different tasks succeeded.
    succeeded: Vec<u32>,
    /// Per stage, the tasks of which anybody said or recorded that they ended.
    ended: Vec<BTreeSet<u32>>,
    /// When a user handed it over.
    pub(crate) submitted: Time,
    /// When somebody had said or recorded of every task that it ended; only of jobs that expire.
    pub(crate) ended_at: Option<Time>,
}

impl JobHistory {
    fn new(spec: Arc<JobSpec>, scripts: Vec<Script>, submitted: Time) -> Self {
        let stages = spec.stages.len();
        let succeeds = |stage: usize, task| scripts[stage].outcome(spec.nonce, stage as u16, task).ending.is_success();
        let succeed = spec
            .stages
            .iter()
            .enumerate()
            .map(|(stage, it)| (0..it.count).filter(|task| succeeds(stage, *task)).count() as u32);
        let succeed = succeed.collect();
        Self {
            spec,
            scripts,
            acknowledged: None,
            cancelling: false,
            cancelled: None,
            ran: vec![BTreeSet::new(); stages],
            lies: BTreeMap::new(),
            succeed,
            succeeded: vec![0; stages],
            ended: vec![BTreeSet::new(); stages],
            submitted,
            ended_at: None,
        }
    }

    /// Whether its results are kept only for so short a time that it expires in a run.
    pub(crate) fn is_brief(&self) -> bool {
        self.spec.options.keep_ms < KEEP_MS_DEFAULT
    }

    /// Whether users were told that it is safe, and it does not expire in a run.
    pub(crate) fn is_to_last(&self) -> bool {
        self.acknowledged.is_some() && !self.is_brief()
    }

    /// How a task ends on an honest machine; `None` when there is no such task.
    pub(crate) fn scripted(&self, stage: u16, task: u32) -> Option<Outcome> {
        let script = self.scripts.get(usize::from(stage))?;
        let count = self.spec.stages.get(usize::from(stage))?.count;
        (task < count).then(|| script.outcome(self.spec.nonce, stage, task))
    }

    /// Whether the task came to its end anywhere.
    pub(crate) fn has_run(&self, stage: u16, task: u32) -> bool {
        self.has_run_honestly(stage, task) || self.lies.contains_key(&(stage, task))
    }

    fn has_run_honestly(&self, stage: u16, task: u32) -> bool {
        self.ran.get(usize::from(stage)).is_some_and(|ran| ran.contains(&task))
    }

    /// Whether a run of the task left this behind.
    pub(crate) fn has_left(&self, stage: u16, task: u32, outcome: &Outcome) -> bool {
        let honest = || self.scripted(stage, task).is_some_and(|it| it == *outcome);
        self.lies.get(&(stage, task)).is_some_and(|lies| lies.contains(outcome))
            || (self.has_run_honestly(stage, task) && honest())
    }

    /// Whether runs of the task left different things behind.
    pub(crate) fn has_two_outcomes(&self, stage: u16, task: u32) -> bool {
        let lies = self.lies.get(&(stage, task)).map_or(0, BTreeSet::len);
        lies + usize::from(self.has_run_honestly(stage, task)) > 1
    }

    /// Whether tasks of the job may be given up for nodes that were lost.
    pub(crate) fn may_be_lost(&self) -> bool {
        self.spec.stages.iter().any(|stage| stage.retry.lost_max < patient().lost_max)
    }

    /// Whether every task of the stage succeeded somewhere.
    pub(crate) fn stage_succeeded(&self, stage: u16) -> bool {
        let position = usize::from(stage);
        self.spec.stages.get(position).is_some_and(|it| self.succeeded[position] == it.count)
    }

    /// Whether somebody said or recorded of every task of the stage that it ended.
    pub(crate) fn stage_has_ended(&self, stage: u16) -> bool {
        let position = usize::from(stage);
        self.spec.stages.get(position).is_some_and(|it| self.ended[position].len() == it.count as usize)
    }

    /// Whether the task succeeded somewhere.
    pub(crate) fn has_succeeded(&self, stage: u16, task: u32) -> bool {
        let succeeds = || self.scripted(stage, task).is_some_and(|it| it.ending.is_success());
        let lied = |lies: &BTreeSet<Outcome>| lies.iter().any(|it| it.ending.is_success());
        (self.has_run_honestly(stage, task) && succeeds()) || self.lies.get(&(stage, task)).is_some_and(lied)
    }

    /// Whether somebody said or recorded of the task that it ended.
    pub(crate) fn has_task_ended(&self, stage: u16, task: u32) -> bool {
        self.ended.get(usize::from(stage)).is_some_and(|ended| ended.contains(&task))
    }

    /// Whether a task may fail without having run, since an element that it needs may fail.
    pub(crate) fn may_wait_in_vain(&self, stage: u16, task: u32) -> bool {
        let Some(spec) = self.spec.stages.get(usize::from(stage)) else { return false };
        Edge::of(&self.spec, spec).iter().filter(|edge| !edge.finished).any(|edge| {
            edge.needed(task).iter().flat_map(Range::indexes).any(|needed| {
                let fails = self.scripted(edge.stage, needed).is_none_or(|it| !it.ending.is_success());
                fails || self.may_be_lost() || self.may_wait_in_vain(edge.stage, needed)
            })
        })
    }

    /// Whether somebody said or recorded of every task that it ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.spec.stages.iter().zip(&self.ended).all(|(stage, ended)| stage.count as usize == ended.len())
    }

    fn note_run(&mut self, stage: u16, task: u32, outcome: &Outcome) {
        let position = usize::from(stage);
        let Some(honest) = self.scripted(stage, task) else { return };
        if !self.has_run(stage, task) && outcome.ending.is_success() {
            self.succeeded[position] += 1;
        }
        if honest == *outcome {
            self.ran[position].insert(task);
        } else {
            self.lies.entry((stage, task)).or_default().insert(outcome.clone());
        }
    }

    fn note_ends(&mut self, shard: ShardId, segment: &[Run], at: Time) {
        let Some(ended) = self.ended.get_mut(usize::from(shard.stage)) else { return };
        for run in segment.iter().filter(|run| run.state.end.is_some()) {
            ended.extend(tasks_of(run.range));
        }
        self.note_end(at);
    }

    fn note_end(&mut self, at: Time) {
        if self.is_brief() && self.ended_at.is_none() && self.has_ended() {
            self.ended_at = Some(at);
        }
    }

    fn note_progress(&mut self, shards: &[(u16, u32, Counts)], at: Time) {
        for (stage, number, counts) in shards {
            let Some(spec) = self.spec.stages.get(usize::from(*stage)) else { continue };
            let range = spec.shard_range(*number);
            if counts.ended() >= range.count {
                self.ended[usize::from(*stage)].extend(tasks_of(range));
            }
        }
        self.note_end(at);
    }

    /// How many tasks fail by their script, whatever is tried.
    pub(crate) fn failing(&self) -> u32 {
        self.spec.stages.iter().zip(&self.succeed).map(|(stage, succeed)| stage.count - succeed).sum()
    }
}

/// What was observed so far.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) jobs: BTreeMap<JobId, JobHistory>,
    /// The moment of the last fact.
    pub(crate) now: Time,
    /// When the faults were over and all nodes up, or the last trouble after that. `None` before.
    pub(crate) healed: Option<Time>,
    /// Whether custodians had their time to come to agree, and nothing happened since.
    pub(crate) settled: bool,
    /// When all nodes were first linked, and how many there are.
    pub(crate) linked: Option<(Time, usize)>,
    /// Whether any node was ever lost or cut off.
    pub(crate) disturbed: bool,
}

impl History {
    /// Takes in a fact.
    pub(crate) fn take(&mut self, at: Time, fact: &Fact<'_>) {
        self.now = at;
        match fact {
            Fact::Submitted { job, spec, scripts } => {
                self.jobs.insert(*job, JobHistory::new(Arc::clone(spec), scripts.clone(), at));
            }
            Fact::Acknowledged { job, .. } => self.change(job, |it| it.acknowledged = it.acknowledged.or(Some(at))),
            Fact::Cancelling { job } => self.change(job, |it| it.cancelling = true),
            Fact::Cancelled { job, .. } => self.change(job, |it| it.cancelled = it.cancelled.or(Some(at))),
            // A guest may kill its node also when all other faults are over.
            Fact::Disturbed => {
                self.disturbed = true;
                self.healed = self.healed.map(|_| at);
                self.settled = false;
            }
            Fact::Linked { nodes } => self.linked = self.linked.or(Some((at, *nodes))),
            Fact::Ran { lease, task, outcome, .. } => {
                self.change(&lease.shard.job, |it| it.note_run(lease.shard.stage, *task, outcome));
            }
            Fact::Said { message: Message::Progress { job, shards }, .. } => {
                self.change(job, |it| it.note_progress(shards, at));
            }
            Fact::Said { message, .. } => {
                if let Some((shard, segment)) = facts_in(message) {
                    self.change(&shard.job, |it| it.note_ends(shard, segment, at));
                }
            }
            Fact::Told { query: Query::Shard { shard, .. }, answer: Answer::Shard { segment, .. }, .. } => {
                self.change(&shard.job, |it| it.note_ends(*shard, segment, at));
            }
            // Whoever is alone tells nobody, and goes by it.
            Fact::Recorded { shard, segment, .. } => self.change(&shard.job, |it| it.note_ends(*shard, segment, at)),
            Fact::Healed => self.healed = Some(at),
            Fact::Settled => self.settled = true,
            _ => {}
        }
    }

    fn change(&mut self, job: &JobId, change: impl FnOnce(&mut JobHistory)) {
        if let Some(job) = self.jobs.get_mut(job) {
            change(job);
        }
    }
}

/// The facts about tasks in a message, with their shard.
pub(crate) fn facts_in(message: &Message) -> Option<(ShardId, &[Run])> {
    match message {
        Message::Record { shard, segment, .. } | Message::Merge { shard, segment, .. } => Some((*shard, segment)),
        _ => None,
    }
}

/// The tasks of a range, at most as many as any stage has: a range in a message may be nonsense.
pub(crate) fn tasks_of(range: Range) -> std::ops::Range<u32> {
    range.first..range.end().min(swarm_protocol::STAGE_TASKS_MAX)
}
