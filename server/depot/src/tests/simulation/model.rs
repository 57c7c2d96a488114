//! What a depot must be, kept in plain maps: the reference that the simulation holds it against.
//!
//! An operation that was answered with an error may have happened or not, and which of it is seen
//! at the latest after the next start: [`Model::maybe`] says what may appear, and
//! [`Model::maybe_gone`] what may have vanished.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::tests::simulation::random::Random;
use crate::tests::{digit, nar_of, noise};
use crate::{Document, Nar, Pin, Policy};

/// Pieces that NARs are made of, so that they share frames.
const PIECES: u64 = 24;
/// The shortest and the longest piece, in bytes.
const PIECE_BYTES: (u64, u64) = (1_500, 16_000);
/// Pieces in one NAR, at most.
const PIECES_AT_MOST: u64 = 6;

/// A NAR that may be uploaded.
pub struct Content {
    pub bytes: Vec<u8>,
    pub nar: Nar,
}

/// What is published under one number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub nar: usize,
    pub references: Vec<u8>,
    /// Numbers of the foreign signatures on it.
    pub signatures: BTreeSet<u8>,
    /// Not later than when it was last used.
    pub used: u64,
    pub time: u64,
}

impl Path {
    /// Whether both say the same, signatures aside.
    pub fn says(&self, other: &Path) -> bool {
        (self.nar, &self.references) == (other.nar, &other.references)
    }
}

/// What was uploaded under one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub nar: usize,
    pub expires: u64,
}

/// See the module.
#[derive(Default)]
pub struct Model {
    pub now: u64,
    pub nars: Vec<Content>,
    pub paths: BTreeMap<u8, Path>,
    pub maybe: BTreeMap<u8, Vec<Path>>,
    pub maybe_gone: BTreeSet<u8>,
    pub uploads: BTreeMap<u8, Lease>,
    /// Names whose last upload was not answered.
    pub maybe_uploads: BTreeSet<u8>,
    pub pins: BTreeMap<u8, Pin>,
    pub maybe_pins: BTreeMap<u8, Vec<Option<Pin>>>,
    pub documents: BTreeMap<(u8, u8), Bytes>,
    pub maybe_documents: BTreeMap<(u8, u8), Vec<Bytes>>,
}

/// Bytes of a new NAR.
pub fn content(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..=random.below(PIECES_AT_MOST) {
        let piece = random.below(PIECES);
        let (shortest, longest) = PIECE_BYTES;
        let len = shortest + piece * 7919 % (longest - shortest);
        // Every other one can be compressed harder.
        let piece_bytes = match piece % 2 {
            0 => noise(piece + 1, len as usize),
            _ => crate::tests::text(piece + 1, len as usize),
        };
        bytes.extend_from_slice(&piece_bytes);
        let token = digit(random.below(32) as u8).to_string().repeat(32);
        bytes.extend_from_slice(format!("/nix/store/{token}-x").as_bytes());
    }
    nar_of(&bytes)
}

impl Model {
    /// Paths that are reached from these, with themselves.
    pub fn closure(&self, roots: impl IntoIterator<Item = u8>) -> BTreeSet<u8> {
        let mut found = BTreeSet::new();
        let mut next: Vec<u8> = roots.into_iter().collect();
        while let Some(number) = next.pop() {
            if let Some(path) = self.paths.get(&number)
                && found.insert(number)
            {
                next.extend(&path.references);
            }
        }
        found
    }

    /// Roots of pins that surely are as they are known.
    pub fn pinned(&self) -> BTreeSet<u8> {
        let sure = self
            .pins
            .iter()
            .filter(|(name, _)| !self.maybe_pins.contains_key(name));
        let roots = sure.flat_map(|(_, pin)| pin.roots(self.now)).map(number_of);
        self.closure(roots)
    }

    /// What a pin is, or may be.
    pub fn pins_that_may_be(&self, name: u8) -> Vec<Option<Pin>> {
        let mut all = vec![self.pins.get(&name).cloned()];
        all.extend(self.maybe_pins.get(&name).into_iter().flatten().cloned());
        all
    }

    /// Paths that a collection must not touch.
    pub fn must_stay(&self, policy: &Policy) -> BTreeSet<u8> {
        let Some(max_age_s) = policy.max_age_s else {
            return self.paths.keys().copied().collect();
        };
        let young = policy.grace_s.max(max_age_s);
        let used = self.paths.iter();
        let used = used.filter(|(_, path)| self.now.saturating_sub(path.used) < young);
        let sure = used.filter(|(number, _)| !self.maybe_gone.contains(number));
        let mut stays = self.closure(sure.map(|(number, _)| *number));
        stays.extend(self.pinned());
        stays
    }

    /// Of the paths `asked` for, those that something else needs which surely is there.
    pub fn needed_by_others(&self, asked: &BTreeSet<u8>) -> BTreeSet<u8> {
        let may_go = |number: &u8| asked.contains(number) || self.maybe_gone.contains(number);
        let others = self.paths.keys().filter(|number| !may_go(number));
        let mut needed = self.closure(others.copied());
        needed.extend(self.pinned());
        needed
    }

    /// Names of uploads whose lease has not ended.
    pub fn leased(&self) -> impl Iterator<Item = (u8, Lease)> {
        let sure = self
            .uploads
            .iter()
            .filter(|(name, _)| !self.maybe_uploads.contains(name));
        let live = sure.filter(|(_, lease)| lease.expires > self.now);
        live.map(|(name, lease)| (*name, *lease))
    }

    /// Whether the depot must have a NAR.
    pub fn has_nar(&self, nar: usize) -> bool {
        self.leased().any(|(_, lease)| lease.nar == nar)
            || self
                .paths
                .iter()
                .any(|(number, path)| path.nar == nar && !self.maybe_gone.contains(number))
    }

    /// Nobody remembers when paths were used: only when they were put.
    pub fn forget_uses(&mut self) {
        self.paths
            .values_mut()
            .for_each(|path| path.used = path.time);
    }
}

/// The number of a path made by [`crate::tests::path`].
pub fn number_of(path: &snowcache_nix::StorePath) -> u8 {
    let number = path.name().strip_prefix("path").map(str::parse);
    number.expect("a path of ours").expect("a number")
}

/// The kinds of documents, by number.
pub const DOCUMENTS: [Document; 3] = [Document::Log, Document::Realisation, Document::BuildTrace];
