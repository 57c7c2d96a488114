//! The depot: one handle over segments, index and the threads that write.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Serialize;
use snowcache_core::path_info::Signed;
use snowcache_nix::{NarHash, PathInfo, StoreHash, StorePath};

use crate::commit::{Change, Committer, Outcome};
use crate::compress::Compressors;
use crate::index::rocks::RocksIndex;
use crate::index::{Batch, Index, Table};
use crate::ingest::{Ingest, Nar};
use crate::keys::CacheName;
use crate::layout::{Encoding, Layout};
use crate::pool::{Pool, Stream};
use crate::quarantine::Quarantine;
use crate::read::{NarReader, read_state};
use crate::replay::{self, Mark};
use crate::segments::local::LocalSegments;
use crate::segments::{SegmentId, Segments};
use crate::state::{Document, UploadState, document_of, from_json};
use crate::varint::Reader;
use crate::{Error, ErrorKind, Result};

/// Segment bytes committed between checkpoints of the index: what a start after a crash reads
/// again, under half a second.
pub const CHECKPOINT_BYTES: u64 = 512 << 20;

/// The most rows that one page of a listing holds.
pub const MAX_PAGE: usize = 10_000;

/// How a depot is opened.
#[derive(Clone)]
pub struct Options {
    /// The folder that holds everything.
    pub dir: PathBuf,
    /// zstd level of frames.
    pub zstd_level: i32,
    /// Threads that compress.
    pub threads: usize,
    /// The largest NAR taken, in bytes.
    pub max_nar_bytes: u64,
    /// Seconds since 1970.
    pub clock: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Options {
    /// Level 3, a thread a core, NARs up to 1 TiB, the system's clock.
    pub fn new(dir: impl Into<PathBuf>) -> Options {
        let clock = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| d.as_secs())
        };
        Options {
            dir: dir.into(),
            zstd_level: 3,
            threads: std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            max_nar_bytes: 1 << 40,
            clock: Arc::new(clock),
        }
    }
}

/// What all parts of a depot share.
pub(crate) struct Shared {
    pub segments: Arc<dyn Segments>,
    pub index: Arc<dyn Index>,
    pub pool: Arc<Pool>,
    pub compressors: Compressors,
    pub max_nar_bytes: u64,
    pub clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    pub gate: RwLock<()>,
    pub quarantine: Quarantine,
    uncheckpointed: AtomicU64,
}

impl Shared {
    /// Indexes what `streams` made durable, with their replay marks, in one batch.
    pub fn index_committed(&self, mut batch: Batch, streams: &[Stream]) -> Result<()> {
        tracing::debug!(phase = "index", "indexing what is durable");
        let mut grown = 0;
        for stream in streams {
            let next_seq = self.pool.next_seq();
            Mark {
                len: stream.len(),
                next_seq,
            }
            .put(&mut batch, stream.id());
            grown += stream.grown();
        }
        self.index.write(batch)?;
        if self.uncheckpointed.fetch_add(grown, Ordering::Relaxed) + grown >= CHECKPOINT_BYTES {
            self.uncheckpointed.store(0, Ordering::Relaxed);
            self.index.checkpoint()?;
        }
        Ok(())
    }
}

/// A depot. Clones are handles to the same one; all calls block on the disk.
#[derive(Clone)]
pub struct Depot {
    pub(crate) shared: Arc<Shared>,
    committer: Arc<Committer>,
}

/// A visible path.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What is known of it.
    pub info: PathInfo,
    /// The encoding of its NAR that is served.
    pub encoding: Encoding,
}

/// What publishing a path came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// The path is visible from now on.
    New,
    /// It was visible with the same content; signatures that were new were added.
    Known,
    /// It is visible with other content, which stays.
    Conflict {
        /// The NAR that everyone gets.
        winner: NarHash,
    },
}

/// What storing a document came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is readable from now on.
    New,
    /// The same bytes were there.
    Same,
    /// Other bytes were there and stay.
    Conflict,
}

/// What an upload was found to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadInfo {
    /// The NAR.
    pub nar: Nar,
    /// The compression it came in, by the narinfo's word for it.
    pub codec: String,
    /// Its length as it came, in bytes.
    pub file_size_bytes: u64,
}

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
    /// Opens the depot in a folder, creating it when it is not there. What the index lacks is
    /// replayed from the segments; an index that does not open is set aside as `index.damaged` and
    /// rebuilt.
    pub fn open(options: Options) -> Result<Depot> {
        let dir = options.dir.clone();
        fs::create_dir_all(&dir)
            .map_err(|e| Error::io(format!("creating {}", dir.display()), e))?;
        let segments = LocalSegments::open(&dir.join("segments"))
            .map_err(|e| Error::io(format!("opening the segments in {}", dir.display()), e))?;
        let index = open_index(&dir.join("index"))?;
        Depot::over(options, Arc::new(segments), Arc::new(index))
    }

    /// A depot over any segments and index.
    pub fn over(
        options: Options,
        segments: Arc<dyn Segments>,
        index: Arc<dyn Index>,
    ) -> Result<Depot> {
        let found = replay::replay(&*segments, &*index)?;
        let pool = Pool::new(
            segments.clone(),
            found.unsealed,
            found.next_segment,
            found.next_seq,
        );
        let shared = Arc::new(Shared {
            segments,
            index,
            pool,
            compressors: Compressors::start(options.threads, options.zstd_level)?,
            max_nar_bytes: options.max_nar_bytes,
            clock: options.clock,
            gate: RwLock::new(()),
            quarantine: Quarantine::default(),
            uncheckpointed: AtomicU64::new(0),
        });
        shared.read_quarantine()?;
        let committer = Arc::new(Committer::start(shared.clone())?);
        Ok(Depot { shared, committer })
    }

    /// Begins to receive a NAR.
    pub fn ingest(&self) -> Result<Ingest> {
        Ok(Ingest::new(self.shared.clone()))
    }

    /// What was uploaded to `cache` under `name`.
    pub fn upload(&self, cache: &CacheName, name: &str) -> Result<Option<UploadInfo>> {
        let Some(state) = self.upload_state(cache, name)? else {
            return Ok(None);
        };
        let nar = Nar {
            nar_hash: state.nar_hash,
            nar_size_bytes: state.nar_size,
        };
        let UploadState {
            codec,
            file_size: file_size_bytes,
            ..
        } = state;
        Ok(Some(UploadInfo {
            nar,
            codec,
            file_size_bytes,
        }))
    }

    fn upload_state(&self, cache: &CacheName, name: &str) -> Result<Option<UploadState>> {
        let value = self
            .shared
            .index
            .get(Table::Uploads, &cache.key(name.as_bytes()))?;
        value
            .map(|value| from_json(&value, "an upload in the index"))
            .transpose()
    }

    /// Makes a path visible; it is durable when this returns.
    ///
    /// # Errors
    /// `Refused` where the NAR is not here or a reference is not visible in the cache.
    pub fn publish(&self, cache: &CacheName, path: Signed, subject: &str) -> Result<Published> {
        let (cache, info) = (cache.clone(), path.into_info());
        let change = Change::Publish {
            cache,
            info,
            subject: subject.to_owned(),
        };
        match self.committer.commit(change)? {
            Outcome::Published(published) => Ok(published),
            Outcome::Stored(_) => unreachable!("a publication was asked for"),
        }
    }

    /// A visible path.
    pub fn path(&self, cache: &CacheName, hash: &StoreHash) -> Result<Option<Entry>> {
        let Some(text) = self.shared.index.get(Table::Paths, &cache.path_key(hash))? else {
            return Ok(None);
        };
        let info = path_info(&text)?;
        if self.shared.quarantine.is_sick(&info.nar_hash) {
            return Ok(None);
        }
        let layout = Layout::read(&*self.shared.index, &info.nar_hash)?.ok_or_else(|| {
            Error::corrupt(format!("{} is published without its NAR", info.store_path))
        })?;
        Ok(Some(Entry {
            info,
            encoding: layout.encoding,
        }))
    }

    /// Which of these paths are visible.
    pub fn has(&self, cache: &CacheName, hashes: &[StoreHash]) -> Result<Vec<bool>> {
        let keys: Vec<_> = hashes.iter().map(|hash| cache.path_key(hash)).collect();
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let found = self.shared.index.get_many(Table::Paths, &keys)?;
        let quarantine = &self.shared.quarantine;
        let servable = |text: Option<Bytes>| match text {
            Some(text) if quarantine.any() => Ok(!quarantine.is_sick(&path_info(&text)?.nar_hash)),
            text => Ok(text.is_some()),
        };
        found.into_iter().map(servable).collect()
    }

    /// Visible paths behind `after`, by hash; at most `limit` and [`MAX_PAGE`].
    pub fn paths(
        &self,
        cache: &CacheName,
        after: Option<StoreHash>,
        limit: usize,
    ) -> Result<Vec<StorePath>> {
        let mut after = after.map(|hash| Bytes::from(cache.path_key(&hash)));
        let (limit, prefix) = (limit.min(MAX_PAGE), cache.key(b""));
        let mut paths = Vec::new();
        while paths.len() < limit {
            let left = limit - paths.len();
            let rows = self
                .shared
                .index
                .scan(Table::Paths, &prefix, after.as_deref(), left)?;
            for (_, text) in &rows {
                let info = path_info(text)?;
                if !self.shared.quarantine.is_sick(&info.nar_hash) {
                    paths.push(info.store_path);
                }
            }
            match rows.into_iter().next_back() {
                Some((key, _)) => after = Some(key),
                None => break,
            }
        }
        Ok(paths)
    }

    /// Reads the NAR of a visible path.
    pub fn nar(&self, cache: &CacheName, nar: &NarHash) -> Result<Option<NarReader>> {
        if self
            .shared
            .index
            .get(Table::Visible, &cache.nar_key(nar))?
            .is_none()
        {
            return Ok(None);
        }
        NarReader::open(self.shared.clone(), *nar)
    }

    /// Reads the NAR that was uploaded to `cache` under `name`, visible or under lease.
    pub fn uploaded_nar(&self, cache: &CacheName, name: &str) -> Result<Option<NarReader>> {
        match self.upload_state(cache, name)? {
            Some(state) => NarReader::open(self.shared.clone(), state.nar_hash),
            None => Ok(None),
        }
    }

    /// Stores a document; it is durable when this returns.
    pub fn put_document(
        &self,
        cache: &CacheName,
        kind: Document,
        key: &str,
        body: &[u8],
        subject: &str,
    ) -> Result<Stored> {
        let (cache, key, subject) = (cache.clone(), key.to_owned(), subject.to_owned());
        let body = Bytes::copy_from_slice(body);
        match self.committer.commit(Change::Document {
            cache,
            kind,
            key,
            body,
            subject,
        })? {
            Outcome::Stored(stored) => Ok(stored),
            Outcome::Published(_) => unreachable!("a document was handed in"),
        }
    }

    /// Reads a document.
    pub fn document(&self, cache: &CacheName, kind: Document, key: &str) -> Result<Option<Bytes>> {
        let key = document_key(cache, kind, key);
        let Some(value) = self.shared.index.get(Table::Documents, &key)? else {
            return Ok(None);
        };
        Ok(Some(read_document(&self.shared, &value)?))
    }

    /// Counts everything.
    pub fn stats(&self) -> Result<Stats> {
        let segments = self
            .shared
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
            sick_nars: self.shared.quarantine.len() as u64,
        })
    }

    fn count(&self, table: Table, counts: impl Fn(&[u8]) -> bool) -> Result<u64> {
        let (mut total, mut after) = (0, None::<Bytes>);
        loop {
            let rows = self
                .shared
                .index
                .scan(table, &[], after.as_deref(), MAX_PAGE)?;
            total += rows.iter().filter(|(key, _)| counts(key)).count() as u64;
            match rows.last() {
                Some((key, _)) => after = Some(key.clone()),
                None => return Ok(total),
            }
        }
    }
}

/// Opens the index; a damaged one is set aside, since it can be replayed.
fn open_index(folder: &Path) -> Result<RocksIndex> {
    match RocksIndex::open(folder) {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            let aside = folder.with_extension("damaged");
            tracing::error!(%error, aside = %aside.display(), "rebuilding a damaged index");
            if aside.exists() {
                fs::remove_dir_all(&aside).map_err(|e| Error::io("removing an old index", e))?;
            }
            fs::rename(folder, &aside).map_err(|e| Error::io("setting the index aside", e))?;
            RocksIndex::open(folder)
        }
        opened => opened,
    }
}

/// A path's record in the index.
pub(crate) fn path_info(text: &[u8]) -> Result<PathInfo> {
    let text = std::str::from_utf8(text)
        .map_err(|e| Error::caused(ErrorKind::Corrupt, "a path's record does not read", e))?;
    PathInfo::from_record(text)
        .map_err(|e| Error::caused(ErrorKind::Corrupt, "a path's record does not read", e))
}

/// A document's key in the index.
pub(crate) fn document_key(cache: &CacheName, kind: Document, key: &str) -> Vec<u8> {
    let kind = match kind {
        Document::Log => 0,
        Document::Realisation => 1,
        Document::BuildTrace => 2,
    };
    cache.key(&[&[kind], key.as_bytes()].concat())
}

/// The body of the document at a location of the index.
pub(crate) fn read_document(shared: &Shared, location: &[u8]) -> Result<Bytes> {
    let mut reader = Reader::new(location, "a document's location");
    let (segment, offset) = (SegmentId(reader.u32()?), reader.u64()?);
    let (_, payload) = read_state(&*shared.segments, segment, offset)?;
    Ok(document_of(&payload)?.1)
}
