//! Progress: how many tasks of each shard ended, told to the job's custodians.
//!
//! Always true: what waits for its second copy is not told.
//!
//! Elsewhere: what follows from it is `jobs`.

use core::time::Duration;
use std::collections::BTreeMap;

use super::{SHARDS_PER_MESSAGE, Shard, all_of};
use crate::arbiter::Arbiter;
use crate::lattice::Counts;
use crate::message::Message;
use crate::node::Node;
use crate::{JobId, NodeId, ShardId};

/// Progress is gathered this long, so that a job does not flood its custodians. They stop one of which too many tasks failed.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// The same when tasks failed.
const FAILURES_EVERY: Duration = Duration::from_millis(50);

/// How many tasks ended of some shards of some jobs.
type Told = BTreeMap<JobId, Vec<(u16, u32, Counts)>>;

impl Shard {
    /// What may be told to others as ended: without what waits for its second copy.
    pub(super) fn settled_counts(&self) -> Counts {
        if let Some(unsure) = &self.unsure {
            return unsure.told;
        }
        let open = self.arbiter.as_ref().map(Arbiter::unconfirmed).unwrap_or_default();
        let counts = self.state.counts();
        Counts {
            done: counts.done.saturating_sub(open.done),
            failed: counts.failed.saturating_sub(open.failed),
            cancelled: counts.cancelled.saturating_sub(open.cancelled),
        }
    }
}

impl Node {
    pub(crate) fn progress_is_due(&mut self, id: ShardId) {
        self.custody.progress_due.insert(id);
        // Whoever waits for a job or a stage waits for the end of its last shard.
        let Some(shard) = self.custody.shard(id) else { return };
        let (is_urgent, fails) = (shard.is_settled(), shard.state.counts().failed > 0);
        self.custody.progress_urgent |= is_urgent;
        self.custody.progress_fails |= fails;
    }

    pub(crate) fn flush_progress(&mut self) {
        if self.custody.progress_due.is_empty() {
            return;
        }
        let is_urgent = core::mem::take(&mut self.custody.progress_urgent);
        let every = if self.custody.progress_fails { FAILURES_EVERY } else { PROGRESS_EVERY };
        let due = self.custody.last_progress.map_or(self.now, |last| last + every);
        if self.now < due && !is_urgent {
            return self.set_alarm("progress", Some(due));
        }
        self.custody.last_progress = Some(self.now);
        self.custody.progress_fails = false;
        self.set_alarm("progress", None);
        let me = self.me();
        let (mut mine, mut others): (Told, Told) = Default::default();
        let late = core::mem::take(&mut self.custody.progress_late);
        for id in core::mem::take(&mut self.custody.progress_due) {
            let Some(shard) = self.custody.shard(id) else { continue };
            let counts = (id.stage, id.number, shard.settled_counts());
            mine.entry(id.job).or_default().push(counts);
            // What several custodians know one of them tells, the first that can be reached.
            let is_first = shard.custodians.iter().find(|node| self.reaches(**node)) == Some(&me);
            if shard.arbiter.is_some() || is_first || late.contains(&id) {
                others.entry(id.job).or_default().push(counts);
            }
        }
        for (told, to_me) in [(mine, true), (others, false)] {
            for (job, shards) in told {
                let custodians = self.jobs.get(job).map(|job| job.custodians.clone()).unwrap_or_default();
                for custodian in custodians.into_iter().filter(|node| (*node == me) == to_me) {
                    self.tell_progress(custodian, job, &shards);
                }
            }
        }
    }

    fn tell_progress(&mut self, to: NodeId, job: JobId, shards: &[(u16, u32, Counts)]) {
        for chunk in shards.chunks(SHARDS_PER_MESSAGE) {
            self.send(to, Message::Progress { job, shards: chunk.to_vec() });
        }
    }

    /// All that is known here of a job's shards, for a custodian of the job that asks.
    pub(crate) fn send_progress(&mut self, to: NodeId, job: JobId) {
        let shards = self.custody.shards.range(all_of(job));
        let shards: Vec<_> = shards
            .map(|(id, shard)| (id.stage, id.number, shard.settled_counts()))
            .filter(|(_, _, counts)| counts.ended() > 0)
            .collect();
        self.tell_progress(to, job, &shards);
    }
}
