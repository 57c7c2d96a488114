//! Segments in memory: the twin of the local files, for tests and simulations.
//!
//! Like a disk it tells what was appended from what was synced: [`MemorySegments::power_cut`] drops
//! the rest.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::file::SegmentFile;
use super::{SegmentId, SegmentWriter, Segments, Space};

/// The size of the disk that this memory stands for.
const MEMORY_BYTES: u64 = 4 << 30;

/// Segments that live as long as this value and its clones.
#[derive(Debug, Clone, Default)]
pub struct MemorySegments {
    shared: Arc<Mutex<BTreeMap<SegmentId, Bytes>>>,
}

#[derive(Debug, Default, Clone)]
struct Bytes {
    written: Vec<u8>,
    synced: Option<usize>,
}

impl MemorySegments {
    /// Forgets all that was never synced, as a power cut may.
    pub fn power_cut(&self) {
        let mut segments = self.lock();
        segments.retain(|_, bytes| bytes.synced.is_some());
        for bytes in segments.values_mut() {
            bytes.written.truncate(bytes.synced.unwrap_or(0));
        }
    }

    /// Flips a byte where it lies; the same call again undoes it.
    ///
    /// # Panics
    /// Where there is no such byte.
    pub fn damaged(&self, id: SegmentId, offset: u64) -> &MemorySegments {
        self.lock().get_mut(&id).expect("a segment").written[offset as usize] ^= 0x55;
        self
    }

    /// A copy of all segments, with the one named cut to `len`.
    pub fn copied_up_to(&self, id: SegmentId, len: u64) -> MemorySegments {
        let mut copy: BTreeMap<_, _> = self.lock().clone();
        if let Some(bytes) = copy.get_mut(&id) {
            bytes.written.truncate(len as usize);
        }
        MemorySegments {
            shared: Arc::new(Mutex::new(copy)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SegmentId, Bytes>> {
        self.shared
            .lock()
            .expect("invariant: no panic while the lock is held")
    }
}

impl Segments for MemorySegments {
    fn list(&self) -> io::Result<Vec<(SegmentId, u64)>> {
        Ok(self
            .lock()
            .iter()
            .map(|(id, bytes)| (*id, bytes.written.len() as u64))
            .collect())
    }

    fn append(&self, id: SegmentId, len: u64) -> io::Result<Box<dyn SegmentWriter>> {
        let mut segments = self.lock();
        match segments.get_mut(&id) {
            Some(_) if len == 0 => return Err(io::ErrorKind::AlreadyExists.into()),
            Some(bytes) if (bytes.written.len() as u64) < len => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Some(bytes) => bytes.written.truncate(len as usize),
            None if len > 0 => return Err(io::ErrorKind::NotFound.into()),
            None => {
                segments.insert(id, Bytes::default());
            }
        }
        Ok(Box::new(MemoryWriter {
            segments: self.clone(),
            id,
        }))
    }

    fn read(&self, id: SegmentId, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let segments = self.lock();
        let bytes = segments.get(&id).ok_or(io::ErrorKind::NotFound)?;
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start
            .checked_add(buf.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(
            bytes
                .written
                .get(start..end)
                .ok_or(io::ErrorKind::UnexpectedEof)?,
        );
        Ok(())
    }

    fn file(&self, _: SegmentId) -> io::Result<Option<Arc<SegmentFile>>> {
        Ok(None)
    }

    fn remove(&self, id: SegmentId) -> io::Result<()> {
        self.lock()
            .remove(&id)
            .map(|_| ())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn space(&self) -> io::Result<Space> {
        let taken: u64 = self.list()?.iter().map(|(_, len)| len).sum();
        Ok(Space {
            free_bytes: MEMORY_BYTES.saturating_sub(taken),
            total_bytes: MEMORY_BYTES,
        })
    }
}

struct MemoryWriter {
    segments: MemorySegments,
    id: SegmentId,
}

impl MemoryWriter {
    fn with<T>(&self, change: impl FnOnce(&mut Bytes) -> T) -> io::Result<T> {
        self.segments
            .lock()
            .get_mut(&self.id)
            .map(change)
            .ok_or(io::ErrorKind::NotFound.into())
    }
}

impl SegmentWriter for MemoryWriter {
    fn append(&mut self, more: &[u8]) -> io::Result<()> {
        self.with(|bytes| bytes.written.extend_from_slice(more))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.with(|bytes| bytes.synced = Some(bytes.written.len()))
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.with(|bytes| {
            bytes.written.truncate(len as usize);
            bytes.synced = bytes.synced.map(|synced| synced.min(len as usize));
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_keeps_the_contract() {
        super::super::contract::suite(|| Box::new(MemorySegments::default()));
    }

    #[test]
    fn a_power_cut_keeps_what_was_synced_and_nothing_else() {
        let segments = MemorySegments::default();
        let mut kept = segments.append(SegmentId(1), 0).expect("create");
        kept.append(b"synced").expect("append");
        kept.sync().expect("sync");
        kept.append(b" lost").expect("append");
        let mut lost = segments.append(SegmentId(2), 0).expect("create");
        lost.append(b"lost").expect("append");
        segments.power_cut();
        assert_eq!(segments.list().expect("list"), [(SegmentId(1), 6)]);
    }
}
