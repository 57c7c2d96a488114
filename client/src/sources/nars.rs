//! NARs from several caches: whole ones, and what older ones are made into them with.
//!
//! Guarantees: a NAR is opened at whoever answers first of those that have the same one, and left
//! when it stalls while another one has it. What only a cache that is gone could give is not waited
//! for, as long as another one has the whole path. Never: bytes of two caches in one NAR.

use super::race::race;
use super::{Planned, SourceError, Sources, lock, no_cache};
use crate::remote::{Elsewhere, Remote};
use bytes::Bytes;
use futures::FutureExt;
use futures::stream::BoxStream;
use snowcache_core::cache::{Cache, NarStream, Narinfo};
use snowcache_core::delta::{self, Pair};
use snowcache_core::error::{Blame, Error, Kind};
use snowcache_nix::{NarHash, PathInfo};
use tokio::time::Instant;

impl Sources {
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
                let plan = self.while_alive(number, cache.plan(pairs)).await;
                let Some(Ok(Some(deltas))) = plan else {
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
        let (cache, theirs) = self.whose(narinfo).await?;
        cache.frames(&theirs, ranges.to_vec()).await
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
        let (cache, _) = self.whose(narinfo).await?;
        let hash = narinfo.info.store_path.hash();
        cache.patch(name, hash, pieces).await
    }

    /// The cache whose narinfo this is; when that is gone, one that has the same file, and its
    /// narinfo.
    async fn whose(&self, narinfo: &Narinfo) -> Result<(Remote, Narinfo), Error> {
        let hash = narinfo.info.store_path.hash();
        let origin = self.origin_of(hash);
        if origin >= self.caches.len() {
            return Err(no_cache());
        }
        if !self.is_gone(origin) || self.caches.len() == 1 {
            return Ok((self.watched(origin, &narinfo.info), narinfo.clone()));
        }
        let others = self.usable(hash).into_iter().filter(|it| *it != origin);
        let others: Vec<usize> = others.collect();
        let ask = |cache| self.ask_narinfo(cache, hash).boxed();
        let mut raced = race(&others, ask).await;
        self.note(&mut raced);
        let same = |theirs: &Narinfo| theirs.info.nar_hash == narinfo.info.nar_hash;
        match raced.won.filter(|(_, theirs)| same(theirs)) {
            // It is alone in having it: it is waited for.
            None => Ok((self.watched(origin, &narinfo.info), narinfo.clone())),
            Some((cache, theirs)) if theirs.file_name() == narinfo.file_name() => {
                self.state().known.insert(hash, (cache, theirs.clone()));
                Ok((self.watched(cache, &narinfo.info), theirs))
            }
            Some(_) => {
                let gone = self.caches[origin].endpoint().to_string();
                let gone = SourceError::Gone(gone);
                Err(Error::new(Kind::Unavailable, Blame::Upstream, gone))
            }
        }
    }

    pub(super) async fn open(&self, narinfo: &Narinfo) -> Result<NarStream, Error> {
        let hash = narinfo.info.store_path.hash();
        let origin = self.origin_of(hash);
        let mut order = self.usable(hash);
        if !order.contains(&origin) {
            order.push(origin);
        }
        // The one whose narinfo it is before those that do not rest either.
        if !self.rests(origin) {
            order.sort_by_key(|cache| *cache != origin);
        }
        let ask = |cache| self.open_at(cache, origin, narinfo).boxed();
        let mut raced = race(&order, ask).await;
        let failure = self.note(&mut raced);
        match raced.won {
            Some((cache, (theirs, nar))) => {
                self.state().known.insert(hash, (cache, theirs));
                Ok(nar)
            }
            None => Err(failure.unwrap_or_else(no_cache)),
        }
    }

    /// The NAR from one of the caches, if it has the same.
    async fn open_at(
        &self,
        cache: usize,
        origin: usize,
        narinfo: &Narinfo,
    ) -> Result<Option<(Narinfo, NarStream)>, Error> {
        let info = &narinfo.info;
        let same = |theirs: &Narinfo| {
            theirs.info.nar_hash == info.nar_hash && theirs.info.nar_size == info.nar_size
        };
        let theirs = match cache == origin {
            true => Some(narinfo.clone()),
            false => self.ask_narinfo(cache, info.store_path.hash()).await?,
        };
        let Some(theirs) = theirs.filter(same) else {
            return Ok(None);
        };
        let nar = self.watched(cache, info).nar(&theirs).await?;
        Ok(Some((theirs, nar)))
    }

    /// A cache, which is left when it stalls while another one has the NAR of this path.
    fn watched(&self, cache: usize, info: &PathInfo) -> Remote {
        let (hash, nar_hash) = (info.store_path.hash(), info.nar_hash);
        let others = self.usable(hash).into_iter().filter(|it| *it != cache);
        let others: Vec<Remote> = others.map(|it| self.caches[it].clone()).collect();
        let remote = self.caches[cache].clone();
        if others.is_empty() {
            return remote;
        }
        let has_it = move || {
            let others = others.clone();
            async move {
                let order: Vec<usize> = (0..others.len()).collect();
                let ask = |other: usize| {
                    let other = others[other].clone();
                    let same = move |it: &Narinfo| it.info.nar_hash == nar_hash;
                    async move { Ok(other.narinfo(hash).await?.filter(same)) }.boxed()
                };
                race(&order, ask).await.won.is_some()
            }
            .boxed()
        };
        let state = self.state.clone();
        let left = move || lock(&state).resting.gone(cache, Instant::now());
        remote.or(Elsewhere::new(has_it, left))
    }
}
