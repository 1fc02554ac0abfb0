//! The jobs of the benchmark: their guests, and their specs.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use swarm_protocol::{
    Elements, Hash, Item, JOB_SPEC_VERSION, JobOptions, JobSpec, Limits, NodeId, Retry, StageOptions, StageSpec, Stdin,
    codec,
};

use super::BenchError;
use super::api::Api;

/// What a guest gets when its job file says nothing.
const MEMORY_BYTES: u64 = 256 << 20;
const OUTPUT_BYTES: u64 = 1 << 20;
/// More than any guest of a measurement uses.
const FUEL: u64 = 1 << 60;
/// Longer than any measurement.
const RUN_MAX: Duration = Duration::from_secs(3600);

/// The guest that does nothing.
#[derive(Clone, Debug)]
pub(super) struct Noop {
    /// Where a user's own is; the built-in one is compiled from `noop.c`.
    pub(super) path: Option<PathBuf>,
    pub(super) module: Vec<u8>,
}

impl Noop {
    /// The user's own, or the built-in one.
    pub(super) fn new(path: Option<PathBuf>) -> Result<Self, BenchError> {
        let module = match &path {
            Some(path) => fs::read(path).map_err(BenchError::io("read", path))?,
            None => include_bytes!("noop.wasm").to_vec(),
        };
        Ok(Self { path, module })
    }
}

/// The guest that computes for as many rounds as its argument says.
pub(super) fn spin_module() -> Vec<u8> {
    wat::parse_str(include_str!("spin.wat")).expect("the guest is part of this program and tested")
}

/// What a node was given, to submit jobs of it.
#[derive(Clone, Debug)]
pub(super) struct Work {
    name: &'static str,
    wasm: Hash,
    args: Vec<String>,
    blobs: Hash,
    items: Option<Hash>,
}

impl Work {
    /// Tasks that do nothing.
    pub(super) fn noop(api: &mut Api, noop: &Noop) -> Result<Self, BenchError> {
        Self::hand_over(api, "noop", &noop.module, &[], None)
    }

    /// Tasks that compute for so many rounds.
    pub(super) fn spin(api: &mut Api, rounds: u64) -> Result<Self, BenchError> {
        Self::hand_over(api, "spin", &spin_module(), &[rounds.to_string()], None)
    }

    /// A task for each of these, which computes for so many rounds.
    pub(super) fn spins(api: &mut Api, rounds: &[u64]) -> Result<Self, BenchError> {
        let items: Vec<Item> = rounds.iter().map(|rounds| Item { text: rounds.to_string(), file: None }).collect();
        Self::hand_over(api, "spins", &spin_module(), &["{{ item }}".to_owned()], Some(codec::encode(&items)))
    }

    fn hand_over(
        api: &mut Api,
        name: &'static str,
        module: &[u8],
        args: &[String],
        items: Option<Vec<u8>>,
    ) -> Result<Self, BenchError> {
        let wasm = api.put(module)?;
        let items = items.map(|items| api.put(&items)).transpose()?;
        let list: Vec<Hash> = [wasm].into_iter().chain(items).collect();
        let blobs = api.put(&codec::encode(&list))?;
        Ok(Self { name, wasm, args: args.to_vec(), blobs, items })
    }

    /// A job of so many of them.
    pub(super) fn job(&self, count: u32) -> JobSpec {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        JobSpec {
            version: JOB_SPEC_VERSION,
            name: self.name.into(),
            description: String::new(),
            // The node that it is handed to puts in its own.
            submitter: NodeId::from_bytes([0; 32]),
            submitted_unix_ms: since.as_millis() as u64,
            nonce: fastrand::u64(..),
            source: None,
            blobs: self.blobs,
            failures_max: 0,
            stages: vec![self.stage(count)],
            options: JobOptions::default(),
        }
    }

    fn stage(&self, count: u32) -> StageSpec {
        StageSpec {
            name: self.name.into(),
            wasm: self.wasm,
            entry: "_start".into(),
            args: self.args.clone(),
            env: Vec::new(),
            stdin: Stdin::Empty,
            count,
            shard_tasks: StageSpec::shard_tasks_for(count, 1),
            elements: self.items.map_or(Elements::Numbers { start: 0 }, Elements::List),
            inputs: Vec::new(),
            outputs: Vec::new(),
            needs: Vec::new(),
            retry: Retry { max: 0, lost_max: 5, backoff_ms: 1000, backoff_ms_max: 60_000, on: Vec::new() },
            run_ms_max: RUN_MAX.as_millis() as u64,
            queue_ms_max: None,
            limits: Limits {
                memory_bytes_max: MEMORY_BYTES,
                fuel_max: FUEL,
                stdout_bytes_max: OUTPUT_BYTES,
                outputs_bytes_max: OUTPUT_BYTES,
            },
            options: StageOptions::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_are_modules_that_may_run() {
        for module in [Noop::new(None).unwrap().module, spin_module()] {
            swarm_executor::Engine::validate(&module, swarm_executor::MODULE_BYTES_MAX).unwrap();
        }
    }
}
