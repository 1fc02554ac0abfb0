//! Efficiency: the time that tasks would take if there were nothing but their computing, over the time that they take.
//!
//! Two nodes with one slot each. Guests have no clock of this world, so how much they have to compute for a millisecond is
//! measured before and after each job, by as many bare loops at once as there are slots. Where the processors' speed changes
//! meanwhile, because the machine is virtual and has neighbours, that figure means little; how much of the time the threads
//! that run guests were on a processor does not depend on it.

use std::time::Duration;

use super::fleet::Fleet;
use super::processor;
use super::work::Work;
use super::{Bench, BenchError, Row, Unit, bare};

/// One slot on each.
const NODES: usize = 2;
/// About how long each job takes if nothing else does.
const IDEAL: Duration = Duration::from_secs(10);
/// Tasks of one length, in milliseconds.
const LENGTHS_MS: [u32; 3] = [1, 10, 100];
/// Of the mixed job, a task in so many is long; half of the others are short.
const MIXED_LONG_EVERY: usize = 400;
const MIXED_MS: [u32; 3] = [1, 10, 500];
/// The same order of the mixed tasks each time.
const SEED: u64 = 11;

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let mut jobs: Vec<(String, Vec<u32>)> =
        LENGTHS_MS.iter().map(|ms| (format!("tasks of {ms} ms"), equal(*ms))).collect();
    let [short, middle, long] = MIXED_MS;
    jobs.push((format!("tasks of {short} ms (half of them), {middle} ms and {long} ms"), mixed()));
    let mut shares = vec![(Vec::new(), Vec::new()); jobs.len()];
    for _ in 0..bench.rounds(3) {
        for ((what, lengths), shares) in jobs.iter().zip(&mut shares) {
            let Shares { ideal, on_processor } = measure_job(bench, lengths)?;
            eprintln!("  {what}: {:.2} %, on a processor {:.2} %", ideal * 100.0, on_processor * 100.0);
            shares.0.push(ideal);
            shares.1.push(on_processor);
        }
    }
    for ((what, lengths), (ideal, on_processor)) in jobs.iter().zip(shares) {
        let what = format!("{} {what}, {NODES} nodes with 1 slot", lengths.len());
        bench.add(Row::median("efficiency", format!("efficiency: {what}"), Unit::Share, ideal));
        let what = format!("slots on a processor: {what}");
        bench.add(Row::median("efficiency", what, Unit::Share, on_processor));
    }
    Ok(())
}

/// Of the time that a job took.
struct Shares {
    /// The ideal time.
    ideal: f64,
    /// What each slot's thread was on a processor.
    on_processor: f64,
}

/// A job with tasks of these milliseconds.
fn measure_job(bench: &Bench, lengths: &[u32]) -> Result<Shares, BenchError> {
    let before = bare::spin_round(NODES)?.as_secs_f64();
    let rounds_per_ms = (0.001 / before) as u64;
    let rounds: Vec<u64> = lengths.iter().map(|ms| u64::from(*ms) * rounds_per_ms).collect();
    let (took, used) = {
        let mut fleet = Fleet::start(bench, NODES, 1)?;
        fleet.warm_noop()?;
        let warm = Work::spin(fleet.api(0), rounds_per_ms)?;
        fleet.time(&warm, 200)?;
        let work = match lengths.windows(2).all(|pair| pair[0] == pair[1]) {
            true => Work::spin(fleet.api(0), rounds[0])?,
            false => Work::spins(fleet.api(0), &rounds)?,
        };
        let before = used_by_slots(&fleet);
        let took = fleet.time(&work, u32::try_from(rounds.len()).unwrap_or(u32::MAX))?.as_secs_f64();
        (took, used_by_slots(&fleet) - before)
    };
    let after = bare::spin_round(NODES)?.as_secs_f64();
    let round = (before + after) / 2.0;
    eprintln!("  computing took {:.3} × as long after the job as before", after / before);
    let computing = rounds.iter().sum::<u64>() as f64 * round;
    let slots = NODES as f64;
    Ok(Shares { ideal: computing / slots / took, on_processor: used / slots / took })
}

/// Processor time of all slots, in seconds.
fn used_by_slots(fleet: &Fleet) -> f64 {
    (0..NODES).map(|node| processor::of_slots(fleet.node(node))).sum()
}

/// As many tasks of this length as fit.
fn equal(ms: u32) -> Vec<u32> {
    vec![ms; (NODES as u128 * IDEAL.as_millis()) as usize / ms as usize]
}

/// As many tasks as fit, in a random order.
fn mixed() -> Vec<u32> {
    let [short, middle, long] = MIXED_MS;
    let (mut lengths, mut left) = (Vec::new(), NODES as u32 * IDEAL.as_millis() as u32);
    while left >= long {
        let length = match lengths.len() {
            at if at % MIXED_LONG_EVERY == 0 => long,
            at if at % 2 == 1 => short,
            _ => middle,
        };
        left -= length;
        lengths.push(length);
    }
    fastrand::Rng::with_seed(SEED).shuffle(&mut lengths);
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_mixed_tasks_are_short_and_a_few_are_long() {
        let mixed = mixed();
        let count = |ms| mixed.iter().filter(|length| **length == ms).count();
        let [short, middle, long] = MIXED_MS.map(count);
        assert!(
            short.abs_diff(mixed.len() / 2) <= 1 && middle > 0 && (3..20).contains(&long),
            "{short} {middle} {long}"
        );
        let sum: u32 = mixed.iter().sum();
        assert!((19_000..=20_000).contains(&sum), "{sum}");
    }
}
