//! A cancel is final, once a user was told that it is safe.
//!
//! What exactly users are promised:
//! - a node that itself said that it knows of the stop never grants a task of the job again and starts none, however
//!   often it restarts;
//! - [`SPREAD`] after the cancel was confirmed and the swarm is whole, nobody grants or starts any of it;
//! - who was told that the cancel is safe, and asks there again, is never told that the job is running.
//!
//! Not promised: that nothing of it is done. Tasks that run when the cancel comes may end first, on the far side of a
//! partition also later ones, and a result that exists is kept: done is stronger than cancelled (`protocol::lattice`).
//! A job all of whose tasks ended first stays done or failed, and the cancel changes nothing; of what is done, a node that
//! does not know may run something again.

use std::collections::BTreeMap;
use std::time::Duration;

use swarm_protocol::{Answer, JobId, JobState, Message, NodeId, Time};

use super::Invariant;
use crate::history::{Fact, History};

/// In a whole swarm everybody knows of a stop within this time: broken links are dialled again within 15 s, and then
/// custodians compare their jobs every 5 to 6 s.
const SPREAD: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Judge {
    /// Nodes that said that a job is stopped, and when first.
    said: BTreeMap<(NodeId, JobId), Time>,
    /// Nodes that told a user that the cancel is safe, and when first.
    confirmed: BTreeMap<(NodeId, JobId), Time>,
}

impl Judge {
    fn on_words(&mut self, history: &History, node: NodeId, message: &Message) {
        let mut stopped = |job: JobId| {
            if history.jobs.get(&job).is_some_and(|it| !it.has_ended()) {
                self.said.entry((node, job)).or_insert(history.now);
            }
        };
        match message {
            // `Stop` may be a user's wish, passed on by a node that does not know the job.
            Message::Stopped(job) => stopped(*job),
            Message::JobPush { job, stop: Some(_) } => stopped(job.id()),
            Message::JobDigests(digests) => {
                digests.iter().filter(|(_, stop)| stop.is_some()).for_each(|(job, _)| stopped(*job));
            }
            Message::JobsKnown(known) => {
                known.iter().filter(|(_, stop, _)| stop.is_some()).for_each(|(job, ..)| stopped(*job));
            }
            _ => {}
        }
    }

    fn on_grant(&self, history: &History, node: NodeId, job: JobId) -> Result<(), String> {
        if self.said.contains_key(&(node, job)) {
            return Err(format!("{node:?} grants a task of {job:?}, which it said is stopped"));
        }
        late(history, job).map_err(|what| format!("{node:?} grants a task of {job:?}, {what}"))
    }

    /// What it said and what it starts may come of one turn, in which it started first.
    fn on_start(&self, history: &History, node: NodeId, job: JobId) -> Result<(), String> {
        if self.said.get(&(node, job)).is_some_and(|at| *at < history.now) {
            return Err(format!("{node:?} starts a task of {job:?}, which it said is stopped"));
        }
        late(history, job).map_err(|what| format!("{node:?} starts a task of {job:?}, {what}"))
    }
}

/// Nobody may claim any more not to have heard of it.
fn late(history: &History, job: JobId) -> Result<(), String> {
    let cancelled = history.jobs.get(&job).filter(|it| !it.has_ended()).and_then(|it| it.cancelled);
    match (cancelled, history.healed) {
        (Some(cancelled), Some(healed)) if history.now > cancelled.max(healed) + SPREAD => {
            Err(format!("cancelled at {cancelled} in a swarm that was whole at {healed}"))
        }
        _ => Ok(()),
    }
}

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "cancel_is_final"
    }

    fn judge(&mut self, history: &History, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            // A grant of nothing tells an executor that what it holds is not wanted.
            Fact::Said { node, message: Message::Grant(grant), .. } if !grant.tasks.is_empty() => {
                self.on_grant(history, *node, grant.lease.shard.job)
            }
            Fact::Said { node, message, .. } => {
                self.on_words(history, *node, message);
                Ok(())
            }
            Fact::Started { node, lease, .. } => self.on_start(history, *node, lease.shard.job),
            Fact::Cancelled { node, job } => {
                self.confirmed.entry((*node, *job)).or_insert(history.now);
                Ok(())
            }
            Fact::Told { node, asked, answer: Answer::Job { job, status }, .. } => {
                let confirmed = self.confirmed.get(&(*node, job.id())).is_some_and(|at| asked >= at);
                if confirmed && status.state() == JobState::Running {
                    return Err(format!(
                        "{node:?} tells that {:?} is running, and told that it is cancelled",
                        job.id()
                    ));
                }
                Ok(())
            }
            Fact::Forgot { node } => {
                self.said.retain(|(other, _), _| other != node);
                self.confirmed.retain(|(other, _), _| other != node);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use swarm_protocol::StopCause;
    use swarm_protocol::lattice::Counts;

    use super::super::tale::{Job, Tale, grant, id};
    use super::*;

    fn tale(job: &Job) -> Tale<Judge> {
        Tale::of(Judge::default()).with(job).fact(&Fact::Cancelling { job: job.id })
    }

    fn confirmed(job: &Job) -> Tale<Judge> {
        tale(job).fact(&Fact::Cancelled { node: id(1), job: job.id })
    }

    #[test]
    fn who_does_not_know_may_grant_for_a_while() {
        let job = Job::of(1);
        let granted = confirmed(&job).says(2, 3, &grant(job.lease(2, 1), 0));
        granted.fact(&Fact::Healed).after(29).says(2, 3, &grant(job.lease(2, 2), 0)).passes();
    }

    #[test]
    fn granting_what_is_said_to_be_stopped_is_judged() {
        let job = Job::of(1);
        let stopped = tale(&job).says(2, 1, &Message::Stopped(job.id)).after(1);
        stopped.says(2, 3, &grant(job.lease(2, 1), 0)).breaks("said is stopped");
    }

    #[test]
    fn starting_what_is_said_to_be_stopped_is_judged() {
        let job = Job::of(1);
        let stopped = Message::JobDigests(vec![(job.id, Some(StopCause::Cancelled))]);
        tale(&job).says(2, 1, &stopped).starts(2, job.lease(2, 1), 0).passes();
        tale(&job).says(2, 1, &stopped).after(1).starts(2, job.lease(2, 1), 0).breaks("said is stopped");
    }

    #[test]
    fn granting_long_after_the_healing_is_judged() {
        let job = Job::of(1);
        let healed = confirmed(&job).fact(&Fact::Healed).after(31);
        healed.says(2, 3, &grant(job.lease(2, 1), 0)).breaks("cancelled at");
    }

    #[test]
    fn a_job_that_runs_for_who_confirmed_its_cancel_is_judged() {
        let job = Job::of(1);
        confirmed(&job).reports(2, &job, Counts::default(), None).passes();
        confirmed(&job).reports(1, &job, Counts::default(), Some(StopCause::Cancelled)).passes();
        confirmed(&job).reports(1, &job, Counts::default(), None).breaks("is running");
    }
}
