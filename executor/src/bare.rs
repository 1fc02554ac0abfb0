//! wasmtime and its WASI with the engine's settings and nothing of ours around them: the limit against which the sandbox
//! is measured. No task ever runs here.
//!
//! Elsewhere: the settings are `engine`'s, so that a change there changes the limit with it; what tasks run in is `run`.

use std::sync::Arc;

use wasmtime::{InstanceAllocationStrategy, InstancePre, Linker, PoolingAllocationConfig, Store};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p1::{self, WasiP1Ctx};

use crate::engine::{EngineError, code_settings, settings};
use crate::ticker::{Ticker, Ticking};

/// More than any guest of a measurement uses.
const FUEL: u64 = u64::MAX / 2;
/// Guests of a measurement are not interrupted; that they could be is what costs.
const TICKS: u64 = u64::MAX / 2;

/// A module that is compiled and linked to WASI alone. Cheap to clone.
#[derive(Clone)]
pub struct Bare {
    linked: InstancePre<WasiP1Ctx>,
    _ticking: Arc<Ticking>,
}

/// A guest of a measurement did not end as it should.
#[derive(Debug, thiserror::Error)]
#[error("the guest failed: {0}")]
pub struct BareError(String);

impl Bare {
    /// Compiles and links a module in an engine of its own, set up as the one that tasks run in.
    pub fn new(module: &[u8]) -> Result<Self, EngineError> {
        Self::with(&settings(), module)
    }

    /// The same with wasmtime's own pool of instances for so many threads, as it comes.
    pub fn pooled(module: &[u8], threads: u32) -> Result<Self, EngineError> {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_core_instances(threads).total_memories(threads).total_tables(threads).total_stacks(0);
        let mut settings = code_settings();
        settings.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        Self::with(&settings, module)
    }

    fn with(settings: &wasmtime::Config, module: &[u8]) -> Result<Self, EngineError> {
        let setup = |error: wasmtime::Error| EngineError::Setup(error.into());
        let engine = wasmtime::Engine::new(settings).map_err(setup)?;
        let mut linker = Linker::new(&engine);
        p1::add_to_linker_sync(&mut linker, |wasi: &mut WasiP1Ctx| wasi).map_err(setup)?;
        let module = wasmtime::Module::from_binary(&engine, module).map_err(setup)?;
        let linked = linker.instantiate_pre(&module).map_err(setup)?;
        let ticking = Ticker::start(&engine).map_err(EngineError::Ticker)?.hold();
        Ok(Self { linked, _ticking: Arc::new(ticking) })
    }

    /// One call of `_start` in a fresh store and a fresh instance with a fresh WASI context.
    pub fn call(&self, args: &[String]) -> Result<(), BareError> {
        let wasi = WasiCtxBuilder::new().allow_blocking_current_thread(true).args(args).build_p1();
        let mut store = Store::new(self.linked.module().engine(), wasi);
        let mut run = || {
            store.set_fuel(FUEL)?;
            store.set_epoch_deadline(TICKS);
            let instance = self.linked.instantiate(&mut store)?;
            instance.get_typed_func::<(), ()>(&mut store, "_start")?.call(&mut store, ())
        };
        run().map_err(|error: wasmtime::Error| BareError(format!("{error:#}")))
    }
}
