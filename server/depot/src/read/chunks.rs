//! The bytes of a NAR in order: the next window of them to send, or copied, a part at a time.
//!
//! Guarantees: consecutive bytes of one encoding, whatever moves meanwhile; after an error nothing
//! more comes.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::extent::{Unread, decode, failed, read_extent};
use super::unpack::{Place as Within, unpack};
use super::window::{
    COPIED_BYTES, LEAN_BYTES, LEAN_PIECES, PIECES, Piece, SHORT_BYTES, UNPACKED_BYTES, Unpacked,
    Window,
};
use super::{NarReader, View};
use crate::layout::{Extent, Part, literal_frame};
use crate::segments::SegmentId;
use crate::segments::file::SegmentFile;
use crate::{Error, ErrorKind, Result};

/// Times that a reader looks for moved frames before one part of a NAR: a segment is rewritten
/// once in minutes, a part is read in milliseconds.
const MAX_MOVES: u32 = 8;

/// Consecutive bytes of a NAR, an extent or a literal at a time; after an error nothing more comes.
///
/// Frames may move while they are read: what went away or was damaged is looked up once more.
pub struct Chunks {
    reader: NarReader,
    view: View,
    /// What is still to be given out.
    range: Range<u64>,
    /// Parts of the current block that are not used up, and the offset where they start.
    parts: Arc<[Part]>,
    next_part: usize,
    at: u64,
    next_block: usize,
    /// How often the layout was looked up once more for the part that is due.
    looked_again: u32,
    /// The segment that was read last; None in place of the file where it is none.
    file: Option<(SegmentId, Option<Arc<SegmentFile>>)>,
    /// Where in the extent that is due unpacking goes on.
    within: Option<Within>,
    /// The next extent is read and checked whatever is known of it.
    afresh: bool,
    /// Windows take as little memory as can be.
    lean: bool,
    /// Nothing is waited for.
    at_once: bool,
}

impl Chunks {
    pub(super) fn new(reader: &NarReader, view: View, range: Range<u64>) -> Chunks {
        let size = match view {
            View::Encoded => reader.layout.encoding.size_bytes,
            View::Raw => reader.layout.nar_size,
        };
        let mut chunks = Chunks {
            reader: reader.clone(),
            view,
            range: range.start..range.end.min(size),
            parts: Arc::default(),
            next_part: 0,
            at: 0,
            next_block: 0,
            looked_again: 0,
            file: None,
            within: None,
            afresh: false,
            lean: false,
            at_once: false,
        };
        chunks.seek();
        chunks
    }

    /// The same, the next extent being read from the disk and checked whatever is known of it: for
    /// what the kernel holds no more.
    pub fn afresh(mut self) -> Chunks {
        self.afresh = true;
        self
    }

    /// The same, with windows that take some KB: short extents are named like long ones, at the
    /// price of a call for each. NAR bytes are unpacked as ever.
    pub fn lean(mut self) -> Chunks {
        self.lean = true;
        self
    }

    /// Goes to the block in which the range starts.
    fn seek(&mut self) {
        let (blocks, view) = (&self.reader.layout.blocks, self.view);
        let start = |block: &(u64, u64)| if view == View::Raw { block.0 } else { block.1 };
        self.next_block = blocks.partition_point(|block| start(block) <= self.range.start) - 1;
        self.at = start(&blocks[self.next_block]);
        (self.parts, self.next_part) = (Arc::default(), 0);
    }

    /// Loads the next block of the layout, or goes to its place in a layout that is newer; false
    /// where that would wait and must not.
    fn load(&mut self) -> Result<bool> {
        let NarReader {
            shared,
            nar,
            layout,
            ..
        } = &self.reader;
        let parts = match self.reader.known(self.next_block) {
            None if self.at_once => return Ok(false),
            None if self.next_block < layout.blocks.len() => {
                let read = layout.block(&*shared.index, &nar.nar_hash, self.next_block)?;
                read.map(Arc::from)
            }
            known => known,
        };
        let Some(parts) = parts else {
            self.follow()?;
            return Ok(true);
        };
        (self.parts, self.next_part) = (parts, 0);
        self.next_block += 1;
        Ok(true)
    }

    /// The frames were moved: goes on where they are now, at the byte that is due.
    fn follow(&mut self) -> Result<()> {
        self.looked_again += 1;
        let NarReader {
            shared,
            nar,
            layout,
            ..
        } = &self.reader;
        let tries = self.looked_again <= MAX_MOVES;
        let now = NarReader::open(shared.clone(), nar.nar_hash)?.filter(|_| tries);
        let now = match (now, self.view) {
            // Its bytes are the same, however they are packed.
            (Some(now), View::Encoded) if now.encoding() != &layout.encoding => {
                now.former(&layout.encoding.name)?
            }
            (now, _) => now,
        };
        self.reader = now.ok_or_else(|| {
            Error::new(
                ErrorKind::Storage,
                format!("NAR {} was removed while it was read", nar.nar_hash),
            )
        })?;
        self.file = None;
        self.seek();
        Ok(())
    }

    /// The part that is due, and which of its bytes are wanted; None at the end, and where looking
    /// for it would wait and must not.
    fn due(&mut self) -> Result<Option<(Part, Range<usize>)>> {
        while self.range.start < self.range.end {
            let Some(part) = self.parts.get(self.next_part) else {
                match self.load()? {
                    true => continue,
                    false => break,
                }
            };
            let len = if self.view == View::Raw {
                part.raw_len()
            } else {
                part.encoded_len()
            };
            let (start, end) = (self.at, self.at + len);
            if end > self.range.start {
                let from = (self.range.start - start) as usize;
                let to = (self.range.end.min(end) - start) as usize;
                return Ok(Some((part.clone(), from..to)));
            }
            self.at = end;
            self.next_part += 1;
        }
        Ok(None)
    }

    fn given_out(&mut self, len: u64) {
        self.looked_again = 0;
        self.range.start += len;
    }

    fn advance(&mut self) -> Result<Option<Bytes>> {
        while let Some((part, wanted)) = self.due()? {
            match self.part(&part, wanted) {
                Ok(bytes) => {
                    self.given_out(bytes.len() as u64);
                    return Ok(Some(bytes));
                }
                Err(unread) => self.look_again(unread)?,
            }
        }
        Ok(None)
    }

    /// What is sent next, without what lies in files being copied: some MB of stored frames, or
    /// half a megabyte of the NAR; nothing at the end.
    ///
    /// # Errors
    /// As the iterator's; nothing more comes then.
    pub fn window(&mut self) -> Result<VecDeque<Piece>> {
        let window = self.fill();
        if window.is_err() {
            self.range.end = self.range.start;
        }
        window
    }

    /// As much of it as takes no wait, where it is sent as stored: nothing where the layout is not
    /// in memory, or what is due was not checked yet or is not in the kernel's.
    pub fn window_at_once(&mut self) -> VecDeque<Piece> {
        if self.view == View::Raw || self.afresh {
            return VecDeque::new();
        }
        let due = self.range.start;
        self.at_once = true;
        let window = self.fill();
        self.at_once = false;
        window.unwrap_or_else(|_| {
            // Who waits will be told why.
            self.range.start = due;
            self.seek();
            VecDeque::new()
        })
    }

    fn fill(&mut self) -> Result<VecDeque<Piece>> {
        // Whether a file is as it was is asked once a window.
        self.file = None;
        let mut window = Window::default();
        let (copied, pieces) = match self.view {
            View::Encoded if self.lean => (LEAN_BYTES, LEAN_PIECES),
            View::Encoded => (COPIED_BYTES, PIECES),
            View::Raw => (UNPACKED_BYTES, PIECES),
        };
        if self.view == View::Raw {
            *window.buffer() = Unpacked::buffer();
        }
        while !window.is_full(copied, pieces) {
            let Some((part, wanted)) = self.due()? else {
                break;
            };
            match self.put(&part, wanted, &mut window) {
                Ok(0) => break,
                Ok(len) => self.given_out(len),
                Err(unread) => self.look_again(unread)?,
            }
        }
        if self.view == View::Raw && !window.buffer().is_empty() {
            let bytes = Unpacked::bytes(std::mem::take(window.buffer()));
            return Ok(VecDeque::from([Piece::Bytes(bytes)]));
        }
        Ok(window.finish())
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

    fn part(&mut self, part: &Part, wanted: Range<usize>) -> Result<Bytes, Unread> {
        match (part, self.view) {
            (Part::Literal(bytes), View::Raw) => Ok(bytes.slice(wanted)),
            (Part::Literal(bytes), View::Encoded) => {
                Ok(Bytes::from(literal_frame(bytes)).slice(wanted))
            }
            (Part::Extent(extent), View::Encoded) => Ok(self.whole(extent)?.slice(wanted)),
            (Part::Extent(extent), View::Raw) => {
                let mut out = Unpacked::buffer();
                self.unpacked(extent, wanted, &mut out)?;
                Ok(Unpacked::bytes(out))
            }
        }
    }

    /// Adds bytes of a part to a window; returns how many, none where they do not fit.
    fn put(&mut self, part: &Part, wanted: Range<usize>, to: &mut Window) -> Result<u64, Unread> {
        let len = wanted.len() as u64;
        match (part, self.view) {
            (Part::Literal(bytes), View::Raw) => to.buffer().extend_from_slice(&bytes[wanted]),
            (Part::Literal(bytes), View::Encoded) => {
                to.buffer().extend_from_slice(&literal_frame(bytes)[wanted]);
            }
            (Part::Extent(extent), View::Raw) => {
                return self.unpacked(extent, wanted, to.buffer());
            }
            (Part::Extent(extent), View::Encoded) => {
                let (offset, stored) = (extent.offset, u64::from(extent.stored_len));
                let from = wanted.start as u64;
                let is_named = self.lean || wanted.len() >= SHORT_BYTES;
                let file = self.file(extent)?;
                let known = file.filter(|file| !self.afresh && file.is_checked(offset, stored));
                if is_named && let Some(file) = &known {
                    to.run(file, offset + from, len);
                    return Ok(len);
                }
                let buffer = to.buffer();
                let before = buffer.len();
                buffer.resize(before + wanted.len(), 0);
                let is_read = known
                    .is_some_and(|file| file.read_cached(offset + from, &mut buffer[before..]));
                if is_read {
                    return Ok(len);
                }
                buffer.truncate(before);
                if self.at_once {
                    return Ok(0);
                }
                let whole = self.whole(extent)?;
                match self.file(extent)? {
                    Some(file) if is_named => {
                        to.run(&file, offset + from, len);
                    }
                    _ => to.buffer().extend_from_slice(&whole[wanted]),
                }
            }
        }
        Ok(len)
    }

    /// The file that an extent lies in.
    fn file(&mut self, extent: &Extent) -> Result<Option<Arc<SegmentFile>>, Unread> {
        if let Some((segment, file)) = &self.file
            && *segment == extent.segment
        {
            return Ok(file.clone());
        }
        let segments = &self.reader.shared.segments;
        let opened = match self.at_once {
            true => Ok(segments.opened(extent.segment)),
            false => segments.file(extent.segment),
        };
        let looked = opened.and_then(|file| {
            file.as_deref().map_or(Ok(()), SegmentFile::look)?;
            Ok(file)
        });
        let file = looked.map_err(|error| failed(extent, error))?;
        self.file = Some((extent.segment, file.clone()));
        Ok(file)
    }

    /// All records of an extent, read and checked.
    fn whole(&mut self, extent: &Extent) -> Result<Bytes, Unread> {
        let Extent {
            segment,
            offset,
            stored_len,
            ..
        } = *extent;
        let Some(file) = self.file(extent)? else {
            let segments = &self.reader.shared.segments;
            return read_extent(extent, |buf| segments.read(segment, offset, buf));
        };
        let stored = read_extent(extent, |buf| file.read(offset, buf))?;
        file.checked(offset, stored_len.into());
        self.afresh = false;
        Ok(stored)
    }

    /// Appends NAR bytes of an extent to `out`: some of those wanted, at least a frame's where
    /// `out` is empty. How many.
    fn unpacked(
        &mut self,
        extent: &Extent,
        wanted: Range<usize>,
        out: &mut Vec<u8>,
    ) -> Result<u64, Unread> {
        if let Some(file) = self.file(extent)? {
            let within = self.within.filter(|it| it.leads_to(extent, wanted.start));
            let mut within = within.unwrap_or(Within::start(*extent));
            let unpacked = unpack(&file, &mut within, wanted.clone(), out);
            if let Some(len) = unpacked.map_err(|error| failed(extent, error))? {
                self.within = Some(within);
                return Ok(len as u64);
            }
        }
        let stored = self.whole(extent)?;
        let bytes = decode(&stored, wanted, UNPACKED_BYTES, extent)?;
        out.extend_from_slice(&bytes);
        Ok(bytes.len() as u64)
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
