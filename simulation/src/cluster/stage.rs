//! The machines of a swarm as they come and go: what was done to each, and when it is to be back.
//!
//! Always true: clients are told which nodes to turn to; a node that ends by itself, or not as it should, is noted and
//! started again. Nothing here waits: [`Stage::pump`] does, and looks after all machines meanwhile.
//!
//! Elsewhere: who is struck when and how is `chaos` and `stories`.

use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::load::Shared;
use super::node::STOP_DEADLINE;
use super::wait::check_interrupted;
use super::{Cluster, ClusterError, DEADLINE, Kind, Node};

/// How often the machines are looked after.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// A node that ended by itself is started again after this.
const REVIVE_AFTER: Duration = Duration::from_secs(1);

/// The machines, and what was done to them.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) cluster: Cluster,
    clients: Arc<Shared>,
    machines: Vec<Machine>,
    /// The cut of now, and when it is to end.
    cut: Option<(Cut, Instant)>,
    pub(super) cuts: Vec<Cut>,
    /// Everything that was done, in order.
    pub(super) faults: Vec<Fault>,
    /// Nodes that ended by themselves, did not start, or did not leave as they should: in words.
    pub(super) failures: Vec<String>,
    /// From the start of a process until it was ready.
    pub(super) starts: Vec<Duration>,
    /// The last time a disk was lost or a cut was healed: what was on one node only may still be.
    pub(super) thin_since: Option<Instant>,
    began: Instant,
    told: Instant,
}

/// How a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Machine {
    Up,
    Paused {
        until: Instant,
    },
    Down {
        until: Instant,
    },
    Leaving {
        since: Instant,
    },
    Starting {
        since: Instant,
    },
    /// For good, with its disk.
    Gone,
}

/// Something that was done.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// To these.
    pub(crate) nodes: Vec<usize>,
    /// By the clock of the logs.
    pub(crate) at: SystemTime,
}

/// A cut that is over.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    /// The nodes that were cut off from the others.
    pub(super) side: Vec<usize>,
    pub(super) lasted: Range<Instant>,
}

impl Stage {
    /// The machines of a cluster, all of which run.
    pub(super) fn new(cluster: Cluster, clients: Arc<Shared>) -> Self {
        let machines = cluster.nodes().iter().map(|_| Machine::Up).collect();
        let now = Instant::now();
        Self {
            cluster,
            clients,
            machines,
            cut: None,
            cuts: Vec::new(),
            faults: Vec::new(),
            failures: Vec::new(),
            starts: Vec::new(),
            thin_since: None,
            began: now,
            told: now,
        }
    }

    // ---- what can be seen

    /// The machines that run and are not stopped.
    pub(super) fn up(&self) -> Vec<usize> {
        (0..self.machines.len()).filter(|node| self.machines[*node] == Machine::Up).collect()
    }

    /// The machines that are not lost for good.
    pub(super) fn left_nodes(&self) -> Vec<usize> {
        (0..self.machines.len()).filter(|node| self.machines[*node] != Machine::Gone).collect()
    }

    /// How many these are.
    pub(super) fn left(&self) -> usize {
        self.left_nodes().len()
    }

    /// The machines that run a task now; one that does not say so is none.
    pub(super) fn busy(&self) -> Vec<usize> {
        let is_busy = |node: &usize| self.node(*node).slots_busy().is_some_and(|busy| busy > 0);
        self.up().into_iter().filter(is_busy).collect()
    }

    /// Whether every machine that is left runs.
    pub(super) fn all_up(&self) -> bool {
        self.up().len() == self.left()
    }

    pub(super) const fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// Whether every node that is left sees all the others.
    pub(super) fn is_whole(&self) -> bool {
        let sees_all = |node: usize| {
            let members = self.node(node).seen();
            members.is_ok_and(|members| members.iter().filter(|it| it.state == "alive").count() == self.left())
        };
        self.all_up() && self.up().into_iter().all(sees_all)
    }

    fn node(&self, node: usize) -> &Node {
        self.cluster.node(node)
    }

    // ---- what can be done

    /// SIGKILL, and a start on the same directory after a while.
    pub(super) fn kill(&mut self, node: usize, down: Duration) {
        self.close(node, Machine::Down { until: Instant::now() + down });
        self.cluster.node_mut(node).kill();
        self.note(Kind::Kill, vec![node]);
    }

    /// SIGSTOP, and SIGCONT after a while. Clients are not told: they are left hanging, as by a machine that stalls.
    pub(super) fn pause(&mut self, node: usize, pause: Duration) -> Result<(), ClusterError> {
        self.node(node).pause()?;
        self.close(node, Machine::Paused { until: Instant::now() + pause });
        self.note(Kind::Stop, vec![node]);
        Ok(())
    }

    /// SIGTERM, and a start on the same directory once it has left.
    pub(super) fn restart(&mut self, node: usize) -> Result<(), ClusterError> {
        self.close(node, Machine::Leaving { since: Instant::now() });
        self.note(Kind::Restart, vec![node]);
        self.cluster.node_mut(node).leave()
    }

    /// SIGKILL, and a start on an empty directory after a while.
    pub(super) fn wipe(&mut self, node: usize, down: Duration, keeps_identity: bool) -> Result<(), ClusterError> {
        self.close(node, Machine::Down { until: Instant::now() + down });
        self.cluster.node_mut(node).wipe(keeps_identity)?;
        self.thin_since = Some(Instant::now());
        self.note(Kind::Wipe, vec![node]);
        Ok(())
    }

    /// SIGKILL, and the directory is gone, for good.
    pub(super) fn lose(&mut self, node: usize) -> Result<(), ClusterError> {
        self.close(node, Machine::Gone);
        self.cluster.node_mut(node).wipe(false)?;
        self.thin_since = Some(Instant::now());
        self.note(Kind::Loss, vec![node]);
        Ok(())
    }

    /// Cuts these machines off from all others for a while; clients reach both sides.
    pub(super) fn cut(&mut self, side: Vec<usize>, lasts: Duration) -> Result<(), ClusterError> {
        self.cluster.cut(&side)?;
        self.note(Kind::Partition, side.clone());
        let now = Instant::now();
        self.cut = Some((Cut { side, lasted: now..now }, now + lasts));
        Ok(())
    }

    /// Ends a cut.
    pub(super) fn heal(&mut self) -> Result<(), ClusterError> {
        if let Some((mut cut, _)) = self.cut.take() {
            self.cluster.heal()?;
            cut.lasted.end = Instant::now();
            self.thin_since = Some(cut.lasted.end);
            self.cuts.push(cut);
            eprintln!("{:7.1} s  healed", self.began.elapsed().as_secs_f32());
        }
        Ok(())
    }

    /// Every machine that is left is to run as soon as possible, and to reach all others.
    pub(super) fn calm(&mut self) -> Result<(), ClusterError> {
        self.heal()?;
        let now = Instant::now();
        for machine in &mut self.machines {
            match machine {
                Machine::Paused { until } | Machine::Down { until } => *until = now,
                _ => {}
            }
        }
        Ok(())
    }

    /// The power fails: SIGKILL of all at once.
    pub(super) fn power_cut(&mut self) {
        for node in self.up() {
            self.close(node, Machine::Down { until: Instant::now() + Duration::from_secs(3600) });
        }
        for node in 0..self.machines.len() {
            self.cluster.node_mut(node).kill();
        }
    }

    fn close(&mut self, node: usize, machine: Machine) {
        self.clients.open(node, false);
        self.machines[node] = machine;
    }

    fn note(&mut self, kind: Kind, nodes: Vec<usize>) {
        eprintln!("{:7.1} s  {kind:?} {nodes:?}", self.began.elapsed().as_secs_f32());
        self.faults.push(Fault { kind, nodes, at: SystemTime::now() });
    }

    // ---- time

    /// Looks after the machines until `done`, or for `within`. True when done.
    pub(super) fn pump(
        &mut self,
        within: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<bool, ClusterError> {
        let until = Instant::now() + within;
        loop {
            check_interrupted()?;
            self.look_after_all()?;
            self.tell();
            if done(self) {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn look_after_all(&mut self) -> Result<(), ClusterError> {
        if self.cut.as_ref().is_some_and(|(_, until)| Instant::now() >= *until) {
            self.heal()?;
        }
        (0..self.machines.len()).try_for_each(|node| self.look_after(node))
    }

    fn look_after(&mut self, node: usize) -> Result<(), ClusterError> {
        let now = Instant::now();
        match self.machines[node] {
            Machine::Up => {
                if let Err(error) = self.cluster.node_mut(node).check_alive() {
                    self.failed(node, &error);
                }
            }
            Machine::Paused { until } if now >= until => {
                self.node(node).resume()?;
                self.open(node);
            }
            Machine::Down { until } if now >= until => self.launch(node)?,
            Machine::Leaving { since } => match self.cluster.node_mut(node).look_left() {
                Ok(Some(())) => self.launch(node)?,
                Ok(None) if since.elapsed() < STOP_DEADLINE => {}
                Ok(None) => self.failed(node, &late(format!("the end of node {node}"), STOP_DEADLINE)),
                Err(error) => self.failed(node, &error),
            },
            Machine::Starting { since } => match self.cluster.node_mut(node).look_ready() {
                Ok(Some(())) => {
                    self.starts.push(since.elapsed());
                    self.open(node);
                }
                Ok(None) if since.elapsed() < DEADLINE => {}
                Ok(None) => self.failed(node, &late(format!("the start of node {node}"), DEADLINE)),
                Err(error) => self.failed(node, &error),
            },
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, node: usize) {
        self.machines[node] = Machine::Up;
        self.clients.open(node, true);
    }

    /// A new process, told to dial all others: the one that it knew may be lost.
    fn launch(&mut self, node: usize) -> Result<(), ClusterError> {
        let others = (0..self.machines.len()).filter(|other| *other != node && self.machines[*other] != Machine::Gone);
        let addresses = others.map(|other| self.node(other).address().to_owned()).collect();
        let starting = self.cluster.node_mut(node);
        starting.set_bootstrap(addresses);
        starting.launch()?;
        self.machines[node] = Machine::Starting { since: Instant::now() };
        Ok(())
    }

    fn failed(&mut self, node: usize, error: &ClusterError) {
        eprintln!("{:7.1} s  {error}", self.began.elapsed().as_secs_f32());
        self.failures.push(error.to_string());
        self.close(node, Machine::Down { until: Instant::now() + REVIVE_AFTER });
        self.cluster.node_mut(node).kill();
    }

    fn tell(&mut self) {
        if self.told.elapsed() < TELL_EVERY {
            return;
        }
        self.told = Instant::now();
        let ledger = self.clients.ledger();
        let over: u64 = ledger.jobs.iter().filter(|job| job.over.is_some()).map(|job| u64::from(job.tasks)).sum();
        let (seconds, up, left) = (self.began.elapsed().as_secs_f32(), self.up().len(), self.left());
        let (jobs, open, bad) = (ledger.jobs.len(), ledger.open().count(), ledger.bad());
        let wrong = if bad.is_none() { String::new() } else { format!(", {bad:?}") };
        let strikes = self.faults.len();
        let memory = self.cluster.nodes().iter().map(Node::memory_bytes).max().unwrap_or_default() >> 20;
        eprintln!(
            "{seconds:7.1} s  {jobs} jobs acknowledged, {open} open, {over} tasks over, {strikes} faults, \
             {up} of {left} nodes up, the largest with {memory} MB{wrong}"
        );
    }
}

fn late(what: String, waited: Duration) -> ClusterError {
    ClusterError::Deadline { what, waited, last: "not yet".into() }
}
