//! Two uploads that store the same frames at once: each NAR has a copy of its own, of which the
//! index knows one.

use snowcache_core::recipe::FrameId;

use super::collect::{DAY, Yard, strict};
use super::*;
use crate::index::{Index, Table};

/// So long that it is appended, to a segment of its own, before its upload has ended.
const LONG: usize = 6 << 20;
/// A frame of its own between other files: a large one, and too short to be cut.
const SHORT: usize = 70_000;

/// What lies between large files, so that these are cut at their start and at their end.
const GAP: usize = 3000;

/// A NAR with a file of noise for each seed, in their order.
fn nar_of_parts(parts: &[(u64, usize)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    writer.directory().expect("a folder");
    for (number, (seed, len)) in parts.iter().enumerate() {
        for (name, seed, len) in [("gap", 0, GAP), ("part", *seed, *len)] {
            let name = format!("{number}-{name}");
            writer.entry(name.as_bytes()).expect("an entry");
            writer.file(false, len as u64).expect("a file");
            writer.data(&noise(seed, len)).expect("data");
        }
    }
    writer.end_directory().expect("the folder's end");
    writer.finish().expect("finish")
}

impl Yard {
    /// Uploads two NARs at once; the second one ends last, so that the index knows its copies.
    fn upload_both(&self, one: &[u8], other: &[u8]) -> (Nar, Nar) {
        let ingests = [0, 1, 2].map(|_| self.bench.depot.ingest().expect("ingest"));
        let [mut idle, mut first, mut second] = ingests;
        // Takes the segment that was used before.
        idle.write(&nar_of_parts(&[(0, LONG)])).expect("write");
        first.write(one).expect("write");
        second.write(other).expect("write");
        let first = first.finish(upload("first")).expect("finish");
        (first, second.finish(upload("second")).expect("finish"))
    }

    fn publish(&self, number: u8, nar: Nar) {
        let published = self.bench.publish(path(number, nar, &[]));
        assert_eq!(published.expect("publish"), Published::New);
    }

    fn remove(&self, number: u8, nar: Nar) {
        let hash = path(number, nar, &[]).store_path.hash();
        let removed = self
            .bench
            .depot
            .remove_paths(&cache(), &[hash], "tester", false);
        assert_eq!(removed.expect("remove").removed.len(), 1);
    }

    /// Whether the index knows the short part of this seed.
    fn knows(&self, seed: u64) -> bool {
        let frame = FrameId::of(&noise(seed, SHORT));
        let row = self.bench.index.get(Table::Frames, frame.as_bytes());
        row.expect("the index").is_some()
    }

    /// Flips a byte of the one copy of a frame.
    fn damage(&self, frame: FrameId) {
        let frames = self.bench.named_frames();
        let mut copies = frames.iter().filter(|(id, _)| *id == frame);
        let (_, (id, from, to)) = *copies.next().expect("a copy");
        assert!(copies.next().is_none(), "there are others");
        self.bench.segments.damaged(id, (from + to) / 2);
    }

    /// Collects what nobody has a path of.
    fn sweep(&self) -> Collected {
        self.wait(2 * DAY);
        let policy = Policy {
            max_age_s: None,
            ..strict()
        };
        self.collect(&policy).0
    }
}

/// `ours` shares frames with its twin, which is gone, and others with an early NAR, which is
/// visible as number 1. The index does not know the copies that `ours` has.
struct Left {
    yard: Yard,
    early: Nar,
    ours: Nar,
    bytes: Vec<u8>,
}

const EARLY: [(u64, usize); 3] = [(1, LONG), (2, SHORT), (1, SHORT)];
const OURS: [(u64, usize); 4] = [(3, LONG), (2, SHORT), (4, SHORT), (3, SHORT)];

fn left() -> Left {
    let yard = Yard::new();
    let early = yard.bench.put("early", &nar_of_parts(&EARLY));
    yard.publish(1, early);
    let bytes = nar_of_parts(&OURS);
    let twin = nar_of_parts(&[(5, LONG), (4, SHORT), (5, SHORT)]);
    let (ours, _) = yard.upload_both(&bytes, &twin);
    yard.publish(2, ours);
    yard.sweep();
    assert!(!yard.knows(4), "the twin's copy was the one that was known");
    Left {
        yard,
        early,
        ours,
        bytes,
    }
}

#[test]
fn a_nar_whose_copies_the_index_forgot_can_still_be_moved() {
    let Left {
        yard,
        early,
        ours,
        bytes,
    } = left();
    yard.remove(1, early);
    let collected = yard.sweep();
    assert!(
        collected.stored_bytes <= collected.live_bytes * 11 / 10,
        "what the early one had alone stays: {collected:?}"
    );
    assert_eq!(yard.bench.raw(&ours), Some(bytes));
    assert!(yard.knows(4), "nobody need store it once more");
}

#[test]
fn a_nar_whose_copies_the_index_forgot_is_healed_by_what_was_damaged_alone() {
    let Left {
        yard,
        early,
        ours,
        bytes,
    } = left();
    let shared = FrameId::of(&noise(2, SHORT));
    yard.damage(shared);
    let reader = yard.bench.depot.nar(&cache(), &ours.nar_hash);
    let reader = reader.expect("look up").expect("is here");
    let error = reader.encoded(0..u64::MAX).find_map(Result::err);
    assert_eq!(error.expect("an error").kind(), ErrorKind::Corrupt);
    yard.bench.wait_until_gone(1, early);
    assert!(!yard.bench.shows(2, ours));
    let again = nar_of_parts(&[(8, SHORT), (2, SHORT), (9, SHORT)]);
    yard.bench.put("again", &again);
    assert!(yard.bench.shows(1, early) && yard.bench.shows(2, ours));
    assert_eq!(yard.bench.raw(&ours), Some(bytes));
}

#[test]
fn one_that_cannot_be_moved_takes_no_other_with_it() {
    // Of the two users of the early one's frames, the first in order can be moved, into a segment
    // of which nothing else is needed; the second cannot.
    let Left {
        yard, early, ours, ..
    } = left();
    yard.damage(FrameId::of(&noise(4, SHORT)));
    let other =
        (100..).map(|seed| nar_of_parts(&[(seed, LONG), (2, SHORT), (6, SHORT), (seed, SHORT)]));
    let before = |bytes: &Vec<u8>| hash_of(bytes) < *ours.nar_hash.as_bytes();
    let bytes = { other }.find(before).expect("half of them are");
    let twin = nar_of_parts(&[(7, LONG / 2), (6, SHORT), (9, SHORT)]);
    let (other, twin) = yard.upload_both(&bytes, &twin);
    yard.publish(3, other);
    yard.publish(4, twin);
    let last = yard.bench.put("last", &nar_of_parts(&[(9, SHORT)]));
    yard.publish(5, last);
    yard.remove(1, early);
    yard.remove(4, twin);
    yard.sweep();
    yard.sweep();
    assert_eq!(yard.bench.raw(&other), Some(bytes));
}

fn hash_of(bytes: &[u8]) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).into()
}
