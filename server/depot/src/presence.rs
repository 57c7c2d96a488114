//! Which paths may be here, in memory: most questions are for paths that are not.
//!
//! ```text
//!   start   paths in the index --scanned--> filter --> its no is an answer, its yes asks the index
//!   commit  key --> filter, then --> index
//!   full, or half of it removed     --> another is filled beside it, and takes over
//! ```
//! A blocked Bloom filter: each key has [`BITS_A_KEY`] bits of one cache line. Its hash is keyed by
//! chance, so that nobody can choose paths that collide.
//!
//! Guarantees: a path that is in the index, or whose commit has been answered, is never said to be
//! absent. Until the filter is filled it says nothing. Never: touches the disk.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Paths that the smallest filter is for: 98 KB.
const LEAST_CAPACITY: u64 = 1 << 16;

/// Bits of a filter for each path that it is for. With [`BITS_A_KEY`] of them set in one line,
/// fewer than one absent path in 100 is looked up in vain when it is full.
const BITS_A_PATH: u64 = 12;

/// Bits set for a key: 9 bits of its hash choose each.
const BITS_A_KEY: u32 = 6;

/// A cache line.
const LINE_WORDS: usize = 8;
const LINE_BITS: u64 = 64 * LINE_WORDS as u64;

/// Spreads a hash anew: 2^64 divided by the golden ratio.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

#[repr(align(64))]
#[derive(Default)]
struct Line([AtomicU64; LINE_WORDS]);

/// One filter.
struct Filter {
    lines: Box<[Line]>,
    capacity: u64,
    /// Keys that set a bit.
    added: AtomicU64,
    /// Keys removed since: their bits stay.
    removed: AtomicU64,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Presence {
    filters: RwLock<Filters>,
    hasher: RandomState,
}

#[derive(Default)]
struct Filters {
    /// All paths are in it.
    current: Option<Filter>,
    /// Being filled.
    next: Option<Filter>,
}

impl Presence {
    /// Whether the path with this key is certainly not here.
    pub fn is_absent(&self, key: &[u8]) -> bool {
        let hash = self.hasher.hash_one(key);
        self.read().current.as_ref().is_some_and(|it| !it.has(hash))
    }

    /// The path with this key is about to be in the index.
    pub fn add(&self, key: &[u8]) {
        let hash = self.hasher.hash_one(key);
        let filters = self.read();
        for filter in [&filters.current, &filters.next].into_iter().flatten() {
            filter.add(hash);
        }
    }

    /// The path with this key is no more.
    pub fn removed(&self) {
        let filters = self.read();
        for filter in [&filters.current, &filters.next].into_iter().flatten() {
            filter.removed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Begins a filter for `paths` and half as many more. From here on each path that comes must be
    /// added, and each that is there.
    pub fn begin(&self, paths: u64) {
        self.write().next = Some(Filter::new((paths + paths / 2).max(LEAST_CAPACITY)));
    }

    /// All paths are in it.
    pub fn complete(&self) {
        let mut filters = self.write();
        filters.current = filters.next.take();
    }

    /// From here on it says nothing, until it is filled again.
    pub fn forget(&self) {
        *self.write() = Filters::default();
    }

    /// Whether another filter would be of more use, or any.
    pub fn is_worn(&self) -> bool {
        let filters = self.read();
        let Some(filter) = &filters.current else {
            return true;
        };
        let removed = filter.removed.load(Ordering::Relaxed);
        filter.added.load(Ordering::Relaxed) > filter.capacity || removed > filter.capacity / 2
    }

    fn read(&self) -> RwLockReadGuard<'_, Filters> {
        self.filters
            .read()
            .expect("invariant: no panic under the lock")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Filters> {
        self.filters
            .write()
            .expect("invariant: no panic under the lock")
    }
}

impl Filter {
    fn new(capacity: u64) -> Filter {
        let lines = (capacity * BITS_A_PATH).div_ceil(LINE_BITS);
        Filter {
            lines: (0..lines).map(|_| Line::default()).collect(),
            capacity,
            added: AtomicU64::new(0),
            removed: AtomicU64::new(0),
        }
    }

    /// The line, and the word and the bit in it of each of the key's bits.
    fn places(&self, hash: u64) -> (&Line, impl Iterator<Item = (usize, u64)>) {
        let line = (u128::from(hash) * self.lines.len() as u128) >> 64;
        let spread = (hash ^ (hash >> 32)).wrapping_mul(SPREAD);
        let bits = (0..BITS_A_KEY).map(move |number| (spread >> (9 * number + 10)) % LINE_BITS);
        let bits = bits.map(|bit| ((bit / 64) as usize, 1 << (bit % 64)));
        (&self.lines[line as usize], bits)
    }

    fn has(&self, hash: u64) -> bool {
        let (line, mut bits) = self.places(hash);
        bits.all(|(word, bit)| line.0[word].load(Ordering::Acquire) & bit != 0)
    }

    fn add(&self, hash: u64) {
        let (line, bits) = self.places(hash);
        let mut new = false;
        for (word, bit) in bits {
            new |= line.0[word].fetch_or(bit, Ordering::AcqRel) & bit == 0;
        }
        self.added.fetch_add(u64::from(new), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> Vec<u8> {
        [b"default\0", number.to_le_bytes().as_slice()].concat()
    }

    fn filled(paths: u64) -> Presence {
        let presence = Presence::default();
        presence.begin(paths);
        (0..paths).for_each(|number| presence.add(&key(number)));
        presence.complete();
        presence
    }

    #[test]
    fn before_it_is_filled_it_says_nothing() {
        let presence = Presence::default();
        assert!(!presence.is_absent(&key(1)));
        presence.begin(10);
        assert!(!presence.is_absent(&key(1)));
        presence.complete();
        assert!(presence.is_absent(&key(1)));
    }

    #[test]
    fn what_is_here_is_never_absent_and_what_is_not_mostly_is() {
        let (paths, asked) = (200_000, 200_000);
        let presence = filled(paths);
        assert!((0..paths).all(|number| !presence.is_absent(&key(number))));
        let absent = (paths..paths + asked).filter(|number| presence.is_absent(&key(*number)));
        let vain = asked - absent.count() as u64;
        assert!(
            vain < asked / 100,
            "{vain} of {asked} would be looked up in vain"
        );
    }

    #[test]
    fn what_comes_while_another_is_filled_is_in_both() {
        let presence = filled(10);
        presence.begin(10);
        presence.add(&key(77));
        assert!(!presence.is_absent(&key(77)));
        presence.complete();
        assert!(!presence.is_absent(&key(77)) && presence.is_absent(&key(1)));
    }

    #[test]
    fn one_that_is_overfull_or_mostly_of_the_past_is_worn() {
        let presence = filled(10);
        assert!(!presence.is_worn());
        (0..LEAST_CAPACITY * 2).for_each(|number| presence.add(&key(number)));
        assert!(presence.is_worn());
        let presence = filled(10);
        (0..LEAST_CAPACITY).for_each(|_| presence.removed());
        assert!(presence.is_worn());
    }

    #[test]
    fn what_is_forgotten_while_it_is_filled_is_filled_again() {
        let presence = Presence::default();
        presence.begin(10);
        presence.forget();
        presence.complete();
        assert!(!presence.is_absent(&key(1)) && presence.is_worn());
    }
}
