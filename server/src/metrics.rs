//! What the server counts, for Prometheus.
//!
//! ```text
//!   listen --> meter --> http: counters in arrays, by route, method and status --+
//!   depot, pools, collector, scrubber, certificate, /proc -- at a scrape ---------+--> /metrics
//! ```
//! Guarantees: a request is counted without allocating; labels come from fixed lists, so that no
//! client can make series. Never: a path or a token in a label.

mod gather;
mod http;
mod meter;
mod process;
mod route;

pub use gather::{CONTENT_TYPE, text};
pub use http::HttpCounts;
pub use meter::Meter;
pub use route::Route;
pub use snowcache_core::exposition::Exposition;

use axum::http::Method;
use axum::response::Response;
use http_body::Body;
use snowcache_depot::Stats;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// What has been counted since the start.
#[derive(Default)]
pub struct Metrics {
    /// Requests and connections.
    pub http: HttpCounts,
    /// NARs taken in.
    pub uploads: AtomicU64,
    /// Bytes of them as they came.
    pub upload_received_bytes: AtomicU64,
    /// Bytes of them unpacked.
    pub upload_nar_bytes: AtomicU64,
    draining: AtomicBool,
    counted: Mutex<Option<Counted>>,
    /// Held by who counts.
    counting: Mutex<()>,
}

/// What was counted row by row, which takes its time.
#[derive(Clone)]
struct Counted {
    stats: Stats,
    at: Instant,
    took: std::time::Duration,
}

impl Metrics {
    /// Begins to measure a request that came at `began`.
    pub fn meter(self: &Arc<Self>, method: &Method, path: &str, began: Instant) -> Meter {
        Meter::begin(self.clone(), Route::of(path), method, began)
    }

    /// Counts a request that came at `began` and has its answer, of a known length.
    pub fn at_once(&self, method: &Method, path: &str, answer: &Response, began: Instant) {
        let route = Route::of(path);
        let (http, method) = (&self.http, http::method_number(method));
        http.answered(route, method, answer.status());
        http.sent(route, answer.body().size_hint().exact().unwrap_or(0));
        http.lasted(route, began.elapsed());
    }

    /// From now on the server ends.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the server is about to end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// A NAR was taken in.
    pub fn uploaded(&self, received_bytes: u64, nar_bytes: u64) {
        self.uploads.fetch_add(1, Ordering::Relaxed);
        self.upload_received_bytes
            .fetch_add(received_bytes, Ordering::Relaxed);
        self.upload_nar_bytes
            .fetch_add(nar_bytes, Ordering::Relaxed);
    }
}
