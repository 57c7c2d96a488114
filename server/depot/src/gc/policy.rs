//! What a collection goes by: for all caches, and for some of them otherwise.

use std::collections::BTreeMap;

use crate::keys::CacheName;

/// What stays, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// A path stays at least so long after it was last put, served or asked for.
    pub grace_s: u64,
    /// A path that no pin holds goes when it was not used for so long; None: never by age.
    pub max_age_s: Option<u64>,
    /// The bytes of NARs without path or lease stay so long, for downloads that are under way.
    pub sweep_grace_s: u64,
    /// Segments are rewritten until garbage is at most so much of what lives.
    pub max_garbage_percent: u64,
    /// Of some caches otherwise.
    pub caches: BTreeMap<CacheName, Stay>,
}

/// What stays of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// As [`Policy`] says it, but for these.
    For {
        /// See there.
        grace_s: u64,
        /// See there.
        max_age_s: Option<u64>,
    },
    /// The cache was deleted: nothing stays, whoever pinned or used it.
    Nothing,
}

impl Policy {
    /// What stays of a cache.
    pub fn of(&self, cache: &CacheName) -> Stay {
        let (grace_s, max_age_s) = (self.grace_s, self.max_age_s);
        let otherwise = Stay::For { grace_s, max_age_s };
        self.caches.get(cache).copied().unwrap_or(otherwise)
    }

    /// The caches that were deleted.
    pub fn deleted(&self) -> impl Iterator<Item = &CacheName> {
        let all = self.caches.iter();
        let deleted = all.filter(|(_, stay)| **stay == Stay::Nothing);
        deleted.map(|(cache, _)| cache)
    }
}
