//! What the tests of durability share: paths that are made from their number alone, so that an
//! oracle need only remember numbers, and the judgement whether one is there.

use std::collections::BTreeSet;
use std::io;

use super::codec::Codec;
use super::corpus::sha256;
use super::http::{Http, Response};
use super::nar::{Nar, Upload, hash_part};
use super::random::Random;

/// Path number `number`: from a few bytes to two megabytes, half of it shared with its neighbours,
/// a reference-like token inside.
pub fn upload(number: u64) -> Upload {
    let mut own = Random::seeded(number);
    let size = [100, 5_000, 60_000, 400_000, 2_000_000][own.below(5) as usize];
    of_size(number, size, &mut own)
}

/// The same, no larger than 60,000 bytes: for many at a time.
pub fn small_upload(number: u64) -> Upload {
    let mut own = Random::seeded(number);
    let size = [100, 5_000, 20_000, 60_000][own.below(4) as usize];
    of_size(number, size, &mut own)
}

fn of_size(number: u64, size: usize, own: &mut Random) -> Upload {
    let shared = Random::seeded(number % 5).bytes(size / 2);
    let text = format!("#! /nix/store/{}-interpreter\n", hash_part(number));
    let own = own.bytes(size / 2);
    let nar = Nar::new()
        .directory()
        .entry(b"own", |nar| nar.file(&own))
        .entry(b"script", |nar| nar.file(text.as_bytes()))
        .entry(b"shared", |nar| nar.file(&shared))
        .end();
    let codec = ["none", "zstd", "gzip"][(number % 3) as usize];
    Upload::honest(number, &name_of(number), &nar, Codec::named(codec))
}

fn name_of(number: u64) -> String {
    format!("path-{number}")
}

/// `<hash>-<name>` of path number `number`.
pub fn base_name(number: u64) -> String {
    format!("{}-{}", hash_part(number), name_of(number))
}

/// The answer to a PUT, or how the connection broke.
pub fn put(http: Http, path: &str, token: &str, body: &[u8]) -> io::Result<Response> {
    let request = http.request("PUT", path).bearer(token);
    request.bytes(body).try_send()
}

/// The path is there with its narinfo and its NAR, byte for byte.
pub fn assert_whole(http: Http, upload: &Upload) {
    let name = upload.base_name();
    let answer = http.get(&format!("/{}.narinfo", upload.hash_part()));
    assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    let narinfo = answer.text();
    assert!(
        narinfo.contains(&format!("NarHash: {}\n", upload.nar_hash)),
        "{name}: another NAR's narinfo:\n{narinfo}"
    );
    let raw = http.get(&raw_nar(upload));
    assert_eq!(raw.status, 200, "{name}: {}", raw.text());
    assert_eq!(
        sha256(raw.body.as_slice()),
        sha256(upload.nar.as_slice()),
        "{name}"
    );
}

/// Where an upload's NAR is read uncompressed.
pub fn raw_nar(upload: &Upload) -> String {
    let hash = upload.nar_hash.trim_start_matches("sha256:");
    format!("/nar/{hash}.nar")
}

/// The path is not there, or it is whole; whether it is there.
pub fn assert_whole_or_absent(http: Http, upload: &Upload) -> bool {
    let answer = http.get(&format!("/{}.narinfo", upload.hash_part()));
    match answer.status {
        404 => {
            http.get(&raw_nar(upload)).is(404);
            false
        }
        _ => {
            assert_whole(http, upload);
            true
        }
    }
}

/// Every path that the cache lists, as `<hash>-<name>`.
pub fn all_paths(http: Http) -> BTreeSet<String> {
    let (mut paths, mut after) = (BTreeSet::new(), String::new());
    loop {
        let page = http
            .get(&format!("/api/v1/paths?limit=1000{after}"))
            .is(200)
            .json();
        let names = page["paths"].as_array().expect("a list").iter();
        paths.extend(names.map(|name| name.as_str().expect("a name").to_owned()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return paths,
        }
    }
}

/// A number from the environment, for long forms; else `short`.
pub fn setting(variable: &str, short: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable}={text}: a number is wanted")),
        Err(_) => short,
    }
}

/// Whether the long form is asked for: `SNOWCACHE_LONG=1`.
pub fn long() -> bool {
    setting("SNOWCACHE_LONG", 0) > 0
}
