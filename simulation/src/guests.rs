//! Guests without WebAssembly: what a task does is a function of its job, stage and index, as it is for a deterministic
//! module, so any two runs of a task leave the same behind; except on a machine that lies.
//!
//! Also a node's slots: which attempts run, which wait, which have ended and are not yet told to the core.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use fastrand::Rng;
use swarm_protocol::{Content, Ending, Hash, LeaseId, Outcome, OutputFile, Range, Time};

use crate::dice;
use crate::faults::Fault;
use crate::world::{Happening, World};

/// What the tasks of a stage do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Shortest and longest run, in microseconds.
    pub run_us: (u64, u64),
    /// Tasks in a thousand that exit with code 7, always.
    pub exits: u32,
    /// Tasks in a thousand that trap, always.
    pub traps: u32,
    /// Tasks in a thousand that never end by themselves.
    pub hangs: u32,
    /// Tasks in a thousand that take their node with them, always.
    pub kills: u32,
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
    /// A declared output, which tasks of any job may leave.
    Common,
}

/// One success in so many is lied about, on a machine that lies.
const LIE_EVERY: u64 = 3;

/// How a run of a task goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It ends by itself.
    Ends(Outcome),
    /// It has to be ended.
    Hangs,
    /// Its node ends with it.
    Kills,
}

/// The declared output of tasks that leave a file.
pub(crate) const FILE: &str = "result";

impl Script {
    /// Tasks that run for about this long and succeed.
    pub const fn running_for(run: Duration) -> Self {
        let micros = run.as_micros() as u64;
        Self { run_us: (micros, micros), exits: 0, traps: 0, hangs: 0, kills: 0, leaves: Leaves::Own }
    }

    /// How the task goes, whoever runs it and how often.
    pub(crate) fn fate(&self, nonce: u64, stage: u16, task: u32) -> Fate {
        let number = number_of(nonce, stage, task);
        let lot = (number % 1000) as u32;
        let [exits, traps, hangs, kills] = [self.exits, self.traps, self.hangs, self.kills];
        match lot {
            _ if lot < exits => Fate::Ends(Outcome::bare(Ending::Exited(7))),
            _ if lot < exits + traps => Fate::Ends(Outcome::bare(Ending::Trapped("wasm trap: unreachable".into()))),
            _ if lot < exits + traps + hangs => Fate::Hangs,
            _ if lot < exits + traps + hangs + kills => Fate::Kills,
            _ => Fate::Ends(self.success(number)),
        }
    }

    /// How the task ends, as it is recorded.
    pub(crate) fn outcome(&self, nonce: u64, stage: u16, task: u32) -> Outcome {
        match self.fate(nonce, stage, task) {
            Fate::Ends(outcome) => outcome,
            Fate::Hangs => Outcome::bare(Ending::TimedOut),
            Fate::Kills => Outcome::bare(Ending::Lost),
        }
    }

    /// What a machine that lies says instead, of some tasks that succeed.
    pub(crate) fn lie(&self, nonce: u64, stage: u16, task: u32) -> Option<Outcome> {
        let number = number_of(nonce, stage, task);
        let leaves = if self.leaves == Leaves::Same { Leaves::Own } else { self.leaves };
        let succeeds = matches!(self.fate(nonce, stage, task), Fate::Ends(outcome) if outcome.ending.is_success());
        let lies = succeeds && (number / 1000).is_multiple_of(LIE_EVERY);
        lies.then(|| Self { leaves, ..self.clone() }.success(!number))
    }

    fn success(&self, number: u64) -> Outcome {
        let line = |text: String| Content::Inline(text.into_bytes());
        match self.leaves {
            Leaves::Same => Outcome { stdout: line("ok".into()), ..Outcome::bare(Ending::Exited(0)) },
            Leaves::Own => Outcome { stdout: line(format!("{number:x}")), ..Outcome::bare(Ending::Exited(0)) },
            Leaves::File => wrote(number),
            Leaves::Common => wrote(number % COMMON),
        }
    }

    /// How long one run takes.
    pub(crate) fn duration(&self, rng: &mut Rng) -> Duration {
        dice::micros(rng, self.run_us.0..=self.run_us.1)
    }
}

/// Different outputs of tasks that leave what others leave.
const COMMON: u64 = 3;

fn wrote(number: u64) -> Outcome {
    let hash = Hash::of(&number.to_le_bytes());
    let outputs = vec![OutputFile { path: FILE.into(), hash, len: 8 }];
    Outcome { outputs, ..Outcome::bare(Ending::Exited(0)) }
}

/// Scatters all tasks of all jobs.
const fn number_of(nonce: u64, stage: u16, task: u32) -> u64 {
    dice::mix(nonce ^ dice::mix((stage as u64) << 32 | task as u64))
}

/// One run of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attempt {
    pub(crate) lease: LeaseId,
    pub(crate) task: u32,
}

/// After so many milliseconds a node starts again that a guest took down.
const BACK_MS: std::ops::RangeInclusive<u64> = 50..=3000;

impl World {
    /// A guest comes to its end: what it leaves behind, unless it is its node's end, too.
    pub(crate) fn end_guest(&mut self, node: usize, Attempt { lease, task }: Attempt) -> Option<Outcome> {
        let (spec, scripts) = self.jobs.get(&lease.shard.job)?;
        let (script, stage) = (&scripts[usize::from(lease.shard.stage)], lease.shard.stage);
        let (fate, lie) = (script.fate(spec.nonce, stage, task), script.lie(spec.nonce, stage, task));
        match fate {
            Fate::Kills => {
                self.note_at(node, format_args!("is taken down by task {task} of {lease:?}"));
                self.census.hit(Fault::GuestKills);
                // Only the process dies: what it had written is with the system.
                self.crash(node, usize::MAX);
                let wait = dice::millis(self.dice(Fault::GuestKills), BACK_MS);
                self.after(wait, Happening::Restart { node });
                None
            }
            Fate::Hangs => {
                self.census.hit(Fault::GuestHangs);
                Some(Outcome::bare(Ending::TimedOut))
            }
            Fate::Ends(_) if lie.is_some() && self.is_liar(node) => {
                self.census.hit(Fault::GuestLies);
                lie
            }
            Fate::Ends(truth) => {
                if !truth.ending.is_success() {
                    self.census.hit(Fault::GuestTraps);
                }
                Some(truth)
            }
        }
    }

    /// Where guests lie, if anywhere.
    fn is_liar(&self, node: usize) -> bool {
        self.faults.has(Fault::GuestLies) && self.scenario.seed % self.scenario.nodes as u64 == node as u64
    }
}

/// The slots of one node.
#[derive(Default)]
pub(crate) struct Slots {
    slots: usize,
    numbers: u64,
    /// Leases whose blobs are being brought.
    held: BTreeMap<LeaseId, Vec<Attempt>>,
    waiting: VecDeque<Attempt>,
    running: BTreeMap<u64, (Attempt, Time)>,
    ended: Vec<(Attempt, Outcome, Duration)>,
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
    pub(crate) fn next(&mut self, now: Time) -> Option<(u64, Attempt)> {
        if self.running.len() >= self.slots {
            return None;
        }
        let attempt = self.waiting.pop_front()?;
        self.numbers += 1;
        self.running.insert(self.numbers, (attempt, now));
        Some((self.numbers, attempt))
    }

    /// The attempt of this number, which has just come to its end, and when it began; `None` when it was stopped before.
    pub(crate) fn end(&mut self, number: u64) -> Option<(Attempt, Time)> {
        let (attempt, begun) = self.running.remove(&number)?;
        self.busy.remove(&attempt);
        Some((attempt, begun))
    }

    /// Keeps an outcome until [`Self::take_ended`]; true for the first.
    pub(crate) fn keep(&mut self, attempt: Attempt, outcome: Outcome, took: Duration) -> bool {
        self.ended.push((attempt, outcome, took));
        self.ended.len() == 1
    }

    /// What ended, by lease, neighbours with equal outcomes together, and how long it took.
    pub(crate) fn take_ended(&mut self) -> BTreeMap<LeaseId, (Vec<(Range, Outcome)>, Duration)> {
        let mut ended = std::mem::take(&mut self.ended);
        ended.sort_by_key(|(attempt, ..)| (attempt.lease, attempt.task));
        let mut leases = BTreeMap::<LeaseId, (Vec<(Range, Outcome)>, Duration)>::new();
        for (attempt, outcome, took) in ended {
            let (runs, busy) = leases.entry(attempt.lease).or_default();
            *busy += took;
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
        self.running.retain(|_, (attempt, _)| !stopped(attempt));
        self.held.values_mut().for_each(|attempts| attempts.retain(|attempt| !stopped(attempt)));
    }

    /// Drops what is not begun, and with `begun` what runs: tasks by lease.
    pub(crate) fn give_back(&mut self, begun: bool) -> BTreeMap<LeaseId, Vec<Range>> {
        let running: BTreeSet<_> = self.running.values().map(|(attempt, _)| *attempt).collect();
        let given: Vec<_> = self.busy.iter().filter(|it| begun || !running.contains(it)).copied().collect();
        let mut leases = BTreeMap::<LeaseId, Vec<Range>>::new();
        for Attempt { lease, task } in given {
            leases.entry(lease).or_default().push(Range { first: task, count: 1 });
        }
        leases.iter().for_each(|(lease, tasks)| self.stop(*lease, tasks));
        leases
    }

    /// Leases of which something is held, waits or runs.
    pub(crate) fn leases(&self) -> BTreeSet<LeaseId> {
        self.busy.iter().map(|attempt| attempt.lease).collect()
    }
}
