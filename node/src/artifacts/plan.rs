//! Plan: which groups of a blob to ask of which source. Pure.
//!
//! Always true: a group that is here is asked of nobody; one that is on its way is asked of a second source only when
//! nothing else is left to ask and it is late (a hedge), and never of a third; what a source was asked for is free again
//! when it leaves.
//!
//! Groups that few sources have are asked for first, so that those who help each other have different parts. When all have
//! all of it, they are asked for in their order, from a random one on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fixedbitset::FixedBitSet;
use swarm_store::Groups;

use crate::network::{Here, RUN_GROUPS_MAX};

/// A group that is on its way for so long may be asked of a second source: many times what a run takes on a local network,
/// and longer than a pause of a busy machine.
const HEDGE_AFTER: Duration = Duration::from_millis(300);
/// A source that owes an answer for so long does not count as one that works.
const SLOW_AFTER: Duration = Duration::from_millis(1000);

/// Names a conversation of one fetch.
pub(super) type Number = u64;

/// What is here of a blob, who has what, and what was asked of whom.
#[derive(Debug)]
pub(super) struct Plan {
    here: FixedBitSet,
    sources: BTreeMap<Number, Here>,
    claims: Vec<Claim>,
    /// Where the next run begins when all groups are equally rare.
    next: usize,
}

#[derive(Debug)]
struct Claim {
    groups: Groups,
    by: Number,
    since: Instant,
}

impl Plan {
    /// With what is here; `first` is any number, by which fetches of one blob begin in different places.
    pub(super) fn new(here: FixedBitSet, first: usize) -> Self {
        let next = first.checked_rem(here.len()).unwrap_or(0);
        Self { here, sources: BTreeMap::new(), claims: Vec::new(), next }
    }

    /// A source has these groups, now.
    pub(super) fn has(&mut self, source: Number, here: Here) {
        self.sources.insert(source, here);
    }

    /// A source is gone.
    pub(super) fn leave(&mut self, source: Number) {
        self.sources.remove(&source);
        self.claims.retain(|claim| claim.by != source);
    }

    /// Groups came and were checked.
    pub(super) fn came(&mut self, groups: &Groups) {
        self.here.insert_range(groups.start as usize..groups.end as usize);
        let here = &self.here;
        self.claims.retain(|claim| !here.contains_all_in_range(claim.groups.start as usize..claim.groups.end as usize));
    }

    /// Whether the blob is whole.
    pub(super) fn is_complete(&self) -> bool {
        self.here.is_full()
    }

    /// How many groups are not here.
    pub(super) fn missing(&self) -> usize {
        self.here.count_zeroes(..)
    }

    /// How many sources there are.
    pub(super) fn known(&self) -> usize {
        self.sources.len()
    }

    /// How many sources work, as it seems.
    pub(super) fn working(&self, now: Instant) -> usize {
        let slow = |source| self.claims.iter().any(|it| it.by == source && now.duration_since(it.since) > SLOW_AFTER);
        self.sources.keys().filter(|source| !slow(**source)).count()
    }

    /// How many groups to ask of one source at once: few when there are many sources, so that little is lost with one.
    pub(super) fn run_max(&self) -> u32 {
        if self.sources.len() > 1 { RUN_GROUPS_MAX / 4 } else { RUN_GROUPS_MAX / 2 }
    }

    /// What to ask of a source now; nothing when it has nothing that is wanted.
    pub(super) fn claim(&mut self, by: Number, now: Instant) -> Option<Groups> {
        let groups = self.fresh(by).or_else(|| self.late(by, now))?;
        self.claims.push(Claim { groups: groups.clone(), by, since: now });
        Some(groups)
    }

    fn fresh(&mut self, by: Number) -> Option<Groups> {
        let mut wanted = self.wanted_of(by)?;
        for claim in &self.claims {
            wanted.remove_range(claim.groups.start as usize..claim.groups.end as usize);
        }
        let start = if self.sources.values().all(Option::is_none) {
            wanted.ones().find(|group| *group >= self.next).or_else(|| wanted.minimum())?
        } else {
            self.rarest(&wanted)?
        };
        let most = (start + self.run_max() as usize).min(self.here.len());
        let end = (start..most).find(|group| !wanted.contains(*group)).unwrap_or(most);
        self.next = end;
        Some(start as u32..end as u32)
    }

    /// The groups that this source has and that are not here.
    fn wanted_of(&self, source: Number) -> Option<FixedBitSet> {
        let mut wanted = self.here.clone();
        wanted.toggle_range(..);
        if let Some(his) = self.sources.get(&source)? {
            wanted.intersect_with(his);
        }
        Some(wanted)
    }

    /// Any of those that the fewest sources have.
    fn rarest(&self, wanted: &FixedBitSet) -> Option<usize> {
        let parts: Vec<&FixedBitSet> = self.sources.values().flatten().collect();
        let rarity = |group: usize| parts.iter().filter(|here| here.contains(group)).count();
        let fewest = wanted.ones().map(rarity).min()?;
        let rarest: Vec<usize> = wanted.ones().filter(|group| rarity(*group) == fewest).collect();
        fastrand::choice(rarest)
    }

    /// What has been on its way from one other for longest, and for too long.
    fn late(&self, by: Number, now: Instant) -> Option<Groups> {
        let wanted = self.wanted_of(by)?;
        let asked = |group: &u32| self.claims.iter().filter(|claim| claim.groups.contains(group)).count();
        let is_late = |claim: &&Claim| claim.by != by && now.duration_since(claim.since) > HEDGE_AFTER;
        let mut late: Vec<&Claim> = self.claims.iter().filter(is_late).collect();
        late.sort_by_key(|claim| claim.since);
        let may = |group: &u32| wanted.contains(*group as usize) && asked(group) == 1;
        late.into_iter().find_map(|claim| {
            let start = claim.groups.clone().find(may)?;
            let end = (start..claim.groups.end).find(|group| !may(group)).unwrap_or(claim.groups.end);
            Some(start..end)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn plan(groups: usize) -> Plan {
        Plan::new(FixedBitSet::with_capacity(groups), 0)
    }

    fn having(groups: &[usize], of: usize) -> Here {
        let mut here = FixedBitSet::with_capacity(of);
        groups.iter().for_each(|group| here.insert(*group));
        Some(here)
    }

    #[test]
    fn one_source_is_asked_for_everything_once_and_in_order_from_anywhere() {
        let (mut plan, now) = (Plan::new(FixedBitSet::with_capacity(7), 703), Instant::now());
        plan.has(1, None);
        let mut asked = Vec::new();
        while let Some(groups) = plan.claim(1, now) {
            asked.push(groups);
        }
        assert_eq!(asked, [3..5, 5..7, 0..2, 2..3]);
        asked.iter().for_each(|groups| plan.came(groups));
        assert!(plan.is_complete() && plan.claim(1, now + SECOND).is_none());
    }

    #[test]
    fn what_few_have_comes_first_and_nobody_is_asked_for_what_he_lacks() {
        let (mut plan, now) = (plan(4), Instant::now());
        plan.has(1, None);
        plan.has(2, having(&[0, 1, 3], 4));
        plan.has(3, having(&[0, 1], 4));
        assert_eq!(plan.claim(1, now), Some(2..3));
        assert_eq!(plan.claim(1, now), Some(3..4));
        let of_three = plan.claim(3, now).unwrap();
        assert!(of_three == (0..1) || of_three == (1..2));
        plan.came(&(0..2));
        assert_eq!(plan.claim(3, now + SECOND), None);
    }

    #[test]
    fn the_last_groups_are_asked_of_a_second_source_when_they_are_late_and_of_no_third() {
        let (mut plan, now) = (plan(2), Instant::now());
        (1..=3).for_each(|source| plan.has(source, None));
        assert_eq!((plan.claim(1, now), plan.claim(2, now)), (Some(0..1), Some(1..2)));
        assert_eq!(plan.claim(3, now + HEDGE_AFTER / 2), None);
        plan.came(&(1..2));
        assert_eq!(plan.claim(2, now + SECOND), Some(0..1));
        assert_eq!(plan.claim(3, now + SECOND), None);
        assert_eq!(plan.working(now + SECOND * 3), 1);
        plan.came(&(0..1));
        assert_eq!((plan.is_complete(), plan.missing(), plan.working(now + SECOND * 3)), (true, 0, 3));
    }

    #[test]
    fn what_a_source_owed_is_asked_of_others_when_it_leaves() {
        let (mut plan, now) = (plan(2), Instant::now());
        plan.has(1, None);
        plan.has(2, None);
        assert_eq!(plan.claim(1, now), Some(0..1));
        assert_eq!(plan.claim(2, now), Some(1..2));
        plan.leave(1);
        assert_eq!(plan.claim(2, now), Some(0..1));
    }
}
