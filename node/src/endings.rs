//! Endings: wakes whoever waits for the end of a job as soon as this node hears of it.
//!
//! Always true: an end that the core tells of after [`Endings::expect`] is not missed. Where it tells of none, because this
//! node is no custodian of the job, whoever waits looks for himself.
//!
//! Elsewhere: asking how a job ended is `results`; looking now and then is `watchers`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use swarm_protocol::JobId;
use tokio::sync::watch;

/// Jobs that are waited for before those that nobody waits for any more are looked for and left out.
const EXPECTED_MAX: usize = 1024;

/// Who waits for which job. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endings(Arc<Mutex<HashMap<JobId, watch::Sender<bool>>>>);

impl Endings {
    /// Becomes true when the core says that the job is over; closed when it does not know any more.
    pub(crate) fn expect(&self, job: JobId) -> watch::Receiver<bool> {
        let mut expected = self.expected();
        if expected.len() >= EXPECTED_MAX {
            expected.retain(|_, waiting| !waiting.is_closed());
        }
        expected.entry(job).or_insert_with(|| watch::Sender::new(false)).subscribe()
    }

    /// The core says that the job is over.
    pub(crate) fn tell(&self, job: JobId) {
        if let Some(waiting) = self.expected().remove(&job) {
            waiting.send_replace(true);
        }
    }

    fn expected(&self) -> MutexGuard<'_, HashMap<JobId, watch::Sender<bool>>> {
        // Nothing that can panic runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_who_waits_for_a_job_hears_of_its_end() {
        let (endings, job) = (Endings::default(), JobId::from_bytes([1; 32]));
        let (mut first, mut second) = (endings.expect(job), endings.expect(job));
        endings.tell(JobId::from_bytes([2; 32]));
        assert!(!*first.borrow());
        endings.tell(job);
        assert!(*first.wait_for(|over| *over).await.unwrap() && *second.wait_for(|over| *over).await.unwrap());
    }

    #[test]
    fn who_went_away_is_not_remembered_for_ever() {
        let endings = Endings::default();
        for number in 0..2 * EXPECTED_MAX {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            drop(endings.expect(JobId::from_bytes(id)));
        }
        assert!(endings.expected().len() <= EXPECTED_MAX);
    }
}
