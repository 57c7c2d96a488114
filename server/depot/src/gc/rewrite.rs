//! Rewriting: what lives of a segment is copied into another one, and the file is removed.
//!
//! ```text
//!   unlink   dead frames leave the index: no upload shares them from here on; those that an upload
//!            under way counts on come back
//!   copy     living records, byte for byte, sequence numbers kept; fsync
//!   repoint  the index's rows point at the copies; layouts are made anew
//!   remove   after the index is durable: the file, then its replay mark
//! ```
//!
//! Guarantees: every record that a row points at is somewhere, at each moment; readers that lose
//! their segment find the copy. A segment with damage in what lives is left for the scrub, one that
//! a former encoding leads to until that is forgotten.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use snowcache_core::recipe::FrameId;
use snowcache_nix::NarHash;

use super::copier::{Copier, Moved};
use super::cover::{cover, cover_frames};
use super::space::Coverage;
use super::{Collection, Finding};
use crate::backup::Hold;
use crate::depot::Shared;
use crate::former::{self, Former};
use crate::gc::rows::{self, Target};
use crate::index::{Batch, Index, Rows, Table};
use crate::layout::Location;
use crate::read::read_state;
use crate::record::FRAME_HEADER_BYTES;
use crate::rows::Place;
use crate::scan::{Scanned, scan};
use crate::segments::SegmentId;
use crate::{Error, ErrorKind, Result};

/// A segment with less garbage than this is not worth a file: 1,000 of them waste 64 MB.
const MIN_GARBAGE_BYTES: u64 = 64 << 10;

/// Segments that are copied before the index is made durable and their files are removed.
const REMOVED_AT_ONCE: usize = 8;

/// Rows changed while commits wait: microseconds.
pub const ROWS_AT_ONCE: usize = 1000;

/// Room that must be left beside a copy: the index's own flush.
const SLACK_BYTES: u64 = 8 << 20;

/// The segments of one collection.
pub struct Rewrite<'a, 'b> {
    collection: &'a mut Collection<'b>,
    shared: Arc<Shared>,
    /// As they were before anything was covered, with their lengths.
    segments: Vec<(SegmentId, u64)>,
    coverage: Coverage,
    /// Segments that former encodings lead to: as long as they do, these stay as they are.
    held: HashSet<SegmentId>,
    /// Which NARs use a segment.
    users: HashMap<SegmentId, Vec<NarHash>>,
    /// How many of the NARs that commits counted on are covered.
    seen: usize,
    copier: Copier,
    /// Copied, to be removed: their lengths beside them.
    copied: Vec<(SegmentId, u64)>,
}

impl<'a, 'b> Rewrite<'a, 'b> {
    /// Finds out what lives. `dead` are NARs that a dry run only pretends to have removed.
    pub fn new(collection: &'a mut Collection<'b>, dead: HashSet<NarHash>) -> Result<Self> {
        let shared = collection.depot.shared().clone();
        let mut rewrite = Rewrite {
            collection,
            segments: list(&shared)?,
            shared: shared.clone(),
            coverage: Coverage::default(),
            held: HashSet::new(),
            users: HashMap::new(),
            seen: 0,
            copier: Copier::new(shared.clone()),
            copied: Vec::new(),
        };
        for row in Rows::new(&*shared.index, Table::Layouts, &[]) {
            if let Ok(hash) = <[u8; 32]>::try_from(row?.0.as_ref()) {
                let nar = NarHash::from_bytes(hash);
                if !dead.contains(&nar) {
                    rewrite.cover_current(nar)?;
                }
            }
        }
        for former in former::all(&*shared.index, &[]) {
            rewrite.hold(&former?)?;
        }
        for table in rows::TABLES {
            for row in Rows::new(&*shared.index, table, &[]) {
                for place in rows::places(table, &row?.1)? {
                    let range = place.offset..place.offset + place.len;
                    rewrite.coverage.add(place.segment(), range);
                }
            }
        }
        Ok(rewrite)
    }

    fn cover(&mut self, nar: NarHash) -> Result<()> {
        self.cover_current(nar)?;
        let shared = self.shared.clone();
        let mut formers = former::all(&*shared.index, nar.as_bytes());
        formers.try_for_each(|former| self.hold(&former?))
    }

    /// Covers what a former encoding leads to, which is not moved.
    fn hold(&mut self, former: &Former) -> Result<()> {
        if self.collection.dry_run && former.until <= self.collection.now {
            return Ok(());
        }
        let (held, coverage) = (&mut self.held, &mut self.coverage);
        let mut hold = |segment| {
            held.insert(segment);
        };
        cover_frames(
            &self.shared,
            &former.nar,
            &former.layout,
            coverage,
            &mut hold,
        )?;
        Ok(())
    }

    fn cover_current(&mut self, nar: NarHash) -> Result<()> {
        let users = &mut self.users;
        cover(&self.shared, &nar, &mut self.coverage, &mut |segment| {
            let users = users.entry(segment).or_default();
            if users.last() != Some(&nar) {
                users.push(nar);
            }
        })?;
        Ok(())
    }

    /// Covers the NARs that commits counted on since this was last called.
    fn catch_up(&mut self) -> Result<()> {
        let nars = self.shared.uses.nars(self.seen);
        self.seen += nars.len();
        nars.into_iter().try_for_each(|nar| self.cover(nar))
    }

    /// Rewrites what is worth it.
    pub fn run(mut self) -> Result<()> {
        let before = self.shared.pool.bytes();
        let segments = std::mem::take(&mut self.segments);
        let live: u64 = segments
            .iter()
            .map(|(id, _)| self.coverage.bytes(*id))
            .sum();
        let mut by_garbage: Vec<(u64, SegmentId, u64)> = segments
            .iter()
            .map(|(id, len)| (len.saturating_sub(self.coverage.bytes(*id)), *id, *len))
            .collect();
        // Without a rest first, since these need no room; then by falling garbage.
        by_garbage
            .sort_by_key(|(garbage, id, len)| (garbage < len, std::cmp::Reverse(*garbage), *id));
        let mut garbage: u64 = by_garbage.iter().map(|(garbage, _, _)| garbage).sum();
        let allowed = live / 100 * self.collection.policy.max_garbage_percent;
        for (dead, id, len) in by_garbage {
            let worth = dead >= MIN_GARBAGE_BYTES && (garbage > allowed || dead > len / 2);
            let nothing_lives = dead == len;
            self.collection.depot.may_go_on()?;
            if (worth || nothing_lives) && self.take(id, len)? {
                garbage -= dead;
            }
        }
        self.remove_copied()?;
        let collected = &mut self.collection.collected;
        collected.copied_bytes += self.copier.copied_bytes;
        collected.live_bytes = live;
        collected.stored_bytes = self.shared.pool.bytes();
        if !collected.dry_run {
            collected.freed_bytes = before.saturating_sub(collected.stored_bytes);
        }
        Ok(())
    }

    /// Takes a segment out of service. False where it stays.
    fn take(&mut self, id: SegmentId, len: u64) -> Result<bool> {
        if self.held.contains(&id) {
            return Ok(false);
        }
        let live = self.coverage.bytes(id);
        if self.collection.dry_run {
            self.collection.collected.freed_bytes += len - live;
            self.tell(id, len, live);
            return Ok(true);
        }
        if !self.has_room(live)? || !self.shared.pool.seal(id) {
            return Ok(false);
        }
        // Its true length: what was appended since the list was made counts.
        let listed = list(&self.shared)?;
        let Some((_, len)) = listed.iter().find(|(other, _)| *other == id) else {
            return Ok(false);
        };
        let scanned = scan(&*self.shared.segments, id, 0, *len)?;
        let frames = self.unlink(id, &scanned)?;
        if !self.is_whole(id, &scanned) {
            tracing::warn!(segment = %id, "what lives is damaged: not rewritten, scrub it");
            return Ok(false);
        }
        match self.copy(id, &scanned, &frames) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!(segment = %id, %error, "not rewritten");
                return Ok(false);
            }
            Ok(true) if !self.held.contains(&id) => {}
            // An encoding that was replaced just now leads here.
            Ok(true) => return Ok(false),
            Ok(false) => {
                tracing::warn!(segment = %id, "something in it could not be moved: it stays");
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        let live = self.coverage.bytes(id);
        self.copied.push((id, *len));
        self.tell(id, *len, live);
        if self.copied.len() >= REMOVED_AT_ONCE {
            self.remove_copied()?;
        }
        Ok(true)
    }

    /// Whether a copy of `live` bytes fits; removes what was copied before it says no.
    fn has_room(&mut self, live: u64) -> Result<bool> {
        for retry in [true, false] {
            let space = self.shared.segments.space();
            let space = space.map_err(|e| Error::io("asking how much room the disk has", e))?;
            if live == 0 || space.free_bytes >= live + SLACK_BYTES {
                return Ok(true);
            }
            if retry {
                self.remove_copied()?;
            }
        }
        tracing::warn!(
            live,
            "a segment is not rewritten: the disk has no room for the copy"
        );
        Ok(false)
    }

    fn tell(&mut self, id: SegmentId, bytes: u64, live_bytes: u64) {
        let reason = match live_bytes {
            0 => {
                self.collection.collected.segments_removed += 1;
                "nothing in it is needed".to_owned()
            }
            _ => {
                self.collection.collected.segments_rewritten += 1;
                format!(
                    "{} % of it is needed, which moves",
                    live_bytes * 100 / bytes
                )
            }
        };
        (self.collection.on)(Finding::Segment {
            number: id.0,
            bytes,
            live_bytes,
            reason,
        });
    }

    /// Takes dead frames out of the index, and covers those that somebody counts on after all.
    /// Returns the frames that live, with the offset of each.
    fn unlink(&mut self, id: SegmentId, scanned: &Scanned) -> Result<Vec<(FrameId, Location)>> {
        let shared = self.shared.clone();
        let _gate = shared.undisturbed()?;
        self.catch_up()?;
        let mut unlinked = HashMap::new();
        let mut batch = Batch::default();
        let dead = scanned
            .frames
            .iter()
            .filter(|(_, at)| !self.coverage.has(id, at.offset));
        for (frame, at) in dead {
            if points_at(&*shared.index, frame, at)? {
                batch.delete(Table::Frames, frame.as_bytes().as_slice());
                unlinked.insert(*frame, *at);
            }
        }
        if scanned.damaged > 0 {
            forget_damaged(&*shared.index, id, scanned, &mut batch)?;
        }
        shared.index.write(batch)?;
        let mut batch = Batch::default();
        let wanted: HashSet<FrameId> = unlinked.keys().copied().collect();
        for frame in shared.uses.in_flight(&wanted) {
            let at = unlinked[&frame];
            let end = at.offset + FRAME_HEADER_BYTES as u64 + u64::from(at.stored_len);
            self.coverage.add(id, at.offset..end);
            batch.put(Table::Frames, frame.as_bytes().as_slice(), at.encode());
        }
        shared.index.write(batch)?;
        let live = scanned
            .frames
            .iter()
            .filter(|(_, at)| self.coverage.has(id, at.offset));
        Ok(live.copied().collect())
    }

    /// Whether every living byte was found to be part of a whole record.
    fn is_whole(&self, id: SegmentId, scanned: &Scanned) -> bool {
        let mut found = Coverage::default();
        for (_, at) in &scanned.frames {
            if self.coverage.has(id, at.offset) {
                let len = FRAME_HEADER_BYTES as u64 + u64::from(at.stored_len);
                found.add(id, at.offset..at.offset + len);
            }
        }
        for state in &scanned.states {
            if self.coverage.has(id, state.offset) {
                found.add(id, state.offset..state.offset + state.len);
            }
        }
        found.bytes(id) == self.coverage.bytes(id)
    }

    /// Copies what lives and points the index at the copies. Whether all of it could be moved.
    fn copy(
        &mut self,
        id: SegmentId,
        scanned: &Scanned,
        frames: &[(FrameId, Location)],
    ) -> Result<bool> {
        let mut moved = Vec::new();
        for (frame, at) in frames {
            // Another copy serves as well, when the index points at that one.
            let row = self.shared.index.get(Table::Frames, frame.as_bytes())?;
            if row.is_none_or(|row| Location::decode(&row).is_ok_and(|other| other == *at)) {
                moved.push((*frame, *at, self.copier.frame(at)?));
            }
        }
        let existing: HashSet<u32> = list(&self.shared)?.iter().map(|(id, _)| id.0).collect();
        let (mut states, mut spent) = (Vec::new(), Vec::new());
        for state in &scanned.states {
            let (header, payload) = read_state(&*self.shared.segments, id, state.offset)?;
            let old = Place::of(id, state.offset, &header);
            let Some(target) = rows::target(state.kind, &payload, header.seq)? else {
                continue;
            };
            if !rows::points_at(&*self.shared.index, &target, &old)? {
                continue;
            }
            if rows::is_spent(&*self.shared.index, &target, id, &existing)? {
                spent.push((target, old));
                continue;
            }
            let new = self.copier.state(&header, &payload)?;
            states.push((target, old, new));
        }
        self.copier.make_durable()?;
        self.forget(&spent)?;
        self.repoint(id, moved, states)
    }

    fn forget(&self, spent: &[(Target, Place)]) -> Result<()> {
        for part in spent.chunks(ROWS_AT_ONCE) {
            let _gate = self.shared.undisturbed()?;
            let mut batch = Batch::default();
            for (target, old) in part {
                rows::forget(&*self.shared.index, target, old, &mut batch)?;
            }
            self.shared.index.write(batch)?;
        }
        Ok(())
    }

    /// Points rows from the old records to the copies, where they still point at the old ones.
    fn repoint(
        &mut self,
        id: SegmentId,
        frames: Vec<Moved>,
        states: Vec<(Target, Place, Place)>,
    ) -> Result<bool> {
        let shared = self.shared.clone();
        self.copier.repoint(frames)?;
        let users = self.users.remove(&id).unwrap_or_default();
        let mut users: BTreeSet<NarHash> = users.into_iter().collect();
        for part in states.chunks(ROWS_AT_ONCE) {
            let _gate = shared.undisturbed()?;
            for (target, old, new) in part {
                let mut batch = Batch::default();
                rows::repoint(&*shared.index, target, old, new, &mut batch)?;
                shared.index.write(batch)?;
            }
        }
        {
            // Commits that began before the rows were changed have ended when this is passed.
            let _gate = shared.undisturbed()?;
            users.extend(shared.uses.nars(self.seen));
        }
        let all = self.copier.lay_out(&users)?;
        // Also where not all could be moved: the others may lead to segments that are not done yet.
        users.into_iter().try_for_each(|nar| self.cover(nar))?;
        Ok(all)
    }

    /// Removes the segments whose copies are in the index, once that is durable.
    fn remove_copied(&mut self) -> Result<()> {
        if self.copied.is_empty() {
            return Ok(());
        }
        self.shared.index.checkpoint()?;
        if self.shared.index.ready()? != self.collection.index {
            let anew = "the index was opened anew while this collection ran; collect once more";
            return Err(Error::new(ErrorKind::Storage, anew));
        }
        let copied = std::mem::take(&mut self.copied);
        let Some(_hold) = Hold::to_remove(&self.shared.dir)? else {
            tracing::info!("a backup is under way: emptied segments go with the next collection");
            return Ok(());
        };
        for (id, len) in copied {
            self.shared.pool.remove(id, len)?;
            let mut batch = Batch::default();
            batch.delete(Table::Marks, id.0.to_be_bytes());
            self.shared.index.write(batch)?;
        }
        Ok(())
    }
}

fn list(shared: &Shared) -> Result<Vec<(SegmentId, u64)>> {
    let listed = shared.segments.list();
    listed.map_err(|e| Error::io("listing segments", e))
}

fn points_at(index: &dyn Index, frame: &FrameId, at: &Location) -> Result<bool> {
    let row = index.get(Table::Frames, frame.as_bytes())?;
    let row = row.map(|row| Location::decode(&row)).transpose()?;
    Ok(row.as_ref() == Some(at))
}

/// Takes frames of a segment out of the index that its scan did not find whole.
fn forget_damaged(
    index: &dyn Index,
    id: SegmentId,
    scanned: &Scanned,
    batch: &mut Batch,
) -> Result<()> {
    let whole: HashSet<u64> = scanned.frames.iter().map(|(_, at)| at.offset).collect();
    for row in Rows::new(index, Table::Frames, &[]) {
        let (frame, at) = row?;
        let at = Location::decode(&at)?;
        if at.segment == id && !whole.contains(&at.offset) {
            batch.delete(Table::Frames, frame);
        }
    }
    Ok(())
}
