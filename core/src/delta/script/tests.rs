//! Scripts make what they were made of, are short where they can be, and never more than is said.

use proptest::prelude::*;

use super::*;

/// Bytes without any order, always the same.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Some code: instructions, each with an address of 4 bytes that is so much further on.
fn code(seed: u64, count: usize, further: u32) -> Vec<u8> {
    let noise = noise(seed, count * 16);
    let instructions = noise.chunks(16).flat_map(|of| {
        let address = u32::from(of[0]) * 65_536 + u32::from(of[1]) + further;
        [&of[2..16], &address.to_le_bytes()].concat()
    });
    instructions.collect()
}

fn made(old: &[u8], new: &[u8]) -> Vec<u8> {
    let script = Old::new(old.to_vec()).script(new);
    assert!(script.len() as u64 <= new.len() as u64 + MAX_MORE_BYTES);
    let again = apply(&script, old, new.len());
    assert!(again.expect("a script") == new);
    script
}

#[test]
fn the_same_takes_a_few_bytes_and_something_else_all_of_its_own() {
    let old = noise(1, 100_000);
    assert!(made(&old, &old).len() < 12);
    assert!(made(&old, &old[30_001..70_002]).len() < 16);
    assert!(made(&[], &old).len() < 100_000 + 12);
    assert!(made(&noise(2, 100_000), &old).len() < 100_000 + 12);
    let twice = [&old[..], &old[..]].concat();
    assert!(made(&old, &twice).len() < 20);
}

#[test]
fn code_whose_addresses_moved_takes_what_moved() {
    let old = code(1, 10_000, 0);
    let inserted = noise(7, 777);
    let new = code(1, 10_000, inserted.len() as u32);
    let half = new.len() / 2;
    let new = [&new[..half], &inserted, &new[half..]].concat();
    // Two bytes of an address change, or a third where there is a carry: each with its gap.
    let script = made(&old, &new);
    assert!(script.len() < 777 + 10_000 * 5, "{}", script.len());
    let changes = &script[script.len() - 777 - 10_000..script.len() - 777];
    let usual = changes.iter().filter(|it| [9, 3, 4].contains(*it)).count();
    assert!(usual > 9_500, "they are much the same: {usual}");
}

#[test]
fn a_stretch_that_was_replaced_takes_itself() {
    let old = noise(1, 100_000);
    for (at, len) in [
        (0, 30_000),
        (20_000, 60_000),
        (99_000, 1_000),
        (500, 99_000),
    ] {
        let mut new = old.clone();
        new[at..at + len].copy_from_slice(&noise(2, len));
        let script = made(&old, &new);
        assert!(script.len() < len + 40, "{len} at {at}: {}", script.len());
    }
}

#[test]
fn what_was_moved_about_is_found() {
    let parts: Vec<Vec<u8>> = (0..40).map(|seed| noise(seed, 1_000)).collect();
    let old = parts.concat();
    let new: Vec<u8> = parts.iter().rev().flatten().copied().collect();
    assert!(made(&old, &new).len() < 40 * 8);
}

#[test]
fn of_much_that_is_old_only_every_so_many_places_are_known() {
    let old = noise(3, 17 << 20);
    let mut new = old[5 << 20..6 << 20].to_vec();
    new.extend(&old[(16 << 20) + 1..(17 << 20) - 3]);
    assert!(made(&old, &new).len() < 30);
}

#[test]
fn a_script_of_other_bytes_or_another_length_is_an_error() {
    let (old, new) = (noise(1, 5_000), code(1, 200, 3));
    let script = made(&old, &new);
    assert!(apply(&script, &old, new.len() - 1).is_err());
    assert!(apply(&script, &old, new.len() + 1).is_err());
    let script = made(&old, &old);
    assert!(apply(&script, &old[..4_000], 5_000).is_err());
    for end in 0..script.len() {
        assert!(apply(&script[..end], &old, 5_000).is_err());
    }
}

proptest! {
    #[test]
    fn whatever_is_made_comes_out(
        old in prop::collection::vec(0..3_u8, 0..400),
        cuts in prop::collection::vec((0..400_usize, 0..60_usize, any::<u8>()), 0..12),
    ) {
        let mut new = Vec::new();
        for (at, len, byte) in cuts {
            let at = at.min(old.len());
            new.extend_from_slice(&old[at..old.len().min(at + len)]);
            new.push(byte);
        }
        made(&old, &new);
    }

    #[test]
    fn anything_is_a_script_or_an_error(
        script in prop::collection::vec(any::<u8>(), 0..60),
        len in 0..200_usize,
    ) {
        let old = [7; 100];
        if let Ok(bytes) = apply(&script, &old, len) {
            prop_assert_eq!(bytes.len(), len);
        }
    }

    #[test]
    fn small_numbers_are_mostly_scripts(
        steps in prop::collection::vec(0..20_u8, 0..12),
        gaps in prop::collection::vec(0..20_u8, 0..12),
        rest in prop::collection::vec(any::<u8>(), 0..60),
        len in 0..100_usize,
    ) {
        let head = [steps.len() as u8, gaps.len() as u8, gaps.len() as u8];
        let script = [&head[..], &steps, &gaps, &rest].concat();
        if let Ok(bytes) = apply(&script, &[7; 30], len) {
            prop_assert_eq!(bytes.len(), len);
        }
    }
}
