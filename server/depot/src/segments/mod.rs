//! Where segments live: append-only logs that are read at offsets.
//!
//! Two implementations pass the same contract suite ([`contract`]): local files, and memory for
//! tests and simulations. A third, on object storage, fits the same six verbs plus the writer's
//! four.

pub mod committed;
pub mod contract;
pub mod file;
pub mod local;
pub mod memory;

use std::fmt;
use std::io;
use std::sync::Arc;

use file::SegmentFile;

/// A segment's number. Numbers only grow; a number whose segment was removed empty may be used
/// again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u32);

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}", self.0)
    }
}

/// A set of segments.
pub trait Segments: Send + Sync {
    /// Every segment and its length in bytes, by rising number.
    fn list(&self) -> io::Result<Vec<(SegmentId, u64)>>;

    /// Opens a segment for appending behind its first `len` bytes; what lay behind is cut off. With
    /// `len` 0 the segment is created, and must not exist. The name itself is durable after the
    /// writer's first [`SegmentWriter::sync`].
    fn append(&self, id: SegmentId, len: u64) -> io::Result<Box<dyn SegmentWriter>>;

    /// Fills `buf` from `offset` on. Reads what was synced, also while the segment is being
    /// appended to. Fails with [`io::ErrorKind::UnexpectedEof`] where the segment is shorter.
    fn read(&self, id: SegmentId, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// The segment as a file, which stays readable when the segment is removed; None where it is
    /// none. What of it was synced may be sent from there.
    fn file(&self, id: SegmentId) -> io::Result<Option<Arc<SegmentFile>>>;

    /// The same without waiting for a disk: None where it is not open yet.
    fn opened(&self, _: SegmentId) -> Option<Arc<SegmentFile>> {
        None
    }

    /// Removes a segment, durably; a segment that is not there is [`io::ErrorKind::NotFound`].
    fn remove(&self, id: SegmentId) -> io::Result<()>;

    /// How much room there is.
    fn space(&self) -> io::Result<Space>;
}

/// Room on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Bytes of the whole disk.
    pub total_bytes: u64,
}

/// The one writer of a segment. Nothing is promised of a segment whose writer returned an error:
/// stop using it.
pub trait SegmentWriter: Send {
    /// Appends all of `bytes`; they may stay in memory until the next flush or sync.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Hands all that was appended to whoever outlives this process: it is readable, and there
    /// after a kill -9, not after a power cut.
    fn flush(&mut self) -> io::Result<()>;

    /// Makes all that was appended, and the segment's name, durable and readable.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the segment back to `len`, which is not more than was appended; durable at once or at
    /// the next sync.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
}
