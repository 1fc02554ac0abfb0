//! A steady load: clients on threads of their own that submit jobs to whichever node lives, and read what came of them.
//!
//! Always true: a job is in the ledger as soon as its client knows that it is acknowledged; a submission that failed is
//! tried again elsewhere as a job of its own, for nobody knows what became of the first. Clients end when this is dropped.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::client::Client;
use super::ledger::Ledger;
use super::reading::{self, Reading};
use super::recipe::Recipe;
use super::{Cluster, ClusterError, Node};

/// Clients that submit: a submission waits for disks, so one at a time would not keep up.
const SUBMITTERS: usize = 6;
/// Clients that ask what came of jobs.
const READERS: usize = 3;
/// A client gives up a submission and tries another node. Most take a tenth of a second; a node that is stopped meanwhile
/// takes its own time.
const SUBMIT_WAIT: Duration = Duration::from_secs(20);
/// How often a running job is asked about.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How often a reader with nothing else to do asks again about a job that is over.
const ASK_AGAIN_EVERY: Duration = Duration::from_secs(1);
/// One of so many questions about a running job asks for the outcomes known so far: they must be right already.
const PARTLY_EVERY: u32 = 8;
/// Seconds of load that may be under way. A swarm that falls behind further is not given more, and that is told.
const BEHIND_MAX: f64 = 20.0;
/// How often clients look whether something is due.
const LOOK_EVERY: Duration = Duration::from_millis(10);

const SUBMITTING: u8 = 0;
const READING: u8 = 1;
const ENDED: u8 = 2;

/// The clients of a swarm.
#[derive(Debug)]
pub(super) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the clients share with whoever plays with the nodes.
#[derive(Debug)]
pub(super) struct Shared {
    doors: Vec<Door>,
    recipe: Recipe,
    ledger: Mutex<Ledger>,
    phase: AtomicU8,
    next: AtomicU64,
    began: Instant,
    period: Duration,
    open_tasks_max: u64,
    late: AtomicU64,
}

/// A node as clients see it.
#[derive(Debug)]
struct Door {
    client: Client,
    open: AtomicBool,
}

impl Load {
    /// Begins to submit `tasks_per_second`. `seed` decides who goes where.
    pub(super) fn begin(cluster: &Cluster, recipe: Recipe, tasks_per_second: f64, seed: u64) -> Self {
        let door = |node: &Node| Door { client: node.client().clone(), open: AtomicBool::new(true) };
        let shared = Arc::new(Shared {
            doors: cluster.nodes().iter().map(door).collect(),
            period: Duration::from_secs_f64(recipe.tasks_per_job() / tasks_per_second),
            recipe,
            ledger: Mutex::default(),
            phase: AtomicU8::new(SUBMITTING),
            next: AtomicU64::new(0),
            began: Instant::now(),
            open_tasks_max: (tasks_per_second * BEHIND_MAX) as u64,
            late: AtomicU64::new(0),
        });
        let mut random = fastrand::Rng::with_seed(seed);
        let mut start = |work: fn(&Shared, fastrand::Rng)| {
            let (shared, random) = (Arc::clone(&shared), random.fork());
            thread::spawn(move || work(&shared, random))
        };
        let submitters: Vec<_> = (0..SUBMITTERS).map(|_| start(Shared::submit_all)).collect();
        let threads = submitters.into_iter().chain((0..READERS).map(|_| start(Shared::read_all))).collect();
        Self { shared, threads }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// No new jobs from now on; what is under way is submitted, and readers go on.
    pub(super) fn stop_submitting(&self) {
        self.shared.phase.fetch_max(READING, Ordering::Relaxed);
    }

    /// Waits for the clients. A panic of one is one of the caller.
    pub(super) fn end(&mut self) {
        self.shared.phase.store(ENDED, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.phase.store(ENDED, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A client that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) const fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Jobs that were submitted late because the swarm was too far behind.
    pub(super) fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }

    /// Whether clients should turn to this node.
    pub(super) fn open(&self, node: usize, open: bool) {
        self.doors[node].open.store(open, Ordering::Relaxed);
    }

    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Relaxed)
    }

    /// A node that should answer, if there is any.
    fn any_node(&self, random: &mut fastrand::Rng) -> Option<(usize, &Client)> {
        let is_open = |node: &usize| self.doors[*node].open.load(Ordering::Relaxed);
        let open: Vec<usize> = (0..self.doors.len()).filter(is_open).collect();
        random.choice(open).map(|node| (node, &self.doors[node].client))
    }

    // ---- submitting

    fn submit_all(&self, mut random: fastrand::Rng) {
        while self.phase() == SUBMITTING {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let due = self.began + self.period.mul_f64(number as f64);
            if !self.wait_due(due) {
                self.next.fetch_sub(1, Ordering::Relaxed);
                return;
            }
            if let Err(error) = self.submit(number, &mut random) {
                eprintln!("job {number} of the load was not submitted: {error}");
            }
        }
    }

    /// Waits until a job is due and the swarm not too far behind. False when there are to be no more.
    fn wait_due(&self, due: Instant) -> bool {
        let mut behind = false;
        loop {
            if self.phase() != SUBMITTING {
                return false;
            }
            let now = Instant::now();
            if now >= due {
                if self.ledger().open_tasks() <= self.open_tasks_max {
                    self.late.fetch_add(u64::from(behind), Ordering::Relaxed);
                    return true;
                }
                behind = true;
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Submits a job here or there until it is acknowledged, or the load is over.
    fn submit(&self, number: u64, random: &mut fastrand::Rng) -> Result<(), ClusterError> {
        let dish = self.recipe.dish(number)?;
        while self.phase() == SUBMITTING {
            let Some((node, client)) = self.any_node(random) else {
                thread::sleep(LOOK_EVERY);
                continue;
            };
            match client.submit(&dish.file, SUBMIT_WAIT) {
                Ok(id) => {
                    self.ledger().acknowledged(number, id, dish.tasks, node);
                    return Ok(());
                }
                Err(ClusterError::Interrupted) => return Ok(()),
                Err(_) => self.ledger().refused += 1,
            }
        }
        Ok(())
    }

    // ---- reading

    fn read_all(&self, mut random: fastrand::Rng) {
        let mut asked_again = Instant::now();
        while self.phase() != ENDED {
            let Some((node, client)) = self.any_node(&mut random) else {
                thread::sleep(LOOK_EVERY);
                continue;
            };
            let again = asked_again.elapsed() >= ASK_AGAIN_EVERY;
            let choice = self.ledger().choose(ASK_EVERY, again, &mut random);
            match choice {
                Some((position, id, is_over)) => {
                    if is_over {
                        asked_again = Instant::now();
                    }
                    let whole = is_over || random.u32(0..PARTLY_EVERY) == 0;
                    self.read(node, client, position, &id, whole);
                }
                None => thread::sleep(LOOK_EVERY),
            }
        }
    }

    /// Asks a node about a job; about all of its tasks, if it is over or `whole`.
    fn read(&self, node: usize, client: &Client, position: usize, id: &str, whole: bool) {
        let told = reading::job(client, id).and_then(|job| match job.is_over() || whole {
            true => Reading::of(client, id).map(|reading| Some((reading, job.is_over()))),
            false => Ok(None),
        });
        match told {
            // While nodes come and go, a node may know less of a job than another did before; in the end it may not.
            Ok(Some((reading, is_over))) => self.ledger().told(position, node, &reading, is_over, &self.recipe),
            Ok(None) => {}
            Err(_) => self.ledger().unanswered += 1,
        }
    }
}
