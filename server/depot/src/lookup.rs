//! Looking paths up: in the index, or in what was kept of an earlier look-up.
//!
//! ```text
//!   absent from the filter            --> no
//!   kept, and nothing of it changed   --> what was made of it, no disk
//!   otherwise: path's row, its NAR's layout --> an entry
//! ```
//! Guarantees: every way gives the answer of the last; whoever hears that a path is here has used
//! it. What was kept comes out only if it would be made again just so.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use snowcache_nix::{PathInfo, StoreHash};

use crate::depot::{Depot, Shared};
use crate::index::Table;
use crate::keys::CacheName;
use crate::layout::{Encoding, Layout};
use crate::rows::PathRow;
use crate::versions::Version;
use crate::{Error, Result};

/// A visible path.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What is known of it.
    pub info: PathInfo,
    /// The encoding of its NAR that is served.
    pub encoding: Encoding,
}

/// What was made of an [`Entry`], to be kept in memory. Only [`Depot::still`] gives it out, and
/// only as long as the entry is the same.
#[derive(Debug)]
pub struct Kept<T> {
    made: T,
    key: Box<[u8]>,
    path: Version,
    nar: Version,
    /// The epoch of uses in which its use is noted.
    noted: AtomicU64,
}

/// No epoch: they begin with 0 and rise.
const NEVER: u64 = u64::MAX;

impl Depot {
    /// A visible path. Looking it up counts as using it.
    pub fn path(&self, cache: &CacheName, hash: &StoreHash) -> Result<Option<Entry>> {
        let kept = self.keep(cache, hash, |entry| entry)?;
        Ok(kept.map(|kept| kept.made))
    }

    /// The same, with what `make` makes of it to be kept for later.
    pub fn keep<T>(
        &self,
        cache: &CacheName,
        hash: &StoreHash,
        make: impl FnOnce(Entry) -> T,
    ) -> Result<Option<Kept<T>>> {
        let shared = self.shared();
        let key = cache.path_key(hash);
        if shared.watchers.presence.is_absent(&key) {
            return Ok(None);
        }
        // Versions are read before what they are versions of.
        let versions = &shared.watchers.versions;
        let path = versions.path(&key);
        let Some(row) = self.used(&[&key])?.pop().flatten() else {
            return Ok(None);
        };
        let info = PathRow::decode(&row)?.info()?;
        let nar = versions.nar(&info.nar_hash);
        if shared.quarantine.is_sick(&info.nar_hash) {
            return Ok(None);
        }
        let layout = Layout::read(&*shared.index, &info.nar_hash)?.ok_or_else(|| {
            Error::corrupt(format!("{} is published without its NAR", info.store_path))
        })?;
        let encoding = layout.encoding;
        Ok(Some(Kept {
            made: make(Entry { info, encoding }),
            key: key.into(),
            path,
            nar,
            noted: AtomicU64::new(NEVER),
        }))
    }

    /// What was kept, if a look-up would come to the same now; it counts as one. Asks no disk and
    /// waits for nobody. None: look it up.
    pub fn still<'a, T>(&self, kept: &'a Kept<T>) -> Option<&'a T> {
        let Shared { uses, watchers, .. } = &**self.shared();
        let before = uses.before();
        let noted = uses.epoch() == kept.noted.load(Ordering::Acquire);
        let versions = &watchers.versions;
        if !versions.holds(kept.path) || !versions.holds(kept.nar) {
            return None;
        }
        if !noted {
            let epoch = uses.found_at_once(before, &kept.key)?;
            kept.noted.store(epoch, Ordering::Release);
        }
        Some(&kept.made)
    }

    /// Whether the path is certainly not here. Asks no disk; where it says no, look it up.
    pub fn is_absent(&self, cache: &CacheName, hash: &StoreHash) -> bool {
        let presence = &self.shared().watchers.presence;
        presence.is_absent(&cache.path_key(hash))
    }

    /// Which of these paths are visible. Those that are count as used: who hears that they are here
    /// does not push them again.
    pub fn has(&self, cache: &CacheName, hashes: &[StoreHash]) -> Result<Vec<bool>> {
        let presence = &self.shared().watchers.presence;
        let keys: Vec<_> = hashes.iter().map(|hash| cache.path_key(hash)).collect();
        let perhaps = keys.iter().map(Vec::as_slice);
        let perhaps: Vec<&[u8]> = perhaps.filter(|key| !presence.is_absent(key)).collect();
        let mut here = std::collections::HashSet::new();
        for (key, row) in perhaps.iter().zip(self.used(&perhaps)?) {
            if let Some(row) = row
                && !self.shared().quarantine.hides(&row)?
            {
                here.insert(*key);
            }
        }
        Ok(keys
            .iter()
            .map(|key| here.contains(key.as_slice()))
            .collect())
    }

    /// The rows of visible paths, which count as used from now on.
    fn used(&self, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>> {
        let Shared { uses, index, .. } = &**self.shared();
        loop {
            let before = uses.before();
            let mut rows = index.get_many(Table::Paths, keys)?;
            let here = keys.iter().zip(&rows).filter(|(_, row)| row.is_some());
            let here: Vec<&[u8]> = here.map(|(key, _)| *key).collect();
            if here.is_empty() {
                return Ok(rows);
            }
            let Some(stays) = uses.found(before, &here) else {
                continue;
            };
            let found = rows.iter_mut().filter(|row| row.is_some());
            for (row, _) in found.zip(stays).filter(|(_, stays)| !stays) {
                *row = None;
            }
            if uses.is_full() {
                self.write_uses()?;
            }
            return Ok(rows);
        }
    }
}
