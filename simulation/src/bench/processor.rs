//! Processor time that the threads of a node have used, as the system counts it.

use std::fs;

use crate::cluster::Node;

/// The threads that run guests.
pub(super) const SLOTS: &str = "slot-";
/// Every thread.
pub(super) const ALL: &str = "";

/// What a node's threads whose names begin so have used, in seconds.
pub(super) fn processor(node: &Node, prefix: &str) -> f64 {
    let threads = fs::read_dir(format!("/proc/{}/task", node.process())).into_iter().flatten().flatten();
    let read = |thread: &fs::DirEntry, file: &str| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
    let named = threads.filter(|thread| read(thread, "comm").starts_with(prefix));
    let used = |thread| read(&thread, "schedstat").split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok());
    named.filter_map(used).sum::<f64>() / 1e9
}
