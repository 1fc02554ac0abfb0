//! Why what is not over has not ended: from who grants the tasks, or from nobody's granting them.
//!
//! Always true: of several arbiters of a shard the one of the highest epoch is believed.

use std::collections::{BTreeMap, BTreeSet};

use super::NODES_NAMED_MAX;
use super::causes::{Cause, NodeGone, Reason, RunningOn, said};
use super::evidence::Evidence;
use super::past::last_failure;
use crate::situation::{Ahead, Amount, Arbitration, ShardSituation, TermPhase};
use crate::{Ending, MemberState, NodeId, NodeRecord, Range, ShardId, StageSpec, StopCause};

impl Evidence<'_> {
    pub(super) fn present(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        if let Some(stop) = self.status.stop {
            reasons.push(self.about_job(Cause::Stopping { cancelled: stop == StopCause::Cancelled }));
        }
        if let Some((have, need)) = self.jobs.iter().find_map(|job| job.submit).filter(|(have, need)| have < need) {
            reasons.push(self.about_job(Cause::NotAcknowledged { have, need }));
        }
        for (shard, tasks) in self.asked {
            reasons.extend(self.open_in(*shard, *tasks));
            reasons.extend(self.failed_in(*shard, *tasks));
        }
        reasons
    }

    fn open_in(&self, shard: ShardId, tasks: Range) -> Vec<Reason> {
        let said: Vec<&ShardSituation> = self.shards.iter().filter(|it| it.shard == shard).collect();
        let arbiter = said.iter().filter_map(|it| Some((it, it.arbiter.as_ref()?)));
        if let Some((by, arbiter)) = arbiter.max_by_key(|(_, arbiter)| arbiter.epoch) {
            return self.arbitrated(by, arbiter, tasks);
        }
        let Some(stage) = self.spec.stages.get(usize::from(shard.stage)) else { return Vec::new() };
        let ended = said.iter().map(|it| it.counts.ended()).max().unwrap_or(0);
        let open = stage.shard_range(shard.number).count.saturating_sub(ended).min(tasks.count);
        let amount = Amount { tasks: open, first: tasks.first };
        let cause = match said.first() {
            _ if open == 0 => return Vec::new(),
            None => Cause::Unreachable { custodians: self.custodians_of(shard) },
            Some(_) => {
                let silent: BTreeSet<NodeId> = said.iter().flat_map(|it| it.silent.iter().copied()).collect();
                Cause::NoArbiter { silent: silent.into_iter().map(|node| self.named(node)).collect() }
            }
        };
        vec![self.about(shard.stage, amount, cause)]
    }

    fn arbitrated(&self, by: &ShardSituation, arbiter: &Arbitration, tasks: Range) -> Vec<Reason> {
        let at = by.shard.stage;
        let Some(stage) = self.spec.stages.get(usize::from(at)) else { return Vec::new() };
        let mut reasons = Vec::new();
        let mut push = |amount: Amount, cause: Cause| {
            if amount.tasks > 0 {
                reasons.push(self.about(at, amount, cause));
            }
        };
        match &arbiter.phase {
            TermPhase::Preparing(waiting) => {
                let left = stage.shard_range(by.shard.number).count.saturating_sub(by.counts.ended());
                let open = Amount { tasks: left.min(tasks.count), first: tasks.first };
                let waits_for = waiting.iter().map(|node| self.named(*node)).collect();
                push(open, Cause::Preparing { arbiter: self.named(by.by), waits_for });
                return reasons;
            }
            TermPhase::Grace(wait_ms) => {
                push(arbiter.pending, Cause::TakenOver { arbiter: self.named(by.by), wait_ms: *wait_ms });
            }
            TermPhase::Granting => push(arbiter.pending, self.why_pending(stage, arbiter)),
        }
        if let Some(block) = arbiter.blocks.first() {
            push(arbiter.blocked, Cause::WaitsForTask { needs: self.task_name(block.stage, block.needs) });
        }
        for lease in &arbiter.leases {
            push(lease.tasks, self.why_leased(lease.executor, lease.tasks.tasks, lease.since_ms));
        }
        push(Amount { tasks: arbiter.copying, first: tasks.first }, Cause::Copying);
        push(Amount { tasks: arbiter.recording, first: tasks.first }, Cause::Recording);
        for delay in &arbiter.delays {
            let amount = Amount { tasks: 1, first: delay.task };
            push(amount, self.why_delayed(by, stage, delay));
        }
        let failed = by.failures.iter().any(|run| run.state.end.is_some());
        if reasons.is_empty() && !failed && self.target.is_some_and(|target| target.stage == at) {
            reasons.push(self.about(at, Amount { tasks: tasks.count, first: tasks.first }, Cause::Done));
        }
        if let (Some(queue), Some(waiting)) = (stage.queue_ms_max, arbiter.waiting_ms) {
            // Only what could be granted is waiting for a node.
            let waits = reasons.iter_mut().filter(|reason| waits_for_node(&reason.cause));
            waits.for_each(|reason| reason.queue_left_ms = Some(queue.saturating_sub(waiting)));
        }
        reasons
    }

    /// Why tasks are not granted that wait for nothing of their own.
    fn why_pending(&self, stage: &StageSpec, arbiter: &Arbitration) -> Cause {
        if let Some(need) = arbiter.needs.first() {
            return self.why_needed(stage, *need);
        }
        if self.status.stop.is_some() {
            return Cause::Stopping { cancelled: self.status.stop == Some(StopCause::Cancelled) };
        }
        if !self.jobs.is_empty() && !self.jobs.iter().any(|job| job.holds_blobs || job.can_be_fetched) {
            return Cause::BlobsMissing;
        }
        let suitable: Vec<&NodeRecord> = self.living().filter(|node| stage.fits(node)).collect();
        if suitable.is_empty() {
            return self.why_nobody(stage);
        }
        if let (true, Some(parallel_max)) = (arbiter.held_back, self.spec.options.parallel_max) {
            return Cause::ParallelReached { parallel_max };
        }
        let free: Vec<&NodeRecord> = suitable.iter().copied().filter(|node| self.is_free(stage, node)).collect();
        if free.is_empty() {
            return self.why_busy(&suitable, arbiter);
        }
        self.why_free(stage, &free, arbiter)
    }

    fn why_needed(&self, stage: &StageSpec, need: u16) -> Cause {
        let (of, counts) = self.status.stages.get(usize::from(need)).copied().unwrap_or_default();
        let finished = stage.options.needs_finished.contains(&need);
        let needs = self.stage_name(need);
        if counts.failed > 0 && !finished && counts.ended() >= of {
            return Cause::NeedFailed { needs };
        }
        let there = if finished { counts.ended() } else { counts.done };
        Cause::WaitsForStage { needs, left: of.saturating_sub(there), of }
    }

    fn why_nobody(&self, stage: &StageSpec) -> Cause {
        let gone =
            self.members.iter().filter(|member| member.state != MemberState::Alive && stage.fits(&member.record));
        let gone = gone.map(|member| NodeGone { node: self.named(member.record.node), state: member.state });
        let nodes: Vec<_> = gone.take(NODES_NAMED_MAX).collect();
        if nodes.is_empty() {
            let living: Vec<&NodeRecord> = self.living().collect();
            return Cause::NoNode { unmet: stage.unmet(&living) };
        }
        Cause::NodesGone { nodes }
    }

    fn why_busy(&self, suitable: &[&NodeRecord], arbiter: &Arbitration) -> Cause {
        if let Some(Ahead { job, name, priority, tasks, why }) = &arbiter.ahead {
            let (job, name) = (job.to_hex(), name.clone());
            return Cause::Behind { job, name, ahead: *tasks, priority: *priority, order: *why };
        }
        let is_suitable = |node: &NodeId| suitable.iter().any(|it| it.node == *node);
        let soonest = arbiter.executors.iter().filter(|it| is_suitable(&it.node)).filter_map(|it| it.free_in_ms).min();
        Cause::Busy { nodes: suitable.len(), free_in_ms: soonest }
    }

    fn why_free(&self, stage: &StageSpec, free: &[&NodeRecord], arbiter: &Arbitration) -> Cause {
        let avoids = |node: &NodeRecord| {
            let avoid = arbiter.avoids.iter().find(|(task, avoided, _)| {
                *avoided == node.node && *task == arbiter.pending.first && arbiter.pending.tasks == 1
            });
            avoid.map(|(.., ms)| *ms)
        };
        let waits: Vec<u64> = free.iter().filter_map(|node| avoids(node)).collect();
        if waits.len() == free.len() {
            let nodes = free.iter().map(|node| self.named(node.node)).collect();
            return Cause::Avoids { nodes, wait_ms: waits.into_iter().min().unwrap_or(0) };
        }
        if arbiter.for_liked && !free.iter().any(|node| stage.options.place.likes(node)) {
            return Cause::ForPreferred;
        }
        Cause::Starting { nodes: free.len() }
    }

    /// What a node says of its free slots is up to a second old; what arbiters leased to it is not.
    fn is_free(&self, stage: &StageSpec, node: &NodeRecord) -> bool {
        let mut leased: BTreeMap<NodeId, u32> = BTreeMap::new();
        for (by, arbiter) in self.shards.iter().filter_map(|shard| Some((shard.by, shard.arbiter.as_ref()?))) {
            // An arbiter of several shards says the same in each answer.
            let load = arbiter.executors.iter().find(|load| load.node == node.node).map_or(0, |load| load.tasks);
            leased.entry(by).and_modify(|known| *known = load.max(*known)).or_insert(load);
        }
        let leased = leased.values().copied().fold(0, u32::saturating_add);
        let slots = stage.resources_on(node).map_or(1, |resources| resources.slots.max(1));
        node.slots_free.min(node.slots.saturating_sub(leased.saturating_mul(slots))) >= slots
    }

    fn why_leased(&self, executor: NodeId, tasks: u32, since_ms: u64) -> Cause {
        let node = self.named(executor);
        let state = self.members.iter().find(|member| member.record.node == executor).map(|member| member.state);
        match state {
            Some(state @ (MemberState::Suspect | MemberState::Down)) => Cause::LeasedToLost { node, state, since_ms },
            _ => Cause::Running { nodes: vec![RunningOn { node, tasks, since_ms }] },
        }
    }

    fn why_delayed(&self, by: &ShardSituation, stage: &StageSpec, delay: &crate::situation::Delay) -> Cause {
        let run = by.failures.iter().find(|run| run.range.indexes().contains(&delay.task));
        let last = run.and_then(|run| last_failure(&run.state));
        let ending = last.map_or(Ending::Lost, |failure| failure.ending.clone());
        let lost = ending == Ending::Lost;
        let attempts = run.map_or((0, 0), |run| (run.state.lost(), run.state.failed_attempts()));
        Cause::BackingOff {
            wait_ms: delay.wait_ms,
            attempt: if lost { attempts.0 } else { attempts.1 }.max(1),
            of: 1 + usize::from(if lost { stage.retry.lost_max } else { stage.retry.max }),
            node: last.map(|failure| self.named(failure.node)),
            ending,
            said: said(&delay.stderr),
            stderr: delay.stderr.clone(),
        }
    }
}

const fn waits_for_node(cause: &Cause) -> bool {
    use Cause::{Avoids, Behind, Busy, ForPreferred, NoNode, NodesGone, Starting};
    matches!(
        cause,
        NoNode { .. } | NodesGone { .. } | Busy { .. } | Behind { .. } | Avoids { .. } | ForPreferred | Starting { .. }
    )
}
