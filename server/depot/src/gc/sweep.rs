//! Sweeping: uploads whose lease has ended, NARs that no path has, records about paths that went.
//!
//! Guarantees: a NAR is taken out of the index only when no visible path has it, no upload holds
//! it, and no commit counted on it since the collection began; of one that was visible, downloads
//! have the grace to end. Nothing here touches a segment.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use snowcache_nix::NarHash;

use super::{Collection, Finding, Stay, duration};
use crate::Result;
use crate::depot::Shared;
use crate::former;
use crate::index::{Batch, Rows, Table};
use crate::keys::CacheName;
use crate::layout::Layout;
use crate::leases::{Held, holder};
use crate::rows::{PathRow, UploadRow, nar_of_key, time_of, time_row};
use crate::tenants::frame_of;

/// Rows taken out while commits wait: microseconds.
const ROWS_AT_ONCE: usize = 1000;

/// One sweep.
pub struct Sweep<'a, 'b> {
    collection: &'a mut Collection<'b>,
    shared: Arc<Shared>,
    /// Paths that this collection removed, or would remove.
    gone: HashSet<Vec<u8>>,
    /// NARs that are needed, as far as this sweep has seen: by visible paths' caches, by uploads.
    /// 32 bytes each.
    needed: HashSet<NarHash>,
    /// NARs whose upload or visibility this sweep ended.
    ended: HashSet<NarHash>,
}

impl<'a, 'b> Sweep<'a, 'b> {
    /// After these paths were removed.
    pub fn new(collection: &'a mut Collection<'b>, gone: HashSet<Vec<u8>>) -> Sweep<'a, 'b> {
        Sweep {
            shared: collection.depot.shared().clone(),
            collection,
            gone,
            needed: HashSet::new(),
            ended: HashSet::new(),
        }
    }

    /// Forgets uploads whose lease has ended, unless a path of their cache has their NAR.
    pub fn uploads(&mut self) -> Result<()> {
        let shared = self.shared.clone();
        let (mut over, mut leased) = (Vec::new(), Held::new());
        for row in Rows::new(&*shared.index, Table::Uploads, &[]) {
            let (key, value) = row?;
            let state = UploadRow::decode(&value)?.state;
            let visible = state.cache.nar_key(&state.nar_hash);
            let named = shared.index.get(Table::Visible, &visible)?.is_some();
            let is_over = state.expires <= self.collection.now;
            if !named && (is_over || self.is_deleted(&state.cache)) {
                over.push((key, value, state));
                continue;
            }
            self.needed.insert(state.nar_hash);
            if !named {
                let holder = holder(&state.cache, &state.subject);
                let own = leased.entry(holder).or_default();
                own.insert(state.nar_hash, state.nar_size);
            }
        }
        let meanwhile = || shared.uses.nars(0).into_iter().collect();
        shared.leases.count_anew(leased, meanwhile);
        for part in over.chunks(ROWS_AT_ONCE) {
            let mut forgotten = Vec::new();
            self.undisturbed(|shared, used| {
                let mut batch = Batch::default();
                for (key, value, state) in part {
                    let same = shared.index.get(Table::Uploads, key)?.as_ref() == Some(value);
                    if same && !used.contains(&state.nar_hash) {
                        batch.delete(Table::Uploads, key.as_ref());
                        forgotten.push(state);
                    }
                }
                Ok(batch)
            })?;
            for state in forgotten {
                let over = self.collection.now.checked_sub(state.expires);
                self.ended.insert(state.nar_hash);
                self.collection.collected.uploads += 1;
                (self.collection.on)(Finding::Upload {
                    cache: state.cache.clone(),
                    name: state.name.clone(),
                    reason: match over {
                        Some(over) => format!(
                            "its lease ended {} ago, and no narinfo named it",
                            duration(over)
                        ),
                        None => "its cache was deleted".to_owned(),
                    },
                });
            }
        }
        Ok(())
    }

    /// Lets go of former encodings whose URLs no client remembers any more, and of those whose NAR
    /// is gone.
    pub fn formers(&mut self) -> Result<()> {
        let (shared, now) = (self.shared.clone(), self.collection.now);
        for former in former::all(&*shared.index, &[]) {
            let former = former?;
            let is_left = Layout::read(&*shared.index, &former.nar)?.is_none();
            if former.until <= now || is_left {
                self.collection.collected.former_encodings += 1;
                self.undisturbed(|_, _| {
                    let mut batch = Batch::default();
                    former.remove(&mut batch);
                    Ok(batch)
                })?;
            }
        }
        Ok(())
    }

    /// Ends the visibility of NARs that no path has any more, in two steps: noted first, carried
    /// out when the grace is over.
    pub fn visible(&mut self) -> Result<()> {
        let shared = self.shared.clone();
        let mut named = HashSet::new();
        for row in Rows::new(&*shared.index, Table::Paths, &[]) {
            let (key, value) = row?;
            if !self.gone.contains(key.as_ref()) {
                let nar = PathRow::decode(&value)?.info()?.nar_hash;
                let cache_len = key.len() - 20;
                named.insert([&key[..cache_len], nar.as_bytes()].concat());
            }
        }
        let (now, grace) = (self.collection.now, self.collection.policy.sweep_grace_s);
        let (mut noted, mut over, mut back) = (Vec::new(), Vec::new(), Vec::new());
        for row in Rows::new(&*shared.index, Table::Visible, &[]) {
            let (key, _) = row?;
            let (_, nar) = nar_of_key(&key)?;
            let since = shared.index.get(Table::Doomed, &key)?;
            let since = since.map(|row| time_of(&row)).transpose()?;
            if named.contains(key.as_ref()) {
                self.needed.insert(nar);
                back.extend(since.map(|_| key));
                continue;
            }
            match since {
                Some(since) if since.saturating_add(grace) <= now => over.push((key, nar)),
                None if grace == 0 => over.push((key, nar)),
                since => {
                    self.needed.insert(nar);
                    self.collection.collected.nars_waiting += 1;
                    if since.is_none() {
                        noted.push((key, nar));
                    }
                }
            }
        }
        for part in back.chunks(ROWS_AT_ONCE) {
            self.undisturbed(|_, _| {
                let mut batch = Batch::default();
                part.iter()
                    .for_each(|key| batch.delete(Table::Doomed, key.as_ref()));
                Ok(batch)
            })?;
        }
        for part in noted.chunks(ROWS_AT_ONCE) {
            self.undisturbed(|_, used| {
                let mut batch = Batch::default();
                for (key, _) in part.iter().filter(|(_, nar)| !used.contains(nar)) {
                    batch.put(Table::Doomed, key.as_ref(), time_row(now));
                }
                Ok(batch)
            })?;
        }
        for part in over.chunks(ROWS_AT_ONCE) {
            let mut ended = Vec::new();
            self.undisturbed(|_, used| {
                let mut batch = Batch::default();
                for (key, nar) in part.iter().filter(|(_, nar)| !used.contains(nar)) {
                    batch.delete(Table::Visible, key.as_ref());
                    batch.delete(Table::Doomed, key.as_ref());
                    ended.push(*nar);
                }
                Ok(batch)
            })?;
            self.ended.extend(ended);
        }
        Ok(())
    }

    /// Forgets lost offers for paths that are gone.
    pub fn conflicts(&mut self) -> Result<()> {
        let shared = self.shared.clone();
        let mut over = Vec::new();
        for row in Rows::new(&*shared.index, Table::Conflicts, &[]) {
            let (key, _) = row?;
            let path = &key[..key.len() - 8];
            if PathRow::get(&*shared.index, path)?.is_none() {
                over.push(key);
            }
        }
        for part in over.chunks(ROWS_AT_ONCE) {
            self.undisturbed(|_, _| {
                let mut batch = Batch::default();
                part.iter()
                    .for_each(|key| batch.delete(Table::Conflicts, key.as_ref()));
                Ok(batch)
            })?;
        }
        Ok(())
    }

    /// Forgets the documents of caches that were deleted. Their records are garbage then; where the
    /// index is made anew before these are gone they come back, under a name that nobody asks for.
    pub fn documents(&self) -> Result<()> {
        for cache in self.collection.policy.deleted() {
            for table in [Table::Documents, Table::Sent] {
                self.forget_all(table, &cache.key(b""))?;
            }
        }
        Ok(())
    }

    fn forget_all(&self, table: Table, prefix: &[u8]) -> Result<()> {
        let keys = Rows::new(&*self.shared.index, table, prefix).map(|row| Ok(row?.0));
        let keys: Vec<Bytes> = keys.collect::<Result<_>>()?;
        for part in keys.chunks(ROWS_AT_ONCE) {
            self.undisturbed(|_, _| {
                let mut batch = Batch::default();
                part.iter()
                    .for_each(|key| batch.delete(table, key.as_ref()));
                Ok(batch)
            })?;
        }
        Ok(())
    }

    fn is_deleted(&self, cache: &CacheName) -> bool {
        self.collection.policy.of(cache) == Stay::Nothing
    }

    /// Forgets to which caches frames were sent that are gone.
    pub fn frames(&self) -> Result<()> {
        let shared = self.shared.clone();
        for table in [Table::Sent, Table::Hidden] {
            let keys = Rows::new(&*shared.index, table, &[]).map(|row| Ok(row?.0));
            let keys: Vec<Bytes> = keys.collect::<Result<_>>()?;
            for part in keys.chunks(ROWS_AT_ONCE) {
                self.undisturbed(|shared, _| {
                    let ids: Vec<&[u8]> = part.iter().map(|key| frame_of(key)).collect();
                    let here = shared.index.get_many(Table::Frames, &ids)?;
                    let gone = part.iter().zip(here).filter(|(_, here)| here.is_none());
                    let mut batch = Batch::default();
                    gone.for_each(|(key, _)| batch.delete(table, key.as_ref()));
                    Ok(batch)
                })?;
            }
        }
        Ok(())
    }

    /// Takes NARs that nothing needs out of the index; returns them, in a dry run too.
    pub fn nars(self) -> Result<HashSet<NarHash>> {
        let shared = self.shared.clone();
        let mut dead = Vec::new();
        for row in Rows::new(&*shared.index, Table::Layouts, &[]) {
            let (key, _) = row?;
            if let Ok(hash) = <[u8; 32]>::try_from(key.as_ref()) {
                let nar = NarHash::from_bytes(hash);
                if !self.needed.contains(&nar) {
                    dead.push(nar);
                }
            }
        }
        let mut gone = HashSet::new();
        for part in dead.chunks(ROWS_AT_ONCE) {
            let mut removed = Vec::new();
            self.undisturbed(|shared, used| {
                let mut batch = Batch::default();
                for nar in part.iter().filter(|nar| !used.contains(*nar)) {
                    if let Some(layout) = Layout::read(&*shared.index, nar)? {
                        layout.remove(&mut batch, nar);
                        for former in former::all(&*shared.index, nar.as_bytes()) {
                            former?.remove(&mut batch);
                        }
                        removed.push((*nar, layout.nar_size));
                    }
                }
                Ok(batch)
            })?;
            for (nar_hash, nar_size_bytes) in removed {
                gone.insert(nar_hash);
                self.collection.collected.nars += 1;
                let reason = match self.ended.contains(&nar_hash) {
                    true => "no path and no upload has it any more",
                    false => "no path and no upload has it",
                };
                (self.collection.on)(Finding::Nar {
                    nar_hash,
                    nar_size_bytes,
                    reason: reason.to_owned(),
                });
            }
        }
        Ok(gone)
    }

    /// Carries a batch out while no commit is under way; `make` is told which NARs commits counted
    /// on since the collection began. In a dry run the batch is thrown away.
    fn undisturbed(
        &self,
        make: impl FnOnce(&Shared, &HashSet<NarHash>) -> Result<Batch>,
    ) -> Result<()> {
        let shared = &*self.shared;
        let _gate = shared.undisturbed()?;
        let used = shared.uses.nars(0).into_iter().collect();
        let batch = make(shared, &used)?;
        match self.collection.dry_run {
            true => Ok(()),
            false => shared.index.write(batch),
        }
    }
}
