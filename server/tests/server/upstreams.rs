//! References that an upstream has: its signature stands for them, nothing else does.

use crate::client::Cache;
use crate::pieces::{UPLOADS, cut};
use crate::sample::Sample;
use serde_json::{Value, json};
use snowcache_core::upstream::{NIXOS_KEY, noted};
use snowcache_nix::{PathInfo, SecretKey, fingerprint};

fn upstream() -> SecretKey {
    SecretKey::generate("upstream-1", [7; 32]).unwrap()
}

fn knowing(keys: &str) -> Cache {
    Cache::with(|config| config.cache.upstream_keys = keys.to_owned())
}

/// A path at the upstream, as its narinfo there has it.
fn signed(sample: &Sample) -> String {
    let mut info = PathInfo::from_record(&sample.record()).unwrap();
    info.add_signature(upstream().sign(&fingerprint(&info)));
    info.to_record()
}

fn commit(cache: &Cache, records: &[String], vouched: &[String]) -> (u16, String) {
    let body = json!({ "paths": records, "vouched": vouched }).to_string();
    let answer = cache.post(&format!("{UPLOADS}/commit"), body.as_bytes());
    (answer.status, answer.text().to_owned())
}

#[test]
fn what_an_upstream_signed_need_not_be_here() {
    let key = upstream().public().to_string();
    let below = Sample::tree('1', "below", 1000, &[]);
    let beside = Sample::tree('2', "beside", 1000, &[]);
    let both = [below.path.clone(), beside.path.clone()];
    let above = Sample::tree('3', "above", 1000, &both);

    let cache = knowing(&format!("{NIXOS_KEY} {key}"));
    let asked: Value = serde_json::from_str(cache.get("/api/v1/upstreams").text()).unwrap();
    assert_eq!(asked["public_keys"], json!([NIXOS_KEY, key]));
    beside.push(&cache);
    cache.holds(&above, &cut(&above.nar));
    let record = [above.record()];
    let (status, said) = commit(&cache, &record, &[]);
    assert!(status == 422 && said.contains("-below"), "{said}");
    let (status, said) = commit(&cache, &record, &[below.record()]);
    assert!(status == 422 && said.contains("upstream-1"), "{said}");
    let vouched = [signed(&below), signed(&beside)];
    let (status, said) = commit(&cache, &record, &vouched);
    assert_eq!(status, 200, "{said}");
    // What is here is not elsewhere, whoever vouches for it.
    let info = above.published(&cache).info;
    let name = below.path.to_string();
    let notes: Vec<_> = noted(&info).into_iter().collect();
    assert_eq!(notes, [(name.as_str(), "upstream-1")]);
    assert_eq!(cache.get(&below.narinfo_url()).status, 404);

    // One that was vouched for is no path that others may refer to without a word.
    let other = Sample::tree('4', "other", 1000, std::slice::from_ref(&below.path));
    cache.holds(&other, &cut(&other.nar));
    assert_eq!(commit(&cache, &[other.record()], &[]).0, 422);
    assert_eq!(commit(&cache, &[other.record()], &vouched).0, 200);
    below.push(&cache);
    assert_eq!(below.published(&cache).info.signatures.len(), 1);

    // A cache that has no upstreams takes closures whole.
    let cache = knowing("");
    cache.holds(&above, &cut(&above.nar));
    let (status, said) = commit(&cache, &record, &vouched);
    assert!(status == 422 && said.contains("has none"), "{said}");
}
