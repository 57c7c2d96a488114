//! Frames read one by one, for whoever needs what is in them.
//!
//! Guarantees: what is given out matches its checksum and unpacks to its length; what does not is
//! taken out of use, so that it is stored anew.

use std::sync::Arc;

use snowcache_core::frame;
use snowcache_core::recipe::FrameId;

use crate::depot::Shared;
use crate::index::Table;
use crate::layout::Location;
use crate::quarantine::{Broken, Damage};
use crate::record::{Checksum, FRAME_HEADER_BYTES};
use crate::{Error, Result};

/// Times that a frame is looked up once more after it moved: a segment is rewritten once in
/// minutes, a frame is read in milliseconds.
const MAX_MOVES: usize = 8;

impl Shared {
    /// What is in a frame; None where it is not here, or not whole.
    pub fn read_frame(self: &Arc<Shared>, id: FrameId) -> Result<Option<Vec<u8>>> {
        let Some((at, stored)) = self.stored_frame(id)? else {
            return Ok(None);
        };
        let raw = unpack(id, at.raw_len, &stored).ok();
        if raw.is_none() {
            self.damaged_frame(id, &at);
        }
        Ok(raw)
    }

    /// The same as it is stored, and where.
    pub fn stored_frame(self: &Arc<Shared>, id: FrameId) -> Result<Option<(Location, Vec<u8>)>> {
        for _ in 0..MAX_MOVES {
            let Some(row) = self.index.get(Table::Frames, id.as_bytes())? else {
                return Ok(None);
            };
            let at = Location::decode(&row)?;
            let mut stored = vec![0; at.stored_len as usize];
            let body = at.offset + FRAME_HEADER_BYTES as u64;
            let read = self.segments.read(at.segment, body, &mut stored);
            match read.map_err(|e| Error::io(format!("reading segment {}", at.segment), e)) {
                Ok(()) => {}
                Err(error) if error.is_gone() => continue, // moved since it was looked up
                Err(error) => return Err(error),
            }
            if Checksum::of(&stored) == at.checksum {
                return Ok(Some((at, stored)));
            }
            self.damaged_frame(id, &at);
            return Ok(None);
        }
        Ok(None)
    }

    /// Takes a damaged frame out of use, so that what is sent in its place is stored.
    pub fn damaged_frame(self: &Arc<Shared>, id: FrameId, at: &Location) {
        self.found_damaged_frame(Damage {
            segment: at.segment.0,
            offset: at.offset,
            bytes: FRAME_HEADER_BYTES as u64 + u64::from(at.stored_len),
            what: Broken::Frame(id),
        });
    }
}

/// The content of a frame, which is one plain frame of that length or refused.
pub fn unpack(id: FrameId, raw_len: u32, stored: &[u8]) -> Result<Vec<u8>> {
    let refused = |error: &dyn std::fmt::Display| {
        Error::refused(format!("frame {id}: {error}; send it again"))
    };
    frame::check(stored, raw_len).map_err(|error| refused(&error))?;
    let raw = zstd::bulk::decompress(stored, raw_len as usize).map_err(|error| refused(&error))?;
    match raw.len() == raw_len as usize {
        true => Ok(raw),
        false => Err(refused(&"it unpacks to fewer bytes than it states")),
    }
}
