//! Where to ask for work: each arbiter grants its tasks in order, and says where its first ones stand among those of others.
//!
//! Always true: where nothing was said, or all stand alike, every arbiter may be asked.
//!
//! Elsewhere: the order of one arbiter is `claim_queue`; asking is `worker`.

use serde::{Deserialize, Serialize};

use crate::NodeId;

/// Arbiters are alike to an executor when so many times as many tasks of a submitter are leased at one as at the other, and some.
const LEASED_ALIKE: u32 = 4;

/// Where tasks stand among those of other arbiters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The priority of their job.
    pub priority: i8,
    /// Tasks of their submitter that are leased by this arbiter.
    pub leased: u32,
}

/// Of several arbiters those whose first tasks are the most urgent, as they said last: of the highest priority, and of a
/// submitter of whom not many times more is leased than of another's.
pub(crate) fn neediest(arbiters: Vec<(NodeId, Option<Standing>)>) -> Vec<NodeId> {
    let priority = arbiters.iter().filter_map(|(_, first)| Some(first.as_ref()?.priority)).max();
    let urgent = |first: &Option<Standing>| first.filter(|first| Some(first.priority) == priority);
    let least = arbiters.iter().filter_map(|(_, first)| Some(urgent(first)?.leased)).min().unwrap_or(0);
    let enough = least.saturating_add(LEASED_ALIKE).saturating_mul(LEASED_ALIKE);
    let is_needy = |first: &Option<Standing>| priority.is_none() || urgent(first).is_some_and(|it| it.leased <= enough);
    arbiters.into_iter().filter(|(_, first)| is_needy(first)).map(|(node, _)| node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    fn asked(arbiters: &[(u8, Option<(i8, u32)>)]) -> Vec<NodeId> {
        let standing = |it: (i8, u32)| Standing { priority: it.0, leased: it.1 };
        neediest(arbiters.iter().map(|(number, first)| (node(*number), first.map(standing))).collect())
    }

    #[test]
    fn who_has_little_is_asked_for_first() {
        assert_eq!(asked(&[(1, Some((0, 300))), (2, Some((0, 3))), (3, Some((0, 200)))]), [node(2)]);
        assert_eq!(asked(&[(1, Some((0, 300))), (2, Some((0, 90)))]), [node(1), node(2)], "alike");
    }

    #[test]
    fn a_greater_priority_is_asked_for_before() {
        assert_eq!(asked(&[(1, Some((0, 0))), (2, Some((5, 1000)))]), [node(2)]);
    }

    #[test]
    fn where_nothing_is_known_anybody_is_asked() {
        assert_eq!(asked(&[(1, None), (2, None)]), [node(1), node(2)]);
        assert_eq!(asked(&[]), []);
    }
}
