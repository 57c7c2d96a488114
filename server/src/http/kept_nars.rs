//! What is kept in memory of NARs: small ones as they are sent, since most NARs are small, and
//! reading and unpacking a few KB costs less than finding them; of others where their bytes lie.
//!
//! ```text
//!   asked for --> young --full--> becomes old, and what was old goes
//!                   ^------------- asked for again
//! ```
//! Guarantees: at most [`KEPT_BYTES`] of either; what comes out is what the depot would read now
//! ([`Depot::still_nar`]). Never: waits for a disk; keeps what takes more than a part's half.

use axum::http::HeaderValue;
use bytes::Bytes;
use snowcache_depot::{Depot, KeptNar, NarReader};
use snowcache_nix::NarHash;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The longest that is kept: three of four NARs of nixpkgs are shorter, packed.
pub const SMALL_BYTES: u64 = 64 << 10;

/// Of all small NARs that are kept, in bytes, and again of all layouts: a thousand of usual size,
/// or the layouts of 4 GB of NARs; each a tenth of what full load may take.
const KEPT_BYTES: usize = 16 << 20;

/// Parts with a lock of their own, so that cores do not wait for each other.
const PARTS: usize = 16;

/// What a part keeps young, and again old: 512 KiB.
const HALF_BYTES: usize = KEPT_BYTES / PARTS / 2;

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

/// What is asked for: the number of a cache, a NAR, and the name of an encoding of it, or none.
pub type Key = (u32, NarHash, Option<String>);

/// What can be kept of a NAR.
pub trait Keepable: Clone {
    /// The memory that it takes beside itself.
    fn bytes(&self) -> usize;
}

impl Keepable for Small {
    fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

impl Keepable for NarReader {
    fn bytes(&self) -> usize {
        self.known_bytes()
    }
}

/// What is kept of the NARs of all caches.
pub struct KeptNars<T> {
    parts: [Mutex<Part<T>>; PARTS],
}

struct Part<T> {
    young: HashMap<Key, KeptNar<T>>,
    young_bytes: usize,
    old: HashMap<Key, KeptNar<T>>,
}

impl<T> Default for KeptNars<T> {
    fn default() -> KeptNars<T> {
        let empty = |_| Part {
            young: HashMap::new(),
            young_bytes: 0,
            old: HashMap::new(),
        };
        KeptNars {
            parts: std::array::from_fn(|number| Mutex::new(empty(number))),
        }
    }
}

impl<T: Keepable> KeptNars<T> {
    /// What was kept of the NAR, or of its encoding, if it is here and still right.
    pub fn get(&self, depot: &Depot, key: &Key) -> Option<T> {
        let mut part = self.part(key);
        if let Some(kept) = part.young.get(key) {
            let still = depot.still_nar(kept).cloned();
            if still.is_none()
                && let Some(gone) = part.young.remove(key)
            {
                part.young_bytes -= taken(gone.made());
            }
            return still;
        }
        let kept = part.old.remove(key)?;
        let still = depot.still_nar(&kept).cloned()?;
        part.put(key.clone(), kept);
        Some(still)
    }

    /// Keeps what was read just now.
    pub fn put(&self, key: Key, kept: KeptNar<T>) {
        self.part(&key).put(key, kept);
    }

    fn part(&self, key: &Key) -> MutexGuard<'_, Part<T>> {
        // A part that a panic left behind is whole: nothing in here calls out between two changes.
        let part = &self.parts[usize::from(key.1.as_bytes()[0]) % PARTS];
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Keepable> Part<T> {
    fn put(&mut self, key: Key, kept: KeptNar<T>) {
        let bytes = taken(kept.made());
        if bytes > HALF_BYTES {
            return;
        }
        if self.young_bytes + bytes > HALF_BYTES {
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

fn taken(kept: &impl Keepable) -> usize {
    kept.bytes() + BESIDE_BYTES
}
