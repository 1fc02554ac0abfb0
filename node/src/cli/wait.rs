//! Waiting for a job: until it is over, until a deadline, or until the user has had enough.

use std::collections::BTreeMap;
use std::time::Duration;

use swarm_protocol::JobState;
use tokio::time::Instant;

use super::logs::Printer;
use super::output::{ago, progress, shown, word};
use super::progress::Progress;
use super::target::{Target, stage, task_name};
use crate::api::view::{Ended, JobDetail, JobItem};
use crate::api::{Client, Code, Failure};

/// Between two looks at how far a job is. Its end is told at once.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// Reasons of failure that are named.
const REASONS_MAX: usize = 5;
/// Runs of tasks that are looked at for reasons: enough for a picture, quick for a job of any size.
const RUNS_EXAMINED_MAX: usize = 10_000;

/// What to do while waiting.
pub(super) enum Meanwhile<'a> {
    /// Show how far it is, on stderr.
    Progress,
    /// Print what tasks write as they finish.
    Follow(&'a mut Printer),
}

/// How long a user waits.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    allowed: Duration,
    until: Instant,
}

impl Patience {
    /// From now on.
    pub(super) fn of(allowed: Duration) -> Self {
        Self { allowed, until: Instant::now() + allowed }
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

/// Waits until a job is over.
pub(super) async fn until_over(
    client: &Client,
    id: &str,
    patience: Option<Patience>,
    mut meanwhile: Meanwhile<'_>,
) -> Result<JobDetail, Failure> {
    let mut shown = Progress::new();
    loop {
        let left = patience.map_or(LOOK_EVERY, |patience| patience.left());
        let job = client.job_within(id, left.min(LOOK_EVERY)).await?;
        match &mut meanwhile {
            Meanwhile::Progress => shown.update(&job.item),
            Meanwhile::Follow(printer) => {
                let all = Target::parse(&job.item.job)?.select(&job)?;
                printer.print_new(client, &job, &all).await?;
                if !job.item.state.is_over() {
                    printer.print_live(client, &job, &all).await?;
                }
            }
        }
        if job.item.state.is_over() {
            return Ok(job);
        }
        if let Some(patience) = patience.filter(|patience| patience.left().is_zero()) {
            return Err(timed_out(&job.item, patience.allowed));
        }
    }
}

fn timed_out(item: &JobItem, waited: Duration) -> Failure {
    let message = format!("{} is not finished after {}: {}; it still runs", item.id, ago(waited), progress(item));
    Failure::new(Code::TimedOut, message).hint(format!("swarm explain {0}   # or go on: swarm wait {0}", item.id))
}

/// Hands a job over, or gives up at Ctrl-C.
pub(super) async fn or_give_up<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => {
            Err(Failure::new(Code::Detached, "stopped before the job was acknowledged").hint("swarm ls"))
        }
    }
}

/// Waits for `work`, or until Ctrl-C, which leaves a job alone.
pub(super) async fn or_detach<T>(
    id: &str,
    embedded: bool,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => Err(match embedded {
            true => Failure::new(Code::Detached, "stopped: the job ends with its embedded swarm"),
            false => detached(id).hint(format!("swarm wait {id}")),
        }),
    }
}

/// What Ctrl-C leaves behind.
pub(super) fn detached(id: &str) -> Failure {
    Failure::new(Code::Detached, format!("detached: {id} keeps running; come back with"))
}

/// Says how a job ended; an error unless every task succeeded.
pub(super) async fn verdict(client: &Client, job: &JobDetail, embedded: bool) -> Result<(), Failure> {
    let item = &job.item;
    let summary = format!("{} {}: {}", item.id, word(item), progress(item));
    if item.state == JobState::Done {
        eprintln!("{summary}");
        return Ok(());
    }
    let reasons = reasons(client, job).await?;
    let failure = Failure::new(Code::JobFailed, [vec![summary], reasons].concat().join("\n"));
    Err(if embedded { failure } else { failure.hint(format!("swarm logs {} --failed", item.id)) })
}

/// Equal reasons of failed tasks, grouped, the most frequent first.
async fn reasons(client: &Client, job: &JobDetail) -> Result<Vec<String>, Failure> {
    let mut groups: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let mut runs = client.tasks(&job.item.job, None, 0).await?;
    for _ in 0..RUNS_EXAMINED_MAX {
        let Some(run) = runs.next().await? else { break };
        if run.ended == Some(Ended::Failed) {
            let first = task_name(stage(job, run.stage)?, run.first);
            groups.entry(run.ending).or_insert((0, first)).0 += u64::from(run.count);
        }
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, (tasks, _))| std::cmp::Reverse(*tasks));
    let more = groups.len().saturating_sub(REASONS_MAX);
    let mut lines: Vec<String> = groups.iter().take(REASONS_MAX).map(reason).collect();
    lines.extend((more > 0).then(|| format!("  and {more} other reasons")));
    Ok(lines)
}

fn reason((ending, (tasks, first)): &(String, (u64, String))) -> String {
    let ending = shown(ending);
    if *tasks == 1 { format!("  {first}: {ending}") } else { format!("  {tasks} tasks, first {first}: {ending}") }
}
