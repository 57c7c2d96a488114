//! The stream in which a client sends NARs: their pieces in order, those that the server has by
//! name only.
//!
//! ```text
//!   "snu1"  { nar  { literal | frame | known }  end of nar }  end
//!
//!   record    u8 kind, u32 length of the payload, payload, [8] checksum
//!   1 nar       NarHash, u64 NarSize                what the client says it is
//!   2 literal   1 to 65,536 bytes of the NAR
//!   3 frame     FrameId, u32 raw length, one zstd frame
//!   4 known     FrameId, u32 raw length             a frame that the server has
//!   5 end of nar
//!   6 end       u64 number of records before it
//! ```
//!
//! Integers are little-endian; a checksum is the first 8 bytes of BLAKE3 over the record before it.
//!
//! Guarantees: a stream that was cut, or changed on its way, is noticed at the first record that is
//! not whole; a reader holds one record, at most [`RECORD_MAX_BYTES`]. Says nothing about what the
//! frames hold: that is the server's to check.

mod question;

use std::io::{self, Read};

use snowcache_nix::NarHash;
use thiserror::Error;

use crate::cut::Params;
use crate::frame::stored_max_bytes;
use crate::recipe::{FrameId, LITERAL_MAX_BYTES};

pub use question::{
    MAX_FRAMES, MAX_QUESTION_BYTES, QuestionError, absent, answer, asked, question,
};
pub(crate) use question::{open, sealed};

/// Begins a stream, with its version.
pub const MAGIC: &[u8; 4] = b"snu1";
/// The payload of the longest record: the longest frame with its id and length.
pub const RECORD_MAX_BYTES: usize = FrameId::LEN + 4 + stored_max_bytes(LARGEST_BYTES);
/// Bytes of a record beside its payload.
pub const AROUND_BYTES: usize = HEAD_BYTES + CHECKSUM_BYTES;

const LARGEST_BYTES: usize = Params::V1.largest_bytes();
const HEAD_BYTES: usize = 1 + 4;
const CHECKSUM_BYTES: usize = 8;

const NAR: u8 = 1;
const LITERAL: u8 = 2;
const FRAME: u8 = 3;
const KNOWN: u8 = 4;
const END_OF_NAR: u8 = 5;
const END: u8 = 6;

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A NAR begins.
    Nar {
        /// What it hashes to, as the client says.
        nar_hash: NarHash,
        /// How long it is, as the client says.
        nar_size_bytes: u64,
    },
    /// The next bytes of the NAR.
    Literal(&'a [u8]),
    /// The next bytes of the NAR, compressed.
    Frame {
        /// Their name.
        id: FrameId,
        /// How many they are.
        raw_len: u32,
        /// One zstd frame.
        stored: &'a [u8],
    },
    /// The next bytes of the NAR, which the server has.
    Known {
        /// Their name.
        id: FrameId,
        /// How many they are.
        raw_len: u32,
    },
    /// The NAR is whole.
    EndOfNar,
    /// The stream is whole.
    End {
        /// Records before this one.
        records: u64,
    },
}

impl Record<'_> {
    fn kind(&self) -> u8 {
        match self {
            Record::Nar { .. } => NAR,
            Record::Literal(_) => LITERAL,
            Record::Frame { .. } => FRAME,
            Record::Known { .. } => KNOWN,
            Record::EndOfNar => END_OF_NAR,
            Record::End { .. } => END,
        }
    }

    /// Appends the record to `out`.
    ///
    /// # Panics
    /// Where it is longer than any record may be.
    pub fn put(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([self.kind(), 0, 0, 0, 0]);
        match self {
            Record::Nar {
                nar_hash,
                nar_size_bytes,
            } => {
                out.extend(nar_hash.as_bytes());
                out.extend(nar_size_bytes.to_le_bytes());
            }
            Record::Literal(bytes) => out.extend(*bytes),
            Record::Frame {
                id,
                raw_len,
                stored,
            } => {
                out.extend(id.as_bytes());
                out.extend(raw_len.to_le_bytes());
                out.extend(*stored);
            }
            Record::Known { id, raw_len } => {
                out.extend(id.as_bytes());
                out.extend(raw_len.to_le_bytes());
            }
            Record::EndOfNar => {}
            Record::End { records } => out.extend(records.to_le_bytes()),
        }
        let len = out.len() - start - HEAD_BYTES;
        assert!(len <= RECORD_MAX_BYTES, "a record of {len} bytes");
        out[start + 1..start + HEAD_BYTES].copy_from_slice(&(len as u32).to_le_bytes());
        let checksum = checksum(&out[start..]);
        out.extend(checksum);
    }
}

fn checksum(record: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut short = [0; CHECKSUM_BYTES];
    short.copy_from_slice(&blake3::hash(record).as_bytes()[..CHECKSUM_BYTES]);
    short
}

/// Why a stream cannot be read on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The bytes ended before the stream did.
    #[error("it was cut off in or before record {record}")]
    Cut {
        /// Number of the record, from 0.
        record: u64,
    },
    /// The bytes could not be had.
    #[error(transparent)]
    Input(io::Error),
    /// Another kind of stream, or a version this program is too old for.
    #[error("it does not begin with \"snu1\": another version, or no upload")]
    Magic,
    /// Damaged on its way.
    #[error("record {record} was changed on its way: its checksum is wrong")]
    Checksum {
        /// Number of the record, from 0.
        record: u64,
    },
    /// Of a kind, or a length, that no writer writes.
    #[error("record {record} has kind {kind} and {len} bytes, which no upload has")]
    Shape {
        /// Number of the record, from 0.
        record: u64,
        /// Its kind.
        kind: u8,
        /// Its length.
        len: u32,
    },
    /// Something follows the end.
    #[error("bytes follow its end")]
    Trailing,
    /// Records were left out.
    #[error("it ends after {found} records, but says {stated}")]
    Count {
        /// How many came.
        found: u64,
        /// How many its end says.
        stated: u64,
    },
}

/// Reads a stream.
pub struct Reader<R> {
    input: R,
    /// The record last read, from its kind to its checksum.
    record: Vec<u8>,
    records: u64,
    begun: bool,
}

impl<R: Read> Reader<R> {
    /// A reader of the bytes of `input`.
    pub fn new(input: R) -> Reader<R> {
        Reader {
            input,
            record: Vec::new(),
            records: 0,
            begun: false,
        }
    }

    /// The next record. [`Record::End`] is the last one, and nothing followed it.
    ///
    /// # Errors
    /// Where what comes is no record; nothing can be read then any more.
    pub fn read(&mut self) -> Result<Record<'_>, StreamError> {
        let number = self.records;
        let cut = move |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => StreamError::Cut { record: number },
            _ => StreamError::Input(error),
        };
        if !self.begun {
            let mut magic = [0; MAGIC.len()];
            self.input.read_exact(&mut magic).map_err(cut)?;
            if &magic != MAGIC {
                return Err(StreamError::Magic);
            }
            self.begun = true;
        }
        let mut head = [0; HEAD_BYTES];
        self.input.read_exact(&mut head).map_err(cut)?;
        let [kind, len @ ..] = head;
        let len = u32::from_le_bytes(len);
        let shape = StreamError::Shape {
            record: number,
            kind,
            len,
        };
        if len as usize > RECORD_MAX_BYTES {
            return Err(shape);
        }
        let end = HEAD_BYTES + len as usize;
        self.record.clear();
        self.record.extend(head);
        self.record.resize(end + CHECKSUM_BYTES, 0);
        let rest = &mut self.record[HEAD_BYTES..];
        self.input.read_exact(rest).map_err(cut)?;
        if checksum(&self.record[..end]) != self.record[end..] {
            return Err(StreamError::Checksum { record: number });
        }
        self.records += 1;
        if kind == END {
            match self.input.read(&mut [0]) {
                Ok(0) => {}
                Ok(_) => return Err(StreamError::Trailing),
                Err(error) => return Err(StreamError::Input(error)),
            }
        }
        let record = parse(kind, &self.record[HEAD_BYTES..end]).ok_or(shape)?;
        match record {
            Record::End { records: stated } if stated != number => Err(StreamError::Count {
                found: number,
                stated,
            }),
            record => Ok(record),
        }
    }
}

fn parse(kind: u8, payload: &[u8]) -> Option<Record<'_>> {
    Some(match kind {
        NAR => {
            let (hash, size) = payload.split_first_chunk::<32>()?;
            Record::Nar {
                nar_hash: NarHash::from_bytes(*hash),
                nar_size_bytes: u64::from_le_bytes(size.try_into().ok()?),
            }
        }
        LITERAL if (1..=LITERAL_MAX_BYTES).contains(&payload.len()) => Record::Literal(payload),
        FRAME | KNOWN => {
            let (id, rest) = payload.split_first_chunk::<{ FrameId::LEN }>()?;
            let (raw_len, stored) = rest.split_first_chunk::<4>()?;
            let (id, raw_len) = (FrameId::from_bytes(*id), u32::from_le_bytes(*raw_len));
            match (kind, stored.len()) {
                (KNOWN, 0) => Record::Known { id, raw_len },
                (FRAME, 1..) => Record::Frame {
                    id,
                    raw_len,
                    stored,
                },
                _ => return None,
            }
        }
        END_OF_NAR if payload.is_empty() => Record::EndOfNar,
        END => Record::End {
            records: u64::from_le_bytes(payload.try_into().ok()?),
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record<'static>> {
        let id = FrameId::of(b"raw");
        vec![
            Record::Nar {
                nar_hash: NarHash::from_bytes([7; 32]),
                nar_size_bytes: 99,
            },
            Record::Literal(b"bytes"),
            Record::Frame {
                id,
                raw_len: 3,
                stored: b"zstd",
            },
            Record::Known { id, raw_len: 3 },
            Record::EndOfNar,
            Record::End { records: 5 },
        ]
    }

    fn stream() -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        records().iter().for_each(|record| record.put(&mut bytes));
        bytes
    }

    #[test]
    fn records_read_back_as_written() {
        let bytes = stream();
        let mut reader = Reader::new(&bytes[..]);
        for expected in records() {
            assert_eq!(reader.read().expect("a record"), expected);
        }
        assert!(matches!(reader.read(), Err(StreamError::Cut { record: 6 })));
    }

    /// Reads to the end, or to what is wrong.
    fn read(bytes: &[u8]) -> Result<u64, StreamError> {
        let mut reader = Reader::new(bytes);
        loop {
            if let Record::End { records } = reader.read()? {
                return Ok(records);
            }
        }
    }

    #[test]
    fn a_cut_anywhere_and_a_flip_anywhere_are_noticed() {
        let bytes = stream();
        assert_eq!(read(&bytes).expect("whole"), 5);
        for len in 0..bytes.len() {
            let cut = read(&bytes[..len]).expect_err("cut");
            assert!(matches!(cut, StreamError::Cut { .. }), "at {len}: {cut}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&flipped).is_err(), "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn a_record_left_out_is_noticed_at_the_end() {
        let mut bytes = MAGIC.to_vec();
        let mut records = records();
        records.remove(2);
        records.iter().for_each(|record| record.put(&mut bytes));
        let error = read(&bytes).expect_err("one is missing");
        assert!(matches!(
            error,
            StreamError::Count {
                found: 4,
                stated: 5
            }
        ));
    }
}
