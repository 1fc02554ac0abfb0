//! Removing blobs that nobody needs, while others come and are claimed.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use swarm_protocol::Hash;
use swarm_store::Blobs;

/// As if it had been written a day ago.
fn age(blobs: &Blobs, hash: Hash) {
    let day = Duration::from_secs(24 * 3600);
    std::fs::File::open(blobs.path(hash)).unwrap().set_modified(SystemTime::now() - day).unwrap();
}

fn hour_ago() -> SystemTime {
    SystemTime::now() - Duration::from_secs(3600)
}

#[test]
fn what_is_old_goes_and_what_is_new_or_claimed_stays() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(&dir.path().join("blobs")).unwrap();
    let [old, claimed, again, new] = [b"old".as_slice(), b"claimed", b"again", b"new"].map(|it| blobs.put(it).unwrap());
    [old, claimed, again].into_iter().for_each(|hash| age(&blobs, hash));
    assert!(blobs.claim(claimed) && !blobs.claim(Hash::of(b"never")));
    blobs.put(b"again").unwrap();
    let removed = |hash| blobs.remove_unclaimed(hash, hour_ago()).unwrap();
    assert_eq!([old, claimed, again, new, Hash::of(b"never")].map(removed), [Some(3), None, None, None, None]);
    let left: Vec<_> = blobs.stored().unwrap().into_iter().map(|blob| blob.hash).collect();
    let mut expected = vec![claimed, again, new];
    expected.sort();
    assert_eq!(left, expected);
    assert!(!blobs.contains(old));
}

/// Whoever was told that a blob is here has it, however often it is collected in between.
#[test]
fn a_claim_and_a_sweep_never_both_succeed() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(&dir.path().join("blobs")).unwrap();
    let hash = blobs.put(b"wanted").unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                blobs.remove_unclaimed(hash, hour_ago()).unwrap();
            }
        });
        let (mut claimed, mut swept) = (0, 0);
        for _ in 0..300 {
            blobs.put(b"wanted").unwrap();
            // It may be gone before it is aged.
            let day = Duration::from_secs(24 * 3600);
            let aged = std::fs::File::open(blobs.path(hash)).and_then(|it| it.set_modified(SystemTime::now() - day));
            drop(aged);
            if blobs.claim(hash) {
                claimed += 1;
                assert_eq!(blobs.read(hash, 100).unwrap(), b"wanted");
            } else {
                swept += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(claimed + swept, 300);
    });
}
