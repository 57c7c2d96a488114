//! Stories about reading.

use super::{assert_holds, get, put, sample};
use crate::cache::{Cache, CacheExt};
use crate::closure::Limits;

pub(super) async fn an_empty_cache_misses_everything(cache: &dyn Cache) {
    let (a, b) = (sample("absent-a", b"a", &[]), sample("absent-b", b"b", &[]));
    let (a, b) = (a.info.store_path.hash(), b.info.store_path.hash());
    assert!(
        get(cache, a).await.is_none(),
        "an empty cache gave a narinfo"
    );
    let missing = cache
        .missing(&[a, b])
        .await
        .expect("an empty cache can be asked");
    assert_eq!(missing, [a, b]);
    let missing = cache
        .missing(&[])
        .await
        .expect("asking for nothing is no error");
    assert!(missing.is_empty(), "nothing was asked for");
}

pub(super) async fn what_was_put_is_read_back<C: Cache>(cache: &C) {
    let leaf = sample("leaf", b"no references", &[]);
    put(cache, &leaf).await;
    assert_holds(cache, &leaf).await;

    let itself = super::sample::path_named("top");
    let top = sample(
        "top",
        b"refers to the leaf and itself",
        &[&leaf.info.store_path, &itself],
    );
    put(cache, &top).await;
    assert_holds(cache, &top).await;
    assert_holds(cache, &leaf).await;

    let empty = sample("empty", b"", &[]);
    put(cache, &empty).await;
    assert_holds(cache, &empty).await;
}

pub(super) async fn missing_is_exact_and_keeps_the_order(cache: &dyn Cache) {
    let [a, b, c] = ["one", "two", "three"].map(|name| sample(name, name.as_bytes(), &[]));
    put(cache, &b).await;
    let [a, b, c] = [a, b, c].map(|it| it.info.store_path.hash());
    let missing = cache.missing(&[c, b, a, c]).await.expect("can be asked");
    assert_eq!(
        missing,
        [c, a],
        "each missing hash once, in the order given"
    );
}

pub(super) async fn a_nar_of_many_chunks_is_read_back<C: Cache>(cache: &C) {
    let bytes =
        |seed: u32| move |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8;
    // 5 MiB, half of it repetitive: larger than any buffer on the way.
    let mut content: Vec<u8> = (0..5 << 19).map(bytes(1)).collect();
    content.resize(5 << 20, b'x');
    let large = sample("large", &content, &[]);
    put(cache, &large).await;
    assert_holds(cache, &large).await;
}

pub(super) async fn a_closure_is_walked_references_first<C: Cache>(cache: &C) {
    let glibc = sample("glibc", b"libc", &[]);
    let bash = sample("bash", b"bash", &[&glibc.info.store_path]);
    let hello = sample(
        "hello",
        b"hello",
        &[&bash.info.store_path, &glibc.info.store_path],
    );
    for path in [&glibc, &bash, &hello] {
        put(cache, path).await;
    }
    let absent = sample("absent", b"", &[]).info.store_path.hash();
    let roots = [hello.info.store_path.hash(), absent];
    let closure = cache
        .closure(&roots, Limits::default())
        .await
        .expect("can be walked");
    let order: Vec<_> = closure
        .paths
        .iter()
        .map(|it| it.info.store_path.name())
        .collect();
    assert_eq!(order, ["glibc", "bash", "hello"]);
    assert_eq!(
        closure.absent.iter().map(|it| it.hash).collect::<Vec<_>>(),
        [absent]
    );
    assert!(!closure.is_complete());
}
