//! Outcomes on their way to the core: equal neighbours become one range.

use std::time::Duration;

use swarm_protocol::{Outcome, Range};

/// Outcomes of some tasks of one lease.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    ranges: Vec<(Range, Outcome)>,
    /// What slots spent on them.
    busy: Duration,
}

impl Outcomes {
    /// The same outcome for several ranges.
    pub(super) fn of_all(ranges: impl Iterator<Item = Range>, outcome: &Outcome) -> Self {
        Self { ranges: ranges.map(|range| (range, outcome.clone())).collect(), ..Self::default() }
    }

    /// Adds the outcome of one task.
    pub(super) fn push(&mut self, index: u32, outcome: Outcome) {
        self.push_range(Range { first: index, count: 1 }, outcome);
    }

    /// Adds other outcomes to these.
    pub(super) fn append(&mut self, other: Self) {
        self.ranges.extend(other.ranges);
        self.busy += other.busy;
    }

    /// A slot spent so much time on them.
    pub(super) fn took(mut self, busy: Duration) -> Self {
        self.busy += busy;
        self
    }

    /// What slots spent on them since this was last asked.
    pub(super) fn take_busy(&mut self) -> Duration {
        std::mem::take(&mut self.busy)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Takes them out, in the order of their tasks, with equal neighbours as one range.
    pub(super) fn take(&mut self) -> Vec<(Range, Outcome)> {
        let mut ranges = std::mem::take(&mut self.ranges);
        ranges.sort_by_key(|(range, _)| *range);
        for (range, outcome) in ranges {
            self.push_range(range, outcome);
        }
        std::mem::take(&mut self.ranges)
    }

    fn push_range(&mut self, range: Range, outcome: Outcome) {
        match self.ranges.last_mut() {
            Some((last, known)) if last.end() == range.first && same(known, &outcome) => last.count += range.count,
            _ => self.ranges.push((range, outcome)),
        }
    }
}

/// Whether they are equal. Most say nothing, and processors take long to compare nothing with nothing: that is a read of no
/// bytes at an address that is none.
fn same(one: &Outcome, other: &Outcome) -> bool {
    let bare = |outcome: &Outcome| outcome.stdout.is_empty() && outcome.stderr.is_empty() && outcome.outputs.is_empty();
    one.ending == other.ending && (bare(one) && bare(other) || one == other)
}

#[cfg(test)]
mod tests {
    use swarm_protocol::Ending;

    use super::*;

    #[test]
    fn what_two_slots_did_in_turns_is_one_range() {
        let (mut even, mut odd) = (Outcomes::default(), Outcomes::default());
        for index in 0..100 {
            let slot = if index % 2 == 0 { &mut even } else { &mut odd };
            slot.push(index, Outcome::bare(Ending::Exited(i32::from(index == 40))));
        }
        even.append(odd);
        let taken = even.take();
        let ranges: Vec<_> = taken.iter().map(|(range, _)| (range.first, range.count)).collect();
        assert_eq!(ranges, [(0, 40), (40, 1), (41, 59)]);
        assert!(even.is_empty());
    }
}
