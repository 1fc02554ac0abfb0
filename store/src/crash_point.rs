//! Named moments round every durable write at which a test can make the process die.
//!
//! Always true: nothing happens unless `SWARM_CRASH_POINT=NAME:COUNT` is in the environment when the first point is passed;
//! then the process aborts when that point is passed for the COUNT-th time. Unarmed, a point costs one relaxed load.
//!
//! Elsewhere: `simulation` walks through all of them with real nodes, and fails when one is never reached.

use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// `NAME:COUNT`, both required.
pub const CRASH_POINT_VARIABLE: &str = "SWARM_CRASH_POINT";

/// Nobody has looked at the environment yet.
const UNKNOWN: u8 = 0;
const OFF: u8 = 1;
const ARMED: u8 = 2;

// One process dies once, so what is armed belongs to the process.
static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);
static ARMED_WITH: OnceLock<(CrashPoint, AtomicU64)> = OnceLock::new();

/// A moment before or after a durable write, in the order in which a new node meets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CrashPoint {
    /// The store's directory is there; its engine is not opened yet.
    StoreUnopened,
    /// The engine is open: a new one is made, an old one's log replayed.
    StoreOpened,
    /// The stored format is there.
    FormatStored,
    /// The new file that says how much was acknowledged is written and synced, its name is not.
    MarkNamed,
    /// A batch of records is about to be written.
    BatchUnwritten,
    /// It is written and synced.
    BatchSynced,
    /// It is marked as acknowledged, which nobody has been told yet.
    BatchMarked,
    /// The file of a new identity is written and synced, without its name.
    IdentityUnnamed,
    /// It has its name, which is not synced.
    IdentityNamed,
    /// Its name is synced.
    IdentityDurable,
    /// A blob's file is complete and not synced.
    BlobUnsynced,
    /// It is synced and has no name.
    BlobUnnamed,
    /// It has its name, which is not synced.
    BlobNamed,
    /// Its name is synced.
    BlobDurable,
    /// A damaged blob is about to be moved aside.
    DamagedFound,
    /// It was.
    DamagedAside,
}

impl CrashPoint {
    /// Every point.
    pub const ALL: [Self; 16] = [
        Self::StoreUnopened,
        Self::StoreOpened,
        Self::FormatStored,
        Self::MarkNamed,
        Self::BatchUnwritten,
        Self::BatchSynced,
        Self::BatchMarked,
        Self::IdentityUnnamed,
        Self::IdentityNamed,
        Self::IdentityDurable,
        Self::BlobUnsynced,
        Self::BlobUnnamed,
        Self::BlobNamed,
        Self::BlobDurable,
        Self::DamagedFound,
        Self::DamagedAside,
    ];

    /// Its name in the environment.
    pub const fn name(self) -> &'static str {
        match self {
            Self::StoreUnopened => "store-unopened",
            Self::StoreOpened => "store-opened",
            Self::FormatStored => "format-stored",
            Self::MarkNamed => "mark-named",
            Self::BatchUnwritten => "batch-unwritten",
            Self::BatchSynced => "batch-synced",
            Self::BatchMarked => "batch-marked",
            Self::IdentityUnnamed => "identity-unnamed",
            Self::IdentityNamed => "identity-named",
            Self::IdentityDurable => "identity-durable",
            Self::BlobUnsynced => "blob-unsynced",
            Self::BlobUnnamed => "blob-unnamed",
            Self::BlobNamed => "blob-named",
            Self::BlobDurable => "blob-durable",
            Self::DamagedFound => "damaged-found",
            Self::DamagedAside => "damaged-aside",
        }
    }

    /// Passes the point; does not return when it is the one that the process is to die at.
    #[inline]
    pub fn pass(self) {
        if STATE.load(Ordering::Relaxed) != OFF {
            self.pass_watched();
        }
    }

    #[cold]
    fn pass_watched(self) {
        if STATE.load(Ordering::Relaxed) == UNKNOWN {
            arm();
        }
        // The `OnceLock` is set before the state says so, and by all who come first at once, to the same.
        let Some((point, left)) = ARMED_WITH.get() else { return };
        if *point == self && left.fetch_sub(1, Ordering::Relaxed) == 1 {
            eprintln!("crash point {}: aborting, as asked for by {CRASH_POINT_VARIABLE}", self.name());
            process::abort();
        }
    }
}

fn arm() {
    let Ok(text) = std::env::var(CRASH_POINT_VARIABLE) else { return STATE.store(OFF, Ordering::Relaxed) };
    let Some(armed) = parse(&text) else {
        eprintln!("error: {CRASH_POINT_VARIABLE}=`{text}` is not NAME:COUNT with the name of a crash point");
        process::exit(2);
    };
    ARMED_WITH.get_or_init(|| armed);
    STATE.store(ARMED, Ordering::Release);
}

fn parse(text: &str) -> Option<(CrashPoint, AtomicU64)> {
    let (name, count) = text.split_once(':')?;
    let point = CrashPoint::ALL.into_iter().find(|point| point.name() == name)?;
    let count: u64 = count.parse().ok().filter(|count| *count > 0)?;
    Some((point, AtomicU64::new(count)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_point_has_a_name_of_its_own_that_arms_it() {
        let names: BTreeSet<_> = CrashPoint::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), CrashPoint::ALL.len());
        for point in CrashPoint::ALL {
            let (armed, count) = parse(&format!("{}:3", point.name())).unwrap();
            assert_eq!((armed, count.into_inner()), (point, 3));
        }
        assert!(
            ["", "batch-synced", "batch-synced:0", "batch-synced:x", "nothing:1"].iter().all(|it| parse(it).is_none())
        );
    }
}
