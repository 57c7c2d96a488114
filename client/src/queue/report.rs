//! What is told of the queue: files for `queue status` and for Prometheus, and lines on stderr.
//!
//! Guarantees: both files are whole at every moment; counts begin anew with the process, as
//! counters of Prometheus' may. Never: needed for anything but to be looked at.

use crate::push::{Plan, Pushed};
use crate::show;
use crate::spool::{Spool, SpoolError, replace};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often the files are written while a push goes on, and at most while there is nothing to do.
const INTERVAL: Duration = Duration::from_secs(1);

/// What the queue does and has done since it was started. Times are in seconds since 1970.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct State {
    /// Its process.
    pub pid: u32,
    /// Where it pushes to.
    pub cache: String,
    /// When it was started.
    pub since_s: u64,
    /// The push under way.
    pub now: Option<Now>,
    /// Entries that left the spool because all of their closures is there.
    pub arrived: u64,
    /// Paths published.
    pub pushed_paths: u64,
    /// Paths that the cache has with other bytes, which stay.
    pub conflicts: u64,
    /// Entries given up.
    pub gave_up: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Rounds that came to nothing, and were waited after.
    pub waits: u64,
    /// When something arrived.
    pub last_arrival_s: Option<u64>,
    /// What went wrong last, and has not been followed by an arrival.
    pub trouble: Option<String>,
    /// When it is tried again.
    pub next_try_s: Option<u64>,
}

/// A push under way.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Now {
    /// Entries that it is for.
    pub entries: usize,
    /// Paths that the cache lacked.
    pub paths: usize,
    /// Their NARs' bytes.
    pub nar_size: u64,
    /// NAR bytes done.
    pub packed_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
}

/// See the module.
pub struct Report {
    state: State,
    counts: Option<Arc<Pushed>>,
    metrics: Option<PathBuf>,
    saved: Option<tokio::time::Instant>,
    changed: bool,
}

impl Report {
    /// Of a queue that pushes to `cache`, with metrics in that file.
    pub fn new(cache: String, metrics: Option<PathBuf>) -> Report {
        let state = State {
            pid: std::process::id(),
            cache,
            since_s: now_s(),
            ..State::default()
        };
        Report {
            state,
            counts: None,
            metrics,
            saved: None,
            changed: true,
        }
    }

    /// What the queue of this spool told last, if it ever did.
    pub fn read(spool: &Spool) -> Option<State> {
        let text = fs::read(spool.folder().join("state.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    pub(super) fn begins(&mut self, entries: usize, plan: &Plan, counts: &Arc<Pushed>) {
        self.counts = Some(counts.clone());
        self.state.next_try_s = None;
        self.state.now = Some(Now {
            entries,
            paths: plan.missing.len(),
            nar_size: plan.nar_size_bytes(),
            ..Now::default()
        });
        self.changed = true;
    }

    /// Keeps the files fresh while `work` goes on.
    pub(super) async fn over<T>(&mut self, spool: &Spool, work: impl Future<Output = T>) -> T {
        let mut tick = tokio::time::interval(INTERVAL);
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = tick.tick() => {
                    if let (Some(now), Some(counts)) = (&mut self.state.now, &self.counts) {
                        now.packed_bytes = counts.packed_bytes.load(Ordering::Relaxed);
                        now.sent_bytes = counts.sent_bytes.load(Ordering::Relaxed);
                    }
                    self.changed = true;
                    if let Err(error) = self.save(spool) {
                        eprintln!("snowcache: {error}");
                    }
                }
            }
        }
    }

    pub(super) fn ends(&mut self, pushed: u64, conflicts: u64, counts: &Pushed) {
        (self.state.now, self.counts) = (None, None);
        self.state.pushed_paths += pushed;
        self.state.conflicts += conflicts;
        self.state.sent_bytes += counts.sent_bytes.load(Ordering::Relaxed);
        self.changed = true;
    }

    pub(super) fn arrived(&mut self, entries: usize) {
        if entries == 0 {
            return;
        }
        self.state.arrived += entries as u64;
        self.state.last_arrival_s = Some(now_s());
        (self.state.trouble, self.state.next_try_s) = (None, None);
        self.changed = true;
        eprintln!("snowcache: {} arrived", show::paths(entries));
    }

    pub(super) fn failed(&mut self, why: &str) {
        if self.state.trouble.as_deref() != Some(why) {
            eprintln!("snowcache: {why}");
        }
        self.state.trouble = Some(why.to_owned());
        self.changed = true;
    }

    pub(super) fn waits(&mut self, why: &str, wait: Duration) {
        self.failed(why);
        self.state.waits += 1;
        self.state.next_try_s = Some(now_s() + wait.as_secs());
    }

    pub(super) fn gave_up(&mut self, why: &str) {
        eprintln!("snowcache: given up: {why}");
        self.state.gave_up += 1;
        self.changed = true;
    }

    pub(super) fn rests(&mut self) {
        self.changed |= self.state.next_try_s.take().is_some();
        let since = self.saved.map(|saved| saved.elapsed());
        // Others queue meanwhile, which the metrics tell of.
        self.changed |= self.metrics.is_some() && since.is_none_or(|it| it >= INTERVAL);
    }

    /// Writes the files, if there is news.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn save(&mut self, spool: &Spool) -> Result<(), SpoolError> {
        if !std::mem::take(&mut self.changed) {
            return Ok(());
        }
        self.saved = Some(tokio::time::Instant::now());
        let text = serde_json::to_vec(&self.state).unwrap_or_default();
        replace(&spool.folder().join("state.json"), &text)?;
        if let Some(file) = &self.metrics {
            let (waiting, failed) = (spool.waiting()?, spool.failed()?.len());
            let oldest = waiting.first().map_or(0, crate::spool::Entry::since_s);
            let text = self.state.metrics(waiting.len(), failed, oldest);
            replace(file, text.as_bytes())?;
        }
        Ok(())
    }
}

impl State {
    /// As Prometheus' node exporter takes it from a file.
    fn metrics(&self, waiting: usize, failed: usize, oldest_s: u64) -> String {
        const WHY: &str = "invariant: a String can be written to";
        let (waiting, failed) = (waiting as u64, failed as u64);
        let last_s = self.last_arrival_s.unwrap_or(0);
        let oldest = "When the oldest of them was queued; 0: none waits.";
        let gauges = [
            ("waiting_paths", "Paths that wait to be pushed.", waiting),
            ("oldest_waiting_timestamp_seconds", oldest, oldest_s),
            ("failed_paths", "Paths that were given up.", failed),
            (
                "last_arrival_timestamp_seconds",
                "When something arrived; 0: never.",
                last_s,
            ),
        ];
        let counters = [
            ("arrived_total", "Entries that arrived.", self.arrived),
            ("pushed_paths_total", "Paths published.", self.pushed_paths),
            (
                "conflicts_total",
                "Paths there with other bytes.",
                self.conflicts,
            ),
            ("gave_up_total", "Entries given up.", self.gave_up),
            ("sent_bytes_total", "Bytes sent.", self.sent_bytes),
            ("waits_total", "Tries that came to nothing.", self.waits),
        ];
        let mut text = String::new();
        let gauges = gauges.map(|it| ("gauge", it));
        let counters = counters.map(|it| ("counter", it));
        for (kind, (name, help, value)) in gauges.into_iter().chain(counters) {
            let name = format!("snowcache_queue_{name}");
            writeln!(text, "# HELP {name} {help}").expect(WHY);
            writeln!(text, "# TYPE {name} {kind}\n{name} {value}").expect(WHY);
        }
        text
    }
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
