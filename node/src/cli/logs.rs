//! `swarm logs`: what tasks wrote, in task order, byte for byte unless decoration was asked for; with `--follow` as they write
//! it, wherever they run: of one task byte by byte, of several line by line.
//!
//! Always true: every byte is printed once. Two runs of a task print the same, so what was seen of one that was lost is gone on
//! with in the next.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::ops::Range;
use std::time::Duration;

use futures::future::try_join_all;
use swarm_protocol::Content;

use super::args::{self, Global};
use super::log_items::print_items;
use super::output::{Format, shown};
use super::target::{Selection, Target, stage, task_name};
use super::wait::detached;
use crate::api::view::{Bytes, Ended, JobDetail, TaskNews, TaskRun};
use crate::api::{Client, Code, Failure};
use crate::board::NEWS_BYTES_MAX;

/// How the ending of a task begins that printed more than it may.
const CUT: &str = "output too large: standard";
/// How often a job is looked at while its output is followed.
pub(super) const FOLLOW_EVERY: Duration = Duration::from_millis(200);
/// Tasks of a stage that are followed at once: together they print more than anybody reads.
const FOLLOWED_MAX: usize = 16;
/// A longer line is passed on in parts, so that a guest's endless line does not fill our memory.
const LINE_BYTES_MAX: usize = 1 << 20;

/// `swarm logs`.
pub(super) async fn logs(client: &Client, global: &Global, args: &args::Logs) -> Result<(), Failure> {
    let target = Target::parse(&args.target)?;
    let job = client.job(&target.job).await?;
    let selections = target.select(&job)?;
    if global.output != Format::Table {
        return print_items(client, global.output, args, &job, &selections).await;
    }
    let mut printer = Printer::new(Choice::of(args));
    if args.follow {
        return until_ctrl_c(&args.target, follow(client, &job, &selections, &mut printer)).await;
    }
    for selection in &selections {
        printer.print(client, &job, selection).await?;
    }
    printer.flush()
}

/// Follows until the end or Ctrl-C, which leaves the job alone.
async fn until_ctrl_c(target: &str, work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => Err(detached(target).hint(format!("swarm logs {target} --follow"))),
    }
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
        if !printer.print_live(client, &now, selections).await? {
            tokio::time::sleep(FOLLOW_EVERY).await;
        }
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

    /// Whether what runs is shown: neither the last lines nor what fails are known before the end.
    const fn is_live(&self) -> bool {
        self.tail.is_none() && !self.failed_only
    }

    const fn is_decorated(&self) -> bool {
        self.prefix || self.tail.is_some()
    }
}

/// Prints tasks, each once.
pub(super) struct Printer {
    choice: Choice,
    out: io::BufWriter<io::Stdout>,
    printed: Printed,
    /// Of tasks that run: bytes printed of standard output and of standard error.
    seen: BTreeMap<(u16, u32), [u64; 2]>,
}

impl Printer {
    /// A printer that has printed nothing.
    pub(super) fn new(choice: Choice) -> Self {
        Self { choice, out: io::BufWriter::new(io::stdout()), printed: Printed::default(), seen: BTreeMap::new() }
    }

    /// Prints the ended tasks of a selection, in task order.
    pub(super) async fn print(&mut self, client: &Client, job: &JobDetail, of: &Selection) -> Result<(), Failure> {
        let from = self.printed.first_gap(of);
        let mut runs = client.tasks(&job.item.job, Some(of.stage), from).await?;
        while let Some(run) = runs.next().await? {
            let tasks = of.clip(&run);
            if tasks.start >= of.tasks.end {
                break;
            }
            if run.ended.is_some() {
                for task in self.printed.insert(of.stage, tasks) {
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
            if self.printed.count(selection.stage) < ended {
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
            let (name, seen) = (task_name(stage, task), self.seen.remove(&(run.stage, task)).unwrap_or_default());
            if self.choice.stdout {
                let rest = Rest { bytes: &run.stdout, holders: &run.holders, seen: seen[0] };
                self.print_bytes(client, &name, rest, false).await?;
            }
            if self.choice.stderr {
                let rest = Rest { bytes: &run.stderr, holders: &run.holders, seen: seen[1] };
                self.print_bytes(client, &name, rest, self.choice.apart).await?;
            }
            if run.ending.starts_with(CUT) {
                self.talk(&format!("{}: cut here, {}", shown(&name), shown(&run.ending)))?;
            }
        }
        Ok(())
    }

    /// Prints what tasks that run have printed since; whether that was anything.
    pub(super) async fn print_live(
        &mut self,
        client: &Client,
        job: &JobDetail,
        selections: &[Selection],
    ) -> Result<bool, Failure> {
        let mut any = false;
        if self.choice.is_live() {
            let alone = matches!(selections, [only] if only.tasks.len() == 1);
            for selection in selections {
                any |= self.print_news(client, job, selection, alone).await?;
            }
            self.flush()?;
        }
        Ok(any)
    }

    async fn print_news(
        &mut self,
        client: &Client,
        job: &JobDetail,
        of: &Selection,
        alone: bool,
    ) -> Result<bool, Failure> {
        let (id, stage) = (&job.item.job, stage(job, of.stage)?);
        let tasks = if alone { vec![of.tasks.start] } else { self.running(client, id, of).await? };
        let questions = tasks.into_iter().filter(|task| !self.is_printed(of.stage, *task)).map(|task| {
            let seen = self.seen.get(&(of.stage, task)).copied().unwrap_or_default();
            async move { Ok((task, client.news(id, of.stage, task, seen).await?)) }
        });
        let mut any = false;
        for (task, TaskNews { stdout, stderr, .. }) in try_join_all(questions.collect::<Vec<_>>()).await? {
            let name = task_name(stage, task);
            let chosen = [(self.choice.stdout, &stdout, false), (self.choice.stderr, &stderr, self.choice.apart)];
            for (output, (_, bytes, to_stderr)) in chosen.into_iter().enumerate().filter(|(_, (chosen, ..))| *chosen) {
                let Content::Inline(bytes) = content(bytes)? else { continue };
                let ready = if alone { &bytes[..] } else { whole_lines(&bytes) };
                let mut lines = self.choice.is_decorated().then(|| Lines::new(&self.choice, &name));
                self.piece(lines.as_mut(), ready, to_stderr)?;
                self.seen.entry((of.stage, task)).or_default()[output] += ready.len() as u64;
                any |= !ready.is_empty();
            }
        }
        Ok(any)
    }

    async fn running(&self, client: &Client, id: &str, of: &Selection) -> Result<Vec<u32>, Failure> {
        let from = self.printed.first_gap(of);
        if from >= of.tasks.end {
            return Ok(Vec::new());
        }
        let running = client.running(id, of.stage, from).await?;
        let mut tasks: Vec<u32> = running.items.iter().map(|item| item.task).collect();
        tasks.retain(|task| of.tasks.contains(task) && !self.is_printed(of.stage, *task));
        tasks.dedup();
        tasks.truncate(FOLLOWED_MAX);
        Ok(tasks)
    }

    fn is_printed(&self, stage: u16, task: u32) -> bool {
        self.printed.has(stage, task)
    }

    /// Says something beside what is printed.
    fn talk(&mut self, text: &str) -> Result<(), Failure> {
        self.flush()?;
        written(writeln!(io::stderr(), "{text}"))
    }

    async fn print_bytes(
        &mut self,
        client: &Client,
        task: &str,
        Rest { bytes, holders, seen }: Rest<'_>,
        to_stderr: bool,
    ) -> Result<(), Failure> {
        let mut lines = self.choice.is_decorated().then(|| Lines::new(&self.choice, task));
        let (content, mut skip) = (content(bytes)?, seen);
        if content.len() < seen {
            self.talk(&format!("{}: run again, and this time it printed less than is shown above", shown(task)))?;
        }
        match content {
            Content::Inline(bytes) => self.piece(lines.as_mut(), after(&bytes, &mut skip), to_stderr)?,
            Content::Blob { hash, .. } => {
                let mut blob = client.blob(hash, holders).await?;
                while let Some(piece) = blob.next().await? {
                    self.piece(lines.as_mut(), after(&piece, &mut skip), to_stderr)?;
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

/// What is left to print of an output.
struct Rest<'a> {
    bytes: &'a Bytes,
    holders: &'a [String],
    /// Bytes printed while the task ran.
    seen: u64,
}

/// The part of a piece behind the next `skip` bytes, which are counted down.
fn after<'a>(piece: &'a [u8], skip: &mut u64) -> &'a [u8] {
    let now = usize::try_from(*skip).unwrap_or(usize::MAX).min(piece.len());
    *skip -= now as u64;
    &piece[now..]
}

/// Whole lines; all of an answer that is full, for its line may never end.
fn whole_lines(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    if end == 0 && bytes.len() >= NEWS_BYTES_MAX { bytes } else { &bytes[..end] }
}

fn content(bytes: &Bytes) -> Result<Content, Failure> {
    bytes.content().map_err(|error| Failure::new(Code::Bug, error.to_string()))
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

/// Which tasks were printed, stage by stage.
#[derive(Debug, Default)]
pub(super) struct Printed(BTreeMap<u16, Ranges>);

impl Printed {
    /// Adds tasks of a stage and returns those that are new.
    pub(super) fn insert(&mut self, stage: u16, tasks: Range<u32>) -> Vec<Range<u32>> {
        self.0.entry(stage).or_default().insert(tasks)
    }

    /// The first task of a selection that was not printed.
    pub(super) fn first_gap(&self, of: &Selection) -> u32 {
        self.0.get(&of.stage).map_or(of.tasks.start, |printed| printed.first_gap(of.tasks.start))
    }

    fn count(&self, stage: u16) -> u32 {
        self.0.get(&stage).map_or(0, Ranges::count)
    }

    fn has(&self, stage: u16, task: u32) -> bool {
        self.0.get(&stage).is_some_and(|printed| printed.first_gap(task) != task)
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
    fn what_was_seen_is_not_printed_again() {
        let mut skip = 5;
        assert_eq!(
            [after(b"abc", &mut skip), after(b"defg", &mut skip), after(b"h", &mut skip)],
            [&b""[..], b"fg", b"h"]
        );
        assert_eq!([whole_lines(b"a\nb\nc"), whole_lines(b"abc")], [&b"a\nb\n"[..], b""]);
        let endless = vec![b'x'; NEWS_BYTES_MAX];
        assert_eq!(whole_lines(&endless).len(), NEWS_BYTES_MAX);
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
