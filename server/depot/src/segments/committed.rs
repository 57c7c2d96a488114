//! What of the segments is committed, while others write to them: for an index that catches up.
//!
//! Guarantees: bytes behind the last commit are not seen. Never changes a segment.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::file::SegmentFile;
use super::{SegmentId, SegmentWriter, Segments, Space};

/// Segments up to their committed lengths.
pub struct Committed<'a> {
    segments: &'a dyn Segments,
    /// Of the segments that were written to since the depot was opened; the others are committed
    /// as they are.
    lengths: HashMap<SegmentId, u64>,
}

impl<'a> Committed<'a> {
    /// The committed part of `segments`.
    pub fn new(segments: &'a dyn Segments, lengths: HashMap<SegmentId, u64>) -> Committed<'a> {
        Committed { segments, lengths }
    }
}

impl Segments for Committed<'_> {
    fn list(&self) -> io::Result<Vec<(SegmentId, u64)>> {
        let mut listed = self.segments.list()?;
        for (id, len) in &mut listed {
            *len = self.lengths.get(id).copied().unwrap_or(*len);
        }
        listed.retain(|(_, len)| *len > 0);
        Ok(listed)
    }

    fn append(&self, _: SegmentId, _: u64) -> io::Result<Box<dyn SegmentWriter>> {
        Ok(Box::new(Nothing))
    }

    fn read(&self, id: SegmentId, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.segments.read(id, offset, buf)
    }

    fn file(&self, id: SegmentId) -> io::Result<Option<Arc<SegmentFile>>> {
        self.segments.file(id)
    }

    fn remove(&self, _: SegmentId) -> io::Result<()> {
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        self.segments.space()
    }
}

/// What is committed is durable, and needs no cutting.
struct Nothing;

impl SegmentWriter for Nothing {
    fn append(&mut self, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }
}
