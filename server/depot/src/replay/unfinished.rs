//! Frames of an upload whose process was killed: kept, so that they need not be sent again.
//!
//! ```text
//!   ...commit|note: for whom|frame|frame|fra     found
//!   ...commit|note: for whom|frame|frame|recipe|upload     durable: as if they had been kept then
//! ```
//! Guarantees: the same as of any commit: only whole frames, one sync, and then the index. Where
//! that fails the segment may be cut back to its last commit. Never: a NAR; what is kept has a name
//! that no URL leads to, and goes when its lease ends.

use snowcache_core::recipe::{FrameId, Recipe};

use crate::ingest::{Lease, kept_as, upload_state};
use crate::layout::Location;
use crate::record::{Kind, STATE_HEADER_BYTES, StateHeader};
use crate::replay::Replayed;
use crate::scan::{Left, StateAt};
use crate::segments::{SegmentId, Segments};
use crate::state::{ComingState, from_json, recipe_payload, to_json};
use crate::{Error, ErrorKind, Result};

/// What was written.
pub struct Kept {
    /// The frames, which the index may be told of.
    pub frames: Vec<(FrameId, Location)>,
    /// The recipe and the upload.
    pub states: [StateAt; 2],
    /// Where the segment ends.
    pub end: u64,
}

/// Commits what is left in a segment under the next numbers of `found`, durably; `now` is when its
/// lease begins, in seconds since 1970. None: there is nothing, or it cannot be done.
pub fn keep(
    segments: &dyn Segments,
    segment: SegmentId,
    left: Left,
    now: u64,
    found: &mut Replayed,
) -> Option<Kept> {
    if left.frames.is_empty() {
        return None;
    }
    match commit(segments, segment, &left, now, &mut found.next_seq) {
        Ok((states, end)) => Some(Kept {
            frames: left.frames,
            states,
            end,
        }),
        Err(error) => {
            tracing::warn!(%segment, %error, "frames of an unfinished upload are not kept");
            None
        }
    }
}

/// Writes the recipe and the upload; these, and where they end.
fn commit(
    segments: &dyn Segments,
    segment: SegmentId,
    left: &Left,
    now: u64,
    next_seq: &mut u64,
) -> Result<([StateAt; 2], u64)> {
    let coming: ComingState = from_json(&left.note, "the note before frames")?;
    let lease = Lease {
        cache: coming.cache,
        subject: coming.subject,
        expires_unix_s: now.saturating_add(coming.lease_s),
    };
    let frames: Vec<(Location, FrameId)> = left.frames.iter().map(|(id, at)| (*at, *id)).collect();
    let (ops, nar, upload) = kept_as(&frames, lease);
    let recipe = Recipe::new(ops)
        .map_err(|e| Error::caused(ErrorKind::Corrupt, "frames make no recipe", e))?;
    let recipe = recipe_payload(&nar.nar_hash, nar.nar_size_bytes, &recipe)?;
    let upload = to_json(&upload_state(nar, upload));
    let failed = |e| Error::io(format!("keeping frames of segment {segment}"), e);
    let mut writer = segments.append(segment, left.end).map_err(failed)?;
    let mut end = left.end;
    let mut put = |kind, commit, payload: &[u8]| {
        let header = StateHeader::of(kind, commit, *next_seq, payload);
        let state = StateAt {
            kind,
            seq: *next_seq,
            offset: end,
            len: (STATE_HEADER_BYTES + payload.len()) as u64,
        };
        *next_seq += 1;
        end += state.len;
        writer.append(&header.encode()).map_err(failed)?;
        writer.append(payload).map_err(failed)?;
        Ok::<_, Error>(state)
    };
    let states = [
        put(Kind::Recipe, false, &recipe)?,
        put(Kind::Upload, true, &upload)?,
    ];
    writer.sync().map_err(failed)?;
    tracing::info!(%segment, frames = frames.len(), "kept of an upload whose process died");
    Ok((states, end))
}
