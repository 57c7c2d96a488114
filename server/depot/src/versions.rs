//! What an answer was made of, and whether that has changed since.
//!
//! ```text
//!   a look-up   --reads the counters--> rows --> answer, kept with what it read
//!   a write     rows --> counters of their keys go up --> acknowledged
//!   the answer  --same counters?--> still what a look-up would say
//! ```
//! Guarantees: once a change of a path or of its NAR's layout is acknowledged, no answer made
//! before it holds. Never: a list of answers to keep up to date; a lock. Two keys may share a
//! counter, and then an answer is made anew without need.

use std::sync::atomic::{AtomicU32, Ordering};

use snowcache_nix::NarHash;

/// Counters: 256 KiB. Of 100,000 kept answers, one change makes two anew without need.
const COUNTERS: usize = 1 << 16;

/// See the module.
pub(crate) struct Versions {
    counters: Box<[AtomicU32]>,
}

/// A counter as it was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Version {
    counter: u16,
    count: u32,
}

impl Default for Versions {
    fn default() -> Versions {
        Versions {
            counters: (0..COUNTERS).map(|_| AtomicU32::new(0)).collect(),
        }
    }
}

impl Versions {
    /// The version of a path, by its key: read it before its row.
    pub fn path(&self, key: &[u8]) -> Version {
        self.version(counter(key))
    }

    /// The version of what is known of a NAR: read it before its layout.
    pub fn nar(&self, nar: &NarHash) -> Version {
        self.version(counter(nar.as_bytes()))
    }

    /// Whether nothing has changed since it was read.
    pub fn holds(&self, version: Version) -> bool {
        self.version(version.counter).count == version.count
    }

    /// The row of a path or of a layout's summary was written.
    pub fn changed(&self, key: &[u8]) {
        self.counters[usize::from(counter(key))].fetch_add(1, Ordering::AcqRel);
    }

    /// Anything may have changed.
    pub fn all_changed(&self) {
        for counter in &self.counters {
            counter.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn version(&self, counter: u16) -> Version {
        let count = self.counters[usize::from(counter)].load(Ordering::Acquire);
        Version { counter, count }
    }
}

/// Keys end with bytes of a hash.
fn counter(key: &[u8]) -> u16 {
    key.last_chunk().map_or(0, |end| u16::from_le_bytes(*end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_holds_until_its_key_changes() {
        let versions = Versions::default();
        let (mine, other) = (
            versions.path(b"cache\0mine"),
            versions.path(b"cache\0other"),
        );
        versions.changed(b"cache\0mine");
        assert!(!versions.holds(mine) && versions.holds(other));
        versions.all_changed();
        assert!(!versions.holds(other));
    }
}
