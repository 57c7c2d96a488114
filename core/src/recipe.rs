//! Recipes: the ops that put one NAR together again.
//!
//! Encoded, a recipe is a table of its blocks and then the blocks, each of 1,024 ops but for the
//! last one; all numbers are LEB128 varints in their shortest form:
//!
//! ```text
//!   "snr1"                       magic, with the version
//!   ops                          how many
//!   for each block:              raw length, the sum of its ops' (so where in the NAR it starts)
//!                                encoded length
//!   for each block, in columns:  kinds, 2 bits an op, the first op in the lowest bits, the
//!                                  last byte's rest 0 (0 frame, 1 dense, 2 literal)
//!                                raw lengths
//!                                ids, 32 bytes each; a dense op's skeleton follows its own
//!                                literals' bytes
//! ```
//!
//! Guarantees: one encoding for a recipe, and whatever decodes encodes to the same bytes again;
//! decoding never panics and holds no more than 40 bytes for a byte of input; to read one place of
//! a NAR, [`Blocks`] decodes its block only.
//!
//! This module knows nothing of where frames are stored.

use bytes::Bytes;

pub(crate) mod codec;
mod id;

#[cfg(test)]
mod tests;

pub use codec::Blocks;
pub use id::FrameId;

/// Ops in a block: with ids and literals some 40 KiB to decode for a place in a NAR.
pub const BLOCK_OPS: usize = 1024;
/// Longest raw length of a frame: no decoder needs a window beyond 8 MiB (RFC 8878, 3.1.1.1.2).
pub const FRAME_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Longest literal: what fits a zstd raw block (RFC 8878: 128 KiB) twice over.
pub const LITERAL_MAX_BYTES: usize = 64 * 1024;

/// One step of putting a NAR together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A span.
    Frame {
        /// Its name.
        id: FrameId,
        /// Its length in the NAR.
        raw_len: u32,
    },
    /// A long stretch of tokens, composed for this NAR.
    Dense {
        /// Its name.
        id: FrameId,
        /// The name of its bytes with the tokens blanked, which rebuilds share.
        skeleton: FrameId,
        /// Its length in the NAR.
        raw_len: u32,
    },
    /// The bytes themselves.
    Literal(Bytes),
}

impl Op {
    /// How many of the NAR's bytes it makes.
    pub fn raw_len(&self) -> u32 {
        match self {
            Op::Frame { raw_len, .. } | Op::Dense { raw_len, .. } => *raw_len,
            Op::Literal(bytes) => u32::try_from(bytes.len()).unwrap_or(u32::MAX),
        }
    }

    fn check(&self) -> Result<u64, RecipeError> {
        let most = match self {
            Op::Frame { .. } | Op::Dense { .. } => FRAME_MAX_BYTES,
            Op::Literal(_) => LITERAL_MAX_BYTES,
        };
        match self.raw_len() as usize {
            0 => Err(RecipeError::EmptyOp),
            len if len > most => Err(RecipeError::LongOp { len, most }),
            len => Ok(len as u64),
        }
    }
}

/// The ops that put one NAR together, in order.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Recipe {
    ops: Vec<Op>,
    nar_size_bytes: u64,
}

impl Recipe {
    /// A recipe of these ops; refuses empty and overlong ones.
    pub fn new(ops: Vec<Op>) -> Result<Recipe, RecipeError> {
        let nar_size_bytes = sum(&ops)?;
        Ok(Recipe {
            ops,
            nar_size_bytes,
        })
    }

    /// Its ops, in the NAR's order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The length of the NAR it makes.
    pub fn nar_size_bytes(&self) -> u64 {
        self.nar_size_bytes
    }

    /// Its one encoding.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&self.ops)
    }

    /// Reads what [`Recipe::encode`] wrote, and nothing else.
    pub fn decode(encoded: &[u8]) -> Result<Recipe, RecipeError> {
        let blocks = Blocks::open(encoded)?;
        let mut ops = Vec::new();
        for index in 0..blocks.len() {
            ops.append(&mut blocks.ops(index)?);
        }
        Ok(Recipe {
            ops,
            nar_size_bytes: blocks.nar_size_bytes(),
        })
    }
}

fn sum(ops: &[Op]) -> Result<u64, RecipeError> {
    let mut sum: u64 = 0;
    for op in ops {
        sum = sum.checked_add(op.check()?).ok_or(RecipeError::LongNar)?;
    }
    Ok(sum)
}

/// Why bytes or ops are no recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// Another kind of record, or a version this program is too old for.
    #[error("this is no recipe of version 1: it does not begin with \"snr1\"")]
    Magic,
    /// The bytes end too early.
    #[error("the recipe ends at byte {at}, in the middle of its {what}")]
    Truncated {
        /// Length of the input.
        at: usize,
        /// What was being read.
        what: &'static str,
    },
    /// Bytes behind the end of a recipe or block.
    #[error("{count} bytes follow the end of the {what}")]
    Trailing {
        /// How many.
        count: usize,
        /// What had ended.
        what: &'static str,
    },
    /// A number in a longer form than it needs, or beyond 64 bits.
    #[error("the varint at byte {at} of the {what} is not in its one form")]
    Varint {
        /// Its offset.
        at: usize,
        /// The part it is in.
        what: &'static str,
    },
    /// Fewer bytes than so many ops take.
    #[error("the recipe claims {ops} ops, more than its bytes can hold")]
    Ops {
        /// The claim.
        ops: u64,
    },
    /// A kind no version 1 writer knows, or bits set where none belong.
    #[error("the kinds of block {block} hold bits that mean nothing")]
    Kind {
        /// The block's number.
        block: usize,
    },
    /// The table says one length, the ops another.
    #[error("block {block} makes {actual} bytes where the table says {claimed}")]
    BlockLength {
        /// The block's number.
        block: usize,
        /// What the table says.
        claimed: u64,
        /// The sum of its ops.
        actual: u64,
    },
    /// An op that makes nothing.
    #[error("an op of length 0 has no place in a recipe")]
    EmptyOp,
    /// An op longer than any reader has to accept.
    #[error("an op of {len} bytes is longer than the {most} allowed")]
    LongOp {
        /// Its raw length.
        len: usize,
        /// The limit.
        most: usize,
    },
    /// The lengths add up to more than 64 bits hold.
    #[error("the ops make a NAR beyond 2^64 bytes")]
    LongNar,
}
