//! How far it is: a line on stderr that is drawn over, on a terminal only.

use super::check::Checked;
use crate::show;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Often enough to look alive.
pub(super) const INTERVAL: Duration = Duration::from_millis(200);

/// What has been done of what there is to do.
pub(super) struct Progress {
    visible: bool,
    begin: Instant,
    expected: Option<u64>,
    paths: AtomicU64,
    nar_bytes: Arc<AtomicU64>,
}

impl Progress {
    pub(super) fn new(expected: Option<u64>, hidden: bool) -> Progress {
        Progress {
            visible: !hidden && std::io::stderr().is_terminal(),
            begin: Instant::now(),
            expected,
            paths: AtomicU64::new(0),
            nar_bytes: Arc::default(),
        }
    }

    /// Counts the bytes of NARs while they are read.
    pub(super) fn counter(&self) -> Arc<AtomicU64> {
        self.nar_bytes.clone()
    }

    pub(super) fn done(&self, _: &Checked) {
        self.paths.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn draw(&self) {
        if self.visible {
            let paths = self.paths.load(Ordering::Relaxed);
            let bytes = self.nar_bytes.load(Ordering::Relaxed);
            let line = line(paths, self.expected, bytes, self.begin.elapsed());
            self.write(&format!("\r\x1b[K{line}"));
        }
    }

    pub(super) fn clear(&self) {
        if self.visible {
            self.write("\r\x1b[K");
        }
    }

    fn write(&self, text: &str) {
        let mut stderr = std::io::stderr().lock();
        // A terminal that has gone away needs no progress.
        drop(
            stderr
                .write_all(text.as_bytes())
                .and_then(|()| stderr.flush()),
        );
    }
}

fn line(paths: u64, expected: Option<u64>, bytes: u64, elapsed: Duration) -> String {
    let rate = show::size((bytes as f64 / elapsed.as_secs_f64().max(0.001)) as u64);
    let (read, done) = (show::size(bytes), show::count(paths));
    match expected {
        Some(expected) if expected >= paths && paths > 0 => {
            let left = elapsed.mul_f64((expected - paths) as f64 / paths as f64);
            let (expected, left) = (show::count(expected), show::span(left));
            format!("{done} of {expected} paths, {read} read, {rate}/s, about {left} left")
        }
        Some(expected) => {
            format!(
                "{done} of {} paths, {read} read, {rate}/s",
                show::count(expected)
            )
        }
        None => format!("{done} paths, {read} read, {rate}/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_that_of_the_paths_left() {
        let elapsed = Duration::from_secs(10);
        assert_eq!(
            line(25, Some(100), 10 << 20, elapsed),
            "25 of 100 paths, 10.0 MiB read, 1.0 MiB/s, about 30 s left"
        );
        assert_eq!(
            line(0, Some(9), 0, elapsed),
            "0 of 9 paths, 0 B read, 0 B/s"
        );
        assert_eq!(line(3, None, 0, elapsed), "3 paths, 0 B read, 0 B/s");
    }
}
