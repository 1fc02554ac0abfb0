//! What is known where the question was asked, and how the things in it are called.

use super::causes::{Cause, Named, Reason};
use crate::placement::{Key, View};
use crate::situation::{Amount, JobSituation, ShardSituation};
use crate::{Elements, JobId, JobSpec, JobStatus, MemberState, MemberView, NodeId, NodeRecord, Range, ShardId};

/// The tasks that a user means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Position of the stage.
    pub stage: u16,
    /// The tasks.
    pub tasks: Range,
}

/// What is known where the question was asked.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The job.
    pub id: JobId,
    /// As submitted.
    pub spec: &'a JobSpec,
    /// How far it is.
    pub status: &'a JobStatus,
    /// What is meant; the whole job when it is `None`.
    pub target: Option<Target>,
    /// What nodes say of the job.
    pub jobs: &'a [JobSituation],
    /// What was asked of custodians.
    pub asked: &'a [(ShardId, Range)],
    /// What they said.
    pub shards: &'a [ShardSituation],
    /// The swarm, as seen here.
    pub members: &'a [MemberView],
}

impl Evidence<'_> {
    pub(super) fn target_name(&self) -> Option<&str> {
        let stage = self.spec.stages.get(usize::from(self.target?.stage))?;
        Some(&stage.name)
    }

    pub(super) fn about_job(&self, cause: Cause) -> Reason {
        Reason { stage: None, tasks: 0, first: None, cause, queue_left_ms: None }
    }

    pub(super) fn about(&self, stage: u16, amount: Amount, cause: Cause) -> Reason {
        let first = Some(self.task_name(stage, amount.first));
        Reason { stage: Some(self.stage_name(stage)), tasks: amount.tasks.into(), first, cause, queue_left_ms: None }
    }

    pub(super) fn stage_name(&self, stage: u16) -> String {
        self.spec.stages.get(usize::from(stage)).map(|stage| stage.name.clone()).unwrap_or_default()
    }

    pub(super) fn task_name(&self, stage: u16, task: u32) -> String {
        let array = self.spec.stages.get(usize::from(stage)).is_some_and(|stage| stage.elements != Elements::One);
        let name = self.stage_name(stage);
        if array { format!("{name}[{task}]") } else { name }
    }

    pub(super) fn named(&self, node: NodeId) -> Named {
        let id = node.to_hex();
        let known = self.members.iter().find(|member| member.record.node == node);
        let name = known.map(|member| member.record.name.clone()).filter(|name| !name.is_empty());
        Named { name: name.unwrap_or_else(|| id.chars().take(12).collect()), id }
    }

    pub(super) fn living(&self) -> impl Iterator<Item = &NodeRecord> {
        self.members.iter().filter(|member| member.state == MemberState::Alive).map(|member| &*member.record)
    }

    pub(super) fn custodians_of(&self, shard: ShardId) -> Vec<Named> {
        let keeps = |member: &&MemberView| matches!(member.state, MemberState::Alive | MemberState::Suspect);
        let view = View::of(self.members.iter().filter(keeps).map(|member| member.record.node));
        view.custodians(Key::of_shard(shard)).into_iter().map(|node| self.named(node)).collect()
    }
}
