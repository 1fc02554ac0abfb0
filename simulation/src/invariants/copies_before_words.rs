//! Nobody is told that something is safe before enough nodes have it: an acknowledged job is on two nodes besides the one
//! that acknowledges it, an outcome that its executor may forget is on one node besides the arbiter.
//!
//! Judged while all nodes have been linked for [`ACQUAINTED`] and nothing ever happened to one: otherwise who can be
//! reached, and so what is enough, is a question of what a node believed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use swarm_protocol::{Epoch, Hash, JobId, LeaseId, Message, NodeId, Range, ShardId};

use super::Invariant;
use crate::history::{Fact, History, facts_in, tasks_of};

/// After so long, nodes that are linked know each other as members.
const ACQUAINTED: Duration = Duration::from_secs(5);
/// Nodes, besides the one that acknowledges it, that have a job.
const JOB_COPIES: usize = 2;

/// One record as its arbiter numbers it.
type RecordId = (ShardId, Epoch, u64);

#[derive(Default)]
pub(super) struct Judge {
    /// Who said that the job is with it, as the asker heard.
    published: BTreeMap<(NodeId, JobId), BTreeSet<NodeId>>,
    /// The tasks in each record that nobody confirmed yet.
    open: BTreeMap<(NodeId, RecordId), BTreeSet<u32>>,
    /// Tasks of which somebody else than this node has something.
    elsewhere: BTreeMap<(NodeId, ShardId), BTreeSet<u32>>,
}

/// How many nodes there are, while nothing keeps them from one another.
fn whole(history: &History) -> Option<usize> {
    let (at, nodes) = history.linked?;
    (!history.disturbed && history.now >= at + ACQUAINTED).then_some(nodes)
}

impl Judge {
    fn on_acknowledged(&self, history: &History, node: NodeId, job: JobId) -> Result<(), String> {
        let Some(nodes) = whole(history) else { return Ok(()) };
        let have = self.published.get(&(node, job)).map_or(0, BTreeSet::len);
        let need = JOB_COPIES.min(nodes - 1);
        if have >= need { Ok(()) } else { Err(format!("{node:?} acknowledges {job:?} with {have} copies of {need}")) }
    }

    fn on_said(&mut self, history: &History, node: NodeId, message: &Message) -> Result<(), String> {
        match message {
            Message::Record { shard, epoch, number, segment } => {
                let tasks = segment.iter().flat_map(|run| tasks_of(run.range)).collect();
                self.open.entry((node, (*shard, *epoch, *number))).or_insert(tasks);
            }
            Message::Ack { lease, tasks } => return self.on_ack(history, node, *lease, tasks),
            Message::DigestsCompared { same, .. } => self.on_equal(node, same),
            _ => {}
        }
        Ok(())
    }

    /// Somebody else has what this node has of these shards.
    fn on_equal(&mut self, node: NodeId, same: &[(ShardId, Hash)]) {
        for (shard, _) in same {
            let recorded = self.open.range((node, (*shard, Epoch::default(), 0))..);
            let recorded = recorded.take_while(|((of, (record, ..)), _)| *of == node && record == shard);
            let tasks: Vec<_> = recorded.flat_map(|(_, tasks)| tasks.iter().copied()).collect();
            self.elsewhere.entry((node, *shard)).or_default().extend(tasks);
        }
    }

    fn on_ack(&self, history: &History, node: NodeId, lease: LeaseId, tasks: &[Range]) -> Result<(), String> {
        if whole(history).is_none_or(|nodes| nodes < 2) {
            return Ok(());
        }
        let have = self.elsewhere.get(&(node, lease.shard));
        let mut alone = tasks.iter().flat_map(|range| tasks_of(*range));
        match alone.find(|task| !have.is_some_and(|have| have.contains(task))) {
            Some(task) => Err(format!("{node:?} acknowledges task {task} of {lease:?}, which nobody else has")),
            None => Ok(()),
        }
    }

    fn on_heard(&mut self, node: NodeId, from: NodeId, message: &Message) {
        match message {
            Message::Published(job) => {
                self.published.entry((node, *job)).or_default().insert(from);
            }
            Message::Recorded { shard, epoch, number } => {
                let confirmed = self.open.remove(&(node, (*shard, *epoch, *number)));
                self.elsewhere.entry((node, *shard)).or_default().extend(confirmed.into_iter().flatten());
            }
            Message::DigestsCompared { same, .. } => self.on_equal(node, same),
            _ => {
                let Some((shard, segment)) = facts_in(message) else { return };
                let tasks = segment.iter().flat_map(|run| tasks_of(run.range));
                self.elsewhere.entry((node, shard)).or_default().extend(tasks);
            }
        }
    }
}

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "copies_before_words"
    }

    fn judge(&mut self, history: &History, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Acknowledged { node, job } => self.on_acknowledged(history, *node, *job),
            Fact::Said { node, message, .. } => self.on_said(history, *node, message),
            Fact::Heard { node, from, message } => {
                self.on_heard(*node, *from, message);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tale::{Job, Tale, epoch, id, one, record};
    use super::*;

    /// A swarm of four that was whole for long.
    fn tale(job: &Job) -> Tale<Judge> {
        Tale::of(Judge::default()).submitted(job).fact(&Fact::Linked { nodes: 4 }).after(6)
    }

    fn published(job: &Job, by: u8) -> Tale<Judge> {
        (2..2 + by).fold(tale(job), |tale, node| tale.tells(node, 1, &Message::Published(job.id)))
    }

    #[test]
    fn two_copies_are_enough() {
        let job = Job::of(1);
        published(&job, 2).fact(&Fact::Acknowledged { node: id(1), job: job.id }).passes();
    }

    #[test]
    fn one_copy_is_judged() {
        let job = Job::of(1);
        published(&job, 1).fact(&Fact::Acknowledged { node: id(1), job: job.id }).breaks("1 copies of 2");
    }

    #[test]
    fn what_is_enough_in_trouble_is_not_judged() {
        let job = Job::of(1);
        let troubled = published(&job, 1).fact(&Fact::Disturbed);
        troubled.fact(&Fact::Acknowledged { node: id(1), job: job.id }).passes();
    }

    #[test]
    fn an_outcome_is_elsewhere_before_it_is_forgotten() {
        let job = Job::of(1);
        let ack = Message::Ack { lease: job.lease(1, 1), tasks: vec![one(0)] };
        let recorded = Message::Recorded { shard: job.shard(), epoch: epoch(1, 1), number: 1 };
        let record = || tale(&job).tells(1, 2, &record(job.shard(), 1, job.done(0)));
        record().tells(2, 1, &recorded).says(1, 3, &ack).passes();
        record().says(1, 3, &ack).breaks("nobody else has");
    }
}
