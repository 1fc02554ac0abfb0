//! `swarm get`: the declared outputs of a job as files, verified.
//!
//! `DEST/STAGE/PATH` for a single task, `DEST/STAGE/INDEX/PATH` in an array.
//!
//! Always true: a file has its name only when all its bytes were checked; what is there already, byte for byte, is left
//! alone, and anything else in its place is replaced only when that was asked for. A `get` that was cut off goes on
//! where it stopped.
//!
//! Elsewhere: that nothing is written outside DEST is seen to by `folder`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use schemars::JsonSchema;
use serde::Serialize;
use swarm_protocol::{Hash, check_output};
use tokio::io::AsyncWriteExt;

use super::args::{self, Global};
use super::folder::{Folder, FolderError, Part, Place, Present};
use super::output::{Format, bytes, json, print, progress, word};
use super::progress::Transfer;
use super::target::{Selection, Target, stage};
use crate::api::view::{JobDetail, Output, TaskRun, parse_hash};
use crate::api::{Client, Code, Failure};
use crate::handle::blocking;
use crate::words;

/// Schema of [`GotDocument`].
pub(super) const GOT: &str = "swarm.got/1";
/// Files fetched at once: enough to hide the time between two small ones, and one large one fills any link.
const FILES_AT_ONCE: usize = 4;

/// `swarm get`.
pub(super) async fn get(client: &Client, global: &Global, args: &args::Get) -> Result<(), Failure> {
    let target = Target::parse(&args.target)?;
    let job = client.job(&target.job).await?;
    let selections = target.select(&job)?;
    if selections.iter().all(|it| job.stages[usize::from(it.stage)].outputs.is_empty()) {
        let message = format!("{} declares no outputs; what its tasks wrote is in its logs", args.target);
        return Err(Failure::new(Code::NotFound, message).hint(format!("swarm logs {}", args.target)));
    }
    let dir = args.dest.clone().unwrap_or_else(|| PathBuf::from(&job.item.id));
    let destination = Destination { include: args.include.clone(), ..Destination::open(&dir, args.force)? };
    let mut got = destination.fill(client, &job, &selections).await?;
    // They were fetched several at a time.
    got.items.sort_by(|one, other| one.path.cmp(&other.path));
    if got.items.is_empty() && !args.include.is_empty() && job.item.state.is_over() {
        let globs: Vec<String> = args.include.iter().map(|glob| format!("`{glob}`")).collect();
        let message = format!("no output of {} matches {}", args.target, globs.join(" or "));
        return Err(Failure::new(Code::NotFound, message).hint(format!("swarm get {}   # all of them", args.target)));
    }
    if !job.item.state.is_over() {
        eprintln!("{} is still {}: {}", job.item.id, word(&job.item), progress(&job.item));
    }
    eprintln!("{got}");
    let dest = dir.display().to_string();
    let document = GotDocument { schema: GOT, id: &job.item.id, dest: &dest, items: &got.items };
    print(&match global.output {
        Format::Table => format!("{dest}\n"),
        Format::Json => json(&document)?,
        Format::Jsonl => got.items.iter().map(json).collect::<Result<_, _>>()?,
        Format::Id => got.items.iter().map(|item| format!("{dest}/{}\n", item.path)).collect(),
    })
}

/// What `get` did, for programs.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct GotDocument<'a> {
    schema: &'static str,
    /// The job, as `NAME-xxxxxx`.
    id: &'a str,
    /// The directory that the files are in.
    dest: &'a str,
    /// The files.
    items: &'a [GotItem],
}

/// One file that is there now.
#[derive(Debug, Serialize, JsonSchema)]
struct GotItem {
    /// Below the directory.
    path: String,
    /// 64 hexadecimal digits of its BLAKE3.
    hash: String,
    /// Its length.
    len_bytes: u64,
    /// Whether it was fetched now; otherwise it was there, byte for byte.
    fetched: bool,
}

/// Every output of a job.
pub(super) async fn fetch_all(client: &Client, job: &JobDetail, destination: &Destination) -> Result<(), Failure> {
    let selections = Target::parse(&job.item.job)?.select(job)?;
    let got = destination.fill(client, job, &selections).await?;
    eprintln!("{got} in {}", destination.folder.path().display());
    Ok(())
}

/// What was done.
#[derive(Debug, Default)]
struct Got {
    files: u64,
    bytes: u64,
    there: u64,
    items: Vec<GotItem>,
}

impl Got {
    /// Counts a file, fetched or there already.
    fn count(mut self, file: &Wanted, fetched: bool) -> Self {
        if fetched {
            self.files += 1;
            self.bytes += file.len;
        } else {
            self.there += 1;
        }
        self.items.push(GotItem { path: file.path.clone(), hash: file.hash.to_hex(), len_bytes: file.len, fetched });
        self
    }
}

impl std::fmt::Display for Got {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {}", words::count(self.files, "file"), bytes(self.bytes))?;
        if self.there > 0 { write!(f, " ({} more were there already)", self.there) } else { Ok(()) }
    }
}

/// A file to fetch.
#[derive(Debug)]
struct Wanted {
    /// Below the destination.
    path: String,
    hash: Hash,
    len: u64,
    holders: Arc<[String]>,
}

/// The file of an output: below the stage's own folder, and in an array below the task's.
fn wanted(
    job: &JobDetail,
    run: &TaskRun,
    task: u32,
    output: &Output,
    holders: &Arc<[String]>,
) -> Result<Wanted, Failure> {
    let stage = stage(job, run.stage)?;
    let folder = if stage.array { format!("{}/{task}", stage.name) } else { stage.name.clone() };
    Wanted::of(&folder, output, Arc::clone(holders))
}

impl Wanted {
    fn of(folder: &str, output: &Output, holders: Arc<[String]>) -> Result<Self, Failure> {
        let hash = parse_hash(&output.hash).map_err(|error| Failure::new(Code::Bug, error.to_string()))?;
        check_output(&output.path).map_err(|why| {
            Failure::new(Code::Integrity, format!("an output is named `{}`, which {why}", output.path.escape_debug()))
        })?;
        let path = if folder.is_empty() { output.path.clone() } else { format!("{folder}/{}", output.path) };
        Ok(Self { path, hash, len: output.len_bytes, holders })
    }
}

/// A directory that files are put into, and never beside.
#[derive(Debug)]
pub(super) struct Destination {
    folder: Arc<Folder>,
    include: Vec<glob::Pattern>,
    replace: bool,
}

impl Destination {
    /// Makes the directory where it is missing. Files that are in it are replaced only with `replace`.
    pub(super) fn open(dir: &Path, replace: bool) -> Result<Self, Failure> {
        let folder = Folder::open(dir).map_err(|error| failure(&error))?;
        Ok(Self { folder: Arc::new(folder), include: Vec::new(), replace })
    }

    async fn fill(&self, client: &Client, job: &JobDetail, selections: &[Selection]) -> Result<Got, Failure> {
        let mut files = Vec::new();
        for selection in selections {
            self.list(client, job, selection, &mut files).await?;
        }
        self.fetch(client, files).await
    }

    async fn list(
        &self,
        client: &Client,
        job: &JobDetail,
        selection: &Selection,
        files: &mut Vec<Wanted>,
    ) -> Result<(), Failure> {
        let mut runs = client.tasks(&job.item.job, Some(selection.stage), selection.tasks.start).await?;
        while let Some(run) = runs.next().await? {
            let tasks = selection.clip(&run);
            if tasks.start >= selection.tasks.end {
                break;
            }
            let holders: Arc<[String]> = run.holders.clone().into();
            for (task, output) in tasks.flat_map(|task| run.outputs.iter().map(move |output| (task, output))) {
                let file = wanted(job, &run, task, output, &holders)?;
                if self.wants(&file.path) {
                    files.push(file);
                }
            }
        }
        Ok(())
    }

    fn wants(&self, path: &str) -> bool {
        self.include.is_empty() || self.include.iter().any(|pattern| pattern.matches(path))
    }

    /// Fetches the outputs of one task into the directory itself.
    pub(super) async fn put(&self, client: &Client, run: &TaskRun) -> Result<(), Failure> {
        let holders: Arc<[String]> = run.holders.clone().into();
        let files = run.outputs.iter().map(|output| Wanted::of("", output, Arc::clone(&holders)));
        self.fetch(client, files.collect::<Result<_, _>>()?).await.map(drop)
    }

    /// Fetches all of them, several at once. Nothing is begun when one of them has something else in its place.
    async fn fetch(&self, client: &Client, files: Vec<Wanted>) -> Result<Got, Failure> {
        for file in &files {
            self.check_room(file).await?;
        }
        let transfer = &Transfer::new(files.len(), files.iter().map(|file| file.len).sum());
        let fetches = files.iter().map(|file| async move {
            let fetched = self.fetch_one(client, file, transfer).await?;
            Ok::<_, Failure>((file, fetched))
        });
        let fetched = stream::iter(fetches).buffer_unordered(FILES_AT_ONCE);
        fetched.try_fold(Got::default(), |got, (file, fetched)| async move { Ok(got.count(file, fetched)) }).await
    }

    async fn place(&self, file: &Wanted) -> Result<Place, Failure> {
        let (folder, path) = (Arc::clone(&self.folder), file.path.clone());
        blocking(move || folder.place(&path)).await.map_err(|error| failure(&error))
    }

    async fn check_room(&self, file: &Wanted) -> Result<(), Failure> {
        let place = self.place(file).await?;
        match place.present().map_err(|error| failure(&error))? {
            Present::File(len) if len != file.len && !self.replace => Err(taken(&place)),
            Present::Other if !self.replace => Err(taken(&place)),
            _ => Ok(()),
        }
    }

    /// False when the file is there already.
    async fn fetch_one(&self, client: &Client, file: &Wanted, transfer: &Transfer) -> Result<bool, Failure> {
        let (place, hash, len, replace) = (self.place(file).await?, file.hash, file.len, self.replace);
        let (place, held) = blocking(move || {
            let held = place.holds(hash, len);
            (place, held)
        })
        .await;
        if held.map_err(|error| failure(&error))? {
            transfer.skip(len);
            transfer.file_done();
            return Ok(false);
        }
        if !replace && place.present().map_err(|error| failure(&error))? != Present::Nothing {
            return Err(taken(&place));
        }
        let place = match transfer_one(client, file, place, transfer).await {
            // What an earlier try left was damaged: once more from the beginning.
            Err((place, error)) if error.code == Code::Integrity => {
                place.forget(hash).map_err(|error| failure(&error))?;
                transfer_one(client, file, place, transfer).await.map_err(|(_, error)| error)?
            }
            done => done.map_err(|(_, error)| error)?,
        };
        let (place, part) = place;
        blocking(move || place.finish(hash, &part, replace)).await.map_err(|error| failure(&error))?;
        transfer.file_done();
        Ok(true)
    }
}

/// Fetches what is missing of a file, and checks all of it.
async fn transfer_one(
    client: &Client,
    file: &Wanted,
    place: Place,
    transfer: &Transfer,
) -> Result<(Place, std::fs::File), (Place, Failure)> {
    let (hash, len) = (file.hash, file.len);
    let (place, part) = blocking(move || {
        let part = place.begin(hash, len);
        (place, part)
    })
    .await;
    let fetched = async {
        let Part { file: part, hasher, len: have } = part.map_err(|error| failure(&error))?;
        transfer.skip(have);
        let mut reader = client.blob_from(hash, &file.holders, hasher, have).await?;
        let unwritable =
            |error| Failure::caused(Code::Failed, &format!("`{}` cannot be written", place.path().display()), &error);
        let mut part = tokio::fs::File::from_std(part);
        while let Some(piece) = reader.next().await? {
            part.write_all(&piece).await.map_err(unwritable)?;
            transfer.advance(piece.len() as u64);
        }
        part.flush().await.map_err(unwritable)?;
        Ok(part.into_std().await)
    };
    match fetched.await {
        Ok(part) => Ok((place, part)),
        Err(error) => Err((place, error)),
    }
}

fn taken(place: &Place) -> Failure {
    failure(&FolderError::Taken(place.path().into()))
}

fn failure(error: &FolderError) -> Failure {
    let code = match error {
        FolderError::Outside(_) => Code::Integrity,
        FolderError::Taken(_) => Code::Usage,
        _ => Code::Failed,
    };
    let failure = Failure::new(code, crate::api::causes(error));
    match error {
        FolderError::Taken(_) => failure.hint("choose another directory, or add --force"),
        FolderError::NoFolder(_) | FolderError::Io { .. } => {
            failure.hint("choose another directory: swarm get JOB DEST")
        }
        FolderError::Outside(_) | FolderError::Busy(_) => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_names_an_output_badly_is_not_believed() {
        let output = |path: &str| Output { path: path.into(), hash: Hash::of(b"").to_hex(), len_bytes: 0 };
        for name in ["../x", "/etc/passwd", "a/../../x", "nul", "", "\u{1b}[2J"] {
            let refused = Wanted::of("tile/3", &output(name), Arc::default()).unwrap_err();
            assert_eq!(refused.code, Code::Integrity, "{name:?}");
        }
        assert_eq!(Wanted::of("tile/3", &output("a/b"), Arc::default()).unwrap().path, "tile/3/a/b");
    }
}
