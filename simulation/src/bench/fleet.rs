//! A swarm to be measured: real nodes on loopback, all of which know each other and have run the guest.

use std::time::{Duration, Instant};

use super::api::Api;
use super::work::{Noop, Work};
use super::{Bench, BenchError};
use crate::cluster::{Cluster, DEADLINE, Node};

/// How long any job of a measurement may take.
const JOB_DEADLINE: Duration = Duration::from_secs(600);
/// Tasks that each slot has run before anything is measured.
const WARM_TASKS: u32 = 500;

/// Nodes, and a user of each.
pub(super) struct Fleet {
    // Dropped in this order: users hang up before their nodes end.
    apis: Vec<Api>,
    noop: Noop,
    slots: usize,
    pub(super) cluster: Cluster,
}

impl Fleet {
    /// Starts nodes that say only what is wrong.
    pub(super) fn start(bench: &Bench, nodes: usize, slots: usize) -> Result<Self, BenchError> {
        Self::start_with_log(bench, nodes, slots, "error")
    }

    /// As [`Self::start`], saying what this `SWARM_LOG` asks for.
    pub(super) fn start_with_log(bench: &Bench, nodes: usize, slots: usize, log: &str) -> Result<Self, BenchError> {
        Self::start_with(bench, nodes, slots, |node| node.set_variable("SWARM_LOG", log))
    }

    /// Starts nodes that were set up.
    pub(super) fn start_with(
        bench: &Bench,
        nodes: usize,
        slots: usize,
        set_up: impl Fn(&mut Node),
    ) -> Result<Self, BenchError> {
        let mut cluster = Cluster::empty(&bench.program, slots)?;
        for _ in 0..nodes {
            set_up(cluster.add());
        }
        cluster.start_all()?;
        cluster.wait_members(nodes, DEADLINE)?;
        let apis = cluster.nodes().iter().map(Api::of).collect();
        Ok(Self { apis, noop: bench.noop.clone(), slots, cluster })
    }

    /// A user of a node.
    pub(super) fn api(&mut self, node: usize) -> &mut Api {
        &mut self.apis[node]
    }

    /// A user of each node.
    pub(super) fn apis(&mut self) -> &mut [Api] {
        &mut self.apis
    }

    /// A node.
    pub(super) fn node(&self, number: usize) -> &Node {
        self.cluster.node(number)
    }

    /// Hands the guest that does nothing to the first node, and has every node run it.
    pub(super) fn warm_noop(&mut self) -> Result<Work, BenchError> {
        let work = Work::noop(&mut self.apis[0], &self.noop)?;
        let tasks = WARM_TASKS * u32::try_from(self.apis.len() * self.slots).unwrap_or(1);
        self.time(&work, tasks)?;
        Ok(work)
    }

    /// From the submission of a job to the first node until it knows that the job is done.
    pub(super) fn time(&mut self, work: &Work, tasks: u32) -> Result<Duration, BenchError> {
        let (api, spec, began) = (self.api(0), work.job(tasks), Instant::now());
        let job = api.submit(&spec)?;
        api.wait_done(&job, JOB_DEADLINE)?;
        Ok(began.elapsed())
    }
}
