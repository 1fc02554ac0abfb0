//! A store on a disk that is really full: a small file system in memory, which only root may mount.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use swarm_protocol::{Table, Write};
use swarm_store::{Blobs, OpenError, Rocks, Store, StoreError, Writer};
use tempfile::TempDir;

const SIZE: &str = "size=16m";
/// Long for anything but a hang.
const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn what_was_acknowledged_before_a_full_disk_is_there_after_it_and_so_is_what_came_later() {
    let Some(disk) = SmallDisk::mount() else { return };
    let dir = disk.0.path().join("db");
    let mut rocks = Rocks::open(&dir).unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        disk.fill();
        let refused = (0..1000).find_map(|number| {
            let key = format!("{round}-{number}");
            let batch = [Write::put(Table::Jobs, key.as_bytes(), vec![7; 20_000])];
            match rocks.commit(&batch) {
                Ok(()) => acknowledged.push(key),
                Err(error) => return Some((error, batch)),
            }
            None
        });
        let (error, batch) = refused.unwrap();
        assert!(matches!(error, StoreError::NoRoom { .. }), "{error:?}");
        // The store is closed, which may have given room back.
        disk.fill();
        assert!(matches!(rocks.commit(&batch), Err(StoreError::NoRoom { .. })));
        assert!(matches!(rocks.get(Table::Jobs, b"x"), Err(StoreError::NoRoom { .. })));
        disk.make_room();
        rocks.commit(&batch).unwrap();
        rocks.commit(&[Write::put(Table::Meta, format!("round {round}").as_bytes(), "over")]).unwrap();
        for key in &acknowledged {
            assert_eq!(rocks.get(Table::Jobs, key.as_bytes()).unwrap().map(|value| value.len()), Some(20_000), "{key}");
        }
        // What it takes is little, or the disk would be full without the filler.
        batches_go(&mut rocks, &acknowledged);
        acknowledged.clear();
    }
    drop(rocks);
    disk.fill();
    match Rocks::open(&dir) {
        Ok(_) | Err(OpenError::NoRoom { .. }) => {}
        Err(other) => panic!("{other:?}"),
    }
    disk.make_room();
    let rocks = Rocks::open(&dir).unwrap();
    for round in 0..3 {
        assert_eq!(rocks.get(Table::Meta, format!("round {round}").as_bytes()).unwrap(), Some(b"over".to_vec()));
    }
}

fn batches_go(rocks: &mut Rocks, keys: &[String]) {
    let batch: Vec<_> = keys.iter().map(|key| Write::remove(Table::Jobs, key.as_bytes())).collect();
    rocks.commit(&batch).unwrap();
}

#[test]
fn a_writer_waits_for_room_and_says_so() {
    let Some(disk) = SmallDisk::mount() else { return };
    let (tell, told) = mpsc::channel();
    let on_room = Box::new(move |why: Option<&StoreError>| tell.send(why.is_some()).unwrap());
    let writer = Writer::start(Rocks::open(&disk.0.path().join("db")).unwrap(), on_room).unwrap();
    disk.fill();
    let (answer, answered) = mpsc::channel();
    for number in 0..100_u8 {
        let answer = answer.clone();
        let batch = vec![Write::put(Table::Jobs, [number], vec![number; 100_000])];
        writer.write(batch, Box::new(move |result| answer.send(result).unwrap())).unwrap();
    }
    assert!(told.recv_timeout(DEADLINE).unwrap());
    disk.make_room();
    assert!(!told.recv_timeout(DEADLINE).unwrap());
    for _ in 0..100 {
        answered.recv_timeout(DEADLINE).unwrap().unwrap();
    }
}

#[test]
fn a_reserve_is_left_to_the_records() {
    let Some(disk) = SmallDisk::mount() else { return };
    let blobs = Blobs::open(&disk.0.path().join("blobs")).unwrap();
    blobs.set_reserve(15 << 20);
    assert!(blobs.put(&[7; 2 << 20]).is_err());
    blobs.set_reserve(4 << 20);
    blobs.put(&[7; 2 << 20]).unwrap();
    assert!(blobs.disk_has_room(1 << 20) && !blobs.disk_has_room(12 << 20));
}

/// Unmounted when dropped, also after a failure.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None` when this user may not.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(dir.path()).output();
        if mount.is_ok_and(|output| output.status.success()) {
            return Some(Self(dir));
        }
        // Not by println!, which the test harness keeps to itself when a test passes.
        io::stderr().write_all(b"skipped: only root may mount a small disk\n").unwrap();
        None
    }

    fn fill(&self) {
        let mut filler = File::create(self.filler()).unwrap();
        // In steps down to a byte, as a large write that does not fit writes nothing or a part.
        for piece in [1 << 16, 1 << 10, 1] {
            while filler.write(&vec![7; piece]).is_ok_and(|written| written > 0) {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> impl AsRef<Path> {
        self.0.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: after a failure there may still be open files in it.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}
