//! A cache in memory: the twin against which the others are compared, and the upstream of many a
//! test.
//!
//! Guarantees: everything of the contract but durability. Bounded: NARs of at most `capacity_bytes`
//! together.
//! Never: for production use; a NAR is held whole and uncompressed.

use super::{Cache, NarStream, Narinfo};
use crate::error::{Blame, Error, Kind};
use crate::path_info::{Claimed, Signed};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use sha2::{Digest, Sha256};
use snowcache_nix::key::SecretKey;
use snowcache_nix::nar::Parser;
use snowcache_nix::{Compression, NarHash, PathInfo, StoreHash, StorePath};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use thiserror::Error;

/// 256 MiB: a hundred times what the contract suite puts.
const DEFAULT_CAPACITY_BYTES: u64 = 256 << 20;

/// Store paths in memory, signed with this cache's keys.
pub struct Memory {
    keys: Vec<SecretKey>,
    capacity_bytes: u64,
    paths: Mutex<BTreeMap<StoreHash, (PathInfo, Bytes)>>,
}

#[derive(Debug, Error)]
enum Refusal {
    #[error("{path} refers to {reference}, which is not in this cache: put it first")]
    ReferenceMissing {
        path: StorePath,
        reference: StorePath,
    },
    #[error("the NAR of {0} is no longer in this cache")]
    Gone(StorePath),
    #[error("{path} needs {nar_size_bytes} bytes and the cache holds at most {capacity_bytes}")]
    Full {
        path: StorePath,
        nar_size_bytes: u64,
        capacity_bytes: u64,
    },
}

impl Memory {
    /// An empty cache that signs with `keys`.
    pub fn new(keys: Vec<SecretKey>) -> Memory {
        Memory {
            keys,
            capacity_bytes: DEFAULT_CAPACITY_BYTES,
            paths: Mutex::default(),
        }
    }

    /// How many bytes of NARs it takes.
    pub fn with_capacity_bytes(self, capacity_bytes: u64) -> Memory {
        Memory {
            capacity_bytes,
            ..self
        }
    }

    /// What it holds.
    pub fn hashes(&self) -> Vec<StoreHash> {
        self.paths().keys().copied().collect()
    }

    fn paths(&self) -> MutexGuard<'_, BTreeMap<StoreHash, (PathInfo, Bytes)>> {
        // A map whose holder panicked is whole: every change below is one insert or one push.
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(&self, claimed: Claimed, nar: NarStream) -> Result<(), Error> {
        self.make_room(claimed.info(), nar.nar_size_bytes())?;
        let bytes: Vec<Bytes> = nar.try_collect().await?;
        let bytes = Bytes::from(bytes.concat());
        let size = canonical_size(&bytes).map_err(invalid)?;
        let hash = NarHash::from_bytes(Sha256::digest(&bytes).into());
        let verified = claimed.verify(hash, size).map_err(invalid)?;
        self.publish(verified.sign(&self.keys), bytes)
    }

    fn make_room(&self, info: &PathInfo, nar_size_bytes: u64) -> Result<(), Error> {
        let held: u64 = self.paths().values().map(|(_, nar)| nar.len() as u64).sum();
        if held.saturating_add(nar_size_bytes) <= self.capacity_bytes {
            return Ok(());
        }
        let (path, capacity_bytes) = (info.store_path.clone(), self.capacity_bytes);
        let full = Refusal::Full {
            path,
            nar_size_bytes,
            capacity_bytes,
        };
        Err(Error::new(Kind::TooMuch, Blame::Storage, full))
    }

    fn publish(&self, signed: Signed, nar: Bytes) -> Result<(), Error> {
        let info = signed.into_info();
        let mut paths = self.paths();
        for reference in info.references.iter().filter(|&it| *it != info.store_path) {
            if !paths.contains_key(&reference.hash()) {
                let path = info.store_path.clone();
                let refusal = Refusal::ReferenceMissing {
                    path,
                    reference: reference.clone(),
                };
                return Err(Error::new(Kind::Missing, Blame::Client, refusal));
            }
        }
        let (first, _) = paths
            .entry(info.store_path.hash())
            .or_insert_with(|| (info.clone(), nar));
        if first.nar_hash == info.nar_hash {
            for signature in info.signatures {
                first.add_signature(signature);
            }
        }
        Ok(())
    }
}

fn invalid(source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Kind::Invalid, Blame::Client, source)
}

/// The length of a NAR, if it is one.
fn canonical_size(bytes: &[u8]) -> Result<u64, snowcache_nix::nar::NarError> {
    let mut parser = Parser::new();
    parser.feed(bytes, &mut |_| ())?;
    parser.finish()
}

impl Cache for Memory {
    fn narinfo(&self, hash: StoreHash) -> BoxFuture<'_, Result<Option<Narinfo>, Error>> {
        let found = self.paths().get(&hash).map(|(info, nar)| Narinfo {
            info: info.clone(),
            url: format!("nar/{}.nar", info.nar_hash.base32()),
            compression: Compression::None,
            file_size_bytes: Some(nar.len() as u64),
        });
        async move { Ok(found) }.boxed()
    }

    fn nar<'a>(&'a self, narinfo: &'a Narinfo) -> BoxFuture<'a, Result<NarStream, Error>> {
        let path = &narinfo.info.store_path;
        let held = self
            .paths()
            .get(&path.hash())
            .map(|(info, nar)| (info.nar_hash, nar.clone()));
        let stream = match held {
            Some((nar_hash, nar)) if nar_hash == narinfo.info.nar_hash => {
                Ok(NarStream::from_bytes(nar_hash, nar))
            }
            _ => Err(Error::new(
                Kind::Missing,
                Blame::Storage,
                Refusal::Gone(path.clone()),
            )),
        };
        async move { stream }.boxed()
    }

    fn missing<'a>(
        &'a self,
        hashes: &'a [StoreHash],
    ) -> BoxFuture<'a, Result<Vec<StoreHash>, Error>> {
        let paths = self.paths();
        let mut seen = BTreeSet::new();
        let absent = |hash: &&StoreHash| !paths.contains_key(hash) && seen.insert(**hash);
        let missing = hashes.iter().filter(absent).copied().collect();
        async move { Ok(missing) }.boxed()
    }

    fn put(&self, claimed: Claimed, nar: NarStream) -> BoxFuture<'_, Result<(), Error>> {
        self.take(claimed, nar).boxed()
    }
}
