//! Which shards are kept here: those of which this node is a custodian, and those of which it was told.
//!
//! Always true: no shard is kept of a job that is not known here.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::Shard;
use super::digests::DIGEST_SOON;
use super::facts::within;
use crate::lattice::{End, Results, Run, ShardState, TaskState};
use crate::node::Node;
use crate::placement::Key;
use crate::{Ending, JobId, Outcome, Range, ShardId, StageSpec, Time};

impl Node {
    /// Starts to keep the shards of a job of which this node is a custodian.
    pub(crate) fn adopt_shards(&mut self, job: JobId) {
        let Some(spec) = self.jobs.get(job).map(|job| job.spec.clone()) else { return };
        let me = self.me();
        if self.is_settling() {
            return;
        }
        for shard in spec.shards(job) {
            let custodians = self.shard_custodians(shard);
            if custodians.contains(&me) {
                self.ensure_shard(shard);
            }
        }
    }

    /// The shard as kept here; `None` when its job is unknown or has no such shard.
    pub(crate) fn ensure_shard(&mut self, id: ShardId) -> Option<&mut Shard> {
        let job = self.jobs.get(id.job)?;
        let stage = job.spec.stages.get(usize::from(id.stage))?;
        if id.number >= stage.shards() {
            return None;
        }
        let range = stage.shard_range(id.number);
        if !self.custody.shards.contains_key(&id) {
            let shard = Shard {
                spec: job.spec.clone(),
                range,
                state: skipped(stage, range),
                custodians: self.shard_custodians(id),
                next_segment: 0,
                digest: None,
                confirmed: BTreeSet::new(),
                given: BTreeSet::new(),
                giving: BTreeMap::new(),
                has_blobs: false,
                unsure: None,
                unsure_noted: false,
                arbiter: None,
                quiet_until: Time::ZERO,
                quiet: Duration::ZERO,
            };
            self.custody.open.insert((job.arrival, id));
            self.custody.review(id);
            let is_over = shard.is_over();
            self.custody.shards.insert(id, shard);
            if is_over {
                self.progress_is_due(id);
                self.close_if_over(id);
            }
        }
        self.custody.shard_mut(id)
    }

    /// The members changed: so may have the custodians of everything.
    pub(crate) fn refresh_custodians(&mut self) {
        let jobs: Vec<_> = self.jobs.iter().map(|(id, _)| *id).collect();
        for job in jobs {
            self.adopt_shards(job);
        }
        let view = &self.membership.view;
        for (id, shard) in &mut self.custody.shards {
            let custodians = view.custodians(Key::of_shard(*id));
            if custodians != shard.custodians {
                shard.custodians = custodians;
                self.custody.next_digest = self.custody.next_digest.min(self.now + DIGEST_SOON);
            }
        }
    }
}

/// What is known of a shard before anything of it ran: the tasks that the job does not run succeeded in an earlier one.
fn skipped(stage: &StageSpec, range: Range) -> ShardState {
    let mut state = ShardState::default();
    let done = TaskState::ended(End::Done(Results::one(Outcome::bare(Ending::Exited(0)), [])));
    let run = |skipped: &Range| Run { range: *skipped, state: done.clone() };
    state.join(&within(range, stage.options.skip.iter().map(run).collect()));
    state
}
