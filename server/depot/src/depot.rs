//! The depot: one handle over segments, index and the threads that write.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use snowcache_core::path_info::Signed;
use snowcache_nix::{NarHash, StoreHash, StorePath};

use crate::commit::{Change, Committer, Outcome};
use crate::compress::Compressors;
use crate::filling::Filling;
use crate::index::owed::Owed;
use crate::index::renewing::{RenewingIndex, set_aside};
use crate::index::watched::{Watched, Watchers};
use crate::index::{Batch, Index, Table};
use crate::ingest::{Ingest, Nar, is_nar};
use crate::keys::CacheName;
use crate::leases::Leases;
use crate::mark::Mark;
use crate::options::Options;
use crate::patches::Patches;
use crate::pool::{Pool, Stream};
use crate::quarantine::Quarantine;
use crate::read::{NarReader, read_state};
use crate::replay;
use crate::room::Room;
use crate::rows::{PathRow, Place, UploadRow, time_row};
use crate::segments::Segments;
use crate::segments::committed::Committed;
use crate::segments::local::LocalSegments;
use crate::state::{Document, UploadState, document_of};
use crate::tallies::Tallies;
use crate::uses::Uses;
use crate::{Error, Result};

/// Segment bytes committed between checkpoints of the index: what a start after a crash reads
/// again, under half a second.
pub const CHECKPOINT_BYTES: u64 = 512 << 20;

const AT_THE_GATE: &str = "invariant: no panic at the gate";

/// The most rows that one page of a listing holds.
pub const MAX_PAGE: usize = 10_000;

/// What all parts of a depot share.
pub(crate) struct Shared {
    pub segments: Arc<dyn Segments>,
    pub index: Arc<dyn Index>,
    /// The same index, where it takes what is durable.
    owed: Arc<Owed>,
    /// What is kept in memory of it.
    pub watchers: Arc<Watchers>,
    pub pool: Arc<Pool>,
    pub compressors: Compressors,
    pub room: Room,
    pub patches: Arc<Patches>,
    pub uses: Uses,
    pub leases: Leases,
    pub tallies: Tallies,
    /// Commits read it from their first look to their last write; the collector writes it where
    /// nothing may change under its hands.
    gate: RwLock<()>,
    /// What is damaged and not served.
    pub quarantine: Quarantine,
    /// The depot's folder, where others may hold its segments.
    pub dir: PathBuf,
    /// Held by the one collection that runs.
    pub collecting: Mutex<()>,
    /// A collection ends at its next step.
    pub stopping: AtomicBool,
    pub max_nar_bytes: u64,
    /// How long URLs are remembered.
    pub url_grace_s: u64,
    /// Held while it is written down what was used.
    pub noting: Mutex<()>,
    /// Held by the one recompression that runs.
    pub recompressing: Mutex<()>,
    pub clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    uncheckpointed: AtomicU64,
}

impl Shared {
    /// Passes the gate to commit something: what is read from here on holds until the guard is
    /// dropped, and lacks nothing that is durable.
    pub fn commits(&self) -> Result<RwLockReadGuard<'_, ()>> {
        let gate = self.gate.read().expect(AT_THE_GATE);
        self.owed.pay()?;
        Ok(gate)
    }

    /// Closes the gate: nothing is committed until the guard is dropped.
    pub fn undisturbed(&self) -> Result<RwLockWriteGuard<'_, ()>> {
        let gate = self.gate.write().expect(AT_THE_GATE);
        self.owed.pay()?;
        Ok(gate)
    }

    /// Indexes what `streams` made durable, with their replay marks, in one batch.
    pub fn index_committed(&self, mut batch: Batch, streams: &[Stream]) -> Result<()> {
        tracing::debug!(phase = "index", "indexing what is durable");
        let mut grown = 0;
        for stream in streams {
            let next_seq = self.pool.next_seq();
            Mark {
                len: stream.len(),
                next_seq,
                level: stream.level(),
            }
            .put(&mut batch, stream.id());
            grown += stream.grown();
        }
        self.owed.write_durable(batch)?;
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
    shared: Arc<Shared>,
    committer: Arc<Committer>,
    /// Ends with the last handle.
    _filling: Arc<Filling>,
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
        let (segments, folder) = (Arc::new(segments), dir.join("index"));
        let mut index = Arc::new(RenewingIndex::open(&folder)?);
        let depot = match Depot::over(options.clone(), segments.clone(), index.clone()) {
            Err(error) if index.is_damaged() => {
                tracing::error!(%error, "the index is damaged and is made anew");
                drop(index);
                set_aside(&folder)?;
                index = Arc::new(RenewingIndex::open(&folder)?);
                Depot::over(options, segments.clone(), index.clone())?
            }
            opened => opened?,
        };
        let (pool, clock) = (depot.shared.pool.clone(), depot.shared.clock.clone());
        let watchers = depot.shared.watchers.clone();
        index.catches_up_by(Box::new(move |fresh| {
            let committed = Committed::new(&*segments, pool.committed_lengths());
            replay::replay(&committed, fresh, clock())?;
            watchers.anew();
            Ok(())
        }));
        Ok(depot)
    }

    /// A depot over any segments and index.
    pub fn over(
        options: Options,
        segments: Arc<dyn Segments>,
        index: Arc<dyn Index>,
    ) -> Result<Depot> {
        let found = replay::replay(&*segments, &*index, (options.clock)())?;
        let pool = Pool::new(segments.clone(), found);
        let watchers = Arc::<Watchers>::default();
        let folder = options.dir.join("patches");
        let patches = Patches::new(folder, options.max_patch_bytes, watchers.clone());
        let patches = Arc::new(patches);
        let room = Room::new(
            segments.clone(),
            pool.clone(),
            options.max_size_bytes,
            options.reserve_bytes,
            patches.clone(),
        );
        let watched = Watched::new(index, watchers.clone());
        let owed = Arc::new(Owed::new(Arc::new(watched)));
        let shared = Arc::new(Shared {
            segments,
            index: owed.clone(),
            owed,
            watchers: watchers.clone(),
            pool,
            compressors: Compressors::start(options.threads, options.zstd_level)?,
            room,
            patches,
            uses: Uses::default(),
            leases: Leases::new(options.max_leased_bytes),
            tallies: Tallies::default(),
            gate: RwLock::new(()),
            quarantine: Quarantine::new(watchers),
            dir: options.dir,
            collecting: Mutex::new(()),
            stopping: AtomicBool::new(false),
            max_nar_bytes: options.max_nar_bytes,
            url_grace_s: options.url_grace_s,
            noting: Mutex::new(()),
            recompressing: Mutex::new(()),
            clock: options.clock,
            uncheckpointed: AtomicU64::new(0),
        });
        shared.read_quarantine()?;
        let filling = Arc::new(Filling::start(&shared)?);
        let committer = Arc::new(Committer::start(shared.clone())?);
        Ok(Depot {
            shared,
            committer,
            _filling: filling,
        })
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
        let row = value.map(|value| UploadRow::decode(&value)).transpose()?;
        Ok(row.map(|row| row.state).filter(|state| is_nar(&state.name)))
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
            vouched: Arc::default(),
        };
        match self.committer.commit(change)? {
            Outcome::Published(published) => Ok(published),
            _ => unreachable!("a publication was asked for"),
        }
    }

    /// Writes down when paths were last used, all that were until now: call it every minute or so.
    /// What a crash loses of it is at most what came since the last [`Depot::checkpoint`].
    pub fn write_uses(&self) -> Result<()> {
        let _noting = self.shared.noting.lock().expect(AT_THE_GATE);
        let now = time_row((self.shared.clock)());
        let mut batch = Batch::default();
        let touched = self.shared.uses.take_touched();
        for key in &touched {
            batch.put(Table::Used, key.as_slice(), now.clone());
        }
        let written = self.shared.index.write(batch);
        if written.is_err() {
            self.shared.uses.touch_again(touched);
        }
        written
    }

    /// Makes the index survive a crash as it is now, without replay.
    pub fn checkpoint(&self) -> Result<()> {
        self.shared.index.checkpoint()
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
        let (index, mut paths) = (&self.shared.index, Vec::new());
        while paths.len() < limit {
            let left = limit - paths.len();
            let rows = index.scan(Table::Paths, &prefix, after.as_deref(), left)?;
            for (_, row) in &rows {
                if !self.shared.quarantine.hides(row)? {
                    paths.push(PathRow::decode(row)?.info()?.store_path);
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

    /// The same, in the encoding of this name, as long as that one is kept; in the current one
    /// then.
    pub fn nar_as(
        &self,
        cache: &CacheName,
        nar: &NarHash,
        encoding: &str,
    ) -> Result<Option<NarReader>> {
        let Some(current) = self.nar(cache, nar)? else {
            return Ok(None);
        };
        Ok(Some(match current.encoding().name == encoding {
            true => current,
            false => current.former(encoding)?.unwrap_or(current),
        }))
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
            _ => unreachable!("a document was handed in"),
        }
    }

    /// Reads a document.
    pub fn document(&self, cache: &CacheName, kind: Document, key: &str) -> Result<Option<Bytes>> {
        read_document(&self.shared, &document_key(cache, kind, key))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn commit(&self, change: Change) -> Result<Outcome> {
        self.committer.commit(change)
    }

    pub(crate) fn commit_all(&self, changes: impl Iterator<Item = Change>) -> Vec<Result<Outcome>> {
        self.committer.commit_all(changes)
    }
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

/// The body of the document with this key of the index.
pub(crate) fn read_document(shared: &Shared, key: &[u8]) -> Result<Option<Bytes>> {
    let mut tried = None;
    loop {
        let Some(row) = shared.index.get(Table::Documents, key)? else {
            return Ok(None);
        };
        let place = Place::of_row(&row)?;
        match read_state(&*shared.segments, place.segment(), place.offset) {
            Ok((_, payload)) => return Ok(Some(document_of(&payload)?.1)),
            // Its segment was rewritten between the two look-ups.
            Err(error) if error.is_gone() && tried != Some(place) => tried = Some(place),
            Err(error) => return Err(error),
        }
    }
}
