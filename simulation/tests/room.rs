//! Nodes whose disk gets full: a small file system in memory, which only root may mount. What has no room is refused or waits,
//! the node stays up, goes on when there is room, and nothing that was acknowledged is lost.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use swarm_simulation::cluster::{Cluster, DEADLINE, Node, Output, find_swarm, wait_until};
use swarm_simulation::damage::{Served, Shape, Work, served};
use tempfile::TempDir;

/// Room for a node, its log of records and some small jobs. A sixteenth of it is the reserve.
const SMALL_DISK: &str = "size=64m";
/// Less than the reserve.
const NEARLY_FULL: usize = 512 << 10;
/// Tasks whose results are blobs, and tasks whose results are in the records.
const BLOBS: Shape = Shape { name: "blobs", tasks: 6, rounds: 10_000, sign: '\n', blobs: true };
const RECORDS: Shape = Shape { name: "records", tasks: 6, rounds: 10_000, sign: '\n', blobs: false };
/// Tasks that print so much that their records fill the disk, and more of them than any machine ends during a test.
const TALKATIVE: Shape = Shape { name: "talkative", tasks: 4_000_000, rounds: 250_000, sign: '\n', blobs: false };
const PRINTED_BYTES: usize = 900;

#[test]
fn what_is_put_fetched_or_submitted_without_room_is_refused() {
    let _turn = my_turn();
    let Some(mut stage) = Stage::start(2) else { return };
    let (here, there) = (stage.file(7, 300_000), stage.file(8, 300_000));
    let name = stage.put(1, &there);
    let mut jobs = vec![stage.submit(BLOBS, 0)];

    stage.disk.fill(0);
    let put = stage.cli(&["blob", "put", here.to_str().unwrap()]);
    assert_refused(&put, "there is no room for more blobs: the disk has");
    let get = stage.cli(&["blob", "get", &name, stage.files.path().join("copy").to_str().unwrap()]);
    assert_refused(&get, "cannot be stored here: there is no room for more blobs");
    for seed in 1..4 {
        let submit = stage.cli(&["submit", work(&stage.files, BLOBS, seed).job().to_str().unwrap()]);
        assert_refused(&submit, "there is no room for more blobs");
    }
    assert!(stage.node().status().unwrap().takes_no_blobs.is_some());

    stage.disk.make_room();
    stage.cli(&["blob", "get", &name, stage.files.path().join("copy").to_str().unwrap()]).good().unwrap();
    assert_eq!(fs::read(stage.files.path().join("copy")).unwrap(), fs::read(&there).unwrap());
    stage.put(0, &here);
    jobs.push(stage.submit(BLOBS, 5));
    stage.ends_well(&jobs);
}

#[test]
fn without_room_modules_are_compiled_all_the_same_and_outputs_wait() {
    let _turn = my_turn();
    let Some(mut stage) = Stage::start(1) else { return };
    let mut jobs = vec![stage.submit(BLOBS, 0), stage.submit(RECORDS, 0)];
    stage.ends_well(&jobs);

    stage.disk.fill(NEARLY_FULL);
    stage.cluster.node_mut(0).kill();
    fs::remove_dir_all(stage.node().dir().join("cache")).unwrap();
    stage.cluster.node_mut(0).start().unwrap();
    let compiled = stage.submit(RECORDS, 0);
    stage.wait_right(&compiled);
    let cached = fs::read_dir(stage.node().dir().join("cache")).unwrap().count();
    assert_eq!(cached, 0, "compiled code takes none of the reserve");
    let waits = stage.submit(BLOBS, 0);
    wait_until("a task", DEADLINE, || Ok((stage.node().status()?.slots_busy > 0).then_some(()))).unwrap();
    assert_eq!(stage.node().show(&waits.0).unwrap().done, 0);

    stage.disk.make_room();
    jobs.extend([compiled, waits]);
    stage.ends_well(&jobs);
}

#[test]
fn without_room_for_records_a_node_waits_and_loses_nothing_that_it_acknowledged() {
    let _turn = my_turn();
    let Some(mut stage) = Stage::start(1) else { return };
    let jobs = vec![stage.submit(BLOBS, 0)];
    stage.ends_well(&jobs);
    let talkative = stage.node().submit(&talkative(stage.files.path())).unwrap();

    for dies in [false, true] {
        stage.disk.fill(0);
        wait_until("records that wait", DEADLINE * 2, || {
            // What a closed log gives back is taken, too.
            stage.disk.fill(0);
            Ok(stage.node().status()?.waits_for_room.map(drop))
        })
        .unwrap();
        let submit = stage.cli(&["submit", work(&stage.files, RECORDS, 1).job().to_str().unwrap()]);
        assert_eq!(submit.code, Some(1), "{submit:?}");
        let list = stage.cli(&["ls"]);
        assert_refused(&list, "this node can remember nothing now: the disk has no room for records");
        stage.cluster.node_mut(0).check_alive().unwrap();
        if dies {
            stage.cluster.node_mut(0).kill();
        }
        stage.disk.make_room();
        if dies {
            stage.cluster.node_mut(0).start().unwrap();
        }
        wait_until("room", DEADLINE, || Ok(stage.node().status()?.waits_for_room.is_none().then_some(()))).unwrap();
        stage.wait_right(&jobs[0]);
    }
    let shown = stage.node().show(&talkative).unwrap();
    assert!(shown.done > 0 && shown.failed == 0 && shown.state == "running", "{shown:?}");
    stage.cli(&["cancel", &talkative]).good().unwrap();
    let last = stage.submit(BLOBS, 6);
    stage.ends_well(&[jobs[0].clone(), last]);
}

/// Tests take turns: several swarms at once would only wait for each other's processors.
fn my_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn assert_refused(output: &Output, words: &str) {
    let lines = output.stderr.lines().count();
    assert!(output.code == Some(1) && output.stderr.contains(words) && lines <= 2, "{output:?}");
}

fn work(files: &TempDir, shape: Shape, seed: u64) -> Work {
    Work::write(&files.path().join(seed.to_string()), shape, seed).unwrap()
}

/// A job of tasks that each print their number and a long text.
fn talkative(dir: &Path) -> PathBuf {
    let job = Work::write(dir, TALKATIVE, 0).unwrap().job();
    let text: String = (0..PRINTED_BYTES).map(|_| fastrand::alphanumeric()).collect();
    let terse = fs::read_to_string(&job).unwrap();
    fs::write(&job, terse.replace("{{ index }}", &format!("{{{{ index }}}} {text}"))).unwrap();
    job
}

/// A job, and what it must leave.
type Submitted = (String, Work);

/// Nodes, of which the first has a small disk.
struct Stage {
    cluster: Cluster,
    disk: SmallDisk,
    files: TempDir,
}

impl Stage {
    /// `None` when this user may not mount a disk.
    fn start(nodes: usize) -> Option<Self> {
        let mut cluster = Cluster::empty(&find_swarm(None).unwrap(), 1).unwrap();
        let disk = SmallDisk::mount(&cluster.add().dir())?;
        for _ in 1..nodes {
            cluster.add();
        }
        cluster.start_all().unwrap();
        cluster.wait_members(nodes, DEADLINE).unwrap();
        Some(Self { cluster, disk, files: tempfile::tempdir().unwrap() })
    }

    /// The one with the small disk.
    fn node(&self) -> &Node {
        self.cluster.node(0)
    }

    fn cli(&self, args: &[&str]) -> Output {
        self.node().cli(args).unwrap()
    }

    fn file(&self, seed: u64, len: usize) -> PathBuf {
        let path = self.files.path().join(format!("file-{seed}"));
        let mut bytes = vec![0; len];
        fastrand::Rng::with_seed(seed).fill(&mut bytes);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn put(&self, node: usize, file: &Path) -> String {
        let put = self.cluster.node(node).cli(&["blob", "put", file.to_str().unwrap()]).unwrap();
        String::from_utf8(put.good().unwrap().stdout).unwrap().trim().to_owned()
    }

    fn submit(&self, shape: Shape, seed: u64) -> Submitted {
        let work = work(&self.files, shape, seed);
        let job = wait_until("a submit", DEADLINE, || self.node().submit(&work.job()).map(Some)).unwrap();
        (job, work)
    }

    /// Waits until the node has the job, finished, with every byte right.
    fn wait_right(&self, (job, work): &Submitted) {
        wait_until(&format!("{job} as it must be"), DEADLINE, || {
            let is_done = self.node().show(job)?.state == "done";
            Ok((is_done && matches!(served(self.node(), job, work)?, Served::Right)).then_some(()))
        })
        .unwrap();
    }

    fn ends_well(&mut self, jobs: &[Submitted]) {
        jobs.iter().for_each(|job| self.wait_right(job));
        self.cluster.node_mut(0).check_alive().unwrap();
        assert_eq!(self.cluster.panics(), 0);
    }
}

/// Unmounted when dropped, also after a failure.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` when this user may not.
    fn mount(dir: &Path) -> Option<Self> {
        fs::create_dir_all(dir).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", SMALL_DISK, "tmpfs"]).arg(dir).output();
        if mount.is_ok_and(|output| output.status.success()) {
            return Some(Self(dir.to_owned()));
        }
        // Not by println!, which the test harness keeps to itself when a test passes.
        io::stderr().write_all(b"skipped: only root may mount a small disk\n").unwrap();
        None
    }

    /// Takes what is free but for so many bytes.
    fn fill(&self, but: usize) {
        let mut filler = fs::File::options().create(true).append(true).open(self.filler()).unwrap();
        // In steps down to a byte, as a large write that does not fit writes nothing or a part.
        for piece in [1 << 16, 1 << 10, 1] {
            while filler.write(&vec![7; piece]).is_ok_and(|written| written > 0) {}
        }
        let len = filler.metadata().unwrap().len();
        filler.set_len(len.saturating_sub(but as u64)).unwrap();
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the node may still have files in it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
