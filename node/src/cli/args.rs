//! What a user can type.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};
use swarm_protocol::Hash;

use super::complete::complete_jobs;
use super::output::Format;
use super::schemas::{self, JOB_FILE};

/// A page of WebAssembly memory: the least that a task may ask for.
const MEMORY_BYTES_MIN: u64 = 64 << 10;

/// The end of a command's help. A test executes every line of it.
macro_rules! examples {
    ($($line:literal),+ $(,)?) => { concat!("Examples:", $("\n  ", $line),+) };
}

/// A leaderless compute swarm: hand a job to any node, walk away, and get the results from any other.
#[derive(Debug, Parser)]
#[command(name = "swarm", version, max_term_width = 100)]
pub(super) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(super) command: Command,
    /// The settings of every command.
    #[command(flatten)]
    pub(super) global: Global,
}

/// Settings of every command.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Global {
    /// Data directory of the node to talk to
    #[arg(long, global = true, env = "SWARM_NODE", value_name = "DIR", hide_env_values = true)]
    pub(super) node: Option<PathBuf>,
    /// Configuration file, in place of the data directory's and the user's own `config.toml`
    #[arg(long, global = true, env = "SWARM_CONFIG", value_name = "FILE", hide_env_values = true)]
    pub(super) config: Option<PathBuf>,
    /// How data is printed
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(super) output: Format,
    /// Say more on stderr (twice: still more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a node in the foreground
    #[command(after_help = examples!(
        "swarm start --name anna --label zone=a",
        "swarm start --slots 2 --memory 4GiB",
        "swarm start --bootstrap /ip4/192.0.2.7/tcp/4001",
    ))]
    Start(Start),
    /// Submit a job file and print its id
    #[command(after_help = examples!(
        "swarm submit job.toml",
        "swarm submit job.toml --set size=64 --label team=art --wait",
        "swarm submit job.toml --local",
    ))]
    Submit(Submit),
    /// Run one module: prints its output, exits with 0 when it succeeded and 3 when not
    #[command(after_help = examples!(
        "swarm run hello.wasm",
        "swarm run echo.wasm --range 0..3 -- '{{ item }}'",
        "swarm run echo.wasm --each-line lines.txt --local -- '{{ item }}'",
    ))]
    Run(Run),
    /// Say what a job file would become and where its tasks would run; exits with 9 when some never can
    #[command(after_help = examples!("swarm plan job.toml", "swarm plan job.toml --offline -o json"))]
    Plan(Plan),
    /// List the jobs, newest first
    #[command(after_help = examples!("swarm ls", "swarm ls --state running --label team=art", "swarm ls --all -o id"))]
    Ls(Ls),
    /// Show a job, a task of it, or a node
    #[command(after_help = examples!(
        "swarm show @last",
        "swarm show '@last/hello[2]'",
        "swarm show @last --spec",
        "swarm show $(swarm status -o id)",
    ))]
    Show(Show),
    /// Wait until jobs are finished
    #[command(after_help = examples!("swarm wait @last", "swarm wait @last --timeout 5m"))]
    Wait(Wait),
    /// Print what tasks wrote, in task order
    #[command(after_help = examples!(
        "swarm logs @last",
        "swarm logs '@last/hello[2]' --prefix",
        "swarm logs @last --failed",
    ))]
    Logs(Logs),
    /// Fetch the declared outputs of a job, verified
    #[command(after_help = examples!("swarm get @last got", "swarm get @last --force got --include 'make/*'"))]
    Get(Get),
    /// Publish, find and look into named modules
    #[command(subcommand, after_help = examples!("swarm module inspect hello.wasm"))]
    Module(Module),
    /// Content-addressed bytes: store, fetch, check and keep them
    #[command(subcommand, after_help = examples!("swarm blob put hello.wasm", "swarm blob ls"))]
    Blob(Blob),
    /// Say why a job, or a task of it, is not done, and what to type next
    #[command(after_help = examples!("swarm explain @last", "swarm explain '@last/hello[2]'", "swarm explain @last -o json"))]
    Explain(Explain),
    /// Print what the node hears of jobs, tasks and nodes, from where a reader was on
    #[command(after_help = examples!("swarm events -o jsonl", "swarm events --since 0 --job @last"))]
    Events(Events),
    /// Cancel jobs
    #[command(after_help = examples!("swarm cancel @last"))]
    Cancel(Ids),
    /// Run a finished job again: all of it, or with --failed only what did not succeed
    #[command(after_help = examples!(
        "swarm retry @last",
        "swarm retry @last --failed",
        "swarm retry @last job.toml --set size=64",
    ))]
    Retry(Retry),
    /// Make a node finish or release its work, hand over what it keeps, and leave
    #[command(after_help = examples!("swarm drain", "swarm drain anna --drain-timeout 10s", "swarm drain -o json"))]
    Drain(Drain),
    /// Show the node and what it sees of the swarm
    #[command(after_help = examples!("swarm status", "swarm status -o json"))]
    Status,
    /// List every known node
    #[command(after_help = examples!("swarm nodes", "swarm nodes -o id"))]
    Nodes,
    /// Say what is wrong with this machine, its node and what that sees of the swarm, and what to type; exits with 1 when
    /// something needs mending
    #[command(after_help = examples!("swarm doctor", "swarm doctor --fix -o json"))]
    Doctor(Doctor),
    /// What the settings are, and where each comes from
    #[command(subcommand, after_help = examples!("swarm config show", "swarm config show --slots 2 -o json"))]
    Config(Config),
    /// Check job files without a node
    #[command(after_help = examples!("swarm validate job.toml", "swarm validate job.toml --set size=64 -o json"))]
    Validate(Validate),
    /// Print the JSON Schema of job files, for editors, or of a document that a command prints with -o json
    #[command(after_help = examples!("swarm schema job > job.schema.json", "swarm schema swarm.nodes/1"))]
    Schema(Schema),
    /// Print what a shell needs to complete commands, flags and the ids of jobs
    #[command(after_help = examples!("swarm completions bash > swarm.bash", "swarm completions fish > swarm.fish"))]
    Completions(Completions),
    /// Print the manual, or write one page for each command into a directory
    #[command(after_help = examples!("swarm man > swarm.1", "swarm man pages"))]
    Man(Man),
    /// Print the version
    #[command(after_help = examples!("swarm version"))]
    Version,
}

/// `swarm plan`.
#[derive(Clone, Debug, Args)]
pub(super) struct Plan {
    /// The job file, or `-` for standard input
    pub(super) file: PathBuf,
    /// The value of a parameter, as size=8192 (repeatable)
    #[arg(long, value_name = "K=V", value_parser = setting)]
    pub(super) set: Vec<(String, String)>,
    /// Ask no node: leaves out where tasks would run
    #[arg(long)]
    pub(super) offline: bool,
}

/// `swarm ls`.
#[derive(Clone, Debug, Args)]
pub(super) struct Ls {
    /// Every job, however many there are
    #[arg(long, conflicts_with = "limit")]
    pub(super) all: bool,
    /// Only jobs in this state (repeatable)
    #[arg(long, value_name = "STATE", value_enum)]
    pub(super) state: Vec<State>,
    /// Only jobs with this label, as team=art; a name alone accepts any value (repeatable)
    #[arg(long = "label", value_name = "K[=V]")]
    pub(super) labels: Vec<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value = "50", value_parser = whole::<usize>)]
    pub(super) limit: usize,
    /// Show it again whenever something changed, until Ctrl-C
    #[arg(long)]
    pub(super) watch: bool,
}

/// The states of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum State {
    /// Tasks are waiting or running
    Running,
    /// Stopped; the running tasks are being ended
    Stopping,
    /// Every task succeeded
    Done,
    /// Over, and not every task succeeded
    Failed,
    /// Over, because it was cancelled
    Cancelled,
}

/// `swarm events`.
#[derive(Clone, Debug, Args)]
pub(super) struct Events {
    /// Only what followed the event with this number
    #[arg(long, value_name = "SEQ", value_parser = whole::<u64>)]
    pub(super) since: Option<u64>,
    /// Only of this job
    #[arg(long, value_name = "JOB", value_parser = job(), add = complete_jobs())]
    pub(super) job: Option<String>,
    /// Go on until Ctrl-C
    #[arg(long)]
    pub(super) follow: bool,
}

/// `swarm drain`.
#[derive(Clone, Debug, Args)]
pub(super) struct Drain {
    /// The node, by its name or the beginning of its id [default: the one that is asked]
    #[arg(value_name = "NODE")]
    pub(super) target: Option<String>,
    /// What runs there may take so long to finish, as 30s; then it is released [default: the node's own]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(super) drain_timeout: Option<Duration>,
}

/// `swarm doctor`.
#[derive(Clone, Debug, Args)]
pub(super) struct Doctor {
    /// Repair what can be repaired without a loss, and say so: what a crash left behind, missing directories, modes
    #[arg(long)]
    pub(super) fix: bool,
    /// As the node is, or would be, started.
    #[command(flatten)]
    pub(super) start: Start,
}

/// `swarm config`.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Config {
    /// Show every setting as `swarm start` would use it here, with the same flags, environment and files
    #[command(after_help = examples!("swarm config show", "swarm config show --slots 2 --label zone=a -o json"))]
    Show(Box<Start>),
}

/// `swarm explain`.
#[derive(Clone, Debug, Args)]
pub(super) struct Explain {
    /// The job, or a stage or task of it, as poster-3fa9c1/tile[3]
    #[arg(value_name = "JOB[/TASK]", value_parser = job(), add = complete_jobs())]
    pub(super) target: String,
}

/// `swarm retry`.
#[derive(Clone, Debug, Args)]
pub(super) struct Retry {
    /// The job
    #[arg(value_name = "JOB", value_parser = job(), add = complete_jobs())]
    pub(super) id: String,
    /// The job file, read anew with the files that it names; otherwise the job runs as it was submitted
    pub(super) file: Option<PathBuf>,
    /// Only the tasks that did not succeed, and what needs them; the others keep their results
    #[arg(long)]
    pub(super) failed: bool,
    /// The value of a parameter of FILE, as size=8192 (repeatable)
    #[arg(long, value_name = "K=V", value_parser = setting, requires = "file")]
    pub(super) set: Vec<(String, String)>,
}

/// `swarm schema`.
#[derive(Clone, Debug, Args)]
pub(super) struct Schema {
    /// `job` for job files, or what a document that a command prints has as its `schema`
    #[arg(value_name = "NAME", default_value = JOB_FILE, hide_default_value = true,
        value_parser = PossibleValuesParser::new(schemas::names()))]
    pub(super) of: String,
}

/// `swarm completions`.
#[derive(Clone, Debug, Args)]
pub(super) struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub(super) shell: Shell,
}

/// The shells that can complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Shell {
    /// Bash
    Bash,
    /// Elvish
    Elvish,
    /// Fish
    Fish,
    /// PowerShell
    Powershell,
    /// Zsh
    Zsh,
}

/// `swarm man`.
#[derive(Clone, Debug, Args)]
pub(super) struct Man {
    /// Where to write the pages
    pub(super) dir: Option<PathBuf>,
}

/// `swarm start`.
#[derive(Clone, Debug, Args)]
pub(super) struct Start {
    /// Address of a node that is already in the swarm (repeatable), as printed after `listen` by `swarm start`
    #[arg(long, value_name = "MULTIADDR", env = "SWARM_BOOTSTRAP", value_delimiter = ',', value_parser = multiaddr)]
    pub(super) bootstrap: Vec<String>,
    /// Address to listen on (repeatable) [default: QUIC and TCP on free ports]
    #[arg(long, value_name = "MULTIADDR", env = "SWARM_LISTEN", value_delimiter = ',', value_parser = multiaddr)]
    pub(super) listen: Vec<String>,
    /// Where the node keeps everything [default: the data directory of --node]
    #[arg(long, value_name = "DIR", env = "SWARM_DATA")]
    pub(super) data: Option<PathBuf>,
    /// Tasks to run at once [default: the number of processors]
    #[arg(long, value_name = "N", env = "SWARM_SLOTS", value_parser = slots)]
    pub(super) slots: Option<u32>,
    /// Memory offered to tasks, as 4GiB [default: what the machine has]
    #[arg(long, value_name = "SIZE", env = "SWARM_MEMORY", value_parser = memory)]
    pub(super) memory: Option<u64>,
    /// How long a blob stays that no pin, job or published module names, as 30m [default: 1h]
    #[arg(long, value_name = "TIME", env = "SWARM_GC_GRACE", value_parser = duration)]
    pub(super) gc_grace: Option<Duration>,
    /// How often the bytes of all stored blobs are looked at and what is damaged is fetched anew [default: 24h]
    #[arg(long, value_name = "TIME", env = "SWARM_SCRUB_EVERY", value_parser = duration)]
    pub(super) scrub_every: Option<Duration>,
    /// How much compiled code to keep on the disk [default: 1GiB]; what was not used for longest goes first
    #[arg(long, value_name = "SIZE", env = "SWARM_CODE_CACHE", value_parser = size)]
    pub(super) code_cache: Option<u64>,
    /// Something to know this node by, as zone=a (repeatable)
    #[arg(long = "label", value_name = "K=V", env = "SWARM_LABEL", value_delimiter = ',', value_parser = label)]
    pub(super) labels: Vec<(String, String)>,
    /// The node's name, for people [default: the host's]
    #[arg(long, env = "SWARM_NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(super) name: Option<String>,
    /// Find other nodes of the local network by mDNS
    #[arg(long, env = "SWARM_LAN", value_parser = clap::builder::BoolishValueParser::new())]
    pub(super) lan: bool,
    /// What runs may take so long to finish when the node leaves, as 30s; then it is released [default: 30s]
    #[arg(long, value_name = "TIME", env = "SWARM_DRAIN_TIMEOUT", value_parser = duration)]
    pub(super) drain_timeout: Option<Duration>,
    /// Disk that blobs may have, as 100GiB; at 90 % of it new ones are refused [default: the disk, but for a reserve]
    #[arg(long, value_name = "SIZE", env = "SWARM_DISK", value_parser = size)]
    pub(super) disk: Option<u64>,
    /// Disk that blobs, outputs and compiled code leave free for records and logs, as 1GiB [default: 64MiB, or a sixteenth of
    /// a small disk]
    #[arg(long, value_name = "SIZE", env = "SWARM_DISK_RESERVE", value_parser = size)]
    pub(super) disk_reserve: Option<u64>,
    /// Bytes of blobs sent a second, to all nodes together, as 50MB [default: no limit]
    #[arg(long, value_name = "SIZE", env = "SWARM_UPLOAD_RATE", value_parser = size)]
    pub(super) upload_rate: Option<u64>,
    /// Bytes of blobs sent a second to each node [default: no limit]
    #[arg(long, value_name = "SIZE", env = "SWARM_UPLOAD_RATE_PER_PEER", value_parser = size)]
    pub(super) upload_rate_per_peer: Option<u64>,
    /// Bytes of blobs taken a second, from all nodes together [default: no limit]
    #[arg(long, value_name = "SIZE", env = "SWARM_DOWNLOAD_RATE", value_parser = size)]
    pub(super) download_rate: Option<u64>,
    /// Bytes of blobs taken a second from each node [default: no limit]
    #[arg(long, value_name = "SIZE", env = "SWARM_DOWNLOAD_RATE_PER_PEER", value_parser = size)]
    pub(super) download_rate_per_peer: Option<u64>,
    /// Name of the swarm: nodes of different swarms do not speak to each other
    #[arg(long, value_name = "NAME", env = "SWARM_SWARM")]
    pub(super) swarm: Option<String>,
}

/// `swarm submit`.
#[derive(Clone, Debug, Args)]
pub(super) struct Submit {
    /// The job file, or `-` for standard input
    pub(super) file: PathBuf,
    /// Wait until it is finished; exits with 3 when it failed
    #[arg(long)]
    pub(super) wait: bool,
    /// Wait, and print what tasks write while they run
    #[arg(long)]
    pub(super) follow: bool,
    /// Use an embedded swarm of one node instead of a running one; waits, and prints the output
    #[arg(long)]
    pub(super) local: bool,
    /// Fetch the outputs into this directory when it is finished; waits
    #[arg(long, value_name = "DIR")]
    pub(super) get: Option<PathBuf>,
    /// Another name for the job
    #[arg(long)]
    pub(super) name: Option<String>,
    /// The value of a parameter, as size=8192 (repeatable)
    #[arg(long, value_name = "K=V", value_parser = setting)]
    pub(super) set: Vec<(String, String)>,
    /// A label of the job, as team=art (repeatable)
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    pub(super) labels: Vec<(String, String)>,
    /// Another priority, -100 to 100
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = priority)]
    pub(super) priority: Option<i8>,
}

/// `swarm run`.
#[derive(Clone, Debug, Args)]
pub(super) struct Run {
    /// A WebAssembly file, `blake3:HEX` of one that the swarm has, or the name of a published one, as sh.example.loudify@1
    pub(super) module: String,
    /// Arguments of the module; in an array `{{ item }}` and `{{ index }}` are replaced
    #[arg(last = true)]
    pub(super) args: Vec<String>,
    /// Standard input of the module
    #[arg(long, value_name = "FILE")]
    pub(super) stdin: Option<PathBuf>,
    /// A file or directory to read under /in (repeatable)
    #[arg(long = "in", value_name = "SRC[:DST]")]
    pub(super) inputs: Vec<String>,
    /// A file that the module leaves under /out; fetched into the current directory (repeatable)
    #[arg(long = "out", value_name = "PATH")]
    pub(super) outputs: Vec<String>,
    /// One task for each line of this file, which is `{{ item }}`
    #[arg(long, value_name = "FILE", conflicts_with = "range")]
    pub(super) each_line: Option<PathBuf>,
    /// One task for each number, as 0..100
    #[arg(long, value_name = "A..B")]
    pub(super) range: Option<String>,
    /// Longest time that one task may run, as 30s
    #[arg(long, value_name = "TIME")]
    pub(super) timeout: Option<String>,
    /// Memory of one task, as 256MiB
    #[arg(long, value_name = "SIZE")]
    pub(super) memory: Option<String>,
    /// Use an embedded swarm of one node instead of a running one
    #[arg(long)]
    pub(super) local: bool,
}

/// `swarm show`.
#[derive(Clone, Debug, Args)]
pub(super) struct Show {
    /// The job, a stage or task of it as poster-3fa9c1/tile[3], or a node by its name or the beginning of its id
    #[arg(value_name = "JOB[/TASK]|NODE", value_parser = job(), add = complete_jobs())]
    pub(super) id: String,
    /// List its tasks, too
    #[arg(long)]
    pub(super) tasks: bool,
    /// Print the job file as it was written
    #[arg(long, conflicts_with = "tasks")]
    pub(super) spec: bool,
}

/// `swarm wait`.
#[derive(Clone, Debug, Args)]
pub(super) struct Wait {
    /// The jobs
    #[arg(required = true, value_name = "JOB", value_parser = job(), add = complete_jobs())]
    pub(super) ids: Vec<String>,
    /// Give up after this time, as 90s or 5m; exits with 7
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
}

/// `swarm logs`.
#[derive(Clone, Debug, Args)]
pub(super) struct Logs {
    /// The job, or one task of it, as poster-3fa9c1/tile[3]
    #[arg(value_name = "JOB[/TASK]", value_parser = job(), add = complete_jobs())]
    pub(super) target: String,
    /// What was written to standard output [default]
    #[arg(long)]
    pub(super) stdout: bool,
    /// What was written to standard error
    #[arg(long)]
    pub(super) stderr: bool,
    /// Only tasks that failed; standard error as well unless one is chosen
    #[arg(long)]
    pub(super) failed: bool,
    /// Begin each line with the task's name
    #[arg(long)]
    pub(super) prefix: bool,
    /// Go on until the job is finished, and show what tasks write while they run: of one task byte by byte, of several line by line
    #[arg(long)]
    pub(super) follow: bool,
    /// Only the last N lines of each task
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    pub(super) tail: Option<usize>,
}

/// `swarm get`.
#[derive(Clone, Debug, Args)]
pub(super) struct Get {
    /// The job, or one task of it, as poster-3fa9c1/tile[3]
    #[arg(value_name = "JOB[/TASK]", value_parser = job(), add = complete_jobs())]
    pub(super) target: String,
    /// Where to put the files [default: ./NAME-xxxxxx]
    pub(super) dest: Option<PathBuf>,
    /// Only files whose path below DEST matches (repeatable)
    #[arg(long, value_name = "GLOB", value_parser = |text: &str| glob::Pattern::new(text))]
    pub(super) include: Vec<glob::Pattern>,
    /// Replace files that are there already
    #[arg(long)]
    pub(super) force: bool,
}

/// `swarm module`.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Module {
    /// Publish a version of a module, for ever: `module.toml` has `name`, `namespace`, `version` and `binary`, and may have
    /// `description`, `required_extensions` and `permissions`
    #[command(after_help = examples!("swarm module publish", "swarm module publish module.toml -o json"))]
    Publish {
        /// The manifest; the binary's path is relative to it
        #[arg(default_value = "module.toml")]
        manifest: PathBuf,
    },
    /// List what is published
    #[command(after_help = examples!("swarm module ls", "swarm module ls sh.example.loudify -o json"))]
    Ls {
        /// Only this name, as `sh.example.loudify`
        name: Option<String>,
    },
    /// Show the version that a name means
    #[command(after_help = examples!("swarm module show sh.example.loudify@1", "swarm module show sh.example.loudify -o id"))]
    Show {
        /// As `sh.example.loudify@1`; with `#KEY` where several published the name
        #[arg(value_name = "NAME@VERSION")]
        reference: String,
    },
    /// Say what is in a module and what it would need
    #[command(after_help = examples!("swarm module inspect hello.wasm", "swarm module inspect sh.example.loudify@1 -o json"))]
    Inspect {
        /// A file, `blake3:HEX`, or `NAME@VERSION` of a published one
        module: String,
    },
    /// Take a version back that this node published: it is not chosen any more; jobs that have it still run
    #[command(after_help = examples!("swarm module yank sh.example.loudify@1.2.0"))]
    Yank {
        /// As `sh.example.loudify@1.2.0`
        #[arg(value_name = "NAME@VERSION")]
        reference: String,
    },
}

/// `swarm blob`.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Blob {
    /// List the blobs on the node, and what each is kept for
    #[command(after_help = examples!("swarm blob ls", "swarm blob ls -o id"))]
    Ls,
    /// Bring blobs to the node, to stay there whatever becomes of the jobs that name them
    #[command(after_help = examples!("swarm blob pin $(swarm blob put hello.wasm)"))]
    Pin(Hashes),
    /// Let blobs go that were pinned
    #[command(after_help = examples!("swarm blob unpin $(swarm blob put hello.wasm)"))]
    Unpin(Hashes),
    /// Remove the blobs that no pin, job or published module needs
    #[command(after_help = examples!("swarm blob gc", "swarm blob gc --grace 10m -o json"))]
    Gc {
        /// Not those that were written or used within this time, as 10m [default: the node's own, an hour]
        #[arg(long, value_name = "TIME", value_parser = duration)]
        grace: Option<Duration>,
    },
    /// Store files on the node and print their names
    #[command(after_help = examples!("swarm blob put hello.wasm", "echo hello | swarm blob put -"))]
    Put {
        /// The files, or `-` for standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Fetch a blob from whichever node has it, verified
    #[command(after_help = examples!("swarm blob get $(swarm blob put hello.wasm) back.wasm"))]
    Get {
        /// The blob, as blake3:HEX
        #[arg(value_name = "HASH", value_parser = blob)]
        hash: Hash,
        /// Where to put it [default: standard output]
        dest: Option<PathBuf>,
        /// Replace a file that is there already
        #[arg(long)]
        force: bool,
    },
    /// Show what the node has of blobs
    #[command(after_help = examples!("swarm blob stat $(swarm blob put hello.wasm)"))]
    Stat(Hashes),
    /// Read blobs on the node and check every byte; exits with 11 when one is damaged
    #[command(after_help = examples!("swarm blob verify $(swarm blob put hello.wasm)"))]
    Verify(Hashes),
}

/// Some blobs.
#[derive(Clone, Debug, Args)]
pub(super) struct Hashes {
    /// The blobs, as blake3:HEX
    #[arg(required = true, value_name = "HASH", value_parser = blob)]
    pub(super) hashes: Vec<Hash>,
}

/// A list of jobs.
#[derive(Clone, Debug, Args)]
pub(super) struct Ids {
    /// The jobs
    #[arg(required = true, value_name = "JOB", value_parser = job(), add = complete_jobs())]
    pub(super) ids: Vec<String>,
}

/// `swarm validate`.
#[derive(Clone, Debug, Args)]
pub(super) struct Validate {
    /// The job files
    #[arg(required = true, value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    /// The value of a parameter, as size=8192 (repeatable)
    #[arg(long, value_name = "K=V", value_parser = setting)]
    pub(super) set: Vec<(String, String)>,
}

/// An address of a node, checked here so that a slip is found before anything is started.
fn multiaddr(text: &str) -> Result<String, String> {
    let wrong = || {
        "it is not a multiaddress, as /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW…; `swarm status` on the other machine prints its own".to_owned()
    };
    let address: libp2p::Multiaddr = text.parse().map_err(|_| wrong())?;
    let host_and_port = address.iter().count() >= 2;
    if host_and_port { Ok(text.to_owned()) } else { Err(wrong()) }
}

/// `blake3:HEX`, or the digits alone.
fn blob(text: &str) -> Result<Hash, String> {
    let wrong = |_| "a blob is named blake3:HEX, with 64 hexadecimal digits".to_owned();
    Hash::from_hex(text.strip_prefix("blake3:").unwrap_or(text)).map_err(wrong)
}

/// `K=V`.
fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("a label is KEY=VALUE, as zone=a".into()),
    }
}

/// `NAME=VALUE` of a parameter; the value may be empty.
fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("a parameter is set as NAME=VALUE, as size=8192".into()),
    }
}

/// `90s`, `1h 30m`: units are required, so that nobody takes minutes for seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration =
        text.parse().map_err(|_| "a time is a number and a unit, as 90s or 5m".to_owned())?;
    Duration::try_from(span).map_err(|_| "a time cannot be negative".into())
}

/// Any name of a job, but not none, as an unset variable gives.
fn job() -> clap::builder::NonEmptyStringValueParser {
    clap::builder::NonEmptyStringValueParser::new()
}

/// Tasks at once.
fn slots(text: &str) -> Result<u32, String> {
    let number = text.parse::<u32>().ok().filter(|number| (1..=4096).contains(number));
    number.ok_or_else(|| "it is a whole number from 1 to 4096".into())
}

/// A priority of a job.
fn priority(text: &str) -> Result<i8, String> {
    let number = text.parse::<i8>().ok().filter(|number| (-100..=100).contains(number));
    number.ok_or_else(|| "it is a whole number from -100 to 100".into())
}

/// A number of things.
fn whole<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "it is not a whole number, as 20".into())
}

/// What a node offers: at least what the smallest task may ask for.
fn memory(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    let least = ByteSize(MEMORY_BYTES_MIN);
    if bytes < MEMORY_BYTES_MIN {
        Err(format!("no task fits in less than {least}; say it with a unit, as 4GiB"))
    } else {
        Ok(bytes)
    }
}

/// `4GiB`, `500MB` or a number of bytes.
fn size(text: &str) -> Result<u64, String> {
    let bytes = text.trim().parse::<ByteSize>().ok().map(|size| size.as_u64());
    // What is too large to count is read as the largest number.
    let bytes = bytes.ok_or("a size is a number and a unit, as 512MiB or 4GiB")?;
    if bytes == u64::MAX {
        Err("it is more than can be counted; a size is as 512MiB or 4GiB".into())
    } else {
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_commands_are_well_defined() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_and_times_are_read_in_the_usual_forms() {
        assert_eq!((size("4GiB"), size("500 MB"), size("17")), (Ok(4 << 30), Ok(500_000_000), Ok(17)));
        assert!(size("much").is_err() && size("-1").is_err() && size("99999999999TiB").is_err());
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(duration("90").is_err() && duration("-5s").is_err());
    }

    #[test]
    fn nonsense_is_no_address_and_the_error_shows_one() {
        for nonsense in ["nonsense", "", "/ip4/999.0.0.1/tcp/1", "127.0.0.1:4001", "/ip4/127.0.0.1"] {
            assert!(multiaddr(nonsense).unwrap_err().contains("/ip4/"), "{nonsense}");
        }
        assert!(multiaddr("/ip4/127.0.0.1/udp/4001/quic-v1").is_ok());
    }

    #[test]
    fn what_follows_two_dashes_belongs_to_the_module() {
        let cli = Cli::parse_from(["swarm", "run", "m.wasm", "--range", "0..3", "--", "--range", "-o", "x"]);
        let Command::Run(run) = cli.command else { panic!("run") };
        assert_eq!(run.args, ["--range", "-o", "x"]);
    }
}
