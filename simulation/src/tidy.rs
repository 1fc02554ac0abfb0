//! Users who tidy up, in some runs: they pin and unpin blobs on nodes, and have jobs whose results are kept for seconds,
//! which share modules and results with jobs that are kept.
//!
//! Always true: of a job that expires nothing is asked; whether it expires in time, and leaves nothing, is looked at in
//! the end.

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;
use swarm_protocol::{Hash, JobId, JobOptions, JobSpec, KEEP_MS_DEFAULT, Node};

use crate::clients::StagePlan;
use crate::collections::{COLLECT_EVERY, GRACE};
use crate::dice;
use crate::guests::{Leaves, Script};
use crate::history::Fact;
use crate::run::FINISH_MAX;
use crate::world::{Happening, World};

/// How long results are kept, in milliseconds: the first two expire in a run.
const KEEP_MS: [u64; 3] = [2_000, 12_000, KEEP_MS_DEFAULT];
/// Jobs of these users in one run, so that it ends.
const JOBS_MAX: usize = 12;
/// After so many milliseconds they do something again.
const AGAIN_MS: std::ops::RangeInclusive<u64> = 200..=1500;
/// How often it is looked whether all jobs have expired.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl World {
    pub(crate) fn begin_to_tidy(&mut self) {
        if self.clients.jobs_expire() {
            self.after(Duration::ZERO, Happening::Tidy);
        }
    }

    pub(crate) fn on_tidy(&mut self) {
        let Some(mut rng) = self.clients.tidy.clone().filter(|_| self.stormy) else { return };
        let wait = dice::millis(&mut rng, AGAIN_MS);
        self.after(wait, Happening::Tidy);
        if let Some(node) = self.any_node() {
            match rng.u32(0..10) {
                0..4 => self.submit_shared(node, &mut rng),
                4..7 => self.pin(node, &mut rng),
                _ => self.unpin(node, &mut rng),
            }
        }
        self.clients.tidy = Some(rng);
    }

    /// A small job, often of the module of another, which often leaves what others leave.
    fn submit_shared(&mut self, node: usize, rng: &mut Rng) {
        let known: Vec<_> = self.clients.submitted.iter().chain(&self.clients.brief).copied().collect();
        if self.clients.brief.len() >= JOBS_MAX || known.len() >= 2 * JOBS_MAX {
            return;
        }
        let nonce = rng.u64(..);
        let other = dice::pick(rng, &known).filter(|_| rng.u32(0..3) > 0).and_then(|job| self.spec(job));
        let module = other.map_or_else(|| Hash::of(&nonce.to_be_bytes()), |spec| spec.stages[0].wasm);
        let leaves = [Leaves::Common, Leaves::Common, Leaves::File][rng.usize(0..3)];
        let script = Script { leaves, ..Script::running_for(Duration::from_millis(rng.u64(1..500))) };
        let plan = StagePlan::plain(rng.u32(1..=10), script);
        let keep_ms = KEEP_MS[rng.usize(0..KEEP_MS.len())];
        self.submit_module(node, nonce, module, vec![plan], 0, JobOptions { keep_ms, ..JobOptions::default() });
    }

    fn spec(&self, job: JobId) -> Option<&JobSpec> {
        self.jobs.get(&job).map(|(spec, _)| &**spec)
    }

    /// Brings a blob to a node, to stay there whatever becomes of the jobs that name it.
    fn pin(&mut self, node: usize, rng: &mut Rng) {
        let blobs: BTreeSet<_> = self.machines.iter().flat_map(|machine| machine.blobs.iter().copied()).collect();
        let blobs: Vec<_> = blobs.into_iter().collect();
        let Some(blob) = dice::pick(rng, &blobs) else { return };
        // Of one that is or was two machines each knows a part of what others were told by its name.
        if self.speakers.contains_key(&self.machines[node].id) || !self.bring(node, &[blob]) {
            return;
        }
        self.note_at(node, format_args!("is told by a user to keep {blob}"));
        self.census.count("blob pinned");
        self.machines[node].pins.insert(blob);
        self.observe(&Fact::Pinned { node: self.machines[node].id, blob });
    }

    fn unpin(&mut self, node: usize, rng: &mut Rng) {
        let pins: Vec<_> = self.machines[node].pins.iter().copied().collect();
        let Some(blob) = dice::pick(rng, &pins) else { return };
        self.note_at(node, format_args!("is told by a user to let {blob} go"));
        self.census.count("blob unpinned");
        self.machines[node].pins.remove(&blob);
        self.observe(&Fact::Unpinned { node: self.machines[node].id, blob });
    }

    /// What had expired when the process before this one ended.
    pub(crate) fn observe_expired(&mut self, node: usize) {
        let Some(running) = &self.machines[node].running else { return };
        let expired: Vec<_> = self.clients.brief.iter().copied().filter(|job| running.core.has_expired(*job)).collect();
        let id = self.machines[node].id;
        expired.into_iter().for_each(|job| self.observe(&Fact::Expired { node: id, job }));
    }

    /// Lets time pass until every acknowledged job that expires is forgotten by all nodes, and its blobs are gone.
    pub(crate) fn expire(&mut self) {
        if !self.clients.jobs_expire() {
            return;
        }
        let bound = self.now() + FINISH_MAX;
        while self.broken.is_none()
            && let Some((node, job)) = self.still_known()
        {
            if self.now() >= bound {
                return self
                    .break_with("jobs_expire", format!("n{node} still knows {job:?}, which should have expired"));
            }
            self.run_for(LOOK_EVERY);
        }
        // Others may only come to their end meanwhile.
        let expired = self.expiring().collect();
        self.run_for(GRACE + COLLECT_EVERY * 2);
        if let Some((node, blob)) = self.left_over(&expired).filter(|_| self.broken.is_none()) {
            self.break_with("expired_jobs_leave_nothing", format!("n{node} still has {blob}, which nothing needs"));
        }
    }

    /// Jobs that somebody has seen over. One that was acknowledged by a node that reached nobody, and was lost with that
    /// node's disk but for its record, never is.
    fn expiring(&self) -> impl Iterator<Item = JobId> + '_ {
        let acknowledged = |job: &JobId| self.auditor.history().jobs[job].acknowledged.is_some();
        let seen_over = move |job: &JobId| {
            let mut cores = self.machines.iter().filter_map(|machine| Some(&machine.running.as_ref()?.core));
            cores.any(|core| is_past(core, *job))
        };
        self.clients.brief.iter().copied().filter(acknowledged).filter(seen_over)
    }

    fn still_known(&self) -> Option<(usize, JobId)> {
        self.machines.iter().enumerate().find_map(|(node, machine)| {
            let core = &machine.running.as_ref()?.core;
            let known = self.expiring().find(|job| core.job_status(*job).is_some())?;
            Some((node, known))
        })
    }

    /// A blob of a job that expired, which no other job could have and which nobody pinned.
    fn left_over(&self, expired: &BTreeSet<JobId>) -> Option<(usize, Hash)> {
        let others = self.jobs.keys().filter(|job| !expired.contains(job));
        let needed: BTreeSet<_> = others.flat_map(|job| self.blobs_of(*job)).collect();
        let gone: BTreeSet<_> = expired.iter().flat_map(|job| self.blobs_of(*job)).collect();
        self.machines.iter().enumerate().filter(|(_, machine)| machine.is_up()).find_map(|(node, machine)| {
            let stays = |blob: &Hash| needed.contains(blob) || machine.pins.contains(blob);
            let left = machine.blobs.iter().find(|blob| gone.contains(blob) && !stays(blob))?;
            Some((node, *left))
        })
    }

    /// What a job needs and may leave.
    fn blobs_of(&self, job: JobId) -> Vec<Hash> {
        let Some((spec, scripts)) = self.jobs.get(&job) else { return Vec::new() };
        let mut blobs = self.with_listed(spec.blobs);
        for ((script, stage), number) in scripts.iter().zip(&spec.stages).zip(0..) {
            for task in 0..stage.count {
                let lie = script.lie(spec.nonce, number, task);
                let outcomes = [script.outcome(spec.nonce, number, task)].into_iter().chain(lie);
                outcomes.for_each(|outcome| blobs.extend(outcome.blobs()));
            }
        }
        blobs
    }
}

/// Whether the node has seen the job over.
fn is_past(core: &Node, job: JobId) -> bool {
    core.has_expired(job) || core.job_status(job).is_some_and(|status| status.state().is_over())
}
