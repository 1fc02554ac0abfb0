//! `swarm logs`: what tasks wrote, in task order, byte for byte unless decoration was asked for.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::ops::Range;
use std::time::Duration;

use swarm_protocol::Content;

use super::args;
use super::output::shown;
use super::target::{Selection, Target, stage, task_name};
use crate::api::view::{Bytes, Ended, JobDetail, TaskRun};
use crate::api::{Client, Code, Failure};

/// How often a job is looked at while its output is followed.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);
/// A longer line is passed on in parts, so that a guest's endless line does not fill our memory.
const LINE_BYTES_MAX: usize = 1 << 20;

/// `swarm logs`.
pub(super) async fn logs(client: &Client, args: &args::Logs) -> Result<(), Failure> {
    let target = Target::parse(&args.target)?;
    let job = client.job(&target.job).await?;
    let selections = target.select(&job)?;
    let mut printer = Printer::new(Choice::of(args));
    if args.follow {
        return follow(client, &job, &selections, &mut printer).await;
    }
    for selection in &selections {
        printer.print(client, &job, selection).await?;
    }
    printer.flush()
}

async fn follow(
    client: &Client,
    job: &JobDetail,
    selections: &[Selection],
    printer: &mut Printer,
) -> Result<(), Failure> {
    loop {
        let now = client.job(&job.item.job).await?;
        printer.print_new(client, &now, selections).await?;
        if now.item.state.is_over() {
            return Ok(());
        }
        tokio::time::sleep(FOLLOW_EVERY).await;
    }
}

/// What is printed of each task, and how.
#[derive(Clone, Debug, Default)]
pub(super) struct Choice {
    /// Standard output, to our standard output.
    pub(super) stdout: bool,
    /// Standard error, to our standard output, or to our standard error when `apart`.
    pub(super) stderr: bool,
    /// Keep the two apart.
    pub(super) apart: bool,
    failed_only: bool,
    prefix: bool,
    tail: Option<usize>,
}

impl Choice {
    fn of(args: &args::Logs) -> Self {
        let neither = !args.stdout && !args.stderr;
        Self {
            stdout: args.stdout || neither,
            stderr: args.stderr || (neither && args.failed),
            apart: false,
            failed_only: args.failed,
            prefix: args.prefix,
            tail: args.tail,
        }
    }

    /// Standard output alone.
    pub(super) fn stdout() -> Self {
        Self { stdout: true, ..Self::default() }
    }

    /// Both, as if the tasks had run here.
    pub(super) fn as_if_here() -> Self {
        Self { stdout: true, stderr: true, apart: true, ..Self::default() }
    }

    const fn is_decorated(&self) -> bool {
        self.prefix || self.tail.is_some()
    }
}

/// Prints tasks, each once.
pub(super) struct Printer {
    choice: Choice,
    out: io::BufWriter<io::Stdout>,
    printed: BTreeMap<u16, Ranges>,
}

impl Printer {
    /// A printer that has printed nothing.
    pub(super) fn new(choice: Choice) -> Self {
        Self { choice, out: io::BufWriter::new(io::stdout()), printed: BTreeMap::new() }
    }

    /// Prints the ended tasks of a selection, in task order.
    pub(super) async fn print(&mut self, client: &Client, job: &JobDetail, of: &Selection) -> Result<(), Failure> {
        let from = self.printed.get(&of.stage).map_or(of.tasks.start, |printed| printed.first_gap(of.tasks.start));
        let mut runs = client.tasks(&job.item.job, Some(of.stage), from).await?;
        while let Some(run) = runs.next().await? {
            let tasks = of.clip(&run);
            if tasks.start >= of.tasks.end {
                break;
            }
            if run.ended.is_some() {
                for task in self.printed.entry(of.stage).or_default().insert(tasks) {
                    self.print_run(client, job, &run, task).await?;
                }
            }
        }
        Ok(())
    }

    /// Prints all ended tasks of a job that were not printed before, in task order.
    pub(super) async fn print_all(&mut self, client: &Client, job: &JobDetail) -> Result<(), Failure> {
        for selection in &Target::parse(&job.item.job)?.select(job)? {
            self.print(client, job, selection).await?;
        }
        self.flush()
    }

    /// Prints what has ended since, stage by stage.
    pub(super) async fn print_new(
        &mut self,
        client: &Client,
        job: &JobDetail,
        selections: &[Selection],
    ) -> Result<(), Failure> {
        for selection in selections {
            let stage = stage(job, selection.stage)?;
            let ended = stage.done + stage.failed + stage.cancelled;
            if self.printed.get(&selection.stage).map_or(0, Ranges::count) < ended {
                self.print(client, job, selection).await?;
            }
        }
        self.flush()
    }

    async fn print_run(
        &mut self,
        client: &Client,
        job: &JobDetail,
        run: &TaskRun,
        tasks: Range<u32>,
    ) -> Result<(), Failure> {
        if self.choice.failed_only && run.ended != Some(Ended::Failed) {
            return Ok(());
        }
        let stage = stage(job, run.stage)?;
        for task in tasks {
            let name = task_name(stage, task);
            if self.choice.stdout {
                self.print_bytes(client, &name, &run.stdout, &run.holders, false).await?;
            }
            if self.choice.stderr {
                self.print_bytes(client, &name, &run.stderr, &run.holders, self.choice.apart).await?;
            }
        }
        Ok(())
    }

    async fn print_bytes(
        &mut self,
        client: &Client,
        task: &str,
        bytes: &Bytes,
        holders: &[String],
        to_stderr: bool,
    ) -> Result<(), Failure> {
        let mut lines = self.choice.is_decorated().then(|| Lines::new(&self.choice, task));
        let content = bytes.content().map_err(|error| Failure::new(Code::Bug, error.to_string()))?;
        match content {
            Content::Inline(bytes) => self.piece(lines.as_mut(), &bytes, to_stderr)?,
            Content::Blob { hash, .. } => {
                let mut blob = client.blob(hash, holders).await?;
                while let Some(piece) = blob.next().await? {
                    self.piece(lines.as_mut(), &piece, to_stderr)?;
                }
            }
        }
        match lines {
            Some(lines) => self.write(&lines.end(), to_stderr),
            None => Ok(()),
        }
    }

    fn piece(&mut self, lines: Option<&mut Lines>, piece: &[u8], to_stderr: bool) -> Result<(), Failure> {
        match lines {
            Some(lines) => self.write(&lines.take(piece), to_stderr),
            None => self.write(piece, to_stderr),
        }
    }

    fn write(&mut self, bytes: &[u8], to_stderr: bool) -> Result<(), Failure> {
        written(if to_stderr { io::stderr().write_all(bytes) } else { self.out.write_all(bytes) })
    }

    /// Makes everything visible.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        written(self.out.flush())
    }
}

/// A reader that went away wants no more, and that is no error of ours.
fn written(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::caused(Code::Failed, "cannot write", &error)),
        Ok(()) => Ok(()),
    }
}

/// Decorates the output of one task, line by line.
struct Lines {
    prefix: String,
    /// How many lines to keep for the end; all are passed on at once when absent.
    tail: Option<usize>,
    kept: VecDeque<Vec<u8>>,
    line: Vec<u8>,
}

impl Lines {
    fn new(choice: &Choice, task: &str) -> Self {
        let prefix = if choice.prefix { format!("{} | ", shown(task)) } else { String::new() };
        Self { prefix, tail: choice.tail, kept: VecDeque::new(), line: Vec::new() }
    }

    /// Takes the next bytes and returns what can be printed.
    fn take(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut ready = Vec::new();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") || self.line.len() >= LINE_BYTES_MAX {
                self.end_line(&mut ready);
            }
        }
        ready
    }

    fn end_line(&mut self, ready: &mut Vec<u8>) {
        let mut line = self.prefix.clone().into_bytes();
        line.append(&mut self.line);
        // A decorated line is always a whole one.
        if !line.ends_with(b"\n") {
            line.push(b'\n');
        }
        let Some(tail) = self.tail else { return ready.append(&mut line) };
        self.kept.push_back(line);
        if self.kept.len() > tail {
            self.kept.pop_front();
        }
    }

    fn end(mut self) -> Vec<u8> {
        let mut ready = Vec::new();
        if !self.line.is_empty() {
            self.end_line(&mut ready);
        }
        ready.extend(self.kept.into_iter().flatten());
        ready
    }
}

/// Numbers, as ranges that neither touch nor overlap: start → end.
#[derive(Debug, Default)]
struct Ranges(BTreeMap<u32, u32>);

impl Ranges {
    /// Adds a range and returns the parts of it that are new.
    fn insert(&mut self, range: Range<u32>) -> Vec<Range<u32>> {
        let (mut new, mut at) = (Vec::new(), range.start);
        let (mut start, mut end) = (range.start, range.end);
        if range.is_empty() {
            return new;
        }
        let touching: Vec<(u32, u32)> = self.touching(&range);
        for (first, last) in touching {
            if at < first {
                new.push(at..first.min(range.end));
            }
            at = at.max(last);
            (start, end) = (start.min(first), end.max(last));
            self.0.remove(&first);
        }
        if at < range.end {
            new.push(at..range.end);
        }
        self.0.insert(start, end);
        new
    }

    fn touching(&self, range: &Range<u32>) -> Vec<(u32, u32)> {
        let up_to_end = self.0.range(..=range.end).rev();
        let mut found: Vec<(u32, u32)> =
            up_to_end.take_while(|(_, end)| **end >= range.start).map(|(start, end)| (*start, *end)).collect();
        found.reverse();
        found
    }

    /// The first number from `at` on that is missing.
    fn first_gap(&self, at: u32) -> u32 {
        match self.0.range(..=at).next_back() {
            Some((_, end)) if *end > at => *end,
            _ => at,
        }
    }

    fn count(&self) -> u32 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decorated(choice: &Choice, pieces: &[&str]) -> String {
        let mut lines = Lines::new(choice, "tile[3]");
        let mut text: Vec<u8> = pieces.iter().flat_map(|piece| lines.take(piece.as_bytes())).collect();
        text.extend(lines.end());
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_prefix_begins_every_line_wherever_the_pieces_end() {
        let choice = Choice { prefix: true, ..Choice::default() };
        assert_eq!(decorated(&choice, &["a\nb", "c\n", "d"]), "tile[3] | a\ntile[3] | bc\ntile[3] | d\n");
        assert_eq!(decorated(&choice, &[]), "");
    }

    #[test]
    fn a_tail_is_the_last_lines() {
        let choice = Choice { tail: Some(2), ..Choice::default() };
        assert_eq!(decorated(&choice, &["a\nb\n", "c\nd"]), "c\nd\n");
        assert_eq!(decorated(&Choice { tail: Some(0), ..choice }, &["a\n"]), "");
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "it is a list of ranges")]
    fn each_task_is_new_once() {
        let mut ranges = Ranges::default();
        assert_eq!(ranges.insert(3..5), [3..5]);
        assert_eq!(ranges.insert(8..9), [8..9]);
        assert_eq!(ranges.insert(0..10), [0..3, 5..8, 9..10]);
        assert_eq!(ranges.insert(0..10), []);
        assert_eq!((ranges.count(), ranges.first_gap(0), ranges.first_gap(12)), (10, 10, 12));
    }

    #[test]
    fn ranges_agree_with_a_plain_set() {
        let (mut ranges, mut plain) = (Ranges::default(), std::collections::BTreeSet::new());
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..500 {
            let start = random.u32(0..200);
            let range = start..start + random.u32(0..9);
            let new: Vec<u32> = ranges.insert(range.clone()).into_iter().flatten().collect();
            let expected: Vec<u32> = range.filter(|number| plain.insert(*number)).collect();
            assert_eq!(new, expected);
            assert_eq!(ranges.count() as usize, plain.len());
        }
    }
}
