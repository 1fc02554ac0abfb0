//! Candidates: the nodes that may have a blob, and when each is asked. Pure.
//!
//! Always true: a node is asked once at a time, those named first before those found later; one that could not give now is
//! asked again later, ever later; one that sent what is wrong is not asked again.

use std::time::Duration;

use swarm_protocol::NodeId;
use tokio::time::Instant;

/// The first and the longest wait before a node is asked again; each is jittered by half.
const WAIT: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];
/// More are not remembered: nobody needs as many, and peers name them.
const CANDIDATES_MAX: usize = 256;

/// The nodes that may have a blob.
#[derive(Debug)]
pub(super) struct Candidates {
    me: NodeId,
    known: Vec<Candidate>,
}

#[derive(Debug)]
struct Candidate {
    node: NodeId,
    state: State,
    wait: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waits(Instant),
    Asked,
    Barred,
}

impl Candidates {
    pub(super) fn new(me: NodeId) -> Self {
        Self { me, known: Vec::new() }
    }

    /// More nodes, unless they are known.
    pub(super) fn add(&mut self, nodes: &[NodeId], now: Instant) {
        for &node in nodes {
            let is_new = node != self.me && self.known.iter().all(|known| known.node != node);
            if is_new && self.known.len() < CANDIDATES_MAX {
                self.known.push(Candidate { node, state: State::Waits(now), wait: WAIT[0] });
            }
        }
    }

    /// Whom to ask now, if anybody.
    pub(super) fn next(&mut self, now: Instant) -> Option<NodeId> {
        let due = |it: &&mut Candidate| matches!(it.state, State::Waits(until) if until <= now);
        let next = self.known.iter_mut().find(due)?;
        next.state = State::Asked;
        Some(next.node)
    }

    /// It could not give, or no more.
    pub(super) fn later(&mut self, node: NodeId, now: Instant) {
        if let Some(known) = self.known.iter_mut().find(|known| known.node == node) {
            known.state = State::Waits(now + known.wait.mul_f32(0.5 + fastrand::f32()));
            known.wait = (known.wait * 2).min(WAIT[1]);
        }
    }

    /// It gave what was wrong.
    pub(super) fn bar(&mut self, node: NodeId) {
        if let Some(known) = self.known.iter_mut().find(|known| known.node == node) {
            known.state = State::Barred;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_asked_once_at_a_time_and_again_ever_later() {
        let node = |number: u8| NodeId::from_bytes([number; 32]);
        let (mut candidates, now) = (Candidates::new(node(0)), Instant::now());
        candidates.add(&[node(0), node(1), node(2), node(1)], now);
        candidates.add(&[node(3), node(2)], now);
        let asked: Vec<_> = std::iter::from_fn(|| candidates.next(now)).collect();
        assert_eq!(asked, [node(1), node(2), node(3)]);

        candidates.bar(node(2));
        candidates.later(node(3), now);
        assert_eq!(candidates.next(now), None);
        let soon = now + WAIT[0] * 2;
        assert_eq!((candidates.next(soon), candidates.next(soon)), (Some(node(3)), None));
        candidates.later(node(3), soon);
        assert_eq!((candidates.next(soon + WAIT[0] / 2), candidates.next(soon + WAIT[0] * 4)), (None, Some(node(3))));
    }
}
