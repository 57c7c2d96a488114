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

/// A path's row, read.
struct Found {
    info: PathInfo,
    key: Vec<u8>,
    path: Version,
    nar: Version,
}

/// No epoch: they begin with 0 and rise.
const NEVER: u64 = u64::MAX;

impl Depot {
    /// A visible path. Looking it up counts as using it.
    pub fn path(&self, cache: &CacheName, hash: &StoreHash) -> Result<Option<Entry>> {
        let entries = self.entries(cache, std::slice::from_ref(hash))?;
        Ok(entries.into_iter().next().flatten())
    }

    /// The same of many, in their order: one pass over the rows of paths, one over those of NARs.
    pub fn entries(&self, cache: &CacheName, hashes: &[StoreHash]) -> Result<Vec<Option<Entry>>> {
        let kept = self.keep_all(cache, hashes, |entry| entry)?;
        Ok(kept.into_iter().map(|kept| Some(kept?.made)).collect())
    }

    /// What is known of many paths, in their order, but for their encodings.
    pub fn infos(&self, cache: &CacheName, hashes: &[StoreHash]) -> Result<Vec<Option<PathInfo>>> {
        let found = self.found(cache, hashes)?;
        Ok(found.into_iter().map(|found| Some(found?.info)).collect())
    }

    /// A visible path, with what `make` makes of it to be kept for later.
    pub fn keep<T>(
        &self,
        cache: &CacheName,
        hash: &StoreHash,
        make: impl FnMut(Entry) -> T,
    ) -> Result<Option<Kept<T>>> {
        let kept = self.keep_all(cache, std::slice::from_ref(hash), make)?;
        Ok(kept.into_iter().next().flatten())
    }

    fn keep_all<T>(
        &self,
        cache: &CacheName,
        hashes: &[StoreHash],
        mut make: impl FnMut(Entry) -> T,
    ) -> Result<Vec<Option<Kept<T>>>> {
        let found = self.found(cache, hashes)?;
        let nars = found.iter().flatten().map(|found| &found.info.nar_hash);
        let nars: Vec<&[u8]> = nars.map(|nar| nar.as_bytes().as_slice()).collect();
        let index = &self.shared().index;
        let mut layouts = index.get_many(Table::Layouts, &nars)?.into_iter();
        let mut keep = |found: Found| {
            let info = found.info;
            let layout = layouts.next().flatten().ok_or_else(|| {
                Error::corrupt(format!("{} is published without its NAR", info.store_path))
            })?;
            let encoding = Layout::decode(&layout)?.encoding;
            Ok(Kept {
                made: make(Entry { info, encoding }),
                key: found.key.into(),
                path: found.path,
                nar: found.nar,
                noted: AtomicU64::new(NEVER),
            })
        };
        let kept = found
            .into_iter()
            .map(|found| found.map(&mut keep).transpose());
        kept.collect()
    }

    /// Visible paths whose NARs are whole. Versions are read before what they are versions of.
    fn found(&self, cache: &CacheName, hashes: &[StoreHash]) -> Result<Vec<Option<Found>>> {
        let Shared {
            watchers,
            quarantine,
            ..
        } = &**self.shared();
        let perhaps = hashes.iter().map(|hash| {
            let key = cache.path_key(hash);
            let path = watchers.versions.path(&key);
            (!watchers.presence.is_absent(&key)).then_some((key, path))
        });
        let perhaps: Vec<Option<(Vec<u8>, Version)>> = perhaps.collect();
        let keys: Vec<&[u8]> = perhaps.iter().flatten().map(|(key, _)| &key[..]).collect();
        let mut rows = self.used(&keys)?.into_iter();
        let found = perhaps.into_iter().map(|perhaps| {
            let Some((key, path)) = perhaps else {
                return Ok(None);
            };
            let Some(row) = rows.next().flatten() else {
                return Ok(None);
            };
            let info = PathRow::decode(&row)?.info()?;
            let nar = watchers.versions.nar(&info.nar_hash);
            let is_sick = quarantine.is_sick(&info.nar_hash);
            Ok((!is_sick).then_some(Found {
                info,
                key,
                path,
                nar,
            }))
        });
        found.collect()
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
        cache.with_path_key(hash, |key| presence.is_absent(key))
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
        if keys.is_empty() {
            return Ok(Vec::new());
        }
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
