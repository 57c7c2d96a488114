//! A patch: what is new in one NAR, told by an older NAR.
//!
//! ```text
//!   "spf2"
//!   number of runs  { offset  length }            ranges of the new NAR, rising: all that follows,
//!                                                 one after the other
//!   one zstd frame of
//!   { length  offset  length  length  script }    pieces: how many of these bytes, by which range
//!                                                 of the old NAR, and a script that makes them
//! ```
//! Numbers are LEB128 varints in their shortest form. On the wire goes the zstd frame. What one
//! piece and the next have in common, as programs with the same library in them, is packed once.
//!
//! Guarantees: reading never panics; a piece is never larger than what is said here, so whoever
//! makes one needs at most 56 MiB for it. Says nothing about whether the NAR comes out right.

use std::ops::Range;

use snowcache_nix::NarHash;

use super::{DeltaError, number, script};
use crate::recipe::codec::{Reader, put_varint};

/// The longest range of the old NAR that a piece is made of.
pub const MAX_OLD_BYTES: u64 = 32 << 20;
/// The longest piece.
pub const MAX_PIECE_BYTES: u64 = 8 << 20;
/// The longest script of a piece.
pub const MAX_SCRIPT_BYTES: u64 = MAX_PIECE_BYTES + script::MAX_MORE_BYTES;
/// zstd's window, as a power of two: 8 MiB, which whoever unpacks a patch must have.
pub const WINDOW_LOG: u32 = 23;
/// The longest head of a piece: four numbers of at most ten bytes.
pub const MAX_HEAD_BYTES: usize = 40;
/// Where a patch begins.
pub const MAGIC: &[u8; 4] = b"spf2";

const ENDING: &str = ".patch";

/// What a patch is called, which makes `new` of `old`.
pub fn name(new: &NarHash, old: &NarHash) -> String {
    format!("{}-{}{ENDING}", new.base32(), old.base32())
}

/// The new and the old NAR of a patch that is called so.
pub fn named(name: &str) -> Option<(NarHash, NarHash)> {
    let (new, old) = name.strip_suffix(ENDING)?.split_once('-')?;
    let hash = |text| NarHash::from_base32(text).ok();
    Some((hash(new)?, hash(old)?))
}

/// What precedes the script of a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// How many bytes it makes.
    pub raw_len: u64,
    /// The range of the old NAR that it makes them of.
    pub old: Range<u64>,
    /// The script's length.
    pub script_len: u64,
}

/// What a patch begins with: which ranges of the new NAR it makes.
pub fn begun(runs: &[Range<u64>]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    put_varint(&mut out, runs.len() as u64);
    for run in runs {
        put_varint(&mut out, run.start);
        put_varint(&mut out, run.end - run.start);
    }
    out
}

/// The runs of a patch, and where its zstd frame begins.
///
/// # Errors
/// Where it is none.
pub fn runs(patch: &[u8]) -> Result<(Vec<Range<u64>>, u64), DeltaError> {
    let Some(rest) = patch.strip_prefix(MAGIC) else {
        return Err(DeltaError::Malformed(
            "a patch does not begin with \"spf2\"",
        ));
    };
    let mut reader = Reader::new(rest, "patch");
    let (mut runs, mut end) = (Vec::new(), 0);
    for _ in 0..number(&mut reader)? {
        let (at, len) = (number(&mut reader)?, number(&mut reader)?);
        let next = at.checked_add(len).filter(|_| at >= end && len > 0);
        end = next.ok_or(DeltaError::Malformed("runs of a patch that do not rise"))?;
        runs.push(at..end);
    }
    Ok((runs, (patch.len() - reader.rest().len()) as u64))
}

impl Head {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MAX_HEAD_BYTES);
        put_varint(&mut out, self.raw_len);
        put_varint(&mut out, self.old.start);
        put_varint(&mut out, self.old.end - self.old.start);
        put_varint(&mut out, self.script_len);
        out
    }

    /// Reads one from the beginning of `bytes`, of which there are [`MAX_HEAD_BYTES`] or all that
    /// are left; gives how many it takes, too.
    ///
    /// # Errors
    /// Where it is none, or of a piece that is too large.
    pub fn decode(bytes: &[u8]) -> Result<(Head, usize), DeltaError> {
        let mut reader = Reader::new(bytes, "patch");
        let (raw_len, at) = (number(&mut reader)?, number(&mut reader)?);
        let (len, script_len) = (number(&mut reader)?, number(&mut reader)?);
        let fits = raw_len > 0
            && raw_len <= MAX_PIECE_BYTES
            && len <= MAX_OLD_BYTES
            && script_len <= MAX_SCRIPT_BYTES;
        let end = at.checked_add(len).filter(|_| fits);
        let end = end.ok_or(DeltaError::Malformed(
            "a piece of a patch that is too large",
        ))?;
        let head = Head {
            raw_len,
            old: at..end,
            script_len,
        };
        Ok((head, bytes.len() - reader.rest().len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            lens in prop::collection::vec((0..1_000_u64, 1..1_000_000_u64), 0..20),
            raw_len in 1..=MAX_PIECE_BYTES,
            at in 0..u64::MAX / 2,
            len in 0..=MAX_OLD_BYTES,
            script_len in 0..=MAX_SCRIPT_BYTES,
        ) {
            let (mut written, mut at_run) = (Vec::new(), 0);
            for (gap, len) in lens {
                written.push(at_run + gap..at_run + gap + len);
                at_run += gap + len;
            }
            let head = Head { raw_len, old: at..at + len, script_len };
            let mut patch = begun(&written);
            let begin = patch.len();
            patch.extend(head.encode());
            prop_assert_eq!(runs(&patch), Ok((written, begin as u64)));
            prop_assert_eq!(Head::decode(&patch[begin..]), Ok((head, patch.len() - begin)));
        }

        #[test]
        fn anything_else_is_an_error_or_within_the_limits(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            if let Ok((head, taken)) = Head::decode(&bytes) {
                prop_assert!(head.raw_len <= MAX_PIECE_BYTES && taken <= MAX_HEAD_BYTES);
            }
            if let Ok((runs, begin)) = runs(&[MAGIC.as_slice(), &bytes].concat()) {
                prop_assert!(runs.len() * 2 < begin as usize);
            }
        }
    }

    #[test]
    fn a_patch_is_called_by_its_nars() {
        let [new, old] = [1, 2].map(|byte| NarHash::from_bytes([byte; 32]));
        let name = name(&new, &old);
        assert_eq!(named(&name), Some((new, old)));
        assert_eq!(named(&name.replace("patch", "nar.zst")), None);
        assert_eq!(named(&name[1..]), None);
    }

    #[test]
    fn runs_rise_and_pieces_are_bounded() {
        for bad in [
            begun(&[5..9, 7..10]),
            begun(&[1..3, 5..5]),
            b"spf1\0".to_vec(),
        ] {
            assert!(runs(&bad).is_err(), "{bad:?}");
        }
        let good = Head {
            raw_len: 1,
            old: 0..1,
            script_len: 1,
        };
        for bad in [
            Head {
                raw_len: MAX_PIECE_BYTES + 1,
                ..good.clone()
            },
            Head {
                old: 0..MAX_OLD_BYTES + 1,
                ..good.clone()
            },
            Head {
                script_len: MAX_SCRIPT_BYTES + 1,
                ..good.clone()
            },
            Head { raw_len: 0, ..good },
        ] {
            assert!(Head::decode(&bad.encode()).is_err(), "{bad:?}");
        }
    }
}
