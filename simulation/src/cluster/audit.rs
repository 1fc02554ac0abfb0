//! The end of a load: every node is asked for every job that was acknowledged, and for every byte.
//!
//! Elsewhere: what is right is `ledger`; what each custodian itself has is `disks`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::client::Client;
use super::load::Shared;
use super::reading::{self, Reading};
use super::wait::check_interrupted;
use super::{ClusterError, Node};

/// Questions at once.
const THREADS: usize = 4;
/// How long a node may not know a job, or think it unfinished, when everything runs: some rounds of repair.
const KNOWN_WITHIN: Duration = Duration::from_secs(60);
/// A node that does not know is asked again after this.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Asks each of these nodes about each acknowledged job, and one of them for each long output.
pub(super) fn audit(nodes: &[&Node], clients: &Shared) -> Result<(), ClusterError> {
    let clerks: Vec<_> = nodes.iter().map(|node| (node.number(), node.client())).collect();
    let jobs = clients.ledger().jobs.len();
    let questions = jobs * clerks.len();
    let (next, began) = (AtomicUsize::new(0), Instant::now());
    let work = |is_teller: bool| -> Result<(), ClusterError> {
        let mut told = began;
        loop {
            check_interrupted()?;
            let question = next.fetch_add(1, Ordering::Relaxed);
            if question >= questions {
                return Ok(());
            }
            let (position, clerk) = (question / clerks.len(), question % clerks.len());
            let (node, client) = clerks[clerk];
            // Whose turn it is changes from job to job.
            Question { position, node, client, fetches: position % clerks.len() == clerk, clients }.put()?;
            if is_teller && told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                eprintln!("audit: {} of {questions} answers", question + 1);
            }
        }
    };
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|number| scope.spawn(move || work(number == 0))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// One node about one job.
struct Question<'a> {
    position: usize,
    node: usize,
    client: &'a Client,
    fetches: bool,
    clients: &'a Shared,
}

impl Question<'_> {
    fn put(&self) -> Result<(), ClusterError> {
        let id = self.clients.ledger().jobs[self.position].id.clone();
        let until = Instant::now() + KNOWN_WITHIN;
        loop {
            let told = self.ask(&id);
            match told {
                Ok(Some(reading)) => {
                    self.clients.ledger().told(self.position, self.node, &reading, true, self.clients.recipe());
                    self.fetch(&reading);
                    return Ok(());
                }
                _ if Instant::now() < until => {}
                Ok(None) => {
                    let partly = Reading::of(self.client, &id).unwrap_or_default();
                    self.clients.ledger().told(self.position, self.node, &partly, true, self.clients.recipe());
                    return Ok(());
                }
                Err(error) => {
                    self.clients.ledger().vanished(self.position, self.node, &error.to_string());
                    return Ok(());
                }
            }
            check_interrupted()?;
            thread::sleep(ASK_AGAIN);
        }
    }

    fn ask(&self, id: &str) -> Result<Option<Reading>, ClusterError> {
        let is_over = reading::job(self.client, id)?.is_over();
        if is_over { Reading::of(self.client, id).map(Some) } else { Ok(None) }
    }

    /// The ledger has compared the hashes; here the bytes themselves must come.
    fn fetch(&self, reading: &Reading) {
        if !self.fetches {
            return;
        }
        for outcome in reading.outcomes.values().filter(|outcome| outcome.stdout.is_blob()) {
            let problem = match outcome.stdout.fetch(self.client, &outcome.holders) {
                Ok(bytes) if outcome.stdout.are(&bytes) => continue,
                Ok(bytes) => format!("{} other bytes", bytes.len()),
                Err(error) => error.to_string(),
            };
            self.clients.ledger().unreadable(self.position, self.node, &problem);
        }
    }
}
