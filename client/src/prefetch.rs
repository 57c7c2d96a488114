//! Bringing closures to this node, ahead of time: local, verified, pinned - or a reason why not.
//!
//! ```text
//!   can this node take anything?       see `preflight`
//!   walk the closure in the caches     signatures checked
//!   hold all of it                     temporary roots, before anything is relied on
//!   what is not valid here?            only that is fetched
//!   room for it?                       otherwise it is not begun
//!   older paths like these here?       those are held, too; a plan says what they have
//!   fetch -> verify -> import          several at a time, references first; each is rooted. The
//!                                      end of a path waits for its references, not its beginning
//!   all valid and right?               what was there before is hashed, too; a receipt says so
//!   pin the roots                      then the plan's roots and the pin's old ones go
//! ```
//!
//! Guarantees: `Ok` means that the whole closure was seen valid while it was held, and that the
//! roots are pinned since. Broken off at any moment, what was imported stays and is not fetched
//! again, and of what was under way only what was not written down yet ([`crate::frame_spool`]).
//! A daemon that restarts is gone back to, from the beginning: held anew, checked anew.
//! Never: more in memory than the closure's narinfos and, of each path under way, a few chunks, or
//! all of one of at most [`WHOLE_BYTES`](snowcache_core::cache::WHOLE_BYTES).

mod ahead;
mod arrivals;
mod bases;
mod delta;
mod old_nar;
mod patched;
mod places;
mod vouch;

use crate::frame_spool::FrameSpool;
use crate::node::{Node, NodeError};
use crate::preflight;
use crate::show;
use crate::sources::Sources;
use crate::store::Store;
use arrivals::Arrivals;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use places::Places;
use snowcache_core::cache::{Cache, NarStream, Narinfo};
use snowcache_core::closure::{self, Absent, Limits};
use snowcache_core::error::{Blame, Error, Kind};
use snowcache_core::path_info::Claimed;
use snowcache_nix::{StoreHash, StorePath};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::time::sleep;

/// Attempts at one path: the first, and three that may each go to another cache.
const MAX_ATTEMPTS: u32 = 4;
/// Before the second attempt; twice as long before the next.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Times that it is begun again after the daemon went away. A restart takes about a second.
const MAX_RUNS: u32 = 4;
/// Between these.
const DAEMON_WAIT: Duration = Duration::from_secs(2);

/// Paths under way for each that is fetched: the others have come but for their ends, or nothing of
/// them comes, and wait: a small one here, a large one with 100 KiB and a process of the daemon.
const WAITING_FOR_REFERENCES: usize = 4;

/// What is to be brought, and how.
pub struct Prefetch<'a> {
    /// From where.
    pub sources: &'a Sources,
    /// To where.
    pub store: &'a Store,
    /// What keeps it afterwards.
    pub node: &'a Node,
    /// What keeps what comes until it is imported: the one that the sources have.
    pub spool: &'a FrameSpool,
    /// Under which name.
    pub pin: &'a str,
    /// How many paths are fetched at a time.
    pub jobs: usize,
    /// Who is told.
    pub on: &'a (dyn Fn(Event<'_>) + Send + Sync),
}

/// What happens.
#[derive(Debug)]
pub enum Event<'a> {
    /// It is known what is to be done.
    Planned {
        /// Of the closure.
        paths: usize,
        /// Of these, what must be fetched.
        missing: usize,
        /// How much that is.
        nar_size_bytes: u64,
    },
    /// A path is valid now.
    Imported {
        /// The path.
        narinfo: &'a Narinfo,
        /// The cache that gave it.
        origin: &'a str,
    },
    /// What was there before and is on no receipt is read back.
    Rehashing {
        /// How many paths.
        paths: usize,
        /// How much that is.
        nar_size_bytes: u64,
    },
    /// Something failed and is tried again.
    Again {
        /// What failed.
        error: &'a Error,
    },
    /// Something is not as it should be, which does not keep it from becoming ready.
    Careful {
        /// What, and what that means.
        why: &'a str,
    },
}

/// What is there now.
#[derive(Debug)]
pub struct Ready {
    /// The roots, as they are called.
    pub roots: Vec<StorePath>,
    /// The closure, references first.
    pub closure: Vec<Narinfo>,
    /// How many paths were fetched.
    pub fetched: usize,
    /// How many of these were made of older paths.
    pub made: usize,
    /// How much that was.
    pub nar_size_bytes: u64,
}

/// Why it is not ready.
#[derive(Debug, Error)]
enum NotReady {
    #[error("{what} is in none of the caches ({caches}), nor in this node's store{more}; {remedy}")]
    Absent {
        what: String,
        caches: String,
        more: String,
        remedy: String,
    },
    #[error("{0} was valid and is in no cache, and is gone: something collected it")]
    Collected(StorePath),
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl NotReady {
    fn because(self, kind: Kind) -> Error {
        Error::new(kind, Blame::Client, self)
    }
}

impl Prefetch<'_> {
    /// Brings the closure of these roots here.
    ///
    /// # Errors
    /// With the reason: which path, which cache, what to do.
    pub async fn run(&self, roots: &[StoreHash]) -> Result<Ready, Error> {
        let mut run = 1;
        loop {
            match self.once(roots).await {
                Err(error)
                    if error.blame() == Blame::Storage
                        && error.kind() == Kind::Unavailable
                        && run < MAX_RUNS =>
                {
                    (self.on)(Event::Again { error: &error });
                    self.store.forget_connections().await;
                    sleep(DAEMON_WAIT).await;
                    run += 1;
                }
                result => return result,
            }
        }
    }

    async fn once(&self, roots: &[StoreHash]) -> Result<Ready, Error> {
        preflight::node()?;
        self.learn(roots).await?;
        let either = Either {
            sources: self.sources,
            store: self.store,
        };
        let closure = closure::walk(&either, None, roots, Limits::default()).await?;
        if let Some(absent) = closure.absent.first() {
            return Err(self.absent(absent, closure.absent.len()));
        }
        let closure = closure.paths;
        let paths: Vec<StorePath> = closure
            .iter()
            .map(|narinfo| narinfo.info.store_path.clone())
            .collect();
        self.store.hold(&paths).await?;
        let missing: BTreeSet<StorePath> = self.store.invalid(&paths).await?.into_iter().collect();
        let missing: Vec<Narinfo> = closure
            .iter()
            .filter(|narinfo| missing.contains(&narinfo.info.store_path))
            .cloned()
            .collect();
        let sizes = missing.iter().map(|narinfo| narinfo.info.nar_size);
        let nar_size_bytes = sizes.fold(0, u64::saturating_add);
        (self.on)(Event::Planned {
            paths: paths.len(),
            missing: missing.len(),
            nar_size_bytes,
        });
        if preflight::room(nar_size_bytes, missing.len()).is_err() {
            // What is kept of these paths takes some of it.
            self.spool.clear();
            preflight::room(nar_size_bytes, missing.len())?;
        }
        self.spool.begin(&missing, nar_size_bytes);
        self.complain();
        let fetched: BTreeSet<StorePath> = missing
            .iter()
            .map(|narinfo| narinfo.info.store_path.clone())
            .collect();
        let plans = delta::plan(self.sources, self.store, &missing).await?;
        let made = self.bring_all(missing, plans).await?;
        if let Some(gone) = self.store.invalid(&paths).await?.into_iter().next() {
            return Err(NotReady::Collected(gone).because(Kind::Unavailable));
        }
        let wanted: BTreeSet<StoreHash> = roots.iter().copied().collect();
        let roots = paths.into_iter().filter(|it| wanted.contains(&it.hash()));
        let roots: Vec<StorePath> = roots.collect();
        self.vouch(&roots, &closure, &fetched).await?;
        self.pin(&roots).await?;
        Ok(Ready {
            roots,
            closure,
            fetched: fetched.len(),
            made,
            nar_size_bytes,
        })
    }

    /// These paths, references first; gives how many were made of older ones.
    async fn bring_all(
        &self,
        missing: Vec<Narinfo>,
        mut plans: BTreeMap<StorePath, delta::Plan>,
    ) -> Result<usize, Error> {
        let under_way = UnderWay {
            arrivals: Arrivals::of(&missing),
            places: Places::new(self.jobs),
            made: AtomicUsize::new(0),
        };
        stream::iter(missing)
            .map(|narinfo| {
                let plan = plans.remove(&narinfo.info.store_path);
                self.make_or_bring(narinfo, plan, &under_way)
            })
            .buffer_unordered(self.jobs * WAITING_FOR_REFERENCES)
            .try_collect::<()>()
            .await?;
        Ok(under_way.made.into_inner())
    }

    /// One path, of an older one where there is a plan for that and it comes out right.
    async fn make_or_bring(
        &self,
        narinfo: Narinfo,
        plan: Option<delta::Plan>,
        under_way: &UnderWay,
    ) -> Result<(), Error> {
        let Some(plan) = plan else {
            return self.bring(narinfo, under_way).await;
        };
        let nar = plan.open(self.sources, &narinfo);
        match self.import(&narinfo, nar, under_way).await {
            Ok(()) => {
                under_way.made.fetch_add(1, Ordering::Relaxed);
                let origin = self.sources.origin(narinfo.info.store_path.hash());
                (self.on)(Event::Imported {
                    narinfo: &narinfo,
                    origin: &origin.unwrap_or_default(),
                });
                Ok(())
            }
            Err(error) if error.blame() == Blame::Storage => Err(error),
            Err(error) => {
                (self.on)(Event::Again { error: &error });
                self.spool.forget(narinfo.info.store_path.hash());
                self.bring(narinfo, under_way).await
            }
        }
    }

    /// One path, from whichever cache can give it.
    async fn bring(&self, mut narinfo: Narinfo, under_way: &UnderWay) -> Result<(), Error> {
        let path = narinfo.info.store_path.clone();
        let (mut attempt, mut wait) = (1, FIRST_WAIT);
        loop {
            let Some(origin) = self.sources.origin(path.hash()) else {
                return Err(NotReady::Collected(path).because(Kind::Missing));
            };
            let nar = self.sources.nar(&narinfo);
            let error = match self.import(&narinfo, nar, under_way).await {
                Ok(()) => {
                    let event = Event::Imported {
                        narinfo: &narinfo,
                        origin: &origin,
                    };
                    (self.on)(event);
                    return Ok(());
                }
                Err(error) if error.blame() == Blame::Storage => return Err(error),
                Err(error) => error,
            };
            if error.kind() == Kind::Corrupt {
                let was_here = self.spool.has_resumed(path.hash());
                self.spool.forget(path.hash());
                if was_here {
                    // What was here may be what is wrong, which is not the cache's fault.
                    (self.on)(Event::Again { error: &error });
                    continue;
                }
            }
            let elsewhere = self.sources.failed(&path, &error);
            if !elsewhere || attempt == MAX_ATTEMPTS {
                let exhausted = self.sources.exhausted(&path, &error);
                return Err(Error::new(error.kind(), error.blame(), exhausted));
            }
            (self.on)(Event::Again { error: &error });
            if !self.sources.has_another(&path) {
                sleep(wait).await;
            }
            (attempt, wait) = (attempt + 1, wait * 2);
            narinfo = match self.sources.narinfo(path.hash()).await? {
                Some(narinfo) if narinfo.info.store_path == path => narinfo,
                _ => {
                    let exhausted = self.sources.exhausted(&path, &error);
                    return Err(Error::new(Kind::Missing, Blame::Upstream, exhausted));
                }
            };
        }
    }

    /// One NAR, which is opened when it has a place. Whoever comes back from here has none.
    async fn import(
        &self,
        narinfo: &Narinfo,
        nar: impl Future<Output = Result<NarStream, Error>>,
        under_way: &UnderWay,
    ) -> Result<(), Error> {
        let info = &narinfo.info;
        let mut place = under_way.places.take(narinfo).await;
        let nar = place.during(nar).await?;
        let nar = place.with(nar);
        let references = under_way.arrivals.references(info);
        let claimed = Claimed::new(info.clone());
        self.store.put_after(references, claimed, nar).await?;
        under_way.arrivals.arrived(&info.store_path);
        self.spool.forget(info.store_path.hash());
        self.complain();
        let link = self.node.plan(self.pin, &info.store_path);
        let link = link.map_err(|error| NotReady::from(error).because(Kind::Invalid))?;
        Ok(self.store.add_indirect_roots(&[link]).await?)
    }

    async fn pin(&self, roots: &[StorePath]) -> Result<(), Error> {
        let cannot = |error| NotReady::from(error).because(Kind::Invalid);
        let links = self.node.pin(self.pin, roots).map_err(cannot)?;
        self.store.add_indirect_roots(&links).await?;
        // A collection that began before reads the permanent roots first and the temporary ones a
        // while later, when this program may have gone. To hold the roots anew is to tell it.
        self.store.hold(roots).await?;
        self.spool.clear();
        self.node.settle(self.pin, roots).map_err(cannot)
    }

    fn complain(&self) {
        if let Some(why) = self.spool.complaint() {
            (self.on)(Event::Careful { why: &why });
        }
    }

    fn absent(&self, absent: &Absent, count: usize) -> Error {
        let what = match &absent.needed {
            None => absent.hash.to_string(),
            Some(needed) => format!("{} (needed by {})", needed.path, needed.by),
        };
        let remedy = match &absent.upstream {
            None => "push it".to_owned(),
            Some(key) => format!("add the upstream that signs with {key} to these caches"),
        };
        let more = match count {
            1 => String::new(),
            count => format!(" (and {} more)", show::count(count as u64 - 1)),
        };
        let caches = self.sources.names();
        let not_ready = NotReady::Absent {
            what,
            caches,
            more,
            remedy,
        };
        not_ready.because(Kind::Missing)
    }
}

/// What the paths that are brought have in common.
struct UnderWay {
    arrivals: Arrivals,
    /// For those that are fetched.
    places: Places,
    /// How many were made of older paths.
    made: AtomicUsize,
}

/// The caches, and for what none of them has, the node's own store.
struct Either<'a> {
    sources: &'a Sources,
    store: &'a Store,
}

impl Cache for Either<'_> {
    fn narinfo(&self, hash: StoreHash) -> BoxFuture<'_, Result<Option<Narinfo>, Error>> {
        async move {
            match self.sources.narinfo(hash).await? {
                Some(narinfo) => Ok(Some(narinfo)),
                None => self.store.narinfo(hash).await,
            }
        }
        .boxed()
    }

    fn nar<'a>(&'a self, narinfo: &'a Narinfo) -> BoxFuture<'a, Result<NarStream, Error>> {
        self.sources.nar(narinfo)
    }

    fn missing<'a>(
        &'a self,
        hashes: &'a [StoreHash],
    ) -> BoxFuture<'a, Result<Vec<StoreHash>, Error>> {
        async move {
            let missing = self.sources.missing(hashes).await?;
            self.store.missing(&missing).await
        }
        .boxed()
    }

    fn put(&self, claimed: Claimed, nar: NarStream) -> BoxFuture<'_, Result<(), Error>> {
        self.store.put(claimed, nar)
    }
}
