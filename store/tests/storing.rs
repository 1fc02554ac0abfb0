//! What storing costs as files and in RocksDB, by size: the measurements behind decision 0018. Not a test of anything:
//! `cargo test --release --workspace --test storing -- --ignored --nocapture`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::time::{Duration, Instant};

use swarm_protocol::{Hash, Table, Write};
use swarm_store::{Blobs, Rocks, Store};

/// Sizes, and how many of each.
const SIZES: [(usize, usize); 5] = [(1 << 10, 400), (16 << 10, 400), (128 << 10, 200), (1 << 20, 60), (64 << 20, 2)];
/// Blobs of one sync, when there are many.
const BATCH: usize = 100;

#[test]
#[ignore = "it measures and asserts nothing"]
fn storing_is_measured() {
    for (len, count) in SIZES {
        let blobs: Vec<Vec<u8>> = (0..count).map(|_| random(len)).collect();
        let files = files(&blobs);
        let rocks = rocks(&blobs);
        for (kind, times) in [("files", files), ("rocksdb", rocks)] {
            let shown = times.map(|time| format!("{:.1} µs", time.as_secs_f64() * 1e6 / count as f64));
            println!("{len:>10} {kind:>10} each {:>14}  together {:>14}  read {:>14}", shown[0], shown[1], shown[2]);
        }
    }
}

/// Each with a sync of its own, all with few, and reading them with the check of their names.
fn files(blobs: &[Vec<u8>]) -> [Duration; 3] {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (each, together) = (Blobs::open(one.path()).unwrap(), Blobs::open(two.path()).unwrap());
    let mut hashes = Vec::new();
    let put = time(|| hashes.extend(blobs.iter().map(|bytes| each.put(bytes).unwrap())));
    let batches = time(|| {
        blobs.chunks(BATCH).for_each(|batch| drop(together.put_all(batch.iter().map(Vec::as_slice)).unwrap()));
    });
    let read = time(|| hashes.iter().for_each(|hash| assert!(!each.read(*hash, u64::MAX).unwrap().is_empty())));
    [put, batches, read]
}

fn rocks(blobs: &[Vec<u8>]) -> [Duration; 3] {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut each, mut together) = (Rocks::open(one.path()).unwrap(), Rocks::open(two.path()).unwrap());
    let write = |bytes: &Vec<u8>| Write::put(Table::Kad, *Hash::of(bytes).as_bytes(), bytes.clone());
    let put = time(|| blobs.iter().for_each(|bytes| each.commit(&[write(bytes)]).unwrap()));
    let batches = time(|| {
        blobs.chunks(BATCH).for_each(|batch| together.commit(&batch.iter().map(write).collect::<Vec<_>>()).unwrap());
    });
    let keys: Vec<Hash> = blobs.iter().map(|bytes| Hash::of(bytes)).collect();
    let read = time(|| {
        for key in &keys {
            let bytes = each.get(Table::Kad, key.as_bytes()).unwrap().unwrap();
            assert_eq!(Hash::of(&bytes), *key);
        }
    });
    [put, batches, read]
}

fn time(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn random(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::fill(&mut bytes);
    bytes
}
