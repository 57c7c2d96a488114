//! Patches, made ahead when a pin moves: the nodes that follow it will ask for what is new.
//!
//! ```text
//!   PUT pins/<name> --> queue --> closures of the roots before and now
//!   start: all pins ----^           '--> paths that are new, each with the one that is like it
//!                                          '--> depot.make_patch, one at a time
//! ```
//! Guarantees: only between closures of pins, which takes a token; one thread and some 100 MiB of
//! memory at a time, however many pins move; a patch that is there is not made again. Never: waited
//! for. A node that asks before gets frames.

use crate::workers::Workers;
use snowcache_core::alike;
use snowcache_core::delta::{self, Pair};
use snowcache_depot::patches::Patched;
use snowcache_depot::{CacheName, Depot, Pin, Result};
use snowcache_nix::{NarHash, StoreHash, StorePath};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// Moves that wait: what comes then is not patched until the next start.
const WAITING: usize = 64;
/// Paths of one side that are looked at: with 100 bytes each and their references some 50 MB.
const MAX_PATHS: usize = 100_000;

/// A pin that moved.
struct Move {
    cache: CacheName,
    pin: String,
    before: Vec<StorePath>,
    now: Vec<StorePath>,
}

/// Takes moves of pins.
pub struct Patcher {
    queue: mpsc::Sender<Move>,
    /// Those that wait, and the one that is at work.
    waiting: AtomicUsize,
    moves: Mutex<Option<mpsc::Receiver<Move>>>,
}

impl Default for Patcher {
    fn default() -> Patcher {
        let (queue, moves) = mpsc::channel(WAITING);
        Patcher {
            queue,
            waiting: AtomicUsize::new(0),
            moves: Mutex::new(Some(moves)),
        }
    }
}

impl Patcher {
    /// This pin has just been set.
    pub fn moved(&self, cache: &CacheName, pin: &Pin) {
        let Some(now) = pin.current_generation() else {
            return;
        };
        let earlier = pin.generations.iter().filter(|it| it.number < now.number);
        let Some(before) = earlier.max_by_key(|it| it.number) else {
            return;
        };
        let moved = Move {
            cache: cache.clone(),
            pin: pin.name.to_string(),
            before: before.roots.clone(),
            now: now.roots.clone(),
        };
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = self.queue.try_send(moved) {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            // Closed: none are wanted.
            if matches!(error, TrySendError::Full(_)) {
                tracing::warn!(pin = %pin.name, "too many pins moved; no patches for this one");
            }
        }
    }

    /// Makes patches until it is aborted: of pins as they are, then as they move.
    pub async fn by_itself(&self, depot: Depot, caches: Vec<CacheName>) {
        let moves = self.moves.lock().map(|mut it| it.take());
        let (Ok(Some(mut moves)), true) = (moves, depot.makes_patches()) else {
            return;
        };
        let worker = Workers::new(1);
        for cache in caches {
            let (depot, of) = (depot.clone(), cache.clone());
            let pins = worker.run(move || depot.pins(&of)).await;
            pins.iter()
                .flatten()
                .for_each(|pin| self.moved(&cache, pin));
        }
        while let Some(moved) = moves.recv().await {
            follow(&worker, &depot, moved).await;
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many moves of pins there are patches to be made for.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// Makes the patches for one move.
async fn follow(worker: &Workers, depot: &Depot, moved: Move) {
    let (pin, begin) = (moved.pin.clone(), Instant::now());
    let (cache, of) = (moved.cache.clone(), depot.clone());
    let Ok(pairs) = worker.run(move || pairs(&of, &moved)).await else {
        return;
    };
    let swaps = delta::swaps(&pairs);
    let (mut made, mut raw, mut stored) = (0, 0, 0);
    for pair in pairs {
        let (depot, cache, swaps) = (depot.clone(), cache.clone(), swaps.clone());
        let patch = move || depot.make_patch(&cache, &pair, &swaps);
        if let Ok(Patched::Made {
            raw_bytes,
            stored_bytes,
        }) = worker.run(patch).await
        {
            made += 1;
            raw += raw_bytes;
            stored += stored_bytes;
        }
    }
    if made > 0 {
        let seconds = begin.elapsed().as_secs_f64();
        tracing::info!(%pin, made, raw, stored, seconds, "patches made");
    }
}

/// The paths that are new, each with the one before that is like it.
fn pairs(depot: &Depot, moved: &Move) -> Result<Vec<Pair>> {
    let before = closure(depot, &moved.cache, &moved.before)?;
    let now = closure(depot, &moved.cache, &moved.now)?;
    let new = now.keys().filter(|path| !before.contains_key(path));
    let new: Vec<StorePath> = new.cloned().collect();
    let there: Vec<StorePath> = before.keys().cloned().collect();
    let pairs = alike::likely(&new, &there, &|_| Some(()));
    let pair = |(wanted, old): (StorePath, StorePath)| Pair {
        wanted: wanted.hash(),
        old: old.hash(),
        old_nar: before[&old],
    };
    Ok(pairs.into_iter().map(pair).collect())
}

/// A closure, as far as it is looked at.
fn closure(
    depot: &Depot,
    cache: &CacheName,
    roots: &[StorePath],
) -> Result<BTreeMap<StorePath, NarHash>> {
    let mut seen: BTreeSet<StoreHash> = roots.iter().map(StorePath::hash).collect();
    let mut level: Vec<StoreHash> = seen.iter().copied().collect();
    let mut closure = BTreeMap::new();
    while !level.is_empty() && closure.len() < MAX_PATHS {
        let infos = depot.infos(cache, &level)?;
        level.clear();
        for info in infos.into_iter().flatten() {
            let references = info.references.iter().map(StorePath::hash);
            level.extend(references.filter(|hash| seen.insert(*hash)));
            closure.insert(info.store_path, info.nar_hash);
        }
    }
    Ok(closure)
}
