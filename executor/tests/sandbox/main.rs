//! Guests of a few lines each, run by the real engine. Each lies in `tests/guests` and says what it does.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod cache;
mod endings;
mod invalid;
mod world;

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use swarm_executor::{
    Bytes, CACHE_BYTES_MAX, Engine, EngineConfig, Finished, MODULE_BYTES_MAX, Module, Printed, Room, StopFlag, Task,
};
use swarm_protocol::{Hash, Limits};

const MIB: u64 = 1024 * 1024;

/// One engine for all tests, as in a node.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(config()).unwrap());

fn config() -> EngineConfig {
    EngineConfig {
        cache_dir: None,
        cache_bytes_max: CACHE_BYTES_MAX,
        cache_room: Room::default(),
        memory_bytes_max: 256 * MIB,
        module_bytes_max: MODULE_BYTES_MAX,
        compile_time_max: Duration::from_secs(60),
    }
}

fn wasm(guest: &str) -> Vec<u8> {
    wat::parse_file(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/guests/{guest}.wat"))).unwrap()
}

fn prepare(engine: &Engine, guest: &str) -> Module {
    let bytes = wasm(guest);
    engine.prepare(Hash::of(&bytes), &bytes).unwrap()
}

/// Runs a module of a test's own with generous limits.
fn run_module(module: &Module, name: &str) -> Finished {
    let limits = Limits { memory_bytes_max: 256 * MIB, ..Run::of(name).limits };
    Run { limits, ..Run::of(name) }.run(module)
}

/// A task with generous limits, to be changed by the test.
struct Run<'a> {
    guest: &'a str,
    args: &'a [&'a str],
    env: &'a [(&'a str, &'a str)],
    entry: &'a str,
    stdin: &'static [u8],
    in_dir: Option<&'a Path>,
    out_dir: Option<&'a Path>,
    room: Room,
    limits: Limits,
    run_max: Duration,
    seed: [u8; 32],
    stop: StopFlag,
    printed: [Printed; 2],
}

impl<'a> Run<'a> {
    fn of(guest: &'a str) -> Self {
        Self {
            guest,
            args: &[],
            env: &[],
            entry: "_start",
            stdin: b"",
            in_dir: None,
            out_dir: None,
            room: Room::default(),
            limits: Limits {
                memory_bytes_max: 16 * MIB,
                fuel_max: u64::MAX / 2,
                stdout_bytes_max: MIB,
                outputs_bytes_max: MIB,
            },
            run_max: Duration::from_secs(600),
            seed: [0; 32],
            stop: StopFlag::default(),
            printed: Default::default(),
        }
    }

    fn finish(&self) -> Finished {
        self.finish_in(&ENGINE)
    }

    fn finish_in(&self, engine: &Engine) -> Finished {
        self.run(&prepare(engine, self.guest))
    }

    fn run(&self, module: &Module) -> Finished {
        let args: Vec<_> = self.args.iter().map(|&arg| arg.to_owned()).collect();
        let env: Vec<_> = self.env.iter().map(|&(name, value)| (name, value.into())).collect();
        module.run(Task {
            args: &args,
            program: self.guest,
            entry: self.entry,
            env: &env,
            stdin: Bytes::from_static(self.stdin),
            in_dir: self.in_dir,
            out_dir: self.out_dir,
            room: &self.room,
            limits: &self.limits,
            run_max: self.run_max,
            seed: self.seed,
            stop: &self.stop,
            entered: &module.enter(),
            printed: self.printed.clone(),
        })
    }
}
