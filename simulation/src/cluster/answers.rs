//! What the command line says with `-o json`, as far as it matters here. Unknown fields are ignored, as they may grow.

use std::collections::BTreeMap;

use serde::Deserialize;

/// `swarm nodes -o json`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Members {
    pub(super) items: Vec<Member>,
}

/// One node as another sees it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// 64 hexadecimal digits.
    pub id: String,
    /// `alive`, `suspect`, `down` or `draining`.
    pub state: String,
}

/// `swarm status -o json`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// 64 hexadecimal digits.
    pub node: String,
    /// Tasks it runs at once.
    pub slots: u32,
    /// Of these, busy.
    pub slots_busy: u32,
    /// What it moved of blobs since its start.
    pub transfers: Transfers,
    /// Why it can remember nothing new.
    #[serde(default)]
    pub waits_for_room: Option<String>,
    /// Why it takes no new blobs.
    #[serde(default)]
    pub takes_no_blobs: Option<String>,
    /// What looking at the bytes of its blobs has brought to light.
    pub scrub: Scrub,
}

/// Blobs that a node found damaged on its disk.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Scrub {
    /// Looks at all blobs.
    pub rounds: u64,
    /// Found damaged.
    pub damaged: u64,
    /// Of these, fetched anew.
    pub repaired: u64,
    /// Of these, those that no node has.
    pub lost: Vec<String>,
}

/// What a node moved of blobs since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Transfers {
    /// Bytes sent, with their proofs.
    pub sent_bytes: u64,
    /// Bytes received, with their proofs.
    pub received_bytes: u64,
}

/// `swarm show ID -o json`, with `outcomes` after `--tasks`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Job {
    /// `running`, `stopping`, `done`, `failed` or `cancelled`.
    pub state: String,
    /// All tasks.
    pub tasks: u64,
    /// Succeeded.
    pub done: u64,
    /// Failed for good.
    pub failed: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// Each task.
    #[serde(default)]
    pub outcomes: Vec<Outcome>,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Outcome {
    /// `STAGE` or `STAGE[INDEX]`.
    pub task: String,
    /// In words; empty until it has ended.
    pub ending: String,
}

impl Job {
    /// Whether it is finished.
    pub fn is_over(&self) -> bool {
        !["running", "stopping"].contains(&self.state.as_str())
    }

    /// Tasks that ended in any way.
    pub fn ended(&self) -> u64 {
        self.done + self.failed + self.cancelled
    }

    /// Tasks without an outcome: by the counts or by the list, whichever misses more.
    pub fn missing(&self) -> u64 {
        let listed = self.outcomes_by_task().len() as u64;
        self.tasks.saturating_sub(self.ended().min(listed))
    }

    /// Outcomes beyond one a task: by the counts or by the list, whichever has more.
    pub fn doubled(&self) -> u64 {
        let listed: u64 = self.outcomes_by_task().values().map(|outcomes| outcomes - 1).sum();
        listed.max(self.ended().saturating_sub(self.tasks))
    }

    fn outcomes_by_task(&self) -> BTreeMap<&str, u64> {
        let mut by_task = BTreeMap::new();
        for outcome in self.outcomes.iter().filter(|outcome| !outcome.ending.is_empty()) {
            *by_task.entry(outcome.task.as_str()).or_default() += 1;
        }
        by_task
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_job_has_one_outcome_a_task() {
        let job =
            job(r#""state":"failed","tasks":2,"done":1,"failed":1"#, &[("t[0]", "exited 0"), ("t[1]", "exited 7")]);
        assert!(job.is_over());
        assert_eq!((job.ended(), job.missing(), job.doubled()), (2, 0, 0));
    }

    #[test]
    fn missing_and_doubled_outcomes_are_seen_in_counts_and_in_the_list() {
        let listed = job(
            r#""state":"done","tasks":2,"done":2,"failed":0"#,
            &[("t[0]", "exited 0"), ("t[0]", "exited 0"), ("t[1]", "")],
        );
        assert_eq!((listed.missing(), listed.doubled()), (1, 1));
        let counted = job(r#""state":"running","tasks":2,"done":3,"failed":0"#, &[("t[0]", "x"), ("t[1]", "x")]);
        assert!(!counted.is_over());
        assert_eq!((counted.missing(), counted.doubled()), (0, 1));
    }

    #[test]
    fn members_are_read_whatever_else_is_said_of_them() {
        let json =
            r#"{"schema":"swarm.nodes/1","items":[{"id":"ab","name":"anna","state":"alive","slots":4,"labels":[]}]}"#;
        let members: Members = serde_json::from_str(json).unwrap();
        assert_eq!(members.items, [Member { id: "ab".into(), state: "alive".into() }]);
    }

    fn job(fields: &str, outcomes: &[(&str, &str)]) -> Job {
        let outcome =
            |(task, ending): &(&str, &str)| format!(r#"{{"task":"{task}","ending":"{ending}","attempts":1}}"#);
        let outcomes: Vec<String> = outcomes.iter().map(outcome).collect();
        let json = format!(r#"{{"schema":"swarm.job/1",{fields},"cancelled":0,"outcomes":[{}]}}"#, outcomes.join(","));
        serde_json::from_str(&json).unwrap()
    }
}
