//! What named caches hold: counted, limited by a quota, and gone when a cache is deleted.

use crate::client::{Cache, start};
use crate::named::{by_admin, make, narinfo_url, parsed, push, refused, token, with};
use crate::sample::{Sample, store_path};
use serde_json::{Value, json};
use snowcache_nix::NarInfo;

fn collected(cache: &Cache) -> Value {
    let answer = by_admin(cache, "POST", "/api/v1/gc", json!({}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let last = answer.text().lines().last().unwrap().to_owned();
    serde_json::from_str::<Value>(&last).unwrap()["summary"].clone()
}

#[test]
fn a_quota_is_kept_and_told() {
    let cache = Cache::new();
    let samples = ['1', '2'].map(|letter| {
        let path = store_path(letter, "x");
        Sample::file(path, &crate::sample::noise(letter as u64, 100_000))
    });
    let size = samples[0].nar.len() as u64;
    make(
        &cache,
        "team-a",
        json!({"public": true, "quota_bytes": size + 1}),
    );
    let writer = token(&cache, &["push"], &["team-a"]);
    push(&cache, "team-a", &writer, &samples[0]);
    let about = parsed(&by_admin(
        &cache,
        "GET",
        "/api/v1/caches/team-a",
        Value::Null,
    ));
    assert_eq!(about["holds"], json!({"paths": 1, "nar_bytes": size}));
    assert_eq!(parsed(&cache.get("/team-a/api/v1/stats")), about["holds"]);
    let nar = format!("nar/{}.nar", samples[1].hash().base32());
    let url = format!("/team-a/push/{nar}");
    let put = with(&cache, &writer, "PUT", &url, &samples[1].nar);
    assert_eq!(put.status, 200, "{}", put.text());
    let (url, text) = (samples[1].narinfo_url(), samples[1].narinfo(&nar, "none"));
    let url = format!("/team-a{url}");
    let put = with(&cache, &writer, "PUT", &url, text.as_bytes());
    refused(
        &put,
        507,
        &[&format!("its quota is {}", size + 1), "snowcache rm"],
    );
    let reader = token(&cache, &["pull"], &["default"]);
    let metrics = with(&cache, &reader, "GET", "/metrics", b"");
    for line in [
        "snowcache_cache_paths{cache=\"team-a\"} 1".to_owned(),
        format!("snowcache_cache_nar_bytes{{cache=\"team-a\"}} {size}"),
        format!(
            "snowcache_cache_quota_bytes{{cache=\"team-a\"}} {}",
            size + 1
        ),
    ] {
        assert!(metrics.text().contains(&line), "{line}: {}", metrics.text());
    }
    assert!(
        metrics
            .text()
            .contains("snowcache_cache_requests_total{cache=\"team-a\"} ")
    );
    // Full to the last byte nothing more is received; raised, it is taken.
    make(&cache, "team-a", json!({"quota_bytes": size}));
    let nar = with(
        &cache,
        &writer,
        "PUT",
        "/team-a/push/nar/y.nar",
        &samples[1].nar,
    );
    refused(&nar, 507, &["quota"]);
    make(&cache, "team-a", json!({"quota_bytes": null}));
    push(&cache, "team-a", &writer, &samples[1]);
    // After a start it is counted again.
    let mut cache = cache;
    cache.server.stop_and_wait();
    cache.server = start(cache.dir.path(), |_| {});
    let begin = std::time::Instant::now();
    let holds = loop {
        let about = by_admin(&cache, "GET", "/api/v1/caches/team-a", Value::Null);
        let holds = parsed(&about)["holds"].clone();
        if !holds.is_null() {
            break holds;
        }
        assert!(begin.elapsed().as_secs() < 30, "it is never counted");
    };
    assert_eq!(holds, json!({"paths": 2, "nar_bytes": 2 * size}));
}

#[test]
fn what_a_deleted_cache_held_goes_with_the_next_collections() {
    let cache = Cache::with(|config| config.retention.sweep_grace_s = 0);
    for name in ["team-a", "team-b"] {
        make(&cache, name, json!({"public": true, "max_age_s": 0}));
    }
    let writer = token(&cache, &["push", "pin"], &["team-a", "team-b"]);
    let shared = Sample::tree('f', "shared", 200_000, &[]);
    let alone = Sample::tree('g', "alone", 200_000, &[]);
    push(&cache, "team-a", &writer, &shared);
    push(&cache, "team-b", &writer, &shared);
    push(&cache, "team-a", &writer, &alone);
    let pin = json!({"roots": [alone.path.to_string()]}).to_string();
    let set = with(
        &cache,
        &writer,
        "PUT",
        "/team-a/api/v1/pins/web",
        pin.as_bytes(),
    );
    assert_eq!(set.status, 200, "{}", set.text());
    assert_eq!(collected(&cache)["paths"], 0);
    by_admin(&cache, "DELETE", "/api/v1/caches/team-a", Value::Null);
    let deleted = cache.dir.path().join("caches/.deleted");
    assert_eq!(std::fs::read_dir(&deleted).unwrap().count(), 1);
    assert_eq!(collected(&cache)["paths"], 2);
    collected(&cache);
    assert_eq!(
        std::fs::read_dir(&deleted).unwrap().count(),
        0,
        "nothing is left"
    );
    let url = narinfo_url("team-b", &shared);
    let narinfo = NarInfo::parse(cache.get(&url).text())
        .unwrap()
        .url
        .to_owned();
    let nar = cache.get(&format!("/team-b/{narinfo}"));
    let bytes = crate::sample::unpack(snowcache_server::http::codec::Codec::Zstd, &nar.body);
    assert!(bytes == shared.nar);
    let reader = token(&cache, &["pull"], &["default"]);
    let stats = parsed(&with(&cache, &reader, "GET", "/api/v1/stats", b""));
    assert_eq!((&stats["paths"], &stats["nars"]), (&json!(1), &json!(1)));
}
