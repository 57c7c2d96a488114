//! The one function that copies closures: push, prefetch, mirror and pull-through are this, with
//! different ends.
//!
//! ```text
//!   to.missing(level) -> from.narinfo -> next level ...      what has to be copied, and no more
//!   ready: all references copied -> from.nar ~~stream~~> to.put -> its referrers may be ready
//! ```
//!
//! Guarantees: only what `to` says is missing is read; references are there before what refers to
//! them, so `to` is closed at every moment, also when this is broken off; at most `concurrency`
//! copies are under way. Bytes are verified where they are read and again by `to`.
//! Never: a NAR held whole; anything copied of a closure that `from` does not hold completely.

use crate::cache::{Cache, Narinfo};
use crate::closure::{self, Absent, Limits};
use crate::error::{Blame, Error, Kind};
use crate::path_info::Claimed;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use snowcache_nix::StoreHash;
use std::collections::{BTreeMap, VecDeque};
use thiserror::Error;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// How many paths.
    pub paths: usize,
    /// The sum of their NAR sizes.
    pub nar_size_bytes: u64,
}

#[derive(Debug, Error)]
enum Incomplete {
    #[error("{root} is in neither cache")]
    Root { root: StoreHash },
    #[error("{by} needs {path}, which is in neither cache ({count} missing in all)")]
    Reference {
        by: String,
        path: String,
        count: usize,
    },
}

/// Copies the closure of `roots` from one cache to another.
///
/// # Errors
/// Those of the two caches, and [`Kind::Missing`] when `from` does not hold all that `to` lacks.
/// What was copied until then stays.
pub async fn replicate(
    from: &dyn Cache,
    to: &dyn Cache,
    roots: &[StoreHash],
    limits: Limits,
) -> Result<Copied, Error> {
    let closure = closure::walk(from, Some(to), roots, limits).await?;
    if let Some(absent) = closure.absent.first() {
        let incomplete = incomplete(absent, closure.absent.len());
        return Err(Error::new(Kind::Missing, Blame::Upstream, incomplete));
    }
    copy_all(from, to, closure.paths, limits.concurrency).await
}

/// Copies these paths, each after those of its references that are among them. The others must be
/// in `to` already.
async fn copy_all(
    from: &dyn Cache,
    to: &dyn Cache,
    paths: Vec<Narinfo>,
    concurrency: usize,
) -> Result<Copied, Error> {
    let sizes = paths.iter().map(|path| path.info.nar_size);
    let copied = Copied {
        paths: paths.len(),
        nar_size_bytes: sizes.fold(0, u64::saturating_add),
    };
    references_first(paths, concurrency, |narinfo| copy(from, to, narinfo)).await?;
    Ok(copied)
}

/// Does `work` on each of these paths, after it was done on those of its references that are among
/// them; on at most `concurrency` at a time.
///
/// # Errors
/// The first; what is under way then is dropped.
pub async fn references_first<E, W: Future<Output = Result<Narinfo, E>>>(
    paths: Vec<Narinfo>,
    concurrency: usize,
    work: impl Fn(Narinfo) -> W,
) -> Result<(), E> {
    let mut plan = Plan::new(paths);
    let mut under_way = FuturesUnordered::new();
    loop {
        while under_way.len() < concurrency.max(1)
            && let Some(narinfo) = plan.next()
        {
            under_way.push(work(narinfo));
        }
        let Some(done) = under_way.next().await else {
            return Ok(());
        };
        plan.done(done?.info.store_path.hash());
    }
}

async fn copy(from: &dyn Cache, to: &dyn Cache, narinfo: Narinfo) -> Result<Narinfo, Error> {
    let nar = from.nar(&narinfo).await?;
    to.put(Claimed::new(narinfo.info.clone()), nar).await?;
    Ok(narinfo)
}

fn incomplete(absent: &Absent, count: usize) -> Incomplete {
    match &absent.needed {
        None => Incomplete::Root { root: absent.hash },
        Some(needed) => {
            let (by, path) = (needed.by.to_string(), needed.path.to_string());
            Incomplete::Reference { by, path, count }
        }
    }
}

/// Which paths may be copied now: those none of whose references are still to be copied.
struct Plan {
    ready: VecDeque<Narinfo>,
    waiting: BTreeMap<StoreHash, (usize, Narinfo)>,
    referrers: BTreeMap<StoreHash, Vec<StoreHash>>,
}

impl Plan {
    fn new(paths: Vec<Narinfo>) -> Plan {
        let mut plan = Plan {
            ready: VecDeque::new(),
            waiting: BTreeMap::new(),
            referrers: paths
                .iter()
                .map(|it| (it.info.store_path.hash(), Vec::new()))
                .collect(),
        };
        for narinfo in paths {
            let itself = narinfo.info.store_path.hash();
            let mut copied_first = 0;
            for reference in narinfo.info.references.iter().map(|it| it.hash()) {
                if reference != itself
                    && let Some(referrers) = plan.referrers.get_mut(&reference)
                {
                    referrers.push(itself);
                    copied_first += 1;
                }
            }
            match copied_first {
                0 => plan.ready.push_back(narinfo),
                count => drop(plan.waiting.insert(itself, (count, narinfo))),
            }
        }
        plan
    }

    fn next(&mut self) -> Option<Narinfo> {
        self.ready.pop_front()
    }

    fn done(&mut self, hash: StoreHash) {
        for referrer in self.referrers.remove(&hash).unwrap_or_default() {
            let Some((waits_for, _)) = self.waiting.get_mut(&referrer) else {
                continue;
            };
            *waits_for -= 1;
            if *waits_for == 0 {
                let ready = self.waiting.remove(&referrer).map(|(_, narinfo)| narinfo);
                self.ready.extend(ready);
            }
        }
    }
}
