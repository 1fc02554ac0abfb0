//! A few cores whose messages arrive at once, with disks that keep what they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use swarm_protocol::{
    Answer, Batch, Config, Content, Effects, Elements, Ending, Event, Hash, JobId, JobOptions, JobSpec, JobStatus,
    Limits, Message, Node, NodeId, NodeRecord, Notice, Outcome, Query, Retry, SignedJob, StageOptions, StageSpec,
    Stdin, Table, Time, Write,
};

pub(crate) fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number + 1; 32])
}

pub(crate) fn id(number: u8) -> NodeId {
    NodeId::from_bytes(key(number).verifying_key().to_bytes())
}

/// A core, its disk, and what it said to its user.
pub(crate) struct Core {
    pub(crate) node: Node,
    pub(crate) disk: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
    pub(crate) notices: Vec<Notice>,
    pub(crate) batches: Vec<Batch>,
    /// Whether its fetches end well.
    pub(crate) fetches: bool,
    pub(crate) fetched: BTreeSet<Hash>,
}

/// Cores whose messages arrive at once.
pub(crate) struct Few {
    pub(crate) cores: BTreeMap<NodeId, Core>,
    pub(crate) links: BTreeSet<(NodeId, NodeId)>,
    pub(crate) now: Time,
    /// Which messages never arrive.
    pub(crate) lost: fn(&Message) -> bool,
    /// How often a core was woken: what goes to a peer at once arrives at once.
    pub(crate) wakes: usize,
    slots: u32,
}

impl Few {
    /// So many, linked to each other.
    pub(crate) fn new(count: u8) -> Self {
        Self::with_slots(count, 1)
    }

    /// The same with so many slots each.
    pub(crate) fn with_slots(count: u8, slots: u32) -> Self {
        let (cores, links) = (BTreeMap::new(), BTreeSet::new());
        let mut few = Self { cores, links, now: Time::ZERO, lost: |_| false, wakes: 0, slots };
        (0..count).for_each(|number| few.add(number, BTreeMap::new()));
        few
    }

    /// One more, linked to all.
    pub(crate) fn add(&mut self, number: u8, disk: BTreeMap<(Table, Vec<u8>), Vec<u8>>) {
        let record = NodeRecord {
            node: id(number),
            incarnation: 0,
            sequence: 0,
            name: format!("n{number}"),
            addresses: vec![],
            slots: self.slots,
            slots_free: self.slots,
            memory_bytes: 0,
            labels: BTreeMap::new(),
            arch: "x86_64".into(),
            version: "0".into(),
            draining: false,
        };
        let records = disk.iter().map(|((table, key), value)| (*table, key.clone(), value.clone()));
        let config = Config { record, seed: u64::from(number), joins: number > 0 };
        let (node, effects) = Node::start(config, self.now, records).unwrap();
        let core = Core { node, disk, notices: vec![], batches: vec![], fetches: true, fetched: BTreeSet::new() };
        let others: Vec<_> = self.cores.keys().copied().collect();
        self.cores.insert(id(number), core);
        self.execute(id(number), effects);
        for other in (0..u8::MAX - 1).filter(|other| others.contains(&id(*other))) {
            self.link(number, other);
        }
        self.pass(Duration::from_secs(3));
    }

    pub(crate) fn cut(&mut self, number: u8) {
        let cut: Vec<_> = self.links.iter().copied().filter(|(from, _)| *from == id(number)).collect();
        for (from, to) in cut {
            self.links.remove(&(from, to));
            self.links.remove(&(to, from));
            self.tell(from, Event::LinkDown(to));
            self.tell(to, Event::LinkDown(from));
        }
    }

    pub(crate) fn link(&mut self, one: u8, other: u8) {
        self.links.extend([(id(one), id(other)), (id(other), id(one))]);
        self.tell(id(one), Event::LinkUp(id(other)));
        self.tell(id(other), Event::LinkUp(id(one)));
    }

    pub(crate) fn tell(&mut self, node: NodeId, event: Event) {
        self.wakes += usize::from(!matches!(event, Event::Received { .. }));
        let effects = self.cores.get_mut(&node).unwrap().node.handle(self.now, event);
        self.execute(node, effects);
    }

    fn execute(&mut self, node: NodeId, effects: Effects) {
        let core = self.cores.get_mut(&node).unwrap();
        for Write { table, key, value } in effects.persist.into_iter().chain(effects.note) {
            match value {
                Some(value) => core.disk.insert((table, key), value),
                None => core.disk.remove(&(table, key)),
            };
        }
        core.notices.extend(effects.notify);
        core.batches.extend(effects.start);
        let complete = core.fetches;
        for fetch in &effects.fetch {
            if let (swarm_protocol::Wanted::Blobs(hashes), true) = (&fetch.wanted, complete) {
                core.fetched.extend(hashes);
            }
        }
        let peers = |messages: &[(NodeId, Message)]| messages.iter().map(|(to, _)| *to).collect::<BTreeSet<_>>().len();
        self.wakes += peers(&effects.ask) + peers(&effects.send);
        for (to, message) in effects.ask.into_iter().chain(effects.send) {
            if self.links.contains(&(node, to)) && !(self.lost)(&message) {
                self.tell(to, Event::Received { from: node, message });
            }
        }
        for fetch in effects.fetch {
            self.tell(node, Event::Fetched { fetch: fetch.number, complete });
        }
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let due = self.cores.iter().filter_map(|(id, core)| Some((core.node.next_deadline()?.0, *id)));
            let Some((at, node)) = due.filter(|(at, _)| *at <= until).min() else { break };
            self.now = self.now.max(at);
            self.tell(node, Event::Tick);
        }
        self.now = until;
    }
}

pub(crate) fn spec(number: u8) -> JobSpec {
    let stage = StageSpec {
        options: StageOptions::default(),
        name: "only".into(),
        wasm: Hash::of(b"wasm"),
        entry: "_start".into(),
        args: vec![],
        env: vec![],
        stdin: Stdin::Empty,
        count: 100,
        shard_tasks: 64,
        elements: Elements::Numbers { start: 0 },
        inputs: vec![],
        outputs: vec![],
        needs: vec![],
        retry: Retry { max: 0, lost_max: 3, backoff_ms: 0, backoff_ms_max: 0, on: vec![] },
        run_ms_max: 1000,
        queue_ms_max: None,
        limits: Limits { memory_bytes_max: 1, fuel_max: 1, stdout_bytes_max: 1, outputs_bytes_max: 1 },
    };
    JobSpec {
        version: 1,
        name: "job".into(),
        description: String::new(),
        options: JobOptions::default(),
        submitter: id(number),
        submitted_unix_ms: 0,
        nonce: 0,
        source: None,
        blobs: Hash::of(b"list"),
        failures_max: 0,
        stages: vec![stage],
    }
}

/// Submits a job at a node.
pub(crate) fn submit(few: &mut Few, number: u8) -> JobId {
    let job = SignedJob::sign(&spec(number), &key(number)).unwrap();
    let submitted = job.id();
    few.tell(id(number), Event::Submit { token: 1, job });
    submitted
}

/// Submits a job at a node and ends its tasks.
pub(crate) fn run(few: &mut Few, number: u8) -> JobId {
    let job = submit(few, number);
    finish(few, number, job);
    job
}

/// Ends the tasks of a job as they are started, each with a blob.
pub(crate) fn finish(few: &mut Few, number: u8, job: JobId) {
    for _ in 0..200 {
        few.pass(Duration::from_millis(50));
        let nodes: Vec<_> = few.cores.keys().copied().collect();
        for node in nodes {
            for batch in std::mem::take(&mut few.cores.get_mut(&node).unwrap().batches) {
                let stdout = Content::Blob { hash: Hash::of(b"printed"), len: 7 };
                let outcome = Outcome { stdout, ..Outcome::bare(Ending::Exited(0)) };
                let outcomes = batch.tasks.iter().map(|(range, _)| (*range, outcome.clone())).collect();
                few.tell(node, Event::Ended { lease: batch.lease, outcomes, busy: Duration::from_millis(1) });
            }
        }
    }
    assert!(is_over(few, number, job));
}

pub(crate) fn is_over(few: &mut Few, number: u8, job: JobId) -> bool {
    status(few, number, job).is_some_and(|status| status.state().is_over())
}

/// What a node tells of a job within three seconds.
pub(crate) fn status(few: &mut Few, number: u8, job: JobId) -> Option<JobStatus> {
    few.cores.get_mut(&id(number)).unwrap().notices.clear();
    few.tell(id(number), Event::Ask { token: 9, query: Query::Job(job) });
    few.pass(Duration::from_secs(3));
    few.cores[&id(number)].notices.iter().find_map(|notice| match notice {
        Notice::Answered { token: 9, answer: Answer::Job { status, .. } } => Some(status.clone()),
        _ => None,
    })
}

/// Records of a table on a node's disk.
pub(crate) fn stored(few: &Few, number: u8, table: Table) -> usize {
    few.cores[&id(number)].disk.keys().filter(|(of, _)| *of == table).count()
}
