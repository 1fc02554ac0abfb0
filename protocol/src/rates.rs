//! How long tasks take on this node, stage by stage: so many of them does it ask for.
//!
//! Always true:
//! - of a stage that never ran here nothing is known, so it begins with one task a slot, whatever ran before;
//! - a few tasks that were quick vouch for a few times as many, not for all.
//!
//! Elsewhere: when to ask is `worker`, how much is granted is `arbiter`.

use core::time::Duration;
use std::collections::VecDeque;

use crate::arbiter::BATCH_MS;
use crate::message::{RATES_MAX, StageRate};
use crate::{JobId, ShardId};

/// The newest so many tasks count as much as all before them: tasks of one stage may grow longer.
const MEMORY: u64 = 256;
/// Seen tasks vouch for so many times as many.
const GROWTH: u64 = 4;
/// Stages that are remembered.
const STAGES_MAX: usize = 32;

#[derive(Debug)]
struct SeenStage {
    stage: (JobId, u16),
    /// Of one task in one slot, in nanoseconds.
    mean_ns: u64,
    seen: u64,
}

/// The stages that ran here of late, the last first.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    stages: VecDeque<SeenStage>,
}

impl Rates {
    /// So many tasks of a shard ended, on which slots spent this time.
    pub(crate) fn note(&mut self, shard: ShardId, ended: u32, busy: Duration) {
        let (ended, busy_ns) = (u64::from(ended), u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX));
        if ended == 0 || busy_ns == 0 {
            return;
        }
        let stage = (shard.job, shard.stage);
        let at = self.stages.iter().position(|it| it.stage == stage);
        let known = at.and_then(|at| self.stages.remove(at));
        let (mean_ns, seen) = known.map_or((0, 0), |it| (it.mean_ns, it.seen));
        let weight = seen.min(MEMORY);
        let mean_ns = mean_ns.saturating_mul(weight).saturating_add(busy_ns) / (weight + ended);
        self.stages.push_front(SeenStage { stage, mean_ns: mean_ns.max(1), seen: seen.saturating_add(ended) });
        self.stages.truncate(STAGES_MAX);
    }

    /// How long one task of the shard's stage takes in one slot; `None` when none ran here.
    pub(crate) fn mean(&self, shard: ShardId) -> Option<Duration> {
        let known = self.stages.iter().find(|it| it.stage == (shard.job, shard.stage));
        known.map(|it| Duration::from_nanos(it.mean_ns))
    }

    /// What arbiters are told by a node with so many slots.
    pub(crate) fn told(&self, slots: u32) -> Vec<StageRate> {
        let rate = |it: &SeenStage| {
            let able = u64::from(slots).saturating_mul(1_000_000_000) / it.mean_ns;
            able.min(it.seen.saturating_mul(GROWTH * 1000 / BATCH_MS.end()))
        };
        let rate_of = |it: &SeenStage| {
            let (job, stage) = it.stage;
            StageRate { job, stage, rate: u32::try_from(rate(it)).unwrap_or(u32::MAX) }
        };
        self.stages.iter().take(RATES_MAX).map(rate_of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(stage: u16) -> ShardId {
        ShardId { job: JobId::from_bytes([1; 32]), stage, number: 0 }
    }

    #[test]
    fn what_was_seen_vouches_for_four_times_as_many() {
        let mut rates = Rates::default();
        rates.note(shard(0), 2, Duration::from_micros(10));
        assert_eq!(rates.told(2)[0].rate, 40, "eight in the longest batch");
        rates.note(shard(0), 100_000, Duration::from_millis(500));
        assert_eq!(rates.told(2)[0].rate, 400_000, "5 µs a task, two at a time");
    }

    #[test]
    fn each_stage_has_its_own_rate() {
        let mut rates = Rates::default();
        rates.note(shard(0), 1000, Duration::from_millis(1));
        rates.note(shard(1), 10, Duration::from_secs(1));
        let told = rates.told(1);
        assert_eq!((told[0].stage, told[0].rate), (1, 10));
        assert_eq!(rates.mean(shard(0)), Some(Duration::from_micros(1)));
        assert_eq!(rates.mean(shard(2)), None);
    }

    #[test]
    fn tasks_that_grow_longer_are_noticed() {
        let mut rates = Rates::default();
        rates.note(shard(0), 1_000_000, Duration::from_secs(1));
        rates.note(shard(0), 256, Duration::from_secs(256));
        assert!(rates.mean(shard(0)) > Some(Duration::from_millis(400)));
    }

    #[test]
    fn refusals_that_took_no_time_tell_nothing() {
        let mut rates = Rates::default();
        rates.note(shard(0), 10, Duration::ZERO);
        assert_eq!(rates.told(1), []);
    }
}
