//! The clock of the running guests: while one may run it advances wasmtime's epoch, and every guest looks at its deadline
//! and stop flag; while none does it sleeps, so that an idle node wakes less.
//!
//! Always true: as long as there is a [`Ticking`], the epoch advances.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

/// How often running guests look at their deadline and stop flag: a cancelled guest ends within two of these.
const TICK: Duration = Duration::from_millis(20);
/// How often the sleeping clock looks whether its engine is gone.
const SLEEP: Duration = Duration::from_secs(5);

/// The clock of one engine. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ticker {
    holders: Arc<AtomicUsize>,
    thread: Thread,
}

impl Ticker {
    /// Starts it, asleep; its thread ends some time after the engine is gone.
    pub(crate) fn start(engine: &wasmtime::Engine) -> io::Result<Self> {
        let holders = Arc::new(AtomicUsize::new(0));
        let (engine, held) = (engine.weak(), Arc::clone(&holders));
        let tick = move || {
            while let Some(engine) = engine.upgrade() {
                if held.load(Ordering::SeqCst) == 0 {
                    drop(engine);
                    thread::park_timeout(SLEEP);
                } else {
                    engine.increment_epoch();
                    drop(engine);
                    thread::sleep(TICK);
                }
            }
        };
        let thread = thread::Builder::new().name("guest-ticker".into()).spawn(tick)?.thread().clone();
        Ok(Self { holders, thread })
    }

    /// Keeps it going for as long as this is held: by a slot, once for many tasks.
    pub(crate) fn hold(&self) -> Ticking {
        if self.holders.fetch_add(1, Ordering::SeqCst) == 0 {
            self.thread.unpark();
        }
        Ticking { holders: Arc::clone(&self.holders) }
    }
}

/// While this is held guests are interrupted in time.
#[derive(Debug)]
pub(crate) struct Ticking {
    holders: Arc<AtomicUsize>,
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.holders.fetch_sub(1, Ordering::SeqCst);
    }
}
