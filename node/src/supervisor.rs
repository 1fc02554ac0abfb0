//! Supervision: the one restart strategy of this program.
//!
//! Always true:
//! - a child that fails or panics is started again after a growing wait, at most [`RESTARTS_MAX`] times in
//!   [`RESTART_WINDOW`] over all children of a supervisor; after that, or when a child may not be restarted, the
//!   supervisor stops with everything below it and says why (crash-only: whoever runs the process starts it again);
//! - a child that ends without failing is over and stays so;
//! - actors are unnamed, because ractor's registry is shared by the whole process.
//!
//! Elsewhere: what the children do. A child is a function that is called once for each (re)start, so what must outlive
//! a failure (a queue, a handle) is owned by the function, and what must not is made inside.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Failures within [`RESTART_WINDOW`] after which restarting is no cure.
pub const RESTARTS_MAX: usize = 5;
/// How long a failure counts.
pub const RESTART_WINDOW: Duration = Duration::from_secs(60);
/// The wait before the first restart; doubles with each failure that counts.
const BACKOFF: Duration = Duration::from_millis(50);

/// Why a child failed.
pub type Failure = Box<dyn Error + Send + Sync>;

/// What follows a child's failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// It is started again.
    Restart,
    /// Everything stops: what the child stands for cannot be had back in this process.
    Stop,
}

/// A child: its name in logs, what follows its failure, and what it does.
pub struct Service {
    name: &'static str,
    on_failure: OnFailure,
    run: Box<dyn Fn(ActorCell) -> BoxFuture<'static, Result<(), Failure>> + Send + Sync>,
}

impl Service {
    /// A child that runs until the future of `run` ends.
    pub fn new<F, R>(name: &'static str, on_failure: OnFailure, run: R) -> Self
    where
        R: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        Self::supervising(name, on_failure, move |_| run())
    }

    /// The same for a child with actors of its own. Those that it links to the actor given to `run` end with it, and
    /// `run` itself has to notice when one of them fails.
    pub(crate) fn supervising<F, R>(name: &'static str, on_failure: OnFailure, run: R) -> Self
    where
        R: Fn(ActorCell) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        Self { name, on_failure, run: Box::new(move |parent| Box::pin(run(parent))) }
    }
}

/// Why a supervisor gave up.
#[derive(Debug, thiserror::Error)]
#[error("{child} failed and is not started again")]
pub struct Crash {
    /// The child.
    pub child: &'static str,
    /// Its last failure.
    pub source: Failure,
}

/// A running supervisor. Dropping it leaves it running.
#[derive(Debug)]
pub struct Supervisor {
    actor: ActorRef<Start>,
    ended: JoinHandle<()>,
    crash: Option<oneshot::Receiver<Crash>>,
}

impl Supervisor {
    /// Starts the children in order.
    pub async fn start(children: Vec<Service>) -> Result<Self, SpawnErr> {
        let (report, crash) = oneshot::channel();
        let children = children.into_iter().map(Arc::new).collect();
        let state = Children { children, running: HashMap::new(), failures: VecDeque::new(), report: Some(report) };
        let (actor, ended) = Actor::spawn(None, Strategy, state).await?;
        Ok(Self { actor, ended, crash: Some(crash) })
    }

    /// Waits until the supervisor gives up. Pending for ever when it is stopped instead.
    pub async fn crashed(&mut self) -> Crash {
        if let Some(crash) = &mut self.crash {
            let crash = crash.await;
            self.crash = None;
            if let Ok(crash) = crash {
                return crash;
            }
        }
        std::future::pending().await
    }

    /// Stops the children at their next await point, and returns when the supervisor is gone.
    pub async fn stop(self) {
        self.actor.kill();
        // The join fails only when the runtime is shutting down, and then it is gone too.
        let _gone = self.ended.await;
    }
}

/// "Start the child at this position."
#[derive(Debug)]
struct Start(usize);

struct Children {
    children: Vec<Arc<Service>>,
    running: HashMap<ActorId, usize>,
    failures: VecDeque<Instant>,
    report: Option<oneshot::Sender<Crash>>,
}

struct Strategy;

impl Actor for Strategy {
    type Msg = Start;
    type State = Children;
    type Arguments = Children;

    async fn pre_start(&self, myself: ActorRef<Start>, children: Children) -> Result<Children, ActorProcessingErr> {
        for position in 0..children.children.len() {
            myself.send_message(Start(position))?;
        }
        Ok(children)
    }

    async fn handle(
        &self,
        myself: ActorRef<Start>,
        Start(position): Start,
        state: &mut Children,
    ) -> Result<(), ActorProcessingErr> {
        let child = Runner(Arc::clone(&state.children[position]));
        match Actor::spawn_linked(None, child, (), myself.get_cell()).await {
            Ok((actor, _)) => {
                state.running.insert(actor.get_id(), position);
            }
            Err(error) => state.on_failed(&myself, position, error.into()),
        }
        Ok(())
    }

    // Overridden because by default a child's end stops its parent.
    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Start>,
        event: SupervisionEvent,
        state: &mut Children,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(child, cause) => {
                if let Some(position) = state.running.remove(&child.get_id()) {
                    state.on_failed(&myself, position, cause);
                }
            }
            SupervisionEvent::ActorTerminated(child, ..) => {
                state.running.remove(&child.get_id());
            }
            _ => {}
        }
        Ok(())
    }
}

impl Children {
    fn on_failed(&mut self, myself: &ActorRef<Start>, position: usize, cause: Failure) {
        let Service { name, on_failure, .. } = *self.children[position];
        let now = Instant::now();
        self.failures.retain(|at| now.duration_since(*at) < RESTART_WINDOW);
        if on_failure == OnFailure::Stop || self.failures.len() >= RESTARTS_MAX {
            return self.give_up(myself, Crash { child: name, source: cause });
        }
        let wait = BACKOFF * (1 << self.failures.len());
        self.failures.push_back(now);
        tracing::error!(child = name, error = %cause, "failed; starting it again in {wait:?}");
        myself.send_after(wait, move || Start(position));
    }

    fn give_up(&mut self, myself: &ActorRef<Start>, crash: Crash) {
        tracing::error!(child = crash.child, error = %crash.source, "failed; stopping everything");
        if let Some(report) = self.report.take() {
            // Nobody listening means that the owner is stopping us anyhow.
            let _unheard = report.send(crash);
        }
        myself.kill();
    }
}

/// The actor around one child: it lives while the child's future does.
struct Runner(Arc<Service>);

/// "Begin." Sent by the actor to itself, so that the work is outside its start and a panic is a supervision event.
struct Begin;

impl Actor for Runner {
    type Msg = Begin;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Begin>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(myself.send_message(Begin)?)
    }

    async fn handle(&self, myself: ActorRef<Begin>, Begin: Begin, (): &mut ()) -> Result<(), ActorProcessingErr> {
        (self.0.run)(myself.get_cell()).await?;
        myself.stop(None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_child_that_panics_is_started_again() {
        let (starts, started) = tokio::sync::mpsc::unbounded_channel();
        let runs = AtomicUsize::new(0);
        let child = Service::new("child", OnFailure::Restart, move || {
            let run = runs.fetch_add(1, Ordering::SeqCst);
            let starts = starts.clone();
            async move {
                starts.send(run).expect("the test listens");
                assert!(run > 0, "the first run fails");
                std::future::pending().await
            }
        });
        let supervisor = Supervisor::start(vec![child]).await.unwrap();
        assert_eq!(take(started, 2).await, [0, 1]);
        supervisor.stop().await;
    }

    #[tokio::test]
    async fn a_child_that_keeps_failing_stops_everything() {
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&runs);
        let failing = Service::new("failing", OnFailure::Restart, move || {
            counted.fetch_add(1, Ordering::SeqCst);
            async { Err("no luck".into()) }
        });
        let (alive, mut gone) = tokio::sync::mpsc::channel::<()>(1);
        let other = Service::new("other", OnFailure::Restart, move || {
            let alive = alive.clone();
            async move {
                alive.closed().await;
                Ok(())
            }
        });
        let mut supervisor = Supervisor::start(vec![other, failing]).await.unwrap();
        let crash = tokio::time::timeout(DEADLINE, supervisor.crashed()).await.unwrap();
        assert_eq!((crash.child, crash.source.to_string()), ("failing", "no luck".into()));
        assert_eq!(runs.load(Ordering::SeqCst), RESTARTS_MAX + 1);
        supervisor.stop().await;
        assert_eq!(tokio::time::timeout(DEADLINE, gone.recv()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_child_that_may_not_be_restarted_stops_everything_at_once() {
        let child = Service::new("storage", OnFailure::Stop, || async { Err("the disk is gone".into()) });
        let mut supervisor = Supervisor::start(vec![child]).await.unwrap();
        let crash = tokio::time::timeout(DEADLINE, supervisor.crashed()).await.unwrap();
        assert_eq!(crash.child, "storage");
    }

    async fn take(mut from: tokio::sync::mpsc::UnboundedReceiver<usize>, count: usize) -> Vec<usize> {
        let mut taken = Vec::new();
        while taken.len() < count {
            taken.push(tokio::time::timeout(DEADLINE, from.recv()).await.unwrap().unwrap());
        }
        taken
    }
}
