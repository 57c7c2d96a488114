//! What came of a run: counts, bytes, latencies, time.

use std::io;

use hdrhistogram::Histogram;

use super::ask::Verdict;
use super::procs::Used;

/// The longest latency that is told apart from longer ones: a minute, in nanoseconds.
const LONGEST_NS: u64 = 60_000_000_000;
/// Three digits: a latency is known to 0.1 %.
const DIGITS: u8 = 3;
const COMPLAINTS_KEPT: usize = 5;

/// What becomes of a connection after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Keep,
    Close,
    Broken,
}

/// The outcome of a run.
#[derive(Clone)]
pub struct Tally {
    /// Answered as expected. Only these have a latency and bytes.
    pub right: u64,
    /// Answered, but not as expected.
    pub wrong: u64,
    /// Not answered: the connection broke or could not be made.
    pub broken: u64,
    pub body_bytes: u64,
    /// In nanoseconds.
    pub latency: Histogram<u64>,
    /// The first few things that were wrong or broken.
    pub complaints: Vec<String>,
    pub seconds: f64,
    /// CPU seconds of the load generator itself.
    pub own_cpu_seconds: f64,
    /// What the server used meanwhile, when its process was given.
    pub server: Option<Used>,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            right: 0,
            wrong: 0,
            broken: 0,
            body_bytes: 0,
            latency: Histogram::new_with_bounds(100, LONGEST_NS, DIGITS)
                .expect("invariant: bounds that the crate allows"),
            complaints: Vec::new(),
            seconds: 0.0,
            own_cpu_seconds: 0.0,
            server: None,
        }
    }
}

impl Tally {
    /// Counts how a request went, and says what that means for its connection.
    pub fn count(
        &mut self,
        what: &str,
        outcome: io::Result<(Verdict, bool)>,
        nanoseconds: u64,
    ) -> Fate {
        let closes = match outcome {
            Err(error) => {
                self.broken(format!("{what}: {error}"));
                return Fate::Broken;
            }
            Ok((Verdict::Right(body_bytes), closes)) => {
                self.right(nanoseconds, body_bytes);
                closes
            }
            Ok((Verdict::Wrong(complaint), closes)) => {
                self.wrong(complaint);
                closes
            }
        };
        if closes { Fate::Close } else { Fate::Keep }
    }

    pub fn right(&mut self, nanoseconds: u64, body_bytes: u64) {
        self.right += 1;
        self.body_bytes += body_bytes;
        self.latency.saturating_record(nanoseconds);
    }

    pub fn wrong(&mut self, complaint: String) {
        self.wrong += 1;
        self.complain(complaint);
    }

    pub fn broken(&mut self, complaint: String) {
        self.broken += 1;
        self.complain(complaint);
    }

    fn complain(&mut self, complaint: String) {
        if self.complaints.len() < COMPLAINTS_KEPT {
            self.complaints.push(complaint);
        }
    }

    pub fn add(&mut self, other: &Tally) {
        self.right += other.right;
        self.wrong += other.wrong;
        self.broken += other.broken;
        self.body_bytes += other.body_bytes;
        self.server = self.server.or(other.server);
        let added = self.latency.add(&other.latency);
        added.expect("invariant: the same bounds");
        for complaint in &other.complaints {
            self.complain(complaint.clone());
        }
        self.seconds = self.seconds.max(other.seconds);
        self.own_cpu_seconds += other.own_cpu_seconds;
    }

    pub fn per_second(&self) -> f64 {
        self.right as f64 / self.seconds
    }

    pub fn mb_per_second(&self) -> f64 {
        self.body_bytes as f64 / 1e6 / self.seconds
    }

    /// CPU microseconds of the server for each right answer.
    pub fn server_us_per_answer(&self) -> Option<f64> {
        Some(self.server?.cpu_seconds * 1e6 / self.right as f64)
    }

    /// The latency that this share of the answers did not exceed, in milliseconds.
    pub fn latency_ms(&self, share: f64) -> f64 {
        self.latency.value_at_quantile(share) as f64 / 1e6
    }

    /// Whether every answer was as expected; if not, the first complaint.
    pub fn flaw(&self) -> Option<String> {
        if self.wrong == 0 && self.broken == 0 && self.right > 0 {
            return None;
        }
        let first = self.complaints.first();
        Some(format!(
            "{} right, {} wrong, {} broken: {}",
            self.right,
            self.wrong,
            self.broken,
            first.map_or("nothing was answered", String::as_str)
        ))
    }

    /// Whether the generator used (nearly) all that it may of the machine: then the server was not
    /// the limit.
    pub fn generator_bound(&self, threads: usize) -> bool {
        self.own_cpu_seconds > 0.9 * self.seconds * threads as f64
    }
}
