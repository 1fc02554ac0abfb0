//! Attempts keep within both budgets: `retry.max` further ones after failures of the task, `retry.lost_max` after
//! attempts lost with their node.
//!
//! Precisely, since two halves of a swarm may spend one budget each:
//! - in one epoch, at most `max + 1` attempts fail and `lost_max + 1` are lost, as often again as its arbiter forgot what
//!   it knew, for it may then take up an epoch that it had before;
//! - a node that itself said that a budget is used up, or that the task has ended, never grants the task again;
//! - in the end a task is told to be exhausted only when its budget is used up, or its failure is not to be repeated.

use std::collections::{BTreeMap, BTreeSet};

use swarm_protocol::lattice::{AttemptId, End, Run, TaskState};
use swarm_protocol::message::Grant;
use swarm_protocol::{Answer, Ending, Epoch, Message, NodeId, Query, Retry, ShardId};

use super::Invariant;
use crate::history::{Fact, History, facts_in, tasks_of};

/// Attempts that did not succeed; whether each was lost with its node.
type Attempts = BTreeMap<AttemptId, bool>;

#[derive(Default)]
pub(super) struct Judge {
    /// Whoever spoke of them.
    spoken: BTreeMap<(ShardId, u32), Attempts>,
    /// What each node itself said.
    said: BTreeMap<(NodeId, ShardId), Words>,
    /// How often each node forgot, by what its epochs have of its name.
    forgot: BTreeMap<u64, usize>,
}

#[derive(Default)]
struct Words {
    attempts: BTreeMap<u32, Attempts>,
    ended: BTreeSet<u32>,
}

impl Judge {
    fn on_segment(&mut self, history: &History, shard: ShardId, segment: &[Run]) -> Result<(), String> {
        for run in segment.iter().filter(|run| !run.state.failures.is_empty()) {
            let Some(retry) = retry_of(history, shard) else { continue };
            for task in tasks_of(run.range) {
                let spoken = self.spoken.entry((shard, task)).or_default();
                spoken.extend(attempts_of(&run.state));
                judge_epochs(retry, spoken, &self.forgot)
                    .map_err(|what| format!("task {task} of {shard:?}: {what}"))?;
            }
        }
        Ok(())
    }

    fn remember_words(&mut self, node: NodeId, shard: ShardId, segment: &[Run]) {
        let words = self.said.entry((node, shard)).or_default();
        for run in segment {
            if run.state.end.is_some() {
                words.ended.extend(tasks_of(run.range));
            }
            if !run.state.failures.is_empty() {
                tasks_of(run.range).for_each(|task| {
                    words.attempts.entry(task).or_default().extend(attempts_of(&run.state));
                });
            }
        }
    }

    fn on_grant(&self, history: &History, node: NodeId, grant: &Grant) -> Result<(), String> {
        let shard = grant.lease.shard;
        let (Some(words), Some(retry)) = (self.said.get(&(node, shard)), retry_of(history, shard)) else {
            return Ok(());
        };
        for task in grant.tasks.iter().flat_map(|(range, _)| tasks_of(*range)) {
            let known = words.attempts.get(&task);
            if words.ended.contains(&task) {
                return Err(format!("{node:?} grants task {task} of {shard:?}, which it said has ended"));
            }
            if let Some(attempts) = known.filter(|attempts| is_used_up(retry, attempts)) {
                return Err(format!("{node:?} grants task {task} of {shard:?} after {attempts:?}, with {retry:?}"));
            }
        }
        Ok(())
    }
}

fn retry_of(history: &History, shard: ShardId) -> Option<&Retry> {
    Some(&history.jobs.get(&shard.job)?.spec.stages.get(usize::from(shard.stage))?.retry)
}

fn attempts_of(state: &TaskState) -> impl Iterator<Item = (AttemptId, bool)> + '_ {
    state.failures.iter().map(|(attempt, failure)| (*attempt, failure.ending == Ending::Lost))
}

/// How many failed and were lost.
fn count<'a>(attempts: impl Iterator<Item = &'a bool>) -> (usize, usize) {
    attempts.fold((0, 0), |(failed, lost), is_lost| (failed + usize::from(!is_lost), lost + usize::from(*is_lost)))
}

fn is_used_up(retry: &Retry, attempts: &Attempts) -> bool {
    let (failed, lost) = count(attempts.values());
    failed > usize::from(retry.max) || lost > usize::from(retry.lost_max)
}

fn judge_epochs(retry: &Retry, attempts: &Attempts, forgot: &BTreeMap<u64, usize>) -> Result<(), String> {
    let epochs: BTreeSet<_> = attempts.keys().map(|attempt| attempt.epoch).collect();
    for epoch in epochs {
        let of_epoch = attempts.iter().filter(|(attempt, _)| attempt.epoch == epoch);
        let (failed, lost) = count(of_epoch.map(|(_, is_lost)| is_lost));
        let times = 1 + forgot.get(&epoch.tie).copied().unwrap_or(0);
        if failed > (usize::from(retry.max) + 1) * times || lost > (usize::from(retry.lost_max) + 1) * times {
            return Err(format!("{failed} attempts failed and {lost} were lost in {epoch:?}, with {retry:?}"));
        }
    }
    Ok(())
}

/// What is told in the end: everything that is known of a task is known to whoever tells.
fn judge_given_up(history: &History, shard: ShardId, segment: &[Run]) -> Result<(), String> {
    let Some(retry) = retry_of(history, shard) else { return Ok(()) };
    for Run { range, state } in segment {
        let Some(End::Exhausted(results)) = &state.end else { continue };
        let attempts = attempts_of(state).collect();
        // What needs a failed element is given up without an attempt; whether rightly is judged elsewhere.
        if matches!(results.outcome().ending, Ending::Rejected(_)) {
            continue;
        }
        if retry.allows(&results.outcome().ending) && !is_used_up(retry, &attempts) {
            return Err(format!("tasks {range:?} of {shard:?} were given up after {attempts:?}, with {retry:?}"));
        }
    }
    Ok(())
}

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "attempts_within_budgets"
    }

    fn judge(&mut self, history: &History, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Said { node, message: Message::Grant(grant), .. } => self.on_grant(history, *node, grant),
            Fact::Said { node, message, .. } => {
                let Some((shard, segment)) = facts_in(message) else { return Ok(()) };
                self.remember_words(*node, shard, segment);
                self.on_segment(history, shard, segment)
            }
            Fact::Told { query: Query::Shard { shard, .. }, answer: Answer::Shard { segment, .. }, .. } => {
                self.on_segment(history, *shard, segment)?;
                if history.settled { judge_given_up(history, *shard, segment) } else { Ok(()) }
            }
            Fact::Forgot { node } => {
                self.said.retain(|(other, _), _| other != node);
                *self.forgot.entry(Epoch::NONE.next(*node).tie).or_default() += 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tale::{Job, Tale, failure, given_up, grant, id, record};
    use super::*;

    fn trapped() -> Ending {
        Ending::Trapped("unreachable".into())
    }

    /// A tale in which node 1 recorded that task 0 trapped so many times.
    fn after_traps(job: &Job, traps: u64) -> Tale<Judge> {
        (1..=traps).fold(Tale::of(Judge::default()).with(job), |tale, number| {
            tale.says(1, 2, &record(job.shard(), 1, failure(0, job.lease(1, number), 3, trapped())))
        })
    }

    #[test]
    fn a_second_attempt_after_the_first_failure_is_fine() {
        let job = Job::of_traps(1);
        after_traps(&job, 1).says(1, 3, &grant(job.lease(1, 2), 0)).passes();
    }

    #[test]
    fn a_third_attempt_is_judged() {
        let job = Job::of_traps(1);
        after_traps(&job, 2).says(1, 3, &grant(job.lease(1, 3), 0)).breaks("grants task 0");
    }

    #[test]
    fn a_third_failure_in_one_epoch_is_judged() {
        after_traps(&Job::of_traps(1), 3).breaks("3 attempts failed");
    }

    #[test]
    fn what_a_lost_disk_said_binds_nobody() {
        let job = Job::of_traps(1);
        let tale = after_traps(&job, 2).fact(&Fact::Forgot { node: id(1) });
        tale.says(1, 3, &grant(job.lease(1, 3), 0)).passes();
    }

    #[test]
    fn granting_what_has_ended_is_judged() {
        let job = Job::of(1);
        let tale = Tale::of(Judge::default()).with(&job).says(1, 2, &record(job.shard(), 1, job.done(0)));
        tale.says(1, 3, &grant(job.lease(1, 2), 0)).breaks("has ended");
    }

    #[test]
    fn giving_up_too_early_is_judged_in_the_end() {
        let job = Job::of_traps(1);
        let early = [given_up(0, job.lease(1, 1), 3, trapped())];
        let tale = || Tale::of(Judge::default()).with(&job);
        tale().shows(1, job.shard(), &early).passes();
        tale().fact(&Fact::Settled).shows(1, job.shard(), &early).breaks("given up");
    }

    #[test]
    fn giving_up_with_the_budget_is_fine() {
        let job = Job::of_traps(1);
        let mut run = given_up(0, job.lease(1, 1), 3, trapped());
        run.state.failures.extend(failure(0, job.lease(1, 2), 3, trapped()).state.failures);
        Tale::of(Judge::default()).with(&job).fact(&Fact::Settled).shows(1, job.shard(), &[run]).passes();
    }
}
