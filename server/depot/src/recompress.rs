//! Recompression: NARs that nobody asks for are compressed again, harder, in idle time.
//!
//! ```text
//!   due      NARs of paths that were not put or asked for in a while
//!   compress what only these need: each frame unpacked, hashed, packed, unpacked again; appended
//!            to a segment of the level
//!   durable  fsync, with a commit at the end; noted in the index as replayed
//!   repoint  the frames' rows; then NAR by NAR its layout: a new encoding, a new URL
//!   keep     the former encoding, until no client remembers its URL (former.rs)
//! ```
//!
//! A frame that something else needs too, a NAR in use or an upload, stays as it is, so that it is
//! not stored twice and no URL in use changes. What does not become smaller is copied as it is, so
//! that a NAR's frames lie together, in the order of its recipe. The old records become garbage for
//! the collector when nothing leads to them any more.
//!
//! Guarantees: what is stored unpacks to the bytes that the frame's id names, seen before anything
//! leads to it; until the copies are durable the old records serve, so that a crash at any point
//! costs time only; memory for [`SLICE_BYTES`] of frames' places, some 150 bytes for each path, and
//! what a collection takes for what lives; one thread that packs. Never: takes room that uploads
//! would miss; changes what a URL names.

mod packer;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use snowcache_core::recipe::{FrameId, Recipe};
use snowcache_nix::NarHash;

use self::packer::{Packer, Packing};
use crate::depot::{Depot, Shared};
use crate::former::{self, Former};
use crate::gc::{Coverage, LOW_WATER_PERCENT, ROWS_AT_ONCE, cover_frames};
use crate::index::{Batch, Index, Rows, Table};
use crate::layout::{Layout, Location, Part};
use crate::pool::{Level, Stream};
use crate::record::{Checksum, FrameHeader, Kind};
use crate::relayout::{frame_id, recipe_at, relayout};
use crate::rows::{PathRow, Place, SINCE_KEY, time_of};
use crate::scrub::{NAP, Pace, REPORT_EVERY};
use crate::{Error, ErrorKind, Result};

/// Stored bytes after which what was compressed is put to use: a crash costs the work on so many,
/// some ten seconds of a core; the places of 10,000 frames are kept meanwhile, 1 MB.
const SLICE_BYTES: u64 = 256 << 20;

/// A former encoding is kept so long at least: downloads of it are under way. As for bytes of a
/// path that went.
const DOWNLOADS_S: u64 = 60 * 60;

/// Times that a recipe is looked up once more after it moved.
const MAX_MOVES: usize = 8;

/// How to compress, and what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recompress {
    /// zstd's level, from 1.
    pub level: Level,
    /// Only paths that were not put or asked for in so many seconds.
    pub min_idle_s: u64,
    /// Stored bytes read a second, at most; as fast as it goes where there is none.
    pub rate_bytes_per_s: Option<u64>,
}

/// What a recompression came to, or how far it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Recompressed {
    /// NARs that were due.
    pub nars: u64,
    /// NARs that were gone through.
    pub nars_done: u64,
    /// NARs that have another encoding now.
    pub nars_changed: u64,
    /// Frames compressed again.
    pub frames: u64,
    /// What they took, in bytes.
    pub before_bytes: u64,
    /// What they take now.
    pub after_bytes: u64,
    /// It ended early because the rest of the room is for uploads.
    pub no_room: bool,
    /// It was stopped before its end.
    pub stopped: bool,
    /// How long it took.
    pub seconds: f64,
}

/// The keys of all paths that have a NAR.
type Keys = Vec<Box<[u8]>>;

/// A NAR that is to be compressed again.
struct Due {
    nar: NarHash,
    paths: Keys,
}

/// What was compressed and is not in use yet.
#[derive(Default)]
struct Slice {
    /// Segments written to; all but the last are full.
    streams: Vec<Stream>,
    moved: HashMap<FrameId, Location>,
    /// NARs that were gone through.
    nars: Vec<Due>,
    bytes: u64,
}

impl Depot {
    /// Compresses again what is due, NAR by NAR. `stand_back` is called on the thread that packs,
    /// before it begins: this one holds the gate at times, and must not. `on` is told now and then
    /// how far it is, and may stop it; what is done then stays.
    ///
    /// # Errors
    /// `Busy` while another recompression runs; what the disk says.
    pub fn recompress(
        &self,
        how: &Recompress,
        stand_back: fn(),
        on: &mut dyn FnMut(&Recompressed) -> ControlFlow<()>,
    ) -> Result<Recompressed> {
        let shared = self.shared();
        let _alone = shared.recompressing.try_lock().map_err(|_| {
            Error::new(
                ErrorKind::Busy,
                "another recompression is running; wait for its end",
            )
        })?;
        let began = Instant::now();
        std::thread::scope(|scope| {
            let mut run = Run {
                depot: self,
                shared,
                how,
                on,
                pace: Pace::new(how.rate_bytes_per_s),
                told: began,
                packer: Packer::start(scope, how.level, stand_back)?,
                in_use: Coverage::default(),
                slice: Slice::default(),
                done: Recompressed::default(),
            };
            run.all()?;
            run.done.seconds = began.elapsed().as_secs_f64();
            Ok(run.done)
        })
    }
}

/// One recompression under way.
struct Run<'a> {
    depot: &'a Depot,
    shared: &'a Arc<Shared>,
    how: &'a Recompress,
    on: &'a mut dyn FnMut(&Recompressed) -> ControlFlow<()>,
    pace: Pace,
    told: Instant,
    packer: Packer,
    /// Frames of NARs that are not idle.
    in_use: Coverage,
    slice: Slice,
    done: Recompressed,
}

impl Run<'_> {
    fn all(&mut self) -> Result<()> {
        let due = self.due()?;
        self.done.nars = due.len() as u64;
        for due in due {
            self.nar(due)?;
            if self.is_over() {
                break;
            }
        }
        self.put_to_use()?;
        self.tell();
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.done.stopped || self.done.no_room
    }

    /// NARs of which something lies in a segment of another level that only idle ones need; in the
    /// order in which they came.
    fn due(&mut self) -> Result<Vec<Due>> {
        let Some(idle) = self.idle()? else {
            return Ok(Vec::new());
        };
        let index = &*self.shared.index;
        for row in Rows::new(index, Table::Layouts, &[]) {
            let Ok(hash) = <[u8; 32]>::try_from(row?.0.as_ref()) else {
                continue; // a block
            };
            let nar = NarHash::from_bytes(hash);
            if !idle.contains_key(&nar)
                && let Some(layout) = Layout::read(index, &nar)?
            {
                cover_frames(self.shared, &nar, &layout, &mut self.in_use, &mut |_| {})?;
            }
        }
        let mut due: Vec<(Place, Due)> = Vec::new();
        for (nar, paths) in idle {
            if let Some(place) = self.lies_elsewhere(&nar)? {
                due.push((place, Due { nar, paths }));
            }
        }
        due.sort_by_key(|(place, _)| *place);
        Ok(due.into_iter().map(|(_, due)| due).collect())
    }

    /// NARs of which no path was used lately, with the paths; None where it was stopped.
    fn idle(&mut self) -> Result<Option<HashMap<NarHash, Keys>>> {
        self.depot.write_uses()?;
        let index = &*self.shared.index;
        let before = (self.shared.clock)().saturating_sub(self.how.min_idle_s);
        let since = counted_since(index)?;
        let mut nars: HashMap<NarHash, (u64, Keys)> = HashMap::new();
        for row in Rows::new(index, Table::Paths, &[]) {
            let (key, value) = row?;
            let row = PathRow::decode(&value)?;
            let (last, paths) = nars.entry(row.info()?.nar_hash).or_insert((since, vec![]));
            *last = last_use(index, &key)?.max(*last);
            paths.push(key.as_ref().into());
            self.read(0);
            if self.done.stopped {
                return Ok(None);
            }
        }
        let sick = &self.shared.quarantine;
        nars.retain(|nar, (last, _)| *last <= before && !sick.is_sick(nar));
        let idle = nars.into_iter().map(|(nar, (_, paths))| (nar, paths));
        Ok(Some(idle.collect()))
    }

    /// Where the recipe of a NAR lies, if something of it lies in a segment of another level and
    /// is not in use.
    fn lies_elsewhere(&self, nar: &NarHash) -> Result<Option<Place>> {
        let index = &*self.shared.index;
        let Some(layout) = Layout::read(index, nar)? else {
            return Ok(None);
        };
        for number in 0..layout.blocks.len() {
            let parts = layout.block(index, nar, number)?.unwrap_or_default();
            let elsewhere = |part: &Part| match part {
                Part::Extent(extent) => {
                    let end = extent.offset + u64::from(extent.stored_len);
                    self.shared.pool.level(extent.segment) != self.how.level
                        && !self.in_use.holds(extent.segment, extent.offset..end)
                }
                Part::Literal(_) => false,
            };
            if parts.iter().any(elsewhere) {
                return Ok(Some(layout.recipe));
            }
        }
        Ok(None)
    }

    fn nar(&mut self, due: Due) -> Result<()> {
        let Some(recipe) = self.recipe(&due.nar)? else {
            return Ok(());
        };
        for id in recipe.ops().iter().filter_map(frame_id) {
            self.frame(id)?;
            if self.is_over() {
                return Ok(());
            }
            if self.slice.bytes >= SLICE_BYTES {
                self.put_to_use()?;
            }
        }
        self.slice.nars.push(due);
        self.done.nars_done += 1;
        self.read(0);
        Ok(())
    }

    /// None where it went, or is damaged: the scrub finds that.
    fn recipe(&self, nar: &NarHash) -> Result<Option<Recipe>> {
        for _ in 0..MAX_MOVES {
            let Some(layout) = Layout::read(&*self.shared.index, nar)? else {
                return Ok(None);
            };
            match recipe_at(self.shared, &layout.recipe) {
                Err(error) if error.is_gone() => continue,
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    tracing::warn!(%nar, %error, "not compressed again");
                    return Ok(None);
                }
                recipe => return recipe.map(Some),
            }
        }
        Ok(None)
    }

    /// Compresses a frame, unless that is done.
    fn frame(&mut self, id: FrameId) -> Result<()> {
        if self.slice.moved.contains_key(&id) {
            return Ok(());
        }
        // One that the index does not know lies where the NAR's own layout has it, and stays there.
        let Some(row) = self.shared.index.get(Table::Frames, id.as_bytes())? else {
            return Ok(());
        };
        let at = Location::decode(&row)?;
        let is_done = self.shared.pool.level(at.segment) == self.how.level;
        if is_done || self.in_use.has(at.segment, at.offset) {
            return Ok(());
        }
        let Some((at, stored)) = self.shared.stored_frame(id)? else {
            return Ok(());
        };
        let before_bytes = stored.len() as u64;
        if !self.has_room(before_bytes)? {
            self.done.no_room = true;
            return Ok(());
        }
        let raw_len = at.raw_len;
        let Some(stored) = self.packer.pack(Packing {
            id,
            raw_len,
            stored,
        })?
        else {
            self.shared.damaged_frame(id, &at);
            return Ok(());
        };
        self.append(id, raw_len, &stored)?;
        self.done.frames += 1;
        self.done.before_bytes += before_bytes;
        self.done.after_bytes += stored.len() as u64;
        self.read(before_bytes);
        Ok(())
    }

    fn append(&mut self, id: FrameId, raw_len: u32, stored: &[u8]) -> Result<()> {
        let header = FrameHeader {
            id,
            raw_len,
            stored_len: stored.len() as u32,
            checksum: Checksum::of(stored),
        };
        let slice = &mut self.slice;
        if slice.streams.last().is_none_or(Stream::is_full) {
            let stream = self.shared.pool.borrow_at(self.how.level)?;
            slice.streams.push(stream);
        }
        let stream = slice
            .streams
            .last_mut()
            .expect("invariant: one was just pushed");
        let location = Location {
            segment: stream.id(),
            offset: stream.frame(&header, stored)?,
            stored_len: header.stored_len,
            raw_len,
            checksum: header.checksum,
        };
        slice.moved.insert(id, location);
        slice.bytes += stored.len() as u64;
        Ok(())
    }

    /// Whether so many bytes leave what uploads may fill at its low water.
    fn has_room(&self, bytes: u64) -> Result<bool> {
        let space = self.shared.segments.space();
        let space = space.map_err(|e| Error::io("asking how much room the disk has", e))?;
        let reachable = self.shared.room.reachable_bytes(&space);
        Ok(self.shared.pool.bytes() + bytes <= reachable / 100 * LOW_WATER_PERCENT)
    }

    /// Notes that bytes were read; waits where that was too fast.
    fn read(&mut self, bytes: u64) {
        self.pace.read(bytes);
        loop {
            if self.told.elapsed() >= REPORT_EVERY {
                self.tell();
            }
            match self.pace.wait() {
                Some(wait) if !self.done.stopped => std::thread::sleep(wait.min(NAP)),
                _ => return,
            }
        }
    }

    fn tell(&mut self) {
        self.told = Instant::now();
        if (self.on)(&self.done).is_break() {
            self.done.stopped = true;
        }
    }

    /// Makes durable what was compressed, and leads the index to it.
    fn put_to_use(&mut self) -> Result<()> {
        let slice = std::mem::take(&mut self.slice);
        let (shared, mut streams) = (self.shared, slice.streams);
        for stream in &mut streams {
            stream.state(Kind::Part, true, &[])?;
            stream.sync()?;
            stream.committed();
        }
        shared.index_committed(Batch::default(), &streams)?;
        let moved: Vec<(FrameId, Location)> = slice.moved.into_iter().collect();
        for part in moved.chunks(ROWS_AT_ONCE) {
            let _gate = shared.undisturbed()?;
            let mut batch = Batch::default();
            for (id, new) in part {
                // One that was forgotten meanwhile is needed by nobody any more.
                if shared.index.get(Table::Frames, id.as_bytes())?.is_some() {
                    batch.put(Table::Frames, id.as_bytes().as_slice(), new.encode());
                }
            }
            shared.index.write(batch)?;
        }
        let mut replaced = Vec::new();
        for due in slice.nars {
            if let Some(name) = self.lay_out(&due.nar)? {
                self.done.nars_changed += 1;
                replaced.push((due, name));
            }
        }
        drop(streams); // from here on the collector may take them, too
        self.forget_in_time(&replaced)?;
        shared.index.checkpoint()
    }

    /// Makes the layout of a NAR anew; the name of the encoding that it had, if it was another one.
    fn lay_out(&self, nar: &NarHash) -> Result<Option<String>> {
        let shared = self.shared;
        let _gate = shared.undisturbed()?;
        let Some(before) = Layout::read(&*shared.index, nar)? else {
            return Ok(None);
        };
        let mut batch = Batch::default();
        match relayout(shared, nar, &mut batch) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!(%nar, %error, "not compressed again");
                return Ok(None);
            }
            laid_out => laid_out?,
        }
        // A collection that runs has not seen where it lies now.
        shared.uses.nar(*nar);
        shared.index.write(batch)?;
        let now = Layout::read(&*shared.index, nar)?;
        let changed = now.is_some_and(|now| now.encoding != before.encoding);
        Ok(changed.then_some(before.encoding.name))
    }

    /// Keeps former encodings no longer than clients can remember their URLs: whoever was told one
    /// used the path, and that is known once what was used is written down.
    fn forget_in_time(&self, replaced: &[(Due, String)]) -> Result<()> {
        let (shared, grace_s) = (self.shared, self.shared.url_grace_s);
        let index = &*shared.index;
        self.depot.write_uses()?;
        let since = counted_since(index)?;
        for (due, name) in replaced {
            let mut used = since;
            for key in &due.paths {
                used = last_use(index, key)?.max(used);
            }
            let soonest = (shared.clock)().saturating_add(DOWNLOADS_S.min(grace_s));
            let until = used.saturating_add(grace_s).max(soonest);
            let formers: Result<Vec<Former>> = former::all(index, due.nar.as_bytes()).collect();
            let mut batch = Batch::default();
            for former in formers? {
                if former.layout.encoding.name == *name && former.until > until {
                    former.keep_until(index, until, &mut batch)?;
                }
            }
            index.write(batch)?;
        }
        Ok(())
    }
}

/// Since when the index knows what was used.
fn counted_since(index: &dyn Index) -> Result<u64> {
    let since = index.get(Table::About, SINCE_KEY)?;
    Ok(since.map(|row| time_of(&row)).transpose()?.unwrap_or(0))
}

/// When a path was last put or asked for, as far as that is written down; 0 where it is gone.
fn last_use(index: &dyn Index, key: &[u8]) -> Result<u64> {
    let put = PathRow::get(index, key)?.map_or(0, |row| row.time);
    let asked = index.get(Table::Used, key)?;
    let asked = asked.map(|row| time_of(&row)).transpose()?;
    Ok(put.max(asked.unwrap_or(0)))
}
