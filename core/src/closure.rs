//! Closures: a path, its references, theirs, and so on.
//!
//! ```text
//!   roots -> narinfos -> their references not seen yet -> narinfos -> ...     (one level at a
//! time)
//!   then in order: every path after all of its references, so that any prefix of the list is
//! closed
//! ```
//!
//! Guarantees: each path is asked for once; at most `concurrency` requests are under way; the order
//! is the same for the same cache. A path that is not there is reported with one path that needs
//! it.
//! Never: more than `max_paths` paths in memory; recursion.

mod order;

use crate::cache::{Cache, Narinfo};
use crate::error::{Blame, Error, Kind};
use crate::upstream;
use futures::{StreamExt, TryStreamExt, stream};
use snowcache_nix::{StoreHash, StorePath};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// The bounds of a walk.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many paths a closure may have. A NixOS system has 1,000 to 30,000; at about 1 KiB for a
    /// narinfo with ten references, 200,000 of them are 200 MB.
    pub max_paths: usize,
    /// How many requests, or copies, are under way at a time.
    pub concurrency: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_paths: 200_000,
            concurrency: 16,
        }
    }
}

/// What a cache holds of a closure.
#[derive(Debug)]
pub struct Closure {
    /// The paths that are there, each after all of its references.
    pub paths: Vec<Narinfo>,
    /// The paths that are not.
    pub absent: Vec<Absent>,
}

/// A path that should be there and is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// Its hash part.
    pub hash: StoreHash,
    /// The whole path, and a path that refers to it; `None` for a root.
    pub needed: Option<Needed>,
    /// The key of the upstream that has it, if the cache says so of what refers to it.
    pub upstream: Option<String>,
}

/// A reference: who names what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needed {
    /// What is referred to.
    pub path: StorePath,
    /// Who refers to it.
    pub by: StorePath,
}

impl Closure {
    /// Whether everything is there, but for what an upstream has.
    pub fn is_complete(&self) -> bool {
        self.absent.iter().all(|absent| absent.upstream.is_some())
    }

    /// The sum of the NAR sizes of the paths that are there.
    pub fn nar_size_bytes(&self) -> u64 {
        self.paths
            .iter()
            .fold(0, |sum, path| sum.saturating_add(path.info.nar_size))
    }
}

/// What a walk cannot go on from.
#[derive(Debug, Error)]
enum Broken {
    #[error("the closure has more than {0} paths; walk fewer roots at a time, or raise the limit")]
    TooManyPaths(usize),
    #[error("{} refers to {}, but the cache has {found} under that hash", .needed.by, .needed.path)]
    OtherName { needed: Needed, found: StorePath },
}

/// Walks the closure of `roots` in `from`. What `held_by` has is left out together with all behind
/// it: a cache that has a path has its closure.
///
/// # Errors
/// When a cache cannot be asked; when the closure is larger than the limit, has a cycle, or refers
/// to a path under another name.
pub async fn walk(
    from: &dyn Cache,
    held_by: Option<&dyn Cache>,
    roots: &[StoreHash],
    limits: Limits,
) -> Result<Closure, Error> {
    let mut seen = BTreeSet::new();
    let mut found = BTreeMap::new();
    let mut absent = Vec::new();
    let mut level: Vec<Absent> = Vec::new();
    for &hash in roots {
        if seen.insert(hash) {
            level.push(Absent {
                hash,
                needed: None,
                upstream: None,
            });
        }
    }
    let roots: Vec<StoreHash> = level.iter().map(|root| root.hash).collect();
    while !level.is_empty() {
        if seen.len() > limits.max_paths {
            let too_many = Broken::TooManyPaths(limits.max_paths);
            return Err(Error::new(Kind::TooMuch, Blame::Client, too_many));
        }
        let answers: Vec<(Absent, Option<Narinfo>)> = ask(from, held_by, level, limits).await?;
        level = Vec::new();
        for (wanted, answer) in answers {
            let Some(narinfo) = answer else {
                absent.push(wanted);
                continue;
            };
            check_name(&wanted, &narinfo)?;
            let elsewhere = upstream::noted(&narinfo.info);
            for reference in &narinfo.info.references {
                if seen.insert(reference.hash()) {
                    let by = narinfo.info.store_path.clone();
                    let needed = Some(Needed {
                        path: reference.clone(),
                        by,
                    });
                    let upstream = elsewhere.get(reference.to_string().as_str());
                    level.push(Absent {
                        hash: reference.hash(),
                        needed,
                        upstream: upstream.map(|key| (*key).to_owned()),
                    });
                }
            }
            found.insert(wanted.hash, narinfo);
        }
    }
    Ok(Closure {
        paths: order::references_first(&roots, found)?,
        absent,
    })
}

/// One level: the narinfos of what is wanted and not held, in the order wanted.
async fn ask(
    from: &dyn Cache,
    held_by: Option<&dyn Cache>,
    mut level: Vec<Absent>,
    limits: Limits,
) -> Result<Vec<(Absent, Option<Narinfo>)>, Error> {
    if let Some(held_by) = held_by {
        let hashes: Vec<StoreHash> = level.iter().map(|wanted| wanted.hash).collect();
        let missing: BTreeSet<StoreHash> = held_by.missing(&hashes).await?.into_iter().collect();
        level.retain(|wanted| missing.contains(&wanted.hash));
    }
    stream::iter(level)
        .map(|wanted| async move {
            let answer = from.narinfo(wanted.hash).await?;
            Ok((wanted, answer))
        })
        .buffered(limits.concurrency.max(1))
        .try_collect()
        .await
}

fn check_name(wanted: &Absent, answer: &Narinfo) -> Result<(), Error> {
    let found = &answer.info.store_path;
    match &wanted.needed {
        Some(needed) if needed.path != *found => {
            let other = Broken::OtherName {
                needed: needed.clone(),
                found: found.clone(),
            };
            Err(Error::new(Kind::Corrupt, Blame::Upstream, other))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
