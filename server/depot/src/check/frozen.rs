//! Segments that stay as they are: a replay over them reads, and settles nothing.

use std::io;
use std::sync::Arc;

use crate::segments::file::SegmentFile;
use crate::segments::{SegmentId, SegmentWriter, Segments, Space};

/// Segments of which nothing is changed.
pub struct Frozen<'a>(pub &'a dyn Segments);

impl Segments for Frozen<'_> {
    fn list(&self) -> io::Result<Vec<(SegmentId, u64)>> {
        self.0.list()
    }

    /// A writer that writes nothing: what a replay would cut off stays, and is not read.
    fn append(&self, _: SegmentId, _: u64) -> io::Result<Box<dyn SegmentWriter>> {
        Ok(Box::new(Still))
    }

    fn read(&self, id: SegmentId, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read(id, offset, buf)
    }

    fn file(&self, id: SegmentId) -> io::Result<Option<Arc<SegmentFile>>> {
        self.0.file(id)
    }

    fn remove(&self, _: SegmentId) -> io::Result<()> {
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        self.0.space()
    }
}

struct Still;

impl SegmentWriter for Still {
    fn append(&mut self, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&mut self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}
