//! What jobs cost that wait: thousands of which no node can run any, beside which a node idles and others run.

use std::thread;
use std::time::{Duration, Instant};

use super::fleet::Fleet;
use super::processor;
use super::work::Work;
use super::{Bench, BenchError, Row, Unit};

/// Jobs that wait, of one task each.
const WAITING: usize = 8_000;
/// More slots than any node has.
const SLOTS: u32 = 4096;
/// Jobs of one task that run beside them.
const BESIDE: usize = 200;
/// How long nodes need to come to rest.
const SETTLE: Duration = Duration::from_secs(5);
/// How long they are watched.
const WATCH: Duration = Duration::from_secs(20);
/// How long one small job may take.
const JOB_DEADLINE: Duration = Duration::from_secs(60);

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let mut fleet = Fleet::start(bench, 2, 1)?;
    let work = fleet.warm_noop()?;
    let (idle, jobs) = (idle(&fleet), jobs(&mut fleet, &work)?);
    let mut unfit = work.job(1);
    unfit.stages[0].options.slots = SLOTS;
    let began = Instant::now();
    for _ in 0..WAITING {
        unfit.nonce = fastrand::u64(..);
        fleet.api(0).submit(&unfit)?;
    }
    let submitted = WAITING as f64 / began.elapsed().as_secs_f64();
    let (idle_beside, jobs_beside) = (self::idle(&fleet), self::jobs(&mut fleet, &work)?);

    bench.add(Row::median("waiting", "jobs submitted one by one, 2 nodes", Unit::PerSecond, vec![submitted]));
    bench.add(Row::median("waiting", "processor time of one core, each of 2 idle nodes", Unit::Share, idle));
    let what = format!("the same with {WAITING} jobs that wait");
    bench.add(Row::median("waiting", what, Unit::Share, idle_beside));
    let alone = Row::median("waiting", "jobs of one task, one after the other", Unit::PerSecond, vec![jobs]);
    let beside = format!("the same with {WAITING} jobs that wait");
    let beside = Row::median("waiting", beside, Unit::PerSecond, vec![jobs_beside]);
    bench.add(alone);
    bench.add(beside.over("without them", Some(jobs)));
    Ok(())
}

/// What each node uses of one core.
fn idle(fleet: &Fleet) -> Vec<f64> {
    thread::sleep(SETTLE);
    let used = || [0, 1].map(|number| processor::of_node(fleet.node(number)));
    let before = used();
    thread::sleep(WATCH);
    used().into_iter().zip(before).map(|(after, before)| (after - before) / WATCH.as_secs_f64()).collect()
}

/// Small jobs a second.
fn jobs(fleet: &mut Fleet, work: &Work) -> Result<f64, BenchError> {
    let began = Instant::now();
    for _ in 0..BESIDE {
        let job = fleet.api(0).submit(&work.job(1))?;
        fleet.api(0).wait_done(&job, JOB_DEADLINE)?;
    }
    Ok(BESIDE as f64 / began.elapsed().as_secs_f64())
}
