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

use crate::background::{next_turn, since_1970, stand_back};
use crate::config;
use crate::http::errors::Refusal;
use crate::metrics::Exposition;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use snowcache_depot::{Depot, Progress, Scrub, Scrubbed, Scrubbing, Subset};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{self, Receiver, Sender};

/// Parts of an interval: of a week these are hours, and at 32 MiB/s each hour reads up to 115 GB.
const SLICES: u32 = 168;

/// Lines that wait for a client.
const QUEUED_LINES: usize = 256;

/// Between looks whether a scrub that was stopped has ended.
const NAP: Duration = Duration::from_millis(5);

/// Runs scrubs.
pub struct Scrubber {
    depot: Depot,
    config: config::Scrub,
    stopping: AtomicBool,
    state: Mutex<State>,
}

/// What is known of scrubs since the start.
#[derive(Debug, Clone, Default, Serialize)]
struct State {
    /// How far the one under way is.
    running: Option<Progress>,
    /// What the last one that ended came to.
    last: Option<Last>,
    /// Damaged places found since the start.
    damaged: u64,
    /// Bytes read since the start, by scrubs that have ended.
    #[serde(skip)]
    read_bytes: u64,
    /// Scrubs that the depot ended with an error.
    #[serde(skip)]
    failed: u64,
}

#[derive(Debug, Clone, Serialize)]
struct Last {
    /// When it ended, in seconds since 1970.
    unix_s: u64,
    /// Which part it was.
    subset: Option<String>,
    #[serde(flatten)]
    scrubbed: Scrubbed,
}

impl Scrubber {
    /// Scrubs `depot`, by itself as configured.
    pub fn new(depot: Depot, config: config::Scrub) -> Arc<Scrubber> {
        Arc::new(Scrubber {
            depot,
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
        let state = self.lock().clone();
        to.gauge("scrub_running", "Whether a scrub is under way.");
        to.sample(&[], u8::from(state.running.is_some()));
        for (name, help, value) in [
            (
                "scrub_read_bytes_total",
                "Bytes that scrubs read and checked.",
                state.read_bytes,
            ),
            (
                "scrub_damaged_total",
                "Damaged places that scrubs found.",
                state.damaged,
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
        let (sender, lines) = mpsc::channel(QUEUED_LINES);
        let scrub = Scrub {
            subset,
            rate_bytes_per_s,
        };
        if self.lock().running.replace(Progress::default()).is_some() {
            let sentence = "a scrub is under way; GET api/v1/scrub tells how far it is";
            return Err(Refusal::new(StatusCode::CONFLICT, sentence));
        }
        let (scrubber, span) = (self.clone(), tracing::Span::current());
        // A thread of its own: it stands back for others, which a pool's thread must not keep
        // doing.
        let thread = std::thread::Builder::new().name("scrub".to_owned());
        let started = thread.spawn(move || {
            let _in_span = span.entered();
            stand_back();
            scrubber.run(&scrub, &sender);
        });
        if let Err(error) = started {
            self.lock().running = None;
            tracing::error!(%error, "a scrub could not be started");
            return Err(Refusal::internal());
        }
        Ok(lines)
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
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// The same; waits until it has ended.
    pub async fn stop(&self) {
        self.halt();
        while self.lock().running.is_some() {
            tokio::time::sleep(NAP).await;
        }
    }

    fn run(&self, scrub: &Scrub, to: &Sender<String>) {
        let scrubbed = self.depot.scrub(scrub, &mut |told| self.note(&told, to));
        let line = {
            let mut state = self.lock();
            state.running = None;
            match scrubbed {
                Ok(scrubbed) => {
                    log(&scrubbed);
                    state.read_bytes += scrubbed.bytes;
                    state.last = Some(Last {
                        unix_s: since_1970().as_secs(),
                        subset: scrub.subset.map(|subset| subset.to_string()),
                        scrubbed: scrubbed.clone(),
                    });
                    json!({ "summary": scrubbed })
                }
                Err(error) => {
                    state.failed += 1;
                    tracing::error!(%error, "a scrub failed");
                    json!({ "error": error.to_string() })
                }
            }
        };
        // Nobody listens any more: the log has it too.
        to.blocking_send(line.to_string()).unwrap_or_default();
    }

    /// Passes on what a scrub tells; whether it goes on.
    fn note(&self, told: &Scrubbing, to: &Sender<String>) -> ControlFlow<()> {
        match told {
            Scrubbing::Progress(progress) => self.lock().running = Some(*progress),
            Scrubbing::Damage(_) => self.lock().damaged += 1,
            Scrubbing::Lost(path) => tracing::error!(path, "is not served until pushed again"),
        }
        let line = json!(told).to_string();
        let listens = match told {
            // A client that is slow to take progress misses some of it.
            Scrubbing::Progress(_) => match to.try_send(line) {
                Err(mpsc::error::TrySendError::Closed(_)) => Err(()),
                _ => Ok(()),
            },
            _ => to.blocking_send(line).map_err(|_| ()),
        };
        match listens.is_ok() && !self.stopping.load(Ordering::Relaxed) {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
