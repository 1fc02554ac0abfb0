//! One run of one task in a fresh instance, and how it ended.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use swarm_protocol::{Ending, Limits};
use tokio::runtime::EnterGuard;
use wasmtime::{ExternType, InstancePre, Store, Trap, UpdateDeadline};
use wasmtime_wasi::I32Exit;

use crate::engine::{WasiRuntime, text};
use crate::guest::{Guest, Halt, Printed, Sink, StopFlag};
use crate::room::Room;
use crate::ticker::{Ticker, Ticking};
use crate::validate::{InvalidModule, shown};

/// Stack of a guest's WebAssembly frames, in bytes. [`Module::run`] uses its caller's stack, so threads that call it
/// need this much and as much again for the host's own frames.
pub const WASM_STACK_BYTES_MAX: usize = 1024 * 1024;
/// The longest text about a trap: enough for every one that wasmtime has.
const TRAP_CHARS_MAX: usize = 200;

/// One task to run.
pub struct Task<'a> {
    /// Arguments, without the program's name.
    pub args: &'a [String],
    /// The program's name, as its first argument.
    pub program: &'a str,
    /// The exported function to call: `_start`. Before any other one `_initialize` is called, if exported.
    pub entry: &'a str,
    /// The whole environment.
    pub env: &'a [(&'a str, Cow<'a, str>)],
    /// Standard input.
    pub stdin: Bytes,
    /// What the guest sees as `/in` and can only read. It is trusted not to change meanwhile.
    pub in_dir: Option<&'a Path>,
    /// What the guest sees as `/out`. How much lies there at the end is for the caller to check; while the guest runs,
    /// it may write four times `limits.outputs_bytes_max`.
    pub out_dir: Option<&'a Path>,
    /// Whether the disk has room for what is written there.
    pub room: &'a Room,
    /// What the run may use.
    pub limits: &'a Limits,
    /// How long it may take.
    pub run_max: Duration,
    /// Where its random numbers come from.
    pub seed: [u8; 32],
    /// Ends it early.
    pub stop: &'a StopFlag,
    /// What the calling thread holds: of the same engine as the module.
    pub entered: &'a Entered<'a>,
    /// Where standard output and standard error can be looked at meanwhile; empty when the run is over.
    pub printed: [Printed; 2],
}

/// A run that is over.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub ending: Ending,
    /// Standard output, as far as it fitted its limit.
    pub stdout: Vec<u8>,
    /// Standard error, as far as it fitted its limit.
    pub stderr: Vec<u8>,
    /// Fuel used, about one unit an instruction. Not equal between machines.
    pub fuel_used: u64,
    /// Time taken.
    pub elapsed: Duration,
}

/// While a thread holds this the guests that it runs look at their deadline and stop flag, and WASI finds the runtime that
/// it asks for.
#[must_use]
pub struct Entered<'a> {
    _ticking: Ticking,
    _runtime: EnterGuard<'a>,
}

/// A module that is compiled and linked. Cheap to clone.
#[derive(Clone)]
pub struct Module {
    linked: InstancePre<Guest>,
    runtime: Arc<WasiRuntime>,
    ticker: Ticker,
    memory_bytes_max: u64,
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Module").field("name", &self.linked.module().name()).finish_non_exhaustive()
    }
}

impl Module {
    pub(crate) fn new(
        linked: InstancePre<Guest>,
        runtime: Arc<WasiRuntime>,
        ticker: Ticker,
        memory_bytes_max: u64,
    ) -> Self {
        Self { linked, runtime, ticker, memory_bytes_max }
    }

    /// Readies the calling thread for runs. Whoever runs many tasks asks once, and what follows on this thread until it is
    /// dropped is no work for the process's own tokio.
    pub fn enter(&self) -> Entered<'_> {
        Entered { _ticking: self.ticker.hold(), _runtime: self.runtime.enter() }
    }

    /// Bytes of its compiled code.
    pub(crate) fn code_bytes(&self) -> u64 {
        let image = self.linked.module().image_range();
        (image.end as usize - image.start as usize) as u64
    }

    /// Whether the function to begin with can be called.
    pub fn check_entry(&self, entry: &str) -> Result<(), InvalidModule> {
        match self.linked.module().get_export(entry) {
            Some(ExternType::Func(function)) if function.params().len() == 0 && function.results().len() == 0 => Ok(()),
            Some(ExternType::Func(_)) => Err(InvalidModule::EntryType(shown(entry))),
            _ => Err(InvalidModule::NoEntry(shown(entry))),
        }
    }

    /// Runs the task to its end on the calling thread, which is not one of tokio's and has
    /// 2 × [`WASM_STACK_BYTES_MAX`] of stack. Never fails: what cannot be started ends as [`Ending::Rejected`].
    pub fn run(&self, mut task: Task<'_>) -> Finished {
        let started = Instant::now();
        let (limits, stop) = (task.limits, task.stop.clone());
        let [stdout, stderr] = task.printed.clone();
        let stdout = Sink::new("standard output", limits.stdout_bytes_max, stdout);
        let stderr = Sink::new("standard error", limits.stdout_bytes_max, stderr);
        let (ending, fuel_used) = match self.store(&mut task, &stdout, &stderr) {
            Ok(mut store) => {
                interrupt(&mut store, started + task.run_max, stop);
                let ending = self.call(&mut store, task.entry);
                let fuel_left = store.get_fuel().unwrap_or(0);
                (ending, limits.fuel_max.saturating_sub(fuel_left))
            }
            Err(ending) => (ending, 0),
        };
        Finished { ending, stdout: stdout.take(), stderr: stderr.take(), fuel_used, elapsed: started.elapsed() }
    }

    fn store(&self, task: &mut Task<'_>, stdout: &Sink, stderr: &Sink) -> Result<Store<Guest>, Ending> {
        if task.stop.is_stopped() {
            return Err(Ending::Cancelled);
        }
        let (wanted, offered) = (task.limits.memory_bytes_max, self.memory_bytes_max);
        if wanted > offered {
            return Err(Ending::Rejected(format!("it asks for {wanted} bytes of memory; this node offers {offered}")));
        }
        let guest = Guest::new(task, stdout.clone(), stderr.clone());
        let guest = guest.map_err(|error| Ending::Rejected(error.to_string()))?;
        let mut store = Store::new(self.linked.module().engine(), guest);
        store.limiter(|guest| guest);
        store.set_fuel(task.limits.fuel_max).expect("the engine counts fuel");
        Ok(store)
    }

    fn call(&self, store: &mut Store<Guest>, entry: &str) -> Ending {
        let run = |store: &mut Store<Guest>| {
            let instance = self.linked.instantiate(&mut *store)?;
            // Asking the module first would cost every task what only a wrong name is worth.
            let begin = instance.get_typed_func::<(), ()>(&mut *store, entry);
            let begin = begin.map_err(|error| self.check_entry(entry).map_or_else(Into::into, |()| error))?;
            if entry != "_start"
                && let Ok(initialize) = instance.get_typed_func::<(), ()>(&mut *store, "_initialize")
            {
                initialize.call(&mut *store, ())?;
            }
            begin.call(store, ())
        };
        run(store).map_or_else(|error| ending(&error), |()| Ending::Exited(0))
    }
}

/// Looks at the clock and the stop flag with every tick.
fn interrupt(store: &mut Store<Guest>, deadline: Instant, stop: StopFlag) {
    store.epoch_deadline_callback(move |_| {
        if stop.is_stopped() {
            return Err(Halt::Stopped.into());
        }
        if Instant::now() >= deadline {
            return Err(Halt::TimedOut.into());
        }
        Ok(UpdateDeadline::Continue(1))
    });
    store.set_epoch_deadline(1);
}

fn ending(error: &wasmtime::Error) -> Ending {
    if let Some(halt) = error.downcast_ref::<Halt>() {
        return halt.ending();
    }
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return Ending::Exited(*code);
    }
    if let Some(invalid) = error.downcast_ref::<InvalidModule>() {
        return Ending::Rejected(invalid.to_string());
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => Ending::OutOfFuel,
        Some(trap) => Ending::Trapped(trap.to_string().trim_start_matches("wasm trap: ").into()),
        None => Ending::Trapped(text(error).chars().take(TRAP_CHARS_MAX).collect()),
    }
}
