//! What a frame made elsewhere must look like before anybody decodes it.
//!
//! ```text
//!   magic | descriptor | [window] | content size | block .. block (the last one says so) | end
//!   RFC 8878, 3.1.1                                 3 bytes of header each
//! ```
//!
//! Guarantees: what passes is one zstd frame and nothing else: it states its length, needs a window
//! of at most [`WINDOW_MAX_BYTES`] and no dictionary, ends where the bytes end, and is no longer
//! than an encoder makes it. Reads headers only: whoever stores it decodes it, too, and compares
//! its hash.
//!
//! Never: a decoder run, a skippable frame let through, memory taken.

use thiserror::Error;

use crate::cut::Params;

/// The largest window that every decoder has to offer (RFC 8878, 3.1.1.1.2).
pub const WINDOW_MAX_BYTES: u64 = 8 << 20;

const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
/// The longest block, whatever the window (RFC 8878, 3.1.1.2.4).
const BLOCK_MAX_BYTES: usize = 128 << 10;
/// Last block, type and size (RFC 8878, 3.1.1.2).
const BLOCK_HEADER_BYTES: usize = 3;
const RLE: u32 = 1;
const RESERVED: u32 = 3;

/// Why bytes are not taken for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Something else, a skippable frame say.
    #[error("it does not begin as a zstd frame does")]
    Magic,
    /// It ends in the middle of a header or a block.
    #[error("it ends in the middle")]
    Truncated,
    /// Bits that RFC 8878 reserves.
    #[error("it has bits or blocks that mean nothing")]
    Reserved,
    /// It wants a dictionary.
    #[error("it asks for a dictionary; compress without")]
    Dictionary,
    /// It carries zstd's own checksum, which our frames do not.
    #[error("it carries a content checksum; compress without")]
    ContentChecksum,
    /// It does not say how long it is.
    #[error("it does not state its content size")]
    NoContentSize,
    /// It states another length than its record does.
    #[error("it states {stated} bytes of content where its record says {raw_len}")]
    ContentSize {
        /// What its header says.
        stated: u64,
        /// What it is offered as.
        raw_len: u32,
    },
    /// A window beyond what every decoder offers.
    #[error("it needs a window of {window_bytes} bytes, {WINDOW_MAX_BYTES} are allowed")]
    Window {
        /// The window.
        window_bytes: u64,
    },
    /// More than any piece of a NAR has, or nothing.
    #[error("it holds {raw_len} bytes, a piece has 1 to {}", Params::V1.largest_bytes())]
    RawLength {
        /// What it is offered as.
        raw_len: u32,
    },
    /// Longer than any encoder makes it.
    #[error("it is {stored} bytes long, for its content an encoder needs {bound} at most")]
    Padded {
        /// Its length.
        stored: usize,
        /// What an encoder needs at most.
        bound: usize,
    },
    /// Something follows its last block.
    #[error("{count} bytes follow its end")]
    Trailing {
        /// How many.
        count: usize,
    },
}

/// Checks that `stored` is one frame for `raw_len` bytes, as far as headers tell.
///
/// # Errors
/// Why not.
pub fn check(stored: &[u8], raw_len: u32) -> Result<(), FrameError> {
    let most = Params::V1.largest_bytes();
    if raw_len == 0 || raw_len as usize > most {
        return Err(FrameError::RawLength { raw_len });
    }
    let bound = stored_max_bytes(raw_len as usize);
    if stored.len() > bound {
        let stored = stored.len();
        return Err(FrameError::Padded { stored, bound });
    }
    let mut bytes = Bytes(stored);
    if bytes.take(MAGIC.len()).ok() != Some(&MAGIC) {
        return Err(FrameError::Magic);
    }
    check_header(&mut bytes, raw_len)?;
    while !skip_block(&mut bytes)? {}
    match bytes.0.len() {
        0 => Ok(()),
        count => Err(FrameError::Trailing { count }),
    }
}

/// The most bytes that an encoder needs for so many (zstd.h, `ZSTD_COMPRESSBOUND`).
pub const fn stored_max_bytes(raw_len: usize) -> usize {
    let small = match BLOCK_MAX_BYTES.checked_sub(raw_len) {
        Some(missing) => missing >> 11,
        None => 0,
    };
    raw_len + (raw_len >> 8) + small
}

fn check_header(bytes: &mut Bytes<'_>, raw_len: u32) -> Result<(), FrameError> {
    let descriptor = bytes.take(1)?[0];
    let (size_flag, single_segment) = (descriptor >> 6, descriptor >> 5 & 1 == 1);
    if descriptor & 0b11 != 0 {
        return Err(FrameError::Dictionary);
    }
    if descriptor >> 2 & 1 == 1 {
        return Err(FrameError::ContentChecksum);
    }
    if descriptor >> 3 & 1 == 1 {
        return Err(FrameError::Reserved);
    }
    let mut window_bytes = 0;
    if !single_segment {
        let window = bytes.take(1)?[0];
        let base = 1u64 << (10 + (window >> 3));
        window_bytes = base + base / 8 * u64::from(window & 7);
    }
    let stated = match (size_flag, single_segment) {
        (0, false) => return Err(FrameError::NoContentSize),
        (0, true) => bytes.number(1)?,
        (1, _) => bytes.number(2)? + 256,
        (2, _) => bytes.number(4)?,
        _ => bytes.number(8)?,
    };
    if stated != u64::from(raw_len) {
        return Err(FrameError::ContentSize { stated, raw_len });
    }
    match window_bytes {
        0..=WINDOW_MAX_BYTES => Ok(()),
        _ => Err(FrameError::Window { window_bytes }),
    }
}

/// Whether that was the last one.
fn skip_block(bytes: &mut Bytes<'_>) -> Result<bool, FrameError> {
    let header = bytes.number(BLOCK_HEADER_BYTES)? as u32;
    let (kind, size) = (header >> 1 & 3, (header >> 3) as usize);
    if kind == RESERVED || size > BLOCK_MAX_BYTES {
        return Err(FrameError::Reserved);
    }
    bytes.take(if kind == RLE { 1 } else { size })?;
    Ok(header & 1 == 1)
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], FrameError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(FrameError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A little-endian number of at most 8 bytes.
    fn number(&mut self, len: usize) -> Result<u64, FrameError> {
        let bytes = self.take(len)?.iter().rev();
        Ok(bytes.fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of one raw block: descriptor, then what follows it, then the block.
    fn frame(descriptor: u8, between: &[u8], content: &[u8]) -> Vec<u8> {
        let block = (content.len() as u32) << 3 | 1;
        let (descriptor, block) = ([descriptor], block.to_le_bytes());
        [&MAGIC[..], &descriptor, between, &block[..3], content].concat()
    }

    #[test]
    fn a_plain_frame_passes() {
        // Single segment, content size in one byte.
        assert_eq!(check(&frame(0x20, &[5], b"hello"), 5), Ok(()));
        // A window of 8 MiB, content size in four bytes.
        let between = [13 << 3, 5, 0, 0, 0];
        assert_eq!(check(&frame(0x80, &between, b"hello"), 5), Ok(()));
    }

    #[test]
    fn whatever_else_it_is_is_said() {
        let plain = frame(0x20, &[5], b"hello");
        let refused = |bytes: &[u8]| check(bytes, 5).expect_err("refused");
        assert_eq!(
            refused(&[&plain[..], b"x"].concat()),
            FrameError::Trailing { count: 1 }
        );
        assert_eq!(refused(&plain[..8]), FrameError::Truncated);
        assert_eq!(refused(b"\x50\x2a\x4d\x18\0\0\0\0"), FrameError::Magic);
        assert_eq!(
            refused(&frame(0x21, &[9, 5], b"hello")),
            FrameError::Dictionary
        );
        assert_eq!(
            refused(&frame(0x24, &[5], b"hello")),
            FrameError::ContentChecksum
        );
        assert_eq!(refused(&frame(0x28, &[5], b"hello")), FrameError::Reserved);
        assert_eq!(
            refused(&frame(0, &[0], b"hello")),
            FrameError::NoContentSize
        );
        let stated = FrameError::ContentSize {
            stated: 6,
            raw_len: 5,
        };
        assert_eq!(refused(&frame(0x20, &[6], b"hello")), stated);
        let window_bytes = 9 << 20;
        let between = [13 << 3 | 1, 5, 0, 0, 0];
        assert_eq!(
            refused(&frame(0x80, &between, b"hello")),
            FrameError::Window { window_bytes }
        );
        let long = check(&plain, 2 << 20).expect_err("longer than a piece");
        assert_eq!(long, FrameError::RawLength { raw_len: 2 << 20 });
        let padded = [&plain[..], &[0; 70]].concat();
        assert!(matches!(refused(&padded), FrameError::Padded { .. }));
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_survived() {
        let plain = frame(0x80, &[13 << 3, 5, 0, 0, 0], b"hello");
        for len in 0..plain.len() {
            assert!(check(&plain[..len], 5).is_err(), "cut at {len}");
        }
        for at in 0..plain.len() {
            for byte in 0..=255 {
                let mut changed = plain.clone();
                changed[at] = byte;
                if check(&changed, 5).is_ok() {
                    assert_eq!(changed.len(), plain.len(), "byte {at} as {byte}");
                }
            }
        }
    }
}
