//! What nobody asks for is compressed harder: new narinfos name new bytes, and old URLs give what
//! they gave, until nobody can remember them.

use crate::client::{Answer, Cache, eventually, start};
use crate::sample::{Sample, noise, store_path, unpack};
use serde_json::{Value, json};
use snowcache_server::config::Config;
use snowcache_server::http::codec::Codec;
use std::time::Duration;

/// Everything is due, and only by command.
fn due(config: &mut Config) {
    config.depot.zstd_level = 1;
    config.recompression.level = 19;
    config.recompression.min_idle_s = 0;
    config.recompression.interval_s = 0;
    config.retention.gc_interval_s = 0;
    config.retention.sweep_grace_s = 0;
}

/// A file that a higher level packs smaller, and longer than what is kept in memory whole.
fn text(letter: char) -> Sample {
    let word = |number: u64| format!("{:x} ", number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20);
    let words: Vec<String> = (0..400).map(word).collect();
    let picks = noise(u64::from(letter), 200_000);
    let picks = picks
        .chunks(2)
        .map(|pick| usize::from(pick[0]) * 256 + usize::from(pick[1]));
    let text: String = picks.map(|pick| &*words[pick % words.len()]).collect();
    Sample::file(store_path(letter, "text"), text.as_bytes())
}

fn post(cache: &Cache, url: &str, body: Value) -> Answer {
    let admin = std::fs::read_to_string(cache.dir.path().join("admin.token")).unwrap();
    let admin = format!("Bearer {}", admin.trim());
    let body = body.to_string();
    cache.send("POST", url, &[("Authorization", &admin)], body.as_bytes())
}

/// Recompresses; what it came to.
fn recompress(cache: &Cache) -> Value {
    let answer = post(cache, "/api/v1/recompress", json!({}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let last = answer.text().lines().last().unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    last["summary"].clone()
}

#[test]
fn an_old_url_gives_what_it_gave_and_the_narinfo_names_a_smaller_one() {
    let cache = Cache::with(due);
    let sample = text('a');
    sample.push(&cache);
    let old = sample.published(&cache);
    let old_bytes = cache.get(&old.url).body;
    let etag = cache.get(&old.url).header("etag").to_owned();
    let done = recompress(&cache);
    assert_eq!(
        (&done["nars_changed"], &done["no_room"]),
        (&json!(1), &json!(false))
    );
    let new = sample.published(&cache);
    assert!(new.file_size * 100 < old.file_size * 97, "{done}");
    assert_ne!(new.url, old.url);
    let new_bytes = cache.get(&new.url).body;
    assert_eq!(new_bytes.len() as u64, new.file_size);
    assert_eq!(unpack(Codec::Zstd, &new_bytes), sample.nar);

    for _ in 0..2 {
        let again = cache.get(&old.url);
        assert_eq!((again.status, &again.body), (200, &old_bytes));
        assert!(again.header("cache-control").contains("immutable"));
        assert_eq!(again.header("etag"), etag);
    }
    let part = cache.send("GET", &old.url, &[("Range", "bytes=70000-70009")], b"");
    assert_eq!(
        (part.status, &part.body[..]),
        (206, &old_bytes[70_000..70_010])
    );
    let head = cache.send("HEAD", &old.url, &[], b"");
    assert_eq!(head.header("content-length"), old.file_size.to_string());

    let state: Value = serde_json::from_slice(&cache.get("/api/v1/recompress").body).unwrap();
    assert_eq!(state["last"]["nars_changed"], 1);
    assert_eq!(cache.metric("snowcache_recompression_nars_total"), 1.0);
    assert_eq!(recompress(&cache)["nars"], 0, "once is enough");
}

#[test]
fn when_nobody_remembers_the_old_url_it_gives_the_new_bytes_whole_or_nothing() {
    let cache = Cache::with(|config| {
        due(config);
        config.retention.grace_s = 1;
    });
    let sample = text('a');
    sample.push(&cache);
    let old = sample.published(&cache);
    let stored = cache.metric("snowcache_depot_stored_bytes");
    recompress(&cache);
    let new = sample.published(&cache);
    std::thread::sleep(Duration::from_millis(2100));
    let collected = post(&cache, "/api/v1/gc", json!({}));
    assert!(
        collected.text().contains("\"former_encodings\":1"),
        "{}",
        collected.text()
    );
    assert!(cache.metric("snowcache_depot_stored_bytes") < stored);
    let whole = cache.get(&old.url);
    assert_eq!(
        (whole.status, whole.body.len() as u64),
        (200, new.file_size)
    );
    assert_eq!(whole.header("cache-control"), "no-store");
    let part = cache.send("GET", &old.url, &[("Range", "bytes=70000-")], b"");
    assert_eq!(part.status, 412, "{}", part.text());
}

#[test]
fn where_the_index_is_lost_the_old_url_gives_the_new_bytes_whole_or_nothing() {
    let mut cache = Cache::with(due);
    let sample = text('a');
    sample.push(&cache);
    let old = sample.published(&cache);
    recompress(&cache);
    let new = sample.published(&cache);
    cache.server.stop_and_wait();
    std::fs::remove_dir_all(cache.dir.path().join("depot/index")).unwrap();
    cache.server = start(cache.dir.path(), due);
    assert_eq!(
        sample.published(&cache).url,
        new.url,
        "as clients remember it"
    );
    let whole = cache.get(&old.url);
    assert_eq!(whole.status, 200);
    assert_eq!(whole.header("cache-control"), "no-store");
    assert_eq!(unpack(Codec::Zstd, &whole.body), sample.nar);
    assert_eq!(whole.body, cache.get(&new.url).body);
    let part = cache.send("GET", &old.url, &[("Range", "bytes=70000-")], b"");
    assert_eq!(part.status, 412, "{}", part.text());
}

#[test]
fn only_what_nobody_asks_for_is_compressed_again() {
    let cache = Cache::with(|config| {
        due(config);
        config.recompression.min_idle_s = 3600;
    });
    text('a').push(&cache);
    assert_eq!(recompress(&cache)["nars"], 0);
}

#[test]
fn recompressions_run_by_themselves_when_an_interval_is_set() {
    let cache = |interval_s| {
        let cache = Cache::with(|config| {
            due(config);
            config.recompression.interval_s = interval_s;
        });
        Sample::tree('a', "x", 1000, &[]).push(&cache);
        cache
    };
    let ended =
        |cache: &Cache| cache.metric("snowcache_recompression_runs_total{result=\"ended\"}") > 0.0;
    let (never, by_itself) = (cache(0), cache(1));
    eventually("it runs each second", || ended(&by_itself));
    std::thread::sleep(Duration::from_millis(2100)); // two turns
    assert!(!ended(&never), "only by command");
}

#[test]
fn what_cannot_be_understood_is_refused() {
    let cache = Cache::with(due);
    let refused = post(&cache, "/api/v1/recompress", json!({ "level": 3 }));
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains("level"), "{}", refused.text());
}
