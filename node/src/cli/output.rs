//! How data is printed: a table for eyes, plain columns in a pipe, JSON for programs, or ids alone.
//!
//! Always true: standard output is data; a reader that goes away ends the command without a complaint.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::ValueEnum;
use comfy_table::presets;
use schemars::JsonSchema;
use serde::Serialize;

use crate::api::view::{BlobStat, Drained, JobDetail, JobItem, List, NODE, NodeItem, NodeStatus, Stored, Transfers};
use crate::api::{Code, Failure};
pub(super) use crate::words::{bytes, shown};

/// On a narrower terminal (or one that does not say) cells would be broken into single letters.
const FRAME_WIDTH_MIN: u16 = 60;

/// The forms of data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// A table on a terminal, plain columns in a pipe
    #[default]
    Table,
    /// One JSON object
    Json,
    /// One JSON object a line for each item
    Jsonl,
    /// Ids alone
    Id,
}

/// A thing by itself, with its schema.
#[derive(Serialize, JsonSchema)]
pub(super) struct Document<'a, T> {
    /// Names the form of the content, as `swarm.node/1`.
    pub(super) schema: &'static str,
    /// The thing.
    #[serde(flatten)]
    pub(super) content: &'a T,
}

/// Something that a list can show.
pub(super) trait Row: Serialize {
    /// The titles of the columns.
    const HEADER: &'static [&'static str];
    /// The text of each column.
    fn cells(&self) -> Vec<String>;
    /// What names it.
    fn id(&self) -> String;
}

impl Row for NodeItem {
    const HEADER: &'static [&'static str] =
        &["ID", "NAME", "STATE", "FREE/SLOTS", "MEMORY", "VERSION", "HEARD", "ADDRESS"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id[..self.id.len().min(12)].to_owned(),
            shown(&self.name),
            self.state.clone(),
            format!("{}/{}", self.slots_free, self.slots),
            bytes(self.memory_bytes),
            shown(&self.version),
            ago(Duration::from_millis(self.heard_ms)),
            shown(&self.address),
        ]
    }

    fn id(&self) -> String {
        self.id.clone()
    }
}

impl Row for Stored {
    const HEADER: &'static [&'static str] = &["BLOB", "BYTES"];

    fn cells(&self) -> Vec<String> {
        vec![self.id(), self.len_bytes.to_string()]
    }

    fn id(&self) -> String {
        format!("blake3:{}", self.hash)
    }
}

impl Row for JobItem {
    const HEADER: &'static [&'static str] = &["ID", "STATE", "PROGRESS", "FAILED", "AGE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            word(self),
            format!("{}/{}", self.done, self.tasks),
            self.failed.to_string(),
            age(&self.submitted).map(ago).unwrap_or_default(),
        ]
    }

    fn id(&self) -> String {
        self.id.clone()
    }
}

impl Row for BlobStat {
    const HEADER: &'static [&'static str] = &["BLOB", "STATE", "BYTES"];

    fn cells(&self) -> Vec<String> {
        let len = self.len_bytes.map(|len| len.to_string()).unwrap_or_default();
        vec![self.hash.clone(), self.state.clone(), len]
    }

    fn id(&self) -> String {
        self.hash.clone()
    }
}

/// One task of `show --tasks`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub(super) struct TaskItem {
    /// `stage` or `stage[3]`.
    pub(super) task: String,
    /// In words.
    pub(super) ending: String,
    /// Attempts that are over.
    pub(super) attempts: usize,
    /// Where the last failed attempt ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<String>,
}

impl Row for TaskItem {
    const HEADER: &'static [&'static str] = &["TASK", "ENDING", "ATTEMPTS", "FAILED ON"];

    fn cells(&self) -> Vec<String> {
        let node = self.node.as_deref().unwrap_or_default();
        vec![self.task.clone(), shown(&self.ending), self.attempts.to_string(), node.chars().take(12).collect()]
    }

    fn id(&self) -> String {
        self.task.clone()
    }
}

/// Prints a list.
pub(super) fn list<T: Row>(format: Format, list: &List<T>) -> Result<(), Failure> {
    print(&list_text(format, list, io::stdout().is_terminal())?)
}

fn list_text<T: Row>(format: Format, list: &List<T>, terminal: bool) -> Result<String, Failure> {
    Ok(match format {
        Format::Table => table(T::HEADER, list.items.iter().map(Row::cells).collect(), terminal),
        Format::Json => json(list)?,
        Format::Jsonl => list.items.iter().map(json).collect::<Result<_, _>>()?,
        Format::Id => list.items.iter().map(|item| format!("{}\n", item.id())).collect(),
    })
}

/// Prints one node's status.
pub(super) fn status(format: Format, status: &NodeStatus) -> Result<(), Failure> {
    let text = match format {
        Format::Table => status_text(status),
        Format::Json | Format::Jsonl => json(status)?,
        Format::Id => format!("{}\n", status.node),
    };
    print(&text)
}

/// Prints one node of the swarm.
pub(super) fn node(format: Format, node: &NodeItem) -> Result<(), Failure> {
    let text = match format {
        Format::Table => node_text(node),
        Format::Json | Format::Jsonl => json(&Document { schema: NODE, content: node })?,
        Format::Id => format!("{}\n", node.id),
    };
    print(&text)
}

fn node_text(node: &NodeItem) -> String {
    let mut lines = vec![
        ("node", node.id.clone()),
        ("name", shown(&node.name)),
        ("state", format!("{}, heard of {} ago", node.state, ago(Duration::from_millis(node.heard_ms)))),
        ("version", shown(&node.version)),
        ("slots", format!("{} free of {}", node.slots_free, node.slots)),
        ("memory", bytes(node.memory_bytes)),
        ("arch", shown(&node.arch)),
        ("address", shown(&node.address)),
    ];
    lines.extend(node.labels.iter().map(|label| ("label", shown(label))));
    pairs(&lines)
}

/// Prints which node has left; a table would say no more than standard error does.
pub(super) fn drained(format: Format, drained: &Drained) -> Result<(), Failure> {
    print(&match format {
        Format::Table => String::new(),
        Format::Json | Format::Jsonl => json(drained)?,
        Format::Id => format!("{}\n", drained.node),
    })
}

fn status_text(status: &NodeStatus) -> String {
    let mut lines = vec![
        ("node", status.node.clone()),
        ("name", shown(&status.name)),
        ("version", status.version.clone()),
        ("data", shown(&status.data)),
        ("slots", format!("{} busy of {}", status.slots_busy, status.slots)),
        ("swarm", format!("{} alive of {} known", status.alive, status.members)),
        ("jobs", format!("{} running of {}", status.jobs_running, status.jobs)),
    ];
    let Transfers { sent_bytes, received_bytes, .. } = status.transfers;
    lines.push(("blobs", format!("{} sent, {} received", bytes(sent_bytes), bytes(received_bytes))));
    if status.scrub.damaged > 0 {
        lines.push(("damaged", format!("{} blobs, {} fetched anew", status.scrub.damaged, status.scrub.repaired)));
    }
    lines.extend(status.scrub.lost.iter().map(|hash| ("lost", format!("blake3:{hash}, damaged here and on no node"))));
    lines.extend(status.waits_for_room.iter().map(|why| ("waits", format!("for room: {why}"))));
    lines.extend(status.takes_no_blobs.iter().map(|why| ("refuses", format!("new blobs: {why}"))));
    lines.extend(status.addresses.iter().map(|address| ("listen", shown(address))));
    pairs(&lines)
}

/// A job as `show` prints it: the tasks only when they were asked for.
#[derive(Serialize, JsonSchema)]
pub(super) struct Shown<'a> {
    #[serde(flatten)]
    job: &'a JobDetail,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcomes: Option<&'a [TaskItem]>,
}

/// Prints a job, with its tasks when they are given.
pub(super) fn job(format: Format, job: &JobDetail, outcomes: Option<&[TaskItem]>) -> Result<(), Failure> {
    let terminal = io::stdout().is_terminal();
    let text = match format {
        Format::Table => job_text(job, outcomes, terminal),
        Format::Json | Format::Jsonl => json(&Shown { job, outcomes })?,
        Format::Id => format!("{}\n", job.item.id),
    };
    print(&text)
}

fn job_text(job: &JobDetail, outcomes: Option<&[TaskItem]>, terminal: bool) -> String {
    let item = &job.item;
    let mut lines = vec![
        ("id", item.id.clone()),
        ("job", item.job.clone()),
        ("state", word(item)),
        ("tasks", progress(item)),
        ("submitted", format!("{} through node {}", item.submitted, &item.submitter[..item.submitter.len().min(12)])),
    ];
    if item.priority != 0 {
        lines.push(("priority", item.priority.to_string()));
    }
    lines.extend(item.labels.iter().map(|(key, value)| ("label", shown(&format!("{key}={value}")))));
    if !job.description.is_empty() {
        lines.push(("about", shown(&job.description)));
    }
    let mut text = pairs(&lines);
    let stage = |stage: &crate::api::view::StageItem| {
        let numbers = [stage.done, stage.failed, stage.cancelled, stage.tasks].map(|number| number.to_string());
        [vec![stage.name.clone()], numbers.to_vec()].concat()
    };
    let header = ["STAGE", "DONE", "FAILED", "CANCELLED", "TASKS"];
    text.push('\n');
    text.push_str(&table(&header, job.stages.iter().map(stage).collect(), terminal));
    if let Some(outcomes) = outcomes {
        text.push('\n');
        text.push_str(&table(TaskItem::HEADER, outcomes.iter().map(Row::cells).collect(), terminal));
    }
    text
}

/// `3 done, 1 failed of 10`.
pub(super) fn progress(item: &JobItem) -> String {
    let mut parts = vec![format!("{} done", item.done)];
    let others = [(item.failed, "failed"), (item.cancelled, "cancelled")];
    parts.extend(others.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}")));
    format!("{} of {}", parts.join(", "), item.tasks)
}

/// The state in one word.
pub(super) fn word(item: &JobItem) -> String {
    JobItem::state_word(item.state)
}

/// The JSON of a value and a newline.
pub(super) fn json<T: Serialize>(value: &T) -> Result<String, Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::caused(Code::Bug, "cannot write JSON", &error))?;
    Ok(text + "\n")
}

/// Writes data. A reader that went away wants no more, and that is no error of ours.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// Writes data that need not be text.
pub(super) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::caused(Code::Failed, "cannot write to standard output", &error)),
        Ok(()) => Ok(()),
    }
}

pub(super) fn pairs(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    lines.iter().map(|(key, value)| format!("{key:width$}  {value}\n")).collect()
}

fn table(header: &[&str], rows: Vec<Vec<String>>, terminal: bool) -> String {
    let mut frame = comfy_table::Table::new();
    let wide = frame.width().is_some_and(|width| width >= FRAME_WIDTH_MIN);
    if terminal && wide { framed(&mut frame, header, rows) } else { columns(header, rows) }
}

fn framed(table: &mut comfy_table::Table, header: &[&str], rows: Vec<Vec<String>>) -> String {
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(header.to_vec()).add_rows(rows);
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    format!("{table}\n")
}

/// Two spaces between columns, each as wide as its widest cell: easy to cut with `awk`.
fn columns(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let header = header.iter().map(|title| title.replace(' ', "-")).collect();
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells =
            row.iter().zip(&widths).map(|(cell, width)| format!("{:width$}", if cell.is_empty() { "-" } else { cell }));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// `3s`, `5m`, `2h`, `4d`: the largest unit alone is what a glance needs.
pub(super) fn ago(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How long ago a time in RFC 3339 was.
pub(super) fn age(submitted: &str) -> Option<Duration> {
    let submitted: jiff::Timestamp = submitted.parse().ok()?;
    // The submitter's clock may be ahead of this one.
    Some(Duration::try_from(jiff::Timestamp::now().duration_since(submitted)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use swarm_protocol::JobState;

    use super::*;
    use crate::api::view::{JOB, NODES, StageItem};

    fn node(name: &str) -> NodeItem {
        NodeItem {
            id: "ab".repeat(32),
            name: name.into(),
            state: "alive".into(),
            slots: 4,
            slots_free: 3,
            version: "0.1.0".into(),
            address: "/ip4/127.0.0.1/tcp/4001".into(),
            heard_ms: 61_000,
            memory_bytes: 24 << 30,
            arch: "x86_64".into(),
            labels: vec!["zone=a".into()],
        }
    }

    fn detail() -> JobDetail {
        let item = JobItem {
            id: "poster-abcdef".into(),
            job: "abcdef".into(),
            name: "poster".into(),
            state: JobState::Failed,
            tasks: 10,
            done: 9,
            failed: 1,
            cancelled: 0,
            submitted: "2026-11-22T05:00:00Z".into(),
            submitter: "cd".repeat(32),
            labels: std::collections::BTreeMap::from([("team".into(), "art".into())]),
            priority: 0,
        };
        let stage = StageItem {
            name: "tile".into(),
            array: true,
            tasks: 10,
            done: 9,
            failed: 1,
            cancelled: 0,
            outputs: vec!["tile.ppm".into()],
        };
        JobDetail { schema: JOB.into(), item, description: "Tiles.".into(), stages: vec![stage] }
    }

    fn task() -> TaskItem {
        TaskItem { task: "tile[3]".into(), ending: "exited 7".into(), attempts: 2, node: Some("ef".repeat(32)) }
    }

    #[test]
    fn a_pipe_gets_plain_columns() {
        let nodes = List::new(NODES, vec![node("anna"), node("")]);
        assert_snapshot!(list_text(Format::Table, &nodes, false).unwrap(), @r"
        ID            NAME  STATE  FREE/SLOTS  MEMORY   VERSION  HEARD  ADDRESS
        abababababab  anna  alive  3/4         24.0GiB  0.1.0    1m     /ip4/127.0.0.1/tcp/4001
        abababababab  -     alive  3/4         24.0GiB  0.1.0    1m     /ip4/127.0.0.1/tcp/4001
        ");
    }

    #[test]
    fn json_names_its_schema() {
        let nodes = List::new(NODES, vec![node("anna")]);
        let id = "ab".repeat(32);
        let text = list_text(Format::Json, &nodes, true).unwrap().replace(&id, "ID");
        assert_snapshot!(text, @r#"{"schema":"swarm.nodes/1","items":[{"id":"ID","name":"anna","state":"alive","slots":4,"slots_free":3,"version":"0.1.0","address":"/ip4/127.0.0.1/tcp/4001","heard_ms":61000,"memory_bytes":25769803776,"arch":"x86_64","labels":["zone=a"]}]}"#);
        assert_eq!(list_text(Format::Id, &nodes, true).unwrap(), format!("{id}\n"));
        assert_eq!(list_text(Format::Jsonl, &nodes, true).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_job_is_shown_with_its_stages_and_tasks() {
        assert_snapshot!(job_text(&detail(), Some(&[task()]), false), @r"
        id         poster-abcdef
        job        abcdef
        state      failed
        tasks      9 done, 1 failed of 10
        submitted  2026-11-22T05:00:00Z through node cdcdcdcdcdcd
        label      team=art
        about      Tiles.

        STAGE  DONE  FAILED  CANCELLED  TASKS
        tile   9     1       0          10

        TASK     ENDING    ATTEMPTS  FAILED-ON
        tile[3]  exited 7  2         efefefefefef
        ");
    }

    #[test]
    fn a_job_in_json_has_its_tasks_only_when_asked() {
        let with = json(&Shown { job: &detail(), outcomes: Some(&[task()]) }).unwrap();
        let with = with.replace(&"ef".repeat(32), "NODE").replace(&"cd".repeat(32), "NODE");
        assert_snapshot!(with, @r#"{"schema":"swarm.job/1","id":"poster-abcdef","job":"abcdef","name":"poster","state":"failed","tasks":10,"done":9,"failed":1,"cancelled":0,"submitted":"2026-11-22T05:00:00Z","submitter":"NODE","labels":{"team":"art"},"priority":0,"description":"Tiles.","stages":[{"name":"tile","array":true,"tasks":10,"done":9,"failed":1,"cancelled":0,"outputs":["tile.ppm"]}],"outcomes":[{"task":"tile[3]","ending":"exited 7","attempts":2,"node":"NODE"}]}"#);
        assert!(!json(&Shown { job: &detail(), outcomes: None }).unwrap().contains("outcomes"));
    }

    #[test]
    fn a_peer_cannot_move_the_cursor() {
        assert_eq!(node("a\u{1b}[2Jb\n").cells()[1], "a\u{fffd}[2Jb\u{fffd}");
    }
}
