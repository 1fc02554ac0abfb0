//! The compiler, one a process, and the modules made ready with it.
//!
//! Always true: what is handed out was validated, compiled here and linked; one hash is compiled once, however many
//! threads ask for it at the same time.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use swarm_protocol::Hash;

use crate::cache::Cache;
use crate::guest::Guest;
use crate::memory::{self, Memories};
use crate::room::Room;
use crate::run::{Module, WASM_STACK_BYTES_MAX};
use crate::ticker::Ticker;
use crate::validate::{self, InvalidModule};
use crate::{deterministic, files};

/// The largest module by default: the biggest programs compiled to WebAssembly have some 70 MiB (Yosys by YoWASP).
pub const MODULE_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Bytes of one WebAssembly page.
pub(crate) const MEMORY_PAGE_BYTES: u64 = 64 * 1024;
/// Elements of one table. Large C++ and Go programs have some ten thousand functions in theirs.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 100_000;
/// Tables of one module: compilers emit one, or two with reference types.
pub(crate) const TABLES_MAX: usize = 4;
/// Prepared modules expected in memory: a job has few.
const PREPARED_USUAL: usize = 64;
/// Bytes of their code; one that falls out costs a read from the disk cache. The largest module's code alone fits.
const PREPARED_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// What a module takes besides its code, and one that was refused takes at all.
const PREPARED_BYTES_LEAST: u64 = 4096;
/// Modules of this size and more are compiled one at a time: compiling takes some thirty times their size in memory.
const LARGE_MODULE_BYTES: usize = 4 * 1024 * 1024;

/// How to set up an [`Engine`].
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Where compiled code is kept between runs of this program; `None` keeps it in memory only.
    pub cache_dir: Option<PathBuf>,
    /// How large that may become, in bytes; [`CACHE_BYTES_MAX`](crate::CACHE_BYTES_MAX) is the usual. What was not used
    /// for longest goes first.
    pub cache_bytes_max: u64,
    /// Whether the disk has room for more of it; what has none is compiled again after a restart.
    pub cache_room: Room,
    /// The largest linear memory of one task, in bytes; memory is used only as guests touch it. A task that asks for
    /// more is rejected here and may run on a larger node.
    pub memory_bytes_max: u64,
    /// The largest module in bytes; [`MODULE_BYTES_MAX`] is the usual.
    pub module_bytes_max: u64,
    /// Modules that take longer to compile are refused. Compiling cannot be interrupted: the module's size bounds it.
    pub compile_time_max: Duration,
}

/// Why an [`Engine`] could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The directory for compiled code cannot be made.
    #[error("create the directory for compiled code `{path}`")]
    CacheDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The compiler.
    #[error("set up the WebAssembly engine")]
    Setup(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The thread that counts time cannot be started.
    #[error("start the thread that interrupts guests")]
    Ticker(#[source] io::Error),
}

/// Compiles modules and makes them ready to run. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

struct Shared {
    config: EngineConfig,
    wasmtime: wasmtime::Engine,
    linker: wasmtime::Linker<Guest>,
    cache: Option<Cache>,
    prepared: quick_cache::sync::Cache<Hash, Prepared, ByCode>,
    /// Held while a large module is compiled.
    compiling: Mutex<()>,
    compiled: AtomicU64,
    /// wasmtime's WASI is written for tokio and enters one for every file access; it finds this one, which costs
    /// less than the worker threads it would start by itself. Nothing ever waits in it.
    runtime: Arc<WasiRuntime>,
    ticker: Ticker,
}

type Prepared = Result<Module, InvalidModule>;

/// Prepared modules weigh as much as their code.
#[derive(Clone)]
struct ByCode;

impl quick_cache::Weighter<Hash, Prepared> for ByCode {
    fn weight(&self, _: &Hash, prepared: &Prepared) -> u64 {
        PREPARED_BYTES_LEAST + prepared.as_ref().map_or(0, Module::code_bytes)
    }
}

/// A tokio runtime in which nothing ever waits. The last clone of an engine may be dropped by a task of the process's
/// own tokio, where a runtime may be let go but not waited for.
pub(crate) struct WasiRuntime(Option<tokio::runtime::Runtime>);

impl WasiRuntime {
    pub(crate) fn enter(&self) -> tokio::runtime::EnterGuard<'_> {
        self.0.as_ref().expect("taken only when dropped").enter()
    }
}

impl Drop for WasiRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Engine {
    /// Sets up the compiler and starts the thread that interrupts guests.
    pub fn new(config: EngineConfig) -> Result<Self, EngineError> {
        let setup = |error: wasmtime::Error| EngineError::Setup(error.into());
        let wasmtime = wasmtime::Engine::new(&settings()).map_err(setup)?;
        let linker = linker(&wasmtime).map_err(setup)?;
        let cache = config.cache_dir.clone().map(|path| {
            let opened = Cache::open(path.clone(), config.cache_bytes_max, config.cache_room.clone());
            opened.map_err(|source| EngineError::CacheDir { path, source })
        });
        let cache = cache.transpose()?;
        let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(EngineError::Ticker)?;
        let ticker = Ticker::start(&wasmtime).map_err(EngineError::Ticker)?;
        tracing::debug!(by_page = memory::are_wiped_by_page(), "memories of guests are wiped");
        let prepared = quick_cache::sync::Cache::with_weighter(PREPARED_USUAL, PREPARED_BYTES_MAX, ByCode);
        let (compiling, runtime) = (Mutex::new(()), Arc::new(WasiRuntime(Some(runtime))));
        let compiled = AtomicU64::new(0);
        let shared = Shared { config, wasmtime, linker, cache, prepared, compiling, compiled, runtime, ticker };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Makes a module ready to run: validates, compiles (or loads what this machine compiled before) and links it.
    /// Blocks for as long as that takes. `hash` names `bytes`; the caller has verified it. What was refused once is
    /// refused again without another look.
    pub fn prepare(&self, hash: Hash, bytes: &[u8]) -> Result<Module, InvalidModule> {
        let prepared = self.shared.prepared.get_or_insert_with(&hash, || Ok(self.prepare_anew(hash, bytes)));
        prepared.unwrap_or_else(|never: Infallible| match never {})
    }

    /// The module, if [`Self::prepare`] had it lately.
    pub fn prepared(&self, hash: Hash) -> Option<Result<Module, InvalidModule>> {
        self.shared.prepared.get(&hash)
    }

    /// Modules compiled since the start.
    pub fn compiled(&self) -> u64 {
        self.shared.compiled.load(Ordering::Relaxed)
    }

    /// Whether a module of at most `max` bytes may run as a task, without compiling it. Its entry is `_start`.
    pub fn validate(bytes: &[u8], max: u64) -> Result<(), InvalidModule> {
        Self::validate_with_entry(bytes, "_start", max)
    }

    /// [`Self::validate`] for a task that begins at another exported function.
    pub fn validate_with_entry(bytes: &[u8], entry: &str, max: u64) -> Result<(), InvalidModule> {
        validate::check_with_entry(bytes, entry, max)
    }

    fn prepare_anew(&self, hash: Hash, bytes: &[u8]) -> Result<Module, InvalidModule> {
        let Shared { config, linker, runtime, ticker, .. } = &*self.shared;
        let declared = validate::check(bytes, config.module_bytes_max)?;
        if declared > config.memory_bytes_max {
            return Err(InvalidModule::MemoryTooLarge { declared, max: config.memory_bytes_max });
        }
        let compiled = self.load_or_compile(hash, bytes)?;
        let linked = linker.instantiate_pre(&compiled).map_err(|error| InvalidModule::Link(text(&error)))?;
        Ok(Module::new(linked, Arc::clone(runtime), ticker.clone(), config.memory_bytes_max))
    }

    fn load_or_compile(&self, hash: Hash, bytes: &[u8]) -> Result<wasmtime::Module, InvalidModule> {
        let Shared { wasmtime, cache, .. } = &*self.shared;
        if let Some(module) = cache.as_ref().and_then(|cache| cache.load(wasmtime, hash)) {
            return Ok(module);
        }
        let module = self.compile(bytes)?;
        if let Some(cache) = cache {
            cache.save(wasmtime, hash, &module);
        }
        Ok(module)
    }

    fn compile(&self, bytes: &[u8]) -> Result<wasmtime::Module, InvalidModule> {
        let large = bytes.len() >= LARGE_MODULE_BYTES;
        // It guards no data.
        let _alone = large.then(|| self.shared.compiling.lock().unwrap_or_else(PoisonError::into_inner));
        let started = Instant::now();
        let module = wasmtime::Module::from_binary(&self.shared.wasmtime, bytes);
        self.shared.compiled.fetch_add(1, Ordering::Relaxed);
        let (took, max) = (started.elapsed(), self.shared.config.compile_time_max);
        tracing::debug!(?took, bytes = bytes.len(), "compiled a module");
        if took > max {
            return Err(InvalidModule::CompileTooSlow {
                took_ms: took.as_millis() as u64,
                max_ms: max.as_millis() as u64,
            });
        }
        module.map_err(|error| InvalidModule::Compile(text(&error)))
    }
}

/// An error with its causes, on one line.
pub(crate) fn text(error: &wasmtime::Error) -> String {
    format!("{error:#}").replace('\n', " ")
}

/// How tasks run.
pub(crate) fn settings() -> wasmtime::Config {
    let mut settings = code_settings();
    settings
        .allocation_strategy(wasmtime::InstanceAllocationStrategy::OnDemand)
        .with_host_memory(Arc::new(Memories))
        // An image would be mapped and unmapped for every guest; data is copied instead.
        .memory_init_cow(false)
        .memory_may_move(false);
    settings
}

/// What guests may do and how they are compiled, whatever their memory is.
pub(crate) fn code_settings() -> wasmtime::Config {
    let mut settings = wasmtime::Config::new();
    settings
        .strategy(wasmtime::Strategy::Cranelift)
        .consume_fuel(true)
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK_BYTES_MAX)
        // Equal results on every machine.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .wasm_relaxed_simd(true)
        .wasm_tail_call(true)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_component_model(false)
        .shared_memory(false)
        // Only what reads stack traces needs these, and unregistering unwind tables is slow.
        .native_unwind_info(false)
        .generate_address_map(false)
        .wasm_backtrace_max_frames(None);
    settings
}

fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<wasmtime::Linker<Guest>> {
    let mut linker = wasmtime::Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_sync(&mut linker, |guest: &mut Guest| &mut guest.wasi)?;
    linker.allow_shadowing(true);
    deterministic::add_to_linker(&mut linker)?;
    files::add_to_linker(&mut linker)?;
    Ok(linker)
}
