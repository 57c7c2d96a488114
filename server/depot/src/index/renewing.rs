//! An index that is opened anew when it fails, while the depot runs.
//!
//! ```text
//!   write fails --> behind: not written any more, still read
//!      ready()  --> does the disk take bytes again? --> close, open, catch up from the segments
//! ```
//! After a failed flush RocksDB refuses every write until it is opened again, and what it was
//! refused is in segments only. So, as after a crash, the segments say what is missing.
//!
//! Guarantees: what a write was refused for is there once a later one succeeds, unless it failed
//! as well; meanwhile reading goes on, and no answer leaves out what it said before. An index
//! found damaged is made anew by the next start.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{OnceLock, RwLock, RwLockReadGuard};
use std::time::Duration;

use bytes::Bytes;

use super::rocks::RocksIndex;
use super::{Batch, Index, Row, Table};
use crate::rows::{SCHEMA, SCHEMA_KEY};
use crate::{Error, ErrorKind, Result};

/// What opening takes at least: RocksDB writes 100 KB of options and a manifest.
const PROBE_BYTES: usize = 1 << 20;

/// Times that an index is opened at once before readers are refused: a disk that just failed may
/// fail again.
const OPEN_TRIES: u32 = 5;

/// Brings an index that lost its latest batches up to the segments.
pub type CatchUp = Box<dyn Fn(&dyn Index) -> Result<()> + Send + Sync>;

/// A RocksDB folder that may be opened several times.
pub struct RenewingIndex {
    folder: PathBuf,
    /// None where it was closed and does not open.
    current: RwLock<Option<RocksIndex>>,
    /// A write failed: it lacks what is in segments.
    behind: AtomicBool,
    /// A read found damage.
    damaged: AtomicBool,
    catch_up: OnceLock<CatchUp>,
    /// How often it was opened anew.
    renewed: AtomicU64,
}

impl RenewingIndex {
    /// Opens the folder, creating it when it is not there; one that is damaged is set aside as
    /// `index.damaged`, and an empty one begun.
    pub fn open(folder: &Path) -> Result<RenewingIndex> {
        if suspicion(folder).exists() {
            tracing::error!("damage was found in the index, which is made anew");
            set_aside(folder)?;
        }
        let index = match RocksIndex::open(folder) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::error!(%error, "the index is damaged and is made anew");
                None
            }
            Err(error) => return Err(error),
            Ok(index) if is_of_our_version(&index)? => Some(index),
            Ok(_) => {
                tracing::info!("the index is of another version and is made anew");
                None
            }
        };
        let index = match index {
            Some(index) => index,
            None => {
                set_aside(folder)?;
                RocksIndex::open(folder)?
            }
        };
        Ok(RenewingIndex {
            folder: folder.to_owned(),
            current: RwLock::new(Some(index)),
            behind: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
            catch_up: OnceLock::new(),
            renewed: AtomicU64::new(0),
        })
    }

    /// Says how to catch up. Until then a failed write is only an error.
    pub fn catches_up_by(&self, catch_up: CatchUp) {
        if self.catch_up.set(catch_up).is_err() {
            unreachable!("invariant: a depot is put together once");
        }
    }

    /// Whether a read found damage.
    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    fn current(&self) -> RwLockReadGuard<'_, Option<RocksIndex>> {
        self.current
            .read()
            .expect("invariant: no panic while the index is opened")
    }

    fn with<T>(&self, action: impl FnOnce(&RocksIndex) -> Result<T>) -> Result<T> {
        let current = self.current();
        let index = current.as_ref().ok_or_else(|| {
            let closed = "the index does not open; the log says why, a push tries it again";
            Error::new(ErrorKind::Storage, closed)
        })?;
        let result = action(index);
        let corrupt = |error: &Error| error.kind() == ErrorKind::Corrupt;
        if result.as_ref().err().is_some_and(corrupt) && !self.damaged.swap(true, Ordering::Relaxed)
        {
            tracing::error!("the index is damaged: the next start makes it anew");
            if let Err(error) = File::create(suspicion(&self.folder)) {
                tracing::error!(%error, "that could not be noted: remove the index folder then");
            }
        }
        result
    }

    /// Opens anew and catches up, unless someone else just did.
    fn renew(&self) -> Result<()> {
        let Some(catch_up) = self.catch_up.get() else {
            return Ok(());
        };
        let mut current = self
            .current
            .write()
            .expect("invariant: no panic while the index is opened");
        if !self.behind.load(Ordering::Acquire) {
            return Ok(());
        }
        // As long as it would not open it had better stay open, for those who read.
        probe(&self.folder)?;
        *current = None;
        let open = || {
            let fresh = RocksIndex::open(&self.folder)?;
            catch_up(&fresh)?;
            Ok(fresh)
        };
        let mut opened = open();
        for _ in 1..OPEN_TRIES {
            if let Err(error) = &opened {
                tracing::error!(%error, "the index does not open; once more");
                opened = open();
            }
        }
        *current = Some(opened?);
        self.renewed.fetch_add(1, Ordering::Release);
        self.behind.store(false, Ordering::Release);
        tracing::warn!("the index was opened anew and has caught up");
        Ok(())
    }

    fn failed(&self, error: &Error) {
        tracing::error!(%error, "the index failed");
        self.behind.store(true, Ordering::Release);
    }
}

impl Index for RenewingIndex {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        self.with(|index| index.get(table, key))
    }

    fn get_many(&self, table: Table, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>> {
        self.with(|index| index.get_many(table, keys))
    }

    fn write(&self, batch: Batch) -> Result<()> {
        self.ready()?;
        let written = self.with(|index| index.apply(&batch));
        let Err(error) = written else { return Ok(()) };
        self.failed(&error);
        self.renew().map_err(|_| error.again())?;
        self.with(|index| index.apply(&batch))
            .inspect_err(|error| self.failed(error))
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>> {
        self.with(|index| index.scan(table, prefix, after, limit))
    }

    fn rows_about(&self, table: Table) -> Result<u64> {
        self.with(|index| index.rows_about(table))
    }

    fn stalls(&self) -> Result<u64> {
        self.with(Index::stalls)
    }

    fn pause(&self) -> Result<Duration> {
        self.with(Index::pause)
    }

    fn checkpoint(&self) -> Result<()> {
        self.ready()?;
        let flushed = self.with(|index| index.checkpoint());
        flushed.inspect_err(|error| self.failed(error))
    }

    fn ready(&self) -> Result<u64> {
        if self.behind.load(Ordering::Acquire) {
            self.renew()?;
        }
        Ok(self.renewed.load(Ordering::Acquire))
    }
}

/// Whether it has the rows of this version, or none yet. A damaged row says no.
fn is_of_our_version(index: &RocksIndex) -> Result<bool> {
    let damaged = |error: &Error| error.kind() == ErrorKind::Corrupt;
    let read = || match index.get(Table::About, SCHEMA_KEY)? {
        Some(schema) => Ok(schema == SCHEMA),
        None => Ok(index.scan(Table::Marks, &[], None, 1)?.is_empty()),
    };
    match read() {
        Err(error) if damaged(&error) => Ok(false),
        read => read,
    }
}

/// The file whose being there says that the index must not be opened.
fn suspicion(folder: &Path) -> PathBuf {
    folder.with_extension("suspect")
}

/// Puts a damaged index out of the way, for people to look at.
pub fn set_aside(folder: &Path) -> Result<()> {
    let aside = folder.with_extension("damaged");
    if aside.exists() {
        fs::remove_dir_all(&aside).map_err(|e| Error::io("removing an old index", e))?;
    }
    if folder.exists() {
        fs::rename(folder, &aside).map_err(|e| Error::io("setting the index aside", e))?;
    }
    match fs::remove_file(suspicion(folder)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("setting the index aside", error))
        }
        _ => Ok(()),
    }
}

/// Whether the disk takes bytes.
fn probe(folder: &Path) -> Result<()> {
    let path = folder.with_extension("probe");
    let write = || {
        let mut file = File::create(&path)?;
        file.write_all(&[0; PROBE_BYTES])?;
        file.sync_all()
    };
    let written = write();
    let removed = fs::remove_file(&path);
    written
        .and(removed)
        .map_err(|e| Error::io("trying the index's disk", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewing_index_keeps_the_contract() {
        super::super::contract::suite(|| {
            let folder = tempfile::tempdir().expect("temporary folder").keep();
            Box::new(RenewingIndex::open(&folder.join("index")).expect("open"))
        });
    }

    #[test]
    fn after_a_failed_write_it_is_opened_anew_and_catches_up() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let index = RenewingIndex::open(&folder.path().join("index")).expect("open");
        index.catches_up_by(Box::new(|fresh| {
            let mut batch = Batch::default();
            batch.put(Table::Marks, *b"from", *b"segments");
            fresh.write(batch)
        }));
        let mut batch = Batch::default();
        batch.put(Table::Marks, *b"lost", *b"with the memtable");
        index.write(batch).expect("write");
        index.failed(&Error::new(ErrorKind::Storage, "a test"));
        assert_eq!(index.ready().expect("renewed"), 1);
        let get = |key| index.get(Table::Marks, key).expect("get");
        assert_eq!(get(b"from").as_deref(), Some(&b"segments"[..]));
    }

    #[test]
    fn a_suspected_index_is_made_anew() {
        let parent = tempfile::tempdir().expect("temporary folder");
        let folder = parent.path().join("index");
        let index = RenewingIndex::open(&folder).expect("open");
        let mut batch = Batch::default();
        batch.put(Table::Marks, *b"k", *b"v");
        index.write(batch).expect("write");
        index.checkpoint().expect("checkpoint");
        drop(index);
        File::create(suspicion(&folder)).expect("a note");
        let index = RenewingIndex::open(&folder).expect("open");
        assert_eq!(index.get(Table::Marks, b"k").expect("get"), None);
        assert!(!suspicion(&folder).exists() && parent.path().join("index.damaged").exists());
    }
}
