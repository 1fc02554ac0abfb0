//! A node that says that it is drained owes nothing: it runs nothing and holds no outcome that nobody else took, what it
//! said that ended is known to somebody else, and from then on it starts and grants nothing. In a whole swarm it says so
//! within [`DRAINED`].
//!
//! That it can then be switched off for good, disk included, is judged by all other invariants: in a run it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use swarm_protocol::lattice::Run;
use swarm_protocol::{Hash, JobId, Message, NodeId, ShardId, Time};

use super::Invariant;
use crate::history::{Fact, History, facts_in, tasks_of};

/// How long a drain takes in a swarm that is whole: what runs takes 4 s at most, copies are compared every 5 to 6 s.
const DRAINED: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Judge {
    /// What each node started and nobody took from it: acknowledged, recorded by itself, or dropped on demand.
    owed: BTreeMap<NodeId, BTreeSet<(ShardId, u32)>>,
    /// Who said or recorded of a task that it ended. Whoever was told may not know the job, and forget it.
    known: BTreeMap<ShardId, BTreeMap<u32, BTreeSet<NodeId>>>,
    /// Ends that a node forgot which alone knew them, with its disk or because its twin speaks now. Whoever hears of them
    /// later, from what it said before, takes them for known, unless the task is started again.
    forgotten: BTreeSet<(ShardId, u32)>,
    /// Nodes that ever heard of another: who did not has nobody to whom it could hand over anything.
    met: BTreeSet<NodeId>,
    /// Since when nodes drain.
    draining: BTreeMap<NodeId, Time>,
    drained: BTreeSet<NodeId>,
    /// Jobs that a node forgot because their time was over.
    expired: BTreeSet<JobId>,
}

impl Judge {
    fn take_from(&mut self, node: NodeId, shard: ShardId, tasks: impl Iterator<Item = u32>) {
        if let Some(owed) = self.owed.get_mut(&node) {
            tasks.for_each(|task| {
                owed.remove(&(shard, task));
            });
        }
    }

    fn note_ends(&mut self, node: NodeId, shard: ShardId, segment: &[Run]) {
        let known = self.known.entry(shard).or_default();
        let ended = segment.iter().filter(|run| run.state.end.is_some());
        for task in ended.flat_map(|run| tasks_of(run.range)) {
            known.entry(task).or_default().insert(node);
        }
    }

    /// Their copies of these shards are equal: what one knows the other knows, and neither owes anything of it.
    fn on_equal(&mut self, node: NodeId, other: NodeId, shards: &[(ShardId, Hash)]) {
        for (shard, _) in shards {
            for known in self.known.get_mut(shard).into_iter().flat_map(BTreeMap::values_mut) {
                if known.contains(&node) || known.contains(&other) {
                    known.extend([node, other]);
                }
            }
            for node in [node, other] {
                if let Some(owed) = self.owed.get_mut(&node) {
                    owed.retain(|(of, _)| of != shard);
                }
            }
        }
    }

    fn on_said(&mut self, node: NodeId, to: NodeId, message: &Message) -> Result<(), String> {
        match message {
            Message::DigestsCompared { same, .. } => self.on_equal(node, to, same),
            Message::Grant(grant) if !grant.tasks.is_empty() && self.drained.contains(&node) => {
                return Err(format!("{node:?} grants {:?} after it was drained", grant.lease));
            }
            _ => {
                let Some((shard, segment)) = facts_in(message) else { return Ok(()) };
                self.take_from(node, shard, segment.iter().flat_map(|run| tasks_of(run.range)));
                self.note_ends(node, shard, segment);
            }
        }
        Ok(())
    }

    fn on_heard(&mut self, node: NodeId, message: &Message) {
        if let Message::Ack { lease, tasks } = message {
            self.take_from(node, lease.shard, tasks.iter().flat_map(|range| tasks_of(*range)));
        }
    }

    fn judge_time(&self, history: &History) -> Result<(), String> {
        let Some(healed) = history.healed else { return Ok(()) };
        match self.draining.iter().find(|(_, since)| history.now > healed.max(**since) + DRAINED) {
            Some((node, since)) => {
                Err(format!("{node:?} drains since {since}, in a swarm that is whole since {healed}"))
            }
            None => Ok(()),
        }
    }

    fn on_drained(&mut self, node: NodeId) -> Result<(), String> {
        self.drained.insert(node);
        self.draining.remove(&node);
        if !self.met.contains(&node) {
            return Ok(());
        }
        let lasts = |shard: &ShardId| !self.expired.contains(&shard.job);
        let owed = self.owed.get(&node).and_then(|owed| owed.iter().find(|(shard, _)| lasts(shard)));
        if let Some((shard, task)) = owed {
            return Err(format!("{node:?} is drained, but owes task {task} of {shard:?}"));
        }
        let lasting = self.known.iter().filter(|(shard, _)| lasts(shard));
        let mut ended = lasting.flat_map(|(shard, tasks)| tasks.iter().map(move |(task, known)| (shard, task, known)));
        let lost = |shard: &ShardId, task: &u32| self.forgotten.contains(&(*shard, *task));
        match ended.find(|(shard, task, known)| is_alone(known, node) && !lost(shard, task)) {
            Some((shard, task, _)) => {
                Err(format!("{node:?} is drained, but nobody else knows that task {task} of {shard:?} ended"))
            }
            None => Ok(()),
        }
    }
}

fn is_alone(known: &BTreeSet<NodeId>, node: NodeId) -> bool {
    known.len() == 1 && known.contains(&node)
}

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "drained_node_owes_nothing"
    }

    fn judge(&mut self, history: &History, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Started { node, lease, task, .. } => {
                if self.drained.contains(node) {
                    return Err(format!("{node:?} starts task {task} of {lease:?} after it was drained"));
                }
                self.owed.entry(*node).or_default().insert((lease.shard, *task));
                self.forgotten.remove(&(lease.shard, *task));
            }
            Fact::Dropped { node, lease, tasks } => {
                self.take_from(*node, lease.shard, tasks.iter().flat_map(|range| tasks_of(*range)));
            }
            Fact::Said { node, to, message } => return self.on_said(*node, *to, message),
            Fact::Recorded { node, shard, segment } => self.note_ends(*node, *shard, segment),
            Fact::Heard { node, message, .. } => {
                self.met.insert(*node);
                self.on_heard(*node, message);
            }
            Fact::Draining { node } => drop(self.draining.insert(*node, history.now)),
            Fact::Drained { node } => return self.on_drained(*node),
            Fact::Kept { .. } | Fact::Closed => return self.judge_time(history),
            Fact::Forgot { node } => {
                self.owed.remove(node);
                self.met.remove(node);
                for (shard, tasks) in &mut self.known {
                    let forgotten = tasks.extract_if(.., |_, known| is_alone(known, *node));
                    self.forgotten.extend(forgotten.map(|(task, _)| (*shard, task)));
                }
            }
            // What is no more nobody needs to know.
            Fact::Expired { job, .. } => drop(self.expired.insert(*job)),
            // Whoever starts again has nothing running, and is a node like any other.
            Fact::Down { node } => {
                self.owed.remove(node);
                self.draining.remove(node);
                self.drained.remove(node);
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tale::{Job, Tale, grant, id, one, record};
    use super::*;

    fn ran(job: &Job) -> Tale<Judge> {
        let met = Tale::of(Judge::default()).hears(3, 1, &Message::StagesAsk(job.id));
        let started = met.with(job).starts(3, job.lease(1, 1), 0);
        started.runs(3, job.lease(1, 1), 0, &job.left(0))
    }

    fn drained() -> Fact<'static> {
        Fact::Drained { node: id(3) }
    }

    #[test]
    fn an_outcome_that_nobody_took_is_judged() {
        ran(&Job::of(1)).fact(&drained()).breaks("owes task 0");
    }

    #[test]
    fn an_acknowledged_or_dropped_outcome_is_not_owed() {
        let job = Job::of(1);
        let ack = Message::Ack { lease: job.lease(1, 1), tasks: vec![one(0)] };
        ran(&job).tells(1, 3, &ack).fact(&drained()).passes();
        let dropped = Fact::Dropped { node: id(3), lease: job.lease(1, 1), tasks: &[one(0)] };
        ran(&job).fact(&dropped).fact(&drained()).passes();
    }

    #[test]
    fn what_another_copy_has_is_not_owed() {
        let job = Job::of(1);
        let equal = Message::DigestsCompared { same: vec![(job.shard(), Hash::of(b"copy"))], pull: Vec::new() };
        let said = || ran(&job).says(3, 2, &record(job.shard(), 3, job.done(0)));
        said().says(3, 2, &equal).fact(&drained()).passes();
        ran(&job).says(2, 3, &equal).fact(&drained()).passes();
    }

    #[test]
    fn a_fact_that_nobody_else_knows_is_judged() {
        let job = Job::of(1);
        let said = ran(&job).says(3, 2, &record(job.shard(), 3, job.done(0)));
        said.fact(&drained()).breaks("nobody else knows");
        let heard = || ran(&job).tells(3, 2, &record(job.shard(), 3, job.done(0)));
        heard().fact(&drained()).breaks("nobody else knows");
        let kept = [job.done(0)];
        let recorded = |node| Fact::Recorded { node: id(node), shard: job.shard(), segment: &kept };
        heard().fact(&recorded(2)).fact(&drained()).passes();
        // What it was told of a job that it does not know it may forget.
        let told = Tale::of(Judge::default()).with(&job).tells(2, 3, &record(job.shard(), 2, job.done(0)));
        told.fact(&Fact::Forgot { node: id(2) }).fact(&drained()).passes();
    }

    #[test]
    fn what_a_node_said_before_it_forgot_may_be_taken_for_known() {
        let job = Job::of(1);
        let said = Tale::of(Judge::default()).with(&job).says(2, 3, &record(job.shard(), 2, job.done(0)));
        let forgot = said.fact(&Fact::Forgot { node: id(2) });
        let kept = [job.done(0)];
        let met = forgot.hears(3, 1, &Message::StagesAsk(job.id));
        let late = met.fact(&Fact::Recorded { node: id(3), shard: job.shard(), segment: &kept });
        late.fact(&drained()).passes();
    }

    #[test]
    fn starting_or_granting_afterwards_is_judged() {
        let job = Job::of(1);
        let tale = || Tale::of(Judge::default()).with(&job).fact(&drained());
        tale().starts(3, job.lease(1, 1), 0).breaks("starts task 0");
        tale().says(3, 2, &grant(job.lease(3, 1), 0)).breaks("grants");
        tale().fact(&Fact::Down { node: id(3) }).starts(3, job.lease(1, 1), 0).passes();
    }

    #[test]
    fn a_drain_that_takes_too_long_is_judged() {
        let tale = || Tale::of(Judge::default()).fact(&Fact::Healed).fact(&Fact::Draining { node: id(3) });
        tale().after(29).fact(&Fact::Closed).passes();
        tale().after(31).fact(&Fact::Closed).breaks("drains since");
        tale().after(9).fact(&drained()).after(31).fact(&Fact::Closed).passes();
    }
}
