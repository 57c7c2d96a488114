//! Which of these frames are absent? The question and its answer.
//!
//! ```text
//!   question   "snq1", ids of 32 bytes each, [8] checksum
//!   answer     "sna1", one bit an id, the first in the lowest bit, 1: absent, [8] checksum
//! ```
//!
//! Guarantees: what was cut or changed on its way is not read; at most [`MAX_FRAMES`] ids.

use thiserror::Error;

use super::{CHECKSUM_BYTES, checksum};
use crate::recipe::FrameId;

/// Ids in one question: 2 MiB of them, for 16 GiB of NARs.
pub const MAX_FRAMES: usize = 65_536;
/// The longest question.
pub const MAX_QUESTION_BYTES: usize = MAGIC_BYTES + MAX_FRAMES * FrameId::LEN + CHECKSUM_BYTES;

const MAGIC_BYTES: usize = 4;
const QUESTION: &[u8; MAGIC_BYTES] = b"snq1";
const ANSWER: &[u8; MAGIC_BYTES] = b"sna1";

/// Why bytes are no question or no answer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum QuestionError {
    /// Something else, or another version.
    #[error("it does not begin with \"{0}\"")]
    Magic(&'static str),
    /// Cut or changed.
    #[error("it was cut off or changed on its way: its checksum is wrong")]
    Checksum,
    /// No whole number of ids, or too many.
    #[error("it has {0} bytes of ids; ids have 32 each, at most {MAX_FRAMES} are taken")]
    Length(usize),
    /// Bits for another number of ids.
    #[error("it answers for another number of ids")]
    Count,
}

/// The question for these ids.
pub fn question(ids: &[FrameId]) -> Vec<u8> {
    let ids: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes().as_slice()).collect();
    sealed(QUESTION, &ids.concat())
}

/// The ids of a question.
///
/// # Errors
/// Where it is none.
pub fn asked(question: &[u8]) -> Result<Vec<FrameId>, QuestionError> {
    let ids = open(question, QUESTION, "snq1")?;
    let (ids, rest) = ids.as_chunks::<{ FrameId::LEN }>();
    if !rest.is_empty() || ids.len() > MAX_FRAMES {
        let len = ids.len() * FrameId::LEN + rest.len();
        return Err(QuestionError::Length(len));
    }
    Ok(ids.iter().copied().map(FrameId::from_bytes).collect())
}

/// The answer, from which ids are absent.
pub fn answer(absent: &[bool]) -> Vec<u8> {
    let eight = |eight: &[bool]| {
        let bits = eight.iter().enumerate();
        bits.fold(0, |byte, (bit, absent)| byte | u8::from(*absent) << bit)
    };
    let bytes: Vec<u8> = absent.chunks(8).map(eight).collect();
    sealed(ANSWER, &bytes)
}

/// Which of the `asked` ids are absent.
///
/// # Errors
/// Where it is no answer to such a question.
pub fn absent(answer: &[u8], asked: usize) -> Result<Vec<bool>, QuestionError> {
    let bits = open(answer, ANSWER, "sna1")?;
    if bits.len() != asked.div_ceil(8) {
        return Err(QuestionError::Count);
    }
    let bit = |at: usize| bits[at / 8] >> (at % 8) & 1 == 1;
    Ok((0..asked).map(bit).collect())
}

/// `body` behind its magic, with its checksum.
pub(crate) fn sealed(magic: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = [magic, body].concat();
    bytes.extend(checksum(&bytes));
    bytes
}

/// The body of what [`sealed`] made.
pub(crate) fn open<'a>(
    bytes: &'a [u8],
    magic: &[u8; MAGIC_BYTES],
    name: &'static str,
) -> Result<&'a [u8], QuestionError> {
    if !bytes.starts_with(magic) {
        return Err(QuestionError::Magic(name));
    }
    let end = bytes.len().checked_sub(CHECKSUM_BYTES);
    let (body, sum) = end.map_or((bytes, &[][..]), |end| bytes.split_at(end));
    match checksum(body) == *sum {
        true => body.get(MAGIC_BYTES..).ok_or(QuestionError::Checksum),
        false => Err(QuestionError::Checksum),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_read_back() {
        for count in [0, 1, 7, 8, 9, 1000] {
            let ids: Vec<FrameId> = (0..count)
                .map(|n: u32| FrameId::of(&n.to_le_bytes()))
                .collect();
            assert_eq!(asked(&question(&ids)).as_deref(), Ok(&ids[..]));
            let bits: Vec<bool> = (0..count).map(|n| n % 3 == 0).collect();
            let told = answer(&bits);
            assert_eq!(absent(&told, bits.len()), Ok(bits));
            assert_eq!(absent(&told, count as usize + 8), Err(QuestionError::Count));
        }
    }

    #[test]
    fn what_was_cut_or_changed_is_not_read() {
        let good = question(&[FrameId::of(b"one")]);
        for len in 0..good.len() {
            assert!(asked(&good[..len]).is_err(), "cut at {len}");
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(asked(&bad).is_err(), "bit {bit}");
        }
        assert_eq!(absent(&good, 1), Err(QuestionError::Magic("sna1")));
    }
}
