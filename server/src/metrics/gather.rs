//! A scrape: what was counted, and what is asked of the server's parts at that moment.
//!
//! Guarantees: it answers within some [`PATIENCE`], however large the depot: rows are counted by a
//! thread that takes no more than a [`SHARE`]th of the time, and until it has ended the figures of
//! the last count are told. Never: waits for a place among the readers.

use super::{Counted, Metrics, process};
use crate::caches::Named;
use crate::http::{App, Shared};
use snowcache_core::exposition::Exposition;
use snowcache_depot::{ErrorKind, Stats};
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use snowcache_core::exposition::CONTENT_TYPE;

/// A scraper gives up after 10 s by default.
const PATIENCE: Duration = Duration::from_secs(3);

/// Counts of rows are as old as this at least before they are taken anew.
const FRESH: Duration = Duration::from_secs(10);

/// And so many times as old as the counting took: 1 M paths take a second.
const SHARE: u32 = 50;

/// Everything, as Prometheus reads it.
pub async fn text(app: &Shared) -> String {
    let mut to = Exposition::default();
    to.gauge("build_info", "What is running.");
    to.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    to.gauge("ready", "Whether /readyz says 200.");
    to.sample(
        &[],
        u8::from(crate::http::health::readiness(app).await.is_ok()),
    );
    to.gauge("read_only", "Whether nothing is taken in and nothing goes.");
    to.sample(&[], u8::from(app.config.read_only));
    app.metrics.http.tell(&mut to);
    uploads(app, &mut to);
    pools(app, &mut to);
    deltas(app, &mut to);
    events(app, &mut to);
    vitals(app, &mut to).await;
    if let Some(stats) = counted(app).await {
        rows(&stats, &mut to);
    }
    caches(app, &mut to);
    by_themselves(app, &mut to);
    app.collector.tell(&mut to);
    app.scrubber.tell(&mut to);
    app.recompressor.tell(&mut to);
    certificate(app, &mut to);
    process::tell(&mut to);
    to.into_text()
}

fn uploads(app: &App, to: &mut Exposition) {
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    to.counter("uploads_total", "NARs taken in.");
    to.sample(&[], load(&app.metrics.uploads));
    to.counter(
        "upload_received_bytes_total",
        "Bytes of them as they came, packed.",
    );
    to.sample(&[], load(&app.metrics.upload_received_bytes));
    to.counter("upload_nar_bytes_total", "Bytes of them, unpacked.");
    to.sample(&[], load(&app.metrics.upload_nar_bytes));
    to.counter(
        "upload_conflicts_total",
        "Paths put again with other bytes; the first stays.",
    );
    to.sample(&[], load(&app.conflicts));
    to.gauge("uploads_in_progress", "NARs that are being taken in.");
    to.sample(&[], app.uploads.busy());
}

fn pools(app: &App, to: &mut Exposition) {
    let pools = [
        ("reads", &app.reads),
        ("uploads", &app.uploads),
        ("commits", &app.commits),
    ];
    to.gauge("pool_busy", "Places for blocking work that are taken.");
    for (name, pool) in pools {
        to.sample(&[("pool", name)], pool.busy());
    }
    to.gauge("pool_places", "Places that there are.");
    for (name, pool) in pools {
        to.sample(&[("pool", name)], pool.places());
    }
    let (narinfos, bytes) = app.narinfos.held();
    to.gauge("narinfo_cache_entries", "Narinfos that memory holds.");
    to.sample(&[], narinfos);
    to.gauge("narinfo_cache_bytes", "Bytes that they take.");
    to.sample(&[], bytes);
    to.gauge(
        "http_max_connections",
        "Connections that are served at once.",
    );
    to.sample(&[], app.config.http.max_connections);
}

fn deltas(app: &App, to: &mut Exposition) {
    let (asked, made, kept_bytes) = app.plans.counted();
    to.counter(
        "plans_asked_total",
        "Questions how paths are made of older ones.",
    );
    to.sample(&[], asked);
    to.counter(
        "plans_made_total",
        "Answers that were made; the others were there.",
    );
    to.sample(&[], made);
    to.gauge("plans_kept_bytes", "Bytes of answers in memory.");
    to.sample(&[], kept_bytes);
    let (made, used, bytes) = app.depot.patches_counted();
    to.counter(
        "patches_made_total",
        "Patches made for nodes that follow a pin.",
    );
    to.sample(&[], made);
    to.counter("patches_used_total", "Patches that were told in an answer.");
    to.sample(&[], used);
    to.gauge(
        "pins_to_patch",
        "Pins that moved and whose patches are being made.",
    );
    to.sample(&[], app.patcher.waiting());
    to.gauge("patches_bytes", "Bytes that patches take on disk.");
    to.sample(&[], bytes);
}

fn events(app: &App, to: &mut Exposition) {
    let (listening, lost) = app.events.counted();
    to.gauge("event_listeners", "Streams of events that are open.");
    to.sample(&[], listening);
    to.counter(
        "events_lost_total",
        "Streams that ended since their client took too little.",
    );
    to.sample(&[], lost);
}

async fn vitals(app: &Shared, to: &mut Exposition) {
    let depot = app.depot.clone();
    let vitals = tokio::task::spawn_blocking(move || depot.vitals());
    let Ok(Ok(Ok(vitals))) = tokio::time::timeout(PATIENCE, vitals).await else {
        return;
    };
    to.gauge("depot_stored_bytes", "Bytes in segments.");
    to.sample(&[], vitals.stored_bytes);
    to.gauge(
        "depot_usable_bytes",
        "Bytes that uploads may fill, those stored included.",
    );
    to.sample(&[], vitals.usable_bytes);
    to.gauge(
        "depot_disk_free_bytes",
        "Bytes that the depot's disk has left.",
    );
    to.sample(&[], vitals.disk_free_bytes);
    to.gauge("quarantined_nars", "NARs that are damaged and not served.");
    to.sample(&[], vitals.sick_nars);
    to.gauge("quarantined_frames", "Frames that these lack.");
    to.sample(&[], vitals.sick_frames);
    to.counter(
        "index_stalls_total",
        "Writes of the index that waited until it was put in order.",
    );
    to.sample(&[], vitals.index_stalls);
}

fn rows(stats: &Stats, to: &mut Exposition) {
    for (name, help, value) in [
        ("depot_paths", "Store paths that are visible.", stats.paths),
        ("depot_nars", "NARs, visible or under lease.", stats.nars),
        (
            "depot_frames",
            "Pieces that NARs are made of.",
            stats.frames,
        ),
        ("depot_uploads", "Names of uploads.", stats.uploads),
        (
            "depot_documents",
            "Logs, realisations and build traces.",
            stats.documents,
        ),
        (
            "depot_segments",
            "Files that hold all of it.",
            stats.segments,
        ),
    ] {
        to.gauge(name, help);
        to.sample(&[], value);
    }
}

/// The rows of the depot's tables, counted lately.
async fn counted(app: &Shared) -> Option<Stats> {
    let fresh = |counted: &Counted| counted.at.elapsed() < FRESH.max(counted.took * SHARE);
    let known = app.metrics.counted().clone();
    if known.as_ref().is_some_and(fresh) {
        return known.map(|counted| counted.stats);
    }
    let counting = app.clone();
    let counting = tokio::task::spawn_blocking(move || counting.metrics.count(&counting));
    match tokio::time::timeout(PATIENCE, counting).await {
        Ok(Ok(())) => app.metrics.counted().clone().map(|counted| counted.stats),
        _ => known.map(|counted| counted.stats),
    }
}

impl Metrics {
    fn counted(&self) -> MutexGuard<'_, Option<Counted>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts, unless somebody does.
    fn count(&self, app: &App) {
        let Ok(_counting) = self.counting.try_lock() else {
            return;
        };
        let began = Instant::now();
        match app.depot.stats() {
            Ok(stats) => {
                *self.counted() = Some(Counted {
                    stats,
                    at: Instant::now(),
                    took: began.elapsed(),
                });
            }
            Err(error) if error.kind() == ErrorKind::Closed => {}
            Err(error) => tracing::error!(%error, "the depot's rows could not be counted"),
        }
    }
}

/// Of each named cache; there are at most [`MAX_CACHES`](crate::caches::MAX_CACHES).
fn caches(app: &App, to: &mut Exposition) {
    let caches = app.caches.list();
    if caches.is_empty() {
        return;
    }
    to.counter("cache_requests_total", "Requests for a named cache.");
    for named in &caches {
        let label = [("cache", named.name.as_str())];
        to.sample(&label, named.requests.load(Ordering::Relaxed));
    }
    let held = |named: &Named| app.depot.holding(&named.cache);
    let counted = caches.iter().filter_map(|it| Some((it, held(it)?)));
    let counted: Vec<_> = counted.collect();
    to.gauge("cache_paths", "Store paths that are visible in it.");
    for (named, held) in &counted {
        to.sample(&[("cache", named.name.as_str())], held.paths);
    }
    to.gauge("cache_nar_bytes", "Bytes of their NARs, unpacked.");
    for (named, held) in &counted {
        to.sample(&[("cache", named.name.as_str())], held.nar_bytes);
    }
    to.gauge("cache_quota_bytes", "What these may be at most.");
    for named in &caches {
        if let Some(quota_bytes) = named.settings.quota_bytes {
            to.sample(&[("cache", named.name.as_str())], quota_bytes);
        }
    }
}

/// For alerts: what is overdue depends on how often it comes.
fn by_themselves(app: &App, to: &mut Exposition) {
    let runs = u64::from(!app.config.read_only);
    to.gauge(
        "gc_interval_seconds",
        "Between collections; 0: none by itself.",
    );
    to.sample(&[], runs * app.config.retention.gc_interval_s);
    to.gauge(
        "scrub_interval_seconds",
        "In which every byte is read once; 0: not by itself.",
    );
    to.sample(&[], runs * app.config.scrub.interval_s);
    to.gauge(
        "recompression_interval_seconds",
        "Between recompressions; 0: none by itself.",
    );
    to.sample(&[], runs * app.config.recompression.interval_s);
}

fn certificate(app: &App, to: &mut Exposition) {
    let Some(certificates) = &app.certificates else {
        return;
    };
    let told = certificates.told();
    to.gauge(
        "tls_certificate_end_time_seconds",
        "When it ends, since 1970.",
    );
    to.sample(&[], told.ends_unix_s.load(Ordering::Relaxed));
    to.gauge(
        "tls_certificate_outdated",
        "1: the files hold one that cannot be used.",
    );
    to.sample(&[], u8::from(told.fails.load(Ordering::Relaxed)));
    to.counter("tls_reloads_total", "New certificates found.");
    for (result, counter) in [("used", &told.reloaded), ("refused", &told.refused)] {
        to.sample(&[("result", result)], counter.load(Ordering::Relaxed));
    }
}
