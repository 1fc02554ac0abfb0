//! Faults at random moments: whom to strike next, and how.
//!
//! Always true, because the promise covers no more:
//! - at most [`down_max`] nodes are killed, stopped or restarting at a time, so that the others can acknowledge;
//! - a disk is lost only while all nodes run and reach each other, and only when for [`REPAIR`] no disk was lost and no cut
//!   ended: what is acknowledged is on two disks, and the swarm needs that time to bring it onto two again;
//! - one cut at a time.
//!
//! The seed decides; as the moments depend on how the machines are, the same seed is a similar run, not the same.

use std::ops::Range;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use super::ClusterError;
use super::stage::Stage;

/// After the loss of a disk or the end of a cut, so long no disk is lost: a node is known to be down after 7 s, its
/// successors are told at once and compare digests every 5 s; nodes that are killed meanwhile delay that.
pub(super) const REPAIR: Duration = Duration::from_secs(60);
/// A killed machine is back after this many milliseconds.
const DOWN_MS: Range<u64> = 500..4_000;
/// A stall: some are shorter, some longer than a lease (2.5 s).
const STALL_MS: Range<u64> = 200..5_000;
/// One stall of so many is a long one: longer than it takes until the others think that the node is down (7 s).
const LONG_STALL_EVERY: u32 = 5;
const LONG_STALL_MS: Range<u64> = 8_000..12_000;
/// How long a cut lasts.
const CUT_MS: Range<u64> = 3_000..20_000;
/// How often a struck node is one that runs a task, if there is any: the death of an idle one shows little.
const BUSY_SHARE: f64 = 0.7;

/// What is done to nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// SIGKILL, and started again on the same directory
    Kill,
    /// SIGSTOP, later SIGCONT
    Stop,
    /// SIGTERM, and started again on the same directory
    Restart,
    /// SIGKILL, directory emptied (half of the times except its identity), started again
    Wipe,
    /// Some nodes cut off from the others
    Partition,
    /// SIGKILL, directory removed, never started again.
    #[value(skip)]
    Loss,
}

impl Kind {
    /// Whether the process dies of it without warning.
    pub(super) const fn kills(self) -> bool {
        matches!(self, Self::Kill | Self::Wipe | Self::Loss)
    }
}

/// Strikes until its time is over.
pub(super) struct Chaos {
    pub(super) kinds: Vec<Kind>,
    pub(super) every: Range<Duration>,
    pub(super) random: fastrand::Rng,
}

/// Nodes that may be away at a time: the others are a majority, and with five nodes or more at least three.
pub(super) const fn down_max(nodes: usize) -> usize {
    nodes.saturating_sub(1) / 2
}

impl Chaos {
    /// Strikes at random intervals for `lasts`.
    pub(super) fn play(&mut self, stage: &mut Stage, lasts: Duration) -> Result<(), ClusterError> {
        let until = Instant::now() + lasts;
        loop {
            let wait = self.between(self.every.clone());
            let left = until.saturating_duration_since(Instant::now());
            stage.pump(wait.min(left), |_| false)?;
            if wait >= left {
                return Ok(());
            }
            if !self.kinds.is_empty() {
                // When nobody may be struck, the next moment is as good.
                stage.pump(until.saturating_duration_since(Instant::now()), |stage| self.can_strike(stage))?;
                self.strike(stage)?;
            }
        }
    }

    fn can_strike(&self, stage: &Stage) -> bool {
        self.kinds.iter().any(|kind| may(*kind, stage))
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<(), ClusterError> {
        let kinds: Vec<Kind> = self.kinds.iter().copied().filter(|kind| may(*kind, stage)).collect();
        let Some(kind) = self.random.choice(weighted(&kinds)) else { return Ok(()) };
        let Some(node) = self.choose(stage) else { return Ok(()) };
        let down = self.between_ms(DOWN_MS);
        match kind {
            Kind::Kill => stage.kill(node, down),
            Kind::Restart => stage.restart(node)?,
            Kind::Wipe => stage.wipe(node, down, self.random.bool())?,
            Kind::Stop => {
                let long = self.random.u32(0..LONG_STALL_EVERY) == 0;
                let stall = self.between_ms(if long { LONG_STALL_MS } else { STALL_MS });
                stage.pause(node, stall)?;
            }
            Kind::Partition => {
                let mut side: Vec<usize> = (0..stage.cluster.nodes().len()).collect();
                self.random.shuffle(&mut side);
                side.truncate(self.random.usize(1..=side.len() / 2));
                let lasts = self.between_ms(CUT_MS);
                stage.cut(side, lasts)?;
            }
            Kind::Loss => stage.lose(node)?,
        }
        Ok(())
    }

    fn choose(&mut self, stage: &Stage) -> Option<usize> {
        let up = stage.up();
        let busy = if self.random.f64() < BUSY_SHARE { stage.busy() } else { Vec::new() };
        self.random.choice(if busy.is_empty() { up } else { busy })
    }

    fn between_ms(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.random.u64(range))
    }

    fn between(&mut self, range: Range<Duration>) -> Duration {
        let span = range.end.saturating_sub(range.start);
        range.start + span.mul_f64(self.random.f64())
    }
}

/// Whether the promise covers this now.
fn may(kind: Kind, stage: &Stage) -> bool {
    let (up, left) = (stage.up().len(), stage.left());
    let one_more = left - up < down_max(left);
    let settled = stage.thin_since.is_none_or(|since| since.elapsed() >= REPAIR);
    match kind {
        Kind::Kill | Kind::Stop | Kind::Restart => one_more,
        Kind::Partition => left >= 2 && !stage.is_cut(),
        Kind::Wipe | Kind::Loss => one_more && up == left && !stage.is_cut() && settled,
    }
}

/// Each kind as often as it is worth: kills are what machines do; cuts and lost disks are rarer and last longer.
fn weighted(kinds: &[Kind]) -> Vec<Kind> {
    let weight = |kind: &Kind| match kind {
        Kind::Kill => 6,
        Kind::Stop => 3,
        _ => 1,
    };
    kinds.iter().flat_map(|kind| std::iter::repeat_n(*kind, weight(kind))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_always_left_alone() {
        assert_eq!((1..=7).map(down_max).collect::<Vec<_>>(), [0, 0, 1, 1, 2, 2, 3]);
    }

    #[test]
    fn kills_are_the_most_common() {
        let kinds = weighted(&[Kind::Wipe, Kind::Kill]);
        assert_eq!(kinds.iter().filter(|kind| **kind == Kind::Kill).count(), 6);
        assert!(kinds.contains(&Kind::Wipe));
    }
}
