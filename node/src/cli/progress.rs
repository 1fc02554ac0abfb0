//! How far a job is, while somebody waits for it: a bar on a terminal, a plain line now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::output::{ago, progress};
use crate::api::view::JobItem;

/// How often a line is written where there is no terminal: a log stays short, and a reader sees that things go on.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows the progress of one job on stderr.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    ended_before: Option<u64>,
    last_line: Instant,
}

impl Progress {
    /// Begins to watch.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { bar: std::io::stderr().is_terminal().then(bar), started: now, ended_before: None, last_line: now }
    }

    /// Shows how far the job is now.
    pub(super) fn update(&mut self, item: &JobItem) {
        let ended_before = *self.ended_before.get_or_insert(item.ended());
        let text = line(item, item.ended() - ended_before.min(item.ended()), self.started.elapsed());
        match &self.bar {
            Some(bar) => {
                bar.set_length(item.tasks);
                bar.set_position(item.ended());
                bar.set_message(text);
            }
            None if self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                eprintln!("{}: {text}", item.id);
            }
            None => {}
        }
    }

    /// The time since the beginning.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

/// `30 done, 1 failed of 100, 12.0/s, 6s left`.
fn line(item: &JobItem, ended_since: u64, elapsed: Duration) -> String {
    let rate = ended_since as f64 / elapsed.as_secs_f64().max(0.001);
    let mut parts = vec![progress(item)];
    if ended_since > 0 {
        let left = Duration::try_from_secs_f64((item.tasks - item.ended().min(item.tasks)) as f64 / rate);
        parts.push(format!("{rate:.1}/s"));
        parts.extend(left.map(|left| format!("{} left", ago(left))));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use swarm_protocol::JobState;

    use super::*;

    #[test]
    fn rate_and_time_left_count_only_what_was_seen() {
        let mut item = JobItem {
            id: "a-1".into(),
            job: String::new(),
            name: "a".into(),
            state: JobState::Running,
            tasks: 100,
            done: 30,
            failed: 1,
            cancelled: 0,
            submitted: String::new(),
            submitter: String::new(),
            labels: std::collections::BTreeMap::new(),
            priority: 0,
        };
        let ten_seconds = Duration::from_secs(10);
        assert_eq!(line(&item, 23, ten_seconds), "30 done, 1 failed of 100, 2.3/s, 30s left");
        item.failed = 0;
        assert_eq!(line(&item, 0, ten_seconds), "30 done of 100");
    }
}
