//! Frames of an upload that is under way, such that they outlive the process.
//!
//! ```text
//!   segment:  committed |note: for whom|frame|frame|frame|   killed: the next start keeps these
//!                                                         |recipe|upload: committed then
//! ```
//! Each frame goes to the kernel as soon as it is whole, without a sync: what was written stays
//! when the process is killed. The note before the first says whose they are.
//!
//! Guarantees: a start counts on no frame whose checksum is not right, so that a power cut costs
//! what had not been synced, and no more. Never: a NAR that was not finished.

use super::{Ingest, Lease};
use crate::Result;
use crate::pool::Stream;
use crate::record::Kind;
use crate::segments::SegmentId;
use crate::state::{ComingState, to_json};

/// What goes before frames.
pub(super) struct Note {
    payload: Vec<u8>,
    /// Where it stands behind the last commit.
    stands_in: Option<SegmentId>,
}

impl Note {
    /// Puts it behind what `stream` has committed, once.
    pub(super) fn precede(&mut self, stream: &mut Stream) -> Result<()> {
        if self.stands_in != Some(stream.id()) {
            stream.state(Kind::Part, false, &self.payload)?;
            self.stands_in = Some(stream.id());
        }
        Ok(())
    }

    /// What it went before is committed.
    pub(super) fn ends(&mut self) {
        self.stands_in = None;
    }
}

impl Ingest {
    /// From here on what comes is kept for its sender should the process die: as long as `lease`
    /// would last now, from the next start on.
    pub fn outlives(&mut self, lease: &Lease) {
        let now = (self.frames.depot.clock)();
        let coming = ComingState {
            cache: lease.cache.clone(),
            subject: lease.subject.clone(),
            lease_s: lease.expires_unix_s.saturating_sub(now),
        };
        self.frames.note = Some(Note {
            payload: to_json(&coming),
            stands_in: None,
        });
    }
}
