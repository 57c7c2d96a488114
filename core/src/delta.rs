//! A NAR told by another: which ranges of an old one to copy, its tokens swapped, and what to put
//! between them. `docs/deltas.md` has the bytes for whoever writes another client.
//!
//! ```text
//!   question  "spq1" { wanted [20]  old [20]  the old one's NarHash [32] } [8] checksum
//!   answer    one zstd frame with its checksum, of
//!             "spa1" { length  delta }         for each pair in order; length 0: fetch it whole
//!   delta     swaps  { length, token, token }
//!             length of its patch [offset]     0: without one
//!             { 4 n + kind ... }               n bytes of the NAR each, together all of it
//!                 0  copy      offset in the old NAR
//!                 1  literal   n bytes
//!                 2  fetch     offset and length in the `.nar.zst`
//!                 3  patch     bytes that the patch makes before these and that are not wanted
//! ```
//! Numbers are LEB128 varints in their shortest form; hash parts are the 20 bytes that they are
//! base32 of.
//!
//! Guarantees: decoding never panics, and takes no more than 32 bytes of memory for a byte of a
//! delta, of which it reads [`MAX_DELTA_BYTES`] at most. Says nothing about whether the NAR comes
//! out right: its hash does.

mod compare;
pub mod patch;
pub mod script;

use bytes::Bytes;
use snowcache_nix::{NarHash, StoreHash};
use thiserror::Error;

use crate::recipe::codec::{Reader, put_varint};
use crate::swap::Swaps;
use crate::token::{BUILD_ID_LEN, HASH_LEN};
use crate::upload::{QuestionError, open, sealed};

pub use compare::{Budget, Side, Step, compare};

/// Pairs in one question: as many paths as a large system has.
pub const MAX_PAIRS: usize = 10_000;
/// The longest question: 720 KB.
pub const MAX_QUESTION_BYTES: usize = 4 + MAX_PAIRS * PAIR_BYTES + 8;
/// The longest delta of a NAR: 100 times what a rebuild of 1 GB takes. What needs more is not much
/// smaller than its NAR.
pub const MAX_DELTA_BYTES: usize = 4 << 20;
/// The longest answer, unpacked. What does not fit any more is fetched whole.
pub const MAX_ANSWER_BYTES: usize = 32 << 20;
/// Where an answer begins.
pub const MAGIC: &[u8; 4] = b"spa1";

const QUESTION: &[u8; 4] = b"spq1";
const STORE_HASH_BYTES: usize = 20;
const PAIR_BYTES: usize = 2 * STORE_HASH_BYTES + 32;

const COPY: u64 = 0;
const LITERAL: u64 = 1;
const FETCH: u64 = 2;
const PATCH: u64 = 3;

/// A path that is wanted, and one of which its bytes may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The path that is wanted.
    pub wanted: StoreHash,
    /// The path that is there.
    pub old: StoreHash,
    /// What its NAR hashes to.
    pub old_nar: NarHash,
}

/// The next bytes of the NAR. None is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// They are these of the old NAR, its tokens swapped.
    Copy {
        /// Where in the old NAR.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// They are these.
    Literal(Bytes),
    /// They are in these bytes of the `.nar.zst`, which are whole zstd frames.
    Fetch {
        /// How many they are.
        len: u64,
        /// Where in the `.nar.zst`.
        stored_at: u64,
        /// How many bytes there.
        stored_len: u64,
    },
    /// They are what the patch makes next.
    Patch {
        /// How many they are.
        len: u64,
        /// How many it makes before them that are of no use.
        skip: u64,
    },
}

/// A token of the old NAR, and what stands for it: as many bytes.
pub type Swap = (Vec<u8>, Vec<u8>);

/// How one NAR is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Tokens of the old NAR and what stands for them, besides the question's pairs.
    pub swaps: Vec<Swap>,
    /// Where in the file of its patch ([`patch`]) the pieces are that it needs: offset and length.
    pub patch: Option<(u64, u64)>,
    /// The NAR.
    pub parts: Vec<Part>,
}

/// Why bytes are no question, answer or delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DeltaError {
    /// The question is damaged, or none.
    #[error(transparent)]
    Question(#[from] QuestionError),
    /// Too many pairs, or no whole number of them.
    #[error("it has {0} bytes of pairs; a pair has {PAIR_BYTES}, at most {MAX_PAIRS} are taken")]
    Pairs(usize),
    /// Another kind of answer, or a version this program is too old for.
    #[error("it does not begin with \"spa1\": another version, or no plan")]
    Magic,
    /// It answers another question.
    #[error("it answers for another number of paths")]
    Count,
    /// It is no delta.
    #[error("a delta is malformed: {0}")]
    Malformed(&'static str),
}

/// The question about these pairs.
pub fn question(pairs: &[Pair]) -> Vec<u8> {
    let mut body = Vec::with_capacity(pairs.len() * PAIR_BYTES);
    for pair in pairs {
        body.extend(pair.wanted.as_bytes());
        body.extend(pair.old.as_bytes());
        body.extend(pair.old_nar.as_bytes());
    }
    sealed(QUESTION, &body)
}

/// The pairs of a question.
///
/// # Errors
/// Where it is none.
pub fn asked(question: &[u8]) -> Result<Vec<Pair>, DeltaError> {
    let body = open(question, QUESTION, "spq1")?;
    let (pairs, rest) = body.as_chunks::<PAIR_BYTES>();
    if !rest.is_empty() || pairs.len() > MAX_PAIRS {
        return Err(DeltaError::Pairs(body.len()));
    }
    let pair = |bytes: &[u8; PAIR_BYTES]| {
        let (mut wanted, mut old, mut old_nar) = ([0; 20], [0; 20], [0; 32]);
        wanted.copy_from_slice(&bytes[..20]);
        old.copy_from_slice(&bytes[20..40]);
        old_nar.copy_from_slice(&bytes[40..]);
        Pair {
            wanted: StoreHash::from_bytes(wanted),
            old: StoreHash::from_bytes(old),
            old_nar: NarHash::from_bytes(old_nar),
        }
    };
    Ok(pairs.iter().map(pair).collect())
}

/// The swaps that go without saying: each old path's hash part for that of the path made of it. Of
/// two for one token, the first.
pub fn swaps(pairs: &[Pair]) -> Swaps {
    Swaps::of_paths(pairs.iter().map(|pair| (pair.old, pair.wanted)))
}

/// Appends one delta, encoded, to an answer; that it is to be fetched whole where there is none or
/// it is too long.
pub fn put(delta: Option<&[u8]>, answer: &mut Vec<u8>) {
    let delta = delta.filter(|delta| delta.len() <= MAX_DELTA_BYTES);
    let delta = delta.unwrap_or_default();
    put_varint(answer, delta.len() as u64);
    answer.extend_from_slice(delta);
}

/// The deltas of an unpacked answer to a question of `pairs` pairs, not looked at yet; `None` for
/// what must be fetched whole.
///
/// # Errors
/// Where it is no answer to such a question.
pub fn answered(answer: &Bytes, pairs: usize) -> Result<Vec<Option<Bytes>>, DeltaError> {
    if !answer.starts_with(MAGIC) {
        return Err(DeltaError::Magic);
    }
    let mut reader = Reader::new(&answer[MAGIC.len()..], "plan");
    let mut deltas = Vec::new();
    while !reader.rest().is_empty() {
        let len = number(&mut reader)?;
        let delta = take(&mut reader, len)?;
        if delta.len() > MAX_DELTA_BYTES || deltas.len() == pairs {
            return Err(DeltaError::Count);
        }
        deltas.push((!delta.is_empty()).then(|| answer.slice_ref(delta)));
    }
    match deltas.len() == pairs {
        true => Ok(deltas),
        false => Err(DeltaError::Count),
    }
}

impl Delta {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.swaps.len() as u64);
        for (old, new) in &self.swaps {
            put_varint(&mut out, old.len() as u64);
            out.extend_from_slice(old);
            out.extend_from_slice(new);
        }
        put_varint(&mut out, self.patch.map_or(0, |(_, len)| len));
        if let Some((at, _)) = self.patch {
            put_varint(&mut out, at);
        }
        for part in &self.parts {
            match part {
                Part::Copy { offset, len } => {
                    put_varint(&mut out, len << 2 | COPY);
                    put_varint(&mut out, *offset);
                }
                Part::Literal(bytes) => {
                    put_varint(&mut out, (bytes.len() as u64) << 2 | LITERAL);
                    out.extend_from_slice(bytes);
                }
                Part::Fetch {
                    len,
                    stored_at,
                    stored_len,
                } => {
                    put_varint(&mut out, len << 2 | FETCH);
                    put_varint(&mut out, *stored_at);
                    put_varint(&mut out, *stored_len);
                }
                Part::Patch { len, skip } => {
                    put_varint(&mut out, len << 2 | PATCH);
                    put_varint(&mut out, *skip);
                }
            }
        }
        out
    }

    /// Reads what [`Delta::encode`] wrote: how a NAR of `nar_size_bytes` is made.
    ///
    /// # Errors
    /// Where it is no such delta.
    pub fn decode(encoded: &Bytes, nar_size_bytes: u64) -> Result<Delta, DeltaError> {
        if encoded.len() > MAX_DELTA_BYTES {
            return Err(DeltaError::Malformed("it is too long"));
        }
        let mut reader = Reader::new(encoded, "delta");
        let mut delta = Delta::default();
        for _ in 0..number(&mut reader)? {
            let len = number(&mut reader)?;
            if ![HASH_LEN as u64, BUILD_ID_LEN as u64].contains(&len) {
                return Err(DeltaError::Malformed("a token of no token's length"));
            }
            let (old, new) = (take(&mut reader, len)?, take(&mut reader, len)?);
            delta.swaps.push((old.to_vec(), new.to_vec()));
        }
        let patch_len = number(&mut reader)?;
        if patch_len > 0 {
            let at = number(&mut reader)?;
            let end = at.checked_add(patch_len);
            end.ok_or(DeltaError::Malformed("a patch beyond 2^64 bytes"))?;
            delta.patch = Some((at, patch_len));
        }
        let mut made: u64 = 0;
        while !reader.rest().is_empty() {
            let part = part(&mut reader, encoded)?;
            if matches!(part, Part::Patch { .. }) && delta.patch.is_none() {
                return Err(DeltaError::Malformed(
                    "a piece of a patch that it does not have",
                ));
            }
            let sum = made.checked_add(part.len());
            made = sum.ok_or(DeltaError::Malformed("a NAR beyond 2^64 bytes"))?;
            delta.parts.push(part);
        }
        match made == nar_size_bytes {
            true => Ok(delta),
            false => Err(DeltaError::Malformed("it makes a NAR of another size")),
        }
    }

    /// The ranges of the `.nar.zst` that it needs, in order: offset and length.
    pub fn ranges(&self) -> Vec<(u64, u64)> {
        let range = |part: &Part| match part {
            Part::Fetch {
                stored_at,
                stored_len,
                ..
            } => Some((*stored_at, *stored_len)),
            _ => None,
        };
        self.parts.iter().filter_map(range).collect()
    }
}

impl Part {
    /// How many of the NAR's bytes it makes.
    pub fn len(&self) -> u64 {
        match self {
            Part::Copy { len, .. } | Part::Fetch { len, .. } | Part::Patch { len, .. } => *len,
            Part::Literal(bytes) => bytes.len() as u64,
        }
    }

    /// Whether it makes nothing; none does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn part(reader: &mut Reader<'_>, encoded: &Bytes) -> Result<Part, DeltaError> {
    let head = number(reader)?;
    let len = head >> 2;
    if len == 0 {
        return Err(DeltaError::Malformed("a part of no bytes"));
    }
    match head & 3 {
        COPY => {
            let offset = number(reader)?;
            let end = offset.checked_add(len);
            end.ok_or(DeltaError::Malformed("a copy beyond 2^64 bytes"))?;
            Ok(Part::Copy { offset, len })
        }
        LITERAL => Ok(Part::Literal(encoded.slice_ref(take(reader, len)?))),
        FETCH => {
            let (stored_at, stored_len) = (number(reader)?, number(reader)?);
            let end = stored_at.checked_add(stored_len);
            end.ok_or(DeltaError::Malformed("a range beyond 2^64 bytes"))?;
            Ok(Part::Fetch {
                len,
                stored_at,
                stored_len,
            })
        }
        _ => {
            let skip = number(reader)?;
            Ok(Part::Patch { len, skip })
        }
    }
}

fn number(reader: &mut Reader<'_>) -> Result<u64, DeltaError> {
    let number = reader.varint();
    number.map_err(|_| DeltaError::Malformed("a number is cut off or not in its one form"))
}

fn take<'a>(reader: &mut Reader<'a>, len: u64) -> Result<&'a [u8], DeltaError> {
    let taken = reader.take(usize::try_from(len).unwrap_or(usize::MAX));
    taken.map_err(|_| DeltaError::Malformed("it is cut off"))
}

#[cfg(test)]
mod tests;
