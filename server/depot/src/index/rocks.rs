//! The index in RocksDB: one column family a table, no write-ahead log.
//!
//! The segments are the log: each batch carries the replay marks of the segments it came from, all
//! column families are flushed together, and what a crash loses of the memtables is replayed from
//! the segments' tails at start. A folder that does not open is set aside by the caller and
//! rebuilt.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB,
    DBCompressionType, Direction, Env, FlushOptions, IteratorMode, LogLevel, LruCacheOptions,
    Options, ReadOptions, WriteBatch, WriteOptions, properties::ESTIMATE_NUM_KEYS,
};

use super::{Batch, Index, Row, Table};
use crate::{Error, ErrorKind, Result};

/// Memory for blocks of the index: 100,000 hot narinfos of 300 bytes.
const BLOCK_CACHE_BYTES: usize = 32 << 20;

/// It has 4 parts with a lock each. By default they would be 64 of half a MiB, and the index of a
/// table of 64 MiB that was written whole would fit into none: it was read anew for every look-up,
/// which among a million paths cost 500 us.
const BLOCK_CACHE_PART_BITS: i32 = 2;

/// Parts of a table's index and filter: one of each is read for a look-up, however large the table.
const METADATA_BLOCK_BYTES: usize = 4096;

/// Memtable of a table: 140,000 frames of 57 bytes, which bounds the replay after a crash. The
/// first that is full has all of them flushed.
const MEMTABLE_BYTES: usize = 8 << 20;

/// Memtables of a table that wait to be flushed, the one that is written to included: with two, as
/// by default, a write that fills one while the other is flushed waits for the disk.
const MEMTABLES: i32 = 4;

/// Tables that are written go to the disk so many bytes at a time, and not all at once at their
/// end, where whoever reads would wait behind them.
const SYNC_BYTES: u64 = 1 << 20;

/// Threads that put tables in order: while one is at work on a large table for half a minute, small
/// tables, and what the large one got meanwhile, are seen to by the others.
const ORDERING_THREADS: i32 = 3;

/// And one that writes down what is in memory.
const FLUSHING_THREADS: i32 = 1;

/// Threads that put tables in order give way to those who are asked something, and get a third of
/// what these get (`sched(7)`: 335 to 1024) where all cores are busy. Niced as far as it goes they
/// got next to nothing beside other programs, and what came in waited for them.
const NICE: i32 = 5;

/// Files of a table that lie side by side, not in order: from here on whoever writes makes pauses.
/// Four are put in order at once, so these are twice as many as need be.
const UNORDERED_FILES: u32 = 8;

/// The pause before a group of commits, for each file more. A group takes some 10 ms, so at 13
/// files as much time goes into order as into what makes disorder.
const PAUSE: Duration = Duration::from_millis(2);

/// No pause is longer: twenty groups a second of up to 256 commits go on.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Files from which RocksDB itself delays every write, and from which it takes none: pauses are at
/// their longest before.
const DELAYED_FROM_FILES: i32 = 40;
const STOPPED_FROM_FILES: i32 = 80;

/// What RocksDB calls the number of these files.
const FILES_UNORDERED: &str = "rocksdb.num-files-at-level0";

/// What RocksDB calls its count of writes that were held up.
const STALLS: &str = "rocksdb.cf-write-stall-stats";

/// Bits of the bloom filters a key: 1 % false positives.
const BLOOM_BITS: f64 = 10.0;

/// RocksDB's own open files: 512 tables of 64 MiB are an index for 30 TB of NARs.
const MAX_OPEN_FILES: i32 = 512;

/// A RocksDB folder.
pub struct RocksIndex {
    db: DB,
}

impl RocksIndex {
    /// Opens the folder, creating it when it is not there.
    pub fn open(folder: &Path) -> Result<RocksIndex> {
        let mut parts = LruCacheOptions::default();
        parts.set_capacity(BLOCK_CACHE_BYTES);
        parts.set_num_shard_bits(BLOCK_CACHE_PART_BITS);
        let cache = Cache::new_lru_cache_opts(&parts);
        let families = Table::ALL
            .map(|table| ColumnFamilyDescriptor::new(table.name(), table_options(&cache)));
        let db = DB::open_cf_descriptors(&database_options()?, folder, families);
        let db = db.map_err(|e| failed(&format!("opening the index {}", folder.display()), e))?;
        Ok(RocksIndex { db })
    }

    /// Applies a batch that the caller keeps.
    pub fn apply(&self, batch: &Batch) -> Result<()> {
        let mut writes = WriteBatch::default();
        for (table, key, value) in &batch.changes {
            match value {
                Some(value) => writes.put_cf(self.family(*table), key, value),
                None => writes.delete_cf(self.family(*table), key),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db
            .write_opt(writes, &options)
            .map_err(|e| failed("writing the index", e))
    }

    fn family(&self, table: Table) -> &ColumnFamily {
        self.db
            .cf_handle(table.name())
            .expect("invariant: open() creates every table's family")
    }
}

/// Stops and delays in what RocksDB tells of a table: `Write Stall (count): NAME: 0, NAME: 0`.
fn stalls_in(told: &str) -> u64 {
    let figures = told
        .split([',', '\n'])
        .filter_map(|figure| figure.rsplit_once(':'));
    let is_total = |name: &str| name.ends_with("total-stops") || name.ends_with("total-delays");
    let totals = figures.filter(|(name, _)| is_total(name.trim_end()));
    totals
        .filter_map(|(_, count)| count.trim().parse::<u64>().ok())
        .sum()
}

/// RocksDB's threads, which all indexes of the process share. Those that put tables in order are
/// started here by one that is niced, which they inherit; the others when they are needed.
fn threads() -> Result<Env> {
    let mut threads = Env::new().map_err(|e| failed("starting the index's threads", e))?;
    let started = std::thread::scope(|scope| {
        let niced = std::thread::Builder::new().name("index".into());
        let niced = niced.spawn_scoped(scope, || {
            if let Err(error) = rustix::process::nice(NICE) {
                tracing::debug!(%error, "the index's threads run at the usual priority");
            }
            threads.set_background_threads(ORDERING_THREADS);
        });
        niced.map(|thread| thread.join().is_ok())
    });
    match started {
        Ok(true) => Ok(threads),
        Ok(false) => Err(Error::closed()),
        Err(error) => Err(Error::io("starting a thread", error)),
    }
}

fn database_options() -> Result<Options> {
    let mut options = Options::default();
    options.set_env(&threads()?);
    options.set_bytes_per_sync(SYNC_BYTES);
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    options.set_max_open_files(MAX_OPEN_FILES);
    options.set_max_background_jobs(ORDERING_THREADS + FLUSHING_THREADS);
    options.set_manifest_preallocation_size(4096);
    // The info log must not grow the data directory: warnings only, two small files.
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    Ok(options)
}

fn table_options(cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_bloom_filter(BLOOM_BITS, false);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_metadata_block_size(METADATA_BLOCK_BYTES);
    blocks.set_pin_top_level_index_and_filter(true);
    blocks.set_format_version(6);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_level_compaction_dynamic_level_bytes(true);
    // What was written lately is read most and rewritten soon.
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options.set_level_zero_slowdown_writes_trigger(DELAYED_FROM_FILES);
    options.set_level_zero_stop_writes_trigger(STOPPED_FROM_FILES);
    options.set_max_write_buffer_number(MEMTABLES);
    options.set_write_buffer_size(MEMTABLE_BYTES);
    options
}

/// A file that is not there, or says what no such file may say, is damage as well: all of the
/// folder is RocksDB's.
fn failed(doing: &str, error: rocksdb::Error) -> Error {
    let says = |text: &str| error.as_ref().contains(text);
    let kind = match error.kind() {
        _ if says("No space left") => ErrorKind::Full,
        rocksdb::ErrorKind::IOError if !says("No such file") => ErrorKind::Storage,
        rocksdb::ErrorKind::IOError
        | rocksdb::ErrorKind::Corruption
        | rocksdb::ErrorKind::NotFound
        | rocksdb::ErrorKind::NotSupported
        | rocksdb::ErrorKind::InvalidArgument => ErrorKind::Corrupt,
        _ => ErrorKind::Storage,
    };
    Error::caused(kind, format!("{doing} failed"), error)
}

impl Index for RocksIndex {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.db.get_cf(self.family(table), key);
        Ok(value
            .map_err(|e| failed("reading the index", e))?
            .map(Bytes::from))
    }

    fn get_many(&self, table: Table, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>> {
        match keys {
            [] => return Ok(Vec::new()),
            [key] => return Ok(vec![self.get(table, key)?]),
            _ => {}
        }
        let values = self
            .db
            .batched_multi_get_cf(self.family(table), keys, false);
        let copied = values.into_iter().map(|value| match value {
            Ok(found) => Ok(found.map(|slice| Bytes::copy_from_slice(&slice))),
            Err(error) => Err(failed("reading the index", error)),
        });
        copied.collect()
    }

    fn write(&self, batch: Batch) -> Result<()> {
        self.apply(&batch)
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>> {
        let after = after.filter(|after| *after >= prefix);
        let from = IteratorMode::From(after.unwrap_or(prefix), Direction::Forward);
        let mut rows = Vec::new();
        // Whoever reads rows in their order reads many, once: they would drive out what is hot.
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let family = self.family(table);
        for row in self.db.iterator_cf_opt(family, options, from) {
            let (key, value) = row.map_err(|e| failed("scanning the index", e))?;
            if rows.len() == limit || !key.starts_with(prefix) {
                break;
            }
            if after != Some(&key[..]) {
                rows.push((key.into(), value.into()));
            }
        }
        Ok(rows)
    }

    fn rows_about(&self, table: Table) -> Result<u64> {
        let estimate = self
            .db
            .property_int_value_cf(self.family(table), ESTIMATE_NUM_KEYS);
        Ok(estimate
            .map_err(|e| failed("reading the index", e))?
            .unwrap_or_default())
    }

    fn stalls(&self) -> Result<u64> {
        let mut stalls = 0;
        for table in Table::ALL {
            let told = self.db.property_value_cf(self.family(table), STALLS);
            let told = told.map_err(|e| failed("reading the index", e))?;
            stalls += stalls_in(&told.unwrap_or_default());
        }
        Ok(stalls)
    }

    fn pause(&self) -> Result<Duration> {
        let mut most = 0;
        for table in Table::ALL {
            let told = self
                .db
                .property_value_cf(self.family(table), FILES_UNORDERED);
            let told = told.map_err(|e| failed("reading the index", e))?;
            let files = told.and_then(|count| count.parse::<u32>().ok());
            most = most.max(files.unwrap_or_default());
        }
        Ok((PAUSE * most.saturating_sub(UNORDERED_FILES)).min(LONGEST_PAUSE))
    }

    fn checkpoint(&self) -> Result<()> {
        let families = Table::ALL.map(|table| self.family(table));
        let flushed = self.db.flush_cfs_opt(&families, &FlushOptions::default());
        flushed.map_err(|e| failed("flushing the index", e))
    }

    fn ready(&self) -> Result<u64> {
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rocksdb_keeps_the_contract() {
        super::super::contract::suite(|| {
            let folder = tempfile::tempdir().expect("temporary folder").keep();
            Box::new(RocksIndex::open(&folder.join("index")).expect("open"))
        });
    }

    #[test]
    fn writes_that_come_faster_than_they_can_be_put_in_order_are_counted() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let index = RocksIndex::open(folder.path()).expect("open");
        assert_eq!(index.stalls().expect("stalls"), 0);
        // Tables of one row each, which are too many long before they are worth a compaction.
        let family = index.family(Table::Paths);
        let keep = [
            ("level0_file_num_compaction_trigger", "100"),
            ("level0_slowdown_writes_trigger", "2"),
            ("level0_stop_writes_trigger", "200"),
        ];
        index.db.set_options_cf(family, &keep).expect("options");
        for number in 0..8u8 {
            let mut batch = Batch::default();
            batch.put(Table::Paths, [number], vec![number; 100]);
            index.write(batch).expect("write");
            index.checkpoint().expect("checkpoint");
        }
        let told = index.db.property_value_cf(family, STALLS);
        assert!(index.stalls().expect("stalls") > 0, "{told:?}");
    }

    #[test]
    fn who_writes_faster_than_tables_are_put_in_order_is_to_pause() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let index = RocksIndex::open(folder.path()).expect("open");
        let family = index.family(Table::Paths);
        let never = [("level0_file_num_compaction_trigger", "100")];
        index.db.set_options_cf(family, &never).expect("options");
        let mut longest = Duration::ZERO;
        for number in 1..=UNORDERED_FILES + 30 {
            let mut batch = Batch::default();
            batch.put(Table::Paths, number.to_be_bytes(), *b"a row");
            index.write(batch).expect("write");
            index.checkpoint().expect("checkpoint");
            let pause = index.pause().expect("pause");
            assert_eq!(pause.is_zero(), number <= UNORDERED_FILES, "{number} files");
            assert!(
                pause >= longest,
                "{number} files: {pause:?} after {longest:?}"
            );
            longest = pause;
        }
        assert_eq!(longest, LONGEST_PAUSE);
        assert_eq!(index.stalls().expect("stalls"), 0, "RocksDB had no need to");
    }

    #[test]
    fn a_checkpoint_survives_without_a_log() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let index = RocksIndex::open(folder.path()).expect("open");
        let mut batch = Batch::default();
        batch.put(Table::Marks, *b"k", *b"v");
        index.write(batch).expect("write");
        index.checkpoint().expect("checkpoint");
        drop(index);
        let index = RocksIndex::open(folder.path()).expect("reopen");
        assert_eq!(
            index.get(Table::Marks, b"k").expect("get").as_deref(),
            Some(&b"v"[..])
        );
    }
}
