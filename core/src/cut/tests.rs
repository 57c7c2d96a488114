use super::model::{self, Kind};
use super::*;
use crate::recipe::FrameId;
use crate::token::tests::tokenish;
use proptest::prelude::*;

/// Small enough that a few KiB see every rule at work.
const SMALL: Params = Params {
    literal_max_bytes: 120,
    span_min_bytes: 48,
    file_min_bytes: 300,
    span: Sizes {
        min: 96,
        avg: 256,
        max: 900,
    },
    dense: Sizes {
        min: 64,
        avg: 128,
        max: 500,
    },
};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    kind: Kind,
    raw: Vec<u8>,
    tokens: Vec<Token>,
}

impl Owned {
    fn of(piece: Piece<'_>) -> Owned {
        let (kind, tokens) = match piece {
            Piece::Span(_) => (Kind::Span, Vec::new()),
            Piece::Literal(_) => (Kind::Literal, Vec::new()),
            Piece::Dense { tokens, .. } => (Kind::Dense, tokens.to_vec()),
        };
        Owned {
            kind,
            raw: piece.raw().to_vec(),
            tokens,
        }
    }
}

/// Cuts as a caller does: announces the files of some bytes, then pushes these.
fn cut<'a>(
    parts: impl IntoIterator<Item = &'a [u8]>,
    files: &[(u64, u64)],
    params: Params,
) -> Vec<Owned> {
    let mut pieces = Vec::new();
    let mut cutter = Cutter::new(params);
    let mut files = files.iter().peekable();
    let mut end = 0;
    for part in parts {
        end += part.len() as u64;
        while let Some((offset, size)) = files.next_if(|(offset, _)| *offset < end) {
            cutter.file(*offset, *size);
        }
        cutter.push(part, &mut |piece| pieces.push(Owned::of(piece)));
    }
    cutter.finish(&mut |piece| pieces.push(Owned::of(piece)));
    pieces
}

fn whole(nar: &[u8], files: &[(u64, u64)], params: Params) -> Vec<Owned> {
    cut([nar], files, params)
}

fn shape(pieces: &[Owned]) -> Vec<(Kind, usize)> {
    pieces
        .iter()
        .map(|piece| (piece.kind, piece.raw.len()))
        .collect()
}

/// Bytes without tokens and without a pattern.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    // No dash: no hash part.
    (0..len)
        .map(|_| next())
        .map(|byte| if byte == b'-' { b'+' } else { byte })
        .collect()
}

fn token(seed: u8) -> Vec<u8> {
    let alphabet = b"0123456789abcdfghijklmnpqrsvwxyz";
    (0..32)
        .map(|i| alphabet[(usize::from(seed) * 7 + i * 5) % 32])
        .collect()
}

fn path(seed: u8) -> Vec<u8> {
    [b"/nix/store/", &token(seed)[..], b"-x"].concat()
}

#[test]
fn a_lone_token_is_a_literal_between_two_spans() {
    let nar = [noise(5000, 1), path(1), noise(5000, 2)].concat();
    let pieces = whole(&nar, &[], Params::V1);
    let expected = [(Kind::Span, 5011), (Kind::Literal, 33), (Kind::Span, 5001)];
    assert_eq!(shape(&pieces), expected);
    assert_eq!(pieces[1].raw, [&token(1)[..], b"-"].concat());
}

#[test]
fn tokens_close_together_are_one_piece_with_what_is_between_them() {
    let short = [noise(5000, 1), path(1), path(2), noise(5000, 2)].concat();
    let expected = [(Kind::Span, 5011), (Kind::Literal, 78), (Kind::Span, 5001)];
    assert_eq!(shape(&whole(&short, &[], Params::V1)), expected);

    let farm: Vec<u8> = (0..100).flat_map(path).collect();
    let pieces = whole(&farm, &[], Params::V1);
    assert_eq!(
        shape(&pieces),
        [(Kind::Dense, 4500)],
        "both ends are too short for spans"
    );
    assert_eq!(pieces[0].tokens, token::scan(&farm));
}

#[test]
fn a_small_nar_without_tokens_is_a_literal_and_a_larger_one_a_span() {
    let most = Params::V1.literal_max_bytes;
    assert_eq!(
        shape(&whole(&noise(most, 1), &[], Params::V1)),
        [(Kind::Literal, most)]
    );
    assert_eq!(
        shape(&whole(&noise(most + 1, 1), &[], Params::V1)),
        [(Kind::Span, most + 1)]
    );
    assert_eq!(shape(&whole(b"", &[], Params::V1)), []);
}

#[test]
fn large_files_are_cut_at_both_ends_and_small_ones_are_not() {
    let nar = noise(160_000, 1);
    let files = [(1_500, 2_000), (5_000, 70_000), (75_100, 70_000)];
    let pieces = whole(&nar, &files, Params::V1);
    let lengths = [5_000, 70_000, 70_100, 14_900];
    assert_eq!(
        shape(&pieces),
        lengths.map(|len| (Kind::Span, len)),
        "100 bytes are no span"
    );
}

#[test]
fn a_token_beats_a_file_cut() {
    let nar = [noise(20_000, 1), path(1), noise(80_000, 2)].concat();
    let shapes = [
        whole(&nar, &[], Params::V1),
        whole(&nar, &[(20_500, 79_000)], Params::V1),
    ];
    assert_eq!(
        shapes[0], shapes[1],
        "a cut 456 bytes behind a token would leave too short a span"
    );
}

#[test]
fn rebuilds_share_every_span_and_skeleton() {
    let farm = |seed: u8| {
        let link = |i: u32| [path(seed + (i % 90) as u8), i.to_string().into_bytes()].concat();
        (0..40_000).flat_map(link).collect()
    };
    let parts: Vec<Box<dyn Fn(u8) -> Vec<u8>>> = vec![
        Box::new(|_| noise(700_000, 1)),
        Box::new(path),
        Box::new(|_| noise(70_000, 2)),
        Box::new(farm),
        Box::new(|_| noise(3_000_000, 3)),
    ];
    let build = |seed| {
        whole(
            &parts.iter().flat_map(|p| p(seed)).collect::<Vec<_>>(),
            &[],
            Params::V1,
        )
    };
    let (one, other) = (build(1), build(120));
    assert_eq!(shape(&one), shape(&other));
    assert!(one.iter().filter(|piece| piece.kind == Kind::Dense).count() >= 2);
    for (one, other) in one.iter().zip(&other) {
        match one.kind {
            Kind::Span => assert_eq!(one.raw, other.raw),
            Kind::Literal => assert_ne!(one.raw, other.raw),
            Kind::Dense => {
                assert_ne!(one.raw, other.raw);
                let skeleton = |piece: &Owned| FrameId::of_skeleton(&piece.raw, &piece.tokens);
                assert_eq!(skeleton(one), skeleton(other));
            }
        }
    }
}

#[test]
fn an_insertion_changes_the_pieces_around_it_only() {
    let one = noise(20_000_000, 1);
    let mut other = one.clone();
    other.splice(9_000_000..9_000_000, *b"a few bytes more");
    let names = |nar: &[u8]| -> std::collections::BTreeSet<FrameId> {
        whole(nar, &[], Params::V1)
            .iter()
            .map(|piece| FrameId::of(&piece.raw))
            .collect()
    };
    let (one, other) = (names(&one), names(&other));
    assert!(other.difference(&one).count() <= 2);
}

/// The cuts are part of the format: should this fail, the change needs a new format version.
#[test]
fn version_1_never_cuts_otherwise() {
    let nar: Vec<u8> = (0..8)
        .flat_map(|i| [noise(600_000 + 1000 * i, i as u64), path(i as u8)].concat())
        .chain((0..40_000u32).flat_map(|i| path((i % 200) as u8)))
        .collect();
    let files = [(100_000, 300_000), (700_000, 65_536), (1_300_000, 65_535)];
    let mut hasher = blake3::Hasher::new();
    for (kind, len) in shape(&whole(&nar, &files, Params::V1)) {
        hasher.update(format!("{kind:?} {len}\n").as_bytes());
    }
    assert_eq!(
        hasher.finalize().to_hex().as_str(),
        "3f14f0c0b5d2627a11839a9f9d5552f67989f1f5738c0df2d9e95a507da1fbf9"
    );
    assert_eq!(
        gear::GEAR[0],
        0xe220_a839_7b1d_cdaf,
        "splitmix64's first number from seed 0"
    );
}

#[test]
fn memory_stays_bounded_over_a_long_nar() {
    let mut cutter = Cutter::new(Params::V1);
    let bytes = [
        noise(400_000, 1),
        (0..40_000).flat_map(|i| path((i % 99) as u8)).collect(),
    ]
    .concat();
    let (mut pushed, mut seen) = (0u64, 0u64);
    for _ in 0..10 {
        cutter.file(pushed + 1000, 350_000);
        cutter.push(&bytes, &mut |piece| seen += piece.raw().len() as u64);
        pushed += bytes.len() as u64;
        assert!(cutter.window.bytes().len() <= 3 * Params::V1.largest_bytes());
        assert!(cutter.files.len() < 10);
    }
    cutter.finish(&mut |piece| seen += piece.raw().len() as u64);
    assert_eq!(seen, pushed);
}

fn files(nar_len: usize) -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((0..1000u64, 0..1500u64), 0..20).prop_map(move |gaps| {
        let mut at = 0;
        let all = gaps.into_iter().map(|(gap, size)| {
            let file = (at + gap, size);
            at += gap + size;
            file
        });
        all.filter(|(offset, size)| offset + size <= nar_len as u64)
            .collect()
    })
}

/// Stretches and spans of all lengths.
fn nar() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        2 => tokenish(12),
        2 => (0..200usize, any::<u64>()).prop_map(|(len, seed)| noise(len, seed)),
        1 => (0..3000usize, any::<u64>()).prop_map(|(len, seed)| noise(len, seed)),
        1 => (0..1500usize, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
        2 => (0..30u8).prop_map(|count| (0..count).flat_map(path).collect()),
        1 => (0..60u8).prop_map(|n| (0..n).flat_map(|i| [&token(i)[..], b"-"].concat()).collect()),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

fn nar_with_files() -> impl Strategy<Value = (Vec<u8>, Vec<(u64, u64)>)> {
    nar().prop_flat_map(|nar| {
        let files = files(nar.len());
        (Just(nar), files)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn streaming_cuts_as_the_model_does((nar, files) in nar_with_files()) {
        let pieces = whole(&nar, &files, SMALL);
        let mut at = 0;
        let ends: Vec<_> = shape(&pieces).into_iter().map(|(kind, len)| {
            at += len;
            (kind, at)
        }).collect();
        prop_assert_eq!(ends, model::cut(&nar, &files, SMALL));
    }

    #[test]
    fn pieces_put_together_are_the_nar_and_keep_their_bounds((nar, files) in nar_with_files()) {
        let pieces = whole(&nar, &files, SMALL);
        prop_assert_eq!(pieces.iter().flat_map(|p| p.raw.clone()).collect::<Vec<_>>(), nar.clone());
        let tokens = token::scan(&nar);
        let mut at = 0;
        for piece in &pieces {
            let len = piece.raw.len();
            let cut = at + len;
            prop_assert!(!tokens.iter().any(|t| t.start < cut && cut < t.end()), "cut in a token");
            match piece.kind {
                Kind::Span => {
                    prop_assert!(len <= SMALL.span.max);
                    prop_assert!(len >= SMALL.span_min_bytes || pieces.len() == 1);
                    prop_assert!(!tokens.iter().any(|t| t.start < cut && at < t.end()));
                }
                Kind::Literal => prop_assert!((1..=SMALL.literal_max_bytes).contains(&len)),
                Kind::Dense => {
                    prop_assert!((SMALL.span_min_bytes..=SMALL.dense.max).contains(&len));
                    prop_assert_eq!(&piece.tokens, &token::scan(&piece.raw));
                }
            }
            at = cut;
        }
    }

    #[test]
    fn it_does_not_matter_how_the_bytes_come(
        (nar, files) in nar_with_files(),
        step in 1usize..700,
    ) {
        prop_assert_eq!(cut(nar.chunks(step), &files, SMALL), whole(&nar, &files, SMALL));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Long enough that the window moves many times.
    #[test]
    fn long_nars_cut_the_same_in_any_step(
        parts in prop::collection::vec(nar_with_files(), 100),
        steps in prop::collection::vec(1usize..200_000, 1..20),
    ) {
        let mut nar = Vec::new();
        let mut files = Vec::new();
        for (part, of_part) in parts {
            files.extend(of_part.iter().map(|(offset, size)| (nar.len() as u64 + offset, *size)));
            nar.extend(part);
        }
        let mut rest = &nar[..];
        let mut steps = steps.iter().cycle();
        let split: Vec<&[u8]> = std::iter::from_fn(|| {
            let step = (*steps.next()?).min(rest.len());
            let (part, left) = rest.split_at(step);
            rest = left;
            (step > 0).then_some(part)
        }).collect();
        let pieces = cut(split, &files, SMALL);
        let mut at = 0;
        let ends: Vec<_> = shape(&pieces).into_iter().map(|(kind, len)| {
            at += len;
            (kind, at)
        }).collect();
        prop_assert_eq!(ends, model::cut(&nar, &files, SMALL));
    }
}
