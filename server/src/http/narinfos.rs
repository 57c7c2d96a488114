//! Narinfos as they are sent, kept in memory: what is asked for often costs no look-up.
//!
//! ```text
//!   asked for --> young --full--> becomes old, and what was old goes
//!                   ^------------- asked for again
//! ```
//! Guarantees: at most `max_bytes`; what comes out is what the depot would say now, and counts as
//! used ([`Depot::still`]). Never: waits for a disk.

use bytes::Bytes;
use snowcache_depot::{Depot, Kept};
use snowcache_nix::StoreHash;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Parts with a lock of their own, so that a machine's cores do not wait for each other.
const PARTS: usize = 16;

/// Beside its text a narinfo takes a slot of a table that is half empty (2 x 130 bytes), its key
/// (30) and what the allocator and `Bytes` add (40).
const BESIDE_A_TEXT_BYTES: usize = 330;

/// The rendered narinfos of one cache.
pub struct Narinfos {
    parts: [Mutex<Part>; PARTS],
    /// Of each half of a part.
    max_half_bytes: usize,
}

#[derive(Default)]
struct Part {
    young: Half,
    old: Half,
}

#[derive(Default)]
struct Half {
    texts: HashMap<StoreHash, Held>,
    bytes: usize,
}

/// A narinfo, and what it takes.
struct Held {
    kept: Kept<Bytes>,
    bytes: usize,
}

impl Narinfos {
    /// At most `max_bytes` of them; 0: none.
    pub fn new(max_bytes: u64) -> Narinfos {
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        Narinfos {
            parts: Default::default(),
            max_half_bytes: max_bytes / PARTS / 2,
        }
    }

    /// The narinfo, if it is here and still right.
    pub fn get(&self, depot: &Depot, hash: &StoreHash) -> Option<Bytes> {
        let mut part = self.part(hash);
        if let Some(held) = part.young.texts.get(hash) {
            let text = depot.still(&held.kept).cloned();
            if text.is_none() {
                part.young.take(hash);
            }
            return text;
        }
        let held = part.old.take(hash)?;
        let text = depot.still(&held.kept).cloned()?;
        self.put_into(&mut part, *hash, held);
        Some(text)
    }

    /// Keeps a narinfo of `len` bytes that was made just now.
    pub fn put(&self, hash: StoreHash, kept: Kept<Bytes>, len: usize) {
        let bytes = len + BESIDE_A_TEXT_BYTES;
        self.put_into(&mut self.part(&hash), hash, Held { kept, bytes });
    }

    /// How many are kept, and the bytes that they take.
    pub fn held(&self) -> (u64, u64) {
        let halves = |part: &Part| {
            let count = part.young.texts.len() + part.old.texts.len();
            (count as u64, (part.young.bytes + part.old.bytes) as u64)
        };
        let parts = self.parts.iter().map(|part| halves(&lock(part)));
        parts.fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
    }

    fn put_into(&self, part: &mut Part, hash: StoreHash, held: Held) {
        if held.bytes > self.max_half_bytes {
            return;
        }
        if part.young.bytes + held.bytes > self.max_half_bytes {
            part.old = std::mem::take(&mut part.young);
        }
        part.old.take(&hash);
        part.young.take(&hash);
        part.young.bytes += held.bytes;
        part.young.texts.insert(hash, held);
    }

    fn part(&self, hash: &StoreHash) -> MutexGuard<'_, Part> {
        lock(&self.parts[usize::from(hash.as_bytes()[0]) % PARTS])
    }
}

impl Half {
    fn take(&mut self, hash: &StoreHash) -> Option<Held> {
        let held = self.texts.remove(hash)?;
        self.bytes -= held.bytes;
        Some(held)
    }
}

/// A part that a panic left behind is whole: nothing in here calls out between two changes.
fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}
