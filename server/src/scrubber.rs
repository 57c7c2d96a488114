//! Scrubs: by command, and by the clock, a slice at a time.
//!
//! ```text
//!   POST api/v1/scrub ------------------+
//!   every interval_s / 168, slice n/168 +--> one at a time --> a thread: depot.scrub --> log
//!                                                                 '--> lines --> the client
//! ```
//! Guarantees: the slices of one interval are everything; which slice is due follows from the time
//! alone, so that restarts lose at most the one under way. A scrub that a client asked for ends
//! with the client. Its threads run only where no other wants to.

use crate::background::job::{Job, Name, Teller};
use crate::background::{next_turn, since_1970, stand_back};
use crate::config;
use crate::http::errors::Refusal;
use crate::metrics::Exposition;
use serde_json::{Map, Value, json};
use snowcache_depot::{Depot, Progress, Scrub, Scrubbed, Scrubbing, Subset};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::Receiver;

/// Parts of an interval: of a week these are hours, and at 32 MiB/s each hour reads up to 115 GB.
const SLICES: u32 = 168;

/// Runs scrubs.
pub struct Scrubber {
    depot: Depot,
    config: config::Scrub,
    job: Arc<Job<Progress, Scrubbed>>,
    /// Damaged places found since the start.
    damaged: AtomicU64,
    /// Bytes read since the start, by scrubs that have ended.
    read_bytes: AtomicU64,
}

impl Scrubber {
    /// Scrubs `depot`, by itself as configured.
    pub fn new(depot: Depot, config: config::Scrub) -> Arc<Scrubber> {
        let name = Name {
            route: "scrub",
            noun: "a scrub",
        };
        Arc::new(Scrubber {
            depot,
            config,
            job: Job::new(name),
            damaged: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
        })
    }

    /// The state as JSON.
    pub fn state(&self) -> Value {
        let mut state = json!(self.job.state());
        state["damaged"] = json!(self.damaged.load(Ordering::Relaxed));
        state
    }

    /// What there is to tell, for Prometheus.
    pub fn tell(&self, to: &mut Exposition) {
        let state = self.job.state();
        to.gauge("scrub_running", "Whether a scrub is under way.");
        to.sample(&[], u8::from(state.running.is_some()));
        for (name, help, value) in [
            (
                "scrub_read_bytes_total",
                "Bytes that scrubs read and checked.",
                self.read_bytes.load(Ordering::Relaxed),
            ),
            (
                "scrub_damaged_total",
                "Damaged places that scrubs found.",
                self.damaged.load(Ordering::Relaxed),
            ),
            (
                "scrub_failed_total",
                "Scrubs that could not be carried out.",
                state.failed,
            ),
        ] {
            to.counter(name, help);
            to.sample(&[], value);
        }
        if let Some(last) = state.last {
            to.gauge(
                "scrub_last_end_time_seconds",
                "When the last one ended, since 1970.",
            );
            to.sample(&[], last.unix_s);
        }
    }

    /// Starts a scrub. Its lines end when it does, the last one with what it came to; when nobody
    /// takes them any more, it ends.
    ///
    /// # Errors
    /// 409 while another one is under way.
    pub fn start(
        self: &Arc<Self>,
        subset: Option<Subset>,
        rate_bytes_per_s: Option<u64>,
    ) -> Result<Receiver<String>, Refusal> {
        let scrub = Scrub {
            subset,
            rate_bytes_per_s,
        };
        let subset = json!(subset.map(|subset| subset.to_string()));
        let about = Map::from_iter([("subset".to_owned(), subset)]);
        let scrubber = self.clone();
        self.job.start(about, move |teller| {
            stand_back();
            let note = &mut |told| scrubber.note(&told, teller);
            let scrubbed = scrubber.depot.scrub(&scrub, note)?;
            log(&scrubbed);
            let read_bytes = &scrubber.read_bytes;
            read_bytes.fetch_add(scrubbed.bytes, Ordering::Relaxed);
            Ok(scrubbed)
        })
    }

    /// Scrubs by the clock, for ever.
    pub async fn by_itself(self: Arc<Self>) {
        let interval = Duration::from_secs(self.config.interval_s);
        if interval.is_zero() {
            return;
        }
        let slice = interval
            .div_f64(f64::from(SLICES))
            .max(Duration::from_secs(1));
        loop {
            let (number, wait) = due(since_1970(), slice);
            tokio::time::sleep(wait).await;
            let Scrub {
                subset,
                rate_bytes_per_s,
            } = self.slice(number);
            // Where one by command is under way, this slice waits for the next interval.
            if let Ok(mut lines) = self.start(subset, rate_bytes_per_s) {
                while lines.recv().await.is_some() {}
            }
        }
    }

    /// What is scrubbed by itself at a time.
    fn slice(&self, number: u32) -> Scrub {
        Scrub {
            subset: Subset::new(number + 1, SLICES),
            rate_bytes_per_s: Some(self.config.rate_bytes_per_s),
        }
    }

    /// Ends the scrub that is under way, and begins no other.
    pub fn halt(&self) {
        self.job.halt();
    }

    /// The same; waits until it has ended.
    pub async fn stop(&self) {
        self.job.stop().await;
    }

    /// Passes on what a scrub tells; whether it goes on.
    fn note(&self, told: &Scrubbing, to: &Teller<'_, Progress, Scrubbed>) -> ControlFlow<()> {
        match told {
            Scrubbing::Progress(progress) => return to.progress(progress),
            Scrubbing::Damage(_) => {
                self.damaged.fetch_add(1, Ordering::Relaxed);
            }
            Scrubbing::Lost(path) => tracing::error!(path, "is not served until pushed again"),
        }
        to.line(&json!(told))
    }
}

fn log(scrubbed: &Scrubbed) {
    let Scrubbed {
        segments,
        bytes,
        damaged,
        sick_nars,
        stopped,
        seconds,
        ..
    } = *scrubbed;
    match damaged {
        0 => tracing::info!(
            segments,
            bytes,
            seconds,
            stopped,
            "a scrub has ended, all well"
        ),
        _ => tracing::error!(segments, bytes, damaged, sick_nars, "a scrub found damage"),
    }
}

/// Which slice comes next, and how long until it is due.
fn due(now: Duration, slice: Duration) -> (u32, Duration) {
    let (turn, wait) = next_turn(now, slice);
    ((turn % u128::from(SLICES)) as u32, wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_scrubbed_by_itself_is_a_slice_at_the_configured_rate() {
        let dir = tempfile::tempdir().expect("a folder");
        let options = snowcache_depot::Options::new(dir.path());
        let config = config::Scrub {
            rate_bytes_per_s: 12_345,
            ..config::Scrub::default()
        };
        let scrubber = Scrubber::new(Depot::open(options).expect("opens"), config);
        let slice = scrubber.slice(7);
        assert_eq!(slice.rate_bytes_per_s, Some(12_345));
        assert_eq!(slice.subset, Subset::new(8, SLICES));
    }

    #[test]
    fn the_slices_of_an_interval_are_everything_and_restarts_do_not_matter() {
        let slice = Duration::from_secs(3600);
        let mut now = Duration::from_secs(1_763_838_000 + 1234);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..SLICES {
            let (number, wait) = due(now, slice);
            let (again, less) = due(now + wait / 2, slice);
            assert_eq!((number, wait / 2), (again, less), "asked again half-way");
            assert!(wait <= slice && !wait.is_zero());
            seen.insert(number);
            now += wait;
        }
        assert_eq!(seen.len(), SLICES as usize);
        assert!(
            seen.into_iter()
                .all(|number| Subset::new(number + 1, SLICES).is_some())
        );
    }
}
