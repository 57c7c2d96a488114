//! Backups: a data folder copied while it is in use, into a folder that is one itself.
//!
//! ```text
//!   DATA/depot/segments/*.seg --what was committed--> DIR/depot/segments/*.seg   only grown
//!   DATA/keys, *.token        ----------------------> DIR/...                    same permissions
//!                                                     DIR/backup.json            lengths, BLAKE3
//! ```
//!
//! Segments only grow, so a backup of what was committed needs no stop, and the next one into the
//! same folder copies what was added. Two passes make it one moment's state: the first notes the
//! highest sequence number it saw, the second adds what was committed up to that number meanwhile,
//! for whatever a record needs was committed before the record got its number.
//!
//! Guarantees: what was acknowledged before it began is in it; a [`Hold`] keeps segments from being
//! removed while it runs; a backup that is cut short leaves the one before it as it was, and the
//! next run goes on. The index is left out: it is made anew from the segments.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::record::{Header, Kind, StateHeader};
use crate::scan::{BadSectors, Commits, Item, walk};
use crate::segments::local::LocalSegments;
use crate::segments::{SegmentId, Segments};
use crate::{Error, Result};

mod copy;
mod files;
mod hold;
mod manifest;
mod verify;

pub use hold::{HOLD, Hold};
pub use verify::{Verified, verify};

use copy::Target;
use manifest::{Manifest, SegmentEntry};

/// The manifest's name in a backup.
pub const MANIFEST: &str = "backup.json";

/// Where the segments are in a data folder.
const SEGMENTS: &str = "depot/segments";

/// What a backup came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BackedUp {
    /// Segments in the backup.
    pub segments: u64,
    /// Bytes of segments in the backup.
    pub bytes: u64,
    /// Bytes that this run copied.
    pub copied_bytes: u64,
    /// Segments that the depot no longer has, removed from the backup too.
    pub removed_segments: u64,
    /// Keys, tokens and the like.
    pub files: u64,
    /// Damaged places that were copied as they are.
    pub damaged: u64,
}

/// Copies the data folder `data` to `target`, which is new, empty, or an earlier backup. `on` is
/// told of bytes copied and bytes to copy, as far as is known.
///
/// # Errors `Refused` where `target` is something else, `Full` and `Storage` where it cannot be
/// written or the data folder cannot be read.
pub fn backup(data: &Path, target: &Path, on: &mut dyn FnMut(u64, u64)) -> Result<BackedUp> {
    let source = data.join(SEGMENTS);
    if !source.is_dir() {
        let (data, want) = (data.display(), source.display());
        return Err(Error::refused(format!(
            "{data} is no data folder: there is no {want}; name one with --data"
        )));
    }
    let mut manifest = Manifest::of_target(data, target)?;
    let _hold = Hold::take(&data.join("depot"))?;
    let segments = LocalSegments::open(&source)
        .map_err(|e| Error::io(format!("opening {}", source.display()), e))?;
    let mut run = Run {
        segments: &segments,
        target: Target::open(&target.join(SEGMENTS))?,
        old: std::mem::take(&mut manifest.segments),
        new: BTreeMap::new(),
        last_seq: manifest.last_seq,
        result: BackedUp::default(),
    };
    run.pass(None, on)?;
    run.pass(Some(run.last_seq), on)?;
    run.target.sync()?;
    manifest.last_seq = run.last_seq;
    manifest.segments = std::mem::take(&mut run.new);
    manifest.files = files::copy(data, target)?;
    manifest.unix_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    manifest.write(target)?;
    run.result.removed_segments = run.target.keep_only(&manifest.segments)?;
    run.result.segments = manifest.segments.len() as u64;
    run.result.bytes = manifest.segments.values().map(SegmentEntry::len).sum();
    run.result.damaged = manifest.segments.values().map(|entry| entry.damaged).sum();
    run.result.files = manifest.files.len() as u64;
    Ok(run.result)
}

/// One backup under way.
struct Run<'a> {
    segments: &'a LocalSegments,
    target: Target,
    /// What the backup before this one holds.
    old: BTreeMap<u32, SegmentEntry>,
    /// What this one holds so far.
    new: BTreeMap<u32, SegmentEntry>,
    /// The highest sequence number of a commit in it.
    last_seq: u64,
    result: BackedUp,
}

impl Run<'_> {
    /// Copies what was committed since the last pass; of that, only what has sequence numbers up to
    /// `limit`.
    fn pass(&mut self, limit: Option<u64>, on: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let listed = self
            .segments
            .list()
            .map_err(|e| Error::io("listing segments", e))?;
        let total: u64 = listed.iter().map(|(id, len)| self.left(*id, *len)).sum();
        let mut done = 0;
        for (id, len) in listed {
            let left = self.left(id, len);
            if left > 0 || !self.new.contains_key(&id.0) {
                self.segment(id, len, limit)?;
            }
            done += left;
            on(done, total);
        }
        Ok(())
    }

    /// Bytes of a segment that are not in the backup yet.
    fn left(&self, id: SegmentId, len: u64) -> u64 {
        let entry = self.new.get(&id.0).or_else(|| self.old.get(&id.0));
        len.saturating_sub(entry.map_or(0, SegmentEntry::len))
    }

    fn segment(&mut self, id: SegmentId, len: u64, limit: Option<u64>) -> Result<()> {
        let mut entry = match self.new.remove(&id.0) {
            Some(entry) => entry,
            None => self.begin(id, len)?,
        };
        let from = entry.len();
        let tail = self.tail(id, from, len, limit)?;
        if tail.end > from {
            let blake3 = self.target.append(self.segments, id, from, tail.end)?;
            entry.grow(tail.end, blake3, tail.damaged);
            self.result.copied_bytes += tail.end - from;
        }
        self.last_seq = self.last_seq.max(tail.last_seq);
        if entry.len() > 0 {
            self.new.insert(id.0, entry);
        }
        Ok(())
    }

    /// What the earlier backup has of a segment, when it is a part of the same segment.
    fn begin(&mut self, id: SegmentId, len: u64) -> Result<SegmentEntry> {
        match self.old.remove(&id.0) {
            Some(entry)
                if entry.len() <= len && self.target.has(self.segments, id, entry.len())? =>
            {
                Ok(entry)
            }
            _ => Ok(SegmentEntry::default()),
        }
    }

    /// Where the last commit of a segment ends that may be copied.
    fn tail(&self, id: SegmentId, from: u64, len: u64, limit: Option<u64>) -> Result<Tail> {
        let mut tail = Tail {
            end: from,
            last_seq: 0,
            damaged: 0,
        };
        let (mut damaged, mut commits) = (0, Commits::default());
        // A part that ends no group makes nothing visible: it may come with whatever is in the
        // backup already.
        let may = |state: &StateHeader| {
            let is_part = state.kind == Kind::Part && state.payload_len == 0;
            is_part || limit.is_none_or(|last| state.seq <= last)
        };
        walk(
            self.segments,
            id,
            from,
            len,
            BadSectors::Damage,
            &mut |item| {
                let committed = commits.end(&item);
                match item {
                    Item::Record(record) if record.whole => {
                        if let Header::State(state) = record.header
                            && let Some(end) = committed
                            && may(&state)
                        {
                            tail.end = end;
                            tail.last_seq = tail.last_seq.max(state.seq);
                            tail.damaged += std::mem::take(&mut damaged);
                        }
                    }
                    Item::Record(_) | Item::Gap(..) => damaged += 1,
                }
                Ok(())
            },
        )?;
        Ok(tail)
    }
}

/// The end of what is copied from a segment.
struct Tail {
    end: u64,
    last_seq: u64,
    damaged: u64,
}

/// The name of a segment's file.
fn file_name(number: u32) -> PathBuf {
    format!("{}.seg", SegmentId(number)).into()
}

/// Makes the names in a folder durable.
fn sync_folder(folder: &Path) -> Result<()> {
    fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| Error::io(format!("syncing {}", folder.display()), e))
}
