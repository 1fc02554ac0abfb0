//! Questions to the Kademlia map that are under way.
//!
//! Always true: each is answered once; when too many are under way, a new one is answered at once as if nothing were
//! known, because the map is only ever a hint.

use std::collections::{BTreeSet, HashMap};

use libp2p::kad::{self, GetProvidersOk, GetRecordOk, QueryId, QueryResult, Quorum, Record, RecordKey};
use swarm_protocol::{Hash, JobId, NodeId, SignedJob};
use tokio::sync::oneshot;

use super::addresses::node_of;
use super::records::{self, Records};

/// Walks through the map at once. Each asks some twenty peers.
const QUERIES_MAX: usize = 256;

enum Query {
    PublishJob,
    Provide(oneshot::Sender<()>),
    Providers { found: BTreeSet<NodeId>, answer: oneshot::Sender<Vec<NodeId>> },
    FindJob { id: JobId, answer: oneshot::Sender<Option<SignedJob>> },
}

/// All of them.
#[derive(Default)]
pub(super) struct Queries {
    running: HashMap<QueryId, Query>,
}

type Kad = kad::Behaviour<Records>;

impl Queries {
    /// Puts a job's record (an encoded, verified `SignedJob`) into the map.
    pub(super) fn publish_job(&mut self, kad: &mut Kad, id: JobId, value: Vec<u8>) {
        if self.is_full() {
            return;
        }
        match kad.put_record(Record::new(records::job_key(id), value), Quorum::One) {
            Ok(query) => _ = self.running.insert(query, Query::PublishJob),
            Err(error) => tracing::debug!(job = ?id, "record not published: {error}"),
        }
    }

    /// Finds a job's record in the map.
    pub(super) fn find_job(&mut self, kad: &mut Kad, id: JobId, answer: oneshot::Sender<Option<SignedJob>>) {
        if !self.is_full() {
            let query = kad.get_record(records::job_key(id));
            self.running.insert(query, Query::FindJob { id, answer });
        }
    }

    /// Says in the map that this node has a blob.
    pub(super) fn provide(&mut self, kad: &mut Kad, hash: Hash, done: oneshot::Sender<()>) {
        if self.is_full() {
            return;
        }
        match kad.start_providing(RecordKey::new(hash.as_bytes())) {
            Ok(query) => _ = self.running.insert(query, Query::Provide(done)),
            Err(error) => tracing::debug!(blob = ?hash, "not provided: {error}"),
        }
    }

    /// Finds who has a blob.
    pub(super) fn providers(&mut self, kad: &mut Kad, hash: Hash, answer: oneshot::Sender<Vec<NodeId>>) {
        if !self.is_full() {
            let query = kad.get_providers(RecordKey::new(hash.as_bytes()));
            self.running.insert(query, Query::Providers { found: BTreeSet::new(), answer });
        }
    }

    /// Something came back.
    pub(super) fn on_progress(&mut self, kad: &mut Kad, id: QueryId, result: QueryResult, last: bool) {
        let found = match (self.running.get_mut(&id), result) {
            (Some(Query::Providers { found, .. }), QueryResult::GetProviders(Ok(some))) => {
                if let GetProvidersOk::FoundProviders { providers, .. } = some {
                    found.extend(providers.iter().filter_map(node_of));
                }
                None
            }
            (Some(Query::FindJob { id, .. }), QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(some)))) => {
                records::check(id.as_bytes(), &some.record.value)
            }
            _ => None,
        };
        if found.is_some()
            && let Some(mut query) = kad.query_mut(&id)
        {
            // One verified record is as good as twenty.
            query.finish();
        }
        if found.is_some() || last {
            self.answer(id, found);
        }
    }

    /// Whoever asked may have gone away meanwhile: then the answer is for nobody.
    fn answer(&mut self, id: QueryId, job: Option<SignedJob>) {
        match self.running.remove(&id) {
            Some(Query::Provide(done)) => _ = done.send(()),
            Some(Query::Providers { found, answer }) => _ = answer.send(found.into_iter().collect()),
            Some(Query::FindJob { answer, .. }) => _ = answer.send(job),
            Some(Query::PublishJob) | None => {}
        }
    }

    fn is_full(&self) -> bool {
        let full = self.running.len() >= QUERIES_MAX;
        if full {
            tracing::debug!("too many questions to the Kademlia map; one is not asked");
        }
        full
    }
}
