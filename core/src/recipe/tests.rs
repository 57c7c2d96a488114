use super::*;
use crate::token;
use proptest::prelude::*;

fn id(seed: u8) -> FrameId {
    FrameId::from_bytes([seed; FrameId::LEN])
}

fn example() -> Recipe {
    Recipe::new(vec![
        Op::Frame {
            id: id(1),
            raw_len: 300,
        },
        Op::Literal(Bytes::from_static(b"0zzf3lklh2b7m1arz9kw3yq1yq0vv0mm")),
        Op::Dense {
            id: id(2),
            skeleton: id(3),
            raw_len: 2,
        },
    ])
    .unwrap()
}

#[test]
fn the_encoding_is_what_the_picture_says() {
    let encoded = example().encode();
    assert_eq!(&encoded[..5], b"snr1\x03", "magic and three ops");
    assert_eq!(
        &encoded[5..9],
        [0xce, 0x02, 0x85, 0x01],
        "one block: 334 bytes raw, 133 encoded"
    );
    assert_eq!(encoded[9], 0b01_10_00, "frame, literal, dense");
    assert_eq!(&encoded[10..14], [0xac, 0x02, 32, 2], "their lengths");
    assert_eq!(
        &encoded[14..110],
        [[1; 32], [2; 32], [3; 32]].concat(),
        "their names"
    );
    assert_eq!(&encoded[110..], b"0zzf3lklh2b7m1arz9kw3yq1yq0vv0mm");
}

#[test]
fn an_empty_recipe_makes_nothing() {
    let recipe = Recipe::new(Vec::new()).unwrap();
    assert_eq!(recipe.encode(), b"snr1\0");
    assert_eq!(Recipe::decode(b"snr1\0").unwrap(), recipe);
    assert!(Blocks::open(b"snr1\0").unwrap().is_empty());
}

#[test]
fn a_place_in_a_long_nar_is_found_by_its_block() {
    let ops = (0..5000)
        .map(|i| Op::Frame {
            id: id(i as u8),
            raw_len: 1000 + i % 7,
        })
        .collect();
    let recipe = Recipe::new(ops).unwrap();
    let encoded = recipe.encode();
    let blocks = Blocks::open(&encoded).unwrap();
    assert_eq!(blocks.len(), 5);
    assert_eq!(blocks.nar_size_bytes(), recipe.nar_size_bytes());
    let mut start = 0;
    for (index, ops) in recipe.ops().chunks(BLOCK_OPS).enumerate() {
        let len: u64 = ops.iter().map(|op| u64::from(op.raw_len())).sum();
        assert_eq!(blocks.find(start), Some((index, start)));
        assert_eq!(blocks.find(start + len - 1), Some((index, start)));
        assert_eq!(blocks.ops(index).unwrap(), ops);
        start += len;
    }
    assert_eq!(blocks.find(start), None);
}

#[test]
fn ops_that_make_nothing_or_too_much_are_refused() {
    let refused = |op| Recipe::new(vec![op]).unwrap_err();
    assert_eq!(refused(Op::Literal(Bytes::new())), RecipeError::EmptyOp);
    assert_eq!(
        refused(Op::Frame {
            id: id(1),
            raw_len: 0
        }),
        RecipeError::EmptyOp
    );
    let long = FRAME_MAX_BYTES as u32 + 1;
    assert!(matches!(
        refused(Op::Frame {
            id: id(1),
            raw_len: long
        }),
        RecipeError::LongOp { .. }
    ));
    let long = Bytes::from(vec![0; LITERAL_MAX_BYTES + 1]);
    assert!(matches!(
        refused(Op::Literal(long)),
        RecipeError::LongOp { .. }
    ));
}

#[test]
fn hostile_recipes_are_refused_with_a_reason() {
    let error = |bytes: &[u8]| Recipe::decode(bytes).unwrap_err();
    assert_eq!(error(b""), RecipeError::Magic);
    assert_eq!(error(b"snr2\0"), RecipeError::Magic);
    assert!(matches!(error(b"snr1"), RecipeError::Truncated { .. }));
    assert_eq!(
        error(b"snr1\0x"),
        RecipeError::Trailing {
            count: 1,
            what: "recipe"
        }
    );
    assert!(
        matches!(error(b"snr1\x80\0"), RecipeError::Varint { at: 4, .. }),
        "not the shortest"
    );
    let endless = b"snr1\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02";
    assert!(
        matches!(error(endless), RecipeError::Varint { at: 4, .. }),
        "beyond 64 bits"
    );
    let many = b"snr1\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    assert_eq!(
        error(many),
        RecipeError::Ops { ops: u64::MAX },
        "nothing is allocated for it"
    );
    assert_eq!(error(b"snr1\x01\x01\x01\x02"), RecipeError::Ops { ops: 1 });
    let huge_block = b"snr1\x01\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x02\x01a";
    assert!(matches!(error(huge_block), RecipeError::Truncated { .. }));
    assert_eq!(
        error(b"snr1\x01\x01\x03\x03\x01a"),
        RecipeError::Kind { block: 0 }
    );
    assert_eq!(
        error(b"snr1\x01\x01\x03\x42\x01a"),
        RecipeError::Kind { block: 0 },
        "spare bits"
    );
    let lies = RecipeError::BlockLength {
        block: 0,
        claimed: 2,
        actual: 1,
    };
    assert_eq!(error(b"snr1\x01\x02\x03\x02\x01a"), lies);
    assert_eq!(error(b"snr1\x01\0\x02\x02\0"), RecipeError::EmptyOp);
    let trailing = RecipeError::Trailing {
        count: 1,
        what: "block",
    };
    assert_eq!(error(b"snr1\x01\x01\x04\x02\x01ab"), trailing);
    assert!(matches!(
        error(b"snr1\x01\x02\x03\x02\x02a"),
        RecipeError::Truncated { .. }
    ));
    let longer_than_a_u32 = b"snr1\x01\x01\x07\x02\x80\x80\x80\x80\x10a";
    assert!(matches!(
        error(longer_than_a_u32),
        RecipeError::LongOp { .. }
    ));
    for error in [error(b""), error(b"snr1"), lies, trailing] {
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn a_skeletons_name_is_that_of_the_blanked_bytes() {
    let mut raw = b"/nix/store/0zzf3lklh2b7m1arz9kw3yq1yq0vv0mm-x".repeat(9);
    let tokens = token::scan(&raw);
    let name = FrameId::of_skeleton(&raw, &tokens);
    token::blank(&mut raw, &tokens);
    assert_eq!(name, FrameId::of(&raw));
    assert_eq!(FrameId::of_skeleton(b"abc", &[]), FrameId::of(b"abc"));
    let abc = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
    assert_eq!(
        FrameId::of(b"abc").to_string(),
        abc,
        "BLAKE3's own test vector"
    );
}

fn op() -> impl Strategy<Value = Op> {
    let id = || any::<[u8; 32]>().prop_map(FrameId::from_bytes);
    let raw_len = || 1..=FRAME_MAX_BYTES as u32;
    prop_oneof![
        (id(), raw_len()).prop_map(|(id, raw_len)| Op::Frame { id, raw_len }),
        (id(), id(), raw_len()).prop_map(|(id, skeleton, raw_len)| Op::Dense {
            id,
            skeleton,
            raw_len
        }),
        prop::collection::vec(any::<u8>(), 1..100).prop_map(|bytes| Op::Literal(bytes.into())),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_decodes(ops in prop::collection::vec(op(), 0..20), copies in 1usize..200) {
        let ops: Vec<Op> = ops.iter().cycle().take(ops.len() * copies).cloned().collect();
        let recipe = Recipe::new(ops).unwrap();
        prop_assert_eq!(Recipe::decode(&recipe.encode()).unwrap(), recipe);
    }

    #[test]
    fn what_decodes_is_the_one_encoding(
        ops in prop::collection::vec(op(), 0..6),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        len in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let mut encoded = Recipe::new(ops).unwrap().encode();
        for (at, byte) in changes {
            let at = at.index(encoded.len().min(60));
            encoded[at] = byte;
        }
        if is_cut {
            encoded.truncate(len.index(encoded.len()));
        }
        if let Ok(recipe) = Recipe::decode(&encoded) {
            prop_assert_eq!(recipe.encode(), encoded);
        }
    }
}
