//! Runtime: one node as a process runs it, put together.
//!
//! ```text
//! NodeSupervisor   restart with back-off, at most 5 in 60 s, then the process exits
//! ├─ storage       stops everything when a commit failed
//! ├─ blobs         stops everything when the disk under the blobs failed
//! ├─ network       stops everything when the libp2p task is gone
//! ├─ kad           writes Kademlia records behind
//! ├─ artifacts     brings blobs here, each once at a time
//! ├─ provider      tells others which larger blobs are here
//! ├─ executor      stops everything when the supervisor of leases is gone
//! ├─ driver        owns the core; started again, it rebuilds the core from the records
//! ├─ watchers      one actor for each job that somebody waits for
//! ├─ collector     removes blobs that nothing needs
//! ├─ scrub         looks at the bytes of those that stay
//! └─ api           answers the user's commands
//! ```
//!
//! The command line stands beside it and uses the API.
//!
//! Always true: one process at a time has a data directory; parts are started from the disk upwards, and the disk is
//! closed last. A swarm of one, embedded in a command, is the same thing with fewer listeners.
//!
//! The data directory: `identity.key`, `lock`, `api.sock`, `db/` (records), `blobs/`, `cache/` (compiled code, may be
//! removed at any time while no node runs) and `scratch/` (files of running tasks).

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use swarm_executor::{CACHE_BYTES_MAX, Engine, EngineConfig, EngineError, MODULE_BYTES_MAX, Room};
use swarm_protocol::{Config, Node, NodeId, NodeRecord, Table, Write};
use swarm_store::{BlobError, Blobs};
use tokio::sync::{Mutex, mpsc};

use crate::api::{Server, SocketError};
use crate::artifacts::{self, Artifacts};
use crate::board::Board;
use crate::clock::Clock;
use crate::collector::{Collector, GRACE, SCRUB_EVERY, Times};
use crate::commands::Commands;
use crate::driver::{self, Driver, Inbox, Told};
use crate::events::Events;
use crate::handle::{self, Handle, blocking};
use crate::leaving::DRAIN_TIMEOUT;
use crate::network::{Identity, IdentityError, Network, NetworkConfig, NetworkError, Rates};
use crate::storage::{ReadError, Storage, StorageError, hear_of_failure, watch_blobs};
use crate::supervisor::{Crash, Failure, OnFailure, Service, Supervisor};
use crate::watchers::{self, Watchers};
use crate::work::{Work, WorkError, WorkOptions, disk_room};

/// The swarm that nodes belong to unless they are told otherwise.
pub const DEFAULT_SWARM: &str = "default";
/// Where an embedded node listens: nobody else has to reach it.
const LOOPBACK: &str = "/ip4/127.0.0.1/tcp/0";
/// Where the records are, in the data directory.
const RECORDS_DIR: &str = "db";
/// Locked by the process that has the data directory, for as long as it lives.
pub(crate) const LOCK_NAME: &str = "lock";
/// Compiled code, in the data directory.
pub(crate) const CACHE_DIR: &str = "cache";
/// Files of running tasks, in the data directory.
pub(crate) const SCRATCH_DIR: &str = "scratch";
/// Blobs, in the data directory.
pub(crate) const BLOBS_DIR: &str = "blobs";
/// The longest time for compiling one module: above any honest one of the largest size on a slow and busy machine.
const COMPILE_TIME_MAX: Duration = Duration::from_secs(600);
/// The largest memory of one task, and so the address space that each slot reserves: all that 32-bit WebAssembly has.
const TASK_MEMORY_BYTES_MAX: u64 = 4 << 30;
/// Changes of Kademlia records that wait for the disk; what does not fit is a hint that a restart forgets.
const KAD_WRITES_MAX: usize = 256;
/// Memory offered when the system does not say how much it has.
const MEMORY_BYTES_UNKNOWN: u64 = 1 << 30;

/// How to run a node.
#[derive(Clone, Debug)]
pub struct RuntimeOptions {
    /// The data directory; made when missing.
    pub data: PathBuf,
    /// The node's name, for people; the machine's when `None`.
    pub name: Option<String>,
    /// The swarm it belongs to: nodes of different swarms do not talk.
    pub swarm: String,
    /// Multiaddresses to listen on; when empty, QUIC and TCP on free ports.
    pub listen: Vec<String>,
    /// Multiaddresses of nodes to join.
    pub bootstrap: Vec<String>,
    /// Whether to look for nodes on the local network (mDNS).
    pub lan: bool,
    /// Tasks to run at once.
    pub slots: usize,
    /// Memory to offer to tasks, in bytes.
    pub memory_bytes: u64,
    /// How long a blob stays that nothing names.
    pub gc_grace: Duration,
    /// How often the bytes of all blobs are looked at.
    pub scrub_every: Duration,
    /// How long what runs may take to finish when the node leaves.
    pub drain_timeout: Duration,
    /// How much compiled code to keep on the disk, in bytes.
    pub code_cache_bytes: u64,
    /// Labels to offer, for placement.
    pub labels: BTreeMap<String, String>,
    /// Bytes that blobs may have; no limit when `None`.
    pub disk_bytes: Option<u64>,
    /// Bytes of the disk that blobs, outputs and compiled code leave free; the usual when `None`.
    pub disk_reserve_bytes: Option<u64>,
    /// How fast blobs are sent to other nodes.
    pub upload_rates: Rates,
    /// How fast blobs are taken from other nodes.
    pub download_rates: Rates,
}

impl RuntimeOptions {
    /// A node of the default swarm that offers every core and half the memory of this machine.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            name: None,
            swarm: DEFAULT_SWARM.into(),
            listen: Vec::new(),
            bootstrap: Vec::new(),
            lan: false,
            slots: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: system_memory_bytes().unwrap_or(MEMORY_BYTES_UNKNOWN) / 2,
            gc_grace: GRACE,
            scrub_every: SCRUB_EVERY,
            drain_timeout: DRAIN_TIMEOUT,
            code_cache_bytes: CACHE_BYTES_MAX,
            labels: BTreeMap::new(),
            disk_bytes: None,
            disk_reserve_bytes: None,
            upload_rates: Rates::default(),
            download_rates: Rates::default(),
        }
    }

    /// A swarm of one that nobody else can reach.
    pub fn embedded(data: impl Into<PathBuf>) -> Self {
        Self { listen: vec![LOOPBACK.into()], ..Self::new(data) }
    }
}

/// Why a node cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be made or written.
    #[error("the data directory `{dir}` cannot be used")]
    DataDir {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another node has it.
    #[error("another node is running in `{dir}`")]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The node's key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The records cannot be opened.
    #[error("the records in `{dir}` cannot be opened")]
    Storage {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: Failure,
    },
    /// The records are not those that were stored.
    #[error("the records in `{dir}` are damaged")]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// What was noticed, and in which table.
        source: Failure,
    },
    /// The blobs cannot be opened.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The WebAssembly engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The part that runs tasks.
    #[error(transparent)]
    Work(#[from] WorkError),
    /// The network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The API's socket.
    #[error(transparent)]
    Api(#[from] SocketError),
    /// The supervisor.
    #[error("the node's parts cannot be started")]
    Supervisor(#[source] Failure),
}

impl StartError {
    fn opened(dir: PathBuf, error: StorageError) -> Self {
        match error.is_damage() {
            true => Self::Damaged { dir, source: error.into() },
            false => Self::Storage { dir, source: error.into() },
        }
    }

    fn read(dir: PathBuf, error: ReadError) -> Self {
        match error.is_damage() {
            true => Self::Damaged { dir, source: error.into() },
            false => Self::Storage { dir, source: error.into() },
        }
    }
}

/// A running node.
pub struct Runtime {
    handle: Handle,
    api: Server,
    supervisor: Supervisor,
    storage: Storage,
    lock: File,
}

impl Runtime {
    /// Starts a node on the tokio runtime of the caller. When it returns the node has its disk and listens, and has begun
    /// to look for its peers.
    pub async fn start(options: RuntimeOptions) -> Result<Self, StartError> {
        Parts::assemble(options).await?.start().await
    }

    /// What may be done with the node.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Its API, which is served on the socket in the data directory.
    pub fn api(&self) -> &Server {
        &self.api
    }

    /// Waits until the node cannot go on; pending as long as it can. The process should then exit and be started again.
    pub async fn crashed(&mut self) -> Crash {
        self.supervisor.crashed().await
    }

    /// Stops the node at once; [`Handle::drain`] first when there is time. Handles that remain are of no use.
    pub async fn shutdown(self) {
        let Self { handle, api, supervisor, storage, lock } = self;
        api.stop().await;
        supervisor.stop().await;
        handle.stop().await;
        // Closing RocksDB waits for the disk; the directory is free for the next node only after it.
        blocking(move || {
            storage.close();
            drop((handle, api, lock));
        })
        .await;
    }
}

/// A node put together, before anything runs that is supervised.
struct Parts {
    handle: Handle,
    lock: File,
    driver: Driver,
    manager: artifacts::Manager,
    provider: artifacts::Provider,
    watching: watchers::Manager,
    kad_changes: Inlet<Write>,
}

/// A queue that outlives whoever reads it.
type Inlet<T> = Arc<Mutex<mpsc::Receiver<T>>>;

impl Parts {
    async fn assemble(options: RuntimeOptions) -> Result<Self, StartError> {
        let opening = options.clone();
        let Disk { lock, identity, storage, blobs, engine } = blocking(move || Disk::open(&opening)).await?;
        let db = options.data.join(RECORDS_DIR);
        let records = storage.records().await.map_err(|error| StartError::read(db.clone(), error))?;
        let kad_records = storage.table(Table::Kad).await.map_err(|error| StartError::read(db.clone(), error))?;
        let followed = storage.table(Table::Events).await.map_err(|error| StartError::read(db.clone(), error))?;
        let events_log = Events::open(&followed, storage.clone());
        let peers = driver::known_peers(&records);
        let clock = Clock::start();
        let joins = !options.bootstrap.is_empty();
        let config = Config { record: node_record(&options, identity.node()), seed: fastrand::u64(..), joins };
        let first = Node::start(config.clone(), clock.now(), records)
            .map_err(|error| StartError::Damaged { dir: db, source: error.into() })?;
        let (commands, events) = Commands::new(storage.waits());
        let (told, board) = (Told::default(), Board::new(options.slots));

        let (kad_writes, kad_changes) = mpsc::channel(KAD_WRITES_MAX);
        let (network, heard) = Network::start(NetworkConfig {
            known_peers: peers.iter().map(|(node, addresses)| (*node, addresses.clone())).collect(),
            kad_records: kad_records.into_iter().map(|(_, key, value)| (key, value)).collect(),
            kad_writes: Some(kad_writes),
            ..network_config(&options, &identity, &blobs, &board)
        })
        .await?;
        let (artifacts, manager, provider) = Artifacts::new(blobs.clone(), network.clone(), told.linked.subscribe());
        let work = Work::start(WorkOptions {
            engine,
            blobs: blobs.clone(),
            scratch: options.data.join(SCRATCH_DIR),
            slots: options.slots,
            memory_bytes: options.memory_bytes,
            board: board.clone(),
            artifacts: artifacts.clone(),
            commands: commands.clone(),
        })?;
        let (watchers, watching) = Watchers::new(commands.clone());
        let times = Times { grace: options.gc_grace, scrub_every: options.scrub_every };
        let collector = Collector::new(blobs.clone(), storage.clone(), commands.clone(), artifacts.clone(), times);
        let handle = Handle::new(handle::Parts {
            identity,
            name: config.record.name.clone(),
            swarm: options.swarm,
            data_dir: options.data,
            slots: options.slots,
            clock,
            commands: commands.clone(),
            members: told.members.subscribe(),
            addresses: told.addresses.subscribe(),
            drained: told.drained.subscribe(),
            drain_asks: told.drain_asked.subscribe(),
            drain_timeout: options.drain_timeout,
            endings: told.endings.clone(),
            blobs,
            artifacts: artifacts.clone(),
            network: network.clone(),
            board,
            work: work.clone(),
            watchers,
            collector,
            events: events_log.clone(),
        });
        let inbox = Arc::new(Mutex::new(Inbox::new(events, heard, first, peers)));
        let driver =
            Driver { config, clock, storage, network, work, artifacts, commands, told, events: events_log, inbox };
        let kad_changes = Arc::new(Mutex::new(kad_changes));
        Ok(Self { handle, lock, driver, manager, provider, watching, kad_changes })
    }

    async fn start(self) -> Result<Runtime, StartError> {
        let driver = self.driver.clone();
        self.start_with(Service::new("driver", OnFailure::Restart, move || driver.clone().run())).await
    }

    async fn start_with(self, driver: Service) -> Result<Runtime, StartError> {
        let Self { handle, lock, driver: parts, manager, provider, watching, kad_changes } = self;
        let Driver { storage, network, work, .. } = parts;
        let api = Server::listen(handle.clone())?;
        let (watched, kad_storage, served) = (storage.clone(), storage.clone(), api.clone());
        let (collector, scrub) = (handle.collector().clone(), handle.collector().clone());
        let disk = hear_of_failure(handle.blobs());
        let children = vec![
            Service::new("storage", OnFailure::Stop, move || watched.clone().watch()),
            Service::new("blobs", OnFailure::Stop, move || watch_blobs(disk.clone())),
            Service::new("network", OnFailure::Stop, move || network.clone().watch()),
            Service::new("kad", OnFailure::Restart, move || keep(Arc::clone(&kad_changes), kad_storage.clone())),
            Service::new("artifacts", OnFailure::Restart, move || manager.clone().run()),
            Service::new("provider", OnFailure::Restart, move || provider.clone().run()),
            Service::new("executor", OnFailure::Stop, move || work.clone().watch()),
            driver,
            Service::supervising("watchers", OnFailure::Restart, move |parent| watching.clone().run(parent)),
            Service::new("collector", OnFailure::Restart, move || collector.clone().run()),
            Service::new("scrub", OnFailure::Restart, move || scrub.clone().scrub()),
            Service::new("api", OnFailure::Restart, move || served.clone().run()),
        ];
        let supervisor = Supervisor::start(children).await.map_err(|error| StartError::Supervisor(error.into()))?;
        Ok(Runtime { handle, api, supervisor, storage, lock })
    }
}

/// What is on the disk, opened.
struct Disk {
    lock: File,
    identity: Identity,
    storage: Storage,
    blobs: Blobs,
    engine: Engine,
}

impl Disk {
    fn open(options: &RuntimeOptions) -> Result<Self, StartError> {
        let dir = &options.data;
        let lock = lock(dir)?;
        let records = dir.join(RECORDS_DIR);
        let storage = Storage::open(&records).map_err(|error| StartError::opened(records, error))?;
        let blobs = Blobs::open(&dir.join(BLOBS_DIR))?;
        options.disk_bytes.map(|bytes| blobs.set_budget(bytes)).transpose()?;
        if let Some(bytes) = options.disk_reserve_bytes {
            blobs.set_reserve(bytes);
        }
        let engine = Engine::new(engine_config(options, disk_room(&blobs)))?;
        Ok(Self { lock, identity: Identity::load_or_create(dir)?, storage, blobs, engine })
    }
}

/// Makes the directory, for its owner alone, and keeps other nodes out for as long as the file is open.
fn lock(dir: &Path) -> Result<File, StartError> {
    let unusable = |source| StartError::DataDir { dir: dir.into(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
    let file = File::create(dir.join(LOCK_NAME)).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::Locked { dir: dir.into() }),
        Err(TryLockError::Error(source)) => Err(unusable(source)),
    }
}

fn node_record(options: &RuntimeOptions, node: NodeId) -> NodeRecord {
    let slots = u32::try_from(options.slots).unwrap_or(u32::MAX);
    NodeRecord {
        node,
        incarnation: 0,
        sequence: 0,
        name: options.name.clone().or_else(machine_name).unwrap_or_else(|| format!("{node:?}")),
        addresses: Vec::new(),
        slots,
        slots_free: slots,
        memory_bytes: options.memory_bytes,
        labels: options.labels.clone(),
        arch: std::env::consts::ARCH.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        draining: false,
    }
}

/// What this machine is called.
pub(crate) fn machine_name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

fn system_memory_bytes() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// Writes changes of the Kademlia records behind their map in memory. They are hints: no sync is spent on them.
async fn keep(changes: Inlet<Write>, storage: Storage) -> Result<(), Failure> {
    let mut changes = changes.lock().await;
    let mut batch = Vec::new();
    while changes.recv_many(&mut batch, KAD_WRITES_MAX).await > 0 {
        storage.commit_lazily(std::mem::take(&mut batch))?;
    }
    Ok(())
}

/// The network of these options, as yet without what earlier runs knew.
fn network_config(options: &RuntimeOptions, identity: &Identity, blobs: &Blobs, board: &Board) -> NetworkConfig {
    NetworkConfig {
        identity: identity.clone(),
        swarm_name: options.swarm.clone(),
        listen: options.listen.clone(),
        bootstrap: options.bootstrap.clone(),
        lan: options.lan,
        known_peers: Vec::new(),
        blobs: blobs.clone(),
        board: board.clone(),
        upload_rates: options.upload_rates,
        download_rates: options.download_rates,
        kad_records: Vec::new(),
        kad_writes: None,
    }
}

fn engine_config(options: &RuntimeOptions, cache_room: Room) -> EngineConfig {
    EngineConfig {
        cache_dir: Some(options.data.join(CACHE_DIR)),
        cache_bytes_max: options.code_cache_bytes,
        cache_room,
        memory_bytes_max: options.memory_bytes.min(TASK_MEMORY_BYTES_MAX),
        module_bytes_max: MODULE_BYTES_MAX,
        compile_time_max: COMPILE_TIME_MAX,
    }
}

#[cfg(test)]
mod tests;
