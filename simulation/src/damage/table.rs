//! What became of all damaged stores.

use std::collections::BTreeMap;
use std::fmt;

use super::case::{Outcome, Verdict};

type Counts = BTreeMap<Outcome, u64>;

/// How many stores met which damage and what became of them.
#[derive(Debug, Default)]
pub struct DamageReport {
    seed: u64,
    rows: BTreeMap<String, Counts>,
    totals: BTreeMap<&'static str, Counts>,
    /// What must never happen, told in full, with the command that repeats it.
    bad: Vec<String>,
}

impl DamageReport {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    pub(super) fn add(&mut self, verdict: Verdict) {
        let Verdict { case, pair, stopped, damage, outcome, why } = verdict;
        let side = if pair { "beside a peer" } else { "alone" };
        let end = if stopped { "stopped" } else { "killed" };
        let seed = self.seed;
        eprintln!("{case:>5} {end}, {side}: {} → {outcome}", damage.told);
        if outcome.is_bad() {
            let told = why.replace('\n', "\n    ");
            let repeat = format!("swarm-sim damage --seed {seed} --only {case}");
            let text = format!("{outcome}: {end}, {side}: {}\n    {told}\n    repeat it: {repeat}", damage.told);
            eprintln!("{text}");
            self.bad.push(text);
        }
        let row = format!("{}, {}", damage.kind, damage.harm);
        *self.rows.entry(row).or_default().entry(outcome).or_default() += 1;
        for total in [side, end, "all"] {
            *self.totals.entry(total).or_default().entry(outcome).or_default() += 1;
        }
    }

    /// Whether nothing happened that must never.
    pub fn is_good(&self) -> bool {
        self.bad.is_empty()
    }

    /// Stores tried.
    pub fn stores(&self) -> u64 {
        self.totals.get("all").map_or(0, |counts| counts.values().sum())
    }
}

impl fmt::Display for DamageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen: Vec<_> = Outcome::ALL
            .into_iter()
            .filter(|outcome| !outcome.is_bad() || self.rows.values().any(|counts| counts.contains_key(outcome)))
            .collect();
        write!(f, "{:<32}", "damage")?;
        seen.iter().try_for_each(|outcome| write!(f, " {:>12}", outcome.to_string()))?;
        let rows = self.rows.iter().map(|(row, counts)| (row.as_str(), counts));
        let totals = self.totals.iter().map(|(row, counts)| (*row, counts));
        for (row, counts) in rows.chain(totals) {
            write!(f, "\n{row:<32}")?;
            seen.iter().try_for_each(|outcome| write!(f, " {:>12}", counts.get(outcome).copied().unwrap_or(0)))?;
        }
        write!(f, "\n{} stores, {} bad, seed {}", self.stores(), self.bad.len(), self.seed)?;
        self.bad.iter().try_for_each(|bad| write!(f, "\n{bad}"))
    }
}
