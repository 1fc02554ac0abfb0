//! A swarm to be measured: real nodes on loopback, all of which know each other and have run the guest.

use std::path::Path;
use std::time::{Duration, Instant};

use super::BenchError;
use super::api::Api;
use super::work::Work;
use crate::cluster::{Cluster, DEADLINE, Node};

/// How long any job of a measurement may take.
const JOB_DEADLINE: Duration = Duration::from_secs(600);
/// How often a long job is asked about: little beside how long it takes, and a question costs little beside that.
const ASK_EVERY: Duration = Duration::from_millis(5);
/// Tasks that each slot has run before anything is measured.
const WARM_TASKS: u32 = 500;

/// Nodes, and a user of each.
pub(super) struct Fleet {
    // Dropped in this order: users hang up before their nodes end.
    apis: Vec<Api>,
    pub(super) cluster: Cluster,
}

impl Fleet {
    /// Starts nodes that say only what is wrong.
    pub(super) fn start(program: &Path, nodes: usize, slots: usize) -> Result<Self, BenchError> {
        Self::start_with_log(program, nodes, slots, "error")
    }

    /// As [`Self::start`], logging what `SWARM_LOG` would be; as usual when it is empty.
    pub(super) fn start_with_log(program: &Path, nodes: usize, slots: usize, log: &str) -> Result<Self, BenchError> {
        let mut cluster = Cluster::empty(program, slots)?;
        for _ in 0..nodes {
            cluster.add().set_variable("SWARM_LOG", log);
        }
        cluster.start_all()?;
        cluster.wait_members(nodes, DEADLINE)?;
        let apis = cluster.nodes().iter().map(Api::of).collect();
        Ok(Self { apis, cluster })
    }

    /// A user of a node.
    pub(super) fn api(&mut self, node: usize) -> &mut Api {
        &mut self.apis[node]
    }

    /// A node.
    pub(super) fn node(&self, number: usize) -> &Node {
        self.cluster.node(number)
    }

    /// How many nodes there are.
    pub(super) fn len(&self) -> usize {
        self.apis.len()
    }

    /// Hands the guest that does nothing to the first node, and has every node run it.
    pub(super) fn warm_noop(&mut self, slots: usize) -> Result<Work, BenchError> {
        let work = Work::noop(self.api(0))?;
        let tasks = WARM_TASKS * u32::try_from(self.len() * slots).unwrap_or(1);
        self.time(&work, tasks)?;
        Ok(work)
    }

    /// From the submission of a job to the first node until it knows that the job is done.
    pub(super) fn time(&mut self, work: &Work, tasks: u32) -> Result<Duration, BenchError> {
        let (api, spec, began) = (self.api(0), work.job(tasks), Instant::now());
        let job = api.submit(&spec)?;
        api.wait_done(&job, ASK_EVERY, JOB_DEADLINE)?;
        Ok(began.elapsed())
    }
}
