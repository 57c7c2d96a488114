//! Counters of requests and connections: arrays of atomics, one for each combination of labels.
//!
//! 31 routes x 7 methods x 23 statuses of 8 bytes are 40 KB. Never: a lock, an allocation.

use super::route::Route;
use axum::http::{Method, StatusCode};
use snowcache_core::exposition::Exposition;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

const METHODS: [&str; 7] = ["GET", "HEAD", "PUT", "POST", "DELETE", "QUERY", "other"];

/// What this server answers with; `other` is none of these.
const STATUSES: [u16; 22] = [
    200, 201, 204, 206, 304, 400, 401, 403, 404, 405, 408, 409, 412, 413, 415, 416, 422, 429, 431,
    500, 503, 507,
];

/// From half a millisecond, a narinfo out of memory, to two minutes, a large NAR: each about 2.5
/// times the one before.
const BUCKETS_S: [f64; 15] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0,
];

const CELLS: usize = METHODS.len() * (STATUSES.len() + 1);

/// What is counted of one route.
struct Counts {
    requests: [AtomicU64; CELLS],
    /// Not cumulative; the last one is beyond all buckets.
    durations: [AtomicU64; BUCKETS_S.len() + 1],
    duration_ns: AtomicU64,
    response_bytes: AtomicU64,
}

/// Requests and connections since the start.
pub struct HttpCounts {
    routes: Vec<Counts>,
    in_flight: AtomicI64,
    connections: AtomicI64,
    connections_total: AtomicU64,
    handshakes_failed: AtomicU64,
}

/// A connection, as long as it lasts.
pub struct Connected<'a>(&'a AtomicI64);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for HttpCounts {
    fn default() -> HttpCounts {
        let zeros = |_| Counts {
            requests: [const { AtomicU64::new(0) }; CELLS],
            durations: Default::default(),
            duration_ns: AtomicU64::new(0),
            response_bytes: AtomicU64::new(0),
        };
        HttpCounts {
            routes: Route::ALL.iter().map(zeros).collect(),
            in_flight: AtomicI64::new(0),
            connections: AtomicI64::new(0),
            connections_total: AtomicU64::new(0),
            handshakes_failed: AtomicU64::new(0),
        }
    }
}

/// The place of a method among the labels.
pub(super) fn method_number(method: &Method) -> usize {
    let known = METHODS.iter().position(|known| *known == method.as_str());
    known.unwrap_or(METHODS.len() - 1)
}

impl HttpCounts {
    /// A connection was accepted.
    pub fn connected(&self) -> Connected<'_> {
        self.connections_total.fetch_add(1, Ordering::Relaxed);
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connected(&self.connections)
    }

    /// A client and we did not agree on TLS.
    pub fn handshake_failed(&self) {
        self.handshakes_failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn begun(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ended(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn answered(&self, route: Route, method: usize, status: StatusCode) {
        let known = STATUSES.iter().position(|known| *known == status.as_u16());
        let cell = method * (STATUSES.len() + 1) + known.unwrap_or(STATUSES.len());
        self.routes[route as usize].requests[cell].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, route: Route, bytes: u64) {
        let sent = &self.routes[route as usize].response_bytes;
        sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn lasted(&self, route: Route, duration: Duration) {
        let counts = &self.routes[route as usize];
        let seconds = duration.as_secs_f64();
        let bucket = BUCKETS_S.iter().position(|bound| seconds <= *bound);
        let bucket = bucket.unwrap_or(BUCKETS_S.len());
        counts.durations[bucket].fetch_add(1, Ordering::Relaxed);
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        counts.duration_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// What there is, for Prometheus. Combinations that never occurred are left out.
    pub(super) fn tell(&self, to: &mut Exposition) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        to.counter("http_requests_total", "Requests answered.");
        for (route, counts) in self.counted() {
            for (cell, count) in counts.requests.iter().map(load).enumerate() {
                if count > 0 {
                    let (method, status) =
                        (cell / (STATUSES.len() + 1), cell % (STATUSES.len() + 1));
                    let status = STATUSES.get(status).map(u16::to_string);
                    let code = status.as_deref().unwrap_or("other");
                    let labels = [
                        ("route", route),
                        ("method", METHODS[method]),
                        ("code", code),
                    ];
                    to.sample(&labels, count);
                }
            }
        }
        to.histogram(
            "http_request_duration_seconds",
            "From a request's head to its answer's end.",
        );
        for (route, counts) in self.counted() {
            let durations: Vec<u64> = counts.durations.iter().map(load).collect();
            let sum_s = load(&counts.duration_ns) as f64 / 1e9;
            to.distribution(("route", route), &BUCKETS_S, &durations, sum_s);
        }
        to.counter("http_response_bytes_total", "Bytes of answers' bodies.");
        for (route, counts) in self.counted() {
            to.sample(&[("route", route)], load(&counts.response_bytes));
        }
        to.gauge(
            "http_requests_in_flight",
            "Requests not yet answered to their end.",
        );
        to.sample(&[], self.in_flight.load(Ordering::Relaxed));
        to.gauge("http_connections", "Connections that are open.");
        to.sample(&[], self.connections.load(Ordering::Relaxed));
        to.counter("http_connections_total", "Connections accepted.");
        to.sample(&[], load(&self.connections_total));
        to.counter(
            "tls_handshakes_failed_total",
            "Connections that did not become encrypted ones.",
        );
        to.sample(&[], load(&self.handshakes_failed));
    }

    /// Routes that were asked, by name.
    fn counted(&self) -> impl Iterator<Item = (&'static str, &Counts)> {
        let all = Route::ALL
            .iter()
            .map(|route| route.name())
            .zip(&self.routes);
        let used = |counts: &Counts| {
            counts
                .requests
                .iter()
                .any(|it| it.load(Ordering::Relaxed) > 0)
        };
        all.filter(move |(_, counts)| used(counts))
    }
}
