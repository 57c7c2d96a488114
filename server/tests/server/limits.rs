//! Keys of the configuration that are limits: what is within passes, what is beyond is refused.

use crate::client::{Cache, eventually, read_answer};
use crate::sample::{Sample, pack};
use serde_json::Value;
use snowcache_nix::nar::Writer;
use snowcache_server::http::codec::Codec;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longer than a second, shorter than any patience.
const LATER: Duration = Duration::from_millis(2500);

fn upload_head(cache: &Cache, name: &str, length: usize) -> String {
    format!(
        "PUT /push/nar/{name} HTTP/1.1\r\nHost: cache\r\nConnection: close\r\n\
         Authorization: Bearer {}\r\nContent-Length: {length}\r\n\r\n",
        cache.token()
    )
}

#[test]
fn mass_queries_may_be_declined() {
    let cache = Cache::with(|config| config.cache.want_mass_query = false);
    let info = cache.get("/nix-cache-info");
    assert!(
        info.text().contains("WantMassQuery: 0\n"),
        "{}",
        info.text()
    );
}

#[test]
fn beyond_so_many_connections_the_next_one_waits() {
    let cache = Cache::with(|config| config.http.max_connections = 1);
    let first = TcpStream::connect(cache.server.address).unwrap();
    let mut second = TcpStream::connect(cache.server.address).unwrap();
    let ask = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    second.write_all(ask).unwrap();
    second
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    assert!(
        second.read(&mut [0; 1]).is_err(),
        "it was not to be served yet"
    );
    drop(first);
    second.set_read_timeout(None).unwrap();
    assert_eq!(read_answer(&mut second, false).text(), "ok\n");
}

#[test]
fn a_head_that_does_not_come_is_not_waited_for() {
    let cache = Cache::with(|config| config.http.header_timeout_s = 1);
    let mut slow = TcpStream::connect(cache.server.address).unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHo").unwrap();
    let mut said = Vec::new();
    slow.read_to_end(&mut said).unwrap_or_default(); // ends by the server's doing
    assert!(!said.starts_with(b"HTTP/1.1 200"), "{said:?}");
}

#[test]
fn an_answer_that_nobody_takes_is_given_up() {
    let cache = Cache::with(|config| config.http.write_timeout_s = 1);
    let sample = Sample::tree('a', "large", 32 << 20, &[]);
    sample.push(&cache);
    let url = sample.published(&cache).url;
    let mut stalled = TcpStream::connect(cache.server.address).unwrap();
    let ask = format!("GET {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stalled.write_all(ask.as_bytes()).unwrap();
    stalled.peek(&mut [0]).expect("an answer that begins");
    eventually("it is closed", || {
        cache.metric("snowcache_http_connections") <= 1.0
    });
    let mut said = Vec::new();
    stalled.read_to_end(&mut said).unwrap_or_default();
    assert!(said.len() < 32 << 20, "{} bytes", said.len());
}

#[test]
fn beyond_so_many_uploads_the_next_one_waits_and_is_sent_away() {
    let cache = Cache::with(|config| {
        config.uploads.max_at_once = 1;
        config.uploads.wait_s = 1;
    });
    let nar = Sample::tree('a', "slow", 100_000, &[]).nar;
    let mut slow = TcpStream::connect(cache.server.address).unwrap();
    slow.write_all(upload_head(&cache, "slow.nar", nar.len()).as_bytes())
        .unwrap();
    slow.write_all(&nar[..1000]).unwrap();
    while cache.metric("snowcache_uploads_in_progress") < 1.0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let other = Sample::tree('b', "other", 1000, &[]).nar;
    let refused = cache.put("/push/nar/other.nar", &other);
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(!refused.header("retry-after").is_empty());
    slow.write_all(&nar[1000..]).unwrap();
    assert_eq!(read_answer(&mut slow, false).status, 200);
    assert_eq!(cache.put("/push/nar/other.nar", &other).status, 200);
}

#[test]
fn a_token_holds_only_so_much_without_narinfos() {
    let cache = Cache::with(|config| config.uploads.max_leased_bytes = 150_000);
    let [first, second] = ['a', 'b'].map(|letter| Sample::tree(letter, "x", 100_000, &[]));
    assert_eq!(cache.put("/push/nar/a.nar", &first.nar).status, 200);
    let refused = cache.put("/push/nar/b.nar", &second.nar);
    assert_eq!(refused.status, 507, "{}", refused.text());
    let narinfo = first.narinfo("nar/a.nar", "none");
    assert_eq!(
        cache.put(&first.narinfo_url(), narinfo.as_bytes()).status,
        200
    );
    assert_eq!(cache.put("/push/nar/b.nar", &second.nar).status, 200);
}

#[test]
fn what_unpacks_to_too_many_times_its_size_is_refused() {
    let mut zeros = Writer::new(Vec::new());
    let size = (1 << 30) + (64 << 20);
    zeros.file(false, size).unwrap();
    let chunk = vec![0; 64 << 20];
    (0..size / chunk.len() as u64).for_each(|_| zeros.data(&chunk).unwrap());
    let bomb = pack(Codec::Zstd, &zeros.finish().unwrap());
    let cache = Cache::with(|config| config.uploads.max_expansion = 100);
    let refused = cache.put("/push/nar/zeros.nar.zst", &bomb);
    assert_eq!(refused.status, 413, "{}", refused.text());
    assert!(refused.text().contains("100 times"), "{}", refused.text());
}

#[test]
fn a_decoder_gets_only_so_much_memory() {
    let nar = Sample::tree('a', "x", 10_000, &[]).nar;
    let packed = pack(Codec::Xz, &nar); // asks for a dictionary of megabytes
    let small = Cache::with(|config| config.uploads.decoder_memory_bytes = 100_000);
    let refused = small.put("/push/nar/x.nar.xz", &packed);
    assert!((400..500).contains(&refused.status), "{}", refused.status);
    assert!(refused.text().contains("memory"), "{}", refused.text());
    assert_eq!(Cache::new().put("/push/nar/x.nar.xz", &packed).status, 200);
}

#[test]
fn small_files_have_limits_of_their_own() {
    let cache = Cache::with(|config| {
        config.uploads.max_narinfo_bytes = 400;
        config.uploads.max_log_bytes = 100;
        config.uploads.max_listing_bytes = 200;
    });
    let sample = Sample::tree('a', "x", 10, &[]);
    sample.push(&cache);
    let hash = "b".repeat(32);
    let log = format!("/push/log/{hash}-x.drv");
    let listing = format!("/push/{hash}.ls");
    for (url, within, beyond) in [(&log, 100, 101), (&listing, 200, 201)] {
        let put = cache.put(url, &vec![b' '; within]);
        assert_eq!(put.status, 200, "{url}: {}", put.text());
        let put = cache.put(url, &vec![b' '; beyond]);
        assert_eq!(put.status, 413, "{url}: {}", put.text());
    }
    let long = sample.narinfo("nar/x.nar", "none") + &"X: y\n".repeat(80);
    let put = cache.put(&sample.narinfo_url(), long.as_bytes());
    assert_eq!(put.status, 413, "{}", put.text());
}

#[test]
fn readers_get_so_many_places() {
    let cache = Cache::with(|config| config.reads.max_at_once = 3);
    assert_eq!(cache.metric("snowcache_pool_places{pool=\"reads\"}"), 3.0);
    let sample = Sample::tree('a', "x", 3 << 20, &[]);
    sample.push(&cache);
    let url = sample.published(&cache).url;
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| assert_eq!(cache.get(&url).status, 200));
        }
    });
}

#[test]
fn a_higher_level_packs_smaller() {
    let text: String = (0..40_000).map(|n| format!("{} ", n * n % 977)).collect();
    let [fast, small] = [1, 19].map(|level| {
        let cache = Cache::with(|config| config.depot.zstd_level = level);
        let path = crate::sample::store_path('a', "text");
        let sample = Sample::file(path, text.as_bytes());
        sample.push(&cache);
        sample.published(&cache).file_size
    });
    assert!(small < fast, "{small} at level 19, {fast} at level 1");
}

#[test]
fn the_reserve_is_left_free() {
    let usable = |reserve| {
        let cache = Cache::with(|config| {
            config.depot.max_size_bytes = 100_000_000;
            config.depot.reserve_bytes = reserve;
        });
        cache.metric("snowcache_depot_usable_bytes")
    };
    assert_eq!(usable(1_000_000), 99_000_000.0);
    assert_eq!(usable(1 << 30), 95_000_000.0, "of a small one a twentieth");
}

#[test]
fn segments_are_rewritten_when_they_hold_too_much_garbage() {
    for (percent, is_rewritten) in [(90, false), (10, true)] {
        let cache = Cache::with(|config| {
            config.retention.sweep_grace_s = 0;
            config.retention.gc_interval_s = 0;
            config.retention.max_garbage_percent = percent;
            config.uploads.lease_s = 1;
        });
        // In turns, so that each segment has its part of both.
        let mut paths = Vec::new();
        for (kept, removed) in "01234".chars().zip("56789".chars()) {
            Sample::tree(kept, "x", 180_000, &[]).push(&cache);
            let removed = Sample::tree(removed, "x", 100_000, &[]);
            removed.push(&cache);
            paths.push(removed.path.absolute().to_string());
        }
        let admin = std::fs::read_to_string(cache.dir.path().join("admin.token")).unwrap();
        let admin = format!("Bearer {}", admin.trim());
        let post = |url: &str, body: Value| {
            let body = body.to_string();
            let headers = [("Authorization", admin.as_str())];
            loop {
                let done = cache.send("POST", url, &headers, body.as_bytes());
                if done.status != 409 {
                    break assert_eq!(done.status, 200, "{}", done.text());
                }
                // The one before has told its end a moment before it ends.
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        post("/api/v1/remove", serde_json::json!({ "paths": paths }));
        std::thread::sleep(LATER); // the uploads' leases end
        for _ in 0..3 {
            post("/api/v1/gc", serde_json::json!({}));
        }
        let stored = cache.metric("snowcache_depot_stored_bytes");
        assert_eq!(
            stored < 1_200_000.0,
            is_rewritten,
            "{percent} %: {stored} bytes"
        );
        assert!(cache.metric("snowcache_depot_live_bytes") < 1_200_000.0);
        assert!(cache.metric("snowcache_gc_runs_total{result=\"ended\"}") >= 3.0);
    }
}

#[test]
fn scrubs_run_by_themselves_when_an_interval_is_set() {
    let cache = |interval_s| {
        let cache = Cache::with(|config| config.scrub.interval_s = interval_s);
        Sample::tree('a', "x", 1000, &[]).push(&cache);
        cache
    };
    let scrubbed = |cache: &Cache| {
        let state: Value = serde_json::from_slice(&cache.get("/api/v1/scrub").body).unwrap();
        !state["last"].is_null()
    };
    let (never, by_itself) = (cache(0), cache(168));
    eventually("a 168th part each second", || scrubbed(&by_itself));
    std::thread::sleep(LATER); // two slices of a second
    assert!(!scrubbed(&never), "only by command");
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let cache = Cache::new();
    for head in [
        format!("X-Long: {}\r\n", "x".repeat(65 << 10)),
        format!("X-Long: {}\r\n", "x".repeat(2 << 20)),
        (0..200).map(|n| format!("X-{n}: x\r\n")).collect(),
    ] {
        let mut stream = TcpStream::connect(cache.server.address).unwrap();
        let request = format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{head}\r\n");
        // It may hang up before it has read all.
        stream.write_all(request.as_bytes()).unwrap_or_default();
        let refused = read_answer(&mut stream, false);
        assert_eq!(refused.status, 431, "{}", refused.text());
    }
    assert_eq!(cache.get("/healthz").status, 200);
}
