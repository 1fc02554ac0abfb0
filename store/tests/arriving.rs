//! Blobs that come in any order, from any number of sources, and go on after a crash.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;

use swarm_protocol::Hash;
use swarm_store::{Arriving, BlobError, Blobs, GROUP_BYTES, Groups, encoded_bytes, groups_in};
use tempfile::TempDir;

#[test]
fn groups_come_in_any_order_and_make_the_blob() {
    for len in [1, GROUP_BYTES, GROUP_BYTES + 1, 5 * GROUP_BYTES, 7 * GROUP_BYTES + 99] {
        let (_there, source, hash, bytes) = holding(len);
        let (_here, blobs) = fresh();
        let arriving = blobs.arriving(hash, len).unwrap();
        for group in (0..groups_in(len)).rev() {
            let run = group..group + 1;
            let encoded = encode(&source, hash, &run);
            assert_eq!(encoded.len(), encoded_bytes(len, &run));
            assert!(Arriving::proves(hash, len, &run, &encoded));
            arriving.add(&run, &encoded).unwrap();
        }
        arriving.finish().unwrap();
        assert_eq!(blobs.read(hash, len).unwrap(), bytes);
        assert_eq!(encode(&blobs, hash, &(0..groups_in(len))), encode(&source, hash, &(0..groups_in(len))));
    }
}

#[test]
fn a_flipped_bit_anywhere_is_refused_and_changes_nothing() {
    let len = 4 * GROUP_BYTES + 5;
    let (_there, source, hash, _) = holding(len);
    let (_here, blobs) = fresh();
    let arriving = blobs.arriving(hash, len).unwrap();
    let run = 2..4;
    let encoded = encode(&source, hash, &run);
    for at in (0..encoded.len()).step_by(9973).chain([encoded.len() - 1]) {
        let mut wrong = encoded.clone();
        wrong[at] ^= 4;
        assert!(matches!(arriving.add(&run, &wrong), Err(BlobError::WrongPart { .. })), "byte {at}");
    }
    assert!(matches!(arriving.add(&(1..3), &encoded), Err(BlobError::WrongPart { .. })));
    assert!(matches!(arriving.add(&run, &encoded[1..]), Err(BlobError::WrongPart { .. })));
    assert!(arriving.here().is_clear());
    arriving.add(&run, &encoded).unwrap();
    assert_eq!(arriving.here().ones().collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn a_wrong_length_is_not_proven_by_the_last_group() {
    let len = 3 * GROUP_BYTES + 5;
    let (_there, source, hash, _) = holding(len);
    let last = 3..4;
    let encoded = encode(&source, hash, &last);
    assert!(Arriving::proves(hash, len, &last, &encoded));
    for wrong in [len - 1, len + 1, len + GROUP_BYTES, GROUP_BYTES, 1, 0] {
        let last = groups_in(wrong) - 1..groups_in(wrong);
        assert!(!Arriving::proves(hash, wrong, &last, &encoded), "{wrong}");
    }
}

#[test]
fn what_is_here_when_the_process_dies_is_here_afterwards() {
    let len = 9 * GROUP_BYTES + 1;
    let (_there, source, hash, bytes) = holding(len);
    let (here, blobs) = fresh();
    let arriving = blobs.arriving(hash, len).unwrap();
    for run in [9..10, 0..3, 6..7] {
        arriving.add(&run, &encode(&source, hash, &run)).unwrap();
    }
    std::mem::forget((arriving, blobs)); // as a killed process leaves them

    // And the disk has lost a part of it.
    let part = here.path().join("part").join(hash.to_hex());
    let mut damaged = fs::read(&part).unwrap();
    damaged[GROUP_BYTES as usize + 17] ^= 1;
    fs::write(&part, damaged).unwrap();

    let blobs = Blobs::open(here.path()).unwrap();
    assert_eq!(blobs.begun(hash), Some(len));
    let arriving = blobs.arriving(hash, len).unwrap();
    assert_eq!(arriving.here().ones().collect::<Vec<_>>(), [0, 2, 6, 9]);
    for run in [1..2, 3..6, 7..9] {
        arriving.add(&run, &encode(&source, hash, &run)).unwrap();
    }
    arriving.finish().unwrap();
    assert_eq!((blobs.read(hash, len).unwrap(), blobs.begun(hash)), (bytes, None));
}

#[test]
fn what_arrives_is_handed_on_before_it_is_whole() {
    let len = 4 * GROUP_BYTES;
    let (_there, source, hash, _) = holding(len);
    let (_here, blobs) = fresh();
    assert!(matches!(blobs.source(hash), Err(BlobError::Missing { .. })));
    let arriving = blobs.arriving(hash, len).unwrap();
    let encoded = encode(&source, hash, &(1..3));
    arriving.add(&(1..3), &encoded).unwrap();
    let mut half = blobs.source(hash).unwrap();
    assert_eq!(half.here().unwrap().ones().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(encode(&blobs, hash, &(1..3)), encoded);
    assert!(matches!(half.encode(&(0..2), &mut Vec::new()), Err(BlobError::Missing { .. })));

    // It goes on being handed out from where it was when it is whole.
    for run in [0..1, 3..4] {
        arriving.add(&run, &encode(&source, hash, &run)).unwrap();
    }
    arriving.finish().unwrap();
    let mut whole = Vec::new();
    half.encode(&(0..4), &mut whole).unwrap();
    assert_eq!(whole, encode(&source, hash, &(0..4)));
    assert!(blobs.source(hash).unwrap().here().is_none());
}

#[test]
fn a_tree_that_is_lost_or_damaged_is_made_anew_and_a_damaged_blob_is_not_handed_out() {
    let len = 6 * GROUP_BYTES;
    let (there, source, hash, bytes) = holding(len);
    let right = encode(&source, hash, &(2..4));
    let tree = there.path().join(&hash.to_hex()[..2]).join(format!("{}.tree", hash.to_hex()));
    let stored = fs::read(&tree).unwrap();
    fs::remove_file(&tree).unwrap();
    assert_eq!(encode(&source, hash, &(2..4)), right);
    assert_eq!(fs::read(&tree).unwrap(), stored);
    fs::write(&tree, vec![7; stored.len()]).unwrap();
    assert_eq!(encode(&source, hash, &(2..4)), right);
    assert_eq!(fs::read(&tree).unwrap(), stored);

    let mut damaged = bytes;
    damaged[5 * GROUP_BYTES as usize] ^= 1;
    fs::write(source.path(hash), damaged).unwrap();
    let mut open = source.source(hash).unwrap();
    assert_eq!(open.read(4).unwrap().len() as u64, GROUP_BYTES);
    assert!(matches!(open.read(5), Err(BlobError::Damaged { .. })));
    assert!(!source.contains(hash));
}

#[test]
fn what_is_in_memory_is_handed_out_as_what_is_read_and_checked_as_well() {
    let (_there, source, hash, mut bytes) = holding(3 * GROUP_BYTES);
    let right = encode(&source, hash, &(0..2));
    let open = source.source(hash).unwrap();
    let from_memory = |groups| {
        let mut encoded = vec![7];
        let is_there = open.encode_from_memory(&groups, &mut encoded);
        (is_there, encoded)
    };
    // Not every file system tells what it has in memory.
    let (is_there, encoded) = from_memory(0..2);
    assert_eq!(encoded, if is_there { [vec![7], right].concat() } else { vec![7] });

    bytes[0] ^= 1;
    fs::write(source.path(hash), bytes).unwrap();
    assert_eq!(from_memory(0..2), (false, vec![7]));
}

fn fresh() -> (TempDir, Blobs) {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path()).unwrap();
    (dir, blobs)
}

/// Blobs that have one of this length, with its name and bytes.
fn holding(len: u64) -> (TempDir, Blobs, Hash, Vec<u8>) {
    let (dir, blobs) = fresh();
    let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8 ^ (at / GROUP_BYTES) as u8).collect();
    let hash = blobs.put(&bytes).unwrap();
    (dir, blobs, hash, bytes)
}

fn encode(blobs: &Blobs, hash: Hash, groups: &Groups) -> Vec<u8> {
    let mut encoded = Vec::new();
    blobs.source(hash).unwrap().encode(groups, &mut encoded).unwrap();
    encoded
}
