//! Recompressions: by command, and by the clock.
//!
//! ```text
//!   POST api/v1/recompress --+--> one at a time --> a thread: depot.recompress --> log
//!   every interval_s --------+                          '--> lines --> the client
//! ```
//! Guarantees: one at a time. One that a client asked for ends with the client, and what is done
//! then stays done. The thread that packs runs only where no other wants to. Never: begins by
//! itself where the interval is 0.

use crate::background::job::{Job, Name};
use crate::background::{next_turn, since_1970, stand_back};
use crate::caches::Caches;
use crate::config;
use crate::http::errors::Refusal;
use crate::metrics::Exposition;
use serde_json::{Map, Value, json};
use snowcache_depot::{Depot, Recompress, Recompressed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::Receiver;

/// Runs recompressions.
pub struct Recompressor {
    depot: Depot,
    caches: Arc<Caches>,
    config: config::Recompression,
    job: Arc<Job<Recompressed, Recompressed>>,
    totals: Mutex<Totals>,
}

/// Over all that have ended.
#[derive(Debug, Clone, Default)]
struct Totals {
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
        let name = Name {
            route: "recompress",
            noun: "a recompression",
        };
        Arc::new(Recompressor {
            depot,
            caches,
            config,
            job: Job::new(name),
            totals: Mutex::default(),
        })
    }

    /// The state as JSON.
    pub fn state(&self) -> Value {
        json!(self.job.state())
    }

    /// What there is to tell, for Prometheus.
    pub fn tell(&self, to: &mut Exposition) {
        let (state, totals) = (self.job.state(), self.totals().clone());
        to.gauge(
            "recompression_running",
            "Whether a recompression is under way.",
        );
        to.sample(&[], u8::from(state.running.is_some()));
        to.counter("recompression_runs_total", "Recompressions.");
        to.sample(&[("result", "ended")], state.ended);
        to.sample(&[("result", "failed")], state.failed);
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
        if let Some(last) = state.last {
            to.gauge(
                "recompression_last_end_time_seconds",
                "When the last one ended, since 1970.",
            );
            to.sample(&[], last.unix_s);
            to.gauge(
                "recompression_no_room",
                "1: it ended early, the rest of the room being for uploads.",
            );
            to.sample(&[], u8::from(last.result.no_room));
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
        let recompressor = self.clone();
        self.job.start(Map::new(), move |teller| {
            let note = &mut |done: &Recompressed| teller.progress(done);
            let done = recompressor.depot.recompress(&how, stand_back, note)?;
            log(&done);
            recompressor.totals().add(&done);
            Ok(done)
        })
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
        self.job.halt();
    }

    /// The same; waits until it has ended.
    pub async fn stop(&self) {
        self.job.stop().await;
    }

    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Totals {
    fn add(&mut self, recompressed: &Recompressed) {
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
