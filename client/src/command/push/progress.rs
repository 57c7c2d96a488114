//! How far a push is: on a terminal a line on stderr that is drawn over, elsewhere a plain one now
//! and then, so that a log shows that something happens.

use crate::push::Pushed;
use crate::show;
use std::future::Future;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Often enough to look alive.
const INTERVAL: Duration = Duration::from_millis(200);

/// Of plain lines: often enough for a log.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// What has been done of what there is to do.
pub(super) struct Progress {
    hidden: bool,
    terminal: bool,
    begin: Instant,
    expected_bytes: u64,
    counts: Arc<Pushed>,
}

impl Progress {
    pub(super) fn new(expected_bytes: u64, hidden: bool, counts: &Arc<Pushed>) -> Progress {
        Progress {
            hidden,
            terminal: std::io::stderr().is_terminal(),
            begin: Instant::now(),
            expected_bytes,
            counts: counts.clone(),
        }
    }

    /// Keeps the line fresh while `work` goes on.
    pub(super) async fn over<T>(&self, work: impl Future<Output = T>) -> T {
        let interval = match self.terminal {
            true => INTERVAL,
            false => PLAIN_INTERVAL,
        };
        let mut tick = tokio::time::interval(interval);
        tick.tick().await; // the first one is at once
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = tick.tick() => self.draw(),
            }
        }
    }

    fn draw(&self) {
        let packed = self.counts.packed_bytes.load(Ordering::Relaxed);
        let sent = self.counts.sent_bytes.load(Ordering::Relaxed);
        let line = line(packed, self.expected_bytes, sent, self.begin.elapsed());
        match self.terminal {
            true => self.write(&format!("\r\x1b[K{line}")),
            false => self.write(&format!("{line}\n")),
        }
    }

    pub(super) fn clear(&self) {
        if self.terminal {
            self.write("\r\x1b[K");
        }
    }

    fn write(&self, text: &str) {
        if !self.hidden {
            let mut stderr = std::io::stderr().lock();
            let written = stderr
                .write_all(text.as_bytes())
                .and_then(|()| stderr.flush());
            drop(written); // a terminal that has gone away needs no progress
        }
    }
}

fn line(packed: u64, expected: u64, sent: u64, elapsed: Duration) -> String {
    let percent = (packed.min(expected) * 100)
        .checked_div(expected)
        .unwrap_or(100);
    let rate = (packed as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
    let (done, all) = (show::size(packed), show::size(expected));
    let (rate, sent) = (show::size(rate), show::size(sent));
    let line = format!("{percent} % of {all}: {done} packed, {rate}/s, {sent} sent");
    match packed > 0 && packed < expected {
        true => {
            let left = elapsed.mul_f64((expected - packed) as f64 / packed as f64);
            format!("{line}, about {} left", show::span(left))
        }
        false => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_that_of_the_bytes_left() {
        let elapsed = Duration::from_secs(10);
        assert_eq!(
            line(25 << 20, 100 << 20, 1 << 20, elapsed),
            "25 % of 100.0 MiB: 25.0 MiB packed, 2.5 MiB/s, 1.0 MiB sent, about 30 s left"
        );
        assert_eq!(
            line(0, 0, 0, elapsed),
            "100 % of 0 B: 0 B packed, 0 B/s, 0 B sent"
        );
    }
}
