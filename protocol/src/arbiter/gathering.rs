//! Gathering: outcomes that were reported wait here for a moment, so that many of them share a sync and a message.
//!
//! Always true:
//! - only what nobody waits for is gathered: while tasks of the shard wait for a slot, its end is some time off;
//! - what is gathered is acknowledged to nobody. Its executors keep it and tell it to the next arbiter; one that asked this
//!   arbiter to resume meanwhile forgot it, and its tasks run once more if the arbiter is lost before it has written them down.
//!
//! Elsewhere: what is reported is taken in by `reports`, and written down by `records`.
//!
//! Source: group commit (DeWitt et al., "Implementation Techniques for Main Memory Database Systems", 1984 §5.2).

use core::time::Duration;

use super::Arbiter;
use crate::message::CHUNK_BYTES;
use crate::node::Node;
use crate::{LeaseId, NodeId, Outcome, Range, ShardId};

/// Records for which nobody waits are made this often: well before an executor tells its outcomes again.
const RECORD_EVERY: Duration = Duration::from_millis(500);

/// Outcomes of one lease.
#[derive(Debug)]
struct Report {
    from: NodeId,
    lease: LeaseId,
    outcomes: Vec<(Range, Outcome)>,
}

/// What was reported of one shard and is not written down.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    reports: Vec<Report>,
    weight: usize,
}

impl Gathered {
    /// The tasks of it.
    pub(super) fn tasks(&self) -> impl Iterator<Item = Range> + '_ {
        self.reports.iter().flat_map(|report| &report.outcomes).map(|(range, _)| *range)
    }

    /// The leases of it, and who holds them.
    pub(super) fn leases(&self) -> impl Iterator<Item = (NodeId, LeaseId)> + '_ {
        self.reports.iter().map(|report| (report.from, report.lease))
    }

    fn push(&mut self, report: Report) {
        self.weight += report.outcomes.iter().map(|(_, outcome)| outcome.weight()).sum::<usize>();
        self.reports.push(report);
    }
}

impl Arbiter {
    /// Whether somebody may wait for the end of the shard: none of its tasks waits for a slot, or some have run twice, of
    /// which the first outcome counts.
    fn is_ending(&self) -> bool {
        self.pending.is_empty() || self.has_two_runs()
    }
}

impl Node {
    /// Outcomes of a lease, with all their blobs: now or soon they are written down.
    pub(super) fn gather(&mut self, from: NodeId, lease: LeaseId, outcomes: Vec<(Range, Outcome)>) {
        let is_awaited = self.is_awaited(lease.shard, &outcomes);
        let Some(arbiter) = self.arbiter_mut(lease.shard) else { return };
        arbiter.gathered.push(Report { from, lease, outcomes });
        let is_much = arbiter.gathered.weight >= CHUNK_BYTES;
        self.custody.gathered.insert(lease.shard);
        if is_awaited || is_much {
            self.record_gathered(lease.shard);
        } else {
            self.keep_gathered();
        }
    }

    /// Whether somebody acts on these outcomes: tries again, starts what needs them, or ends the shard.
    fn is_awaited(&self, id: ShardId, outcomes: &[(Range, Outcome)]) -> bool {
        let fails = outcomes.iter().any(|(_, outcome)| !outcome.ending.is_success());
        let is_needed = self.jobs.get(id.job).is_none_or(|job| job.edges.is_needed(id.stage));
        let arbiter = self.custody.shard(id).and_then(|shard| shard.arbiter.as_ref());
        fails || is_needed || self.membership.me.draining || arbiter.is_none_or(Arbiter::is_ending)
    }

    /// Writes down what was gathered of all shards, when the last time is long enough ago.
    pub(super) fn keep_gathered(&mut self) {
        if self.custody.gathered.is_empty() {
            return self.set_alarm("records", None);
        }
        let due = self.custody.last_records.map_or(self.now, |last| last + RECORD_EVERY);
        if self.now < due {
            return self.set_alarm("records", Some(due));
        }
        self.custody.last_records = Some(self.now);
        for id in core::mem::take(&mut self.custody.gathered) {
            self.record_gathered(id);
        }
    }

    /// Writes down what was gathered of one shard.
    pub(super) fn record_gathered(&mut self, id: ShardId) {
        self.custody.gathered.remove(&id);
        let Some(arbiter) = self.arbiter_mut(id) else { return };
        for Report { from, lease, outcomes } in core::mem::take(&mut arbiter.gathered).reports {
            self.record_outcomes(from, lease, outcomes, true);
        }
    }
}
