//! Disk of a finished job with a million empty outcomes: what the data directory has grown by.

use super::fleet::Fleet;
use super::{Bench, BenchError, Row, Unit};
use crate::cluster::DEADLINE;

/// Tasks of the job.
const TASKS: u32 = 1_000_000;

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let (mut at_once, mut restarted) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds(1) {
        let mut fleet = Fleet::start(bench, 1, 2)?;
        let work = fleet.warm_noop()?;
        let before = fleet.node(0).disk_bytes() as f64;
        fleet.time(&work, TASKS)?;
        at_once.push(fleet.node(0).disk_bytes() as f64 - before);
        fleet.cluster.node_mut(0).restart()?;
        fleet.cluster.wait_members(1, DEADLINE)?;
        restarted.push(fleet.node(0).disk_bytes() as f64 - before);
    }
    bench.add(Row::median("disk", format!("disk of a finished job of {TASKS} no-op tasks"), Unit::Bytes, at_once));
    bench.add(Row::median("disk", "the same after the node was restarted", Unit::Bytes, restarted));
    Ok(())
}
