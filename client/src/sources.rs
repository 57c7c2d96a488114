//! Several caches as one: the first that has a path, signed by somebody who is trusted, gives it;
//! when it fails, the next does.
//!
//! ```text
//!   narinfo   learnt at once where a cache offers it, otherwise asked for in the order given
//!   nar       from the cache whose narinfo it is
//!   failed    that cache is not asked for this path again; one that is gone, for anything, for
//!             [`REST`]
//! ```
//!
//! Guarantees: a narinfo that comes out of here is signed by a trusted key, or content-addressed
//! (which whoever imports it checks). A cache that is gone costs its own timeout once, not once a
//! path. Never: written to; two caches' bytes mixed in one NAR.

use crate::remote::{Batch, HASHES_PER_REQUEST, Remote};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use snowcache_core::cache::{Cache, NarStream, Narinfo};
use snowcache_core::delta::{self, Pair};
use snowcache_core::error::{Blame, Error, Kind};
use snowcache_core::path_info::Claimed;
use snowcache_core::swap::Swaps;
use snowcache_nix::{NarHash, PathInfo, PublicKey, StoreHash, StorePath, fingerprint};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;

/// How long a cache that did not answer is left alone: nix-daemon does so for a minute; here a
/// restart of the cache should be noticed within a prefetch.
pub const REST: Duration = Duration::from_secs(10);

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
    /// A source is never written to.
    #[error("the caches of a prefetch are only read from")]
    ReadOnly,
}

/// The caches to fetch from.
pub struct Sources {
    caches: Vec<Remote>,
    trusted: Vec<PublicKey>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whose narinfo of a path is used.
    known: BTreeMap<StoreHash, (usize, Narinfo)>,
    /// What a cache could not give, and why.
    refused: BTreeMap<(StoreHash, usize), String>,
    /// The keys by which paths were found to be signed.
    vouching: BTreeSet<String>,
    /// Until when a cache is left alone.
    resting: BTreeMap<usize, Instant>,
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
        Sources {
            caches,
            trusted,
            state: Mutex::default(),
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

    /// Learns the narinfos of whole closures at once from the first cache, where it offers that.
    /// What goes wrong with it goes wrong again, and is told, when a narinfo is asked for.
    pub async fn learn(&self, roots: &[StoreHash]) {
        let Some(first) = self.caches.first() else {
            return;
        };
        let Ok(Some(url)) = first.batch_url().await else {
            return;
        };
        let mut seen: BTreeSet<StoreHash> = roots.iter().copied().collect();
        let mut open: Vec<StoreHash> = seen.iter().copied().collect();
        while !open.is_empty() {
            let rest = open.split_off(open.len().min(HASHES_PER_REQUEST));
            let asked = std::mem::replace(&mut open, rest);
            let Ok(Some(batch)) = first.batch(&url, &asked).await else {
                return;
            };
            self.remember(batch, &mut seen, &mut open);
        }
    }

    fn remember(&self, batch: Batch, seen: &mut BTreeSet<StoreHash>, open: &mut Vec<StoreHash>) {
        let references = batch
            .narinfos
            .iter()
            .flat_map(|narinfo| &narinfo.info.references)
            .map(|path| path.hash());
        let named: Vec<StoreHash> = references.chain(batch.hinted).collect();
        open.extend(named.into_iter().filter(|hash| seen.insert(*hash)));
        for narinfo in batch.narinfos {
            if self.problem(&narinfo.info).is_none() {
                let hash = narinfo.info.store_path.hash();
                self.state().known.insert(hash, (0, narinfo));
            }
        }
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
                state.resting.insert(origin, Instant::now() + REST);
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

    /// In the order given, those that rest last.
    fn order(&self) -> Vec<usize> {
        let (state, now) = (self.state(), Instant::now());
        let rests = |cache: &usize| state.resting.get(cache).is_some_and(|until| *until > now);
        let mut order: Vec<usize> = (0..self.caches.len()).collect();
        order.sort_by_key(rests);
        order
    }

    async fn find(&self, hash: StoreHash) -> Result<Option<Narinfo>, Error> {
        if let Some((_, narinfo)) = self.state().known.get(&hash) {
            return Ok(Some(narinfo.clone()));
        }
        let mut failure = None;
        for cache in self.order() {
            if self.state().refused.contains_key(&(hash, cache)) {
                continue;
            }
            match self.caches[cache].narinfo(hash).await {
                Ok(None) => {}
                Ok(Some(narinfo)) => match self.check(cache, &narinfo) {
                    Ok(()) => {
                        let found = (cache, narinfo.clone());
                        self.state().known.insert(hash, found);
                        return Ok(Some(narinfo));
                    }
                    Err(error) => failure = Some(error),
                },
                Err(error) => {
                    if error.kind() == Kind::Unavailable {
                        self.state().resting.insert(cache, Instant::now() + REST);
                    }
                    failure = failure.or(Some(error));
                }
            }
        }
        failure.map_or(Ok(None), Err)
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

    /// How each of these is made, each by the cache that it would be fetched from. A cache that
    /// does not say is one to fetch whole NARs from.
    pub async fn plan(&self, pairs: &[Pair]) -> Vec<Planned> {
        let mut planned = Vec::new();
        for (number, cache) in self.caches.iter().enumerate() {
            let origin = |pair: &&Pair| {
                let state = self.state();
                let known = state.known.get(&pair.wanted);
                known.is_some_and(|(origin, _)| *origin == number)
            };
            let pairs: Vec<Pair> = pairs.iter().filter(origin).copied().collect();
            for pairs in pairs.chunks(delta::MAX_PAIRS) {
                let Ok(Some(deltas)) = cache.plan(pairs).await else {
                    break;
                };
                let deltas = pairs.iter().zip(deltas);
                planned.push(Planned {
                    swaps: delta::swaps(pairs),
                    deltas: deltas.filter_map(|(pair, it)| Some((*pair, it?))).collect(),
                });
            }
        }
        planned
    }

    /// The NAR bytes in these ranges of what `narinfo` names, from the cache whose it is.
    ///
    /// # Errors
    /// When that cannot be asked, or does not have them.
    pub async fn frames(
        &self,
        narinfo: &Narinfo,
        ranges: &[(u64, u64)],
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        self.whose(narinfo)?.frames(narinfo, ranges.to_vec()).await
    }

    /// The pieces of the patch that makes the NAR of `narinfo` of `old`: bytes of its file.
    ///
    /// # Errors
    /// When the cache cannot be asked, or does not have it any more.
    pub async fn patch(
        &self,
        narinfo: &Narinfo,
        old: &NarHash,
        pieces: (u64, u64),
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let name = delta::patch::name(&narinfo.info.nar_hash, old);
        self.whose(narinfo)?.ranges(name, vec![pieces]).await
    }

    async fn open(&self, narinfo: &Narinfo) -> Result<NarStream, Error> {
        self.whose(narinfo)?.nar(narinfo).await
    }

    fn whose(&self, narinfo: &Narinfo) -> Result<&Remote, Error> {
        let hash = narinfo.info.store_path.hash();
        let origin = self
            .state()
            .known
            .get(&hash)
            .map_or(0, |(origin, _)| *origin);
        let cache = self.caches.get(origin);
        cache.ok_or_else(|| Error::new(Kind::Missing, Blame::Client, SourceError::ReadOnly))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Maps whose holder panicked are whole: every change is one insert or remove.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
