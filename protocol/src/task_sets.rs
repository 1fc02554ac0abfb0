//! Sets of tasks of one shard, as the ranges that messages carry.

use rangemap::RangeSet;

use crate::Range;

/// The ranges of a set.
pub(crate) fn ranges_of(set: &RangeSet<u32>) -> Vec<Range> {
    set.iter().map(|range| Range { first: range.start, count: range.end - range.start }).collect()
}

/// How many tasks a set has.
pub(crate) fn count_of(set: &RangeSet<u32>) -> u32 {
    set.iter().map(|range| range.end - range.start).sum()
}

/// The tasks of `ranges` that are in `set`.
pub(crate) fn common(set: &RangeSet<u32>, ranges: &[Range]) -> RangeSet<u32> {
    let mut common = RangeSet::new();
    for range in ranges.iter().filter(|range| range.first < range.end()) {
        for piece in set.overlapping(&range.indexes()) {
            common.insert(piece.start.max(range.first)..piece.end.min(range.end()));
        }
    }
    common
}
