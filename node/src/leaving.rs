//! Leaving: how a node goes in order, whoever wants it to.
//!
//! Always true of a drain: no task is begun after it; what runs is finished within the time that is left for that, or
//! released, with no attempt charged; what has ended is reported before what has not is released.
//!
//! Elsewhere: what is owed and when it is handed over is decided by `swarm_protocol`; signals are `cli::start`.

use std::time::Duration;

use swarm_protocol::{Event, MemberState, NodeId};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::commands::CommandError;
use crate::handle::Handle;
use crate::work::REPORTED_WITHIN;

/// How long what runs may take to finish when a node leaves, by default.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Of that time so much is kept for handing over: a few round trips to each custodian, and some blobs.
const HAND_OVER: Duration = Duration::from_secs(5);
/// What was granted in the moment of the drain is released at the next look.
const RELEASE_EVERY: Duration = Duration::from_millis(500);
/// How long tasks may take to end once they are told to stop: two heartbeats of the sandbox.
const STOPPED_WITHIN: Duration = Duration::from_secs(1);
/// How often it is looked at, and how often another node is asked again: the first message may be lost.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const ASK_EVERY: Duration = Duration::from_secs(1);
/// A node that does not begin to drain within this time is not reached.
const BEGINS_WITHIN: Duration = Duration::from_secs(10);

/// A member wants this node to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainAsked {
    /// Who.
    pub by: NodeId,
    /// For so long what runs may go on; `None` leaves it to this node.
    pub timeout: Option<Duration>,
}

impl Handle {
    /// Finishes or releases work and hands over custody, for at most `timeout`. True when everything was handed over.
    pub async fn drain(&self, timeout: Duration) -> bool {
        let started = Instant::now();
        if self.commands().tell(Event::Drain).await.is_err() {
            return false;
        }
        let finish = timeout.saturating_sub(HAND_OVER.min(timeout / 2));
        let finished = async { tokio::join!(self.is_drained(), self.release_what_is_not_begun()).0 };
        if tokio::time::timeout(finish, finished).await.is_ok() {
            return true;
        }
        self.release_all().await;
        let left = timeout.saturating_sub(started.elapsed());
        tokio::time::timeout(left, self.is_drained()).await.is_ok()
    }

    async fn is_drained(&self) {
        // An error means that the core is no more, and then nothing is owed that it could hand over.
        let mut told = self.drained();
        let _gone = told.wait_for(|drained| *drained).await;
    }

    async fn release_what_is_not_begun(&self) {
        while !*self.drained().borrow() {
            self.release(self.work().give_back(false).await).await;
            tokio::time::sleep(RELEASE_EVERY).await;
        }
    }

    /// Stops what runs; what has ended by then is reported first.
    async fn release_all(&self) {
        let given = self.work().give_back(true).await;
        let stopped = Instant::now();
        while self.slots_busy() > 0 && stopped.elapsed() < STOPPED_WITHIN {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        tokio::time::sleep(REPORTED_WITHIN).await;
        self.release(given).await;
    }

    async fn release(&self, given: Vec<(swarm_protocol::LeaseId, Vec<swarm_protocol::Range>)>) {
        for (lease, tasks) in given {
            // The only error is that the process is stopping, and then the leases run out.
            let _stopping = self.commands().tell(Event::Released { lease, tasks }).await;
        }
    }

    /// Waits until a member wants this node to leave. Whoever runs the node decides: `swarm start` drains and ends.
    pub async fn drain_asked(&self) -> DrainAsked {
        let mut asked = self.drain_asks();
        let heard = asked.wait_for(Option::is_some).await.ok().and_then(|asked| *asked);
        match heard {
            Some(asked) => asked,
            // Nobody can ask any more.
            None => std::future::pending().await,
        }
    }

    /// Makes another node leave; returns once it has left. What runs there may take `timeout` to finish, or what that
    /// node allows by itself.
    pub async fn drain_node(&self, node: NodeId, timeout: Option<Duration>) -> Result<(), CommandError> {
        let asked = Instant::now();
        let timeout_ms = timeout.map(|timeout| u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX));
        let (mut ask_at, mut begun) = (asked, false);
        loop {
            match self.state_of(node) {
                None | Some(MemberState::Down) => return Ok(()),
                Some(MemberState::Draining) => begun = true,
                // It left with something still owed, and so without a word: soon it is known to be gone.
                Some(MemberState::Suspect) if begun => {}
                // It has left and was started again.
                Some(_) if begun => return Ok(()),
                Some(_) if asked.elapsed() >= BEGINS_WITHIN => return Err(CommandError::NotReached),
                Some(_) if Instant::now() >= ask_at => {
                    ask_at += ASK_EVERY;
                    self.commands().tell(Event::AskDrain { node, timeout_ms }).await?;
                }
                Some(_) => {}
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn state_of(&self, node: NodeId) -> Option<MemberState> {
        self.members().iter().find(|member| member.record.node == node).map(|member| member.state)
    }
}

/// Where it is told that this node should leave.
pub(crate) type DrainAsks = watch::Receiver<Option<DrainAsked>>;
