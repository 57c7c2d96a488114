//! Deltas: how a visible NAR is made of another visible one.
//!
//! Guarantees: says nothing of a NAR that the cache does not show; a delta is of the encoding that
//! is served, its ranges are whole frames of it. Bounded: two recipes of at most [`MAX_OPS`] ops
//! are held, and the caller says how much may be compared. Never: an error where fetching the whole
//! NAR will do.

use std::ops::Range;

use bytes::Bytes;
use snowcache_core::delta::{self, Budget, Delta, Pair, Part, Side, Step, Swap};
use snowcache_core::recipe::Recipe;
use snowcache_core::swap::Swaps;
use snowcache_nix::{NarHash, StoreHash};

use crate::Result;
use crate::depot::{Depot, Shared};
use crate::keys::CacheName;
use crate::patches::{Patch, PatchFile, Patched};
use crate::read::NarReader;
use crate::relayout::encoded_offsets;
use crate::versions::Version;

/// Ops of a NAR that is compared: one of 4 GB has some 60,000, and so many take 30 MB on each side.
pub const MAX_OPS: usize = 100_000;

/// What a delta was made of: the wanted path, its NAR, the old NAR and the patch between them.
#[derive(Debug, Clone, Copy)]
pub struct Basis([Option<Version>; 3]);

impl Basis {
    /// Of what was not looked at.
    pub const NONE: Basis = Basis([None; 3]);
}

/// Two NARs that are shown, and how the second is made of the first.
struct Compared {
    new: NarReader,
    old: NarReader,
    swaps: Vec<Swap>,
    parts: Vec<Located>,
}

/// A step, and where in the encoded NAR it is if it must be fetched: offset and length.
type Located = (Step, Option<(u64, u64)>);

impl Depot {
    /// How the NAR of `pair.wanted` is made of that of `pair.old`, by what it takes besides
    /// `swaps`; None where it has to be fetched whole. And what this was said upon.
    ///
    /// # Errors
    /// When the index or the disk fails.
    pub fn delta(
        &self,
        cache: &CacheName,
        pair: &Pair,
        swaps: &Swaps,
        budget: &mut Budget,
    ) -> Result<(Option<Delta>, Basis)> {
        let versions = &self.shared().watchers.versions;
        let path = versions.path(&cache.path_key(&pair.wanted));
        let old = versions.nar(&pair.old_nar);
        let wanted = self.nar_of(cache, &pair.wanted)?;
        let new = wanted.as_ref().map(|nar| versions.nar(nar));
        let basis = Basis([Some(path), Some(old), new]);
        let Some(wanted) = wanted else {
            return Ok((None, basis));
        };
        let compared = self.compared(cache, (&pair.old_nar, &wanted), swaps, budget);
        let delta = match compared {
            Ok(compared) => compared.map(|compared| self.told(compared)),
            // It was moved meanwhile.
            Err(error) if error.is_gone() => None,
            Err(error) => return Err(error),
        };
        Ok((delta, basis))
    }

    /// Whether nothing has changed of what a delta was made of.
    pub fn rests(&self, basis: &Basis) -> bool {
        let versions = &self.shared().watchers.versions;
        basis
            .0
            .iter()
            .flatten()
            .all(|version| versions.holds(*version))
    }

    /// Packs what is new in the NAR of `pair.wanted`, for those who have that of `pair.old`.
    ///
    /// # Errors
    /// When the index or the disk fails.
    pub fn make_patch(&self, cache: &CacheName, pair: &Pair, swaps: &Swaps) -> Result<Patched> {
        let Some(wanted) = self.nar_of(cache, &pair.wanted)? else {
            return Ok(Patched::Useless);
        };
        let mut budget = Budget::PLAN;
        let compared = self.compared(cache, (&pair.old_nar, &wanted), swaps, &mut budget);
        let Some(compared) = compared? else {
            return Ok(Patched::Useless);
        };
        let (steps, stored): (Vec<Step>, Vec<_>) = compared.parts.into_iter().unzip();
        let frames_bytes = stored.iter().flatten().map(|(_, len)| len).sum();
        let Shared {
            patches, stopping, ..
        } = &**self.shared();
        let nars = (&compared.old, &compared.new);
        patches.make(nars, &steps, frames_bytes, stopping)
    }

    /// The patch between two NARs that the cache shows.
    ///
    /// # Errors
    /// When the index fails.
    pub fn patch(
        &self,
        cache: &CacheName,
        new: &NarHash,
        old: &NarHash,
    ) -> Result<Option<PatchFile>> {
        let shown = self.nar(cache, new)?.is_some() && self.nar(cache, old)?.is_some();
        Ok(shown
            .then(|| self.shared().patches.open(new, old))
            .flatten())
    }

    /// How many patches were made and used since the start, and what they take on disk.
    pub fn patches_counted(&self) -> (u64, u64, u64) {
        self.shared().patches.counted()
    }

    /// Whether patches are to be made.
    pub fn makes_patches(&self) -> bool {
        self.shared().patches.are_wanted()
    }

    fn nar_of(&self, cache: &CacheName, path: &StoreHash) -> Result<Option<NarHash>> {
        let infos = self.infos(cache, std::slice::from_ref(path))?;
        Ok(infos.into_iter().flatten().next().map(|info| info.nar_hash))
    }

    fn compared(
        &self,
        cache: &CacheName,
        (old, new): (&NarHash, &NarHash),
        swaps: &Swaps,
        budget: &mut Budget,
    ) -> Result<Option<Compared>> {
        let (Some(new), Some(old)) = (self.nar(cache, new)?, self.nar(cache, old)?) else {
            return Ok(None);
        };
        if old.least_parts().max(new.least_parts()) > MAX_OPS.min(budget.ops) {
            return Ok(None);
        }
        let recipes = (old.recipe()?, new.recipe()?);
        if recipes.0.ops().len().max(recipes.1.ops().len()) > MAX_OPS {
            return Ok(None);
        }
        let mut read = |side: Side, range: Range<u64>| {
            let nar = if side == Side::Old { &old } else { &new };
            let chunks: Result<Vec<Bytes>> = nar.raw(range).collect();
            chunks.ok().map(|chunks| chunks.concat())
        };
        let swaps = swaps.clone();
        let compared = delta::compare(&recipes.0, &recipes.1, swaps, budget, &mut read);
        let Some((swaps, steps)) = compared else {
            return Ok(None);
        };
        let parts = self.located(&new, &recipes.1, steps)?;
        Ok(parts.map(|parts| Compared {
            new,
            old,
            swaps,
            parts,
        }))
    }

    /// The same steps, each with where in the encoded NAR it is if it must be fetched.
    fn located(
        &self,
        new: &NarReader,
        recipe: &Recipe,
        steps: Vec<Step>,
    ) -> Result<Option<Vec<Located>>> {
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
        let locate = |step: Step| {
            let stored = match &step {
                Step::Fetch { ops, .. } => {
                    let at = offsets[ops.start];
                    Some((at, offsets[ops.end] - at))
                }
                _ => None,
            };
            (step, stored)
        };
        Ok(Some(steps.into_iter().map(locate).collect()))
    }

    /// The delta, by what a patch has where there is one.
    fn told(&self, compared: Compared) -> Delta {
        let Compared {
            new,
            old,
            swaps,
            parts,
        } = compared;
        let fetches = parts.iter().any(|(_, stored)| stored.is_some());
        let (new, old) = (new.nar().nar_hash, old.nar().nar_hash);
        let patch = fetches
            .then(|| self.shared().patches.find(&new, &old))
            .flatten();
        let mut delta = Delta {
            swaps,
            ..Delta::default()
        };
        let (mut at, mut taken) = (0, 0);
        for (step, stored) in parts {
            let part = match (step, stored.unwrap_or_default()) {
                (Step::Copy { offset, len }, _) => Part::Copy { offset, len },
                (Step::Literal(bytes), _) => Part::Literal(bytes.into()),
                (Step::Fetch { len, .. }, (stored_at, stored_len)) => {
                    match place(patch.as_ref(), at..at + len) {
                        Some(place) => {
                            let skip = place - taken;
                            taken = place + len;
                            delta.patch = patch.as_ref().map(|it| it.pieces);
                            Part::Patch { len, skip }
                        }
                        None => Part::Fetch {
                            len,
                            stored_at,
                            stored_len,
                        },
                    }
                }
            };
            at += part.len();
            delta.parts.push(part);
        }
        delta
    }
}

fn place(patch: Option<&Patch>, range: Range<u64>) -> Option<u64> {
    patch?.place(&range)
}
