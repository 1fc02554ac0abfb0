//! What one task across two nodes cannot do without: a synced append, two round trips on a libp2p stream, and a call of its
//! guest. One of each by turns with the tasks, so that they find the machine as tasks find it: what is asked for now and then
//! wakes processors that slept, and finds in their caches what others left there.
//!
//! Elsewhere: `append`, `stream` and `bare` measure the same in loops of their own.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use swarm_executor::Bare;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use super::far_end::{FarEnd, NearEnd, Threads, failed};
use super::{BenchError, append, stream};
use crate::cluster::Transport;

/// Round trips that a task cannot do without: there with the task, back with its outcome, and acknowledged.
const TRIPS: u32 = 2;

/// All that is needed for them, made once. The stream is closed before its far end and its runtime are gone.
pub(super) struct Parts {
    file: File,
    near: Arc<Mutex<NearEnd>>,
    _far: FarEnd,
    runtime: Runtime,
    bare: Bare,
}

/// How long each took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) append: Duration,
    pub(super) round_trip: Duration,
    pub(super) call: Duration,
}

impl Parts {
    pub(super) fn new(noop: &[u8]) -> Result<Self, BenchError> {
        let (runtime, far, bare) =
            (Threads::One.runtime()?, FarEnd::start(Transport::Tcp, Threads::One, None)?, Bare::new(noop)?);
        let near = Arc::new(Mutex::new(runtime.block_on(far.open())?));
        Ok(Self { file: append::file()?, near, _far: far, runtime, bare })
    }

    /// Each once, one after the other.
    pub(super) fn once(&mut self) -> Result<Part, BenchError> {
        let (append, round_trip) = (append::time(&mut self.file)?, self.trip()?);
        let began = Instant::now();
        self.bare.call(&["noop".into()])?;
        Ok(Part { append, round_trip, call: began.elapsed() })
    }

    /// In a task, which the thread that reads the connection wakes by itself.
    fn trip(&self) -> Result<Duration, BenchError> {
        let near = Arc::clone(&self.near);
        let trip = self.runtime.spawn(async move { stream::trip(&mut *near.lock().await).await });
        let took = self.runtime.block_on(trip).map_err(|error| failed("the task")(&error))?;
        took.map_err(|error| failed("the round trip")(&error))
    }
}

impl Part {
    /// What a task cannot do without.
    pub(super) fn sum(self) -> Duration {
        self.append + TRIPS * self.round_trip + self.call
    }
}
