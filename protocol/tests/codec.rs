//! Bytes from anybody: read or refused, never a panic.

use proptest::prelude::*;
use swarm_protocol::message::{FRAME_BYTES_MAX, StageRate};
use swarm_protocol::{Hash, Message, NodeId, SignedJob, codec};

fn sample() -> Vec<Message> {
    let shard = swarm_protocol::ShardId { job: swarm_protocol::JobId::from_bytes([1; 32]), stage: 0, number: 3 };
    let epoch = swarm_protocol::Epoch::NONE.next(NodeId::from_bytes([2; 32]));
    vec![
        Message::Prepare(vec![(shard, epoch)]),
        Message::Want { slots: 2, rates: vec![StageRate { job: shard.job, stage: 1, rate: 9 }] },
        Message::Heartbeat {
            claimable: 1,
            leases: vec![swarm_protocol::LeaseId { shard, epoch, number: 1 }],
            every_ms: 250,
            wanted: true,
            first: None,
        },
    ]
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = codec::decode::<Message>(&bytes, FRAME_BYTES_MAX);
        let mut versioned = vec![codec::ENCODING_VERSION];
        versioned.extend(&bytes);
        let _ = codec::decode::<Message>(&versioned, FRAME_BYTES_MAX);
        let _ = codec::decode::<SignedJob>(&versioned, FRAME_BYTES_MAX).map(|job| job.verify());
    }

    #[test]
    fn a_damaged_message_is_read_or_refused(which in 0usize..3, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = codec::encode(&sample()[which]);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = codec::decode::<Message>(&bytes, FRAME_BYTES_MAX);
    }
}

#[test]
fn what_was_written_is_read() {
    for message in sample() {
        let bytes = codec::encode(&message);
        assert_eq!(codec::decode::<Message>(&bytes, FRAME_BYTES_MAX).unwrap(), message);
    }
}

#[test]
fn too_long_too_new_and_too_much_are_refused() {
    let bytes = codec::encode(&Hash::of(b"x"));
    assert!(codec::decode::<Hash>(&bytes, bytes.len() - 1).unwrap_err().to_string().contains("more than"));
    let mut newer = bytes.clone();
    newer[0] = 2;
    assert!(codec::decode::<Hash>(&newer, 1024).unwrap_err().to_string().contains("version"));
    let longer = [&bytes[..], &[0]].concat();
    assert!(codec::decode::<Hash>(&longer, 1024).unwrap_err().to_string().contains("follow"));
}

#[test]
fn deep_nesting_is_refused() {
    // 100,000 nested arrays.
    let mut bytes = vec![codec::ENCODING_VERSION];
    bytes.extend(std::iter::repeat_n(0x81, 100_000));
    assert!(codec::decode::<Message>(&bytes, FRAME_BYTES_MAX).is_err());
}

#[test]
fn results_without_an_outcome_are_refused() {
    let empty = std::collections::BTreeMap::<u8, u8>::new();
    let bytes = codec::encode(&empty);
    assert!(codec::decode::<swarm_protocol::lattice::Results>(&bytes, 1024).is_err());
}
