//! No task starts before every task of every stage that it needs has succeeded.

use super::Invariant;
use crate::history::{Fact, History};

pub(super) struct Judge;

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "needs_come_first"
    }

    fn judge(&mut self, history: &History, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Started { node, lease, task, .. } = fact else { return Ok(()) };
        let Some(job) = history.jobs.get(&lease.shard.job) else {
            return Err(format!("{node:?} starts a task of {:?}, which nobody submitted", lease.shard));
        };
        let Some(stage) = job.spec.stages.get(usize::from(lease.shard.stage)).filter(|stage| *task < stage.count)
        else {
            return Err(format!("{node:?} starts task {task} of {:?}, which does not exist", lease.shard));
        };
        match stage.needs.iter().find(|need| !job.stage_succeeded(**need)) {
            Some(need) => Err(format!("{node:?} starts task {task} of {:?} before stage {need} is done", lease.shard)),
            None => Ok(()),
        }
    }
}
