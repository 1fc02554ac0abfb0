//! `JOB[/TASK]`: which tasks of which job a user means.

use crate::api::view::{JobDetail, StageItem, TaskRun};
use crate::api::{Code, Failure};

/// A job, or one task or stage of it, as it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// In any form that the node understands.
    pub(super) job: String,
    task: Option<TaskName>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct TaskName {
    stage: String,
    index: Option<u32>,
}

/// Tasks of one stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selection {
    /// Position of the stage.
    pub(super) stage: u16,
    /// Its tasks.
    pub(super) tasks: std::ops::Range<u32>,
}

impl Target {
    /// Reads `JOB`, `JOB/STAGE` or `JOB/STAGE[INDEX]`.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let Some((job, task)) = text.split_once('/') else {
            return Ok(Self { job: text.into(), task: None });
        };
        let wrong = || {
            let message = format!("`{text}` is not a job or a task, which are as JOB and JOB/STAGE[INDEX]");
            Failure::new(Code::Usage, message).hint(format!("swarm show {job} --tasks"))
        };
        let name = match task.split_once('[') {
            None => TaskName { stage: task.into(), index: None },
            Some((stage, index)) => {
                let index = index.strip_suffix(']').and_then(|index| index.parse().ok()).ok_or_else(wrong)?;
                TaskName { stage: stage.into(), index: Some(index) }
            }
        };
        if name.stage.is_empty() { Err(wrong()) } else { Ok(Self { job: job.into(), task: Some(name) }) }
    }

    /// Whether no stage and no task is named.
    pub(super) const fn is_whole(&self) -> bool {
        self.task.is_none()
    }

    /// The tasks of the job that are meant, stage by stage.
    pub(super) fn select(&self, job: &JobDetail) -> Result<Vec<Selection>, Failure> {
        let stages = || (0..).zip(&job.stages);
        let whole = |(stage, item): (u16, &StageItem)| Selection { stage, tasks: 0..item.tasks };
        let Some(name) = &self.task else { return Ok(stages().map(whole).collect()) };
        let found = stages().find(|(_, item)| item.name == name.stage).ok_or_else(|| no_stage(job, &name.stage))?;
        match name.index {
            None => Ok(vec![whole(found)]),
            Some(index) if index < found.1.tasks => Ok(vec![Selection { stage: found.0, tasks: index..index + 1 }]),
            Some(index) => {
                let (stage, last) = (&name.stage, found.1.tasks.saturating_sub(1));
                let message = match last {
                    0 => {
                        format!("`{stage}` has no task {index}; it has one, which is called {}", task_name(found.1, 0))
                    }
                    _ => format!("`{stage}` has no task {index}; its tasks are {stage}[0] to {stage}[{last}]"),
                };
                Err(Failure::new(Code::NotFound, message).hint(format!("swarm show {} --tasks", job.item.id)))
            }
        }
    }
}

fn no_stage(job: &JobDetail, wanted: &str) -> Failure {
    let names: Vec<String> = job.stages.iter().map(|stage| format!("`{}`", stage.name)).collect();
    let message = format!("{} has no stage `{wanted}`; it has {}", job.item.id, names.join(", "));
    Failure::new(Code::NotFound, message).hint(format!("swarm show {}", job.item.id))
}

impl Selection {
    /// The part of a run that is meant.
    pub(super) fn clip(&self, run: &TaskRun) -> std::ops::Range<u32> {
        let tasks = run.indexes();
        tasks.start.max(self.tasks.start)..tasks.end.min(self.tasks.end)
    }
}

/// `stage`, or `stage[3]` in an array.
pub(super) fn task_name(stage: &StageItem, index: u32) -> String {
    if stage.array { format!("{}[{index}]", stage.name) } else { stage.name.clone() }
}

/// The stage at a position that a node named.
pub(super) fn stage(job: &JobDetail, position: u16) -> Result<&StageItem, Failure> {
    let unknown = || Failure::new(Code::Bug, "the node spoke of a stage that the job does not have");
    job.stages.get(usize::from(position)).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use swarm_protocol::JobState;

    use super::*;
    use crate::api::view::JobItem;

    fn job() -> JobDetail {
        let stage = |name: &str, array, tasks| StageItem {
            name: name.into(),
            array,
            tasks,
            done: 0,
            failed: 0,
            cancelled: 0,
            outputs: Vec::new(),
        };
        let item = JobItem {
            id: "poster-abcdef".into(),
            job: String::new(),
            name: "poster".into(),
            state: JobState::Running,
            tasks: 11,
            done: 0,
            failed: 0,
            cancelled: 0,
            submitted: String::new(),
            submitter: String::new(),
            labels: std::collections::BTreeMap::new(),
            priority: 0,
        };
        let stages = vec![stage("tile", true, 10), stage("stitch", false, 1)];
        JobDetail { schema: String::new(), item, description: String::new(), stages }
    }

    fn selected(text: &str) -> Result<Vec<(u16, std::ops::Range<u32>)>, Failure> {
        let selections = Target::parse(text)?.select(&job())?;
        Ok(selections.into_iter().map(|selection| (selection.stage, selection.tasks)).collect())
    }

    #[test]
    fn a_job_a_stage_and_a_task_can_be_meant() {
        assert_eq!(selected("@last"), Ok(vec![(0, 0..10), (1, 0..1)]));
        assert_eq!(selected("p/tile"), Ok(vec![(0, 0..10)]));
        assert_eq!(selected("p/tile[3]"), Ok(vec![(0, 3..4)]));
        assert_eq!(selected("p/stitch"), Ok(vec![(1, 0..1)]));
    }

    #[test]
    fn what_does_not_exist_is_not_found_and_nonsense_is_usage() {
        for (text, code) in [
            ("p/tile[10]", Code::NotFound),
            ("p/other", Code::NotFound),
            ("p/tile[x]", Code::Usage),
            ("p/tile[3", Code::Usage),
            ("p/", Code::Usage),
            ("p/tile[-1]", Code::Usage),
        ] {
            assert_eq!(selected(text).unwrap_err().code, code, "{text}");
        }
    }
}
