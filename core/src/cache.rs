//! The waist: a cache is four verbs. What answers them - the depot, another cache over HTTP,
//! /nix/store, memory - looks the same from here, so that copying, mirroring and verifying are
//! written once.
//!
//! ```text
//!   narinfo  missing        ask
//!   nar                     read: the stream knows what it must be, its end is the verification
//!   put                     write: returns when the path is durable and visible
//! ```
//!
//! Guarantees are those of [`contract`](crate::contract), which every implementation passes.
//! Never: default methods here (a layer that forgets one would silently lose it); conveniences are
//! in [`CacheExt`].

mod memory;
mod nar_stream;
mod withheld;

pub use memory::Memory;
pub use nar_stream::{NarStream, WrongBytes};
pub use withheld::{WHOLE_BYTES, WITHHELD_BYTES};

use crate::closure::{self, Closure};
use crate::error::{Blame, Error, Kind};
use crate::path_info::Claimed;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use snowcache_nix::{Compression, PathInfo, StoreHash};
use thiserror::Error;

/// A narinfo as a cache serves it: what the path is, and where its NAR can be fetched in which
/// codec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narinfo {
    /// What is true of the path in any cache - as that cache says.
    pub info: PathInfo,
    /// Where its NAR is, relative to the cache: `nar/<name>`.
    pub url: String,
    /// The codec of what `url` gives.
    pub compression: Compression,
    /// The length of what `url` gives, where the cache tells it.
    pub file_size_bytes: Option<u64>,
}

impl Narinfo {
    /// The last part of its URL, which names an encoding of a NAR: the same in caches that have the
    /// same bytes.
    pub fn file_name(&self) -> &str {
        self.url.rsplit('/').next().unwrap_or(&self.url)
    }
}

/// Something that holds store paths.
pub trait Cache: Send + Sync {
    /// The narinfo of a path; `None` when the path is not there.
    ///
    /// # Errors
    /// When the cache cannot be asked, or its answer is not a narinfo of this path.
    fn narinfo(&self, hash: StoreHash) -> BoxFuture<'_, Result<Option<Narinfo>, Error>>;

    /// The NAR of a path, uncompressed, from its first byte.
    ///
    /// # Errors
    /// [`Kind::Missing`] when it is gone; the stream itself ends with an error when the bytes are
    /// not what they must be.
    fn nar<'a>(&'a self, narinfo: &'a Narinfo) -> BoxFuture<'a, Result<NarStream, Error>>;

    /// Those of `hashes` that are not there, each once, in the order given. Exact: what is not
    /// named here has been committed durably.
    ///
    /// # Errors
    /// When the cache cannot be asked.
    fn missing<'a>(
        &'a self,
        hashes: &'a [StoreHash],
    ) -> BoxFuture<'a, Result<Vec<StoreHash>, Error>>;

    /// Takes a path whose references (other than itself) are there already. `Ok` means durable and
    /// visible. The first NAR under a path stays: putting the path again adds its signatures when
    /// the NAR is the same, and otherwise changes nothing.
    ///
    /// # Errors
    /// [`Kind::Invalid`] when the bytes are not a NAR or not what was claimed, [`Kind::Missing`]
    /// (where the cache tells it apart) when a reference is not there. After any error nothing of
    /// it is visible that was not before.
    fn put(&self, claimed: Claimed, nar: NarStream) -> BoxFuture<'_, Result<(), Error>>;
}

/// More than [`CacheExt::nar_bytes`] was told to hold in memory.
#[derive(Debug, Error)]
#[error(
    "the NAR has {nar_size_bytes} bytes and at most {limit_bytes} may be held in memory; \
     read it as a stream"
)]
struct TooLarge {
    nar_size_bytes: u64,
    limit_bytes: u64,
}

/// Conveniences over the four verbs, the same for every cache.
pub trait CacheExt: Cache {
    /// Whether the path is there.
    fn has(&self, hash: StoreHash) -> BoxFuture<'_, Result<bool, Error>> {
        async move { Ok(self.missing(&[hash]).await?.is_empty()) }.boxed()
    }

    /// A whole NAR in memory, verified.
    fn nar_bytes<'a>(
        &'a self,
        narinfo: &'a Narinfo,
        limit_bytes: u64,
    ) -> BoxFuture<'a, Result<Bytes, Error>> {
        async move {
            let nar_size_bytes = narinfo.info.nar_size;
            if nar_size_bytes > limit_bytes {
                let too_large = TooLarge {
                    nar_size_bytes,
                    limit_bytes,
                };
                return Err(Error::new(Kind::TooMuch, Blame::Client, too_large));
            }
            let chunks = self.nar(narinfo).await?;
            let whole = Vec::with_capacity(nar_size_bytes as usize);
            let whole = chunks.try_fold(whole, |mut whole, chunk| async move {
                whole.extend_from_slice(&chunk);
                Ok(whole)
            });
            Ok(Bytes::from(whole.await?))
        }
        .boxed()
    }

    /// The closure of `roots` as far as this cache holds it, references first.
    fn closure<'a>(
        &'a self,
        roots: &'a [StoreHash],
        limits: closure::Limits,
    ) -> BoxFuture<'a, Result<Closure, Error>>
    where
        Self: Sized,
    {
        closure::walk(self, None, roots, limits).boxed()
    }
}

impl<C: Cache> CacheExt for C {}
