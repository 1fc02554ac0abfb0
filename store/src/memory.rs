//! A store in memory that models a disk with a sync, for simulation.
//!
//! Always true: it is deterministic; a crash forgets whole batches only, and never one that `commit` acknowledged.

use std::collections::BTreeMap;

use swarm_protocol::{Table, Write};

use crate::{EngineError, Store, StoreError};

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// A store in memory. A clone is a copy of the disk as it is now, unsynced batches included.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    tables: BTreeMap<Table, Records>,
    /// For each batch since the last sync, oldest first, the writes that undo it.
    unsynced: Vec<Vec<Write>>,
    /// Commits until the disk fails; `None` = it never does.
    commits_left: Option<u64>,
    /// Nothing can be read.
    unreadable: bool,
}

impl Memory {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty disk that fails after this many commits, and for ever.
    pub fn failing_after(commits: u64) -> Self {
        Self { commits_left: Some(commits), ..Self::default() }
    }

    /// Lets every commit from now on fail, or none any more: a full disk gets full, and is given room.
    pub fn set_full(&mut self, full: bool) {
        self.commits_left = full.then_some(0);
    }

    /// Lets every read from now on fail, or none any more.
    pub fn set_unreadable(&mut self, unreadable: bool) {
        self.unreadable = unreadable;
    }

    /// A copy of what a crash now would leave.
    #[must_use]
    pub fn synced_copy(&self) -> Self {
        let mut copy = self.clone();
        copy.crash();
        copy
    }

    /// How many batches a crash could lose.
    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// The power goes, and nothing that was not synced had reached the disk.
    pub fn crash(&mut self) {
        self.crash_torn(0);
    }

    /// The power goes when the first `survivors` of the unsynced batches had reached the disk, and half of the next:
    /// recovery detects the torn one and drops it wholly, as a batch is atomic, with all after it.
    pub fn crash_torn(&mut self, survivors: usize) {
        let lost = self.unsynced.split_off(survivors.min(self.unsynced.len()));
        for undo in lost.into_iter().rev() {
            for write in undo {
                self.apply(write);
            }
        }
        // What recovery found on the disk is there for good.
        self.unsynced.clear();
    }

    /// Does a write and returns the one that undoes it.
    fn apply(&mut self, write: Write) -> Write {
        let Write { table, key, value } = write;
        let records = self.tables.entry(table).or_default();
        let before = match value {
            Some(value) => records.insert(key.clone(), value),
            None => records.remove(&key),
        };
        Write { table, key, value: before }
    }

    fn check_readable(&self, table: Table) -> Result<(), StoreError> {
        let source = || EngineError("the disk cannot be read, as it was told".into());
        if self.unreadable { Err(StoreError::Read { table: table.name(), source: source() }) } else { Ok(()) }
    }

    fn spend_commit(&mut self) -> Result<(), StoreError> {
        let Some(left) = &mut self.commits_left else { return Ok(()) };
        let failed = || StoreError::Commit { source: EngineError("the disk failed, as it was told to".into()) };
        *left = left.checked_sub(1).ok_or_else(failed)?;
        Ok(())
    }
}

impl Store for Memory {
    fn commit(&mut self, batch: &[Write]) -> Result<(), StoreError> {
        self.spend_commit()?;
        for write in batch {
            self.apply(write.clone());
        }
        self.unsynced.clear();
        Ok(())
    }

    fn commit_unsynced(&mut self, batch: &[Write]) -> Result<(), StoreError> {
        let mut undo: Vec<Write> = batch.iter().map(|write| self.apply(write.clone())).collect();
        undo.reverse();
        self.unsynced.push(undo);
        Ok(())
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.check_readable(table)?;
        Ok(self.tables.get(&table).and_then(|records| records.get(key)).cloned())
    }

    fn scan(&self, table: Table, prefix: &[u8], show: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        self.check_readable(table)?;
        let Some(records) = self.tables.get(&table) else { return Ok(()) };
        let from_prefix = records.range(prefix.to_vec()..);
        for (key, value) in from_prefix.take_while(|(key, _)| key.starts_with(prefix)) {
            show(key, value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_forgets_what_was_not_synced_and_nothing_else() {
        let mut disk = Memory::new();
        disk.commit(&[put("a", "1"), put("b", "1")]).unwrap();
        disk.commit_unsynced(&[put("a", "2"), remove("b"), put("a", "3")]).unwrap();
        disk.commit_unsynced(&[put("c", "1")]).unwrap();
        assert_eq!(all(&disk), [("a", "3"), ("c", "1")].map(owned));

        disk.crash();

        assert_eq!(all(&disk), [("a", "1"), ("b", "1")].map(owned));
    }

    #[test]
    fn a_torn_batch_disappears_wholly_with_all_after_it() {
        let mut disk = Memory::new();
        disk.commit_unsynced(&[put("a", "1")]).unwrap();
        disk.commit_unsynced(&[put("a", "2"), put("b", "2")]).unwrap();
        disk.commit_unsynced(&[put("c", "3")]).unwrap();

        disk.crash_torn(1);
        assert_eq!(all(&disk), [("a", "1")].map(owned));

        disk.crash();
        assert_eq!(all(&disk), [("a", "1")].map(owned), "what survived one crash survives the next");
    }

    #[test]
    fn a_full_disk_takes_batches_again_once_it_has_room() {
        let mut disk = Memory::new();
        disk.set_full(true);
        assert!(matches!(disk.commit(&[put("a", "1")]), Err(StoreError::Commit { .. })));
        disk.set_full(false);
        disk.commit(&[put("a", "2")]).unwrap();
        assert_eq!(all(&disk), [("a", "2")].map(owned));
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_not_nothing() {
        let mut disk = Memory::new();
        disk.commit(&[put("a", "1")]).unwrap();
        disk.set_unreadable(true);
        assert!(matches!(disk.get(Table::Jobs, b"a"), Err(StoreError::Read { table: "jobs", .. })));
        assert!(disk.scan(Table::Jobs, b"", &mut |_, _| {}).is_err());
        disk.set_unreadable(false);
        assert_eq!(all(&disk), [("a", "1")].map(owned));
    }

    #[test]
    fn a_sync_covers_what_was_written_before_it() {
        let mut disk = Memory::new();
        disk.commit_unsynced(&[put("a", "1")]).unwrap();
        let copy = disk.clone();
        disk.commit(&[put("b", "1")]).unwrap();
        disk.crash();
        assert_eq!(all(&disk), [("a", "1"), ("b", "1")].map(owned));
        assert_eq!((all(&copy), copy.unsynced()), (vec![owned(("a", "1"))], 1), "an old copy of the disk stays old");
    }

    fn put(key: &str, value: &str) -> Write {
        Write::put(Table::Jobs, key, value)
    }

    fn remove(key: &str) -> Write {
        Write::remove(Table::Jobs, key)
    }

    fn owned((key, value): (&str, &str)) -> (Vec<u8>, Vec<u8>) {
        (key.into(), value.into())
    }

    fn all(disk: &Memory) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        disk.scan(Table::Jobs, b"", &mut |key, value| found.push((key.to_vec(), value.to_vec()))).unwrap();
        found
    }
}
