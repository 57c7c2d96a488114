//! What a stock client reads, byte for byte and header for header.

use crate::client::Cache;
use crate::sample::{Sample, store_path, unpack};
use snowcache_nix::Listing;
use snowcache_nix::nar::Parser;
use snowcache_server::http::codec::Codec;

#[test]
fn a_pushed_path_reads_back_in_every_form() {
    let cache = Cache::new();
    let sample = Sample::tree('a', "hello-1.0", 3 << 20, &[]);
    sample.push(&cache);
    let published = sample.published(&cache);
    assert_eq!(published.compression, "zstd");
    assert_eq!(published.info.nar_hash, sample.hash());
    assert_eq!(published.info.nar_size, sample.nar.len() as u64);
    let prefix = format!("/nar/{}-", sample.hash().base32());
    assert!(published.url.starts_with(&prefix) && published.url.ends_with(".nar.zst"));

    let encoded = cache.get(&published.url);
    assert_eq!(encoded.body.len() as u64, published.file_size);
    assert!(unpack(Codec::Zstd, &encoded.body) == sample.nar);
    let raw_url = format!("/nar/{}.nar", sample.hash().base32());
    let raw = cache.get(&raw_url);
    assert!(raw.body == sample.nar);
    for (url, whole) in [(&published.url, encoded), (&raw_url, raw)] {
        let cache_control = whole.header("cache-control");
        assert_eq!(cache_control, "public, max-age=31536000, immutable");
        assert_eq!(whole.header("accept-ranges"), "bytes");
        assert_eq!(whole.header("content-encoding"), "");
        assert!(whole.header("etag").starts_with('"'), "a strong one");
        let head = cache.head(url);
        assert_eq!((head.status, head.body.len()), (200, 0));
        for name in ["content-length", "etag", "accept-ranges", "cache-control"] {
            assert_eq!(head.header(name), whole.header(name), "{name} of {url}");
        }
    }
}

#[test]
fn ranges_are_exact_and_resume_a_broken_download() {
    let cache = Cache::new();
    let sample = Sample::tree('b', "ranges", 2 << 20, &[store_path('b', "ranges")]);
    sample.push(&cache);
    let encoded_url = sample.published(&cache).url;
    let raw_url = format!("/nar/{}.nar", sample.hash().base32());
    for url in [encoded_url, raw_url] {
        let whole = cache.get(&url).body;
        let size = whole.len();
        for (first, last) in [
            (0, 0),
            (1, 99),
            (150, 900_000),
            (size / 2, size - 1),
            (size - 1, size),
        ] {
            let range = format!("bytes={first}-{last}");
            let part = cache.send("GET", &url, &[("Range", &range)], b"");
            assert_eq!(part.status, 206, "{range}");
            let end = (last + 1).min(size);
            assert!(part.body == whole[first..end], "{range} of {url}");
            let span = format!("bytes {first}-{}/{size}", end - 1);
            assert_eq!(part.header("content-range"), span);
        }
        let beyond = cache.send("GET", &url, &[("Range", &format!("bytes={size}-"))], b"");
        assert_eq!(
            (beyond.status, beyond.header("content-range")),
            (416, &*format!("bytes */{size}"))
        );
        let several = cache.send("GET", &url, &[("Range", "bytes=0-1,5-6")], b"");
        assert_eq!((several.status, several.body.len()), (200, size));
        let other = [("Range", "bytes=5-9"), ("If-Range", "\"other\"")];
        assert_eq!(cache.send("GET", &url, &other, b"").status, 200);
        let etag = cache.head(&url).header("etag").to_owned();
        let same = [("Range", "bytes=5-9"), ("If-Range", etag.as_str())];
        assert_eq!(cache.send("GET", &url, &same, b"").body, &whole[5..10]);
        let known = cache.send("GET", &url, &[("If-None-Match", &etag)], b"");
        assert_eq!((known.status, known.body.len()), (304, 0));
    }
}

#[test]
fn an_encoding_that_is_gone_never_mixes_with_the_current_one() {
    let cache = Cache::new();
    let sample = Sample::tree('c', "old", 100_000, &[]);
    sample.push(&cache);
    let current = cache.get(&sample.published(&cache).url).body;
    let gone = format!("/nar/{}-0000000000000000.nar.zst", sample.hash().base32());
    let whole = cache.get(&gone);
    assert!(whole.status == 200 && whole.body == current);
    assert_eq!(whole.header("cache-control"), "no-store");
    assert_eq!(
        (whole.header("accept-ranges"), whole.header("etag")),
        ("", "")
    );
    let part = cache.send("GET", &gone, &[("Range", "bytes=10-")], b"");
    assert_eq!(part.status, 412);
    assert!(
        part.text().contains("fetch the narinfo again"),
        "{}",
        part.text()
    );
}

#[test]
fn a_listing_is_made_from_the_nar_and_skips_what_files_hold() {
    let cache = Cache::new();
    let sample = Sample::tree('d', "listed", 5 << 20, &[]);
    let url = format!("/{}.ls", sample.path.hash());
    let theirs = cache.put(&format!("/push{url}"), b"{\"version\":1,\"root\":{}}");
    assert_eq!(theirs.status, 200);
    assert_eq!(cache.get(&url).status, 404, "theirs was thrown away");
    sample.push(&cache);
    let (mut parser, mut listing) = (Parser::new(), Listing::new());
    parser
        .feed(&sample.nar, &mut |event| listing.event(event))
        .unwrap();
    let answer = cache.get(&url);
    assert_eq!(answer.text(), listing.to_json().unwrap());
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(cache.get(&format!("/push{url}")).body, answer.body);
}

#[test]
fn what_is_missing_is_404_whatever_it_is_called() {
    let cache = Cache::new();
    let hash = "z".repeat(32);
    let nar = "0".repeat(52);
    let drv = format!("{hash}-x.drv");
    for path in [
        format!("/{hash}.narinfo"),
        format!("/{hash}.ls"),
        format!("/nar/{nar}.nar"),
        format!("/nar/{nar}-0123456789abcdef.nar.zst"),
        format!("/nar/{nar}.nar.xz"),
        format!("/log/{drv}"),
        format!("/realisations/sha256:{nar}!out.doi"),
        format!("/build-trace-v2/{drv}/out.doi"),
        "/debuginfo/abcdef.debug".to_owned(),
        "/x.narinfo".to_owned(),
        "/..%2f..%2fetc%2fpasswd".to_owned(),
        "/%ff%fe".to_owned(),
        "/nar/x".to_owned(),
        "/log/x".to_owned(),
        "/index.html".to_owned(),
        "/a/b/c/d".to_owned(),
    ] {
        for prefix in ["", "/push"] {
            let path = format!("{prefix}{path}");
            for method in ["GET", "HEAD"] {
                let status = cache.send(method, &path, &[], b"").status;
                let decodable = !path.contains("%ff");
                assert!(
                    status == 404 || (!decodable && status == 400),
                    "{method} {path}: {status}"
                );
            }
        }
    }
}

#[test]
fn logs_and_realisations_are_kept_and_the_first_realisation_stays() {
    let cache = Cache::new();
    let drv = format!("{}-x.drv", "0".repeat(32));
    let log = format!("/log/{drv}");
    assert_eq!(cache.put(&format!("/push{log}"), b"first\n").status, 200);
    assert_eq!(cache.put(&format!("/push{log}"), b"second\n").status, 200);
    assert_eq!(cache.get(&log).text(), "second\n");
    assert_eq!(cache.get(&format!("/push{log}")).text(), "second\n");

    let id = format!("sha256:{}!out", "ab".repeat(32));
    let url = format!("/realisations/{id}.doi");
    let json = |name: &str| {
        let path = store_path('0', name);
        format!(
            "{{\"dependentRealisations\":{{}},\"id\":\"{id}\",\"outPath\":\"{path}\",\
             \"signatures\":[]}}"
        )
    };
    for name in ["one", "two"] {
        let put = cache.put(&format!("/push{url}"), json(name).as_bytes());
        assert_eq!(put.status, 200, "{}", put.text());
    }
    assert_eq!(cache.get(&url).text(), json("one"));
    let elsewhere = format!("/push/realisations/sha256:{}!out.doi", "cd".repeat(32));
    let put = cache.put(&elsewhere, json("one").as_bytes());
    assert!(
        put.status == 422 && put.text().contains("under its own id"),
        "{}",
        put.text()
    );

    let trace = format!("/build-trace-v2/{drv}/out.doi");
    let body = format!(
        "{{\"outPath\":\"{}\",\"signatures\":[]}}",
        store_path('0', "one")
    );
    let put = cache.put(&format!("/push{trace}"), body.as_bytes());
    assert_eq!(put.status, 200, "{}", put.text());
    assert_eq!(cache.get(&trace).text(), body);
}
