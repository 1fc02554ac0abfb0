//! Blobs are whole, verified and durable, or they are not there.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use swarm_protocol::Hash;
use swarm_store::{BlobError, Blobs, NoRoom};
use tempfile::TempDir;

#[test]
fn what_is_put_can_be_read_under_its_hash() {
    let (dir, blobs) = fresh();
    let hash = blobs.put(b"hello").unwrap();
    assert_eq!(hash, Hash::of(b"hello"));
    assert_eq!(blobs.put(b"hello").unwrap(), hash);
    assert_eq!(blobs.read(hash, 5).unwrap(), b"hello");
    assert_eq!((blobs.len(hash).unwrap(), blobs.verify(hash).unwrap()), (5, 5));
    assert_eq!(blobs.path(hash), dir.path().join(&hash.to_hex()[..2]).join(hash.to_hex()));

    let reopened = Blobs::open(dir.path()).unwrap();
    assert_eq!(reopened.read(hash, 5).unwrap(), b"hello");
}

#[test]
fn many_are_put_at_once() {
    let (_dir, blobs) = fresh();
    let texts: Vec<String> = (0..50).map(|n| format!("blob {n}")).collect();
    let hashes = blobs.put_all(texts.iter().map(|text| text.as_bytes())).unwrap();
    for (text, hash) in texts.iter().zip(&hashes) {
        assert_eq!(blobs.read(*hash, 100).unwrap(), text.as_bytes());
    }
    let large = blobs.put(&[7; 300_000]).unwrap();
    let all: BTreeSet<Hash> = hashes.into_iter().chain([large]).collect();
    assert_eq!(BTreeSet::from_iter(blobs.list().unwrap()), all);
}

#[test]
fn a_file_is_put_under_the_hash_of_its_bytes() {
    let (dir, blobs) = fresh();
    let bytes = [7; 300_000];
    let file = dir.path().join("file");
    fs::write(&file, bytes).unwrap();
    assert_eq!(blobs.put_file(&file).unwrap(), (Hash::of(&bytes), 300_000));
    assert_eq!(blobs.read(Hash::of(&bytes), 300_000).unwrap(), bytes);
    let missing = blobs.put_file(&dir.path().join("missing")).unwrap_err();
    assert!(matches!(missing, BlobError::Io { step: "read", .. }), "{missing:?}");
}

#[test]
fn a_blob_arrives_in_pieces() {
    let (dir, blobs) = fresh();
    let hash = Hash::of(b"hello");
    let mut receiver = blobs.receiver(hash, 5).unwrap();
    receiver.write(b"hel").unwrap();
    receiver.write(b"").unwrap();
    receiver.write(b"lo").unwrap();
    assert!(!blobs.contains(hash));
    receiver.finish().unwrap();
    assert_eq!(blobs.read(hash, 5).unwrap(), b"hello");
    assert_nothing_begun(dir.path());
}

#[test]
fn wrong_bytes_are_never_stored() {
    let (dir, blobs) = fresh();
    let expected = Hash::of(b"hello");
    let mut receiver = blobs.receiver(expected, 5).unwrap();
    receiver.write(b"hullo").unwrap();
    let error = receiver.finish().unwrap_err();
    assert!(matches!(error, BlobError::WrongHash { found, .. } if found == Hash::of(b"hullo")), "{error:?}");
    assert!(!blobs.contains(expected) && !blobs.contains(Hash::of(b"hullo")));
    assert_nothing_begun(dir.path());
}

#[test]
fn more_bytes_than_allowed_are_never_stored() {
    let (dir, blobs) = fresh();
    let hash = Hash::of(b"hello");
    let mut receiver = blobs.receiver(hash, 4).unwrap();
    assert!(matches!(receiver.write(b"hello").unwrap_err(), BlobError::TooLong { max: 4, .. }));
    drop(receiver);
    assert!(!blobs.contains(hash));
    assert_nothing_begun(dir.path());
}

#[test]
fn a_missing_blob_is_missing() {
    let (_dir, blobs) = fresh();
    let hash = Hash::of(b"hello");
    assert!(!blobs.contains(hash));
    assert!(matches!(blobs.read(hash, 5).unwrap_err(), BlobError::Missing { .. }));
    assert!(matches!(blobs.len(hash).unwrap_err(), BlobError::Missing { .. }));
    assert!(matches!(blobs.verify(hash).unwrap_err(), BlobError::Missing { .. }));
    assert!(matches!(blobs.file(hash).unwrap_err(), BlobError::Missing { .. }));
}

#[test]
fn a_longer_blob_than_the_reader_accepts_is_not_read() {
    let (_dir, blobs) = fresh();
    let hash = blobs.put(b"hello").unwrap();
    assert!(matches!(blobs.read(hash, 4).unwrap_err(), BlobError::TooLong { max: 4, .. }));
}

type Reader = fn(&Blobs, Hash) -> Result<(), BlobError>;

#[test]
fn a_damaged_blob_is_never_served_and_can_be_stored_again() {
    let damages: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes[2] ^= 1,
        |bytes| bytes.truncate(4),
        |bytes| bytes.truncate(0),
        |bytes| bytes.extend_from_slice(b"!"),
    ];
    let readers: [Reader; 3] = [
        |blobs, hash| blobs.read(hash, 99).map(drop),
        |blobs, hash| blobs.verify(hash).map(drop),
        |blobs, hash| handed_out(blobs, hash).map(drop),
    ];
    for damage in damages {
        for find in readers {
            let (dir, blobs) = fresh();
            let hash = blobs.put(b"hello").unwrap();
            let mut bytes = fs::read(blobs.path(hash)).unwrap();
            damage(&mut bytes);
            fs::write(blobs.path(hash), &bytes).unwrap();

            assert!(matches!(find(&blobs, hash).unwrap_err(), BlobError::Damaged { .. }));
            assert!(!blobs.contains(hash));
            assert_eq!(fs::read(dir.path().join("damaged").join(hash.to_hex())).unwrap(), bytes);
            blobs.put(b"hello").unwrap();
            assert_eq!(blobs.read(hash, 5).unwrap(), b"hello");
        }
    }
}

#[test]
fn storing_a_blob_again_heals_damage_that_nobody_found_yet() {
    let (_dir, blobs) = fresh();
    let hash = blobs.put(b"hello").unwrap();
    fs::write(blobs.path(hash), "hullo").unwrap();
    blobs.put(b"hello").unwrap();
    assert_eq!(blobs.read(hash, 5).unwrap(), b"hello");
}

#[test]
fn what_was_being_written_is_cleared_on_open() {
    let (dir, blobs) = fresh();
    let mut receiver = blobs.receiver(Hash::of(b"hello"), 5).unwrap();
    receiver.write(b"hel").unwrap();
    std::mem::forget(receiver); // as a killed process leaves it
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 1);
    Blobs::open(dir.path()).unwrap();
    assert_nothing_begun(dir.path());
}

#[test]
fn threads_may_store_the_same_blob_at_once() {
    let (dir, blobs) = fresh();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for n in 0..20_u32 {
                    let bytes = n.to_be_bytes();
                    let hash = blobs.put(&bytes).unwrap();
                    let mut receiver = blobs.receiver(hash, 4).unwrap();
                    receiver.write(&bytes).unwrap();
                    receiver.finish().unwrap();
                    assert_eq!(blobs.read(hash, 4).unwrap(), bytes);
                }
            });
        }
    });
    assert_nothing_begun(dir.path());
}

fn fresh() -> (TempDir, Blobs) {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path()).unwrap();
    (dir, blobs)
}

fn assert_nothing_begun(dir: &Path) {
    assert_eq!(fs::read_dir(dir.join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_blob_is_handed_out_in_pieces_and_a_damaged_one_never_whole() {
    let (_dir, blobs) = fresh();
    let bytes: Vec<u8> = (0..100_u8).collect();
    let hash = blobs.put(&bytes).unwrap();
    assert_eq!(handed_out(&blobs, hash).unwrap(), bytes);
    assert_eq!(handed_out(&blobs, blobs.put(b"").unwrap()).unwrap(), b"");

    fs::write(blobs.path(hash), [7; 100]).unwrap();
    assert!(matches!(handed_out(&blobs, hash), Err(BlobError::Damaged { .. })));
    assert!(!blobs.contains(hash));
}

/// Everything that comes, when it comes to an end.
fn handed_out(blobs: &Blobs, hash: Hash) -> Result<Vec<u8>, BlobError> {
    let mut source = blobs.source(hash)?;
    (0..source.groups()).map(|group| source.read(group)).collect::<Result<Vec<_>, _>>().map(|groups| groups.concat())
}

#[test]
fn a_broken_disk_is_told_once_and_a_full_one_is_not_broken() {
    let (dir, blobs) = fresh();
    let (tell, told) = std::sync::mpsc::channel();
    blobs.on_failure(move |sentence| tell.send(sentence).unwrap());
    let full = Path::new("/dev/full");
    if full.exists() {
        blobs.note("write", full, &fs::write(full, "x").unwrap_err());
    }
    let broken = || std::io::Error::from_raw_os_error(5);
    assert!(!blobs.has_failed());
    blobs.note("write", dir.path(), &broken());
    blobs.note("write", dir.path(), &broken());
    assert!(blobs.has_failed());
    let sentence = format!("write `{}`: Input/output error (os error 5)", dir.path().display());
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [sentence]);
}

#[test]
fn above_the_mark_of_its_budget_no_blob_is_taken_and_none_is_removed() {
    let (_dir, blobs) = fresh();
    let old = blobs.put(&[1; 50_000]).unwrap();
    blobs.set_budget(100_000).unwrap();
    assert_eq!(blobs.used(), 50_000);
    let refused = blobs.put(&[2; 50_000]).unwrap_err();
    let NoRoom::Budget { used: 50_000, budget: 100_000 } = no_room(&refused) else { panic!("{refused:?}") };
    no_room(&blobs.arriving(Hash::of(b"arriving"), 60_000).unwrap_err());
    let mut receiver = blobs.receiver(Hash::of(b"received"), 60_000).unwrap();
    receiver.write(&[3; 30_000]).unwrap();
    no_room(&receiver.write(&[3; 30_000]).unwrap_err());
    assert_eq!(blobs.used(), 80_000);
    drop(receiver);

    // What is here already takes no more room, and what fits is taken.
    blobs.put(&[1; 50_000]).unwrap();
    blobs.put(&[4; 30_000]).unwrap();
    assert_eq!((blobs.used(), blobs.read(old, 50_000).unwrap().len()), (80_000, 50_000));
    assert!(blobs.no_room().is_some());
    fs::remove_file(blobs.path(old)).unwrap();
    blobs.freed(50_000);
    blobs.put(&[5; 50_000]).unwrap();
}

fn no_room(error: &BlobError) -> NoRoom {
    let BlobError::NoRoom { why } = error else { panic!("{error:?}") };
    *why
}
