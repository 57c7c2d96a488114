//! Deltas: how a visible NAR is made of another visible one.
//!
//! Guarantees: says nothing of a NAR that the cache does not show; a delta is of the encoding that
//! is served, its ranges are whole frames of it. Bounded: two recipes of at most [`MAX_OPS`] ops
//! are held, and the caller says how much may be compared. Never: an error where fetching the whole
//! NAR will do.

use std::ops::Range;

use bytes::Bytes;
use snowcache_core::delta::{self, Budget, Delta, Pair, Part, Side, Step};
use snowcache_core::recipe::Recipe;
use snowcache_core::swap::Swaps;

use crate::Result;
use crate::depot::Depot;
use crate::keys::CacheName;
use crate::read::NarReader;
use crate::relayout::encoded_offsets;

/// Ops of a NAR that is compared: one of 4 GB has some 60,000, and so many take 30 MB on each side.
pub const MAX_OPS: usize = 100_000;

impl Depot {
    /// How the NAR of `pair.wanted` is made of that of `pair.old`, by what it takes besides
    /// `swaps`; None where it has to be fetched whole.
    ///
    /// # Errors
    /// When the index or the disk fails.
    pub fn delta(
        &self,
        cache: &CacheName,
        pair: &Pair,
        swaps: &Swaps,
        budget: &mut Budget,
    ) -> Result<Option<Delta>> {
        let infos = self.infos(cache, &[pair.wanted])?;
        let Some(info) = infos.into_iter().flatten().next() else {
            return Ok(None);
        };
        let new = self.nar(cache, &info.nar_hash)?;
        let (Some(new), Some(old)) = (new, self.nar(cache, &pair.old_nar)?) else {
            return Ok(None);
        };
        if old.least_parts().max(new.least_parts()) > MAX_OPS.min(budget.ops) {
            return Ok(None);
        }
        match self.compared(&old, &new, swaps, budget) {
            // It was moved meanwhile.
            Err(error) if error.is_gone() => Ok(None),
            result => result,
        }
    }

    fn compared(
        &self,
        old: &NarReader,
        new: &NarReader,
        swaps: &Swaps,
        budget: &mut Budget,
    ) -> Result<Option<Delta>> {
        let recipes = (old.recipe()?, new.recipe()?);
        if recipes.0.ops().len().max(recipes.1.ops().len()) > MAX_OPS {
            return Ok(None);
        }
        let mut read = |side: Side, range: Range<u64>| {
            let nar = if side == Side::Old { old } else { new };
            let chunks: Result<Vec<Bytes>> = nar.raw(range).collect();
            chunks.ok().map(|chunks| chunks.concat())
        };
        let swaps = swaps.clone();
        let compared = delta::compare(&recipes.0, &recipes.1, swaps, budget, &mut read);
        let Some((swaps, steps)) = compared else {
            return Ok(None);
        };
        let parts = self.located_parts(new, &recipes.1, steps)?;
        Ok(parts.map(|parts| Delta { swaps, parts }))
    }

    /// The same steps, with where in the encoded NAR each is that must be fetched.
    fn located_parts(
        &self,
        new: &NarReader,
        recipe: &Recipe,
        steps: Vec<Step>,
    ) -> Result<Option<Vec<Part>>> {
        let fetches = steps.iter().any(|step| matches!(step, Step::Fetch { .. }));
        let offsets = match fetches {
            true => encoded_offsets(&*self.shared().index, recipe)?,
            false => Some(Vec::new()),
        };
        let size_bytes = new.encoding().size_bytes;
        let Some(offsets) = offsets.filter(|it| it.last().is_none_or(|end| *end == size_bytes))
        else {
            return Ok(None);
        };
        let part = |step| match step {
            Step::Copy { offset, len } => Part::Copy { offset, len },
            Step::Literal(bytes) => Part::Literal(bytes.into()),
            Step::Fetch { ops, len } => Part::Fetch {
                len,
                stored_at: offsets[ops.start],
                stored_len: offsets[ops.end] - offsets[ops.start],
            },
        };
        Ok(Some(steps.into_iter().map(part).collect()))
    }
}
