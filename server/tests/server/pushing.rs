//! What a stock client writes, and what it finds of it afterwards.

use crate::client::{Cache, start};
use crate::sample::{Sample, pack, store_path, unpack};
use snowcache_nix::{SecretKey, fingerprint};
use snowcache_server::http::codec::Codec;

/// Each codec with the suffix that Nix gives its files.
const CODECS: [(Codec, &str); 8] = [
    (Codec::None, ""),
    (Codec::Xz, ".xz"),
    (Codec::Bzip2, ".bz2"),
    (Codec::Gzip, ""),
    (Codec::Zstd, ".zst"),
    (Codec::Brotli, ".br"),
    (Codec::Lzip, ".lzip"),
    (Codec::Lz4, ".lz4"),
];

#[test]
fn every_codec_comes_in_and_goes_back_under_its_own_name() {
    let cache = Cache::new();
    for (letter, (codec, suffix)) in ('0'..='9').zip(CODECS) {
        let sample = Sample::tree(letter, codec.name(), 700_000, &[]);
        let name = format!("nar/upload-{codec}.nar{suffix}");
        let url = format!("/push/{name}");
        assert_eq!(cache.head(&url).status, 404, "nix asks first");
        let put = cache.put(&url, &pack(codec, &sample.nar));
        assert_eq!(put.status, 200, "{codec}: {}", put.text());
        let narinfo = sample.narinfo(&name, codec.name());
        let put = cache.put(&sample.narinfo_url(), narinfo.as_bytes());
        assert_eq!(put.status, 200, "{codec}: {}", put.text());

        let back = cache.get(&url);
        assert_eq!((back.status, back.header("accept-ranges")), (200, ""));
        assert!(unpack(codec, &back.body) == sample.nar, "{codec}");
        let head = cache.head(&url);
        assert_eq!(head.status, 200);
        // What GET sends is as long as that says, or nothing is said.
        let length = head.headers.get("content-length");
        let told = length.is_none_or(|length| *length == back.body.len().to_string());
        assert!(told, "{codec}: HEAD says {length:?}");
        let published = sample.published(&cache);
        let encoded = cache.get(&published.url).body;
        assert!(unpack(Codec::Zstd, &encoded) == sample.nar, "{codec}");
    }
}

#[test]
fn narinfos_and_logs_may_be_packed() {
    let cache = Cache::new();
    let encodings = [
        ("gzip", Codec::Gzip),
        ("br", Codec::Brotli),
        ("zstd", Codec::Zstd),
        ("xz", Codec::Xz),
        ("bzip2", Codec::Bzip2),
        ("deflate", Codec::Deflate),
    ];
    for (letter, (encoding, codec)) in ('0'..='9').zip(encodings) {
        let sample = Sample::tree(letter, encoding, 10, &[]);
        assert_eq!(cache.put("/push/nar/x.nar", &sample.nar).status, 200);
        let narinfo = pack(codec, sample.narinfo("nar/x.nar", "none").as_bytes());
        let packed = [("Content-Encoding", encoding)];
        let put = cache.put_with(&sample.narinfo_url(), &packed, &narinfo);
        assert_eq!(put.status, 200, "{encoding}: {}", put.text());
        let log = format!("/push/log/{}-x.drv", letter.to_string().repeat(32));
        let put = cache.put_with(&log, &packed, &pack(codec, b"a log"));
        assert_eq!(put.status, 200, "{encoding}: {}", put.text());
        assert_eq!(cache.get(&log).body, b"a log");
    }
    let url = format!("/push/log/{}-x.drv", "0".repeat(32));
    let put = cache.put_with(&url, &[("Content-Encoding", "rot13")], b"n ybt");
    assert_eq!(put.status, 415);
    let put = cache.put_with(&url, &[("Content-Encoding", "gzip")], b"no gzip");
    assert_eq!(put.status, 400, "{}", put.text());
}

#[test]
fn our_keys_sign_what_was_computed_and_the_uploaders_signature_stays() {
    let cache = Cache::new();
    let sample = Sample::tree('a', "signed", 1000, &[store_path('a', "signed")]);
    assert_eq!(cache.put("/push/nar/x.nar", &sample.nar).status, 200);
    let uploader = SecretKey::generate("ci-1", [5; 32]).unwrap();
    let theirs = uploader.sign("anything").to_string();
    let narinfo = sample.narinfo("nar/x.nar", "none") + &format!("Sig: {theirs}\n");
    let put = cache.put(&sample.narinfo_url(), narinfo.as_bytes());
    assert_eq!(put.status, 200, "{}", put.text());

    let info = sample.published(&cache).info;
    let public = std::fs::read_to_string(cache.dir.path().join("keys/test-1.pub")).unwrap();
    let public: snowcache_nix::PublicKey = public.trim().parse().unwrap();
    let ours = info.signatures.iter().find(|s| s.key_name() == "test-1");
    assert!(public.verify(&fingerprint(&info), ours.unwrap()));
    assert!(info.signatures.iter().any(|s| s.to_string() == theirs));
}

#[test]
fn a_path_waits_for_its_references() {
    let cache = Cache::new();
    let library = Sample::tree('l', "library", 100, &[]);
    let program = Sample::tree('p', "program", 100, std::slice::from_ref(&library.path));
    assert_eq!(cache.put("/push/nar/p.nar", &program.nar).status, 200);
    let narinfo = program.narinfo("nar/p.nar", "none");
    let early = cache.put(&program.narinfo_url(), narinfo.as_bytes());
    assert_eq!(early.status, 422);
    assert!(
        early.text().contains(&library.path.to_string()),
        "{}",
        early.text()
    );
    assert_eq!(cache.get(&program.narinfo_url()).status, 404);
    library.push(&cache);
    let late = cache.put(&program.narinfo_url(), narinfo.as_bytes());
    assert_eq!(late.status, 200, "{}", late.text());
}

#[test]
fn the_first_commit_wins_and_the_second_build_does_not_fail() {
    let cache = Cache::new();
    let first = Sample::tree('a', "racy", 1000, &[]);
    let second = Sample {
        path: first.path.clone(),
        ..Sample::tree('b', "racy", 1000, &[])
    };
    first.push(&cache);
    first.push(&cache);
    second.push(&cache);
    assert_eq!(first.published(&cache).info.nar_hash, first.hash());
    let stats = cache.get("/api/v1/stats");
    assert!(stats.text().contains("\"conflicts\":1"), "{}", stats.text());
}

#[test]
fn an_upload_without_narinfo_is_its_uploaders_business() {
    let cache = Cache::new();
    let sample = Sample::tree('a', "hidden", 1000, &[]);
    assert_eq!(cache.put("/push/nar/hidden.nar", &sample.nar).status, 200);
    let token = cache.token();
    let bearer = format!("Bearer {token}");
    let known = [("Authorization", bearer.as_str())];
    assert_eq!(
        cache
            .send("HEAD", "/push/nar/hidden.nar", &known, b"")
            .status,
        200
    );
    assert_eq!(cache.get("/push/nar/hidden.nar").status, 404);
    assert_eq!(
        cache
            .get(&format!("/nar/{}.nar", sample.hash().base32()))
            .status,
        404
    );
    let info = sample.narinfo("nar/hidden.nar", "none");
    assert_eq!(
        cache.put(&sample.narinfo_url(), info.as_bytes()).status,
        200
    );
    assert_eq!(cache.get("/push/nar/hidden.nar").status, 200);
}

#[test]
fn content_addresses_are_checked() {
    let cache = Cache::new();
    let content = b"some text";
    let hash = snowcache_nix::Hash::from(crate::sample::nar_hash(content));
    let flat = snowcache_nix::ContentAddress::new(snowcache_nix::ca::Method::Flat, hash).unwrap();
    let path = flat.store_path_for("text", &[], false).unwrap();
    let sample = Sample::file(path, content);
    assert_eq!(cache.put("/push/nar/f.nar", &sample.nar).status, 200);
    let narinfo = sample.narinfo("nar/f.nar", "none");
    let put = |ca: &str| {
        let narinfo = format!("{narinfo}CA: {ca}\n");
        cache.put(&sample.narinfo_url(), narinfo.as_bytes())
    };
    let wrong = put(&flat.to_string().replace("fixed:", "text:"));
    assert_eq!(wrong.status, 422, "{}", wrong.text());
    let forged = Sample::file(sample.path.clone(), b"other text");
    assert_eq!(cache.put("/push/nar/g.nar", &forged.nar).status, 200);
    let forgery = forged.narinfo("nar/g.nar", "none") + &format!("CA: {flat}\n");
    let refused = cache.put(&sample.narinfo_url(), forgery.as_bytes());
    assert_eq!(refused.status, 422, "{}", refused.text());
    let right = put(&flat.to_string());
    assert_eq!(right.status, 200, "{}", right.text());
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let Cache { dir, server } = Cache::new();
    let mut cache = Cache { dir, server };
    let sample = Sample::tree('a', "kept", 2 << 20, &[]);
    sample.push(&cache);
    let before = cache.get(&format!("/{}.narinfo", sample.path.hash())).body;
    let path = cache.dir.path().to_owned();
    drop(cache.server);
    cache.server = start(&path, |_| {});
    let after = cache.get(&format!("/{}.narinfo", sample.path.hash())).body;
    assert_eq!(before, after);
    let encoded = cache.get(&sample.published(&cache).url).body;
    assert!(unpack(Codec::Zstd, &encoded) == sample.nar);
}
