//! The shards of which tasks could be granted now, counted once and kept in the order in which they are granted.
//!
//! Thousands of jobs may wait of which no node here can run any: what is asked of the queue costs by the kinds of tasks in
//! it, not by their number.
//!
//! Always true: a greater priority comes first; among equals the submitter, and the job, with the fewest tasks leased here;
//! then the job that arrived first.
//!
//! Elsewhere: what counts as claimable, and who may have it, is `claims`.

use core::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, btree_set};
use std::sync::Arc;

use crate::demands::Needs;
use crate::{JobId, NodeId, ShardId};

/// Tasks that differ only in their job.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group {
    pub(crate) priority: Reverse<i8>,
    pub(crate) submitter: NodeId,
    pub(crate) needs: Arc<Needs>,
}

/// A stage and its job's arrival, by the tasks of the job that are leased here.
type Place = (u64, u64, JobId, u16);

/// What decides who is granted first: the least is.
pub(crate) type Rank = (Reverse<i8>, (u64, u64), u64);

/// Tasks of one stage.
#[derive(Debug)]
struct Stage {
    group: Group,
    arrival: u64,
    shards: BTreeMap<ShardId, u32>,
    pending: u64,
}

#[derive(Debug, Default)]
struct GroupQueue {
    stages: BTreeSet<Place>,
    pending: u64,
}

/// See the top of this file.
#[derive(Debug, Default)]
pub(crate) struct ClaimQueue {
    stages: BTreeMap<(JobId, u16), Stage>,
    groups: BTreeMap<Group, GroupQueue>,
    leased: BTreeMap<ShardId, (NodeId, u32)>,
    leased_by_job: BTreeMap<JobId, u64>,
    leased_by_submitter: BTreeMap<NodeId, u64>,
    pending: u64,
}

impl ClaimQueue {
    // ---- counting

    /// So many tasks of a shard could be granted; `kind` tells their group and the arrival of their job. True when it is news.
    pub(crate) fn set_pending(&mut self, id: ShardId, pending: u32, kind: impl FnOnce() -> (Group, u64)) -> bool {
        let key = (id.job, id.stage);
        if pending > 0 && !self.stages.contains_key(&key) {
            let (group, arrival) = kind();
            let place = (self.leased_of(id.job), arrival, id.job, id.stage);
            self.groups.entry(group.clone()).or_default().stages.insert(place);
            self.stages.insert(key, Stage { group, arrival, shards: BTreeMap::new(), pending: 0 });
        }
        let Some(stage) = self.stages.get_mut(&key) else { return false };
        let before = match pending {
            0 => stage.shards.remove(&id),
            _ => stage.shards.insert(id, pending),
        };
        let before = before.unwrap_or(0);
        let change = |sum: &mut u64| *sum = *sum + u64::from(pending) - u64::from(before);
        change(&mut self.pending);
        change(&mut stage.pending);
        self.groups.get_mut(&stage.group).into_iter().for_each(|group| change(&mut group.pending));
        if stage.shards.is_empty() {
            self.forget_stage(key);
        }
        before != pending
    }

    fn forget_stage(&mut self, key: (JobId, u16)) {
        let Some(Stage { group, arrival, .. }) = self.stages.remove(&key) else { return };
        let leased = self.leased_of(key.0);
        let Some(queue) = self.groups.get_mut(&group) else { return };
        queue.stages.remove(&(leased, arrival, key.0, key.1));
        if queue.stages.is_empty() {
            self.groups.remove(&group);
        }
    }

    /// So many tasks of a shard are leased here. True when it is news.
    pub(crate) fn set_leased(&mut self, id: ShardId, submitter: NodeId, leased: u32) -> bool {
        let before = match leased {
            0 => self.leased.remove(&id),
            _ => self.leased.insert(id, (submitter, leased)),
        };
        let (submitter, before) = before.unwrap_or((submitter, 0));
        if before == leased {
            return false;
        }
        let of_job = self.leased_of(id.job);
        let now = of_job + u64::from(leased) - u64::from(before);
        let of_submitter = self.leased_by_submitter.get(&submitter).copied().unwrap_or(0);
        put(&mut self.leased_by_submitter, submitter, of_submitter + u64::from(leased) - u64::from(before));
        put(&mut self.leased_by_job, id.job, now);
        for ((job, at), stage) in self.stages.range((id.job, 0)..=(id.job, u16::MAX)) {
            let Some(queue) = self.groups.get_mut(&stage.group) else { continue };
            queue.stages.remove(&(of_job, stage.arrival, *job, *at));
            queue.stages.insert((now, stage.arrival, *job, *at));
        }
        true
    }

    fn leased_of(&self, job: JobId) -> u64 {
        self.leased_by_job.get(&job).copied().unwrap_or(0)
    }

    // ---- asking

    /// The tasks of a shard that could be granted, and those leased.
    pub(crate) fn counts_of(&self, id: ShardId) -> (u32, u32) {
        let stage = self.stages.get(&(id.job, id.stage));
        let pending = stage.and_then(|stage| stage.shards.get(&id)).copied().unwrap_or(0);
        (pending, self.leased.get(&id).map_or(0, |(_, leased)| *leased))
    }

    /// The shards of which any tasks are counted.
    pub(crate) fn shards(&self) -> impl Iterator<Item = ShardId> {
        self.stages.values().flat_map(|stage| stage.shards.keys()).chain(self.leased.keys()).copied()
    }

    /// Tasks in it.
    pub(crate) const fn pending(&self) -> u64 {
        self.pending
    }

    /// What is in it, and how many tasks of each kind.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (&Group, u64)> {
        self.groups.iter().map(|(group, queue)| (group, queue.pending))
    }

    /// The stages of a job that are in it, with how many tasks.
    pub(crate) fn stages_of(&self, job: JobId) -> impl Iterator<Item = (&Group, u64)> {
        self.stages.range((job, 0)..=(job, u16::MAX)).map(|(_, stage)| (&stage.group, stage.pending))
    }

    /// The shards of some groups in the order in which they are granted, with how many tasks of each.
    pub(crate) fn order(&self, groups: &[&Group]) -> impl Iterator<Item = (ShardId, u32)> {
        let stages = self.stages_in_order(groups);
        stages
            .flat_map(|key| self.stages.get(&key).into_iter().flat_map(|stage| stage.shards.iter()))
            .map(|(id, pending)| (*id, *pending))
    }

    fn stages_in_order(&self, groups: &[&Group]) -> impl Iterator<Item = (JobId, u16)> + use<'_> {
        let mut queues: Vec<(&Group, btree_set::Iter<'_, Place>)> = Vec::new();
        queues.extend(
            groups.iter().filter_map(|group| self.groups.get_key_value(*group)).map(|(g, q)| (g, q.stages.iter())),
        );
        let mut first = BinaryHeap::new();
        for (at, (group, queue)) in queues.iter_mut().enumerate() {
            first.extend(queue.next().map(|place| Reverse((self.rank(group, place), *place, at))));
        }
        core::iter::from_fn(move || {
            let Reverse((_, (.., job, stage), at)) = first.pop()?;
            let (group, queue) = &mut queues[at];
            first.extend(queue.next().map(|place| Reverse((self.rank(group, place), *place, at))));
            Some((job, stage))
        })
    }

    fn rank(&self, group: &Group, (of_job, arrival, ..): &Place) -> Rank {
        let of_submitter = self.leased_by_submitter.get(&group.submitter).copied().unwrap_or(0);
        (group.priority, (of_submitter, *of_job), *arrival)
    }

    /// Where a shard stands.
    pub(crate) fn rank_of(&self, id: ShardId) -> Option<Rank> {
        let stage = self.stages.get(&(id.job, id.stage)).filter(|stage| stage.shards.contains_key(&id))?;
        Some(self.rank(&stage.group, &(self.leased_of(id.job), stage.arrival, id.job, id.stage)))
    }

    /// The stage of another job that comes first among those of some groups, and where it stands.
    pub(crate) fn first_but(&self, job: JobId, groups: &[&Group]) -> Option<(JobId, Rank)> {
        let others = groups.iter().filter_map(|group| {
            let mut places = self.groups.get(*group)?.stages.iter();
            let place = places.find(|(.., its, _)| *its != job)?;
            Some((place.2, self.rank(group, place)))
        });
        others.min_by_key(|(_, rank)| *rank)
    }
}

/// Counts that are nothing are not kept.
fn put<Key: Ord>(counts: &mut BTreeMap<Key, u64>, key: Key, count: u64) {
    if count == 0 {
        counts.remove(&key);
    } else {
        counts.insert(key, count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Resources;

    const SUBMITTERS: [NodeId; 2] = [NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32])];

    fn shard(job: u8, stage: u16, number: u32) -> ShardId {
        ShardId { job: JobId::from_bytes([job; 32]), stage, number }
    }

    fn submitter(id: ShardId) -> NodeId {
        SUBMITTERS[usize::from(id.job.as_bytes()[0] % 2)]
    }

    /// Jobs differ in submitter and priority, stages in what they need.
    fn kind(id: ShardId) -> (Group, u64) {
        let job = id.job.as_bytes()[0];
        let resources = vec![Resources { memory_bytes_max: 0, slots: id.stage.into() }];
        let needs = Arc::new(Needs { resources, ..Needs::default() });
        (Group { priority: Reverse((job / 4) as i8), submitter: submitter(id), needs }, u64::from(job))
    }

    /// The same, counted anew each time.
    #[derive(Default)]
    struct Plain(BTreeMap<ShardId, (u32, u32)>);

    impl Plain {
        fn leased(&self, of: impl Fn(&ShardId) -> bool) -> u64 {
            self.0.iter().filter(|(id, _)| of(id)).map(|(_, (_, leased))| u64::from(*leased)).sum()
        }

        fn order(&self) -> Vec<(ShardId, u32)> {
            let mut all: Vec<_> = self.0.iter().filter(|(_, (pending, _))| *pending > 0).collect();
            all.sort_by_key(|(id, _)| {
                let (group, arrival) = kind(**id);
                let of_submitter = self.leased(|other| submitter(*other) == group.submitter);
                let of_job = self.leased(|other| other.job == id.job);
                (group.priority, of_submitter, of_job, arrival, **id)
            });
            all.into_iter().map(|(id, (pending, _))| (*id, *pending)).collect()
        }
    }

    proptest! {
        #[test]
        fn counting_as_it_changes_is_counting_anew(
            changes in prop::collection::vec((0u8..8, 0u16..2, 0u32..3, 0u32..4, 0u32..4), 1..200)
        ) {
            let (mut queue, mut plain) = (ClaimQueue::default(), Plain::default());
            for (job, stage, number, pending, leased) in changes {
                let id = shard(job, stage, number);
                queue.set_leased(id, submitter(id), leased);
                queue.set_pending(id, pending, || kind(id));
                plain.0.insert(id, (pending, leased));
                let groups: Vec<_> = queue.groups().map(|(group, _)| group.clone()).collect();
                let groups: Vec<_> = groups.iter().collect();
                let order = plain.order();
                prop_assert_eq!(queue.order(&groups).collect::<Vec<_>>(), order.clone());
                prop_assert_eq!(queue.pending(), order.iter().map(|(_, pending)| u64::from(*pending)).sum::<u64>());
                prop_assert_eq!(queue.groups().map(|(_, pending)| pending).sum::<u64>(), queue.pending());
            }
        }
    }
}
