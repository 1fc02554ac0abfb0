//! `swarm logs` for programs: one item a task, with what it wrote.
//!
//! Always true: items are printed as they are known, so that a job of any size needs little memory; each task once, when it
//! has ended.
//!
//! Elsewhere: logs for people, byte for byte, are `logs`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use swarm_protocol::Content;

use super::args;
use super::logs::{FOLLOW_EVERY, Printed};
use super::output::{Format, json, print};
use super::target::{Selection, stage, task_name};
use crate::api::view::{Bytes, Ended, JobDetail, TaskRun};
use crate::api::{Client, Code, Failure};

/// Schema of a list of [`LogItem`].
pub(super) const LOGS: &str = "swarm.logs/1";
/// A longer output is named rather than told: a line of JSON is held in memory as a whole.
const TOLD_BYTES_MAX: u64 = 16 << 20;

/// What one task wrote.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct LogItem {
    /// `stage` or `stage[3]`.
    task: String,
    /// Its stage.
    stage: String,
    /// Its index in the stage.
    index: u32,
    /// How it ended.
    ended: Ended,
    /// In words.
    ending: String,
    /// Standard output, unless only the other was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout: Option<Bytes>,
    /// Standard error, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr: Option<Bytes>,
}

/// Prints the items of what is selected; with `--follow` until the job is over.
pub(super) async fn print_items(
    client: &Client,
    format: Format,
    args: &args::Logs,
    job: &JobDetail,
    selections: &[Selection],
) -> Result<(), Failure> {
    if args.prefix || args.tail.is_some() {
        let message = "--prefix and --tail are for text: JSON has each task's name and all of its output";
        return Err(Failure::new(Code::Usage, message).hint(format!("swarm logs {} -o jsonl", args.target)));
    }
    let mut items = Items { client, format, args, printed: Printed::default(), any: false };
    items.begin()?;
    loop {
        let now = if args.follow { client.job_within(&job.item.job, Duration::ZERO).await? } else { job.clone() };
        for selection in selections {
            items.print(&now, selection).await?;
        }
        if !args.follow || now.item.state.is_over() {
            return items.end();
        }
        tokio::time::sleep(FOLLOW_EVERY).await;
    }
}

struct Items<'a> {
    client: &'a Client,
    format: Format,
    args: &'a args::Logs,
    printed: Printed,
    any: bool,
}

impl Items<'_> {
    fn begin(&self) -> Result<(), Failure> {
        if self.format == Format::Json { print(&format!("{{\"schema\":\"{LOGS}\",\"items\":[")) } else { Ok(()) }
    }

    fn end(&self) -> Result<(), Failure> {
        if self.format == Format::Json { print("]}\n") } else { Ok(()) }
    }

    async fn print(&mut self, job: &JobDetail, of: &Selection) -> Result<(), Failure> {
        let from = self.printed.first_gap(of);
        let mut runs = self.client.tasks(&job.item.job, Some(of.stage), from).await?;
        while let Some(run) = runs.next().await? {
            let tasks = of.clip(&run);
            if tasks.start >= of.tasks.end {
                break;
            }
            let Some(ended) = run.ended else { continue };
            for task in self.printed.insert(of.stage, tasks).into_iter().flatten() {
                if ended == Ended::Failed || !self.args.failed {
                    self.print_task(job, &run, task, ended).await?;
                }
            }
        }
        Ok(())
    }

    async fn print_task(&mut self, job: &JobDetail, run: &TaskRun, task: u32, ended: Ended) -> Result<(), Failure> {
        let stage = stage(job, run.stage)?;
        let name = task_name(stage, task);
        if self.format == Format::Id {
            return print(&format!("{name}\n"));
        }
        let neither = !self.args.stdout && !self.args.stderr;
        let item = LogItem {
            task: name,
            stage: stage.name.clone(),
            index: task,
            ended,
            ending: run.ending.clone(),
            stdout: if self.args.stdout || neither { Some(self.told(&run.stdout, run).await?) } else { None },
            stderr: if self.args.stderr || neither { Some(self.told(&run.stderr, run).await?) } else { None },
        };
        let line = json(&item)?;
        let comma = if self.any && self.format == Format::Json { "," } else { "" };
        self.any = true;
        print(&format!("{comma}{}", if self.format == Format::Json { line.trim_end() } else { &line }))
    }

    /// The bytes themselves unless they are many.
    async fn told(&self, bytes: &Bytes, run: &TaskRun) -> Result<Bytes, Failure> {
        let content = bytes.content().map_err(|error| Failure::new(Code::Bug, error.to_string()))?;
        match content {
            Content::Blob { hash, len } if len <= TOLD_BYTES_MAX => {
                let mut all = Vec::new();
                self.client.blob(hash, &run.holders).await?.write_to(&mut all).await?;
                Ok(Bytes::of(&Content::Inline(all)))
            }
            _ => Ok(bytes.clone()),
        }
    }
}
