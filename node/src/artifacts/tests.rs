//! Blobs come from several nodes, whatever some of them do. Real sockets; the nodes are in one process.

use std::num::NonZeroU64;

use swarm_store::GROUP_BYTES;

use super::*;
use crate::network::Rates;
use crate::network::tests::faulty::{Fault, Faulty};
use crate::network::tests::{DEADLINE, Node, QUIC, Started, TCP, scratch, until};

/// What one node may have on its way, unchecked, when it dies.
const LOST_BYTES_MAX: u64 = 1 << 20;
/// A fetch with its proofs is longer than the blob by this much at most.
const PROOFS: f64 = 1.01;

#[tokio::test(flavor = "multi_thread")]
async fn several_sources_give_a_part_each() {
    for transport in [TCP, QUIC] {
        let bytes = random_bytes(12 << 20);
        let mut sources = Vec::new();
        let taker = Taker::new(Node::on(transport), 1).await;
        for seed in 2..=4 {
            sources.push(slow(transport, 30).knowing(&taker.node).start(seed).await);
        }
        let hash = put(&sources, &bytes);
        for source in &sources {
            until(async || taker.node.network.find_blob(source.id(), hash, false).await.is_ok()).await;
        }
        taker.takes(hash, &sources).await.unwrap();
        assert_eq!(taker.node.blobs.read(hash, u64::MAX).unwrap(), bytes);
        let sent: Vec<u64> = sources.iter().map(|source| source.network.counts().bytes_sent).collect();
        assert!(sent.iter().all(|sent| *sent > 1 << 20), "{sent:?}");
        assert!((taker.received() as f64) < bytes.len() as f64 * PROOFS, "{sent:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_fetched_once_whoever_asks() {
    let bytes = random_bytes(4 << 20);
    let taker = Taker::new(Node::on(TCP), 1).await;
    let sources = [slow(TCP, 40).knowing(&taker.node).start(2).await];
    let hash = put(&sources, &bytes);
    futures::future::join_all((0..20).map(|_| taker.takes(hash, &sources))).await.into_iter().for_each(Result::unwrap);
    assert!((sources[0].network.counts().bytes_sent as f64) < bytes.len() as f64 * PROOFS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_goes_on_with_others_whatever_a_source_does() {
    use Fault::{ClaimsAll, Endless, FlipsBits, FlipsBitsLater, LiesAboutLength, SendsTooMuch, StallsLater};
    for len in [100_000, 6 << 20] {
        for fault in [FlipsBits, FlipsBitsLater, LiesAboutLength, Endless, SendsTooMuch, StallsLater, ClaimsAll] {
            let bytes = random_bytes(len);
            let faulty = Faulty::start(9, fault, &bytes).await;
            let taker = Taker::new(Node::on(TCP).with_bootstrap(vec![faulty.address.clone()]), 1).await;
            let honest = [slow(TCP, 20).knowing(&taker.node).start(2).await];
            let hash = put(&honest, &bytes);
            until(async || taker.node.network.find_blob(faulty.id, hash, false).await.is_ok() || fault == Endless)
                .await;
            let from = vec![faulty.id, honest[0].id()];
            taker.artifacts.ensure(vec![hash], &from).await.unwrap();
            assert_eq!(taker.node.blobs.read(hash, u64::MAX).unwrap(), bytes, "{fault:?}");
            let counts = taker.node.network.counts();
            let (wrong, over, lacking) = (counts.sources_wrong, counts.sources_over, counts.sources_lacking);
            // A short blob may be here before anybody hears of the faulty one.
            match fault {
                _ if len < 1 << 20 => {}
                FlipsBits | FlipsBitsLater | LiesAboutLength => assert_eq!(wrong, 1, "{fault:?} {counts:?}"),
                Endless => assert_eq!(over, 1, "{counts:?}"),
                SendsTooMuch => assert_eq!(wrong + over, 1, "{counts:?}"),
                ClaimsAll => assert!(lacking > 0, "{counts:?}"),
                StallsLater | Fault::StallsAtOnce => {}
            }
        }
    }
}

/// A measurement, not a promise: run it alone, with `--ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures, and wants a machine for itself"]
async fn what_one_faulty_source_of_four_costs() {
    use Fault::{ClaimsAll, FlipsBits, FlipsBitsLater, SendsTooMuch, StallsAtOnce, StallsLater};
    const LEN: usize = 32 << 20;
    const ROUNDS: usize = 3;
    let mut table = Vec::new();
    for fault in [FlipsBits, FlipsBitsLater, SendsTooMuch, StallsAtOnce, StallsLater, ClaimsAll] {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            without.push(fetch_from_four(LEN, None).await);
            with.push(fetch_from_four(LEN, Some(fault)).await);
        }
        let median = |mut times: Vec<Duration>| {
            times.sort();
            times[ROUNDS / 2].as_secs_f64()
        };
        let (with, without) = (median(with), median(without));
        table.push(format!("{fault:?}: {with:.2} s, four honest ones {without:.2} s, ratio {:.2}", with / without));
    }
    println!("32 MiB from four sources at 12 MB/s each, one of them faulty, median of {ROUNDS}:\n{}", table.join("\n"));
}

/// How long a blob takes from four sources, of which one may be faulty.
async fn fetch_from_four(len: usize, fault: Option<Fault>) -> Duration {
    const MEGABYTES: u64 = 12;
    let bytes = random_bytes(len);
    let faulty = match fault {
        Some(fault) => Some(Faulty::start(9, fault, &bytes).await),
        None => None,
    };
    let bootstrap = faulty.iter().map(|faulty| faulty.address.clone()).collect();
    let taker = Taker::new(Node::on(TCP).with_bootstrap(bootstrap), 1).await;
    let mut honest = Vec::new();
    for seed in 2..6 - u8::from(fault.is_some()) {
        honest.push(slow(TCP, MEGABYTES).knowing(&taker.node).start(seed).await);
    }
    let hash = put(&honest, &bytes);
    let from: Vec<NodeId> = faulty.iter().map(|faulty| faulty.id).chain(honest.iter().map(Started::id)).collect();
    for node in &from {
        until(async || taker.node.network.find_blob(*node, hash, false).await.is_ok()).await;
    }
    let began = std::time::Instant::now();
    taker.artifacts.ensure(vec![hash], &from).await.unwrap();
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_never_answers_is_given_up_and_others_are_found() {
    let bytes = random_bytes(100_000);
    let faulty = Faulty::start(9, Fault::StallsAtOnce, &bytes).await;
    let taker = Taker::new(Node::on(TCP).with_bootstrap(vec![faulty.address.clone()]), 1).await;
    let honest = [Node::on(TCP).knowing(&taker.node).start(2).await];
    let hash = put(&honest, &bytes);
    taker.linked.send_replace(vec![honest[0].id()]);
    until(async || taker.node.network.find_blob(faulty.id, hash, false).await.is_ok()).await;
    taker.artifacts.ensure(vec![hash], &[faulty.id]).await.unwrap();
    assert_eq!(taker.node.blobs.read(hash, u64::MAX).unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_source_dies_in_the_middle_the_fetch_goes_on_without_fetching_again() {
    let bytes = random_bytes(8 << 20);
    let taker = Taker::new(Node::on(TCP), 1).await;
    let sources = [2, 3].map(|seed| slow(TCP, 10).knowing(&taker.node).start(seed));
    let sources = futures::future::join_all(sources).await;
    let hash = put(&sources, &bytes);
    let first = &sources[0];
    let fetch = taker.takes(hash, &sources);
    let kill = async {
        until(async || taker.received() > 2 << 20).await;
        first.network.clone().shutdown().await;
    };
    tokio::join!(fetch, kill).0.unwrap();
    assert_eq!(taker.node.blobs.read(hash, u64::MAX).unwrap(), bytes);
    assert!(taker.received() as f64 <= bytes.len() as f64 * PROOFS + LOST_BYTES_MAX as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taker_that_dies_goes_on_from_what_is_on_its_disk() {
    let bytes = random_bytes(8 << 20);
    let data = scratch();
    let source = slow(TCP, 10).start(2).await;
    let hash = source.blobs.put(&bytes).unwrap();
    let (from, address) = (source.id(), source.bootstrap());
    let path = data.path().to_owned();
    let life = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let received = runtime.block_on(async {
            let node = Node::on(TCP).with_bootstrap(address).with_blobs_in(&path);
            let taker = Taker::new(node, 1).await;
            let artifacts = taker.artifacts.clone();
            tokio::spawn(async move { artifacts.ensure(vec![hash], &[from]).await });
            until(async || taker.received() > 3 << 20).await;
            let received = taker.received();
            std::mem::forget(taker);
            received
        });
        // Ends every task where it stands: the closest to a kill within one process.
        runtime.shutdown_background();
        received
    });
    let before = tokio::task::spawn_blocking(|| life.join().unwrap()).await.unwrap();
    let node = Node::on(TCP).knowing(&source).with_blobs_in(data.path());
    let taker = Taker::new(node, 1).await;
    let here = taker.node.blobs.arriving(hash, bytes.len() as u64).unwrap().here().count_ones(..) as u64 * GROUP_BYTES;
    assert!(here + LOST_BYTES_MAX >= before, "{before} bytes came and {here} are here");
    taker.artifacts.ensure(vec![hash], &[from]).await.unwrap();
    assert_eq!(taker.node.blobs.read(hash, u64::MAX).unwrap(), bytes);
    let missing = bytes.len() as u64 - here;
    assert!(taker.received() as f64 <= missing as f64 * PROOFS + 1e4, "{missing} were missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_helps_itself() {
    let bytes = random_bytes(6 << 20);
    let source = slow(TCP, 4).start(100).await;
    let hash = source.blobs.put(&bytes).unwrap();
    let mut takers = Vec::new();
    for seed in 1..=8 {
        takers.push(Taker::new(slow(TCP, 4).knowing(&source), seed).await);
    }
    let from = [source.id()];
    futures::future::join_all(takers.iter().map(|taker| taker.artifacts.ensure(vec![hash], &from)))
        .await
        .into_iter()
        .for_each(Result::unwrap);
    for taker in &takers {
        assert_eq!(taker.node.blobs.read(hash, u64::MAX).unwrap(), bytes);
    }
    let copies = source.network.counts().bytes_sent as f64 / bytes.len() as f64;
    assert!(copies <= 3.0, "the first node sent {copies} copies");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_is_not_fetched() {
    let taker = Taker::new(Node::on(TCP), 1).await;
    let hash = Hash::of(b"nobody has this");
    let nobody = [NodeId::from_bytes([7; 32])];
    let fetch = taker.artifacts.ensure(vec![hash], &nobody);
    let late = tokio::time::timeout(FETCH_DEADLINE * 2, fetch).await.unwrap();
    assert_eq!(late, Err(Unfetched::Nowhere { hash }));
}

// ---- helpers

/// A node that fetches.
struct Taker {
    node: Started,
    artifacts: Artifacts,
    linked: watch::Sender<Vec<NodeId>>,
}

impl Taker {
    async fn new(node: Node, seed: u8) -> Self {
        let node = node.start(seed).await;
        let linked = watch::Sender::new(Vec::new());
        let (artifacts, manager, _) = Artifacts::new(node.blobs.clone(), node.network.clone(), linked.subscribe());
        tokio::spawn(manager.run());
        Self { node, artifacts, linked }
    }

    async fn takes(&self, hash: Hash, from: &[Started]) -> Result<(), Unfetched> {
        let from: Vec<NodeId> = from.iter().map(Started::id).collect();
        tokio::time::timeout(DEADLINE, self.artifacts.ensure(vec![hash], &from)).await.expect("it ends in time")
    }

    fn received(&self) -> u64 {
        self.node.network.counts().bytes_received
    }
}

/// A node that sends so many megabytes a second, so that a fetch lasts long enough for something to happen.
fn slow(transport: &str, megabytes: u64) -> Node {
    let total = NonZeroU64::new(megabytes * 1_000_000);
    Node::on(transport).with_upload_rates(Rates { total, per_peer: None })
}

fn put(nodes: &[Started], bytes: &[u8]) -> Hash {
    nodes.iter().for_each(|node| _ = node.blobs.put(bytes).unwrap());
    Hash::of(bytes)
}

fn random_bytes(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(len as u64);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}
