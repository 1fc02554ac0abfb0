//! One task across two nodes that are warm and idle: submitted to one, run by the other, its result read on the first.
//!
//! Which node runs a task is the swarm's decision, so more tasks are submitted than are wanted, and the logs of the nodes
//! say afterwards which of them the other node ran.
//!
//! Its parts are measured by turns with it. Those of the limits, each in a loop of its own, are faster: such a loop keeps its
//! processor awake and its caches to itself.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use super::fleet::Fleet;
use super::parts::{Part, Parts};
use super::work::Work;
use super::{Bench, BenchError, Row, command};

/// Tasks run by the other node that are wanted, and submissions at most.
const WANTED: usize = 200;
const TRIES_MAX: usize = 1200;
/// Tasks between two looks at who ran them.
const BATCH: usize = 100;
/// Commands.
const COMMANDS: usize = 30;
/// How long one task may take.
const TASK_DEADLINE: Duration = Duration::from_secs(60);
/// Each grant is a line of the log.
const LOG: &str = "error,swarm_node::tasks=debug";

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let mut fleet = Fleet::start_with_log(bench, 2, 1, LOG)?;
    let work = fleet.warm_noop()?;
    let (mut times, mut parts, mut by_turns) = (Vec::new(), Parts::new(&bench.noop.module)?, Vec::new());
    while times.len() < TRIES_MAX && there(&fleet, &times)?.len() < WANTED {
        for _ in 0..BATCH {
            times.push(one(&mut fleet, &work)?);
            by_turns.push(parts.once()?);
        }
    }
    let (there, tries) = (there(&fleet, &times)?, times.len());
    let any: Vec<Duration> = times.iter().map(|(_, took)| *took).collect();
    let any = Row::time("latency", format!("1 task on 2 nodes, whoever ran it, p50 of {tries}"), &any);
    let by_socket = any.value;
    bench.add(any);
    let sum = add_parts(bench, &by_turns);
    let what = |quantile| format!("1 task, submitted here, run there, read here, {quantile} of {}", there.len());
    let p50 = Row::time("latency", what("p50"), &there).over("its parts by turns with it", Some(sum));
    let p50 = p50.over("its parts, each in a loop of its own", sum_of_limits(bench));
    bench.add(p50);
    bench.add(Row::time("latency", what("p99"), &there).at(0.99));
    by_command(bench, &fleet, by_socket)
}

/// Adds the parts by themselves and their sum, which is returned.
fn add_parts(bench: &mut Bench, by_turns: &[Part]) -> f64 {
    let count = by_turns.len();
    let mut row = |what: &str, took: fn(&Part) -> Duration| {
        let samples: Vec<Duration> = by_turns.iter().map(took).collect();
        let row = Row::time("latency", format!("{what}, by turns with tasks, p50 of {count}"), &samples);
        let value = row.value;
        bench.add(row);
        value
    };
    row("a synced append", |part| part.append);
    row("a stream round trip", |part| part.round_trip);
    row("a bare call", |part| part.call);
    row("an append, 2 round trips and a call", |part| part.sum())
}

/// The same sum, each measured by itself.
fn sum_of_limits(bench: &Bench) -> Option<f64> {
    let limits = &bench.limits;
    let (append, round_trip) = (limits.append?, limits.round_trip?);
    let call = Duration::from_secs_f64(1.0 / limits.bare.get(&1)?.threads);
    Some(Part { append, round_trip, call }.sum().as_secs_f64())
}

/// One task: its job, and how long until its result was read.
fn one(fleet: &mut Fleet, work: &Work) -> Result<(String, Duration), BenchError> {
    let (api, spec, began) = (fleet.api(0), work.job(1), Instant::now());
    let job = api.submit(&spec)?;
    api.wait_result(&job, TASK_DEADLINE)?;
    Ok((job, began.elapsed()))
}

/// The times of those tasks that the second node ran.
fn there(fleet: &Fleet, times: &[(String, Duration)]) -> Result<Vec<Duration>, BenchError> {
    let log = fleet.node(1).log();
    let text = fs::read_to_string(&log).map_err(BenchError::io("read", &log))?;
    let granted: BTreeSet<&str> = text.lines().filter_map(granted_job).collect();
    Ok(times.iter().filter(|(job, _)| granted.contains(job.as_str())).map(|(_, took)| *took).collect())
}

/// The job of which a line says that a task of it was granted.
fn granted_job(line: &str) -> Option<&str> {
    line.split_once("granted job=")?.1.split(' ').next()
}

/// The same with `swarm submit --wait`, whoever runs it.
fn by_command(bench: &mut Bench, fleet: &Fleet, by_socket: f64) -> Result<(), BenchError> {
    let dir = tempfile::tempdir().map_err(BenchError::io("create a directory in", std::env::temp_dir()))?;
    let (wasm, file) = (dir.path().join("noop.wasm"), dir.path().join("noop.toml"));
    fs::write(&wasm, &bench.noop.module).map_err(BenchError::io("write", &wasm))?;
    fs::write(&file, "name = \"noop\"\n[task.noop]\nwasm = \"noop.wasm\"\n").map_err(BenchError::io("write", &file))?;
    let data = fleet.node(0).dir();
    let args = ["--node".as_ref(), data.as_os_str(), "submit".as_ref(), file.as_os_str(), "--wait".as_ref()];
    let times = (0..COMMANDS).map(|_| command::time(&bench.program, &args)).collect::<Result<Vec<_>, _>>()?;
    let row = Row::time("latency", format!("`swarm submit --wait` of 1 task on 2 nodes, p50 of {COMMANDS}"), &times);
    bench.add(row.over("the same by the socket", Some(by_socket)));
    let nothing = (0..COMMANDS).map(|_| command::time(&bench.program, &["version"])).collect::<Result<Vec<_>, _>>()?;
    bench.add(Row::time("latency", format!("`swarm version`, p50 of {COMMANDS}"), &nothing));
    Ok(())
}
