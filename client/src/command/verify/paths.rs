//! Which paths are verified.
//!
//! Guarantees: with `--all` one page of paths is in memory at a time; each path comes once.

use super::super::subject;
use crate::cli::VerifyArgs;
use crate::failure::Failure;
use crate::remote::Remote;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use snowcache_core::cache::CacheExt;
use snowcache_core::closure::Limits;
use snowcache_nix::{StoreHash, StorePath};
use std::collections::BTreeSet;

/// A path to verify.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub hash: StoreHash,
    /// What it should be called, when that is known.
    pub path: Option<StorePath>,
}

/// The paths to verify, and how many there are, when that is known.
pub(super) struct Targets {
    pub stream: BoxStream<'static, Result<Target, Failure>>,
    pub expected: Option<u64>,
}

pub(super) async fn select(remote: &Remote, args: &VerifyArgs) -> Result<Targets, Failure> {
    if args.all {
        return all(remote).await;
    }
    let mut targets = Vec::new();
    for path in &args.paths {
        let subject = subject::parse_whole(path)?;
        targets.push(Target {
            hash: subject.hash,
            path: subject.path,
        });
    }
    if args.recursive {
        targets = closure(remote, targets).await?;
    }
    let mut seen = BTreeSet::new();
    targets.retain(|target| seen.insert(target.hash));
    let expected = Some(targets.len() as u64);
    Ok(Targets {
        stream: stream::iter(targets.into_iter().map(Ok)).boxed(),
        expected,
    })
}

/// The closure, and the paths that are missing in it: verifying those says so.
async fn closure(remote: &Remote, roots: Vec<Target>) -> Result<Vec<Target>, Failure> {
    let hashes: Vec<StoreHash> = roots.iter().map(|root| root.hash).collect();
    let closure = remote.closure(&hashes, Limits::default()).await?;
    let present = closure
        .paths
        .into_iter()
        .map(|narinfo| narinfo.info.store_path);
    let present = present.map(|path| Target {
        hash: path.hash(),
        path: Some(path),
    });
    let absent = closure.absent.into_iter();
    let absent = absent.filter(|absent| absent.upstream.is_none());
    let absent = absent.map(|absent| {
        let path = absent.needed.map(|needed| needed.path);
        Target {
            hash: absent.hash,
            path,
        }
    });
    // The roots come first: they know what they should be called.
    Ok(roots.into_iter().chain(present).chain(absent).collect())
}

async fn all(remote: &Remote) -> Result<Targets, Failure> {
    let Some(first) = remote.paths(None).await? else {
        return Err(Failure::failed(format!(
            "{} does not list its paths; name the paths to verify",
            remote.endpoint()
        )));
    };
    let expected = match remote.stats().await? {
        Some(stats) => stats["paths"].as_u64(),
        None => None,
    };
    let remote = remote.clone();
    let pages = stream::try_unfold(Some(first), move |page| {
        let remote = remote.clone();
        async move {
            let Some(page) = page else {
                return Ok::<_, Failure>(None);
            };
            let next = match page.next {
                Some(after) => remote.paths(Some(after)).await?,
                None => None,
            };
            Ok(Some((page.paths, next)))
        }
    });
    let targets = pages.map_ok(|paths| {
        let target = |path: StorePath| {
            Ok(Target {
                hash: path.hash(),
                path: Some(path),
            })
        };
        stream::iter(paths.into_iter().map(target))
    });
    Ok(Targets {
        stream: targets.try_flatten().boxed(),
        expected,
    })
}
