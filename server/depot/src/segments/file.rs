//! A segment as an open file, and which of its records were checked since it was opened.
//!
//! ```text
//!   checked ranges   +--------------+     +-----+        records read and found whole
//!   look()           modified, but not longer? then somebody else wrote: all is forgotten
//! ```
//!
//! Guarantees: the file stays readable while the value lives, also when the segment is removed; a
//! file that was changed in place since its records were checked counts as unchecked. Never: more
//! than [`MAX_RANGES`] ranges; a wait for the disk in what is named `cached`.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Mutex, MutexGuard};

use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// Ranges remembered of one segment, 16 bytes each: 4,096 open segments take 64 MiB at most. Read
/// from one end to the other a segment has one range for each NAR in it; when there are more, all
/// are forgotten, and checked again where they are used again.
pub const MAX_RANGES: usize = 1024;

/// Distance of the bytes that are tried to find out what the kernel holds: it evicts by folios, of
/// this size and more where a file was read in a row.
const PROBE_BYTES: u64 = 64 << 10;

/// An open segment.
#[derive(Debug)]
pub struct SegmentFile {
    file: File,
    seen: Mutex<Seen>,
}

/// The file as it was at the last look.
#[derive(Debug, Default)]
struct Seen {
    modified: (i64, i64),
    len: u64,
    checked: Ranges,
}

impl SegmentFile {
    /// Of a file that was opened for reading.
    pub fn new(file: File) -> SegmentFile {
        SegmentFile {
            file,
            seen: Mutex::default(),
        }
    }

    /// Fills `buf` from `offset` on, waiting for the disk.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    /// Fills `buf` from `offset` on with what the kernel holds; false where that is not all.
    pub fn read_cached(&self, offset: u64, buf: &mut [u8]) -> bool {
        let wanted = buf.len();
        let mut bufs = [IoSliceMut::new(buf)];
        let read = loop {
            match preadv2(&self.file, &mut bufs, offset, ReadWriteFlags::NOWAIT) {
                Err(Errno::INTR) => {}
                read => break read,
            }
        };
        read == Ok(wanted)
    }

    /// How many of `len` bytes at `offset` the kernel seems to hold.
    pub fn cached_len(&self, offset: u64, len: u64) -> u64 {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            if !self.read_cached(at, &mut [0]) {
                return at - offset;
            }
            at = (at / PROBE_BYTES + 1) * PROBE_BYTES;
        }
        match self.read_cached(end - 1, &mut [0]) {
            true => len,
            false => ((end - 1) / PROBE_BYTES * PROBE_BYTES).saturating_sub(offset),
        }
    }

    /// Forgets what was checked if the file was changed in place since the last look. Call it
    /// before a number of questions that belong together.
    pub fn look(&self) -> io::Result<()> {
        let now = self.file.metadata()?;
        let (modified, len) = ((now.mtime(), now.mtime_nsec()), now.len());
        let mut seen = self.seen();
        if seen.modified != modified {
            // Our own appending makes it longer; what we cut off was never read.
            if len == seen.len {
                seen.checked = Ranges::default();
            }
            (seen.modified, seen.len) = (modified, len);
        }
        Ok(())
    }

    /// Whether all records in `len` bytes at `offset` were checked.
    pub fn is_checked(&self, offset: u64, len: u64) -> bool {
        self.seen().checked.contains(offset, offset + len)
    }

    /// The records in `len` bytes at `offset` are what was written.
    pub fn checked(&self, offset: u64, len: u64) {
        self.seen().checked.add(offset, offset + len);
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen
            .lock()
            .expect("invariant: no panic while the lock is held")
    }
}

impl AsFd for SegmentFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Ranges that neither overlap nor touch, by rising start.
#[derive(Debug, Default)]
struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    fn contains(&self, start: u64, end: u64) -> bool {
        let behind = self.0.partition_point(|range| range.0 <= start);
        behind > 0 && end <= self.0[behind - 1].1
    }

    fn add(&mut self, start: u64, end: u64) {
        let from = self.0.partition_point(|range| range.1 < start);
        let to = self.0.partition_point(|range| range.0 <= end);
        let joined = match &self.0[from..to] {
            [] => (start, end),
            [first, .., last] => (first.0.min(start), last.1.max(end)),
            [one] => (one.0.min(start), one.1.max(end)),
        };
        if from == to && self.0.len() >= MAX_RANGES {
            self.0 = vec![joined];
            return;
        }
        self.0.splice(from..to, [joined]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> (tempfile::NamedTempFile, SegmentFile) {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), bytes).expect("write");
        let segment = SegmentFile::new(File::open(file.path()).expect("open"));
        segment.look().expect("look");
        (file, segment)
    }

    #[test]
    fn ranges_join_where_they_touch() {
        let mut ranges = Ranges::default();
        for (start, end) in [(10, 20), (40, 50), (20, 30), (60, 70), (35, 40)] {
            ranges.add(start, end);
        }
        assert_eq!(ranges.0, [(10, 30), (35, 50), (60, 70)]);
        assert!(ranges.contains(10, 30) && ranges.contains(36, 37) && ranges.contains(60, 70));
        assert!(!ranges.contains(30, 35) && !ranges.contains(29, 36) && !ranges.contains(9, 11));
        ranges.add(0, 100);
        assert_eq!(ranges.0, [(0, 100)]);
    }

    #[test]
    fn ranges_are_bounded() {
        let mut ranges = Ranges::default();
        for number in 0..3 * MAX_RANGES as u64 {
            ranges.add(number * 10, number * 10 + 5);
            assert!(ranges.0.len() <= MAX_RANGES);
            assert!(ranges.contains(number * 10, number * 10 + 5));
        }
    }

    #[test]
    fn what_is_changed_in_place_counts_as_unchecked() {
        let (file, segment) = file(b"a record, and another");
        segment.checked(0, 8);
        segment.look().expect("look");
        assert!(segment.is_checked(0, 8) && !segment.is_checked(0, 9));
        let writer = File::options().write(true).open(file.path());
        let writer = writer.expect("open");
        writer.write_all_at(b"!", 21).expect("append");
        segment.look().expect("look");
        assert!(segment.is_checked(0, 8), "appending changes nothing");
        writer.write_all_at(b"X", 3).expect("overwrite");
        segment.look().expect("look");
        assert!(!segment.is_checked(0, 8), "what is checked may be damaged");
    }

    #[test]
    fn what_was_just_written_is_cached_and_the_end_is_known() {
        let (_file, segment) = file(&vec![7; 300_000]);
        let mut buf = [0; 100];
        assert!(segment.read_cached(200_000, &mut buf) && buf == [7; 100]);
        assert!(!segment.read_cached(299_950, &mut buf), "it ends before");
        assert_eq!(segment.cached_len(70_000, 230_000), 230_000);
        assert!(segment.cached_len(70_000, 300_000) < 300_000);
    }
}
