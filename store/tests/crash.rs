//! A store whose process is killed at any moment has every acknowledged batch, and none in part.
//!
//! A killed process leaves its writes to the operating system, so this holds a missing write or a wrong recovery against
//! us, not a missing sync: what a power cut does is modelled by `Memory`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use swarm_protocol::{Table, Write};
use swarm_store::{OpenError, Rocks, Store, Writer};

/// Set, to a directory, in the process that is killed.
const DIR: &str = "SWARM_CRASH_TEST_DIR";
/// Its random seed.
const SEED: &str = "SWARM_CRASH_TEST_SEED";
const ROUNDS: u64 = 25;
/// Batches on their way at once, so that groups form.
const IN_FLIGHT: usize = 16;

#[test]
fn a_killed_process_forgets_nothing_it_acknowledged() {
    let seed = std::env::var("SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().expect("SEED is a number"));
    println!("repeat with SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    for round in 0..ROUNDS {
        let mut victim = Victim::start(dir.path(), random.u64(..));
        let acknowledgements = random.usize(1..300);
        acknowledged.extend(victim.acknowledged().take(acknowledgements));
        std::thread::sleep(Duration::from_micros(random.u64(0..2_000))); // the moment of death, not a wait
        acknowledged.extend(victim.kill());
        let found = whole_batches(&Rocks::open(dir.path()).unwrap());
        for (number, len) in &acknowledged {
            assert_eq!(found.get(number), Some(len), "round {round}: batch {number} was acknowledged");
        }
    }
    assert!(acknowledged.len() as u64 >= ROUNDS);
    println!("{} batches were acknowledged in {ROUNDS} lives", acknowledged.len());
}

#[test]
fn a_store_in_use_by_another_process_is_locked_until_that_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut victim = Victim::start(dir.path(), 0);
    victim.acknowledged().next().expect("it lives and writes");
    let error = Rocks::open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error:?}");
    assert_eq!(error.to_string(), format!("`{}` is in use by another process", dir.path().display()));
    victim.kill();
    Rocks::open(dir.path()).unwrap();
}

/// Not a test: the process that is killed. Each batch is announced in its own first record; each acknowledgement is a line.
#[test]
fn victim() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let mut random = fastrand::Rng::with_seed(std::env::var(SEED).unwrap().parse().unwrap());
    let rocks = Rocks::open(Path::new(&dir)).unwrap();
    let next = whole_batches(&rocks).last_key_value().map_or(0, |(number, _)| number + 1);
    let writer = Writer::start(rocks, Box::new(|_| {})).unwrap();
    let (answer, answered) = mpsc::sync_channel(IN_FLIGHT);
    for number in next.. {
        if number >= next + IN_FLIGHT as u64 {
            answered.recv().unwrap();
        }
        let len = random.u32(1..20);
        let answer = answer.clone();
        let done = Box::new(move |result: Result<(), _>| {
            result.unwrap();
            println!("acknowledged {number} {len}");
            answer.send(()).unwrap();
        });
        writer.write(batch(number, len, &mut random), done).unwrap();
    }
}

/// `len` records over two tables that name the batch, their place in it, and its length.
fn batch(number: u64, len: u32, random: &mut fastrand::Rng) -> Vec<Write> {
    let tables = [Table::Jobs, Table::Segments];
    let write = |place: u32| {
        let key = [&number.to_be_bytes()[..], &place.to_be_bytes()].concat();
        let mut value = len.to_be_bytes().to_vec();
        value.resize(4 + random.usize(0..3_000), 7);
        Write::put(tables[place as usize % 2], key, value)
    };
    (0..len).map(write).collect()
}

/// Number → length of each batch that is there; fails when one is there in part.
fn whole_batches(rocks: &Rocks) -> BTreeMap<u64, u32> {
    let mut found: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
    for table in [Table::Jobs, Table::Segments] {
        let mut count = |key: &[u8], value: &[u8]| {
            let number = u64::from_be_bytes(key[..8].try_into().unwrap());
            let len = u32::from_be_bytes(value[..4].try_into().unwrap());
            found.entry(number).or_insert((len, 0)).1 += 1;
        };
        rocks.scan(table, b"", &mut count).unwrap();
    }
    found.iter().for_each(|(number, (len, there))| assert_eq!(len, there, "batch {number} is torn"));
    found.into_iter().map(|(number, (len, _))| (number, len)).collect()
}

struct Victim {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Victim {
    fn start(dir: &Path, seed: u64) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--nocapture"])
            .env(DIR, dir)
            .env(SEED, seed.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Number and length of each acknowledged batch, as they come; ends with the process.
    fn acknowledged(&mut self) -> impl Iterator<Item = (u64, u32)> {
        // A line may be cut by the death of its writer: what was not said whole was not said.
        self.lines.by_ref().map_while(Result::ok).filter_map(|line| {
            let (_, numbers) = line.split_once("acknowledged ")?;
            let (number, len) = numbers.split_once(' ')?;
            Some((number.parse().ok()?, len.parse().ok()?))
        })
    }

    /// Kills it (SIGKILL), and says what it had acknowledged and nobody had read yet.
    fn kill(&mut self) -> Vec<(u64, u32)> {
        self.child.kill().unwrap();
        let mut rest: Vec<_> = self.acknowledged().collect();
        self.child.wait().unwrap();
        rest.pop(); // the last line may be cut within a number
        rest
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // Both fail only when it was killed already, as it should have been.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
