//! The index with its debts: what is durable in segments and could not be written down here.
//!
//! ```text
//!   commit --fsync--> durable --> write --> index
//!                                   \ fails: owed, and paid before anything else is decided
//! ```
//!
//! Guarantees: a record that an fsync made durable counts for every later decision and every later
//! replay mark, although its own commit was answered with an error: otherwise the next start would
//! find a record that nobody reckoned with. Never drops a debt; a restart pays all of them.

use std::sync::{Arc, Mutex, MutexGuard};

use super::forward::forward;
use super::{Batch, Index};
use crate::Result;

/// See the module.
pub struct Owed {
    index: Arc<dyn Index>,
    debts: Mutex<Vec<Batch>>,
}

impl Owed {
    /// Without debts.
    pub fn new(index: Arc<dyn Index>) -> Owed {
        Owed {
            index,
            debts: Mutex::new(Vec::new()),
        }
    }

    /// Writes what is durable in segments. After an error it is owed.
    pub fn write_durable(&self, batch: Batch) -> Result<()> {
        let mut debts = self.debts();
        debts.push(batch);
        self.pay_all(&mut debts)
    }

    /// Pays the debts: call it before a decision that reads the index.
    pub fn pay(&self) -> Result<()> {
        self.index.ready()?;
        self.pay_all(&mut self.debts())
    }

    fn pay_all(&self, debts: &mut Vec<Batch>) -> Result<()> {
        while let Some(batch) = debts.first() {
            self.index.write(batch.clone())?;
            debts.remove(0);
        }
        Ok(())
    }

    fn debts(&self) -> MutexGuard<'_, Vec<Batch>> {
        self.debts
            .lock()
            .expect("invariant: no panic while the lock is held")
    }
}

impl Index for Owed {
    forward!(to index: get get_many scan rows_about stalls pause);

    fn write(&self, batch: Batch) -> Result<()> {
        let mut debts = self.debts();
        self.pay_all(&mut debts)?;
        self.index.write(batch)
    }

    fn checkpoint(&self) -> Result<()> {
        self.pay()?;
        self.index.checkpoint()
    }

    fn ready(&self) -> Result<u64> {
        self.pay()?;
        self.index.ready()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::memory::MemoryIndex;

    #[test]
    fn with_debts_or_without_it_keeps_the_contract() {
        super::super::contract::suite(|| Box::new(Owed::new(Arc::new(MemoryIndex::default()))));
    }
}
