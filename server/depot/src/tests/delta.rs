//! A NAR told by another one puts together to itself, from what the depot serves; and nothing is
//! told of NARs that are not shown.

use super::*;
use crate::patches::Patched;
use bytes::Bytes;
use sha2::Digest;
use snowcache_core::delta::{Budget, Delta, Pair, Part, patch, script};
use snowcache_core::swap::{Swapper, Swaps};
use snowcache_nix::NarHash;
use std::fs;

impl Bench {
    /// Makes path `number` with this NAR visible.
    fn shown(&self, number: u8, nar: &[u8]) -> Nar {
        let nar = self.put(&format!("{number}.nar"), nar);
        self.publish(path(number, nar, &[])).expect("publish");
        nar
    }

    fn told(&self, wanted: u8, old: u8, old_nar: NarHash) -> Option<Delta> {
        let pair = pair(wanted, old, old_nar);
        let delta = self.depot.delta(
            &cache(),
            &pair,
            &swaps(wanted, old),
            &mut Budget::PLAN.clone(),
        );
        delta.expect("compared").0
    }

    /// What this pair's patch came to.
    fn patched(&self, wanted: u8, old: u8, old_nar: NarHash) -> Patched {
        let (pair, swaps) = (pair(wanted, old, old_nar), swaps(wanted, old));
        let patched = self.depot.make_patch(&cache(), &pair, &swaps);
        patched.expect("compared")
    }

    /// What a patch makes, unpacked with the old NAR.
    fn unpacked(&self, delta: &Delta, old: &[u8], new: &Nar) -> (Vec<u8>, u64) {
        let Some((at, len)) = delta.patch else {
            return (Vec::new(), 0);
        };
        let old_nar = NarHash::from_bytes(sha2::Sha256::digest(old).into());
        let file = self.depot.patch(&cache(), &new.nar_hash, &old_nar);
        let file = file.expect("look up").expect("a patch");
        let pieces: Vec<Bytes> = file
            .read(at..at + len)
            .map(|it| it.expect("read"))
            .collect();
        let pieces = zstd::stream::decode_all(&*pieces.concat()).expect("zstd");
        let (mut rest, mut made) = (&pieces[..], Vec::new());
        while !rest.is_empty() {
            let (head, taken) = patch::Head::decode(rest).expect("a piece");
            let script = &rest[taken..][..head.script_len as usize];
            let range = head.old.start as usize..head.old.end as usize;
            let piece = script::apply(script, &old[range], head.raw_len as usize);
            made.extend(piece.expect("a script"));
            rest = &rest[taken + script.len()..];
        }
        (made, len)
    }

    /// The NAR of `new` from its delta; gives how many stored bytes were fetched.
    fn made(&self, delta: &Delta, old: &[u8], new: &Nar, swaps: Swaps) -> (Vec<u8>, u64) {
        let mut all = swaps;
        for (from, to) in &delta.swaps {
            all.add(from, to);
        }
        let reader = self.depot.nar(&cache(), &new.nar_hash).expect("look up");
        let reader = reader.expect("visible");
        let (patched, mut fetched) = self.unpacked(delta, old, new);
        let (mut nar, mut taken) = (Vec::new(), 0);
        for part in &delta.parts {
            match part {
                Part::Copy { offset, len } => {
                    let mut swapper = Swapper::new(all.clone());
                    swapper.push(&old[*offset as usize..(offset + len) as usize], &mut nar);
                    swapper.finish(&mut nar);
                }
                Part::Literal(bytes) => nar.extend_from_slice(bytes),
                Part::Fetch {
                    len,
                    stored_at,
                    stored_len,
                } => {
                    let stored = collect(reader.encoded(*stored_at..stored_at + stored_len));
                    let raw = zstd::stream::decode_all(&stored[..]).expect("whole frames");
                    assert_eq!(raw.len() as u64, *len);
                    nar.extend(raw);
                    fetched += stored_len;
                }
                Part::Patch { len, skip } => {
                    let from = taken + *skip as usize;
                    taken = from + *len as usize;
                    nar.extend_from_slice(&patched[from..taken]);
                }
            }
        }
        (nar, fetched)
    }
}

fn swaps(wanted: u8, old: u8) -> Swaps {
    Swaps::of_paths([(hash(old), hash(wanted))])
}

fn hash(number: u8) -> snowcache_nix::StoreHash {
    let text = digit(number).to_string().repeat(32);
    text.parse().expect("a hash part")
}

fn pair(wanted: u8, old: u8, old_nar: NarHash) -> Pair {
    Pair {
        wanted: hash(wanted),
        old: hash(old),
        old_nar,
    }
}

#[test]
fn a_rebuild_needs_no_byte_and_a_change_its_frames() {
    let bench = Bench::new();
    let one = nar_with(digit(1), 5, 3 << 20);
    let old = bench.shown(1, &one);
    let rebuilt = nar_with(digit(2), 5, 3 << 20);
    let new = bench.shown(2, &rebuilt);
    let delta = bench.told(2, 1, old.nar_hash).expect("a delta");
    let (nar, fetched) = bench.made(&delta, &one, &new, swaps(2, 1));
    assert!(nar == rebuilt);
    assert_eq!((fetched, delta.parts.len()), (0, 1));

    // The same beginning, other bytes later.
    let mut content = noise(5, 2 << 20);
    content.extend(noise(6, 1 << 20));
    let before = nar_of(&noise(5, 3 << 20));
    let old = bench.shown(3, &before);
    let changed = nar_of(&content);
    let new = bench.shown(4, &changed);
    let delta = bench.told(4, 3, old.nar_hash).expect("a delta");
    let (nar, fetched) = bench.made(&delta, &before, &new, swaps(4, 3));
    assert!(nar == changed);
    let reader = bench.depot.nar(&cache(), &new.nar_hash).expect("look up");
    let whole = reader.expect("visible").encoding().size_bytes;
    assert!(
        fetched > 0 && fetched < whole * 2 / 3,
        "{fetched} of {whole}"
    );
}

#[test]
fn nothing_is_told_of_what_is_not_shown() {
    let bench = Bench::new();
    let nar = nar_with(digit(1), 5, 100_000);
    let shown = bench.shown(1, &nar);
    let hidden = bench.put("hidden.nar", &nar_with(digit(2), 5, 100_000));
    assert!(
        bench.told(1, 2, hidden.nar_hash).is_none(),
        "as the old one"
    );
    assert!(bench.told(2, 1, shown.nar_hash).is_none(), "as the new one");
    assert!(bench.told(1, 1, shown.nar_hash).is_some());
    let pair = pair(1, 1, shown.nar_hash);
    let other = "other".parse().expect("a name");
    let delta = bench
        .depot
        .delta(&other, &pair, &swaps(1, 1), &mut Budget::PLAN.clone());
    assert!(delta.expect("compared").0.is_none(), "in another cache");
}

/// Two versions of 3 MiB: `place` in each stretch of bytes differs, and there is a frame's worth of
/// new ones at the end.
fn versions(place: usize) -> [Vec<u8>; 2] {
    let before = noise(5, 3 << 20);
    let mut after = before.clone();
    after
        .iter_mut()
        .skip(place)
        .step_by(20_000)
        .for_each(|byte| *byte ^= 1);
    after.extend(noise(9, 100_000));
    [before, after].map(|content| nar_of(&content))
}

fn with_patches(folder: &std::path::Path, max_bytes: u64) -> Bench {
    Bench::with(MemorySegments::default(), |options| {
        options.dir = folder.to_owned();
        options.max_patch_bytes = max_bytes;
    })
}

#[test]
fn a_patch_makes_of_a_change_here_and_there_what_it_is_worth() {
    let folder = tempfile::tempdir().expect("a folder");
    let bench = with_patches(folder.path(), 1 << 30);
    let [before, after] = versions(7);
    let (old, new) = (bench.shown(1, &before), bench.shown(2, &after));
    let delta = bench.told(2, 1, old.nar_hash).expect("a delta");
    let (_, frames) = bench.made(&delta, &before, &new, swaps(2, 1));
    let basis = |depot: &Depot| {
        let pair = pair(2, 1, old.nar_hash);
        let told = depot.delta(&cache(), &pair, &swaps(2, 1), &mut Budget::PLAN.clone());
        told.expect("compared").1
    };
    let told = basis(&bench.depot);
    assert!(bench.depot.rests(&told));
    let patched = bench.patched(2, 1, old.nar_hash);
    assert!(matches!(patched, Patched::Made { .. }), "{patched:?}");
    assert!(!bench.depot.rests(&told), "it can be told better");
    assert_eq!(bench.patched(2, 1, old.nar_hash), Patched::Known);

    let delta = bench.told(2, 1, old.nar_hash).expect("a delta");
    let (nar, patched) = bench.made(&delta, &before, &new, swaps(2, 1));
    assert!(nar == after);
    assert!(
        patched > 0 && patched < frames / 10,
        "{patched} of {frames}"
    );

    // A damaged one is none, and made again.
    let file = fs::read_dir(folder.path().join("patches"));
    let file = file
        .expect("a folder")
        .next()
        .expect("a file")
        .expect("read");
    let mut bytes = fs::read(file.path()).expect("a file");
    bytes[100] ^= 1;
    fs::write(file.path(), bytes).expect("written");
    assert_eq!(bench.told(2, 1, old.nar_hash).expect("a delta").patch, None);
    let again = bench.patched(2, 1, old.nar_hash);
    assert!(matches!(again, Patched::Made { .. }), "{again:?}");
}

#[test]
fn a_patch_that_is_not_worth_it_or_not_wanted_is_not_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let bench = with_patches(folder.path(), 1 << 30);
    let [before, after] = [nar_of(&noise(1, 1 << 20)), nar_of(&noise(2, 1 << 20))];
    let old = bench.shown(1, &before);
    bench.shown(2, &after);
    assert_eq!(
        bench.patched(2, 1, old.nar_hash),
        Patched::Useless,
        "all new"
    );
    assert_eq!(
        bench.patched(1, 1, old.nar_hash),
        Patched::Useless,
        "the same"
    );
    bench.put("hidden.nar", &nar_of(&noise(3, 1 << 20)));
    assert_eq!(
        bench.patched(3, 1, old.nar_hash),
        Patched::Useless,
        "not shown"
    );

    let none = with_patches(folder.path(), 0);
    let [before, after] = versions(7);
    let old = none.shown(1, &before);
    none.shown(2, &after);
    assert_eq!(
        none.patched(2, 1, old.nar_hash),
        Patched::Useless,
        "no room"
    );
}

#[test]
fn of_patches_those_used_last_stay_and_uploads_go_before_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let bench = with_patches(folder.path(), 200_000);
    let mut nars = Vec::new();
    for number in [1, 3, 5] {
        let [before, after] = versions(number as usize * 100);
        nars.push((number, bench.shown(number, &before)));
        bench.shown(number + 1, &after);
        let patched = bench.patched(number + 1, number, nars[0].1.nar_hash);
        assert!(matches!(patched, Patched::Made { .. }), "{patched:?}");
        // Times of files tell them apart.
        std::thread::sleep(std::time::Duration::from_millis(20));
        if number == 3 {
            let used = bench.told(2, 1, nars[0].1.nar_hash).expect("a delta");
            assert!(used.patch.is_some());
        }
    }
    let has = |new: u8| {
        let delta = bench.told(new, 1, nars[0].1.nar_hash);
        delta.expect("a delta").patch.is_some()
    };
    assert!(has(2) && !has(4) && has(6), "room for two of 77 KB");
    let bytes = bench.depot.patches_counted().2;
    assert!((140_000..200_000).contains(&bytes), "{bytes}");
    let pair = pair(2, 1, nars[0].1.nar_hash);
    let told = bench
        .depot
        .delta(&cache(), &pair, &swaps(2, 1), &mut Budget::PLAN.clone());
    let told = told.expect("compared").1;
    assert_eq!(bench.depot.shared().patches.clear(), bytes);
    assert!(!bench.depot.rests(&told), "told with a patch that went");
    assert!(!has(2));
}
