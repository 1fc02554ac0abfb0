//! Fetch: brings one blob here, from several nodes at once.
//!
//! The length is proven first, by the last group. Then every source is asked for other groups, each answer is checked and
//! written, and when all are here the blob gets its name. What came stays on the disk when the fetch fails or the process
//! dies: the next one goes on from there.
//!
//! Always true: of what came, at most a mebibyte is neither checked nor written; a source that sends a wrong byte, too much,
//! nothing, or lacks what it claimed is dropped and counted, and the fetch goes on with others; a fetch ends when nothing new
//! came for [`FETCH_DEADLINE`].
//!
//! Elsewhere: what to ask of whom is `plan`, whom to ask `candidates`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant as Clock};

use swarm_protocol::{Hash, NodeId};
use swarm_store::{Arriving, BlobError, Blobs, GROUP_BYTES, Groups, groups_in};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

use super::candidates::Candidates;
use super::plan::{Number, Plan};
use super::{FETCH_DEADLINE, Unfetched};
use crate::handle::blocking;
use crate::network::{FetchError, Holder, Network};

/// Sources at once: more would only share this node's link.
const SOURCES_MAX: usize = 4;
/// Conversations at once, slow ones included.
const CONVERSATIONS_MAX: usize = 8;
/// Requests of one source that are open at once: while one answer comes, the next is made.
const REQUESTS_MAX: usize = 2;
/// How often a fetch looks round: for late answers, for sources that may be asked again, for bytes to be synced.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often a source that has only a part is asked what it has by now.
const REFRESH_EVERY: Duration = Duration::from_millis(50);
/// A blob with more groups missing is looked for on more nodes than the first that has it.
const MANY_GROUPS: usize = 16;
/// How long the proof of the length is waited for before another source is asked for it.
const PROOF_WAIT: Duration = Duration::from_millis(300);
/// Whoever was asked first and has not begun after this is not waited for alone.
const SLOW_START: Duration = Duration::from_secs(1);
/// The first and the longest wait between two questions to the Kademlia map.
const LOOKUP_WAIT: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];
/// Linked members asked at once: whoever holds a blob is nearly always named or a provider.
const LINKED_TRIED_MAX: usize = 16;
/// Bytes that came since the last sync after which the next begins: so that at the end little is left to sync.
const SYNC_GROUPS: usize = (8 << 20) / GROUP_BYTES as usize;

/// Where blobs come from and go to.
#[derive(Clone)]
pub(super) struct Means {
    pub(super) blobs: Blobs,
    pub(super) network: Network,
    pub(super) linked: watch::Receiver<Vec<NodeId>>,
}

/// A fetch under way.
struct Fetch {
    means: Means,
    hash: Hash,
    candidates: Candidates,
    /// Set when the length is proven, of a blob with several groups.
    download: Option<Arc<Download>>,
    /// A blob of one group is stored as soon as it is proven.
    stored: bool,
    tasks: JoinSet<Event>,
    /// Conversations that are being opened or go on.
    asked: usize,
    conversations: Number,
    looking: bool,
    look_again: Instant,
    look_wait: Duration,
    /// Groups missing at the last change, and when that was.
    progress: (usize, Instant),
    syncing: Option<JoinHandle<Result<(), BlobError>>>,
    /// Groups missing at the last sync.
    synced: usize,
}

/// What the conversations of one fetch share.
struct Download {
    arriving: Arriving,
    plan: Mutex<Plan>,
    /// A group came, or the disk failed.
    changed: Notify,
    /// This node's own disk failed.
    failed: Mutex<Option<BlobError>>,
    /// Nodes that sources named.
    others: Mutex<Vec<NodeId>>,
}

/// Something that a task of the fetch came to.
enum Event {
    /// A conversation ended, or did not even begin.
    Ended { node: NodeId, number: Number, end: Result<(), FetchError> },
    /// A conversation began.
    Found { node: NodeId, number: Number, holder: Box<Holder> },
    /// The same; and its first answer, which is to prove the length.
    Proof { node: NodeId, number: Number, holder: Box<Holder>, groups: Groups, encoded: Vec<u8> },
    /// Nodes that may have it.
    Nodes(Vec<NodeId>),
}

/// Brings a blob here. `more` brings the names of further nodes.
pub(super) async fn fetch(
    means: Means,
    hash: Hash,
    from: Vec<NodeId>,
    mut more: mpsc::UnboundedReceiver<Vec<NodeId>>,
) -> Result<(), Unfetched> {
    let mut fetch = Fetch::new(means, hash);
    fetch.candidates.add(&from, Instant::now());
    fetch.run(&mut more).await.map_err(|error| match error {
        Ending::Nowhere => Unfetched::Nowhere { hash },
        Ending::Disk(error) => Unfetched::Disk { hash, reason: crate::api::causes(&error) },
    })
}

/// Why a fetch ended without the blob.
enum Ending {
    Nowhere,
    Disk(BlobError),
}

impl From<BlobError> for Ending {
    fn from(error: BlobError) -> Self {
        Self::Disk(error)
    }
}

impl Fetch {
    fn new(means: Means, hash: Hash) -> Self {
        let now = Instant::now();
        Self {
            candidates: Candidates::new(means.network.node()),
            means,
            hash,
            download: None,
            stored: false,
            tasks: JoinSet::new(),
            asked: 0,
            conversations: 0,
            looking: false,
            look_again: now,
            look_wait: LOOKUP_WAIT[0],
            progress: (usize::MAX, now),
            syncing: None,
            synced: usize::MAX,
        }
    }

    async fn run(&mut self, more: &mut mpsc::UnboundedReceiver<Vec<NodeId>>) -> Result<(), Ending> {
        self.resume().await?;
        while !self.is_over()? {
            self.ask();
            self.look();
            self.sync().await?;
            let changed = async {
                match &self.download {
                    Some(download) => download.changed.notified().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(event) = self.tasks.join_next() => match event {
                    Ok(event) => self.on_event(event).await?,
                    Err(error) => tracing::error!(%error, "a conversation about a blob failed"),
                },
                Some(nodes) = more.recv() => self.candidates.add(&nodes, Instant::now()),
                () = changed => {}
                () = sleep(LOOK_EVERY) => {}
            }
        }
        self.finish().await
    }

    /// Goes on with what an earlier fetch left.
    async fn resume(&mut self) -> Result<(), Ending> {
        let (blobs, hash) = (self.means.blobs.clone(), self.hash);
        let begun = blocking(move || blobs.begun(hash).map(|len| blobs.arriving(hash, len)).transpose()).await?;
        if let Some(arriving) = begun {
            self.begin(arriving);
        }
        Ok(())
    }

    fn begin(&mut self, arriving: Arriving) {
        let plan = Plan::new(arriving.here(), fastrand::usize(..));
        self.synced = plan.missing();
        self.download = Some(Arc::new(Download {
            arriving,
            plan: Mutex::new(plan),
            changed: Notify::new(),
            failed: Mutex::default(),
            others: Mutex::default(),
        }));
    }

    /// Whether the blob is whole. An error when it cannot become so.
    fn is_over(&mut self) -> Result<bool, Ending> {
        let missing = match &self.download {
            Some(download) => {
                if let Some(error) = lock(&download.failed).take() {
                    return Err(error.into());
                }
                download.plan().missing()
            }
            None if self.stored => 0,
            None => usize::MAX,
        };
        if missing != self.progress.0 {
            self.progress = (missing, Instant::now());
        }
        let late = self.progress.1.elapsed() > FETCH_DEADLINE;
        if late && missing > 0 { Err(Ending::Nowhere) } else { Ok(missing == 0) }
    }

    /// Opens conversations with those who are due.
    fn ask(&mut self) {
        let now = Instant::now();
        if let Some(download) = &self.download {
            self.candidates.add(&std::mem::take(&mut *lock(&download.others)), now);
        }
        while self.working() < self.sources_max()
            && self.asked < CONVERSATIONS_MAX
            && let Some(node) = self.candidates.next(now)
        {
            self.asked += 1;
            self.conversations += 1;
            let (network, hash, number, proof) =
                (self.means.network.clone(), self.hash, self.conversations, self.download.is_none());
            self.tasks.spawn(async move { open(&network, node, hash, number, proof).await });
        }
    }

    /// How many sources to have. Until the length is proven one, and one more whenever that takes too long: each is asked for
    /// the last group, which is all of a short blob.
    fn sources_max(&self) -> usize {
        match self.download {
            Some(_) => SOURCES_MAX,
            None => SOURCES_MAX.min(1 + (self.progress.1.elapsed().as_millis() / PROOF_WAIT.as_millis()) as usize),
        }
    }

    /// Sources that work, and those that may come to.
    fn working(&self) -> usize {
        let Some(download) = &self.download else { return self.asked };
        let plan = download.plan();
        plan.working(Clock::now()) + self.asked.saturating_sub(plan.known())
    }

    /// Looks for more nodes that may have it, when those that are known do not do.
    fn look(&mut self) {
        let enough = match &self.download {
            None => self.asked > 0 && self.progress.1.elapsed() < SLOW_START,
            Some(download) => {
                let plan = download.plan();
                plan.known() > 0 && plan.missing() < MANY_GROUPS || plan.working(Clock::now()) >= SOURCES_MAX
            }
        };
        let now = Instant::now();
        if enough || self.looking || now < self.look_again {
            return;
        }
        self.looking = true;
        self.look_again = now + self.look_wait.mul_f32(0.5 + fastrand::f32());
        self.look_wait = (self.look_wait * 2).min(LOOKUP_WAIT[1]);
        let (means, hash) = (self.means.clone(), self.hash);
        self.tasks.spawn(async move { Event::Nodes(means.nodes(hash).await) });
    }

    /// Makes durable what came, while more comes.
    async fn sync(&mut self) -> Result<(), Ending> {
        let Some(download) = &self.download else { return Ok(()) };
        if self.syncing.as_ref().is_some_and(|syncing| !syncing.is_finished()) {
            return Ok(());
        }
        if let Some(syncing) = self.syncing.take() {
            ended(syncing).await?;
        }
        let missing = download.plan().missing();
        if self.synced.saturating_sub(missing) >= SYNC_GROUPS {
            self.synced = missing;
            let arriving = download.arriving.clone();
            self.syncing = Some(tokio::task::spawn_blocking(move || arriving.sync()));
        }
        Ok(())
    }

    async fn on_event(&mut self, event: Event) -> Result<(), Ending> {
        match event {
            Event::Nodes(nodes) => {
                self.looking = false;
                self.candidates.add(&nodes, Instant::now());
            }
            Event::Ended { node, number, end } => self.on_ended(node, number, end),
            Event::Found { node, number, holder } => self.on_found(node, number, *holder),
            Event::Proof { node, number, holder, groups, encoded } => {
                self.on_proof(node, number, *holder, groups, encoded).await?;
            }
        }
        Ok(())
    }

    fn on_ended(&mut self, node: NodeId, number: Number, end: Result<(), FetchError>) {
        self.asked -= 1;
        if let Some(download) = &self.download {
            download.plan().leave(number);
        }
        let now = Instant::now();
        let Err(error) = end else { return self.candidates.later(node, now) };
        tracing::debug!(hash = %self.hash, ?node, %error, "a conversation about a blob ended");
        self.means.network.count_source(node, self.hash, &error);
        match error {
            FetchError::Damaged | FetchError::TooMuch => return self.candidates.bar(node),
            FetchError::Busy { others } => self.candidates.add(&others, now),
            _ => {}
        }
        self.candidates.later(node, now);
    }

    fn on_found(&mut self, node: NodeId, number: Number, mut holder: Holder) {
        self.candidates.add(&holder.take_others(), Instant::now());
        let Some(download) = self.download.clone() else {
            return self.on_ended(node, number, Err(FetchError::Lacking));
        };
        if holder.len() != download.arriving.len() {
            return self.on_ended(node, number, Err(FetchError::Damaged));
        }
        download.plan().has(number, holder.here().clone());
        self.tasks.spawn(async move {
            let end = download.draw(number, holder).await;
            Event::Ended { node, number, end }
        });
    }

    /// The first one whose last group is right has proven the length; another one's is like any other answer.
    async fn on_proof(
        &mut self,
        node: NodeId,
        number: Number,
        holder: Holder,
        groups: Groups,
        encoded: Vec<u8>,
    ) -> Result<(), Ending> {
        let (blobs, hash, len) = (self.means.blobs.clone(), self.hash, holder.len());
        let known = self.download.as_ref().map(|download| download.arriving.clone());
        let stored = blocking(move || store_proof(&blobs, hash, len, known, &groups, &encoded)).await;
        match stored {
            Ok(Some(arriving)) => {
                match &self.download {
                    Some(download) => download.plan().came(&(groups_in(len) - 1..groups_in(len))),
                    None => self.begin(arriving),
                }
                self.on_found(node, number, holder);
            }
            Ok(None) => {
                self.stored = true;
                self.on_ended(node, number, Ok(()));
            }
            Err(BlobError::WrongPart { .. } | BlobError::WrongHash { .. }) => {
                self.on_ended(node, number, Err(FetchError::Damaged));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Gives the blob its name. Conversations end by themselves.
    async fn finish(&mut self) -> Result<(), Ending> {
        self.tasks.detach_all();
        if let Some(syncing) = self.syncing.take() {
            ended(syncing).await?;
        }
        let Some(download) = self.download.take() else { return Ok(()) };
        let arriving = download.arriving.clone();
        Ok(blocking(move || arriving.finish()).await?)
    }
}

/// The outcome of disk work. One that panicked is met again where the blob is stored.
async fn ended(work: JoinHandle<Result<(), BlobError>>) -> Result<(), BlobError> {
    work.await.unwrap_or(Ok(()))
}

/// Checks the last group, and stores it where the others will come to; or all of a blob that has no others.
fn store_proof(
    blobs: &Blobs,
    hash: Hash,
    len: u64,
    known: Option<Arriving>,
    groups: &Groups,
    encoded: &[u8],
) -> Result<Option<Arriving>, BlobError> {
    if groups_in(len) == 1 && known.is_none() {
        let mut receiver = blobs.receiver(hash, len)?;
        receiver.write(encoded)?;
        return receiver.finish().map(|_| None);
    }
    if !Arriving::proves(hash, len, groups, encoded) {
        return Err(BlobError::WrongPart { hash });
    }
    let arriving = match known {
        Some(known) => known,
        None => blobs.arriving(hash, len)?,
    };
    arriving.add(groups, encoded)?;
    Ok(Some(arriving))
}

/// Begins a conversation.
async fn open(network: &Network, node: NodeId, hash: Hash, number: Number, proof: bool) -> Event {
    let mut holder = match network.find_blob(node, hash, proof).await {
        Ok(holder) => Box::new(holder),
        Err(error) => return Event::Ended { node, number, end: Err(error) },
    };
    if !proof {
        return Event::Found { node, number, holder };
    }
    match holder.receive(Vec::new()).await {
        Ok((groups, encoded)) => Event::Proof { node, number, holder, groups, encoded },
        Err(error) => Event::Ended { node, number, end: Err(error) },
    }
}

impl Means {
    /// Nodes that may have a blob: Kademlia's providers, then linked members.
    async fn nodes(&self, hash: Hash) -> Vec<NodeId> {
        let mut nodes = self.network.providers(hash).await;
        let mut linked = self.linked.borrow().clone();
        fastrand::shuffle(&mut linked);
        linked.truncate(LINKED_TRIED_MAX);
        nodes.extend(linked);
        nodes
    }
}

impl Download {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        lock(&self.plan)
    }

    /// Takes groups from one source until the blob is whole.
    async fn draw(self: Arc<Self>, number: Number, mut holder: Holder) -> Result<(), FetchError> {
        let (mut checking, mut spare) = (None, Vec::new());
        loop {
            self.ask(number, &mut holder).await?;
            if holder.asked() > 0 {
                let (groups, encoded) = holder.receive(std::mem::take(&mut spare)).await?;
                lock(&self.others).extend(holder.take_others());
                spare = checked(checking.take()).await?;
                let this = Arc::clone(&self);
                checking = Some(tokio::task::spawn_blocking(move || this.add(&groups, &encoded).map(|()| encoded)));
                // With several sources they check while others receive.
                if self.plan().known() > 1 {
                    spare = checked(checking.take()).await?;
                }
                continue;
            }
            spare = checked(checking.take()).await?;
            if self.plan().is_complete() {
                return holder.close().await;
            }
            self.wait(number, &mut holder).await?;
        }
    }

    async fn ask(&self, number: Number, holder: &mut Holder) -> Result<(), FetchError> {
        while holder.asked() < REQUESTS_MAX {
            let claimed = self.plan().claim(number, Clock::now());
            let Some(groups) = claimed else { break };
            holder.ask(groups).await?;
        }
        Ok(())
    }

    /// Waits until the source may have something that is wanted.
    async fn wait(&self, number: Number, holder: &mut Holder) -> Result<(), FetchError> {
        sleep(REFRESH_EVERY).await;
        if holder.here().is_some() {
            holder.refresh().await?;
            self.plan().has(number, holder.here().clone());
        }
        Ok(())
    }

    /// Checks and writes an answer.
    fn add(&self, groups: &Groups, encoded: &[u8]) -> Result<(), FetchError> {
        let added = self.arriving.add(groups, encoded);
        match added {
            Ok(()) => self.plan().came(groups),
            Err(BlobError::WrongPart { .. }) => return Err(FetchError::Damaged),
            Err(error) => *lock(&self.failed) = Some(error),
        }
        self.changed.notify_one();
        Ok(())
    }
}

/// Every step on what is shared leaves it whole.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The outcome of a check that was begun, and its buffer, to be used again. One that panicked did not store anything.
async fn checked(check: Option<JoinHandle<Result<Vec<u8>, FetchError>>>) -> Result<Vec<u8>, FetchError> {
    match check {
        Some(check) => check.await.unwrap_or(Err(FetchError::Lacking)),
        None => Ok(Vec::new()),
    }
}
