//! What every [`Cache`] must do, as stories that run against any of them.
//!
//! ```ignore
//! block_on(contract::suite(|| async { Memory::new(vec![]) }));
//! ```
//!
//! Guarantees: an implementation that passes can take the place of any other in `replicate`, in
//! layers and in the tools. Each story gets a new, empty cache.
//! Never: a look behind the four verbs, so a story runs over a network as well as in memory.

mod reading;
mod refusals;
mod sample;
mod writing;

pub use sample::{Sample, broken_stream, sample};

use crate::cache::{Cache, CacheExt, Narinfo};
use snowcache_nix::StoreHash;
use std::future::Future;

/// NARs of the suite are far smaller.
const NAR_LIMIT_BYTES: u64 = 16 << 20;

/// Runs every story, each on a new empty cache made by `make`.
///
/// # Panics
/// When the cache does not keep the contract; the message says what it did.
pub async fn suite<C, F, Made>(make: F)
where
    C: Cache,
    F: Fn() -> Made,
    Made: Future<Output = C>,
{
    reading::an_empty_cache_misses_everything(&make().await).await;
    reading::what_was_put_is_read_back(&make().await).await;
    reading::missing_is_exact_and_keeps_the_order(&make().await).await;
    reading::a_nar_of_many_chunks_is_read_back(&make().await).await;
    reading::a_closure_is_walked_references_first(&make().await).await;
    writing::the_first_nar_under_a_path_stays(&make().await).await;
    writing::putting_again_adds_signatures(&make().await).await;
    writing::many_writers_of_one_path_agree(&make().await).await;
    writing::a_closure_is_replicated_in_and_out(&make().await).await;
    refusals::a_claim_that_is_not_true(&make().await).await;
    refusals::a_stream_that_breaks(&make().await).await;
    refusals::bytes_that_are_not_a_nar(&make().await).await;
    refusals::a_reference_that_is_not_there(&make().await).await;
}

async fn put(cache: &dyn Cache, sample: &Sample) {
    let put = cache.put(sample.claimed(), sample.stream()).await;
    if let Err(error) = put {
        panic!(
            "{} should have been taken, but: {error}",
            sample.info.store_path
        );
    }
}

async fn get(cache: &dyn Cache, hash: StoreHash) -> Option<Narinfo> {
    match cache.narinfo(hash).await {
        Ok(narinfo) => narinfo,
        Err(error) => panic!("the narinfo of {hash} should have been readable, but: {error}"),
    }
}

/// The path is there, is what was put, and its NAR can be read to the end.
async fn assert_holds<C: Cache>(cache: &C, sample: &Sample) {
    let path = &sample.info.store_path;
    let Some(narinfo) = get(cache, path.hash()).await else {
        panic!("{path} was taken, but its narinfo is not there");
    };
    let info = &narinfo.info;
    assert_eq!(info.store_path, *path);
    assert_eq!(
        (info.nar_hash, info.nar_size),
        (sample.info.nar_hash, sample.info.nar_size)
    );
    assert_eq!(
        info.references, sample.info.references,
        "references of {path}"
    );
    assert_eq!(info.deriver, sample.info.deriver, "deriver of {path}");
    for signature in &sample.info.signatures {
        assert!(
            info.signatures.contains(signature),
            "{path} lost the signature {signature}"
        );
    }
    match cache.nar_bytes(&narinfo, NAR_LIMIT_BYTES).await {
        Ok(nar) => assert!(nar == sample.nar, "the NAR of {path} has other bytes"),
        Err(error) => panic!("the NAR of {path} should have been readable, but: {error}"),
    }
    assert!(
        matches!(cache.has(path.hash()).await, Ok(true)),
        "{path} is there and also missing"
    );
}

/// Nothing of the path is visible.
async fn assert_absent(cache: &dyn Cache, sample: &Sample) {
    let path = &sample.info.store_path;
    let narinfo = get(cache, path.hash()).await;
    assert!(
        narinfo.is_none(),
        "{path} was refused, but its narinfo is there"
    );
    let missing = cache.missing(&[path.hash()]).await;
    assert!(
        matches!(&missing, Ok(missing) if *missing == [path.hash()]),
        "{path} was refused, but `missing` says {missing:?}"
    );
}

#[cfg(test)]
mod tests {
    use crate::cache::Memory;
    use futures::executor::block_on;
    use snowcache_nix::SecretKey;

    #[test]
    fn the_memory_twin_keeps_the_contract() {
        let key = SecretKey::generate("memory-1", [7; 32]).expect("a good name");
        block_on(super::suite(|| async { Memory::new(vec![key.clone()]) }));
    }
}
