//! Collection: what nobody needs goes, what is left moves together.
//!
//! ```text
//!   watch ----- from here on every use is noted (uses.rs) --------------------------------+
//!     |                                                                                    |
//!   paths       pins, grace, age, limit decide; removal is a durable record   (graph.rs)   |
//!   uploads     leases that ended                                             (sweep.rs)   |
//!   formers     encodings that no client remembers the URL of                 (sweep.rs)   |
//!   NARs        without path and lease: noted first, gone after the grace     (sweep.rs)   |
//!   frames      what pins' machines read is copied together                   (gather.rs)   |
//!   segments    mostly garbage: what lives is copied, the file is removed     (rewrite.rs) |
//!     |                                                                                    |
//!   unwatch <-- before each step the notes are looked at again ----------------------------+
//! ```
//!
//! Guarantees: runs beside pushes and reads; what is visible keeps its NAR and all its references;
//! what was said to be here after the collection began stays; each step is durable or can be
//! repeated, so that a crash at any point loses nothing. One collection runs at a time.

mod copier;
mod cover;
mod gather;
mod graph;
mod policy;
mod removals;
mod rewrite;
pub(crate) mod rows;
mod space;
mod sweep;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, TryLockError};

use serde::Serialize;
use snowcache_nix::{NarHash, StoreHash, StorePath};

use self::cover::cover;
pub(crate) use self::cover::cover_frames;
use self::gather::Gather;
pub(crate) use self::graph::LOW_WATER_PERCENT;
use self::graph::{Graph, Limit, Node, Reason};
pub use self::policy::{Policy, Stay};
pub use self::removals::Removals;
use self::removals::{Doomed, REMOVALS_AT_ONCE};
pub(crate) use self::rewrite::ROWS_AT_ONCE;
use self::rewrite::Rewrite;
pub(crate) use self::space::Coverage;
use self::sweep::Sweep;
use crate::commit::{Change, Outcome};
use crate::depot::{Depot, Shared};
use crate::former;
use crate::index::Batch;
use crate::keys::CacheName;
use crate::pins::Pin;
use crate::rows::PathRow;
use crate::{Error, ErrorKind, Result};

/// In whose name collections remove paths.
const COLLECTOR: &str = "gc";

/// Something that is removed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "removed", rename_all = "lowercase")]
pub enum Finding {
    /// A visible path.
    Path {
        /// The cache.
        cache: CacheName,
        /// The path, as base name.
        #[serde(serialize_with = "as_text")]
        path: StorePath,
        /// Length of its NAR.
        nar_size_bytes: u64,
        /// Why.
        reason: String,
    },
    /// An upload that no path came of.
    Upload {
        /// The cache.
        cache: CacheName,
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// A NAR.
    Nar {
        /// Its hash.
        #[serde(serialize_with = "as_text")]
        nar_hash: NarHash,
        /// Its length.
        nar_size_bytes: u64,
        /// Why.
        reason: String,
    },
    /// A segment: removed, after what lives in it was copied.
    Segment {
        /// Its number.
        number: u32,
        /// Its length.
        bytes: u64,
        /// What lives of it.
        live_bytes: u64,
        /// Why.
        reason: String,
    },
}

fn as_text<S: serde::Serializer>(value: &impl std::fmt::Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

/// What a collection came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Nothing was changed: the other figures say what would be.
    pub dry_run: bool,
    /// Paths removed.
    pub paths: u64,
    /// Uploads forgotten.
    pub uploads: u64,
    /// NARs removed.
    pub nars: u64,
    /// NARs that wait for the end of their grace.
    pub nars_waiting: u64,
    /// Former encodings let go: no client remembers their URLs, or the room was needed.
    pub former_encodings: u64,
    /// Segments removed without a rest.
    pub segments_removed: u64,
    /// Segments rewritten.
    pub segments_rewritten: u64,
    /// Bytes that segments got less.
    pub freed_bytes: u64,
    /// Bytes of pinned NARs that lay scattered and were copied together.
    pub gathered_bytes: u64,
    /// Bytes that were copied, for either reason.
    pub copied_bytes: u64,
    /// Bytes that live.
    pub live_bytes: u64,
    /// Bytes in segments now.
    pub stored_bytes: u64,
}

/// What removing paths by name came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removal {
    /// These are gone.
    pub removed: Vec<StorePath>,
    /// These stay, and why.
    pub kept: Vec<(StorePath, String)>,
}

impl Depot {
    /// Collects: see the module. `on` is told of everything that goes.
    ///
    /// # Errors
    /// `Busy` while another collection runs; what the disk says.
    pub fn collect(
        &self,
        policy: &Policy,
        dry_run: bool,
        on: &mut dyn FnMut(Finding),
    ) -> Result<Collected> {
        self.alone(|depot| {
            let index = depot.shared().index.ready()?;
            let mut collection = Collection {
                depot,
                policy,
                dry_run,
                index,
                now: (depot.shared().clock)(),
                on,
                collected: Collected {
                    dry_run,
                    ..Collected::default()
                },
            };
            collection.run()?;
            Ok(collection.collected)
        })
    }

    /// Lets the collection that runs, and whoever counts rows, end at the next step, with `Closed`,
    /// and every later one at its first: for a server that shuts down.
    pub fn stop_collecting(&self) {
        self.shared().stopping.store(true, Ordering::Relaxed);
    }

    /// Makes paths invisible, those that no pin holds and nothing that stays refers to. Their bytes
    /// go with the next collections.
    ///
    /// # Errors
    /// `Busy` while a collection runs; what the disk says.
    pub fn remove_paths(
        &self,
        cache: &CacheName,
        hashes: &[StoreHash],
        subject: &str,
        dry_run: bool,
    ) -> Result<Removal> {
        self.alone(|depot| by_name(depot, cache, hashes, subject, dry_run))
    }

    /// An error once the server shuts down.
    pub(crate) fn may_go_on(&self) -> Result<()> {
        match self.shared().stopping.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(Error::closed()),
        }
    }

    fn alone<T>(&self, work: impl FnOnce(&Depot) -> Result<T>) -> Result<T> {
        let shared = self.shared();
        let _alone = match shared.collecting.try_lock() {
            Ok(alone) => alone,
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(
                    ErrorKind::Busy,
                    "another collection is running; wait for its end",
                ));
            }
            Err(TryLockError::Poisoned(_)) => {
                return Err(Error::corrupt("an earlier collection panicked; restart"));
            }
        };
        shared.uses.watch();
        // What was decided before anybody watched is in the index when this is passed.
        let done = shared.undisturbed().and_then(|gate| {
            drop(gate);
            work(self)
        });
        shared.uses.unwatch();
        done
    }
}

/// One collection.
struct Collection<'a> {
    depot: &'a Depot,
    policy: &'a Policy,
    dry_run: bool,
    /// How often the index had begun anew when this began.
    index: u64,
    now: u64,
    on: &'a mut dyn FnMut(Finding),
    collected: Collected,
}

impl Collection<'_> {
    fn run(&mut self) -> Result<()> {
        self.depot.write_uses()?;
        self.unpin_deleted()?;
        let (gone, doomed) = self.paths()?;
        let depot = self.depot;
        depot.may_go_on()?;
        let mut sweep = Sweep::new(self, gone);
        sweep.formers()?;
        sweep.visible()?;
        sweep.uploads()?;
        sweep.conflicts()?;
        sweep.documents()?;
        sweep.frames()?;
        depot.may_go_on()?;
        let dead = sweep.nars()?;
        self.depot.commit(Change::Rest)?;
        Gather::new(self).run(&doomed.graph)?;
        drop(doomed);
        Rewrite::new(self, dead)?.run()
    }

    /// Removes paths; in a dry run tells which ones would go. The keys of those that went, and what
    /// there was before.
    fn paths(&mut self) -> Result<(HashSet<Vec<u8>>, Arc<Doomed>)> {
        let shared = self.depot.shared().clone();
        let graph = Graph::read(&shared)?;
        let pinned = graph.pinned(&shared, self.now)?;
        let mut coverage = Coverage::default();
        let mut cost = |nar| cover(&shared, &nar, &mut coverage, &mut |_| {});
        // Comfort goes before paths: with the next collection these will, if it was not enough.
        let pressed = !self.dry_run && shared.room.take_pressed();
        let has_given = pressed && self.let_go_of_formers()?;
        let limit = shared.room.usable_bytes().map(|bytes| Limit {
            bytes,
            was_met: !self.dry_run && shared.room.take_refused() && !has_given,
        });
        let verdict = graph.judge(self.policy, limit, &pinned, self.now, &mut cost)?;
        let goes = verdict.goes.iter().enumerate();
        let goes = goes.filter_map(|(node, reason)| Some((node as Node, (*reason)?)));
        let reasons: HashMap<Node, String> = goes
            .map(|(node, reason)| (node, self.words(reason)))
            .collect();
        let doomed = Arc::new(Doomed { graph, reasons });
        let on = &mut *self.on;
        let mut told = |finding| on(finding);
        let gone = remove(self.depot, &doomed, COLLECTOR, self.dry_run, &mut told)?;
        self.collected.paths = gone.len() as u64;
        Ok((gone, doomed))
    }

    /// Ends the pins of caches that were deleted.
    fn unpin_deleted(&mut self) -> Result<()> {
        for cache in self.policy.deleted().filter(|_| !self.dry_run) {
            for pin in self.depot.pins(cache)? {
                self.depot.remove_pin(cache, &pin.name, COLLECTOR)?;
            }
        }
        Ok(())
    }

    /// Lets go of all former encodings: a NAR is whole without them. Whether there were any.
    fn let_go_of_formers(&mut self) -> Result<bool> {
        let shared = self.depot.shared().clone();
        let mut any = false;
        for former in former::all(&*shared.index, &[]) {
            let former = former?;
            let _gate = shared.undisturbed()?;
            let mut batch = Batch::default();
            former.remove(&mut batch);
            shared.index.write(batch)?;
            self.collected.former_encodings += 1;
            any = true;
        }
        Ok(any)
    }

    fn words(&self, reason: Reason) -> String {
        match reason {
            Reason::Deleted => "its cache was deleted".to_owned(),
            Reason::TooOld(age, max) => format!(
                "not used for {}, longer than {} (max_age_s), and no pin holds it",
                duration(age),
                duration(max)
            ),
            Reason::OverLimit(age) => format!(
                "the depot is near max_size_bytes, and this was not used for {}",
                duration(age)
            ),
        }
    }
}

/// Removes what is doomed, what refers to others before them; returns the keys of what is gone.
fn remove(
    depot: &Depot,
    doomed: &Arc<Doomed>,
    subject: &str,
    dry_run: bool,
    on: &mut dyn FnMut(Finding),
) -> Result<HashSet<Vec<u8>>> {
    let graph = &doomed.graph;
    let mut order = Vec::with_capacity(doomed.reasons.len());
    let mut reached = vec![false; graph.len()];
    for node in doomed.reasons.keys() {
        graph.reach(*node, &mut reached, &mut |node| order.push(node));
    }
    order.retain(|node| doomed.reasons.contains_key(node));
    order.reverse();
    let mut gone = HashSet::new();
    let mut rest = order.as_slice();
    while let Some(first) = rest.first() {
        depot.may_go_on()?;
        let cache = graph.cache(*first)?;
        let same = |node: &&Node| graph.cache(**node).is_ok_and(|other| other == cache);
        let count = rest.iter().take(REMOVALS_AT_ONCE).take_while(same).count();
        let (part, behind) = rest.split_at(count);
        rest = behind;
        let findings = findings(depot.shared(), doomed, &cache, part)?;
        let removals = Removals {
            cache,
            subject: subject.to_owned(),
            doomed: doomed.clone(),
            nodes: part.to_vec(),
        };
        let keys = match dry_run {
            true => part.iter().map(|node| graph.key(*node).to_vec()).collect(),
            false => match depot.commit(Change::Remove(Arc::new(removals)))? {
                Outcome::Removed(keys) => keys,
                _ => unreachable!("removals were asked for"),
            },
        };
        for key in keys {
            if let Some(finding) = findings.get(&key) {
                on(finding.clone());
            }
            gone.insert(key);
        }
    }
    Ok(gone)
}

/// What there is to tell of paths, by their keys, while they are still there.
fn findings(
    shared: &Shared,
    doomed: &Doomed,
    cache: &CacheName,
    nodes: &[Node],
) -> Result<HashMap<Vec<u8>, Finding>> {
    let mut findings = HashMap::new();
    for node in nodes {
        let key = doomed.graph.key(*node);
        if let Some(row) = PathRow::get(&*shared.index, key)? {
            let info = row.info()?;
            let finding = Finding::Path {
                cache: cache.clone(),
                path: info.store_path,
                nar_size_bytes: info.nar_size,
                reason: doomed.reasons.get(node).cloned().unwrap_or_default(),
            };
            findings.insert(key.to_vec(), finding);
        }
    }
    Ok(findings)
}

fn by_name(
    depot: &Depot,
    cache: &CacheName,
    hashes: &[StoreHash],
    subject: &str,
    dry_run: bool,
) -> Result<Removal> {
    let shared = depot.shared();
    let now = (shared.clock)();
    let graph = Graph::read(shared)?;
    let pinned = graph.pinned(shared, now)?;
    let pins = depot.pins(cache)?;
    let wanted: Vec<Node> = hashes
        .iter()
        .filter_map(|hash| graph.find(&cache.path_key(hash)))
        .collect();
    let asked: HashSet<Node> = wanted.iter().copied().collect();
    // Who holds each path that stays: the pin's root or the path from which it is reached.
    let mut holder: HashMap<Node, Node> = HashMap::new();
    let mut reached = vec![false; graph.len()];
    for root in 0..graph.len() as Node {
        if !asked.contains(&root) || pinned.contains(&root) {
            graph.reach(root, &mut reached, &mut |node| {
                holder.insert(node, root);
            });
        }
    }
    let mut removal = Removal::default();
    let mut reasons = HashMap::new();
    for node in wanted {
        let Some(row) = PathRow::get(&*shared.index, graph.key(node))? else {
            continue;
        };
        let path = row.info()?.store_path;
        let Some(root) = holder.get(&node) else {
            reasons.insert(node, format!("removed by {subject}"));
            continue;
        };
        let why = match PathRow::get(&*shared.index, graph.key(*root))? {
            _ if pinned.contains(&node) => format!("pin {} holds it", names(&pins, &path, now)),
            Some(row) => format!("{} needs it", row.info()?.store_path),
            None => "something that stays needs it".to_owned(),
        };
        removal.kept.push((path, why));
    }
    let doomed = Arc::new(Doomed { graph, reasons });
    let mut told = |finding| {
        if let Finding::Path { path, .. } = finding {
            removal.removed.push(path);
        }
    };
    let gone = remove(depot, &doomed, subject, dry_run, &mut told)?;
    for node in doomed.reasons.keys() {
        let key = doomed.graph.key(*node);
        if let Some(row) = PathRow::get(&*shared.index, key)?
            && !gone.contains(key)
        {
            let why = "it was used just now; try again".to_owned();
            removal.kept.push((row.info()?.store_path, why));
        }
    }
    Ok(removal)
}

/// The pins of which a path is a root.
fn names(pins: &[Pin], path: &StorePath, now: u64) -> String {
    let of = |pin: &&Pin| pin.roots(now).any(|root| root.hash() == path.hash());
    let names = pins.iter().filter(of).map(|pin| pin.name.as_str());
    names.collect::<Vec<_>>().join(" and ")
}

/// A time as people say it, rounded down.
fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}
