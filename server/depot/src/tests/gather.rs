//! What pins name now lies together, however long it grew; what they share stays where it is.

use std::sync::atomic::Ordering;

use super::collect::{DAY, Yard, strict};
use super::*;
use crate::layout::{Layout, Part};

/// A run shorter than this, on average, counts as scattered (`gc/gather.rs`).
const RUN_BYTES: u64 = 256 << 10;

/// Blocks of a file, a reference behind each: 2 MB.
const BLOCKS: u64 = 100;

impl Yard {
    /// Publishes path `number` with this file, and pins it.
    fn release(&self, pin: &str, number: u8, content: &[u8]) -> (Nar, Vec<u8>) {
        let bytes = nar_of(content);
        let nar = self.bench.put(&format!("{number}.nar"), &bytes);
        let published = self.bench.publish(path(number, nar, &[]));
        assert_eq!(published.expect("publish"), Published::New);
        self.pin(pin, &[number], "2");
        (nar, bytes)
    }

    /// Bytes that are read at a time, on average.
    fn run_bytes(&self, nar: &Nar) -> u64 {
        let index = &*self.bench.index;
        let layout = Layout::read(index, &nar.nar_hash).expect("read");
        let layout = layout.expect("is there");
        let (mut bytes, mut runs, mut last) = (0, 0, None);
        for number in 0..layout.blocks.len() {
            let parts = layout.block(index, &nar.nar_hash, number).expect("read");
            for part in parts.expect("of this layout") {
                if let Part::Extent(extent) = part {
                    runs += u64::from(last != Some((extent.segment, extent.offset)));
                    bytes += u64::from(extent.stored_len);
                    let end = extent.offset + u64::from(extent.stored_len);
                    last = Some((extent.segment, end));
                }
            }
        }
        bytes / runs
    }
}

/// Numbers of the blocks of a file.
fn fresh() -> Vec<u64> {
    (0..BLOCKS).collect()
}

/// The next file of a line: its forerunner with four blocks changed, here and there.
fn change(blocks: &mut [u64], number: u8) {
    for part in 0..4 {
        let number = u64::from(number) * 4 + part;
        blocks[(number * 37 % BLOCKS) as usize] = BLOCKS + number;
    }
}

fn content(blocks: &[u64]) -> Vec<u8> {
    let token = format!("/nix/store/{}-dependency", "s".repeat(32));
    let block = |number: &u64| [noise(1 + number, 20_000).as_slice(), token.as_bytes()].concat();
    blocks.iter().flat_map(block).collect()
}

/// The last of a line of 24 releases, its forerunner, and the yard where collections were held
/// after each of them, or none.
fn line(collects: bool) -> (Yard, [(Nar, Vec<u8>); 2]) {
    let yard = Yard::new();
    let mut blocks = fresh();
    let mut last = Vec::new();
    for number in 0..24 {
        change(&mut blocks, number);
        last.push(yard.release("web", number, &content(&blocks)));
        yard.wait(2 * DAY);
        if collects {
            let (collected, _) = yard.collect(&strict());
            let most = collected.live_bytes * 11 / 10 + 100_000;
            assert!(collected.stored_bytes <= most, "{collected:?}");
        }
    }
    let last = last.split_off(22).try_into().expect("two");
    (yard, last)
}

#[test]
fn the_last_of_many_generations_lies_together() {
    let (yard, [_, (last, _)]) = line(false);
    let scattered = yard.run_bytes(&last);
    assert!(
        scattered < RUN_BYTES,
        "{scattered}: then there is nothing to do"
    );

    let (yard, [(before, before_bytes), (last, bytes)]) = line(true);
    let gathered = yard.run_bytes(&last);
    assert!(gathered >= RUN_BYTES, "{gathered}, and {scattered} without");
    let (again, _) = yard.collect(&strict());
    assert_eq!(again.gathered_bytes, 0, "what lies together is left alone");
    assert_eq!(yard.bench.raw(&last).as_ref(), Some(&bytes));
    assert_eq!(yard.bench.raw(&before).as_ref(), Some(&before_bytes));
    let yard = Yard {
        bench: yard.bench.reopened(),
        ..yard
    };
    assert_eq!(
        yard.bench.raw(&last),
        Some(bytes),
        "from the segments alone"
    );
    assert_eq!(yard.bench.raw(&before), Some(before_bytes));
    assert_eq!(yard.run_bytes(&last), gathered, "and as it lay");
}

#[test]
fn pins_that_share_frames_do_not_pull_them_to_and_fro() {
    let yard = Yard::new();
    // The second one has the first one's halves the other way round, and both have changed.
    let mut blocks = fresh();
    for number in 0..12 {
        change(&mut blocks, number);
        yard.release("one", number, &content(&blocks));
        blocks.rotate_left(50);
        yard.release("two", number + 12, &content(&blocks));
        blocks.rotate_left(50);
    }
    yard.wait(2 * DAY);
    let (first, _) = yard.collect(&strict());
    assert!(first.gathered_bytes > 0, "{first:?}");
    let (second, _) = yard.collect(&strict());
    assert_eq!(second.gathered_bytes, 0, "{second:?}");
}

#[test]
fn a_dry_run_says_what_would_be_gathered_and_leaves_it() {
    let (yard, [_, (last, _)]) = line(false);
    let before = (yard.bench.total_bytes(), yard.run_bytes(&last));
    let collected = yard.bench.depot.collect(&strict(), true, &mut |_| {});
    assert!(collected.expect("collect").gathered_bytes > 0);
    assert_eq!((yard.bench.total_bytes(), yard.run_bytes(&last)), before);
}

#[test]
fn without_room_nothing_is_gathered() {
    let (yard, [_, (last, bytes)]) = line(false);
    let scattered = yard.run_bytes(&last);
    // Uploads may fill nineteen twentieths: a hundred thousand bytes more than there are.
    let limit = (yard.bench.total_bytes() + 100_000) * 20 / 19;
    let (segments, index) = (yard.bench.segments.clone(), yard.bench.index.clone());
    let time = yard.time.clone();
    drop(yard.bench);
    let bench = Bench::over_both(segments, index, |options| {
        options.clock = Arc::new(move || time.load(Ordering::Relaxed));
        options.max_size_bytes = Some(limit);
    });
    let yard = Yard { bench, ..yard };
    let keep = Policy {
        grace_s: 365 * DAY,
        ..strict()
    };
    let (collected, _) = yard.collect(&keep);
    assert_eq!(
        (collected.gathered_bytes, yard.run_bytes(&last)),
        (0, scattered)
    );
    assert_eq!(yard.bench.raw(&last), Some(bytes));
}
