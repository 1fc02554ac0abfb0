//! The `swarm` command: what a user types, sees and gets back as an exit code.
//!
//! Always true: standard output is data and standard error is talk; every failure ends in [`complain`] and in the exit
//! code of its [`Code`]; a command says nothing to a node but through [`Client`](crate::api::Client).
//!
//! Elsewhere: what a node answers is `api`; what a job file means is `jobfile`.

mod args;
mod blob;
mod complete;
mod config;
mod doctor;
mod events;
mod explain;
mod folder;
mod get;
mod jobs;
mod keeping;
mod log_items;
mod logs;
mod modules;
mod node;
mod output;
mod plan;
mod progress;
mod retry;
mod run;
mod schemas;
mod start;
mod submit;
mod target;
mod usage;
mod wait;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use schemars::JsonSchema;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use self::args::{Cli, Command, Config, Global};
use self::config::Origins;
use self::node::data_dir;
use crate::api::{Client, Code, Failure};

/// Schema of [`Version`].
const VERSION: &str = "swarm.version/1";
/// Our crates, as the log filter names them.
const CRATES: [&str; 5] = ["swarm", "swarm_node", "swarm_protocol", "swarm_store", "swarm_executor"];
/// The most threads beside those of guests, by default: what a fast network keeps busy.
const WORKER_THREADS_MAX: usize = 8;

/// Runs the command that this process was started with.
pub fn main() -> ExitCode {
    complete::answer_shell();
    let (cli, origins) = match config::parse() {
        Ok(parsed) => parsed,
        Err(failure) => return failed(&failure),
    };
    start_log(&cli);
    std::panic::set_hook(Box::new(|panic| bug(&panic.to_string())));
    // What is told of a panic is the hook's; here it becomes an exit code.
    // Nothing is looked at again that a panic may have left half done.
    let ended = std::panic::catch_unwind(AssertUnwindSafe(|| run(cli, &origins)));
    match ended.unwrap_or_else(|_| std::process::exit(Code::Bug.exit().into())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failed(&failure),
    }
}

fn failed(failure: &Failure) -> ExitCode {
    complain(failure);
    ExitCode::from(failure.code.exit())
}

/// One line, wherever it happened; the backtrace only for whoever set `RUST_BACKTRACE`.
fn bug(panic: &str) {
    let text: Vec<&str> = panic.lines().collect();
    eprintln!("this is a bug in swarm: {}", text.join(" "));
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        eprintln!("{trace}");
    }
}

fn run(cli: Cli, origins: &Origins) -> Result<(), Failure> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // Who sets tokio's own variable decides.
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        runtime.worker_threads(worker_threads());
    }
    let runtime = runtime.enable_all().build();
    let runtime = runtime.map_err(|error| Failure::caused(Code::Failed, "cannot start threads", &error))?;
    runtime.block_on(dispatch(cli, origins))
}

/// Threads for the network, the core and the API: guests have their own. On few cores one of them is faster than two, as
/// what arrives wakes one thread instead of several.
fn worker_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).clamp(1, WORKER_THREADS_MAX)
}

async fn dispatch(Cli { command, global }: Cli, origins: &Origins) -> Result<(), Failure> {
    match command {
        Command::Start(args) => start::start(&global, args).await,
        Command::Submit(args) => submit::submit(&global, &args).await,
        Command::Run(args) => run::run(&global, &args).await,
        Command::Validate(args) => submit::validate(&global, &args).await,
        Command::Version => version(&global),
        Command::Plan(args) => plan::plan(&global, &args).await,
        Command::Doctor(args) => doctor::doctor(&global, args).await,
        Command::Config(Config::Show(start)) => config::show(&global, *start, origins),
        Command::Schema(args) => schemas::schema(&args),
        Command::Completions(args) => complete::completions(&args),
        Command::Man(args) => complete::man(&args),
        Command::Events(args) => events::events(&client(&global)?, &global, &args).await,
        Command::Explain(args) => explain::explain(&client(&global)?, &global, &args).await,
        Command::Retry(args) => retry::retry(&client(&global)?, &global, &args).await,
        Command::Ls(args) => jobs::ls(&client(&global)?, &global, &args).await,
        Command::Show(args) => jobs::show(&client(&global)?, &global, &args).await,
        Command::Wait(args) => jobs::wait(&client(&global)?, &global, &args).await,
        Command::Cancel(args) => jobs::cancel(&client(&global)?, &global, &args).await,
        Command::Status => jobs::status(&client(&global)?, &global).await,
        Command::Nodes => jobs::nodes(&client(&global)?, &global).await,
        Command::Drain(args) => jobs::drain(&client(&global)?, &global, &args).await,
        Command::Get(args) => get::get(&client(&global)?, &global, &args).await,
        Command::Blob(args) => blob::blob(&client(&global)?, &global, &args).await,
        Command::Module(command) => modules::module(&client(&global)?, &global, &command).await,
        Command::Logs(args) => logs::logs(&client(&global)?, &global, &args).await,
    }
}

fn client(global: &Global) -> Result<Client, Failure> {
    Ok(Client::new(&data_dir(global)?))
}

/// Which program this is.
#[derive(Debug, Serialize, JsonSchema)]
struct Version {
    schema: &'static str,
    version: &'static str,
}

fn version(global: &Global) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    output::print(&match global.output {
        output::Format::Table => format!("swarm {version}\n"),
        output::Format::Json | output::Format::Jsonl => output::json(&Version { schema: VERSION, version })?,
        output::Format::Id => format!("{version}\n"),
    })
}

/// Tells the user what went wrong; the last line is what to do next.
fn complain(failure: &Failure) {
    match failure.code {
        // These are news of a job, not errors of the command.
        Code::JobFailed | Code::Detached => eprintln!("{failure}"),
        _ => eprintln!("error: {failure}"),
    }
}

/// `SWARM_LOG`, else `RUST_LOG`, else what suits: a node on a terminal tells what it does, commands only what is wrong.
fn start_log(cli: &Cli) {
    let variable = ["SWARM_LOG", "RUST_LOG"].into_iter().find(|name| std::env::var_os(name).is_some());
    let filter = match variable {
        Some(name) => EnvFilter::builder().with_env_var(name).from_env_lossy(),
        None => EnvFilter::new(default_filter(cli)),
    };
    let terminal = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal).init();
}

fn default_filter(cli: &Cli) -> String {
    let node_on_terminal = matches!(cli.command, Command::Start(_)) && std::io::stderr().is_terminal();
    let ours = match (cli.global.verbose, node_on_terminal) {
        (0, false) => "warn",
        (0, true) | (1, _) => "info",
        _ => "debug",
    };
    let ours = CRATES.map(|name| format!("{name}={ours}"));
    // A node without peers is not news: `swarm nodes` shows it.
    format!("warn,libp2p_kad=error,{}", ours.join(","))
}
