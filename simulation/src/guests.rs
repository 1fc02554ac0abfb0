//! Guests without WebAssembly: what a task does is a function of its job, stage and index, as it is for a deterministic
//! module, so any two runs of a task leave the same behind.
//!
//! Also a node's slots: which attempts run, which wait, which have ended and are not yet told to the core.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use fastrand::Rng;
use swarm_protocol::{Content, Ending, Hash, LeaseId, Outcome, OutputFile, Range};

use crate::dice;

/// What the tasks of a stage do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Shortest and longest run, in microseconds.
    pub run_us: (u64, u64),
    /// Tasks in a thousand that exit with code 7, always.
    pub exits: u32,
    /// Tasks in a thousand that trap, always.
    pub traps: u32,
    /// What successful tasks leave behind.
    pub leaves: Leaves,
}

/// What a task leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    /// The same line as all others: outcomes of neighbours are one run.
    Same,
    /// A line of its own.
    Own,
    /// A declared output, which is a blob.
    File,
}

/// The declared output of tasks that leave a file.
pub(crate) const FILE: &str = "result";

impl Script {
    /// Tasks that run for about this long and succeed.
    pub const fn running_for(run: Duration) -> Self {
        let micros = run.as_micros() as u64;
        Self { run_us: (micros, micros), exits: 0, traps: 0, leaves: Leaves::Own }
    }

    /// How the task ends, whoever runs it and how often.
    pub(crate) fn outcome(&self, nonce: u64, stage: u16, task: u32) -> Outcome {
        let number = dice::mix(nonce ^ dice::mix(u64::from(stage) << 32 | u64::from(task)));
        let fate = (number % 1000) as u32;
        if fate < self.exits {
            return Outcome::bare(Ending::Exited(7));
        }
        if fate < self.exits + self.traps {
            return Outcome::bare(Ending::Trapped("wasm trap: unreachable".into()));
        }
        let line = |text: String| Content::Inline(text.into_bytes());
        match self.leaves {
            Leaves::Same => Outcome { stdout: line("ok".into()), ..Outcome::bare(Ending::Exited(0)) },
            Leaves::Own => Outcome { stdout: line(format!("{number:x}")), ..Outcome::bare(Ending::Exited(0)) },
            Leaves::File => {
                let hash = Hash::of(&number.to_le_bytes());
                let outputs = vec![OutputFile { path: FILE.into(), hash, len: 8 }];
                Outcome { outputs, ..Outcome::bare(Ending::Exited(0)) }
            }
        }
    }

    /// How long one run takes.
    pub(crate) fn duration(&self, rng: &mut Rng) -> Duration {
        dice::micros(rng, self.run_us.0..=self.run_us.1)
    }
}

/// One run of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attempt {
    pub(crate) lease: LeaseId,
    pub(crate) task: u32,
}

/// The slots of one node.
#[derive(Default)]
pub(crate) struct Slots {
    slots: usize,
    numbers: u64,
    /// Leases whose blobs are being brought.
    held: BTreeMap<LeaseId, Vec<Attempt>>,
    waiting: VecDeque<Attempt>,
    running: BTreeMap<u64, Attempt>,
    ended: Vec<(Attempt, Outcome)>,
    /// What is held, waits or runs.
    busy: BTreeSet<Attempt>,
}

impl Slots {
    pub(crate) fn new(slots: usize) -> Self {
        Self { slots, ..Self::default() }
    }

    /// Keeps a task until [`Self::release`]; false when it is here already under the same lease.
    pub(crate) fn hold(&mut self, attempt: Attempt) -> bool {
        self.held.entry(attempt.lease).or_default().push(attempt);
        self.busy.insert(attempt)
    }

    /// The blobs of a lease are here.
    pub(crate) fn release(&mut self, lease: LeaseId) {
        self.waiting.extend(self.held.remove(&lease).unwrap_or_default());
    }

    /// The next attempt for a free slot, with its number.
    pub(crate) fn next(&mut self) -> Option<(u64, Attempt)> {
        if self.running.len() >= self.slots {
            return None;
        }
        let attempt = self.waiting.pop_front()?;
        self.numbers += 1;
        self.running.insert(self.numbers, attempt);
        Some((self.numbers, attempt))
    }

    /// The attempt of this number, which has just come to its end; `None` when it was stopped before.
    pub(crate) fn end(&mut self, number: u64) -> Option<Attempt> {
        let attempt = self.running.remove(&number)?;
        self.busy.remove(&attempt);
        Some(attempt)
    }

    /// Keeps an outcome until [`Self::take_ended`]; true for the first.
    pub(crate) fn keep(&mut self, attempt: Attempt, outcome: Outcome) -> bool {
        self.ended.push((attempt, outcome));
        self.ended.len() == 1
    }

    /// What ended, by lease, neighbours with equal outcomes together.
    pub(crate) fn take_ended(&mut self) -> BTreeMap<LeaseId, Vec<(Range, Outcome)>> {
        let mut ended = std::mem::take(&mut self.ended);
        ended.sort_by_key(|(attempt, _)| (attempt.lease, attempt.task));
        let mut leases = BTreeMap::<LeaseId, Vec<(Range, Outcome)>>::new();
        for (attempt, outcome) in ended {
            let runs = leases.entry(attempt.lease).or_default();
            match runs.last_mut() {
                Some((range, last)) if range.end() == attempt.task && *last == outcome => range.count += 1,
                _ => runs.push((Range { first: attempt.task, count: 1 }, outcome)),
            }
        }
        leases
    }

    /// Drops and interrupts these tasks.
    pub(crate) fn stop(&mut self, lease: LeaseId, ranges: &[Range]) {
        let stopped = |attempt: &Attempt| {
            attempt.lease == lease && ranges.iter().any(|range| range.indexes().contains(&attempt.task))
        };
        self.busy.retain(|attempt| !stopped(attempt));
        self.waiting.retain(|attempt| !stopped(attempt));
        self.running.retain(|_, attempt| !stopped(attempt));
        self.held.values_mut().for_each(|attempts| attempts.retain(|attempt| !stopped(attempt)));
    }

    /// Leases of which something is held, waits or runs.
    pub(crate) fn leases(&self) -> BTreeSet<LeaseId> {
        self.busy.iter().map(|attempt| attempt.lease).collect()
    }
}
