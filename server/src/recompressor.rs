//! Recompressions: by command, and by the clock.
//!
//! ```text
//!   POST api/v1/recompress --+--> one at a time --> a thread: depot.recompress --> log
//!   every interval_s --------+                          '--> lines --> the client
//! ```
//! Guarantees: one at a time. One that a client asked for ends with the client, and what is done
//! then stays done. The thread that packs runs only where no other wants to. Never: begins by
//! itself where the interval is 0.

use crate::background::{next_turn, since_1970, stand_back};
use crate::caches::Caches;
use crate::config;
use crate::http::errors::Refusal;
use crate::metrics::Exposition;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use snowcache_depot::{Depot, Recompress, Recompressed};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender};

/// Lines that wait for a client, which is told some four a second.
const QUEUED_LINES: usize = 64;

/// Between looks whether one that was stopped has ended.
const NAP: Duration = Duration::from_millis(5);

/// Runs recompressions.
pub struct Recompressor {
    depot: Depot,
    caches: Arc<Caches>,
    config: config::Recompression,
    stopping: AtomicBool,
    state: Mutex<State>,
}

/// What is known of them since the start.
#[derive(Debug, Clone, Default, Serialize)]
struct State {
    /// How far the one under way is.
    running: Option<Recompressed>,
    /// What the last one that ended came to.
    last: Option<Last>,
    #[serde(skip)]
    totals: Totals,
}

#[derive(Debug, Clone, Serialize)]
struct Last {
    /// When it ended, in seconds since 1970.
    unix_s: u64,
    #[serde(flatten)]
    recompressed: Recompressed,
}

/// Over all that have ended.
#[derive(Debug, Clone, Default)]
struct Totals {
    ended: u64,
    failed: u64,
    nars: u64,
    before_bytes: u64,
    after_bytes: u64,
}

impl Recompressor {
    /// Recompresses `depot`, by itself as configured.
    pub fn new(
        depot: Depot,
        caches: Arc<Caches>,
        config: config::Recompression,
    ) -> Arc<Recompressor> {
        Arc::new(Recompressor {
            depot,
            caches,
            config,
            stopping: AtomicBool::new(false),
            state: Mutex::default(),
        })
    }

    /// The state as JSON.
    pub fn state(&self) -> Value {
        json!(self.lock().clone())
    }

    /// What there is to tell, for Prometheus.
    pub fn tell(&self, to: &mut Exposition) {
        let State {
            running,
            last,
            totals,
        } = self.lock().clone();
        to.gauge(
            "recompression_running",
            "Whether a recompression is under way.",
        );
        to.sample(&[], u8::from(running.is_some()));
        to.counter("recompression_runs_total", "Recompressions.");
        to.sample(&[("result", "ended")], totals.ended);
        to.sample(&[("result", "failed")], totals.failed);
        for (name, help, value) in [
            (
                "recompression_nars_total",
                "NARs that have another encoding since.",
                totals.nars,
            ),
            (
                "recompression_before_bytes_total",
                "What the frames took that were compressed again.",
                totals.before_bytes,
            ),
            (
                "recompression_after_bytes_total",
                "What they take since.",
                totals.after_bytes,
            ),
        ] {
            to.counter(name, help);
            to.sample(&[], value);
        }
        if let Some(last) = last {
            to.gauge(
                "recompression_last_end_time_seconds",
                "When the last one ended, since 1970.",
            );
            to.sample(&[], last.unix_s);
            to.gauge(
                "recompression_no_room",
                "1: it ended early, the rest of the room being for uploads.",
            );
            to.sample(&[], u8::from(last.recompressed.no_room));
        }
    }

    /// Starts one. Its lines end when it does, the last one with what it came to; when nobody takes
    /// them any more, it ends.
    ///
    /// # Errors
    /// 409 while another one is under way.
    pub fn start(
        self: &Arc<Self>,
        rate_bytes_per_s: Option<u64>,
    ) -> Result<Receiver<String>, Refusal> {
        let how = self.how(rate_bytes_per_s);
        self.begin(how)
    }

    fn begin(self: &Arc<Self>, how: Recompress) -> Result<Receiver<String>, Refusal> {
        {
            let mut state = self.lock();
            if state.running.is_some() {
                let sentence =
                    "a recompression is under way; GET api/v1/recompress tells how far it is";
                return Err(Refusal::new(StatusCode::CONFLICT, sentence));
            }
            state.running = Some(Recompressed::default());
        }
        let (sender, lines) = mpsc::channel(QUEUED_LINES);
        let (recompressor, span) = (self.clone(), tracing::Span::current());
        let thread = std::thread::Builder::new().name("recompress".to_owned());
        let started = thread.spawn(move || {
            let _in_span = span.entered();
            recompressor.run(&how, &sender);
        });
        if let Err(error) = started {
            self.lock().running = None;
            tracing::error!(%error, "a recompression could not be started");
            return Err(Refusal::internal());
        }
        Ok(lines)
    }

    fn how(&self, rate_bytes_per_s: Option<u64>) -> Recompress {
        Recompress {
            level: self.config.level,
            min_idle_s: self.config.min_idle_s,
            rate_bytes_per_s,
        }
    }

    /// How it is done by the clock.
    fn by_the_clock(&self) -> Recompress {
        self.how(Some(self.config.rate_bytes_per_s))
    }

    /// Recompresses by the clock, for ever.
    pub async fn by_itself(self: Arc<Self>) {
        let interval = Duration::from_secs(self.config.interval_s);
        if interval.is_zero() {
            return;
        }
        loop {
            tokio::time::sleep(next_turn(since_1970(), interval).1).await;
            // Whether a frame is compressed again tells whether another cache uses it.
            if self.caches.are_there() {
                continue;
            }
            // Where one by command is under way, this one waits for the next turn.
            if let Ok(mut lines) = self.begin(self.by_the_clock()) {
                while lines.recv().await.is_some() {}
            }
        }
    }

    /// Ends the one that is under way, and begins no other.
    pub fn halt(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// The same; waits until it has ended.
    pub async fn stop(&self) {
        self.halt();
        while self.lock().running.is_some() {
            tokio::time::sleep(NAP).await;
        }
    }

    fn run(&self, how: &Recompress, to: &Sender<String>) {
        let mut note = |done: &Recompressed| self.note(done, to);
        let recompressed = self.depot.recompress(how, stand_back, &mut note);
        let line = {
            let mut state = self.lock();
            state.running = None;
            match recompressed {
                Ok(recompressed) => {
                    log(&recompressed);
                    state.totals.add(&recompressed);
                    state.last = Some(Last {
                        unix_s: since_1970().as_secs(),
                        recompressed: recompressed.clone(),
                    });
                    json!({ "summary": recompressed })
                }
                Err(error) => {
                    state.totals.failed += 1;
                    tracing::error!(%error, "a recompression failed");
                    json!({ "error": error.to_string() })
                }
            }
        };
        // Nobody listens any more: the log has it too.
        to.blocking_send(line.to_string()).unwrap_or_default();
    }

    /// Passes on how far it is; whether it goes on.
    fn note(&self, done: &Recompressed, to: &Sender<String>) -> ControlFlow<()> {
        self.lock().running = Some(done.clone());
        // A client that is slow to take progress misses some of it.
        let line = json!({ "progress": done }).to_string();
        let left = matches!(to.try_send(line), Err(TrySendError::Closed(_)));
        match left || self.stopping.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Totals {
    fn add(&mut self, recompressed: &Recompressed) {
        self.ended += 1;
        self.nars += recompressed.nars_changed;
        self.before_bytes += recompressed.before_bytes;
        self.after_bytes += recompressed.after_bytes;
    }
}

fn log(recompressed: &Recompressed) {
    let Recompressed {
        nars,
        nars_changed,
        before_bytes,
        after_bytes,
        no_room,
        stopped,
        seconds,
        ..
    } = *recompressed;
    match nars {
        0 => tracing::debug!("nothing was to be compressed again"),
        _ => tracing::info!(
            nars,
            nars_changed,
            before_bytes,
            after_bytes,
            no_room,
            stopped,
            seconds,
            "a recompression has ended"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_does_as_configured() {
        let dir = tempfile::tempdir().expect("a folder");
        let options = snowcache_depot::Options::new(dir.path());
        let config = config::Recompression {
            level: 17,
            min_idle_s: 1234,
            rate_bytes_per_s: 567,
            ..config::Recompression::default()
        };
        let (depot, caches) = (Depot::open(options), Caches::open(dir.path()));
        let (depot, caches) = (depot.expect("opens"), caches.expect("opens"));
        let recompressor = Recompressor::new(depot, Arc::new(caches), config);
        let how = Recompress {
            level: 17,
            min_idle_s: 1234,
            rate_bytes_per_s: Some(567),
        };
        assert_eq!(recompressor.by_the_clock(), how);
        assert_eq!(recompressor.how(None).rate_bytes_per_s, None, "as asked");
    }
}
