//! How soon the tasks of a node that dies, or stands still, are granted to another one.
//!
//! Three nodes with one slot each and two long tasks: one node always has room for what another one loses. The times are
//! those of the nodes' logs.

use std::thread;
use std::time::{Duration, SystemTime};

use super::fleet::Fleet;
use super::work::Work;
use super::{Bench, BenchError, Row};
use crate::cluster::{DEADLINE, Fault, Journal, Kind, wait_until};

/// Nodes; one more than tasks.
const NODES: usize = 3;
const TASKS: u32 = 2;
/// Rounds of the guest that computes until its job is cancelled: hours.
const FOR_GOOD: u64 = 1 << 45;
/// Each grant is a line of the log.
const LOG: &str = "error,swarm_node::tasks=debug";
/// A node that is struck has run its task for so long.
const RUNS_FIRST: Duration = Duration::from_secs(1);
/// Longer than any swarm may take.
const REGRANT_DEADLINE: Duration = Duration::from_secs(60);

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    for (kind, what) in [(Kind::Kill, "killed (SIGKILL)"), (Kind::Stop, "stopped (SIGSTOP)")] {
        let mut times = Vec::new();
        for round in 0..bench.rounds(5) {
            times.push(strike(bench, kind, round)?);
            eprintln!("  {what}: {:.2} s", times[round].as_secs_f64());
        }
        let row = |part| format!("a node is {what}: until its task is granted again, {part}");
        bench.add(Row::time("regrant", row("p50"), &times));
        bench.add(Row::time("regrant", row("longest"), &times).at(1.0));
    }
    Ok(())
}

/// A swarm whose running nodes are struck in turn.
fn strike(bench: &Bench, kind: Kind, round: usize) -> Result<Duration, BenchError> {
    let mut fleet = Fleet::start_with_log(bench, NODES, 1, LOG)?;
    fleet.warm_noop()?;
    let work = Work::spin(fleet.api(0), FOR_GOOD)?;
    let job = fleet.api(0).submit(&work.job(TASKS))?;
    let busy = busy(&mut fleet)?;
    thread::sleep(RUNS_FIRST);
    let victim = busy[round % busy.len()];
    let fault = Fault { kind, nodes: vec![victim], at: SystemTime::now() };
    match kind {
        Kind::Kill => fleet.cluster.node_mut(victim).kill(),
        _ => fleet.node(victim).pause()?,
    }
    let faults = [fault];
    let granted = wait_until("that the task of a struck node is granted again", REGRANT_DEADLINE, || {
        let mut journal = Journal::of([(job.clone(), None)].into_iter());
        for number in (0..NODES).filter(|number| *number != victim) {
            journal.read(number, &fleet.node(number).log())?;
        }
        journal.read(victim, &fleet.node(victim).log())?;
        journal.sort();
        Ok(journal.regrants(&faults).first().map(|regrant| regrant.after))
    })?;
    Ok(granted)
}

/// The nodes that run the tasks, once all do.
fn busy(fleet: &mut Fleet) -> Result<Vec<usize>, BenchError> {
    let busy = wait_until("that all tasks run", DEADLINE, || {
        let busy: Vec<usize> = (0..NODES).filter(|node| fleet.api(*node).slots_busy().unwrap_or(0) > 0).collect();
        Ok((busy.len() == TASKS as usize).then_some(busy))
    })?;
    Ok(busy)
}
