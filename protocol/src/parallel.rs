//! How many tasks of one job run at once: the first custodian of the job divides the number among the arbiters of its shards.
//!
//! Always true while all of them see the same first custodian: the shares of all arbiters together are no more than the job
//! allows, and no arbiter leases more than its share, except for leases that it took over.
//!
//! - A share shrinks only by its holder's own word, given in a request; it grows only by an answer to the last request. A
//!   request that comes twice, or after a later one, says nothing: its holder may have more by now.
//! - Who becomes the first custodian hands out nothing for [`LISTEN`]: by then every arbiter has told what it holds.
//! - On both sides of a partition there is a first custodian, so up to twice as many may run; documented as the tolerance.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::message::Message;
use crate::node::Node;
use crate::placement::Key;
use crate::task_sets::count_of;
use crate::{JobId, NodeId, Time};

/// Arbiters tell what they hold every heartbeat; after four of them all have.
const LISTEN: Duration = Duration::from_secs(1);
/// A holder that says nothing for so long has no leases any more: they have run out or were taken over.
const SILENT_MAX: Duration = Duration::from_secs(5);
/// Holders of shares of one job: one a node.
const HOLDERS_MAX: usize = 4096;

/// The shares of jobs that limit how many of their tasks run at once.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    /// The number of the last request.
    last: u64,
    /// Mine, as an arbiter.
    mine: BTreeMap<JobId, Mine>,
    /// Those that I hand out, as the first custodian.
    given: BTreeMap<JobId, Given>,
}

#[derive(Debug, Default)]
struct Mine {
    /// Of the last request for this job.
    number: u64,
    holds: u32,
}

#[derive(Debug)]
struct Given {
    since: Time,
    holders: BTreeMap<NodeId, Holder>,
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    /// Of the request that said so.
    number: u64,
    holds: u32,
    wants: u32,
    at: Time,
}

impl Given {
    /// What a holder should have: as much as it wants, or an equal part of what those leave that want less.
    fn fair_share(&self, of: NodeId, all: u32) -> u32 {
        let mut wants: Vec<(u32, NodeId)> = self.holders.iter().map(|(node, holder)| (holder.wants, *node)).collect();
        wants.sort_unstable();
        let (mut left, mut heads) = (all, wants.len() as u32);
        for (want, node) in wants {
            // Whoever comes later in the order gets what division leaves.
            let share = want.min(left / heads.max(1));
            if node == of {
                return share;
            }
            left -= share;
            heads -= 1;
        }
        0
    }

    /// What whoever asks may have; `None` when it has asked since.
    fn answer(&mut self, from: NodeId, ask: Holder, most: u32) -> Option<u32> {
        if self.holders.get(&from).is_some_and(|known| known.number >= ask.number) {
            return None;
        }
        self.holders.insert(from, ask);
        let fair = self.fair_share(from, most);
        let free = most.saturating_sub(self.held_by_others(from)).saturating_sub(ask.holds);
        let listens = ask.at.since(self.since) < LISTEN;
        let share = match fair > ask.holds {
            true if listens => ask.holds,
            true => ask.holds + (fair - ask.holds).min(free),
            false => fair,
        };
        // A smaller share counts once its holder says that it holds to it.
        self.holders.insert(from, Holder { holds: ask.holds.max(share), ..ask });
        Some(share)
    }

    fn held_by_others(&self, node: NodeId) -> u32 {
        self.holders.iter().filter(|(other, _)| **other != node).map(|(_, it)| it.holds).fold(0, u32::saturating_add)
    }
}

impl Node {
    /// How many more tasks of a job may be leased here.
    pub(crate) fn share_left(&self, job: JobId) -> u32 {
        let holds = self.shares.mine.get(&job).map_or(0, |mine| mine.holds);
        holds.saturating_sub(self.leased_of_job(job))
    }

    /// Whether no more of the job's tasks may run at present.
    pub(crate) fn is_held_back(&self, job: JobId) -> bool {
        self.jobs.is_limited(job) && self.share_left(job) == 0
    }

    fn leased_of_job(&self, job: JobId) -> u32 {
        let open = self.custody.open_of(job).into_iter();
        open.map(|id| self.leased_of(id)).fold(0, u32::saturating_add)
    }

    /// Called every heartbeat: tells what is held, and asks for what could be used.
    pub(crate) fn keep_shares(&mut self) {
        let mut wants: BTreeMap<JobId, u32> = BTreeMap::new();
        for id in self.jobs.limited().flat_map(|job| self.custody.open_of(job)) {
            if let Some(arbiter) = self.custody.shard(id).and_then(|shard| shard.arbiter.as_ref()) {
                let pending = self.grantable(id).map_or(0, |_| count_of(&arbiter.pending));
                let want = wants.entry(id.job).or_default();
                *want = want.saturating_add(pending).saturating_add(self.leased_of(id));
            }
        }
        self.shares.mine.retain(|job, _| wants.contains_key(job));
        for (job, wants) in wants {
            self.ask_share(job, wants);
        }
        let (now, me) = (self.now, self.me());
        let mut given = core::mem::take(&mut self.shares.given);
        given.retain(|job, given| {
            given.holders.retain(|_, holder| now.since(holder.at) < SILENT_MAX);
            !given.holders.is_empty() && self.first_custodian(*job) == Some(me)
        });
        self.shares.given = given;
    }

    fn first_custodian(&self, job: JobId) -> Option<NodeId> {
        let custodians = self.membership.view.custodians(Key::of_job(job));
        custodians.into_iter().find(|node| self.reaches(*node))
    }

    fn ask_share(&mut self, job: JobId, wants: u32) {
        let (leased, first) = (self.leased_of_job(job), self.first_custodian(job));
        // A later process asks with greater numbers than the one before; one with a new disk is not heard for SILENT_MAX.
        self.shares.last = (self.shares.last + 1).max(self.membership.me.incarnation << 32);
        let number = self.shares.last;
        let mine = self.shares.mine.entry(job).or_default();
        mine.number = number;
        mine.holds = mine.holds.min(wants).max(leased);
        let ask = Message::ShareAsk { job, number, holds: mine.holds, wants };
        if let Some(first) = first {
            self.send(first, ask);
        }
    }

    pub(crate) fn on_share_ask(&mut self, from: NodeId, job: JobId, number: u64, holds: u32, wants: u32) {
        let now = self.now;
        let most = self.jobs.get(job).and_then(|job| job.spec.options.parallel_max);
        let Some(most) = most.filter(|_| self.first_custodian(job) == Some(self.me())) else { return };
        let given = self.shares.given.entry(job).or_insert_with(|| Given { since: now, holders: BTreeMap::new() });
        if given.holders.len() >= HOLDERS_MAX && !given.holders.contains_key(&from) {
            return;
        }
        if let Some(share) = given.answer(from, Holder { number, holds, wants, at: now }, most) {
            self.send(from, Message::Share { job, number, holds: share });
        }
    }

    pub(crate) fn on_share(&mut self, job: JobId, number: u64, holds: u32) {
        let Some(mine) = self.shares.mine.get_mut(&job).filter(|mine| mine.number == number) else { return };
        self.custody.grants_changed |= holds > mine.holds;
        mine.holds = holds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(at: u8) -> NodeId {
        NodeId::from_bytes([at; 32])
    }

    fn given(wants: &[u32]) -> Given {
        let holder =
            |(at, wants): (u8, &u32)| (node(at), Holder { number: 0, holds: 0, wants: *wants, at: Time::ZERO });
        Given { since: Time::ZERO, holders: (0..).zip(wants).map(holder).collect() }
    }

    fn shares(wants: &[u32], all: u32) -> Vec<u32> {
        let given = given(wants);
        given.holders.keys().map(|node| given.fair_share(*node, all)).collect()
    }

    #[test]
    fn those_who_want_little_get_it_and_the_others_equal_parts() {
        assert_eq!(shares(&[100, 2, 100], 20), [9, 2, 9]);
        assert_eq!(shares(&[5, 5], 20), [5, 5]);
        assert_eq!(shares(&[9, 9, 9], 2).iter().sum::<u32>(), 2);
    }

    /// Two hold one each of two. What the first asked before comes again: it may have one all the same, and the other no more.
    #[test]
    fn a_request_that_was_overtaken_says_nothing() {
        let mut given = given(&[]);
        let at = Time::ZERO + LISTEN;
        let mut ask = |from, number, holds, wants| given.answer(node(from), Holder { number, holds, wants, at }, 2);
        assert_eq!(ask(1, 4, 0, 0), Some(0));
        assert_eq!(ask(2, 1, 0, 1), Some(1));
        assert_eq!(ask(1, 5, 0, 2), Some(1));
        assert_eq!(ask(1, 4, 0, 0), None);
        assert_eq!(ask(1, 5, 0, 2), None);
        assert_eq!(ask(2, 2, 1, 2), Some(1));
    }
}
