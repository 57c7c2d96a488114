//! Replay marks: what the index knows of each segment.

use crate::Result;
use crate::index::{Batch, Index, Table};
use crate::pool::Level;
use crate::segments::SegmentId;
use crate::varint::{Reader, put};

/// How far a segment was replayed: its length then, and the first sequence number that was free; at
/// which level its frames were compressed anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// Bytes of the segment that the index knows.
    pub len: u64,
    /// Greater than every sequence number in them.
    pub next_seq: u64,
    /// 0: they are as they came.
    pub level: Level,
}

impl Mark {
    /// The mark of a segment in the index.
    pub fn read(index: &dyn Index, segment: SegmentId) -> Result<Mark> {
        let Some(value) = index.get(Table::Marks, &segment.0.to_be_bytes())? else {
            return Ok(Mark::default());
        };
        let mut reader = Reader::new(&value, "a replay mark");
        Ok(Mark {
            len: reader.u64()?,
            next_seq: reader.u64()?,
            level: reader.rest().first().copied().unwrap_or_default(),
        })
    }

    /// Sets the mark of a segment.
    pub fn put(self, batch: &mut Batch, segment: SegmentId) {
        let mut value = Vec::new();
        put(&mut value, self.len);
        put(&mut value, self.next_seq);
        value.extend((self.level > 0).then_some(self.level));
        batch.put(Table::Marks, segment.0.to_be_bytes(), value);
    }
}
