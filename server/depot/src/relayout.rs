//! Making a layout from its recipe: when a depot is replayed, and whenever frames have moved.
//!
//! Of two copies of a frame that uploads store at once, the index knows the one that was committed
//! last, and each NAR's layout its own. Should the known one be collected, the other is found by
//! the layout that has it.

use std::collections::BTreeSet;

use snowcache_core::recipe::{FrameId, Op, Recipe};
use snowcache_nix::NarHash;

use crate::depot::Shared;
use crate::former;
use crate::index::{Batch, Index, Table};
use crate::layout::{Builder, Layout, Location, Part, literal_frame_len};
use crate::read::extent::Records;
use crate::read::read_state;
use crate::record::{Checksum, FRAME_HEADER_BYTES, FrameHeader};
use crate::rows::Place;
use crate::state::recipe_of;
use crate::{Error, Result};

/// Frames looked up at once.
const OPS_AT_ONCE: usize = 1024;

/// The layout of `recipe` with the frames where the index says that they are, or the frames that
/// it does not know.
pub fn resolve(
    index: &dyn Index,
    recipe: &Recipe,
) -> Result<std::result::Result<Builder, BTreeSet<FrameId>>> {
    let (mut builder, mut lacking) = (Builder::default(), BTreeSet::new());
    each(index, recipe, &mut |op, frame| {
        match (op, frame) {
            (Op::Literal(bytes), _) => builder.literal(bytes),
            (_, Some((id, Some(at)))) => builder.frame(&header_of(id, &at), &at),
            (_, Some((id, None))) => drop(lacking.insert(id)),
            (_, None) => unreachable!("only literals have no frame"),
        }
        Ok(())
    })?;
    Ok(match lacking.is_empty() {
        true => Ok(builder),
        false => Err(lacking),
    })
}

/// The same of a NAR that has a layout: what the index does not know is looked for there, and
/// known from then on. The caller holds the gate.
pub fn resolve_again(
    shared: &Shared,
    nar: &NarHash,
    layout: &Layout,
    recipe: &Recipe,
) -> Result<std::result::Result<Builder, BTreeSet<FrameId>>> {
    match resolve(&*shared.index, recipe)? {
        Err(lacking) => {
            recall(shared, nar, layout, &lacking)?;
            resolve(&*shared.index, recipe)
        }
        resolved => Ok(resolved),
    }
}

/// Puts those frames into the index of which the layout has a whole copy.
fn recall(
    shared: &Shared,
    nar: &NarHash,
    layout: &Layout,
    lacking: &BTreeSet<FrameId>,
) -> Result<()> {
    let mut batch = Batch::default();
    for number in 0..layout.blocks.len() {
        let parts = layout.block(&*shared.index, nar, number)?;
        for part in parts.unwrap_or_default() {
            let Part::Extent(extent) = part else { continue };
            let mut stored = vec![0; extent.stored_len as usize];
            let segments = &shared.segments;
            let read = segments.read(extent.segment, extent.offset, &mut stored);
            match read.map_err(|e| Error::io(format!("reading segment {}", extent.segment), e)) {
                Err(error) if error.is_gone() => continue,
                read => read?,
            }
            for (at, record) in Records::of(&stored) {
                let Some((header, body)) = record else { break };
                if lacking.contains(&header.id) && Checksum::of(body) == header.checksum {
                    let location = Location {
                        segment: extent.segment,
                        offset: extent.offset + at as u64,
                        stored_len: header.stored_len,
                        raw_len: header.raw_len,
                        checksum: header.checksum,
                    };
                    let key = header.id.as_bytes().as_slice();
                    batch.put(Table::Frames, key, location.encode());
                }
            }
        }
    }
    shared.index.write(batch)
}

/// What a NAR without these frames comes to.
pub fn lacks(nar: &NarHash, frames: &BTreeSet<FrameId>) -> Error {
    let first = frames.first().map(FrameId::to_string).unwrap_or_default();
    let count = frames.len();
    Error::corrupt(format!(
        "NAR {nar} lacks {count} frames, {first} among them, and is not served"
    ))
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

/// Puts a new layout of `nar` into `batch`, in place of the one that it has, which is kept where it
/// was another encoding. The caller holds the gate, so that nobody else does the same.
pub fn relayout(shared: &Shared, nar: &NarHash, batch: &mut Batch) -> Result<()> {
    let Some(layout) = Layout::read(&*shared.index, nar)? else {
        return Ok(());
    };
    let recipe = recipe_at(shared, &layout.recipe)?;
    let resolved = resolve_again(shared, nar, &layout, &recipe)?;
    let builder = resolved.map_err(|lacking| lacks(nar, &lacking))?;
    if builder.name() != layout.encoding.name {
        let until = (shared.clock)().saturating_add(shared.url_grace_s);
        former::keep(&*shared.index, nar, &layout, until, batch)?;
    }
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
