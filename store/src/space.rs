//! Space: how much of the disk blobs may take.
//!
//! Always true: above the high-water mark of its budget a store takes no new blob, and neither does it when the disk has less
//! left than the reserve, which is for the records; nothing that is here is ever removed for it. Both end by
//! themselves when there is room again.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// The part of the budget that new blobs may fill: what is begun below it may be finished above it.
const HIGH_WATER_PERCENT: u64 = 90;
/// What is left of the disk for records, logs and others, unless a user says otherwise: the log of the records with all that
/// may be flushed from it. On a small disk, a part of it.
const RESERVE_BYTES: u64 = 64 << 20;
const RESERVE_SHARE_MAX: u64 = 16;
/// Stands for what nobody has set.
const UNSET: u64 = u64::MAX;

/// Why no new blob is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The blobs have reached what they may have.
    Budget {
        /// Bytes they have.
        used: u64,
        /// Bytes of the budget.
        budget: u64,
    },
    /// The disk is full, or nearly so.
    Disk {
        /// Bytes free.
        free: u64,
    },
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Budget { used, budget } => {
                write!(f, "blobs have {used} bytes, and new ones are taken up to {HIGH_WATER_PERCENT} % of {budget}")
            }
            Self::Disk { free } => write!(f, "the disk has {free} bytes left"),
        }
    }
}

impl std::error::Error for NoRoom {}

/// What blobs have, and may have.
#[derive(Debug)]
pub(crate) struct Space {
    budget: AtomicU64,
    used: AtomicU64,
    reserve: AtomicU64,
}

impl Space {
    pub(crate) const fn new() -> Self {
        Self { budget: AtomicU64::new(UNSET), used: AtomicU64::new(0), reserve: AtomicU64::new(UNSET) }
    }

    /// Sets how much of the disk is to be left free.
    pub(crate) fn set_reserve(&self, bytes: u64) {
        self.reserve.store(bytes, Ordering::Relaxed);
    }

    /// Sets the budget, and what is used of it.
    pub(crate) fn set(&self, budget: u64, used: u64) {
        self.used.store(used, Ordering::Relaxed);
        self.budget.store(budget, Ordering::Relaxed);
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes so many bytes, to be given back when they are not used after all.
    pub(crate) fn take(&self, dir: &Path, bytes: u64) -> Result<(), NoRoom> {
        self.look(dir, bytes)?;
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn give_back(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        // It always gives something, so this cannot fail.
        let _used = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Whether so many bytes may be taken.
    pub(crate) fn look(&self, dir: &Path, bytes: u64) -> Result<(), NoRoom> {
        let (used, budget) = (self.used(), self.budget.load(Ordering::Relaxed));
        if budget != UNSET && used.saturating_add(bytes) > budget / 100 * HIGH_WATER_PERCENT {
            return Err(NoRoom::Budget { used, budget });
        }
        self.look_at_disk(dir, bytes)
    }

    /// Whether the disk has room for so many bytes besides its reserve, whatever the budget.
    pub(crate) fn look_at_disk(&self, dir: &Path, bytes: u64) -> Result<(), NoRoom> {
        match left(dir) {
            Some((free, all)) if free < bytes.saturating_add(self.reserve(all)) => Err(NoRoom::Disk { free }),
            _ => Ok(()),
        }
    }

    fn reserve(&self, all: u64) -> u64 {
        match self.reserve.load(Ordering::Relaxed) {
            UNSET => RESERVE_BYTES.min(all / RESERVE_SHARE_MAX),
            set => set,
        }
    }
}

/// Bytes free on the disk of a directory, and of the whole disk.
pub(crate) fn left(dir: &Path) -> Option<(u64, u64)> {
    let disk = rustix::fs::statvfs(dir).ok()?;
    Some((disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_filled_to_its_mark_and_room_comes_back() {
        let (space, dir) = (Space::new(), std::env::temp_dir());
        space.take(&dir, 1).unwrap();
        space.set(1000, 500);
        space.take(&dir, 400).unwrap();
        assert_eq!(space.take(&dir, 1), Err(NoRoom::Budget { used: 900, budget: 1000 }));
        space.give_back(100);
        space.take(&dir, 100).unwrap();
        assert!(matches!(Space::new().take(&dir, u64::MAX / 2), Err(NoRoom::Disk { .. })));
        space.give_back(u64::MAX);
        assert_eq!(space.used(), 0);
    }

    #[test]
    fn a_reserve_is_kept_whatever_the_budget() {
        let (space, dir) = (Space::new(), std::env::temp_dir());
        space.look_at_disk(&dir, 1).unwrap();
        space.set_reserve(u64::MAX - 1);
        assert!(matches!(space.look_at_disk(&dir, 1), Err(NoRoom::Disk { .. })));
        assert!(matches!(space.take(&dir, 0), Err(NoRoom::Disk { .. })));
    }
}
