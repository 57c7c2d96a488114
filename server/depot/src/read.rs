//! Reading NARs back: as they are sent, and as they were.
//!
//! Guarantees: stored bytes are checked against their checksums before any of them is given out,
//! and quarantined when they do not match. What is a file is checked when it is read for the first
//! time, when it came from the disk again, and when somebody has changed it; bytes that are not in
//! a file, each time. A range costs what it returns, plus one extent at each end. Never holds more
//! than one extent, at most 2 MiB stored.

mod chunks;
pub(crate) mod extent;
mod known;
mod unpack;
mod window;

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use snowcache_core::recipe::{Op, Recipe};
use snowcache_nix::NarHash;

use crate::depot::Shared;
use crate::former;
use crate::ingest::Nar;
use crate::layout::{BLOCK_PARTS, Encoding, Layout, literal_frame_len};
use crate::record::{Checksum, Header, STATE_HEADER_BYTES, StateHeader};
use crate::relayout::recipe_at;
use crate::segments::{SegmentId, Segments};
use crate::state::recipe_of;
use crate::{Error, Result};
use known::Known;

pub use chunks::Chunks;
pub use window::{Piece, Run};

/// A NAR that can be read.
#[derive(Clone)]
pub struct NarReader {
    shared: Arc<Shared>,
    nar: Nar,
    layout: Arc<Layout>,
    /// All of it, where it is kept in memory.
    known: Option<Arc<Known>>,
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
            known: None,
        }))
    }

    /// The same NAR in a former encoding, if that one is still kept.
    pub(crate) fn former(&self, name: &str) -> Result<Option<NarReader>> {
        let layout = former::named(&*self.shared.index, &self.nar.nar_hash, name)?;
        Ok(layout.map(|layout| NarReader {
            layout: Arc::new(layout),
            known: None,
            ..self.clone()
        }))
    }

    /// Whether narinfos name this encoding.
    pub fn is_current(&self) -> bool {
        !self.layout.is_former
    }

    /// Hash and size of the NAR.
    pub fn nar(&self) -> Nar {
        self.nar
    }

    /// What [`NarReader::encoded`] gives.
    pub fn encoding(&self) -> &Encoding {
        &self.layout.encoding
    }

    /// What the NAR is made of.
    pub(crate) fn recipe(&self) -> Result<Recipe> {
        recipe_at(&self.shared, &self.layout.recipe)
    }

    /// How many parts it has at least: one for a block of its layout, and that many for each but
    /// the last.
    pub(crate) fn least_parts(&self) -> usize {
        (self.layout.blocks.len() - 1) * BLOCK_PARTS
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
