//! `swarm start`: a node in the foreground, from its first line to a clean end.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::args::{self, Global};
use super::node::data_dir;
use super::output::print;
use crate::api::{Code, Failure, Server, serve};
use crate::handle::Handle;
use crate::runtime::{Runtime, RuntimeOptions, StartError};

/// How long handing over may take when no task runs: a few round trips to each custodian.
const DRAIN_IDLE_WAIT: Duration = Duration::from_secs(5);
/// How long it may take when tasks run: they are finished or released.
const DRAIN_BUSY_WAIT: Duration = Duration::from_secs(60);
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
    let mut server = serve(runtime.handle().clone())
        .map_err(|error| Failure::caused(Code::Failed, "the node cannot be started", &error))?;
    greet(runtime.handle()).await?;
    let ended = tokio::select! {
        crash = runtime.crashed() => Err(Failure::new(Code::Failed, crash.to_string()).hint("swarm start")),
        () = server.drained() => Ok(()),
        () = signals.next() => leave(runtime.handle(), &mut signals).await,
    };
    stop(runtime, server).await;
    ended
}

fn options(global: &Global, args: args::Start) -> Result<RuntimeOptions, Failure> {
    let data = args.data.map_or_else(|| data_dir(global), Ok)?;
    // Made absolute, so that the directory in `status` means the same everywhere.
    let data = std::path::absolute(&data).unwrap_or(data);
    let mut options = RuntimeOptions::new(data);
    options.name = args.name;
    options.listen = args.listen;
    options.bootstrap = args.bootstrap;
    options.lan = args.lan;
    options.labels = args.labels.into_iter().collect();
    if let Some(slots) = args.slots {
        options.slots = usize::try_from(slots).unwrap_or(usize::MAX);
    }
    if let Some(memory) = args.memory {
        options.memory_bytes = memory;
    }
    if let Some(swarm) = args.swarm {
        options.swarm = swarm;
    }
    Ok(options)
}

fn not_started(error: &StartError) -> Failure {
    let failure = Failure::new(Code::Failed, crate::api::causes(error));
    match error {
        StartError::Locked { dir } => failure.hint(format!("swarm status --node {}", dir.display())),
        StartError::DataDir { .. } => failure.hint("swarm start --data DIR"),
        _ => failure,
    }
}

/// Says who and where the node is, ready to be read by people and programs.
async fn greet(node: &Handle) -> Result<(), Failure> {
    let mut lines = format!("node {}\n", node.node());
    for address in settled_addresses(node).await {
        lines.push_str(&format!("listen {address}\n"));
    }
    lines.push_str(&format!("data {}\nready\n", node.data_dir().display()));
    print(&lines)
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
async fn leave(node: &Handle, signals: &mut Signals) -> Result<(), Failure> {
    let busy = node.slots_busy();
    let wait = if busy == 0 { DRAIN_IDLE_WAIT } else { DRAIN_BUSY_WAIT };
    eprintln!("draining ({busy} tasks running); once more to stop at once");
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

async fn stop(runtime: Runtime, server: Server) {
    server.stop().await;
    runtime.shutdown().await;
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
