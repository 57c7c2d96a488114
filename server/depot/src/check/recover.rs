//! The index made anew from the segments alone.
//!
//! ```text
//!   index.new   made, and flushed
//!   index       -> index.aside
//!   index.new   -> index
//!   index.aside removed
//! ```
//!
//! Guarantees: at each moment there is an index that opens, or none, and then the next start makes
//! it; the old one goes last.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::{count, depot_of, open_segments, paths, remove_folder};
use crate::index::rocks::RocksIndex;
use crate::index::{Index, Table};
use crate::replay::replay_telling;
use crate::segments::file::SegmentFile;
use crate::segments::{SegmentId, SegmentWriter, Segments, Space};
use crate::{Error, Result};

/// The index that is being made.
pub const NEW: &str = "index.new";

/// The index that was there.
pub const ASIDE: &str = "index.aside";

/// What a recovery tells while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Recovering {
    /// Something that could not be brought back.
    Lost(String),
    /// Bytes read, of so many.
    #[serde(skip)]
    Progress(u64, u64),
}

/// What a recovery came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Recovered {
    /// Segments read.
    pub segments: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Paths that are visible.
    pub paths: u64,
    /// Frames.
    pub frames: u64,
    /// Logs, realisations, build traces.
    pub documents: u64,
    /// Pins.
    pub pins: u64,
    /// What could not be brought back.
    pub lost: u64,
}

/// Makes the index of the depot in the data folder `data` anew; nobody else uses it meanwhile.
pub fn recover(data: &Path, on: &mut (dyn FnMut(Recovering) + Send)) -> Result<Recovered> {
    let depot = depot_of(data)?;
    let (present, new, aside) = (depot.join("index"), depot.join(NEW), depot.join(ASIDE));
    remove_folder(&new)?;
    let segments = open_segments(&depot)?;
    let listed = segments
        .list()
        .map_err(|e| Error::io("listing segments", e))?;
    let bytes = listed.iter().map(|(_, len)| len).sum();
    let mut recovered = Recovered {
        segments: listed.len() as u64,
        bytes,
        ..Recovered::default()
    };
    let index = RocksIndex::open(&new)?;
    let mut lost = Vec::new();
    {
        let watched = Watched {
            segments: &segments,
            seen: Mutex::new((0, on)),
            total: bytes,
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        replay_telling(&watched, &index, now, &mut |one| lost.push(one))?;
    }
    for one in &lost {
        if !paths::is_back(&segments, &index, one)? {
            recovered.lost += 1;
            on(Recovering::Lost(one.sentence.clone()));
        }
    }
    recovered.paths = count(&index, Table::Paths)?;
    recovered.frames = count(&index, Table::Frames)?;
    recovered.documents = count(&index, Table::Documents)?;
    recovered.pins = count(&index, Table::Pins)?;
    index.checkpoint()?;
    drop(index);
    let failed = |e| Error::io(format!("moving the index in {}", depot.display()), e);
    remove_folder(&aside)?;
    if present.is_dir() {
        fs::rename(&present, &aside).map_err(failed)?;
    }
    fs::rename(&new, &present).map_err(failed)?;
    fs::File::open(&depot)
        .and_then(|folder| folder.sync_all())
        .map_err(failed)?;
    remove_folder(&aside)?;
    Ok(recovered)
}

/// Segments that tell how much of them was read.
struct Watched<'a, 'b> {
    segments: &'a dyn Segments,
    seen: Mutex<(u64, &'b mut (dyn FnMut(Recovering) + Send))>,
    total: u64,
}

impl Segments for Watched<'_, '_> {
    fn list(&self) -> std::io::Result<Vec<(SegmentId, u64)>> {
        self.segments.list()
    }

    fn append(&self, id: SegmentId, len: u64) -> std::io::Result<Box<dyn SegmentWriter>> {
        self.segments.append(id, len)
    }

    fn read(&self, id: SegmentId, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        let mut seen = self
            .seen
            .lock()
            .expect("invariant: no panic under the lock");
        // Single records are read again when they are applied: the line stays at its end then.
        seen.0 = (seen.0 + buf.len() as u64).min(self.total);
        let done = seen.0;
        (seen.1)(Recovering::Progress(done, self.total));
        drop(seen);
        self.segments.read(id, offset, buf)
    }

    fn file(&self, id: SegmentId) -> std::io::Result<Option<Arc<SegmentFile>>> {
        self.segments.file(id)
    }

    fn remove(&self, id: SegmentId) -> std::io::Result<()> {
        self.segments.remove(id)
    }

    fn space(&self) -> std::io::Result<Space> {
        self.segments.space()
    }
}
