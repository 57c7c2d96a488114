//! The open segments, and who writes to which.
//!
//! ```text
//!   borrow() --> Stream --append.. sync.. committed()--> dropped --> idle, or full: never
//!                   |                                        |              written again
//!                   +-- an error: poisoned, never reused     +-- not committed: cut back
//! ```
//!
//! Guarantees: a segment has one writer at a time, so the records of one upload lie together; what
//! was not committed leaves nothing behind; a segment that failed once is never written again. What
//! was compressed anew is never beside what was not: a segment has one [`Level`] for ever.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::record::{FrameHeader, Kind, StateHeader};
use crate::replay::Replayed;
use crate::rows::Place;
use crate::segments::{SegmentId, SegmentWriter, Segments};
use crate::{Error, Result};

/// A segment this long gets no further uploads: long enough that a terabyte is 4,096 files, short
/// enough to rewrite in seconds.
pub const SEGMENT_BYTES: u64 = 256 << 20;

/// The zstd level at which all frames of a segment were compressed anew; 0: they are as they came.
pub type Level = u8;

/// The level of segments whose frames lie as they were sent, where what is stored is compressed
/// anew: what a process that died had not got to. No NAR is made of them as they are.
pub const AS_SENT: Level = Level::MAX;

/// Hands out streams and depot-wide numbers.
pub struct Pool {
    segments: Arc<dyn Segments>,
    open: Mutex<Open>,
    /// Committed lengths of the segments that were written to.
    committed: Mutex<HashMap<SegmentId, u64>>,
    /// Of the segments whose level is not 0.
    levels: Mutex<HashMap<SegmentId, Level>>,
    next_segment: AtomicU32,
    next_seq: AtomicU64,
    /// Bytes in all segments.
    bytes: AtomicU64,
}

/// Segments that are not sealed.
#[derive(Default)]
struct Open {
    idle: Vec<Idle>,
    /// In the hands of a stream.
    busy: HashSet<SegmentId>,
    /// Failed, with what was never committed perhaps still in them, and the length to cut them to.
    uncut: Vec<(SegmentId, u64)>,
}

struct Idle {
    id: SegmentId,
    len: u64,
    level: Level,
    /// None: not opened since the depot was.
    writer: Option<Box<dyn SegmentWriter>>,
}

impl Pool {
    /// A pool that goes on where a replay has ended.
    pub fn new(segments: Arc<dyn Segments>, found: Replayed) -> Arc<Pool> {
        let levels = found.levels;
        let idle = found.unsealed.into_iter().map(|(id, len)| Idle {
            id,
            len,
            level: levels.get(&id).copied().unwrap_or_default(),
            writer: None,
        });
        let open = Open {
            idle: idle.collect(),
            ..Open::default()
        };
        Arc::new(Pool {
            segments,
            open: Mutex::new(open),
            committed: Mutex::default(),
            levels: Mutex::new(levels),
            next_segment: AtomicU32::new(found.next_segment),
            next_seq: AtomicU64::new(found.next_seq),
            bytes: AtomicU64::new(found.bytes),
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open
            .lock()
            .expect("invariant: no panic while the lock is held")
    }

    /// Bytes in all segments.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Takes a segment out of use for good, so that it can be rewritten. False where a stream
    /// writes to it now.
    pub fn seal(&self, id: SegmentId) -> bool {
        let mut open = self.open();
        open.idle.retain(|idle| idle.id != id);
        !open.busy.contains(&id)
    }

    /// Removes a sealed segment of `len` bytes.
    pub fn remove(&self, id: SegmentId, len: u64) -> Result<()> {
        self.segments
            .remove(id)
            .map_err(|e| failed("removing", id, e))?;
        self.levels().remove(&id);
        self.bytes.fetch_sub(len, Ordering::Relaxed);
        Ok(())
    }

    /// At which level the frames of a segment were compressed anew.
    pub fn level(&self, id: SegmentId) -> Level {
        self.levels().get(&id).copied().unwrap_or_default()
    }

    fn levels(&self) -> MutexGuard<'_, HashMap<SegmentId, Level>> {
        self.levels
            .lock()
            .expect("invariant: no panic while the lock is held")
    }

    /// A segment for the caller alone, for what comes in: the one used last, so that as few as
    /// possible grow; a new one when none is idle.
    pub fn borrow(self: &Arc<Pool>) -> Result<Stream> {
        self.borrow_at(0)
    }

    /// The same, for frames of a level.
    pub fn borrow_at(self: &Arc<Pool>, level: Level) -> Result<Stream> {
        self.cut_failed()?;
        let idle = {
            let mut open = self.open();
            let last = open.idle.iter().rposition(|idle| idle.level == level);
            let idle = last.map(|at| open.idle.remove(at));
            open.busy.extend(idle.as_ref().map(|idle| idle.id));
            idle
        };
        let Some(Idle {
            id, len, writer, ..
        }) = idle
        else {
            return self.create_at(level);
        };
        let mut stream = self.stream(id, len, level);
        stream.writer = match writer {
            Some(writer) => Some(writer),
            None => {
                let opened = self.segments.append(id, len);
                Some(opened.map_err(|e| failed("opening", id, e))?)
            }
        };
        Ok(stream)
    }

    /// A segment for frames as they were sent. The caller writes to it and never commits: dropped,
    /// nothing is left of it but its beginning, for whoever is next.
    pub fn borrow_aside(self: &Arc<Pool>) -> Result<Stream> {
        let mut stream = self.borrow_at(AS_SENT)?;
        if stream.committed == 0 {
            stream.state(Kind::Part, true, &[])?;
            stream.sync()?;
            stream.committed();
        }
        Ok(stream)
    }

    /// Cuts failed segments back, durably, before anything new is written: whole records in what
    /// was given up would count at the next start, and nobody reckons with them.
    fn cut_failed(&self) -> Result<()> {
        let mut open = self.open();
        while let Some((id, keep)) = open.uncut.last().copied() {
            let cut = match keep {
                0 => self.segments.remove(id),
                keep => self.segments.append(id, keep).and_then(|mut it| it.sync()),
            };
            match cut {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(failed("cutting back", id, error));
                }
                _ => open.uncut.pop(),
            };
        }
        Ok(())
    }

    /// A stream that has no writer yet.
    fn stream(self: &Arc<Pool>, id: SegmentId, len: u64, level: Level) -> Stream {
        self.lengths().insert(id, len);
        Stream {
            pool: self.clone(),
            id,
            level,
            len,
            committed: len,
            grown: 0,
            writer: None,
        }
    }

    /// How far each segment that was written to is committed.
    pub fn committed_lengths(&self) -> HashMap<SegmentId, u64> {
        self.lengths().clone()
    }

    fn lengths(&self) -> MutexGuard<'_, HashMap<SegmentId, u64>> {
        self.committed
            .lock()
            .expect("invariant: no panic while the lock is held")
    }

    /// The first sequence number that no record has.
    pub fn next_seq(&self) -> u64 {
        self.next_seq.load(Ordering::Relaxed)
    }

    /// A new segment for the caller alone, for frames of a level.
    pub fn create_at(self: &Arc<Pool>, level: Level) -> Result<Stream> {
        self.cut_failed()?;
        let id = SegmentId(self.next_segment.fetch_add(1, Ordering::Relaxed));
        self.open().busy.insert(id);
        if level > 0 {
            self.levels().insert(id, level);
        }
        let mut stream = self.stream(id, 0, level);
        let created = self.segments.append(id, 0);
        stream.writer = Some(created.map_err(|e| failed("creating", id, e))?);
        stream.state(Kind::Segment, false, &segment_payload(id, level))?;
        Ok(stream)
    }
}

/// One segment in the hands of one writer.
pub struct Stream {
    pool: Arc<Pool>,
    id: SegmentId,
    level: Level,
    len: u64,
    committed: u64,
    /// What the last commit added.
    grown: u64,
    /// None once poisoned.
    writer: Option<Box<dyn SegmentWriter>>,
}

impl Stream {
    /// The segment's number.
    pub fn id(&self) -> SegmentId {
        self.id
    }

    /// At which level its frames were compressed anew.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Its length with all that was appended.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Its length with what was committed.
    pub fn committed_len(&self) -> u64 {
        self.committed
    }

    /// Whether the next record belongs into another segment.
    pub fn is_full(&self) -> bool {
        self.len >= SEGMENT_BYTES
    }

    /// Appends a frame record; returns its offset.
    pub fn frame(&mut self, header: &FrameHeader, stored: &[u8]) -> Result<u64> {
        self.append(&header.encode(), stored)
    }

    /// Appends a state record under the next sequence number; returns where it lies.
    pub fn state(&mut self, kind: Kind, commit: bool, payload: &[u8]) -> Result<Place> {
        let seq = self.pool.next_seq.fetch_add(1, Ordering::Relaxed);
        let header = StateHeader::of(kind, commit, seq, payload);
        self.state_again(&header, payload)
    }

    /// Appends a state record that has its sequence number; returns where it lies.
    pub fn state_again(&mut self, header: &StateHeader, payload: &[u8]) -> Result<Place> {
        let offset = self.append(&header.encode(), payload)?;
        Ok(Place::of(self.id, offset, header))
    }

    fn append(&mut self, header: &[u8], body: &[u8]) -> Result<u64> {
        let offset = self.len;
        self.with_writer("writing", |writer| {
            writer.append(header)?;
            writer.append(body)
        })?;
        let appended = (header.len() + body.len()) as u64;
        self.len += appended;
        self.pool.bytes.fetch_add(appended, Ordering::Relaxed);
        Ok(offset)
    }

    /// Hands everything appended to the kernel, so that it is there when this process is gone.
    pub fn flush(&mut self) -> Result<()> {
        self.with_writer("writing", |writer| writer.flush())
    }

    /// Makes everything appended durable.
    pub fn sync(&mut self) -> Result<()> {
        self.with_writer("syncing", |writer| writer.sync())
    }

    /// From here on everything appended stays, also when the stream is dropped. Call it once it is
    /// durable.
    pub fn committed(&mut self) {
        self.grown = self.len - self.committed;
        self.committed = self.len;
        self.pool.lengths().insert(self.id, self.len);
    }

    /// Bytes that the last commit added.
    pub fn grown(&self) -> u64 {
        self.grown
    }

    /// Takes back what was appended since the last commit.
    pub fn rewind(&mut self) -> Result<()> {
        let keep = self.committed;
        if keep == 0 {
            return Ok(()); // a new segment is removed whole when the stream is dropped
        }
        self.with_writer("cutting back", |writer| writer.truncate(keep))?;
        self.shorten(keep);
        Ok(())
    }

    fn shorten(&mut self, keep: u64) {
        self.pool
            .bytes
            .fetch_sub(self.len - keep, Ordering::Relaxed);
        self.len = keep;
    }

    fn with_writer<T>(
        &mut self,
        doing: &str,
        action: impl FnOnce(&mut dyn SegmentWriter) -> std::io::Result<T>,
    ) -> Result<T> {
        let writer = self.writer.as_mut().ok_or_else(|| {
            Error::io(
                format!("using segment {}", self.id),
                std::io::ErrorKind::BrokenPipe.into(),
            )
        })?;
        match action(writer.as_mut()) {
            Ok(value) => Ok(value),
            Err(error) => {
                self.poison();
                Err(failed(doing, self.id, error))
            }
        }
    }

    /// Gives the segment up at its last committed length, durably; until that has worked nothing
    /// else is written.
    fn poison(&mut self) {
        let Some(mut writer) = self.writer.take() else {
            return;
        };
        let cut = match self.committed {
            0 => self.pool.segments.remove(self.id),
            committed => writer.truncate(committed).and_then(|()| writer.sync()),
        };
        let left = cut.err().map(|error| error.to_string());
        if left.is_some() {
            self.pool.open().uncut.push((self.id, self.committed));
        }
        self.shorten(self.committed);
        tracing::error!(segment = %self.id, left, "segment failed and is out of use");
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // After an error in here the stream is poisoned and has no writer.
        let cut = self.committed == self.len || self.rewind().is_ok();
        if let Some(writer) = self.writer.take() {
            if self.committed == 0 {
                drop(writer);
                match self.pool.segments.remove(self.id) {
                    Ok(()) => self.shorten(0),
                    Err(error) => {
                        tracing::warn!(segment = %self.id, %error, "an unused segment stays");
                    }
                }
            } else if cut && !self.is_full() {
                let idle = Idle {
                    id: self.id,
                    len: self.len,
                    level: self.level,
                    writer: Some(writer),
                };
                self.pool.open().idle.push(idle);
            }
        }
        self.pool.open().busy.remove(&self.id);
    }
}

/// What the first record of a segment says: its number, and the level where there is one.
fn segment_payload(id: SegmentId, level: Level) -> Vec<u8> {
    let mut payload = id.0.to_le_bytes().to_vec();
    payload.extend((level > 0).then_some(level));
    payload
}

/// The level in the payload of a segment's first record.
pub fn level_of(segment_payload: &[u8]) -> Level {
    segment_payload.get(4).copied().unwrap_or_default()
}

fn failed(doing: &str, id: SegmentId, error: std::io::Error) -> Error {
    Error::io(format!("{doing} segment {id}"), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segments::memory::MemorySegments;

    fn pool(segments: &MemorySegments) -> Arc<Pool> {
        Pool::new(Arc::new(segments.clone()), Replayed::default())
    }

    #[test]
    fn an_abandoned_stream_leaves_nothing_behind() {
        let segments = MemorySegments::default();
        let pool = pool(&segments);
        let mut stream = pool.borrow().expect("borrow");
        stream
            .state(Kind::Upload, true, b"never committed")
            .expect("append");
        drop(stream);
        assert!(segments.list().expect("list").is_empty());

        let mut stream = pool.borrow().expect("borrow");
        stream.state(Kind::Upload, true, b"kept").expect("append");
        stream.sync().expect("sync");
        stream.committed();
        let kept = stream.len();
        stream
            .state(Kind::Upload, true, b"not kept")
            .expect("append");
        stream.sync().expect("sync");
        let id = stream.id();
        drop(stream);
        assert_eq!(segments.list().expect("list"), [(id, kept)]);
        let again = pool.borrow().expect("borrow");
        assert_eq!(
            (again.id(), again.len()),
            (id, kept),
            "the idle segment is used on"
        );
    }

    #[test]
    fn what_was_compressed_anew_lies_apart() {
        let segments = MemorySegments::default();
        let pool = pool(&segments);
        let ids = [0, 12, 0, 12].map(|level| {
            let mut stream = pool.borrow_at(level).expect("borrow");
            stream.state(Kind::Part, true, &[]).expect("append");
            stream.sync().expect("sync");
            stream.committed();
            assert_eq!(pool.level(stream.id()), level);
            stream.id()
        });
        assert_eq!(
            (ids[0], ids[1]),
            (ids[2], ids[3]),
            "each goes on with its own"
        );
        assert_ne!(ids[0], ids[1]);
    }

    #[test]
    fn two_writers_never_share_a_segment() {
        let pool = pool(&MemorySegments::default());
        let one = pool.borrow().expect("borrow");
        let two = pool.borrow().expect("borrow");
        assert_ne!(one.id(), two.id());
    }
}
