//! Compiled code on disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use swarm_executor::{Engine, EngineConfig};
use swarm_protocol::{Ending, Hash};

use crate::{Run, config, prepare, run_module, wasm};

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
    let (long_ago, created) = (SystemTime::UNIX_EPOCH, file.metadata().unwrap().created().ok());
    fs::File::open(&file).unwrap().set_modified(long_ago).unwrap();
    runs(&dir);
    let again = only_file(&dir);
    assert_eq!(again.metadata().unwrap().created().ok(), created, "it was not written again");
    assert!(again.metadata().unwrap().modified().unwrap() > long_ago, "it was noted as used");
}

#[test]
fn what_was_not_used_for_longest_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let all = engine(dir.path());
    let files = || -> Vec<_> { fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect() };
    let mut by_guest = Vec::new();
    for guest in ["exits_7", "returns", "echo"] {
        let before = files();
        prepare(&all, guest);
        let new: Vec<_> = files().into_iter().filter(|file| !before.contains(file)).collect();
        by_guest.push(new[0].clone());
    }
    for (age, file) in [3, 1, 2].into_iter().zip(&by_guest) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 - age);
        fs::File::open(file).unwrap().set_modified(time).unwrap();
    }
    let used: u64 = files().iter().map(|file| file.metadata().unwrap().len()).sum();
    // One byte too few for all: a restart with this limit removes what is oldest, and no more.
    Engine::new(EngineConfig { cache_dir: Some(dir.path().into()), cache_bytes_max: used - 1, ..config() }).unwrap();
    assert_eq!(by_guest.iter().map(|file| file.exists()).collect::<Vec<_>>(), [false, true, true]);
}

#[test]
fn a_hundred_askers_compile_a_module_once() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path());
    let bytes = wasm("returns");
    let hash = Hash::of(&bytes);
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| engine.prepare(hash, &bytes).unwrap());
        }
    });
    assert_eq!(engine.compiled(), 1);
    only_file(dir.path());
}

#[test]
fn a_module_of_fifty_megabytes_runs() {
    let bytes = large_module(50 << 20);
    assert!(bytes.len() > 50 << 20, "{}", bytes.len());
    let dir = tempfile::tempdir().unwrap();
    let run = |engine: &Engine| {
        let module = engine.prepare(Hash::of(&bytes), &bytes).unwrap();
        run_module(&module, "large").ending
    };
    let first = engine(dir.path());
    assert_eq!((run(&first), first.compiled()), (Ending::Exited(0), 1));
    let second = engine(dir.path());
    assert_eq!((run(&second), second.compiled()), (Ending::Exited(0), 0), "its code was kept");
}

/// A module shaped as large programs are: a quarter is code in many functions, the rest data.
fn large_module(bytes: usize) -> Vec<u8> {
    // local.get 0, i32.const 7, mul, i32.const 3, add, i32.const 16, rem_u, i32.load8_u
    let term = [0x20, 0, 0x41, 7, 0x6c, 0x41, 3, 0x6a, 0x41, 16, 0x70, 0x2d, 0, 0];
    let body = |number: u32| {
        // Each begins with another constant, so that nothing can be shared.
        let mut body = vec![0, 0x41];
        body.extend(leb(number & 0x3f));
        body.push(0x1a);
        body.extend(term.repeat(40));
        body.extend([0x73].repeat(39));
        body.push(0x0b);
        [leb(body.len() as u32), body].concat()
    };
    let functions = (bytes / 4 / body(0).len()) as u32;
    let data = vec![b'x'; bytes - bytes / 4 + (1 << 20)];
    let pages = (data.len() >> 16) as u32 + 1;
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    // (i32) -> i32 and () -> ()
    section(&mut module, 1, [&[2, 0x60, 1, 0x7f, 1, 0x7f, 0x60, 0, 0][..]].concat());
    let types = (0..functions).map(|_| 0).chain([1]);
    section(&mut module, 3, leb(functions + 1).into_iter().chain(types).collect());
    section(&mut module, 5, [&[1, 0][..], &leb(pages)].concat());
    let exports = [&[2, 6][..], b"memory", &[2, 0, 6], b"_start", &[0], &leb(functions)].concat();
    section(&mut module, 7, exports);
    let bodies = (0..functions).flat_map(body).chain([2, 0, 0x0b]);
    section(&mut module, 10, leb(functions + 1).into_iter().chain(bodies).collect());
    section(&mut module, 11, [&[1, 0, 0x41, 0, 0x0b][..], &leb(data.len() as u32), &data].concat());
    module
}

fn section(module: &mut Vec<u8>, id: u8, content: Vec<u8>) {
    module.push(id);
    module.extend(leb(content.len() as u32));
    module.extend(content);
}

/// An unsigned number as WebAssembly writes it.
fn leb(mut number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
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
