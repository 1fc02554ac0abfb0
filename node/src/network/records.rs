//! What this node keeps for the Kademlia map: job records and provider records.
//!
//! Always true: bounded, in memory, and never waiting for a disk, because libp2p calls it inside `libp2p::Swarm::poll`;
//! every job record was verified against its key before it came in. When full, the oldest leaves: the map only says
//! where things are, the custodians of a job keep the job.
//!
//! Job records are handed to whoever persists them, lazily: losing some of the last ones costs nothing.

use std::borrow::Cow;
use std::collections::VecDeque;

use libp2p::PeerId;
use libp2p::kad::store::{Error, MemoryStore, MemoryStoreConfig, RecordStore};
use libp2p::kad::{K_VALUE, ProviderRecord, Record, RecordKey};
use swarm_protocol::{JobId, SignedJob, Table, Write, codec};
use tokio::sync::mpsc;

/// The longest job that is published as a record: a Kademlia packet of 16 KiB also holds the key and the publisher.
pub(super) const RECORD_BYTES_MAX: usize = 14 * 1024;
/// Job records kept: at most 28 MiB.
const RECORDS_MAX: usize = 2048;
/// Keys whose providers are kept.
const PROVIDED_KEYS_MAX: usize = 65_536;
/// Keys are the 32 bytes of a job id or of a hash.
const KEY_BYTES: usize = 32;

/// The record store.
pub(super) struct Records {
    memory: MemoryStore,
    /// Keys of job records, the oldest first.
    jobs: VecDeque<RecordKey>,
    /// Keys of provider records, the oldest first.
    provided: VecDeque<RecordKey>,
    writes: Option<mpsc::Sender<Write>>,
}

/// The job in a record, if it is one: signed by its submitter, and named by the key.
pub(super) fn check(key: &[u8], value: &[u8]) -> Option<SignedJob> {
    let job: SignedJob = codec::decode(value, RECORD_BYTES_MAX).ok()?;
    (job.id().as_bytes() == key && job.verify().is_ok()).then_some(job)
}

/// The key of a job's record.
pub(super) fn job_key(id: JobId) -> RecordKey {
    RecordKey::new(id.as_bytes())
}

impl Records {
    /// A store with the records of an earlier run (key and value, as they were in [`Table::Kad`]); what is no longer
    /// acceptable among them is left out.
    pub(super) fn new(me: PeerId, earlier: Vec<(Vec<u8>, Vec<u8>)>, writes: Option<mpsc::Sender<Write>>) -> Self {
        let config = MemoryStoreConfig {
            max_records: RECORDS_MAX,
            max_value_bytes: RECORD_BYTES_MAX + 1,
            max_providers_per_key: K_VALUE.get(),
            max_provided_keys: PROVIDED_KEYS_MAX,
        };
        let memory = MemoryStore::with_config(me, config);
        let mut records = Self { memory, jobs: VecDeque::new(), provided: VecDeque::new(), writes: None };
        for (key, value) in earlier {
            if check(&key, &value).is_some() {
                // Within all limits: it was in a store like this one.
                let _ = records.put(Record::new(key, value));
            }
        }
        records.writes = writes;
        records
    }

    fn write(&self, write: Write) {
        if let Some(writes) = &self.writes
            && writes.try_send(write).is_err()
        {
            tracing::debug!("a record of the Kademlia map is not persisted: the writer is behind");
        }
    }

    /// Makes room for one more key.
    fn evict_job(&mut self) {
        if self.jobs.len() >= RECORDS_MAX
            && let Some(oldest) = self.jobs.front().cloned()
        {
            self.remove(&oldest);
        }
    }

    fn evict_provided(&mut self) {
        if self.provided.len() < PROVIDED_KEYS_MAX {
            return;
        }
        let Some(oldest) = self.provided.pop_front() else { return };
        for record in self.memory.providers(&oldest) {
            self.memory.remove_provider(&oldest, &record.provider);
        }
    }
}

impl RecordStore for Records {
    type RecordsIter<'a> = <MemoryStore as RecordStore>::RecordsIter<'a>;
    type ProvidedIter<'a> = <MemoryStore as RecordStore>::ProvidedIter<'a>;

    fn get(&self, key: &RecordKey) -> Option<Cow<'_, Record>> {
        self.memory.get(key)
    }

    fn put(&mut self, record: Record) -> Result<(), Error> {
        if record.value.len() > RECORD_BYTES_MAX {
            return Err(Error::ValueTooLarge);
        }
        if self.memory.get(&record.key).is_some() {
            return self.memory.put(record);
        }
        self.evict_job();
        let (key, write) = (record.key.clone(), Write::put(Table::Kad, record.key.to_vec(), record.value.clone()));
        self.memory.put(record)?;
        self.jobs.push_back(key);
        self.write(write);
        Ok(())
    }

    fn remove(&mut self, key: &RecordKey) {
        self.memory.remove(key);
        self.jobs.retain(|other| other != key);
        self.write(Write::remove(Table::Kad, key.to_vec()));
    }

    fn records(&self) -> Self::RecordsIter<'_> {
        self.memory.records()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<(), Error> {
        if record.key.as_ref().len() != KEY_BYTES {
            return Err(Error::ValueTooLarge);
        }
        if self.memory.providers(&record.key).is_empty() {
            self.evict_provided();
            self.provided.push_back(record.key.clone());
        }
        self.memory.add_provider(record)
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        self.memory.providers(key)
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        self.memory.provided()
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        self.memory.remove_provider(key, provider);
        if self.memory.providers(key).is_empty() {
            self.provided.retain(|other| other != key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tests::job;

    #[test]
    fn a_record_that_is_not_the_job_its_key_names_is_refused() {
        let (id, signed) = job(1);
        let value = codec::encode(&signed);
        assert_eq!(check(id.as_bytes(), &value), Some(signed));
        assert_eq!(check(job(2).0.as_bytes(), &value), None);
        for at in 0..value.len() {
            let mut changed = value.clone();
            changed[at] ^= 1;
            assert_eq!(check(id.as_bytes(), &changed), None, "byte {at}");
        }
    }

    #[tokio::test]
    async fn a_full_store_forgets_the_oldest_record_and_says_so_to_the_disk() {
        let (writes, mut written) = mpsc::channel(2 * RECORDS_MAX);
        let mut records = Records::new(PeerId::random(), Vec::new(), Some(writes));
        for number in 0..=RECORDS_MAX as u64 {
            records.put(Record::new(number.to_be_bytes().to_vec(), vec![1])).unwrap();
        }
        assert_eq!(records.records().count(), RECORDS_MAX);
        assert!(records.get(&RecordKey::from(vec![0; 8])).is_none());
        let mut removed = Vec::new();
        while let Ok(write) = written.try_recv() {
            removed.extend(write.value.is_none().then_some(write.key));
        }
        assert_eq!(removed, [vec![0; 8]]);
    }

    #[test]
    fn records_of_an_earlier_run_come_back_and_damaged_ones_do_not() {
        let (id, signed) = job(1);
        let earlier =
            vec![(id.as_bytes().to_vec(), codec::encode(&signed)), (job(2).0.as_bytes().to_vec(), vec![1, 2, 3])];
        let records = Records::new(PeerId::random(), earlier, None);
        assert!(records.get(&job_key(id)).is_some());
        assert_eq!(records.records().count(), 1);
    }
}
