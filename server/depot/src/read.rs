//! Reading NARs back: as they are sent, and as they were.
//!
//! Guarantees: stored bytes are checked against their checksums before any of them is given out,
//! and quarantined when they do not match; a range costs what it returns, plus one extent at each
//! end. Never holds more than one extent, at most 2 MiB stored.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use snowcache_core::recipe::Op;
use snowcache_nix::NarHash;

use crate::depot::Shared;
use crate::ingest::Nar;
use crate::layout::{Encoding, Extent, Layout, Part, literal_frame, literal_frame_len};
use crate::quarantine::{Broken, Damage};
use crate::record::{
    Checksum, FRAME_HEADER_BYTES, FrameHeader, Header, STATE_HEADER_BYTES, StateHeader,
};
use crate::segments::{SegmentId, Segments};
use crate::state::recipe_of;
use crate::{Error, ErrorKind, Result};

/// Times that a reader looks for moved frames before one part of a NAR: a segment is rewritten
/// once in minutes, a part is read in milliseconds.
const MAX_MOVES: u32 = 8;

/// A NAR that can be read.
#[derive(Clone)]
pub struct NarReader {
    shared: Arc<Shared>,
    nar: Nar,
    layout: Arc<Layout>,
}

/// What one NAR is made of, and what that takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Spans, and their raw bytes.
    pub spans: u64,
    /// Raw bytes of spans.
    pub span_bytes: u64,
    /// Stretches of tokens that are frames of their own.
    pub dense: u64,
    /// Raw bytes of these.
    pub dense_bytes: u64,
    /// Tokens and short stretches of them.
    pub literals: u64,
    /// Bytes of these.
    pub literal_bytes: u64,
    /// Stored bytes of all frame records that the NAR uses, headers included.
    pub frame_bytes: u64,
    /// Stored bytes of the recipe record, which holds the literals.
    pub recipe_bytes: u64,
}

/// Which bytes of a NAR are meant by an offset.
#[derive(Clone, Copy, PartialEq, Eq)]
enum View {
    /// The `.nar.zst` as it is sent.
    Encoded,
    /// The NAR.
    Raw,
}

impl NarReader {
    pub(crate) fn open(shared: Arc<Shared>, nar_hash: NarHash) -> Result<Option<NarReader>> {
        if shared.quarantine.is_sick(&nar_hash) {
            return Ok(None);
        }
        let Some(layout) = Layout::read(&*shared.index, &nar_hash)? else {
            return Ok(None);
        };
        let nar = Nar {
            nar_hash,
            nar_size_bytes: layout.nar_size,
        };
        Ok(Some(NarReader {
            shared,
            nar,
            layout: Arc::new(layout),
        }))
    }

    /// Hash and size of the NAR.
    pub fn nar(&self) -> Nar {
        self.nar
    }

    /// What [`NarReader::encoded`] gives.
    pub fn encoding(&self) -> &Encoding {
        &self.layout.encoding
    }

    /// What the NAR takes on disk, shared frames counted in full.
    pub fn cost(&self) -> Result<Cost> {
        let place = self.layout.recipe;
        let (header, payload) = read_state(&*self.shared.segments, place.segment(), place.offset)?;
        let (_, _, recipe) = recipe_of(&payload)?;
        let recipe_bytes = STATE_HEADER_BYTES as u64 + u64::from(header.payload_len);
        let mut cost = Cost {
            recipe_bytes,
            ..Cost::default()
        };
        for op in recipe.ops() {
            let raw = u64::from(op.raw_len());
            let (count, bytes) = match op {
                Op::Frame { .. } => (&mut cost.spans, &mut cost.span_bytes),
                Op::Dense { .. } => (&mut cost.dense, &mut cost.dense_bytes),
                Op::Literal(_) => (&mut cost.literals, &mut cost.literal_bytes),
            };
            *count += 1;
            *bytes += raw;
        }
        let literals = recipe
            .ops()
            .iter()
            .filter(|op| matches!(op, Op::Literal(_)));
        let sent: u64 = literals
            .map(|op| literal_frame_len(op.raw_len() as usize))
            .sum();
        cost.frame_bytes = self.layout.encoding.size_bytes - sent;
        Ok(cost)
    }

    /// The bytes `range` of the `.nar.zst`. A range past the end ends at the end.
    pub fn encoded(&self, range: Range<u64>) -> Chunks {
        Chunks::new(self, View::Encoded, range)
    }

    /// The bytes `range` of the NAR. A range past the end ends at the end.
    pub fn raw(&self, range: Range<u64>) -> Chunks {
        Chunks::new(self, View::Raw, range)
    }
}

/// Consecutive bytes of a NAR, an extent or a literal at a time; after an error nothing more comes.
///
/// Frames may move while they are read: what went away or was damaged is looked up once more.
pub struct Chunks {
    reader: NarReader,
    view: View,
    /// What is still to be given out.
    range: Range<u64>,
    /// Parts of the current block that are not used up, and the offset where they start.
    parts: std::vec::IntoIter<Part>,
    at: u64,
    next_block: usize,
    /// How often the layout was looked up once more for the part that is due.
    looked_again: u32,
}

impl Chunks {
    fn new(reader: &NarReader, view: View, range: Range<u64>) -> Chunks {
        let size = match view {
            View::Encoded => reader.layout.encoding.size_bytes,
            View::Raw => reader.layout.nar_size,
        };
        let mut chunks = Chunks {
            reader: reader.clone(),
            view,
            range: range.start..range.end.min(size),
            parts: Vec::new().into_iter(),
            at: 0,
            next_block: 0,
            looked_again: 0,
        };
        chunks.seek();
        chunks
    }

    /// Goes to the block in which the range starts.
    fn seek(&mut self) {
        let (blocks, view) = (&self.reader.layout.blocks, self.view);
        let start = |block: &(u64, u64)| if view == View::Raw { block.0 } else { block.1 };
        self.next_block = blocks.partition_point(|block| start(block) <= self.range.start) - 1;
        self.at = start(&blocks[self.next_block]);
        self.parts = Vec::new().into_iter();
    }

    /// Loads the next block of the layout, or goes to its place in a layout that is newer.
    fn load(&mut self) -> Result<()> {
        let NarReader {
            shared,
            nar,
            layout,
        } = &self.reader;
        let parts = match self.next_block < layout.blocks.len() {
            true => layout.block(&*shared.index, &nar.nar_hash, self.next_block)?,
            false => None,
        };
        match parts {
            Some(parts) => {
                self.parts = parts.into_iter();
                self.next_block += 1;
                Ok(())
            }
            None => self.follow(),
        }
    }

    /// The frames were moved: goes on where they are now, at the byte that is due.
    fn follow(&mut self) -> Result<()> {
        self.looked_again += 1;
        let NarReader {
            shared,
            nar,
            layout,
        } = &self.reader;
        let now = NarReader::open(shared.clone(), nar.nar_hash)?;
        let tries = self.looked_again <= MAX_MOVES;
        let now = now.filter(|now| tries && now.encoding() == &layout.encoding);
        self.reader = now.ok_or_else(|| {
            Error::new(
                ErrorKind::Storage,
                format!("NAR {} was removed while it was read", nar.nar_hash),
            )
        })?;
        self.seek();
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<Bytes>> {
        while self.range.start < self.range.end {
            let Some(part) = self.parts.next() else {
                self.load()?;
                continue;
            };
            let len = if self.view == View::Raw {
                part.raw_len()
            } else {
                part.encoded_len()
            };
            let start = self.at;
            self.at += len;
            if self.at <= self.range.start {
                continue;
            }
            let from = (self.range.start - start) as usize;
            let to = (self.range.end.min(self.at) - start) as usize;
            match self.part(&part, from..to) {
                Ok(bytes) => {
                    self.looked_again = 0;
                    self.range.start = start + to as u64;
                    return Ok(Some(bytes));
                }
                Err(unread) => self.look_again(unread)?,
            }
        }
        Ok(None)
    }

    /// Quarantines what is damaged, and looks the layout up once more: there may be another copy.
    fn look_again(&mut self, unread: Unread) -> Result<()> {
        let error = match unread {
            Unread::Damaged(error, damage) => {
                let NarReader { shared, nar, .. } = &self.reader;
                shared.found_damaged(&nar.nar_hash, damage);
                if shared.quarantine.is_sick(&nar.nar_hash) {
                    return Err(error);
                }
                error
            }
            Unread::Failed(error) if error.is_gone() => error,
            Unread::Failed(error) => return Err(error),
        };
        match self.looked_again < MAX_MOVES {
            true => self.follow(),
            false => Err(error),
        }
    }

    fn part(&self, part: &Part, wanted: Range<usize>) -> Result<Bytes, Unread> {
        match (part, self.view) {
            (Part::Literal(bytes), View::Raw) => Ok(bytes.slice(wanted)),
            (Part::Literal(bytes), View::Encoded) => {
                Ok(Bytes::from(literal_frame(bytes)).slice(wanted))
            }
            (Part::Extent(extent), view) => {
                let stored = read_extent(&*self.reader.shared.segments, extent)?;
                match view {
                    View::Encoded => Ok(stored.slice(wanted)),
                    View::Raw => decode(&stored, wanted, extent),
                }
            }
        }
    }
}

impl Iterator for Chunks {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Result<Bytes>> {
        let next = self.advance();
        if next.is_err() {
            self.range.end = self.range.start;
        }
        next.transpose()
    }
}

/// Why an extent cannot be given out.
enum Unread {
    /// The disk failed.
    Failed(Error),
    /// The bytes are not those that were written; these are the places.
    Damaged(Error, Vec<Damage>),
}

/// Reads the records of an extent and checks every one of them.
fn read_extent(segments: &dyn Segments, extent: &Extent) -> Result<Bytes, Unread> {
    let mut stored = BytesMut::zeroed(extent.stored_len as usize);
    segments
        .read(extent.segment, extent.offset, &mut stored)
        .map_err(|error| {
            let reading = format!("reading segment {} at {}", extent.segment, extent.offset);
            Unread::Failed(Error::io(reading, error))
        })?;
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

/// The raw bytes `wanted` of an extent; frames outside are not decompressed.
fn decode(stored: &[u8], wanted: Range<usize>, extent: &Extent) -> Result<Bytes, Unread> {
    let mut out = BytesMut::with_capacity(wanted.len());
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

/// Frame records one after another, each with its offset; None in place of what is not one.
struct Records<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    fn of(all: &'a [u8]) -> Records<'a> {
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

/// Reads and checks the state record at `offset`.
pub(crate) fn read_state(
    segments: &dyn Segments,
    segment: SegmentId,
    offset: u64,
) -> Result<(StateHeader, Bytes)> {
    let failed = |e| Error::io(format!("reading segment {segment} at {offset}"), e);
    let damaged = || Error::corrupt(format!("segment {segment} is damaged at {offset}"));
    let mut header = [0; STATE_HEADER_BYTES];
    segments
        .read(segment, offset, &mut header)
        .map_err(failed)?;
    let Ok(Header::State(header)) = Header::decode(&header) else {
        return Err(damaged());
    };
    let mut payload = BytesMut::zeroed(header.payload_len as usize);
    segments
        .read(segment, offset + STATE_HEADER_BYTES as u64, &mut payload)
        .map_err(failed)?;
    if Checksum::of(&payload) != header.checksum {
        return Err(damaged());
    }
    Ok((header, payload.freeze()))
}
