//! Replay: bringing the index up to what the segments say.
//!
//! At start every segment that is longer than its replay mark is read from there on; without an
//! index all of them are. Frames go first, since a recipe may use frames of any segment; then the
//! records that carry state, in the order in which they were made. What lies behind a segment's
//! last commit was never acknowledged and is cut off, but for frames of an upload that its sender
//! may go on with: these are committed now ([`unfinished`]).
//!
//! Guarantees: what was acknowledged is in the index afterwards, and durable; a second replay
//! changes nothing; a damaged record costs what depends on it and nothing else, and is logged.

mod unfinished;

use std::collections::HashMap;

use snowcache_core::recipe::FrameId;
use snowcache_nix::{PathInfo, Signature, StorePath};

use crate::depot::document_key;
use crate::index::{Batch, Index, Rows, Table};
use crate::layout::{Layout, Location};
use crate::mark::Mark;
use crate::pins::PinState;
use crate::pool::{AS_SENT, Level, SEGMENT_BYTES};
use crate::read::read_state;
use crate::record::Kind;
use crate::relayout::{self, frame_id};
use crate::rows::{
    PathRow, PinRow, Place, RemovedRow, SCHEMA, SCHEMA_KEY, SINCE_KEY, UploadRow, conflict_key,
    path_info, time_row,
};
use crate::scan::{Scanned, scan};
use crate::segments::{SegmentId, Segments};
use crate::state::{
    ConflictState, PathState, RemovedState, SignaturesState, UploadState, document_of, from_json,
    recipe_of,
};
use crate::{Error, ErrorKind, Result, tenants};

/// Frames written to the index at once while replaying.
const FRAMES_A_BATCH: usize = 10_000;

/// What a replay found.
pub struct Replayed {
    /// Segments that may grow further, and their lengths.
    pub unsealed: Vec<(SegmentId, u64)>,
    /// The first free segment number.
    pub next_segment: u32,
    /// The first free sequence number.
    pub next_seq: u64,
    /// Bytes in all segments.
    pub bytes: u64,
    /// At which level segments were compressed anew, where they were.
    pub levels: HashMap<SegmentId, Level>,
}

impl Default for Replayed {
    fn default() -> Replayed {
        Replayed {
            unsealed: Vec::new(),
            next_segment: 1,
            next_seq: 1,
            bytes: 0,
            levels: HashMap::new(),
        }
    }
}

impl Replayed {
    /// A segment that is there, with its length and its level.
    fn keep(&mut self, id: SegmentId, len: u64, level: Level) {
        self.bytes += len;
        if level > 0 {
            self.levels.insert(id, level);
        }
        if len < SEGMENT_BYTES {
            self.unsealed.push((id, len));
        }
    }
}

/// A record that counts for nothing, because what it needs is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The segment.
    pub segment: SegmentId,
    /// Where in it.
    pub offset: u64,
    /// What was lost.
    pub sentence: String,
}

/// Brings `index` up to `segments`; `now` is what it counts uses from when it is new.
pub fn replay(segments: &dyn Segments, index: &dyn Index, now: u64) -> Result<Replayed> {
    replay_telling(segments, index, now, &mut |_| {})
}

/// The same; `on` is told of everything that is lost.
pub fn replay_telling(
    segments: &dyn Segments,
    index: &dyn Index,
    now: u64,
    on: &mut dyn FnMut(Lost),
) -> Result<Replayed> {
    begin(index, now)?;
    let listed = segments
        .list()
        .map_err(|e| Error::io("listing segments", e))?;
    let mut found = Replayed::default();
    forget_removed(index, &listed, &mut found)?;
    let mut states = Vec::new();
    let (mut tails, mut behind) = (Vec::new(), Vec::new());
    for (id, len) in listed {
        found.next_segment = found.next_segment.max(id.0.saturating_add(1));
        let mark = Mark::read(index, id)?;
        found.next_seq = found.next_seq.max(mark.next_seq);
        if mark.len == len && len > 0 {
            found.keep(id, len, mark.level);
            continue;
        }
        let (mut scanned, level) = read_tail(segments, index, id, mark, len)?;
        found.next_seq = found.next_seq.max(scanned.next_seq());
        let left = scanned.left.take();
        states.extend(scanned.states.into_iter().map(|state| (id, state)));
        tails.push((id, scanned.end, len, level, left));
    }
    // Only when all were read, so that what a newer version wrote stays as it was.
    for (id, mut end, len, level, left) in tails {
        let kept = left.and_then(|left| unfinished::keep(segments, id, left, now, &mut found));
        match kept {
            Some(kept) => {
                write_frames(index, &kept.frames, level)?;
                states.extend(kept.states.map(|state| (id, state)));
                end = kept.end;
            }
            None if !settle(segments, id, end, len)? => continue,
            None => {}
        }
        found.keep(id, end, level);
        behind.push((id, end, level));
    }
    states.sort_unstable_by_key(|(id, state)| (turn(state.kind), state.seq, *id, state.offset));
    for (segment, state) in states {
        apply(segments, index, (segment, state.offset), on)?;
    }
    let mut marks = Batch::default();
    for (id, len, level) in behind {
        Mark {
            len,
            next_seq: found.next_seq,
            level,
        }
        .put(&mut marks, id);
    }
    index.write(marks)?;
    // From here on numbers of removed segments are given again: their marks must not come back. A
    // full disk must not keep the depot from being read.
    if let Err(error) = index.checkpoint() {
        tracing::warn!(%error, "the index could not be made durable after the replay");
    }
    Ok(found)
}

/// Removals come first: they say which of the older records count for nothing. Then recipes: one
/// that was stored anew may be younger than the paths that need it.
fn turn(kind: Kind) -> u8 {
    match kind {
        Kind::Removed => 0,
        Kind::Recipe => 1,
        _ => 2,
    }
}

/// A new index says which rows it has, and since when it counts uses.
fn begin(index: &dyn Index, now: u64) -> Result<()> {
    if index.get(Table::About, SCHEMA_KEY)?.is_some() {
        return Ok(());
    }
    let mut batch = Batch::default();
    batch.put(Table::About, SCHEMA_KEY, SCHEMA);
    batch.put(Table::About, SINCE_KEY, time_row(now));
    index.write(batch)
}

/// Drops the marks of segments that are no more; their numbers are not given again.
fn forget_removed(
    index: &dyn Index,
    listed: &[(SegmentId, u64)],
    found: &mut Replayed,
) -> Result<()> {
    let mut batch = Batch::default();
    for row in Rows::new(index, Table::Marks, &[]) {
        let (key, _) = row?;
        let number = key.as_ref().try_into().map(u32::from_be_bytes);
        let id = SegmentId(number.map_err(|_| Error::corrupt("a replay mark does not read"))?);
        let mark = Mark::read(index, id)?;
        found.next_seq = found.next_seq.max(mark.next_seq);
        found.next_segment = found.next_segment.max(id.0.saturating_add(1));
        if listed.binary_search_by_key(&id, |(id, _)| *id).is_err() {
            batch.delete(Table::Marks, key);
        }
    }
    index.write(batch)
}

/// Reads a segment behind its mark, and says its level; its frames go to the index at once.
fn read_tail(
    segments: &dyn Segments,
    index: &dyn Index,
    id: SegmentId,
    mark: Mark,
    len: u64,
) -> Result<(Scanned, Level)> {
    let from = mark.len;
    if from > len {
        return Err(Error::corrupt(format!(
            "segment {id} has {len} bytes, but {from} were acknowledged: the file was cut; \
             restore it from a backup, or remove the index folder to go on with what is left"
        )));
    }
    let mut scanned = scan(segments, id, from, len)?;
    let level = scanned.level.max(mark.level);
    let (frames, states) = (scanned.frames.len(), scanned.states.len());
    let (damaged, cut) = (scanned.damaged, len - scanned.end);
    tracing::info!(segment = %id, from, frames, states, damaged, cut, "replayed");
    write_frames(index, &std::mem::take(&mut scanned.frames), level)?;
    Ok((scanned, level))
}

/// Those that lie as they were sent take no other's place.
fn write_frames(index: &dyn Index, frames: &[(FrameId, Location)], level: Level) -> Result<()> {
    for frames in frames.chunks(FRAMES_A_BATCH) {
        let mut batch = Batch::default();
        for (frame, at) in frames {
            let key = frame.as_bytes().as_slice();
            if level != AS_SENT || index.get(Table::Frames, key)?.is_none() {
                batch.put(Table::Frames, key, at.encode());
            }
        }
        index.write(batch)?;
    }
    Ok(())
}

/// Cuts a segment back to its last commit and makes that durable; one without any is removed.
/// Whether it is still there.
fn settle(segments: &dyn Segments, id: SegmentId, end: u64, len: u64) -> Result<bool> {
    let failed = |e| Error::io(format!("settling segment {id}"), e);
    if end == 0 {
        segments.remove(id).map_err(failed)?;
        return Ok(false);
    }
    if end < len {
        tracing::warn!(segment = %id, end, len, "dropping what was never committed");
    }
    let mut writer = segments.append(id, end).map_err(failed)?;
    writer.sync().map_err(failed)?;
    Ok(true)
}

/// Applies one state record. What depends on lost bytes is logged and left out.
fn apply(
    segments: &dyn Segments,
    index: &dyn Index,
    (segment, offset): (SegmentId, u64),
    on: &mut dyn FnMut(Lost),
) -> Result<()> {
    let mut batch = Batch::default();
    let applied = prepare(segments, index, segment, offset, &mut batch);
    match applied {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            tracing::error!(%segment, offset, %error, "a record is lost");
            on(Lost {
                segment,
                offset,
                sentence: error.to_string(),
            });
            Ok(())
        }
        Err(error) => Err(error),
        Ok(()) => index.write(batch),
    }
}

fn prepare(
    segments: &dyn Segments,
    index: &dyn Index,
    segment: SegmentId,
    offset: u64,
    batch: &mut Batch,
) -> Result<()> {
    let (header, payload) = read_state(segments, segment, offset)?;
    let place = Place::of(segment, offset, &header);
    match header.kind {
        Kind::Recipe => apply_recipe(index, &payload, place, batch),
        Kind::Upload => apply_upload(
            segments,
            index,
            from_json(&payload, "an upload record")?,
            place,
            batch,
        ),
        Kind::Path => apply_path(index, from_json(&payload, "a path record")?, place, batch),
        Kind::Signatures => {
            apply_signatures(index, from_json(&payload, "signatures")?, place, batch)
        }
        Kind::Document => apply_document(index, &payload, place, batch),
        Kind::Removed => apply_removed(index, from_json(&payload, "a removal")?, place, batch),
        Kind::Pin => apply_pin(index, from_json(&payload, "a pin")?, place, batch),
        Kind::Conflict => apply_conflict(&payload, place, batch),
        Kind::Segment | Kind::Part => Ok(()),
    }
}

/// A recipe whose frames were collected is garbage; where a path needs it, that is said there.
fn apply_recipe(index: &dyn Index, payload: &[u8], at: Place, batch: &mut Batch) -> Result<()> {
    let (nar, _, recipe) = recipe_of(payload)?;
    match relayout::resolve(index, &recipe)? {
        Err(lacking) => {
            let frames = lacking.len();
            tracing::debug!(%nar, frames, "a recipe without its frames");
            Ok(())
        }
        Ok(builder) => {
            if let Some(old) = Layout::read(index, &nar)? {
                old.remove(batch, &nar);
            }
            builder.finish(batch, &nar, at);
            Ok(())
        }
    }
}

fn apply_upload(
    segments: &dyn Segments,
    index: &dyn Index,
    state: UploadState,
    place: Place,
    batch: &mut Batch,
) -> Result<()> {
    let row = UploadRow { place, state };
    let have = index.get(Table::Uploads, &row.key())?;
    let have = have.map(|row| Place::of_row(&row)).transpose()?;
    if have.is_some_and(|have| have.seq > place.seq) {
        return Ok(());
    }
    let state = &row.state;
    let Some(layout) = Layout::read(index, &state.nar_hash)? else {
        let (name, expires) = (&state.name, state.expires);
        tracing::debug!(name, expires, "an upload whose NAR was collected");
        return Ok(());
    };
    if !state.cache.is_default() {
        let Place {
            segment, offset, ..
        } = layout.recipe;
        let (_, payload) = read_state(segments, SegmentId(segment), offset)?;
        let recipe = recipe_of(&payload)?.2;
        let frames: Vec<FrameId> = recipe.ops().iter().filter_map(frame_id).collect();
        tenants::sent_before(&state.cache, &frames, batch);
    }
    row.put(batch);
    Ok(())
}

fn apply_path(index: &dyn Index, path: PathState, place: Place, batch: &mut Batch) -> Result<()> {
    let PathInfo {
        store_path,
        nar_hash,
        ..
    } = path_info(path.narinfo.as_bytes())?;
    let key = path.cache.path_key(&store_path.hash());
    let removed = RemovedRow::get(index, &key)?;
    if let Some(mut removed) = removed.filter(|removed| removed.place.seq > place.seq) {
        if !removed.corpses.contains(&place.segment) {
            removed.corpses.push(place.segment);
            batch.put(Table::Removed, key, removed.encode());
        }
        return Ok(());
    }
    match PathRow::get(index, &key)? {
        Some(mut row) if row.place.seq == place.seq => {
            row.place = place;
            batch.put(Table::Paths, key, row.encode());
        }
        Some(_) => {}
        None => {
            if Layout::read(index, &nar_hash)?.is_none() {
                return Err(Error::corrupt(format!(
                    "{store_path} lost its NAR and is not served"
                )));
            }
            let row = PathRow {
                place,
                time: path.time,
                signatures: None,
                narinfo: path.narinfo.into(),
            };
            batch.put(Table::Visible, path.cache.nar_key(&nar_hash), []);
            batch.put(Table::Paths, key, row.encode());
        }
    }
    Ok(())
}

fn apply_signatures(
    index: &dyn Index,
    added: SignaturesState,
    place: Place,
    batch: &mut Batch,
) -> Result<()> {
    let key = added.cache.path_key(&added.store_hash);
    let Some(mut row) = PathRow::get(index, &key)? else {
        tracing::debug!(path = %added.store_hash, "signatures for a path that is not here");
        return Ok(());
    };
    let newer = row.signatures.is_none_or(|have| have.seq <= place.seq);
    if place.seq < row.place.seq || !newer {
        return Ok(());
    }
    let mut info = row.info()?;
    let signatures = added
        .signatures
        .iter()
        .map(|text| text.parse::<Signature>());
    info.signatures = signatures
        .collect::<Result<_, _>>()
        .map_err(|e| Error::caused(ErrorKind::Corrupt, "a signature does not read", e))?;
    row.narinfo = info.to_record().into();
    row.signatures = Some(place);
    batch.put(Table::Paths, key, row.encode());
    Ok(())
}

fn apply_document(index: &dyn Index, payload: &[u8], at: Place, batch: &mut Batch) -> Result<()> {
    let (head, _) = document_of(payload)?;
    let key = document_key(&head.cache, head.kind, &head.key);
    let have = index.get(Table::Documents, &key)?;
    let have = have.map(|row| Place::of_row(&row)).transpose()?;
    let counts = match have {
        None => true,
        Some(have) if head.kind.is_replaced() => at.seq >= have.seq,
        Some(have) => at.seq <= have.seq,
    };
    if counts {
        batch.put(Table::Documents, key, at.to_row());
    }
    Ok(())
}

fn apply_removed(
    index: &dyn Index,
    removed: RemovedState,
    place: Place,
    batch: &mut Batch,
) -> Result<()> {
    let key = removed.cache.path_key(&removed.store_hash);
    let have = RemovedRow::get(index, &key)?;
    if have.as_ref().is_some_and(|have| have.place.seq > place.seq) {
        return Ok(());
    }
    let mut corpses = have.map(|have| have.corpses).unwrap_or_default();
    let row = PathRow::get(index, &key)?.filter(|row| row.place.seq < place.seq);
    if let Some(row) = row {
        corpses.push(row.place.segment);
        batch.delete(Table::Paths, key.as_slice());
    }
    batch.put(Table::Removed, key, RemovedRow { place, corpses }.encode());
    Ok(())
}

fn apply_pin(index: &dyn Index, state: PinState, place: Place, batch: &mut Batch) -> Result<()> {
    let key = state.cache.key(state.pin.name.to_string().as_bytes());
    let have = index.get(Table::Pins, &key)?;
    let have = have.map(|row| Place::of_row(&row)).transpose()?;
    if have.is_none_or(|have| have.seq <= place.seq) {
        let pin = state.pin;
        batch.put(Table::Pins, key, PinRow { place, pin }.encode());
    }
    Ok(())
}

fn apply_conflict(payload: &[u8], place: Place, batch: &mut Batch) -> Result<()> {
    let conflict: ConflictState = from_json(payload, "a conflict record")?;
    let path: StorePath = conflict
        .store_path
        .parse()
        .map_err(|e| Error::caused(ErrorKind::Corrupt, "a conflict record does not read", e))?;
    let key = conflict_key(&conflict.cache.path_key(&path.hash()), place.seq);
    batch.put(Table::Conflicts, key, place.to_row());
    Ok(())
}
