//! How many tasks that do nothing a swarm gets done, from their submission until the client knows that all are done.
//!
//! Always true: each round has a swarm of its own, which has run the guest before; the rounds of different swarms alternate,
//! so that a machine that changes meanwhile changes all alike.

use std::collections::BTreeMap;

use super::bare::ByKind;
use super::fleet::Fleet;
use super::machine::cores;
use super::{Bench, BenchError, Row, Unit};

/// Tasks of the largest and of a small job on one node.
const MANY: u32 = 1_000_000;
const FEW: u32 = 10_000;
/// Jobs of `FEW` in one round: one alone is over in a moment.
const FEW_TIMES: usize = 5;
/// Tasks elsewhere: some seconds.
const SOME: u32 = 200_000;

/// A swarm: nodes, and slots of each.
type Shape = (usize, usize);

/// One node, whose slots are as many as cores in most machines that this is run on, with many tasks, and with few.
pub(super) fn measure_one_node(bench: &mut Bench) -> Result<(), BenchError> {
    let (mut one, mut many, mut few) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds(3) {
        one.push(rate(bench, (1, 1), SOME)?);
        let mut fleet = Fleet::start(bench, 1, 2)?;
        let work = fleet.warm_noop()?;
        for _ in 0..FEW_TIMES {
            few.push(fleet.time(&work, FEW)?.as_secs_f64() / f64::from(FEW));
        }
        many.push(fleet.time(&work, MANY)?.as_secs_f64() / f64::from(MANY));
        eprintln!("  1 node with 2 slots: {:.0} tasks a second", 1.0 / many[many.len() - 1]);
    }
    let rates = many.iter().map(|seconds| 1.0 / seconds).collect();
    let one = throughput(bench, (1, 1), SOME, one);
    bench.add(one);
    let many_rate = throughput(bench, (1, 2), MANY, rates);
    bench.add(many_rate);
    let few = Row::median("noop", format!("cost of one of {FEW} tasks, 1 node with 2 slots"), Unit::Seconds, few);
    let many = Row::median("noop", format!("cost of one of {MANY} tasks, 1 node with 2 slots"), Unit::Seconds, many)
        .over(format!("one of {FEW}"), Some(few.value));
    bench.add(few);
    bench.add(many);
    Ok(())
}

/// Two and four nodes; and one node and several with the same slots in all.
pub(super) fn measure_nodes(bench: &mut Bench) -> Result<(), BenchError> {
    let shapes: [Shape; 8] = [(1, 1), (1, 2), (2, 1), (2, 2), (4, 1), (4, 2), (1, 3), (3, 1)];
    let mut rates: BTreeMap<Shape, Vec<f64>> = BTreeMap::new();
    for _ in 0..bench.rounds(5) {
        for shape in shapes {
            let rate = rate(bench, shape, SOME)?;
            rates.entry(shape).or_default().push(rate);
        }
    }
    let mut one_node = BTreeMap::new();
    for ((nodes, slots), rates) in rates {
        let row = throughput(bench, (nodes, slots), SOME, rates);
        if nodes == 1 {
            one_node.insert(slots, row.value);
            bench.add(row);
        } else {
            let same = one_node.get(&(nodes * slots)).copied();
            bench.add(row.over(format!("1 node with {}", slots_text(nodes * slots)), same));
        }
    }
    Ok(())
}

fn rate(bench: &Bench, (nodes, slots): Shape, tasks: u32) -> Result<f64, BenchError> {
    let mut fleet = Fleet::start(bench, nodes, slots)?;
    let work = fleet.warm_noop()?;
    let rate = f64::from(tasks) / fleet.time(&work, tasks)?.as_secs_f64();
    eprintln!("  {}: {rate:.0} tasks a second", shape_text((nodes, slots)));
    Ok(rate)
}

fn throughput(bench: &Bench, shape: Shape, tasks: u32, rates: Vec<f64>) -> Row {
    let used = (shape.0 * shape.1).min(cores());
    let bare = bench.limits.bare.get(&used).copied();
    let row = Row::median("noop", format!("{tasks} no-op tasks, {}", shape_text(shape)), Unit::PerSecond, rates);
    match bare {
        Some(ByKind { threads, .. }) if used == 1 => row.over("bare, one thread", Some(threads)),
        Some(ByKind { threads, processes }) => row
            .over(format!("bare, {used} threads"), Some(threads))
            .over(format!("bare, {used} processes"), Some(processes)),
        None => row,
    }
}

fn shape_text((nodes, slots): Shape) -> String {
    let nodes = if nodes == 1 { "1 node".into() } else { format!("{nodes} nodes") };
    format!("{nodes} with {}", slots_text(slots))
}

fn slots_text(slots: usize) -> String {
    if slots == 1 { "1 slot".into() } else { format!("{slots} slots") }
}
