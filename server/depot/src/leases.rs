//! How much each pusher holds without having named it: NARs under lease that no path has.
//!
//! Guarantees: an upload that would take its subject over the limit is refused, so that a builder
//! gone wrong cannot fill the depot with what nobody can use. Counted since the start; each
//! collection counts anew from the index, so what an earlier process took in counts from the first
//! one on. Memory: some 80 bytes for each NAR that waits for its narinfo.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};

use snowcache_nix::NarHash;

use crate::ingest::Nar;
use crate::keys::CacheName;
use crate::{Error, ErrorKind, Result};

/// Who holds something: a subject, in a named cache with its name, since two caches may have people
/// of one name who are to know nothing of each other.
pub fn holder(cache: &CacheName, subject: &str) -> String {
    match cache.is_default() {
        true => subject.to_owned(),
        false => format!("{subject} in {cache}"),
    }
}

/// NARs by the subject that holds them, with their lengths.
pub type Held = HashMap<String, HashMap<NarHash, u64>>;

/// See the module.
pub struct Leases {
    max_bytes: Option<u64>,
    held: Mutex<Held>,
}

impl Leases {
    /// Nothing held; None: no limit.
    pub fn new(max_bytes: Option<u64>) -> Leases {
        Leases {
            max_bytes,
            held: Mutex::default(),
        }
    }

    /// Whether `subject` may hold one NAR more.
    ///
    /// # Errors `Full` where that is more than the limit.
    pub fn check(&self, subject: &str, nar: &Nar) -> Result<()> {
        let Some(max) = self.max_bytes else {
            return Ok(());
        };
        let held = self.lock();
        let own = held.get(subject);
        if own.is_some_and(|own| own.contains_key(&nar.nar_hash)) {
            return Ok(());
        }
        let bytes: u64 = own.map_or(0, |own| own.values().sum());
        if bytes.saturating_add(nar.nar_size_bytes) <= max {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Full,
            format!(
                "{subject} holds {bytes} bytes of NARs that no narinfo has named, and \
                 max_leased_bytes is {max}: put their narinfos, or wait for their leases to end"
            ),
        ))
    }

    /// `subject` holds a NAR. Call it when [`Uses`](crate::uses::Uses) knows of the commit, so that
    /// a count that is under way does.
    pub fn hold(&self, subject: &str, nar: &Nar) {
        if self.max_bytes.is_some() {
            let mut held = self.lock();
            let own = held.entry(subject.to_owned()).or_default();
            own.insert(nar.nar_hash, nar.nar_size_bytes);
        }
    }

    /// A path has the NAR now, by the index. Call it when `Uses` knows of the commit, too.
    pub fn release(&self, nar: &NarHash) {
        for own in self.lock().values_mut() {
            own.remove(nar);
        }
    }

    /// What the index says; what was committed while it was read, by what `meanwhile` tells at the
    /// last moment, is left as it is: held, or released.
    pub fn count_anew(&self, mut counted: Held, meanwhile: impl FnOnce() -> HashSet<NarHash>) {
        let mut held = self.lock();
        let meanwhile = meanwhile();
        for own in counted.values_mut() {
            own.retain(|nar, _| !meanwhile.contains(nar));
        }
        for (subject, own) in held.iter() {
            let kept = own.iter().filter(|(nar, _)| meanwhile.contains(nar));
            let counted = counted.entry(subject.clone()).or_default();
            counted.extend(kept.map(|(nar, bytes)| (*nar, *bytes)));
        }
        *held = counted;
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held
            .lock()
            .expect("invariant: no panic while the lock is held")
    }
}
