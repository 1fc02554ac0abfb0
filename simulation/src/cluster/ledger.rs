//! What the clients of a load were told, and what any node told of it since: the auditor.
//!
//! Always true: this knows only what was told. A job is in here from its acknowledgement on; the first complete answer
//! about it is what every later answer is held against.

use std::time::{Duration, Instant, SystemTime};

use swarm_protocol::Hash;

use super::reading::{Outcome, Reading};
use super::recipe::Recipe;

/// Findings that are told word for word; more would say no more.
const EXAMPLES_MAX: usize = 20;

/// Everything that was told.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) jobs: Vec<Entry>,
    /// Submissions that were refused or not answered in time, which the client then tried elsewhere.
    pub(super) refused: u64,
    /// Answers that were none: a node that was asked about a job did not know it or did not answer in time.
    pub(super) unanswered: u64,
    /// Answers about jobs.
    pub(super) answers: u64,
    /// Answers that a job is under way when another node had told of its end: true a moment ago, and no longer.
    pub(super) stale: u64,
    examples: Vec<String>,
    /// What any run of the load's one job file told first, when that is all that is known of it.
    pattern: Option<Hash>,
}

/// An acknowledged job.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Which job of the load.
    pub(super) number: u64,
    /// 64 hexadecimal digits.
    pub(super) id: String,
    pub(super) tasks: u32,
    /// By which node and when.
    pub(super) acknowledged: (usize, Instant),
    pub(super) over: Option<Over>,
    asked: Instant,
    bad: Bad,
}

/// The first answer that told the outcome of every task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Over {
    digest: Hash,
    /// By which node and when.
    pub(super) told: (usize, Instant),
    /// The same by the clock of the logs.
    pub(super) at: SystemTime,
}

/// What is wrong with a job, by the worst answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Bad {
    /// Tasks without an outcome when all should have one.
    pub lost: u64,
    /// Outcomes beyond one a task.
    pub doubled: u64,
    /// Tasks that ended otherwise, or wrote other bytes, than they must.
    pub wrong: u64,
    /// Answers that differ from an earlier complete one.
    pub changed: u64,
}

impl Bad {
    pub(super) const fn is_none(&self) -> bool {
        self.lost + self.doubled + self.wrong + self.changed == 0
    }

    fn worst(&mut self, other: Self) {
        self.lost = self.lost.max(other.lost);
        self.doubled = self.doubled.max(other.doubled);
        self.wrong = self.wrong.max(other.wrong);
        self.changed += other.changed;
    }
}

impl Ledger {
    /// A node acknowledged a job.
    pub(super) fn acknowledged(&mut self, number: u64, id: String, tasks: u32, node: usize) {
        let (now, bad) = (Instant::now(), Bad::default());
        self.jobs.push(Entry { number, id, tasks, acknowledged: (node, now), over: None, asked: now, bad });
    }

    /// Tasks of jobs that are not known to be over.
    pub(super) fn open_tasks(&self) -> u64 {
        self.jobs.iter().filter(|job| job.over.is_none()).map(|job| u64::from(job.tasks)).sum()
    }

    /// Positions of jobs that are not known to be over.
    pub(super) fn open(&self) -> impl Iterator<Item = usize> {
        self.jobs.iter().enumerate().filter(|(_, job)| job.over.is_none()).map(|(position, _)| position)
    }

    /// A job to ask about now, its id and whether it is over: of those that are not, the one that was not asked about for
    /// the longest time; if `again`, else any that is.
    pub(super) fn choose(
        &mut self,
        every: Duration,
        again: bool,
        random: &mut fastrand::Rng,
    ) -> Option<(usize, String, bool)> {
        let open = self.open().min_by_key(|position| self.jobs[*position].asked);
        let due = open.filter(|position| self.jobs[*position].asked.elapsed() >= every);
        let is_over = |position: &usize| self.jobs[*position].over.is_some();
        let over = || (0..self.jobs.len()).filter(is_over).collect::<Vec<_>>();
        let position = due.or_else(|| if again { random.choice(over()) } else { None })?;
        let entry = &mut self.jobs[position];
        entry.asked = Instant::now();
        Some((position, entry.id.clone(), entry.over.is_some()))
    }

    /// How long jobs took, from their acknowledgement until a client knew of their end.
    pub(super) fn times(&self) -> Vec<Duration> {
        self.jobs.iter().filter_map(|job| Some(job.over?.told.1 - job.acknowledged.1)).collect()
    }

    /// A node told this of a job. `is_over`: it said that the job is, so every task must be in it.
    pub(super) fn told(&mut self, position: usize, node: usize, reading: &Reading, is_over: bool, recipe: &Recipe) {
        self.answers += 1;
        let entry = &self.jobs[position];
        self.stale += u64::from(entry.over.is_some() && !is_over);
        let mut bad = Bad { doubled: reading.doubled, ..Bad::default() };
        let mut examples = Vec::new();
        for ((stage, index), outcome) in &reading.outcomes {
            if let Some(why) = fault(outcome, recipe.stdout(entry.number, *index)) {
                bad.wrong += 1;
                examples.push(format!("node {node} told of task {stage}[{index}] of {}: {why}", entry.id));
            }
        }
        if is_over {
            bad.lost = u64::from(entry.tasks).saturating_sub(reading.outcomes.len() as u64);
            let digest = reading.digest();
            let first = entry.over.map(|over| over.digest);
            bad.changed = u64::from([first, self.pattern].into_iter().flatten().any(|first| first != digest));
            if recipe.stdout(entry.number, 0).is_none() {
                self.pattern.get_or_insert(digest);
            }
            self.jobs[position].over.get_or_insert(Over {
                digest,
                told: (node, Instant::now()),
                at: SystemTime::now(),
            });
        }
        self.note(position, node, bad, examples);
    }

    /// Nobody told of a job, however often it was asked for.
    pub(super) fn vanished(&mut self, position: usize, node: usize, why: &str) {
        let entry = &self.jobs[position];
        let example = format!("node {node} does not tell of {}, which was acknowledged: {why}", entry.id);
        let bad = Bad { lost: entry.tasks.into(), ..Bad::default() };
        self.note(position, node, bad, vec![example]);
    }

    /// The bytes of an output are not to be had, or are others.
    pub(super) fn unreadable(&mut self, position: usize, node: usize, why: &str) {
        let example = format!("node {node} does not give an output of {}: {why}", self.jobs[position].id);
        self.note(position, node, Bad { lost: 1, ..Bad::default() }, vec![example]);
    }

    fn note(&mut self, position: usize, node: usize, bad: Bad, examples: Vec<String>) {
        let entry = &mut self.jobs[position];
        entry.bad.worst(bad);
        let summary =
            (!bad.is_none()).then(|| format!("by node {node}, {} of {} tasks: {bad:?}", entry.id, entry.tasks));
        self.examples.extend(summary.into_iter().chain(examples));
        self.examples.truncate(EXAMPLES_MAX);
    }

    /// All that is wrong.
    pub(super) fn bad(&self) -> Bad {
        let mut sum = Bad::default();
        for Bad { lost, doubled, wrong, changed } in self.jobs.iter().map(|job| job.bad) {
            sum.lost += lost;
            sum.doubled += doubled;
            sum.wrong += wrong;
            sum.changed += changed;
        }
        sum
    }

    /// The first findings, in words.
    pub(super) fn examples(&self) -> &[String] {
        &self.examples
    }
}

/// What is wrong with an outcome.
fn fault(outcome: &Outcome, stdout: Option<Vec<u8>>) -> Option<String> {
    let Outcome { ended, ending, disputed, .. } = outcome;
    if ended != "done" {
        return Some(format!("{ended}, {ending}"));
    }
    if *disputed {
        return Some("its runs gave different results".into());
    }
    match stdout {
        Some(stdout) if !outcome.stdout.are(&stdout) => Some(format!("it wrote {:?}", outcome.stdout)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::reading::Bytes;
    use super::*;

    #[test]
    fn what_is_missing_wrong_or_changed_is_found_and_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let recipe = Recipe::built_in(dir.path(), Duration::from_millis(1)).unwrap();
        let mut ledger = Ledger::default();
        ledger.acknowledged(1, "ab".into(), 3, 0);
        let right = reading(&recipe, 0..3);
        ledger.told(0, 1, &right, true, &recipe);
        ledger.told(0, 2, &right, true, &recipe);
        assert!(ledger.bad().is_none() && ledger.open_tasks() == 0);

        ledger.told(0, 2, &reading(&recipe, 0..2), true, &recipe);
        ledger.told(0, 3, &reading(&recipe, 0..2), true, &recipe);
        assert_eq!(ledger.bad(), Bad { lost: 1, changed: 2, ..Bad::default() });

        let mut wrong = right.clone();
        wrong.outcomes.get_mut(&(0, 1)).unwrap().stdout = Bytes::Text("else".into());
        wrong.doubled = 1;
        ledger.told(0, 4, &wrong, false, &recipe);
        assert_eq!(ledger.bad(), Bad { lost: 1, doubled: 1, wrong: 1, changed: 2 });
        assert!(ledger.examples().iter().any(|example| example.contains("node 4 told of task 0[1] of ab: it wrote")));
    }

    #[test]
    fn a_job_that_nobody_knows_is_lost_with_all_its_tasks() {
        let mut ledger = Ledger::default();
        ledger.acknowledged(1, "ab".into(), 3, 0);
        ledger.vanished(0, 1, "not found");
        assert_eq!(ledger.bad(), Bad { lost: 3, ..Bad::default() });
    }

    fn reading(recipe: &Recipe, tasks: std::ops::Range<u32>) -> Reading {
        let outcome = |index| Outcome {
            ended: "done".into(),
            ending: "exited 0".into(),
            stdout: Bytes::Text(String::from_utf8(recipe.stdout(1, index).unwrap()).unwrap()),
            stderr: Bytes::Text(String::new()),
            outputs: Vec::new(),
            holders: Vec::new(),
            disputed: false,
        };
        Reading { outcomes: tasks.map(|index| ((0, index), outcome(index))).collect(), doubled: 0 }
    }
}
