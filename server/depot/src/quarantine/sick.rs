//! Sick NARs: examined, written down, healed.

use std::collections::{BTreeSet, HashSet};

use snowcache_core::recipe::{FrameId, Recipe};
use snowcache_nix::NarHash;

use super::{Damage, Lack};
use crate::depot::Shared;
use crate::index::{Batch, Table};
use crate::layout::Layout;
use crate::read::read_state;
use crate::relayout::resolve_again;
use crate::rows::Place;
use crate::state::recipe_of;
use crate::{Error, ErrorKind, Result};

impl Shared {
    /// Reads the table of sick NARs; those that have become whole meanwhile are healed.
    pub fn read_quarantine(&self) -> Result<()> {
        for (key, value) in self.index.scan(Table::Sick, &[], None, usize::MAX)? {
            let Some((nar, frame)) = key.split_first_chunk::<32>() else {
                continue;
            };
            let nar = NarHash::from_bytes(*nar);
            let known = self.quarantine.read().get(&nar).cloned();
            let mut lack = known.unwrap_or_default();
            match <[u8; 32]>::try_from(frame) {
                Ok(frame) => drop(lack.frames.insert(FrameId::from_bytes(frame))),
                Err(_) => {
                    lack.recipe = Some(Place::of_row(&value)?);
                }
            }
            self.quarantine.set(nar, Some(lack));
        }
        let sick: Vec<NarHash> = self.quarantine.read().keys().copied().collect();
        for nar in sick {
            self.examine(&nar, &[])?;
        }
        Ok(())
    }

    /// New frames were stored, or `nar` was: heals what lacked only these. How many NARs.
    pub fn heal(&self, frames: &HashSet<FrameId>, nar: Option<&NarHash>) -> Result<u64> {
        if !self.quarantine.any() {
            return Ok(0);
        }
        let mut healed = 0;
        for nar in self.quarantine.hopeful(frames, nar) {
            healed += u64::from(!self.examine(&nar, &[])?);
        }
        Ok(healed)
    }

    /// Finds out whether a NAR is whole, given damage that the index may not know of yet, and
    /// writes down what was found. Whether it is sick.
    pub fn examine(&self, nar: &NarHash, damage: &[Damage]) -> Result<bool> {
        let _gate = self.undisturbed()?;
        let mut batch = Batch::default();
        let lack = self.diagnose(nar, damage, &mut batch)?;
        let before = self.quarantine.read().get(nar).cloned();
        if before != lack {
            note(&mut batch, nar, before.as_ref(), lack.as_ref());
        }
        // Its new layout may lead to where a collection that runs has seen nothing that is needed.
        self.uses.nar(*nar);
        self.index.write(batch)?;
        let sick = lack.is_some();
        match (before.is_some(), &lack) {
            (false, Some(lack)) => {
                let frames = lack.frames.len();
                let recipe = lack.recipe.is_some();
                tracing::error!(%nar, frames, recipe, "quarantined: push it again to heal it");
            }
            (true, None) => tracing::info!(%nar, "healed"),
            _ => {}
        }
        self.quarantine.set(*nar, lack);
        Ok(sick)
    }

    /// What a NAR lacks; where it lacks nothing, its layout is put into `batch` anew.
    fn diagnose(
        &self,
        nar: &NarHash,
        damage: &[Damage],
        batch: &mut Batch,
    ) -> Result<Option<Lack>> {
        let Some(layout) = Layout::read(&*self.index, nar)? else {
            return Ok(None); // it is gone altogether
        };
        let at = layout.recipe;
        let recipe = match self.recipe(nar, &layout) {
            Err(error) if error.kind() == ErrorKind::Corrupt => None,
            recipe => Some(recipe?),
        };
        let known_bad = |one: &Damage| one.touches(at.segment(), at.offset, at.offset + at.len);
        let Some(recipe) = recipe.filter(|_| !damage.iter().any(known_bad)) else {
            let recipe = Some(at);
            let frames = BTreeSet::new();
            return Ok(Some(Lack { recipe, frames }));
        };
        match resolve_again(self, nar, &layout, &recipe)? {
            Ok(builder) => {
                layout.remove(batch, nar);
                builder.finish(batch, nar, layout.recipe);
                Ok(None)
            }
            Err(frames) => Ok(Some(Lack {
                recipe: None,
                frames,
            })),
        }
    }

    fn recipe(&self, nar: &NarHash, layout: &Layout) -> Result<Recipe> {
        let (segment, offset) = (layout.recipe.segment(), layout.recipe.offset);
        let (_, payload) = read_state(&*self.segments, segment, offset)?;
        let (found, _, recipe) = recipe_of(&payload)?;
        if found != *nar {
            return Err(Error::corrupt(format!(
                "segment {segment} has another NAR's recipe at {offset}"
            )));
        }
        Ok(recipe)
    }
}

/// Changes the rows of a NAR from one lack to another.
fn note(batch: &mut Batch, nar: &NarHash, before: Option<&Lack>, now: Option<&Lack>) {
    let key = |frame: &FrameId| [nar.as_bytes().as_slice(), frame.as_bytes()].concat();
    if let Some(before) = before {
        batch.delete(Table::Sick, nar.as_bytes().as_slice());
        for frame in &before.frames {
            batch.delete(Table::Sick, key(frame));
        }
    }
    let Some(now) = now else { return };
    if let Some(place) = now.recipe {
        batch.put(Table::Sick, nar.as_bytes().as_slice(), place.to_row());
    }
    for frame in &now.frames {
        batch.put(Table::Sick, key(frame), []);
    }
}
