//! Every store keeps the same contract; and what only the one on a disk can show.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::mpsc;

use swarm_protocol::{Table, Write};
use swarm_store::{FORMAT, Memory, OpenError, Rocks, Store, StoreError, Writer};

/// The file that says how much was acknowledged.
const MARK: &str = "swarm.mark";

/// One test for each store and each promise.
macro_rules! every_store_keeps {
    ($($promise:ident),+ $(,)?) => {
        mod memory {
            $(#[test] fn $promise() { super::$promise(&mut swarm_store::Memory::new()); })+
        }
        mod rocks {
            $(#[test] fn $promise() {
                let dir = tempfile::tempdir().unwrap();
                super::$promise(&mut swarm_store::Rocks::open(dir.path()).unwrap());
            })+
        }
    };
}

every_store_keeps!(
    what_is_committed_is_there,
    writes_take_effect_in_order,
    tables_are_apart,
    a_scan_shows_a_prefix_in_key_order,
    any_bytes_are_keys_and_values,
    an_empty_batch_is_fine,
);

fn what_is_committed_is_there(store: &mut dyn Store) {
    assert_eq!(store.get(Table::Jobs, b"a").unwrap(), None);
    store.commit(&[put("a", "1"), put("b", "1")]).unwrap();
    store.commit(&[put("a", "2"), Write::remove(Table::Jobs, "b"), Write::remove(Table::Jobs, "never")]).unwrap();
    assert_eq!(store.get(Table::Jobs, b"a").unwrap(), Some(b"2".to_vec()));
    assert_eq!(store.get(Table::Jobs, b"b").unwrap(), None);
}

fn writes_take_effect_in_order(store: &mut dyn Store) {
    store.commit(&[put("a", "1"), Write::remove(Table::Jobs, "a"), put("a", "2")]).unwrap();
    store.commit(&[put("b", "1"), Write::remove(Table::Jobs, "b")]).unwrap();
    assert_eq!(scan(store, Table::Jobs, b""), [record(b"a", b"2")]);
}

fn tables_are_apart(store: &mut dyn Store) {
    let batch: Vec<_> = Table::ALL.iter().map(|table| Write::put(*table, "key", table.name())).collect();
    store.commit(&batch).unwrap();
    for table in Table::ALL {
        assert_eq!(store.get(table, b"key").unwrap(), Some(table.name().into()));
        assert_eq!(scan(store, table, b"k"), [record(b"key", table.name().as_bytes())]);
    }
}

fn a_scan_shows_a_prefix_in_key_order(store: &mut dyn Store) {
    store.commit(&[put("b2", ""), put("b", ""), put("c", ""), put("a", ""), put("b10", "")]).unwrap();
    let keys = |prefix| scan(store, Table::Jobs, prefix).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(keys(b"b"), [&b"b"[..], b"b10", b"b2"]);
    assert_eq!(keys(b"").len(), 5);
    assert_eq!(keys(b"d"), [b""; 0]);
}

fn any_bytes_are_keys_and_values(store: &mut dyn Store) {
    let long = vec![7; 1 << 20];
    let keys: [&[u8]; 4] = [b"", b"\0", b"\xff\xff", b"\xff\xff\xff"];
    let batch: Vec<_> = keys.iter().map(|key| Write::put(Table::Segments, *key, long.clone())).collect();
    store.commit(&batch).unwrap();
    assert_eq!(scan(store, Table::Segments, b""), keys.map(|key| record(key, &long)));
    assert_eq!(scan(store, Table::Segments, b"\xff\xff").len(), 2, "a prefix that has no upper bound");
}

fn an_empty_batch_is_fine(store: &mut dyn Store) {
    store.commit(&[]).unwrap();
}

#[test]
fn a_reopened_store_has_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut rocks = Rocks::open(dir.path()).unwrap();
    rocks.commit(&[put("a", "1"), Write::put(Table::Kad, "b", "2")]).unwrap();
    drop(rocks);
    let rocks = Rocks::open(dir.path()).unwrap();
    assert_eq!(scan(&rocks, Table::Jobs, b""), [record(b"a", b"1")]);
    assert_eq!(scan(&rocks, Table::Kad, b""), [record(b"b", b"2")]);
    assert_eq!(rocks.get(Table::Meta, b"format").unwrap(), Some(FORMAT.to_be_bytes().to_vec()));
}

#[test]
fn a_newer_format_is_refused_and_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut rocks = Rocks::open(dir.path()).unwrap();
    rocks.commit(&[Write::put(Table::Meta, "format", (FORMAT + 1).to_be_bytes())]).unwrap();
    drop(rocks);
    for _ in 0..2 {
        let error = Rocks::open(dir.path()).unwrap_err();
        assert!(matches!(error, OpenError::TooNew { .. }));
        assert_eq!(error.to_string(), "data is of format 2; this program reads up to 1");
    }
}

#[test]
fn a_store_that_is_open_already_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let first = Rocks::open(dir.path()).unwrap();
    assert!(matches!(Rocks::open(dir.path()).unwrap_err(), OpenError::Locked { dir: found } if found == dir.path()));
    drop(first);
    Rocks::open(dir.path()).unwrap();
}

#[test]
fn a_directory_that_cannot_be_is_unwritable() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert_unwritable(&file.join("below"));
    assert_unwritable(&file);
}

#[test]
fn a_directory_without_permission_is_unwritable() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o500)).unwrap();
    if fs::write(dir.path().join("probe"), "").is_ok() {
        // Not by println!, which the test harness keeps to itself when a test passes.
        writeln!(io::stderr(), "skipped: this user may write everywhere, so no directory is unwritable").unwrap();
        return;
    }
    assert_unwritable(dir.path());
}

#[test]
fn damage_in_a_table_is_an_error_and_never_wrong_data() {
    let dir = tempfile::tempdir().unwrap();
    let mut rocks = Rocks::open(dir.path()).unwrap();
    let batch: Vec<_> = (0..1_000_u32).map(|n| Write::put(Table::Jobs, n.to_be_bytes(), [7; 100])).collect();
    rocks.commit(&batch).unwrap();
    drop(rocks);
    drop(Rocks::open(dir.path()).unwrap()); // replays the log into a table file
    let tables = files_ending(dir.path(), ".sst");
    assert!(!tables.is_empty());
    tables.iter().for_each(|table| flip_byte(table, 100));

    match Rocks::open(dir.path()) {
        Ok(rocks) => {
            let error = rocks.scan(Table::Jobs, b"", &mut |_, _| {}).unwrap_err();
            assert!(matches!(error, StoreError::Damaged { table: "jobs", .. }), "{error:?}");
        }
        Err(error) => assert!(error.is_damage(), "{error:?}"),
    }
}

#[test]
fn damage_in_the_log_before_its_end_is_refused_rather_than_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let mut rocks = Rocks::open(dir.path()).unwrap();
    for n in 0..100_u32 {
        rocks.commit(&[Write::put(Table::Jobs, n.to_be_bytes(), [7; 1_000])]).unwrap();
    }
    drop(rocks);
    flip_byte(&log(dir.path()), 50_000);

    assert_refused_and_left_alone(dir.path());
}

#[test]
fn a_torn_end_of_the_log_that_was_never_acknowledged_costs_the_torn_batch_alone() {
    let (dir, mark_before) = ten_batches();
    cut_log(dir.path(), 20);
    fs::write(dir.path().join(MARK), mark_before).unwrap(); // as if the process had died in the middle of the last batch
    let rocks = Rocks::open(dir.path()).unwrap();
    assert_eq!(scan(&rocks, Table::Jobs, b"").len(), 90);
}

#[test]
fn an_end_of_the_log_that_was_acknowledged_is_missed() {
    for cut in [20, 1_000, 5_000] {
        let (dir, _) = ten_batches();
        cut_log(dir.path(), cut);
        assert_refused_and_left_alone(dir.path());
    }
}

#[test]
fn a_hole_of_zeroes_in_the_log_is_missed() {
    let (dir, _) = ten_batches();
    let log = log(dir.path());
    let mut bytes = fs::read(&log).unwrap();
    let last_batch = bytes.len() - 1_200;
    bytes[1_000..last_batch].fill(0);
    fs::write(log, bytes).unwrap();
    assert_refused_and_left_alone(dir.path());
}

#[test]
fn files_that_vanished_are_missed() {
    for vanished in [&["log"][..], &["CURRENT"], &["CURRENT", "log"]] {
        let (dir, _) = ten_batches();
        for name in vanished {
            fs::remove_file(if *name == "log" { log(dir.path()) } else { dir.path().join(name) }).unwrap();
        }
        assert_refused_and_left_alone(dir.path());
    }
}

#[test]
fn a_list_of_files_that_was_cut_off_is_missed() {
    let (dir, _) = ten_batches();
    // Replays the log into a table file, and goes on with a log that says nothing of it.
    Rocks::open(dir.path()).unwrap().commit(&[put("later", "1")]).unwrap();
    let pointer = fs::read_to_string(dir.path().join("CURRENT")).unwrap();
    let list = dir.path().join(pointer.trim_end());
    let whole = fs::read(&list).unwrap();
    for cut in (1..whole.len()).step_by(31).chain([whole.len()]) {
        fs::write(&list, &whole[..whole.len() - cut]).unwrap();
        assert_refused_and_left_alone(dir.path());
    }
    fs::write(&list, &whole).unwrap();
    assert_eq!(scan(&Rocks::open(dir.path()).unwrap(), Table::Jobs, b"").len(), 101);
}

#[test]
fn a_damaged_or_lost_mark_costs_nothing_but_its_own_word() {
    for harm in [|path: &Path| fs::remove_file(path).unwrap(), |path: &Path| flip_byte(path, 3)] {
        let (dir, _) = ten_batches();
        harm(&dir.path().join(MARK));
        assert_eq!(scan(&Rocks::open(dir.path()).unwrap(), Table::Jobs, b"").len(), 100);
        cut_log(dir.path(), 0);
        Rocks::open(dir.path()).unwrap();
    }
}

#[test]
fn a_writer_answers_everything_in_order_before_it_closes() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::start(Rocks::open(dir.path()).unwrap(), Box::new(|_| {})).unwrap();
    let (answers, answered) = mpsc::channel();
    for n in 0..100_u8 {
        let answers = answers.clone();
        let done = Box::new(move |result| answers.send((n, result)).unwrap());
        let batch = vec![Write::put(Table::Jobs, [n], [n])];
        if n % 3 == 0 { writer.write_unsynced(batch, done).unwrap() } else { writer.write(batch, done).unwrap() }
    }
    writer.close();
    drop(answers);
    let order: Vec<u8> = answered.iter().map(|(n, result)| result.map(|()| n).unwrap()).collect();
    assert_eq!(order, (0..100).collect::<Vec<_>>());
    assert_eq!(scan(&Rocks::open(dir.path()).unwrap(), Table::Jobs, b"").len(), 100);
}

#[test]
fn after_the_first_error_a_writer_refuses_everything() {
    let writer = Writer::start(Memory::failing_after(1), Box::new(|_| {})).unwrap();
    let write = |key: &str| {
        let (answer, answered) = mpsc::channel();
        writer.write(vec![put(key, "1")], Box::new(move |result| answer.send(result).unwrap())).unwrap();
        answered.recv().unwrap()
    };
    write("a").unwrap();
    assert!(matches!(write("b").unwrap_err(), StoreError::Commit { .. }));
    assert!(matches!(write("c").unwrap_err(), StoreError::Stopped));
    assert!(matches!(write("d").unwrap_err(), StoreError::Stopped));
}

fn put(key: &str, value: &str) -> Write {
    Write::put(Table::Jobs, key, value)
}

fn record(key: &[u8], value: &[u8]) -> (Vec<u8>, Vec<u8>) {
    (key.to_vec(), value.to_vec())
}

fn scan(store: &dyn Store, table: Table, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    store.scan(table, prefix, &mut |key, value| found.push(record(key, value))).unwrap();
    found
}

fn assert_unwritable(dir: &Path) {
    let error = Rocks::open(dir).unwrap_err();
    assert!(matches!(error, OpenError::Unwritable { .. }), "{error:?}");
    assert_eq!(error.to_string(), format!("`{}` cannot be written to", dir.display()));
}

/// Refused twice: the first refusal changed nothing.
fn assert_refused_and_left_alone(dir: &Path) {
    for _ in 0..2 {
        let error = Rocks::open(dir).unwrap_err();
        assert!(error.is_damage(), "{error:?}");
        assert!(error.to_string().contains(&dir.display().to_string()), "{error}");
    }
}

/// A store of ten batches of ten records in its log, and its mark before the last of them.
fn ten_batches() -> (tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let mut rocks = Rocks::open(dir.path()).unwrap();
    let mut mark_before = Vec::new();
    for n in 0..10 {
        let batch: Vec<_> = (0..10).map(|k| Write::put(Table::Jobs, [n, k], [7; 100])).collect();
        mark_before = fs::read(dir.path().join(MARK)).unwrap();
        rocks.commit(&batch).unwrap();
    }
    (dir, mark_before)
}

/// The log with the most in it.
fn log(dir: &Path) -> std::path::PathBuf {
    files_ending(dir, ".log").into_iter().max_by_key(|log| fs::metadata(log).unwrap().len()).unwrap()
}

fn cut_log(dir: &Path, bytes: u64) {
    let file = fs::File::options().write(true).open(log(dir)).unwrap();
    file.set_len(file.metadata().unwrap().len() - bytes).unwrap();
}

fn files_ending(dir: &Path, end: &str) -> Vec<std::path::PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_str().unwrap().ends_with(end)).collect()
}

fn flip_byte(path: &Path, position: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[position] ^= 1;
    fs::write(path, bytes).unwrap();
}
