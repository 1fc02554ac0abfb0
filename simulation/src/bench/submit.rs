//! From a submission to its acknowledgement: the job is then on enough disks of three nodes.
//!
//! The guest and its list are on the node already. A job is cancelled as soon as it is acknowledged.

use std::time::{Duration, Instant};

use super::fleet::Fleet;
use super::work::Work;
use super::{Bench, BenchError, Row};

/// How many tasks, and how often a round.
const SIZES: [(u32, usize); 3] = [(1, 10), (1_000, 10), (1_000_000, 2)];

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let mut fleet = Fleet::start(bench, 3, 1)?;
    let work = fleet.warm_noop()?;
    let mut times = SIZES.map(|(tasks, _)| (tasks, Vec::new()));
    for _ in 0..bench.rounds(5) {
        for ((tasks, times), (_, count)) in times.iter_mut().zip(SIZES) {
            for _ in 0..count {
                times.push(submit(&mut fleet, &work, *tasks)?);
            }
        }
    }
    let one = Row::time("submit", "", &times[0].1).value;
    for (tasks, times) in times {
        let row = Row::time("submit", format!("submit of {tasks} tasks to 3 nodes, acknowledged, p50"), &times);
        bench.add(if tasks == 1 { row } else { row.over("submit of 1 task", Some(one)) });
    }
    Ok(())
}

fn submit(fleet: &mut Fleet, work: &Work, tasks: u32) -> Result<Duration, BenchError> {
    let (api, spec, began) = (fleet.api(0), work.job(tasks), Instant::now());
    let job = api.submit(&spec)?;
    let took = began.elapsed();
    api.cancel(&job)?;
    Ok(took)
}
