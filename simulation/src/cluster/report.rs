//! What came of a cluster's run.

use std::fmt;
use std::time::Duration;

/// What came of a run. Printed, it is a few lines; the last says `ok` or what is wrong.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ClusterReport {
    /// The job's id.
    pub job: String,
    /// How it ended: `done`, `failed` or `cancelled`.
    pub state: String,
    /// Nodes that were started.
    pub nodes: usize,
    /// Decided whom to kill and when.
    pub seed: u64,
    /// The nodes that were killed.
    pub kills: Vec<Kill>,
    /// Tasks of the job.
    pub tasks: u64,
    /// Of these, without an outcome.
    pub missing: u64,
    /// Outcomes beyond one a task.
    pub doubled: u64,
    /// Panics of any node.
    pub panics: usize,
    /// Whether two survivors gave the same output; `None` when only one survived.
    pub same_output: Option<bool>,
    /// Whether the output is as expected; `None` when nothing was expected.
    pub expected_output: Option<bool>,
    /// Length of the output.
    pub output_bytes: usize,
    /// From the acknowledgement of the submission to the end of the job.
    pub took: Duration,
}

/// A node that was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Kill {
    /// Which; 0 is the one that the job was submitted to.
    pub node: usize,
    /// When, after the acknowledgement.
    pub at: Duration,
    /// Tasks that were known to have ended.
    pub ended: u64,
    /// Whether it executed a task then.
    pub executing: bool,
}

impl ClusterReport {
    /// Whether nothing was lost, doubled or different.
    pub fn is_good(&self) -> bool {
        self.faults().is_empty()
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.missing > 0 {
            faults.push(format!("{} tasks have no outcome", self.missing));
        }
        if self.doubled > 0 {
            faults.push(format!("{} outcomes too many", self.doubled));
        }
        if self.panics > 0 {
            faults.push(format!("{} panics", self.panics));
        }
        if self.same_output == Some(false) {
            faults.push("two nodes gave different output".into());
        }
        if self.expected_output == Some(false) {
            faults.push("the output is not as expected".into());
        }
        faults
    }
}

impl fmt::Display for ClusterReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "nodes     {} (seed {})", self.nodes, self.seed)?;
        for Kill { node, at, ended, executing } in &self.kills {
            let what = if *node == 0 { ", the submitter" } else { "" };
            let work = if *executing { ", executing" } else { "" };
            let seconds = at.as_secs_f32();
            writeln!(f, "killed    node {node} after {seconds:.2} s, at {ended} of {} tasks{what}{work}", self.tasks)?;
        }
        writeln!(f, "job       {} {}", self.job, self.state)?;
        writeln!(f, "tasks     {}, {} missing, {} doubled", self.tasks, self.missing, self.doubled)?;
        let same = match self.same_output {
            Some(true) => ", the same from two nodes",
            Some(false) => ", different from two nodes",
            None => "",
        };
        let expected = match self.expected_output {
            Some(true) => ", as expected",
            Some(false) => ", not as expected",
            None => "",
        };
        writeln!(f, "output    {} bytes{same}{expected}", self.output_bytes)?;
        writeln!(f, "seconds   {:.2}", self.took.as_secs_f32())?;
        let faults = self.faults();
        write!(f, "result    {}", if faults.is_empty() { "ok".into() } else { faults.join("; ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_in_its_last_line_whether_all_is_well() {
        let kill = Kill { node: 0, at: Duration::from_millis(1_500), ended: 3, executing: true };
        let good = ClusterReport {
            job: "burn-abcdef".into(),
            state: "done".into(),
            nodes: 5,
            seed: 7,
            kills: vec![kill],
            tasks: 200,
            missing: 0,
            doubled: 0,
            panics: 0,
            same_output: Some(true),
            expected_output: None,
            output_bytes: 90,
            took: Duration::from_secs(10),
        };
        assert!(good.is_good());
        let lines = "nodes     5 (seed 7)\n\
            killed    node 0 after 1.50 s, at 3 of 200 tasks, the submitter, executing\n\
            job       burn-abcdef done\n\
            tasks     200, 0 missing, 0 doubled\n\
            output    90 bytes, the same from two nodes\n\
            seconds   10.00\n\
            result    ok";
        assert_eq!(good.to_string(), lines);
        let bad = ClusterReport { missing: 2, same_output: Some(false), ..good };
        assert!(!bad.is_good());
        assert!(bad.to_string().ends_with("result    2 tasks have no outcome; two nodes gave different output"));
    }
}
