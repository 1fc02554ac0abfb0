//! `swarm ls`, `show`, `wait` and `cancel`.

use std::io::{self, IsTerminal};
use std::time::Duration;

use swarm_protocol::JobState;

use super::args::{self, Global};
use super::output::{self, Format, TaskItem, print_bytes, shown, word};
use super::target::{Selection, Target, stage, task_name};
use super::wait::{Meanwhile, Patience, or_detach, until_over, verdict};
use crate::api::view::{JobDetail, JobItem, List, NodeItem, TaskRun};
use crate::api::{Client, Code, Failure};

/// How often a watched list is looked at: a job that ends is seen at once, and asking costs little.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Moves to the upper left corner of a terminal and clears what is there.
const CLEAR_SCREEN: &str = "\u{1b}[H\u{1b}[J";

/// `swarm ls`.
pub(super) async fn ls(client: &Client, global: &Global, args: &args::Ls) -> Result<(), Failure> {
    if args.watch {
        return watch(client, global, args).await;
    }
    output::list(global.output, &listed(client, args).await?)
}

/// Shows the list whenever it changed; on a terminal in place.
async fn watch(client: &Client, global: &Global, args: &args::Ls) -> Result<(), Failure> {
    let mut before = None;
    loop {
        let jobs = listed(client, args).await?;
        if before.as_ref() != Some(&jobs) {
            if global.output == Format::Table && io::stdout().is_terminal() {
                output::print(CLEAR_SCREEN)?;
            }
            output::list(global.output, &jobs)?;
            before = Some(jobs);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

async fn listed(client: &Client, args: &args::Ls) -> Result<List<JobItem>, Failure> {
    let filtered = !args.state.is_empty() || !args.labels.is_empty();
    let mut jobs = if args.all || filtered { client.jobs().await? } else { client.newest_jobs(args.limit).await? };
    jobs.items.retain(|job| is_wanted(job, args));
    jobs.items.truncate(if args.all { usize::MAX } else { args.limit });
    Ok(jobs)
}

fn is_wanted(job: &JobItem, args: &args::Ls) -> bool {
    let state = |state: &args::State| match state {
        args::State::Running => JobState::Running,
        args::State::Stopping => JobState::Stopping,
        args::State::Done => JobState::Done,
        args::State::Failed => JobState::Failed,
        args::State::Cancelled => JobState::Cancelled,
    };
    let has = |label: &String| match label.split_once('=') {
        Some((key, value)) => job.labels.get(key).is_some_and(|known| known == value),
        None => job.labels.contains_key(label),
    };
    (args.state.is_empty() || args.state.iter().any(|wanted| state(wanted) == job.state)) && args.labels.iter().all(has)
}

/// `swarm show`.
pub(super) async fn show(client: &Client, global: &Global, args: &args::Show) -> Result<(), Failure> {
    if args.spec {
        return print_bytes(&client.source(&args.id).await?);
    }
    let target = Target::parse(&args.id)?;
    let job = match client.job(&target.job).await {
        Err(unknown) if unknown.code == Code::NotFound && target.is_whole() && !args.tasks => {
            // Of a name that several jobs have, they are told.
            let message = unknown.message.replacen("no job `", "no job and no node `", 1);
            let neither = || Failure { message, ..unknown };
            return output::node(global.output, &node(client, &args.id).await?.ok_or_else(neither)?);
        }
        job => job?,
    };
    let outcomes = if args.tasks || args.id.contains('/') { Some(tasks(client, &job, &target).await?) } else { None };
    output::job(global.output, &job, outcomes.as_deref())
}

/// The only node of this name, or whose id begins so.
async fn node(client: &Client, name: &str) -> Result<Option<NodeItem>, Failure> {
    let mut nodes = client.nodes().await?.items;
    nodes.retain(|node| !name.is_empty() && (node.name == name || node.id.starts_with(name)));
    Ok(if nodes.len() == 1 { nodes.pop() } else { None })
}

async fn tasks(client: &Client, job: &JobDetail, target: &Target) -> Result<Vec<TaskItem>, Failure> {
    let mut items = Vec::new();
    for selection in target.select(job)? {
        let mut runs = client.tasks(&job.item.job, Some(selection.stage), selection.tasks.start).await?;
        let mut next = selection.tasks.start;
        while let Some(run) = runs.next().await? {
            let tasks = selection.clip(&run);
            if tasks.start >= selection.tasks.end {
                break;
            }
            waiting(job, &selection, next..tasks.start, &mut items)?;
            next = tasks.end;
            for task in tasks {
                items.push(item(job, &run, task)?);
            }
        }
        waiting(job, &selection, next..selection.tasks.end, &mut items)?;
    }
    Ok(items)
}

/// Tasks of which nothing is known yet.
fn waiting(
    job: &JobDetail,
    selection: &Selection,
    tasks: std::ops::Range<u32>,
    items: &mut Vec<TaskItem>,
) -> Result<(), Failure> {
    let stage = stage(job, selection.stage)?;
    items.extend(tasks.map(|task| TaskItem {
        task: task_name(stage, task),
        ending: String::new(),
        attempts: 0,
        node: None,
    }));
    Ok(())
}

fn item(job: &JobDetail, run: &TaskRun, task: u32) -> Result<TaskItem, Failure> {
    // What a task that has not ended failed with is history, not its ending.
    let ending = if run.ended.is_some() { run.ending.clone() } else { String::new() };
    let task = task_name(stage(job, run.stage)?, task);
    Ok(TaskItem { task, ending, attempts: run.attempts, node: run.failed_on.clone() })
}

/// `swarm wait`.
pub(super) async fn wait(client: &Client, global: &Global, args: &args::Wait) -> Result<(), Failure> {
    let patience = args.timeout.map(Patience::of);
    let mut unsuccessful = None;
    for id in &args.ids {
        // The id is asked for once: `@last` must not become another job meanwhile.
        let job = client.job(id).await?.item;
        let over = or_detach(&job.id, false, until_over(client, &job.job, patience, Meanwhile::Progress)).await?;
        if global.output != Format::Table {
            output::job(global.output, &over, None)?;
        }
        if let Err(failure) = verdict(client, &over, false).await {
            // The last one is told by whoever runs the command.
            unsuccessful.replace(failure).iter().for_each(super::complain);
        }
    }
    unsuccessful.map_or(Ok(()), Err)
}

/// `swarm cancel`.
pub(super) async fn cancel(client: &Client, global: &Global, args: &args::Ids) -> Result<(), Failure> {
    for id in &args.ids {
        let job = client.cancel(id).await?;
        match job.item.state {
            JobState::Done | JobState::Failed => eprintln!("{} was over already: {}", job.item.id, word(&job.item)),
            _ => eprintln!("{} {}", job.item.id, word(&job.item)),
        }
        if global.output != Format::Table {
            output::job(global.output, &job, None)?;
        }
    }
    Ok(())
}

/// `swarm status`.
pub(super) async fn status(client: &Client, global: &Global) -> Result<(), Failure> {
    output::status(global.output, &client.status().await?)
}

/// `swarm nodes`.
pub(super) async fn nodes(client: &Client, global: &Global) -> Result<(), Failure> {
    output::list(global.output, &client.nodes().await?)
}

/// `swarm drain`.
pub(super) async fn drain(client: &Client, global: &Global, args: &args::Drain) -> Result<(), Failure> {
    let drained = tokio::select! {
        drained = client.drain(args.target.as_deref(), args.drain_timeout) => drained?,
        _ = tokio::signal::ctrl_c() => {
            return Err(Failure::new(Code::Detached, "the node goes on draining; look at it with").hint("swarm nodes"));
        }
    };
    output::drained(global.output, &drained)?;
    match drained.handed_over {
        Some(false) => {
            let message =
                "the node has left, but not everything was handed over in time; it stays in its data directory";
            Err(Failure::new(Code::TimedOut, message).hint("swarm start   # brings it back"))
        }
        Some(true) => {
            eprintln!("drained: everything was handed over, and the node has left");
            Ok(())
        }
        None => {
            eprintln!("drained: node {} has left", shown(&drained.name));
            Ok(())
        }
    }
}
