//! What a node tells of a job, task by task.
//!
//! Elsewhere: whether that is right is `ledger`.

use std::collections::BTreeMap;

use serde::Deserialize;
use swarm_protocol::Hash;

use super::client::Client;
use super::{ClusterError, Job};

/// Everything a node told of one job.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    /// Stage and index of each task with an outcome → the outcome.
    pub(super) outcomes: BTreeMap<(u16, u32), Outcome>,
    /// Outcomes beyond one a task.
    pub(super) doubled: u64,
}

/// How a task ended, as told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// `done`, `failed` or `cancelled`.
    pub(super) ended: String,
    /// In words.
    pub(super) ending: String,
    pub(super) stdout: Bytes,
    pub(super) stderr: Bytes,
    pub(super) outputs: Vec<OutputFile>,
    /// Nodes said to have the blobs: a hint, not a part of the outcome.
    pub(super) holders: Vec<String>,
    /// Whether runs of it gave different results.
    pub(super) disputed: bool,
}

/// Bytes, or the blob that has them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Bytes {
    Text(String),
    Hex(String),
    Blob { hash: String, len_bytes: u64 },
}

/// A declared output.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct OutputFile {
    pub(super) path: String,
    pub(super) hash: String,
    pub(super) len_bytes: u64,
}

/// One line of `GET /v1/jobs/ID/tasks`: neighbouring tasks of which the same is known.
#[derive(Deserialize)]
struct Line {
    stage: u16,
    first: u32,
    count: u32,
    ended: Option<String>,
    ending: String,
    stdout: Bytes,
    stderr: Bytes,
    outputs: Vec<OutputFile>,
    holders: Vec<String>,
    disputed: bool,
}

impl Reading {
    /// Asks a node for the outcome of each task.
    pub(super) fn of(client: &Client, job: &str) -> Result<Self, ClusterError> {
        let path = format!("/v1/jobs/{job}/tasks");
        let text = client.get(&path)?;
        Self::parse(&text).map_err(|source| ClusterError::Answer {
            command: format!("GET {path}"),
            answer: String::from_utf8_lossy(&text).into(),
            source,
        })
    }

    fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        let mut reading = Self::default();
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            reading.add(&serde_json::from_slice(line)?);
        }
        Ok(reading)
    }

    fn add(&mut self, line: &Line) {
        let Some(ended) = &line.ended else { return };
        for index in line.first..line.first.saturating_add(line.count) {
            let outcome = Outcome {
                ended: ended.clone(),
                ending: line.ending.clone(),
                stdout: line.stdout.clone(),
                stderr: line.stderr.clone(),
                outputs: line.outputs.clone(),
                holders: line.holders.clone(),
                disputed: line.disputed,
            };
            self.doubled += u64::from(self.outcomes.insert((line.stage, index), outcome).is_some());
        }
    }

    /// Names all that is told for good: readings of equal outcomes, and no others, have the same.
    pub(super) fn digest(&self) -> Hash {
        let mut text = String::new();
        for (task, outcome) in &self.outcomes {
            let Outcome { ended, ending, stdout, stderr, outputs, .. } = outcome;
            text.push_str(&format!("{task:?} {ended} {ending:?} {stdout:?} {stderr:?} {outputs:?}\n"));
        }
        Hash::of(text.as_bytes())
    }
}

impl Bytes {
    /// Whether these are those bytes, without fetching anything: a blob is named by its hash.
    pub(super) fn are(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Text(text) => text.as_bytes() == bytes,
            Self::Hex(digits) => *digits == bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
            Self::Blob { hash, len_bytes } => *len_bytes == bytes.len() as u64 && *hash == Hash::of(bytes).to_hex(),
        }
    }

    /// The bytes; a blob comes from the node, which asks `holders` when it has none.
    pub(super) fn fetch(&self, client: &Client, holders: &[String]) -> Result<Vec<u8>, ClusterError> {
        match self {
            Self::Text(text) => Ok(text.clone().into_bytes()),
            Self::Hex(digits) => Ok(unhex(digits)),
            Self::Blob { hash, .. } => client.get(&format!("/v1/blobs/{hash}?from={}", holders.join(","))),
        }
    }

    pub(super) const fn is_blob(&self) -> bool {
        matches!(self, Self::Blob { .. })
    }
}

/// The bytes of pairs of digits; what is none counts as zero, and will not be what it should.
fn unhex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap_or_default());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap_or_default()).collect()
}

/// Asks a node how far a job is.
pub(super) fn job(client: &Client, job: &str) -> Result<Job, ClusterError> {
    client.get_json(&format!("/v1/jobs/{job}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(first: u32, count: u32, ended: &str, stdout: &str, holders: &str) -> String {
        format!(
            r#"{{"stage":0,"first":{first},"count":{count},"ended":{ended},"ending":"exited 0","attempts":1,
            "failed_on":null,"stdout":{stdout},"stderr":{{"text":""}},"outputs":[],"holders":[{holders}],"disputed":false}}"#
        )
        .replace('\n', " ")
            + "\n"
    }

    #[test]
    fn readings_of_equal_outcomes_have_one_digest_however_they_are_told() {
        let whole = line(0, 3, r#""done""#, r#"{"text":"x"}"#, "");
        let pieces =
            line(2, 1, r#""done""#, r#"{"text":"x"}"#, r#""ab""#) + &line(0, 2, r#""done""#, r#"{"text":"x"}"#, "");
        let other = line(0, 3, r#""done""#, r#"{"text":"y"}"#, "");
        let digest = |text: &str| Reading::parse(text.as_bytes()).unwrap().digest();
        assert_eq!(digest(&whole), digest(&pieces));
        assert_ne!(digest(&whole), digest(&other));
    }

    #[test]
    fn tasks_told_twice_are_counted_and_those_not_ended_are_left_out() {
        let text = line(0, 3, r#""done""#, r#"{"text":"x"}"#, "")
            + &line(2, 2, r#""done""#, r#"{"text":"x"}"#, "")
            + &line(4, 9, "null", r#"{"text":""}"#, "");
        let reading = Reading::parse(text.as_bytes()).unwrap();
        assert_eq!((reading.outcomes.len(), reading.doubled), (4, 1));
    }

    #[test]
    fn bytes_are_compared_in_every_form() {
        let blob = Bytes::Blob { hash: Hash::of(b"ab").to_hex(), len_bytes: 2 };
        assert!(Bytes::Text("ab".into()).are(b"ab") && Bytes::Hex("6162".into()).are(b"ab") && blob.are(b"ab"));
        assert!(!Bytes::Text("ab".into()).are(b"ac") && !Bytes::Hex("6162".into()).are(b"ac") && !blob.are(b"ac"));
        assert_eq!(unhex("00ff61"), [0, 255, 97]);
    }
}
