//! `swarm get`: the declared outputs of a job as files, verified.
//!
//! `DEST/STAGE/PATH` for a single task, `DEST/STAGE/INDEX/PATH` in an array.
//!
//! Always true: nothing is written outside DEST, whatever a job names its outputs and whatever links are in DEST; a file
//! has its name only when all its bytes were checked; nothing is replaced unless that was asked for.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use tokio::io::AsyncWriteExt;

use super::args;
use super::output::{bytes, print, progress, word};
use super::target::{Selection, Target, stage};
use crate::api::view::{JobDetail, Output, TaskRun, parse_hash};
use crate::api::{Client, Code, Failure};

/// Results are as any other file of the user's; the process's mask is taken off it.
const USUAL_MODE: u32 = 0o666;

/// `swarm get`.
pub(super) async fn get(client: &Client, args: &args::Get) -> Result<(), Failure> {
    let target = Target::parse(&args.target)?;
    let job = client.job(&target.job).await?;
    let selections = target.select(&job)?;
    if selections.iter().all(|it| job.stages[usize::from(it.stage)].outputs.is_empty()) {
        let message = format!("{} declares no outputs; what its tasks wrote is in its logs", args.target);
        return Err(Failure::new(Code::NotFound, message).hint(format!("swarm logs {}", args.target)));
    }
    let dir = args.dest.clone().unwrap_or_else(|| PathBuf::from(&job.item.id));
    let mut destination = Destination::create(&dir, args.force)?;
    destination.include = args.include.clone();
    let mut got = Got::default();
    for selection in &selections {
        fetch(client, &job, selection, &destination, &mut got).await?;
    }
    if !job.item.state.is_over() {
        eprintln!("{} is still {}: {}", job.item.id, word(&job.item), progress(&job.item));
    }
    eprintln!("{} files, {}", got.files, bytes(got.bytes));
    print(&format!("{}\n", dir.display()))
}

/// Every output of a job.
pub(super) async fn fetch_all(client: &Client, job: &JobDetail, destination: &Destination) -> Result<(), Failure> {
    let mut got = Got::default();
    for selection in &Target::parse(&job.item.job)?.select(job)? {
        fetch(client, job, selection, destination, &mut got).await?;
    }
    eprintln!("{} files, {} in {}", got.files, bytes(got.bytes), destination.root.display());
    Ok(())
}

#[derive(Debug, Default)]
struct Got {
    files: u64,
    bytes: u64,
}

async fn fetch(
    client: &Client,
    job: &JobDetail,
    selection: &Selection,
    destination: &Destination,
    got: &mut Got,
) -> Result<(), Failure> {
    let mut runs = client.tasks(&job.item.job, Some(selection.stage), selection.tasks.start).await?;
    while let Some(run) = runs.next().await? {
        let tasks = selection.clip(&run);
        if tasks.start >= selection.tasks.end {
            break;
        }
        for (task, output) in tasks.flat_map(|task| run.outputs.iter().map(move |output| (task, output))) {
            let path = place(job, &run, task, output)?;
            if destination.wants(&path) {
                destination.write(client, &path, output, &run.holders).await?;
                got.files += 1;
                got.bytes += output.len_bytes;
            }
        }
    }
    Ok(())
}

/// Where an output belongs, below the destination.
fn place(job: &JobDetail, run: &TaskRun, task: u32, output: &Output) -> Result<PathBuf, Failure> {
    let stage = stage(job, run.stage)?;
    let mut path = PathBuf::from(&stage.name);
    if stage.array {
        path.push(task.to_string());
    }
    // Joined as text: an absolute path must not replace what is before it.
    Ok(PathBuf::from(format!("{}/{}", path.display(), output.path)))
}

/// A directory that files are put into, and never beside.
#[derive(Debug)]
pub(super) struct Destination {
    root: PathBuf,
    include: Vec<glob::Pattern>,
}

impl Destination {
    /// Makes the directory. One that holds something already is used only when replacing was asked for.
    pub(super) fn create(dir: &Path, force: bool) -> Result<Self, Failure> {
        let unusable = |error: io::Error| {
            Failure::caused(Code::Failed, &format!("the directory `{}` cannot be written", dir.display()), &error)
        };
        fs::create_dir_all(dir).map_err(unusable)?;
        let mut entries = fs::read_dir(dir).map_err(unusable)?;
        if !force && entries.next().is_some() {
            let message = format!("`{}` is not empty, and files there might be replaced", dir.display());
            return Err(Failure::new(Code::Usage, message).hint("choose another directory, or add --force"));
        }
        Ok(Self::over(dir))
    }

    /// A directory that is there, in which files may be replaced.
    pub(super) fn over(dir: &Path) -> Self {
        Self { root: dir.into(), include: Vec::new() }
    }

    fn wants(&self, path: &Path) -> bool {
        self.include.is_empty() || self.include.iter().any(|pattern| pattern.matches_path(path))
    }

    /// Fetches one output to a path below the directory.
    pub(super) async fn write(
        &self,
        client: &Client,
        path: &Path,
        output: &Output,
        holders: &[String],
    ) -> Result<(), Failure> {
        let hash = parse_hash(&output.hash).map_err(|error| Failure::new(Code::Bug, error.to_string()))?;
        let target = self.resolve(path)?;
        let parent = target.parent().unwrap_or(&self.root);
        let unwritable = |error: &io::Error| {
            Failure::caused(Code::Failed, &format!("`{}` cannot be written", target.display()), error)
        };
        // It gets its name when it is whole, and takes the place of a link rather than following it.
        let usual = fs::Permissions::from_mode(USUAL_MODE);
        let temp = tempfile::Builder::new().prefix(".swarm-").permissions(usual).tempfile_in(parent);
        let temp = temp.map_err(|error| unwritable(&error))?;
        let mut file = tokio::fs::File::from_std(temp.reopen().map_err(|error| unwritable(&error))?);
        client.blob(hash, holders).await?.write_to(&mut file).await?;
        file.flush().await.map_err(|error| unwritable(&error))?;
        temp.persist(&target).map_err(|error| unwritable(&error.error))?;
        Ok(())
    }

    /// The full path of something below the directory, whose folders are made where they are missing.
    fn resolve(&self, path: &Path) -> Result<PathBuf, Failure> {
        let outside = || {
            let message = format!("an output is named `{}`, which is not a path below the directory", path.display());
            Failure::new(Code::Integrity, message)
        };
        let mut names = Vec::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => names.push(name),
                _ => return Err(outside()),
            }
        }
        let file = names.pop().ok_or_else(outside)?;
        let mut dir = self.root.clone();
        for name in names {
            dir.push(name);
            make_plain_dir(&dir)?;
        }
        Ok(dir.join(file))
    }
}

/// Makes a folder where there is none. A link is not followed: it may lead anywhere.
fn make_plain_dir(dir: &Path) -> Result<(), Failure> {
    let failed =
        |error: &io::Error| Failure::caused(Code::Failed, &format!("`{}` cannot be made", dir.display()), error);
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(&error)),
        _ => {}
    }
    if fs::symlink_metadata(dir).map_err(|error| failed(&error))?.is_dir() {
        return Ok(());
    }
    let message = format!("`{}` is in the way: it is not a directory", dir.display());
    Err(Failure::new(Code::Failed, message).hint("choose another directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_outside() {
        let root = tempfile::tempdir().unwrap();
        let destination = Destination::create(root.path(), false).unwrap();
        for name in ["../x", "a/../../x", "/etc/passwd", "", "a/..", "."] {
            assert_eq!(destination.resolve(Path::new(name)).unwrap_err().code, Code::Integrity, "{name}");
        }
        assert_eq!(destination.resolve(Path::new("tile/3/a/b.ppm")).unwrap(), root.path().join("tile/3/a/b.ppm"));
        assert!(root.path().join("tile/3/a").is_dir());
    }

    #[test]
    fn a_link_in_the_directory_is_not_followed() {
        let (root, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(elsewhere.path(), root.path().join("tile")).unwrap();
        let destination = Destination::over(root.path());
        assert_eq!(destination.resolve(Path::new("tile/x")).unwrap_err().code, Code::Failed);
    }

    #[test]
    fn a_directory_with_something_in_it_needs_force() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("mine"), "").unwrap();
        assert_eq!(Destination::create(root.path(), false).unwrap_err().code, Code::Usage);
        assert!(Destination::create(root.path(), true).is_ok());
    }
}
