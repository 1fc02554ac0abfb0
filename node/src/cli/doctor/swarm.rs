//! The node, and what it sees of the others; without one, whether it could listen and join.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use jiff::Timestamp;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Check;
use super::disk::Holder;
use crate::api::view::{JobItem, NodeItem, NodeStatus};
use crate::api::{Client, Code, Failure};
use crate::cli::output::{ago, bytes};
use crate::runtime::RuntimeOptions;

/// A node answers at once, or its core hangs.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// A machine that is there accepts a connection in a fraction of this.
const CONNECT_WAIT: Duration = Duration::from_secs(2);
/// Clocks that nobody keeps drift apart by as much in days. Nothing depends on them but ages and expiry.
const AHEAD_MAX: Duration = Duration::from_secs(5);
/// Nodes and addresses that are named; the others are counted.
const NAMED_MAX: usize = 4;

/// The checks.
pub(super) async fn checks(client: &Client, options: &RuntimeOptions, holder: &Holder) -> Vec<Check> {
    let status = timeout(ANSWER_WAIT, client.status()).await;
    let status = status.unwrap_or_else(|_| Err(Failure::new(Code::TimedOut, "the node does not answer")));
    match status {
        Ok(status) => running(client, &status, options).await,
        Err(failure) => stopped(&failure, options, holder).await,
    }
}

/// Without a node that answers.
async fn stopped(failure: &Failure, options: &RuntimeOptions, holder: &Holder) -> Vec<Check> {
    const NAME: &str = "node";
    let data = options.data.display();
    let node = match holder {
        Holder::Process(pid) => {
            let (pid, kill) = pid.map_or(("a process".to_owned(), String::new()), |pid| {
                (format!("process {pid}"), format!("kill {pid}   # then swarm start"))
            });
            Check::problem(
                NAME,
                format!("{pid} has the data directory, and no node answers: {}", failure.message),
                kill,
            )
        }
        _ if failure.code == Code::NotAllowed => Check::problem(NAME, failure.message.clone(), "ls -l DIR"),
        _ => Check::warning(NAME, format!("none runs at {data}"), format!("swarm start --data {data}")),
    };
    let mut checks = vec![node];
    // Whoever has the directory may well have the ports, too.
    if matches!(holder, Holder::Nobody { .. }) {
        checks.push(ports(&options.listen));
        checks.extend(bootstrap(&options.bootstrap).await);
    }
    checks
}

/// Whether the addresses to listen on are free.
fn ports(listen: &[String]) -> Check {
    const NAME: &str = "ports";
    if listen.is_empty() {
        return Check::ok(NAME, "the system chooses free ones");
    }
    let taken: Vec<String> =
        listen.iter().filter_map(|address| Some(format!("{address}: {}", taken(address)?))).collect();
    match taken.first() {
        None => Check::ok(NAME, format!("{} can be listened on", listen.join(", "))),
        Some(first) => Check::problem(NAME, first.clone(), "swarm start --listen /ip4/0.0.0.0/tcp/0   # or: ss -tulpn"),
    }
}

/// Why an address cannot be listened on.
fn taken(address: &str) -> Option<std::io::Error> {
    let (socket, tcp) = socket(address)?;
    let bound = if tcp { TcpListener::bind(socket).map(drop) } else { UdpSocket::bind(socket).map(drop) };
    bound.err()
}

/// The socket of an address, and whether it is one of TCP; none of a name.
fn socket(address: &str) -> Option<(SocketAddr, bool)> {
    let address: Multiaddr = address.parse().ok()?;
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some((SocketAddr::new(ip, port), true)),
        Protocol::Udp(port) => Some((SocketAddr::new(ip, port), false)),
        _ => None,
    }
}

/// Whether somebody listens where the swarm is to be joined; QUIC is not asked.
async fn bootstrap(addresses: &[String]) -> Option<Check> {
    const NAME: &str = "bootstrap";
    let sockets: Vec<SocketAddr> =
        addresses.iter().filter_map(|address| socket(address)).filter(|it| it.1).map(|it| it.0).collect();
    if sockets.is_empty() {
        return None;
    }
    let mut silent = Vec::new();
    for socket in &sockets {
        if !matches!(timeout(CONNECT_WAIT, TcpStream::connect(socket)).await, Ok(Ok(_))) {
            silent.push(socket.to_string());
        }
    }
    let found = format!("{} of {} answer", sockets.len() - silent.len(), sockets.len());
    let next = "swarm status   # on that machine: its addresses are after `listen`";
    Some(match silent.as_slice() {
        [] => Check::ok(NAME, found),
        some if some.len() < sockets.len() => Check::warning(NAME, format!("{found}; not {}", names(some)), next),
        some => Check::problem(NAME, format!("nobody answers at {}", names(some)), next),
    })
}

/// With one.
async fn running(client: &Client, status: &NodeStatus, options: &RuntimeOptions) -> Vec<Check> {
    let mut checks =
        vec![Check::ok("node", format!("{} runs, {} slots of {} busy", status.name, status.slots_busy, status.slots))];
    checks.push(own_version(&status.version));
    checks.push(addresses(&status.addresses));
    checks.push(room(status));
    checks.extend(scrub(status));
    if let Ok(nodes) = client.nodes().await {
        let others: Vec<&NodeItem> = nodes.items.iter().filter(|node| node.id != status.node).collect();
        checks.push(members(&others, options));
        checks.extend(versions(&others, &status.version));
    }
    if let Ok(jobs) = client.jobs().await {
        checks.push(clock(&jobs.items, &status.node));
    }
    checks
}

fn own_version(node: &str) -> Check {
    const NAME: &str = "version";
    let mine = env!("CARGO_PKG_VERSION");
    match node == mine {
        true => Check::ok(NAME, format!("{mine}, of this command and of the node")),
        false => {
            let found = format!("the node has {node}, this command {mine}");
            Check::warning(NAME, found, "swarm drain && swarm start   # with this version")
        }
    }
}

fn addresses(listen: &[String]) -> Check {
    const NAME: &str = "addresses";
    let next = "swarm start --listen /ip4/0.0.0.0/tcp/0";
    let local = |address: &String| socket(address).is_some_and(|(socket, _)| socket.ip().is_loopback());
    match listen {
        [] => Check::problem(NAME, "the node listens nowhere", next),
        all if all.iter().all(local) => Check::warning(NAME, format!("{}: of this machine alone", names(all)), next),
        all => Check::ok(NAME, names(all)),
    }
}

fn room(status: &NodeStatus) -> Check {
    const NAME: &str = "room";
    let next = "swarm blob gc   # or swarm start --disk SIZE";
    match (&status.waits_for_room, &status.takes_no_blobs) {
        (Some(why), _) => {
            Check::problem(NAME, format!("nothing can be remembered: {why}"), format!("df -h '{}'", status.data))
        }
        (None, Some(why)) => Check::problem(NAME, format!("new blobs are refused: {why}"), next),
        (None, None) => Check::ok(NAME, format!("blobs have {}", bytes(status.blob_bytes))),
    }
}

fn scrub(status: &NodeStatus) -> Option<Check> {
    const NAME: &str = "scrub";
    let found =
        format!("{} blobs damaged since the start, {} fetched anew", status.scrub.damaged, status.scrub.repaired);
    match (status.scrub.damaged, status.scrub.lost.first()) {
        (_, Some(lost)) => {
            let found = format!("{found}, {} on no node", status.scrub.lost.len());
            Some(Check::problem(
                NAME,
                found,
                format!("swarm blob stat blake3:{lost}   # bring it back with swarm blob put"),
            ))
        }
        (0, None) => None,
        (_, None) => Some(Check::warning(NAME, found, "dmesg   # the disk, or the memory, may be failing")),
    }
}

fn members(others: &[&NodeItem], options: &RuntimeOptions) -> Check {
    const NAME: &str = "other nodes";
    let label =
        |node: &&NodeItem| if node.name.is_empty() { node.id.chars().take(12).collect() } else { node.name.clone() };
    let gone: Vec<String> = others
        .iter()
        .filter(|node| matches!(node.state.as_str(), "down" | "suspect"))
        .map(|node| {
            format!("{} ({}, heard of {} ago)", label(node), node.state, ago(Duration::from_millis(node.heard_ms)))
        })
        .collect();
    let reached = others.len() - gone.len();
    match (others.len(), reached) {
        (0, _) if options.bootstrap.is_empty() && !options.lan => Check::ok(NAME, "none is known: a swarm of one"),
        (0, _) => Check::problem(
            NAME,
            "none is known, although it was told where to join",
            "swarm start --bootstrap MULTIADDR",
        ),
        (_, 0) => {
            Check::problem(NAME, format!("none can be reached: {}", names(&gone)), "swarm start --bootstrap MULTIADDR")
        }
        _ if gone.is_empty() => Check::ok(NAME, format!("{reached}, each can be reached")),
        _ => Check::warning(NAME, format!("{reached} can be reached; not {}", names(&gone)), "swarm nodes"),
    }
}

fn versions(others: &[&NodeItem], version: &str) -> Option<Check> {
    const NAME: &str = "versions";
    let mut alive = others.iter().filter(|node| node.state == "alive").peekable();
    alive.peek()?;
    let differ: Vec<String> = alive
        .filter(|node| node.version != version)
        .map(|node| format!("{} has {}", node.name, node.version))
        .collect();
    Some(match differ.is_empty() {
        true => Check::ok(NAME, format!("all have {version}")),
        false => Check::warning(
            NAME,
            format!("this node has {version}; {}", names(&differ)),
            "swarm drain NODE   # then start it anew",
        ),
    })
}

/// Jobs of other nodes carry the times of their clocks: one that is yet to come shows a clock that is ahead of ours.
fn clock(jobs: &[JobItem], me: &str) -> Check {
    const NAME: &str = "clock";
    let now = Timestamp::now();
    let theirs = jobs.iter().filter(|job| job.submitter != me);
    let times = theirs.filter_map(|job| Some((job.submitted.parse::<Timestamp>().ok()?, job)));
    let Some((newest, job)) = times.max_by_key(|(time, _)| *time) else {
        return Check::ok(NAME, format!("{now:.0}; no job of another node tells of its clock"));
    };
    match Duration::try_from(newest.duration_since(now)) {
        Ok(ahead) if ahead > AHEAD_MAX => {
            let node: String = job.submitter.chars().take(12).collect();
            let found = format!("that of node {node} is at least {} ahead of this one", ago(ahead));
            Check::warning(NAME, found, "timedatectl   # on both machines")
        }
        _ => Check::ok(NAME, format!("{now:.0}; no job of another node comes from the future")),
    }
}

fn names(all: &[String]) -> String {
    let mut named: Vec<String> = all.iter().take(NAMED_MAX).cloned().collect();
    if all.len() > NAMED_MAX {
        named.push(format!("and {} more", all.len() - NAMED_MAX));
    }
    named.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn node(name: &str, state: &str, version: &str) -> NodeItem {
        NodeItem {
            id: name.repeat(16),
            name: name.into(),
            state: state.into(),
            slots: 1,
            slots_free: 1,
            version: version.into(),
            address: String::new(),
            heard_ms: 90_000,
            memory_bytes: 1 << 30,
            arch: "x86_64".into(),
            labels: Vec::new(),
        }
    }

    #[test]
    fn others_that_are_gone_or_older_are_named() {
        let options = RuntimeOptions::new("/data");
        let (anna, ben, old) = (node("anna", "alive", "1"), node("ben", "down", "1"), node("carl", "alive", "0"));
        assert_eq!(members(&[], &options).state, State::Ok);
        assert_eq!(members(&[], &RuntimeOptions { lan: true, ..options.clone() }).state, State::Problem);
        assert_eq!(members(&[&anna], &options).state, State::Ok);
        let found = members(&[&anna, &ben], &options);
        assert_eq!(
            (found.state, found.found.as_str()),
            (State::Warning, "1 can be reached; not ben (down, heard of 1m ago)")
        );
        assert_eq!(members(&[&ben], &options).state, State::Problem);
        assert_eq!(versions(&[&anna], "1").map(|check| check.state), Some(State::Ok));
        assert_eq!(versions(&[&anna, &old], "1").map(|check| check.state), Some(State::Warning));
        assert_eq!(versions(&[], "1"), None);
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let held = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = format!("/ip4/127.0.0.1/tcp/{}", held.local_addr().unwrap().port());
        assert_eq!(ports(&[]).state, State::Ok);
        let found = ports(std::slice::from_ref(&address));
        assert!(found.state == State::Problem && found.found.starts_with(&address), "{found:?}");
        drop(held);
        assert_eq!(ports(&[address]).state, State::Ok);
    }
}
