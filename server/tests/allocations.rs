//! What a narinfo out of memory takes from the allocator.
//!
//! Counted is everything between hyper and the depot's memory: from the request as hyper hands it
//! over, with its headers, to the response that hyper gets, its counting included. Not counted is
//! hyper itself, whose buffers last as long as the connection.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's own")]

#[path = "support/answering.rs"]
mod answering;

use answering::{ABSENT, HASH, request};
use axum::body::Body;
use axum::http::{Method, Response};
use snowcache_server::http::App;
use snowcache_server::http::front::Front;
use snowcache_server::listen::Peer;
use std::time::Instant;

/// The body's box and the request's id: the headers' map is the request's own.
const A_HIT: u64 = 2;

/// What answering takes, and the answer.
fn answered(app: &App, front: &Front, method: &Method, hash: &str) -> (u64, Response<Body>) {
    let mut asked = request(method, hash);
    let mut response = None;
    let counted = allocation_counter::measure(|| {
        let began = Instant::now();
        response = front.answer(&Peer::Unix, &mut asked);
        if let Some(answer) = &response {
            let (method, path) = (asked.method(), asked.uri().path());
            app.metrics.at_once(method, path, answer, began);
        }
    });
    (counted.count_total, response.unwrap())
}

#[test]
fn a_hit_takes_two_allocations_and_a_miss_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let server = answering::server(&dir);
    let (app, front) = (server.app(), Front::new(server.app().clone()));
    for (method, hash, status) in [
        (Method::GET, HASH, 200),
        (Method::HEAD, HASH, 200),
        (Method::GET, ABSENT, 404),
        (Method::HEAD, ABSENT, 404),
    ] {
        let (count, answer) = answered(app, &front, &method, hash);
        assert_eq!(answer.status().as_u16(), status);
        assert!(count <= A_HIT, "{method} {hash}: {count} allocations");
        assert!(count > 0, "the counter counts");
    }
}
