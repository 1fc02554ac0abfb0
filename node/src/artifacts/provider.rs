//! Provider: says in the Kademlia map which larger blobs are here, so that whoever has only a name finds them.
//!
//! Always true: one walk over the map at a time; each blob is said again long before what was said is forgotten. A hint:
//! what is missed is found by the next look at the disk.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use swarm_protocol::Hash;
use swarm_store::Blobs;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::handle::blocking;
use crate::network::Network;
use crate::supervisor::Failure;

/// Shorter blobs are found by the job that names them; a walk costs more than to fetch one.
const PROVIDED_BYTES_MIN: u64 = 1 << 20;
/// Blobs that are said: the walks of all of them in a day are few beside what a node sends anyway.
const PROVIDED_MAX: usize = 4096;
/// After this a blob is said again: others forget it after seven days, and those who kept it come and go.
const SAY_AGAIN: Duration = Duration::from_secs(24 * 3600);
/// How often the disk is looked at, and when first: after a start the map has to fill.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
const LOOK_FIRST: Duration = Duration::from_secs(60);
/// New blobs that wait to be said.
const NEW_MAX: usize = 256;

/// What the service needs, and keeps when it is started again.
#[derive(Clone)]
pub(crate) struct Provider {
    blobs: Blobs,
    network: Network,
    new: Arc<Mutex<mpsc::Receiver<Hash>>>,
}

impl Provider {
    /// The service, and the way to tell it of blobs that have just come.
    pub(super) fn new(blobs: Blobs, network: Network) -> (mpsc::Sender<Hash>, Self) {
        let (told, new) = mpsc::channel(NEW_MAX);
        (told, Self { blobs, network, new: Arc::new(Mutex::new(new)) })
    }

    /// Runs until nobody can tell of a blob any more.
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let mut new = self.new.lock().await;
        let mut said: HashMap<Hash, Instant> = HashMap::new();
        let mut look = interval_at(Instant::now() + LOOK_FIRST, LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let hashes = tokio::select! {
                hash = new.recv() => match hash {
                    Some(hash) => vec![hash],
                    None => return Ok(()),
                },
                _ = look.tick() => {
                    said.retain(|_, when| when.elapsed() < SAY_AGAIN);
                    self.all().await
                }
            };
            for hash in hashes {
                if !said.contains_key(&hash) && self.is_worth_it(hash).await && said.len() < PROVIDED_MAX {
                    self.network.provide(hash).await;
                    said.insert(hash, Instant::now());
                }
            }
        }
    }

    async fn all(&self) -> Vec<Hash> {
        let blobs = self.blobs.clone();
        blocking(move || blobs.list()).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "the blobs cannot be listed");
            Vec::new()
        })
    }

    async fn is_worth_it(&self, hash: Hash) -> bool {
        let blobs = self.blobs.clone();
        blocking(move || blobs.len(hash).is_ok_and(|len| len >= PROVIDED_BYTES_MIN)).await
    }
}
