//! Small NARs as they are sent, kept in memory: most NARs are small, and reading and unpacking a
//! few KB costs less than finding them.
//!
//! ```text
//!   asked for --> young --full--> becomes old, and what was old goes
//!                   ^------------- asked for again
//! ```
//! Guarantees: at most [`KEPT_BYTES`]; what comes out is what the depot would read now
//! ([`Depot::still_nar`]). Never: waits for a disk; keeps a NAR longer than [`SMALL_BYTES`].

use axum::http::HeaderValue;
use bytes::Bytes;
use snowcache_depot::{Depot, KeptNar};
use snowcache_nix::NarHash;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The longest that is kept: three of four NARs of nixpkgs are shorter, packed.
pub const SMALL_BYTES: u64 = 64 << 10;

/// Of all that is kept, in bytes: a thousand of usual size, a tenth of what full load may take.
const KEPT_BYTES: usize = 16 << 20;

/// Parts with a lock of their own, so that cores do not wait for each other.
const PARTS: usize = 16;

/// What one takes beside its bytes: a slot of a table that is half empty (2 x 150 bytes), the name
/// of its encoding, and what the allocator adds.
const BESIDE_BYTES: usize = 400;

/// A NAR, or its encoding, whole.
#[derive(Debug, Clone)]
pub struct Small {
    /// Its bytes.
    pub bytes: Bytes,
    /// The ETag of these.
    pub etag: HeaderValue,
}

/// What is asked for: a NAR, and the name of an encoding of it, or none.
type Key = (NarHash, Option<String>);

/// The small NARs of one cache.
#[derive(Default)]
pub struct SmallNars {
    parts: [Mutex<Part>; PARTS],
}

#[derive(Default)]
struct Part {
    young: HashMap<Key, KeptNar<Small>>,
    young_bytes: usize,
    old: HashMap<Key, KeptNar<Small>>,
}

impl SmallNars {
    /// The NAR, or its encoding, if it is here and still right.
    pub fn get(&self, depot: &Depot, key: &Key) -> Option<Small> {
        let mut part = self.part(key);
        if let Some(kept) = part.young.get(key) {
            let small = depot.still_nar(kept).cloned();
            if small.is_none()
                && let Some(gone) = part.young.remove(key)
            {
                part.young_bytes -= taken(gone.made());
            }
            return small;
        }
        let kept = part.old.remove(key)?;
        let small = depot.still_nar(&kept).cloned()?;
        part.put(key.clone(), kept);
        Some(small)
    }

    /// Keeps what was read just now.
    pub fn put(&self, key: Key, kept: KeptNar<Small>) {
        self.part(&key).put(key, kept);
    }

    fn part(&self, key: &Key) -> MutexGuard<'_, Part> {
        // A part that a panic left behind is whole: nothing in here calls out between two changes.
        let part = &self.parts[usize::from(key.0.as_bytes()[0]) % PARTS];
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    fn put(&mut self, key: Key, kept: KeptNar<Small>) {
        let bytes = taken(kept.made());
        if self.young_bytes + bytes > KEPT_BYTES / PARTS / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.old.remove(&key);
        self.young_bytes += bytes;
        if let Some(before) = self.young.insert(key, kept) {
            self.young_bytes -= taken(before.made());
        }
    }
}

fn taken(small: &Small) -> usize {
    small.bytes.len() + BESIDE_BYTES
}
