//! JobWatchers: one actor for each job that somebody on this node waits for.
//!
//! Always true: however many wait for a job, one actor asks for its status, every [`LOOK_EVERY`] at first and less often the
//! longer it takes; it ends when the job is over, when nobody waits any more, and when it gets no answer. Whoever waits then
//! finds the channel closed and asks again.
//!
//! Elsewhere: the answers come from the core; waiting itself is [`Handle::wait`](crate::Handle::wait).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use swarm_protocol::{JobId, JobStatus};
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use crate::commands::{CommandError, Commands};
use crate::supervisor::Failure;

/// How often a job is looked at: faster than people notice.
const LOOK_EVERY: Duration = Duration::from_millis(150);
/// The same when it is watched for long: each look costs two nodes a question and an answer.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(1);
/// This part of the time that it has been watched lies between two looks.
const LOOK_PART: u32 = 50;
/// Requests that wait for the actor.
const QUEUE_MAX: usize = 256;

/// The way to the watchers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Watchers {
    wants: mpsc::Sender<Want>,
}

/// Somebody waits for this job, of which this is known.
struct Want {
    job: JobId,
    status: JobStatus,
    reply: oneshot::Sender<watch::Receiver<JobStatus>>,
}

impl Watchers {
    /// The way in, and what the supervisor runs.
    pub(crate) fn new(commands: Commands) -> (Self, Manager) {
        let (wants, queue) = mpsc::channel(QUEUE_MAX);
        (Self { wants }, Manager { queue: Arc::new(Mutex::new(queue)), commands })
    }

    /// The status of a job as it changes, beginning with what is known. Closed when the watcher lost sight of the job.
    pub(crate) async fn watch(
        &self,
        job: JobId,
        status: JobStatus,
    ) -> Result<watch::Receiver<JobStatus>, CommandError> {
        let (reply, watched) = oneshot::channel();
        self.wants.send(Want { job, status, reply }).await.map_err(|_| CommandError::Stopping)?;
        watched.await.map_err(|_| CommandError::Restarted)
    }
}

/// What the actors need, and keep when they are started again.
#[derive(Clone)]
pub(crate) struct Manager {
    queue: Arc<Mutex<mpsc::Receiver<Want>>>,
    commands: Commands,
}

impl Manager {
    /// Runs until nobody can ask any more. Fails when the actor above the watchers does.
    pub(crate) async fn run(self, parent: ActorCell) -> Result<(), Failure> {
        let mut queue = self.queue.lock().await;
        let (watchers, _) = Actor::spawn_linked(None, JobWatchers, self.commands, parent).await?;
        while let Some(want) = queue.recv().await {
            watchers.send_message(want).map_err(|_| "the actor above the watchers of jobs is gone")?;
        }
        Ok(())
    }
}

struct JobWatchers;

struct Watched {
    commands: Commands,
    jobs: BTreeMap<JobId, watch::Sender<JobStatus>>,
    actors: HashMap<ActorId, JobId>,
}

impl Actor for JobWatchers {
    type Msg = Want;
    type State = Watched;
    type Arguments = Commands;

    async fn pre_start(&self, _: ActorRef<Want>, commands: Commands) -> Result<Watched, ActorProcessingErr> {
        Ok(Watched { commands, jobs: BTreeMap::new(), actors: HashMap::new() })
    }

    async fn handle(&self, myself: ActorRef<Want>, want: Want, state: &mut Watched) -> Result<(), ActorProcessingErr> {
        let watched = state.watch(&myself, want.job, want.status).await?;
        // Whoever asked may have gone away; then the watcher ends by itself.
        let _unheard = want.reply.send(watched);
        Ok(())
    }

    // Overridden because by default a child's end stops its parent.
    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Want>,
        event: SupervisionEvent,
        state: &mut Watched,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(actor, ..) => state.forget(&actor),
            SupervisionEvent::ActorFailed(actor, cause) => {
                tracing::error!(%cause, "the watcher of a job failed");
                state.forget(&actor);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Watched {
    async fn watch(
        &mut self,
        myself: &ActorRef<Want>,
        job: JobId,
        status: JobStatus,
    ) -> Result<watch::Receiver<JobStatus>, ActorProcessingErr> {
        if let Some(known) = self.jobs.get(&job) {
            return Ok(known.subscribe());
        }
        let (status, watched) = watch::channel(status);
        let (commands, began) = (self.commands.clone(), Instant::now());
        let watcher = Watching { job, status: status.clone(), commands, began };
        let (actor, _) = Actor::spawn_linked(None, Watcher, watcher, myself.get_cell()).await?;
        self.actors.insert(actor.get_id(), job);
        self.jobs.insert(job, status);
        Ok(watched)
    }

    /// With the last sender, the channel of whoever came too late for this watcher is closed.
    fn forget(&mut self, actor: &ActorCell) {
        if let Some(job) = self.actors.remove(&actor.get_id()) {
            self.jobs.remove(&job);
        }
    }
}

/// The actor of one job.
struct Watcher;

struct Watching {
    job: JobId,
    status: watch::Sender<JobStatus>,
    commands: Commands,
    began: Instant,
}

/// "Look at the job." Sent by the actor to itself.
struct Look;

impl Actor for Watcher {
    type Msg = Look;
    type State = Watching;
    type Arguments = Watching;

    async fn pre_start(&self, myself: ActorRef<Look>, watching: Watching) -> Result<Watching, ActorProcessingErr> {
        myself.send_message(Look)?;
        Ok(watching)
    }

    async fn handle(&self, myself: ActorRef<Look>, Look: Look, state: &mut Watching) -> Result<(), ActorProcessingErr> {
        if state.is_worthwhile() && state.look().await {
            myself.send_message(Look)?;
        } else {
            myself.stop(None);
        }
        Ok(())
    }
}

impl Watching {
    fn is_worthwhile(&self) -> bool {
        !self.status.is_closed() && !self.status.borrow().state().is_over()
    }

    /// Waits for the next look and tells what it sees. False when there is nothing to see, or nobody to tell.
    async fn look(&self) -> bool {
        let wait = (self.began.elapsed() / LOOK_PART).clamp(LOOK_EVERY, LOOK_EVERY_MAX);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.status.closed() => return false,
        }
        match self.commands.job(self.job).await {
            Ok((_, status)) => self.tell(status),
            Err(error) => {
                tracing::debug!(job = ?self.job, %error, "the watcher lost sight of the job");
                return false;
            }
        }
        true
    }

    fn tell(&self, status: JobStatus) {
        self.status.send_if_modified(|known| {
            let news = *known != status;
            *known = status;
            news
        });
    }
}

#[cfg(test)]
mod tests {
    use swarm_protocol::lattice::Counts;
    use swarm_protocol::{Answer, Event, Notice};

    use super::*;
    use crate::supervisor::{OnFailure, Service, Supervisor};

    const DEADLINE: Duration = Duration::from_secs(20);
    const JOB: JobId = JobId::from_bytes([1; 32]);

    #[tokio::test]
    async fn all_who_wait_for_a_job_share_one_question() {
        let mut core = Core::start().await;
        let mut waiters = Vec::new();
        for _ in 0..3 {
            waiters.push(core.watchers.watch(JOB, status(0)).await.unwrap());
        }
        core.answer(known(0)).await;
        core.answer(known(1)).await;
        for mut waiter in waiters {
            let over = within(waiter.wait_for(|status| status.state().is_over())).await;
            assert_eq!(*over.unwrap(), status(1));
        }
        core.supervisor.stop().await;
    }

    #[tokio::test]
    async fn a_job_that_is_lost_sight_of_can_be_watched_again() {
        let mut core = Core::start().await;
        let mut waiter = core.watchers.watch(JOB, status(0)).await.unwrap();
        core.answer(Answer::Unknown).await;
        assert!(within(waiter.changed()).await.is_err());
        let mut again = core.watchers.watch(JOB, status(0)).await.unwrap();
        core.answer(known(1)).await;
        within(again.changed()).await.unwrap();
        core.supervisor.stop().await;
    }

    #[tokio::test]
    async fn a_watcher_ends_with_the_last_who_waits() {
        let core = Core::start().await;
        let waiter = core.watchers.watch(JOB, status(0)).await.unwrap();
        drop(waiter);
        // Only a new watcher begins with what this one knows.
        let ended = async { while *core.watchers.watch(JOB, status(1)).await.unwrap().borrow() != status(1) {} };
        within(ended).await;
        core.supervisor.stop().await;
    }

    /// The watchers under a supervisor, with a core whose answers the test gives.
    struct Core {
        watchers: Watchers,
        commands: Commands,
        events: mpsc::Receiver<Event>,
        supervisor: Supervisor,
    }

    impl Core {
        async fn start() -> Self {
            let (commands, events) = Commands::new(watch::Sender::new(None).subscribe());
            let (watchers, manager) = Watchers::new(commands.clone());
            let run = move |parent| manager.clone().run(parent);
            let service = Service::supervising("watchers", OnFailure::Stop, run);
            let supervisor = Supervisor::start(vec![service]).await.unwrap();
            Self { watchers, commands, events, supervisor }
        }

        async fn answer(&mut self, answer: Answer) {
            let Some(Event::Ask { token, .. }) = within(self.events.recv()).await else { panic!("a question") };
            self.commands.answer(token, Notice::Answered { token, answer });
        }
    }

    async fn within<F: Future>(future: F) -> F::Output {
        tokio::time::timeout(DEADLINE, future).await.expect("it takes too long")
    }

    /// One task, of which so many are done.
    fn status(done: u32) -> JobStatus {
        JobStatus { stages: vec![(1, Counts { done, ..Counts::default() })], stop: None }
    }

    /// The watcher looks only at the status, so the job itself is empty.
    fn known(done: u32) -> Answer {
        let job = serde_json::from_str(r#"{"bytes": [], "signature": []}"#).unwrap();
        Answer::Job { job, status: status(done) }
    }
}
