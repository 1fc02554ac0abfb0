//! Board: what the tasks that run on this node have printed so far, for whoever follows them.
//!
//! Always true: a task is on the board only while it runs; nothing is kept here, so what is read costs a copy of some bytes
//! and no more. What a task printed is a result when it is over, and found there.
//!
//! Elsewhere: the bytes themselves are the sandbox's (`swarm_executor`), which bounds them; asking other nodes is `network`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use swarm_executor::Printed;
use swarm_protocol::JobId;
use tokio::time::Instant;

/// Bytes of each output in one answer.
pub const NEWS_BYTES_MAX: usize = 32 << 10;
/// How long an answer waits for something new, so that whoever follows a quiet task asks twice a second.
const NEWS_WAIT: Duration = Duration::from_millis(500);
/// How often it is looked for meanwhile: a person does not notice the difference.
const NEWS_EVERY: Duration = Duration::from_millis(25);

/// A task: its job, the position of its stage, its index.
pub type TaskKey = (JobId, u16, u32);

/// What somebody who follows a task has not seen yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewsQuestion {
    /// The task.
    pub task: TaskKey,
    /// Bytes seen of standard output and of standard error.
    pub seen: [u64; 2],
}

/// More bytes of standard output and of standard error.
pub type News = [Vec<u8>; 2];

/// The board of a node; a place for each slot. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Board(Arc<[Place]>);

/// What a slot runs. In cache lines of its own, since the slot writes there for every task.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Place(Mutex<Option<Entry>>);

type Entry = (TaskKey, [Printed; 2]);

impl Board {
    /// An empty one.
    pub fn new(slots: usize) -> Self {
        Self((0..slots).map(|_| Place::default()).collect())
    }

    /// Shows the task that a slot runs, until what is returned is dropped.
    pub(crate) fn show(&self, slot: usize, task: TaskKey, printed: [Printed; 2]) -> Shown<'_> {
        let place = &self.0[slot];
        *lock(place) = Some((task, printed));
        Shown(place)
    }

    /// What a task has printed behind what was seen, as soon as there is something, or after a while. `None` when it does not
    /// run here.
    pub async fn news(&self, question: &NewsQuestion) -> Option<News> {
        let until = Instant::now() + NEWS_WAIT;
        loop {
            let news = self.now(question)?;
            if news.iter().any(|bytes| !bytes.is_empty()) || Instant::now() >= until {
                return Some(news);
            }
            tokio::time::sleep(NEWS_EVERY).await;
        }
    }

    fn now(&self, NewsQuestion { task, seen }: &NewsQuestion) -> Option<News> {
        let found = self.0.iter().find_map(|place| {
            let shown = lock(place);
            shown.as_ref().filter(|(key, _)| key == task).map(|(_, printed)| printed.clone())
        });
        let [stdout, stderr] = found?;
        Some([stdout.after(seen[0], NEWS_BYTES_MAX), stderr.after(seen[1], NEWS_BYTES_MAX)])
    }
}

/// A task that is shown.
pub(crate) struct Shown<'a>(&'a Place);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        *lock(self.0) = None;
    }
}

fn lock(place: &Place) -> MutexGuard<'_, Option<Entry>> {
    // It is replaced as a whole.
    place.0.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_is_on_the_board_while_it_runs() {
        let (board, task) = (Board::new(2), (JobId::from_bytes([1; 32]), 0, 7));
        let question = NewsQuestion { task, seen: [0, 0] };
        assert_eq!(board.news(&question).await, None);
        let shown = board.show(1, task, Default::default());
        assert_eq!(board.news(&question).await, Some([vec![], vec![]]));
        assert_eq!(board.news(&NewsQuestion { task: (task.0, 0, 8), ..question }).await, None);
        drop(shown);
        assert_eq!(board.news(&question).await, None);
    }
}
