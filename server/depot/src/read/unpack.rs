//! NAR bytes out of frames, some at a time: with a decompressor and buffers that serve again.
//!
//! Guarantees: bytes that came from the disk, and such as were never checked, are checked. Never
//! says what is wrong: whatever is not as it should be is left to the slow way, which does.

use std::io::{self, Cursor};
use std::ops::Range;
use std::sync::Mutex;

use zstd::bulk::Decompressor;

use crate::layout::Extent;
use crate::record::{Checksum, FRAME_HEADER_BYTES, FrameHeader, Header};
use crate::segments::file::SegmentFile;

/// Stored bytes read at once: some frames of usual size.
const READ_BYTES: usize = 256 << 10;

/// Tools kept for the next one: a decompressor has 100 KB, the buffers some 300.
const KEPT_TOOLS: usize = 8;

static KEPT: Mutex<Vec<Tools>> = Mutex::new(Vec::new());

/// What unpacking takes.
struct Tools {
    decompressor: Decompressor<'static>,
    stored: Vec<u8>,
}

impl Tools {
    fn take() -> io::Result<Tools> {
        if let Some(kept) = KEPT.lock().ok().and_then(|mut kept| kept.pop()) {
            return Ok(kept);
        }
        Ok(Tools {
            decompressor: Decompressor::new()?,
            stored: Vec::new(),
        })
    }

    fn keep(mut self) {
        if self.stored.capacity() > 2 * READ_BYTES {
            self.stored = Vec::new();
        }
        if let Ok(mut kept) = KEPT.lock()
            && kept.len() < KEPT_TOOLS
        {
            kept.push(self);
        }
    }
}

/// A place between two records of an extent.
#[derive(Clone, Copy)]
pub struct Place {
    extent: Extent,
    /// Stored and raw bytes before it.
    stored: usize,
    raw: usize,
}

impl Place {
    /// Where an extent begins.
    pub fn start(extent: Extent) -> Place {
        Place {
            extent,
            stored: 0,
            raw: 0,
        }
    }

    /// Whether the bytes of `extent` from `raw` on can be read from here.
    pub fn leads_to(&self, extent: &Extent, raw: usize) -> bool {
        self.extent == *extent && self.raw <= raw
    }
}

/// Appends the raw bytes `wanted` of the extent to `out`, or their beginning: as many frames as
/// fit, but one where `out` is empty. None where something is not as it should be; `out` is as it
/// was then.
pub fn unpack(
    file: &SegmentFile,
    from: &mut Place,
    wanted: Range<usize>,
    out: &mut Vec<u8>,
) -> io::Result<Option<usize>> {
    let mut tools = Tools::take()?;
    let (before, mut place) = (out.len(), *from);
    let mut read_bytes = READ_BYTES;
    loop {
        match some(file, &mut place, &wanted, out, &mut tools, read_bytes)? {
            Step::More => read_bytes = READ_BYTES,
            Step::Longer(bytes) => read_bytes = bytes,
            Step::Enough => break,
            Step::Odd => {
                out.truncate(before);
                return Ok(None);
            }
        }
    }
    tools.keep();
    *from = place;
    Ok(Some(out.len() - before))
}

enum Step {
    /// What was read is used up.
    More,
    /// The next record takes so many bytes.
    Longer(usize),
    /// `out` is full, or has all that is wanted.
    Enough,
    /// No record, or not the right one.
    Odd,
}

fn some(
    file: &SegmentFile,
    place: &mut Place,
    wanted: &Range<usize>,
    out: &mut Vec<u8>,
    tools: &mut Tools,
    read_bytes: usize,
) -> io::Result<Step> {
    let extent = place.extent;
    let left = extent.stored_len as usize - place.stored;
    tools.stored.resize(read_bytes.min(left), 0);
    let offset = extent.offset + place.stored as u64;
    let mut is_sure = file.is_checked(offset, tools.stored.len() as u64);
    if !file.read_cached(offset, &mut tools.stored) {
        file.read(offset, &mut tools.stored)?;
        is_sure = false;
    }
    let mut at = 0;
    while place.raw < wanted.end {
        let rest = &tools.stored[at..];
        let header = match Header::decode(rest) {
            Ok(Header::Frame(header)) => header,
            _ if rest.len() < FRAME_HEADER_BYTES && rest.len() < left - at => {
                return Ok(if at > 0 { Step::More } else { Step::Odd });
            }
            _ => return Ok(Step::Odd),
        };
        let record = FRAME_HEADER_BYTES + header.stored_len as usize;
        let Some(body) = rest.get(FRAME_HEADER_BYTES..record) else {
            return Ok(match (record <= left - at, at) {
                (false, _) => Step::Odd,
                (true, 0) => Step::Longer(record),
                (true, _) => Step::More,
            });
        };
        if !is_sure {
            if Checksum::of(body) != header.checksum {
                return Ok(Step::Odd);
            }
            file.checked(offset + at as u64, record as u64);
        }
        let raw_len = header.raw_len as usize;
        if place.raw + raw_len > wanted.start {
            let is_first = out.is_empty();
            if !is_first && out.len() + raw_len > out.capacity() {
                return Ok(Step::Enough);
            }
            let part = wanted.start.saturating_sub(place.raw)
                ..raw_len.min(wanted.end.saturating_sub(place.raw));
            if !decompress(&mut tools.decompressor, &header, body, part, out) {
                return Ok(Step::Odd);
            }
        }
        at += record;
        place.stored += record;
        place.raw += raw_len;
        if place.stored == extent.stored_len as usize && place.raw != extent.raw_len as usize {
            return Ok(Step::Odd);
        }
    }
    Ok(Step::Enough)
}

/// Appends `part` of a frame's raw bytes.
fn decompress(
    decompressor: &mut Decompressor<'static>,
    header: &FrameHeader,
    body: &[u8],
    part: Range<usize>,
    out: &mut Vec<u8>,
) -> bool {
    let raw_len = header.raw_len as usize;
    let before = out.len();
    out.reserve(raw_len);
    let mut behind = Cursor::new(std::mem::take(out));
    behind.set_position(before as u64);
    let written = decompressor.decompress_to_buffer(body, &mut behind);
    *out = behind.into_inner();
    if written.ok() != Some(raw_len) || out.len() != before + raw_len {
        out.truncate(before);
        return false;
    }
    out.truncate(before + part.end);
    out.drain(before..before + part.start);
    true
}
