//! What NARs need of the segments.

use snowcache_nix::NarHash;

use super::space::Coverage;
use crate::Result;
use crate::depot::Shared;
use crate::layout::{Layout, Part};
use crate::segments::SegmentId;

/// Adds what the layout of a NAR uses to `coverage`, calling `segment` for each segment; returns
/// how many bytes are new.
pub fn cover(
    shared: &Shared,
    nar: &NarHash,
    coverage: &mut Coverage,
    segment: &mut dyn FnMut(SegmentId),
) -> Result<u64> {
    loop {
        let Some(layout) = Layout::read(&*shared.index, nar)? else {
            return Ok(0);
        };
        let recipe = layout.recipe;
        let range = recipe.offset..recipe.offset + recipe.len;
        let added = coverage.add(recipe.segment(), range);
        segment(recipe.segment());
        if let Some(frames) = cover_frames(shared, nar, &layout, coverage, segment)? {
            return Ok(added + frames);
        }
    }
}

/// The same with the frames of one layout; None where it was made anew, or let go, since it was
/// read.
pub fn cover_frames(
    shared: &Shared,
    nar: &NarHash,
    layout: &Layout,
    coverage: &mut Coverage,
    segment: &mut dyn FnMut(SegmentId),
) -> Result<Option<u64>> {
    let mut added = 0;
    for number in 0..layout.blocks.len() {
        let Some(parts) = layout.block(&*shared.index, nar, number)? else {
            return Ok(None);
        };
        for part in parts {
            if let Part::Extent(extent) = part {
                let end = extent.offset + u64::from(extent.stored_len);
                added += coverage.add(extent.segment, extent.offset..end);
                segment(extent.segment);
            }
        }
    }
    Ok(Some(added))
}
