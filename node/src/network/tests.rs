//! Stories of two or three networks on loopback, over real sockets.

pub(crate) mod faulty;

use std::time::{Duration, Instant};

use swarm_protocol::message::{FRAME_BYTES_MAX, NodeRecord};
use swarm_protocol::{JobSpec, StageSpec};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket};

use super::*;

/// Long enough for a machine that is busy building.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
pub(crate) const TCP: &str = "/ip4/127.0.0.1/tcp/0";
pub(crate) const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

#[tokio::test]
async fn two_nodes_link_and_talk_in_order_over_quic() {
    two_nodes_talk_over(QUIC).await;
}

#[tokio::test]
async fn two_nodes_link_and_talk_in_order_over_tcp() {
    two_nodes_talk_over(TCP).await;
}

async fn two_nodes_talk_over(transport: &str) {
    let mut anna = Node::on(transport).start(1).await;
    let mut bert = Node::on(transport).knowing(&anna).start(2).await;
    anna.links_to(&bert).await;
    bert.links_to(&anna).await;

    let messages: Vec<_> = (0..5_000).map(numbered).collect();
    for message in &messages {
        assert!(anna.network.send(bert.id(), message));
        assert!(bert.network.send(anna.id(), message));
    }
    assert_eq!(bert.hears(messages.len()).await, messages);
    assert_eq!(anna.hears(messages.len()).await, messages);
    assert!(anna.seen.iter().chain(&bert.seen).all(|event| !matches!(event, NetworkEvent::LinkDown(_))));
}

#[tokio::test]
async fn the_longest_message_arrives_and_a_longer_one_is_not_taken() {
    let mut anna = Node::on(TCP).start(1).await;
    let mut bert = Node::on(TCP).knowing(&anna).start(2).await;
    anna.links_to(&bert).await;
    let long = |ids: usize| Message::JobDigests(vec![(JobId::from_bytes([7; 32]), None); ids]);
    let fits = (1..).map(|step| long(step * 1000)).take_while(|it| codec::encode(it).len() <= FRAME_BYTES_MAX);
    let longest = fits.last().unwrap();
    assert!(anna.network.send(bert.id(), &longest));
    assert!(!anna.network.send(bert.id(), &long(FRAME_BYTES_MAX / 32)));
    assert_eq!(bert.hears(1).await, [longest]);
}

#[tokio::test]
async fn gossip_reaches_a_node_that_is_not_linked_to_its_author() {
    let mut hub = Node::on(QUIC).start(1).await;
    let mut anna = Node::on(QUIC).knowing(&hub).start(2).await;
    let mut bert = Node::on(QUIC).knowing(&hub).start(3).await;
    anna.links_to(&hub).await;
    bert.links_to(&hub).await;
    hub.links_to(&anna).await;
    hub.links_to(&bert).await;
    let deadline = Instant::now() + DEADLINE;
    for incarnation in 0.. {
        // A hint may be lost, the more so before the meshes have formed; so it is repeated, as heartbeats are.
        anna.network.gossip(&Gossip::Left { incarnation });
        let heard = bert.see_for(Duration::from_millis(300), |event| is_gossip_of(event, anna.id())).await;
        if heard {
            return;
        }
        assert!(Instant::now() < deadline, "no gossip came through");
    }
}

#[tokio::test]
async fn announcements_and_heartbeats_have_their_topics_and_the_author_is_named() {
    let mut anna = Node::on(TCP).start(1).await;
    let mut bert = Node::on(TCP).knowing(&anna).start(2).await;
    anna.links_to(&bert).await;
    bert.links_to(&anna).await;
    let gossips = [
        Gossip::Alive(record(anna.id()).into()),
        Gossip::Job { job: JobId::from_bytes([1; 32]), holder: anna.id() },
        Gossip::Suspect { node: bert.id(), incarnation: 3 },
    ];
    for gossip in gossips {
        let expected = NetworkEvent::Gossip { from: anna.id(), gossip: gossip.clone() };
        let deadline = Instant::now() + DEADLINE;
        while !bert.see_for(Duration::from_millis(300), |event| *event == expected).await {
            assert!(Instant::now() < deadline);
            anna.network.gossip(&gossip);
        }
    }
}

#[tokio::test]
async fn nodes_that_dial_each_other_at_once_have_one_link() {
    for round in 0..4 {
        let transport = if round % 2 == 0 { TCP } else { QUIC };
        let mut anna = Node::on(transport).start(1).await;
        let mut bert = Node::on(transport).start(2).await;
        anna.network.dial(bert.id(), bert.addresses.clone());
        bert.network.dial(anna.id(), anna.addresses.clone());
        anna.links_to(&bert).await;
        bert.links_to(&anna).await;
        // Whatever became of the second connection has happened before these arrive.
        for number in 0..20 {
            assert!(anna.network.send(bert.id(), &numbered(number)));
            assert_eq!(bert.hears(1).await, [numbered(number)]);
            bert.network.send(anna.id(), &numbered(number));
            assert_eq!(anna.hears(1).await, [numbered(number)]);
        }
        for (node, other) in [(&anna, &bert), (&bert, &anna)] {
            let of_link = |event: &&NetworkEvent| matches!(event, NetworkEvent::LinkUp(_) | NetworkEvent::LinkDown(_));
            let seen: Vec<_> = node.seen.iter().filter(of_link).collect();
            assert_eq!(seen, [&NetworkEvent::LinkUp(other.id())]);
        }
    }
}

#[tokio::test]
async fn a_dozen_nodes_that_all_dial_each_other_have_one_link_each() {
    let mut nodes = Vec::new();
    for seed in 1..=12 {
        nodes.push(Node { listen: vec![TCP.into(), QUIC.into()], ..Node::on(TCP) }.start(seed).await);
    }
    let known: Vec<_> = nodes.iter().map(|node| (node.id(), node.addresses.clone())).collect();
    for node in &nodes {
        known.iter().for_each(|(other, addresses)| node.network.dial(*other, addresses.clone()));
    }
    for node in &mut nodes {
        let linked = |node: &Started| node.seen.iter().filter(|it| matches!(it, NetworkEvent::LinkUp(_))).count();
        while linked(node) < known.len() - 1 {
            node.sees(|event| matches!(event, NetworkEvent::LinkUp(_))).await;
        }
    }
    for (from, to) in known.iter().flat_map(|from| known.iter().map(move |to| (from.0, to.0))) {
        let sender = nodes.iter().find(|node| node.id() == from).unwrap();
        assert_eq!(sender.network.send(to, &numbered(0)), from != to);
    }
    for node in &mut nodes {
        node.hears(known.len() - 1).await;
        let events = node.seen.iter().filter(|event| !matches!(event, NetworkEvent::Addresses(_)));
        assert_eq!(events.count(), known.len() - 1, "{:?}", node.seen);
    }
}

#[tokio::test]
async fn a_node_that_leaves_is_noticed_and_its_last_words_arrive() {
    for transport in [TCP, QUIC] {
        let mut anna = Node::on(transport).start(1).await;
        let mut bert = Node::on(transport).knowing(&anna).start(2).await;
        anna.links_to(&bert).await;
        bert.links_to(&anna).await;
        let last_words: Vec<_> = (0..1000).map(numbered).collect();
        last_words.iter().for_each(|message| assert!(bert.network.send(anna.id(), message)));
        bert.network.shutdown().await;
        assert_eq!(anna.hears(1000).await, last_words);
        let gone = bert.identity.node();
        anna.sees(|event| *event == NetworkEvent::LinkDown(gone)).await;
        assert!(!anna.network.send(gone, &numbered(0)));
    }
}

#[tokio::test]
async fn a_node_that_comes_back_is_linked_again() {
    for transport in [TCP, QUIC] {
        let mut anna = Node::on(transport).start(1).await;
        let mut bert = Node::on(transport).knowing(&anna).start(2).await;
        anna.links_to(&bert).await;
        bert.links_to(&anna).await;
        let listen = anna.listens_on();
        anna.network.shutdown().await;
        bert.sees(|event| matches!(event, NetworkEvent::LinkDown(_))).await;
        let mut anna = Node::on(&listen).start_when_free(1).await;
        bert.links_to(&anna).await;
        anna.links_to(&bert).await;
        assert!(bert.network.send(anna.id(), &numbered(1)));
        assert_eq!(anna.hears(1).await, [numbered(1)]);
    }
}

/// Its old connection is still taken for good by the other side: nobody said goodbye.
#[tokio::test]
async fn a_node_that_died_without_a_word_and_comes_back_is_linked_again() {
    for (transport, silent, other) in [(QUIC, 1, 2), (QUIC, 2, 1), (TCP, 1, 2), (TCP, 2, 1)] {
        let mut bert = Node::on(transport).start(other).await;
        let (die, dying) = oneshot::channel();
        let bootstrap = bert.addresses.clone();
        let life = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let node = runtime.block_on(async {
                let node = Node::on(transport).with_bootstrap(bootstrap).start(silent).await;
                dying.await.unwrap();
                node
            });
            // Ends every task where it stands: the closest to a kill within one process.
            runtime.shutdown_background();
            drop(node);
        });
        let id = Identity::from_secret([silent; 32]).node();
        bert.sees(|event| *event == NetworkEvent::LinkUp(id)).await;
        die.send(()).unwrap();
        tokio::task::spawn_blocking(|| life.join().unwrap()).await.unwrap();
        let mut again = Node::on(transport).knowing(&bert).start(silent).await;
        again.links_to(&bert).await;
        bert.sees(|event| *event == NetworkEvent::LinkUp(id)).await;
        assert!(bert.network.send(id, &numbered(1)));
        assert_eq!(again.hears(1).await, [numbered(1)]);
    }
}

#[tokio::test]
async fn a_node_started_before_its_bootstrap_joins_by_itself() {
    let later = Node::on(QUIC).start(1).await;
    let (address, listen) = (later.addresses[0].clone(), later.listens_on());
    later.network.shutdown().await;

    let mut early = Node::on(QUIC).with_bootstrap(vec![address]).start(2).await;
    let mut nameless = Node::on(QUIC).with_bootstrap(vec![listen.clone()]).start(3).await;
    let later = Node::on(&listen).start_when_free(1).await;
    early.links_to(&later).await;
    nameless.links_to(&later).await;
}

#[tokio::test]
async fn a_bootstrap_address_that_is_the_own_one_does_no_harm() {
    let first = Node::on(TCP).start(1).await;
    let (address, listen) = (first.addresses[0].clone(), first.listens_on());
    first.network.shutdown().await;
    let mut first = Node::on(&listen).with_bootstrap(vec![address, listen.clone()]).start_when_free(1).await;
    let second = Node::on(TCP).knowing(&first).start(2).await;
    first.links_to(&second).await;
}

#[tokio::test]
async fn a_bootstrap_address_may_have_a_name() {
    let mut anna = Node::on(TCP).start(1).await;
    let named = anna.addresses[0].replace("/ip4/127.0.0.1/", "/dns4/localhost/");
    let unknown = "/dns4/no-such-host.invalid/tcp/1".to_owned();
    let bert = Node::on(TCP).with_bootstrap(vec![unknown, named]).start(2).await;
    anna.links_to(&bert).await;
}

#[tokio::test]
async fn peers_known_from_an_earlier_run_are_dialled() {
    let mut anna = Node::on(QUIC).start(1).await;
    let known_peers = vec![(anna.id(), anna.addresses.clone())];
    let bert = Node { known_peers, ..Node::on(QUIC) }.start(2).await;
    anna.links_to(&bert).await;
}

#[tokio::test]
async fn nodes_of_differently_named_swarms_do_not_link() {
    let mut anna = Node::on(TCP).start(1).await;
    let mut stranger = Node::on(TCP).of_swarm("another").knowing(&anna).start(2).await;
    let mut bert = Node::on(TCP).knowing(&anna).start(3).await;
    anna.links_to(&bert).await;
    bert.links_to(&anna).await;
    let linked = |event: &NetworkEvent| matches!(event, NetworkEvent::LinkUp(_));
    assert!(!stranger.see_for(Duration::from_secs(1), linked).await);
    assert!(!anna.network.send(stranger.id(), &numbered(1)));
    assert_eq!(anna.seen.iter().filter(|event| linked(event)).count(), 1);
}

#[tokio::test]
async fn a_blob_is_taken_from_a_peer_group_by_group() {
    for transport in [TCP, QUIC] {
        let mut anna = Node::on(transport).start(1).await;
        let bert = Node::on(transport).knowing(&anna).start(2).await;
        anna.links_to(&bert).await;
        for len in [0, 1, 255 * 1024, 5_000_000] {
            let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let hash = anna.blobs.put(&bytes).unwrap();
            take(&bert, anna.id(), hash).await.unwrap();
            assert_eq!(bert.blobs.read(hash, len as u64).unwrap(), bytes);
        }
        let nobody_has = Hash::of(b"nobody has this");
        let missing = bert.network.find_blob(anna.id(), nobody_has, true).await;
        assert!(matches!(missing, Err(FetchError::NotFound)));
        let unreachable = bert.network.find_blob(NodeId::from_bytes([9; 32]), nobody_has, true).await;
        assert!(matches!(unreachable, Err(FetchError::NotConnected)));
        let from_itself = bert.network.find_blob(bert.id(), nobody_has, true).await;
        assert!(matches!(from_itself, Err(FetchError::NotConnected)));
    }
}

#[tokio::test]
async fn a_blob_that_is_damaged_at_its_source_is_not_given() {
    let mut anna = Node::on(QUIC).start(1).await;
    let bert = Node::on(QUIC).knowing(&anna).start(2).await;
    anna.links_to(&bert).await;
    let mut bytes = vec![5; 1_000_000];
    let hash = anna.blobs.put(&bytes).unwrap();
    bytes[700_000] ^= 1;
    overwrite(&anna.blobs.path(hash), &bytes);
    assert!(matches!(take(&bert, anna.id(), hash).await, Err(FetchError::Lacking)));
    assert!(!bert.blobs.contains(hash));
    // Its holder has noticed, too.
    assert!(matches!(take(&bert, anna.id(), hash).await, Err(FetchError::NotFound)));
}

#[tokio::test]
async fn what_makes_no_sense_ends_the_conversation() {
    let mut anna = Node::on(TCP).start(1).await;
    let bert = Node::on(TCP).knowing(&anna).start(2).await;
    anna.links_to(&bert).await;
    let hash = anna.blobs.put(&vec![1; 3_000_000]).unwrap();
    for groups in [0..RUN_GROUPS_MAX + 1, 11..13, u32::MAX - 1..u32::MAX] {
        let mut holder = bert.network.find_blob(anna.id(), hash, false).await.unwrap();
        holder.ask(groups).await.unwrap();
        assert!(matches!(holder.receive(Vec::new()).await, Err(FetchError::Stream(_))));
    }
    take(&bert, anna.id(), hash).await.unwrap();
}

#[tokio::test]
async fn many_fetches_at_once_all_end_well_when_the_busy_are_asked_again() {
    let mut anna = Node::on(TCP).start(1).await;
    let bert = Node::on(TCP).knowing(&anna).start(2).await;
    anna.links_to(&bert).await;
    let hashes = (0..40_u8).map(|byte| anna.blobs.put(&vec![byte; 300_000]).unwrap());
    let from = anna.id();
    let takes = hashes.map(|hash| {
        let bert = &bert;
        async move {
            loop {
                match take(bert, from, hash).await {
                    Err(FetchError::Busy { .. }) => tokio::task::yield_now().await,
                    other => return other.unwrap(),
                }
            }
        }
    });
    futures::future::join_all(takes).await;
}

#[tokio::test]
async fn garbage_on_the_listening_ports_harms_nobody() {
    let mut anna = Node { listen: vec![TCP.into(), QUIC.into()], ..Node::on(TCP) }.start(1).await;
    for address in anna.addresses.clone() {
        let parts: Vec<_> = address.split('/').collect();
        let socket = format!("{}:{}", parts[2], parts[4]);
        for round in 0..20_u8 {
            let garbage: Vec<u8> =
                (0..1200_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 ^ round).collect();
            if parts[3] == "tcp" {
                let mut stream = TcpStream::connect(&socket).await.unwrap();
                // The node may hang up in the middle.
                let _ = stream.write_all(&garbage).await;
            } else {
                let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                udp.send_to(&garbage, &socket).await.unwrap();
            }
        }
    }
    for (seed, listen) in [(2, TCP), (3, QUIC)] {
        let bert = Node::on(listen).knowing(&anna).start(seed).await;
        anna.links_to(&bert).await;
    }
}

#[tokio::test]
async fn a_frame_that_cannot_be_read_closes_the_link_and_nothing_else() {
    let another_version = [vec![99], codec::encode(&numbered(1))[1..].to_vec()].concat();
    for frame in [vec![0xff; 100], another_version, vec![1; FRAME_BYTES_MAX + 1]] {
        let mut anna = Node::on(TCP).start(1).await;
        let mut bert = Node::on(TCP).knowing(&anna).start(2).await;
        anna.links_to(&bert).await;
        bert.links_to(&anna).await;
        assert!(bert.network.outboxes.push(anna.id(), || Some(frame)));
        anna.sees(|event| matches!(event, NetworkEvent::LinkDown(_))).await;
        assert_eq!(anna.network.counts().frames_refused, 1);
        anna.links_to(&bert).await;
        bert.links_to(&anna).await;
        assert!(bert.network.send(anna.id(), &numbered(1)));
        assert_eq!(anna.hears(1).await, [numbered(1)]);
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_loses_its_link_and_costs_bounded_memory() {
    let mut anna = Node::on(TCP).start(1).await;
    let mut bert = Node::on(TCP).knowing(&anna).start(2).await;
    anna.links_to(&bert).await;
    bert.links_to(&anna).await;
    // Bert's events are not read from here on.
    let message = Message::JobDigests(vec![(JobId::from_bytes([7; 32]), None); 20_000]);
    let mut taken = 0;
    while anna.network.send(bert.id(), &message) {
        taken += 1;
        assert!(taken < 10_000, "the queue has no bound");
        tokio::task::yield_now().await;
    }
    anna.sees(|event| matches!(event, NetworkEvent::LinkDown(_))).await;
    assert_eq!(anna.network.counts().links_slow, 1);
}

#[tokio::test]
async fn a_job_is_found_in_the_map_by_a_node_that_never_saw_it() {
    let (writes, mut written) = mpsc::channel(16);
    let mut hub = Node { kad_writes: Some(writes), ..Node::on(QUIC) }.start(1).await;
    let anna = Node::on(QUIC).knowing(&hub).start(2).await;
    hub.links_to(&anna).await;
    let (id, signed) = job(7);
    let deadline = Instant::now() + DEADLINE;
    // A record reaches those whom the map knows by then; so it is put again until one has it.
    let write = loop {
        anna.network.publish_job(id, &signed);
        if let Ok(write) = timeout(Duration::from_millis(300), written.recv()).await {
            break write.unwrap();
        }
        assert!(Instant::now() < deadline, "the record never came to the other node");
    };
    assert_eq!(write.key, id.as_bytes());
    anna.network.shutdown().await;
    let bert = Node::on(QUIC).knowing(&hub).start(3).await;
    until(async || bert.network.find_job(id).await.as_ref() == Some(&signed)).await;
    assert_eq!(bert.network.find_job(job(8).0).await, None);

    let kept = vec![(write.key, write.value.unwrap())];
    let restarted = Node { kad_records: kept, ..Node::on(QUIC) }.start(4).await;
    assert_eq!(restarted.network.find_job(id).await, Some(signed));
}

#[tokio::test]
async fn a_record_under_a_key_that_is_not_its_own_is_refused() {
    let (writes, mut written) = mpsc::channel(16);
    let mut hub = Node { kad_writes: Some(writes), ..Node::on(TCP) }.start(1).await;
    let liar = Node::on(TCP).knowing(&hub).start(2).await;
    hub.links_to(&liar).await;
    until(async || {
        liar.network.publish_job(job(8).0, &job(7).1);
        hub.network.counts().records_refused > 0
    })
    .await;
    assert_eq!(hub.network.find_job(job(8).0).await, None);
    assert!(written.try_recv().is_err());
}

#[tokio::test]
async fn providers_of_a_blob_are_found() {
    let mut hub = Node::on(TCP).start(1).await;
    let anna = Node::on(TCP).knowing(&hub).start(2).await;
    let bert = Node::on(TCP).knowing(&hub).start(3).await;
    hub.links_to(&anna).await;
    hub.links_to(&bert).await;
    let hash = anna.blobs.put(b"something").unwrap();
    until(async || {
        anna.network.provide(hash).await;
        bert.network.providers(hash).await == [anna.id()]
    })
    .await;
    assert!(bert.network.providers(Hash::of(b"nobody has this")).await.is_empty());
    // Bert never linked to Anna: her address comes out of the map.
    take(&bert, anna.id(), hash).await.unwrap();
}

#[tokio::test]
async fn what_a_user_mistyped_is_named_in_one_sentence() {
    let start = async |node: Node| node.try_start(1).await.map(|_| ()).unwrap_err().to_string();
    assert!(start(Node::on("127.0.0.1:4001")).await.starts_with("`127.0.0.1:4001` is not an address like"));
    assert!(start(Node::on(TCP).with_bootstrap(vec!["nonsense".into()])).await.contains("`nonsense`"));
    assert!(start(Node::on(TCP).of_swarm("a/b")).await.contains("the swarm name `a/b`"));
    for transport in [TCP, QUIC] {
        let taken = Node::on(transport).start(2).await;
        let error = Node::on(&taken.listens_on()).try_start(1).await.map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot listen on `{}`", taken.listens_on()));
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, "Address already in use (os error 98)");
    }
}

#[test]
fn an_identity_is_made_once_and_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let data = tempfile::tempdir().unwrap();
    let first = Identity::load_or_create(data.path()).unwrap();
    let second = Identity::load_or_create(data.path()).unwrap();
    assert_eq!(first.node(), second.node());
    assert_eq!(first.signing_key().to_bytes(), second.signing_key().to_bytes());
    let file = data.path().join("identity.key");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 1);
    assert!(!format!("{first:?}").contains(&hex::encode(first.signing_key().to_bytes())));

    let whole = std::fs::read(&file).unwrap();
    let flipped: Vec<u8> = whole.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 40)).collect();
    for damaged in [&b"too short"[..], &whole[..40], &flipped] {
        std::fs::write(&file, damaged).unwrap();
        assert!(matches!(Identity::load_or_create(data.path()), Err(IdentityError::Damaged { .. })));
        assert_eq!(std::fs::read(&file).unwrap(), damaged);
    }
    // As the first version stored it.
    std::fs::write(&file, &whole[..32]).unwrap();
    assert_eq!(Identity::load_or_create(data.path()).unwrap().node(), first.node());
}

// ---- helpers

/// A node to be: its settings, each with a useful default.
#[derive(Clone)]
pub(crate) struct Node {
    listen: Vec<String>,
    bootstrap: Vec<String>,
    known_peers: Vec<(NodeId, Vec<String>)>,
    swarm_name: String,
    kad_records: Vec<(Vec<u8>, Vec<u8>)>,
    kad_writes: Option<mpsc::Sender<Write>>,
    upload_rates: Rates,
    /// Where it has its blobs; a place of its own when `None`.
    data: Option<std::path::PathBuf>,
}

/// A node at work.
pub(crate) struct Started {
    pub(crate) network: Network,
    events: mpsc::Receiver<NetworkEvent>,
    /// Every event so far, but messages.
    seen: Vec<NetworkEvent>,
    messages: Vec<Message>,
    addresses: Vec<String>,
    identity: Identity,
    pub(crate) blobs: Blobs,
    _data: tempfile::TempDir,
}

impl Node {
    pub(crate) fn on(listen: &str) -> Self {
        let swarm_name = "test".to_owned();
        Self {
            listen: vec![listen.to_owned()],
            bootstrap: Vec::new(),
            known_peers: Vec::new(),
            swarm_name,
            kad_records: Vec::new(),
            kad_writes: None,
            upload_rates: Rates::default(),
            data: None,
        }
    }

    pub(crate) fn knowing(self, other: &Started) -> Self {
        self.with_bootstrap(other.addresses.clone())
    }

    pub(crate) fn with_bootstrap(self, bootstrap: Vec<String>) -> Self {
        Self { bootstrap, ..self }
    }

    pub(crate) fn with_upload_rates(self, upload_rates: Rates) -> Self {
        Self { upload_rates, ..self }
    }

    pub(crate) fn with_blobs_in(self, data: &std::path::Path) -> Self {
        Self { data: Some(data.to_owned()), ..self }
    }

    fn of_swarm(self, name: &str) -> Self {
        Self { swarm_name: name.to_owned(), ..self }
    }

    pub(crate) async fn start(self, seed: u8) -> Started {
        self.try_start(seed).await.unwrap()
    }

    /// Listens on an address that another node has just left: the system may take a moment to free it.
    async fn start_when_free(self, seed: u8) -> Started {
        let start = async {
            loop {
                match self.clone().try_start(seed).await {
                    Err(NetworkError::Listen { .. }) => tokio::task::yield_now().await,
                    other => return other.unwrap(),
                }
            }
        };
        timeout(DEADLINE, start).await.expect("the address becomes free in time")
    }

    async fn try_start(self, seed: u8) -> Result<Started, NetworkError> {
        let data = scratch();
        let blobs = Blobs::open(self.data.as_deref().unwrap_or(data.path())).unwrap();
        let identity = Identity::from_secret([seed; 32]);
        let config = NetworkConfig {
            identity: identity.clone(),
            swarm_name: self.swarm_name,
            listen: self.listen,
            bootstrap: self.bootstrap,
            lan: false,
            known_peers: self.known_peers,
            blobs: blobs.clone(),
            board: crate::board::Board::new(0),
            upload_rates: self.upload_rates,
            download_rates: Rates::default(),
            kad_records: self.kad_records,
            kad_writes: self.kad_writes,
        };
        let (network, events) = Network::start(config).await?;
        let (seen, messages, addresses) = (Vec::new(), Vec::new(), Vec::new());
        let mut started = Started { network, events, seen, messages, addresses, identity, blobs, _data: data };
        started.sees(|event| matches!(event, NetworkEvent::Addresses(_))).await;
        if let Some(NetworkEvent::Addresses(addresses)) = started.seen.last() {
            started.addresses = addresses.clone();
        }
        Ok(started)
    }
}

impl Started {
    pub(crate) fn id(&self) -> NodeId {
        self.network.node()
    }

    /// Where others can reach it.
    pub(crate) fn bootstrap(&self) -> Vec<String> {
        self.addresses.clone()
    }

    /// Its first address, without its id.
    fn listens_on(&self) -> String {
        self.addresses[0].split("/p2p/").next().unwrap().to_owned()
    }

    pub(crate) async fn links_to(&mut self, other: &Started) {
        let up = NetworkEvent::LinkUp(other.id());
        self.sees(|event| *event == up).await;
    }

    /// Waits for an event that did not come before.
    async fn sees(&mut self, wanted: impl Fn(&NetworkEvent) -> bool) {
        assert!(self.see_for(DEADLINE, wanted).await, "never came; what came: {:?}", self.seen);
    }

    async fn see_for(&mut self, how_long: Duration, wanted: impl Fn(&NetworkEvent) -> bool) -> bool {
        timeout(how_long, async { while !self.next_event().await.is_some_and(|event| wanted(&event)) {} }).await.is_ok()
    }

    /// The next `count` messages.
    async fn hears(&mut self, count: usize) -> Vec<Message> {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while self.messages.len() < count {
            tokio::time::timeout_at(deadline, self.next_event()).await.expect("all messages come in time");
        }
        self.messages.drain(..count).collect()
    }

    async fn next_event(&mut self) -> Option<NetworkEvent> {
        let event = self.events.recv().await.expect("the network lives");
        match event {
            NetworkEvent::Received { message, .. } => {
                self.messages.push(message);
                None
            }
            other => {
                self.seen.push(other.clone());
                Some(other)
            }
        }
    }
}

/// A small job of its own for each number.
pub(super) fn job(nonce: u64) -> (JobId, SignedJob) {
    use swarm_protocol::{Elements, JOB_SPEC_VERSION, JobOptions, Limits, Retry, StageOptions, Stdin};
    let identity = Identity::from_secret([42; 32]);
    let stage = StageSpec {
        name: "only".into(),
        wasm: Hash::of(b"module"),
        entry: "_start".into(),
        args: Vec::new(),
        env: Vec::new(),
        stdin: Stdin::Empty,
        count: 1,
        shard_tasks: 64,
        elements: Elements::One,
        inputs: Vec::new(),
        outputs: Vec::new(),
        needs: Vec::new(),
        retry: Retry { max: 0, lost_max: 1, backoff_ms: 1, backoff_ms_max: 1, on: Vec::new() },
        run_ms_max: 1000,
        queue_ms_max: None,
        limits: Limits { memory_bytes_max: 1, fuel_max: 1, stdout_bytes_max: 1, outputs_bytes_max: 1 },
        options: StageOptions::default(),
    };
    let spec = JobSpec {
        version: JOB_SPEC_VERSION,
        name: "job".into(),
        description: String::new(),
        submitter: identity.node(),
        submitted_unix_ms: 0,
        nonce,
        source: None,
        blobs: Hash::of(b"list"),
        failures_max: 0,
        stages: vec![stage],
        options: JobOptions::default(),
    };
    let signed = SignedJob::sign(&spec, identity.signing_key()).unwrap();
    (signed.id(), signed)
}

fn record(node: NodeId) -> NodeRecord {
    NodeRecord {
        node,
        incarnation: 1,
        sequence: 1,
        name: "anna".into(),
        addresses: vec!["/ip4/127.0.0.1/tcp/1".into()],
        slots: 2,
        slots_free: 1,
        memory_bytes: 1 << 30,
        labels: std::iter::once(("gpu".to_owned(), "no".to_owned())).collect(),
        arch: "x86_64".into(),
        version: "0.1.0".into(),
        draining: false,
    }
}

fn numbered(number: u32) -> Message {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    Message::Published(JobId::from_bytes(bytes))
}

fn is_gossip_of(event: &NetworkEvent, author: NodeId) -> bool {
    matches!(event, NetworkEvent::Gossip { from, .. } if *from == author)
}

/// Takes a whole blob from one peer.
async fn take(to: &Started, from: NodeId, hash: Hash) -> Result<(), FetchError> {
    let mut holder = to.network.find_blob(from, hash, false).await?;
    let arriving = to.blobs.arriving(hash, holder.len()).unwrap();
    for group in 0..swarm_store::groups_in(holder.len()) {
        holder.ask(group..group + 1).await?;
        let (groups, encoded) = holder.receive(Vec::new()).await?;
        arriving.add(&groups, &encoded).unwrap();
    }
    arriving.finish().unwrap();
    holder.close().await
}

/// In memory where there is such a place: a store of blobs is hundreds of folders, which disks make and remove slowly.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn overwrite(path: &std::path::Path, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Asks again and again, with a pause between so that the asking is not all that happens.
pub(crate) async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let all = async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        while !holds().await {
            pause.tick().await;
        }
    };
    timeout(DEADLINE, all).await.expect("it becomes true in time");
}
