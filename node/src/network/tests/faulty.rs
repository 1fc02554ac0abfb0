//! Peers that speak our protocols and misbehave when they are asked for blobs. They have the blob.

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::Stream;
use libp2p::swarm::SwarmEvent;
use swarm_protocol::{Hash, NodeId};
use swarm_store::{Blobs, Groups, Source};

use super::scratch;
use crate::network::behaviour::{self, BehaviourEvent, Names};
use crate::network::records::Records;
use crate::network::streams::{Incoming, Purpose};
use crate::network::{Identity, RUN_GROUPS_MAX};

/// What it does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// One bit of each answer is flipped.
    FlipsBits,
    /// The same, but for the first answer, which proves the length.
    FlipsBitsLater,
    /// Says that the blob is longer than it is.
    LiesAboutLength,
    /// Says that the blob is longer than any.
    Endless,
    /// Sends something after each answer.
    SendsTooMuch,
    /// Says that it has the blob, and nothing more.
    StallsAtOnce,
    /// Gives the first answer and then stands still.
    StallsLater,
    /// Says that it has all, and gives the last group only.
    ClaimsAll,
}

/// A peer that does this wrong. It lives as long as the runtime.
pub(crate) struct Faulty {
    pub(crate) id: NodeId,
    pub(crate) address: String,
}

impl Faulty {
    /// Starts it; it has this blob.
    pub(crate) async fn start(seed: u8, fault: Fault, bytes: &[u8]) -> Self {
        let data = scratch();
        let blobs = Blobs::open(data.path()).unwrap();
        blobs.put(bytes).unwrap();
        let identity = Identity::from_secret([seed; 32]);
        let (keypair, names) = (identity.keypair(), Names::new("test").unwrap());
        let me = keypair.public().to_peer_id();
        let records = Records::new(me, Vec::new(), None);
        let mut swarm = behaviour::swarm(keypair, &names, false, records).unwrap();
        swarm.listen_on(super::TCP.parse().unwrap()).unwrap();
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break format!("{address}/p2p/{me}");
            }
        };
        tokio::spawn(async move {
            let (_data, mut links) = (data, Vec::new());
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::Behaviour(BehaviourEvent::Streams(Incoming {
                        purpose: Purpose::Blob, stream, ..
                    })) => {
                        tokio::spawn(misbehave(fault, stream, blobs.clone()));
                    }
                    SwarmEvent::Behaviour(BehaviourEvent::Streams(link)) => links.push(link),
                    _ => {}
                }
            }
        });
        Self { id: identity.node(), address }
    }
}

/// One conversation. Ends as soon as the other side does.
async fn misbehave(fault: Fault, mut stream: Stream, blobs: Blobs) -> Option<()> {
    let mut hash = [0; 32];
    stream.read_exact(&mut hash).await.ok()?;
    let mut source = blobs.source(Hash::from_bytes(hash)).ok()?;
    let len = match fault {
        Fault::Endless => u64::MAX,
        Fault::LiesAboutLength => source.len() + 1,
        _ => source.len(),
    };
    let header = [&[0, 0][..], &len.to_be_bytes(), &[0]].concat();
    stream.write_all(&header).await.ok()?;
    stream.flush().await.ok()?;
    let mut answers = 0;
    loop {
        let mut request = [0; 8];
        stream.read_exact(&mut request).await.ok()?;
        if fault == Fault::StallsAtOnce || (fault == Fault::StallsLater && answers > 0) {
            std::future::pending::<()>().await;
        }
        let answer = answer(fault, &mut source, request, answers);
        stream.write_all(&answer).await.ok()?;
        stream.flush().await.ok()?;
        answers += 1;
    }
}

fn answer(fault: Fault, source: &mut Source, request: [u8; 8], answers: u32) -> Vec<u8> {
    let groups = groups(source, request);
    if fault == Fault::ClaimsAll && groups.end < source.groups() {
        return vec![1, 0];
    }
    let mut answer = vec![0, 0];
    source.encode(&groups, &mut answer).unwrap();
    let flips = fault == Fault::FlipsBits || (fault == Fault::FlipsBitsLater && answers > 0);
    if flips {
        *answer.last_mut().unwrap() ^= 1;
    }
    if fault == Fault::SendsTooMuch {
        answer.extend([0; 100_000]);
    }
    answer
}

fn groups(source: &Source, request: [u8; 8]) -> Groups {
    let [first, count] = [0, 4].map(|at| u32::from_be_bytes(request[at..at + 4].try_into().unwrap()));
    let first = if first == u32::MAX { source.groups() - 1 } else { first };
    assert!(count <= RUN_GROUPS_MAX);
    first..first + count
}
