//! Runs a node inside this program, hands it three jobs in one call, hears of their ends as they come, and prints what their
//! tasks wrote. With `--bootstrap` in [`RuntimeOptions`] the same program joins a swarm, and the tasks run where there is room.
//!
//!     cargo run --release --locked --workspace --bin swarm-embed

use std::path::Path;

use anyhow::Result;
use swarm_node::{Client, Runtime, RuntimeOptions};

/// Where the module of the jobs is.
const HELLO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../hello");
/// Tasks of each job.
const TASKS: u32 = 5;

#[tokio::main]
async fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for line in greetings(dir.path()).await? {
        println!("{line}");
    }
    Ok(())
}

/// What the tasks of three jobs wrote, a line each.
async fn greetings(data: &Path) -> Result<Vec<String>> {
    let runtime = Runtime::start(RuntimeOptions::embedded(data)).await?;
    let lines = all_jobs(&Client::new(runtime.handle())).await;
    runtime.shutdown().await;
    lines
}

async fn all_jobs(client: &Client) -> Result<Vec<String>> {
    let mut jobs = Vec::new();
    for name in ["one", "two", "three"] {
        let text = format!("name = \"{name}\"\n[task.hello]\nwasm = \"hello.wasm\"\narray = \"0..{TASKS}\"\n");
        jobs.push(client.parse(&text, HELLO).await?);
    }
    // From here on: what ended before the submit returned is not missed.
    let mut completions = client.completions(None);
    let mut running = Vec::new();
    for submitted in client.submit_all(&jobs).await {
        running.push(submitted?);
    }
    let mut lines = Vec::new();
    while let Some((_, job)) = completions.next().await {
        let was_running = running.len();
        running.retain(|other| *other != job);
        if running.len() < was_running {
            lines.extend(written(client, job).await?);
        }
        if running.is_empty() {
            break;
        }
    }
    Ok(lines)
}

async fn written(client: &Client, job: swarm_node::JobId) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for result in client.results(job).await? {
        let text = String::from_utf8_lossy(&client.stdout(&result).await?).into_owned();
        lines.push(format!("{}[{}] {}: {}", result.stage, result.index, result.ending, text.trim_end()));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn every_task_of_every_job_greets() {
        let dir = tempfile::tempdir().expect("a directory");
        let lines = greetings(dir.path()).await.expect("three jobs");
        assert_eq!(lines.len(), 3 * TASKS as usize);
        assert!(lines.iter().all(|line| line.starts_with("hello[") && line.contains("exited 0: ")), "{lines:?}");
    }
}
