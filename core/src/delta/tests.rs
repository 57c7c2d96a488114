use super::*;
use crate::cut::{Cutter, Params, Piece};
use crate::recipe::{FrameId, Op, Recipe};
use crate::swap::Swapper;
use proptest::prelude::*;
use std::ops::Range;

/// As the depot makes it.
fn recipe(nar: &[u8]) -> Recipe {
    let mut ops = Vec::new();
    let mut on = |piece: Piece<'_>| {
        let raw_len = piece.raw().len() as u32;
        ops.push(match piece {
            Piece::Literal(raw) => Op::Literal(Bytes::copy_from_slice(raw)),
            Piece::Span(raw) => Op::Frame {
                id: FrameId::of(raw),
                raw_len,
            },
            Piece::Dense { raw, tokens } => Op::Dense {
                id: FrameId::of(raw),
                skeleton: FrameId::of_skeleton(raw, tokens),
                raw_len,
            },
        });
    };
    let mut cutter = Cutter::new(Params::V1);
    cutter.push(nar, &mut on);
    cutter.finish(&mut on);
    Recipe::new(ops).expect("good ops")
}

fn hash(number: u8) -> String {
    StoreHash::from_bytes([number; 20]).to_string()
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as u8
    };
    (0..len).map(next).collect()
}

/// Puts `new` together, with what is fetched taken from it; gives how much that was.
fn made(old: &[u8], new: &[u8], pairs: &[(u8, u8)]) -> (Vec<u8>, u64, Vec<Step>) {
    let path = |number| StoreHash::from_bytes([number; 20]);
    let pairs = pairs.iter().map(|(old, new)| (path(*old), path(*new)));
    let swaps = Swaps::of_paths(pairs);
    let mut read = |side, range: Range<u64>| {
        let nar = if side == Side::Old { old } else { new };
        Some(nar[range.start as usize..range.end as usize].to_vec())
    };
    let recipes = (recipe(old), recipe(new));
    let mut budget = Budget::PLAN;
    let compared = compare(
        &recipes.0,
        &recipes.1,
        swaps.clone(),
        &mut budget,
        &mut read,
    );
    let (learned, steps) = compared.expect("within the budget");
    let mut all = swaps;
    for (from, to) in &learned {
        all.add(from, to);
    }
    let (mut nar, mut fetched) = (Vec::new(), 0);
    for step in &steps {
        match step {
            Step::Copy { offset, len } => {
                let mut swapper = Swapper::new(all.clone());
                let range = *offset as usize..(offset + len) as usize;
                swapper.push(&old[range], &mut nar);
                swapper.finish(&mut nar);
            }
            Step::Literal(bytes) => nar.extend(bytes),
            Step::Fetch { len, .. } => {
                let at = nar.len();
                nar.extend(&new[at..at + *len as usize]);
                fetched += len;
            }
        }
    }
    (nar, fetched, steps)
}

/// A program that names itself and what it needs, and has a table of many references.
fn program(own: u8, needs: u8, build_id: u8, body: u64) -> Vec<u8> {
    let mut nar = noise(1, 200_000);
    nar.extend(format!("/nix/store/{}-program/bin", hash(own)).bytes());
    nar.extend(noise(body, 300_000));
    nar.extend(format!("/nix/store/{}-library/lib", hash(needs)).bytes());
    nar.extend(crate::token::BUILD_ID_HEADER);
    nar.extend([build_id; 20]);
    nar.extend(noise(3, 100_000));
    for _ in 0..500 {
        nar.extend(format!("link /nix/store/{}-library/lib\n", hash(needs)).bytes());
    }
    nar.extend(noise(4, 100_000));
    nar
}

#[test]
fn a_rebuild_is_one_copy_with_tokens_swapped() {
    let (old, new) = (program(1, 2, 7, 2), program(11, 12, 8, 2));
    let (nar, fetched, steps) = made(&old, &new, &[(1, 11), (2, 12)]);
    assert!(nar == new);
    assert_eq!((fetched, steps.len()), (0, 1), "{steps:?}");
    // Nobody said what stands for what: it is learned where the pieces follow each other.
    let (nar, fetched, steps) = made(&old, &new, &[]);
    assert!(nar == new);
    assert_eq!((fetched, steps.len()), (0, 1), "{steps:?}");
}

#[test]
fn a_change_costs_the_frames_that_it_is_in() {
    let (old, new) = (program(1, 2, 7, 2), program(11, 2, 7, 5));
    let (nar, fetched, _) = made(&old, &new, &[(1, 11)]);
    assert!(nar == new);
    assert!((300_000..300_100).contains(&fetched), "{fetched}");
}

#[test]
fn what_is_beyond_the_budget_is_not_compared_or_not_looked_into() {
    let (old, new) = (program(1, 2, 7, 2), program(11, 12, 8, 2));
    let recipes = (recipe(&old), recipe(&new));
    let told = |mut budget: Budget| {
        let mut read = |_, _| panic!("there are dense pieces, and no budget for them");
        compare(
            &recipes.0,
            &recipes.1,
            Swaps::default(),
            &mut budget,
            &mut read,
        )
    };
    let ops = recipes.0.ops().len() + recipes.1.ops().len();
    assert_eq!(
        told(Budget {
            ops: ops - 1,
            dense: 9
        }),
        None
    );
    let (_, steps) = told(Budget { ops, dense: 0 }).expect("compared");
    let fetched = |step: &Step| matches!(step, Step::Fetch { .. });
    assert!(
        steps.iter().any(fetched),
        "the dense piece is fetched: {steps:?}"
    );
}

#[test]
fn a_token_that_stays_here_and_goes_there_is_told() {
    let text = |first: u8, second: u8| {
        let mut nar = noise(1, 5000);
        nar.extend(format!("/nix/store/{}-a", hash(first)).bytes());
        nar.extend(noise(2, 5000));
        nar.extend(format!("/nix/store/{}-a", hash(second)).bytes());
        nar.extend(noise(3, 5000));
        nar
    };
    for pairs in [&[][..], &[(1, 9)]] {
        for (first, second) in [(1, 9), (9, 1), (9, 8)] {
            let (nar, fetched, _) = made(&text(1, 1), &text(first, second), pairs);
            assert!(nar == text(first, second));
            assert_eq!(fetched, 0);
        }
    }
}

#[test]
fn a_question_and_its_answer_read_back() {
    let pair = |number| Pair {
        wanted: StoreHash::from_bytes([number; 20]),
        old: StoreHash::from_bytes([number + 1; 20]),
        old_nar: NarHash::from_bytes([number + 2; 32]),
    };
    let pairs: Vec<Pair> = (0..9).map(pair).collect();
    let asking = question(&pairs);
    assert_eq!(asked(&asking), Ok(pairs));
    for len in 0..asking.len() {
        assert!(asked(&asking[..len]).is_err(), "cut at {len}");
    }
    let delta = Delta {
        swaps: vec![(vec![1; 32], vec![2; 32]), (vec![3; 20], vec![4; 20])],
        patch: Some((9, 1 << 33)),
        parts: vec![
            Part::Copy { offset: 5, len: 6 },
            Part::Literal(Bytes::from_static(b"literal")),
            Part::Fetch {
                len: 1000,
                stored_at: 1 << 40,
                stored_len: 300,
            },
            Part::Patch { len: 200, skip: 7 },
        ],
    };
    let mut answer = MAGIC.to_vec();
    put(Some(&delta.encode()), &mut answer);
    put(None, &mut answer);
    let answer = Bytes::from(answer);
    let deltas = answered(&answer, 2).expect("an answer");
    let first = deltas[0].clone().expect("a delta");
    assert_eq!(Delta::decode(&first, 1213), Ok(delta.clone()));
    assert!(Delta::decode(&first, 1212).is_err(), "of another size");
    let without = Delta {
        patch: None,
        ..delta.clone()
    };
    let without = Delta::decode(&without.encode().into(), 1213);
    assert!(without.is_err(), "a piece of no patch");
    assert_eq!(deltas[1], None);
    assert_eq!(delta.ranges(), [(1 << 40, 300)]);
    assert_eq!(answered(&answer, 1), Err(DeltaError::Count));
    assert_eq!(answered(&answer, 3), Err(DeltaError::Count));
    assert!(answered(&answer.slice(..answer.len() - 2), 2).is_err());
}

#[test]
fn a_delta_that_is_too_long_is_none() {
    let literal = vec![0; MAX_DELTA_BYTES];
    let delta = Delta {
        parts: vec![Part::Literal(Bytes::from(literal))],
        ..Delta::default()
    };
    let mut answer = MAGIC.to_vec();
    put(Some(&delta.encode()), &mut answer);
    assert_eq!(answered(&Bytes::from(answer), 1), Ok(vec![None]));
}

proptest! {
    #[test]
    fn whatever_changes_the_result_is_the_new_nar(
        changes in prop::collection::vec((0..5u8, any::<u16>(), 0..4u8), 0..12),
        paired in any::<bool>(),
    ) {
        let part = |number: u8, seed: u16| match number {
            0 => noise(u64::from(seed % 7), 3000),
            1 => format!("/nix/store/{}-x", hash(seed as u8 % 5)).into_bytes(),
            2 => format!("{}-y ", hash(seed as u8 % 5)).repeat(90).into_bytes(),
            3 => [&crate::token::BUILD_ID_HEADER[..], &[seed as u8 % 3; 20]].concat(),
            _ => noise(u64::from(seed % 7), 90_000),
        };
        let (mut old, mut new) = (Vec::new(), Vec::new());
        for (number, seed, change) in changes {
            match change {
                0 => old.extend(part(number, seed)),
                1 => new.extend(part(number, seed)),
                2 => {
                    old.extend(part(number, seed));
                    new.extend(part(number, seed + u16::from(seed < u16::MAX)));
                }
                _ => {
                    old.extend(part(number, seed));
                    new.extend(part(number, seed));
                }
            }
        }
        let pairs: &[(u8, u8)] = if paired { &[(1, 2), (2, 3)] } else { &[] };
        let (nar, ..) = made(&old, &new, pairs);
        prop_assert!(nar == new);
    }

    #[test]
    fn any_bytes_are_a_delta_or_an_error_with_a_reason(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let encoded = Bytes::from(bytes);
        match Delta::decode(&encoded, 40) {
            Ok(delta) => prop_assert_eq!(delta.encode(), &encoded[..]),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
        let answer = Bytes::from([&MAGIC[..], &encoded].concat());
        if let Ok(deltas) = answered(&answer, 1) {
            prop_assert!(deltas[0].as_ref().is_none_or(|it| it.len() < encoded.len()));
        }
    }
}
