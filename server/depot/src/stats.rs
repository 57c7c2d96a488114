//! How much of everything there is.

use serde::Serialize;

use crate::depot::Depot;
use crate::index::{Rows, Table};
use crate::keys::CacheName;
use crate::{Error, Result};

/// Counts of everything, exact; they take a walk over the index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Visible paths, over all caches.
    pub paths: u64,
    /// NARs, visible or under lease.
    pub nars: u64,
    /// Frames.
    pub frames: u64,
    /// Names of uploads.
    pub uploads: u64,
    /// Logs, realisations, build traces.
    pub documents: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes in them.
    pub segment_bytes: u64,
    /// NARs that are damaged and not served until they are pushed again.
    pub sick_nars: u64,
}

impl Depot {
    /// Counts everything: a second for a million paths.
    ///
    /// # Errors
    /// When the index fails; `Closed` once the server shuts down.
    pub fn stats(&self) -> Result<Stats> {
        let segments = self
            .shared()
            .segments
            .list()
            .map_err(|e| Error::io("listing segments", e))?;
        Ok(Stats {
            paths: self.count(Table::Paths, |_| true)?,
            nars: self.count(Table::Layouts, |key| key.len() == 32)?,
            frames: self.count(Table::Frames, |_| true)?,
            uploads: self.count(Table::Uploads, |_| true)?,
            documents: self.count(Table::Documents, |_| true)?,
            segments: segments.len() as u64,
            segment_bytes: segments.iter().map(|(_, len)| len).sum(),
            sick_nars: self.shared().quarantine.len() as u64,
        })
    }

    /// Whether nothing is left of a cache that was deleted, for collections to do.
    ///
    /// # Errors
    /// When the index fails.
    pub fn is_gone(&self, cache: &CacheName) -> Result<bool> {
        for table in [
            Table::Paths,
            Table::Visible,
            Table::Uploads,
            Table::Documents,
            Table::Sent,
        ] {
            let rows = self.shared().index.scan(table, &cache.key(b""), None, 1)?;
            if !rows.is_empty() {
                return Ok(false);
            }
        }
        Ok(self.pins(cache)?.is_empty())
    }

    fn count(&self, table: Table, counts: impl Fn(&[u8]) -> bool) -> Result<u64> {
        let mut total = 0;
        for row in Rows::new(&*self.shared().index, table, &[]) {
            total += u64::from(counts(&row?.0));
            self.may_go_on()?;
        }
        Ok(total)
    }
}
