//! A matrix with combinations taken out and put in: which combination each element is, without listing them.
//!
//! Always true: elements are numbered without gaps, first the combinations of the axes that are not excluded, the last axis
//! varying fastest, then what was appended; counting costs in proportion to the axes and exclusions, not the elements.
//!
//! Source: `include` and `exclude` of the matrix of GitHub Actions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::Axis;

/// Exclusions of one matrix: one bit each in the state of a count.
pub const EXCLUDES_MAX: usize = 128;
/// Inclusions of one matrix: each is looked at for every element.
pub const INCLUDES_MAX: usize = 256;
/// States of a count. Ordinary matrices have some dozens; a spec that was made to cost time is refused.
const STATES_MAX: usize = 16 * 1024;

/// Values of some axes: the position of the axis, and the position of the value on it.
pub type Cell = Vec<(u8, u32)>;
/// Names with their values.
pub type Values = Vec<(String, String)>;

/// A matrix that is not a whole product.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grid {
    /// The axes.
    pub axes: Vec<Axis>,
    /// Combinations that are left out: all that agree with one of these.
    pub exclude: Vec<Cell>,
    /// Further names for the combinations that agree with a cell; later ones win.
    pub add: Vec<(Cell, Values)>,
    /// Elements of their own, after all others.
    pub append: Vec<Values>,
    #[serde(skip)]
    counts: Counts,
}

/// How many combinations follow from a state: which axis is next, and which exclusions may still match. Computed once.
#[derive(Clone, Debug, Default)]
struct Counts(OnceLock<BTreeMap<(u8, u128), u64>>);

impl PartialEq for Counts {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Counts {}

impl Grid {
    /// A grid of these axes.
    pub fn new(axes: Vec<Axis>, exclude: Vec<Cell>, add: Vec<(Cell, Values)>, append: Vec<Values>) -> Self {
        Self { axes, exclude, add, append, counts: Counts::default() }
    }

    /// Whether every position exists and counting is affordable.
    pub fn is_sound(&self) -> bool {
        let exists = |(axis, value): &(u8, u32)| {
            self.axes.get(usize::from(*axis)).is_some_and(|axis| (*value as usize) < axis.values.len())
        };
        let cells = self.exclude.iter().chain(self.add.iter().map(|(cell, _)| cell));
        self.axes.len() <= usize::from(u8::MAX)
            && self.exclude.len() <= EXCLUDES_MAX
            && self.add.len() + self.append.len() <= INCLUDES_MAX
            && cells.into_iter().flatten().all(exists)
            && self.states().len() < STATES_MAX
    }

    /// How many elements there are.
    pub fn count(&self) -> u64 {
        self.combinations().saturating_add(self.append.len() as u64)
    }

    /// How many of them are combinations of the axes.
    pub fn combinations(&self) -> u64 {
        if self.axes.is_empty() { 0 } else { self.below(0, self.all()) }
    }

    /// Whether any combination that is not excluded agrees with a cell.
    pub fn has(&self, cell: &Cell) -> bool {
        !self.axes.is_empty() && self.has_below(0, self.all(), cell)
    }

    fn has_below(&self, axis: u8, live: u128, cell: &Cell) -> bool {
        if self.below(axis, live) == 0 {
            return false;
        }
        if cell.iter().all(|(at, _)| *at < axis) {
            return true;
        }
        match cell.iter().find(|(at, _)| *at == axis) {
            Some((_, value)) => self.has_below(axis + 1, self.after(axis, live, *value), cell),
            None => {
                let mut nexts: BTreeSet<u128> =
                    self.mentioned(axis, live).iter().map(|value| self.after(axis, live, *value)).collect();
                if self.mentioned(axis, live).len() < self.size(axis) as usize {
                    nexts.insert(self.free(axis, live));
                }
                nexts.into_iter().any(|next| self.has_below(axis + 1, next, cell))
            }
        }
    }

    /// The positions of an element's values on the axes; `None` when it was appended.
    pub fn positions(&self, index: u32) -> Option<Vec<u32>> {
        let (mut rest, mut live) = (u64::from(index), self.all());
        if rest >= self.combinations() {
            return None;
        }
        let mut positions = Vec::with_capacity(self.axes.len());
        for axis in 0..self.axes.len() as u8 {
            let (value, next) = self.descend(axis, live, &mut rest)?;
            positions.push(value);
            live = next;
        }
        Some(positions)
    }

    /// The value of an axis under which the `rest`-th combination lies; `rest` is then counted below it.
    fn descend(&self, axis: u8, live: u128, rest: &mut u64) -> Option<(u32, u128)> {
        let free = self.free(axis, live);
        let plain = self.below(axis + 1, free);
        let mut at = 0;
        for value in self.mentioned(axis, live).into_iter().chain([self.size(axis)]) {
            let block = u64::from(value - at).saturating_mul(plain);
            if *rest < block {
                let found = at + (*rest / plain) as u32;
                *rest %= plain;
                return Some((found, free));
            }
            *rest -= block;
            let next = self.after(axis, live, value);
            let count = self.below(axis + 1, next);
            if value < self.size(axis) && *rest < count {
                return Some((value, next));
            }
            *rest = rest.saturating_sub(count);
            at = value + 1;
        }
        None
    }

    /// The element of a combination; `None` when it is excluded.
    pub fn index(&self, positions: &[u32]) -> Option<u32> {
        let (mut index, mut live) = (0u64, self.all());
        for (axis, &value) in (0..).zip(positions) {
            let plain = self.below(axis + 1, self.free(axis, live));
            let mentioned = self.mentioned(axis, live);
            let before: Vec<u32> = mentioned.into_iter().filter(|other| *other < value).collect();
            index = index.saturating_add(u64::from(value - before.len() as u32).saturating_mul(plain));
            for other in before {
                index = index.saturating_add(self.below(axis + 1, self.after(axis, live, other)));
            }
            live = self.after(axis, live, value);
        }
        let kept = self.below(self.axes.len() as u8, live) > 0;
        u32::try_from(index).ok().filter(|_| kept)
    }

    /// The names of an element with their values: the axes, then what was included; empty where an element has none.
    pub fn values(&self, index: u32) -> Vec<(&str, &str)> {
        let positions = self.positions(index);
        let mut values: Vec<(&str, &str)> = self.names().into_iter().map(|name| (name, "")).collect();
        let mut set = |name: &str, value| {
            if let Some(slot) = values.iter_mut().find(|(known, _)| *known == name) {
                slot.1 = value;
            }
        };
        match &positions {
            Some(positions) => {
                for (axis, at) in self.axes.iter().zip(positions) {
                    set(&axis.name, axis.values.get(*at as usize).map_or("", String::as_str));
                }
                let agrees = |cell: &Cell| cell.iter().all(|(axis, at)| positions.get(usize::from(*axis)) == Some(at));
                for (_, more) in self.add.iter().filter(|(cell, _)| agrees(cell)) {
                    more.iter().for_each(|(name, value)| set(name, value));
                }
            }
            None => {
                let appended = u64::from(index).saturating_sub(self.combinations());
                let own = self.append.get(usize::try_from(appended).unwrap_or(usize::MAX));
                own.into_iter().flatten().for_each(|(name, value)| set(name, value));
            }
        }
        values
    }

    /// Every name that an element may have: the axes first.
    pub fn names(&self) -> Vec<&str> {
        let axes = self.axes.iter().map(|axis| axis.name.as_str());
        let more = self.add.iter().map(|(_, values)| values).chain(&self.append).flatten();
        let mut names: Vec<&str> = axes.collect();
        for (name, _) in more {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names
    }

    // ---- counting

    fn size(&self, axis: u8) -> u32 {
        self.axes.get(usize::from(axis)).map_or(0, |axis| axis.values.len() as u32)
    }

    fn all(&self) -> u128 {
        (0..self.exclude.len().min(EXCLUDES_MAX)).fold(0, |all, at| all | 1 << at)
    }

    fn live(&self, live: u128) -> impl Iterator<Item = (usize, &Cell)> {
        self.exclude.iter().enumerate().take(EXCLUDES_MAX).filter(move |(at, _)| live >> at & 1 == 1)
    }

    /// Values of an axis that exclusions name.
    fn mentioned(&self, axis: u8, live: u128) -> BTreeSet<u32> {
        self.live(live).flat_map(|(_, cell)| cell).filter(|(at, _)| *at == axis).map(|(_, value)| *value).collect()
    }

    /// The exclusions that may still match after a value that none of them names.
    fn free(&self, axis: u8, live: u128) -> u128 {
        let says_nothing = |cell: &Cell| cell.iter().all(|(at, _)| *at != axis);
        self.live(live).filter(|(_, cell)| says_nothing(cell)).fold(0, |free, (at, _)| free | 1 << at)
    }

    /// The exclusions that may still match after this value.
    fn after(&self, axis: u8, live: u128, value: u32) -> u128 {
        let agrees = |cell: &Cell| cell.iter().all(|(at, other)| *at != axis || *other == value);
        self.live(live).filter(|(_, cell)| agrees(cell)).fold(0, |after, (at, _)| after | 1 << at)
    }

    fn below(&self, axis: u8, live: u128) -> u64 {
        self.states().get(&(axis, live)).copied().unwrap_or(0)
    }

    fn states(&self) -> &BTreeMap<(u8, u128), u64> {
        self.counts.0.get_or_init(|| {
            let mut states = BTreeMap::new();
            self.count_from(0, self.all(), &mut states);
            states
        })
    }

    fn count_from(&self, axis: u8, live: u128, states: &mut BTreeMap<(u8, u128), u64>) -> u64 {
        if let Some(known) = states.get(&(axis, live)) {
            return *known;
        }
        let excluded = self.live(live).any(|(_, cell)| cell.iter().all(|(at, _)| *at < axis));
        let count = match () {
            () if excluded || states.len() >= STATES_MAX => 0,
            () if usize::from(axis) == self.axes.len() => 1,
            () => {
                let mentioned = self.mentioned(axis, live);
                let plain = self.count_from(axis + 1, self.free(axis, live), states);
                let others = u64::from(self.size(axis)).saturating_sub(mentioned.len() as u64);
                mentioned.into_iter().fold(others.saturating_mul(plain), |sum, value| {
                    sum.saturating_add(self.count_from(axis + 1, self.after(axis, live, value), states))
                })
            }
        };
        states.insert((axis, live), count);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(name: &str, values: &[&str]) -> Axis {
        Axis { name: name.into(), values: values.iter().map(|&value| value.to_owned()).collect() }
    }

    fn texts(grid: &Grid, index: u32) -> Vec<String> {
        grid.values(index).into_iter().map(|(_, value)| value.to_owned()).collect()
    }

    #[test]
    fn what_is_excluded_leaves_no_gap() {
        let axes = vec![axis("os", &["a", "b"]), axis("v", &["1", "2", "3"])];
        let grid = Grid::new(axes, vec![vec![(0, 1), (1, 0)], vec![(1, 2)]], vec![], vec![]);
        assert_eq!(grid.count(), 3);
        let all: Vec<_> = (0..3).map(|index| texts(&grid, index).join("")).collect();
        assert_eq!(all, ["a1", "a2", "b2"]);
        for index in 0..3 {
            assert_eq!(grid.index(&grid.positions(index).unwrap()), Some(index));
        }
        assert_eq!(grid.index(&[1, 0]), None);
    }

    #[test]
    fn what_is_included_names_more_or_stands_at_the_end() {
        let axes = vec![axis("os", &["a", "b"])];
        let more = (vec![(0, 1)], vec![("fast".to_owned(), "yes".to_owned())]);
        let grid = Grid::new(axes, vec![], vec![more], vec![vec![("os".into(), "z".into())]]);
        assert_eq!(grid.names(), ["os", "fast"]);
        assert_eq!((texts(&grid, 0), texts(&grid, 1)), (vec!["a".into(), "".into()], vec!["b".into(), "yes".into()]));
        assert_eq!((grid.count(), texts(&grid, 2)), (3, vec!["z".to_owned(), "".to_owned()]));
    }

    #[test]
    fn a_large_grid_is_counted_without_being_listed() {
        let numbers: Vec<String> = (0..10_000).map(|number| number.to_string()).collect();
        let axes = ["x", "y"].map(|name| Axis { name: name.into(), values: numbers.clone() }).to_vec();
        let grid = Grid::new(axes, (0..100).map(|at| vec![(1, at * 7)]).collect(), vec![], vec![]);
        assert_eq!(grid.count(), 99_000_000);
        assert!(grid.is_sound());
        let positions = grid.positions(98_999_999).unwrap();
        assert_eq!((positions.as_slice(), grid.index(&positions)), (&[9999, 9999][..], Some(98_999_999)));
    }

    #[test]
    fn a_grid_agrees_with_the_list_of_its_combinations() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let sizes: Vec<u32> = (0..rng.usize(1..4)).map(|_| rng.u32(1..5)).collect();
            let axes = sizes.iter().enumerate().map(|(at, size)| Axis {
                name: format!("n{at}"),
                values: (0..*size).map(|value| value.to_string()).collect(),
            });
            let mut cell = || {
                let mut cell: Cell = Vec::new();
                for (at, size) in sizes.iter().enumerate() {
                    if rng.bool() {
                        cell.push((at as u8, rng.u32(0..*size)));
                    }
                }
                if cell.is_empty() {
                    cell.push((0, rng.u32(0..sizes[0])));
                }
                cell
            };
            let exclude: Vec<Cell> = (0..3).map(|_| cell()).collect();
            let grid = Grid::new(axes.collect(), exclude.clone(), vec![], vec![]);
            let product: u32 = sizes.iter().product();
            let all = (0..product).map(|mut index| {
                let mut positions: Vec<u32> = sizes
                    .iter()
                    .rev()
                    .map(|size| {
                        let at = index % size;
                        index /= size;
                        at
                    })
                    .collect();
                positions.reverse();
                positions
            });
            let agrees =
                |positions: &[u32], cell: &Cell| cell.iter().all(|(axis, at)| positions[usize::from(*axis)] == *at);
            let kept: Vec<Vec<u32>> = all.filter(|it| !exclude.iter().any(|cell| agrees(it, cell))).collect();
            assert_eq!(grid.count(), kept.len() as u64);
            for (index, positions) in (0..).zip(&kept) {
                assert_eq!((grid.positions(index).as_ref(), grid.index(positions)), (Some(positions), Some(index)));
            }
            let some = cell();
            assert_eq!(grid.has(&some), kept.iter().any(|it| agrees(it, &some)));
        }
    }
}
