//! The index in memory: the twin of RocksDB, for tests and simulations.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;

use super::{Batch, Index, Row, Table};
use crate::Result;

/// An index that lives as long as this value.
#[derive(Debug, Default)]
pub struct MemoryIndex {
    rows: Mutex<BTreeMap<(Table, Vec<u8>), Bytes>>,
}

impl MemoryIndex {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Table, Vec<u8>), Bytes>> {
        self.rows
            .lock()
            .expect("invariant: no panic while the lock is held")
    }
}

impl Index for MemoryIndex {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.lock().get(&(table, key.to_vec())).cloned())
    }

    fn get_many(&self, table: Table, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>> {
        let rows = self.lock();
        Ok(keys
            .iter()
            .map(|key| rows.get(&(table, key.to_vec())).cloned())
            .collect())
    }

    fn write(&self, batch: Batch) -> Result<()> {
        let mut rows = self.lock();
        for (table, key, value) in batch.changes {
            match value {
                Some(value) => rows.insert((table, key), value.into()),
                None => rows.remove(&(table, key)),
            };
        }
        Ok(())
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>> {
        let start = match after.filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded((table, after.to_vec())),
            None => Bound::Included((table, prefix.to_vec())),
        };
        let rows = self.lock();
        let found = rows.range((start, Bound::Unbounded));
        let found = found.take_while(|((of, key), _)| *of == table && key.starts_with(prefix));
        Ok(found
            .take(limit)
            .map(|((_, key), value)| (key.clone().into(), value.clone()))
            .collect())
    }

    fn rows_about(&self, table: Table) -> Result<u64> {
        let rows = self.lock();
        Ok(rows.keys().filter(|(of, _)| *of == table).count() as u64)
    }

    fn stalls(&self) -> Result<u64> {
        Ok(0)
    }

    fn pause(&self) -> Result<Duration> {
        Ok(Duration::ZERO)
    }

    fn checkpoint(&self) -> Result<()> {
        Ok(())
    }

    fn ready(&self) -> Result<u64> {
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_keeps_the_contract() {
        super::super::contract::suite(|| Box::new(MemoryIndex::default()));
    }
}
