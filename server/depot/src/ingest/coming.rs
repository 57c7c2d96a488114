//! Frames of an upload that is under way, such that they outlive the process.
//!
//! ```text
//!   segment:  committed |note: for whom|frame|frame|frame|   killed: the next start keeps these
//!                                                         |recipe|upload: committed then
//!
//!   compressed anew:  committed |frame|frame                 lost when killed
//!   aside, as sent:   part |note: for whom|frame|frame|      kept by the next start
//!                     part                                   as soon as the others are durable
//! ```
//! Each frame goes to the kernel as soon as it is whole, without a sync: what was written stays
//! when the process is killed. The note before the first says whose they are.
//!
//! Guarantees: a start counts on no frame whose checksum is not right, so that a power cut costs
//! what had not been synced, and no more. Never: a NAR that was not finished; a NAR made of frames
//! that were put aside.

use super::{Ingest, Lease};
use crate::Result;
use crate::pool::{Pool, Stream};
use crate::record::{FrameHeader, Kind};
use crate::segments::SegmentId;
use crate::state::{ComingState, to_json};
use std::sync::Arc;

/// How the frames of an upload outlive the process, where they are to.
#[derive(Default)]
pub(super) struct Coming {
    note: Option<Note>,
    /// Where they lie as they were sent while they are compressed anew.
    aside: Option<Stream>,
}

/// What goes before frames.
struct Note {
    payload: Vec<u8>,
    /// Where it stands behind the last commit.
    stands_in: Option<SegmentId>,
}

impl Coming {
    /// Appends a frame, and hands it to the kernel where it is to outlive the process: its offset.
    pub(super) fn frame(
        &mut self,
        stream: &mut Stream,
        header: &FrameHeader,
        stored: &[u8],
    ) -> Result<u64> {
        let Some(note) = &mut self.note else {
            return stream.frame(header, stored);
        };
        if note.stands_in != Some(stream.id()) {
            stream.state(Kind::Part, false, &note.payload)?;
            note.stands_in = Some(stream.id());
        }
        let offset = stream.frame(header, stored)?;
        stream.flush()?;
        Ok(offset)
    }

    /// Keeps a frame as it was sent until what is made of it is durable, if it is to outlive the
    /// process.
    pub(super) fn put_aside(
        &mut self,
        pool: &Arc<Pool>,
        header: &FrameHeader,
        stored: &[u8],
    ) -> Result<()> {
        if self.note.is_none() {
            return Ok(());
        }
        let mut aside = match self.aside.take() {
            Some(aside) => aside,
            None => pool.borrow_aside()?,
        };
        self.frame(&mut aside, header, stored)?;
        self.aside = Some(aside);
        Ok(())
    }

    /// What came so far is committed.
    pub(super) fn is_durable(&mut self) {
        self.aside = None; // cuts it back
        if let Some(note) = &mut self.note {
            note.stands_in = None;
        }
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
        self.frames.coming.note = Some(Note {
            payload: to_json(&coming),
            stands_in: None,
        });
    }
}
