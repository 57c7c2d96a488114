//! A NAR told by another one puts together to itself, from what the depot serves; and nothing is
//! told of NARs that are not shown.

use super::*;
use snowcache_core::delta::{Budget, Delta, Pair, Part};
use snowcache_core::swap::{Swapper, Swaps};
use snowcache_nix::NarHash;

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
        delta.expect("compared")
    }

    /// The NAR of `new` from its delta; gives how many stored bytes were fetched.
    fn made(&self, delta: &Delta, old: &[u8], new: &Nar, swaps: Swaps) -> (Vec<u8>, u64) {
        let mut all = swaps;
        for (from, to) in &delta.swaps {
            all.add(from, to);
        }
        let reader = self.depot.nar(&cache(), &new.nar_hash).expect("look up");
        let reader = reader.expect("visible");
        let (mut nar, mut fetched) = (Vec::new(), 0);
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
    assert!(delta.expect("compared").is_none(), "in another cache");
}
