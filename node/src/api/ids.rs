//! How a user names a job: `NAME-xxxxxx`, any unique prefix of that or of the full id, or `@last`.

use swarm_protocol::{JobId, JobSummary, NodeId};

use super::error::{Code, Failure};

/// Digits of the job's id in its short name. Six tell apart some thousands of jobs; a longer prefix is always accepted.
const SHORT_DIGITS: usize = 6;
/// Candidates named in the error for an ambiguous prefix.
const CANDIDATES_MAX: usize = 8;
/// The job that was submitted last through this node.
const LAST: &str = "@last";

/// `NAME-xxxxxx`.
pub fn short_id(name: &str, job: JobId) -> String {
    format!("{name}-{}", &job.to_hex()[..SHORT_DIGITS])
}

/// The full id, when `text` is one: it needs no list to be understood.
pub fn full_id(text: &str) -> Option<JobId> {
    JobId::from_hex(text).ok()
}

/// The one job among `jobs` that `text` names; `here` is the node that is asked, for `@last`.
pub fn resolve(text: &str, jobs: &[JobSummary], here: NodeId) -> Result<JobId, Failure> {
    if text == LAST {
        return last(jobs, here);
    }
    let named = |job: &&JobSummary| is_prefix(text, job);
    let found: Vec<&JobSummary> = jobs.iter().filter(named).collect();
    match found.as_slice() {
        [] => Err(Failure::new(Code::NotFound, format!("no job `{text}` is known")).hint("swarm ls")),
        [job] => Ok(job.job),
        several => exact(text, several).ok_or_else(|| ambiguous(text, several)),
    }
}

fn last(jobs: &[JobSummary], here: NodeId) -> Result<JobId, Failure> {
    let mine = jobs.iter().filter(|job| job.submitter == here);
    let newest = mine.max_by_key(|job| (job.submitted_unix_ms, job.job)).map(|job| job.job);
    newest.ok_or_else(|| Failure::new(Code::NotFound, "no job was submitted through this node").hint("swarm ls"))
}

/// A name alone (`poster`), a name with some digits (`poster-3f`), or some digits (`3f2a`).
fn is_prefix(text: &str, job: &JobSummary) -> bool {
    let hex = job.job.to_hex();
    let digits = text.strip_prefix(&job.name).and_then(|rest| rest.strip_prefix('-'));
    !text.is_empty()
        && (job.name.starts_with(text) || hex.starts_with(text) || digits.is_some_and(|digits| hex.starts_with(digits)))
}

/// A complete short id wins over the names it is a prefix of.
fn exact(text: &str, several: &[&JobSummary]) -> Option<JobId> {
    let mut same = several.iter().filter(|job| short_id(&job.name, job.job) == text);
    match (same.next(), same.next()) {
        (Some(job), None) => Some(job.job),
        _ => None,
    }
}

fn ambiguous(text: &str, several: &[&JobSummary]) -> Failure {
    let named = several.iter().take(CANDIDATES_MAX);
    let mut list: Vec<String> = named.map(|job| format!("  {} {}", short_id(&job.name, job.job), job.job)).collect();
    if several.len() > CANDIDATES_MAX {
        list.push(format!("  and {} more", several.len() - CANDIDATES_MAX));
    }
    let message = format!("`{text}` names {} jobs:\n{}", several.len(), list.join("\n"));
    let first = several.first().map(|job| short_id(&job.name, job.job)).unwrap_or_default();
    Failure::new(Code::NotFound, message).hint(format!("give more of the id, as {first}"))
}

#[cfg(test)]
mod tests {
    use swarm_protocol::JobStatus;

    use super::*;

    fn job(name: &str, first: u8, submitted_unix_ms: u64, submitter: u8) -> JobSummary {
        let mut bytes = [7; 32];
        bytes[0] = first;
        JobSummary {
            job: JobId::from_bytes(bytes),
            name: name.into(),
            submitted_unix_ms,
            submitter: NodeId::from_bytes([submitter; 32]),
            labels: std::collections::BTreeMap::new(),
            priority: 0,
            status: JobStatus { stages: Vec::new(), stop: None },
        }
    }

    const HERE: NodeId = NodeId::from_bytes([1; 32]);

    #[test]
    fn a_unique_prefix_of_any_form_names_the_job() {
        let jobs = [job("poster", 0xab, 1, 1), job("sweep", 0xac, 2, 1)];
        for text in ["poster", "pos", "poster-", "poster-a", "poster-ab0707", "ab", &jobs[0].job.to_hex()] {
            assert_eq!(resolve(text, &jobs, HERE), Ok(jobs[0].job), "{text}");
        }
        assert_eq!(short_id("poster", jobs[0].job), "poster-ab0707");
    }

    #[test]
    fn an_ambiguous_prefix_lists_the_candidates() {
        let jobs = [job("poster", 0xab, 1, 1), job("poster", 0xac, 2, 1)];
        let failure = resolve("poster", &jobs, HERE).unwrap_err();
        assert_eq!(failure.code, Code::NotFound);
        assert!(failure.message.contains("poster-ab0707") && failure.message.contains("poster-ac0707"));
    }

    #[test]
    fn a_complete_short_id_wins_over_a_longer_name() {
        let jobs = [job("poster", 0xab, 1, 1), job("poster-ab0707-two", 0xcc, 2, 1)];
        assert_eq!(resolve("poster-ab0707", &jobs, HERE), Ok(jobs[0].job));
    }

    #[test]
    fn last_is_the_newest_submitted_here() {
        let jobs = [job("old", 1, 10, 1), job("new", 2, 20, 1), job("elsewhere", 3, 30, 2)];
        assert_eq!(resolve("@last", &jobs, HERE), Ok(jobs[1].job));
        assert_eq!(resolve("@last", &jobs, NodeId::from_bytes([9; 32])).unwrap_err().code, Code::NotFound);
    }

    #[test]
    fn nothing_and_the_unknown_are_not_found() {
        let jobs = [job("poster", 0xab, 1, 1)];
        for text in ["", "nope", "poster-ff", "poster-ab0707ff"] {
            assert_eq!(resolve(text, &jobs, HERE).unwrap_err().code, Code::NotFound, "{text}");
        }
    }
}
