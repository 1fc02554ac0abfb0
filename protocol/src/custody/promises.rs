//! Promises: to record nothing of an epoch lower than this.
//!
//! Always true: a promise is synced before it is given; with it go all facts that are known here.
//!
//! Elsewhere: who asks for one, and what it is for, is `arbiter`.

use super::SHARDS_PER_MESSAGE;
use super::stored::shard_key;
use crate::codec;
use crate::message::{Message, ShardPromise};
use crate::node::Node;
use crate::planted::PlantedBug;
use crate::{Epoch, NodeId, ShardId, Table, Write};

impl Node {
    /// Obeys `epoch` from now on. An arbiter of a lower one stops.
    pub(crate) fn promise(&mut self, shard: ShardId, epoch: Epoch) {
        self.custody.promises.insert(shard, epoch);
        if !self.plants(PlantedBug::ForgetsPromises) {
            self.out.persist.push(Write::put(Table::Promises, shard_key(shard), codec::encode(&epoch)));
        }
        let arbitrates = self.custody.shard(shard).and_then(|kept| kept.arbiter.as_ref());
        if arbitrates.is_some_and(|arbiter| arbiter.epoch < epoch) && !self.plants(PlantedBug::IgnoresEpochs) {
            self.step_down(shard);
        }
    }

    pub(crate) fn on_prepare(&mut self, from: NodeId, shards: Vec<(ShardId, Epoch)>) {
        let mut promises = Vec::new();
        for (shard, epoch) in shards.into_iter().take(SHARDS_PER_MESSAGE) {
            if self.tells_expired(from, shard.job) {
                continue; // what was promised of it is forgotten
            }
            if self.jobs.get(shard.job).is_none() {
                self.pull_job(shard.job, from);
            }
            if !self.may_arbitrate(from, shard) {
                continue; // its view is not complete yet, or mine; it asks again
            }
            let before = self.custody.promises.get(&shard).copied().unwrap_or_default();
            if epoch > before {
                self.promise(shard, epoch);
            }
            self.send_facts(from, shard);
            promises.push(ShardPromise { shard, promised: before.max(epoch), before });
        }
        self.send(from, Message::Promise(promises));
    }

    /// Whether nobody whom I reach should rather arbitrate the shard than this node, which is no custodian for me.
    fn may_arbitrate(&self, node: NodeId, shard: ShardId) -> bool {
        let custodians = self.shard_custodians(shard);
        custodians.contains(&node) || !custodians.iter().any(|custodian| self.reaches(*custodian))
    }

    pub(crate) fn send_prepares(&mut self, to: NodeId, shards: &[(ShardId, Epoch)]) {
        for chunk in shards.chunks(SHARDS_PER_MESSAGE) {
            self.send(to, Message::Prepare(chunk.to_vec()));
        }
    }
}
