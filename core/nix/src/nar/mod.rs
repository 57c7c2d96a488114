//! NAR, Nix's archive: one file, symlink or directory tree as one canonical run of bytes.
//!
//! Everything is a *string*: a little-endian u64 length, the bytes, zeros up to a multiple of
//! eight.
//!
//! ```text
//!   nar    = "nix-archive-1" node
//!   node   = "(" "type" ( file | link | dir ) ")"
//!   file   = "regular" [ "executable" "" ] "contents" <size, bytes, zeros>
//!   link   = "symlink" "target" <1..=4095 bytes without NUL>
//!   dir    = "directory" { "entry" "(" "name" <name> "node" node ")" }    names ascending
//!   name   = 1..=255 bytes without '/' and NUL, not "." and not ".."
//! ```
//!
//! Guarantees: [`Parser`] accepts exactly the canonical form, so the [`Writer`] fed with its events
//! gives the same bytes; it works on any split of the input, with less than 64 KiB of memory,
//! without recursion. Never interprets names or targets as text, and never does I/O. Source of the
//! limits: Nix, `src/libutil/archive.cc`.

mod error;
mod names;
mod parser;
mod writer;

pub use crate::quote::Quoted;
pub use error::{NarError, WriteError};
pub use parser::Parser;
pub use writer::Writer;

/// The string that every NAR begins with.
pub const MAGIC: &str = "nix-archive-1";

/// Longest file name, as Linux and Nix have it.
pub const MAX_NAME_BYTES: usize = 255;

/// Longest symlink target: `PATH_MAX` is 4,096 with the NUL at its end.
pub const MAX_TARGET_BYTES: usize = 4095;

/// Most nodes inside each other, the root counted, as newer versions of Nix have it.
/// Bounds what the parser remembers of names: 63 x 255 bytes, about 16 kB.
pub const MAX_DEPTH: usize = 64;

/// Largest NAR when nobody says otherwise: 1 TiB, fifty times the largest that the tests know (20
/// GB).
pub const DEFAULT_MAX_NAR_SIZE_BYTES: u64 = 1 << 40;

/// Limits that are the caller's to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest NAR. A file that cannot fit any more is refused as soon as its size is read.
    pub max_nar_size_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_nar_size_bytes: DEFAULT_MAX_NAR_SIZE_BYTES,
        }
    }
}

/// What a NAR says next. A node is a [`File`](Event::File) with its data and
/// [`EndFile`](Event::EndFile), a [`Symlink`](Event::Symlink), or a [`Directory`](Event::Directory)
/// with its entries, each followed by one node, and [`EndDirectory`](Event::EndDirectory).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A directory begins.
    Directory,
    /// An entry of the innermost open directory; its node follows.
    Entry {
        /// The name, not always UTF-8.
        name: &'a [u8],
    },
    /// The innermost open directory ends.
    EndDirectory,
    /// A regular file begins; exactly `size` bytes of data follow.
    File {
        /// Whether it may be run.
        executable: bool,
        /// Its size in bytes.
        size: u64,
        /// Where its first byte is, counted from the NAR's first byte.
        offset: u64,
    },
    /// The next bytes of the open file: a slice of the input, never empty.
    Data(&'a [u8]),
    /// The open file ends.
    EndFile,
    /// A symlink.
    Symlink {
        /// Where it points, not always UTF-8.
        target: &'a [u8],
    },
}

/// The length of a string's bytes with their zeros.
fn padded(len: usize) -> usize {
    len.next_multiple_of(8)
}

/// How many zeros follow that many bytes.
fn padding(len: u64) -> u8 {
    (len.wrapping_neg() % 8) as u8
}
