//! Scanning a segment: which records it holds, where the last commit ends, what is damaged.
//!
//! Every byte is checked. A damaged header loses the way to the next record; the scan then looks
//! for the next header that is whole, so that one bad sector does not cost what lies behind it.

use snowcache_core::recipe::FrameId;

use crate::layout::Location;
use crate::record::{BadHeader, Checksum, FRAME_HEADER_BYTES, Header, Kind};
use crate::segments::{SegmentId, Segments};
use crate::{Error, Result};

/// Bytes read at a time.
const WINDOW_BYTES: u64 = 4 << 20;

/// What a scan found.
#[derive(Default)]
pub struct Scanned {
    /// Frames of finished commits.
    pub frames: Vec<(FrameId, Location)>,
    /// State records of finished commits.
    pub states: Vec<StateAt>,
    /// Where the last commit ends; the start of the scan when there is none.
    pub end: u64,
    /// Damaged records and gaps before `end`.
    pub damaged: u64,
}

/// A state record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateAt {
    /// What it is.
    pub kind: Kind,
    /// Its sequence number.
    pub seq: u64,
    /// Where it begins.
    pub offset: u64,
    /// Its length with the header.
    pub len: u64,
}

/// Scans `segment` from a record boundary to its end.
///
/// # Errors `Corrupt` where a record was written by a newer version, `Storage` where the segment
/// cannot be read.
pub fn scan(segments: &dyn Segments, segment: SegmentId, from: u64, len: u64) -> Result<Scanned> {
    let mut window = Window {
        segments,
        segment,
        len,
        start: 0,
        bytes: Vec::new(),
    };
    let mut found = Scanned {
        end: from,
        ..Scanned::default()
    };
    // What was found since the last commit.
    let (mut frames, mut states, mut damaged) = (Vec::new(), Vec::new(), 0);
    let mut at = from;
    while at < len {
        let Some(header) = header_at(&mut window, at)? else {
            damaged += 1;
            match next_header(&mut window, at + 1)? {
                Some(next) => at = next,
                None => break,
            }
            continue;
        };
        let body_at = at + header.header_len() as u64;
        let end = body_at + u64::from(header.body_len());
        let whole =
            Checksum::of(window.get(body_at, header.body_len().into())?) == header.checksum();
        match header {
            _ if !whole => damaged += 1,
            Header::Frame(frame) => {
                let (stored_len, raw_len) = (frame.stored_len, frame.raw_len);
                let checksum = frame.checksum;
                let location = Location {
                    segment,
                    offset: at,
                    stored_len,
                    raw_len,
                    checksum,
                };
                frames.push((frame.id, location));
            }
            Header::State(state) => {
                if state.kind != Kind::Segment {
                    states.push(StateAt {
                        kind: state.kind,
                        seq: state.seq,
                        offset: at,
                        len: end - at,
                    });
                }
                if state.commit {
                    found.frames.append(&mut frames);
                    found.states.append(&mut states);
                    found.damaged += std::mem::take(&mut damaged);
                    found.end = end;
                }
            }
        }
        at = end;
    }
    Ok(found)
}

/// The header at `at`, when it is whole and its record ends within the segment.
fn header_at(window: &mut Window<'_>, at: u64) -> Result<Option<Header>> {
    let len = window.len;
    let bytes = window.get(at, (len - at).min(FRAME_HEADER_BYTES as u64))?;
    match Header::decode(bytes) {
        Ok(header) => {
            let end = at + header.header_len() as u64 + u64::from(header.body_len());
            Ok((end <= len).then_some(header))
        }
        Err(BadHeader::Newer(version)) => Err(Error::corrupt(format!(
            "segment {} was written by format version {version}, which this snowcached does \
             not know: start the version that wrote it",
            window.segment
        ))),
        Err(BadHeader::Short | BadHeader::Damaged) => Ok(None),
    }
}

/// The offset of the next whole header at or behind `from`.
fn next_header(window: &mut Window<'_>, from: u64) -> Result<Option<u64>> {
    for at in from..window.len.saturating_sub(31) {
        let magic = window.get(at, 4)?;
        if magic[1..] == [0x2A, 0x4D, 0x18] && header_at(window, at)?.is_some() {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// A part of a segment in memory.
struct Window<'a> {
    segments: &'a dyn Segments,
    segment: SegmentId,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// The `count` bytes at `at`, which lie within the segment.
    fn get(&mut self, at: u64, count: u64) -> Result<&[u8]> {
        let end = self.start + self.bytes.len() as u64;
        if at < self.start || at + count > end {
            let size = count.max(WINDOW_BYTES).min(self.len - at);
            self.bytes.resize(size as usize, 0);
            self.segments
                .read(self.segment, at, &mut self.bytes)
                .map_err(|error| {
                    Error::io(format!("reading segment {} at {at}", self.segment), error)
                })?;
            self.start = at;
        }
        let from = (at - self.start) as usize;
        Ok(&self.bytes[from..from + count as usize])
    }
}
