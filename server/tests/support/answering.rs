//! A server with one path, that nobody listens to, and requests for narinfos as Nix sends them.

use axum::http::{Method, Request};
use bytes::Bytes;
use http_body_util::Empty;
use snowcache_core::path_info::Claimed;
use snowcache_depot::{Nar, Upload};
use snowcache_nix::PathInfo;
use snowcache_nix::nar::Writer;
use snowcache_server::compose::Server;
use snowcache_server::config::Config;
use snowcache_server::http::front::Front;
use snowcache_server::http::{App, narinfo};
use snowcache_server::listen::Peer;

/// The path that is here.
pub const HASH: &str = "0c0g0ypmmnb8c6wbkhg6rwk2sh9gnbl3";

/// One that is not.
pub const ABSENT: &str = "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz";

/// A server with [`HASH`] in its memory, and asked for once.
pub fn server(dir: &tempfile::TempDir) -> Server {
    let config = Config {
        listen: vec!["127.0.0.1:0".to_owned()],
        data: dir.path().to_owned(),
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let server = runtime.block_on(Server::open(config)).unwrap();
    let app = server.app();
    publish(app);
    let front = Front::new(app.clone());
    let mut first = request(&Method::GET, HASH);
    assert!(
        front.answer(&Peer::Unix, &mut first).is_none(),
        "not yet in memory"
    );
    let looked_up = narinfo::get(app, &Method::GET, HASH);
    runtime.block_on(looked_up).unwrap();
    // The first of a minute notes that the path was asked for.
    assert!(front.answer(&Peer::Unix, &mut first).is_some());
    server
}

/// As Nix sends it.
pub fn request(method: &Method, hash: &str) -> Request<Empty<Bytes>> {
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
