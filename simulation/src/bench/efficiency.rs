//! Efficiency: the time that tasks would take if there were nothing but their computing, over the time that they take.
//!
//! Two nodes with one slot each. Guests have no clock of this world, so how much they have to compute for a millisecond is
//! measured before and after each job, by as many bare loops at once as there are slots. Where the processors' speed changes
//! meanwhile, because the machine is virtual and has neighbours, that figure means little; how much of the time the threads
//! that run guests were on a processor does not depend on it; bare loops are not on one all the time either, since the
//! system takes its part.

use std::fmt;
use std::time::Duration;

use super::fleet::Fleet;
use super::processor;
use super::work::Work;
use super::{Bench, BenchError, Row, Unit, bare};

/// One slot on each.
const NODES: usize = 2;
/// About how long each job takes if nothing else does, or longer where that are few tasks.
const IDEAL: Duration = Duration::from_secs(10);
/// Tasks of one length for each slot: at the end of a job slots wait for the last task, on average half of one.
const TASKS_MIN: u32 = 300;
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
    let mut all = vec![Vec::new(); jobs.len()];
    for _ in 0..bench.rounds(3) {
        for ((what, lengths), of_job) in jobs.iter().zip(&mut all) {
            let shares = measure_job(bench, lengths)?;
            eprintln!("  {what}: {shares}");
            of_job.push(shares);
        }
    }
    for ((what, lengths), shares) in jobs.iter().zip(all) {
        let row = |name: &str, share: fn(&Shares) -> f64| {
            let what = format!("{name}: {} {what}, {NODES} nodes with 1 slot", lengths.len());
            Row::median("efficiency", what, Unit::Share, shares.iter().map(share).collect())
        };
        bench.add(row("efficiency", |it| it.ideal));
        bench.add(row("slots on a processor", |it| it.on_processor));
        bench.add(row("that over what bare loops are", |it| it.on_processor / it.bare_on_processor));
    }
    Ok(())
}

/// Of the time that a job took.
#[derive(Clone, Copy, Debug)]
struct Shares {
    /// The ideal time.
    ideal: f64,
    /// What each slot's thread was on a processor.
    on_processor: f64,
    /// The same of as many bare loops, before and after it.
    bare_on_processor: f64,
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [ideal, slots, bare] = [self.ideal, self.on_processor, self.bare_on_processor].map(|it| it * 100.0);
        write!(f, "{ideal:.2} %, on a processor {slots:.2} %, bare loops {bare:.2} %")
    }
}

/// A job with tasks of these milliseconds.
fn measure_job(bench: &Bench, lengths: &[u32]) -> Result<Shares, BenchError> {
    let before = bare::spin(NODES)?;
    let rounds_per_ms = (0.001 / before.round.as_secs_f64()) as u64;
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
    let after = bare::spin(NODES)?;
    let [first, last] = [&before, &after].map(|spinning| spinning.round.as_secs_f64());
    eprintln!("  computing took {:.3} × as long after the job as before", last / first);
    let computing = rounds.iter().sum::<u64>() as f64 * (first + last) / 2.0;
    let slots = NODES as f64;
    let bare_on_processor = (before.on_processor + after.on_processor) / 2.0;
    Ok(Shares { ideal: computing / slots / took, on_processor: used / slots / took, bare_on_processor })
}

/// Processor time of all slots, in seconds.
fn used_by_slots(fleet: &Fleet) -> f64 {
    (0..NODES).map(|node| processor::of_slots(fleet.node(node))).sum()
}

/// As many tasks of this length as fit, and enough.
fn equal(ms: u32) -> Vec<u32> {
    let for_each = (IDEAL.as_millis() as u32 / ms).max(TASKS_MIN);
    vec![ms; NODES * for_each as usize]
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
