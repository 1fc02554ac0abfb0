//! How far a job or a transfer is, while somebody waits for it: a bar on a terminal, a plain line now and then elsewhere.

use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::{ago, bytes, progress};
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
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Shows on stderr how much of some files has come, how fast, and how long the rest will take.
#[derive(Debug)]
pub(super) struct Transfer {
    // Hidden where there is no terminal; it counts all the same.
    bar: ProgressBar,
    files: usize,
    // Locked to look at, never across an await.
    state: Mutex<TransferState>,
}

#[derive(Debug)]
struct TransferState {
    files_done: usize,
    last_line: Instant,
}

impl Transfer {
    /// Begins with so many files of so many bytes together.
    pub(super) fn new(files: usize, total: u64) -> Self {
        let shows = std::io::stderr().is_terminal() && files > 0;
        let target = if shows { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let template = "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left, {msg}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(total), target).with_style(style);
        let state = Mutex::new(TransferState { files_done: 0, last_line: Instant::now() });
        let transfer = Self { bar, files, state };
        transfer.name_files(0);
        transfer
    }

    /// So many bytes need not come: they are there.
    pub(super) fn skip(&self, len: u64) {
        self.bar.inc(len);
        self.bar.reset_eta();
    }

    /// So many bytes have come.
    pub(super) fn advance(&self, len: u64) {
        self.bar.inc(len);
        let mut state = self.state();
        if self.bar.is_hidden() && state.last_line.elapsed() >= LINE_EVERY {
            state.last_line = Instant::now();
            eprintln!("{}, {} of {} files", self.line(), state.files_done, self.files);
        }
    }

    /// One more file is whole.
    pub(super) fn file_done(&self) {
        let done = {
            let mut state = self.state();
            state.files_done += 1;
            state.files_done
        };
        self.name_files(done);
    }

    fn name_files(&self, done: usize) {
        self.bar.set_message(format!("{done} of {} files", self.files));
    }

    /// `1.0 MiB of 4.0 MiB, 512.0 KiB/s, 6s left`.
    fn line(&self) -> String {
        let (have, total) = (self.bar.position(), self.bar.length().unwrap_or_default());
        let rate = bytes(self.bar.per_sec() as u64);
        format!("{} of {}, {rate}/s, {} left", bytes(have), bytes(total), ago(self.bar.eta()))
    }

    fn state(&self) -> MutexGuard<'_, TransferState> {
        // No code that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
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
