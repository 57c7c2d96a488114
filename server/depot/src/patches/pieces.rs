//! What of a NAR is to be fetched, in pieces, and how each is made of the old one.
//!
//! Guarantees: a piece and what it is made of are within what [`patch`] says. Memory while packing,
//! in MiB: the old range 32 and where its bytes are 48, a piece and its script 8 each, zstd 50.

use std::io::{self, Write};
use std::ops::Range;

use snowcache_core::delta::Step;
use snowcache_core::delta::patch::{self, Head, MAX_OLD_BYTES, MAX_PIECE_BYTES, WINDOW_LOG};
use snowcache_core::delta::script::Old;
use zstd::stream::write::Encoder;
use zstd::zstd_safe::CParameter;

use crate::read::NarReader;
use crate::{Error, Result};

/// A patch is made once for a fleet, and scripts are short: those of 28 Debian packages in two
/// versions are an eighth smaller than at levels up to 12.
const LEVEL: i32 = 19;
/// What zstd remembers of where bytes were: 4 bytes a place, so 16 MiB each of what level 19 has
/// 64 for.
const TABLE_LOG: u32 = 22;
/// So far apart in the old NAR may be what one piece is like: the rest is for what was moved.
const MAX_APART_BYTES: u64 = MAX_OLD_BYTES / 4 * 3;

/// Runs of the new NAR that are made together.
pub struct Piece {
    /// They rise.
    pub runs: Vec<Range<u64>>,
    /// Where in the old NAR something like them should be.
    like: Range<u64>,
}

impl Piece {
    /// The runs' length.
    pub fn raw_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.end - run.start).sum()
    }

    /// From the first to the last byte of the old NAR that it would be like with these, too.
    fn apart(&self, like: &Range<u64>) -> u64 {
        self.like.end.max(like.end) - self.like.start.min(like.start)
    }
}

/// What of these steps is to be fetched, in pieces, with where in the old NAR the copies beside
/// them are.
pub fn of(steps: &[Step], old_len: u64) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let (mut at, mut copied) = (0, 0);
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Copy { offset, len } => (at, copied) = (at + len, offset + len),
            Step::Literal(bytes) => at += bytes.len() as u64,
            Step::Fetch { len, .. } => {
                let next = steps[number + 1..].iter().find_map(|step| match step {
                    Step::Copy { offset, .. } => Some(*offset),
                    _ => None,
                });
                let like = copied..next.unwrap_or(old_len).max(copied);
                put(&mut pieces, &(at..at + len), &like);
                at += len;
            }
        }
    }
    pieces
}

/// Another run, in the last piece while that has room and is like something near.
fn put(pieces: &mut Vec<Piece>, run: &Range<u64>, like: &Range<u64>) {
    let mut from = run.start;
    while from < run.end {
        let taken = pieces.last().map_or(0, Piece::raw_bytes);
        let room = match MAX_PIECE_BYTES.saturating_sub(taken) {
            0 => MAX_PIECE_BYTES,
            room => room,
        };
        let part = from..run.end.min(from + room);
        from = part.end;
        let like = share(like, run, &part);
        match pieces.last_mut() {
            Some(last)
                if room + taken == MAX_PIECE_BYTES && last.apart(&like) <= MAX_APART_BYTES =>
            {
                last.like = like.start.min(last.like.start)..like.end.max(last.like.end);
                last.runs.push(part);
            }
            _ => pieces.push(Piece {
                runs: vec![part],
                like,
            }),
        }
    }
}

/// What of `like` a part of a run should be like, all of which is like that.
fn share(like: &Range<u64>, run: &Range<u64>, part: &Range<u64>) -> Range<u64> {
    let place = |at: u64| {
        let (all, of) = (like.end - like.start, run.end - run.start);
        let further = u128::from(at - run.start) * u128::from(all) / u128::from(of);
        like.start + further as u64
    };
    place(part.start)..place(part.end)
}

/// So much of the old NAR around there as a piece may be made of.
fn around(like: &Range<u64>, old_len: u64) -> Range<u64> {
    let middle = like.start + (like.end - like.start) / 2;
    let start = middle.saturating_sub(MAX_OLD_BYTES / 2);
    let start = start.min(old_len.saturating_sub(MAX_OLD_BYTES));
    start..old_len.min(start + MAX_OLD_BYTES)
}

/// A patch under way.
pub struct Packer {
    packed: Encoder<'static, Vec<u8>>,
    /// The range of the old NAR that the last piece was made of.
    old: Option<(Range<u64>, Old)>,
}

impl Packer {
    /// One that makes these runs of the new NAR.
    pub fn begin(runs: &[Range<u64>]) -> Result<Packer> {
        let begin = || -> io::Result<_> {
            let mut packed = Encoder::new(patch::begun(runs), LEVEL)?;
            for parameter in [
                CParameter::WindowLog(WINDOW_LOG),
                CParameter::HashLog(TABLE_LOG),
                CParameter::ChainLog(TABLE_LOG),
            ] {
                packed.set_parameter(parameter)?;
            }
            Ok(packed)
        };
        let packed = begin().map_err(packing)?;
        Ok(Packer { packed, old: None })
    }

    /// Adds how the next piece is made.
    pub fn put(&mut self, piece: &Piece, old: &NarReader, new: &NarReader) -> Result<()> {
        let range = around(&piece.like, old.nar().nar_size_bytes);
        let known = self.old.take().filter(|(known, _)| *known == range);
        let known = match known {
            Some((_, known)) => known,
            None => Old::new(bytes_of(old, std::slice::from_ref(&range))?),
        };
        let raw = bytes_of(new, &piece.runs)?;
        let script = known.script(&raw);
        let head = Head {
            raw_len: raw.len() as u64,
            old: range.clone(),
            script_len: script.len() as u64,
        };
        self.old = Some((range, known));
        let mut put = |bytes: &[u8]| self.packed.write_all(bytes).map_err(packing);
        put(&head.encode())?;
        put(&script)
    }

    /// How long the patch is, as far as it is packed.
    pub fn stored_bytes(&self) -> u64 {
        self.packed.get_ref().len() as u64
    }

    /// The patch.
    pub fn end(self) -> Result<Vec<u8>> {
        self.packed.finish().map_err(packing)
    }
}

fn packing(error: io::Error) -> Error {
    Error::io("packing a patch", error)
}

fn bytes_of(nar: &NarReader, ranges: &[Range<u64>]) -> Result<Vec<u8>> {
    let len: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let mut bytes = Vec::with_capacity(len as usize);
    for range in ranges {
        for chunk in nar.raw(range.clone()) {
            bytes.extend_from_slice(&chunk?);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(offset: u64, len: u64) -> Step {
        Step::Copy { offset, len }
    }

    fn fetch(len: u64) -> Step {
        Step::Fetch { ops: 0..1, len }
    }

    #[test]
    fn a_long_run_is_parted_and_each_part_is_like_its_share() {
        const MIB: u64 = 1 << 20;
        let steps = [copy(0, MIB), fetch(100 * MIB), copy(51 * MIB, MIB)];
        let pieces = of(&steps, 60 * MIB);
        assert_eq!(pieces.len(), 13);
        assert!(pieces.iter().all(|it| it.raw_bytes() <= MAX_PIECE_BYTES));
        let runs = pieces.iter().flat_map(|it| it.runs.clone());
        let end = runs.fold(MIB, |end, run| {
            assert_eq!(run.start, end);
            run.end
        });
        assert_eq!(end, 101 * MIB);
        assert_eq!(pieces[0].like, MIB..5 * MIB);
        assert_eq!(pieces[12].like, 49 * MIB..51 * MIB);
        assert_eq!(around(&pieces[12].like, 60 * MIB), 28 * MIB..60 * MIB);
    }

    #[test]
    fn what_is_like_places_far_apart_is_not_made_together() {
        const MIB: u64 = 1 << 20;
        let steps = [
            copy(0, 10 * MIB),
            fetch(1000),
            copy(10 * MIB + 1000, MIB),
            fetch(1000),
            copy(90 * MIB, MIB),
            fetch(1000),
        ];
        let pieces = of(&steps, 100 * MIB);
        let runs: Vec<usize> = pieces.iter().map(|it| it.runs.len()).collect();
        assert_eq!(runs, [1, 1, 1]);
        let pieces = of(&steps[..4], 12 * MIB);
        assert_eq!(pieces.len(), 1, "these are near each other");
        assert_eq!(around(&pieces[0].like, 12 * MIB), 0..12 * MIB);
    }
}
