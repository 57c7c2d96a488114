//! Extents: read whole, each record checked, and unpacked where the NAR itself is wanted.
//!
//! Guarantees: what does not match its checksum is not given out but named, record by record.

use std::io;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::Error;
use crate::layout::Extent;
use crate::quarantine::{Broken, Damage};
use crate::record::{Checksum, FRAME_HEADER_BYTES, FrameHeader, Header};

/// Why an extent cannot be given out.
pub enum Unread {
    /// The disk failed.
    Failed(Error),
    /// The bytes are not those that were written; these are the places.
    Damaged(Error, Vec<Damage>),
}

/// The error of a read in `extent`.
pub fn failed(extent: &Extent, error: io::Error) -> Unread {
    let reading = format!("reading segment {} at {}", extent.segment, extent.offset);
    Unread::Failed(Error::io(reading, error))
}

/// Reads the records of an extent by `read` and checks every one of them.
pub fn read_extent(
    extent: &Extent,
    read: impl FnOnce(&mut [u8]) -> io::Result<()>,
) -> Result<Bytes, Unread> {
    let mut stored = BytesMut::zeroed(extent.stored_len as usize);
    read(&mut stored).map_err(|error| failed(extent, error))?;
    let stored = stored.freeze();
    let (mut raw_len, mut damage) = (0, Vec::new());
    for (at, record) in Records::of(&stored) {
        match record {
            Some((header, body)) if Checksum::of(body) == header.checksum => {
                raw_len += u64::from(header.raw_len);
            }
            Some((header, body)) => {
                let bytes = FRAME_HEADER_BYTES + body.len();
                damage.push(damage_at(extent, at, bytes, Broken::Frame(header.id)));
            }
            None => damage.push(damage_at(extent, at, stored.len() - at, Broken::Bytes)),
        }
    }
    if damage.is_empty() && raw_len == u64::from(extent.raw_len) {
        return Ok(stored);
    }
    Err(damaged(extent, damage))
}

/// The raw bytes `wanted` of an extent, or their beginning, of a frame at least and `enough`;
/// frames outside are not decompressed.
pub fn decode(
    stored: &[u8],
    wanted: Range<usize>,
    enough: usize,
    extent: &Extent,
) -> Result<Bytes, Unread> {
    let mut out = BytesMut::new();
    let mut start = 0;
    for (at, record) in Records::of(stored) {
        let Some((header, body)) = record else {
            return Err(damaged(extent, Vec::new()));
        };
        let end = start + header.raw_len as usize;
        if end > wanted.start && start < wanted.end {
            let raw = zstd::bulk::decompress(body, header.raw_len as usize);
            let raw = raw.ok().filter(|raw| raw.len() == header.raw_len as usize);
            let raw = raw.ok_or_else(|| {
                let bytes = FRAME_HEADER_BYTES + body.len();
                let broken = Broken::Frame(header.id);
                damaged(extent, vec![damage_at(extent, at, bytes, broken)])
            })?;
            let from = wanted.start.saturating_sub(start);
            out.extend_from_slice(&raw[from..raw.len().min(wanted.end - start)]);
            if out.len() >= enough {
                break;
            }
        }
        start = end;
    }
    Ok(out.freeze())
}

fn damage_at(extent: &Extent, at: usize, bytes: usize, what: Broken) -> Damage {
    Damage {
        segment: extent.segment.0,
        offset: extent.offset + at as u64,
        bytes: bytes as u64,
        what,
    }
}

fn damaged(extent: &Extent, damage: Vec<Damage>) -> Unread {
    let Extent {
        segment, offset, ..
    } = extent;
    let error = Error::corrupt(format!(
        "segment {segment} is damaged at {offset}: its checksums do not match"
    ));
    Unread::Damaged(error, damage)
}

/// Frame records one after another, each with its offset; None in place of what is not one, or not
/// a whole one.
pub struct Records<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    /// Those that `all` begins with.
    pub fn of(all: &'a [u8]) -> Records<'a> {
        Records { all, at: 0 }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = (usize, Option<(FrameHeader, &'a [u8])>);

    fn next(&mut self) -> Option<Self::Item> {
        let (at, rest) = (self.at, &self.all[self.at..]);
        if rest.is_empty() {
            return None;
        }
        let record = match Header::decode(rest) {
            Ok(Header::Frame(header)) => rest[FRAME_HEADER_BYTES..]
                .get(..header.stored_len as usize)
                .map(|body| (header, body)),
            _ => None,
        };
        self.at = match &record {
            Some((_, body)) => at + FRAME_HEADER_BYTES + body.len(),
            None => self.all.len(),
        };
        Some((at, record))
    }
}
