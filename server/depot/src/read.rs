//! Reading NARs back: as they are sent, and as they were.
//!
//! Guarantees: stored bytes are checked against their checksums before any of them is given out; a
//! range costs what it returns, plus one extent at each end. Never holds more than one extent, at
//! most 2 MiB stored.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use snowcache_core::recipe::Op;
use snowcache_nix::NarHash;

use crate::depot::Shared;
use crate::ingest::Nar;
use crate::layout::{Encoding, Extent, Layout, Part, literal_frame, literal_frame_len};
use crate::record::{Checksum, Header, STATE_HEADER_BYTES, StateHeader};
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
pub struct Chunks {
    reader: NarReader,
    view: View,
    /// What is still to be given out.
    range: Range<u64>,
    /// Parts of the current block that are not used up, and the offset where they start.
    parts: std::vec::IntoIter<Part>,
    at: u64,
    next_block: usize,
}

impl Chunks {
    fn new(reader: &NarReader, view: View, range: Range<u64>) -> Chunks {
        let size = match view {
            View::Encoded => reader.layout.encoding.size_bytes,
            View::Raw => reader.layout.nar_size,
        };
        let range = range.start..range.end.min(size);
        let starts = &reader.layout.blocks;
        let start = |block: &(u64, u64)| if view == View::Raw { block.0 } else { block.1 };
        let next_block = starts.partition_point(|block| start(block) <= range.start) - 1;
        let at = start(&starts[next_block]);
        let reader = reader.clone();
        Chunks {
            reader,
            view,
            range,
            parts: Vec::new().into_iter(),
            at,
            next_block,
        }
    }

    fn advance(&mut self) -> Result<Option<Bytes>> {
        let mut moves = 0;
        while self.range.start < self.range.end {
            let Some(part) = self.parts.next() else {
                if !self.next_parts()? {
                    self.follow(&mut moves)?;
                }
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
                Err(error) if error.is_gone() && moves < MAX_MOVES => self.follow(&mut moves)?,
                Err(error) => return Err(error),
                Ok(bytes) => {
                    self.range.start = start + to as u64;
                    return Ok(Some(bytes));
                }
            }
        }
        Ok(None)
    }

    /// Goes on to the next block. False where the layout is another one by now.
    fn next_parts(&mut self) -> Result<bool> {
        let NarReader {
            shared,
            nar,
            layout,
        } = &self.reader;
        if self.next_block >= layout.blocks.len() {
            return Ok(false);
        }
        let parts = layout.block(&*shared.index, &nar.nar_hash, self.next_block)?;
        self.next_block += 1;
        let known = parts.is_some();
        self.parts = parts.unwrap_or_default().into_iter();
        Ok(known)
    }

    /// The frames were moved: goes on where they are now, at the byte that is due.
    fn follow(&mut self, moves: &mut u32) -> Result<()> {
        *moves += 1;
        let NarReader {
            shared,
            nar,
            layout,
        } = &self.reader;
        let now = NarReader::open(shared.clone(), nar.nar_hash)?;
        let now = now.filter(|now| *moves <= MAX_MOVES && now.encoding() == &layout.encoding);
        let now = now.ok_or_else(|| {
            Error::new(
                ErrorKind::Storage,
                format!("NAR {} was removed while it was read", nar.nar_hash),
            )
        })?;
        *self = Chunks::new(&now, self.view, self.range.clone());
        Ok(())
    }

    fn part(&self, part: &Part, wanted: Range<usize>) -> Result<Bytes> {
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

/// Reads the records of an extent and checks every one of them.
fn read_extent(segments: &dyn Segments, extent: &Extent) -> Result<Bytes> {
    let mut stored = BytesMut::zeroed(extent.stored_len as usize);
    segments
        .read(extent.segment, extent.offset, &mut stored)
        .map_err(|error| {
            Error::io(
                format!("reading segment {} at {}", extent.segment, extent.offset),
                error,
            )
        })?;
    let stored = stored.freeze();
    let mut raw_len = 0;
    for record in Records(&stored) {
        let (header, body) = record.ok_or_else(|| damaged(extent))?;
        if Checksum::of(body) != header.checksum {
            return Err(damaged(extent));
        }
        raw_len += u64::from(header.raw_len);
    }
    if raw_len != u64::from(extent.raw_len) {
        return Err(damaged(extent));
    }
    Ok(stored)
}

/// The raw bytes `wanted` of an extent; frames outside are not decompressed.
fn decode(stored: &[u8], wanted: Range<usize>, extent: &Extent) -> Result<Bytes> {
    let mut out = BytesMut::with_capacity(wanted.len());
    let mut at = 0;
    for record in Records(stored) {
        let (header, body) = record.ok_or_else(|| damaged(extent))?;
        let end = at + header.raw_len as usize;
        if end > wanted.start && at < wanted.end {
            let raw = zstd::bulk::decompress(body, header.raw_len as usize);
            let raw = raw.ok().filter(|raw| raw.len() == header.raw_len as usize);
            let raw = raw.ok_or_else(|| damaged(extent))?;
            let from = wanted.start.saturating_sub(at);
            out.extend_from_slice(&raw[from..raw.len().min(wanted.end - at)]);
        }
        at = end;
    }
    Ok(out.freeze())
}

fn damaged(extent: &Extent) -> Error {
    let Extent {
        segment, offset, ..
    } = extent;
    Error::corrupt(format!(
        "segment {segment} is damaged at {offset}: its checksums do not match"
    ))
}

/// Frame records one after another; None in place of what is not one.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Option<(crate::record::FrameHeader, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Ok(Header::Frame(header)) = Header::decode(self.0) else {
            self.0 = &[];
            return Some(None);
        };
        let body = &self.0[crate::record::FRAME_HEADER_BYTES..];
        let Some((body, rest)) = body.split_at_checked(header.stored_len as usize) else {
            self.0 = &[];
            return Some(None);
        };
        self.0 = rest;
        Some(Some((header, body)))
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
