//! The present index against one made from the segments, row by row.

use std::collections::HashSet;

use snowcache_core::recipe::FrameId;
use snowcache_nix::NarHash;

use super::Teller;
use crate::Result;
use crate::former;
use crate::gc::rows::{TABLES, places};
use crate::index::{Index, Rows, Table};
use crate::layout::{Extent, Layout, Location, Part};
use crate::quarantine::Damage;
use crate::record::{FRAME_HEADER_BYTES, Header, STATE_HEADER_BYTES};
use crate::relayout::header_of;
use crate::rows::{PathRow, PinRow, Place};
use crate::segments::{SegmentId, Segments};

/// Compares two indexes; what is wrong in `pair.present` is told. Former encodings are not among
/// it: no segment tells of them.
pub fn indexes(pair: &Pair<'_>, tell: &mut Teller<'_>) -> Result<()> {
    pair.frames(tell)?;
    pair.layouts(tell)?;
    for table in TABLES {
        pair.records(table, tell)?;
    }
    pair.paths(tell)?;
    pair.pins(tell)
}

/// Which damage the rows of an index lead to.
pub fn damage_in(index: &dyn Index, damage: &[Damage]) -> Result<HashSet<usize>> {
    let mut needed = HashSet::new();
    if damage.is_empty() {
        return Ok(needed);
    }
    let mut touch = |segment: SegmentId, from: u64, len: u64| {
        let touched = damage.iter().enumerate();
        let touched = touched.filter(|(_, one)| one.touches(segment, from, from + len));
        needed.extend(touched.map(|(number, _)| number));
    };
    for row in Rows::new(index, Table::Layouts, &[]) {
        let (key, _) = row?;
        let Ok(nar) = <[u8; 32]>::try_from(&key[..]) else {
            continue; // a block; its NAR's summary comes before it
        };
        let nar = NarHash::from_bytes(nar);
        let Some(layout) = Layout::read(index, &nar)? else {
            continue;
        };
        touch(
            layout.recipe.segment(),
            layout.recipe.offset,
            layout.recipe.len,
        );
        for extent in extents(index, &nar, &layout)? {
            touch(extent.segment, extent.offset, extent.stored_len.into());
        }
    }
    // One that does not read is told of, and let go, by itself.
    for former in former::all(index, &[]).filter_map(Result::ok) {
        for extent in extents(index, &former.nar, &former.layout)? {
            touch(extent.segment, extent.offset, extent.stored_len.into());
        }
    }
    for table in TABLES {
        for row in Rows::new(index, table, &[]) {
            for place in places(table, &row?.1)? {
                touch(place.segment(), place.offset, place.len);
            }
        }
    }
    Ok(needed)
}

/// The runs of frames that a layout leads to, as far as it reads.
fn extents(index: &dyn Index, nar: &NarHash, layout: &Layout) -> Result<Vec<Extent>> {
    let mut extents = Vec::new();
    for number in 0..layout.blocks.len() {
        for part in layout.block(index, nar, number)?.unwrap_or_default() {
            if let Part::Extent(extent) = part {
                extents.push(extent);
            }
        }
    }
    Ok(extents)
}

/// The present index, what it should say, and what is damaged besides.
pub struct Pair<'a> {
    /// Where the records lie.
    pub segments: &'a dyn Segments,
    /// The index that is there.
    pub present: &'a dyn Index,
    /// One made from the segments.
    pub fresh: &'a dyn Index,
    /// What the segments do not give back.
    pub damage: &'a [Damage],
}

impl Pair<'_> {
    /// Every frame's row leads to that frame.
    fn frames(&self, tell: &mut Teller<'_>) -> Result<()> {
        for row in Rows::new(self.present, Table::Frames, &[]) {
            let (key, value) = row?;
            if self.fresh.get(Table::Frames, &key)?.as_ref() == Some(&value) {
                continue;
            }
            let Ok(id) = <[u8; 32]>::try_from(&key[..]) else {
                tell.problem("the index has a frame whose id is no id".to_owned());
                continue;
            };
            let id = FrameId::from_bytes(id);
            let at = Location::decode(&value)?;
            let end = at.offset + FRAME_HEADER_BYTES as u64 + u64::from(at.stored_len);
            if !self.is_damaged(at.segment, at.offset, end) && !self.has_frame(id, &at) {
                tell.problem(format!("the index has frame {id} where it is not"));
            }
        }
        Ok(())
    }

    fn has_frame(&self, id: FrameId, at: &Location) -> bool {
        let mut header = [0; FRAME_HEADER_BYTES];
        self.segments
            .read(at.segment, at.offset, &mut header)
            .is_ok()
            && header == header_of(id, at).encode()
    }

    pub(super) fn is_damaged(&self, segment: SegmentId, from: u64, to: u64) -> bool {
        self.damage.iter().any(|one| one.touches(segment, from, to))
    }

    /// Every row leads to a record with its sequence number.
    fn records(&self, table: Table, tell: &mut Teller<'_>) -> Result<()> {
        for row in Rows::new(self.present, table, &[]) {
            let (key, value) = row?;
            for place in places(table, &value)? {
                let (segment, from) = (place.segment(), place.offset);
                let damaged = self.is_damaged(segment, from, from + place.len);
                if !damaged && !self.has_record(&place) {
                    tell.problem(format!(
                        "the index's {} row {} leads to segment {segment} at {from}, where no such \
                         record is",
                        table.name(),
                        readable(&key)
                    ));
                }
            }
        }
        Ok(())
    }

    fn has_record(&self, place: &Place) -> bool {
        let mut bytes = [0; STATE_HEADER_BYTES];
        let read = self
            .segments
            .read(place.segment(), place.offset, &mut bytes);
        let header = read.ok().and_then(|()| Header::decode(&bytes).ok());
        matches!(header, Some(Header::State(state)) if state.seq == place.seq)
    }

    /// The same paths are visible, with the same content.
    fn paths(&self, tell: &mut Teller<'_>) -> Result<()> {
        for row in Rows::new(self.present, Table::Paths, &[]) {
            let (key, value) = row?;
            let row = PathRow::decode(&value)?;
            let path = row.info()?.store_path;
            match PathRow::get(self.fresh, &key)? {
                Some(fresh) if fresh.narinfo == row.narinfo => {}
                Some(_) => tell.problem(format!("the index has another narinfo for {path}")),
                None if self.is_sick(&row)? || self.leads_to_damage(&row) => {}
                None => tell.problem(format!("the index has {path}, which no segment has")),
            }
        }
        for row in Rows::new(self.fresh, Table::Paths, &[]) {
            let (key, value) = row?;
            if self.present.get(Table::Paths, &key)?.is_none() {
                let path = PathRow::decode(&value)?.info()?.store_path;
                tell.problem(format!("the index lacks {path}, which was published"));
            }
        }
        Ok(())
    }

    fn is_sick(&self, row: &PathRow) -> Result<bool> {
        let nar = row.info()?.nar_hash;
        let rows = self.present.scan(Table::Sick, nar.as_bytes(), None, 1)?;
        Ok(!rows.is_empty() || self.fresh.get(Table::Layouts, nar.as_bytes())?.is_none())
    }

    fn leads_to_damage(&self, row: &PathRow) -> bool {
        let place = &row.place;
        self.is_damaged(place.segment(), place.offset, place.offset + place.len)
    }

    /// The same pins hold the same.
    fn pins(&self, tell: &mut Teller<'_>) -> Result<()> {
        for (one, other, who) in [
            (self.present, self.fresh, "the segments have"),
            (self.fresh, self.present, "the index has"),
        ] {
            for row in Rows::new(one, Table::Pins, &[]) {
                let (key, value) = row?;
                let row = PinRow::decode(&value)?;
                let place = &row.place;
                let damaged =
                    self.is_damaged(place.segment(), place.offset, place.offset + place.len);
                let found = other.get(Table::Pins, &key)?;
                let found = found.map(|row| PinRow::decode(&row)).transpose()?;
                let same = found.is_some_and(|found| found.pin == row.pin);
                if !same && !damaged && !row.pin.generations.is_empty() {
                    let name = &row.pin.name;
                    tell.problem(format!("{who} not the same pin {name}"));
                }
            }
        }
        Ok(())
    }
}

/// A key as people can read it.
fn readable(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}
