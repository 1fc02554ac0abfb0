//! Several nodes on loopback that are one swarm.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::namespaces::{Home, Namespaces};
use super::{ClusterError, Node, wait_until};

/// Nodes in directories of their own under one temporary directory, which goes when this does.
#[derive(Debug)]
pub struct Cluster {
    program: PathBuf,
    slots: usize,
    // Dropped in this order: the processes end, then their networks and directories go.
    nodes: Vec<Node>,
    namespaces: Option<Namespaces>,
    root: TempDir,
}

impl Cluster {
    /// Starts `count` nodes with `slots` slots each. All but the first are told to dial the first.
    pub fn start(program: &Path, count: usize, slots: usize) -> Result<Self, ClusterError> {
        let mut cluster = Self::empty(program, slots)?;
        cluster.add_and_start(count)?;
        Ok(cluster)
    }

    /// As [`Self::start`], each node in a network namespace of its own, so that they can be cut off from each other.
    pub(super) fn start_apart(program: &Path, count: usize, slots: usize) -> Result<Self, ClusterError> {
        let mut cluster = Self::empty(program, slots)?;
        cluster.namespaces = Some(Namespaces::create(count)?);
        cluster.add_and_start(count)?;
        Ok(cluster)
    }

    fn add_and_start(&mut self, count: usize) -> Result<(), ClusterError> {
        for _ in 0..count {
            self.add();
        }
        self.start_all()
    }

    /// Starts the nodes that were added. All but the first are told to dial the first.
    pub fn start_all(&mut self) -> Result<(), ClusterError> {
        let Some((first, others)) = self.nodes.split_first_mut() else { return Ok(()) };
        first.start()?;
        for node in &mut *others {
            node.set_bootstrap(vec![first.address().into()]);
            node.launch()?;
        }
        others.iter_mut().try_for_each(Node::wait_ready)
    }

    /// A cluster without nodes; those to come have `slots` slots each.
    pub fn empty(program: &Path, slots: usize) -> Result<Self, ClusterError> {
        let root = TempDir::with_prefix("swarm-").map_err(ClusterError::io("create", std::env::temp_dir()))?;
        Ok(Self { program: program.into(), slots, nodes: Vec::new(), namespaces: None, root })
    }

    /// Adds a node that is not running yet.
    pub fn add(&mut self) -> &mut Node {
        let number = self.nodes.len();
        let home = self.namespaces.as_ref().map_or(Home::Here, |namespaces| namespaces.home(number));
        self.nodes.push_mut(Node::new(number, &self.program, self.root.path(), self.slots, home))
    }

    /// Cuts these nodes off from all others, when the nodes were started apart.
    pub(super) fn cut(&self, side: &[usize]) -> Result<(), ClusterError> {
        self.namespaces.as_ref().map_or(Ok(()), |namespaces| namespaces.cut(side))
    }

    /// Ends every cut.
    pub(super) fn heal(&self) -> Result<(), ClusterError> {
        self.namespaces.as_ref().map_or(Ok(()), Namespaces::heal)
    }

    /// Where the nodes' directories are.
    pub(super) fn root(&self) -> &Path {
        self.root.path()
    }

    /// Leaves the nodes' directories, with what the nodes said, to be looked at, and says where they are.
    pub fn keep(&mut self) -> &Path {
        self.root.disable_cleanup(true);
        self.root.path()
    }

    /// All nodes, running or not.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node, running or not.
    ///
    /// # Panics
    /// When there is none of this number.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }

    /// A node to start, stop or kill.
    ///
    /// # Panics
    /// When there is none of this number.
    pub fn node_mut(&mut self, number: usize) -> &mut Node {
        &mut self.nodes[number]
    }

    /// The nodes that run.
    pub fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_running())
    }

    /// Waits until every running node sees exactly `count` alive members, itself included.
    pub fn wait_members(&mut self, count: usize, deadline: Duration) -> Result<(), ClusterError> {
        for number in 0..self.nodes.len() {
            let node = &mut self.nodes[number];
            if !node.is_running() {
                continue;
            }
            let what = format!("that node {number} sees {count} alive nodes");
            wait_until(&what, deadline, || {
                node.check_alive()?;
                let alive = node.members()?.iter().filter(|member| member.state == "alive").count();
                Ok((alive == count).then_some(()))
            })?;
        }
        Ok(())
    }

    /// The running nodes that execute a task now. One that does not answer is none.
    pub fn executing(&self) -> Vec<usize> {
        let busy = |node: &&Node| node.status().is_ok_and(|status| status.slots_busy > 0);
        self.running().filter(busy).map(Node::number).collect()
    }

    /// How often any process of any node panicked.
    pub fn panics(&self) -> usize {
        self.nodes.iter().map(Node::panics).sum()
    }

    /// Fails when a node that should run has ended by itself.
    pub fn check_alive(&mut self) -> Result<(), ClusterError> {
        self.nodes.iter_mut().try_for_each(Node::check_alive)
    }
}
