//! How fast blobs move, hashed, proven and stored: one from node to node beside one bare libp2p stream over the same
//! transport, and one to eight nodes at once.
//!
//! Always true: every round moves bytes that no node has seen; rounds of the two transports and of the bare stream alternate;
//! there is warm memory for what is stored, since a bare stream needs none.
//!
//! Eight nodes on one machine share its processors, so a blob to eight of them is eight times the work there. What it would
//! be with a machine each is seen when every node may send only what its network would carry.

use std::thread;
use std::time::{Duration, Instant};

use super::far_end::Threads;
use super::fleet::Fleet;
use super::machine::warm_memory;
use super::{Bench, BenchError, Row, Unit, bulk};
use crate::cluster::Transport;

/// The blob that goes from node to node.
const LARGE_BYTES: usize = 256 << 20;
/// The one that goes to many.
const SHARED_BYTES: usize = 64 << 20;
/// To how many.
const TAKERS: usize = 8;
/// What each node may send a second: what the processors manage, what a network of a gigabit carries, and one of a tenth.
const RATES: [Option<&str>; 3] = [None, Some("120MB"), Some("12MB")];
const TRANSPORTS: [(Transport, &str); 2] = [(Transport::Tcp, "TCP, Noise, Yamux"), (Transport::Quic, "QUIC")];

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    node_to_node(bench)?;
    RATES.into_iter().try_for_each(|rate| to_many(bench, rate))
}

/// Of one transport: seconds of the bare streams and of the blob, peaks of memory of who gave and who took.
#[derive(Default)]
struct Samples {
    /// With one thread at each end, and as tokio comes.
    bare: [Vec<f64>; 2],
    blob: Vec<f64>,
    gave: Vec<f64>,
    took: Vec<f64>,
}

fn node_to_node(bench: &mut Bench) -> Result<(), BenchError> {
    let mut samples = TRANSPORTS.map(|_| Samples::default());
    for _ in 0..bench.rounds(5) {
        for ((transport, _), samples) in TRANSPORTS.into_iter().zip(&mut samples) {
            for (threads, bare) in [Threads::One, Threads::Each].into_iter().zip(&mut samples.bare) {
                bare.push(bulk::time(transport, threads, LARGE_BYTES as u64)?.as_secs_f64());
            }
            let mut fleet = fleet(bench, 2, transport, None)?;
            let from = fleet.node(0).id().to_owned();
            let blob = fleet.api(0).put(&bytes(LARGE_BYTES))?;
            warm_memory(2 * LARGE_BYTES);
            let began = Instant::now();
            fleet.api(1).hold(blob, &from)?;
            samples.blob.push(began.elapsed().as_secs_f64());
            samples.gave.push(fleet.cluster.node_mut(0).peak_memory_bytes() as f64);
            samples.took.push(fleet.cluster.node_mut(1).peak_memory_bytes() as f64);
        }
    }
    for ((_, name), Samples { bare, blob, gave, took }) in TRANSPORTS.into_iter().zip(samples) {
        let rate = |seconds: Vec<f64>| seconds.iter().map(|seconds| LARGE_BYTES as f64 / seconds).collect::<Vec<_>>();
        let mib = LARGE_BYTES >> 20;
        let [one, each] = ["one thread at each end", "a thread for each processor"]
            .map(|ends| format!("{mib} MiB on a bare stream, {name}, {ends}"));
        let row = |what, seconds| Row::median("blobs", what, Unit::BytesPerSecond, rate(seconds));
        let [bare_one, bare_each] = bare;
        let (one, each) = (row(one, bare_one), row(each, bare_each));
        let blob = row(format!("blob of {mib} MiB, {name}"), blob);
        let blob = blob.over("the bare stream, one thread", Some(one.value));
        let blob = blob.over("the same, a thread for each processor", Some(each.value));
        [one, each, blob].into_iter().for_each(|row| bench.add(row));
        bench.add(Row::median("blobs", format!("most memory of who gave it, {name}"), Unit::Bytes, gave).at(1.0));
        bench.add(Row::median("blobs", format!("most memory of who took it, {name}"), Unit::Bytes, took).at(1.0));
    }
    Ok(())
}

/// One blob to one node and to many, which all ask at the same moment and know only who has it.
fn to_many(bench: &mut Bench, rate: Option<&str>) -> Result<(), BenchError> {
    let (mut one, mut many, mut copies) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds(3) {
        one.push(share(bench, 1, rate)?.0);
        let (took, sent) = share(bench, TAKERS, rate)?;
        many.push(took);
        copies.push(sent as f64 / SHARED_BYTES as f64);
    }
    let mib = SHARED_BYTES >> 20;
    let each = rate.map(|rate| format!(", each sends {rate}/s at most")).unwrap_or_default();
    let one = Row::time("blobs", format!("{mib} MiB to 1 node{each}"), &one);
    let many = Row::time("blobs", format!("{mib} MiB to {TAKERS} nodes{each}"), &many).over("to 1", Some(one.value));
    bench.add(one);
    bench.add(many);
    bench.add(Row::median("blobs", format!("copies that the first node sent to {TAKERS}{each}"), Unit::Times, copies));
    Ok(())
}

/// How long it took, and how many bytes the first node sent.
fn share(bench: &Bench, takers: usize, rate: Option<&str>) -> Result<(Duration, u64), BenchError> {
    let mut fleet = fleet(bench, 1 + takers, Transport::Tcp, rate)?;
    let from = fleet.node(0).id().to_owned();
    let blob = fleet.api(0).put(&bytes(SHARED_BYTES))?;
    warm_memory(2 * takers * SHARED_BYTES);
    let began = Instant::now();
    thread::scope(|scope| {
        let takers: Vec<_> = fleet.apis()[1..].iter_mut().map(|api| scope.spawn(|| api.hold(blob, &from))).collect();
        takers.into_iter().try_for_each(|taker| taker.join().expect("it does not panic"))
    })?;
    let took = began.elapsed();
    Ok((took, fleet.api(0).sent_bytes()?))
}

fn fleet(bench: &Bench, nodes: usize, transport: Transport, rate: Option<&str>) -> Result<Fleet, BenchError> {
    Fleet::start_with(bench, nodes, 1, |node| {
        node.set_transport(transport);
        node.set_variable("SWARM_LOG", "error");
        node.set_variable("SWARM_UPLOAD_RATE", rate.unwrap_or_default());
    })
}

/// Bytes that were never seen before.
fn bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::fill(&mut bytes);
    bytes
}
