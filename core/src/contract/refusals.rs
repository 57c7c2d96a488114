//! Stories about what must not be taken: after each, nothing is visible that was not before.

use super::{Sample, assert_absent, assert_holds, broken_stream, put, sample};
use crate::cache::{Cache, NarStream};
use crate::error::Kind;
use crate::path_info::Claimed;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use snowcache_nix::NarHash;

async fn refused(cache: &dyn Cache, claimed: Claimed, nar: NarStream, kinds: &[Kind]) {
    let path = claimed.info().store_path.clone();
    match cache.put(claimed, nar).await {
        Ok(()) => panic!("{path} was taken, but should have been refused"),
        Err(error) => {
            let kind = error.kind();
            assert!(
                kinds.contains(&kind),
                "{path} was refused as {kind:?}: {error}"
            );
        }
    }
}

pub(super) async fn a_claim_that_is_not_true(cache: &dyn Cache) {
    let honest = sample("liar", b"true", &[]);
    let mut liar = honest.clone();
    liar.info.nar_hash = NarHash::from_bytes([3; 32]);
    refused(cache, liar.claimed(), honest.stream(), &[Kind::Invalid]).await;
    assert_absent(cache, &honest).await;

    for size in [
        1,
        honest.info.nar_size - 8,
        honest.info.nar_size + 8,
        1 << 40,
    ] {
        let mut liar = honest.clone();
        liar.info.nar_size = size;
        refused(cache, liar.claimed(), honest.stream(), &[Kind::Invalid]).await;
        assert_absent(cache, &honest).await;
    }
}

pub(super) async fn a_stream_that_breaks<C: Cache>(cache: &C) {
    let path = sample("broken", &[5; 100_000], &[]);
    let put_broken = cache.put(path.claimed(), broken_stream(&path)).await;
    assert!(put_broken.is_err(), "half a NAR was taken");
    assert_absent(cache, &path).await;

    let other = sample("broken", &[6; 100_000], &[]);
    let chunks = futures::stream::iter([Ok(other.nar.clone())]);
    let blame = crate::error::Blame::Client;
    let wrong = NarStream::new(path.info.nar_hash, path.info.nar_size, blame, chunks);
    assert!(
        cache.put(path.claimed(), wrong).await.is_err(),
        "a NAR that failed was taken"
    );
    assert_absent(cache, &path).await;

    put(cache, &path).await;
    assert_holds(cache, &path).await;
}

pub(super) async fn bytes_that_are_not_a_nar(cache: &dyn Cache) {
    let good = sample("not-a-nar", b"content", &[]);
    let mut trailing = good.nar.to_vec();
    trailing.extend_from_slice(&[0; 8]);
    let truncated = good.nar.slice(..good.nar.len() - 8).to_vec();
    for bytes in [b"hello".to_vec(), trailing, truncated] {
        let mut info = good.info.clone();
        info.nar_hash = NarHash::from_bytes(Sha256::digest(&bytes).into());
        info.nar_size = bytes.len() as u64;
        let bad = Sample {
            info,
            nar: Bytes::from(bytes),
        };
        refused(cache, bad.claimed(), bad.stream(), &[Kind::Invalid]).await;
        assert_absent(cache, &bad).await;
    }
}

pub(super) async fn a_reference_that_is_not_there<C: Cache>(cache: &C) {
    let leaf = sample("late-leaf", b"leaf", &[]);
    let top = sample("early-top", b"top", &[&leaf.info.store_path]);
    // Over a protocol without a word for it, a missing reference is one more thing that is wrong.
    let kinds = &[Kind::Missing, Kind::Invalid];
    refused(cache, top.claimed(), top.stream(), kinds).await;
    assert_absent(cache, &top).await;
    put(cache, &leaf).await;
    put(cache, &top).await;
    assert_holds(cache, &top).await;
}
