//! Narinfos out of memory: the same to the byte as those that are looked up, never of yesterday.

use crate::client::{Answer, Cache, start};
use crate::sample::{Sample, store_path};
use serde_json::json;
use snowcache_nix::SecretKey;
use std::io::{Read, Write};
use std::net::TcpStream;

const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

const ENTRIES: &str = "snowcache_narinfo_cache_entries";
const BYTES: &str = "snowcache_narinfo_cache_bytes";

fn url(sample: &Sample) -> String {
    format!("/{}.narinfo", sample.path.hash())
}

/// The same URL as a proxy may write it: the router knows it, what is before the router does not.
fn by_the_router(url: &str) -> String {
    let (first, rest) = url[1..].split_at(1);
    format!("/%{:02x}{rest}", first.as_bytes()[0])
}

/// All but what is each answer's own.
fn essence(answer: &Answer) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let mut headers: Vec<_> = answer.headers.clone().into_iter().collect();
    headers.retain(|(name, _)| name != "date" && name != "x-request-id");
    headers.sort();
    (answer.status, headers, answer.body.clone())
}

#[test]
fn out_of_memory_or_not_an_answer_is_the_same() {
    let cache = Cache::new();
    let sample = Sample::tree('a', "hello", 1000, &[]);
    sample.push(&cache);
    let (here, absent) = (url(&sample), format!("/{}.narinfo", "z".repeat(32)));
    assert_eq!(cache.get(&here).status, 200);
    assert_eq!(cache.metric(ENTRIES), 1.0);
    for path in [&here, &absent] {
        for method in ["GET", "HEAD"] {
            for prefix in ["", "/push"] {
                let ask = |path: &str| cache.send(method, &format!("{prefix}{path}"), &[], b"");
                let (quick, routed) = (ask(path), ask(&by_the_router(path)));
                assert_eq!(essence(&quick), essence(&routed), "{method} {prefix}{path}");
                assert!(!quick.header("x-request-id").is_empty());
                assert_ne!(quick.header("x-request-id"), routed.header("x-request-id"));
            }
        }
    }
    let named = cache.send("GET", &here, &[("X-Request-Id", "my-own.1")], b"");
    assert_eq!(named.header("x-request-id"), "my-own.1");
    let counted = "snowcache_http_requests_total{route=\"narinfo\",method=\"GET\",code=\"200\"}";
    assert_eq!(cache.metric(counted), 4.0);
    let large = "x".repeat(70_000);
    let refused = cache.send("GET", &here, &[("X-Large", &large)], b"");
    assert_eq!(refused.status, 431, "however well it is known");
}

#[test]
fn one_connection_hears_answer_after_answer() {
    let cache = Cache::new();
    let sample = Sample::tree('a', "hello", 1000, &[]);
    sample.push(&cache);
    let expected = cache.get(&url(&sample)).body;
    let mut stream = TcpStream::connect(cache.server.address).unwrap();
    let absent = format!("/{}.narinfo", "z".repeat(32));
    let ask = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n");
    let mut asked = String::new();
    for _ in 0..100 {
        asked += &ask(&url(&sample), "Accept: */*\r\n");
        asked += &ask(&absent, "");
    }
    asked += &ask(&url(&sample), "Connection: close\r\n");
    stream.write_all(asked.as_bytes()).unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).unwrap();
    let count = |what: &[u8]| heard.windows(what.len()).filter(|it| *it == what).count();
    assert_eq!(count(b"HTTP/1.1 200 OK\r\n"), 101);
    assert_eq!(count(b"HTTP/1.1 404 Not Found\r\n"), 100);
    assert_eq!(count(&expected), 101);
}

#[test]
fn a_path_that_was_absent_is_there_as_soon_as_its_push_is_answered() {
    let cache = Cache::new();
    for letter in ['a', 'b', 'c', 'd'] {
        let sample = Sample::tree(letter, "hello", 100, &[]);
        assert_eq!(cache.get(&url(&sample)).status, 404);
        sample.push(&cache);
        assert_eq!(cache.get(&url(&sample)).status, 200);
    }
}

#[test]
fn what_is_removed_signed_or_put_again_is_answered_as_it_is_now() {
    let cache = Cache::new();
    let sample = Sample::tree('a', "hello", 1000, &[]);
    sample.push(&cache);
    let first = sample.published(&cache);
    assert_eq!(first.info.signatures.len(), 1);

    let theirs = SecretKey::generate("theirs-1", [2; 32]).unwrap();
    let name = format!("nar/{}.nar", sample.hash().base32());
    let signature = theirs.sign("anything");
    let narinfo = format!("{}Sig: {signature}\n", sample.narinfo(&name, "none"));
    let put = cache.put(&sample.narinfo_url(), narinfo.as_bytes());
    assert_eq!(put.status, 200, "{}", put.text());
    let signed = sample.published(&cache);
    assert!(signed.info.signatures.contains(&signature));

    let admin = std::fs::read_to_string(cache.dir.path().join("admin.token")).unwrap();
    let bearer = format!("Bearer {}", admin.trim());
    let paths = json!({"paths": [sample.path.to_string()]}).to_string();
    let authorization = [("Authorization", bearer.as_str())];
    let removed = cache.send("POST", "/api/v1/remove", &authorization, paths.as_bytes());
    assert_eq!(removed.status, 200, "{}", removed.text());
    assert_eq!(cache.get(&url(&sample)).status, 404);

    let other = Sample::tree('a', "hello", 2000, &[]);
    other.push(&cache);
    assert_eq!(other.published(&cache).info.nar_hash, other.hash());
}

#[test]
fn a_start_with_another_key_answers_what_it_would_have_answered_without_memory() {
    let sample = Sample::tree('a', "hello", 1000, &[]);
    let cache = Cache::new();
    sample.push(&cache);
    let before = sample.published(&cache).info.signatures;
    let Cache { dir, server } = cache;
    drop(server);
    let key = SecretKey::generate("second-1", [7; 32]).unwrap();
    std::fs::write(dir.path().join("keys/second-1.sec"), key.to_string()).unwrap();
    let server = start(dir.path(), |_| {});
    let cache = Cache { dir, server };
    assert_eq!(sample.published(&cache).info.signatures, before);
    sample.push(&cache);
    let after = sample.published(&cache).info.signatures;
    assert!(
        after.iter().any(|it| it.key_name() == "second-1"),
        "{after:?}"
    );
}

#[test]
fn memory_for_narinfos_is_bounded_and_may_be_none() {
    const LIMIT: u64 = 32 << 10;
    for limit in [LIMIT, 0] {
        let cache = Cache::with(|config| config.reads.narinfo_cache_bytes = limit);
        let mut sample = Sample::file(store_path('a', "x"), b"one file in many paths");
        sample.push(&cache);
        let name = format!("nar/{}.nar", sample.hash().base32());
        for number in 0..96 {
            let [one, two] = [number % 32, number / 32].map(|it| ALPHABET[it] as char);
            let [start, end] = [two, one].map(|letter| letter.to_string().repeat(16));
            sample.path = format!("{start}{end}-x").parse().unwrap();
            let narinfo = sample.narinfo(&name, "none");
            assert_eq!(
                cache.put(&sample.narinfo_url(), narinfo.as_bytes()).status,
                200
            );
            for _ in 0..2 {
                assert_eq!(sample.published(&cache).info.store_path, sample.path);
            }
        }
        assert!(cache.metric(BYTES) <= limit as f64);
        assert_eq!(cache.metric(ENTRIES) > 0.0, limit > 0);
        assert_eq!(cache.metric(BYTES) > limit as f64 / 4.0, limit > 0);
    }
}
