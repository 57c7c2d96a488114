//! Who is using what right now: what keeps the collector's hands off.
//!
//! ```text
//!   look-ups   --"yes, it is here"-->  touched (flushed to the index: last used)
//!                                 \-> paths  \   noted while a collection runs:
//!   commits    --this NAR is meant-->  nars   }  nothing in them is removed
//!   uploads    --this frame is shared--> flights
//! ```
//!
//! Guarantees: a path that was said to be here after a collection began is not removed by it, and
//! a path whose removal was decided is not said to be here; a frame that an upload counts on stays
//! until that upload has ended. Never touches the disk.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use snowcache_core::recipe::FrameId;
use snowcache_nix::NarHash;

use crate::layout::Location;

/// Paths whose use is not yet in the index, at most; with keys of some 30 bytes that is 8 MB.
pub const MAX_TOUCHED: usize = 65_536;

/// Where each frame of an upload lies.
pub type Flight = Mutex<HashMap<FrameId, FramePlace>>;

/// Where a frame of an upload lies.
pub enum FramePlace {
    /// The depot has it already.
    Known(Location),
    /// Handed to compression.
    Queued,
    /// Appended by this upload.
    New(Location),
}

/// See the module.
#[derive(Default)]
pub struct Uses {
    state: Mutex<State>,
    /// Grows whenever removals were carried out.
    removals: AtomicU64,
    /// Grows whenever a use that was noted before has to be noted again.
    epoch: AtomicU64,
    flights: Mutex<Vec<Weak<Flight>>>,
}

#[derive(Default)]
struct State {
    touched: HashSet<Vec<u8>>,
    watch: Option<Watch>,
    leaving: HashSet<Vec<u8>>,
}

/// What was used since a collection began.
#[derive(Default)]
struct Watch {
    paths: HashSet<Vec<u8>>,
    /// In the order of their commits.
    nars: Vec<NarHash>,
}

impl State {
    fn note(&mut self, key: &[u8]) {
        if let Some(watch) = &mut self.watch
            && !watch.paths.contains(key)
        {
            watch.paths.insert(key.to_vec());
        }
        if self.touched.len() < MAX_TOUCHED && !self.touched.contains(key) {
            self.touched.insert(key.to_vec());
        }
    }
}

impl Uses {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("invariant: no panic while the lock is held")
    }

    /// Before a look-up: what [`Uses::found`] is to be told.
    pub fn before(&self) -> u64 {
        self.removals.load(Ordering::Acquire)
    }

    /// After a look-up that found these paths: notes their use. None: look them up again, something
    /// was removed meanwhile. Otherwise which of them stay: the others are being removed.
    pub fn found(&self, before: u64, keys: &[&[u8]]) -> Option<Vec<bool>> {
        let mut state = self.lock();
        if self.removals.load(Ordering::Acquire) != before {
            return None;
        }
        let stays = keys.iter().map(|key| {
            let stays = !state.leaving.contains(*key);
            if stays {
                state.note(key);
            }
            stays
        });
        Some(stays.collect())
    }

    /// A number that changes whenever a use that was noted before has to be noted again: as long as
    /// it is the same, a path whose use was noted is not on its way out.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// After a look-up in memory, of a path that was here at [`Uses::before`]: notes its use.
    /// Returns the epoch for which that is done. None: ask the index, something stands in the way.
    pub fn found_at_once(&self, before: u64, key: &[u8]) -> Option<u64> {
        let mut state = self.state.try_lock().ok()?;
        let removed = self.removals.load(Ordering::Acquire) != before;
        if removed || state.touched.len() >= MAX_TOUCHED || state.leaving.contains(key) {
            return None;
        }
        state.note(key);
        Some(self.epoch())
    }

    /// A path was published, pinned, or referred to by what was.
    pub fn path(&self, key: &[u8]) {
        if let Some(watch) = &mut self.lock().watch {
            watch.paths.insert(key.to_vec());
        }
    }

    /// A commit counts on this NAR. Call it before the gate is let go.
    pub fn nar(&self, nar: NarHash) {
        if let Some(watch) = &mut self.lock().watch {
            watch.nars.push(nar);
        }
    }

    /// Takes the paths used since the last call; they are then the caller's to write down.
    pub fn take_touched(&self) -> HashSet<Vec<u8>> {
        let mut state = self.lock();
        self.new_epoch();
        std::mem::take(&mut state.touched)
    }

    /// Gives back what [`Uses::take_touched`] took and nobody could write down.
    pub fn touch_again(&self, touched: HashSet<Vec<u8>>) {
        self.lock().touched.extend(touched);
    }

    /// Whether so many paths were used that they should be written down now.
    pub fn is_full(&self) -> bool {
        self.lock().touched.len() >= MAX_TOUCHED
    }

    /// From here on uses are noted for a collection.
    pub fn watch(&self) {
        let mut state = self.lock();
        state.watch = Some(Watch::default());
        self.new_epoch();
    }

    /// The collection has ended.
    pub fn unwatch(&self) {
        self.lock().watch = None;
    }

    /// Decides over removals: `decide` is told which paths were used, and what it returns is
    /// leaving from then on.
    pub fn leave(&self, decide: impl FnOnce(&HashSet<Vec<u8>>) -> Vec<Vec<u8>>) {
        let mut state = self.lock();
        let none = HashSet::new();
        let leaving = decide(state.watch.as_ref().map_or(&none, |watch| &watch.paths));
        state.leaving.extend(leaving);
        self.new_epoch();
    }

    /// The removals are carried out, or given up.
    pub fn left(&self) {
        let mut state = self.lock();
        state.leaving.clear();
        self.removals.fetch_add(1, Ordering::Release);
        self.new_epoch();
    }

    /// Call it with the lock held.
    fn new_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// NARs that commits counted on since the collection began, from number `from` on.
    pub fn nars(&self, from: usize) -> Vec<NarHash> {
        let state = self.lock();
        let nars = state.watch.as_ref().map(|watch| &watch.nars[from..]);
        nars.map(<[NarHash]>::to_vec).unwrap_or_default()
    }

    /// Registers an upload; it counts until the handle is dropped.
    pub fn take_off(&self) -> Arc<Flight> {
        let flight = Arc::<Flight>::default();
        let mut flights = self.flights();
        flights.retain(|other| other.strong_count() > 0);
        flights.push(Arc::downgrade(&flight));
        flight
    }

    /// Which of `frames` some upload counts on.
    pub fn in_flight(&self, frames: &HashSet<FrameId>) -> HashSet<FrameId> {
        let mut found = HashSet::new();
        let flights: Vec<_> = self.flights().iter().filter_map(Weak::upgrade).collect();
        for flight in flights {
            let at = flight
                .lock()
                .expect("invariant: no panic while the lock is held");
            let shared = at
                .iter()
                .filter(|(_, place)| matches!(place, FramePlace::Known(_)));
            found.extend(shared.map(|(id, _)| *id).filter(|id| frames.contains(id)));
        }
        found
    }

    fn flights(&self) -> MutexGuard<'_, Vec<Weak<Flight>>> {
        self.flights
            .lock()
            .expect("invariant: no panic while the lock is held")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_since_a_collection_began_does_not_leave() {
        let uses = Uses::default();
        assert_eq!(uses.found(uses.before(), &[b"early"]), Some(vec![true]));
        uses.watch();
        assert_eq!(uses.found(uses.before(), &[b"late"]), Some(vec![true]));
        uses.leave(|used| {
            assert!(used.contains(b"late".as_slice()) && !used.contains(b"early".as_slice()));
            vec![b"early".to_vec()]
        });
        let answer = uses.found(uses.before(), &[b"early", b"late"]);
        assert_eq!(answer, Some(vec![false, true]), "early is on its way out");
    }

    #[test]
    fn who_looked_before_a_removal_looks_again() {
        let uses = Uses::default();
        let before = uses.before();
        uses.leave(|_| vec![b"gone".to_vec()]);
        uses.left();
        assert_eq!(uses.found(before, &[b"gone"]), None);
        assert_eq!(uses.found(uses.before(), &[b"other"]), Some(vec![true]));
    }

    #[test]
    fn a_use_that_was_noted_holds_for_its_epoch() {
        let uses = Uses::default();
        let noted = |uses: &Uses| uses.found_at_once(uses.before(), b"path");
        let changes: [fn(&Uses); 4] = [
            |uses| uses.watch(),
            |uses| drop(uses.take_touched()),
            |uses| uses.leave(|_| vec![b"other".to_vec()]),
            Uses::left,
        ];
        for change in changes {
            assert_eq!(noted(&uses), Some(uses.epoch()));
            let before = uses.epoch();
            change(&uses);
            assert_ne!(uses.epoch(), before);
        }
    }

    #[test]
    fn what_is_on_its_way_out_is_not_found_at_once() {
        let uses = Uses::default();
        let before = uses.before();
        uses.leave(|_| vec![b"gone".to_vec()]);
        assert_eq!(uses.found_at_once(before, b"gone"), None);
        uses.left();
        assert_eq!(
            uses.found_at_once(before, b"gone"),
            None,
            "it looked before"
        );
        assert!(uses.found_at_once(uses.before(), b"other").is_some());
    }

    #[test]
    fn an_upload_holds_its_frames_until_it_ends() {
        let uses = Uses::default();
        let id = FrameId::from_bytes([1; 32]);
        let flight = uses.take_off();
        let at = Location {
            segment: crate::segments::SegmentId(1),
            offset: 0,
            stored_len: 1,
            raw_len: 1,
            checksum: crate::record::Checksum([0; 8]),
        };
        let mut held = flight.lock().expect("lock");
        held.insert(id, FramePlace::Known(at));
        drop(held);
        let wanted = HashSet::from([id, FrameId::from_bytes([2; 32])]);
        assert_eq!(uses.in_flight(&wanted), HashSet::from([id]));
        drop(flight);
        assert!(uses.in_flight(&wanted).is_empty());
    }
}
