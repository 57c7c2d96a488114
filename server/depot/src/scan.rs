//! Scanning a segment: which records it holds, where the last commit ends, what is damaged.
//!
//! Every byte is checked against its checksum. A damaged header loses the way to the next record;
//! the walk then looks for the next header that is whole, so that one bad sector does not cost what
//! lies behind it. Reads are sequential and large; never holds more than one window and one record.

use snowcache_core::recipe::FrameId;

use crate::layout::Location;
use crate::pool::{Level, level_of};
use crate::record::{
    BadHeader, Checksum, FRAME_HEADER_BYTES, FrameHeader, Header, Kind, StateHeader,
};
use crate::segments::{SegmentId, Segments};
use crate::state::{GroupState, from_json};
use crate::{Error, Result};

/// Bytes read at a time: the kernel copies them in some 50 us, so that a scrub never keeps a core
/// for long; read-ahead makes large reads of them.
pub const WINDOW_BYTES: u64 = 256 << 10;

/// Bytes that are given up together where the disk does not read: a page.
const SECTOR_BYTES: usize = 4096;

/// What Linux answers for a sector that does not read (errno 5 on every architecture).
const EIO: i32 = 5;

/// The shortest header: no record starts behind the last place where it fits.
const SHORTEST_HEADER_BYTES: u64 = 32;

/// A part of a segment, as a walk finds it.
pub enum Item<'a> {
    /// A record whose header is whole.
    Record(Found<'a>),
    /// Bytes from here to there that are no record.
    Gap(u64, u64),
}

/// A record whose header is whole.
pub struct Found<'a> {
    /// Offset of the header.
    pub at: u64,
    /// The header.
    pub header: Header,
    /// What follows it.
    pub body: &'a [u8],
    /// Whether the body is what its checksum says.
    pub whole: bool,
}

impl Found<'_> {
    /// Where the next record starts.
    pub fn end(&self) -> u64 {
        self.at + self.header.header_len() as u64 + self.body.len() as u64
    }
}

/// What a walk does where the disk fails to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadSectors {
    /// It ends: the same disk may read them later.
    Fail,
    /// They count as damage, and the walk goes on behind them.
    Damage,
}

/// Hands every part of `segment` from a record boundary to `len` to `on`, in order.
///
/// # Errors `Corrupt` where a record was written by a newer version, `Storage` where the segment
/// cannot be read, and what `on` says.
pub fn walk(
    segments: &dyn Segments,
    segment: SegmentId,
    from: u64,
    len: u64,
    bad_sectors: BadSectors,
    on: &mut dyn FnMut(Item<'_>) -> Result<()>,
) -> Result<()> {
    let mut window = Window {
        segments,
        segment,
        len,
        bad_sectors,
        start: 0,
        bytes: Vec::new(),
    };
    let mut at = from;
    while at < len {
        let Some(header) = header_at(&mut window, at)? else {
            let next = next_header(&mut window, at + 1)?.unwrap_or(len);
            on(Item::Gap(at, next))?;
            at = next;
            continue;
        };
        let body_at = at + header.header_len() as u64;
        let body = window.get(body_at, header.body_len().into())?;
        let whole = Checksum::of(body) == header.checksum();
        let found = Found {
            at,
            header,
            body,
            whole,
        };
        at = found.end();
        on(Item::Record(found))?;
    }
    Ok(())
}

/// Where commits end, found on a walk that began at the end of one.
///
/// A group counts wholly or not at all: what a power cut leaves of one that was not synced may be
/// any of its records. Where something is committed behind a group, it had been synced: what is
/// damaged in it rotted later and costs only what needs it.
#[derive(Default)]
pub struct Commits {
    /// Where the last damage ends.
    damaged_to: u64,
}

impl Commits {
    /// Up to where all is committed, if `item`, the next part of the segment, says so.
    pub fn end(&mut self, item: &Item<'_>) -> Option<u64> {
        let record = match item {
            Item::Record(record) if record.whole => record,
            Item::Record(record) => {
                self.damaged_to = record.end();
                return None;
            }
            Item::Gap(_, to) => {
                self.damaged_to = *to;
                return None;
            }
        };
        let Header::State(state) = record.header else {
            return None;
        };
        let torn = group_of(&state, record.body).filter(|group| self.damaged_to > group.begins);
        state
            .commit
            .then(|| torn.map_or(record.end(), |group| group.begins))
    }
}

/// The group that a whole record ends, if it ends one.
fn group_of(state: &StateHeader, payload: &[u8]) -> Option<GroupState> {
    let ends_one = state.kind == Kind::Part && state.commit && !payload.is_empty();
    let group = ends_one.then(|| from_json(payload, "the end of a group"))?;
    group
        .inspect_err(|error| tracing::error!(%error, "it counts as damaged"))
        .ok()
}

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
    /// The segment's, where its first record was scanned.
    pub level: Level,
    /// What came behind the last commit of an upload whose process died.
    pub left: Option<Left>,
}

impl Scanned {
    /// Takes from `open` what lies before `end`, where a commit ends.
    fn commit(&mut self, open: &mut Scanned, end: u64) {
        let frames = open.frames.partition_point(|(_, at)| at.offset < end);
        let states = open.states.partition_point(|state| state.offset < end);
        self.frames.extend(open.frames.drain(..frames));
        self.states.extend(open.states.drain(..states));
        if open.states.is_empty() {
            self.damaged += std::mem::take(&mut open.damaged);
        }
        self.end = end;
    }

    /// Greater than every sequence number that counts or may be kept.
    pub fn next_seq(&self) -> u64 {
        let seqs = self.states.iter().map(|state| state.seq);
        let last = seqs.chain(self.left.iter().map(|left| left.seq)).max();
        last.map_or(0, |last| last + 1)
    }
}

/// Frames behind a note that says for whom: whole, one behind the other, of no commit.
pub struct Left {
    /// The note's payload.
    pub note: Vec<u8>,
    /// Its sequence number.
    pub seq: u64,
    /// The frames.
    pub frames: Vec<(FrameId, Location)>,
    /// Where the last of them ends.
    pub end: u64,
}

impl Left {
    /// Takes the next part of the segment, if it is a whole frame right behind the others.
    fn take(&mut self, item: &Item<'_>, segment: SegmentId) {
        if let Item::Record(record) = item
            && let Header::Frame(frame) = record.header
            && record.whole
            && record.at == self.end
        {
            let location = located(&frame, segment, record.at);
            self.frames.push((frame.id, location));
            self.end = record.end();
        }
    }
}

fn located(frame: &FrameHeader, segment: SegmentId, offset: u64) -> Location {
    Location {
        segment,
        offset,
        stored_len: frame.stored_len,
        raw_len: frame.raw_len,
        checksum: frame.checksum,
    }
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
    let mut found = Scanned {
        end: from,
        ..Scanned::default()
    };
    // What was found since the last commit.
    let (mut open, mut commits) = (Scanned::default(), Commits::default());
    walk(
        segments,
        segment,
        from,
        len,
        BadSectors::Fail,
        &mut |item| {
            if let Some(left) = &mut found.left {
                left.take(&item, segment);
            }
            let committed = commits.end(&item);
            let record = match item {
                Item::Record(record) if record.whole => record,
                Item::Record(_) | Item::Gap(..) => {
                    open.damaged += 1;
                    return Ok(());
                }
            };
            match record.header {
                Header::Frame(frame) => {
                    let location = located(&frame, segment, record.at);
                    open.frames.push((frame.id, location));
                }
                Header::State(state) => {
                    if state.kind == Kind::Segment {
                        found.level = level_of(record.body);
                    } else {
                        open.states.push(StateAt {
                            kind: state.kind,
                            seq: state.seq,
                            offset: record.at,
                            len: record.end() - record.at,
                        });
                    }
                    let is_note = state.kind == Kind::Part && !state.commit;
                    if is_note && open.frames.is_empty() && open.damaged == 0 {
                        found.left = Some(Left {
                            note: record.body.to_vec(),
                            seq: state.seq,
                            frames: Vec::new(),
                            end: record.end(),
                        });
                    }
                    if let Some(end) = committed {
                        found.left = None;
                        found.commit(&mut open, end);
                    }
                }
            }
            Ok(())
        },
    )?;
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
    for at in from..(window.len + 1).saturating_sub(SHORTEST_HEADER_BYTES) {
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
    bad_sectors: BadSectors,
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
            self.start = at;
            let Window {
                segments, segment, ..
            } = *self;
            match self.bad_sectors {
                BadSectors::Fail => segments
                    .read(segment, at, &mut self.bytes)
                    .map_err(|error| unreadable(segment, at, error))?,
                BadSectors::Damage => read_what_reads(segments, segment, at, &mut self.bytes)?,
            }
        }
        let from = (at - self.start) as usize;
        Ok(&self.bytes[from..from + count as usize])
    }
}

/// Fills `bytes` from `at` on, with zeros for sectors that do not read: whatever checksum covers
/// them will not match.
pub fn read_what_reads(
    segments: &dyn Segments,
    segment: SegmentId,
    at: u64,
    bytes: &mut [u8],
) -> Result<()> {
    let failed = |at, error| unreadable(segment, at, error);
    match segments.read(segment, at, bytes) {
        Err(error) if is_bad_sector(&error) => {}
        read => return read.map_err(|error| failed(at, error)),
    }
    let mut at = at;
    for sector in bytes.chunks_mut(SECTOR_BYTES) {
        match segments.read(segment, at, sector) {
            Err(error) if is_bad_sector(&error) => sector.fill(0),
            read => read.map_err(|error| failed(at, error))?,
        }
        at += sector.len() as u64;
    }
    Ok(())
}

fn unreadable(segment: SegmentId, at: u64, error: std::io::Error) -> Error {
    Error::io(format!("reading segment {segment} at {at}"), error)
}

/// Whether it is these bytes that do not read: no other error says anything about them.
fn is_bad_sector(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(EIO)
}
