//! Several caches as one: the first that has a path, signed by somebody who is trusted, gives it;
//! when it fails, the next does.
//!
//! ```text
//!   narinfo   learnt at once where a cache offers it, otherwise asked for in the order given
//!   nar       from the cache whose narinfo it is, or from whoever answers first with the same
//!   failed    that cache is not asked for this path again; one that is gone or silent, for
//!             anything, for [`REST`], as long as there are others
//!
//!   a cache that gives nothing any more, and another one that has the same:
//!   a narinfo, a NAR's beginning   DOUBT                          -> the other is asked, too
//!   the middle of a NAR            STALL; from DOUBT on the other
//!                                  is asked whether it has it     -> begins anew there
//!   plans, many narinfos           DOUBT + ALIVE, in which it does
//!                                  not answer and the other does  -> done without
//!   it refuses, or breaks off      nothing                        -> the next
//! ```
//!
//! Guarantees: a narinfo that comes out of here is signed by a trusted key, or content-addressed
//! (which whoever imports it checks). A cache that dies, refuses, or stalls at any moment is left
//! within [`FAILOVER`] if another one has what it was to give (see `race`, and `Elsewhere` of
//! [`crate::remote`]); one that is alone is waited for. Never: written to; two
//! caches' bytes mixed in one NAR.

mod nars;
mod race;
mod resting;

pub use resting::REST;

use crate::remote::{Batch, DOUBT, HASHES_PER_REQUEST, Remote, STALL};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Either, join_all, select};
use futures::stream::{FuturesUnordered, StreamExt};
use race::{Raced, race};
use resting::Resting;
use snowcache_core::cache::{Cache, NarStream, Narinfo};
use snowcache_core::delta::Pair;
use snowcache_core::error::{Blame, Error, Kind};
use snowcache_core::path_info::Claimed;
use snowcache_core::swap::Swaps;
use snowcache_nix::{PathInfo, PublicKey, StoreHash, StorePath, fingerprint};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};

/// What a cache that stops giving anything may cost, until another one that has the same gives it.
pub const FAILOVER: Duration = Duration::from_secs(1);

/// How long a cache may take to say that it lives while it is busy with something long. A new
/// connection over TLS and a question are three round trips.
const ALIVE: Duration = Duration::from_millis(450);

/// A round trip to a cache on the same continent, for the arithmetic of [`FAILOVER`].
const ROUND_TRIP_MS: u128 = 100;

/// Whether so long a wait, and so many round trips to another cache after it, are below that.
const fn is_quick(waited: Duration, round_trips: u128) -> bool {
    waited.as_millis() + round_trips * ROUND_TRIP_MS < FAILOVER.as_millis()
}
/// A connection over TLS takes two of them; a narinfo and the beginning of its NAR one each. Who
/// was asked whether it has what stalled has a connection by then.
const _: () = assert!(is_quick(DOUBT, 2 + 1 + 2) && is_quick(STALL, 2));
/// So has who said that it lives while another one did not.
const _: () = assert!(is_quick(DOUBT.saturating_add(ALIVE), 2));

/// Rounds of questions for one narinfo, when every cache that could be asked has failed.
const MAX_ROUNDS: u32 = 4;
/// Before the second round; twice as long before the next.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// Why a path cannot be had.
#[derive(Debug, Error)]
pub enum SourceError {
    /// It is there, but nobody vouches for it.
    #[error(
        "{path} in {cache} is {problem}; trusted are {trusted}: add the cache's key to \
         trusted-public-keys of nix.conf, or give --trusted-public-keys"
    )]
    Untrusted {
        /// The path.
        path: StorePath,
        /// Where it is.
        cache: String,
        /// Not signed by them, or wrongly.
        problem: &'static str,
        /// The names of the keys that are trusted.
        trusted: String,
    },
    /// Every cache was tried.
    #[error("{path} can be had from no cache: {tried}")]
    Exhausted {
        /// The path.
        path: StorePath,
        /// Each cache with what it answered.
        tried: String,
    },
    /// There is none, or none has it.
    #[error("none of the caches has it any more")]
    NoCache,
    /// What it alone could give is not waited for.
    #[error("{0} does not answer at the moment")]
    Gone(String),
    /// A source is never written to.
    #[error("the caches of a prefetch are only read from")]
    ReadOnly,
}

/// The caches to fetch from.
pub struct Sources {
    caches: Vec<Remote>,
    trusted: Vec<PublicKey>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Whose narinfo of a path is used.
    known: BTreeMap<StoreHash, (usize, Narinfo)>,
    /// What a cache could not give, and why.
    refused: BTreeMap<(StoreHash, usize), String>,
    /// The keys by which paths were found to be signed.
    vouching: BTreeSet<String>,
    /// Who is left alone.
    resting: Resting,
}

/// What a cache says of some pairs.
pub struct Planned {
    /// The swaps that all of its deltas begin with.
    pub swaps: Swaps,
    /// How paths are made, where they need not be fetched whole.
    pub deltas: Vec<(Pair, Bytes)>,
}

impl Sources {
    /// These caches, in this order, and the keys of which one must have signed each path.
    pub fn new(caches: Vec<Remote>, trusted: Vec<PublicKey>) -> Sources {
        let caches = match caches.len() {
            0 | 1 => caches,
            _ => caches.into_iter().map(Remote::impatient).collect(),
        };
        Sources {
            caches,
            trusted,
            state: Arc::default(),
        }
    }

    /// The caches, for people.
    pub fn names(&self) -> String {
        let names = self.caches.iter().map(|cache| cache.endpoint().to_string());
        names.collect::<Vec<_>>().join(", ")
    }

    /// The cache that a path comes from.
    pub fn origin(&self, hash: StoreHash) -> Option<String> {
        let origin = self.state().known.get(&hash).map(|(origin, _)| *origin)?;
        Some(self.caches[origin].endpoint().to_string())
    }

    /// The public keys by which what came from here was found to be signed.
    pub fn vouching_keys(&self) -> Vec<String> {
        self.state().vouching.iter().cloned().collect()
    }

    /// Learns the narinfos of whole closures at once from the first cache that offers that. What
    /// goes wrong with it goes wrong again, and is told, when a narinfo is asked for.
    pub async fn learn(&self, roots: &[StoreHash]) {
        let mut seen: BTreeSet<StoreHash> = roots.iter().copied().collect();
        let mut open: Vec<StoreHash> = seen.iter().copied().collect();
        for cache in self.order() {
            let url = self
                .while_alive(cache, self.caches[cache].batch_url())
                .await;
            let Some(Ok(Some(url))) = url else {
                // A cache that answers, and not so, is not passed over for one behind it.
                match url {
                    Some(Ok(None)) if cache == 0 => return,
                    _ => continue,
                }
            };
            while !open.is_empty() {
                let asked = open[..open.len().min(HASHES_PER_REQUEST)].to_vec();
                let answer = self.caches[cache].batch(&url, &asked);
                let Some(Ok(Some(batch))) = self.while_alive(cache, answer).await else {
                    break;
                };
                open.drain(..asked.len());
                self.remember(cache, batch, &mut seen, &mut open);
            }
            if open.is_empty() {
                return;
            }
        }
    }

    fn remember(
        &self,
        cache: usize,
        batch: Batch,
        seen: &mut BTreeSet<StoreHash>,
        open: &mut Vec<StoreHash>,
    ) {
        let references = batch
            .narinfos
            .iter()
            .flat_map(|narinfo| &narinfo.info.references)
            .map(|path| path.hash());
        let named: Vec<StoreHash> = references.chain(batch.hinted).collect();
        let came = batch.narinfos.iter().map(|it| it.info.store_path.hash());
        let came: BTreeSet<StoreHash> = came.collect();
        open.retain(|hash| !came.contains(hash));
        seen.extend(came);
        open.extend(named.into_iter().filter(|hash| seen.insert(*hash)));
        for narinfo in batch.narinfos {
            if self.problem(&narinfo.info).is_none() {
                let hash = narinfo.info.store_path.hash();
                self.state().known.insert(hash, (cache, narinfo));
            }
        }
    }

    /// Makes so many connections to the cache that is asked first, for what will be asked of it. Of
    /// what goes wrong with it whoever asks for something is told.
    pub async fn open_ahead(&self, connections: usize) {
        let Some(&cache) = self.order().first() else {
            return;
        };
        // Once, or a cache that is busy would be asked again by all of them.
        let cache = self.caches[cache].clone().impatient();
        join_all((0..connections).map(|_| cache.answers())).await;
    }

    /// What a cache takes long to say: nothing when it turns out not to answer anything any more,
    /// and another one does. Such a cache rests.
    async fn while_alive<T>(&self, cache: usize, work: impl Future<Output = T>) -> Option<T> {
        if self.caches.len() < 2 {
            return Some(work.await);
        }
        let mut work = pin!(work);
        loop {
            let dead = async {
                sleep(DOUBT).await;
                self.is_dead(cache).await
            };
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                dead = dead => if dead {
                    self.state().resting.gone(cache, Instant::now());
                    return None;
                }
            }
        }
    }

    /// Whether it does not say within [`ALIVE`] that it lives, and another one does.
    async fn is_dead(&self, cache: usize) -> bool {
        let another = async {
            // Most of the time nobody else need be asked.
            sleep(ALIVE / 3).await;
            let others = self.order().into_iter().filter(|it| *it != cache);
            let asked: FuturesUnordered<_> =
                others.map(|it| self.lives(it, ALIVE * 2 / 3)).collect();
            asked.any(|lives| async move { lives }).await
        };
        match select(pin!(self.lives(cache, ALIVE)), pin!(another)).await {
            Either::Left((true, _)) => false,
            Either::Left((false, another)) => another.await,
            Either::Right((another, lives)) => another && !lives.await,
        }
    }

    async fn lives(&self, cache: usize, within: Duration) -> bool {
        let answers = timeout(within, self.caches[cache].answers()).await;
        answers.unwrap_or(false)
    }

    /// A NAR from here turned out wrong, or broke off: the next attempt goes elsewhere if it can.
    /// Gives whether there is anywhere to go.
    pub fn failed(&self, path: &StorePath, error: &Error) -> bool {
        let mut state = self.state();
        let Some((origin, _)) = state.known.remove(&path.hash()) else {
            return false;
        };
        match error.kind() {
            Kind::Unavailable => {
                state.resting.gone(origin, Instant::now());
            }
            _ => {
                let refusal = (path.hash(), origin);
                state.refused.insert(refusal, error.to_string());
            }
        }
        let usable = |cache: &usize| !state.refused.contains_key(&(path.hash(), *cache));
        (0..self.caches.len()).any(|cache| usable(&cache))
    }

    /// Every cache's own reason why a path cannot be had from it.
    pub fn exhausted(&self, path: &StorePath, last: &Error) -> SourceError {
        let state = self.state();
        let reasons = (0..self.caches.len()).map(|cache| {
            let why = state.refused.get(&(path.hash(), cache));
            let why = why.cloned().unwrap_or_else(|| last.to_string());
            format!("{}: {why}", self.caches[cache].endpoint())
        });
        SourceError::Exhausted {
            path: path.clone(),
            tried: reasons.collect::<Vec<_>>().join("; "),
        }
    }

    /// Whether a cache that does not rest could be asked for this path at once.
    pub fn has_another(&self, path: &StorePath) -> bool {
        let usable = self.usable(path.hash());
        usable.into_iter().any(|cache| !self.rests(cache))
    }

    /// In the order given, those that rest last.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.caches.len()).collect();
        order.sort_by_key(|cache| self.rests(*cache));
        order
    }

    /// The same, without those that could not give this path before.
    fn usable(&self, hash: StoreHash) -> Vec<usize> {
        let order = self.order();
        let state = self.state();
        let usable = |cache: &usize| !state.refused.contains_key(&(hash, *cache));
        order.into_iter().filter(usable).collect()
    }

    /// Lets those rest that did not answer; the error that says most, if there is one.
    fn note<T>(&self, raced: &mut Raced<T>) -> Option<Error> {
        let mut failed = std::mem::take(&mut raced.failed);
        let gone = |error: &Error| error.kind() == Kind::Unavailable;
        let (mut state, now) = (self.state(), Instant::now());
        for (cache, _) in failed.iter().filter(|(_, error)| gone(error)) {
            state.resting.gone(*cache, now);
        }
        for cache in raced.silent.drain(..) {
            state.resting.silent(cache, now);
        }
        failed.sort_by_key(|(_, error)| gone(error));
        failed.into_iter().next().map(|(_, error)| error)
    }

    async fn find(&self, hash: StoreHash) -> Result<Option<Narinfo>, Error> {
        if let Some((_, narinfo)) = self.state().known.get(&hash) {
            return Ok(Some(narinfo.clone()));
        }
        let mut wait = FIRST_WAIT;
        for round in 1.. {
            let order = self.usable(hash);
            let mut raced = race(&order, |cache| self.ask_narinfo(cache, hash).boxed()).await;
            let failure = self.note(&mut raced);
            if let Some((cache, narinfo)) = raced.won {
                self.state().known.insert(hash, (cache, narinfo.clone()));
                return Ok(Some(narinfo));
            }
            match failure {
                // One cache alone has been asked several times already.
                Some(error)
                    if error.kind() == Kind::Unavailable
                        && self.caches.len() > 1
                        && round < MAX_ROUNDS =>
                {
                    sleep(wait).await;
                    wait *= 2;
                }
                failure => return failure.map_or(Ok(None), Err),
            }
        }
        Ok(None)
    }

    async fn ask_narinfo(&self, cache: usize, hash: StoreHash) -> Result<Option<Narinfo>, Error> {
        let found = self.caches[cache].narinfo(hash).await?;
        if let Some(narinfo) = &found {
            self.check(cache, narinfo)?;
        }
        Ok(found)
    }

    fn check(&self, cache: usize, narinfo: &Narinfo) -> Result<(), Error> {
        let Some(problem) = self.problem(&narinfo.info) else {
            return Ok(());
        };
        let names: Vec<&str> = self.trusted.iter().map(PublicKey::name).collect();
        let untrusted = SourceError::Untrusted {
            path: narinfo.info.store_path.clone(),
            cache: self.caches[cache].endpoint().to_string(),
            problem,
            trusted: match names.is_empty() {
                true => "no keys at all".to_owned(),
                false => names.join(", "),
            },
        };
        Err(Error::new(Kind::Denied, Blame::Upstream, untrusted))
    }

    /// What is wrong with a path's signatures.
    fn problem(&self, info: &PathInfo) -> Option<&'static str> {
        // What is content-addressed proves itself.
        if info.ca.is_some() {
            return None;
        }
        let message = fingerprint(info);
        let mut named = false;
        for key in &self.trusted {
            for signature in &info.signatures {
                named |= signature.key_name() == key.name();
                if key.verify(&message, signature) {
                    self.state().vouching.insert(key.to_string());
                    return None;
                }
            }
        }
        Some(match named {
            true => "signed wrongly: its signature is not over what its narinfo says",
            false => "not signed by a key that is trusted",
        })
    }

    fn origin_of(&self, hash: StoreHash) -> usize {
        let state = self.state();
        state.known.get(&hash).map_or(0, |(origin, _)| *origin)
    }

    fn rests(&self, cache: usize) -> bool {
        self.state().resting.rests(cache, Instant::now())
    }

    fn is_gone(&self, cache: usize) -> bool {
        self.state().resting.is_gone(cache, Instant::now())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Maps whose holder panicked are whole: every change is one insert or remove.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Without caches nothing can be had.
fn no_cache() -> Error {
    Error::new(Kind::Missing, Blame::Client, SourceError::NoCache)
}

impl Cache for Sources {
    fn narinfo(&self, hash: StoreHash) -> BoxFuture<'_, Result<Option<Narinfo>, Error>> {
        self.find(hash).boxed()
    }

    fn nar<'a>(&'a self, narinfo: &'a Narinfo) -> BoxFuture<'a, Result<NarStream, Error>> {
        self.open(narinfo).boxed()
    }

    fn missing<'a>(
        &'a self,
        hashes: &'a [StoreHash],
    ) -> BoxFuture<'a, Result<Vec<StoreHash>, Error>> {
        async move {
            let mut missing = hashes.to_vec();
            for cache in self.order() {
                missing = self.caches[cache].missing(&missing).await?;
            }
            Ok(missing)
        }
        .boxed()
    }

    fn put(&self, _: Claimed, _: NarStream) -> BoxFuture<'_, Result<(), Error>> {
        let refused = Error::new(Kind::Denied, Blame::Client, SourceError::ReadOnly);
        async move { Err(refused) }.boxed()
    }
}
