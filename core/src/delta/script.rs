//! Bytes told by older ones that are nearly the same: a program that was compiled anew, in which
//! some code is new and the addresses of all that comes after it differ.
//!
//! ```text
//!   old    . . a b c d e f g h . . . . p q r s t u v w . .
//!   new    a b C d e f g h N N N p q R s t u v w
//!          8 like the old ones  3 new  8 like those 4 further on
//!   changes    2 the same, then C - c; 10 the same, then R - r
//!
//!   script     length of the steps, length of the gaps, number of changes
//!              { like  new  further }     steps: so many bytes like old ones, then so many new;
//!                                         the old ones are so much further on than those of the
//!                                         last step ended, zigzag
//!              { the same }               gaps: of the bytes that are like old ones, so many
//!                                         before each change
//!              changes                    what is added to the old byte, modulo 256
//!              new bytes
//! ```
//! Numbers are LEB128 varints in their shortest form. A script is made to be packed: each kind of
//! number and byte stands among its own.
//!
//! Guarantees: pure; applying a script never panics and never makes more than it was told to.
//! [`Old::script`] never gives one longer than what it makes and [`MAX_MORE_BYTES`]. Says nothing
//! about whether the old bytes are those that it was made of.

use super::{DeltaError, number, take};
use crate::recipe::codec::{Reader, put_varint};

mod find;

pub use find::Old;

/// What a script may have beyond the bytes that it makes: where all are new, a head and one step of
/// six numbers.
pub const MAX_MORE_BYTES: u64 = 64;

/// What of the new bytes is how.
#[derive(Default)]
struct Script {
    steps: Vec<u8>,
    gaps: Vec<u8>,
    changes: Vec<u8>,
    new: Vec<u8>,
    /// Where in the old bytes the last step ended.
    at: usize,
    /// Bytes that are the same since the last change.
    same: u64,
}

impl Script {
    /// `like` is like the old bytes at `from`, and then come new bytes.
    fn step(&mut self, (from, old): (usize, &[u8]), like: &[u8], new: &[u8]) {
        if like.is_empty() && new.is_empty() {
            return;
        }
        let further = from as i64 - self.at as i64;
        let zigzag = (further << 1) ^ (further >> 63);
        for number in [like.len() as u64, new.len() as u64, zigzag as u64] {
            put_varint(&mut self.steps, number);
        }
        for (was, is) in old[from..].iter().zip(like) {
            match is.wrapping_sub(*was) {
                0 => self.same += 1,
                change => {
                    put_varint(&mut self.gaps, self.same);
                    self.changes.push(change);
                    self.same = 0;
                }
            }
        }
        self.at = from + like.len();
        self.new.extend_from_slice(new);
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for len in [self.steps.len(), self.gaps.len(), self.changes.len()] {
            put_varint(&mut out, len as u64);
        }
        for section in [&self.steps, &self.gaps, &self.changes, &self.new] {
            out.extend_from_slice(section);
        }
        out
    }
}

/// The `len` bytes that the script makes of the old ones.
///
/// # Errors
/// Where it is none, or one that makes another number of bytes or of more old ones.
pub fn apply(script: &[u8], old: &[u8], len: usize) -> Result<Vec<u8>, DeltaError> {
    let mut reader = Reader::new(script, "patch");
    let [steps, gaps, changes] = [(); 3].map(|()| number(&mut reader));
    let mut steps = Reader::new(take(&mut reader, steps?)?, "patch");
    let mut gaps = Reader::new(take(&mut reader, gaps?)?, "patch");
    let mut changes = take(&mut reader, changes?)?.iter();
    let mut bytes = Vec::with_capacity(len);
    let (mut at, mut same) = (0_u64, None);
    while !steps.rest().is_empty() {
        let (like, new) = (number(&mut steps)?, number(&mut steps)?);
        let zigzag = number(&mut steps)?;
        let further = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
        let from = at.checked_add_signed(further);
        let range = from.and_then(|from| Some(from..from.checked_add(like)?));
        let range = range.filter(|it| it.end <= old.len() as u64 && (like > 0 || new > 0));
        let range = range.ok_or(BEYOND)?;
        at = range.end;
        if like > (len - bytes.len()) as u64 {
            return Err(TOO_LONG);
        }
        let begin = bytes.len();
        bytes.extend_from_slice(&old[range.start as usize..range.end as usize]);
        change(&mut bytes[begin..], &mut same, &mut gaps, &mut changes)?;
        if new > (len - bytes.len()) as u64 {
            return Err(TOO_LONG);
        }
        bytes.extend_from_slice(take(&mut reader, new)?);
    }
    let used = reader.rest().is_empty() && gaps.rest().is_empty() && changes.len() == 0;
    match used && same.is_none() && bytes.len() == len {
        true => Ok(bytes),
        false => Err(DeltaError::Malformed("a script that makes less")),
    }
}

const BEYOND: DeltaError = DeltaError::Malformed("a script of bytes that are not there");
const TOO_LONG: DeltaError = DeltaError::Malformed("a script that makes too much");

/// Changes these bytes; `same` are those before the next change that were not seen yet.
fn change(
    bytes: &mut [u8],
    same: &mut Option<u64>,
    gaps: &mut Reader<'_>,
    changes: &mut std::slice::Iter<'_, u8>,
) -> Result<(), DeltaError> {
    let mut at = 0;
    loop {
        let gap = match same.take() {
            Some(gap) => gap,
            None if gaps.rest().is_empty() => return Ok(()),
            None => number(gaps)?,
        };
        let left = (bytes.len() - at) as u64;
        if gap >= left {
            *same = Some(gap - left);
            return Ok(());
        }
        at += gap as usize;
        let added = changes.next().ok_or(BEYOND)?;
        bytes[at] = bytes[at].wrapping_add(*added);
        at += 1;
    }
}

#[cfg(test)]
mod tests;
