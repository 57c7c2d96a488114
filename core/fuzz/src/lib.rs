//! The law of each fuzz target: what must hold for any bytes. The targets run it, and so do the
//! crate's ordinary tests, over everything the fuzzers start from and ever broke.

use snowcache_core::cut::{Cutter, Params, Sizes};
use snowcache_core::recipe::{Blocks, Recipe};

/// A recipe or an error with a reason; and what decodes is the one encoding of what it says.
pub fn recipe(bytes: &[u8]) {
    match Recipe::decode(bytes) {
        Ok(recipe) => {
            assert_eq!(recipe.encode(), bytes);
            assert!(recipe.ops().len() <= bytes.len() / 2);
            let blocks = Blocks::open(bytes).expect("it decoded");
            assert_eq!(blocks.nar_size_bytes(), recipe.nar_size_bytes());
            assert_eq!(blocks.find(recipe.nar_size_bytes()), None);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// So small that a few hundred bytes see every rule at work.
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

/// However the bytes come, the pieces are the same, and together they are the bytes. The first two
/// bytes say how the rest is split and where a file lies.
pub fn cut(bytes: &[u8]) {
    let [step, file, nar @ ..] = bytes else {
        return;
    };
    let file = (u64::from(*file) * 3, 400);
    let whole = pieces(nar, nar.len().max(1), file);
    assert_eq!(pieces(nar, usize::from(*step) + 1, file), whole);
    assert_eq!(whole.concat(), nar);
    assert!(whole.iter().all(|piece| (1..=900).contains(&piece.len())));
}

fn pieces(nar: &[u8], step: usize, file: (u64, u64)) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut cutter = Cutter::new(SMALL);
    cutter.file(file.0, file.1);
    for bytes in nar.chunks(step) {
        cutter.push(bytes, &mut |piece| pieces.push(piece.raw().to_vec()));
    }
    cutter.finish(&mut |piece| pieces.push(piece.raw().to_vec()));
    pieces
}
