//! The quarantine: what is damaged is not served, and comes back when its bytes do.
//!
//! ```text
//!   a read, the scrub --damage--> frames: their rows go, the next push stores them anew
//!                                 NARs that need them: another copy? --> layout made anew
//!                                                      none          --> sick
//!   a push that stores a frame, the scrub that finds a copy --> NARs that lacked only that: healed
//! ```
//!
//! A sick NAR answers as if it were not there: its paths have no narinfo, `missing` names them, so
//! clients go elsewhere and builders push again. Its rows stay, so that its paths come back without
//! a new narinfo. Which NARs are sick is kept in a small table of the index; an index made anew
//! from the segments leaves such NARs out by itself.
//!
//! Guarantees: healthy depots pay one atomic read for a look-up; what is decided here survives a
//! restart. Never: removes a byte from a segment.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use serde::{Serialize, Serializer};
use snowcache_core::recipe::FrameId;
use snowcache_nix::NarHash;

use crate::Result;
use crate::depot::Shared;
use crate::index::watched::Watchers;
use crate::record::Kind;
use crate::rows::{PathRow, Place};
use crate::segments::SegmentId;

mod again;
mod isolate;
mod sick;

pub(crate) use again::Harmed;

/// What is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// A frame.
    Frame(FrameId),
    /// A state record whose header is whole.
    State(Kind),
    /// Bytes that are no record: a header, and what it led to.
    Bytes,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Frame(id) => write!(f, "frame {id}"),
            Broken::State(kind) => write!(f, "{kind:?} record"),
            Broken::Bytes => f.write_str("bytes that are no record"),
        }
    }
}

impl Serialize for Broken {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// A damaged place of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The segment's number.
    pub segment: u32,
    /// Where in it.
    pub offset: u64,
    /// How much of it.
    pub bytes: u64,
    /// What it was.
    pub what: Broken,
}

impl Damage {
    /// Whether some of the bytes between two offsets of a segment are damaged.
    pub(crate) fn touches(&self, segment: SegmentId, from: u64, to: u64) -> bool {
        self.segment == segment.0 && self.offset < to && from < self.offset + self.bytes
    }
}

/// Why a NAR is not served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Lack {
    /// Its recipe is damaged at this place.
    recipe: Option<Place>,
    /// Frames of which no whole copy is known.
    frames: BTreeSet<FrameId>,
}

/// Which NARs are sick, and what is being found out.
pub(crate) struct Quarantine {
    sick: RwLock<HashMap<NarHash, Lack>>,
    /// How many, so that a healthy depot takes no lock.
    count: AtomicUsize,
    scrubbing: Mutex<()>,
    suspects: Mutex<Suspects>,
    /// Told of NARs that fall sick or are healed.
    watchers: Arc<Watchers>,
}

/// Damage that reads met, and whether a thread looks after it.
#[derive(Default)]
struct Suspects {
    damage: Vec<Damage>,
    looked_after: bool,
}

/// What isolating damage came to.
#[derive(Debug, Default)]
pub(crate) struct Isolated {
    /// NARs that are no longer served.
    pub sick: Vec<NarHash>,
    /// Former encodings that were let go.
    pub former_encodings: u64,
    /// Records written anew.
    pub rewritten_records: u64,
}

impl Quarantine {
    /// With nobody in it.
    pub fn new(watchers: Arc<Watchers>) -> Quarantine {
        Quarantine {
            sick: RwLock::default(),
            count: AtomicUsize::new(0),
            scrubbing: Mutex::default(),
            suspects: Mutex::default(),
            watchers,
        }
    }

    /// Whether the NAR must not be served.
    pub fn is_sick(&self, nar: &NarHash) -> bool {
        self.any() && self.read().contains_key(nar)
    }

    /// Whether the path with this row of the index is not to be shown.
    pub fn hides(&self, row: &Bytes) -> Result<bool> {
        Ok(self.any() && self.is_sick(&PathRow::decode(row)?.info()?.nar_hash))
    }

    /// Whether any NAR must not be served.
    pub fn any(&self) -> bool {
        self.len() > 0
    }

    /// NARs that are not served.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Frames that sick NARs lack.
    pub fn wanted(&self) -> HashSet<FrameId> {
        let sick = self.read();
        sick.values()
            .flat_map(|lack| lack.frames.iter().copied())
            .collect()
    }

    /// The right to scrub, if nobody has it.
    pub fn only_scrub(&self) -> Option<MutexGuard<'_, ()>> {
        self.scrubbing.try_lock().ok()
    }

    /// Sick NARs that one of these frames may heal, or that are among `nars`.
    fn hopeful(&self, frames: &HashSet<FrameId>, nar: Option<&NarHash>) -> Vec<NarHash> {
        let sick = self.read();
        let hopeful = sick.iter().filter(|(hash, lack)| {
            Some(*hash) == nar || lack.frames.iter().any(|id| frames.contains(id))
        });
        hopeful.map(|(hash, _)| *hash).collect()
    }

    fn set(&self, nar: NarHash, lack: Option<Lack>) {
        let mut sick = self.write();
        match lack {
            Some(lack) => sick.insert(nar, lack),
            None => sick.remove(&nar),
        };
        self.count.store(sick.len(), Ordering::Release);
        drop(sick);
        self.watchers.versions.changed(nar.as_bytes());
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<NarHash, Lack>> {
        self.sick
            .read()
            .expect("invariant: no panic under the lock")
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<NarHash, Lack>> {
        self.sick
            .write()
            .expect("invariant: no panic under the lock")
    }

    fn suspects(&self) -> MutexGuard<'_, Suspects> {
        self.suspects
            .lock()
            .expect("invariant: no panic under the lock")
    }
}

impl Shared {
    /// Takes what a read of `nar` found damaged out of use: the NAR at once, and in the background
    /// whatever else needs the same bytes.
    pub fn found_damaged(self: &Arc<Shared>, nar: &NarHash, damage: Vec<Damage>) {
        for one in &damage {
            let what = one.what;
            tracing::error!(segment = one.segment, offset = one.offset, %what, %nar, "damaged");
        }
        let isolated = self
            .forget_frames(&damage)
            .and_then(|()| self.forget_formers(nar.as_bytes(), &damage))
            .and_then(|_| self.examine(nar, &damage));
        if let Err(error) = isolated {
            tracing::error!(%error, %nar, "a damaged NAR could not be quarantined");
        }
        self.suspect(damage);
    }

    /// Takes a frame that an upload found damaged out of use, and in the background whatever else
    /// needs it.
    pub fn found_damaged_frame(self: &Arc<Shared>, damage: Damage) {
        let (segment, offset, what) = (damage.segment, damage.offset, damage.what);
        tracing::error!(segment, offset, %what, "damaged");
        let damage = vec![damage];
        if let Err(error) = self.forget_frames(&damage) {
            tracing::error!(%error, %what, "a damaged frame could not be taken out of use");
        }
        self.suspect(damage);
    }

    fn suspect(self: &Arc<Shared>, damage: Vec<Damage>) {
        let mut suspects = self.quarantine.suspects();
        suspects.damage.extend(damage);
        if !std::mem::replace(&mut suspects.looked_after, true) {
            let shared = self.clone();
            let thread = std::thread::Builder::new().name("quarantine".into());
            if let Err(error) = thread.spawn(move || shared.look_after_suspects()) {
                suspects.looked_after = false;
                tracing::error!(%error, "what else is damaged stays unknown until the next scrub");
            }
        }
    }

    fn look_after_suspects(&self) {
        loop {
            let damage = {
                let mut suspects = self.quarantine.suspects();
                if suspects.damage.is_empty() {
                    suspects.looked_after = false;
                    return;
                }
                std::mem::take(&mut suspects.damage)
            };
            if let Err(error) = self.isolate(&damage) {
                tracing::error!(%error, "damage could not be isolated; the next scrub tries again");
            }
        }
    }
}
