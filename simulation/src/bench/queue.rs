//! Memory of tasks that wait: the only slot of a node is busy for good when ten million more come.

use std::thread;
use std::time::Duration;

use super::fleet::Fleet;
use super::work::Work;
use super::{Bench, BenchError, Row, Unit};
use crate::cluster::{DEADLINE, wait_until};

/// Tasks that wait.
const QUEUED: u32 = 10_000_000;
/// Rounds of the guest that keeps the slot busy: hours.
const FOR_GOOD: u64 = 1 << 45;
/// What a node does after a submission is over by then.
const SETTLE: Duration = Duration::from_secs(3);

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let (mut bytes, mut resident) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds(3) {
        let [before, after] = round(bench)?;
        bytes.push((after - before) / f64::from(QUEUED));
        resident.push(after);
    }
    bench.add(Row::median("queue", format!("memory of one of {QUEUED} queued tasks, 1 node"), Unit::Bytes, bytes));
    bench.add(Row::median("queue", "resident memory of that node then", Unit::Bytes, resident));
    Ok(())
}

/// Resident memory before and after.
fn round(bench: &Bench) -> Result<[f64; 2], BenchError> {
    let mut fleet = Fleet::start(bench, 1, 1)?;
    let noop = fleet.warm_noop()?;
    let api = fleet.api(0);
    let spin = Work::spin(api, FOR_GOOD)?;
    api.submit(&spin.job(1))?;
    wait_until("that the slot is busy", DEADLINE, || Ok(api.slots_busy().is_ok_and(|busy| busy == 1).then_some(())))?;
    thread::sleep(SETTLE);
    let before = fleet.node(0).memory_bytes() as f64;
    fleet.api(0).submit(&noop.job(QUEUED))?;
    thread::sleep(SETTLE);
    Ok([before, fleet.node(0).memory_bytes() as f64])
}
