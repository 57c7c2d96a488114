//! Why a NAR is refused: always with the offset, counted from the NAR's first byte.

use std::io;

use thiserror::Error;

use super::{MAX_DEPTH, MAX_NAME_BYTES, MAX_TARGET_BYTES, Quoted};

/// What a NAR has against it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NarError {
    /// Another word than the grammar has here.
    #[error("NAR offset {offset}: expected {expected}, found {found}")]
    Word {
        /// Of the word's length.
        offset: u64,
        /// What may stand here.
        expected: &'static str,
        /// What stands here.
        found: Quoted,
    },
    /// A string far too long for the word that must stand here.
    #[error("NAR offset {offset}: expected {expected}, found a string of {len} bytes")]
    LongWord {
        /// Of the length.
        offset: u64,
        /// What may stand here.
        expected: &'static str,
        /// The length that was read.
        len: u64,
    },
    /// Something other than zeros after a string or a file.
    #[error("NAR offset {offset}: padding must be zero, found byte 0x{found:02x}")]
    Padding {
        /// Of the first byte that is not zero.
        offset: u64,
        /// That byte.
        found: u8,
    },
    /// A name of no bytes or too many.
    #[error("NAR offset {offset}: a file name must have 1 to {MAX_NAME_BYTES} bytes, found {len}")]
    NameLength {
        /// Of the name's length.
        offset: u64,
        /// The length that was read.
        len: u64,
    },
    /// `.`, `..`, or a name with a slash or NUL.
    #[error("NAR offset {offset}: the file name {name} is not allowed: it {problem}")]
    Name {
        /// Of the name's length.
        offset: u64,
        /// The name.
        name: Quoted,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The same name twice in one directory.
    #[error("NAR offset {offset}: the entry {name} stands here a second time")]
    Duplicate {
        /// Of the name's length.
        offset: u64,
        /// The name.
        name: Quoted,
    },
    /// A name that must stand before the one before it.
    #[error(
        "NAR offset {offset}: the entry {name} stands after {previous}, entries must be sorted"
    )]
    Unsorted {
        /// Of the name's length.
        offset: u64,
        /// The name.
        name: Quoted,
        /// The name before it.
        previous: Quoted,
    },
    /// A target of no bytes or too many.
    #[error(
        "NAR offset {offset}: a symlink target must have 1 to {MAX_TARGET_BYTES} bytes, found {len}"
    )]
    TargetLength {
        /// Of the target's length.
        offset: u64,
        /// The length that was read.
        len: u64,
    },
    /// A target with a NUL in it.
    #[error("NAR offset {offset}: the symlink target {target} holds a NUL")]
    TargetNul {
        /// Of the target's length.
        offset: u64,
        /// The target.
        target: Quoted,
    },
    /// Deeper than [`MAX_DEPTH`].
    #[error("NAR offset {offset}: more than {MAX_DEPTH} files and directories inside each other")]
    Depth {
        /// Of the node that is too deep.
        offset: u64,
    },
    /// More than [`super::Limits`] allow.
    #[error(
        "NAR offset {offset}: {size} bytes more would make it larger than the limit of {limit} \
        bytes"
    )]
    TooLarge {
        /// Of what does not fit.
        offset: u64,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The input ended too early.
    #[error("NAR offset {offset}: the NAR was cut off where {expected} should follow")]
    Truncated {
        /// Where the input ended.
        offset: u64,
        /// What should have followed.
        expected: &'static str,
    },
    /// The input did not end with the NAR.
    #[error("NAR offset {offset}: the NAR has ended, but more bytes follow")]
    TrailingBytes {
        /// Where the NAR ended.
        offset: u64,
    },
    /// The caller asked to skip more than the open file has.
    #[error("NAR offset {offset}: cannot skip {asked} bytes of a file with {remaining} left")]
    Skip {
        /// Where the parser stands.
        offset: u64,
        /// Bytes to skip.
        asked: u64,
        /// Bytes left, zero outside a file.
        remaining: u64,
    },
}

/// Why a NAR could not be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The output failed.
    #[error("writing a NAR: {0}")]
    Io(#[from] io::Error),
    /// What was to be written is not canonical.
    #[error(transparent)]
    Nar(#[from] NarError),
    /// More data than the open file has room for.
    #[error("NAR offset {offset}: a file with {remaining} bytes left was given {given}")]
    LongFile {
        /// Bytes written so far.
        offset: u64,
        /// Bytes that the file still needs.
        remaining: u64,
        /// Bytes that were given.
        given: u64,
    },
    /// The calls came in an order that makes no NAR.
    #[error("NAR offset {offset}: {call} does not fit here: expected {expected}")]
    Order {
        /// Bytes written so far.
        offset: u64,
        /// What was called.
        call: &'static str,
        /// What may come here.
        expected: &'static str,
    },
}
