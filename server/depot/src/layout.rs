//! Layouts: where the bytes of one encoded NAR lie, so that serving it needs no search.
//!
//! A layout is a recipe resolved against the segments: runs of neighbouring frame records
//! (*extents*) and literals, in order. It lives in the index only and is made anew from the recipe
//! whenever frames move. Blocks of [`BLOCK_PARTS`] parts carry the offsets at which they begin, raw
//! and encoded, so that `HEAD` reads one row and a range reads the rows that it needs:
//!
//! ```text
//!   NarHash        -> nar size, encoded size, encoding name, where the recipe lies,
//!                     [raw start, encoded start] a block
//!   NarHash, 0000  -> raw start, encoded start,
//!                     extent(segment, offset, stored, raw), literal(bytes), extent ...
//!   NarHash, 0001  -> ...
//! ```
//!
//! A block repeats where it begins, so that a reader notices when the layout was made anew since it
//! read the summary.

use bytes::Bytes;
use snowcache_nix::{NarHash, base32};

use crate::Result;
use crate::former;
use crate::index::{Batch, Index, Table};
use crate::record::{Checksum, FRAME_HEADER_BYTES, FrameHeader};
use crate::rows::Place;
use crate::segments::SegmentId;
use crate::varint::{Reader, put};

/// Parts a block of a layout: decoding one costs microseconds, and 300,000 ops need 1,200 rows.
pub const BLOCK_PARTS: usize = 256;

/// The longest extent, in stored bytes: what is read, checked and held in memory at once.
pub const MAX_EXTENT_BYTES: u32 = 1 << 20;

/// Bytes of the hash in an encoding's name: 80 bits tell encodings of one NAR apart.
const NAME_BYTES: usize = 10;

/// Where a frame record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The segment.
    pub segment: SegmentId,
    /// Offset of the record's header.
    pub offset: u64,
    /// Length of the zstd frame behind the header.
    pub stored_len: u32,
    /// Length of the raw bytes.
    pub raw_len: u32,
    /// Checksum of the zstd frame.
    pub checksum: Checksum,
}

/// One exact encoding of a NAR: equal names mean equal bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// What tells this encoding of the NAR from others: 16 characters of base32.
    pub name: String,
    /// Its length in bytes.
    pub size_bytes: u64,
}

/// A run of frame records that lie together, or bytes that lie in the layout itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Frame records.
    Extent(Extent),
    /// NAR bytes, sent as a raw zstd block.
    Literal(Bytes),
}

/// A run of frame records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The segment.
    pub segment: SegmentId,
    /// Offset of the first record.
    pub offset: u64,
    /// Length of the records, headers included: they are served as they lie.
    pub stored_len: u32,
    /// Length of the NAR bytes in them.
    pub raw_len: u32,
}

impl Part {
    /// Length of the NAR bytes.
    pub fn raw_len(&self) -> u64 {
        match self {
            Part::Extent(extent) => extent.raw_len.into(),
            Part::Literal(bytes) => bytes.len() as u64,
        }
    }

    /// Length as sent.
    pub fn encoded_len(&self) -> u64 {
        match self {
            Part::Extent(extent) => extent.stored_len.into(),
            Part::Literal(bytes) => literal_frame_len(bytes.len()),
        }
    }
}

impl Location {
    /// The index's value for it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        put(&mut out, self.segment.0.into());
        put(&mut out, self.offset);
        put(&mut out, self.stored_len.into());
        put(&mut out, self.raw_len.into());
        out.extend(self.checksum.0);
        out
    }

    /// Reads the index's value.
    pub fn decode(value: &[u8]) -> Result<Location> {
        let mut reader = Reader::new(value, "a frame's location");
        Ok(Location {
            segment: SegmentId(reader.u32()?),
            offset: reader.u64()?,
            stored_len: reader.u32()?,
            raw_len: reader.u32()?,
            checksum: Checksum(reader.array()?),
        })
    }
}

/// The header line of a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Length of the NAR.
    pub nar_size: u64,
    /// What is served.
    pub encoding: Encoding,
    /// Where the recipe record lies.
    pub recipe: Place,
    /// Raw and encoded offset at which each block starts.
    pub blocks: Vec<(u64, u64)>,
    /// Whether the NAR has another layout now, and this one is kept for a while ([`former`]).
    ///
    /// [`former`]: crate::former
    pub is_former: bool,
}

impl Layout {
    /// The layout of a NAR, or None when the depot does not have it.
    pub fn read(index: &dyn Index, nar: &NarHash) -> Result<Option<Layout>> {
        let row = index.get(Table::Layouts, nar.as_bytes())?;
        row.map(|row| Layout::decode(&row)).transpose()
    }

    /// Reads a summary.
    pub fn decode(row: &[u8]) -> Result<Layout> {
        let mut reader = Reader::new(row, "a layout");
        let nar_size = reader.u64()?;
        let size_bytes = reader.u64()?;
        let name = base32::encode(&reader.array::<NAME_BYTES>()?);
        let recipe = Place::read(&mut reader)?;
        let mut blocks = vec![(0, 0)];
        while !reader.is_empty() {
            let (raw, encoded) = *blocks.last().expect("invariant: starts with one");
            blocks.push((raw + reader.u64()?, encoded + reader.u64()?));
        }
        Ok(Layout {
            nar_size,
            encoding: Encoding { name, size_bytes },
            recipe,
            blocks,
            is_former: false,
        })
    }

    /// The summary `row` with its recipe at another place.
    pub fn with_recipe(row: &[u8], recipe: Place) -> Result<Vec<u8>> {
        let mut reader = Reader::new(row, "a layout");
        let mut out = Vec::with_capacity(row.len() + 8);
        put(&mut out, reader.u64()?);
        put(&mut out, reader.u64()?);
        out.extend(reader.array::<NAME_BYTES>()?);
        Place::read(&mut reader)?;
        recipe.put(&mut out);
        out.extend_from_slice(reader.rest());
        Ok(out)
    }

    /// Takes the layout out of the index.
    pub fn remove(&self, batch: &mut Batch, nar: &NarHash) {
        batch.delete(Table::Layouts, nar.as_bytes().as_slice());
        for number in 0..self.blocks.len() {
            batch.delete(Table::Layouts, block_key(nar, number));
        }
    }

    /// The row of block `number`, as it is in the index.
    pub fn block_row(
        &self,
        index: &dyn Index,
        nar: &NarHash,
        number: usize,
    ) -> Result<Option<Bytes>> {
        match self.is_former {
            false => index.get(Table::Layouts, &block_key(nar, number)),
            true => index.get(
                Table::Formers,
                &former::block_key(nar, &self.encoding, number),
            ),
        }
    }

    /// The parts of block `number`; None where the layout was made anew since it was read.
    pub fn block(
        &self,
        index: &dyn Index,
        nar: &NarHash,
        number: usize,
    ) -> Result<Option<Vec<Part>>> {
        let Some(value) = self.block_row(index, nar, number)? else {
            return Ok(None);
        };
        let mut reader = Reader::new(&value, "a block of a layout");
        if (reader.u64()?, reader.u64()?) != self.blocks[number] {
            return Ok(None);
        }
        let mut parts = Vec::with_capacity(BLOCK_PARTS);
        while !reader.is_empty() {
            parts.push(match reader.u64()? {
                0 => Part::Extent(Extent {
                    segment: SegmentId(reader.u32()?),
                    offset: reader.u64()?,
                    stored_len: reader.u32()?,
                    raw_len: reader.u32()?,
                }),
                len => Part::Literal(value.slice_ref(reader.take(len)?)),
            });
        }
        Ok(Some(parts))
    }
}

/// Builds a layout, part by part.
#[derive(Default)]
pub struct Builder {
    hasher: blake3::Hasher,
    /// The extent that still may grow.
    open: Option<Extent>,
    block: Vec<u8>,
    block_parts: usize,
    /// Finished blocks, each with the offsets of its *end*.
    blocks: Vec<(Vec<u8>, (u64, u64))>,
    /// Raw and encoded length of all finished parts.
    end: (u64, u64),
}

impl Builder {
    /// Adds a frame.
    pub fn frame(&mut self, header: &FrameHeader, at: &Location) {
        self.hasher.update(&header.encode());
        let stored_len = FRAME_HEADER_BYTES as u32 + at.stored_len;
        if let Some(open) = &mut self.open {
            let follows = open.segment == at.segment
                && open.offset + u64::from(open.stored_len) == at.offset
                && open.stored_len + stored_len <= MAX_EXTENT_BYTES;
            if follows {
                open.stored_len += stored_len;
                open.raw_len += at.raw_len;
                return;
            }
        }
        self.close_extent();
        let (segment, offset) = (at.segment, at.offset);
        self.open = Some(Extent {
            segment,
            offset,
            stored_len,
            raw_len: at.raw_len,
        });
    }

    /// Adds bytes that lie in the layout itself.
    pub fn literal(&mut self, bytes: &Bytes) {
        self.hasher.update(&literal_frame(bytes));
        self.close_extent();
        self.push(&Part::Literal(bytes.clone()));
    }

    fn close_extent(&mut self) {
        if let Some(extent) = self.open.take() {
            self.push(&Part::Extent(extent));
        }
    }

    fn push(&mut self, part: &Part) {
        if self.block_parts == 0 {
            put(&mut self.block, self.end.0);
            put(&mut self.block, self.end.1);
        }
        match part {
            Part::Extent(extent) => {
                let Extent {
                    segment,
                    offset,
                    stored_len,
                    raw_len,
                } = *extent;
                for number in [
                    0,
                    segment.0.into(),
                    offset,
                    stored_len.into(),
                    raw_len.into(),
                ] {
                    put(&mut self.block, number);
                }
            }
            Part::Literal(bytes) => {
                put(&mut self.block, bytes.len() as u64);
                self.block.extend_from_slice(bytes);
            }
        }
        self.end.0 += part.raw_len();
        self.end.1 += part.encoded_len();
        self.block_parts += 1;
        if self.block_parts == BLOCK_PARTS {
            self.close_block();
        }
    }

    fn close_block(&mut self) {
        self.blocks
            .push((std::mem::take(&mut self.block), self.end));
        self.block_parts = 0;
    }

    /// The name of the encoding that the parts added so far make.
    pub fn name(&self) -> String {
        base32::encode(&self.hasher.finalize().as_bytes()[..NAME_BYTES])
    }

    /// Writes the layout of `nar`, whose recipe lies at `recipe`, into `batch`.
    pub fn finish(mut self, batch: &mut Batch, nar: &NarHash, recipe: Place) {
        self.close_extent();
        if self.block_parts > 0 {
            self.close_block();
        }
        let mut summary = Vec::new();
        put(&mut summary, self.end.0);
        put(&mut summary, self.end.1);
        summary.extend_from_slice(&self.hasher.finalize().as_bytes()[..NAME_BYTES]);
        recipe.put(&mut summary);
        let mut last = (0, 0);
        let inner = self.blocks.len().saturating_sub(1);
        for (_, end) in &self.blocks[..inner] {
            put(&mut summary, end.0 - last.0);
            put(&mut summary, end.1 - last.1);
            last = *end;
        }
        for (number, (block, _)) in self.blocks.into_iter().enumerate() {
            batch.put(Table::Layouts, block_key(nar, number), block);
        }
        batch.put(Table::Layouts, nar.as_bytes().as_slice(), summary);
    }
}

fn block_key(nar: &NarHash, number: usize) -> Vec<u8> {
    [nar.as_bytes().as_slice(), &(number as u32).to_be_bytes()].concat()
}

/// A literal as it is sent: one zstd frame (RFC 8878) of one raw block, single segment, its content
/// size declared.
pub fn literal_frame(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 10);
    out.extend(0xFD2F_B528u32.to_le_bytes());
    match u8::try_from(bytes.len()) {
        Ok(len) => out.extend([0b0010_0000, len]),
        Err(_) => {
            out.push(0b0110_0000);
            out.extend(((bytes.len() - 256) as u16).to_le_bytes());
        }
    }
    let block = (bytes.len() as u32) << 3 | 1;
    out.extend_from_slice(&block.to_le_bytes()[..3]);
    out.extend_from_slice(bytes);
    out
}

/// Length of [`literal_frame`] for `len` bytes.
pub fn literal_frame_len(len: usize) -> u64 {
    (len + if len < 256 { 9 } else { 10 }) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::memory::MemoryIndex;
    use snowcache_core::recipe::FrameId;

    #[test]
    fn a_literal_is_a_zstd_frame_of_the_promised_length() {
        for len in [1, 32, 255, 256, 257, 4096, 65_000] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let frame = literal_frame(&bytes);
            assert_eq!(
                frame.len() as u64,
                literal_frame_len(len),
                "length of {len}"
            );
            assert_eq!(zstd::stream::decode_all(&frame[..]).expect("zstd"), bytes);
        }
    }

    fn frame(segment: u32, offset: u64, stored_len: u32) -> (FrameHeader, Location) {
        let id = FrameId::from_bytes([offset as u8; 32]);
        let checksum = Checksum::of(&offset.to_le_bytes());
        let header = FrameHeader {
            id,
            raw_len: 1000,
            stored_len,
            checksum,
        };
        let segment = SegmentId(segment);
        (
            header,
            Location {
                segment,
                offset,
                stored_len,
                raw_len: 1000,
                checksum,
            },
        )
    }

    #[test]
    fn neighbours_become_one_extent_and_offsets_add_up() {
        let nar = NarHash::from_bytes([5; 32]);
        let (index, mut batch, mut builder) =
            (MemoryIndex::default(), Batch::default(), Builder::default());
        let mut next = 60;
        for number in 0..1000u64 {
            let (header, at) = frame(1, next, 400);
            builder.frame(&header, &at);
            next += 464;
            if number % 2 == 1 {
                builder.literal(&Bytes::from_static(b"token"));
                next += 1000; // the next pair lies elsewhere
            }
        }
        builder.finish(&mut batch, &nar, Place::default());
        index.write(batch).expect("write");

        let layout = Layout::read(&index, &nar).expect("read").expect("is there");
        assert_eq!(layout.nar_size, 1000 * 1000 + 500 * 5);
        assert_eq!(layout.encoding.size_bytes, 1000 * 464 + 500 * 14);
        assert_eq!(layout.blocks.len(), 1000usize.div_ceil(BLOCK_PARTS));
        let mut at = (0, 0);
        for (number, start) in layout.blocks.iter().enumerate() {
            assert_eq!(*start, at, "block {number}");
            let parts = layout.block(&index, &nar, number).expect("block");
            for part in parts.expect("of this layout") {
                if let Part::Extent(extent) = &part {
                    assert_eq!((extent.stored_len, extent.raw_len), (928, 2000));
                }
                at = (at.0 + part.raw_len(), at.1 + part.encoded_len());
            }
        }
        assert_eq!(at, (layout.nar_size, layout.encoding.size_bytes));
    }

    #[test]
    fn other_bytes_have_another_name() {
        let names = [400, 401].map(|stored| {
            let (index, mut batch, mut builder) =
                (MemoryIndex::default(), Batch::default(), Builder::default());
            let (header, at) = frame(1, 60, stored);
            builder.frame(&header, &at);
            let nar = NarHash::from_bytes([6; 32]);
            builder.finish(&mut batch, &nar, Place::default());
            index.write(batch).expect("write");
            Layout::read(&index, &nar)
                .expect("read")
                .expect("is there")
                .encoding
                .name
        });
        assert_ne!(names[0], names[1]);
        assert_eq!(names[0].len(), 16);
    }
}
