//! The order in which reasons are told, and which of them are told in one sentence.

use super::NODES_NAMED_MAX;
use super::causes::{Cause, Reason};

/// Lower comes first. What follows from something else comes last.
pub(super) const fn rank(cause: &Cause) -> u8 {
    match cause {
        Cause::Stopping { .. } | Cause::NotAcknowledged { .. } => 0,
        Cause::Cancelled => 1,
        Cause::NoNode { .. } | Cause::NodesGone { .. } => 2,
        Cause::BlobsMissing | Cause::Unreachable { .. } => 3,
        Cause::NoArbiter { .. } | Cause::Preparing { .. } | Cause::TakenOver { .. } => 4,
        Cause::LeasedToLost { .. } => 5,
        Cause::BackingOff { .. } => 6,
        Cause::ParallelReached { .. } => 7,
        Cause::Behind { .. } | Cause::Busy { .. } => 8,
        Cause::Avoids { .. } | Cause::ForPreferred => 9,
        Cause::Starting { .. } => 10,
        Cause::Running { .. } => 11,
        Cause::Copying | Cause::Recording => 12,
        Cause::Failed { .. } => 13,
        Cause::TooManyFailed { .. } => 14,
        Cause::WaitsForStage { .. } | Cause::WaitsForTask { .. } => 15,
        Cause::NeedFailed { .. } => 16,
        Cause::Done => 17,
    }
}

/// Equal causes of one stage together.
pub(super) fn merged(reasons: Vec<Reason>) -> Vec<Reason> {
    let mut merged: Vec<Reason> = Vec::new();
    for reason in reasons {
        let same = merged.iter_mut().find(|known| known.stage == reason.stage && is_same(&known.cause, &reason.cause));
        match same {
            Some(known) => {
                known.tasks += reason.tasks;
                known.queue_left_ms = known.queue_left_ms.into_iter().chain(reason.queue_left_ms).min();
                take_in(&mut known.cause, reason.cause);
            }
            None => merged.push(reason),
        }
    }
    merged
}

/// Whether two causes are told in one sentence.
fn is_same(one: &Cause, other: &Cause) -> bool {
    use Cause::{BackingOff, Behind, Busy, Failed, Running, TakenOver, WaitsForTask};
    match (one, other) {
        (Running { .. }, Running { .. }) | (Busy { .. }, Busy { .. }) | (WaitsForTask { .. }, WaitsForTask { .. }) => {
            true
        }
        (TakenOver { arbiter: a, .. }, TakenOver { arbiter: b, .. }) => a == b,
        (Behind { job: a, .. }, Behind { job: b, .. }) => a == b,
        (Failed { ending: a, .. }, Failed { ending: b, .. }) => a == b,
        (BackingOff { ending: a, node: x, .. }, BackingOff { ending: b, node: y, .. }) => a == b && x == y,
        (one, other) => one == other,
    }
}

/// Adds what one cause says more than an equal one.
fn take_in(known: &mut Cause, more: Cause) {
    match (known, more) {
        (Cause::Running { nodes }, Cause::Running { nodes: more }) => {
            for other in more {
                if let Some(it) = nodes.iter_mut().find(|it| it.node == other.node) {
                    it.tasks += other.tasks;
                    it.since_ms = it.since_ms.max(other.since_ms);
                } else if nodes.len() < NODES_NAMED_MAX {
                    nodes.push(other);
                }
            }
        }
        (Cause::Busy { free_in_ms, .. }, Cause::Busy { free_in_ms: other, .. }) => {
            *free_in_ms = free_in_ms.iter().copied().chain(other).min();
        }
        (Cause::Behind { ahead, .. }, Cause::Behind { ahead: other, .. }) => *ahead = (*ahead).max(other),
        (Cause::BackingOff { wait_ms, .. }, Cause::BackingOff { wait_ms: other, .. }) => {
            *wait_ms = (*wait_ms).min(other);
        }
        _ => {}
    }
}
