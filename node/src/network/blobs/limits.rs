//! Limits: how many bytes of blobs a second this node sends and takes, in all and per peer.
//!
//! Always true: without a rate nothing waits. Who waits is served in its order.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use leaky_bucket::RateLimiter;
use swarm_protocol::NodeId;

/// How often a bucket is filled: often enough that bytes flow evenly.
const REFILL_EVERY: Duration = Duration::from_millis(10);
/// Bytes that may go at once after a pause, at least.
const BURST_BYTES_MIN: usize = 256 << 10;
/// Bytes that are waited for at once.
pub(super) const PIECE_BYTES: usize = 64 << 10;

/// Bytes a second; no limit when `None`.
pub type Rate = Option<NonZeroU64>;

/// The limits of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// To or from all peers together.
    pub total: Rate,
    /// To or from each of them.
    pub per_peer: Rate,
}

/// The limits of one direction at work.
#[derive(Debug, Default)]
pub(in crate::network) struct Limits {
    total: Option<Arc<RateLimiter>>,
    per_peer: Rate,
    /// Of peers with a conversation.
    peers: Mutex<HashMap<NodeId, Weak<RateLimiter>>>,
}

/// What one conversation has to wait for.
#[derive(Debug)]
pub(in crate::network) struct Limit([Option<Arc<RateLimiter>>; 2]);

impl Limits {
    pub(in crate::network) fn new(rates: Rates) -> Self {
        Self { total: rates.total.map(bucket), per_peer: rates.per_peer, peers: Mutex::default() }
    }

    pub(in crate::network) fn of(&self, peer: NodeId) -> Limit {
        Limit([self.total.clone(), self.per_peer.map(|rate| self.bucket_of(peer, rate))])
    }

    fn bucket_of(&self, peer: NodeId, rate: NonZeroU64) -> Arc<RateLimiter> {
        // Every step on it leaves it whole.
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = peers.get(&peer).and_then(Weak::upgrade) {
            return known;
        }
        peers.retain(|_, bucket| bucket.strong_count() > 0);
        let fresh = bucket(rate);
        peers.insert(peer, Arc::downgrade(&fresh));
        fresh
    }
}

impl Limit {
    /// Whether anything ever waits.
    pub(super) fn is_none(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Waits until so many bytes may go.
    pub(super) async fn take(&self, bytes: usize) {
        for bucket in self.0.iter().flatten() {
            let mut left = bytes;
            while left > 0 {
                let now = left.min(PIECE_BYTES);
                bucket.acquire(now).await;
                left -= now;
            }
        }
    }
}

fn bucket(rate: NonZeroU64) -> Arc<RateLimiter> {
    let per_refill = rate.get().saturating_mul(REFILL_EVERY.as_millis() as u64) / 1000;
    let refill = usize::try_from(per_refill).unwrap_or(usize::MAX).max(1);
    let max = refill.saturating_mul(10).max(BURST_BYTES_MIN);
    Arc::new(RateLimiter::builder().interval(REFILL_EVERY).refill(refill).max(max).initial(refill).build())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn rate(bytes: u64) -> Rate {
        NonZeroU64::new(bytes)
    }

    #[tokio::test]
    async fn a_peer_waits_for_its_own_rate_and_all_for_that_of_all() {
        let (anna, bert) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let limits = Limits::new(Rates { total: None, per_peer: rate(10_000_000) });
        let (one, two) = (limits.of(anna), limits.of(anna));
        let began = Instant::now();
        tokio::join!(one.take(1_000_000), two.take(1_000_000));
        // Whatever the machine does, it cannot be faster but for what may go at once.
        assert!(began.elapsed() >= Duration::from_millis(150));

        let limits = Limits::new(Rates { total: rate(10_000_000), per_peer: None });
        let (one, two) = (limits.of(anna), limits.of(bert));
        let began = Instant::now();
        tokio::join!(one.take(1_000_000), two.take(1_000_000));
        assert!(began.elapsed() >= Duration::from_millis(150));
    }

    #[tokio::test]
    async fn without_a_rate_nothing_waits() {
        let limit = Limits::new(Rates::default()).of(NodeId::from_bytes([1; 32]));
        assert!(limit.is_none());
        limit.take(usize::MAX).await;
    }
}
