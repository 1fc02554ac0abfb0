//! `swarm completions` and `swarm man`: what shells and pagers read.

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use clap::CommandFactory;
use clap_complete::env::{CompleteEnv, Shells};
use clap_complete::{ArgValueCompleter, CompletionCandidate};

use super::args::{self, Cli, Global};
use super::node::data_dir;
use super::output::print_bytes;
use crate::api::{Client, Code, Failure};

/// Set by the script of a shell that asks for completions, which calls this program.
const VARIABLE: &str = "SWARM_COMPLETE";
/// A shell waits for the ids while the user has a key down.
const IDS_WAIT: Duration = Duration::from_millis(500);
/// Ids offered at once: more are not read.
const IDS_MAX: usize = 100;

/// Answers a shell that asks for completions, and ends; returns at once otherwise.
pub(super) fn answer_shell() {
    CompleteEnv::with_factory(Cli::command).var(VARIABLE).complete();
}

/// `swarm completions`.
pub(super) fn completions(args: &args::Completions) -> Result<(), Failure> {
    let name = match args.shell {
        args::Shell::Bash => "bash",
        args::Shell::Elvish => "elvish",
        args::Shell::Fish => "fish",
        args::Shell::Powershell => "powershell",
        args::Shell::Zsh => "zsh",
    };
    let shells = Shells::builtins();
    let shell = shells.completer(name).ok_or_else(|| Failure::new(Code::Bug, format!("{name} is not known")))?;
    let mut script = Vec::new();
    let written = shell.write_registration(VARIABLE, "swarm", "swarm", "swarm", &mut script);
    written.map_err(|error| Failure::caused(Code::Bug, "the script cannot be made", &error))?;
    print_bytes(&script)
}

/// Completes ids of jobs, as the node knows them.
pub(super) fn complete_jobs() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| {
        let typed = typed.to_string_lossy().into_owned();
        let mut ids = ids().unwrap_or_default();
        ids.push("@last".to_owned());
        let begins = ids.into_iter().filter(|id| id.starts_with(&typed));
        begins.take(IDS_MAX).map(CompletionCandidate::new).collect()
    })
}

/// The ids of the jobs that the node knows; nothing when it does not answer at once.
fn ids() -> Option<Vec<String>> {
    let node = std::env::var_os("SWARM_NODE").map(Into::into);
    let global = Global { node, ..Global::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async {
        let client = Client::new(&data_dir(&global).ok()?);
        let jobs = tokio::time::timeout(IDS_WAIT, client.jobs()).await.ok()?.ok()?;
        Some(jobs.items.into_iter().map(|job| job.id).collect())
    })
}

/// `swarm man`.
pub(super) fn man(args: &args::Man) -> Result<(), Failure> {
    match &args.dir {
        Some(dir) => pages(dir),
        None => print_bytes(&page(Cli::command())?),
    }
}

fn pages(dir: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        let what = format!("the manual cannot be written to `{}`", dir.display());
        Failure::caused(Code::Failed, &what, &error).hint("swarm man DIR   # a directory that you may write to")
    };
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(failed)?;
    if std::io::stderr().is_terminal() {
        eprintln!("read it with `man -l {}/swarm.1`", dir.display());
    }
    Ok(())
}

/// The whole manual on one page: every command with its flags.
fn page(command: clap::Command) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let written = clap_mangen::Man::new(command).render(&mut bytes);
    written.map_err(|error| Failure::caused(Code::Bug, "the manual cannot be made", &error))?;
    Ok(bytes)
}
