//! Copying records into segments of the collector's own, and pointing the index at the copies.
//!
//! ```text
//!   frame, state   appended, byte for byte; sequence numbers kept
//!   make_durable   fsync, with a commit at the end; noted in the index as replayed
//!   repoint        frames' rows, where they still point at the old record
//!   lay_out        the layouts of NARs whose frames have moved
//! ```
//!
//! Guarantees: a row points at a copy only when that one is durable; until it does, the copy is
//! garbage and the old record serves.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::BytesMut;
use snowcache_core::recipe::FrameId;
use snowcache_nix::NarHash;

use super::rewrite::ROWS_AT_ONCE;
use crate::depot::Shared;
use crate::index::{Batch, Table};
use crate::layout::Location;
use crate::pool::{Level, Stream};
use crate::record::{Checksum, FRAME_HEADER_BYTES, Header, Kind, StateHeader};
use crate::relayout::relayout;
use crate::rows::Place;
use crate::{Error, ErrorKind, Result};

/// A frame, where it was, and where its copy lies.
pub type Moved = (FrameId, Location, Location);

/// Copies into one segment after the other.
pub struct Copier {
    shared: Arc<Shared>,
    /// One for each level that was met: what was compressed anew stays apart.
    streams: Vec<Stream>,
    /// Bytes that were made durable.
    pub copied_bytes: u64,
}

impl Copier {
    /// A copier that has no segment yet.
    pub fn new(shared: Arc<Shared>) -> Copier {
        Copier {
            shared,
            streams: Vec::new(),
            copied_bytes: 0,
        }
    }

    fn stream(&mut self, level: Level) -> Result<&mut Stream> {
        let of_level = |stream: &Stream| stream.level() == level;
        let at = match self.streams.iter().position(of_level) {
            Some(at) if self.streams[at].is_full() => {
                self.make_durable()?;
                self.streams[at] = self.shared.pool.create_at(level)?;
                at
            }
            Some(at) => at,
            None => {
                self.streams.push(self.shared.pool.create_at(level)?);
                self.streams.len() - 1
            }
        };
        Ok(&mut self.streams[at])
    }

    /// Copies the frame at `at`.
    ///
    /// # Errors
    /// `Corrupt` where the record is damaged.
    pub fn frame(&mut self, at: &Location) -> Result<Location> {
        let mut bytes = BytesMut::zeroed(FRAME_HEADER_BYTES + at.stored_len as usize);
        self.shared
            .segments
            .read(at.segment, at.offset, &mut bytes)
            .map_err(|e| Error::io(format!("reading segment {}", at.segment), e))?;
        let body = &bytes[FRAME_HEADER_BYTES..];
        let Ok(Header::Frame(header)) = Header::decode(&bytes) else {
            return Err(damaged(at));
        };
        if Checksum::of(body) != header.checksum {
            return Err(damaged(at));
        }
        let stream = self.stream(self.shared.pool.level(at.segment))?;
        let offset = stream.frame(&header, body)?;
        Ok(Location {
            segment: stream.id(),
            offset,
            ..*at
        })
    }

    /// Copies a record that carries state.
    pub fn state(&mut self, header: &StateHeader, payload: &[u8]) -> Result<Place> {
        self.stream(0)?.state_again(header, payload)
    }

    /// Ends what was copied with a commit, and notes it in the index as replayed: should no row
    /// come to point at it, it is garbage, and the old records are still there.
    pub fn make_durable(&mut self) -> Result<()> {
        for stream in &mut self.streams {
            stream.state(Kind::Part, true, &[])?;
            stream.sync()?;
            stream.committed();
            self.copied_bytes += stream.grown();
        }
        self.shared.index_committed(Batch::default(), &self.streams)
    }

    /// Points frames' rows at their copies, where they still point at the old ones.
    pub fn repoint(&self, moved: Vec<Moved>) -> Result<()> {
        for part in moved.chunks(ROWS_AT_ONCE) {
            let _gate = self.shared.undisturbed()?;
            let mut batch = Batch::default();
            for (frame, old, new) in part {
                let row = self.shared.index.get(Table::Frames, frame.as_bytes())?;
                if row.is_none_or(|row| Location::decode(&row).is_ok_and(|at| at == *old)) {
                    batch.put(Table::Frames, frame.as_bytes().as_slice(), new.encode());
                }
            }
            self.shared.index.write(batch)?;
        }
        Ok(())
    }

    /// Makes the layouts of NARs anew, one after the other, so that nobody waits for more than one.
    /// Whether it could be done for all: one that is damaged stays where it was.
    pub fn lay_out(&self, nars: &BTreeSet<NarHash>) -> Result<bool> {
        let mut all = true;
        for nar in nars {
            let mut batch = Batch::default();
            let _gate = self.shared.undisturbed()?;
            match relayout(&self.shared, nar, &mut batch) {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    tracing::warn!(%nar, %error, "not moved");
                    all = false;
                }
                laid_out => laid_out?,
            }
            self.shared.index.write(batch)?;
        }
        Ok(all)
    }
}

fn damaged(at: &Location) -> Error {
    Error::corrupt(format!(
        "segment {} is damaged at {}; scrub it",
        at.segment, at.offset
    ))
}
