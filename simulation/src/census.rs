//! How often what happened in a run: faults by their kind, and everything else by name.

use std::collections::BTreeMap;

use crate::faults::Fault;

/// How often each thing happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    faults: BTreeMap<Fault, u64>,
    things: BTreeMap<&'static str, u64>,
}

impl Census {
    /// A fault of this kind was really met by somebody.
    pub(crate) fn hit(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }

    /// One more.
    pub(crate) fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// Some more.
    pub(crate) fn add(&mut self, what: &'static str, times: u64) {
        *self.things.entry(what).or_default() += times;
    }

    /// Takes in another census.
    pub fn merge(&mut self, other: &Self) {
        for (fault, hits) in &other.faults {
            *self.faults.entry(*fault).or_default() += hits;
        }
        for (what, times) in other.iter() {
            self.add(what, times);
        }
    }

    /// How often this kind of fault was met.
    pub fn hits(&self, fault: Fault) -> u64 {
        self.faults.get(&fault).copied().unwrap_or(0)
    }

    /// Names and numbers of all but the faults, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.things.iter().map(|(what, times)| (*what, *times))
    }

    /// How often `what` happened.
    pub fn of(&self, what: &str) -> u64 {
        self.things.get(what).copied().unwrap_or(0)
    }
}
