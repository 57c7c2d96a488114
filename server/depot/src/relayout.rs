//! Making a layout from its recipe: when a depot is replayed, and whenever frames have moved.

use snowcache_core::recipe::{FrameId, Op};

use crate::layout::Location;
use crate::record::FrameHeader;

/// The frame that an op stands for, if it is one.
pub fn frame_id(op: &Op) -> Option<FrameId> {
    match op {
        Op::Frame { id, .. } | Op::Dense { id, .. } => Some(*id),
        Op::Literal(_) => None,
    }
}

/// The header of the frame record at a location.
pub fn header_of(id: FrameId, at: &Location) -> FrameHeader {
    let Location {
        raw_len,
        stored_len,
        checksum,
        ..
    } = *at;
    FrameHeader {
        id,
        raw_len,
        stored_len,
        checksum,
    }
}
