//! `swarm start`: a node in the foreground, from its first line to a clean end.

use std::num::NonZeroU64;
use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::args::{self, Global};
use super::node::data_dir;
use super::output::{Format, json, print};
use crate::api::{Code, Failure, causes};
use crate::collector::SCRUB_EVERY_MIN;
use crate::handle::Handle;
use crate::leaving::DrainAsked;
use crate::network::{IdentityError, NetworkError, Rates};
use crate::runtime::{Runtime, RuntimeOptions, StartError};
use crate::supervisor::Crash;

/// Schema of [`Started`].
pub(super) const STARTED: &str = "swarm.started/1";
/// How long handing over may take when no task runs: a few round trips to each custodian, which is trusted with blobs once
/// it was linked for ten seconds.
const DRAIN_IDLE_WAIT: Duration = Duration::from_secs(15);
/// Addresses come one by one; when none came for so long, all are there.
const ADDRESSES_QUIET: Duration = Duration::from_millis(150);
/// The longest wait for the first address, and for the last.
const ADDRESSES_WAIT: Duration = Duration::from_secs(5);

/// Runs a node until it is told to stop.
pub(super) async fn start(global: &Global, args: args::Start) -> Result<(), Failure> {
    // Listened to from the beginning, so that a signal during the start is not lost.
    let mut signals = Signals::new()?;
    let mut runtime = tokio::select! {
        started = Runtime::start(options(global, args)?) => started.map_err(|error| not_started(&error))?,
        () = signals.next() => return Ok(()),
    };
    greet(global.output, runtime.handle()).await?;
    let (api, node) = (runtime.api().clone(), runtime.handle().clone());
    let ended = tokio::select! {
        crash = runtime.crashed() => Err(crashed(&crash, node.data_dir())),
        () = api.drained() => Ok(()),
        () = signals.next() => leave(&node, None, &mut signals).await,
        asked = node.drain_asked() => leave(&node, Some(asked), &mut signals).await,
    };
    runtime.shutdown().await;
    ended
}

/// What a node is started with.
pub(super) fn options(global: &Global, args: args::Start) -> Result<RuntimeOptions, Failure> {
    let data = args.data.map_or_else(|| data_dir(global), Ok)?;
    // Made absolute, so that the directory in `status` means the same everywhere.
    let data = std::path::absolute(&data).unwrap_or(data);
    let mut options = RuntimeOptions::new(data);
    options.name = args.name;
    options.listen = args.listen;
    options.bootstrap = args.bootstrap;
    options.lan = args.lan;
    options.labels = args.labels.into_iter().collect();
    options.disk_bytes = args.disk;
    options.disk_reserve_bytes = args.disk_reserve;
    let rate = |bytes: Option<u64>| bytes.and_then(NonZeroU64::new);
    options.upload_rates = Rates { total: rate(args.upload_rate), per_peer: rate(args.upload_rate_per_peer) };
    options.download_rates = Rates { total: rate(args.download_rate), per_peer: rate(args.download_rate_per_peer) };
    if let Some(slots) = args.slots {
        options.slots = usize::try_from(slots).unwrap_or(usize::MAX);
    }
    if let Some(memory) = args.memory {
        options.memory_bytes = memory;
    }
    if let Some(timeout) = args.drain_timeout {
        options.drain_timeout = timeout;
    }
    if let Some(grace) = args.gc_grace {
        options.gc_grace = grace;
    }
    if let Some(every) = args.scrub_every {
        options.scrub_every = every.max(SCRUB_EVERY_MIN);
    }
    if let Some(bytes) = args.code_cache {
        options.code_cache_bytes = bytes;
    }
    if let Some(swarm) = args.swarm {
        options.swarm = swarm;
    }
    Ok(options)
}

fn not_started(error: &StartError) -> Failure {
    let failure = Failure::new(Code::Failed, causes(error));
    match error {
        StartError::Locked { dir } => failure.hint(format!("swarm status --node {}", dir.display())),
        StartError::Damaged { dir, .. } => Failure { code: Code::Integrity, ..failure }.hint(moved_away(dir)),
        StartError::Identity(IdentityError::Damaged { path }) => {
            Failure { code: Code::Integrity, ..failure }.hint(moved_away(path))
        }
        StartError::DataDir { dir, .. } if dir.exists() && !dir.is_dir() => {
            Failure { message: format!("`{}` is not a directory", dir.display()), ..failure }
                .hint("swarm start --data DIR   # an empty directory, or one that a node had before")
        }
        StartError::DataDir { .. } => {
            failure.hint("swarm start --data DIR   # a directory that you may write to; it is made when it is missing")
        }
        StartError::Storage { dir, .. } => {
            failure.hint(format!("df -h '{}', then start the node again", dir.display()))
        }
        StartError::Network(NetworkError::SwarmName { .. }) => {
            Failure { code: Code::Usage, ..failure }.hint("swarm start --swarm NAME")
        }
        StartError::Network(_) => failure.hint("swarm start --listen /ip4/0.0.0.0/tcp/0   # who has a port: ss -tulpn"),
        _ => failure.hint("swarm doctor"),
    }
}

/// The way on from damaged data: the node comes back without it, and what other nodes keep comes back from them.
fn moved_away(path: &Path) -> String {
    let path = path.display();
    format!("mv '{path}' '{path}.damaged' && swarm start …   # what other nodes keep too comes back from them")
}

/// What made the node stop, and of which of its parts that is.
fn crashed(crash: &Crash, data: &Path) -> Failure {
    let message = format!("{}; without its {} the node cannot go on", causes(crash.source.as_ref()), crash.child);
    let hint = match crash.child {
        "storage" | "blobs" => format!("look at the disk of `{}` (df -h), then start the node again", data.display()),
        _ => "swarm start".to_owned(),
    };
    Failure::new(Code::Failed, message).hint(hint)
}

/// What a node says first.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Started {
    schema: &'static str,
    /// 64 hexadecimal digits.
    node: String,
    /// For people.
    name: String,
    /// Where it can be dialled, each ready to paste after `--bootstrap`.
    addresses: Vec<String>,
    /// Its data directory.
    data: String,
    /// The program's version.
    version: &'static str,
}

/// Says who and where the node is, ready to be read by people and programs.
async fn greet(format: Format, node: &Handle) -> Result<(), Failure> {
    let started = Started {
        schema: STARTED,
        node: node.node().to_hex(),
        name: node.name().to_owned(),
        addresses: settled_addresses(node).await,
        data: node.data_dir().display().to_string(),
        version: env!("CARGO_PKG_VERSION"),
    };
    print(&match format {
        Format::Table => started.text(),
        Format::Json | Format::Jsonl => json(&started)?,
        Format::Id => format!("{}\n", started.node),
    })
}

impl Started {
    fn text(&self) -> String {
        let listen: String = self.addresses.iter().map(|address| format!("listen {address}\n")).collect();
        format!("node {}\n{listen}data {}\nready\n", self.node, self.data)
    }
}

async fn settled_addresses(node: &Handle) -> Vec<String> {
    let settle = async {
        let mut known = node.listening().await;
        loop {
            tokio::time::sleep(ADDRESSES_QUIET).await;
            let now = node.addresses();
            if now == known {
                return;
            }
            known = now;
        }
    };
    if tokio::time::timeout(ADDRESSES_WAIT, settle).await.is_err() {
        tracing::warn!("no dialable address is known yet");
    }
    node.addresses()
}

/// Hands over what is owed; a second signal ends it at once.
async fn leave(node: &Handle, asked: Option<DrainAsked>, signals: &mut Signals) -> Result<(), Failure> {
    let busy = node.slots_busy();
    let allowed = asked.and_then(|asked| asked.timeout).unwrap_or_else(|| node.drain_timeout());
    let wait = if busy == 0 { allowed.min(DRAIN_IDLE_WAIT) } else { allowed };
    let by = asked.map(|asked| format!(", as node {:?} asks", asked.by)).unwrap_or_default();
    eprintln!("draining ({busy} tasks running){by}; once more to stop at once");
    tokio::select! {
        drained = node.drain(wait) => {
            if !drained {
                eprintln!("not everything was handed over in time; it stays in the data directory");
            }
        }
        () = signals.next() => eprintln!("stopping at once"),
    }
    Ok(())
}

/// Ctrl-C and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::caused(Code::Failed, "signals cannot be received", &error));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_begins_with_its_cause() {
        let crash = Crash { child: "storage", source: "the disk is full".into() };
        assert_eq!(
            crashed(&crash, Path::new("/data")).to_string(),
            "the disk is full; without its storage the node cannot go on\n\
             look at the disk of `/data` (df -h), then start the node again"
        );
    }
}
