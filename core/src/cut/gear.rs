//! Content-defined boundaries: FastCDC's gear hash with normalised chunking (Xia et al., USENIX ATC
//! 2016), in our own words, because the cuts are part of the format and must never change with a
//! dependency.
//!
//! The hash after byte `i` is a function of the 64 bytes up to `i` alone, also right behind the
//! minimum: hashing starts 64 bytes before it. So an insertion moves no boundary further on than
//! the next one they agree on.

/// Smallest, usual and largest size in bytes of what the boundaries make. `avg` is a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// No piece is smaller, but for the last one of a run.
    pub min: usize,
    /// Boundaries are rarer before this size, more frequent behind it.
    pub avg: usize,
    /// No piece is larger.
    pub max: usize,
}

/// Bits by which the condition is harder before the average and easier behind it (the paper's
/// normalisation level 2).
const NORMALISATION: u32 = 2;
/// Bytes the hash remembers: one bit of shift for each.
pub(super) const WINDOW: usize = 64;

/// 256 numbers without structure: splitmix64 (Steele et al., 2014) from seed 0.
pub(super) const GEAR: [u64; 256] = gear();

const fn gear() -> [u64; 256] {
    let mut table = [0; 256];
    let mut state: u64 = 0;
    let mut i = 0;
    while i < table.len() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[i] = z ^ (z >> 31);
        i += 1;
    }
    table
}

/// Looks for the end of one piece, byte by byte from its start.
pub(super) struct Search {
    hash: u64,
    /// Bytes of the piece seen so far, those it need not see included.
    len: usize,
    min: usize,
    avg: usize,
    /// A boundary is where none of these bits of the hash is set: the hard condition up to the
    /// average, the easy one from there on.
    hard: u64,
    easy: u64,
}

impl Search {
    pub(super) fn new(sizes: Sizes) -> Search {
        let level = sizes.avg.ilog2();
        Search {
            hash: 0,
            len: sizes.min - WINDOW,
            min: sizes.min,
            avg: sizes.avg,
            hard: high_bits(level + NORMALISATION),
            easy: high_bits(level - NORMALISATION),
        }
    }

    /// Offset of the next byte it wants to see.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Goes on over `bytes`: the length of the piece, if one of them is its last.
    pub(super) fn over(&mut self, bytes: &[u8]) -> Option<usize> {
        let skip = (self.min - 1).saturating_sub(self.len).min(bytes.len());
        let (unseen, bytes) = bytes.split_at(skip);
        self.hash = unseen
            .iter()
            .fold(self.hash, |hash, &byte| roll(hash, byte));
        self.len += skip;

        let before_average = self.avg.saturating_sub(self.len).min(bytes.len());
        let (first, second) = bytes.split_at(before_average);
        self.step(first, self.hard)
            .or_else(|| self.step(second, self.easy))
    }

    /// Goes on over a token: nothing but zeros for the hash, and no boundary in it.
    pub(super) fn over_token(&mut self, len: usize) {
        self.hash = (0..len).fold(self.hash, |hash, _| roll(hash, 0));
        self.len += len;
    }

    fn step(&mut self, bytes: &[u8], mask: u64) -> Option<usize> {
        let mut hash = self.hash;
        for (i, &byte) in bytes.iter().enumerate() {
            hash = roll(hash, byte);
            if hash & mask == 0 {
                return Some(self.len + i + 1);
            }
        }
        self.hash = hash;
        self.len += bytes.len();
        None
    }
}

fn roll(hash: u64, byte: u8) -> u64 {
    (hash << 1).wrapping_add(GEAR[usize::from(byte)])
}

/// The highest bits hear from all 64 bytes.
fn high_bits(count: u32) -> u64 {
    !(u64::MAX >> count)
}
