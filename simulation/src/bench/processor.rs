//! Processor time that a node or a thread has used, as the system counts it.

use std::fs;

use crate::cluster::Node;

/// The threads that run guests.
const SLOTS: &str = "slot-";
/// In which the system tells the time of a process: `USER_HZ`, the same on x86, ARM and RISC-V.
const TICKS_PER_SECOND: f64 = 100.0;

/// What all threads of a node have used, those that have ended included, in seconds: to a hundredth.
pub(super) fn of_node(node: &Node) -> f64 {
    let line = fs::read_to_string(format!("/proc/{}/stat", node.process())).unwrap_or_default();
    ticks(&line).map_or(0.0, |ticks| ticks as f64 / TICKS_PER_SECOND)
}

/// User and system time in a line of `/proc/PID/stat`: fields 14 and 15, counted from a name that may have anything in it.
fn ticks(line: &str) -> Option<u64> {
    let (_, fields) = line.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(|field| field.parse::<u64>().ok());
    Some(times.next()?? + times.next()??)
}

/// What the slots of a node have used, in seconds: to a nanosecond.
pub(super) fn of_slots(node: &Node) -> f64 {
    let threads = fs::read_dir(format!("/proc/{}/task", node.process())).into_iter().flatten().flatten();
    let read = |thread: &fs::DirEntry, file: &str| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
    let slots = threads.filter(|thread| read(thread, "comm").starts_with(SLOTS));
    slots.map(|thread| seconds(&read(&thread, "schedstat"))).sum()
}

/// The same of the thread that asks.
pub(super) fn of_this_thread() -> f64 {
    seconds(&fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default())
}

/// What a thread used, by its line of `schedstat`: the first field, in nanoseconds.
fn seconds(line: &str) -> f64 {
    let nanos = line.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok());
    nanos.unwrap_or_default() / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_are_found_behind_any_name() {
        let line = "7 (a ) 1 2) S 1 7 7 0 -1 4194304 100 0 0 0 31 11 0 0 20 0 9 0";
        assert_eq!(ticks(line), Some(42));
        assert_eq!(ticks("7 (cut off) S 1"), None);
    }
}
