//! Which codec a body is in, by its first bytes; its name must not say otherwise.

use super::Codec;
use thiserror::Error;

/// How many bytes [`sniff`] wants to see: a NAR's length field and the first bytes of its magic.
pub const HEAD_BYTES: usize = 16;

const MAGICS: [(&[u8], Codec); 7] = [
    (b"\x0d\0\0\0\0\0\0\0nix-arch", Codec::None),
    (b"\xfd7zXZ\0", Codec::Xz),
    (b"BZh", Codec::Bzip2),
    (b"\x1f\x8b", Codec::Gzip),
    (b"\x28\xb5\x2f\xfd", Codec::Zstd),
    (b"LZIP", Codec::Lzip),
    (b"\x04\x22\x4d\x18", Codec::Lz4),
];

/// Why no codec can be given.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SniffError {
    /// Nothing came.
    #[error("the body is empty; send the NAR")]
    Empty,
    /// Neither a NAR nor a codec of ours.
    #[error(
        "the first bytes are neither a NAR nor one packed as xz, bzip2, gzip, zstd, br, lzip or \
         lz4; send the NAR in one of these"
    )]
    Unknown,
    /// The name's suffix and the bytes disagree.
    #[error(
        "the name ends as {named} files do, but the bytes are {found}; send them under the right \
         name"
    )]
    Contradicts {
        /// By the suffix.
        named: Codec,
        /// By the bytes.
        found: Codec,
    },
}

/// The codec of a body that begins with `head`, the first [`HEAD_BYTES`] or all of it, uploaded as
/// `file_name`.
///
/// # Errors
/// [`SniffError`], whose text is meant for the uploader.
pub fn sniff(head: &[u8], file_name: &str) -> Result<Codec, SniffError> {
    if head.is_empty() {
        return Err(SniffError::Empty);
    }
    let named = Codec::from_file_name(file_name);
    let found = MAGICS
        .iter()
        .find(|(magic, _)| head.starts_with(magic))
        .map(|&(_, codec)| codec);
    match (named, found.or_else(|| skippable_frame(head))) {
        // br has no magic number, so any first bytes could be its own: the name decides, the
        // decoder checks.
        (Some(Codec::Brotli), _) => Ok(Codec::Brotli),
        (Some(named), Some(found)) if named != found => {
            Err(SniffError::Contradicts { named, found })
        }
        (_, Some(found)) => Ok(found),
        (_, None) => Err(SniffError::Unknown),
    }
}

/// A zstd stream may begin with a skippable frame (`5x 2a 4d 18`, RFC 8878 §3.1.2).
fn skippable_frame(head: &[u8]) -> Option<Codec> {
    match head {
        [first, 0x2a, 0x4d, 0x18, ..] if first & 0xf0 == 0x50 => Some(Codec::Zstd),
        _ => None,
    }
}
