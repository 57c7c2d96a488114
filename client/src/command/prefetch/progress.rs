//! How far a prefetch is: a line on stderr that is drawn over, on a terminal; with --json, a line
//! of figures each second.

use super::Line;
use crate::command::print_json;
use crate::figures::{Figures, Tally};
use crate::prefetch::Event;
use std::future::Future;
use std::io::{IsTerminal, Write};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Often enough to look alive.
pub(super) const DRAW_INTERVAL: Duration = Duration::from_millis(200);
/// Often enough for whoever reads JSON.
pub(super) const JSON_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Progress {
    visible: bool,
    json: bool,
    tally: Tally,
}

impl Progress {
    pub(super) fn new(imported_bytes: Arc<AtomicU64>, json: bool, quiet: bool) -> Progress {
        Progress {
            visible: !json && !quiet && std::io::stderr().is_terminal(),
            json,
            tally: Tally::new(imported_bytes),
        }
    }

    pub(super) fn note(&self, event: &Event<'_>) {
        self.tally.note(event);
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
                _ = tick.tick() => self.draw(self.tally.figures()),
            }
        }
    }

    pub(super) fn clear(&self) {
        if self.visible {
            write("\r\x1b[K");
        }
    }

    pub(super) fn draw(&self, figures: Option<Figures>) {
        let Some(figures) = figures else {
            return;
        };
        if self.json {
            // Whoever no longer reads is noticed at the next line that matters.
            drop(print_json(&Line::Progress(figures)));
        } else if self.visible {
            write(&format!("\r\x1b[K{}", figures.line()));
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
