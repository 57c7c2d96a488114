//! Stories about writing.

use super::sample::uploader_key;
use super::{assert_absent, assert_holds, get, put, sample};
use crate::cache::{Cache, Memory};
use crate::closure::Limits;
use crate::replicate::replicate;
use futures::future::join_all;
use snowcache_nix::fingerprint;

pub(super) async fn the_first_nar_under_a_path_stays<C: Cache>(cache: &C) {
    let first = sample("rival", b"first", &[]);
    let second = sample("rival", b"second", &[]);
    assert_eq!(first.info.store_path, second.info.store_path);
    put(cache, &first).await;
    // Whether the rival hears of it is the cache's choice; that it changes nothing is not.
    drop(cache.put(second.claimed(), second.stream()).await);
    assert_holds(cache, &first).await;
}

pub(super) async fn putting_again_adds_signatures<C: Cache>(cache: &C) {
    let first = sample("twice", b"twice", &[]);
    put(cache, &first).await;
    let mut second = first.clone();
    let other = uploader_key("second-uploader-1");
    second.info.signatures = vec![other.sign(&fingerprint(&second.info))];
    put(cache, &second).await;
    assert_holds(cache, &first).await;
    assert_holds(cache, &second).await;
}

pub(super) async fn many_writers_of_one_path_agree<C: Cache>(cache: &C) {
    let path = sample("contended", &[9; 300_000], &[]);
    join_all((0..8).map(|_| put(cache, &path))).await;
    assert_holds(cache, &path).await;
    let narinfo = get(cache, path.info.store_path.hash())
        .await
        .expect("was put");
    let mut signatures = narinfo.info.signatures.clone();
    signatures.sort_by_key(ToString::to_string);
    signatures.dedup();
    assert_eq!(
        signatures.len(),
        narinfo.info.signatures.len(),
        "a signature is there twice"
    );
}

pub(super) async fn a_closure_is_replicated_in_and_out<C: Cache>(cache: &C) {
    let glibc = sample("r-glibc", b"libc", &[]);
    let bash = sample("r-bash", b"bash", &[&glibc.info.store_path]);
    let zlib = sample("r-zlib", b"zlib", &[&glibc.info.store_path]);
    let system = sample(
        "r-system",
        b"system",
        &[&bash.info.store_path, &zlib.info.store_path],
    );
    let all = [&glibc, &bash, &zlib, &system];
    let (source, target) = (Memory::new(Vec::new()), Memory::new(Vec::new()));
    for path in all {
        put(&source, path).await;
    }
    put(cache, &glibc).await;

    let root = [system.info.store_path.hash()];
    let limits = Limits {
        concurrency: 2,
        ..Limits::default()
    };
    let copied = replicate(&source, cache, &root, limits)
        .await
        .expect("copied in");
    assert_eq!(copied.paths, 3, "what was there already is not copied");
    let copied = replicate(cache, &target, &root, limits)
        .await
        .expect("copied out");
    assert_eq!(copied.paths, 4);
    for path in all {
        assert_holds(cache, path).await;
        assert_holds(&target, path).await;
    }
    let copied = replicate(cache, &target, &root, limits)
        .await
        .expect("nothing to do");
    assert_eq!(copied.paths, 0);

    let unknown = sample("r-unknown", b"", &[]);
    let root = [unknown.info.store_path.hash()];
    let error = replicate(&source, cache, &root, limits)
        .await
        .expect_err("is nowhere");
    assert!(error.to_string().contains("in neither cache"), "{error}");
    assert_absent(cache, &unknown).await;
}
