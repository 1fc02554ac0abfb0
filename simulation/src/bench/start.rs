//! How soon a node is ready, and how soon a job is over for which a node is started.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::api::Api;
use super::{Bench, BenchError, Row, command};
use crate::cluster::{Cluster, ClusterError, DEADLINE, Node, check_interrupted};

/// The smallest of the examples.
const HELLO: &[u8] = include_bytes!("../../../examples/hello/hello.wasm");
const HELLO_FILE: &str = include_str!("../../../examples/hello/job.toml");
/// How often a starting node is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(1);

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let rounds = bench.rounds(5);
    let (mut new, mut again) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut cluster = Cluster::empty(&bench.program, 1)?;
        new.push(ready(cluster.add())?);
        cluster.node_mut(0).stop()?;
        again.push(ready(cluster.node_mut(0))?);
    }
    bench.add(Row::time("start", "`swarm start` with an empty directory until it is ready and answers", &new));
    bench.add(Row::time("start", "`swarm start` with a directory from before", &again));
    local(bench, 2 * rounds)
}

fn ready(node: &mut Node) -> Result<Duration, BenchError> {
    let began = Instant::now();
    node.launch()?;
    let mut api = Api::of(node);
    while node.look_ready()?.is_none() || !api.answers() {
        check_interrupted()?;
        if began.elapsed() > DEADLINE {
            let (what, last) = ("the start of a node".into(), node.said());
            return Err(ClusterError::Deadline { what, waited: DEADLINE, last }.into());
        }
        thread::sleep(LOOK_EVERY);
    }
    Ok(began.elapsed())
}

fn local(bench: &mut Bench, rounds: usize) -> Result<(), BenchError> {
    let dir = tempfile::tempdir().map_err(BenchError::io("create a directory in", std::env::temp_dir()))?;
    let (wasm, file) = (dir.path().join("hello.wasm"), dir.path().join("job.toml"));
    fs::write(&wasm, HELLO).map_err(BenchError::io("write", &wasm))?;
    fs::write(&file, HELLO_FILE).map_err(BenchError::io("write", &file))?;
    let args = ["submit".as_ref(), file.as_os_str(), "--local".as_ref(), "--wait".as_ref()];
    // Whatever is kept between runs is there after the first.
    command::time(&bench.program, &args)?;
    let times = (0..rounds).map(|_| command::time(&bench.program, &args)).collect::<Result<Vec<_>, _>>()?;
    bench.add(Row::time("start", "`swarm submit hello --local --wait`, not the first time", &times));
    Ok(())
}
