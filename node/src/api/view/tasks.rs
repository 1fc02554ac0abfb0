//! What the API says of tasks: how they ended and what they left, where they run, and what they print.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swarm_protocol::lattice::{End, Run};
use swarm_protocol::{Content, Ending, OutputFile};

use super::{BadDocument, parse_hash};

/// Neighbouring tasks of one stage of which the same is known: one line of the `tasks` document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskRun {
    /// Position of the stage.
    pub stage: u16,
    /// The first task's index in the stage.
    pub first: u32,
    /// How many tasks.
    pub count: u32,
    /// How they ended; absent when they have not.
    pub ended: Option<Ended>,
    /// In words: the ending of the recorded outcome, or of the last failure when there is none.
    pub ending: String,
    /// Attempts known to be over.
    pub attempts: usize,
    /// Where the last failed attempt ran; absent when none failed.
    pub failed_on: Option<String>,
    /// Standard output.
    pub stdout: Bytes,
    /// Standard error.
    pub stderr: Bytes,
    /// Declared outputs that were left.
    pub outputs: Vec<Output>,
    /// Nodes that hold the blobs.
    pub holders: Vec<String>,
    /// Whether runs of it gave different results.
    pub disputed: bool,
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// It succeeded.
    Done,
    /// It failed for good.
    Failed,
    /// Its job was stopped first.
    Cancelled,
}

impl TaskRun {
    /// The line of a run in a stage.
    pub fn of(stage: u16, run: &Run) -> Self {
        let last = run.state.failures.values().next_back();
        let mut line = Self {
            stage,
            first: run.range.first,
            count: run.range.count,
            ended: None,
            ending: last.map(|failure| failure.ending.to_string()).unwrap_or_default(),
            attempts: run.state.failures.len(),
            failed_on: last.map(|failure| failure.node.to_hex()),
            stdout: Bytes::default(),
            stderr: Bytes::default(),
            outputs: Vec::new(),
            holders: Vec::new(),
            disputed: false,
        };
        line.take_end(run.state.end.as_ref());
        line
    }

    fn take_end(&mut self, end: Option<&End>) {
        let (ended, results) = match end {
            None => return,
            Some(End::Cancelled) => {
                self.ended = Some(Ended::Cancelled);
                self.ending = Ending::Cancelled.to_string();
                return;
            }
            Some(End::Done(results)) => (Ended::Done, results),
            Some(End::Exhausted(results)) => (Ended::Failed, results),
        };
        let outcome = results.outcome();
        self.attempts = (self.attempts + usize::from(ended == Ended::Done)).max(1);
        self.ended = Some(ended);
        self.ending = outcome.ending.to_string();
        self.stdout = Bytes::of(&outcome.stdout);
        self.stderr = Bytes::of(&outcome.stderr);
        self.outputs = outcome.outputs.iter().map(Output::of).collect();
        self.holders = results.holders().map(|node| node.to_hex()).collect();
        self.disputed = results.is_disputed();
    }

    /// The indexes of the tasks.
    pub fn indexes(&self) -> std::ops::Range<u32> {
        self.first..self.first.saturating_add(self.count)
    }
}

/// Some bytes of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Bytes {
    /// Few, and UTF-8.
    Text(String),
    /// Few, in hexadecimal digits.
    Hex(String),
    /// Many: a blob.
    Blob {
        /// 64 hexadecimal digits of its BLAKE3.
        hash: String,
        /// Its length.
        len_bytes: u64,
    },
}

impl Default for Bytes {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl Bytes {
    pub(crate) fn of(content: &Content) -> Self {
        match content {
            Content::Blob { hash, len } => Self::Blob { hash: hash.to_hex(), len_bytes: *len },
            Content::Inline(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Self::Text(text.into()),
                Err(_) => Self::Hex(hex::encode(bytes)),
            },
        }
    }

    /// The bytes, or the blob that has them.
    pub fn content(&self) -> Result<Content, BadDocument> {
        Ok(match self {
            Self::Text(text) => Content::Inline(text.clone().into_bytes()),
            Self::Hex(digits) => Content::Inline(hex::decode(digits).map_err(|_| BadDocument("hexadecimal digits"))?),
            Self::Blob { hash, len_bytes } => Content::Blob { hash: parse_hash(hash)?, len: *len_bytes },
        })
    }
}

/// One declared output that a task left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Relative to `/out`.
    pub path: String,
    /// 64 hexadecimal digits of its BLAKE3.
    pub hash: String,
    /// Its length.
    pub len_bytes: u64,
}

impl Output {
    fn of(file: &OutputFile) -> Self {
        Self { path: file.path.clone(), hash: file.hash.to_hex(), len_bytes: file.len }
    }
}

/// Schema of a list of [`RunningTask`].
pub const RUNNING: &str = "swarm.running/1";

/// A task that is granted to a node now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningTask {
    /// Its index in the stage.
    pub task: u32,
    /// The node: 64 hexadecimal digits.
    pub node: String,
}

/// Schema of [`TaskNews`].
pub const NEWS: &str = "swarm.news/1";

/// What a running task printed behind what was seen of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskNews {
    /// [`NEWS`].
    pub schema: String,
    /// Whether it runs.
    pub runs: bool,
    /// More of standard output.
    pub stdout: Bytes,
    /// More of standard error.
    pub stderr: Bytes,
}

#[cfg(test)]
mod tests {
    use swarm_protocol::lattice::{Results, TaskState};
    use swarm_protocol::{Outcome, Range};

    use super::*;

    #[test]
    fn bytes_that_are_not_text_survive_a_document() {
        for content in [Content::Inline(b"plain\n".to_vec()), Content::Inline(vec![0xff, 0, 1]), Content::EMPTY] {
            let json = serde_json::to_string(&Bytes::of(&content)).unwrap();
            assert_eq!(serde_json::from_str::<Bytes>(&json).unwrap().content().unwrap(), content, "{json}");
        }
    }

    #[test]
    fn a_done_task_counts_its_failed_attempts_and_the_good_one() {
        let outcome = Outcome { stdout: Content::Inline(b"hi".to_vec()), ..Outcome::bare(Ending::Exited(0)) };
        let state = TaskState::ended(End::Done(Results::one(outcome, [])));
        let line = TaskRun::of(2, &Run { range: Range { first: 3, count: 4 }, state });
        assert_eq!((line.ended, line.attempts, line.indexes()), (Some(Ended::Done), 1, 3..7));
        assert_eq!(line.stdout, Bytes::Text("hi".into()));
    }
}
