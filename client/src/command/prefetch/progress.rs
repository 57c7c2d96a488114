//! How far a prefetch is: a line on stderr that is drawn over, on a terminal; with --json, a line
//! of figures each second.

use super::Line;
use crate::command::print_json;
use crate::prefetch::Event;
use crate::show;
use serde::Serialize;
use std::future::Future;
use std::io::{IsTerminal, Write};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Often enough to look alive.
const DRAW_INTERVAL: Duration = Duration::from_millis(200);
/// Often enough for whoever reads JSON.
const JSON_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Progress {
    visible: bool,
    json: bool,
    begin: Instant,
    planned: AtomicBool,
    missing: AtomicU64,
    expected_bytes: AtomicU64,
    paths: AtomicU64,
    imported_bytes: Arc<AtomicU64>,
}

/// Where it stands.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Figures {
    paths: u64,
    of_paths: u64,
    nar_bytes: u64,
    of_nar_bytes: u64,
    seconds: f64,
    /// At the rate so far.
    seconds_left: Option<f64>,
}

impl Progress {
    pub(super) fn new(imported_bytes: Arc<AtomicU64>, json: bool, quiet: bool) -> Progress {
        Progress {
            visible: !json && !quiet && std::io::stderr().is_terminal(),
            json,
            begin: Instant::now(),
            planned: AtomicBool::new(false),
            missing: AtomicU64::new(0),
            expected_bytes: AtomicU64::new(0),
            paths: AtomicU64::new(0),
            imported_bytes,
        }
    }

    pub(super) fn note(&self, event: &Event<'_>) {
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
            Event::Rehashing { .. } | Event::Again { .. } => {}
        }
    }

    /// Waits, and shows how it goes meanwhile.
    pub(super) async fn show_while<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let interval = match self.json {
            true => JSON_INTERVAL,
            false => DRAW_INTERVAL,
        };
        let mut tick = tokio::time::interval(interval);
        loop {
            tokio::select! {
                done = &mut work => {
                    self.clear();
                    return done;
                }
                _ = tick.tick() => self.draw(),
            }
        }
    }

    pub(super) fn clear(&self) {
        if self.visible {
            write("\r\x1b[K");
        }
    }

    fn draw(&self) {
        if !self.planned.load(Ordering::Relaxed) {
            return;
        }
        let figures = self.figures();
        if self.json {
            // Whoever no longer reads is noticed at the next line that matters.
            drop(print_json(&Line::Progress(figures)));
        } else if self.visible {
            write(&format!("\r\x1b[K{}", line(&figures)));
        }
    }

    fn figures(&self) -> Figures {
        let expected = self.expected_bytes.load(Ordering::Relaxed);
        let bytes = self.imported_bytes.load(Ordering::Relaxed).min(expected);
        let seconds = self.begin.elapsed().as_secs_f64();
        let left = (expected - bytes) as f64;
        Figures {
            paths: self.paths.load(Ordering::Relaxed),
            of_paths: self.missing.load(Ordering::Relaxed),
            nar_bytes: bytes,
            of_nar_bytes: expected,
            seconds,
            seconds_left: (bytes > 0).then(|| seconds * left / bytes as f64),
        }
    }
}

fn write(text: &str) {
    let mut stderr = std::io::stderr().lock();
    // A terminal that has gone away needs no progress.
    drop(
        stderr
            .write_all(text.as_bytes())
            .and_then(|()| stderr.flush()),
    );
}

fn line(figures: &Figures) -> String {
    let (done, of) = (show::count(figures.paths), show::count(figures.of_paths));
    let (bytes, of_bytes) = (
        show::size(figures.nar_bytes),
        show::size(figures.of_nar_bytes),
    );
    let rate = show::size((figures.nar_bytes as f64 / figures.seconds.max(0.001)) as u64);
    let left = figures.seconds_left.map(Duration::from_secs_f64);
    let left = left.map(|left| format!(", about {} left", show::span(left)));
    let left = left.unwrap_or_default();
    format!("{done} of {of} paths, {bytes} of {of_bytes}, {rate}/s{left}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_that_of_the_bytes_left() {
        let progress = Progress::new(Arc::default(), false, false);
        progress.note(&Event::Planned {
            paths: 10,
            missing: 4,
            nar_size_bytes: 100 << 20,
        });
        progress.imported_bytes.store(25 << 20, Ordering::Relaxed);
        let mut figures = progress.figures();
        assert_eq!((figures.paths, figures.of_paths), (0, 4));
        (figures.paths, figures.seconds) = (1, 10.0);
        figures.seconds_left = Some(30.0);
        assert_eq!(
            line(&figures),
            "1 of 4 paths, 25.0 MiB of 100.0 MiB, 2.5 MiB/s, about 30 s left"
        );
        figures.seconds_left = None;
        assert!(!line(&figures).contains("left"));
    }
}
