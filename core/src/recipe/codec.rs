//! The bytes of a recipe.

use bytes::Bytes;

use super::{BLOCK_OPS, FrameId, Op, RecipeError};

const MAGIC: &[u8; 4] = b"snr1";
const FRAME: u8 = 0;
const DENSE: u8 = 1;
const LITERAL: u8 = 2;
const KINDS_PER_BYTE: usize = 4;
/// Fewest bytes an op takes: one for its length and one of literal (and a quarter of one for its
/// kind).
const OP_MIN_BYTES: usize = 2;
/// Bytes of a varint of 64 bits.
const VARINT_MAX_BYTES: usize = 10;

pub(super) fn encode(ops: &[Op]) -> Vec<u8> {
    let mut encoded = MAGIC.to_vec();
    put_varint(&mut encoded, ops.len() as u64);
    let mut blocks = Vec::new();
    for ops in ops.chunks(BLOCK_OPS) {
        let start = blocks.len();
        put_block(&mut blocks, ops);
        put_varint(
            &mut encoded,
            ops.iter().map(|op| u64::from(op.raw_len())).sum(),
        );
        put_varint(&mut encoded, (blocks.len() - start) as u64);
    }
    encoded.append(&mut blocks);
    encoded
}

fn put_block(out: &mut Vec<u8>, ops: &[Op]) {
    for four in ops.chunks(KINDS_PER_BYTE) {
        out.push(four.iter().rev().fold(0, |byte, op| byte << 2 | kind(op)));
    }
    for op in ops {
        put_varint(out, u64::from(op.raw_len()));
    }
    for op in ops {
        match op {
            Op::Frame { id, .. } => out.extend_from_slice(id.as_bytes()),
            Op::Dense { id, skeleton, .. } => {
                out.extend_from_slice(id.as_bytes());
                out.extend_from_slice(skeleton.as_bytes());
            }
            Op::Literal(_) => {}
        }
    }
    for op in ops {
        if let Op::Literal(bytes) = op {
            out.extend_from_slice(bytes);
        }
    }
}

fn kind(op: &Op) -> u8 {
    match op {
        Op::Frame { .. } => FRAME,
        Op::Dense { .. } => DENSE,
        Op::Literal(_) => LITERAL,
    }
}

/// Appends a number.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// An encoded recipe's table of blocks: finds a place of the NAR and decodes the ops around it.
#[derive(Clone, Debug)]
pub struct Blocks<'a> {
    blocks: Vec<Block<'a>>,
    nar_size_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Block<'a> {
    /// Where its first op starts in the NAR.
    start: u64,
    raw_len: u64,
    ops: usize,
    encoded: &'a [u8],
}

impl<'a> Blocks<'a> {
    /// Reads the table; the blocks themselves are checked as they are decoded.
    pub fn open(encoded: &'a [u8]) -> Result<Blocks<'a>, RecipeError> {
        let mut table = Reader {
            bytes: encoded,
            at: 0,
            what: "recipe's table",
        };
        if table.take(MAGIC.len()).ok() != Some(MAGIC) {
            return Err(RecipeError::Magic);
        }
        let ops = table.varint()?;
        if ops > (encoded.len() / OP_MIN_BYTES) as u64 {
            return Err(RecipeError::Ops { ops });
        }
        let mut left = ops as usize;
        let mut lengths = Vec::with_capacity(left.div_ceil(BLOCK_OPS));
        while left > 0 {
            let ops = left.min(BLOCK_OPS);
            lengths.push((ops, table.varint()?, table.varint()?));
            left -= ops;
        }
        let mut rest = Reader {
            what: "recipe's blocks",
            ..table
        };
        let mut start: u64 = 0;
        let mut blocks = Vec::with_capacity(lengths.len());
        for (ops, raw_len, encoded_len) in lengths {
            let encoded = rest.take(usize::try_from(encoded_len).unwrap_or(usize::MAX))?;
            if ops * OP_MIN_BYTES > encoded.len() {
                return Err(RecipeError::Ops { ops: ops as u64 });
            }
            blocks.push(Block {
                start,
                raw_len,
                ops,
                encoded,
            });
            start = start.checked_add(raw_len).ok_or(RecipeError::LongNar)?;
        }
        rest.end("recipe")?;
        Ok(Blocks {
            blocks,
            nar_size_bytes: start,
        })
    }

    /// How many blocks there are.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether the recipe makes nothing.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The length of the NAR, as the table has it.
    pub fn nar_size_bytes(&self) -> u64 {
        self.nar_size_bytes
    }

    /// The block with the NAR's byte at `offset`, and where in the NAR that block starts.
    pub fn find(&self, offset: u64) -> Option<(usize, u64)> {
        let index = self
            .blocks
            .partition_point(|block| block.start + block.raw_len <= offset);
        self.blocks.get(index).map(|block| (index, block.start))
    }

    /// The ops of one block.
    ///
    /// # Panics
    ///
    /// Where there is no such block.
    pub fn ops(&self, index: usize) -> Result<Vec<Op>, RecipeError> {
        let block = &self.blocks[index];
        let ops = block.decode(index)?;
        let actual = super::sum(&ops)?;
        if actual != block.raw_len {
            return Err(RecipeError::BlockLength {
                block: index,
                claimed: block.raw_len,
                actual,
            });
        }
        Ok(ops)
    }
}

impl Block<'_> {
    fn decode(&self, index: usize) -> Result<Vec<Op>, RecipeError> {
        let mut reader = Reader {
            bytes: self.encoded,
            at: 0,
            what: "block",
        };
        let kinds = reader.take(self.ops.div_ceil(KINDS_PER_BYTE))?;
        let kind = |op: usize| kinds[op / KINDS_PER_BYTE] >> (op % KINDS_PER_BYTE * 2) & 3;
        let slots = kinds.len() * KINDS_PER_BYTE;
        if (0..slots).any(|op| kind(op) > if op < self.ops { LITERAL } else { 0 }) {
            return Err(RecipeError::Kind { block: index });
        }
        let mut lengths = Vec::with_capacity(self.ops);
        for _ in 0..self.ops {
            let len = reader.varint()?;
            lengths.push(u32::try_from(len).map_err(|_| RecipeError::LongOp {
                len: usize::try_from(len).unwrap_or(usize::MAX),
                most: super::FRAME_MAX_BYTES,
            })?);
        }
        let mut ops = Vec::with_capacity(self.ops);
        for (op, &raw_len) in lengths.iter().enumerate() {
            ops.push(match kind(op) {
                FRAME => Op::Frame {
                    id: reader.id()?,
                    raw_len,
                },
                DENSE => Op::Dense {
                    id: reader.id()?,
                    skeleton: reader.id()?,
                    raw_len,
                },
                _ => Op::Literal(Bytes::new()),
            });
        }
        // One allocation for all literals of the block, freed when the last of them is.
        let mut literals = Bytes::copy_from_slice(reader.rest());
        for (op, &raw_len) in ops.iter_mut().zip(&lengths) {
            if let Op::Literal(bytes) = op {
                let len = raw_len as usize;
                if len > literals.len() {
                    let at = self.encoded.len();
                    return Err(RecipeError::Truncated {
                        at,
                        what: "block's literals",
                    });
                }
                *bytes = literals.split_to(len);
            }
        }
        match literals.len() {
            0 => Ok(ops),
            count => Err(RecipeError::Trailing {
                count,
                what: "block",
            }),
        }
    }
}

/// Reads bytes in order.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// A reader of `bytes`; errors call them `what`.
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Reader<'a> {
        Reader { bytes, at: 0, what }
    }

    /// What is not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], RecipeError> {
        let taken = self.rest().get(..len).ok_or(RecipeError::Truncated {
            at: self.bytes.len(),
            what: self.what,
        })?;
        self.at += len;
        Ok(taken)
    }

    fn id(&mut self) -> Result<FrameId, RecipeError> {
        let mut id = [0; FrameId::LEN];
        id.copy_from_slice(self.take(FrameId::LEN)?);
        Ok(FrameId::from_bytes(id))
    }

    /// The next number.
    pub(crate) fn varint(&mut self) -> Result<u64, RecipeError> {
        let start = self.at;
        let error = RecipeError::Varint {
            at: start,
            what: self.what,
        };
        let mut number: u64 = 0;
        for place in 0..VARINT_MAX_BYTES {
            let byte = self.take(1)?[0];
            let shift = place as u32 * 7;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(error);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                let is_shortest = place == 0 || byte != 0;
                return if is_shortest { Ok(number) } else { Err(error) };
            }
        }
        Err(error)
    }

    fn end(&self, what: &'static str) -> Result<(), RecipeError> {
        match self.rest().len() {
            0 => Ok(()),
            count => Err(RecipeError::Trailing { count, what }),
        }
    }
}
