//! Patches: what is new in one NAR, told by an older NAR, on disk.
//!
//! ```text
//!   a pin moves --> pairs of paths by name --> compared as for a plan --> runs to be fetched
//!                   runs, 8 MiB at a time  --32 MiB of the old NAR--> scripts --zstd--> a file
//!   a plan      --> its runs that a patch has --> pieces of that file instead of frames
//! ```
//! The file is `patches/<new NAR>-<old NAR>.patch` in the depot's folder:
//! [`snowcache_core::delta::patch`], and the first 8 bytes of its BLAKE3.
//!
//! Guarantees: a patch is read only when it is whole; making one takes some 150 MiB of memory; all
//! together they take no more than their limit on disk, those used last stay, and all go when
//! uploads find no room. Never: needed. What is made of a patch is hashed by whoever uses it,
//! and a patch that went costs frames.

mod pieces;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use snowcache_core::delta::Step;
use snowcache_core::delta::patch;
use snowcache_nix::NarHash;

use crate::index::watched::Watchers;
use crate::read::NarReader;
use crate::{Error, Result};

use pieces::{Packer, Piece};

/// What of new NARs is packed for one pair at most: a minute of one core.
const MAX_RAW_BYTES: u64 = 4 << 30;
/// The longest patch: it is held in memory while it is made, and while it is checked.
const MAX_PATCH_BYTES: u64 = 64 << 20;
/// What a patch may take of what its frames do, in percent: above, frames are as good.
const WORTH_PERCENT: u64 = 90;
/// Read of a patch at a time.
const STEP_BYTES: usize = 256 << 10;
const CHECKSUM_BYTES: usize = 8;

/// The folder of patches.
pub struct Patches {
    folder: PathBuf,
    max_bytes: u64,
    /// What was told with a patch, or without it, is told anew.
    watchers: Arc<Watchers>,
    made: AtomicU64,
    used: AtomicU64,
}

/// What making a patch came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patched {
    /// It was there.
    Known,
    /// There is nothing to fetch, or frames are as good, or it would take too long.
    Useless,
    /// It is there now.
    Made {
        /// What it makes.
        raw_bytes: u64,
        /// What it takes.
        stored_bytes: u64,
    },
}

/// A patch that is there.
pub struct Patch {
    /// Ranges of the new NAR, rising, which it makes one after the other.
    pub runs: Vec<Range<u64>>,
    /// Where in the file its zstd frame is: offset and length.
    pub pieces: (u64, u64),
}

/// A patch's file. It can be read on when it was removed.
#[derive(Clone)]
pub struct PatchFile {
    file: Arc<File>,
    size_bytes: u64,
}

impl PatchFile {
    /// Its length.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Its bytes in this range, some at a time.
    pub fn read(&self, range: Range<u64>) -> impl Iterator<Item = Result<Bytes>> + use<> {
        let (file, end) = (self.file.clone(), range.end);
        range.step_by(STEP_BYTES).map(move |at| {
            let len = (end - at).min(STEP_BYTES as u64);
            let mut step = vec![0; len as usize];
            let read = file.read_exact_at(&mut step, at);
            read.map_err(|e| Error::io("reading a patch", e))?;
            Ok(Bytes::from(step))
        })
    }
}

impl Patch {
    /// Where in what it makes the bytes of this range of the new NAR are, if it makes all of them.
    pub fn place(&self, range: &Range<u64>) -> Option<u64> {
        let (mut made, mut place, mut until) = (0, None, range.start);
        for run in &self.runs {
            if run.contains(&until) {
                place = place.or(Some(made + (until - run.start)));
                until = run.end;
            }
            if until >= range.end {
                return place;
            }
            made += run.end - run.start;
        }
        None
    }
}

impl Patches {
    /// Those in this folder, which may take so many bytes; with 0 none are made or used.
    pub(crate) fn new(folder: PathBuf, max_bytes: u64, watchers: Arc<Watchers>) -> Patches {
        Patches {
            folder,
            max_bytes,
            watchers,
            made: AtomicU64::new(0),
            used: AtomicU64::new(0),
        }
    }

    /// Whether there are to be any.
    pub fn are_wanted(&self) -> bool {
        self.max_bytes > 0
    }

    fn file(&self, new: &NarHash, old: &NarHash) -> PathBuf {
        self.folder.join(patch::name(new, old))
    }

    /// The patch that makes `new` of `old`, if there is one; it is as good as used.
    pub fn find(&self, new: &NarHash, old: &NarHash) -> Option<Patch> {
        let path = self.file(new, old);
        let found = self
            .are_wanted()
            .then(|| read(&path))
            .and_then(io::Result::ok)?;
        self.used.fetch_add(1, Ordering::Relaxed);
        let touched = File::options().append(true).open(&path);
        // Those used last stay; without a time it only goes a little earlier.
        touched
            .and_then(|file| file.set_modified(SystemTime::now()))
            .ok();
        Some(found)
    }

    /// A patch's file, to be sent.
    pub fn open(&self, new: &NarHash, old: &NarHash) -> Option<PatchFile> {
        let file = File::open(self.file(new, old)).ok()?;
        let size_bytes = file.metadata().ok()?.len();
        Some(PatchFile {
            file: Arc::new(file),
            size_bytes,
        })
    }

    /// Makes the patch of these steps, which came of comparing the two, unless `stopping` comes
    /// before.
    ///
    /// # Errors
    /// When a NAR cannot be read, or the disk not be written.
    pub fn make(
        &self,
        (old, new): (&NarReader, &NarReader),
        steps: &[Step],
        frames_bytes: u64,
        stopping: &AtomicBool,
    ) -> Result<Patched> {
        let path = self.file(&new.nar().nar_hash, &old.nar().nar_hash);
        if read(&path).is_ok() {
            return Ok(Patched::Known);
        }
        let pieces = pieces::of(steps, old.nar().nar_size_bytes);
        let raw_bytes = pieces.iter().map(Piece::raw_bytes).sum();
        if pieces.is_empty() || raw_bytes > MAX_RAW_BYTES {
            return Ok(Patched::Useless);
        }
        let most = (frames_bytes / 100 * WORTH_PERCENT).min(MAX_PATCH_BYTES);
        let most = most.min(self.max_bytes);
        let runs: Vec<Range<u64>> = pieces.iter().flat_map(|it| it.runs.clone()).collect();
        let mut packer = Packer::begin(&runs)?;
        for piece in &pieces {
            if stopping.load(Ordering::Relaxed) {
                return Ok(Patched::Useless);
            }
            packer.put(piece, old, new)?;
            if packer.stored_bytes() > most {
                return Ok(Patched::Useless);
            }
        }
        let patch = packer.end()?;
        if patch.len() as u64 > most {
            return Ok(Patched::Useless);
        }
        let stored_bytes = patch.len() as u64;
        self.keep(&path, patch)
            .map_err(|e| Error::io(format!("writing {}", path.display()), e))?;
        self.made.fetch_add(1, Ordering::Relaxed);
        Ok(Patched::Made {
            raw_bytes,
            stored_bytes,
        })
    }

    /// Puts a patch there, and removes those used longest ago that there is no room for.
    fn keep(&self, path: &Path, mut patch: Vec<u8>) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        patch.extend(checksum(&patch));
        let mut there = self.all()?;
        there.sort();
        let mut sum = patch.len() as u64;
        for (_, path, len) in there.into_iter().rev() {
            sum += len;
            if sum > self.max_bytes {
                self.remove(&path)?;
            }
        }
        let unfinished = path.with_extension("new");
        let mut file = File::create(&unfinished)?;
        file.write_all(&patch)?;
        fs::rename(unfinished, path)?;
        self.changed(path);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)?;
        self.changed(path);
        Ok(())
    }

    /// What was told of the new NAR of this patch does not hold any more.
    fn changed(&self, path: &Path) {
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some((new, _)) = name.and_then(patch::named) {
            self.watchers.versions.changed(new.as_bytes());
        }
    }

    /// When each was used, where it is, and how long.
    fn all(&self) -> io::Result<Vec<(SystemTime, PathBuf, u64)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let about = entry.metadata()?;
            all.push((about.modified()?, entry.path(), about.len()));
        }
        Ok(all)
    }

    /// Removes all: somebody needs the room. Gives how much that was.
    pub fn clear(&self) -> u64 {
        let mut freed = 0;
        for (_, path, len) in self.all().unwrap_or_default() {
            if self.remove(&path).is_ok() {
                freed += len;
            }
        }
        if freed > 0 {
            tracing::info!(bytes = freed, "patches went, for uploads need the room");
        }
        freed
    }

    /// How many were made and used since the start, and what they take.
    pub fn counted(&self) -> (u64, u64, u64) {
        let bytes = self.all().unwrap_or_default().iter().map(|it| it.2).sum();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.made), count(&self.used), bytes)
    }
}

fn checksum(patch: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::hash(patch);
    let mut first = [0; CHECKSUM_BYTES];
    first.copy_from_slice(&hash.as_bytes()[..CHECKSUM_BYTES]);
    first
}

/// A patch's file, if it is whole.
fn read(path: &Path) -> io::Result<Patch> {
    let mut patch = Vec::new();
    File::open(path)?.read_to_end(&mut patch)?;
    let damaged = || io::Error::from(io::ErrorKind::InvalidData);
    let len = patch
        .len()
        .checked_sub(CHECKSUM_BYTES)
        .ok_or_else(damaged)?;
    if checksum(&patch[..len]) != patch[len..] {
        return Err(damaged());
    }
    let (runs, begin) = patch::runs(&patch[..len]).map_err(|_| damaged())?;
    Ok(Patch {
        runs,
        pieces: (begin, len as u64 - begin),
    })
}
