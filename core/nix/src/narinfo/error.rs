//! Why a narinfo is refused: always with the line, counted from 1, and the field.

use thiserror::Error;

use super::compression::UnknownCompression;
use super::{MAX_SIGNATURES, MAX_UNKNOWN_FIELDS};
use crate::hash::HashError;
use crate::key::KeyError;
use crate::store_path::StorePathError;

/// What a narinfo has against it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NarInfoError {
    /// The last line has no newline: the text was cut off.
    #[error("line {line}: the narinfo ends inside a line, it was cut off")]
    CutOff {
        /// Line, counted from 1.
        line: usize,
    },
    /// A line that is not `Key: value`.
    #[error("line {line}: expected 'Key: value', found {text}")]
    NotAField {
        /// Line, counted from 1.
        line: usize,
        /// What was found.
        text: String,
    },
    /// A value with a control character in it.
    #[error("line {line}: {key} holds the control character {found:?}")]
    ControlCharacter {
        /// Line, counted from 1.
        line: usize,
        /// The field.
        key: String,
        /// The character.
        found: char,
    },
    /// A field that may stand only once.
    #[error("line {line}: {key} stands here a second time")]
    Duplicate {
        /// Line, counted from 1.
        line: usize,
        /// The field.
        key: String,
    },
    /// A field that must be there and is not.
    #[error("{key} is missing")]
    Missing {
        /// The field.
        key: &'static str,
    },
    /// A field of a cache's file in a record, which is about a path alone.
    #[error("line {line}: {key} has no place in a path's record")]
    NotInRecord {
        /// Line, counted from 1.
        line: usize,
        /// The field.
        key: &'static str,
    },
    /// Not a store path.
    #[error("line {line}: {key}: {source}")]
    StorePath {
        /// Line, counted from 1.
        line: usize,
        /// The field.
        key: &'static str,
        /// Why not.
        source: StorePathError,
    },
    /// Not a SHA-256 hash.
    #[error("line {line}: {key}: {source}")]
    Hash {
        /// Line, counted from 1.
        line: usize,
        /// The field.
        key: &'static str,
        /// Why not.
        source: HashError,
    },
    /// Not a decimal number below 2^64.
    #[error("line {line}: {key}: {value} is no number of bytes")]
    Number {
        /// Line, counted from 1.
        line: usize,
        /// The field.
        key: &'static str,
        /// What was found.
        value: String,
    },
    /// No NAR is empty.
    #[error("line {line}: NarSize is 0, but no NAR is empty")]
    ZeroNarSize {
        /// Line, counted from 1.
        line: usize,
    },
    /// A URL that leads out of the cache.
    #[error("line {line}: URL {url} {problem}")]
    Url {
        /// Line, counted from 1.
        line: usize,
        /// What was found.
        url: String,
        /// What is wrong with it.
        problem: UrlProblem,
    },
    /// A codec that Nix clients of today cannot all read.
    #[error("line {line}: Compression {name} is {source}")]
    Compression {
        /// Line, counted from 1.
        line: usize,
        /// What was found.
        name: String,
        /// Says which are known.
        source: UnknownCompression,
    },
    /// The same reference twice.
    #[error("line {line}: References names {path} twice")]
    DuplicateReference {
        /// Line, counted from 1.
        line: usize,
        /// The base name.
        path: String,
    },
    /// Not a signature.
    #[error("line {line}: Sig: {source}")]
    Signature {
        /// Line, counted from 1.
        line: usize,
        /// Why not.
        source: KeyError,
    },
    /// More than [`MAX_SIGNATURES`].
    #[error("line {line}: more than {MAX_SIGNATURES} signatures")]
    ManySignatures {
        /// Line, counted from 1.
        line: usize,
    },
    /// More than [`MAX_UNKNOWN_FIELDS`].
    #[error("line {line}: more than {MAX_UNKNOWN_FIELDS} fields that are not known")]
    ManyUnknown {
        /// Line, counted from 1.
        line: usize,
    },
}

/// What is wrong with a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UrlProblem {
    /// Nothing there.
    #[error("is empty")]
    Empty,
    /// `http://…`, `file:…`, `/…`, `//…`.
    #[error("is absolute: it must be relative to the cache")]
    Absolute,
    /// A `..`, plain or percent-encoded.
    #[error("has a '..' in it")]
    Parent,
    /// A character that has no place in a path.
    #[error("holds a space, a backslash or a character beyond ASCII")]
    Character,
}
