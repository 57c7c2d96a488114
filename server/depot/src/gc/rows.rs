//! Which row of the index a state record belongs to, and whether that row points at it.

use std::collections::HashSet;

use bytes::Bytes;

use crate::Result;
use crate::depot::document_key;
use crate::index::{Batch, Index, Table};
use crate::layout::Layout;
use crate::pins::PinState;
use crate::record::Kind;
use crate::rows::{PathRow, PinRow, Place, RemovedRow, UploadRow, conflict_key, path_info};
use crate::segments::SegmentId;
use crate::state::{
    ConflictState, PathState, RemovedState, SignaturesState, UploadState, document_of, from_json,
    recipe_of,
};
use snowcache_nix::{NarHash, StorePath};

/// Tables whose rows point at state records; layouts aside.
pub const TABLES: [Table; 6] = [
    Table::Paths,
    Table::Uploads,
    Table::Documents,
    Table::Pins,
    Table::Removed,
    Table::Conflicts,
];

/// The row that a record belongs to.
pub enum Target {
    /// A layout's recipe.
    Recipe(NarHash),
    /// The signatures of a path.
    Signatures(Vec<u8>),
    /// The row with this key.
    Row(Table, Vec<u8>),
}

/// All places in a row.
pub fn places(table: Table, row: &Bytes) -> Result<Vec<Place>> {
    Ok(match table {
        Table::Paths => {
            let row = PathRow::decode(row)?;
            [Some(row.place), row.signatures]
                .into_iter()
                .flatten()
                .collect()
        }
        _ => vec![Place::of_row(row)?],
    })
}

/// The row that a record of this kind belongs to; None for one that no row points at.
pub fn target(kind: Kind, payload: &[u8], seq: u64) -> Result<Option<Target>> {
    Ok(Some(match kind {
        Kind::Recipe => Target::Recipe(recipe_of(payload)?.0),
        Kind::Upload => {
            let state: UploadState = from_json(payload, "an upload record")?;
            Target::Row(Table::Uploads, state.cache.key(state.name.as_bytes()))
        }
        Kind::Path => {
            let state: PathState = from_json(payload, "a path record")?;
            let hash = path_info(state.narinfo.as_bytes())?.store_path.hash();
            Target::Row(Table::Paths, state.cache.path_key(&hash))
        }
        Kind::Signatures => {
            let state: SignaturesState = from_json(payload, "signatures")?;
            Target::Signatures(state.cache.path_key(&state.store_hash))
        }
        Kind::Document => {
            let (head, _) = document_of(payload)?;
            let key = document_key(&head.cache, head.kind, &head.key);
            Target::Row(Table::Documents, key)
        }
        Kind::Conflict => {
            let state: ConflictState = from_json(payload, "a conflict record")?;
            let Ok(path) = state.store_path.parse::<StorePath>() else {
                return Ok(None);
            };
            let key = conflict_key(&state.cache.path_key(&path.hash()), seq);
            Target::Row(Table::Conflicts, key)
        }
        Kind::Removed => {
            let state: RemovedState = from_json(payload, "a removal")?;
            Target::Row(Table::Removed, state.cache.path_key(&state.store_hash))
        }
        Kind::Pin => {
            let state: PinState = from_json(payload, "a pin")?;
            let key = state.cache.key(state.pin.name.as_str().as_bytes());
            Target::Row(Table::Pins, key)
        }
        Kind::Segment | Kind::Part => return Ok(None),
    }))
}

/// Whether the row points at the record at `place`.
pub fn points_at(index: &dyn Index, target: &Target, place: &Place) -> Result<bool> {
    let found = match target {
        Target::Recipe(nar) => Layout::read(index, nar)?.map(|layout| layout.recipe),
        Target::Signatures(key) => PathRow::get(index, key)?.and_then(|row| row.signatures),
        Target::Row(table, key) => {
            let row = index.get(*table, key)?;
            row.map(|row| Place::of_row(&row)).transpose()?
        }
    };
    Ok(found.as_ref() == Some(place))
}

/// Whether a record need not be kept although a row points at it: a removal, once no other segment
/// is left that may hold what it took away.
pub fn is_spent(
    index: &dyn Index,
    target: &Target,
    own: SegmentId,
    existing: &HashSet<u32>,
) -> Result<bool> {
    let Target::Row(Table::Removed, key) = target else {
        return Ok(false);
    };
    let Some(row) = RemovedRow::get(index, key)? else {
        return Ok(true);
    };
    let mut elsewhere = row.corpses.iter().filter(|corpse| **corpse != own.0);
    Ok(!elsewhere.any(|corpse| existing.contains(corpse)))
}

/// Takes the row out of the index, when it points at `old`.
pub fn forget(index: &dyn Index, target: &Target, old: &Place, batch: &mut Batch) -> Result<()> {
    if let Target::Row(table, key) = target
        && points_at(index, target, old)?
    {
        batch.delete(*table, key.as_slice());
    }
    Ok(())
}

/// Points the row at `new`, when it points at `old`.
pub fn repoint(
    index: &dyn Index,
    target: &Target,
    old: &Place,
    new: &Place,
    batch: &mut Batch,
) -> Result<()> {
    if !points_at(index, target, old)? {
        return Ok(());
    }
    match target {
        Target::Recipe(nar) => {
            let key = nar.as_bytes().as_slice();
            if let Some(row) = index.get(Table::Layouts, key)? {
                batch.put(Table::Layouts, key, Layout::with_recipe(&row, *new)?);
            }
        }
        Target::Signatures(key) => {
            if let Some(mut row) = PathRow::get(index, key)? {
                row.signatures = Some(*new);
                batch.put(Table::Paths, key.as_slice(), row.encode());
            }
        }
        Target::Row(table, key) => {
            if let Some(row) = index.get(*table, key)? {
                repoint_row(*table, key, &row, *new, batch)?;
            }
        }
    }
    Ok(())
}

fn repoint_row(
    table: Table,
    key: &[u8],
    row: &Bytes,
    place: Place,
    batch: &mut Batch,
) -> Result<()> {
    let row = match table {
        Table::Paths => {
            let row = PathRow::decode(row)?;
            PathRow { place, ..row }.encode()
        }
        Table::Uploads => {
            let row = UploadRow::decode(row)?;
            UploadRow { place, ..row }.put(batch);
            return Ok(());
        }
        Table::Pins => {
            let row = PinRow::decode(row)?;
            PinRow { place, ..row }.encode()
        }
        Table::Removed => {
            let row = RemovedRow::decode(row)?;
            RemovedRow { place, ..row }.encode()
        }
        _ => place.to_row(),
    };
    batch.put(table, key, row);
    Ok(())
}
