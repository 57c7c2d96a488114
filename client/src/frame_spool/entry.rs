//! What has come of one stream, and comes.
//!
//! Guarantees: whoever takes what was kept and then gives what follows leaves a file that is whole
//! but for [`LEAST_BYTES`] of what they were sent, however they end. Disks are waited for on
//! threads that may, and by the stream only when its next span is full while one is being written.

use super::file::{About, SpanFile};
use super::{LEAST_BYTES, Part, Shared};
use bytes::Bytes;
use snowcache_nix::StoreHash;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;

/// Written at a time.
const SPAN_BYTES: usize = 256 << 10;

/// The most that comes at a time: what a connection reads is held to that.
pub const MAX_CHUNK_BYTES: usize = 128 << 10;

/// A kill loses a span that is being written and one that is gathered, each of which is full once
/// it has [`SPAN_BYTES`], a chunk that was read, and one that was taken out of its buffer.
const _: () = assert!((2 * SPAN_BYTES + 3 * MAX_CHUNK_BYTES) as u64 <= LEAST_BYTES);

/// Looks for a file that whoever was broken off is about to let go of.
const LOOKS: u32 = 20;
/// Between two of them.
const LOOK: Duration = Duration::from_millis(5);

/// See the module.
pub struct Entry {
    spool: Arc<Shared>,
    hash: StoreHash,
    path: PathBuf,
    about: About,
    kept_bytes: u64,
    file: Pen,
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
}

/// Who has the file.
enum Pen {
    Here(SpanFile),
    /// Somebody who writes a span, and gives it back if that went well.
    Writing(JoinHandle<Option<SpanFile>>),
    /// Nothing is kept any more.
    Gone,
}

impl Entry {
    /// Nothing where somebody else has it.
    pub(super) async fn open(
        spool: Arc<Shared>,
        hash: StoreHash,
        part: Part,
        about: About,
    ) -> Option<Entry> {
        let path = spool.folder().join(part.file_name(hash));
        for _ in 0..LOOKS {
            let (file, wanted) = (path.clone(), about.clone());
            let opened = spawn_blocking(move || SpanFile::open(file, &wanted)).await;
            match opened.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(Some((file, found))) => {
                    let about = About {
                        etag: found.etag,
                        ..about
                    };
                    return Some(Entry {
                        spool,
                        hash,
                        path,
                        about,
                        kept_bytes: found.bytes,
                        file: Pen::Here(file),
                        gathered: Vec::new(),
                        gathered_bytes: 0,
                    });
                }
                Ok(None) => sleep(LOOK).await,
                Err(error) => {
                    spool.complain(&path, &error);
                    return None;
                }
            }
        }
        None
    }

    /// How much of it is here.
    pub fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    /// What the cache said of the version that is here.
    pub fn etag(&self) -> Option<&str> {
        self.about.etag.as_deref()
    }

    /// What is here is used.
    pub fn resume(&self) {
        self.spool.state().resumed.insert(self.hash);
    }

    /// What is here is of no use, and this version comes from its beginning.
    pub fn begin(&mut self, etag: Option<&str>) {
        if let Pen::Here(file) = &mut self.file {
            file.clear();
        }
        self.about.etag = etag.map(str::to_owned);
        self.kept_bytes = 0;
    }

    /// The next of what is here; nothing at the end of what is right.
    pub async fn next(&mut self) -> Option<Bytes> {
        let Pen::Here(mut file) = std::mem::replace(&mut self.file, Pen::Gone) else {
            return None;
        };
        let read = spawn_blocking(move || file.next().map(|bytes| (file, bytes))).await;
        match read.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok((file, bytes)) => {
                self.file = Pen::Here(file);
                bytes
            }
            Err(error) => {
                self.spool.complain(&self.path, &error);
                None
            }
        }
    }

    /// This came.
    pub async fn push(&mut self, chunk: &Bytes) {
        if matches!(self.file, Pen::Gone) {
            return;
        }
        self.gathered.push(chunk.clone());
        self.gathered_bytes += chunk.len();
        if self.gathered_bytes >= SPAN_BYTES {
            self.write().await;
        }
    }

    /// Nothing more comes: what waits for its references is kept, too.
    pub async fn end(&mut self) {
        if self.gathered_bytes > 0 {
            self.write().await;
        }
    }

    async fn write(&mut self) {
        let file = match std::mem::replace(&mut self.file, Pen::Gone) {
            Pen::Here(file) => Some(file),
            Pen::Writing(writing) => writing.await.unwrap_or_default(),
            Pen::Gone => None,
        };
        let Some(mut file) = file else {
            return;
        };
        let chunks = std::mem::take(&mut self.gathered);
        let bytes = std::mem::take(&mut self.gathered_bytes) as u64;
        // A gap cannot be: what has no room now ends the entry.
        if !self.spool.take(file.cost_bytes(&self.about, bytes)) {
            return;
        }
        let (spool, about, path) = (self.spool.clone(), self.about.clone(), self.path.clone());
        self.file = Pen::Writing(spawn_blocking(move || match file.append(&about, &chunks) {
            Ok(cut_off_bytes) => {
                spool.give_back(cut_off_bytes);
                Some(file)
            }
            Err(error) => {
                spool.complain(&path, &error);
                None
            }
        }));
    }
}
