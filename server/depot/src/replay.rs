//! Replay: bringing the index up to what the segments say.
//!
//! At start every segment that is longer than its replay mark is read from there on; without an
//! index all of them are. Frames go first, since a recipe may use frames of any segment; then the
//! records that carry state, in the order in which they were made. What lies behind a segment's
//! last commit was never acknowledged and is cut off.
//!
//! Guarantees: what was acknowledged is in the index afterwards, and durable; a second replay
//! changes nothing; a damaged record costs what depends on it and nothing else, and is logged.

use std::collections::BTreeSet;

use snowcache_core::recipe::{FrameId, Op};
use snowcache_nix::{PathInfo, Signature};

use crate::depot::{document_key, path_info};
use crate::index::{Batch, Index, Table};
use crate::ingest::{header_of, index_upload};
use crate::layout::{Builder, Layout, Location};
use crate::pool::SEGMENT_BYTES;
use crate::read::read_state;
use crate::record::Kind;
use crate::scan::{Scanned, scan};
use crate::segments::{SegmentId, Segments};
use crate::state::{
    Document, PathState, SignaturesState, UploadState, document_of, from_json, recipe_of,
};
use crate::varint::{Reader, put};
use crate::{Error, ErrorKind, Result};

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
}

/// How far a segment was replayed: its length then, and the first sequence number that was free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// Bytes of the segment that the index knows.
    pub len: u64,
    /// Greater than every sequence number in them.
    pub next_seq: u64,
}

impl Mark {
    /// The mark of a segment in the index.
    fn read(index: &dyn Index, segment: SegmentId) -> Result<Mark> {
        let Some(value) = index.get(Table::Marks, &segment.0.to_be_bytes())? else {
            return Ok(Mark::default());
        };
        let mut reader = Reader::new(&value, "a replay mark");
        Ok(Mark {
            len: reader.u64()?,
            next_seq: reader.u64()?,
        })
    }

    /// Sets the mark of a segment.
    pub fn put(self, batch: &mut Batch, segment: SegmentId) {
        let mut value = Vec::new();
        put(&mut value, self.len);
        put(&mut value, self.next_seq);
        batch.put(Table::Marks, segment.0.to_be_bytes(), value);
    }
}

/// Brings `index` up to `segments`.
pub fn replay(segments: &dyn Segments, index: &dyn Index) -> Result<Replayed> {
    let listed = segments
        .list()
        .map_err(|e| Error::io("listing segments", e))?;
    let mut found = Replayed {
        unsealed: Vec::new(),
        next_segment: 1,
        next_seq: 1,
    };
    let mut states = BTreeSet::new();
    let mut behind = Vec::new();
    for (id, len) in listed {
        found.next_segment = found.next_segment.max(id.0.saturating_add(1));
        let mark = Mark::read(index, id)?;
        found.next_seq = found.next_seq.max(mark.next_seq);
        let mut end = len;
        if mark.len != len || len == 0 {
            let scanned = read_tail(segments, index, id, mark.len, len)?;
            end = scanned.end;
            states.extend(
                scanned
                    .states
                    .into_iter()
                    .map(|(seq, offset)| (seq, id, offset)),
            );
            if !settle(segments, id, end, len)? {
                continue;
            }
            behind.push((id, end));
        }
        if end < SEGMENT_BYTES {
            found.unsealed.push((id, end));
        }
    }
    for (seq, segment, offset) in states {
        found.next_seq = found.next_seq.max(seq + 1);
        apply(segments, index, segment, offset)?;
    }
    let mut marks = Batch::default();
    for (id, len) in behind {
        Mark {
            len,
            next_seq: found.next_seq,
        }
        .put(&mut marks, id);
    }
    index.write(marks)?;
    Ok(found)
}

/// Reads a segment behind its mark; its frames go to the index at once.
fn read_tail(
    segments: &dyn Segments,
    index: &dyn Index,
    id: SegmentId,
    mark: u64,
    len: u64,
) -> Result<Scanned> {
    if mark > len {
        return Err(Error::corrupt(format!(
            "segment {id} has {len} bytes, but {mark} were acknowledged: the file was cut; \
             restore it from a backup, or remove the index folder to go on with what is left"
        )));
    }
    let mut scanned = scan(segments, id, mark, len)?;
    let (frames, states) = (scanned.frames.len(), scanned.states.len());
    let (damaged, cut) = (scanned.damaged, len - scanned.end);
    tracing::info!(segment = %id, from = mark, frames, states, damaged, cut, "replayed");
    for frames in std::mem::take(&mut scanned.frames).chunks(FRAMES_A_BATCH) {
        let mut batch = Batch::default();
        for (frame, at) in frames {
            batch.put(Table::Frames, frame.as_bytes().as_slice(), at.encode());
        }
        index.write(batch)?;
    }
    Ok(scanned)
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
    segment: SegmentId,
    offset: u64,
) -> Result<()> {
    let mut batch = Batch::default();
    let applied = prepare(segments, index, segment, offset, &mut batch);
    match applied {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            tracing::error!(%segment, offset, %error, "a record is lost");
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
    match header.kind {
        Kind::Recipe => apply_recipe(index, &payload, (segment, offset), batch),
        Kind::Upload => {
            let upload: UploadState = from_json(&payload, "an upload record")?;
            index_upload(&upload, batch);
            Ok(())
        }
        Kind::Path => apply_path(index, from_json(&payload, "a path record")?, batch),
        Kind::Signatures => apply_signatures(index, from_json(&payload, "signatures")?, batch),
        Kind::Document => {
            let (head, _) = document_of(&payload)?;
            let key = document_key(&head.cache, head.kind, &head.key);
            let first = head.kind == Document::Log || index.get(Table::Documents, &key)?.is_none();
            if first {
                let mut location = Vec::new();
                put(&mut location, segment.0.into());
                put(&mut location, offset);
                batch.put(Table::Documents, key, location);
            }
            Ok(())
        }
        Kind::Segment | Kind::Conflict | Kind::Part => Ok(()),
    }
}

fn apply_recipe(
    index: &dyn Index,
    payload: &[u8],
    at: (SegmentId, u64),
    batch: &mut Batch,
) -> Result<()> {
    let (nar, _, recipe) = recipe_of(payload)?;
    let mut builder = Builder::default();
    for ops in recipe.ops().chunks(1024) {
        let ids: Vec<_> = ops.iter().filter_map(frame_id).collect();
        let keys: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes().as_slice()).collect();
        let mut found = index.get_many(Table::Frames, &keys)?.into_iter();
        for op in ops {
            match (op, frame_id(op)) {
                (Op::Literal(bytes), _) => builder.literal(bytes),
                (_, Some(id)) => {
                    let value = found.next().flatten();
                    let value = value.ok_or_else(|| {
                        Error::corrupt(format!("NAR {nar} lacks frame {id} and is not served"))
                    })?;
                    let location = Location::decode(&value)?;
                    builder.frame(&header_of(id, &location), &location);
                }
                (_, None) => unreachable!("only literals have no frame"),
            }
        }
    }
    builder.finish(batch, &nar, at);
    Ok(())
}

fn frame_id(op: &Op) -> Option<FrameId> {
    match op {
        Op::Frame { id, .. } | Op::Dense { id, .. } => Some(*id),
        Op::Literal(_) => None,
    }
}

fn apply_path(index: &dyn Index, path: PathState, batch: &mut Batch) -> Result<()> {
    let PathInfo {
        store_path,
        nar_hash,
        ..
    } = path_info(path.narinfo.as_bytes())?;
    if Layout::read(index, &nar_hash)?.is_none() {
        return Err(Error::corrupt(format!(
            "{store_path} lost its NAR and is not served"
        )));
    }
    let key = path.cache.path_key(&store_path.hash());
    if index.get(Table::Paths, &key)?.is_none() {
        batch.put(Table::Visible, path.cache.nar_key(&nar_hash), []);
        batch.put(Table::Paths, key, path.narinfo);
    }
    Ok(())
}

fn apply_signatures(index: &dyn Index, added: SignaturesState, batch: &mut Batch) -> Result<()> {
    let key = added.cache.path_key(&added.store_hash);
    let text = index.get(Table::Paths, &key)?.ok_or_else(|| {
        Error::corrupt(format!(
            "signatures for {}, which is not here",
            added.store_hash
        ))
    })?;
    let mut info = path_info(&text)?;
    let signatures = added
        .signatures
        .iter()
        .map(|text| text.parse::<Signature>());
    info.signatures = signatures
        .collect::<Result<_, _>>()
        .map_err(|e| Error::caused(ErrorKind::Corrupt, "a signature does not read", e))?;
    batch.put(Table::Paths, key, info.to_record());
    Ok(())
}
