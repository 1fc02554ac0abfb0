//! What each node has on its own disk, read while it does not run.
//!
//! A running node answers for the swarm: it asks the custodians, so what it tells does not show whether every custodian
//! has it. Here each node's records are given to a core that is alone in the world and can only answer for itself.

use std::collections::{BTreeMap, BTreeSet};

use swarm_protocol::lattice::ShardState;
use swarm_protocol::placement::{Key, View};
use swarm_protocol::{
    Answer, Config, Event, Hash, JobId, Node as Core, NodeId, NodeRecord, Notice, Query, ShardId, Table, Time,
};
use swarm_store::{Rocks, Store};

use super::{ClusterError, Node};

/// Where in a data directory the records are.
const RECORDS: &str = "db";

/// What the disks say of the acknowledged jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Disks {
    /// Shards of acknowledged jobs.
    pub shards: u64,
    /// Of these, such that two of the custodians have different facts.
    pub unequal: u64,
    /// Of these, such that a custodian misses the outcome of a task.
    pub incomplete: u64,
    /// Acknowledged jobs that one of their custodians does not have.
    pub jobs_missing: u64,
}

/// A core that is alone with the records of one node.
struct Alone {
    core: Core,
    now: Time,
}

impl Disks {
    /// Compares what the custodians of these jobs have. None of the nodes may run.
    pub(super) fn compare<'a>(nodes: &[&Node], jobs: impl Iterator<Item = &'a str>) -> Result<Self, ClusterError> {
        let mut cores = BTreeMap::new();
        for node in nodes {
            let unreadable = |why: String| ClusterError::Records { node: node.number(), why };
            let id = NodeId::from_hex(node.id()).map_err(|error| unreadable(error.to_string()))?;
            cores.insert(id, Alone::open(node, id).map_err(unreadable)?);
        }
        let (view, mut disks) = (View::of(cores.keys().copied()), Self::default());
        for job in jobs.filter_map(|job| JobId::from_hex(job).ok()) {
            disks.add(&view, &mut cores, job);
        }
        Ok(disks)
    }

    fn add(&mut self, view: &View, cores: &mut BTreeMap<NodeId, Alone>, job: JobId) {
        let specs = cores.values_mut().filter_map(|core| core.shards(job)).collect::<Vec<_>>();
        let Some(shards) = specs.into_iter().next() else {
            self.jobs_missing += 1;
            return;
        };
        let keepers = view.custodians(Key::of_job(job));
        let all = keepers.iter().all(|node| cores.get_mut(node).is_some_and(|core| core.shards(job).is_some()));
        self.jobs_missing += u64::from(!all);
        for (shard, tasks) in shards {
            let keepers = view.custodians(Key::of_shard(shard));
            let copies = keepers.iter().filter_map(|node| Some(cores.get_mut(node)?.facts(shard)));
            let copies: Vec<(Hash, usize)> = copies.collect();
            let digests: BTreeSet<_> = copies.iter().map(|(digest, _)| digest).collect();
            self.shards += 1;
            self.unequal += u64::from(digests.len() > 1);
            self.incomplete += u64::from(copies.iter().any(|(_, ended)| *ended < tasks));
        }
    }

    /// Whether every custodian has everything.
    pub const fn is_good(&self) -> bool {
        self.unequal + self.incomplete + self.jobs_missing == 0
    }
}

impl Alone {
    fn open(node: &Node, id: NodeId) -> Result<Self, String> {
        let store = Rocks::open(&node.dir().join(RECORDS)).map_err(|error| error.to_string())?;
        let mut records = Vec::new();
        for table in Table::ALL.into_iter().filter(|table| *table != Table::Kad) {
            let mut keep = |key: &[u8], value: &[u8]| records.push((table, key.to_vec(), value.to_vec()));
            store.scan(table, &[], &mut keep).map_err(|error| error.to_string())?;
        }
        let config = Config {
            record: nobody(id),
            seed: 0,
            joins: false,
            #[cfg(feature = "planted-bugs")]
            bug: None,
        };
        let (core, _) = Core::start(config, Time::ZERO, records).map_err(|error| error.to_string())?;
        Ok(Self { core, now: Time::ZERO })
    }

    fn ask(&mut self, query: Query) -> Answer {
        let effects = self.core.handle(self.now, Event::Ask { token: 0, query });
        let answer = effects.notify.into_iter().find_map(|notice| match notice {
            Notice::Answered { answer, .. } => Some(answer),
            _ => None,
        });
        answer.unwrap_or(Answer::Unknown)
    }

    /// The shards of a job with their numbers of tasks, if the job is here.
    fn shards(&mut self, job: JobId) -> Option<Vec<(ShardId, usize)>> {
        let Answer::Job { job: signed, .. } = self.ask(Query::Job(job)) else { return None };
        let spec = signed.verify().ok()?;
        let tasks = |shard: &ShardId| spec.stages[usize::from(shard.stage)].shard_range(shard.number).count as usize;
        Some(spec.shards(job).map(|shard| (shard, tasks(&shard))).collect())
    }

    /// What names the facts about a shard, and how many of its tasks have ended.
    fn facts(&mut self, shard: ShardId) -> (Hash, usize) {
        let (mut known, mut first) = (ShardState::default(), 0);
        while let Answer::Shard { segment, next, .. } = self.ask(Query::Shard { shard, first }) {
            known.join(&segment);
            match next {
                Some(next) if next > first => first = next,
                _ => break,
            }
        }
        let ended =
            known.states().filter(|(_, state)| state.end.is_some()).map(|(range, _)| range.count as usize).sum();
        (known.digest(), ended)
    }
}

fn nobody(node: NodeId) -> NodeRecord {
    NodeRecord {
        node,
        incarnation: 0,
        sequence: 0,
        name: String::new(),
        addresses: Vec::new(),
        slots: 0,
        slots_free: 0,
        memory_bytes: 0,
        labels: BTreeMap::new(),
        arch: String::new(),
        version: String::new(),
        draining: false,
    }
}
