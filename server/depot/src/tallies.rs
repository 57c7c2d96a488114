//! What named caches hold: their visible paths and the bytes of these paths' NARs, unpacked, and
//! how many of these a cache may hold.
//!
//! ```text
//!   counting   rows of paths, by rising key  |#########>           |
//!                                               counted up to here: what is published or removed
//!                                               before it changes the sum
//! ```
//! NARs are counted as they are, and not as they are stored: what a cache holds by that measure is
//! the same whatever other caches hold.
//!
//! Guarantees: once a cache is counted, its figures are exact with every commit, and no commit
//! takes it over its quota. Never: a walk over the paths of a cache that nobody watches; a
//! commit that waits for more than [`ROWS_AT_ONCE`] rows of a count.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};

use serde::Serialize;

use crate::depot::{Depot, Shared};
use crate::index::Table;
use crate::keys::CacheName;
use crate::rows::PathRow;
use crate::{Error, ErrorKind, Result};

/// Rows counted while commits wait: a millisecond or two.
const ROWS_AT_ONCE: usize = 500;

/// What a cache holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Holding {
    /// Visible paths.
    pub paths: u64,
    /// Bytes of their NARs, unpacked; one that two paths have counts for both.
    pub nar_bytes: u64,
}

impl Holding {
    /// What one path holds.
    pub fn of(nar_bytes: u64) -> Holding {
        let paths = 1;
        Holding { paths, nar_bytes }
    }

    fn add(&mut self, other: Holding) {
        self.paths += other.paths;
        self.nar_bytes = self.nar_bytes.saturating_add(other.nar_bytes);
    }

    fn take(&mut self, other: Holding) {
        self.paths = self.paths.saturating_sub(other.paths);
        self.nar_bytes = self.nar_bytes.saturating_sub(other.nar_bytes);
    }
}

/// How far a cache is counted.
enum Counted {
    /// Up to this key.
    UpTo(Vec<u8>),
    /// All of it.
    All,
}

struct Tally {
    quota_bytes: Option<u64>,
    holds: Holding,
    counted: Counted,
}

/// A path that a commit makes visible or invisible.
pub struct Step {
    /// The cache.
    pub cache: CacheName,
    /// The key of the path's row.
    pub key: Vec<u8>,
    /// What it holds.
    pub path: Holding,
    /// It appears; otherwise it disappears.
    pub appears: bool,
}

/// Of all caches that are watched.
#[derive(Default)]
pub struct Tallies(Mutex<HashMap<CacheName, Tally>>);

impl Tallies {
    /// Whether a path with a NAR of so many bytes may be added, after `steps` that were decided
    /// just before. A cache that is not counted yet is not held up.
    ///
    /// # Errors
    /// `Full` where it is over the quota then.
    pub fn check(&self, cache: &CacheName, nar_bytes: u64, steps: &[Step]) -> Result<()> {
        let tallies = self.lock();
        let Some(tally) = tallies.get(cache) else {
            return Ok(());
        };
        let (Some(quota), Counted::All) = (tally.quota_bytes, &tally.counted) else {
            return Ok(());
        };
        let mut holds = tally.holds;
        steps
            .iter()
            .filter(|it| it.cache == *cache)
            .for_each(|it| it.carry_out(&mut holds));
        let after = holds.nar_bytes.saturating_add(nar_bytes);
        if after <= quota {
            return Ok(());
        }
        let held = holds.nar_bytes;
        Err(Error::new(
            ErrorKind::Full,
            format!(
                "this cache holds {held} bytes of NARs, this would add {nar_bytes}, and its quota \
                 is {quota}: remove what is not needed (snowcache rm, fewer pins), or have the \
                 quota raised"
            ),
        ))
    }

    /// These steps were made; the caller holds the gate.
    pub fn made(&self, steps: &[Step]) {
        if steps.is_empty() {
            return;
        }
        let mut tallies = self.lock();
        for step in steps {
            let Some(tally) = tallies.get_mut(&step.cache) else {
                continue;
            };
            match &tally.counted {
                Counted::UpTo(key) if step.key > *key => {}
                _ => step.carry_out(&mut tally.holds),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CacheName, Tally>> {
        self.0
            .lock()
            .expect("invariant: no panic while the lock is held")
    }
}

impl Step {
    fn carry_out(&self, holds: &mut Holding) {
        match self.appears {
            true => holds.add(self.path),
            false => holds.take(self.path),
        }
    }
}

impl Depot {
    /// From now on a cache is counted, and holds so many bytes at most; None: as many as there is
    /// room for. Call [`Depot::count_holdings`] afterwards.
    pub fn watch_holding(&self, cache: &CacheName, quota_bytes: Option<u64>) {
        let mut tallies = self.shared().tallies.lock();
        let new = || Tally {
            quota_bytes,
            holds: Holding::default(),
            counted: Counted::UpTo(Vec::new()),
        };
        tallies.entry(cache.clone()).or_insert_with(new).quota_bytes = quota_bytes;
    }

    /// The cache is no more.
    pub fn unwatch_holding(&self, cache: &CacheName) {
        self.shared().tallies.lock().remove(cache);
    }

    /// Counts the caches that are watched and not counted yet: a second for a million paths, beside
    /// commits.
    ///
    /// # Errors
    /// When the index fails: call it again; `Closed` once the server shuts down.
    pub fn count_holdings(&self) -> Result<()> {
        let shared = self.shared();
        let open = |tally: &Tally| matches!(tally.counted, Counted::UpTo(_));
        let caches: HashSet<CacheName> = {
            let tallies = shared.tallies.lock();
            let open = tallies.iter().filter(|(_, tally)| open(tally));
            open.map(|(cache, _)| cache.clone()).collect()
        };
        for cache in caches {
            while count_some(shared, &cache)? {
                self.may_go_on()?;
            }
        }
        Ok(())
    }

    /// What a cache holds; None while it is not counted, or not watched.
    pub fn holding(&self, cache: &CacheName) -> Option<Holding> {
        let tallies = self.shared().tallies.lock();
        let tally = tallies.get(cache)?;
        matches!(tally.counted, Counted::All).then_some(tally.holds)
    }

    /// Whether a cache may take anything in: before a NAR is received that nobody could name.
    ///
    /// # Errors
    /// `Full` where it may not.
    pub fn check_quota(&self, cache: &CacheName) -> Result<()> {
        self.shared().tallies.check(cache, 1, &[])
    }
}

/// Counts some rows more; whether there are others.
fn count_some(shared: &Shared, cache: &CacheName) -> Result<bool> {
    let _gate = shared.undisturbed()?;
    let mut tallies = shared.tallies.lock();
    let Some(tally) = tallies.get_mut(cache) else {
        return Ok(false);
    };
    let Counted::UpTo(key) = &tally.counted else {
        return Ok(false);
    };
    let after = (!key.is_empty()).then_some(key.as_slice());
    let rows = shared
        .index
        .scan(Table::Paths, &cache.key(b""), after, ROWS_AT_ONCE)?;
    for (_, row) in &rows {
        let info = PathRow::decode(row)?.info()?;
        tally.holds.add(Holding::of(info.nar_size));
    }
    tally.counted = match rows.into_iter().next_back() {
        Some((key, _)) => Counted::UpTo(key.to_vec()),
        None => Counted::All,
    };
    Ok(matches!(tally.counted, Counted::UpTo(_)))
}
