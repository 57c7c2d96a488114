//! Isolating damage: which rows of the index lead to it, and what becomes of them.

use std::collections::HashSet;

use snowcache_core::recipe::FrameId;
use snowcache_nix::NarHash;

use super::{Broken, Damage, Isolated};
use crate::Result;
use crate::depot::Shared;
use crate::former;
use crate::index::{Batch, Rows, Table};
use crate::layout::{Layout, Location, Part};
use crate::record::FRAME_HEADER_BYTES;
use crate::rows::PathRow;

impl Shared {
    /// Takes damaged places out of use, and every NAR that nothing else can serve.
    pub fn isolate(&self, damage: &[Damage]) -> Result<Isolated> {
        let mut isolated = Isolated::default();
        self.forget_frames(damage)?;
        isolated.former_encodings = self.forget_formers(&[], damage)?;
        for nar in self.layouts_that_touch(damage)? {
            let was_sick = self.quarantine.is_sick(&nar);
            if self.examine(&nar, damage)? && !was_sick {
                isolated.sick.push(nar);
            }
        }
        Ok(isolated)
    }

    /// Removes the rows of damaged frames, so that nothing new is built on them.
    pub fn forget_frames(&self, damage: &[Damage]) -> Result<()> {
        let _gate = self.undisturbed()?;
        let mut batch = Batch::default();
        let mut forget = |key: &[u8], value: &[u8]| -> Result<()> {
            let at = Location::decode(value)?;
            let end = at.offset + FRAME_HEADER_BYTES as u64 + u64::from(at.stored_len);
            if damage
                .iter()
                .any(|one| one.touches(at.segment, at.offset, end))
            {
                batch.delete(Table::Frames, key);
            }
            Ok(())
        };
        for one in damage {
            if let Broken::Frame(id) = one.what
                && let Some(value) = self.index.get(Table::Frames, id.as_bytes())?
            {
                forget(id.as_bytes(), &value)?;
            }
        }
        // Without a header nobody knows which frames lay there.
        if damage.iter().any(|one| one.what == Broken::Bytes) {
            for row in Rows::new(&*self.index, Table::Frames, &[]) {
                let (key, value) = row?;
                forget(&key, &value)?;
            }
        }
        self.index.write(batch)
    }

    /// Lets go of former encodings that lie in damaged places, of one NAR or of all: their NARs
    /// have current ones. How many.
    pub fn forget_formers(&self, prefix: &[u8], damage: &[Damage]) -> Result<u64> {
        let mut forgotten = 0;
        for former in former::all(&*self.index, prefix) {
            let former = former?;
            if self.lies_in(&former.layout, &former.nar, damage)? {
                let _gate = self.undisturbed()?;
                let mut batch = Batch::default();
                former.remove(&mut batch);
                self.index.write(batch)?;
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }

    /// Whether frames of a layout lie in damaged places. One that was made anew meanwhile is looked
    /// at as if it did.
    fn lies_in(&self, layout: &Layout, nar: &NarHash, damage: &[Damage]) -> Result<bool> {
        for number in 0..layout.blocks.len() {
            let Some(parts) = layout.block(&*self.index, nar, number)? else {
                return Ok(true);
            };
            let mut extents = parts.iter().filter_map(|part| match part {
                Part::Extent(extent) => Some(extent),
                Part::Literal(_) => None,
            });
            let touched = extents.any(|it| {
                let end = it.offset + u64::from(it.stored_len);
                damage
                    .iter()
                    .any(|one| one.touches(it.segment, it.offset, end))
            });
            if touched {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// NARs whose layout or recipe lies in damaged places.
    fn layouts_that_touch(&self, damage: &[Damage]) -> Result<Vec<NarHash>> {
        let mut found = Vec::new();
        for row in Rows::new(&*self.index, Table::Layouts, &[]) {
            let Ok(nar) = <[u8; 32]>::try_from(&row?.0[..]) else {
                continue; // a block; its NAR's summary comes before it
            };
            let nar = NarHash::from_bytes(nar);
            let Some(layout) = Layout::read(&*self.index, &nar)? else {
                continue; // removed a moment ago
            };
            let at = layout.recipe;
            let recipe_end = at.offset + at.len;
            let mut recipe = damage.iter();
            let recipe = recipe.any(|one| one.touches(at.segment(), at.offset, recipe_end));
            if recipe || self.lies_in(&layout, &nar, damage)? {
                found.push(nar);
            }
        }
        Ok(found)
    }

    /// Copies of frames that sick NARs lack have turned up. How many NARs that heals.
    pub fn found_again(&self, found: &[(FrameId, Location)]) -> Result<u64> {
        let mut ids = HashSet::new();
        {
            let _gate = self.undisturbed()?;
            let mut batch = Batch::default();
            for (id, location) in found {
                if self.index.get(Table::Frames, id.as_bytes())?.is_none() && ids.insert(*id) {
                    batch.put(Table::Frames, id.as_bytes().as_slice(), location.encode());
                }
            }
            self.index.write(batch)?;
        }
        self.heal(&ids, None)
    }

    /// The paths that have one of these NARs, by name.
    pub fn paths_of(&self, nars: &[NarHash]) -> Result<Vec<String>> {
        let nars: HashSet<&NarHash> = nars.iter().collect();
        let mut paths = Vec::new();
        if nars.is_empty() {
            return Ok(paths);
        }
        for row in Rows::new(&*self.index, Table::Paths, &[]) {
            let info = PathRow::decode(&row?.1)?.info()?;
            if nars.contains(&info.nar_hash) {
                paths.push(info.store_path.to_string());
            }
        }
        Ok(paths)
    }
}
