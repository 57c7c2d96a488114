//! How fast bytes may come from the network: a budget that everybody who fetches shares, and that
//! may be changed while they do.
//!
//! ```text
//!   spend(n)   counts n bytes that came, and waits until the budget allows them
//!   set(r)     whoever waits goes on at once; from now on it is r
//! ```
//! Who waits does not read, so the kernel's buffers fill and the sender stops: what may come
//! faster than the budget is what these buffers take, once for each connection.
//!
//! Guarantees: over any time the bytes that came are at most the budget times that, and [`BURST`]
//! of it, and one chunk for each that fetches. Never: a wait that outlives a change.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// What was not used for so long may be used at once.
const BURST: Duration = Duration::from_millis(100);

/// Units, each with what it stands for; the first that fits ends the number.
const UNITS: [(&str, u64); 8] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("b", 1),
    ("", 1),
];

/// Bytes a second; 0: as fast as it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BytesPerSecond(pub u64);

/// What is no rate.
#[derive(Debug, Error)]
#[error("{0:?} is no rate: write it like 50MB/s, 800KiB/s, 1000000, or unlimited")]
pub struct BadRate(String);

impl FromStr for BytesPerSecond {
    type Err = BadRate;

    fn from_str(text: &str) -> Result<BytesPerSecond, BadRate> {
        let lower = text.trim().to_ascii_lowercase();
        if lower == "unlimited" {
            return Ok(BytesPerSecond(0));
        }
        let amount = lower.strip_suffix("/s").unwrap_or(&lower);
        let bytes = amount_bytes(amount).ok_or_else(|| BadRate(text.to_owned()))?;
        Ok(BytesPerSecond(bytes))
    }
}

/// So many bytes, as people write it: `500MB`, `2GiB`.
///
/// # Errors
/// With what it should be.
pub fn size(text: &str) -> Result<u64, String> {
    let bytes = amount_bytes(&text.to_ascii_lowercase());
    bytes.ok_or_else(|| format!("{text:?} is no size: write it like 500MB, 2GiB, 1000000"))
}

/// A number and its unit, in lower case.
fn amount_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let found = UNITS
        .iter()
        .find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?.trim(), *bytes)));
    let (number, unit_bytes) = found?;
    let bytes = number.parse::<f64>().ok()? * unit_bytes as f64;
    // A petabyte is none, and what is below a byte would be nothing at all.
    let counts = (bytes == 0.0 || bytes >= 1.0) && bytes < 1e15;
    counts.then_some(bytes as u64)
}

impl fmt::Display for BytesPerSecond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("unlimited"),
            bytes => write!(f, "{}/s", crate::show::size(bytes)),
        }
    }
}

/// A budget; clones share it.
#[derive(Clone, Default)]
pub struct Rate(Arc<Shared>);

#[derive(Default)]
struct Shared {
    bytes_per_s: AtomicU64,
    received_bytes: AtomicU64,
    /// Until when what came has used the budget up.
    used_until: Mutex<Option<Instant>>,
    changed: Notify,
}

impl Rate {
    /// This budget.
    pub fn new(rate: BytesPerSecond) -> Rate {
        let budget = Rate::default();
        budget.set(rate);
        budget
    }

    /// The budget from now on.
    pub fn set(&self, rate: BytesPerSecond) {
        self.0.bytes_per_s.store(rate.0, Ordering::Relaxed);
        *self.used() = None;
        self.0.changed.notify_waiters();
    }

    /// What it is.
    pub fn get(&self) -> BytesPerSecond {
        BytesPerSecond(self.0.bytes_per_s.load(Ordering::Relaxed))
    }

    /// What has come so far.
    pub fn received_bytes(&self) -> u64 {
        self.0.received_bytes.load(Ordering::Relaxed)
    }

    /// So many bytes came: goes on when the budget allows them, or when it is changed.
    pub async fn spend(&self, bytes: usize) {
        self.0
            .received_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
        let changed = self.0.changed.notified();
        tokio::pin!(changed);
        // From here on a change is heard, whenever it is waited for.
        changed.as_mut().enable();
        if let Some(until) = self.use_up(bytes) {
            tokio::select! {
                () = sleep_until(until) => {}
                () = changed => {}
            }
        }
    }

    /// Takes the bytes from the budget: until when it is used up, where that is later than now.
    fn use_up(&self, bytes: usize) -> Option<Instant> {
        let bytes_per_s = self.0.bytes_per_s.load(Ordering::Relaxed);
        if bytes_per_s == 0 {
            return None;
        }
        let now = Instant::now();
        let mut used = self.used();
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let from = used.map_or(earliest, |until| until.max(earliest));
        let until = from + Duration::from_secs_f64(bytes as f64 / bytes_per_s as f64);
        *used = Some(until);
        (until > now).then_some(until)
    }

    fn used(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        // One value, which whoever panicked had written or not.
        self.0
            .used_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_written_as_people_write_it() {
        for (text, bytes) in [
            ("50MB/s", 50_000_000),
            ("1.5 MiB/s", 1_572_864),
            ("800kb", 800_000),
            ("12", 12),
            ("12B/s", 12),
            ("2GiB", 2 << 30),
            ("0", 0),
            ("unlimited", 0),
        ] {
            assert_eq!(text.parse::<BytesPerSecond>().expect(text).0, bytes);
        }
        for bad in ["", "fast", "-1", "0.5", "1e99", "10 MB/min", "nan", "MB/s"] {
            let error = bad.parse::<BytesPerSecond>().expect_err(bad).to_string();
            assert!(error.contains("50MB/s"), "{error}");
        }
    }

    #[test]
    fn a_size_is_written_the_same_way() {
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size(" 500 MB "), Ok(500_000_000));
        assert_eq!(size("0"), Ok(0));
        for bad in ["", "much", "-1", "1 MB/s", "unlimited"] {
            assert!(size(bad).is_err_and(|why| why.contains("2GiB")), "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_stays_below_the_budget() {
        let rate = Rate::new(BytesPerSecond(1_000_000));
        let begin = Instant::now();
        for _ in 0..20 {
            rate.spend(100_000).await;
        }
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(1900), "{took:?}");
        assert!(took <= Duration::from_millis(2050), "{took:?}");
        assert_eq!(rate.received_bytes(), 2_000_000);
    }

    #[tokio::test(start_paused = true)]
    async fn several_share_it_and_nobody_waits_past_a_change() {
        let rate = Rate::new(BytesPerSecond(10));
        let begin = Instant::now();
        let fetching: Vec<_> = (0..4)
            .map(|_| {
                let rate = rate.clone();
                tokio::spawn(async move { rate.spend(1_000_000).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(fetching.iter().all(|it| !it.is_finished()));
        rate.set(BytesPerSecond(0));
        for one in fetching {
            one.await.expect("no panic");
        }
        assert!(begin.elapsed() < Duration::from_secs(6));
        rate.spend(usize::MAX / 2).await;
        assert!(begin.elapsed() < Duration::from_secs(6), "unlimited");
    }
}
