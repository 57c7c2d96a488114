//! What a narinfo out of memory takes from the allocator.
//!
//! Counted is everything between hyper and the depot's memory: from the request as hyper hands it
//! over, with its headers, to the response that hyper gets, the meter included. Not counted is
//! hyper itself, whose buffers last as long as the connection.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's own")]

use axum::body::Body;
use axum::http::{Method, Request, Response};
use bytes::Bytes;
use http_body_util::Empty;
use snowcache_core::path_info::Claimed;
use snowcache_depot::{Nar, Upload};
use snowcache_nix::PathInfo;
use snowcache_nix::nar::Writer;
use snowcache_server::compose::Server;
use snowcache_server::config::Config;
use snowcache_server::http::App;
use snowcache_server::http::front::Front;
use snowcache_server::http::narinfo;

/// The body's box and the request's id: the headers' map is the request's own.
const A_HIT: u64 = 2;

const HASH: &str = "0c0g0ypmmnb8c6wbkhg6rwk2sh9gnbl3";

/// As Nix sends it.
fn request(method: &Method, hash: &str) -> Request<Empty<Bytes>> {
    let request = Request::builder()
        .method(method)
        .uri(format!("/{hash}.narinfo"))
        .header("host", "cache.example.org:8420")
        .header("user-agent", "curl/8.14.1 Nix/2.31.2")
        .header("accept", "*/*")
        .header("accept-encoding", "deflate, gzip, br, zstd");
    request.body(Empty::new()).unwrap()
}

/// Publishes a path with a small NAR.
fn publish(app: &App) {
    let mut nar = Writer::new(Vec::new());
    nar.file(false, 5).unwrap();
    nar.data(b"hello").unwrap();
    let mut ingest = app.depot.ingest().unwrap();
    ingest.write(&nar.finish().unwrap()).unwrap();
    let upload = Upload {
        cache: app.cache.clone(),
        name: "hello.nar".to_owned(),
        codec: "none".to_owned(),
        file_size_bytes: 1,
        subject: "tester".to_owned(),
        expires_unix_s: u64::MAX,
    };
    let Nar {
        nar_hash,
        nar_size_bytes,
    } = ingest.finish(upload).unwrap();
    let record = format!(
        "StorePath: /nix/store/{HASH}-hello\nNarHash: {nar_hash}\nNarSize: {nar_size_bytes}\n\
         References: \n"
    );
    let claimed = Claimed::new(PathInfo::from_record(&record).unwrap());
    let signed = claimed
        .verify(nar_hash, nar_size_bytes)
        .unwrap()
        .sign(&app.keys);
    app.depot.publish(&app.cache, signed, "tester").unwrap();
}

/// What answering takes, and the answer.
fn answered(app: &App, front: &Front, method: &Method, hash: &str) -> (u64, Response<Body>) {
    let mut asked = request(method, hash);
    let mut response = None;
    let counted = allocation_counter::measure(|| {
        let meter = app.metrics.meter(asked.method(), asked.uri().path());
        response = front
            .answer(&mut asked)
            .map(|answer| meter.answered(answer));
    });
    (counted.count_total, response.unwrap())
}

#[test]
fn a_hit_takes_two_allocations_and_a_miss_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        listen: vec!["127.0.0.1:0".to_owned()],
        data: dir.path().to_owned(),
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    let server = runtime.block_on(Server::open(config)).unwrap();
    let (app, front) = (server.app(), Front::new(server.app().clone()));
    publish(app);
    assert!(
        front.answer(&mut request(&Method::GET, HASH)).is_none(),
        "not yet in memory"
    );
    runtime
        .block_on(narinfo::get(app, &Method::GET, HASH))
        .unwrap();
    // The first of a minute notes that the path was asked for.
    answered(app, &front, &Method::GET, HASH);

    let absent = "z".repeat(32);
    for (method, hash, status) in [
        (Method::GET, HASH, 200),
        (Method::HEAD, HASH, 200),
        (Method::GET, &*absent, 404),
        (Method::HEAD, &*absent, 404),
    ] {
        let (count, answer) = answered(app, &front, &method, hash);
        assert_eq!(answer.status().as_u16(), status);
        assert!(count <= A_HIT, "{method} {hash}: {count} allocations");
        assert!(count > 0, "the counter counts");
    }
}
