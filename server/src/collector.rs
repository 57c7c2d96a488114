//! Collections: by command, by the clock, and when an upload found no room.
//!
//! ```text
//!   POST api/v1/gc ---------+
//!   every gc_interval_s ----+--> one at a time --> a thread: depot.collect --> log
//!   an upload answered 507 -+                                   '--> lines --> the client
//! ```
//! Guarantees: one at a time; a collection that has begun goes on when the client that asked for it
//! goes away, and waits for a slow one no longer than [`PATIENCE`] in all. Never: two for want
//! of room within a minute.

use crate::caches::Caches;
use crate::http::errors::Refusal;
use crate::metrics::Exposition;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use snowcache_depot::{CacheName, Collected, Depot, ErrorKind, Finding, Policy};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender};

/// Lines that wait for a client: a line has up to some 700 bytes, so at most 3 MB.
const QUEUED_LINES: usize = 4096;

/// A collection waits so long, in all, for a client to take its lines; what finds no room
/// afterwards is counted and left out.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between looks whether the client has taken some.
const NAP: Duration = Duration::from_millis(5);

/// Between the writings of what was asked for when.
const NOTING: Duration = Duration::from_secs(60);

/// So many writings later they are made durable: a crash makes an hour of it forgotten at most, of
/// a grace of 30 days.
const NOTINGS_A_CHECKPOINT: u32 = 60;

/// After a collection the next one for want of room begins no sooner: a disk that is full of live
/// data is not to be read all the time.
const PAUSE: Duration = Duration::from_secs(60);

/// Runs collections.
pub struct Collector {
    depot: Depot,
    /// Of the cache at `/`.
    policy: Policy,
    /// They say what stays of them.
    caches: Arc<Caches>,
    interval: Option<Duration>,
    /// When the one under way began.
    running: Mutex<Option<Instant>>,
    wanted: Notify,
    totals: Mutex<Totals>,
}

/// What collections came to since the start, dry runs left out.
#[derive(Debug, Clone, Default)]
struct Totals {
    ended: u64,
    failed: u64,
    paths: u64,
    freed_bytes: u64,
    copied_bytes: u64,
    /// What was found living by the last one, when it ended, and how long it took.
    last: Option<(u64, SystemTime, Duration)>,
}

/// Given up when a collection ends, however it does.
struct Turn(Arc<Collector>);

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0.running() = None;
    }
}

impl Collector {
    /// Collects from `depot`, by itself every `interval` and up to a tenth more.
    pub fn new(
        depot: Depot,
        policy: Policy,
        caches: Arc<Caches>,
        interval: Option<Duration>,
    ) -> Arc<Collector> {
        Arc::new(Collector {
            depot,
            policy,
            caches,
            interval,
            running: Mutex::new(None),
            wanted: Notify::new(),
            totals: Mutex::default(),
        })
    }

    /// Starts a collection. Its lines end when it does, the last one with what it came to.
    ///
    /// # Errors
    /// 409 while another one is under way.
    pub fn start(self: &Arc<Self>, dry_run: bool) -> Result<Receiver<String>, Refusal> {
        let turn = self.turn()?;
        let (sender, lines) = mpsc::channel(QUEUED_LINES);
        let span = tracing::Span::current();
        tokio::task::spawn_blocking(move || {
            let _in_span = span.entered();
            let collector = turn.0.clone();
            let (last, teller) = collector.collect(dry_run, Teller::new(sender));
            // Who reads the last line may ask for the next collection at once.
            drop(turn);
            teller.last(&last);
        });
        Ok(lines)
    }

    /// Something found no room: a collection soon would be good.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// Ends the collection that is under way, at its next step, and begins no other. What was asked
    /// for when is written down.
    pub async fn stop(&self) {
        self.depot.stop_collecting();
        while self.running().is_some() {
            tokio::time::sleep(NAP).await;
        }
        self.note_uses(true).await;
    }

    /// Writes down what was asked for when, every minute, and for good every hour, for ever.
    pub async fn note(self: Arc<Self>) {
        loop {
            for notings in 1..=NOTINGS_A_CHECKPOINT {
                tokio::time::sleep(NOTING).await;
                self.note_uses(notings == NOTINGS_A_CHECKPOINT).await;
            }
        }
    }

    async fn note_uses(&self, for_good: bool) {
        let depot = self.depot.clone();
        let note = move || {
            depot.write_uses()?;
            match for_good {
                true => depot.checkpoint(),
                false => Ok(()),
            }
        };
        match tokio::task::spawn_blocking(note).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "what was used could not be noted"),
            Err(error) => tracing::error!(%error, "noting what was used panicked"),
        }
    }

    /// Collects by the clock, and when it is wanted, for ever.
    pub async fn by_itself(self: Arc<Self>) {
        let mut rested = tokio::time::Instant::now();
        loop {
            let clock = async {
                match self.interval {
                    Some(interval) => {
                        tokio::time::sleep(interval + interval.mul_f64(0.1 * chance())).await;
                    }
                    None => std::future::pending().await,
                }
            };
            let wanted = async {
                self.wanted.notified().await;
                tokio::time::sleep_until(rested).await;
            };
            tokio::select! { () = clock => {}, () = wanted => {} }
            // One that was asked for is under way: as good.
            if let Ok(mut lines) = self.start(false) {
                while lines.recv().await.is_some() {}
                rested = tokio::time::Instant::now() + PAUSE;
            }
        }
    }

    /// What there is to tell, for Prometheus.
    pub fn tell(&self, to: &mut Exposition) {
        to.gauge("gc_running", "Whether a collection is under way.");
        to.sample(&[], u8::from(self.running().is_some()));
        let totals = self.totals().clone();
        to.counter("gc_runs_total", "Collections, dry runs left out.");
        to.sample(&[("result", "ended")], totals.ended);
        to.sample(&[("result", "failed")], totals.failed);
        for (name, help, value) in [
            (
                "gc_removed_paths_total",
                "Paths that collections removed.",
                totals.paths,
            ),
            (
                "gc_freed_bytes_total",
                "Bytes that segments got less.",
                totals.freed_bytes,
            ),
            (
                "gc_copied_bytes_total",
                "Bytes copied for it.",
                totals.copied_bytes,
            ),
        ] {
            to.counter(name, help);
            to.sample(&[], value);
        }
        if let Some((live_bytes, ended, took)) = totals.last {
            to.gauge(
                "gc_last_end_time_seconds",
                "When the last one ended, since 1970.",
            );
            to.sample(
                &[],
                ended
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default()
                    .as_secs(),
            );
            to.gauge("gc_last_duration_seconds", "How long it took.");
            to.sample(&[], took.as_secs_f64());
            to.gauge(
                "depot_live_bytes",
                "Bytes in segments that it found living.",
            );
            to.sample(&[], live_bytes);
        }
    }

    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, Option<Instant>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(self: &Arc<Self>) -> Result<Turn, Refusal> {
        let mut running = self.running();
        if let Some(began) = *running {
            let sentence = format!(
                "a collection that began {} s ago is under way; ask again when it has ended",
                began.elapsed().as_secs()
            );
            return Err(Refusal::new(StatusCode::CONFLICT, sentence));
        }
        *running = Some(Instant::now());
        Ok(Turn(self.clone()))
    }

    /// Of deleted caches nothing may be left now.
    fn forget_gone(&self) {
        let is_gone = |cache: &CacheName| Ok::<_, Refusal>(self.depot.is_gone(cache)?);
        if let Err(refusal) = self.caches.forget_gone(is_gone) {
            tracing::warn!(%refusal, "deleted caches are looked at again by the next collection");
        }
    }

    /// Collects; returns the line to end with.
    fn collect(&self, dry_run: bool, mut teller: Teller) -> (Value, Teller) {
        let began = Instant::now();
        tracing::info!(dry_run, "a collection begins");
        let policy = self.caches.policy(&self.policy);
        let collected = self.depot.collect(&policy, dry_run, &mut |finding| {
            if !dry_run {
                log(&finding);
            }
            teller.tell(line(&finding));
        });
        match collected {
            Ok(collected) => {
                let (paths, freed_bytes) = (collected.paths, collected.freed_bytes);
                tracing::info!(dry_run, paths, freed_bytes, "a collection has ended");
                if !dry_run {
                    self.totals().add(&collected, began.elapsed());
                    self.forget_gone();
                }
                (teller.summary(&collected), teller)
            }
            Err(error) => {
                match error.kind() {
                    ErrorKind::Closed => tracing::info!("a collection was stopped"),
                    _ => {
                        self.totals().failed += 1;
                        tracing::error!(%error, "a collection failed");
                    }
                }
                (json!({ "error": error.to_string() }), teller)
            }
        }
    }
}

impl Totals {
    fn add(&mut self, collected: &Collected, took: Duration) {
        self.ended += 1;
        self.paths += collected.paths;
        self.freed_bytes += collected.freed_bytes;
        self.copied_bytes += collected.copied_bytes;
        self.last = Some((collected.live_bytes, SystemTime::now(), took));
    }
}

/// Tells a client, as far as it listens.
struct Teller {
    to: Sender<String>,
    patience: Duration,
    left_out: u64,
}

#[derive(Serialize)]
struct Summary<'a> {
    #[serde(flatten)]
    collected: &'a Collected,
    /// Lines that the client was too slow for.
    left_out: u64,
}

impl Teller {
    fn new(to: Sender<String>) -> Teller {
        Teller {
            to,
            patience: PATIENCE,
            left_out: 0,
        }
    }

    fn tell(&mut self, line: Value) {
        let mut line = line.to_string();
        loop {
            match self.to.try_send(line) {
                Err(TrySendError::Full(back)) if !self.patience.is_zero() => {
                    std::thread::sleep(NAP);
                    self.patience = self.patience.saturating_sub(NAP);
                    line = back;
                }
                Err(TrySendError::Full(_)) => return self.left_out += 1,
                // Nobody listens any more.
                Ok(()) | Err(TrySendError::Closed(_)) => return,
            }
        }
    }

    fn summary(&self, collected: &Collected) -> Value {
        let left_out = self.left_out;
        json!({ "summary": Summary { collected, left_out } })
    }

    /// The collection is over: this line may wait until the client takes it or its connection ends.
    fn last(self, line: &Value) {
        // Nobody listens any more: the log has it too.
        self.to.blocking_send(line.to_string()).unwrap_or_default();
    }
}

fn log(finding: &Finding) {
    match finding {
        Finding::Path {
            cache,
            path,
            reason,
            ..
        } => {
            tracing::info!(%cache, %path, reason, "a path goes");
        }
        Finding::Upload {
            cache,
            name,
            reason,
        } => {
            tracing::debug!(%cache, name, reason, "an upload goes");
        }
        Finding::Nar {
            nar_hash, reason, ..
        } => {
            tracing::debug!(%nar_hash, reason, "a NAR goes");
        }
        Finding::Segment {
            number,
            bytes,
            reason,
            ..
        } => {
            tracing::debug!(number, bytes, reason, "a segment goes");
        }
    }
}

/// A finding as clients read it.
fn line(finding: &Finding) -> Value {
    match finding {
        Finding::Path {
            cache,
            path,
            nar_size_bytes,
            reason,
        } => json!({
            "what": "path", "cache": cache, "path": path.to_string(),
            "nar_size_bytes": nar_size_bytes, "reason": reason,
        }),
        Finding::Upload {
            cache,
            name,
            reason,
        } => json!({
            "what": "upload", "cache": cache, "name": name, "reason": reason,
        }),
        Finding::Nar {
            nar_hash,
            nar_size_bytes,
            reason,
        } => json!({
            "what": "nar", "nar_hash": nar_hash.to_string(),
            "nar_size_bytes": nar_size_bytes, "reason": reason,
        }),
        Finding::Segment {
            number,
            bytes,
            live_bytes,
            reason,
        } => json!({
            "what": "segment", "number": number, "bytes": bytes, "live_bytes": live_bytes,
            "reason": reason,
        }),
    }
}

/// From 0 to 1. Without randomness 1: the longer wait.
fn chance() -> f64 {
    getrandom::u64().unwrap_or(u64::MAX) as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_takes_nothing_is_waited_for_only_so_long() {
        let (sender, mut lines) = mpsc::channel(2);
        let mut teller = Teller::new(sender);
        teller.patience = NAP * 4;
        for number in 0..5 {
            teller.tell(json!(number));
        }
        assert_eq!((teller.left_out, teller.patience), (3, Duration::ZERO));
        assert_eq!(lines.try_recv().as_deref(), Ok("0"));
        teller.tell(json!("again"));
        assert_eq!(teller.left_out, 3, "there was room");
        drop(lines);
        teller.tell(json!("to nobody"));
        assert_eq!(teller.left_out, 3, "nobody missed it");
    }
}
