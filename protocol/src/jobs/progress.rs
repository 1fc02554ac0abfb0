//! Progress: what the keepers of shards say of how many tasks ended, and what follows: stages that are done, a job that is
//! over, or one that failed too often.
//!
//! Always true: what is known of a shard only grows; the end of a stage is told when it is first seen, and to who asks.
//!
//! Elsewhere: who counts a shard's tasks is `custody`; needs task by task are `edges`.

use std::collections::BTreeSet;

use crate::lattice::Counts;
use crate::message::{Gossip, Message, StopCause};
use crate::node::Node;
use crate::planted::PlantedBug;
use crate::{JobId, NodeId, Notice, ShardId, StageSpec};

impl Node {
    pub(crate) fn on_progress(&mut self, from: NodeId, id: JobId, shards: Vec<(u16, u32, Counts)>) {
        let counts_twice = self.plants(PlantedBug::CountsTwice);
        let Some(job) = self.jobs.jobs.get_mut(&id) else {
            self.pull_job(id, from);
            return;
        };
        for (stage, number, counts) in shards {
            let Some(spec) = job.spec.stages.get(usize::from(stage)) else { continue };
            if number >= spec.shards() || counts.ended() > spec.shard_range(number).count {
                continue;
            }
            if counts_twice {
                job.progress.entry((stage, number)).or_default().add(counts);
                continue;
            }
            let known = job.progress.entry((stage, number)).or_default();
            if (counts.ended(), counts.done, counts.failed) > (known.ended(), known.done, known.failed) {
                *known = counts;
            }
        }
        self.act_on_progress(id);
    }

    fn act_on_progress(&mut self, id: JobId) {
        let Some(job) = self.jobs.jobs.get_mut(&id) else { return };
        let status = job.status();
        let (mut newly_done, mut newly_ended) = (Vec::new(), Vec::new());
        for (stage, (tasks, counts)) in (0..).zip(&status.stages) {
            if counts.done >= *tasks && job.stages_done.insert(stage) {
                newly_done.push(stage);
            }
            if counts.ended() >= *tasks && job.stages_ended.insert(stage) && counts.done < *tasks {
                newly_ended.push(stage);
            }
        }
        // A stage that is needed whole and ended with failures blocks for ever what needs it.
        let blocks = (0..).zip(&status.stages).any(|(stage, (tasks, counts))| {
            counts.failed > 0 && counts.ended() >= *tasks && job.is_blocked_by_failures_of(stage)
        });
        let too_many_failed = (blocks || status.counts().failed > job.spec.failures_max) && job.stop.is_none();
        if status.state().is_over() && !core::mem::replace(&mut job.said_over, true) {
            self.say_over(id);
            self.out.notify.push(Notice::Over(id));
        }
        if !newly_done.is_empty() {
            let stages = newly_done.clone();
            self.tell_stages(id, &newly_done, Message::StagesDone { job: id, stages });
            self.on_job_able(id);
        }
        if !newly_ended.is_empty() {
            let stages = newly_ended.clone();
            self.tell_stages(id, &newly_ended, Message::StagesEnded { job: id, stages });
            self.on_job_able(id);
        }
        if too_many_failed {
            self.apply_stop(id, StopCause::Failures);
        }
    }

    fn tell_stages(&mut self, id: JobId, stages: &[u16], message: Message) {
        let Some(job) = self.jobs.get(id) else { return };
        let waits = |stage: &StageSpec| stage.needs.iter().any(|need| stages.contains(need));
        if job.spec.stages.iter().any(waits) {
            for peer in self.linked() {
                self.send(peer, message.clone());
            }
            if self.membership.sparse {
                let holder = self.me();
                self.out.gossip.push(Gossip::Job { job: id, holder });
            }
        }
    }

    pub(crate) fn on_stages_done(&mut self, id: JobId, stages: Vec<u16>) {
        let Some(job) = self.jobs.jobs.get_mut(&id) else { return };
        let before = job.stages_done.len();
        job.stages_done.extend(stages);
        if job.stages_done.len() > before {
            self.on_job_able(id);
        }
    }

    pub(crate) fn on_stages_ended(&mut self, id: JobId, stages: Vec<u16>) {
        let Some(job) = self.jobs.jobs.get_mut(&id) else { return };
        let before = job.stages_ended.len();
        job.stages_ended.extend(stages);
        if job.stages_ended.len() > before {
            self.on_job_able(id);
        }
    }

    pub(crate) fn on_stages_ask(&mut self, from: NodeId, id: JobId) {
        if let Some(job) = self.jobs.jobs.get(&id) {
            let done = Message::StagesDone { job: id, stages: job.stages_done.iter().copied().collect() };
            let ended: Vec<u16> = job.stages_ended.difference(&job.stages_done).copied().collect();
            self.send(from, done);
            if !ended.is_empty() {
                self.send(from, Message::StagesEnded { job: id, stages: ended });
            }
        }
    }

    pub(super) fn ask_for_stages(&mut self) {
        let mut asks = Vec::new();
        for id in self.jobs_with_blocked_shards() {
            let Some(job) = self.jobs.jobs.get(&id) else { continue };
            asks.extend(job.custodians.iter().map(|node| (*node, id)));
        }
        for (node, id) in asks {
            self.send(node, Message::StagesAsk(id));
        }
    }

    /// Jobs of which I arbitrate a shard that waits for an earlier stage.
    fn jobs_with_blocked_shards(&self) -> BTreeSet<JobId> {
        let arbitrates = |id: &ShardId| self.custody.shard(*id).is_some_and(|shard| shard.arbiter.is_some());
        let blocked = |id: &ShardId| self.jobs.get(id.job).is_some_and(|job| !job.is_ready(id.stage));
        self.open_of_staged().into_iter().filter(|id| blocked(id) && arbitrates(id)).map(|id| id.job).collect()
    }

    /// The open shards of jobs that have several stages: only their tasks wait for others.
    pub(crate) fn open_of_staged(&self) -> Vec<ShardId> {
        let staged = self.jobs.iter().filter(|(_, job)| job.spec.stages.len() > 1 && !job.is_said_over());
        staged.flat_map(|(id, _)| self.custody.open_of(*id)).collect()
    }
}
