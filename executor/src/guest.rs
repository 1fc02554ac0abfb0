//! What one running guest has: its WASI context, its bounded outputs, its clock and random numbers, its memory limit.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use swarm_protocol::Ending;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::{FsPerms, WasiCtxBuilder, async_trait};

use crate::deterministic::VirtualClock;
use crate::engine::{TABLE_ELEMENTS_MAX, TABLES_MAX};
use crate::room::Room;
use crate::run::Task;

/// Bytes that a guest may hand over in one call of a stream; wasmtime cuts writes into 4 KiB anyway.
const WRITE_PERMIT_BYTES: usize = 64 * 1024;

/// Tells a running guest to end. All clones are one.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(Arc<Flag>);

/// In cache lines of its own: it is written for every task, by one of several threads that each have one.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Flag(AtomicBool);

impl StopFlag {
    /// Ends the guest within two ticks (some 40 ms); one that has not begun ends at once.
    pub fn stop(&self) {
        self.0.0.store(true, Ordering::SeqCst);
    }

    /// Makes the flag ready for another run. A call of [`Self::stop`] that this overtakes is forgotten.
    pub fn clear(&self) {
        self.0.0.store(false, Ordering::SeqCst);
    }

    /// Whether [`Self::stop`] was called.
    pub fn is_stopped(&self) -> bool {
        self.0.0.load(Ordering::Relaxed)
    }
}

/// Why the sandbox ended a guest, as it travels through wasmtime's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Halt {
    #[error("memory limit reached")]
    OutOfMemory,
    #[error("{0} is too large")]
    OutputTooLarge(&'static str),
    #[error("the disk has no room for what it writes")]
    NoRoom,
    #[error("time is up")]
    TimedOut,
    #[error("stopped")]
    Stopped,
}

impl Halt {
    pub(crate) fn ending(self) -> Ending {
        match self {
            Self::OutOfMemory => Ending::OutOfMemory,
            Self::OutputTooLarge(what) => Ending::OutputTooLarge(what.into()),
            // No fault of the guest's, and another node may have room.
            Self::NoRoom => Ending::Lost,
            Self::TimedOut => Ending::TimedOut,
            Self::Stopped => Ending::Cancelled,
        }
    }
}

/// The data of a `wasmtime::Store`.
pub(crate) struct Guest {
    pub(crate) wasi: WasiP1Ctx,
    pub(crate) clock: VirtualClock,
    pub(crate) random: blake3::OutputReader,
    /// Bytes that may still be written to files: keeps the disk safe while the guest runs.
    pub(crate) file_bytes_left: u64,
    /// Files, folders and links that may still be made: keeps the disk's own tables safe.
    pub(crate) files_left: u32,
    /// Whether the disk has room for them.
    pub(crate) room: Room,
    /// Bytes that may be written before it is looked at again.
    pub(crate) room_left: u64,
    /// The files met so far, by the host's number for them.
    inodes: BTreeMap<u64, u64>,
    memory_bytes_max: u64,
}

/// Why a guest could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("open `{0}` for the guest")]
pub(crate) struct OpenDirError(&'static str);

/// A guest may write this many times the size of its outputs: files may be rewritten and scratch files removed.
const FILE_BYTES_FACTOR: u64 = 4;
/// What a guest may make under `/out`, and open to make it: a hundred times what it may declare.
const FILES_MADE_MAX: u32 = 100_000;

impl Guest {
    pub(crate) fn new(task: &mut Task<'_>, stdout: Sink, stderr: Sink) -> Result<Self, OpenDirError> {
        let mut builder = WasiCtxBuilder::new();
        builder
            // Slots are threads of their own: blocking one on the disk blocks nobody else.
            .allow_blocking_current_thread(true)
            .stdin(MemoryInputPipe::new(std::mem::take(&mut task.stdin)))
            .stdout(stdout)
            .stderr(stderr)
            .arg(task.program)
            .args(task.args)
            .envs(task.env);
        preopen(&mut builder, task.in_dir, "/in", FsPerms::ReadOnly)?;
        preopen(&mut builder, task.out_dir, "/out", FsPerms::ReadWrite)?;
        Ok(Self {
            wasi: builder.build_p1(),
            clock: VirtualClock::default(),
            random: blake3::Hasher::new().update(&task.seed).finalize_xof(),
            file_bytes_left: task.limits.outputs_bytes_max.saturating_mul(FILE_BYTES_FACTOR),
            files_left: FILES_MADE_MAX,
            room: task.room.clone(),
            room_left: 0,
            inodes: BTreeMap::new(),
            memory_bytes_max: task.limits.memory_bytes_max,
        })
    }

    /// The number by which the guest knows a file: 1 for the first that it met, and so on.
    pub(crate) fn inode(&mut self, host: u64) -> u64 {
        let next = self.inodes.len() as u64 + 1;
        *self.inodes.entry(host).or_insert(next)
    }
}

fn preopen(
    builder: &mut WasiCtxBuilder,
    dir: Option<&Path>,
    name: &'static str,
    perms: FsPerms,
) -> Result<(), OpenDirError> {
    let Some(dir) = dir else { return Ok(()) };
    builder.preopened_dir(dir, name, perms).map(drop).map_err(|_| OpenDirError(name))
}

impl wasmtime::ResourceLimiter for Guest {
    /// Growing beyond the limit ends the guest rather than telling it: its ending then says what it lacked, whatever
    /// its allocator makes of a refusal.
    fn memory_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired as u64 > self.memory_bytes_max {
            return Err(Halt::OutOfMemory.into());
        }
        Ok(maximum.is_none_or(|maximum| desired <= maximum))
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }
}

/// What a guest has printed to one of its outputs, to be looked at while it runs. All clones are one.
#[derive(Clone, Debug, Default)]
pub struct Printed(Arc<Mutex<Vec<u8>>>);

impl Printed {
    /// At most `max` bytes from this place on.
    pub fn after(&self, place: u64, max: usize) -> Vec<u8> {
        let bytes = self.bytes();
        let rest = usize::try_from(place).ok().and_then(|place| bytes.get(place..)).unwrap_or_default();
        rest[..rest.len().min(max)].to_vec()
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Standard output or standard error: kept in memory up to its limit; one byte more ends the guest.
#[derive(Clone)]
pub(crate) struct Sink {
    what: &'static str,
    max: u64,
    printed: Printed,
}

impl Sink {
    pub(crate) fn new(what: &'static str, max: u64, printed: Printed) -> Self {
        Self { what, max, printed }
    }

    /// What was written, and nothing afterwards.
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.printed.bytes())
    }
}

#[async_trait]
impl OutputStream for Sink {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut kept = self.printed.bytes();
        let room = usize::try_from(self.max.saturating_sub(kept.len() as u64)).unwrap_or(usize::MAX);
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if bytes.len() > room {
            return Err(StreamError::Trap(Halt::OutputTooLarge(self.what).into()));
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_PERMIT_BYTES)
    }
}

#[async_trait]
impl Pollable for Sink {
    async fn ready(&mut self) {}
}

impl IsTerminal for Sink {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Sink {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    /// Only WASI preview 3 asks for this, and it is not linked.
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}
