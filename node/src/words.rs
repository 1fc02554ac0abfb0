//! Words for what people read in several places: sizes, spans of time, and why a job waits.
//!
//! Elsewhere: what the reasons are is `swarm_protocol::reasons`; tables and JSON are `cli::output` and `api::view`.

use bytesize::ByteSize;
use swarm_protocol::reasons::{Cause, Named, NodeGone, Reason, RunningOn};
use swarm_protocol::situation::Order;

/// Text that others wrote, without what could move the cursor or break a line.
pub(crate) fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// `512B`, `1.5GiB`: one word, for columns.
pub(crate) fn bytes(bytes: u64) -> String {
    ByteSize(bytes).to_string().replace(' ', "")
}

/// `0.4 s`, `20 s`, `59 m`, `3 h`: what a glance needs.
pub(crate) fn span(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        10_000..120_000 => format!("{} s", ms / 1000),
        120_000..7_200_000 => format!("{} m", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

/// `1 task`, `2 tasks`.
pub(crate) fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A reason in one line, at a time in milliseconds since 1970.
pub(crate) fn reason(reason: &Reason, now_unix_ms: u64) -> String {
    let Reason { stage, tasks, first, cause, queue_left_ms } = reason;
    let mut line = match (stage, first) {
        (Some(_), Some(first)) if *tasks == 1 => format!("{first}: "),
        (Some(stage), Some(first)) => format!("{stage} ({}, first {first}): ", count(*tasks, "task")),
        _ => String::new(),
    };
    line.push_str(&cause_text(cause, now_unix_ms));
    if let Some(left) = queue_left_ms {
        line.push_str(&format!("; queue timeout in {}", span(*left)));
    }
    line
}

fn cause_text(cause: &Cause, now_unix_ms: u64) -> String {
    match cause {
        Cause::Done => "succeeded".into(),
        Cause::Cancelled => "a user cancelled the job".into(),
        Cause::Stopping { cancelled: true } => "a user cancelled the job, and what runs is being ended".into(),
        Cause::Stopping { .. } => {
            "the job is stopped because too many tasks failed, and what runs is being ended".into()
        }
        Cause::TooManyFailed { failed, failures_max } => {
            let failed = count((*failed).into(), "failed task");
            format!("the job was stopped by {failed}: it allows {failures_max} (max_failures)")
        }
        Cause::NeedFailed { needs } => format!("never run, because `{needs}` that it needs did not succeed"),
        Cause::Failed { attempts, node, ending, said, .. } => {
            let tried = if *attempts > 1 { format!(" in attempt {attempts}") } else { String::new() };
            format!("{}{}{tried}{}", shown(&ending.to_string()), on(node.as_ref()), quoted(said))
        }
        Cause::NotAcknowledged { have, need } => {
            format!("the submit waits for copies of the job on other nodes: {have} of {need} confirmed")
        }
        Cause::NoNode { unmet } => shown(&unmet.to_string()),
        Cause::NodesGone { nodes } => {
            let state =
                |it: &NodeGone| format!("{} is {}", shown(&it.node.name), format!("{:?}", it.state).to_lowercase());
            let nodes: Vec<String> = nodes.iter().map(state).collect();
            format!("no node that could run it is there: {}", nodes.join(", "))
        }
        Cause::BlobsMissing => "no node that answers has the job's modules and inputs".into(),
        Cause::Unreachable { custodians } => {
            format!("the nodes that keep these tasks do not answer: {}", names(custodians))
        }
        Cause::NoArbiter { silent } if silent.is_empty() => {
            "the nodes that keep these tasks agree on who grants them".into()
        }
        Cause::NoArbiter { silent } => {
            format!("nobody grants these tasks yet; of the nodes that keep them do not answer: {}", names(silent))
        }
        Cause::Preparing { arbiter, waits_for } => {
            format!("node {} takes over and waits for {}", shown(&arbiter.name), names(waits_for))
        }
        Cause::TakenOver { arbiter, wait_ms } => {
            let wait = span(*wait_ms);
            format!("node {} has just taken over and lets running tasks report for {wait}", shown(&arbiter.name))
        }
        Cause::LeasedToLost { node, state, since_ms } => {
            let state = format!("{state:?}").to_lowercase();
            let since = span(*since_ms);
            format!(
                "leased to node {} since {since}, which is {state}: granted again within seconds",
                shown(&node.name)
            )
        }
        Cause::BackingOff { wait_ms, attempt, of, node, ending, said, .. } => {
            let until = clock(now_unix_ms.saturating_add(*wait_ms));
            let ending = shown(&ending.to_string());
            format!(
                "backing off until {until} after attempt {attempt} of {of}{}: {ending}{}",
                on(node.as_ref()),
                quoted(said)
            )
        }
        Cause::ParallelReached { parallel_max } => {
            format!("max_parallel = {parallel_max} tasks of the job run already")
        }
        Cause::Behind { name, job, ahead, priority, order } => {
            let why = match order {
                Order::Priority => format!("its priority {priority} is greater"),
                Order::Share => "fewer of its tasks, or of its submitter's, are running".into(),
                Order::Arrival => "it was submitted earlier".into(),
            };
            let id = job.chars().take(6).collect::<String>();
            let ahead = count((*ahead).into(), "task");
            format!("all suitable nodes are busy, and {ahead} of {}-{id} come first: {why}", shown(name))
        }
        Cause::Busy { nodes, free_in_ms } => {
            let next = free_in_ms.map(|ms| format!(", the next is free in about {}", span(ms))).unwrap_or_default();
            match nodes {
                1 => format!("the only suitable node is busy{}", next.replace("the next", "and")),
                2 => format!("both suitable nodes are busy{next}"),
                _ => format!("all {nodes} suitable nodes are busy{next}"),
            }
        }
        Cause::Avoids { nodes, wait_ms } => {
            format!("it failed on {}, the only free node, and is kept from it for {}", names(nodes), span(*wait_ms))
        }
        Cause::ForPreferred => "kept for a moment for nodes that the job prefers".into(),
        Cause::Starting { nodes } => format!("about to start: {} free", is_are(*nodes)),
        Cause::Running { nodes } => {
            let node = |it: &RunningOn| {
                let tasks = if nodes.len() > 1 || it.tasks > 1 { format!(" ({})", it.tasks) } else { String::new() };
                format!("{}{tasks} since {}", shown(&it.node.name), span(it.since_ms))
            };
            format!("leased to node {}", nodes.iter().map(node).collect::<Vec<_>>().join(", "))
        }
        Cause::Copying => "ended; the outputs are being copied to a second node".into(),
        Cause::Recording => "ended; the result is being recorded on a second node".into(),
        Cause::WaitsForStage { needs, left, of } => format!("waits for `{needs}` ({left} of {of} left)"),
        Cause::WaitsForTask { needs } => format!("waits for `{needs}`"),
    }
}

fn is_are(nodes: usize) -> String {
    if nodes == 1 { "1 suitable node is".into() } else { format!("{nodes} suitable nodes are") }
}

fn on(node: Option<&Named>) -> String {
    node.map(|node| format!(" on node {}", shown(&node.name))).unwrap_or_default()
}

fn quoted(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": \u{201c}{}\u{201d}", shown(said)) }
}

fn names(nodes: &[Named]) -> String {
    let names: Vec<String> = nodes.iter().map(|node| shown(&node.name)).collect();
    if names.is_empty() { "nobody".into() } else { names.join(", ") }
}

/// The time of day.
fn clock(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map(|time| time.strftime("%H:%M:%S UTC").to_string()).unwrap_or_default()
}
