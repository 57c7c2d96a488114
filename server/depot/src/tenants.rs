//! Whose frames are whose: frames lie in the depot once, but a cache is told of those only that
//! were sent to it, and may use no others by their name.
//!
//! ```text
//!   a named cache knows   Sent: cache, 0, FrameId     what was sent to it
//!   the cache at / knows  all but Hidden: FrameId     what was sent to named caches, and not to it
//! ```
//! So a depot without named caches has no rows of this. Both are written with the upload that makes
//! them true, in one batch.
//!
//! Guarantees: a frame that a cache knows was sent to it, whole. A frame that was sent to it may be
//! unknown to it, when uploads to two caches meet or the index was made anew: it is sent once more.
//! Never: a difference between a frame of others and one that is not here.

use snowcache_core::recipe::FrameId;

use crate::Result;
use crate::index::{Batch, Index, Table};
use crate::keys::CacheName;

/// Which of these frames are here and known to the cache.
pub(crate) fn known(index: &dyn Index, cache: &CacheName, ids: &[FrameId]) -> Result<Vec<bool>> {
    let mut known = present(index, Table::Frames, &keys(None, ids))?;
    match cache.is_default() {
        false => {
            let sent = present(index, Table::Sent, &keys(Some(cache), ids))?;
            known
                .iter_mut()
                .zip(sent)
                .for_each(|(it, sent)| *it &= sent);
        }
        true if any_hidden(index)? => {
            let hidden = present(index, Table::Hidden, &keys(None, ids))?;
            known
                .iter_mut()
                .zip(hidden)
                .for_each(|(it, hidden)| *it &= !hidden);
        }
        true => {}
    }
    Ok(known)
}

/// Notes that these frames, all of an upload, were sent to the cache.
pub(crate) fn sent(
    index: &dyn Index,
    cache: &CacheName,
    ids: &[FrameId],
    batch: &mut Batch,
) -> Result<()> {
    if cache.is_default() {
        if any_hidden(index)? {
            let hidden = present(index, Table::Hidden, &keys(None, ids))?;
            let hidden = ids.iter().zip(hidden).filter(|(_, hidden)| *hidden);
            hidden.for_each(|(id, _)| batch.delete(Table::Hidden, id.as_bytes().as_slice()));
        }
        return Ok(());
    }
    let here = present(index, Table::Frames, &keys(None, ids))?;
    for (id, here) in ids.iter().zip(here) {
        batch.put(Table::Sent, cache.key(id.as_bytes()), []);
        if !here {
            batch.put(Table::Hidden, id.as_bytes().as_slice(), []);
        }
    }
    Ok(())
}

/// The same, where the index is made anew: whether the cache at `/` has them too is not known then.
pub(crate) fn sent_before(cache: &CacheName, ids: &[FrameId], batch: &mut Batch) {
    if !cache.is_default() {
        for id in ids {
            batch.put(Table::Sent, cache.key(id.as_bytes()), []);
            batch.put(Table::Hidden, id.as_bytes().as_slice(), []);
        }
    }
}

/// The frame in a key of either table.
pub(crate) fn frame_of(key: &[u8]) -> &[u8] {
    &key[key.len().saturating_sub(FRAME_ID_BYTES)..]
}

const FRAME_ID_BYTES: usize = 32;

fn any_hidden(index: &dyn Index) -> Result<bool> {
    Ok(!index.scan(Table::Hidden, &[], None, 1)?.is_empty())
}

fn keys(cache: Option<&CacheName>, ids: &[FrameId]) -> Vec<Vec<u8>> {
    let key = |id: &FrameId| match cache {
        Some(cache) => cache.key(id.as_bytes()),
        None => id.as_bytes().to_vec(),
    };
    ids.iter().map(key).collect()
}

fn present(index: &dyn Index, table: Table, keys: &[Vec<u8>]) -> Result<Vec<bool>> {
    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    let found = index.get_many(table, &keys)?;
    Ok(found.iter().map(Option::is_some).collect())
}
