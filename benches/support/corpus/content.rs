//! Bytes like the insides of packages: machine code, text and what does not compress, with store
//! paths in between, about 3:1 under zstd -3.

use std::collections::BTreeMap;

use super::super::harness::random::Random;

/// One stretch of one kind.
const STRETCH_BYTES: u64 = 4096;
/// Between two mentions of store paths: some 16 KB.
const STRETCHES_BETWEEN_MENTIONS: u64 = 4;
/// A new version differs in one stretch of so many.
const CHANGED: u64 = 10;

/// `size` bytes or a little more that mention each of `references`, and mostly the same ones for
/// the next `version`: stretches lie at the same places.
pub fn content(seed: u64, version: u64, size: usize, references: &[String]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 256 * references.len());
    let mut codes = BTreeMap::new();
    for reference in references {
        mention(&mut bytes, reference);
    }
    let mut number = 0;
    while bytes.len() < size {
        let changed = (1..=version).rev().find(|version| {
            let chance = Random::seeded(seed ^ (version << 40) ^ number).below(CHANGED);
            chance == 0
        });
        let stretch_seed = seed ^ number.wrapping_mul(0x9e37_79b9) ^ (changed.unwrap_or(0) << 48);
        let mut random = Random::seeded(stretch_seed);
        random.next();
        let length = (random.below(STRETCH_BYTES) + 64).min((size - bytes.len()) as u64 + 8);
        stretch(&mut bytes, &mut random, length as usize, seed, &mut codes);
        if !references.is_empty() && number % STRETCHES_BETWEEN_MENTIONS == 0 {
            let which = random.below(references.len() as u64) as usize;
            mention(&mut bytes, &references[which]);
        }
        number += 1;
    }
    bytes
}

fn mention(bytes: &mut Vec<u8>, reference: &str) {
    bytes.extend_from_slice(b"/nix/store/");
    bytes.extend_from_slice(reference.as_bytes());
    bytes.extend_from_slice(b"/lib\0");
}

fn stretch(
    bytes: &mut Vec<u8>,
    random: &mut Random,
    length: usize,
    seed: u64,
    codes: &mut BTreeMap<u64, Vec<[u8; 8]>>,
) {
    let end = bytes.len() + length;
    match random.below(10) {
        0 => bytes.extend_from_slice(&random.bytes(length)),
        1..=3 => {
            while bytes.len() < end {
                bytes.extend_from_slice(TEXT[skewed(random, TEXT.len() as u64) as usize]);
            }
        }
        _ => {
            let code = codes.entry(seed).or_insert_with(|| instructions(seed));
            while bytes.len() < end {
                let which = skewed(random, code.len() as u64) as usize;
                bytes.extend_from_slice(&code[which]);
                // An operand that is new.
                bytes.push(random.next() as u8);
            }
        }
    }
}

/// The words that a package's code is made of.
fn instructions(seed: u64) -> Vec<[u8; 8]> {
    let mut random = Random::seeded(seed ^ 0xc0de);
    (0..1024).map(|_| random.next().to_le_bytes()).collect()
}

/// Small numbers far more often than big ones.
fn skewed(random: &mut Random, below: u64) -> u64 {
    let most = random.below(below) + 1;
    random.below(most)
}

const TEXT: [&[u8]; 24] = [
    b"the ",
    b"if ",
    b"return ",
    b"const ",
    b"self.",
    b"import ",
    b"def ",
    b"\n    ",
    b"\n",
    b"include ",
    b"= ",
    b"()",
    b"{ ",
    b"}\n",
    b"service ",
    b"error: ",
    b"path ",
    b"0x",
    b"none ",
    b"configuration ",
    b"argument ",
    b"# ",
    b"/usr/share/",
    b", ",
];
