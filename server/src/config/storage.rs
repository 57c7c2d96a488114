//! Configuration of what is kept on disk: how much, for how long, and how it is checked.

use serde::{Deserialize, Serialize};
use snowcache_depot::Policy;
use std::time::Duration;

/// `[depot]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Depot {
    /// The zstd level at which frames are stored and served.
    pub zstd_level: i32,
    /// What the segments may take, the reserve included; 0: as much as there is.
    pub max_size_bytes: u64,
    /// What uploads leave of the limit and of the disk, so that a collection can always run; of
    /// small ones a twentieth.
    pub reserve_bytes: u64,
    /// What patches between generations of pins may take besides; 0: none are made.
    pub patch_bytes: u64,
}

/// `[retention]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retention {
    /// How long a path stays in any case after it was last put or asked for.
    pub grace_s: u64,
    /// After which a path goes that was neither put nor asked for and that no pin keeps; 0: never
    /// by age.
    pub max_age_s: u64,
    /// Between a path's disappearance and the removal of its bytes.
    pub sweep_grace_s: u64,
    /// Segments are rewritten until garbage is at most so much of what lives.
    pub max_garbage_percent: u64,
    /// Between collections; 0: only by command.
    pub gc_interval_s: u64,
}

/// `[scrub]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scrub {
    /// In which everything is read once, a slice at a time; 0: only by command.
    pub interval_s: u64,
    /// What a scrub reads at most.
    pub rate_bytes_per_s: u64,
}

/// `[recompression]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recompression {
    /// Between recompressions; 0: only by command.
    pub interval_s: u64,
    /// The zstd level at which what nobody asks for is stored and served from then on.
    pub level: u8,
    /// Nobody asks for a path that was neither put nor asked for so long.
    pub min_idle_s: u64,
    /// What is read of the old frames at most.
    pub rate_bytes_per_s: u64,
}

impl Default for Depot {
    /// A collection writes at most one new segment (256 MiB) before it removes an old one, and the
    /// index of 1 M paths grows by some 100 MB while it runs: twice both are 0.7 GiB.
    fn default() -> Depot {
        Depot {
            zstd_level: 3,
            max_size_bytes: 0,
            reserve_bytes: 1 << 30,
            patch_bytes: 1 << 30,
        }
    }
}

impl Default for Retention {
    /// Nix's clients remember a narinfo for 30 days. A download that takes longer than an hour
    /// holds its bytes by itself. With 10 % garbage the disk holds at most 1.11 times what is live.
    fn default() -> Retention {
        Retention {
            grace_s: 30 * 24 * 60 * 60,
            max_age_s: 0,
            sweep_grace_s: 60 * 60,
            max_garbage_percent: 10,
            gc_interval_s: 60 * 60,
        }
    }
}

impl Default for Scrub {
    /// In a week of 168 slices 32 MiB/s read up to 20 TB, and take a disk's tenth.
    fn default() -> Scrub {
        Scrub {
            interval_s: 7 * 24 * 60 * 60,
            rate_bytes_per_s: 32 << 20,
        }
    }
}

impl Default for Recompression {
    /// Whoever asked for a path in the last 30 days may remember its URL, and for so long both its
    /// encodings would have to be kept; of what nobody asked for none is. Level 9 saves 5 %, 12 no
    /// more than another half for twice the time. 8 MiB/s are 0.7 TB a day, and less than half of a
    /// core.
    fn default() -> Recompression {
        Recompression {
            interval_s: 24 * 60 * 60,
            level: 9,
            min_idle_s: 30 * 24 * 60 * 60,
            rate_bytes_per_s: 8 << 20,
        }
    }
}

impl Retention {
    /// `gc_interval_s`, if collections run by themselves.
    pub fn gc_interval(&self) -> Option<Duration> {
        (self.gc_interval_s > 0).then(|| Duration::from_secs(self.gc_interval_s))
    }

    /// What a collection goes by.
    pub fn policy(&self) -> Policy {
        Policy {
            grace_s: self.grace_s,
            max_age_s: (self.max_age_s > 0).then_some(self.max_age_s),
            sweep_grace_s: self.sweep_grace_s,
            max_garbage_percent: self.max_garbage_percent,
            caches: Default::default(),
        }
    }
}
