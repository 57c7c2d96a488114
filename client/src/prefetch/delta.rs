//! Paths made of older ones that are here: what they have is copied, the rest is fetched.
//!
//! ```text
//!   guess a base for each path     hold it, ask what its NAR is
//!   ask the cache for a plan       one request
//!   path by path                   old bytes, tokens swapped | literals | fetched frames
//! ```
//! Guarantees: nothing here decides whether the bytes are right: what comes out is a stream that
//! carries the NarHash and is held to it like any other. Whatever does not fit, on either side, is
//! an error of that stream, and the path is fetched whole. Memory for each path under way: its
//! delta, where the old NAR's files lie, and some chunks.

use super::bases;
use super::old_nar::OldNar;
use super::patched::Patched;
use crate::push::pack::PackError;
use crate::sources::Sources;
use crate::store::Store;
use bytes::Bytes;
use futures::stream::{BoxStream, unfold};
use futures::{StreamExt, stream};
use snowcache_core::cache::{NarStream, Narinfo};
use snowcache_core::delta::{Delta, DeltaError, Pair, Part};
use snowcache_core::error::{Blame, Error, Kind};
use snowcache_core::swap::{Swapper, Swaps};
use snowcache_nix::{NarHash, StorePath};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Given to the daemon at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that wait for it.
const QUEUED: usize = 2;

/// How often an older path is looked for: what a broken import has left of a path in the store's
/// folder, and its lock, are likely ones by their names and not valid.
const GUESSES: u32 = 4;

/// Patches that are unpacked at a time: 56 MiB each.
const PATCHING: usize = 2;

/// Why a path could not be made of another one.
#[derive(Debug, Error)]
#[error("it cannot be made of {old}, so it is fetched whole: {why}")]
struct NotMade {
    old: StorePath,
    why: Why,
}

#[derive(Debug, Error)]
pub(super) enum Why {
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error("that cannot be read: {0}")]
    Old(#[source] io::Error),
    #[error("its patch is wrong: {0}")]
    Patch(&'static str),
    #[error(transparent)]
    Delta(#[from] DeltaError),
    #[error(transparent)]
    Fetched(#[from] Error),
    #[error("the frames that came are not as many as were asked for")]
    Frames,
    #[error("nobody waits for it any more")]
    Stopped,
}

/// What one path can be made of.
#[derive(Clone)]
pub(super) struct Plan {
    old: StorePath,
    old_nar: NarHash,
    delta: Bytes,
    swaps: Swaps,
    /// For those whose patches are unpacked.
    patching: Arc<Semaphore>,
}

/// A plan for each of `missing` that an older path is here for, as far as the caches make plans.
/// The older paths are held.
///
/// # Errors
/// When the daemon cannot be asked. Of caches that cannot, only that there are no plans.
pub(super) async fn plan(
    sources: &Sources,
    store: &Store,
    missing: &[Narinfo],
) -> Result<BTreeMap<StorePath, Plan>, Error> {
    let wanted: Vec<StorePath> = missing
        .iter()
        .map(|narinfo| narinfo.info.store_path.clone())
        .collect();
    let (mut pairs, mut paths) = (Vec::new(), BTreeMap::new());
    for (wanted, (old, old_nar)) in older(store, wanted).await? {
        pairs.push(Pair {
            wanted: wanted.hash(),
            old: old.hash(),
            old_nar,
        });
        paths.insert(wanted.hash(), (wanted, old));
    }
    if pairs.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut plans = BTreeMap::new();
    let patching = Arc::new(Semaphore::new(PATCHING));
    for planned in sources.plan(&pairs).await {
        for (pair, delta) in planned.deltas {
            if let Some((wanted, old)) = paths.remove(&pair.wanted) {
                let plan = Plan {
                    old,
                    old_nar: pair.old_nar,
                    delta,
                    swaps: planned.swaps.clone(),
                    patching: patching.clone(),
                };
                plans.insert(wanted, plan);
            }
        }
    }
    Ok(plans)
}

/// For each of these an older path that is valid, and held, and its NAR.
async fn older(
    store: &Store,
    mut wanted: Vec<StorePath>,
) -> Result<BTreeMap<StorePath, (StorePath, NarHash)>, Error> {
    let (mut older, mut invalid) = (BTreeMap::new(), BTreeSet::new());
    for _ in 0..GUESSES {
        let guesses = bases::likely(&wanted, &invalid);
        let held: Vec<StorePath> = guesses.values().cloned().collect();
        if held.is_empty() {
            break;
        }
        store.hold(&held).await?;
        let known = store.path_infos(&held).await?;
        wanted.clear();
        for ((path, old), known) in guesses.into_iter().zip(known) {
            if let Some(known) = known {
                older.insert(path, (old, known.info.nar_hash));
            } else {
                wanted.push(path);
                invalid.insert(old);
            }
        }
    }
    Ok(older)
}

impl Plan {
    /// The NAR, as it is made.
    ///
    /// # Errors
    /// When the plan is none, or what must be fetched for it cannot be.
    pub(super) async fn open(
        self,
        sources: &Sources,
        narinfo: &Narinfo,
    ) -> Result<NarStream, Error> {
        let (nar_hash, nar_size) = (narinfo.info.nar_hash, narinfo.info.nar_size);
        let old = self.old.clone();
        let not_made = move |why: Why| {
            let old = old.clone();
            Error::new(Kind::Corrupt, Blame::Upstream, NotMade { old, why })
        };
        let delta = Delta::decode(&self.delta, nar_size);
        let delta = delta.map_err(|error| not_made(error.into()))?;
        let ranges = delta.ranges();
        let fetched = match ranges.is_empty() {
            true => stream::empty().boxed(),
            false => {
                let frames = sources.frames(narinfo, &ranges).await;
                frames.map_err(|error| not_made(error.into()))?
            }
        };
        let patched = match delta.patch {
            None => None,
            Some(pieces) => {
                let pieces = sources.patch(narinfo, &self.old_nar, pieces).await;
                let pieces = pieces.map_err(|error| not_made(error.into()))?;
                let place = self.patching.acquire_owned().await;
                let place = place.expect("invariant: the semaphore is never closed");
                Some((Patched::new(pieces), place))
            }
        };
        let (give, take) = mpsc::channel(QUEUED);
        let handle = Handle::current();
        tokio::task::spawn_blocking(move || {
            let mut making = Making {
                fetched,
                left: Bytes::new(),
                patched,
                handle,
                give,
                ready: Vec::with_capacity(CHUNK_BYTES),
            };
            if let Err(why) = making.make(&self.old, delta, self.swaps) {
                // Whoever has stopped listening does not want to know.
                making.give.blocking_send(Err(not_made(why))).ok();
            }
        });
        let chunks = unfold(take, |mut take| async {
            let chunk = take.recv().await?;
            Some((chunk, take))
        });
        Ok(NarStream::new(nar_hash, nar_size, Blame::Upstream, chunks))
    }
}

/// A NAR under way, on a thread of its own.
struct Making {
    fetched: BoxStream<'static, Result<Bytes, Error>>,
    /// What came of it and is not used.
    left: Bytes,
    /// What its patch makes, with the place for it.
    patched: Option<(Patched, OwnedSemaphorePermit)>,
    handle: Handle,
    give: mpsc::Sender<Result<Bytes, Error>>,
    ready: Vec<u8>,
}

impl Making {
    fn make(&mut self, old: &StorePath, delta: Delta, mut swaps: Swaps) -> Result<(), Why> {
        for (from, to) in &delta.swaps {
            swaps.add(from, to);
        }
        let mut old = OldNar::of(Path::new(&old.absolute()))?;
        for part in delta.parts {
            match part {
                Part::Copy { offset, len } => self.copy(&mut old, offset, len, &swaps)?,
                Part::Literal(bytes) => self.ready.extend_from_slice(&bytes),
                Part::Fetch { len, .. } => self.fetch(len)?,
                Part::Patch { len, skip } => self.patch(&mut old, skip, len)?,
            }
            self.pass_on(CHUNK_BYTES)?;
        }
        self.pass_on(1)?;
        // All of it is here: what else would come is too much.
        match self.left.is_empty() && self.handle.block_on(self.fetched.next()).is_none() {
            true => Ok(()),
            false => Err(Why::Frames),
        }
    }

    fn copy(&mut self, old: &mut OldNar, offset: u64, len: u64, swaps: &Swaps) -> Result<(), Why> {
        let end = offset.saturating_add(len);
        let mut swapper = Swapper::new(swaps.clone());
        old.read(offset..end, &mut |bytes| {
            swapper.push(bytes, &mut self.ready);
            let stopped = || io::Error::from(io::ErrorKind::BrokenPipe);
            self.pass_on(CHUNK_BYTES).map_err(|_| stopped())
        })?;
        swapper.finish(&mut self.ready);
        Ok(())
    }

    fn fetch(&mut self, mut len: u64) -> Result<(), Why> {
        while len > 0 {
            if self.left.is_empty() {
                let next = self.handle.block_on(self.fetched.next());
                self.left = next.ok_or(Why::Frames)??;
            }
            let most = usize::try_from(len).unwrap_or(usize::MAX);
            let some = self.left.split_to(most.min(self.left.len()));
            len -= some.len() as u64;
            self.ready.extend_from_slice(&some);
            self.pass_on(CHUNK_BYTES)?;
        }
        Ok(())
    }

    fn patch(&mut self, old: &mut OldNar, mut skip: u64, mut len: u64) -> Result<(), Why> {
        while skip + len > 0 {
            let Some((patched, _)) = &mut self.patched else {
                return Err(Why::Patch("it has none"));
            };
            let most = if skip > 0 { skip } else { len };
            let some = patched.next(most.min(CHUNK_BYTES as u64), old, &self.handle)?;
            match skip {
                0 => {
                    len -= some.len() as u64;
                    self.ready.extend_from_slice(some);
                    self.pass_on(CHUNK_BYTES)?;
                }
                _ => skip -= some.len() as u64,
            }
        }
        Ok(())
    }

    /// Gives what is ready to the daemon, if it is so many bytes.
    fn pass_on(&mut self, least_bytes: usize) -> Result<(), Why> {
        if self.ready.len() < least_bytes {
            return Ok(());
        }
        let ready = std::mem::replace(&mut self.ready, Vec::with_capacity(CHUNK_BYTES));
        let given = self.give.blocking_send(Ok(Bytes::from(ready)));
        given.map_err(|_| Why::Stopped)
    }
}
