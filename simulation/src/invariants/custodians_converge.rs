//! Within [`CONVERGED`] of the healing all custodians of a shard know the same of it: of everything acknowledged before.
//! What is recorded later is with all of them as long after it.

use std::collections::BTreeMap;
use std::time::Duration;

use swarm_protocol::lattice::{Run, TaskState};
use swarm_protocol::{Hash, Message, NodeId, ShardId, Time};

use super::Invariant;
use crate::history::{Fact, History, tasks_of};

/// How long custodians may differ in a swarm that is whole.
const CONVERGED: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Judge {
    /// Everything that arbiters recorded.
    facts: BTreeMap<(ShardId, u32), Vec<TaskState>>,
    /// When something of a shard was recorded that was new.
    changed: BTreeMap<ShardId, Time>,
    /// When the custodians of a shard were last seen to agree.
    agreed: BTreeMap<ShardId, Time>,
}

impl Judge {
    fn on_record(&mut self, now: Time, shard: ShardId, segment: &[Run]) {
        for Run { range, state } in segment {
            for task in tasks_of(*range) {
                let known = self.facts.entry((shard, task)).or_default();
                if !known.contains(state) {
                    known.push(state.clone());
                    self.changed.insert(shard, now);
                }
            }
        }
    }

    fn on_copies(
        &mut self,
        history: &History,
        shard: ShardId,
        copies: &[(NodeId, Option<Hash>)],
    ) -> Result<(), String> {
        let Some(healed) = history.healed else { return Ok(()) };
        let odd = copies.first().and_then(|(_, first)| copies.iter().find(|(_, other)| other != first));
        if odd.is_none() && !copies.is_empty() {
            self.agreed.insert(shard, history.now);
            return Ok(());
        }
        let acknowledged = history.jobs.get(&shard.job).and_then(|job| job.acknowledged).unwrap_or_default();
        let changed = self.changed.get(&shard).copied().unwrap_or_default();
        let since = healed.max(acknowledged).max(changed);
        if history.now <= since + CONVERGED {
            return Ok(());
        }
        match (copies.first(), odd) {
            (Some((first, digest)), Some((second, other))) => Err(format!(
                "of shard {shard:?}, {first:?} has {digest:?} and {second:?} has {other:?}, and nothing was new since {since}"
            )),
            _ => Err(format!("nobody keeps shard {shard:?}")),
        }
    }

    /// Nothing that was recorded is left to chance.
    fn on_settled(&self, history: &History) -> Result<(), String> {
        for (id, job) in history.jobs.iter().filter(|(_, job)| job.is_to_last()) {
            for shard in job.spec.shards(*id) {
                if self.agreed.get(&shard).is_none_or(|agreed| self.changed.get(&shard).is_some_and(|at| agreed < at)) {
                    return Err(format!("custodians of shard {shard:?} were not seen to agree after it changed"));
                }
            }
        }
        Ok(())
    }
}

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "custodians_converge"
    }

    fn judge(&mut self, history: &History, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Said { message: Message::Record { shard, segment, .. }, .. } => {
                self.on_record(history.now, *shard, segment);
                Ok(())
            }
            Fact::Kept { shard, copies } => self.on_copies(history, *shard, copies),
            Fact::Settled => self.on_settled(history),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tale::{Job, Tale, id, record};
    use super::*;

    fn tale(job: &Job) -> Tale<Judge> {
        Tale::of(Judge::default()).with(job).fact(&Fact::Healed)
    }

    /// Two custodians are looked at.
    fn look(tale: Tale<Judge>, job: &Job, equal: bool) -> Tale<Judge> {
        let hashes = [Hash::of(b"one"), Hash::of(if equal { b"one" } else { b"two" })];
        let copies = [(id(1), Some(hashes[0])), (id(2), Some(hashes[1]))];
        tale.fact(&Fact::Kept { shard: job.shard(), copies: &copies })
    }

    #[test]
    fn custodians_have_thirty_seconds() {
        let job = Job::of(1);
        let differ = look(tale(&job).after(30), &job, false);
        look(differ, &job, true).fact(&Fact::Settled).passes();
    }

    #[test]
    fn differing_for_longer_is_judged() {
        let job = Job::of(1);
        look(tale(&job).after(31), &job, false).breaks("nothing was new");
    }

    #[test]
    fn what_is_recorded_later_may_differ_later() {
        let job = Job::of(1);
        let recorded = || tale(&job).after(20).says(1, 2, &record(job.shard(), 1, job.done(0)));
        look(recorded().after(30), &job, false).passes();
        look(recorded().after(31), &job, false).breaks("nothing was new");
    }

    #[test]
    fn saying_the_same_again_wins_no_time() {
        let job = Job::of(1);
        let recorded = tale(&job).says(1, 2, &record(job.shard(), 1, job.done(0)));
        let again = recorded.after(20).says(1, 2, &record(job.shard(), 1, job.done(0)));
        look(again.after(20), &job, false).breaks("nothing was new");
    }

    #[test]
    fn a_shard_that_nobody_keeps_is_judged() {
        let job = Job::of(1);
        tale(&job).after(31).fact(&Fact::Kept { shard: job.shard(), copies: &[] }).breaks("nobody keeps");
    }

    #[test]
    fn not_looking_is_judged() {
        let job = Job::of(1);
        tale(&job).fact(&Fact::Settled).breaks("not seen to agree");
    }
}
