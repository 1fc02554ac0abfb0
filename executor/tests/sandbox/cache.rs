//! Compiled code on disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use swarm_executor::{Engine, EngineConfig};
use swarm_protocol::Ending;

use crate::{Run, config};

fn engine(dir: &Path) -> Engine {
    Engine::new(EngineConfig { cache_dir: Some(dir.to_owned()), ..config() }).unwrap()
}

fn only_file(dir: &Path) -> PathBuf {
    let files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

fn runs(dir: &Path) {
    assert_eq!(Run::of("exits_7").finish_in(&engine(dir)).ending, Ending::Exited(7));
}

#[test]
fn a_restart_takes_the_code_that_was_compiled_before() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("code");
    runs(&dir);
    let file = only_file(&dir);
    let long_ago = SystemTime::UNIX_EPOCH;
    fs::File::open(&file).unwrap().set_modified(long_ago).unwrap();
    runs(&dir);
    assert_eq!(only_file(&dir).metadata().unwrap().modified().unwrap(), long_ago, "it was not written again");
}

#[test]
fn damaged_code_is_never_run_but_compiled_again() {
    let dir = tempfile::tempdir().unwrap();
    runs(dir.path());
    let whole = fs::read(only_file(dir.path())).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [&whole[..whole.len() - 1], &whole[..20], b"", &flipped] {
        fs::write(only_file(dir.path()), damaged).unwrap();
        runs(dir.path());
        assert_eq!(fs::read(only_file(dir.path())).unwrap().len(), whole.len(), "it was written again");
    }
}
