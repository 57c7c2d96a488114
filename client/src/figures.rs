//! How far a prefetch is, in figures: counted as it tells what happens, shown by a command that
//! runs it itself as by one that asks the agent.
//!
//! Guarantees: counting takes no lock and no time. Never: anything but figures.

use crate::prefetch::Event;
use crate::show;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Where a prefetch stands.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Figures {
    /// Imported so far.
    pub paths: u64,
    /// Of so many.
    pub of_paths: u64,
    /// NAR bytes given to the daemon so far.
    pub nar_bytes: u64,
    /// Of so many.
    pub of_nar_bytes: u64,
    /// Since it began.
    pub seconds: f64,
    /// At the rate so far.
    pub seconds_left: Option<f64>,
}

/// What counts.
pub struct Tally {
    begin: Instant,
    planned: AtomicBool,
    missing: AtomicU64,
    expected_bytes: AtomicU64,
    paths: AtomicU64,
    imported_bytes: Arc<AtomicU64>,
}

impl Tally {
    /// From nothing on; the store counts the bytes that it is given.
    pub fn new(imported_bytes: Arc<AtomicU64>) -> Tally {
        Tally {
            begin: Instant::now(),
            planned: AtomicBool::new(false),
            missing: AtomicU64::new(0),
            expected_bytes: AtomicU64::new(0),
            paths: AtomicU64::new(0),
            imported_bytes,
        }
    }

    /// Something happened.
    pub fn note(&self, event: &Event<'_>) {
        match event {
            Event::Planned {
                missing,
                nar_size_bytes,
                ..
            } => {
                self.missing.store(*missing as u64, Ordering::Relaxed);
                self.expected_bytes
                    .store(*nar_size_bytes, Ordering::Relaxed);
                self.paths.store(0, Ordering::Relaxed);
                self.imported_bytes.store(0, Ordering::Relaxed);
                self.planned.store(true, Ordering::Relaxed);
            }
            Event::Imported { .. } => drop(self.paths.fetch_add(1, Ordering::Relaxed)),
            Event::Rehashing { .. } | Event::Again { .. } | Event::Careful { .. } => {}
        }
    }

    /// Where it stands; nothing before it is known what there is to do.
    pub fn figures(&self) -> Option<Figures> {
        if !self.planned.load(Ordering::Relaxed) {
            return None;
        }
        let expected = self.expected_bytes.load(Ordering::Relaxed);
        let bytes = self.imported_bytes.load(Ordering::Relaxed).min(expected);
        let seconds = self.begin.elapsed().as_secs_f64();
        let left = (expected - bytes) as f64;
        Some(Figures {
            paths: self.paths.load(Ordering::Relaxed),
            of_paths: self.missing.load(Ordering::Relaxed),
            nar_bytes: bytes,
            of_nar_bytes: expected,
            seconds,
            seconds_left: (bytes > 0).then(|| seconds * left / bytes as f64),
        })
    }
}

impl Figures {
    /// On a line for people.
    pub fn line(&self) -> String {
        let (done, of) = (show::count(self.paths), show::count(self.of_paths));
        let (bytes, of_bytes) = (show::size(self.nar_bytes), show::size(self.of_nar_bytes));
        let rate = show::size((self.nar_bytes as f64 / self.seconds.max(0.001)) as u64);
        let left = self.seconds_left.map(Duration::from_secs_f64);
        let left = left.map(|left| format!(", about {} left", show::span(left)));
        let left = left.unwrap_or_default();
        format!("{done} of {of} paths, {bytes} of {of_bytes}, {rate}/s{left}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_that_of_the_bytes_left() {
        let tally = Tally::new(Arc::default());
        assert_eq!(tally.figures(), None);
        tally.note(&Event::Planned {
            paths: 10,
            missing: 4,
            nar_size_bytes: 100 << 20,
        });
        tally.imported_bytes.store(25 << 20, Ordering::Relaxed);
        let mut figures = tally.figures().expect("planned");
        assert_eq!((figures.paths, figures.of_paths), (0, 4));
        (figures.paths, figures.seconds) = (1, 10.0);
        figures.seconds_left = Some(30.0);
        assert_eq!(
            figures.line(),
            "1 of 4 paths, 25.0 MiB of 100.0 MiB, 2.5 MiB/s, about 30 s left"
        );
        figures.seconds_left = None;
        assert!(!figures.line().contains("left"));
    }
}
