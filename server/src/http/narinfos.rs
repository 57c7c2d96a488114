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
    parts: [Mutex<Part<Kept<Bytes>>>; PARTS],
    max_part_bytes: usize,
}

struct Part<T> {
    slots: Vec<Slot<T>>,
    /// Where each is in `slots`.
    places: HashMap<Key, usize>,
    bytes: usize,
    /// The slot that is looked at next when room is needed.
    hand: usize,
}

struct Slot<T> {
    key: Key,
    kept: T,
    bytes: usize,
    /// Asked for since the hand came by.
    asked: bool,
}

impl Narinfos {
    /// At most `max_bytes` of them; 0: none.
    pub fn new(max_bytes: u64) -> Narinfos {
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        Narinfos {
            parts: std::array::from_fn(|_| Mutex::new(Part::empty())),
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
        self.part(&key).put(key, kept, bytes, self.max_part_bytes);
    }

    /// How many are kept, and the bytes that they take.
    pub fn held(&self) -> (u64, u64) {
        let held = |part: MutexGuard<'_, Part<_>>| (part.slots.len() as u64, part.bytes as u64);
        let parts = self.parts.iter().map(|part| held(lock(part)));
        parts.fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
    }

    fn part(&self, (_, hash): &Key) -> MutexGuard<'_, Part<Kept<Bytes>>> {
        lock(&self.parts[usize::from(hash.as_bytes()[0]) % PARTS])
    }
}

impl<T> Part<T> {
    fn empty() -> Part<T> {
        Part {
            slots: Vec::new(),
            places: HashMap::new(),
            bytes: 0,
            hand: 0,
        }
    }

    fn put(&mut self, key: Key, kept: T, bytes: usize, max_bytes: usize) {
        if bytes > max_bytes {
            return;
        }
        if let Some(place) = self.places.get(&key).copied() {
            self.remove(place);
        }
        while self.bytes + bytes > max_bytes {
            self.make_room();
        }
        self.places.insert(key, self.slots.len());
        self.bytes += bytes;
        self.slots.push(Slot {
            key,
            kept,
            bytes,
            asked: true,
        });
    }

    /// Removes the first that was not asked for since the hand came by last: of a round at the
    /// latest, since it takes that away from those that stay. Then it goes on: in that one's place
    /// is now the newest.
    fn make_room(&mut self) {
        loop {
            self.hand %= self.slots.len().max(1);
            match self.slots.get_mut(self.hand) {
                Some(slot) if slot.asked => slot.asked = false,
                Some(_) => {
                    self.remove(self.hand);
                    self.hand += 1;
                    return;
                }
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
fn lock<T>(part: &Mutex<Part<T>>) -> MutexGuard<'_, Part<T>> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_BYTES: usize = 75 * 10;

    fn key(number: u8) -> Key {
        (0, StoreHash::from_bytes([number; 20]))
    }

    /// What is asked for next: each looked up, and put where it is not here. How many were.
    fn ask(part: &mut Part<()>, numbers: std::ops::Range<u8>) -> usize {
        let mut here = 0;
        for number in numbers {
            match part.places.get(&key(number)) {
                Some(&place) => {
                    part.slots[place].asked = true;
                    here += 1;
                }
                None => part.put(key(number), (), 10, MAX_BYTES),
            }
        }
        here
    }

    #[test]
    fn what_a_full_memory_is_asked_for_anew_stays_and_drives_out_what_it_was_asked_for_before() {
        let mut part = Part::empty();
        for first in [0, 50, 100, 150] {
            let numbers = first..first + 50;
            assert_eq!(ask(&mut part, numbers.clone()), 0, "from {first}");
            assert_eq!(ask(&mut part, numbers.clone()), 50, "from {first}, again");
            assert_eq!(ask(&mut part, numbers), 50, "from {first}, once more");
            assert!(part.bytes <= MAX_BYTES);
        }
        assert_eq!(part.slots.len(), 75);
    }
}
