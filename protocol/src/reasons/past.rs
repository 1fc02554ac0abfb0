//! Why what is over did not succeed.

use super::causes::{Cause, Reason, said};
use super::evidence::{Evidence, Target};
use crate::lattice::{End, Failure, Run, TaskState};
use crate::situation::Amount;
use crate::{JobState, Range, ShardId};

impl Evidence<'_> {
    pub(super) fn past(&self) -> Vec<Reason> {
        let mut reasons: Vec<Reason> =
            self.asked.iter().flat_map(|(shard, tasks)| self.failed_in(*shard, *tasks)).collect();
        let counts = self.status.counts();
        match (self.status.state(), self.target) {
            (JobState::Done, _) => reasons.push(self.about_job(Cause::Done)),
            (JobState::Cancelled, _) => reasons.push(self.about_job(Cause::Cancelled)),
            (_, None) => {
                if counts.failed > self.spec.failures_max {
                    let failures_max = self.spec.failures_max;
                    reasons.push(self.about_job(Cause::TooManyFailed { failed: counts.failed, failures_max }));
                }
                reasons.extend(self.never_ran());
            }
            (_, Some(target)) if reasons.is_empty() => reasons.extend(self.target_past(target)),
            _ => {}
        }
        reasons
    }

    /// Of a target in which nothing failed, in a job that failed.
    fn target_past(&self, target: Target) -> Option<Reason> {
        let (_, counts) = self.status.stages.get(usize::from(target.stage))?;
        let cause = match (counts.cancelled, self.failed_need(target.stage)) {
            (0, _) => Cause::Done,
            (_, Some(needs)) => Cause::NeedFailed { needs },
            _ => Cause::TooManyFailed { failed: self.status.counts().failed, failures_max: self.spec.failures_max },
        };
        Some(self.about(target.stage, Amount { tasks: target.tasks.count, first: target.tasks.first }, cause))
    }

    /// Stages whose tasks were not run because what they need failed.
    fn never_ran(&self) -> Vec<Reason> {
        let stages = (0..).zip(&self.status.stages).filter(|(_, (_, counts))| counts.cancelled > 0);
        let reason = |(stage, (_, counts)): (u16, &(u32, crate::lattice::Counts))| {
            let needs = self.failed_need(stage)?;
            Some(self.about(stage, Amount { tasks: counts.cancelled, first: 0 }, Cause::NeedFailed { needs }))
        };
        stages.filter_map(reason).collect()
    }

    /// A stage with failures that this one needs.
    fn failed_need(&self, stage: u16) -> Option<String> {
        let needs = &self.spec.stages.get(usize::from(stage))?.needs;
        let failed = |need: &&u16| {
            let counts = self.status.stages.get(usize::from(**need)).map(|(_, counts)| *counts).unwrap_or_default();
            counts.failed > 0 || counts.cancelled > 0
        };
        needs.iter().find(failed).map(|need| self.stage_name(*need))
    }

    pub(super) fn failed_in(&self, shard: ShardId, tasks: Range) -> Vec<Reason> {
        // The one that knows of most failures.
        let known = self.shards.iter().filter(|it| it.shard == shard).max_by_key(|it| it.counts.ended());
        known.into_iter().flat_map(|it| &it.failures).filter_map(|run| self.failed(shard.stage, run, tasks)).collect()
    }

    fn failed(&self, stage: u16, run: &Run, tasks: Range) -> Option<Reason> {
        let Some(End::Exhausted(results)) = &run.state.end else { return None };
        let (first, end) = (run.range.first.max(tasks.first), run.range.end().min(tasks.end()));
        let (outcome, attempts) = (results.outcome(), run.state.failures.len());
        let node = last_failure(&run.state).map(|failure| self.named(failure.node));
        let (ending, stderr) = (outcome.ending.clone(), outcome.stderr.clone());
        let amount = Amount { tasks: end.checked_sub(first).filter(|tasks| *tasks > 0)?, first };
        Some(self.about(stage, amount, Cause::Failed { attempts, node, ending, said: said(&stderr), stderr }))
    }
}

/// The attempt with the highest epoch and number: the last, as far as anybody can tell.
pub(super) fn last_failure(state: &TaskState) -> Option<&Failure> {
    state.failures.values().next_back()
}
