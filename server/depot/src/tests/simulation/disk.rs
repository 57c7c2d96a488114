//! A disk that fails, forgets and lies, by a seed: segments and index of one simulated machine.
//!
//! ```text
//!   segment   written |====================|~~~~~~~~|      what reads see
//!             durable |====================|xx|            what a sync made last
//!                                          ^ dirty_from    a power cut takes any sectors of either
//!   index     base + [batch, batch, batch]              a power cut takes a suffix of batches
//! ```
//!
//! Guarantees: the same seed and the same calls give the same disk. A fuse makes the power go in
//! the midst of whatever runs: from then on nothing more reaches the disk.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;

use crate::index::{Batch, Index, Row, Table};
use crate::segments::file::SegmentFile;
use crate::segments::{SegmentId, SegmentWriter, Segments, Space};
use crate::tests::simulation::random::Random;
use crate::{Error, Result};

/// What a disk writes at once, or not.
const SECTOR_BYTES: usize = 512;
/// How large the disk says that it is.
const DISK_BYTES: u64 = 4 << 30;

type Rows = BTreeMap<(Table, Vec<u8>), Bytes>;

/// How often calls go wrong, in thousandths.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Appends write a part and fail.
    pub write: u64,
    /// Syncs fail, and what was to be synced may be lost.
    pub sync: u64,
    /// Creating, cutting and removing fail.
    pub other: u64,
    /// Batches of the index fail.
    pub index: u64,
    /// Syncs say that they worked and did nothing.
    pub lies: u64,
}

/// How a machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The process is killed: the kernel keeps what it was given.
    Kill,
    /// The power goes.
    PowerCut,
}

/// The disk; clones are the same one.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<State>>);

#[derive(Clone)]
struct State {
    files: BTreeMap<SegmentId, File>,
    rows: Rows,
    base: Rows,
    /// Batches since the last checkpoint.
    log: Vec<Batch>,
    random: Random,
    faults: Faults,
    /// Calls that still reach the disk; None: all.
    fuse: Option<u64>,
    /// How it was when the fuse blew.
    last: Option<Box<State>>,
}

#[derive(Clone, Default)]
struct File {
    written: Vec<u8>,
    /// None: never synced, so the name may be lost, too.
    durable: Option<Vec<u8>>,
    /// Before this both are the same.
    dirty_from: usize,
    /// Up to here a kill takes nothing.
    flushed: usize,
}

impl Disk {
    /// An empty disk.
    pub fn new(seed: u64) -> Disk {
        Disk(Arc::new(Mutex::new(State {
            files: BTreeMap::new(),
            rows: Rows::new(),
            base: Rows::new(),
            log: Vec::new(),
            random: Random::new(seed),
            faults: Faults::default(),
            fuse: None,
            last: None,
        })))
    }

    /// From here on this goes wrong.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// The power will go after so many calls.
    pub fn light_fuse(&self, calls: u64) {
        self.lock().fuse = Some(calls);
    }

    /// Not any more.
    pub fn put_fuse_out(&self) {
        self.lock().fuse = None;
    }

    /// Whether it went.
    pub fn is_dead(&self) -> bool {
        self.lock().last.is_some()
    }

    /// What the next start finds. Whoever still uses the old disk changes nothing of it.
    pub fn after(&self, end: End) -> Disk {
        let mut state = self.lock();
        let mut next = state
            .last
            .take()
            .map_or_else(|| state.clone(), |last| *last);
        drop(state);
        next.fuse = None;
        let State { files, random, .. } = &mut next;
        files.retain(|_, file| file.end(end, random));
        if end == End::PowerCut {
            let kept = next.random.below(next.log.len() as u64 + 1) as usize;
            next.log.truncate(kept);
            next.rows = next.base.clone();
            for batch in next.log.drain(..) {
                apply(&mut next.rows, batch);
            }
            next.base = next.rows.clone();
        }
        Disk(Arc::new(Mutex::new(next)))
    }

    /// Loses the index.
    pub fn lose_index(&self) {
        let mut state = self.lock();
        (state.rows, state.base) = (Rows::new(), Rows::new());
        state.log.clear();
    }

    /// Bytes in all segments.
    pub fn stored_bytes(&self) -> u64 {
        let state = self.lock();
        state
            .files
            .values()
            .map(|file| file.written.len() as u64)
            .sum()
    }

    /// How many segments there are.
    pub fn segments(&self) -> u64 {
        self.lock().files.len() as u64
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("invariant: no panic under the lock")
    }

    /// A call that changes the disk: whether it reaches it, and works.
    fn call(&self, chance: impl FnOnce(&Faults) -> u64) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        if state.fuse == Some(0) && state.last.is_none() {
            state.last = Some(Box::new(state.clone()));
        }
        state.fuse = state.fuse.map(|left| left.saturating_sub(1));
        let chance = chance(&state.faults);
        if state.last.is_some() || state.random.chance(chance) {
            return Err(broken(&mut state.random));
        }
        Ok(state)
    }
}

fn broken(random: &mut Random) -> io::Error {
    match random.below(2) {
        0 => io::ErrorKind::StorageFull.into(),
        _ => io::Error::other("the disk failed"),
    }
}

fn apply(rows: &mut Rows, batch: Batch) {
    for (table, key, value) in batch.changes {
        match value {
            Some(value) => rows.insert((table, key), value.into()),
            None => rows.remove(&(table, key)),
        };
    }
}

impl File {
    /// What is left of it; false: nothing.
    fn end(&mut self, end: End, random: &mut Random) -> bool {
        if end == End::Kill {
            let kept = self.dirty_from.max(self.flushed).min(self.written.len());
            let unsynced = (self.written.len() - kept) as u64;
            self.written
                .truncate(kept + random.below(unsynced + 1) as usize);
            return true;
        }
        if self.durable.is_none() && random.chance(500) {
            return false;
        }
        self.tear(random);
        self.written = self.durable.clone().unwrap_or_default();
        self.dirty_from = self.written.len();
        self.flushed = self.dirty_from;
        true
    }

    /// Any sectors of what was written since the last sync reach the disk, and any length.
    fn tear(&mut self, random: &mut Random) {
        let old = self.durable.take().unwrap_or_default();
        let mut len = if random.chance(500) {
            old.len()
        } else {
            self.written.len()
        };
        if len > self.dirty_from && random.chance(500) {
            len = self.dirty_from + random.below((len - self.dirty_from) as u64 + 1) as usize;
        }
        let mut torn = self.written[..self.dirty_from.min(len)].to_vec();
        let all = random.chance(500);
        while torn.len() < len {
            let end = len.min((torn.len() / SECTOR_BYTES + 1) * SECTOR_BYTES);
            let from = if all || random.chance(700) {
                &self.written
            } else {
                &old
            };
            let at = torn.len();
            torn.extend_from_slice(from.get(at..end.min(from.len())).unwrap_or_default());
            torn.resize(end, 0);
        }
        self.durable = Some(torn);
    }
}

impl Segments for Disk {
    fn list(&self) -> io::Result<Vec<(SegmentId, u64)>> {
        let state = self.lock();
        let listed = state
            .files
            .iter()
            .map(|(id, file)| (*id, file.written.len() as u64));
        Ok(listed.collect())
    }

    fn append(&self, id: SegmentId, len: u64) -> io::Result<Box<dyn SegmentWriter>> {
        let mut state = self.call(|faults| faults.other)?;
        match state.files.get_mut(&id) {
            Some(_) if len == 0 => return Err(io::ErrorKind::AlreadyExists.into()),
            Some(file) if (file.written.len() as u64) < len => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Some(file) => file.cut(len as usize),
            None if len > 0 => return Err(io::ErrorKind::NotFound.into()),
            None => {
                state.files.insert(id, File::default());
            }
        }
        let disk = self.clone();
        Ok(Box::new(Writer { disk, id }))
    }

    fn read(&self, id: SegmentId, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let state = self.lock();
        let file = state.files.get(&id).ok_or(io::ErrorKind::NotFound)?;
        let start = offset as usize;
        let bytes = file.written.get(start..start + buf.len());
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn file(&self, _: SegmentId) -> io::Result<Option<Arc<SegmentFile>>> {
        Ok(None)
    }

    fn remove(&self, id: SegmentId) -> io::Result<()> {
        let mut state = self.call(|faults| faults.other)?;
        let removed = state.files.remove(&id);
        removed
            .map(|_| ())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn space(&self) -> io::Result<Space> {
        Ok(Space {
            free_bytes: DISK_BYTES - self.stored_bytes(),
            total_bytes: DISK_BYTES,
        })
    }
}

impl File {
    fn cut(&mut self, len: usize) {
        self.written.truncate(len);
        self.dirty_from = self.dirty_from.min(len);
        self.flushed = self.flushed.min(len);
    }
}

struct Writer {
    disk: Disk,
    id: SegmentId,
}

fn file(state: &mut State, id: SegmentId) -> io::Result<&mut File> {
    state
        .files
        .get_mut(&id)
        .ok_or(io::ErrorKind::NotFound.into())
}

impl SegmentWriter for Writer {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.call(|_| 0)?;
        let State { random, faults, .. } = &mut *state;
        let fails = random.chance(faults.write);
        let len = if fails {
            random.below(bytes.len() as u64 + 1) as usize
        } else {
            bytes.len()
        };
        file(&mut state, self.id)?
            .written
            .extend_from_slice(&bytes[..len]);
        if fails {
            Err(broken(&mut state.random))
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut state = self.disk.lock();
        if state.last.is_some() {
            return Err(broken(&mut state.random));
        }
        let file = file(&mut state, self.id)?;
        file.flushed = file.written.len();
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.call(|_| 0)?;
        let State { random, faults, .. } = &mut *state;
        let (fails, lies) = (random.chance(faults.sync), random.chance(faults.lies));
        let mut random = random.clone();
        let file = file(&mut state, self.id)?;
        if fails {
            file.tear(&mut random);
            let error = broken(&mut random);
            state.random = random;
            return Err(error);
        }
        if !lies {
            let durable = file.durable.get_or_insert_default();
            durable.truncate(file.dirty_from);
            durable.extend_from_slice(&file.written[file.dirty_from..]);
            file.dirty_from = file.written.len();
        }
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let mut state = self.disk.call(|faults| faults.other)?;
        file(&mut state, self.id)?.cut(len as usize);
        Ok(())
    }
}

/// The index on a disk.
pub struct DiskIndex(pub Disk);

impl Index for DiskIndex {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.0.lock().rows.get(&(table, key.to_vec())).cloned())
    }

    fn get_many(&self, table: Table, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>> {
        keys.iter().map(|key| self.get(table, key)).collect()
    }

    fn write(&self, batch: Batch) -> Result<()> {
        let state = self.0.call(|faults| faults.index);
        let mut state = state.map_err(|e| Error::io("writing the index", e))?;
        state.log.push(batch.clone());
        apply(&mut state.rows, batch);
        Ok(())
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>> {
        let start = match after.filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded((table, after.to_vec())),
            None => Bound::Included((table, prefix.to_vec())),
        };
        let state = self.0.lock();
        let found = state.rows.range((start, Bound::Unbounded));
        let found = found.take_while(|((of, key), _)| *of == table && key.starts_with(prefix));
        let row =
            |((_, key), value): (&(Table, Vec<u8>), &Bytes)| (key.clone().into(), value.clone());
        Ok(found.take(limit).map(row).collect())
    }

    fn rows_about(&self, table: Table) -> Result<u64> {
        let state = self.0.lock();
        Ok(state.rows.keys().filter(|(of, _)| *of == table).count() as u64)
    }

    fn stalls(&self) -> Result<u64> {
        Ok(0)
    }

    fn pause(&self) -> Result<Duration> {
        Ok(Duration::ZERO)
    }

    fn checkpoint(&self) -> Result<()> {
        let state = self.0.call(|faults| faults.index);
        let mut state = state.map_err(|e| Error::io("syncing the index", e))?;
        state.base = state.rows.clone();
        state.log.clear();
        Ok(())
    }

    fn ready(&self) -> Result<u64> {
        Ok(0)
    }
}

#[test]
fn the_disk_keeps_the_contracts_while_nothing_fails() {
    crate::segments::contract::suite(|| Box::new(Disk::new(1)));
    crate::index::contract::suite(|| Box::new(DiskIndex(Disk::new(1))));
}

#[test]
fn a_power_cut_keeps_what_was_synced() {
    for seed in 0..200 {
        let disk = Disk::new(seed);
        let mut writer = disk.append(SegmentId(1), 0).expect("create");
        writer.append(&[1; 3000]).expect("append");
        writer.sync().expect("sync");
        writer.append(&[2; 3000]).expect("append");
        writer.truncate(3500).expect("cut");
        writer.append(&[3; 2000]).expect("append");
        let after = disk.after(End::PowerCut);
        let mut synced = [0; 3000];
        after.read(SegmentId(1), 0, &mut synced).expect("read");
        assert_eq!(synced, [1; 3000], "seed {seed}");
        assert!(after.stored_bytes() <= 6000, "seed {seed}");
    }
}
