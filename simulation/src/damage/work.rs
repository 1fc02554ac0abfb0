//! Jobs for real nodes whose every byte is known beforehand.
//!
//! Each task burns a little time, reads its standard input, writes it with its index after it to standard output, and the
//! other way round to the file `copy.bin`. Modules differ in the sign that they write behind the index, so that one that
//! runs in place of another is noticed. A long input makes blobs of the input, of what is printed and of the outputs; an
//! empty one leaves everything inside the records.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use swarm_protocol::INLINE_BYTES_MAX;

/// Long enough that it is a blob of its own, also what is written of it, and short enough for the guest's memory.
const STDIN_BYTES: usize = 8 * INLINE_BYTES_MAX;

/// A job in a directory of its own, and what it must leave behind.
#[derive(Clone, Debug)]
pub struct Work {
    dir: PathBuf,
    tasks: u32,
    sign: char,
    stdin: Vec<u8>,
}

/// What a job is like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Its name, and its directory's.
    pub name: &'static str,
    /// How many.
    pub tasks: u32,
    /// Steps of a generator that each task takes first: 1,000,000 are about 1.3 ms.
    pub rounds: u32,
    /// An ASCII character that its module writes behind the index.
    pub sign: char,
    /// Whether it reads and writes blobs.
    pub blobs: bool,
}

impl Work {
    /// Writes the job's files below `dir`.
    pub fn write(dir: &Path, shape: Shape, seed: u64) -> io::Result<Self> {
        let Shape { name, tasks, rounds, sign, blobs } = shape;
        let dir = dir.join(name);
        let mut random = fastrand::Rng::with_seed(seed);
        let stdin = if blobs { (0..STDIN_BYTES).map(|_| random.alphanumeric() as u8).collect() } else { Vec::new() };
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("echo.wasm"), wat::parse_str(guest(rounds, sign)).map_err(io::Error::other)?)?;
        fs::write(dir.join("stdin.bin"), &stdin)?;
        let with_blobs = if blobs { "stdin = { file = \"stdin.bin\" }\noutputs = [\"copy.bin\"]\n" } else { "" };
        let task = format!("wasm = \"echo.wasm\"\nargs = [\"{{{{ index }}}}\"]\narray = \"0..{tasks}\"\n{with_blobs}");
        fs::write(dir.join("job.toml"), format!("name = \"{name}\"\n[task.echo]\n{task}"))?;
        Ok(Self { dir, tasks, sign, stdin })
    }

    /// The job file.
    pub fn job(&self) -> PathBuf {
        self.dir.join("job.toml")
    }

    /// What all tasks write to standard output, in their order.
    pub fn logs(&self) -> Vec<u8> {
        (0..self.tasks).flat_map(|index| [&self.stdin[..], self.line(index).as_bytes()].concat()).collect()
    }

    fn line(&self, index: u32) -> String {
        format!("{index}{}", self.sign)
    }

    /// The files that `swarm get` makes, relative to where it puts them, with their bytes; none when the job has none.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let tasks = if self.stdin.is_empty() { 0 } else { self.tasks };
        let bytes = |index: u32| [self.line(index).as_bytes(), &self.stdin].concat();
        (0..tasks).map(|index| (PathBuf::from(format!("echo/{index}/copy.bin")), bytes(index))).collect()
    }
}

fn guest(rounds: u32, sign: char) -> String {
    let sign = u32::from(sign);
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 4)
  ;; 0: number of arguments, 4: their bytes, 8: a buffer to read into, 16: bytes read or written, 20: the opened file,
  ;; 24: the generator, 32: the index (address, length), 40: the input, 512: the file's name, 1024: addresses of the arguments,
  ;; 2048: the arguments, each with a zero byte after it, 65536: the input
  (data (i32.const 512) "copy.bin")
  (func (export "_start")
    (local $left i32) (local $state i64) (local $text i32) (local $end i32) (local $len i32)
    (local.set $left (i32.const {rounds}))
    (loop $step
      (local.set $state
        (i64.add (i64.mul (local.get $state) (i64.const 6364136223846793005)) (i64.const 1442695040888963407)))
      (br_if $step (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (i64.store (i32.const 24) (local.get $state))
    (drop (call $args_sizes_get (i32.const 0) (i32.const 4)))
    (drop (call $args_get (i32.const 1024) (i32.const 2048)))
    (local.set $text
      (i32.load (i32.add (i32.const 1020) (i32.mul (i32.load (i32.const 0)) (i32.const 4)))))
    (local.set $end (i32.add (i32.const 2048) (i32.load (i32.const 4))))
    (i32.store8 (i32.sub (local.get $end) (i32.const 1)) (i32.const {sign}))
    (block $read_all
      (loop $read
        (i32.store (i32.const 8) (i32.add (i32.const 65536) (local.get $len)))
        (i32.store (i32.const 12) (i32.sub (i32.const 131072) (local.get $len)))
        (br_if $read_all (call $fd_read (i32.const 0) (i32.const 8) (i32.const 1) (i32.const 16)))
        (local.set $len (i32.add (local.get $len) (i32.load (i32.const 16))))
        (br_if $read (i32.load (i32.const 16)))))
    (i32.store (i32.const 32) (local.get $text))
    (i32.store (i32.const 36) (i32.sub (local.get $end) (local.get $text)))
    (i32.store (i32.const 40) (i32.const 65536))
    (i32.store (i32.const 44) (local.get $len))
    (drop (call $fd_write (i32.const 1) (i32.const 40) (i32.const 1) (i32.const 16)))
    (drop (call $fd_write (i32.const 1) (i32.const 32) (i32.const 1) (i32.const 16)))
    ;; without declared outputs there is no directory 3
    (if (i32.eqz (call $path_open (i32.const 3) (i32.const 0) (i32.const 512) (i32.const 8) (i32.const 1)
          (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 20)))
      (then
        (drop (call $fd_write (i32.load (i32.const 20)) (i32.const 32) (i32.const 1) (i32.const 16)))
        (drop (call $fd_write (i32.load (i32.const 20)) (i32.const 40) (i32.const 1) (i32.const 16)))))))"#
    )
}
