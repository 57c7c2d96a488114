//! How a depot is, at a glance: what costs the same however much it holds.

use crate::depot::Depot;
use crate::index::Table;
use crate::{Error, Result};

/// How a depot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vitals {
    /// Bytes in segments.
    pub stored_bytes: u64,
    /// Bytes that uploads may fill segments with, those stored included: up to the limit or the
    /// disk's end, less the reserve.
    pub usable_bytes: u64,
    /// Bytes that the disk has left.
    pub disk_free_bytes: u64,
    /// NARs that are damaged and not served.
    pub sick_nars: u64,
    /// Frames that these lack.
    pub sick_frames: u64,
    /// Writes of the index that were held up since the start.
    pub index_stalls: u64,
}

/// Less room than for one upload is none: half of all NARs are smaller than this. Of small depots
/// it is a fiftieth.
const LEAST_ROOM_BYTES: u64 = 1 << 20;

impl Vitals {
    /// Whether there is no room for uploads.
    pub fn is_full(&self) -> bool {
        let left = self.usable_bytes.saturating_sub(self.stored_bytes);
        left <= LEAST_ROOM_BYTES.min(self.usable_bytes / 50)
    }
}

impl Depot {
    /// Asks index and disk; a depot that hangs does not answer.
    ///
    /// # Errors
    /// What they say.
    pub fn vitals(&self) -> Result<Vitals> {
        let shared = self.shared();
        // Any row will do, also one that is not there.
        shared.index.get(Table::Paths, b"vitals")?;
        let space = shared.segments.space();
        let space = space.map_err(|e| Error::io("asking how much room the disk has", e))?;
        Ok(Vitals {
            stored_bytes: shared.pool.bytes(),
            usable_bytes: shared.room.reachable_bytes(&space),
            disk_free_bytes: space.free_bytes,
            sick_nars: shared.quarantine.len() as u64,
            sick_frames: shared.quarantine.wanted().len() as u64,
            index_stalls: shared.index.stalls()?,
        })
    }
}
