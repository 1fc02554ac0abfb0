//! Slots: the threads that run guests.
//!
//! Always true: a slot that takes up a job tells the lease when it is done with it, whatever happens in between; a panic
//! costs the task that was running, and the slot goes on with the next.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use swarm_executor::{Entered, StopFlag, WASM_STACK_BYTES_MAX};
use swarm_protocol::{Ending, Outcome};
use tokio::sync::mpsc;

use super::outcomes::Outcomes;
use super::permits::Permits;
use super::stage::{Control, Stage};
use super::tasks::{Taken, Tasks};
use crate::board::Board;

/// Jobs that wait for a slot; the leases behind them wait in their actors.
const QUEUE_MAX: usize = 64;
/// Half for the guest, half for the host's own frames below it.
const STACK_BYTES: usize = 2 * WASM_STACK_BYTES_MAX + 1024 * 1024;
/// Outcomes are handed over this often while a slot goes on: with the end of most batches.
pub(super) const REPORT_EVERY: Duration = Duration::from_millis(200);

/// Help wanted with the tasks of one lease. Each slot that takes one up works until no task is left.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) stage: Arc<Stage>,
    pub(super) tasks: Arc<Tasks>,
    pub(super) report: Arc<dyn Fn(SlotReport) + Send + Sync>,
}

/// What a slot tells a lease.
#[derive(Debug)]
pub(super) enum SlotReport {
    /// These have ended, and it goes on.
    Ended(Outcomes),
    /// These have ended, and it takes up no more of them.
    Left(Outcomes),
}

/// The threads, and the queue that feeds them.
pub(super) struct Slots {
    queue: mpsc::Sender<Job>,
    count: usize,
    busy: Arc<AtomicUsize>,
}

/// What a slot works with.
struct Slot {
    number: usize,
    board: Board,
}

impl Slots {
    /// Starts the threads. They end when the last sender to their queue is gone.
    pub(super) fn start(count: usize, board: &Board) -> io::Result<Self> {
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        let (jobs, busy) = (Arc::new(Mutex::new(jobs)), Arc::new(AtomicUsize::new(0)));
        let permits = Arc::new(Permits::new(count));
        for number in 0..count {
            let (jobs, busy, permits) = (Arc::clone(&jobs), Arc::clone(&busy), Arc::clone(&permits));
            let thread = thread::Builder::new().name(format!("slot-{number}")).stack_size(STACK_BYTES);
            let slot = Slot { number, board: board.clone() };
            thread.spawn(move || serve(&slot, &jobs, &busy, &permits))?;
        }
        Ok(Self { queue, count, busy })
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// How many have something to do.
    pub(super) fn busy(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    /// Queues a job for one slot; waits while the queue is full.
    pub(super) async fn enqueue(&self, job: Job) {
        self.queue.send(job).await.expect("the slots keep the other end as long as there are senders");
    }
}

fn serve(slot: &Slot, jobs: &Mutex<mpsc::Receiver<Job>>, busy: &AtomicUsize, permits: &Permits) {
    // One idle slot waits in the queue, the others for their turn to.
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
    while let Some(job) = next() {
        let _permit = permits.take(job.stage.slots());
        busy.fetch_add(1, Ordering::Relaxed);
        if catch_unwind(AssertUnwindSafe(|| Shift::new(&job).work(slot))).is_err() {
            tracing::error!(slot = slot.number, "a slot failed outside a task");
        }
        busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One slot's work for one lease. Dropped, it reports.
struct Shift<'a> {
    job: &'a Job,
    entered: Entered<'a>,
    outcomes: Outcomes,
    reported: Instant,
}

impl<'a> Shift<'a> {
    fn new(job: &'a Job) -> Self {
        Self { job, entered: job.stage.enter(), outcomes: Outcomes::default(), reported: Instant::now() }
    }

    fn work(mut self, slot: &Slot) {
        let mut any = true;
        while any {
            any = false;
            for task in self.job.tasks.take() {
                any = true;
                self.run(slot, task);
            }
        }
    }

    fn run(&mut self, slot: &Slot, task: Taken) {
        let attempt = |stop: &StopFlag| {
            let control = Control { stop, entered: &self.entered, printed: Default::default() };
            attempt(&self.job.stage, task, &control, slot)
        };
        while let Some(outcome) = self.job.tasks.run(slot.number, task, attempt) {
            // Told to stop for the sake of the task before, which had ended already.
            if outcome.ending != Ending::Cancelled {
                self.outcomes.push(task.index, outcome);
                break;
            }
        }
        if self.reported.elapsed() >= REPORT_EVERY && !self.outcomes.is_empty() {
            let outcomes = self.hand_over();
            (self.job.report)(SlotReport::Ended(outcomes));
        }
    }

    /// What ended since the last time: the slot did nothing else meanwhile.
    fn hand_over(&mut self) -> Outcomes {
        let since = std::mem::replace(&mut self.reported, Instant::now());
        std::mem::take(&mut self.outcomes).took(self.reported.duration_since(since))
    }
}

impl Drop for Shift<'_> {
    fn drop(&mut self) {
        let outcomes = self.hand_over();
        (self.job.report)(SlotReport::Left(outcomes));
    }
}

/// Runs one task. A panic here is a fault of ours or of the sandbox: the task is given back to run elsewhere.
fn attempt(stage: &Stage, task: Taken, control: &Control<'_>, slot: &Slot) -> Outcome {
    let (job, position) = stage.key();
    let shown = slot.board.show(slot.number, (job, position, task.index), control.printed.clone());
    let outcome = catch_unwind(AssertUnwindSafe(|| stage.run(task, control))).unwrap_or_else(|_| {
        tracing::error!(task = task.index, "running a task failed on this node");
        Outcome::bare(Ending::Lost)
    });
    drop(shown);
    outcome
}
