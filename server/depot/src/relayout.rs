//! Making a layout from its recipe: when a depot is replayed, and whenever frames have moved.

use snowcache_core::recipe::{FrameId, Op, Recipe};
use snowcache_nix::NarHash;

use crate::depot::Shared;
use crate::index::{Batch, Index, Table};
use crate::layout::{Builder, Layout, Location, literal_frame_len};
use crate::read::read_state;
use crate::record::{FRAME_HEADER_BYTES, FrameHeader};
use crate::rows::Place;
use crate::state::recipe_of;
use crate::{Error, Result};

/// Frames looked up at once.
const OPS_AT_ONCE: usize = 1024;

/// The layout of `recipe` with the frames where the index says that they are.
///
/// # Errors
/// `Corrupt` where a frame is not in the index.
pub fn build(index: &dyn Index, nar: &NarHash, recipe: &Recipe) -> Result<Builder> {
    let mut builder = Builder::default();
    each(index, recipe, &mut |op, frame| {
        match (op, frame) {
            (Op::Literal(bytes), _) => builder.literal(bytes),
            (_, Some((id, Some(at)))) => builder.frame(&header_of(id, &at), &at),
            (_, Some((id, None))) => {
                let what = format!("NAR {nar} lacks frame {id} and is not served");
                return Err(Error::corrupt(what));
            }
            (_, None) => unreachable!("only literals have no frame"),
        }
        Ok(())
    })?;
    Ok(builder)
}

/// The frames of the recipe at `place` that the index knows, in order.
pub fn located(shared: &Shared, place: &Place) -> Result<Vec<(FrameId, Location)>> {
    let recipe = recipe_at(shared, place)?;
    let mut frames = Vec::with_capacity(recipe.ops().len());
    each(&*shared.index, &recipe, &mut |_, frame| {
        frames.extend(frame.and_then(|(id, at)| Some((id, at?))));
        Ok(())
    })?;
    Ok(frames)
}

/// A frame, and where it lies, if the index knows.
type Looked = (FrameId, Option<Location>);

/// Calls `on` for every op, with its frame and where that lies.
fn each(
    index: &dyn Index,
    recipe: &Recipe,
    on: &mut dyn FnMut(&Op, Option<Looked>) -> Result<()>,
) -> Result<()> {
    for ops in recipe.ops().chunks(OPS_AT_ONCE) {
        let ids: Vec<_> = ops.iter().filter_map(frame_id).collect();
        let keys: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes().as_slice()).collect();
        let mut found = index.get_many(Table::Frames, &keys)?.into_iter();
        for op in ops {
            let frame = match frame_id(op) {
                None => None,
                Some(id) => {
                    let row = found.next().flatten();
                    Some((id, row.map(|row| Location::decode(&row)).transpose()?))
                }
            };
            on(op, frame)?;
        }
    }
    Ok(())
}

/// Where the bytes of the encoded NAR of `recipe` are that each op makes: ops + 1 offsets, or None
/// where the index lacks a frame.
pub fn encoded_offsets(index: &dyn Index, recipe: &Recipe) -> Result<Option<Vec<u64>>> {
    let mut offsets = vec![0];
    let (mut at, mut lacks) = (0, false);
    each(index, recipe, &mut |op, frame| {
        at += match (op, frame) {
            (Op::Literal(bytes), _) => literal_frame_len(bytes.len()),
            (_, Some((_, Some(at)))) => FRAME_HEADER_BYTES as u64 + u64::from(at.stored_len),
            _ => {
                lacks = true;
                0
            }
        };
        offsets.push(at);
        Ok(())
    })?;
    Ok((!lacks).then_some(offsets))
}

/// Reads the recipe at `place`.
pub fn recipe_at(shared: &Shared, place: &Place) -> Result<Recipe> {
    let (_, payload) = read_state(&*shared.segments, place.segment(), place.offset)?;
    Ok(recipe_of(&payload)?.2)
}

/// Puts a new layout of `nar` into `batch`, in place of the one that it has. The caller holds the
/// gate, so that nobody else does the same.
pub fn relayout(shared: &Shared, nar: &NarHash, batch: &mut Batch) -> Result<()> {
    let Some(layout) = Layout::read(&*shared.index, nar)? else {
        return Ok(());
    };
    let recipe = recipe_at(shared, &layout.recipe)?;
    let builder = build(&*shared.index, nar, &recipe)?;
    layout.remove(batch, nar);
    builder.finish(batch, nar, layout.recipe);
    Ok(())
}

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
