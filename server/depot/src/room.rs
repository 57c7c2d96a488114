//! Whether there is room for what is to be stored.
//!
//! ```text
//!   0 ----------------- uploads -----------------> | <- reserve -> | limit, or end of the disk
//!                                      507 from here   narinfos, pins, removals, rewriting
//! ```
//!
//! Guarantees: uploads stop while there is still room for the collector to rewrite a segment, so
//! that a full depot can always be emptied.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::patches::Patches;
use crate::pool::Pool;
use crate::segments::{Segments, Space};
use crate::{Error, ErrorKind, Result};

/// Room that uploads leave by default: four segments, one being rewritten, the rest for the index.
pub const RESERVE_BYTES: u64 = 1 << 30;

/// Of a small disk, or a small limit, the reserve takes no more than this part: a twentieth.
pub const RESERVE_PART: u64 = 20;

/// Bytes stored between looks at the disk: a hundredth of the usual reserve.
const LOOK_BYTES: u64 = 8 << 20;

/// Room for uploads.
pub struct Room {
    segments: Arc<dyn Segments>,
    pool: Arc<Pool>,
    max_size_bytes: Option<u64>,
    reserve_bytes: u64,
    /// Those go first.
    patches: Arc<Patches>,
    /// Bytes that may be stored before the disk is looked at again.
    allowance: AtomicU64,
    /// An upload was refused at the limit, and no collection has begun since.
    refused: AtomicBool,
    /// The same, at the limit or for want of room on the disk.
    pressed: AtomicBool,
}

impl Room {
    /// Room in `pool` up to a limit, on a disk that is left with a reserve.
    pub fn new(
        segments: Arc<dyn Segments>,
        pool: Arc<Pool>,
        max_size_bytes: Option<u64>,
        reserve_bytes: u64,
        patches: Arc<Patches>,
    ) -> Room {
        Room {
            segments,
            pool,
            max_size_bytes,
            reserve_bytes,
            patches,
            allowance: AtomicU64::new(0),
            refused: AtomicBool::new(false),
            pressed: AtomicBool::new(false),
        }
    }

    /// What uploads may fill, when there is a limit.
    pub fn usable_bytes(&self) -> Option<u64> {
        self.max_size_bytes.map(|max| max - self.reserve_of(max))
    }

    /// What uploads may fill on a disk with so much space, what is stored included.
    pub fn reachable_bytes(&self, disk: &Space) -> u64 {
        let left = disk
            .free_bytes
            .saturating_sub(self.reserve_of(disk.total_bytes));
        let on_disk = self.pool.bytes() + left;
        self.usable_bytes()
            .map_or(on_disk, |usable| usable.min(on_disk))
    }

    /// Whether an upload was refused at the limit since this was last asked.
    pub fn take_refused(&self) -> bool {
        self.refused.swap(false, Ordering::Relaxed)
    }

    /// Whether an upload found no room since this was last asked, wherever it ended.
    pub fn take_pressed(&self) -> bool {
        self.pressed.swap(false, Ordering::Relaxed)
    }

    /// Whether an upload may store `len` bytes more.
    ///
    /// # Errors `Full` where it would touch the reserve.
    pub fn check(&self, len: u64) -> Result<()> {
        if let (Some(max), Some(usable)) = (self.max_size_bytes, self.usable_bytes()) {
            let stored = self.pool.bytes();
            if stored + len > usable {
                self.refused.store(true, Ordering::Relaxed);
                self.pressed.store(true, Ordering::Relaxed);
                return Err(Error::new(
                    ErrorKind::Full,
                    format!(
                        "the depot holds {stored} bytes, and uploads may fill {usable} of its \
                         max_size_bytes = {max}: remove what is not needed (snowcache gc, \
                         snowcache rm) or raise depot.max_size_bytes"
                    ),
                ));
            }
        }
        let spend = |left: u64| left.checked_sub(len);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        if self.allowance.fetch_update(set, fetch, spend).is_ok() {
            return Ok(());
        }
        self.look(len)
    }

    fn look(&self, len: u64) -> Result<()> {
        let look = || {
            let space = self.segments.space();
            space.map_err(|e| Error::io("asking how much room the disk has", e))
        };
        let mut space = look()?;
        let reserve = self.reserve_of(space.total_bytes);
        if space.free_bytes < reserve + len && self.patches.clear() > 0 {
            space = look()?;
        }
        if space.free_bytes < reserve + len {
            self.pressed.store(true, Ordering::Relaxed);
            return Err(Error::new(
                ErrorKind::Full,
                format!(
                    "the disk has {} bytes left, of which {reserve} are kept for the depot's own \
                     work: make room on it, or remove what is not needed (snowcache gc)",
                    space.free_bytes
                ),
            ));
        }
        let allowance = LOOK_BYTES.min((space.free_bytes - reserve - len) / 4);
        self.allowance.store(allowance, Ordering::Relaxed);
        Ok(())
    }

    /// What uploads leave of `whole` bytes, of a disk or of the limit.
    pub fn reserve_of(&self, whole: u64) -> u64 {
        self.reserve_bytes.min(whole / RESERVE_PART)
    }
}
