//! Narinfos as they are sent, kept in memory: what is asked for often costs no look-up.
//!
//! ```text
//!   full --> the hand goes round: asked for since it came by? stays, and is not so any more
//!                                 not asked for?              goes
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

/// Beside its text a narinfo takes its slot (112 bytes in a `Vec` that is two thirds full), a place
/// in a table that is half empty (64), its key (48) and what the allocator and `Bytes` add (40).
const BESIDE_A_TEXT_BYTES: usize = 320;

/// What is asked for: the number of a cache, and a path of it.
type Key = (u32, StoreHash);

/// The rendered narinfos of all caches.
pub struct Narinfos {
    parts: [Mutex<Part>; PARTS],
    max_part_bytes: usize,
}

#[derive(Default)]
struct Part {
    slots: Vec<Slot>,
    /// Where each is in `slots`.
    places: HashMap<Key, usize>,
    bytes: usize,
    /// The slot that is looked at next when room is needed.
    hand: usize,
}

struct Slot {
    key: Key,
    kept: Kept<Bytes>,
    bytes: usize,
    /// Asked for since the hand came by.
    asked: bool,
}

impl Narinfos {
    /// At most `max_bytes` of them; 0: none.
    pub fn new(max_bytes: u64) -> Narinfos {
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        Narinfos {
            parts: Default::default(),
            max_part_bytes: max_bytes / PARTS,
        }
    }

    /// The narinfo, if it is here and still right.
    pub fn get(&self, depot: &Depot, key: &Key) -> Option<Bytes> {
        let mut part = self.part(key);
        let place = *part.places.get(key)?;
        let slot = &mut part.slots[place];
        slot.asked = true;
        let text = depot.still(&slot.kept).cloned();
        if text.is_none() {
            part.remove(place);
        }
        text
    }

    /// Keeps a narinfo of `len` bytes that was made just now.
    pub fn put(&self, key: Key, kept: Kept<Bytes>, len: usize) {
        let bytes = len + BESIDE_A_TEXT_BYTES;
        if bytes > self.max_part_bytes {
            return;
        }
        let mut part = self.part(&key);
        if let Some(place) = part.places.get(&key).copied() {
            part.remove(place);
        }
        while part.bytes + bytes > self.max_part_bytes {
            part.make_room();
        }
        let place = part.slots.len();
        part.places.insert(key, place);
        part.bytes += bytes;
        part.slots.push(Slot {
            key,
            kept,
            bytes,
            asked: false,
        });
    }

    /// How many are kept, and the bytes that they take.
    pub fn held(&self) -> (u64, u64) {
        let held = |part: MutexGuard<'_, Part>| (part.slots.len() as u64, part.bytes as u64);
        let parts = self.parts.iter().map(|part| held(lock(part)));
        parts.fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
    }

    fn part(&self, (_, hash): &Key) -> MutexGuard<'_, Part> {
        lock(&self.parts[usize::from(hash.as_bytes()[0]) % PARTS])
    }
}

impl Part {
    /// Removes the first that was not asked for since the hand came by last: of a round at the
    /// latest, since it takes that away from those that stay.
    fn make_room(&mut self) {
        loop {
            self.hand %= self.slots.len().max(1);
            match self.slots.get_mut(self.hand) {
                Some(slot) if slot.asked => slot.asked = false,
                Some(_) => return self.remove(self.hand),
                None => return,
            }
            self.hand += 1;
        }
    }

    /// The last slot takes the place of the one that goes.
    fn remove(&mut self, place: usize) {
        let gone = self.slots.swap_remove(place);
        self.places.remove(&gone.key);
        self.bytes -= gone.bytes;
        if let Some(moved) = self.slots.get(place) {
            self.places.insert(moved.key, place);
        }
    }
}

/// A part that a panic left behind is whole: nothing in here calls out between two changes.
fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}
