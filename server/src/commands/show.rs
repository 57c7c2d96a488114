//! Numbers as people read them, and a line of progress for those who watch a terminal.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Often enough to look alive.
const INTERVAL: Duration = Duration::from_millis(200);

/// A size in bytes: `17 B`, `1.2 KiB`, `3.4 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut scaled, mut unit) = (bytes as f64, 0);
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        unit => format!("{scaled:.1} {}", UNITS[unit]),
    }
}

/// A line on stderr that is drawn over, on a terminal only.
pub struct Progress {
    visible: bool,
    what: &'static str,
    drawn: Instant,
}

impl Progress {
    /// A line that says that `what` is being done.
    pub fn new(what: &'static str) -> Progress {
        Progress {
            visible: std::io::stderr().is_terminal(),
            what,
            drawn: Instant::now(),
        }
    }

    /// Some bytes of all are done.
    pub fn bytes(&mut self, done: u64, all: u64) {
        if self.visible && self.drawn.elapsed() >= INTERVAL {
            self.drawn = Instant::now();
            let percent = done * 100 / all.max(1);
            let (what, done, all) = (self.what, size(done), size(all));
            self.draw(&format!("\r\x1b[K{what}: {done} of {all}, {percent} %"));
        }
    }

    /// Takes the line away.
    pub fn clear(&self) {
        if self.visible {
            self.draw("\r\x1b[K");
        }
    }

    fn draw(&self, text: &str) {
        let mut stderr = std::io::stderr().lock();
        // A terminal that has gone away needs no progress.
        let drawn = stderr
            .write_all(text.as_bytes())
            .and_then(|()| stderr.flush());
        drop(drawn);
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_read_well() {
        let shown = [0, 1023, 1536, 3 << 30].map(size);
        assert_eq!(shown, ["0 B", "1023 B", "1.5 KiB", "3.0 GiB"]);
    }
}
