//! Any bytes, cut with small sizes: however they come, the pieces are the same, and together they are
//! the bytes. The first two say how the rest is split and where a file lies.
#![no_main]

use libfuzzer_sys::fuzz_target;
use snowcache_core::cut::{Cutter, Params, Sizes};

const SMALL: Params = Params {
    literal_max_bytes: 120,
    span_min_bytes: 48,
    file_min_bytes: 300,
    span: Sizes { min: 96, avg: 256, max: 900 },
    dense: Sizes { min: 64, avg: 128, max: 500 },
};

fn cut(nar: &[u8], step: usize, file: (u64, u64)) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut cutter = Cutter::new(SMALL);
    cutter.file(file.0, file.1);
    for bytes in nar.chunks(step) {
        cutter.push(bytes, &mut |piece| pieces.push(piece.raw().to_vec()));
    }
    cutter.finish(&mut |piece| pieces.push(piece.raw().to_vec()));
    pieces
}

fuzz_target!(|bytes: &[u8]| {
    let [step, file, nar @ ..] = bytes else { return };
    let file = (u64::from(*file) * 3, 400);
    let whole = cut(nar, nar.len().max(1), file);
    assert_eq!(cut(nar, usize::from(*step) + 1, file), whole);
    assert_eq!(whole.concat(), nar);
    assert!(whole.iter().all(|piece| (1..=900).contains(&piece.len())));
});
