//! Data directories as real nodes leave them, made once and copied for each case.
//!
//! Each has finished and unfinished jobs, with and without blobs, in table files and in a log: the nodes were killed and
//! started again, and in the end killed or stopped.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::work::{Shape, Work};
use crate::cluster::{Cluster, ClusterError, DEADLINE, wait_until};

/// Jobs finished before the first kill, after it, and after the second start; and one that was not finished.
const SHAPES: [Shape; 4] = [
    Shape { name: "plain", tasks: 20, rounds: 1, sign: '\n', blobs: false },
    Shape { name: "files", tasks: 4, rounds: 1, sign: '\n', blobs: true },
    Shape { name: "more", tasks: 4, rounds: 1, sign: ';', blobs: true },
    Shape { name: "unfinished", tasks: 40, rounds: 10_000_000, sign: '/', blobs: true },
];
/// The jobs are over within seconds; this is for machines that do other things beside.
const JOB_DEADLINE: Duration = Duration::from_secs(120);

/// The directories of one or two nodes that kept the same jobs.
#[derive(Debug)]
pub(crate) struct Original {
    /// Of each node.
    pub(crate) dirs: Vec<PathBuf>,
    /// The id of each job, and what it must leave behind.
    pub(crate) jobs: Vec<(String, Work)>,
    /// Whether the nodes were stopped, not killed.
    pub(crate) stopped: bool,
}

/// All originals, and the directory that they are in.
#[derive(Debug)]
pub(crate) struct Originals {
    pub(crate) alone: [Original; 2],
    pub(crate) pairs: [Original; 2],
    _root: TempDir,
}

impl Originals {
    /// Runs the nodes that make them.
    pub(crate) fn make(program: &Path) -> Result<Self, ClusterError> {
        let root = TempDir::with_prefix("swarm-stores-").map_err(ClusterError::io("create", std::env::temp_dir()))?;
        let make = |name: &str, nodes, stopped| Original::make(program, &root.path().join(name), nodes, stopped);
        let alone = [make("alone-killed", 1, false)?, make("alone-stopped", 1, true)?];
        let pairs = [make("pair-killed", 2, false)?, make("pair-stopped", 2, true)?];
        Ok(Self { alone, pairs, _root: root })
    }
}

impl Original {
    fn make(program: &Path, dir: &Path, nodes: usize, stopped: bool) -> Result<Self, ClusterError> {
        let mut cluster = Cluster::start(program, nodes, 1)?;
        cluster.wait_members(nodes, DEADLINE)?;
        let mut jobs = Vec::new();
        for (number, shape) in (0..).zip(SHAPES) {
            let work = Work::write(dir, shape, number).map_err(ClusterError::io("write", dir))?;
            let id = cluster.node(0).submit(&work.job())?;
            jobs.push((id.clone(), work));
            if shape.name == "unfinished" {
                break;
            }
            wait_over(&cluster, &id)?;
            for number in 0..nodes {
                cluster.node_mut(number).kill();
                cluster.node_mut(number).start()?;
            }
            cluster.wait_members(nodes, DEADLINE)?;
        }
        for number in 0..nodes {
            let node = cluster.node_mut(number);
            if stopped { node.stop()? } else { node.kill() }
        }
        let copy = |number| {
            let (from, to) = (cluster.node(number).dir(), dir.join(number.to_string()));
            copy(&from, &to).map_err(ClusterError::io("copy", &from)).map(|()| to)
        };
        let dirs = (0..nodes).map(copy).collect::<Result<_, _>>()?;
        Ok(Self { dirs, jobs, stopped })
    }
}

fn wait_over(cluster: &Cluster, job: &str) -> Result<(), ClusterError> {
    cluster.nodes().iter().try_for_each(|node| {
        let look = || Ok(node.show(job)?.is_over().then_some(()));
        wait_until(&format!("the end of {job}"), JOB_DEADLINE, look)
    })
}

/// Copies a directory with all below it. Sockets are not copied.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, place) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &place)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), place)?;
        }
    }
    Ok(())
}
