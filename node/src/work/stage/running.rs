//! Running one task of a stage that is ready, and keeping what it left.
//!
//! Always true: what this node's disk or its lack of room did to a task is not held against the task.

use std::borrow::Cow;
use std::error::Error;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use swarm_executor::{Bytes, Finished, StopFlag, Task};
use swarm_protocol::{Content, Ending, INLINE_BYTES_MAX, Item, Outcome, Stdin};
use swarm_store::{BlobError, NoRoom, is_full};

use super::{Control, ROOM_EVERY, ROOM_WAIT, STDIN_BYTES_MAX, Stage, note_disk};
use crate::jobfile::{Names, RenderError, names, render};
use crate::work::inputs::{InputError, temp_dir};
use crate::work::outputs::{self, OutputError};
use crate::work::reason;
use crate::work::tasks::Taken;

/// What a disk must still take after a task with outputs failed, or the disk may have been the cause.
const PROBE_BYTES: usize = 64 * 1024;
/// How often a task is run again after that, for there may have been less room than it needs.
const ROOM_TRIES: usize = 3;
/// Variables that most tasks find beside those of their job.
const ENVIRONMENT: usize = 6;

/// Why one task cannot be started, or its results not be kept.
#[derive(Debug, thiserror::Error)]
enum Unstarted {
    #[error("the list of the stage has no item for this task")]
    NoItem,
    #[error("an argument or variable cannot be rendered")]
    Render(#[from] RenderError),
    #[error("its standard input cannot be read")]
    Stdin(#[source] BlobError),
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error("keep what it printed")]
    Printed(#[source] BlobError),
}

impl Stage {
    /// Runs one task to its end, on the calling thread. What has no room on this node's disk is run again when there is some,
    /// and given back when there is none for long.
    pub(in crate::work) fn run(&self, task: Taken, control: &Control<'_>) -> Outcome {
        let mut outcome = self.run_once(task, control);
        for _ in 0..ROOM_TRIES {
            if outcome.ending != Ending::Lost || !self.wait_for_room(control.stop) {
                break;
            }
            outcome = self.run_once(task, control);
        }
        self.own().and_then(|mut own| own.remove(&task.index));
        outcome
    }

    fn wait_for_room(&self, stop: &StopFlag) -> bool {
        let until = Instant::now() + ROOM_WAIT;
        while self.blobs.no_room().is_some() && Instant::now() < until && !stop.is_stopped() {
            thread::sleep(ROOM_EVERY);
        }
        self.blobs.no_room().is_none() && !stop.is_stopped()
    }

    /// Once this node's disk has failed nothing is said of a task that could not be run: the process is about to stop, and
    /// the task runs elsewhere or after the next start.
    fn run_once(&self, task: Taken, control: &Control<'_>) -> Outcome {
        let run = self.try_run(task, control).inspect_err(|error| note_disk(&self.blobs, error));
        match run {
            Ok(outcome) => outcome,
            Err(_) if self.blobs.has_failed() => Outcome::bare(Ending::Cancelled),
            // It is not the task's fault, and another node may have room.
            Err(error) if is_no_room(&error) => Outcome::bare(Ending::Lost),
            Err(error) => Outcome::bare(Ending::Rejected(reason(&error))),
        }
    }

    fn try_run(&self, task: Taken, control: &Control<'_>) -> Result<Outcome, Unstarted> {
        let spec = self.spec();
        let item = self.item(task.index)?;
        let names = names(spec, task.index, item).with_params(&self.params);
        let seed = self.seed(task.index);
        let args = spec.args.iter().map(|arg| render(arg, &names)).collect::<Result<Vec<_>, _>>()?;
        let env = self.environment(task, &names, &seed)?;
        let stdin = self.stdin(&names, item)?;
        let own = self.own().and_then(|own| own.get(&task.index).cloned()).unwrap_or_default();
        let text = names.get("item").unwrap_or("");
        let in_dir = self.inputs.of_task(item, text, &own, &self.blobs, &self.scratch)?;
        let out_dir = (!spec.outputs.is_empty()).then(|| temp_dir("out-", &self.scratch)).transpose()?;
        let finished = self.module.run(Task {
            args: &args,
            program: &spec.name,
            entry: &spec.entry,
            env: &env,
            stdin,
            in_dir: in_dir.path(),
            out_dir: out_dir.as_ref().map(tempfile::TempDir::path),
            room: &self.room,
            limits: &self.limits,
            run_max: Duration::from_millis(spec.run_ms_max),
            seed: *seed.as_bytes(),
            stop: control.stop,
            entered: control.entered,
            printed: control.printed.clone(),
        });
        self.outcome(finished, out_dir)
    }

    /// How a task ends that this node's disk failed, which is found out by writing to it.
    fn ended_by_disk(&self) -> Option<Ending> {
        let writes = !self.spec().outputs.is_empty();
        let probe = || io::Write::write_all(&mut tempfile::tempfile_in(&self.scratch)?, &[0; PROBE_BYTES]);
        if writes && !self.blobs.disk_has_room(PROBE_BYTES as u64) {
            return Some(Ending::Lost);
        }
        match if writes { probe() } else { Ok(()) } {
            Err(error) if is_full(&error) => return Some(Ending::Lost),
            Err(error) => self.blobs.note("write below", &self.scratch, &error),
            Ok(()) => {}
        }
        self.blobs.has_failed().then_some(Ending::Cancelled)
    }

    fn item(&self, index: u32) -> Result<Option<&Item>, Unstarted> {
        match &self.items {
            None => Ok(None),
            Some(items) => items.get(index as usize).map(Some).ok_or(Unstarted::NoItem),
        }
    }

    /// Where the task's random numbers come from: the same for every attempt, on every node.
    fn seed(&self, index: u32) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.job.as_bytes());
        hasher.update(&self.position.to_le_bytes());
        hasher.update(&index.to_le_bytes());
        hasher.finalize()
    }

    fn environment<'a>(
        &'a self,
        task: Taken,
        names: &'a Names,
        seed: &blake3::Hash,
    ) -> Result<Vec<(&'a str, Cow<'a, str>)>, RenderError> {
        let spec = self.spec();
        let mut env = Vec::with_capacity(spec.env.len() + ENVIRONMENT);
        for (name, value) in &spec.env {
            env.push((name.as_str(), render(value, names)?.into()));
        }
        env.extend(names.environment().map(|(name, value)| (name, value.into())));
        env.push(("SWARM_JOB", self.job_name.as_str().into()));
        env.push(("SWARM_TASK", spec.name.as_str().into()));
        env.push(("SWARM_ATTEMPT", (u32::from(task.attempts) + 1).to_string().into()));
        env.push(("SWARM_SEED", seed.to_hex().to_string().into()));
        Ok(env)
    }

    fn stdin(&self, names: &Names, item: Option<&Item>) -> Result<Bytes, Unstarted> {
        match (&self.spec().stdin, item.and_then(|item| item.file)) {
            (Stdin::Empty, _) => Ok(Bytes::new()),
            (Stdin::Text(text), _) => Ok(render(text, names)?.into()),
            (Stdin::File { .. }, _) => Ok(self.stdin.clone()),
            (Stdin::Item, Some((hash, _))) => {
                self.blobs.read(hash, STDIN_BYTES_MAX).map(Bytes::from).map_err(Unstarted::Stdin)
            }
            (Stdin::Item, None) => Ok(names.get("item").unwrap_or("").to_owned().into()),
        }
    }

    fn outcome(&self, finished: Finished, out_dir: Option<tempfile::TempDir>) -> Result<Outcome, Unstarted> {
        let spec = self.spec();
        // Of its own doing, perhaps; or it met a full disk where it wanted to leave its outputs, which are still there.
        if !finished.ending.is_success()
            && let Some(ending) = self.ended_by_disk()
        {
            return Ok(Outcome::bare(ending));
        }
        let left = match out_dir.filter(|_| finished.ending.is_success()) {
            Some(dir) => outputs::collect(dir.path(), &spec.outputs, spec.limits.outputs_bytes_max, &self.blobs)?,
            None => Ok(Vec::new()),
        };
        let (ending, outputs) = match left {
            Ok(outputs) => (finished.ending, outputs),
            Err(ending) => (ending, Vec::new()),
        };
        Ok(Outcome { ending, stdout: self.content(finished.stdout)?, stderr: self.content(finished.stderr)?, outputs })
    }

    fn content(&self, bytes: Vec<u8>) -> Result<Content, Unstarted> {
        if bytes.len() <= INLINE_BYTES_MAX {
            return Ok(Content::Inline(bytes));
        }
        let hash = self.blobs.put(&bytes).map_err(Unstarted::Printed)?;
        Ok(Content::Blob { hash, len: bytes.len() as u64 })
    }
}

/// Whether something went wrong because this node has no room.
fn is_no_room(error: &(dyn Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.any(|cause| cause.is::<NoRoom>() || cause.downcast_ref().is_some_and(is_full))
}
