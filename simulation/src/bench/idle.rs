//! What a node of an idle swarm of two uses.
//!
//! Traffic is what the system has counted in the TCP connections between the two (`ss -ti`: payload of TCP, so Noise and
//! Yamux included, headers of IP not). Processor time is what the system has counted for the process.

use std::collections::BTreeMap;
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::fleet::Fleet;
use super::processor;
use super::{Bench, BenchError, Row, Unit};
use crate::cluster::Node;

/// How long two nodes that just met and ran something need to come to rest.
const SETTLE: Duration = Duration::from_secs(5);
/// How long they are watched.
const WATCH: Duration = Duration::from_secs(20);

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let mut fleet = Fleet::start(bench, 2, 1)?;
    fleet.warm_noop()?;
    thread::sleep(SETTLE);
    let nodes = || [fleet.node(0), fleet.node(1)];
    let (used_before, sent_before) = (nodes().map(processor::of_node), sent(nodes())?);
    thread::sleep(WATCH);
    let used = nodes().map(processor::of_node).into_iter().zip(used_before);
    let shares: Vec<f64> = used.map(|(after, before)| (after - before) / WATCH.as_secs_f64()).collect();
    let memory = nodes().map(|node| node.memory_bytes() as f64).to_vec();
    let bytes = bytes_between(&sent_before, &sent(nodes())?);
    bench.add(Row::median("idle", "resident memory, each of 2 nodes", Unit::Bytes, memory));
    let what = format!("processor time of one core over {} s, each of 2 nodes", WATCH.as_secs());
    bench.add(Row::median("idle", what, Unit::Share, shares));
    let rate = bytes / WATCH.as_secs_f64();
    bench.add(Row::median("idle", "sent and received for one peer (TCP payload)", Unit::BytesPerSecond, vec![rate]));
    Ok(())
}

/// Both ends of each connection between two nodes, and the bytes that each end has sent.
fn sent(nodes: [&Node; 2]) -> Result<BTreeMap<String, f64>, BenchError> {
    let output = Command::new("ss").args(["-tinOH", "state", "established"]).output();
    let output = output.map_err(BenchError::io("run", "ss"))?;
    let ports: Vec<&str> = nodes.iter().filter_map(|node| port(node.address())).collect();
    Ok(connections(&String::from_utf8_lossy(&output.stdout), &ports))
}

/// The port in `/ip4/127.0.0.1/tcp/PORT/p2p/…`.
fn port(address: &str) -> Option<&str> {
    address.split_once("/tcp/")?.1.split('/').next()
}

/// Of the lines of `ss -tinOH` those with one of these ports at either end.
fn connections(lines: &str, ports: &[&str]) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for line in lines.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ends: Vec<&str> = words.iter().copied().filter(|word| word.starts_with("127.0.0.1:")).collect();
        let is_ours = ends.iter().any(|end| end.rsplit(':').next().is_some_and(|port| ports.contains(&port)));
        let sent = words.iter().find_map(|word| word.strip_prefix("bytes_sent:")?.parse().ok());
        if let (true, Some(sent)) = (is_ours, sent) {
            found.insert(ends.join(" "), sent);
        }
    }
    found
}

/// What was sent meanwhile; of a connection that is new, all.
fn bytes_between(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> f64 {
    after.iter().map(|(ends, sent)| sent - before.get(ends).copied().unwrap_or_default()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connections_between_the_two_nodes_count() {
        let line = |local: u16, peer: u16, sent: u32| {
            format!(
                "0 0 127.0.0.1:{local} 127.0.0.1:{peer} cubic wscale:7,7 rtt:0.1/0.2 bytes_sent:{sent} bytes_acked:1\n"
            )
        };
        let ports = [port("/ip4/127.0.0.1/tcp/7000/p2p/12D3").unwrap(), "7001"];
        let before = connections(&(line(7000, 40_000, 10) + &line(40_000, 7000, 20) + &line(9, 8, 5)), &ports);
        assert_eq!(before.len(), 2);
        let after = connections(&(line(7000, 40_000, 15) + &line(40_000, 7000, 20) + &line(5, 7001, 100)), &ports);
        assert_eq!(bytes_between(&before, &after), 105.0);
    }
}
